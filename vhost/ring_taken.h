/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Has the driver taken off its ring what was given back? It says nothing of that, but it has only
 * so many chains: at most size are outstanding, available or used and not taken
 * (virtio 1.3 2.7.13.3; packed: slots, 2.8.21). So what it has made available since tells what it
 * must have taken before.
 *
 * For rings whose chains are all given back in the order in which they are taken. On the queue's
 * worker, or under its lock; nothing is popped that was not pushed.
 */
#ifndef SLUICE_VHOST_RING_TAKEN_H
#define SLUICE_VHOST_RING_TAKEN_H

#include "vhost/ring.h"

#define RING_PLACE_WRAP 0x8000u /* packed; a slot is below it (2.8) */

/* Where the next used chain goes: what ring_taken() is asked for later. */
static inline uint16_t ring_place(const struct ring *r)
{
	if (r->layout == RING_SPLIT)
		return r->used_idx;
	return (uint16_t)(r->used_idx | (r->used_wrap ? 0 : RING_PLACE_WRAP));
}

/* Packed: a place within two turns of the ring. */
static inline uint32_t ring_place_linear(const struct ring *r, uint16_t place)
{
	return (place & (RING_PLACE_WRAP - 1)) + (place & RING_PLACE_WRAP ? r->size : 0);
}

/*
 * Has the driver taken all that was given back before @place? One read of shared memory.
 * @return false: perhaps not. That is so for long where a driver keeps its ring less than full.
 * A @place that dates from long ago may count as a later one, never as an earlier one.
 */
static inline bool ring_taken(const struct ring *r, uint16_t place)
{
	uint16_t slot = r->avail_idx, pending;
	bool wrap = r->avail_wrap;
	uint32_t since;

	/* Acquire: what is put into another ring after this look comes after what it has seen. */
	if (r->layout == RING_SPLIT) {
		pending = (uint16_t)(le16_acquire(&r->split.avail->idx) - r->avail_idx);
		return pending <= r->size && pending + (uint16_t)(r->used_idx - place) >= r->size;
	}
	since = (ring_place_linear(r, ring_place(r)) + 2 * r->size - ring_place_linear(r, place)) %
		(2 * r->size);
	if (since >= r->size)
		return true;
	/* All slots but @since are available again if the last of these is: they are made so in
	 * their order. */
	packed_advance(r, &slot, &wrap, r->size - since - 1);
	return packed_is_available(wrap, le16_acquire(&r->packed.desc[slot].flags));
}

#endif
