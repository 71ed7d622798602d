/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How shared memory is read and written: each word once, by an atomic access that the compiler may
 * neither repeat nor tear; and what both layouts do with a descriptor once it is private.
 */
#ifndef SLUICE_VHOST_RING_ACCESS_H
#define SLUICE_VHOST_RING_ACCESS_H

#include "vhost/ring.h"

#include <endian.h>
#include <linux/virtio_ring.h>
#include <string.h>

HOT uint16_t le16_relaxed(const void *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED));
}

HOT uint16_t le16_acquire(const void *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE));
}

HOT void le16_store(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELAXED);
}

HOT void le16_release(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELEASE);
}

HOT void le64_store(void *p, uint64_t v)
{
	__atomic_store_n((uint64_t *)p, htole64(v), __ATOMIC_RELAXED);
}

HOT void le32_store(void *p, uint32_t v)
{
	__atomic_store_n((uint32_t *)p, htole32(v), __ATOMIC_RELAXED);
}

/* A descriptor of either layout, private and in host order. */
struct ring_desc {
	gpa_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next; /* split */
	uint16_t id;   /* packed */
};

static_assert(sizeof(struct vring_desc) == 16, "virtio 1.3, 2.7.5");
static_assert(sizeof(struct vring_packed_desc) == 16, "virtio 1.3, 2.8.13");

/* Both layouts: the address in the first eight bytes, len and two 16-bit words in the others. */
HOT uint64_t desc_addr(const void *p)
{
	return le64toh(__atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED));
}

HOT struct ring_desc split_desc_read(const void *p)
{
	uint64_t rest = le64toh(__atomic_load_n((const uint64_t *)p + 1, __ATOMIC_RELAXED));

	return (struct ring_desc) { .addr = desc_addr(p),
				    .len = (uint32_t)rest,
				    .flags = (uint16_t)(rest >> 32),
				    .next = (uint16_t)(rest >> 48) };
}

HOT struct ring_desc packed_desc_read(const void *p)
{
	/* Pairs with the driver's store of flags, which comes last: flags first, then the rest. */
	uint64_t rest = le64toh(__atomic_load_n((const uint64_t *)p + 1, __ATOMIC_ACQUIRE));

	return (struct ring_desc) { .addr = desc_addr(p),
				    .len = (uint32_t)rest,
				    .id = (uint16_t)(rest >> 32),
				    .flags = (uint16_t)(rest >> 48) };
}

enum walk {
	WALK_DONE,
	WALK_NONE,    /* there is no chain */
	WALK_NO_ROOM, /* the caller's segments do not hold it; nothing was taken */
	WALK_BROKEN,  /* the driver broke a rule, or an address is not mapped: ring_break() or
		       * ring_miss() was called */
};

static inline enum walk walk_break(struct ring *r, const char *why)
{
	ring_break(r, why);
	return WALK_BROKEN;
}

/* Not inlined into pop: the everyday chain does without, and keeps the registers. */
#define WALKER static __attribute__((noinline, unused))

/* Where pop stands, in registers for the length of a batch. */
struct ring_cursor {
	uint16_t idx; /* avail_idx */
	bool wrap;    /* avail_wrap */
	/* The region that was resolved last: most buffers lie there. Size 0: none. */
	gpa_t gpa;
	uint64_t size;
	uint8_t *host;
};

HOT void cursor_region(const struct ring *r, struct ring_cursor *at)
{
	const struct mem_region *m = &r->both->region[r->map_hint];

	if (unlikely(r->map_hint >= r->both->n)) {
		at->size = 0;
		return;
	}
	at->gpa = m->gpa;
	at->size = m->size;
	at->host = m->host;
}

HOT struct ring_cursor cursor_load(const struct ring *r)
{
	struct ring_cursor at = { .idx = r->avail_idx, .wrap = r->avail_wrap };

	cursor_region(r, &at);
	return at;
}

HOT void cursor_store(struct ring *r, const struct ring_cursor *at)
{
	r->avail_idx = at->idx;
	r->avail_wrap = at->wrap;
}

/*
 * The everyday chain: one buffer of @len bytes, within the region at hand, as the only segment of
 * @c. @return false: it is something else, legal or not, and the walkers see to it.
 */
HOT bool chain_single(struct chain *c, const struct ring_cursor *at, gpa_t addr, uint32_t len,
		      bool in, struct iovec *seg)
{
	uint64_t offset = addr - at->gpa; /* below the region: wraps to a huge number */
	uint8_t *host = at->host + offset;

	if (unlikely(len == 0 || offset >= at->size || len > at->size - offset))
		return false;
	seg->iov_base = host;
	seg->iov_len = len;
	c->n_slots = 1;
	c->n_empty = 0;
	c->segs = seg;
	/* A branch, not arithmetic: a queue's chains nearly always go one way. */
	if (in) {
		c->n_out = 0;
		c->n_in = 1;
		c->out_len = 0;
		c->in_len = len;
	} else {
		__builtin_prefetch(host); /* a header is read first, and soon */
		c->n_out = 1;
		c->n_in = 0;
		c->out_len = len;
		c->in_len = 0;
	}
	return true;
}

/*
 * A buffer that is not within the region at hand, as up to @room segments, one for each region that
 * it touches. @return how many; 0: @room does not do; -1: not all of it is mapped, and ring_miss()
 * was called.
 */
WALKER int chain_add_pieces(struct ring *r, struct iovec *segs, unsigned room, gpa_t addr,
			    uint32_t left, bool in)
{
	unsigned n;

	for (n = 0; left; n++) {
		uint64_t piece = left;
		void *host;

		if (unlikely(n >= room))
			return 0;
		host = mem_resolve(r->through[in], addr, &piece, &r->map_hint);
		if (unlikely(!host)) {
			ring_miss(r, addr, in, "descriptor outside guest memory");
			return -1;
		}
		segs[n].iov_base = host;
		segs[n].iov_len = piece;
		addr += piece; /* cannot wrap: no region reaches the end of the address space */
		left -= (uint32_t)piece;
	}
	return (int)n;
}

/* Adds the buffer that @d describes to @c. @room: segments that c->segs holds. */
HOT enum walk chain_add(struct ring *r, struct ring_cursor *at, struct chain *c,
			const struct ring_desc *d, unsigned room)
{
	bool in = d->flags & VRING_DESC_F_WRITE;
	uint64_t offset = d->addr - at->gpa; /* below the region: wraps to a huge number */
	unsigned n = c->n_out + c->n_in;
	int n_more = 1;

	/* virtio 1.3, 2.7.4.2 and 2.8.9: device-readable buffers come first. */
	if (unlikely(!in && c->n_in))
		return walk_break(r, "device-readable descriptor after a device-writable one");
	/* 2.7.5 and 2.8.5: at most 2^32 bytes in all; we stay one below, to count in 32 bits. */
	if (unlikely(d->len > UINT32_MAX - c->out_len - c->in_len))
		return walk_break(r, "descriptor chain of 4 GiB or more");
	if (unlikely(d->len == 0)) {
		/* Else a guest could have 32768 of them read for each byte that it asks for. */
		if (unlikely(++c->n_empty > RING_CHAIN_SEGS_MAX))
			return walk_break(r,
					  "descriptor chain with too many zero-length descriptors");
		return WALK_DONE;
	}
	if (unlikely(n >= room))
		return WALK_NO_ROOM;
	if (likely(offset < at->size && d->len <= at->size - offset)) {
		c->segs[n].iov_base = at->host + offset;
		c->segs[n].iov_len = d->len;
	} else {
		n_more = chain_add_pieces(r, c->segs + n, room - n, d->addr, d->len, in);
		if (unlikely(n_more < 0))
			return WALK_BROKEN;
		if (unlikely(n_more == 0))
			return WALK_NO_ROOM;
		cursor_region(r, at);
	}
	c->n_in += in ? n_more : 0;
	c->n_out += in ? 0 : n_more;
	c->in_len += in ? d->len : 0;
	c->out_len += in ? 0 : d->len;
	return WALK_DONE;
}

/* virtio 1.3, 2.7.5.3.1 and 2.8.8: was it negotiated, and does it end the chain? */
HOT bool ring_indirect_legal(struct ring *r, const struct ring_desc *d)
{
	if (unlikely(!r->indirect)) {
		ring_break(r, "indirect descriptor without VIRTIO_F_INDIRECT_DESC");
		return false;
	}
	if (unlikely(d->flags & VRING_DESC_F_NEXT)) {
		ring_break(r, "indirect descriptor with a next one");
		return false;
	}
	if (unlikely(d->len == 0 || d->len % sizeof(struct vring_desc) != 0)) {
		ring_break(r, "indirect table whose length is not a multiple of 16");
		return false;
	}
	if (unlikely(d->len / sizeof(struct vring_desc) > RING_SIZE_MAX)) {
		ring_break(r, "indirect table with more than 32768 descriptors");
		return false;
	}
	return true;
}

/* An indirect table: in one piece nearly always, else read descriptor by descriptor. */
struct ring_table {
	const uint8_t *host; /* NULL: it spans regions, or does not lie in any */
	gpa_t addr;
};

/* Defined in ring.c: 16 bytes at @addr that may span regions. @return false after ring_miss(). */
bool ring_read_desc_slow(struct ring *r, gpa_t addr, uint8_t bytes[16]) COLD;

HOT bool ring_table_open(struct ring *r, const struct ring_cursor *at, struct ring_table *t,
			 struct ring_desc table)
{
	uint64_t piece = table.len, offset = table.addr - at->gpa;

	t->addr = table.addr;
	if (likely(offset < at->size && table.len <= at->size - offset))
		t->host = at->host + offset;
	else
		t->host = mem_resolve(r->through[0], table.addr, &piece, &r->map_hint);
	if (unlikely(!t->host)) {
		ring_miss(r, table.addr, false, "indirect table outside guest memory");
		return false;
	}
	/* An odd address would make the atomic reads below misaligned: take the slow way. */
	if (unlikely(piece < table.len || (uintptr_t)t->host % sizeof(uint64_t) != 0))
		t->host = NULL;
	return true;
}

HOT bool ring_table_read(struct ring *r, enum ring_layout layout, const struct ring_table *t,
			 unsigned i, struct ring_desc *d)
{
	uint64_t at = (uint64_t)i * sizeof(struct vring_desc);
	uint64_t bytes[2];
	const void *p = bytes;

	if (likely(t->host)) {
		p = t->host + at;
	} else if (!ring_read_desc_slow(r, t->addr + at, (uint8_t *)bytes)) {
		return false;
	}
	*d = layout == RING_PACKED ? packed_desc_read(p) : split_desc_read(p);
	return true;
}

#endif
