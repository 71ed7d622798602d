/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VIRTIO_F_IN_ORDER (virtio 1.3 2.7.9, 2.8.8) for a device that completes chains in any order, and
 * what a front-end's in-flight buffer may say (vhost-user "Inflight I/O tracking"): class T12.
 */
#include "tests/unit/ring_pair.h"
#include "vhost/ring_track.h"

static void track(struct pair *p, bool in_order, void *region)
{
	p->r.track = ring_track_new(p->r.layout, p->r.size, in_order, region);
	cr_assert_not_null(p->r.track);
	p->d.in_order = in_order;
}

static unsigned reap(struct pair *p)
{
	struct driver_used u;
	unsigned n = 0;

	while (drv_poll(p, &u))
		n++;
	cr_assert_null(driver_violation(&p->d), "%s", driver_violation(&p->d));
	return n;
}

RING_TEST(ring_order, what_is_pushed_early_waits_for_its_turn_2_7_9_2_8_8)
{
	track(p, true, NULL);
	for (unsigned i = 0; i < 4; i++)
		drv_send_one(p, i);
	cr_assert_eq(dev_pop(p, 4), 4u);
	dev_push(p, &p->chains[3], 0);
	dev_push(p, &p->chains[1], 0);
	dev_publish(p);
	cr_assert_not(dev_call(p), "nothing was shown, so nobody is to be called");
	cr_assert_eq(reap(p), 0u);
	dev_push(p, &p->chains[0], 0);
	dev_publish(p);
	cr_assert_eq(reap(p), 2u); /* 0 and 1 */
	dev_push(p, &p->chains[2], 0);
	dev_publish(p);
	cr_assert_eq(reap(p), 2u);
	cr_assert_eq(p->r.in_flight, 0u);
	cr_assert_eq(p->r.track->busy, 0u);
	ring_track_free(p->r.track);
}

/* All orders there are, by chance; the driver checks each used entry. */
RING_TEST(ring_order, any_order_of_completion_comes_out_in_order)
{
	struct chain held[PAIR_SIZE];
	unsigned n_held = 0, sent = 0, back = 0;
	uint32_t x = 4711;

	track(p, true, NULL);
	while (back < 5000) {
		const struct driver_seg segs[] = { { NEXT_GPA, 64 }, { NEXT_GPA + 64, 64 } };
		unsigned n;

		while (sent < 5000 && drv_add(p, segs, 1, sent & 1, sent) == 0)
			sent++;
		drv_publish(p);
		n = dev_pop(p, PAIR_SIZE - n_held);
		memcpy(held + n_held, p->chains, n * sizeof(*held));
		n_held += n;
		for (unsigned i = 0; i < 3 && n_held; i++) {
			x = x * 1664525 + 1013904223;
			n = (x >> 16) % n_held;
			dev_push(p, &held[n], held[n].in_len);
			held[n] = held[--n_held];
		}
		dev_publish(p);
		back += reap(p);
	}
	ring_track_free(p->r.track);
}

/* T9, T20: a driver that gives a chain away twice cannot make the table hold more than the ring. */
RING_TEST_FOR(RING_DIRECT_CASES, ring_order, a_chain_in_flight_twice_breaks_the_ring)
{
	p->may_break = true;
	track(p, true, NULL);
	drv_send_one(p, 0);
	drv_send_one(p, 1);
	if (PAIR_SPLIT(p))
		p->d.split.avail->ring[1] = p->d.split.avail->ring[0];
	else
		p->d.packed.desc[1].id = p->d.packed.desc[0].id;
	cr_assert_eq(dev_pop(p, 4), 1u);
	cr_assert_not_null(p->r.broken);
	dev_push(p, &p->chains[0], 0);
	dev_publish(p);
	ring_track_free(p->r.track);
}

/* A region on the heap, exactly as long as it has to be, so that ASan sees a step beyond. */
static void *new_region(struct pair *p)
{
	size_t n = p->d.size;

	return calloc(1, PAIR_SPLIT(p) ? sizeof(struct inflight_split) +
						 n * sizeof(struct inflight_split_desc)
				       : sizeof(struct inflight_packed) +
						 n * sizeof(struct inflight_packed_desc));
}

/* Three chains in flight in a region that is in order; the ring is made anew after that. */
static void *three_in_flight(struct pair *p)
{
	const struct driver_seg segs[] = { { NEXT_GPA, 64 }, { NEXT_GPA + 64, 64 } };
	void *region = new_region(p);

	track(p, false, region);
	cr_assert_null(ring_recover(&p->r));
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(drv_add(p, segs, 1, 1, i), 0);
	drv_publish(p);
	cr_assert_eq(dev_pop(p, 4), 4u);
	dev_push(p, &p->chains[1], 64);
	dev_publish(p);
	cr_assert_eq(reap(p), 1u);
	ring_track_free(p->r.track);
	memset(&p->r, 0, sizeof(p->r));
	pair_device(p, driver_base_start(p->kind.layout));
	track(p, false, region);
	return region;
}

static void end(struct pair *p, void *region)
{
	ring_track_free(p->r.track);
	free(region);
}

RING_TEST(inflight, chains_in_flight_are_popped_again_in_their_order_and_before_new_ones)
{
	void *region = three_in_flight(p);

	cr_assert_null(ring_recover(&p->r));
	cr_assert_eq(p->r.n_again, 3u);
	cr_assert(dev_has_work(p));
	drv_send_one(p, 9);
	cr_assert_eq(dev_pop(p, 2), 2u);
	cr_assert_eq(dev_pop_into(p, 32, 1), 0u, "no room for two segments");
	p->may_break = true;
	end(p, region);
}

RING_TEST(inflight, they_come_back_once)
{
	void *region = three_in_flight(p);
	unsigned n;

	cr_assert_null(ring_recover(&p->r));
	drv_send_one(p, 9);
	n = dev_pop(p, 32);
	cr_assert_eq(n, 3u, "those alone, since a ring that stops takes no others");
	while (n)
		dev_push(p, &p->chains[--n], 0);
	dev_publish(p);
	cr_assert_eq(reap(p), 3u);
	cr_assert_not(ring_unfinished(&p->r));
	cr_assert_eq(dev_pop(p, 32), 1u);
	dev_push(p, &p->chains[0], 0);
	dev_publish(p);
	cr_assert_eq(reap(p), 1u);
	cr_assert_eq(counter_read(&p->r.stats.again), 3u);
	end(p, region);
}

#define LARGEST 32768u /* virtio 1.3 2.7, 2.8.10.1 */

/* Gives the whole of the largest ring away, from shortly before its end, and has it popped. */
static struct chain *largest_ring_in_flight(struct pair *p, bool in_order, void **region)
{
	static const struct driver_seg segs[] = { { NEXT_GPA, 64 }, { NEXT_GPA + 64, 64 } };
	bool table = p->kind.indirect != DRIVER_DIRECT;
	struct chain *all = calloc(LARGEST, sizeof(*all));

	cr_assert_not_null(all);
	p->table_segs = 2;
	pair_ring(p, LARGEST, PAIR_SPLIT(p) ? 65530 : 0xfffafffa);
	if (region)
		*region = new_region(p);
	track(p, in_order, region ? *region : NULL);
	if (region)
		cr_assert_null(ring_recover(&p->r));
	for (uintptr_t i = 0; i < LARGEST; i++)
		cr_assert_eq(drv_add(p, segs, 1, table, i), 0);
	drv_publish(p);
	for (unsigned at = 0; at < LARGEST; at += 256) {
		cr_assert_eq(dev_pop(p, 256), 256u);
		memcpy(all + at, p->chains, 256 * sizeof(*all));
	}
	cr_assert_eq(dev_pop(p, 256), 0u);
	return all;
}

/* What is due. */
static void reap_all(struct pair *p)
{
	struct driver_used u;

	for (uintptr_t i = 0; i < LARGEST; i++) {
		cr_assert(drv_poll(p, &u), "chain %zu: %s", i, driver_violation(&p->d));
		cr_assert_eq((uintptr_t)u.cookie, i);
	}
	cr_assert_eq(p->d.outstanding, 0u);
	pair_cycle(p, 10);
}

/* All but the first are held; then all of them are shown at once. */
RING_TEST_FOR(RING_NO_EVENT_CASES, ring_order, the_largest_ring_waits_for_its_first_chain)
{
	struct chain *all = largest_ring_in_flight(p, true, NULL);

	for (unsigned i = LARGEST; i-- > 1;)
		dev_push(p, &all[i], 0);
	dev_publish(p);
	cr_assert_eq(reap(p), 0u);
	cr_assert_eq(p->r.in_flight, LARGEST);
	dev_push(p, &all[0], 0);
	dev_publish(p);
	cr_assert_eq(p->r.in_flight, 0u);
	reap_all(p);
	ring_track_free(p->r.track);
	free(all);
}

static void next_back_end(struct pair *p, bool in_order, void *region)
{
	ring_track_free(p->r.track);
	memset(&p->r, 0, sizeof(p->r));
	pair_device(p, driver_base_start(p->kind.layout));
	track(p, in_order, region);
	cr_assert_null(ring_recover(&p->r));
}

/* A batch as long as the ring was shown, and none of it is crossed out yet. */
static void not_crossed_out(struct inflight_split *region, uint16_t used_idx)
{
	region->used_idx = used_idx;
	for (unsigned i = 0; i < LARGEST; i++)
		region->desc[i].inflight = 1;
}

static void largest_ring_is_recovered(struct pair *p, bool in_order)
{
	void *region;
	struct chain *all = largest_ring_in_flight(p, in_order, &region);

	/* The last ones are done; with IN_ORDER that is not to be seen, and they are done again. */
	for (unsigned i = LARGEST; in_order && i-- > LARGEST / 2;)
		dev_push(p, &all[i], 0);
	dev_publish(p);
	next_back_end(p, in_order, region);
	cr_assert_eq(p->r.n_again, LARGEST);
	for (unsigned at = 0; at < LARGEST; at += 256) {
		cr_assert_eq(dev_pop(p, 256), 256u);
		for (unsigned i = 0; i < 256; i++) {
			cr_assert_eq(p->chains[i].id, all[at + i].id, "in another order");
			cr_assert_eq(p->chains[i].n_slots, all[at + i].n_slots);
		}
	}
	cr_assert_eq(dev_pop(p, 256), 0u);
	for (unsigned i = 0; i < LARGEST; i++)
		dev_push(p, &all[i], 0);
	dev_publish(p);
	cr_assert_null(p->r.broken, "%s", p->r.broken);
	if (PAIR_SPLIT(p))
		not_crossed_out(region, 65530);
	next_back_end(p, in_order, region);
	cr_assert_eq(p->r.n_again, 0u);
	reap_all(p);
	free(all);
	end(p, region);
}

RING_TEST_FOR(RING_NO_EVENT_CASES, inflight, the_largest_ring_is_recovered_whole)
{
	largest_ring_is_recovered(p, false);
}

RING_TEST_FOR(RING_NO_EVENT_CASES, inflight, the_largest_ring_is_recovered_whole_and_in_order)
{
	largest_ring_is_recovered(p, true);
}

/* The counters of what is in flight in @region, in the order of its entries. */
static void counters(struct pair *p, void *region, uint64_t *of[3])
{
	unsigned n = 0;

	for (unsigned i = 0; i < PAIR_SIZE && n < 3; i++) {
		struct inflight_split_desc *s = &((struct inflight_split *)region)->desc[i];
		struct inflight_packed_desc *k = &((struct inflight_packed *)region)->desc[i];

		if (PAIR_SPLIT(p) ? s->inflight : k->inflight)
			of[n++] = PAIR_SPLIT(p) ? &s->counter : &k->counter;
	}
	cr_assert_eq(n, 3u);
}

/* vhost-user "Inflight I/O tracking": whatever their ids are; and by these where two are the same.
 */
RING_TEST(inflight, they_come_in_the_order_of_their_counters)
{
	const uint64_t told[][3] = { { 9, 8, 7 }, { UINT64_MAX, UINT64_MAX, UINT64_MAX } };

	for (unsigned i = 0; i < ARRAY_SIZE(told); i++) {
		void *region;
		uint64_t *of[3];

		pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
		region = three_in_flight(p);
		counters(p, region, of);
		for (unsigned k = 0; k < 3; k++)
			*of[k] = told[i][k];
		cr_assert_null(ring_recover(&p->r));
		cr_assert_eq(dev_pop(p, 3), 3u);
		for (unsigned k = 1; k < 3; k++)
			cr_assert_eq(p->chains[k - 1].id > p->chains[k].id, i == 0);
		end(p, region);
	}
	pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
}

/* Which entries are free is found out anew; wherever that list leads, it ends. */
RING_TEST_FOR(RING_PACKED_PLAIN, inflight,
	      a_list_of_free_entries_that_leads_astray_does_no_harm_T12)
{
	const uint16_t nexts[] = { PAIR_SIZE, PAIR_SIZE + 1, 0xffff, 2, PAIR_SIZE - 1 };

	for (unsigned i = 0; i < ARRAY_SIZE(nexts); i++) {
		struct inflight_packed *region;

		pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
		region = three_in_flight(p);
		cr_assert_eq(region->free_head, 2u);
		region->desc[3].next = nexts[i];
		cr_assert_null(ring_recover(&p->r));
		cr_assert_eq(p->r.n_again, 3u);
		cr_assert_eq(p->r.track->n_free, PAIR_SIZE - 3u * 2);
		end(p, region);
	}
	pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
}

/* The table that is written down was legal when it was popped; what stands there now need not be.
 */
RING_TEST_FOR(RING_PACKED_PLAIN, inflight, an_indirect_table_out_of_the_buffer_is_checked_as_one_T3)
{
	struct inflight_packed *region = three_in_flight(p);

	region->desc[0].flags |= VRING_DESC_F_INDIRECT;
	cr_assert_null(ring_recover(&p->r));
	cr_assert_eq(dev_pop(p, 3), 0u);
	cr_assert_str_eq(p->r.broken, "indirect descriptor without VIRTIO_F_INDIRECT_DESC");
	p->may_break = true;
	end(p, region);
}

/* The buffer has an entry for each slot: a driver that gives more of them away than there are. */
RING_TEST_FOR(RING_PACKED_PLAIN, inflight, slots_made_available_twice_break_the_ring_T9)
{
	const struct driver_seg segs[] = { { NEXT_GPA, 64 }, { NEXT_GPA + 64, 64 } };
	void *region = new_region(p);
	struct vring_packed_desc *d;

	track(p, false, region);
	cr_assert_null(ring_recover(&p->r));
	for (unsigned i = 0; i < PAIR_SIZE / 2; i++)
		cr_assert_eq(drv_add(p, segs, 1, 1, i), 0);
	drv_publish(p);
	cr_assert_eq(dev_pop(p, PAIR_SIZE), PAIR_SIZE / 2);
	/* Slot 0 once more, in the ring's next turn, as a chain with an id of its own. */
	d = driver_desc_area(&p->d);
	d->addr = NEXT_GPA;
	d->len = 64;
	d->id = PAIR_SIZE - 1;
	d->flags = p->r.avail_wrap ? PACKED_F_AVAIL : PACKED_F_USED;
	cr_assert_eq(dev_pop(p, 1), 0u);
	cr_assert_str_eq(p->r.broken, "more descriptors available than the queue has");
	p->may_break = true;
	end(p, region);
}

/* Each of these is refused, and not a byte beyond the region is touched. */
RING_TEST_FOR(RING_NO_EVENT_CASES, inflight, a_buffer_that_contradicts_itself_is_refused_T12)
{
	enum {
		VERSION,
		DESC_NUM,
		USED_IDX,
		HEAD,
		LINK,
		PACKED_ONLY,
		OLD_USED,
		OLD_FREE,
		NUM_ZERO,
		NUM_HUGE,
		ID_HUGE,
		ID_TWICE,
		OVERLAP,
		N_LIES
	};

	for (int lie = 0; lie < (PAIR_SPLIT(p) ? PACKED_ONLY : N_LIES); lie++) {
		struct inflight_split *s;
		struct inflight_packed *k;
		struct inflight_packed_desc *e, *other;

		if (lie == PACKED_ONLY)
			continue;
		pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
		s = three_in_flight(p);
		k = (void *)s;
		e = &k->desc[0];
		other = &k->desc[e->num];
		while (!PAIR_SPLIT(p) && !other->inflight)
			other++;
		switch (lie) {
		case VERSION:
			s->version = 2;
			break;
		case DESC_NUM:
			s->desc_num = PAIR_SIZE * 2;
			break;
		case USED_IDX:
			*(PAIR_SPLIT(p) ? &s->used_idx : &k->used_idx) = 40000;
			break;
		case HEAD:
			*(PAIR_SPLIT(p) ? &s->last_batch_head : &k->free_head) = 60000;
			break;
		case LINK:
			if (PAIR_SPLIT(p)) {
				s->used_idx -= 2; /* a batch of two, the second of which is … */
				s->desc[s->last_batch_head].next = PAIR_SIZE;
			} else if (e->num > 1) {
				e->next = PAIR_SIZE;
			} else {
				e->num = PAIR_SIZE + 1;
			}
			break;
		case OLD_USED:
			k->old_used_idx = PAIR_SIZE;
			break;
		case OLD_FREE:
			k->old_free_head = PAIR_SIZE + 1;
			break;
		case NUM_ZERO:
			e->num = 0;
			break;
		case NUM_HUGE:
			e->num = 65535;
			break;
		case ID_HUGE:
			k->desc[e->last].id = PAIR_SIZE;
			break;
		case ID_TWICE:
			k->desc[other->last].id = k->desc[e->last].id;
			break;
		case OVERLAP:
			e->num = 2;
			e->next = (uint16_t)(other - k->desc);
			break;
		}
		cr_assert_not_null(ring_recover(&p->r), "lie %d is believed", lie);
		end(p, s);
	}
}

/* Anything at all: refused, or recovered into a ring that can be worked. */
RING_TEST_FOR(RING_NO_EVENT_CASES, inflight, random_buffers_do_no_harm_T12)
{
	uint32_t x = 1;
	unsigned believed = 0;

	p->map->region[HUGE].size = 0; /* not to be read, and a table may lie there */
	for (unsigned round = 0; round < 3000; round++) {
		uint8_t *region;
		unsigned n;

		pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
		region = three_in_flight(p);
		for (unsigned i = 0; i < 1 + round % 7; i++) {
			x = x * 1664525 + 1013904223;
			/* Not version and size, which would hide the rest. */
			region[12 + (x >> 8) % (PAIR_SPLIT(p) ? 16 * PAIR_SIZE : 32 * PAIR_SIZE)] =
				(uint8_t)(x >> 24) & (round & 1 ? 0xff : 0x0f);
		}
		if (!ring_recover(&p->r)) {
			believed++;
			n = dev_pop(p, 32);
			while (n)
				dev_push(p, &p->chains[--n], 0);
			dev_publish(p);
		}
		end(p, region);
	}
	cr_assert_geq(believed, 100u);
	pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
	p->may_break = true;
}
