/* SPDX-License-Identifier: Apache-2.0 */
/* The packed virtqueue (virtio 1.3, 2.8): its primitives, for ring_body.h alone. */
#ifndef SLUICE_VHOST_RING_PACKED_H
#define SLUICE_VHOST_RING_PACKED_H

#include "vhost/ring_access.h"

#define PACKED_F_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_F_USED (1u << VRING_PACKED_DESC_F_USED)
#define PACKED_EVENT_WRAP (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

/* 2.8.1: available when AVAIL equals the device's wrap counter and USED does not. */
HOT bool packed_is_available(bool wrap, uint16_t flags)
{
	return (flags & (PACKED_F_AVAIL | PACKED_F_USED)) ==
	       (wrap ? PACKED_F_AVAIL : PACKED_F_USED);
}

HOT bool packed_has_work(const struct ring *r)
{
	return packed_is_available(r->avail_wrap,
				   le16_relaxed(&r->packed.desc[r->avail_idx].flags));
}

/* Moves a slot index on by @n <= size, and its wrap counter with it. */
HOT void packed_advance(const struct ring *r, uint16_t *idx, bool *wrap, uint32_t n)
{
	uint32_t next = *idx + n;

	if (next >= r->size) {
		next -= r->size;
		*wrap = !*wrap;
	}
	*idx = (uint16_t)next;
}

/* 2.8.8: all of the table's descriptors, in order; next and the AVAIL/USED bits mean nothing. */
HOT enum walk packed_walk_indirect(struct ring *r, struct ring_cursor *at, struct chain *c,
				   struct ring_desc table, unsigned room)
{
	unsigned count = table.len / sizeof(struct vring_packed_desc);
	struct ring_table t;

	if (!ring_table_open(r, at, &t, table))
		return WALK_BROKEN;
	for (unsigned i = 0; i < count; i++) {
		struct ring_desc d;
		enum walk rc;

		if (!ring_table_read(r, RING_PACKED, &t, i, &d))
			return WALK_BROKEN;
		if (unlikely(d.flags & VRING_DESC_F_INDIRECT))
			return walk_break(r, "indirect table within an indirect table");
		rc = chain_add(r, at, c, &d, room);
		if (unlikely(rc != WALK_DONE))
			return rc;
	}
	return WALK_DONE;
}

/*
 * 2.8.6: the chain in the slots from avail_idx on, of which @d is the first. Only the first says
 * "available", for the driver writes that one last; the id stands in the last.
 */
WALKER enum walk packed_walk(struct ring *r, struct chain *chain, struct ring_desc d,
			     struct iovec *segs, unsigned room)
{
	/* Not *chain itself: so it is built in registers, and written once. */
	struct chain c = { .segs = segs };
	struct ring_cursor at = cursor_load(r);
	uint16_t slot = r->avail_idx;
	bool wrap = r->avail_wrap;

	for (;;) {
		enum walk rc;

		c.n_slots++;
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (unlikely(!ring_indirect_legal(r, &d)))
				return WALK_BROKEN;
			rc = packed_walk_indirect(r, &at, &c, d, room);
		} else {
			rc = chain_add(r, &at, &c, &d, room);
		}
		if (unlikely(rc != WALK_DONE))
			return rc;
		if (!(d.flags & VRING_DESC_F_NEXT))
			break;
		if (unlikely(c.n_slots >= r->size))
			return walk_break(r, "descriptor chain longer than the queue");
		packed_advance(r, &slot, &wrap, 1);
		d = packed_desc_read(&r->packed.desc[slot]);
	}
	if (unlikely(d.id >= r->size))
		return walk_break(r, "buffer id outside the queue");
	c.id = d.id;
	*chain = c;
	packed_advance(r, &r->avail_idx, &r->avail_wrap, c.n_slots);
	return WALK_DONE;
}

/* WALK_NONE where no chain is available. */
HOT enum walk packed_take(struct ring *r, struct ring_cursor *at, struct chain *c,
			  struct iovec *segs, unsigned room)
{
	const unsigned is_avail = PACKED_F_AVAIL | PACKED_F_USED;
	const unsigned is_long = VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT;
	struct ring_desc d = packed_desc_read(&r->packed.desc[at->idx]);
	unsigned mark = at->wrap ? PACKED_F_AVAIL : PACKED_F_USED;
	enum walk rc;

	/* One comparison for "available" and for "no more than this one". */
	if (likely((d.flags & (is_avail | is_long)) == mark && d.id < r->size && room &&
		   chain_single(c, at, d.addr, d.len, d.flags & VRING_DESC_F_WRITE, segs))) {
		c->id = d.id;
		if (unlikely(++at->idx == r->size)) {
			at->idx = 0;
			at->wrap = !at->wrap;
		}
		return WALK_DONE;
	}
	if ((d.flags & is_avail) != mark)
		return WALK_NONE;
	cursor_store(r, at);
	rc = packed_walk(r, c, d, segs, room);
	*at = cursor_load(r);
	return rc;
}

/*
 * 2.8.1: used when both bits equal the used wrap counter. 2.8.4: WRITE says that len counts.
 */
HOT uint16_t packed_used_flags(bool wrap, uint32_t written)
{
	return (wrap ? PACKED_F_AVAIL | PACKED_F_USED : 0) | (written ? VRING_DESC_F_WRITE : 0);
}

/* A used descriptor's second half: len, id, flags. */
HOT uint64_t packed_used_word(bool wrap, uint16_t id, uint32_t written)
{
	return written | (uint64_t)id << 32 | (uint64_t)packed_used_flags(wrap, written) << 48;
}

HOT void packed_push(struct ring *r, uint16_t id, uint16_t n_slots, uint32_t written)
{
	struct vring_packed_desc *d = &r->packed.desc[r->used_idx];

	if (r->staged == 0) {
		le16_store(&d->id, id);
		le32_store(&d->len, written);
		/* Held back until publish: the driver gets to the others only past this one. */
		r->staged_slot = r->used_idx;
		r->staged_flags = packed_used_flags(r->used_wrap, written);
	} else {
		le64_store(&d->len, packed_used_word(r->used_wrap, id, written));
	}
	packed_advance(r, &r->used_idx, &r->used_wrap, n_slots);
}

HOT void packed_publish(struct ring *r)
{
	/* Pairs with the driver's load of this flags word: everything staged, then the first flags.
	 */
	le16_release(&r->packed.desc[r->staged_slot].flags, r->staged_flags);
}

/* 2.8.10: does the driver want to know of the slots published since the last decision? */
HOT bool packed_wants_call(const struct ring *r)
{
	/* Acquire: the place is written before the flags that refer to it. */
	uint16_t flags = le16_acquire(&r->packed.driver->flags) & 3, at;
	uint32_t slot;

	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !r->event_idx)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	at = le16_relaxed(&r->packed.driver->off_wrap);
	slot = at & (PACKED_EVENT_WRAP - 1);
	if (!!(at & PACKED_EVENT_WRAP) != r->used_wrap)
		slot -= r->size; /* one turn behind; the arithmetic below is modulo 2^16 */
	return (uint16_t)(r->used_idx - slot - 1) < (uint16_t)r->uncalled;
}

HOT void packed_kicks(struct ring *r, bool on)
{
	uint16_t flags = VRING_PACKED_EVENT_FLAG_DISABLE;

	if (on && r->event_idx) {
		le16_store(&r->packed.device->off_wrap,
			   (uint16_t)(r->avail_idx | (r->avail_wrap ? PACKED_EVENT_WRAP : 0)));
		flags = VRING_PACKED_EVENT_FLAG_DESC;
	} else if (on) {
		flags = VRING_PACKED_EVENT_FLAG_ENABLE;
	}
	/* Release: the place, then the flags that refer to it. Pairs with the driver's load. */
	le16_release(&r->packed.device->flags, flags);
}

#endif
