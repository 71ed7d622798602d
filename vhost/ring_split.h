/* SPDX-License-Identifier: Apache-2.0 */
/* The split virtqueue (virtio 1.3, 2.7): its primitives, for ring_body.h alone. */
#ifndef SLUICE_VHOST_RING_SPLIT_H
#define SLUICE_VHOST_RING_SPLIT_H

#include "vhost/ring_access.h"

HOT uint16_t *split_used_event(const struct ring *r)
{
	return (uint16_t *)&r->split.avail->ring[r->size];
}

HOT uint16_t *split_avail_event(const struct ring *r)
{
	return (uint16_t *)&r->split.used->ring[r->size];
}

/*
 * How many of up to @want chains may be taken. The driver may have no more than size chains
 * outstanding (2.7.13.3), so a larger step of its index is a fault, not work.
 */
HOT unsigned split_available(struct ring *r, unsigned want)
{
	uint16_t pending = (uint16_t)(r->avail_seen - r->avail_idx);

	if (pending < want) {
		/* Pairs with the driver's store of avail->idx: entries and descriptors, then index.
		 */
		r->avail_seen = le16_acquire(&r->split.avail->idx);
		pending = (uint16_t)(r->avail_seen - r->avail_idx);
	}
	if (likely(pending <= r->size - r->in_flight))
		return MIN(want, (unsigned)pending);
	ring_break(r, "more chains available than the queue has entries");
	return 0;
}

HOT bool split_has_work(const struct ring *r)
{
	return le16_relaxed(&r->split.avail->idx) != r->avail_idx;
}

/* 2.7.5, 2.7.5.3: is @d all there is of its chain, be that in a table or not? */
HOT bool split_is_single(const struct ring_desc *d)
{
	return !(d->flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT));
}

/*
 * 2.7.5: the chain that starts with @first, as split_next() has it, in the ring or in a table (@t).
 * Descriptors link each other by next, in either.
 */
WALKER enum walk split_walk(struct ring *r, struct ring_cursor *at, struct chain *c,
			    const struct ring_desc *first, const struct ring_table *t,
			    struct iovec *segs, unsigned room)
{
	struct gather g = gather_begin(segs, room);
	struct ring_cursor near = *at;
	struct ring_table table = *t;
	struct ring_desc d = *first;
	enum walk rc;

	for (unsigned steps = 1;; steps++) {
		unsigned size;

		if (unlikely(d.flags & VRING_DESC_F_INDIRECT)) {
			/* 2.7.5.3.2: after zero or more direct ones, and the last of the chain. */
			rc = ring_table_enter(r, RING_SPLIT, &near, &table, &d);
			if (unlikely(rc != WALK_DONE))
				return rc;
			steps = 0;
			continue;
		}
		rc = gather_add(r, &near, &g, &d);
		if (unlikely(rc != WALK_DONE))
			return rc;
		if (!(d.flags & VRING_DESC_F_NEXT))
			break;
		size = table.n ? table.n : r->size;
		if (unlikely(d.next >= size))
			return walk_break(r, table.n ? "next index outside the indirect table"
						     : "descriptor index outside the queue");
		if (unlikely(steps >= size))
			return walk_break(r, table.n ? "descriptor loop in an indirect table"
						     : "descriptor loop");
		if (!table.n)
			d = split_desc_read(&r->split.desc[d.next]);
		else if (unlikely(!ring_table_read(r, RING_SPLIT, &table, d.next, &d)))
			return WALK_BROKEN;
	}
	rc = gather_end(r, &g, c);
	if (unlikely(rc != WALK_DONE))
		return rc;
	c->id = first->id;
	c->n_slots = 1;
	near.idx++;
	*at = near;
	return WALK_DONE;
}

/*
 * The head of the next chain, and its descriptor: @d->id is the head's index. Only called where
 * split_available() said that a chain is there.
 */
HOT enum walk split_next(struct ring *r, const struct ring_cursor *at, struct ring_desc *d)
{
	uint16_t head = le16_relaxed(&r->split.avail->ring[at->idx & (r->size - 1)]);

	if (unlikely(head >= r->size))
		return walk_break(r, "descriptor index outside the queue");
	*d = split_desc_read(&r->split.desc[head]);
	d->id = head;
	return WALK_DONE;
}

/*
 * What the entry @idx of the available ring refers to: is it a chain of its own, to be written
 * (@in) or else to be read? Whatever is wrong with it is for split_next() to say.
 */
HOT bool split_next_plain(const struct ring *r, bool in, uint16_t idx, struct ring_desc *d)
{
	const uint16_t mask = VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE;
	uint16_t head = le16_relaxed(&r->split.avail->ring[idx & (r->size - 1)]);

	if (unlikely(head >= r->size))
		return false;
	*d = split_desc_read(&r->split.desc[head]);
	d->id = head;
	return (d->flags & mask) == (in ? VRING_DESC_F_WRITE : 0);
}

HOT void split_put_used(struct ring *r, uint16_t idx, uint16_t id, uint32_t written)
{
	struct vring_used_elem *e = &r->split.used->ring[idx & (r->size - 1)];

	le32_store(&e->id, id);
	le32_store(&e->len, written);
}

/* The used ring's lines, which the driver's core has: the next @n entries are written soon. */
HOT void split_push_ahead(const struct ring *r, unsigned n)
{
	for (unsigned i = 0; i < n; i += CACHE_LINE / sizeof(struct vring_used_elem))
		prefetch_write(&r->split.used->ring[(r->used_idx + i) & (r->size - 1)]);
}

HOT void split_push(struct ring *r, uint16_t id, uint32_t written)
{
	split_put_used(r, r->used_idx++, id, written);
}

HOT void split_publish(struct ring *r)
{
	/* Pairs with the driver's load of used->idx: elements and buffers, then index. */
	le16_release(&r->split.used->idx, r->used_idx);
}

/* 2.7.7: does the driver want to know of what was published since the last decision? */
HOT bool split_wants_call(const struct ring *r)
{
	if (!r->event_idx)
		return !(le16_relaxed(&r->split.avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	/* 2.7.7.2 calls on equality with one entry; we publish batches, so test the range. */
	return (uint16_t)(r->used_idx - le16_relaxed(split_used_event(r)) - 1) <
	       (uint16_t)r->uncalled;
}

HOT void split_kicks(struct ring *r, bool on)
{
	/*
	 * 2.7.10: with EVENT_IDX kicks are asked for by naming the entry that should cause one.
	 * The place named last then lies behind, which is what "off" needs, but for one kick every
	 * 65536 entries.
	 */
	if (!r->event_idx)
		le16_store(&r->split.used->flags, on ? 0 : VRING_USED_F_NO_NOTIFY);
	else if (on)
		le16_store(split_avail_event(r), r->avail_idx);
}

#endif
