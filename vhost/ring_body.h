/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What devices call: written once on the primitives of the two layouts. Contracts stand in ring.h,
 * which includes this.
 */
#ifndef SLUICE_VHOST_RING_BODY_H
#define SLUICE_VHOST_RING_BODY_H

#include "vhost/ring.h"
#include "vhost/ring_log.h"
#include "vhost/ring_packed.h"
#include "vhost/ring_split.h"

/*
 * Defined in ring_track.c, for rings with r->track: its halves of pop, push and publish. @after:
 * the place in the available ring after the chain. ring_publish_tracked() calls ring_show() itself.
 */
unsigned ring_pop_tracked(struct ring *r, struct chain *chains, unsigned n, struct iovec *segs,
			  unsigned n_segs);
bool ring_track_popped(struct ring *r, enum ring_layout layout, const struct chain *c,
		       uint16_t after);
void ring_push_tracked(struct ring *r, uint16_t id, uint32_t written);
void ring_publish_tracked(struct ring *r);

enum ring_tracking { RING_UNTRACKED, RING_TRACKED };

HOT bool ring_unfinished(const struct ring *r)
{
	return r->n_again && !r->broken && !r->stalled;
}

HOT bool ring_has_work(struct ring *r, enum ring_layout layout)
{
	if (unlikely(r->broken || r->stalled))
		return false;
	if (unlikely(r->n_again))
		return true;
	return layout == RING_SPLIT ? split_has_work(r) : packed_has_work(r);
}

/* What a chain costs whoever works on it: its bytes, and the reading of its descriptors. */
HOT uint64_t chain_weight(const struct chain *c)
{
	return (uint64_t)c->out_len + c->in_len +
	       (uint64_t)(c->n_out + c->n_in + c->n_empty) * RING_DESC_WEIGHT;
}

/* The next chain's first descriptor; see the layouts' own. */
HOT enum walk ring_next(struct ring *r, enum ring_layout layout, const struct ring_cursor *at,
			struct ring_desc *d)
{
	return layout == RING_SPLIT ? split_next(r, at, d) : packed_next(r, at, d);
}

/* Past a chain of one descriptor. */
HOT void cursor_next(const struct ring *r, enum ring_layout layout, struct ring_cursor *at)
{
	at->idx++;
	if (layout == RING_PACKED && unlikely(at->idx == r->size)) {
		at->idx = 0;
		at->wrap = !at->wrap;
	}
}

/* Any chain; @d is its first descriptor. Copies, so that pop keeps its own in registers. */
HOT enum walk ring_walk(struct ring *r, enum ring_layout layout, struct ring_cursor *at,
			struct chain *c, const struct ring_desc *d, const struct ring_table *t,
			struct iovec *segs, unsigned room)
{
	struct ring_cursor walker = *at;
	struct ring_desc first = *d;
	struct ring_table table = *t;
	enum walk rc = layout == RING_SPLIT
			       ? split_walk(r, &walker, c, &first, &table, segs, room)
			       : packed_walk(r, &walker, c, &first, &table, segs, room);

	*at = walker;
	return rc;
}

/* Is @d a whole chain, with an id that may be? */
HOT bool ring_is_single(const struct ring *r, enum ring_layout layout, const struct ring_table *t,
			const struct ring_desc *d)
{
	if (layout == RING_SPLIT)
		return split_is_single(d);
	return packed_is_single(t, d) && d->id < r->size;
}

/* The next descriptor, at place @i; is it a whole chain that is only written (@in) or read? */
HOT bool ring_next_plain(const struct ring *r, enum ring_layout layout, bool wrap, bool in,
			 uint16_t i, struct ring_desc *d)
{
	return layout == RING_SPLIT ? split_next_plain(r, in, i, d)
				    : packed_next_plain(r, wrap, in, i, d);
}

/*
 * A run of everyday chains: one buffer each, in the region at hand, all to be written (@in) or all
 * to be read. Up to @n of them, to the first that is anything else, to the end of a packed ring.
 * @return how many; *@weight: what they weigh.
 */
HOT unsigned ring_run(struct ring *r, enum ring_layout layout, bool in, struct chain *c, unsigned n,
		      struct iovec *seg, uint64_t *weight)
{
	static const struct chain_counts one_in = { .n_slots = 1, .n_in = 1 };
	static const struct chain_counts one_out = { .n_slots = 1, .n_out = 1 };
	const struct ring_cursor at = cursor_load(r);
	const uint64_t end = at.gpa + at.size; /* cannot wrap, see chain_add_pieces() */
	const struct chain *const first = c, *stop;
	const size_t unread = r->unread;
	uint16_t idx = at.idx;
	uint64_t sum = 0;

	if (layout == RING_PACKED)
		n = MIN(n, r->size - idx);
	for (stop = c + n; c != stop && sum < RING_POP_WEIGHT; c++, seg++, idx++) {
		struct ring_desc d;
		uint64_t left;
		uint8_t *host;

		if (unlikely(!ring_next_plain(r, layout, at.wrap, in, idx, &d)))
			break;
		left = end - d.addr; /* outside the region: wraps to more than its size */
		if (unlikely(left > at.size || (uint64_t)d.len - 1 >= left))
			break;
		host = at.host + (at.size - left);
		seg->iov_base = host;
		seg->iov_len = d.len;
		c->n = in ? one_in : one_out;
		c->id = d.id;
		c->out_len = in ? 0 : d.len;
		c->in_len = in ? d.len : 0;
		c->segs = seg;
		buffer_ahead(in ? host : host + unread, in);
		sum += d.len + RING_DESC_WEIGHT;
	}
	if (layout == RING_PACKED && idx == r->size) {
		idx = 0;
		r->avail_wrap = !at.wrap;
	}
	r->avail_idx = idx;
	*weight = sum;
	return (unsigned)(c - first);
}

/* Functions of their own that call nothing, so that all they need stays in registers. */
#define X(name, layout)                                                                  \
	WALKER unsigned ring_run_in_##name(struct ring *r, struct chain *c, unsigned n,  \
					   struct iovec *segs, uint64_t *weight)         \
	{                                                                                \
		return ring_run(r, layout, true, c, n, segs, weight);                    \
	}                                                                                \
	WALKER unsigned ring_run_out_##name(struct ring *r, struct chain *c, unsigned n, \
					    struct iovec *segs, uint64_t *weight)        \
	{                                                                                \
		return ring_run(r, layout, false, c, n, segs, weight);                   \
	}
RING_LAYOUTS(X)
#undef X

/* A run of the kind that the last chain was of. */
HOT unsigned ring_pop_run(struct ring *r, enum ring_layout layout, struct chain *c, unsigned n,
			  struct iovec *segs, uint64_t *weight)
{
	if (r->run == RING_RUN_IN)
		return (layout == RING_SPLIT ? ring_run_in_split
					     : ring_run_in_packed)(r, c, n, segs, weight);
	return (layout == RING_SPLIT ? ring_run_out_split : ring_run_out_packed)(r, c, n, segs,
										 weight);
}

/* Chains that the driver has made available. */
HOT unsigned ring_pop_new(struct ring *r, enum ring_layout layout, struct chain *chains, unsigned n,
			  struct iovec *segs, unsigned n_segs, enum ring_tracking tracking)
{
	struct chain *c = chains, *end;
	struct iovec *const segs_end = segs + n_segs;
	struct ring_cursor at;
	uint64_t weight = 0;
	unsigned got = 0, most;
	uint8_t run = r->run;

	if (layout == RING_SPLIT)
		n = split_available(r, n);
	most = MIN(n, r->size - r->in_flight);
	/* For one alone the call costs more than it gains. */
	if (tracking == RING_UNTRACKED && run && most > 1)
		got = ring_pop_run(r, layout, c, MIN(most, n_segs), segs, &weight);
	c += got;
	segs += got;
	at = cursor_load(r);
	/* Enough weight for once: others have a turn then. */
	for (end = chains + most; c != end && weight < RING_POP_WEIGHT; c++) {
		struct ring_table t = { 0 };
		struct ring_desc d;
		enum walk rc = ring_next(r, layout, &at, &d);

		if (rc == WALK_DONE && (d.flags & VRING_DESC_F_INDIRECT))
			rc = ring_table_enter(r, layout, &at, &t, &d);
		if (unlikely(rc != WALK_DONE))
			break;
		if (likely(ring_is_single(r, layout, &t, &d) && segs != segs_end &&
			   chain_single(c, &at, &d, segs))) {
			cursor_next(r, layout, &at);
			segs++;
			weight += d.len + RING_DESC_WEIGHT;
			run = d.flags & VRING_DESC_F_WRITE ? RING_RUN_IN : RING_RUN_OUT;
		} else {
			unsigned room = MIN((unsigned)(segs_end - segs),
					    (unsigned)RING_CHAIN_SEGS_MAX);

			rc = ring_walk(r, layout, &at, c, &d, &t, segs, room);
			/* No room: it is taken again next time, with all of @segs to itself. */
			if (rc == WALK_NO_ROOM && (c == chains || room == RING_CHAIN_SEGS_MAX))
				ring_break(r, "descriptor chain with too many segments");
			if (unlikely(rc != WALK_DONE))
				break;
			segs += c->n_out + c->n_in;
			weight += chain_weight(c);
			run = RING_RUN_NONE;
		}
		if (tracking == RING_TRACKED && !ring_track_popped(r, layout, c, at.idx))
			break;
	}
	got = (unsigned)(c - chains);
	r->run = run;
	cursor_store(r, &at);
	r->in_flight += got;
	counter_add(&r->stats.popped, got);
	/* A chain takes a descriptor at least, so a driver cannot have more of them outstanding. */
	if (unlikely(got == most && most < n) && ring_has_work(r, layout))
		ring_break(r, "more chains available than the queue has entries");
	return got;
}

HOT unsigned ring_pop(struct ring *r, enum ring_layout layout, struct chain *chains, unsigned n,
		      struct iovec *segs, unsigned n_segs)
{
	if (unlikely(r->broken || r->stalled))
		return 0;
	if (unlikely(r->track))
		return ring_pop_tracked(r, chains, n, segs, n_segs);
	return ring_pop_new(r, layout, chains, n, segs, n_segs, RING_UNTRACKED);
}

HOT void ring_unpop(struct ring *r, enum ring_layout layout, const struct chain *chains, unsigned n)
{
	if (layout == RING_SPLIT)
		r->avail_idx -= (uint16_t)n;
	/*
	 * One by one: each has no more slots than the ring, but together they may have more, of a
	 * driver that makes slots available again which are in flight.
	 */
	for (unsigned i = n; layout == RING_PACKED && i-- > 0;) {
		if (chains[i].n_slots > r->avail_idx) {
			r->avail_idx = (uint16_t)(r->avail_idx + r->size);
			r->avail_wrap = !r->avail_wrap;
		}
		r->avail_idx -= chains[i].n_slots;
	}
	r->in_flight -= n;
	counter_add(&r->stats.popped, -(uint64_t)n);
}

HOT void ring_push_ahead(const struct ring *r, enum ring_layout layout, unsigned n)
{
	/* A packed ring's are where its available ones were read a moment ago. */
	if (layout == RING_SPLIT)
		split_push_ahead(r, n);
}

HOT void ring_push(struct ring *r, enum ring_layout layout, uint16_t id, uint16_t n_slots,
		   uint32_t written)
{
	if (unlikely(r->track)) {
		ring_push_tracked(r, id, written);
		return;
	}
	if (layout == RING_SPLIT)
		split_push(r, id, written);
	else
		packed_push(r, id, n_slots, written);
	r->staged++;
	r->staged_slots += n_slots;
	r->in_flight--;
}

HOT void ring_push_many(struct ring *r, enum ring_layout layout, const struct chain *chains,
			unsigned n, const uint32_t *written)
{
	uint32_t slots = 0, idx;
	uint16_t used;

	if (unlikely(r->track))
		for (; n > 1; n--, chains++, written += !!written)
			ring_push(r, layout, chains[0].id, chains[0].n_slots,
				  written ? written[0] : 0);
	if (unlikely(n == 0))
		return;
	/* The first one may be what a batch is held back by. */
	ring_push(r, layout, chains[0].id, chains[0].n_slots, written ? written[0] : 0);
	idx = r->used_idx;
	used = packed_used_bits(r->used_wrap);
	for (unsigned i = 1; i < n; i++) {
		uint32_t len = written ? written[i] : 0;

		if (layout == RING_SPLIT) {
			split_put_used(r, (uint16_t)idx++, chains[i].id, len);
		} else {
			le64_store(&r->packed.desc[idx].len,
				   packed_used_word(used, chains[i].id, len));
			idx += chains[i].n_slots;
			if (unlikely(idx >= r->size)) {
				idx -= r->size;
				used ^= PACKED_F_AVAIL | PACKED_F_USED;
			}
		}
		slots += chains[i].n_slots;
	}
	r->used_idx = (uint16_t)idx;
	if (layout == RING_PACKED)
		r->used_wrap = used != 0;
	r->staged += n - 1;
	r->staged_slots += slots;
	r->in_flight -= n - 1;
}

/* What was put onto the ring, to the driver; and into the dirty log. */
HOT void ring_show(struct ring *r, enum ring_layout layout)
{
	if (unlikely(r->log))
		ring_log_staged(r);
	if (layout == RING_SPLIT)
		split_publish(r);
	else
		packed_publish(r);
	if (unlikely(r->log))
		ring_log_published(r);
}

HOT void ring_publish(struct ring *r, enum ring_layout layout)
{
	if (r->staged == 0)
		return;
	if (unlikely(r->track))
		ring_publish_tracked(r);
	else
		ring_show(r, layout);
	counter_add(&r->stats.pushed, r->staged);
	r->uncalled += layout == RING_SPLIT ? r->staged : r->staged_slots;
	r->staged = 0;
	r->staged_slots = 0;
}

/* Defined in ring.c: the eventfd write. */
void ring_call_now(struct ring *r);

HOT void ring_call(struct ring *r, enum ring_layout layout)
{
	bool wanted;

	if (r->uncalled == 0)
		return;
	/*
	 * What was published, then what the driver wants: pairs with the driver's barrier between
	 * its store of used_event (or flags) and its last look at the used ring
	 * (2.7.7.1, 2.8.10.1).
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	wanted = layout == RING_SPLIT ? split_wants_call(r) : packed_wants_call(r);
	/* The first time the driver's wish may date from before the ring was handed to us. */
	if (wanted || unlikely(!r->called_before))
		ring_call_now(r);
	else
		counter_add(&r->stats.calls_spared, 1);
	r->called_before = true;
	r->uncalled = 0;
}

HOT void ring_kicks_off(struct ring *r, enum ring_layout layout)
{
	r->kicks_wanted = false;
	ring_go_on(r); /* somebody woke us: a kick is as good a moment as any to ask again */
	if (layout == RING_SPLIT)
		split_kicks(r, false);
	else
		packed_kicks(r, false);
	if (unlikely(r->log))
		ring_log_kicks(r);
}

HOT bool ring_kicks_on(struct ring *r, enum ring_layout layout)
{
	if (unlikely(r->broken))
		return true;
	if (layout == RING_SPLIT)
		split_kicks(r, true);
	else
		packed_kicks(r, true);
	if (unlikely(r->log))
		ring_log_kicks(r);
	r->kicks_wanted = true;
	counter_add(&r->stats.kicks_on, 1);
	/*
	 * The wish, then one more look: pairs with the driver's barrier between making a chain
	 * available and reading the wish (2.7.13.4.1, 2.8.21.3.1).
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (likely(!ring_has_work(r, layout)))
		return true;
	ring_kicks_off(r, layout);
	return false;
}

#endif
