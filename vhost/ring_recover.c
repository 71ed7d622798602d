/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was in flight when the back-end before us died (vhost-user "Inflight I/O tracking", "When
 * reconnecting"). Everything in the region is the front-end's word: it is read once, and where it
 * contradicts itself the queue does not start.
 */
#include "vhost/ring_track.h"

#include <stdlib.h>

#define PUT(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELEASE)
#define GET(place) __atomic_load_n(&(place), __ATOMIC_ACQUIRE)

static const char contradiction[] = "its in-flight buffer contradicts itself";

/* By atomic stores, as everywhere in the region: its owner may write there meanwhile. */
static void clear_entries(void *entries, size_t bytes)
{
	uint64_t *word = entries;

	for (size_t i = 0; i < bytes / sizeof(*word); i++)
		PUT(word[i], 0);
}

static void begin_split(struct inflight_split *reg, const struct ring *r)
{
	PUT(reg->features, 0);
	PUT(reg->desc_num, (uint16_t)r->size);
	PUT(reg->last_batch_head, 0);
	PUT(reg->used_idx, r->used_idx);
	clear_entries(reg->desc, r->size * sizeof(reg->desc[0]));
}

/* Entry @size ends the list of free ones. */
static void begin_packed(struct inflight_packed *reg, const struct ring *r)
{
	PUT(reg->features, 0);
	PUT(reg->desc_num, (uint16_t)r->size);
	PUT(reg->free_head, 0);
	PUT(reg->old_free_head, 0);
	PUT(reg->used_idx, r->used_idx);
	PUT(reg->old_used_idx, r->used_idx);
	PUT(reg->used_wrap_counter, r->used_wrap);
	PUT(reg->old_used_wrap_counter, r->used_wrap);
	clear_entries(reg->desc, r->size * sizeof(reg->desc[0]));
	for (uint32_t i = 0; i < r->size; i++)
		PUT(reg->desc[i].next, (uint16_t)(i + 1));
}

void inflight_begin(void *region, const struct ring *r)
{
	struct inflight_split *reg = region;

	/* The version, which stands in the same place in both, makes all of it count. */
	PUT(reg->version, 0);
	if (r->layout == RING_SPLIT)
		begin_split(region, r);
	else
		begin_packed(region, r);
	PUT(reg->version, INFLIGHT_VERSION);
}

void ring_track_begin(struct ring *r)
{
	struct ring_track *t = r->track;

	inflight_begin(t->region, r);
	for (uint32_t i = 0; r->layout == RING_PACKED && i < t->size; i++)
		t->next[i] = (uint16_t)(i + 1);
	t->free_head = 0;
	t->n_free = t->size;
	t->used_idx = r->used_idx;
	t->used_wrap = r->used_wrap;
}

/* For sorting by counter; by id where a front-end made two the same. */
struct found {
	uint64_t counter;
	uint16_t id;
};

static int by_counter(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->counter != y->counter)
		return x->counter < y->counter ? -1 : 1;
	return (int)x->id - (int)y->id;
}

/* @found's @n chains, whose state is filled in, will be popped again in this order. */
static void again(struct ring *r, struct ring_track *t, struct found *found, uint32_t n)
{
	qsort(found, n, sizeof(*found), by_counter);
	for (uint32_t i = 0; i < n; i++)
		t->again[i] = found[i].id;
	t->again_at = 0;
	t->counter = n ? found[n - 1].counter + 1 : 0;
	t->busy = r->in_flight = r->n_again = n;
}

/* The last batch was published and perhaps not crossed out. @return false: nonsense. */
static bool finish_batch_split(const struct ring *r, struct ring_track *t)
{
	struct inflight_split *reg = t->split;
	uint16_t head = GET(reg->last_batch_head);
	uint32_t batch = (uint16_t)(r->used_idx - GET(reg->used_idx));

	if (batch > t->size || head >= t->size)
		return false;
	t->last_batch_head = head;
	for (uint32_t i = 0; i < batch; i++) {
		if (head >= t->size)
			return false;
		PUT(reg->desc[head].inflight, 0);
		head = GET(reg->desc[head].next);
	}
	PUT(reg->used_idx, r->used_idx);
	return true;
}

static const char *recover_split(struct ring *r, struct ring_track *t, struct found *found)
{
	uint32_t n = 0;

	if (!finish_batch_split(r, t))
		return contradiction;
	for (uint32_t i = 0; i < t->size; i++) {
		if (!GET(t->split->desc[i].inflight))
			continue;
		found[n++] = (struct found) { GET(t->split->desc[i].counter), (uint16_t)i };
		t->chain[i] = (struct track_chain) { .n_slots = 1, .state = TRACK_IN_FLIGHT };
	}
	again(r, t, found, n);
	/* All that was made available is in flight or used. */
	r->avail_idx = r->avail_seen = (uint16_t)(r->used_idx + n);
	return NULL;
}

/*
 * If the first descriptor of the batch under way does not say "available" any more, the driver has
 * been shown it: it counts. (2.8.1; while the slot was ours it said so all the time, whatever chain
 * it belonged to, and a driver that has it back may have gone round the ring since.)
 */
bool ring_place_find(const struct ring *r, const struct inflight_packed *reg, struct ring_place *p)
{
	struct ring_place new = { GET(reg->free_head), GET(reg->used_idx),
				  GET(reg->used_wrap_counter) };
	struct ring_place old = { GET(reg->old_free_head), GET(reg->old_used_idx),
				  GET(reg->old_used_wrap_counter) };

	if (new.used_idx >= r->size || old.used_idx >= r->size || new.free_head > r->size ||
	    old.free_head > r->size)
		return false;
	*p = old;
	/* The text compares the index alone; a chain as long as the ring changes only the wrap. */
	if (new.used_idx != old.used_idx || new.wrap != old.wrap) {
		uint16_t flags = le16_acquire(&r->packed.desc[old.used_idx].flags);
		bool avail = flags & PACKED_F_AVAIL, used = flags & PACKED_F_USED;

		if (avail != old.wrap || used == old.wrap)
			*p = new;
	}
	return true;
}

enum { NOT_SEEN, IN_FREE_LIST, IN_CHAIN }; /* an entry, in taken[] */

/* Marks what is on the list: that is not in flight, whatever it says. */
static void mark_free(struct ring_track *t, uint16_t e, uint8_t *taken)
{
	while (e < t->size && !taken[e]) {
		taken[e] = IN_FREE_LIST;
		PUT(t->packed->desc[e].inflight, 0);
		e = GET(t->packed->desc[e].next);
	}
}

/* The chain that begins at entry @first, into private memory. @return its id, -1: nonsense. */
static int take_chain(struct ring_track *t, uint16_t first, uint8_t *taken, uint32_t *n_slots)
{
	struct track_chain ch = { .first = first, .state = TRACK_IN_FLIGHT };
	uint16_t e = first;

	ch.n_slots = GET(t->packed->desc[first].num);
	if (ch.n_slots == 0 || ch.n_slots > t->size - *n_slots)
		return -1;
	for (uint16_t i = 0; i < ch.n_slots; i++) {
		const struct inflight_packed_desc *from;
		struct track_desc *d;

		if (e >= t->size || taken[e])
			return -1;
		taken[e] = IN_CHAIN;
		from = &t->packed->desc[e];
		d = &t->again_desc[e];
		d->addr = GET(from->addr);
		d->len = GET(from->len);
		d->flags = GET(from->flags);
		d->id = GET(from->id);
		d->next = GET(from->next);
		t->next[e] = d->next; /* of the list of free ones, when it is one of them again */
		ch.last = e;
		e = d->next;
	}
	*n_slots += ch.n_slots;
	e = t->again_desc[ch.last].id; /* 2.8.6: the id stands in the last one */
	if (e >= t->size || t->chain[e].state != TRACK_FREE)
		return -1;
	t->chain[e] = ch;
	return e;
}

/* All entries that no chain has, in a list of our own making. */
static void free_rest(struct ring_track *t, const uint8_t *taken)
{
	t->free_head = (uint16_t)t->size;
	t->n_free = 0;
	for (uint32_t e = t->size; e-- > 0;) {
		if (taken[e] == IN_CHAIN)
			continue;
		t->next[e] = t->free_head;
		PUT(t->packed->desc[e].next, t->free_head);
		t->free_head = (uint16_t)e;
		t->n_free++;
	}
	PUT(t->packed->free_head, t->free_head);
	PUT(t->packed->old_free_head, t->free_head);
}

/* The text's commit, or its roll back: both halves become @p. The free lists follow later. */
void ring_place_settle(struct inflight_packed *reg, const struct ring_place *p)
{
	/* Die anywhere in between, and ring_place_find() comes to the same answer again. */
	PUT(reg->free_head, p->free_head);
	PUT(reg->old_free_head, p->free_head);
	PUT(reg->used_idx, p->used_idx);
	PUT(reg->used_wrap_counter, p->wrap);
	PUT(reg->old_used_idx, p->used_idx);
	PUT(reg->old_used_wrap_counter, p->wrap);
}

static const char *recover_packed(struct ring *r, struct ring_track *t, struct found *found,
				  uint8_t *taken)
{
	uint32_t n = 0, n_slots = 0;
	struct ring_place p;

	if (!ring_place_find(r, t->packed, &p))
		return contradiction;
	ring_place_settle(t->packed, &p);
	mark_free(t, p.free_head, taken);
	for (uint32_t e = 0; e < t->size; e++) {
		int id;

		if (!GET(t->packed->desc[e].inflight))
			continue;
		id = take_chain(t, (uint16_t)e, taken, &n_slots);
		if (id < 0)
			return contradiction;
		found[n++] = (struct found) { GET(t->packed->desc[e].counter), (uint16_t)id };
	}
	free_rest(t, taken);
	again(r, t, found, n);
	r->used_idx = r->avail_idx = p.used_idx;
	r->used_wrap = r->avail_wrap = p.wrap;
	packed_advance(r, &r->avail_idx, &r->avail_wrap, n_slots);
	return NULL;
}

const char *inflight_check(const void *region, uint32_t size)
{
	const struct inflight_split *reg = region;

	if (GET(reg->version) != INFLIGHT_VERSION)
		return "its in-flight buffer has a version that is not known";
	if (GET(reg->desc_num) != size)
		return "its in-flight buffer is for another queue size";
	return NULL;
}

const char *ring_recover(struct ring *r)
{
	struct ring_track *t = r->track;
	const char *why = inflight_check(t->region, t->size);
	struct found *found;
	uint8_t *taken;

	if (GET(t->split->version) == 0) {
		ring_track_begin(r);
		return NULL;
	}
	if (why)
		return why;
	found = calloc(t->size, sizeof(*found));
	taken = calloc(t->size, sizeof(*taken));
	if (!found || !taken)
		why = "out of memory";
	else if (r->layout == RING_SPLIT)
		why = recover_split(r, t, found);
	else
		why = recover_packed(r, t, found, taken);
	free(found);
	free(taken);
	t->used_idx = r->used_idx;
	t->used_wrap = r->used_wrap;
	return why;
}
