/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/ring_keep.h"

#include "vhost/ring_track.h"

#define GET(place) __atomic_load_n(&(place), __ATOMIC_ACQUIRE)

void ring_keep_begin(struct ring *r, void *region)
{
	inflight_begin(region, r);
	r->kept = r->layout == RING_PACKED ? region : NULL;
}

/*
 * Chains in flight are those of a back-end that gives them back in another order: they may not be
 * where they were in the ring any more, and cannot be taken from there.
 */
static bool any_in_flight(const void *region, enum ring_layout layout, uint32_t size)
{
	const struct inflight_split *split = region;
	const struct inflight_packed *packed = region;

	for (uint32_t i = 0; i < size; i++)
		if (layout == RING_SPLIT ? GET(split->desc[i].inflight)
					 : GET(packed->desc[i].inflight))
			return true;
	return false;
}

/*
 * A slot that is to be taken yet cannot say "used" in this turn of the ring (virtio 1.3 2.8.1): a
 * batch that was not shown was written there.
 */
static void uncover(struct ring *r, uint16_t slot, bool wrap)
{
	struct vring_packed_desc *d = &r->packed.desc[slot];
	uint16_t flags = le16_acquire(&d->flags);
	uint64_t half;

	if (!!(flags & PACKED_F_AVAIL) != wrap || !!(flags & PACKED_F_USED) != wrap)
		return;
	half = ring_keep_turn(
		__atomic_load_n((uint64_t *)(void *)&r->kept->desc[slot].id, __ATOMIC_ACQUIRE));
	/* Nothing was covered there, or the front-end has changed it: then it is as good as any. */
	if (!packed_is_available(wrap, (uint16_t)(le64toh(half) >> 48)))
		return;
	__atomic_store_n((uint64_t *)(void *)&d->len, half, __ATOMIC_RELEASE);
	if (r->log)
		ring_log_write(r, d, sizeof(*d));
}

static const char *recover_packed(struct ring *r)
{
	struct ring_place p;
	uint16_t slot;
	bool wrap;

	if (!ring_place_find(r, r->kept, &p))
		return "its in-flight buffer contradicts itself";
	slot = p.used_idx;
	wrap = p.wrap;
	/* Before the place is settled: killed in between, the next one finds the same. */
	for (uint32_t i = 1; i < r->size; i++) {
		packed_advance(r, &slot, &wrap, 1);
		uncover(r, slot, wrap);
	}
	ring_place_settle(r->kept, &p);
	r->used_idx = r->avail_idx = p.used_idx;
	r->used_wrap = r->avail_wrap = p.wrap;
	return NULL;
}

const char *ring_keep_recover(struct ring *r, void *region)
{
	const struct inflight_split *head = region; /* what both layouts begin with */
	const char *why = inflight_check(region, r->size);

	if (GET(head->version) == 0) {
		ring_keep_begin(r, region);
		return NULL;
	}
	if (why)
		return why;
	if (any_in_flight(region, r->layout, r->size))
		return "its in-flight buffer holds requests that another kind of back-end left";
	if (r->layout == RING_SPLIT)
		return NULL; /* ring_config.base_is_used */
	r->kept = region;
	return recover_packed(r);
}
