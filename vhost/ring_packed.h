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

/* 2.8.6, 2.8.8: is @d all there is of its chain? In a table next means nothing. */
HOT bool packed_is_single(const struct ring_table *t, const struct ring_desc *d)
{
	return !(d->flags & VRING_DESC_F_INDIRECT) &&
	       (t->n ? t->n == 1 : !(d->flags & VRING_DESC_F_NEXT));
}

/* 2.8.8: the descriptors of the table @t, all of them, of which @d is the first. */
HOT enum walk packed_walk_table(struct ring *r, struct ring_cursor *at, struct gather *g,
				const struct ring_table *t, struct ring_desc d)
{
	for (unsigned i = 1;; i++) {
		enum walk rc;

		if (unlikely(d.flags & VRING_DESC_F_INDIRECT))
			return walk_break(r, "indirect table within an indirect table");
		rc = gather_add(r, at, g, &d);
		if (unlikely(rc != WALK_DONE) || i == t->n)
			return rc;
		if (unlikely(!ring_table_read(r, RING_PACKED, t, i, &d)))
			return WALK_BROKEN;
	}
}

/*
 * 2.8.6: the chain in the slots from @at on, of which @first is the first, or the first of the
 * table
 * (@t) that the first one refers to. Only the first says "available", for the driver writes that
 * one last; the id stands in the last.
 */
WALKER enum walk packed_walk(struct ring *r, struct ring_cursor *at, struct chain *c,
			     const struct ring_desc *first, const struct ring_table *t,
			     struct iovec *segs, unsigned room)
{
	struct gather g = gather_begin(segs, room);
	struct ring_cursor near = *at;
	struct ring_table table = *t;
	struct ring_desc d = *first;
	uint16_t n_slots = 1, id = d.id;
	enum walk rc;

	while (!table.n) {
		if (d.flags & VRING_DESC_F_INDIRECT) {
			rc = ring_table_enter(r, RING_PACKED, &near, &table, &d);
			if (unlikely(rc != WALK_DONE))
				return rc;
			break;
		}
		rc = gather_add(r, &near, &g, &d);
		if (unlikely(rc != WALK_DONE))
			return rc;
		if (!(d.flags & VRING_DESC_F_NEXT))
			break;
		if (unlikely(n_slots >= r->size))
			return walk_break(r, "descriptor chain longer than the queue");
		n_slots++;
		packed_advance(r, &near.idx, &near.wrap, 1);
		d = packed_desc_read(&r->packed.desc[near.idx]);
		id = d.id;
	}
	if (table.n) {
		rc = packed_walk_table(r, &near, &g, &table, d);
		if (unlikely(rc != WALK_DONE))
			return rc;
	}
	if (unlikely(id >= r->size))
		return walk_break(r, "buffer id outside the queue");
	rc = gather_end(r, &g, c);
	if (unlikely(rc != WALK_DONE))
		return rc;
	c->id = id;
	c->n_slots = n_slots;
	packed_advance(r, &near.idx, &near.wrap, 1);
	*at = near;
	return WALK_DONE;
}

/* The first descriptor of the next chain; WALK_NONE where none is available. */
HOT enum walk packed_next(const struct ring *r, const struct ring_cursor *at, struct ring_desc *d)
{
	*d = packed_desc_read(&r->packed.desc[at->idx]);
	return packed_is_available(at->wrap, d->flags) ? WALK_DONE : WALK_NONE;
}

/*
 * The descriptor in slot @idx: is it an available chain of its own, to be written (@in) or else to
 * be read? One comparison of all flags that say so.
 */
HOT bool packed_next_plain(const struct ring *r, bool wrap, bool in, uint16_t idx,
			   struct ring_desc *d)
{
	const uint16_t mask = VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE |
			      PACKED_F_AVAIL | PACKED_F_USED;

	*d = packed_desc_read(&r->packed.desc[idx]);
	return (d->flags & mask) ==
		       ((wrap ? PACKED_F_AVAIL : PACKED_F_USED) | (in ? VRING_DESC_F_WRITE : 0)) &&
	       likely(d->id < r->size);
}

/* 2.8.1: used when both bits equal the used wrap counter. */
HOT uint16_t packed_used_bits(bool wrap)
{
	return wrap ? PACKED_F_AVAIL | PACKED_F_USED : 0;
}

/* 2.8.4: WRITE says that len counts. */
HOT uint16_t packed_used_flags(uint16_t used_bits, uint32_t written)
{
	return used_bits | (written ? VRING_DESC_F_WRITE : 0);
}

/* A used descriptor's second half: len, id, flags. */
HOT uint64_t packed_used_word(uint16_t used_bits, uint16_t id, uint32_t written)
{
	return written | (uint64_t)id << 32 | (uint64_t)packed_used_flags(used_bits, written) << 48;
}

HOT void packed_push(struct ring *r, uint16_t id, uint16_t n_slots, uint32_t written)
{
	struct vring_packed_desc *d = &r->packed.desc[r->used_idx];

	if (r->staged == 0) {
		le16_store(&d->id, id);
		le32_store(&d->len, written);
		/* Held back until publish: the driver gets to the others only past this one. */
		r->staged_slot = r->used_idx;
		r->staged_flags = packed_used_flags(packed_used_bits(r->used_wrap), written);
	} else {
		le64_store(&d->len, packed_used_word(packed_used_bits(r->used_wrap), id, written));
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
