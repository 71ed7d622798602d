/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/ring_ahead.h"

/* One look: how far it may still go, and where the driver's addresses lead. */
struct look {
	struct ring *r;
	struct ring_ahead *a;
	unsigned pieces;
};

static bool is_over(const struct look *l)
{
	return l->pieces >= RING_AHEAD_PIECES || l->a->n == RING_AHEAD_MAX;
}

static void look_at(struct look *l, gpa_t addr, uint32_t len, bool write)
{
	for (l->pieces++; len && !is_over(l); l->pieces++) {
		uint64_t piece = len;

		if (!mem_resolve(l->r->through[write], addr, &piece, ring_hint(l->r, addr))) {
			l->a->want[l->a->n++] = (struct ring_want) { addr, write };
			piece = MIN(len, RING_AHEAD_PAGE - addr % RING_AHEAD_PAGE);
		}
		addr += piece;
		len -= (uint32_t)piece;
	}
}

/* Its descriptors, as far as the table itself is mapped, and has arrived. */
static void look_at_table(struct look *l, const struct ring_desc *table)
{
	uint64_t n = table->len / sizeof(struct vring_desc);

	look_at(l, table->addr, table->len, false);
	for (uint64_t i = 0; i < n && !is_over(l); i++) {
		uint64_t len = sizeof(struct vring_desc);
		gpa_t at = table->addr + i * sizeof(struct vring_desc);
		const void *p = mem_resolve(l->r->through[0], at, &len, ring_hint(l->r, at));
		struct ring_desc d;

		if (!p || (l->r->partial && !mem_present(l->r->map, p, &len)) ||
		    len < sizeof(struct vring_desc) || (uintptr_t)p % sizeof(uint64_t))
			return;
		d = l->r->layout == RING_PACKED ? packed_desc_read(p) : split_desc_read(p);
		look_at(l, d.addr, d.len, d.flags & VRING_DESC_F_WRITE);
		/* Linked lists in tables go from one to the next in all drivers. */
	}
}

static void look_at_desc(struct look *l, const struct ring_desc *d)
{
	if (d->flags & VRING_DESC_F_INDIRECT)
		look_at_table(l, d);
	else
		look_at(l, d->addr, d->len, d->flags & VRING_DESC_F_WRITE);
}

/*
 * After a chain. A chain that did not get all that it wants into @a is looked at again, with @a to
 * itself; but not for ever.
 */
static bool goes_on(const struct look *l, unsigned n_before)
{
	return l->a->n < RING_AHEAD_MAX || n_before == 0;
}

static void look_split(struct look *l)
{
	const struct ring *r = l->r;
	struct ring_ahead *a = l->a;
	uint16_t end = le16_acquire(&r->split.avail->idx), waiting = end - r->avail_idx;

	if (waiting > r->size)
		return; /* ring_pop() breaks the ring for that */
	waiting = MIN(waiting, RING_AHEAD_CHAINS);
	/* Chains have been popped since that were never looked at. */
	if ((uint16_t)(a->idx - r->avail_idx) > waiting)
		a->idx = r->avail_idx;
	while ((uint16_t)(a->idx - r->avail_idx) < waiting && !is_over(l)) {
		uint16_t at = le16_relaxed(&r->split.avail->ring[a->idx & (r->size - 1)]);
		unsigned n_before = a->n;

		for (uint32_t i = 0; at < r->size && i < r->size && !is_over(l); i++) {
			struct ring_desc d = split_desc_read(&r->split.desc[at]);

			look_at_desc(l, &d);
			if (!(d.flags & VRING_DESC_F_NEXT))
				break;
			at = d.next;
		}
		if (!goes_on(l, n_before))
			return;
		a->idx++;
	}
}

/* Slots from the next one to be popped to where @a stands. */
static uint32_t slots_ahead(const struct ring *r, const struct ring_ahead *a)
{
	uint32_t from = r->avail_idx + (r->avail_wrap ? 0 : r->size);
	uint32_t to = a->idx + (a->wrap ? 0 : r->size);

	return to >= from ? to - from : to + 2 * r->size - from;
}

static void look_packed(struct look *l)
{
	const struct ring *r = l->r;
	struct ring_ahead *a = l->a;
	uint32_t window = MIN(r->size, (uint32_t)RING_AHEAD_CHAINS);

	if (slots_ahead(r, a) > r->size) {
		a->idx = r->avail_idx;
		a->wrap = r->avail_wrap;
	}
	while (slots_ahead(r, a) < window && !is_over(l)) {
		struct ring_desc d = packed_desc_read(&r->packed.desc[a->idx]);
		uint16_t at = a->idx;
		bool wrap = a->wrap;
		unsigned n_before = a->n;

		if (!packed_is_available(wrap, d.flags))
			return;
		/*
		 * virtio 1.3 2.8.6: only the first of a chain says that it is available. Where a
		 * look ends within a chain, the next one goes on there, as if one began.
		 */
		for (uint32_t i = 0; i < r->size && !is_over(l); i++) {
			look_at_desc(l, &d);
			packed_advance(r, &at, &wrap, 1);
			if (!(d.flags & VRING_DESC_F_NEXT))
				break;
			d = packed_desc_read(&r->packed.desc[at]);
		}
		if (!goes_on(l, n_before))
			return;
		a->idx = at;
		a->wrap = wrap;
	}
}

void ring_ahead_restart(const struct ring *r, struct ring_ahead *a)
{
	a->idx = r->avail_idx;
	a->wrap = r->avail_wrap;
}

unsigned ring_look_ahead(struct ring *r, struct ring_ahead *a)
{
	struct look l = { .r = r, .a = a };

	if (r->broken || r->stalled & RING_ENDING)
		return 0;
	if (r->layout == RING_SPLIT)
		look_split(&l);
	else
		look_packed(&l);
	return l.pieces;
}

/* Are there chains that ring_look_ahead() would look at? */
static bool ahead_has_work(const struct ring *r, const struct ring_ahead *a)
{
	if (r->broken || r->stalled & RING_ENDING || a->n == RING_AHEAD_MAX)
		return false;
	if (r->layout == RING_SPLIT) {
		uint16_t waiting = le16_relaxed(&r->split.avail->idx) - r->avail_idx;
		uint16_t ahead = a->idx - r->avail_idx;

		return waiting <= r->size &&
		       (ahead > waiting || ahead < MIN(waiting, RING_AHEAD_CHAINS));
	}
	return slots_ahead(r, a) > r->size ||
	       (slots_ahead(r, a) < MIN(r->size, (uint32_t)RING_AHEAD_CHAINS) &&
		packed_is_available(a->wrap, le16_relaxed(&r->packed.desc[a->idx].flags)));
}

/*
 * For the next chain that is made available, whether there are some that wait or not. @return
 * false: one came meanwhile.
 */
static bool kicks_for_next(struct ring *r)
{
	uint16_t end = 0;

	if (r->layout == RING_PACKED) {
		/* Legal with EVENT_IDX too (virtio 1.3 2.8.10); where they end is not known. */
		le16_release(&r->packed.device->flags, VRING_PACKED_EVENT_FLAG_ENABLE);
	} else if (r->event_idx) {
		end = le16_relaxed(&r->split.avail->idx);
		le16_store(split_avail_event(r), end);
	} else {
		le16_store(&r->split.used->flags, 0);
	}
	if (r->log)
		ring_log_kicks(r);
	/* As in ring_kicks_on(): the wish, then one more look. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return r->layout == RING_PACKED || !r->event_idx ||
	       end == le16_relaxed(&r->split.avail->idx);
}

void ring_ahead_kicks_off(struct ring *r)
{
	if (r->layout == RING_SPLIT)
		ring_kicks_off(r, RING_SPLIT);
	else
		ring_kicks_off(r, RING_PACKED);
}

bool ring_ahead_kicks_on(struct ring *r, const struct ring_ahead *a)
{
	if (r->broken)
		return true;
	r->kicks_wanted = true;
	counter_add(&r->stats.kicks_on, 1);
	if (kicks_for_next(r) && !ahead_has_work(r, a))
		return true;
	ring_ahead_kicks_off(r);
	return false;
}
