/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/ring_track.h"

#include <stdlib.h>
#include <string.h>

/*
 * One store to the in-flight buffer, after all stores before it. Its reader is the process after
 * ours: this one may be killed between any two instructions, and then what was stored before is
 * there and what comes after is not. So it takes no more than the order of the program (release
 * keeps the compiler to it; on x86 it is a plain move).
 */
#define PUT(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELEASE)

struct ring_track *ring_track_new(enum ring_layout layout, uint32_t size, bool in_order,
				  void *region)
{
	struct ring_track *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->layout = layout;
	t->size = size;
	t->in_order = in_order;
	t->region = region;
	t->chain = calloc(size, sizeof(*t->chain));
	t->order = calloc(size, sizeof(*t->order));
	t->batch = calloc(size, sizeof(*t->batch));
	t->next = calloc(size, sizeof(*t->next));
	t->again = calloc(size, sizeof(*t->again));
	t->again_desc = calloc(size, sizeof(*t->again_desc));
	if (!t->chain || !t->order || !t->batch || !t->next || !t->again || !t->again_desc) {
		ring_track_free(t);
		return NULL;
	}
	return t;
}

void ring_track_free(struct ring_track *t)
{
	if (!t)
		return;
	free(t->chain);
	free(t->order);
	free(t->batch);
	free(t->next);
	free(t->again);
	free(t->again_desc);
	free(t);
}

bool ring_track_serves(const struct ring_track *t, const struct ring *r, bool in_order,
		       const void *region)
{
	return t->layout == r->layout && t->size == r->size && t->in_order == in_order &&
	       t->region == region && t->busy == 0 &&
	       (!region || (t->used_idx == r->used_idx && t->used_wrap == r->used_wrap));
}

/* vhost-user "Inflight I/O tracking": "When receiving available buffers", split. */
HOT void note_split(struct ring_track *t, uint16_t id)
{
	struct inflight_split_desc *d = &t->split->desc[id];

	PUT(d->counter, t->counter++);
	PUT(d->inflight, 1);
}

/*
 * The same, packed: the descriptors themselves are kept, since used ones are written over them
 * before their chain is done. They are read a second time for that: what is kept is no more checked
 * than the ring is, and will be when it is popped again. @return whether there was room.
 */
HOT bool note_packed(struct ring *r, struct ring_track *t, const struct chain *c, uint16_t after)
{
	struct inflight_packed *reg = t->packed;
	uint32_t slot = after + (after < c->n_slots ? r->size : 0) - c->n_slots;
	uint16_t first = t->free_head, e = first, last = first;

	/* Only a driver that makes slots available again while they are in flight gets there. */
	if (unlikely(c->n_slots > t->n_free))
		return false;
	for (unsigned i = 0; i < c->n_slots; i++) {
		struct ring_desc d = packed_desc_read(&r->packed.desc[slot]);
		struct inflight_packed_desc *to = &reg->desc[e];

		to->addr = d.addr;
		to->len = d.len;
		to->flags = d.flags;
		to->id = c->id;
		last = e;
		e = t->next[e];
		slot = slot + 1 == r->size ? 0 : slot + 1;
	}
	reg->desc[first].num = c->n_slots;
	reg->desc[first].last = last;
	reg->desc[first].counter = t->counter++;
	PUT(reg->desc[first].inflight, 1);
	PUT(reg->free_head, e);
	/* Until here the chain has not been popped, for the process after us. */
	PUT(reg->old_free_head, e);
	t->chain[c->id].first = first;
	t->chain[c->id].last = last;
	t->free_head = e;
	t->n_free -= c->n_slots;
	return true;
}

static void order_append(struct ring_track *t, uint16_t id)
{
	uint32_t at = t->order_at + t->order_n++;

	t->order[at >= t->size ? at - t->size : at] = id;
}

bool ring_track_popped(struct ring *r, enum ring_layout layout, const struct chain *c,
		       uint16_t after)
{
	struct ring_track *t = r->track;
	struct track_chain *ch = &t->chain[c->id];

	if (unlikely(ch->state != TRACK_FREE)) {
		ring_break(r, "buffer id in use twice");
		return false;
	}
	if (t->region && layout == RING_SPLIT) {
		note_split(t, c->id);
	} else if (t->region && unlikely(!note_packed(r, t, c, after))) {
		ring_break(r, "more descriptors available than the queue has");
		return false;
	}
	ch->state = TRACK_IN_FLIGHT;
	ch->n_slots = c->n_slots;
	t->busy++;
	if (t->in_order)
		order_append(t, c->id);
	return true;
}

/* A chain of again_desc[], as packed_walk() does it with those of the ring. */
static enum walk walk_again(struct ring *r, struct ring_cursor *at, struct chain *c, uint16_t id,
			    struct iovec *segs, unsigned room)
{
	const struct ring_track *t = r->track;
	struct gather g = gather_begin(segs, room);
	uint16_t e = t->chain[id].first;

	c->id = id;
	c->n_slots = t->chain[id].n_slots;
	for (unsigned i = 0; i < c->n_slots; i++) {
		const struct track_desc *td = &t->again_desc[e];
		struct ring_desc d = { .addr = td->addr, .len = td->len, .flags = td->flags };
		enum walk rc;

		if (d.flags & VRING_DESC_F_INDIRECT) {
			struct ring_table table = { 0 };

			rc = ring_table_enter(r, RING_PACKED, at, &table, &d);
			if (rc == WALK_DONE)
				rc = packed_walk_table(r, at, &g, &table, d);
		} else {
			rc = gather_add(r, at, &g, &d);
		}
		if (rc != WALK_DONE)
			return rc;
		e = td->next;
	}
	return gather_end(r, &g, c);
}

/* They are in r->in_flight and in the in-flight buffer already. */
static unsigned pop_again(struct ring *r, struct chain *chains, unsigned n, struct iovec *segs,
			  unsigned n_segs)
{
	struct ring_track *t = r->track;
	struct ring_cursor at = cursor_load(r);
	unsigned got, used = 0;

	for (got = 0; got < n && r->n_again; got++) {
		struct chain *c = &chains[got];
		uint16_t id = t->again[t->again_at];
		unsigned room = MIN(n_segs - used, (unsigned)RING_CHAIN_SEGS_MAX);
		enum walk rc;

		if (r->layout == RING_SPLIT) {
			const struct ring_table none = { 0 };
			struct ring_desc d = split_desc_read(&r->split.desc[id]);

			d.id = id;
			rc = split_walk(r, &at, c, &d, &none, segs + used, room);
		} else {
			rc = walk_again(r, &at, c, id, segs + used, room);
		}
		if (rc == WALK_NO_ROOM && (got == 0 || room == RING_CHAIN_SEGS_MAX))
			ring_break(r, "descriptor chain with too many segments");
		if (rc != WALK_DONE)
			break;
		used += c->n_out + c->n_in;
		t->again_at++;
		r->n_again--;
		if (t->in_order)
			order_append(t, id);
	}
	counter_add(&r->stats.popped, got);
	counter_add(&r->stats.again, got);
	return got;
}

unsigned ring_pop_tracked(struct ring *r, struct chain *chains, unsigned n, struct iovec *segs,
			  unsigned n_segs)
{
	/* First all of them, then new ones: the order of their counters. */
	if (unlikely(r->n_again))
		return pop_again(r, chains, n, segs, n_segs);
	if (r->layout == RING_SPLIT)
		return ring_pop_new(r, RING_SPLIT, chains, n, segs, n_segs, RING_TRACKED);
	return ring_pop_new(r, RING_PACKED, chains, n, segs, n_segs, RING_TRACKED);
}

/* @id's turn has come: onto the ring, or into the batch that ring_publish() will work off. */
HOT void give_back(struct ring *r, struct ring_track *t, uint16_t id)
{
	struct track_chain *ch = &t->chain[id];

	if (t->region) {
		t->batch[t->n_batch++] = id;
	} else {
		if (r->layout == RING_SPLIT)
			split_push(r, id, ch->written);
		else
			packed_push(r, id, ch->n_slots, ch->written);
		ch->state = TRACK_FREE;
		t->busy--;
	}
	r->staged++;
	r->staged_slots += ch->n_slots;
	r->in_flight--;
}

void ring_push_tracked(struct ring *r, uint16_t id, uint32_t written)
{
	struct ring_track *t = r->track;

	t->chain[id].written = written;
	t->chain[id].state = TRACK_DONE;
	if (!t->in_order) {
		give_back(r, t, id);
		return;
	}
	while (t->order_n && t->chain[t->order[t->order_at]].state == TRACK_DONE) {
		uint16_t first = t->order[t->order_at];

		t->order_at = t->order_at + 1 == t->size ? 0 : t->order_at + 1;
		t->order_n--;
		give_back(r, t, first);
	}
}

/* "When supplying used buffers to the driver", split: the whole batch with one used index. */
static void publish_split(struct ring *r, struct ring_track *t)
{
	struct inflight_split *reg = t->split;

	for (uint32_t i = 0; i < t->n_batch; i++) {
		uint16_t id = t->batch[i];

		split_push(r, id, t->chain[id].written);
		PUT(reg->desc[id].next, t->last_batch_head);
		PUT(reg->last_batch_head, id);
		t->last_batch_head = id;
	}
	ring_show(r, RING_SPLIT);
	for (uint32_t i = 0; i < t->n_batch; i++)
		PUT(reg->desc[t->batch[i]].inflight, 0);
	PUT(reg->used_idx, r->used_idx);
}

/*
 * The same, packed, as batches of one: were a batch's later descriptors written before its first
 * one and we died in between, a driver that comes to them after another chain would take them for
 * used.
 */
static void publish_packed(struct ring *r, struct ring_track *t)
{
	struct inflight_packed *reg = t->packed;
	uint32_t staged = r->staged;

	for (uint32_t i = 0; i < t->n_batch; i++) {
		uint16_t id = t->batch[i];
		const struct track_chain *ch = &t->chain[id];

		PUT(reg->desc[ch->last].next, t->free_head);
		PUT(reg->free_head, ch->first);
		r->staged = 0; /* the first of its batch: packed_publish() writes its flags */
		packed_push(r, id, ch->n_slots, ch->written);
		PUT(reg->used_idx, r->used_idx);
		PUT(reg->used_wrap_counter, r->used_wrap);
		ring_show(r, RING_PACKED);
		PUT(reg->desc[ch->first].inflight, 0);
		PUT(reg->old_free_head, ch->first);
		PUT(reg->old_used_idx, r->used_idx);
		PUT(reg->old_used_wrap_counter, r->used_wrap);

		t->next[ch->last] = t->free_head;
		t->free_head = ch->first;
		t->n_free += ch->n_slots;
	}
	r->staged = staged;
}

void ring_publish_tracked(struct ring *r)
{
	struct ring_track *t = r->track;

	if (!t->region) {
		ring_show(r, r->layout);
		return;
	}
	if (r->layout == RING_SPLIT)
		publish_split(r, t);
	else
		publish_packed(r, t);
	for (uint32_t i = 0; i < t->n_batch; i++)
		t->chain[t->batch[i]].state = TRACK_FREE;
	t->busy -= t->n_batch;
	t->n_batch = 0;
	t->used_idx = r->used_idx;
	t->used_wrap = r->used_wrap;
}
