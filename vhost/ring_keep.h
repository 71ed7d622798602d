/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The place of a ring kept over our death, for devices that give chains back in the order in which
 * they take them and hold none between two polls (cards). They need no list of what was in flight:
 * whatever is not used is still to be taken, in the order of the ring, and is where it was.
 *
 *	A split ring's place is its used index, which stands in the ring. The front-end's in-flight
 *	buffer is made valid, and nothing is written there while the ring runs.
 *
 *	A packed ring's place stands nowhere but in its device. It is kept in the buffer, one word
 *	before a batch is shown and one after. And used descriptors are written over available ones:
 *	those of a batch behind its first, before the batch is shown. What they cover is put into
 *	the buffer, so that a batch that was never shown is undone. The first one waits outside the
 *	ring, and is written in one step that shows it all: so the buffers of a frame (virtio 1.3
 *	5.1.6.4: used together) come back all or none.
 *
 * In the terms of the text ("Inflight I/O tracking") no entry is ever in flight, all are free, and
 * what a free one holds besides its place in their list is nobody's: there the covered descriptors
 * stand, each in the entry of its slot.
 *
 * A device has a function for these rings alone, so that others pay nothing (RING_WAYS).
 */
#ifndef SLUICE_VHOST_RING_KEEP_H
#define SLUICE_VHOST_RING_KEEP_H

#include "vhost/inflight.h"

enum ring_keeping { RING_PLAIN, RING_KEPT };

/* As RING_LAYOUTS(), X(name, layout, keeping), and the index of each in a table. */
#define RING_WAYS(X)                     \
	X(split, RING_SPLIT, RING_PLAIN) \
	X(packed, RING_PACKED, RING_PLAIN) X(kept, RING_PACKED, RING_KEPT)
#define RING_WAY(layout, keeping) ((unsigned)(layout) + (unsigned)(keeping))
#define N_RING_WAYS 3

/* Which one @r needs, once it is made. */
static inline unsigned ring_way(const struct ring *r)
{
	return RING_WAY(r->layout, r->kept ? RING_KEPT : RING_PLAIN);
}

/* used_idx to the padding of struct inflight_packed: changed together, by one store. */
struct ring_keep_word {
	uint16_t used_idx, old_used_idx;
	uint8_t wrap, old_wrap;
	uint16_t padding;
};
static_assert(sizeof(struct ring_keep_word) == sizeof(uint64_t) &&
		      offsetof(struct inflight_packed, used_idx) == 16 &&
		      offsetof(struct inflight_packed, old_used_idx) == 18 &&
		      offsetof(struct inflight_packed, used_wrap_counter) == 20 &&
		      offsetof(struct inflight_packed, old_used_wrap_counter) == 21,
	      "vhost-user \"Inflight I/O tracking\"");
static_assert(offsetof(struct inflight_packed_desc, id) == 16 &&
		      offsetof(struct inflight_packed_desc, flags) == 18 &&
		      offsetof(struct inflight_packed_desc, len) == 20,
	      "vhost-user \"Inflight I/O tracking\"");

/* Release, here and below: of interest is what has been stored when we are killed; ring_track.c. */
HOT void ring_keep_place(struct ring *r, uint16_t old_idx, bool old_wrap)
{
	struct ring_keep_word word = { .used_idx = r->used_idx,
				       .old_used_idx = old_idx,
				       .wrap = r->used_wrap,
				       .old_wrap = old_wrap };
	uint64_t w;

	memcpy(&w, &word, sizeof(w));
	__atomic_store_n((uint64_t *)(void *)&r->kept->used_idx, w, __ATOMIC_RELEASE);
}

/* The second half of a descriptor, as the ring has it (len, id, flags) and as the buffer has it. */
HOT uint64_t ring_keep_turn(uint64_t half)
{
	return half << 32 | half >> 32;
}

/* As ring_push(), of a ring that is kept. */
HOT void ring_push_kept(struct ring *r, uint16_t id, uint16_t n_slots, uint32_t written)
{
	uint64_t used = htole64(packed_used_word(packed_used_bits(r->used_wrap), id, written));
	uint64_t *half = (uint64_t *)(void *)&r->packed.desc[r->used_idx].len;

	if (r->staged == 0) {
		r->staged_slot = r->used_idx;
		r->staged_half = used;
	} else {
		uint64_t covered = __atomic_load_n(half, __ATOMIC_RELAXED);

		__atomic_store_n((uint64_t *)(void *)&r->kept->desc[r->used_idx].id,
				 ring_keep_turn(covered), __ATOMIC_RELEASE);
		__atomic_store_n(half, used, __ATOMIC_RELEASE);
	}
	packed_advance(r, &r->used_idx, &r->used_wrap, n_slots);
	r->staged++;
	r->staged_slots += n_slots;
	r->in_flight--;
}

/* As ring_publish(), of a ring that is kept. */
HOT void ring_publish_kept(struct ring *r)
{
	/* The ring's end is passed at most once in a batch. */
	bool wrap = r->used_idx > r->staged_slot ? r->used_wrap : !r->used_wrap;

	if (r->staged == 0)
		return;
	ring_keep_place(r, r->staged_slot, wrap);
	if (unlikely(r->log))
		ring_log_staged(r);
	/* As packed_publish(): everything staged, then what shows it. */
	__atomic_store_n((uint64_t *)(void *)&r->packed.desc[r->staged_slot].len, r->staged_half,
			 __ATOMIC_RELEASE);
	if (unlikely(r->log))
		ring_log_published(r);
	ring_keep_place(r, r->used_idx, r->used_wrap);
	counter_add(&r->stats.pushed, r->staged);
	r->uncalled += r->staged_slots;
	r->staged = 0;
	r->staged_slots = 0;
}

/* ring_push() and ring_publish(), by constants. */
HOT void ring_push_way(struct ring *r, enum ring_layout layout, enum ring_keeping keeping,
		       const struct chain *c, uint32_t written)
{
	if (keeping == RING_KEPT)
		ring_push_kept(r, c->id, c->n_slots, written);
	else
		ring_push(r, layout, c->id, c->n_slots, written);
}

HOT void ring_publish_way(struct ring *r, enum ring_layout layout, enum ring_keeping keeping)
{
	if (keeping == RING_KEPT)
		ring_publish_kept(r);
	else
		ring_publish(r, layout);
}

/*
 * Control thread. @region is @r's, of which we know nothing. If a back-end wrote it, @r goes on
 * where that one died. @return NULL, or why not: what stands there is not to be used.
 */
const char *ring_keep_recover(struct ring *r, void *region);
/* The same; what @region says is of another life, and counts no more. */
void ring_keep_begin(struct ring *r, void *region);

#endif
