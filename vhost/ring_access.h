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
 * The beginning of a buffer, which is read or written (@in) first and soon: a header, and what a
 * small frame has behind it, are in two cache lines. They come from the driver's core.
 */
HOT void buffer_ahead(const uint8_t *host, bool in)
{
	if (in) {
		prefetch_write(host);
		prefetch_write(host + CACHE_LINE);
	} else {
		__builtin_prefetch(host);
		__builtin_prefetch(host + CACHE_LINE);
	}
}

/*
 * The everyday chain: one buffer, @d, as the only segment of @c. @return false: it does not lie
 * within the region at hand, and the walkers see to it.
 */
HOT bool chain_single(struct chain *c, const struct ring_cursor *at, const struct ring_desc *d,
		      struct iovec *seg)
{
	uint64_t offset = d->addr - at->gpa; /* below the region: wraps to a huge number */
	uint8_t *host;

	if (unlikely(d->len == 0 || offset >= at->size || d->len > at->size - offset))
		return false;
	host = at->host + offset;
	seg->iov_base = host;
	seg->iov_len = d->len;
	c->id = d->id;
	c->n_slots = 1;
	c->n_empty = 0;
	c->segs = seg;
	/* A branch, not arithmetic: a queue's chains nearly always go one way. */
	if (d->flags & VRING_DESC_F_WRITE) {
		buffer_ahead(host, true);
		c->n_out = 0;
		c->n_in = 1;
		c->out_len = 0;
		c->in_len = d->len;
	} else {
		buffer_ahead(host, false);
		c->n_out = 1;
		c->n_in = 0;
		c->out_len = d->len;
		c->in_len = 0;
	}
	return true;
}

/*
 * The guess at the region of @addr. Guest memory has few regions; an IOMMU has one for each page,
 * and a driver's buffers come from everywhere. All guesses are checked, so none has to be
 * forgotten.
 */
HOT unsigned *ring_hint(struct ring *r, gpa_t addr)
{
	return r->hints ? &r->hints[addr / 4096 % RING_HINTS] : &r->map_hint;
}

/*
 * As mem_resolve(), of what is mapped for the device and has arrived. NULL: it is not or has not,
 * and ring_miss() (with @why) or ring_wait() was called.
 */
HOT void *ring_resolve(struct ring *r, gpa_t addr, uint64_t *len, bool in, const char *why)
{
	void *host = mem_resolve(r->through[in], addr, len, ring_hint(r, addr));

	if (unlikely(!host)) {
		ring_miss(r, addr, in, why);
		return NULL;
	}
	if (unlikely(r->partial && !mem_present(r->map, host, len))) {
		ring_wait(r, host);
		return NULL;
	}
	return host;
}

/*
 * A buffer that is not within the region at hand, as up to @room segments, one for each region that
 * it touches. @return how many; 0: @room does not do; -1: not all of it can be used, and the ring
 * has stalled or is broken.
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
		host = ring_resolve(r, addr, &piece, in, "descriptor outside guest memory");
		if (unlikely(!host))
			return -1;
		r->map_hint = *ring_hint(r, addr); /* what comes next is often near */
		segs[n].iov_base = host;
		segs[n].iov_len = piece;
		addr += piece; /* cannot wrap: no region reaches the end of the address space */
		left -= (uint32_t)piece;
	}
	return (int)n;
}

/* A chain that is being put together: in registers, and written to its struct chain once. */
struct gather {
	struct iovec *first, *seg, *end; /* of its segments: the first, the next, behind the last */
	struct iovec *in_first;		 /* the first "in" one, once there is one: */
	uint16_t in;			 /* then VRING_DESC_F_WRITE, else 0 */
	uint16_t n_empty;
	uint64_t bytes, out_bytes; /* of all; of those before in_first */
};

/* @room: segments that @segs holds. */
HOT struct gather gather_begin(struct iovec *segs, unsigned room)
{
	return (struct gather) { .first = segs, .seg = segs, .end = segs + room };
}

/* Adds the buffer that @d describes to @g. */
HOT enum walk gather_add(struct ring *r, struct ring_cursor *at, struct gather *g,
			 const struct ring_desc *d)
{
	uint16_t in = d->flags & VRING_DESC_F_WRITE;
	uint64_t offset = d->addr - at->gpa; /* below the region: wraps to a huge number */
	int n = 1;

	/* virtio 1.3, 2.7.4.2 and 2.8.9: device-readable buffers come first. */
	if (unlikely(in < g->in))
		return walk_break(r, "device-readable descriptor after a device-writable one");
	if (unlikely(d->len == 0)) {
		/* Else a guest could have 32768 of them read for each byte that it asks for. */
		if (unlikely(++g->n_empty > RING_CHAIN_SEGS_MAX))
			return walk_break(r,
					  "descriptor chain with too many zero-length descriptors");
		return WALK_DONE;
	}
	if (unlikely(g->seg == g->end))
		return WALK_NO_ROOM;
	if (unlikely(in != g->in)) {
		g->in = in;
		g->in_first = g->seg;
		g->out_bytes = g->bytes;
	}
	if (likely(offset < at->size && d->len <= at->size - offset)) {
		g->seg->iov_base = at->host + offset;
		g->seg->iov_len = d->len;
	} else {
		n = chain_add_pieces(r, g->seg, (unsigned)(g->end - g->seg), d->addr, d->len, in);
		if (unlikely(n < 0))
			return WALK_BROKEN;
		if (unlikely(n == 0))
			return WALK_NO_ROOM;
		cursor_region(r, at);
	}
	g->seg += n;
	g->bytes += d->len;
	return WALK_DONE;
}

/* All of it is there: into @c, but for what names the chain. */
HOT enum walk gather_end(struct ring *r, const struct gather *g, struct chain *c)
{
	const struct iovec *in_first = g->in ? g->in_first : g->seg;
	uint64_t out_bytes = g->in ? g->out_bytes : g->bytes;

	/* 2.7.5 and 2.8.5: at most 2^32 bytes in all; we stay one below, to count in 32 bits. */
	if (unlikely(g->bytes > UINT32_MAX))
		return walk_break(r, "descriptor chain of 4 GiB or more");
	c->n_out = (uint16_t)(in_first - g->first);
	c->n_in = (uint16_t)(g->seg - in_first);
	c->out_len = (uint32_t)out_bytes;
	c->in_len = (uint32_t)(g->bytes - out_bytes);
	c->n_empty = g->n_empty;
	c->segs = g->first;
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
	const uint8_t *host; /* NULL: it spans regions, or its address is odd */
	gpa_t addr;
	unsigned n; /* descriptors; 0: there is no table, the chain is in the ring */
};

/* Defined in ring.c: 16 bytes at @addr that may span regions. @return false after ring_miss(). */
bool ring_read_desc_slow(struct ring *r, gpa_t addr, uint8_t bytes[16]) COLD;

/* The table that @d, a legal one, refers to. @return false after ring_miss(). */
HOT bool ring_table_open(struct ring *r, const struct ring_cursor *at, struct ring_table *t,
			 const struct ring_desc *d)
{
	uint64_t piece = d->len, offset = d->addr - at->gpa;

	t->addr = d->addr;
	t->n = d->len / sizeof(struct vring_desc);
	if (likely(offset < at->size && d->len <= at->size - offset))
		t->host = at->host + offset;
	else
		t->host = ring_resolve(r, d->addr, &piece, false,
				       "indirect table outside guest memory");
	if (unlikely(!t->host))
		return false;
	/* An odd address would make the atomic reads below misaligned: take the slow way. */
	if (unlikely(piece < d->len || (uintptr_t)t->host % sizeof(uint64_t) != 0))
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

/*
 * From @d, which refers to a table, on to the table's first descriptor, which takes @d's place (and
 * keeps its id). @t: where the chain is until now, and then.
 */
HOT enum walk ring_table_enter(struct ring *r, enum ring_layout layout,
			       const struct ring_cursor *at, struct ring_table *t,
			       struct ring_desc *d)
{
	uint16_t id = d->id;

	if (unlikely(t->n))
		return walk_break(r, "indirect table within an indirect table");
	if (unlikely(!ring_indirect_legal(r, d)) || unlikely(!ring_table_open(r, at, t, d)) ||
	    unlikely(!ring_table_read(r, layout, t, 0, d)))
		return WALK_BROKEN;
	d->id = id;
	return WALK_DONE;
}

#endif
