/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log of a front-end that means ill: files, sizes and offsets that cannot be; logs too
 * short for the guest, a device area that is somewhere else, and logging switched while a ring of
 * either layout runs. What can be a log is taken and nothing else; each page of the guest's that
 * was changed has its bit, if the log has one for it; no bit is set for nothing, and no byte beside
 * the log is written.
 */
#include "base/error.h"
#include "base/log.h"
#include "tests/fuzz/guest.h"
#include "vhost/dirty_log.h"
#include "vhost/ring.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define STEPS_MAX 120
#define POP_MAX 16
#define PAGES_MAX 72 /* of the guest's, but for the last region, which no log reaches */

enum { FILE_EMPTY, FILE_BYTE, FILE_PAGE, FILE_ODD, FILE_HUGE, FILES };

static struct {
	struct fuzz_guest g;
	struct ring r;
	struct ring_log log;
	uint8_t *bits; /* of its own length, for ASan */
	bool right_area;
	unsigned n_live;
	struct chain live[FG_SIZE_MAX];
	struct iovec segs[POP_MAX * RING_CHAIN_SEGS_MAX];
	uint8_t may[(PAGES_MAX + 7) / 8]; /* pages that may be logged since the last look */

	int files[FILES], other[4];
} b;

static const uint64_t file_bytes[FILES] = {
	[FILE_BYTE] = 1, [FILE_PAGE] = 4096, [FILE_ODD] = 10000, [FILE_HUGE] = UINT64_C(1) << 40
};

static void create_all(void)
{
	int pair[2];

	log_set_level(LOG_LEVEL_ERROR);
	fg_create(&b.g, NULL);
	for (unsigned i = 0; i < FILES; i++) {
		b.files[i] = memfd_create("log", MFD_CLOEXEC);
		FUZZ_CHECK(b.files[i] >= 0 && ftruncate(b.files[i], (off_t)file_bytes[i]) == 0);
	}
	FUZZ_CHECK(pipe2(pair, O_CLOEXEC) == 0);
	b.other[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	b.other[1] = pair[0];
	b.other[2] = open("/dev/zero", O_RDWR | O_CLOEXEC);
	b.other[3] = open("/", O_RDONLY | O_CLOEXEC);
	for (unsigned i = 0; i < ARRAY_SIZE(b.other); i++)
		FUZZ_CHECK(b.other[i] >= 0);
}

/* Opening. */

static uint64_t any_amount(struct input *in, uint64_t file)
{
	uint8_t how = in_u8(in);
	uint64_t small = in_u8(in);

	switch (how % 8) {
	case 0:
		return small;
	case 1:
		return small * 4096;
	case 2:
		return file - small;
	case 3:
		return file + small;
	case 4:
		return (UINT64_C(1) << 49) - 128 + small;
	case 5:
		return (UINT64_C(1) << 60) - 128 + small;
	case 6:
		return UINT64_MAX - small;
	default:
		return in_u64(in);
	}
}

static void open_any(struct input *in)
{
	uint8_t which = in_u8(in);
	unsigned i = which % (FILES + ARRAY_SIZE(b.other));
	bool is_file = i < FILES;
	uint64_t file = is_file ? file_bytes[i] : 4096;
	uint64_t size = any_amount(in, file), offset = any_amount(in, file);
	struct error err = { 0 };
	struct dirty_log *log = dirty_log_open(NULL, is_file ? b.files[i] : b.other[i - FILES],
					       size, offset, NULL, &err);
	/* As a sum that cannot wrap. */
	bool fits = size > 0 && size <= file && offset <= file - size;

	FUZZ_CHECK(!log == !(is_file && fits), "0x%llx bytes at 0x%llx of 0x%llx: %s",
		   (unsigned long long)size, (unsigned long long)offset, (unsigned long long)file,
		   err.text);
	if (log)
		FUZZ_CHECK(dirty_log_pages(log) == size * 8);
	dirty_log_close(log);
}

/* Logging. */

static void may_log(gpa_t gpa, uint64_t bytes)
{
	if (bytes == 0 || gpa / 4096 >= PAGES_MAX)
		return;
	for (uint64_t page = gpa / 4096; page <= (gpa + bytes - 1) / 4096; page++)
		if (page < PAGES_MAX)
			b.may[page / 8] |= (uint8_t)(1u << page % 8);
}

static void may_log_host(const void *host, uint64_t bytes)
{
	uint64_t at;
	int r = fg_find(&b.g, host, &at);

	FUZZ_CHECK(r >= 0);
	may_log(b.g.map->region[r].gpa + at, bytes);
}

/* The ring's areas, as far as they are logged. */
static void may_log_ring(void)
{
	enum ring_layout layout = b.g.packed ? RING_PACKED : RING_SPLIT;

	if (b.g.packed)
		may_log(FG_MAIN_GPA + FG_DESC, ring_desc_bytes(layout, b.g.size));
	may_log(b.log.device_gpa, ring_device_bytes(layout, b.g.size, b.g.event_idx));
}

/* Logging has just been on for all that was published: is it there, and no more? */
static void check_log(void)
{
	const uint64_t area = FG_MAIN_GPA + FG_DEVICE;
	const uint64_t area_bytes = ring_device_bytes(b.r.layout, b.g.size, b.g.event_idx);

	may_log_ring();
	for (unsigned page = 0; page < PAGES_MAX; page++) {
		unsigned bit = 1u << page % 8;
		bool changed = b.g.unlogged[page / 8] & bit;
		bool logged = page < b.log.n_pages && b.bits[page / 8] & bit;
		bool has_to = b.log.data && page < b.log.n_pages;

		if (page >= area / 4096 && page <= (area + area_bytes - 1) / 4096)
			has_to = has_to && b.log.device_area && b.right_area;
		if (changed && has_to)
			FUZZ_CHECK(logged, "page %u was changed and is not logged", page);
		if (logged)
			FUZZ_CHECK(b.may[page / 8] & bit, "page %u is logged for nothing", page);
	}
	memset(b.bits, 0, b.log.n_pages / 8);
	memset(b.may, 0, sizeof(b.may));
	memset(b.g.unlogged, 0, sizeof(b.g.unlogged));
}

static void log_any(struct input *in)
{
	uint8_t how = in_u8(in), bytes = 1 + in_u8(in) % (PAGES_MAX / 8);

	free(b.bits);
	b.bits = calloc(1, bytes);
	FUZZ_CHECK(b.bits);
	memset(b.may, 0, sizeof(b.may));
	b.right_area = !(how & 0x10);
	b.log = (struct ring_log) { .bits = b.bits,
				    .n_pages = bytes * 8u,
				    .data = how & 1,
				    .device_area = how & 2,
				    .call_fd = how & 4 ? b.other[0] : -1,
				    .device_gpa = FG_MAIN_GPA + FG_DEVICE };
	if (!b.right_area && how & 0x40) /* the area's end wraps around, or its beginning */
		b.log.device_gpa = UINT64_MAX - in_u8(in) * 8u;
	else if (!b.right_area)
		b.log.device_gpa = how & 0x20 ? in_u64(in) : in_u8(in) * 0x800u;
	b.r.log = b.log.data || b.log.device_area ? &b.log : NULL;
}

static void pop(unsigned n)
{
	struct chain chains[POP_MAX];
	unsigned got = b.g.packed
			       ? ring_pop(&b.r, RING_PACKED, chains, n, b.segs, ARRAY_SIZE(b.segs))
			       : ring_pop(&b.r, RING_SPLIT, chains, n, b.segs, ARRAY_SIZE(b.segs));

	for (unsigned i = 0; i < got; i++) {
		const struct chain *c = &chains[i];
		const struct iovec *in = c->segs + c->n_out;

		/* The device's work, at once. */
		for (unsigned k = 0; k < c->n_in; k++) {
			fg_allow(&b.g, in[k].iov_base, in[k].iov_len);
			memset(in[k].iov_base, 0xd0 + (int)k, in[k].iov_len);
			may_log_host(in[k].iov_base, in[k].iov_len);
		}
		if (b.r.log)
			ring_log_iov(&b.r, in, c->n_in, c->in_len);
		if (b.g.packed)
			ring_push(&b.r, RING_PACKED, c->id, c->n_slots, c->in_len);
		else
			ring_push(&b.r, RING_SPLIT, c->id, c->n_slots, c->in_len);
	}
	if (b.g.packed) {
		ring_publish(&b.r, RING_PACKED);
		ring_call(&b.r, RING_PACKED);
	} else {
		ring_publish(&b.r, RING_SPLIT);
		ring_call(&b.r, RING_SPLIT);
	}
}

static void kicks(bool on)
{
	if (b.g.packed && on)
		ring_kicks_on(&b.r, RING_PACKED);
	else if (b.g.packed)
		ring_kicks_off(&b.r, RING_PACKED);
	else if (on)
		ring_kicks_on(&b.r, RING_SPLIT);
	else
		ring_kicks_off(&b.r, RING_SPLIT);
}

static bool begin(struct input *in)
{
	struct fuzz_guest *g = &b.g;
	struct ring_config cfg = { .desc = fg_main(g, FG_DESC),
				   .driver = fg_main(g, FG_DRIVER),
				   .device = fg_main(g, FG_DEVICE),
				   .map = g->map,
				   .name = "fuzz" };

	fg_begin(g, in);
	g->notes_dirty = true;
	g->logs = false; /* we look ourselves */
	cfg.layout = g->packed ? RING_PACKED : RING_SPLIT;
	cfg.size = g->size;
	cfg.indirect = g->indirect;
	cfg.event_idx = g->event_idx;
	cfg.base = g->base;
	if (ring_init(&b.r, &cfg))
		return false;
	fg_check_writes(g, true);
	log_any(in);
	memset(g->unlogged, 0, sizeof(g->unlogged));
	return true;
}

static void run(struct input *in)
{
	for (unsigned i = 0; i < STEPS_MAX && in_left(in); i++) {
		uint8_t what = in_u8(in);

		switch (what % 8) {
		default:
			fg_step(&b.g, in);
			continue;
		case 4:
			pop(1 + what / 8 % POP_MAX);
			break;
		case 5:
			kicks(what & 8);
			break;
		case 6:
			log_any(in);
			continue;
		case 7:
			open_any(in);
			continue;
		}
		fg_check_writes(&b.g, true);
		check_log();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	if (!b.g.map)
		create_all();
	if (begin(&in))
		run(&in);
	return 0;
}
