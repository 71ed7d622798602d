/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/guest.h"

#include "tests/fuzz/race.h"
#include "vhost/ring.h"

#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct {
	gpa_t gpa;
	uint64_t bytes;
} regions[FG_REGIONS] = {
	[FG_MAIN] = { FG_MAIN_GPA, FG_MAIN_BYTES },
	[FG_NEXT] = { FG_NEXT_GPA, FG_NEXT_BYTES },
	[FG_LATE] = { FG_LATE_GPA, FG_LATE_BYTES },
	[FG_LAST] = { FG_LAST_GPA, FG_LAST_BYTES },
};

static uint8_t *region_alloc(uint64_t bytes, int *fd)
{
	void *p;

	if (!fd)
		return aligned_alloc(4096, bytes);
	*fd = memfd_create("guest", MFD_CLOEXEC);
	FUZZ_CHECK(*fd >= 0 && ftruncate(*fd, (off_t)bytes) == 0);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	FUZZ_CHECK(p != MAP_FAILED);
	return p;
}

void fg_create(struct fuzz_guest *g, int *fds)
{
	memset(g, 0, sizeof(*g));
	g->map = calloc(1, sizeof(*g->map) + FG_REGIONS * sizeof(g->map->region[0]));
	assert(g->map);
	g->map->n = FG_REGIONS;
	for (unsigned i = 0; i < FG_REGIONS; i++) {
		struct mem_region *r = &g->map->region[i];

		r->gpa = regions[i].gpa;
		r->size = regions[i].bytes;
		r->uva = regions[i].gpa ^ FG_UVA;
		r->host = region_alloc(r->size, fds ? &fds[i] : NULL);
		g->shadow[i] = malloc(r->size);
		g->writable[i] = calloc(1, r->size / 8);
		assert(r->host && g->shadow[i] && g->writable[i]);
	}
}

void fg_begin(struct fuzz_guest *g, struct input *in)
{
	static const uint16_t packed_sizes[] = { 1, 2, 3, 5, 8, 16, 31, 64, 100, 256 };
	uint8_t how = in_u8(in), size = in_u8(in), at = in_u8(in);

	for (unsigned i = 0; i < FG_REGIONS; i++) {
		memset(g->map->region[i].host, 0, regions[i].bytes);
		memset(g->shadow[i], 0, regions[i].bytes);
		memset(g->writable[i], 0, regions[i].bytes / 8);
	}
	g->any_writable = false;
	g->packed = how & 1;
	g->event_idx = how & 2;
	g->indirect = how & 4;
	g->legacy = !g->packed && how & 0x10;
	g->logs = how & 0x20;
	g->in_order = how & 0x40;
	memset(g->unlogged, 0, sizeof(g->unlogged));
	if (g->log)
		memset(g->log, 0, FG_LOG_BLOCK);
	g->size = g->packed ? packed_sizes[size % ARRAY_SIZE(packed_sizes)] : 1u << size % 9;
	/* Often near a place where indices wrap. */
	if (g->packed) {
		g->avail_idx = at & 4 ? (uint16_t)(g->size - 1) : 0;
		g->wrap = !(at & 1);
		g->base = g->avail_idx | (g->wrap ? 0x8000u : 0);
		g->base |= g->base << 16;
	} else {
		uint16_t used;

		g->avail_idx = at & 1 ? (uint16_t) - (at >> 4) : 0;
		g->base = g->avail_idx;
		used = at & 2 ? (uint16_t)(g->avail_idx - (at >> 4)) : g->avail_idx;
		fg_write(g, FG_DEVICE + offsetof(struct vring_used, idx), &used, sizeof(used));
		fg_write(g, FG_DRIVER + offsetof(struct vring_avail, idx), &g->avail_idx,
			 sizeof(g->avail_idx));
	}
	g->next_desc = g->next_id = 0;
	g->next_table = 0;
	g->flip_rate = how & 8 ? in_u8(in) : 0;
	g->flip_seed = g->flip_rate ? in_u32(in) | 1 : 0;
	if (RACING) /* words change by themselves */
		g->flip_rate = 0;
	g->n_put = 0;
}

void fg_write(struct fuzz_guest *g, uint64_t offset, const void *from, size_t len)
{
	if (offset >= FG_MAIN_BYTES)
		return;
	len = MIN(len, FG_MAIN_BYTES - offset);
	memcpy(g->map->region[FG_MAIN].host + offset, from, len);
	memcpy(g->shadow[FG_MAIN] + offset, from, len);
}

int fg_find(const struct fuzz_guest *g, const void *p, uint64_t *offset)
{
	for (unsigned i = 0; i < FG_REGIONS; i++) {
		uint64_t at = (uint64_t)((uintptr_t)p - (uintptr_t)g->map->region[i].host);

		if (at < regions[i].bytes) {
			*offset = at;
			return (int)i;
		}
	}
	return -1;
}

void fg_allow(struct fuzz_guest *g, const void *p, size_t len)
{
	uint64_t at;
	int r = fg_find(g, p, &at);

	FUZZ_CHECK(r >= 0 && len <= regions[r].bytes - at, "a segment of %zu bytes outside memory",
		   len);
	g->any_writable = true;
	for (; len > 0 && at % 8; at++, len--)
		g->writable[r][at / 8] |= (uint8_t)(1u << at % 8);
	memset(g->writable[r] + at / 8, 0xff, len / 8);
	for (at += ALIGN_DOWN(len, 8), len %= 8; len > 0; at++, len--)
		g->writable[r][at / 8] |= (uint8_t)(1u << at % 8);
}

static bool of_device(const struct fuzz_guest *g, unsigned region, uint64_t at)
{
	enum ring_layout layout = g->packed ? RING_PACKED : RING_SPLIT;

	if (region != FG_MAIN)
		return false;
	if (g->packed && at - FG_DESC < ring_desc_bytes(layout, g->size))
		return true;
	return at >= FG_DEVICE && at - FG_DEVICE < ring_device_bytes(layout, g->size, g->event_idx);
}

/* memcmp() under ASan takes a byte at a time. */
#ifdef __clang__
__attribute__((no_sanitize("address", "undefined", "coverage")))
#endif
static uint64_t
first_difference(const uint8_t *a, const uint8_t *b, uint64_t from, uint64_t bytes)
{
	const uint64_t *x = (const uint64_t *)a, *y = (const uint64_t *)b;
	uint64_t at = from;

	for (; at < bytes && at % 64; at++)
		if (a[at] != b[at])
			return at;
	for (; at < bytes; at += 64) {
		uint64_t k = at / 8, d = 0;

		for (unsigned i = 0; i < 8; i++)
			d |= x[k + i] ^ y[k + i];
		if (d)
			break;
	}
	while (at < bytes && a[at] == b[at])
		at++;
	return at;
}

/* A byte of region @i was written. */
static void note_dirty(struct fuzz_guest *g, unsigned i, uint64_t at)
{
	uint64_t page = (regions[i].gpa + at) / 4096;

	if ((g->log || g->notes_dirty) && page / 8 < FG_LOG_BYTES)
		g->unlogged[page / 8] |= (uint8_t)(1u << page % 8);
}

/* All that was written is in the log, and nothing beside it. The front-end takes what is there. */
static void check_log(struct fuzz_guest *g)
{
	for (unsigned i = 0; i < FG_LOG_BLOCK; i++) {
		unsigned byte = i - FG_LOG_AT; /* before it: wraps */

		if (byte < FG_LOG_BYTES)
			FUZZ_CHECK((g->unlogged[byte] & ~g->log[i]) == 0,
				   "of pages %u to %u, 0x%02x were written and 0x%02x are logged",
				   byte * 8, byte * 8 + 7, g->unlogged[byte], g->log[i]);
		else
			FUZZ_CHECK(g->log[i] == 0, "byte %u beside the log was written", i);
	}
	memset(g->log + FG_LOG_AT, 0, FG_LOG_BYTES);
	memset(g->unlogged, 0, sizeof(g->unlogged));
}

void fg_check_writes(struct fuzz_guest *g, bool forget)
{
	for (unsigned i = 0; i < FG_REGIONS; i++) {
		const uint8_t *host = g->map->region[i].host;
		uint64_t at = 0;

		while ((at = first_difference(host, g->shadow[i], at, regions[i].bytes)) <
		       regions[i].bytes) {
			FUZZ_CHECK(g->writable[i][at / 8] & 1u << at % 8 || of_device(g, i, at),
				   "byte 0x%llx of region %u was written", (unsigned long long)at,
				   i);
			g->shadow[i][at] = host[at];
			note_dirty(g, i, at);
		}
	}
	if (forget && g->logs && g->log)
		check_log(g);
	if (!forget || !g->any_writable)
		return;
	for (unsigned i = 0; i < FG_REGIONS; i++)
		memset(g->writable[i], 0, regions[i].bytes / 8);
	g->any_writable = false;
}

static uint32_t flip_next(struct fuzz_guest *g)
{
	g->flip_seed = g->flip_seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(g->flip_seed >> 33);
}

void fg_flip(struct fuzz_guest *g, const void *p, size_t len)
{
	uint32_t how;
	uint64_t at;
	int r;

	if (!g->flip_rate)
		return;
	how = flip_next(g);
	if ((how & 0xff) >= g->flip_rate)
		return;
	r = fg_find(g, p, &at);
	if (r < 0)
		return;
	at += how >> 8 & (uint32_t)(len - 1);
	if (at >= regions[r].bytes)
		return;
	how >>= 16;
	/* A bit, all bits, or any byte. */
	g->map->region[r].host[at] ^= how & 1	? (uint8_t)(1u << (how >> 1 & 7))
				      : how & 2 ? 0xff
						: (uint8_t)(how >> 2);
	/* What the device wrote there and nobody has looked at yet is lost to the check: rare. */
	g->shadow[r][at] = g->map->region[r].host[at];
}

static gpa_t any_address(struct input *in)
{
	switch (in_u8(in) % 10) {
	case 0:
		return FG_NEXT_GPA - in_u8(in); /* across two regions */
	case 1:
		return FG_NEXT_GPA + in_u16(in) % FG_NEXT_BYTES;
	case 2:
		return FG_NEXT_GPA + FG_NEXT_BYTES - in_u8(in); /* into the hole */
	case 3:
		return FG_LATE_GPA + in_u8(in);
	case 4:
		return UINT64_MAX - in_u8(in);
	case 5:
		return FG_LAST_GPA + in_u16(in) % FG_LAST_BYTES;
	case 6:
		return FG_MAIN_GPA + FG_TABLES + in_u8(in) * 8u;
	case 7:
		return FG_MAIN_GPA + in_u16(in) % FG_MAIN_BYTES; /* the ring itself, too */
	case 8:
		return in_u64(in);
	default:
		return FG_MAIN_GPA + FG_BUFFERS + in_u8(in) * 64u;
	}
}

static uint32_t any_length(struct input *in)
{
	static const uint32_t special[] = { 0,	  1,	 10,	12,    14,	  15,
					    16,	  20,	 512,	1024,  1526,	  2048,
					    4096, 16384, 65535, 65562, 1536,	  576,
					    528,  65536, 32768, 17,    1u << 31u, UINT32_MAX };
	uint8_t b = in_u8(in);

	return b < 192 ? b : special[(b - 192u) % ARRAY_SIZE(special)];
}

/* A descriptor to MAIN + @at; @link: next index (split) or buffer id (packed). */
static void put_desc(struct fuzz_guest *g, uint64_t at, gpa_t addr, uint32_t len, uint16_t flags,
		     uint16_t link)
{
	if (g->n_put < ARRAY_SIZE(g->put))
		g->put[g->n_put++] = (uint16_t)at;
	if (g->packed) {
		struct vring_packed_desc d = {
			.addr = addr, .len = len, .id = link, .flags = flags
		};

		fg_write(g, at, &d, sizeof(d));
	} else {
		struct vring_desc d = { .addr = addr, .len = len, .flags = flags, .next = link };

		fg_write(g, at, &d, sizeof(d));
	}
}

static uint16_t packed_flags(bool wrap)
{
	return wrap ? 1u << VRING_PACKED_DESC_F_AVAIL : 1u << VRING_PACKED_DESC_F_USED;
}

#define CHAIN_MAX 300

struct draft {
	unsigned n;
	struct {
		gpa_t addr;
		uint32_t len;
		uint16_t flags;
	} d[CHAIN_MAX];
};

/* Segments one after the other from a place in the buffers on; the input's bytes lie at its start.
 * @return the place. */
static uint64_t draft_chain(struct fuzz_guest *g, struct input *in, struct draft *c, bool odd)
{
	uint8_t shape = in_u8(in), n_bytes, bytes[160];
	unsigned n_out = shape & 7, n_in = shape >> 3 & 7;
	uint64_t at = FG_BUFFERS + in_u8(in) * 64u, start = at;

	if (shape & 0x40)
		n_out *= 20;
	if (shape & 0x80)
		n_in *= 20;
	n_bytes = in_u8(in) % (sizeof(bytes) + 1);
	in_bytes(in, bytes, n_bytes);
	fg_write(g, at, bytes, n_bytes);
	c->n = n_out + n_in ? n_out + n_in : 1;
	for (unsigned i = 0; i < c->n; i++) {
		/* Long chains of equal pieces take no bytes of the input. */
		uint32_t len = shape & 0xc0 && i >= 8 ? c->d[i - 1].len : any_length(in);

		c->d[i].addr = FG_MAIN_GPA + at;
		c->d[i].len = len;
		c->d[i].flags = i < n_out ? 0 : VRING_DESC_F_WRITE;
		if (i + 1 < c->n)
			c->d[i].flags |= VRING_DESC_F_NEXT;
		at += len;
		if (at >= FG_MAIN_BYTES + FG_NEXT_BYTES)
			at = FG_BUFFERS;
	}
	if (odd) {
		unsigned i = in_u8(in) % c->n;
		uint8_t what = in_u8(in);

		if (what & 1)
			c->d[i].addr = any_address(in);
		if (what & 2)
			c->d[i].flags ^= in_u8(in) & 7;
		if (what & 4)
			c->d[i].len = in_u32(in);
		if (what & 8)
			c->d[i].flags = in_u16(in);
	}
	return start;
}

/* A table that takes the place of @c's descriptors; @last: it ends where the region does. */
static void put_table(struct fuzz_guest *g, struct draft *c, bool last)
{
	unsigned room = (FG_BUFFERS - FG_TABLES) / 16;
	uint64_t at;

	c->n = MIN(c->n, room);
	if (g->next_table + c->n > room)
		g->next_table = 0;
	at = FG_TABLES + g->next_table * 16u;
	if (last)
		at = FG_MAIN_BYTES - c->n * 16u;
	else
		g->next_table += c->n;
	for (unsigned i = 0; i < c->n; i++)
		put_desc(g, at + i * 16u, c->d[i].addr, c->d[i].len, c->d[i].flags,
			 (uint16_t)(i + 1));
	c->d[0].addr = FG_MAIN_GPA + at;
	c->d[0].len = c->n * 16u;
	c->d[0].flags = VRING_DESC_F_INDIRECT;
	c->n = 1;
}

static void put_split(struct fuzz_guest *g, const struct draft *c)
{
	uint16_t head = (uint16_t)(g->next_desc % g->size), at = head;

	for (unsigned i = 0; i < c->n; i++) {
		uint16_t next = (uint16_t)((at + 1u) % g->size);

		put_desc(g, FG_DESC + at * 16u, c->d[i].addr, c->d[i].len, c->d[i].flags, next);
		at = next;
	}
	g->next_desc = at;
	fg_write(g, FG_DRIVER + offsetof(struct vring_avail, ring) + g->avail_idx % g->size * 2u,
		 &head, sizeof(head));
	g->avail_idx++;
}

static void put_packed(struct fuzz_guest *g, const struct draft *c)
{
	uint16_t id = (uint16_t)(g->next_id++ % g->size);

	for (unsigned i = 0; i < c->n; i++) {
		put_desc(g, FG_DESC + g->avail_idx * 16u, c->d[i].addr, c->d[i].len,
			 c->d[i].flags | packed_flags(g->wrap), id);
		if (++g->avail_idx == g->size) {
			g->avail_idx = 0;
			g->wrap = !g->wrap;
		}
	}
}

static void publish(struct fuzz_guest *g)
{
	if (!g->packed)
		fg_write(g, FG_DRIVER + offsetof(struct vring_avail, idx), &g->avail_idx,
			 sizeof(g->avail_idx));
}

void fg_offer(struct fuzz_guest *g, uint16_t index, uint64_t offset, uint32_t len)
{
	struct draft c = { .n = 1, .d[0] = { FG_MAIN_GPA + offset, len, VRING_DESC_F_WRITE } };

	g->next_desc = index;
	put_split(g, &c);
	publish(g);
}

void fg_chain(struct fuzz_guest *g, struct input *in)
{
	uint8_t how = in_u8(in);
	struct draft c;
	uint64_t bytes;

	g->n_put = 0;
	bytes = draft_chain(g, in, &c, how & 1);
	if (how & 2 && g->indirect)
		put_table(g, &c, how & 0x10);
	if (how & 4) { /* the head, or the table, is not as it should be */
		uint8_t what = in_u8(in);

		if (what & 1)
			c.d[0].addr = any_address(in);
		if (what & 2)
			c.d[0].len ^= in_u8(in);
		if (what & 4)
			c.d[0].flags ^= in_u8(in) & 7;
		if (what & 8)
			g->next_id = in_u16(in);
	}
	if (g->packed)
		put_packed(g, &c);
	else
		put_split(g, &c);
	if (!(how & 8))
		publish(g);
	fg_race(g, bytes);
}

/* Any descriptor of the ring, as the input has it. */
static void step_desc(struct fuzz_guest *g, struct input *in)
{
	uint64_t at = FG_DESC + in_u8(in) % g->size * 16u;
	gpa_t addr = any_address(in);
	uint32_t len = any_length(in);
	uint16_t flags = in_u8(in), link = in_u8(in);

	flags = flags & 0x80 ? in_u16(in) : (flags & 7) | (g->packed ? packed_flags(flags & 8) : 0);
	put_desc(g, at, addr, len, flags, link & 0x80 ? in_u16(in) : link);
}

static void step_events(struct fuzz_guest *g, struct input *in)
{
	uint16_t word[2] = { in_u16(in), in_u16(in) };

	if (g->packed) {
		fg_write(g, FG_DRIVER, word, sizeof(word));
		return;
	}
	fg_write(g, FG_DRIVER, &word[0], 2);
	fg_write(g, FG_DRIVER + offsetof(struct vring_avail, ring) + g->size * 2u, &word[1], 2);
}

void fg_step(struct fuzz_guest *g, struct input *in)
{
	uint8_t bytes[8];
	uint64_t at;

	switch (in_u8(in) % 8) {
	default:
		fg_chain(g, in);
		break;
	case 4:
		step_desc(g, in);
		break;
	case 5:
		step_events(g, in);
		break;
	case 6: /* the index, as it should be or not */
		g->avail_idx += (uint16_t)(in_u8(in) % 4);
		if (g->packed && g->avail_idx >= g->size)
			g->avail_idx = 0;
		publish(g);
		break;
	case 7:
		at = in_u16(in);
		in_bytes(in, bytes, sizeof(bytes));
		fg_write(g, at % FG_MAIN_BYTES, bytes, 1 + at / FG_MAIN_BYTES * 7);
		break;
	}
}
