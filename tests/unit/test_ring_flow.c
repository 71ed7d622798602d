/* SPDX-License-Identifier: Apache-2.0 */
/* Chains there and back, with an honest driver (virtio 1.3, 2.7.13, 2.7.14, 2.8.21, 2.8.22). */
#include "tests/unit/ring_pair.h"

static uint32_t lcg_state = 1;

static uint32_t rnd(uint32_t below)
{
	lcg_state = lcg_state * 1664525 + 1013904223;
	return (lcg_state >> 8) % below;
}

RING_TEST(ring_flow, chain_holds_the_drivers_segments_in_order)
{
	uint64_t gpa = pair_alloc(p, 4096);
	struct driver_seg segs[] = {
		{ gpa, 16 }, { gpa + 100, 1 }, { NEXT_GPA, 512 }, { gpa + 1000, 7 }
	};
	struct driver_used u;
	const struct chain *c = &p->chains[0];

	cr_assert_eq(drv_add(p, segs, 2, 2, 42), 0);
	cr_assert_eq(dev_pop(p, 8), 0, "the driver has not published it yet");
	drv_publish(p);
	cr_assert(dev_has_work(p));
	cr_assert_eq(dev_pop(p, 8), 1);
	cr_assert_not(dev_has_work(p));
	cr_assert_eq(c->n_out, 2);
	cr_assert_eq(c->n_in, 2);
	cr_assert_eq(c->out_len, 17);
	cr_assert_eq(c->in_len, 519);
	for (unsigned i = 0; i < 4; i++) {
		cr_expect_eq(c->segs[i].iov_base, pair_host(p, segs[i].gpa), "segment %u", i);
		cr_expect_eq(c->segs[i].iov_len, segs[i].len, "segment %u", i);
	}
	dev_push(p, c, 519);
	cr_assert_not(drv_poll(p, &u), "the device has not published it yet");
	dev_publish(p);
	cr_assert(drv_poll(p, &u));
	cr_assert_eq((uintptr_t)u.cookie, 42);
	cr_assert_eq(u.len, 519);
	cr_assert_not(drv_poll(p, &u));
	cr_assert_eq(p->r.in_flight, 0);
}

/* A chain of the flow below: a number goes out in pieces, and comes back in pieces, negated. */
struct job {
	uint64_t gpa; /* 16 bytes out, 16 bytes in */
	uint32_t number;
	bool busy;
};

#define FLOW_SIZE 64

struct flow {
	struct pair *p;
	struct job jobs[FLOW_SIZE];
	struct chain held[FLOW_SIZE]; /* popped, not pushed */
	struct iovec held_segs[FLOW_SIZE][8];
	unsigned n_held;
	uint32_t sent, back;
};

static unsigned cut(struct driver_seg *segs, uint64_t gpa, uint32_t bytes)
{
	unsigned n = 1 + rnd(3);

	for (unsigned i = 0; i < n; i++) {
		uint32_t len = i + 1 == n ? bytes : 1 + rnd(bytes - (n - i));

		segs[i] = (struct driver_seg) { gpa, len };
		gpa += len;
		bytes -= len;
	}
	return n;
}

static bool flow_send(struct flow *f)
{
	struct driver_seg segs[8];
	unsigned n_out, n_in;
	struct job *j;

	for (j = f->jobs; j->busy; j++)
		if (j == &f->jobs[FLOW_SIZE - 1])
			return false;
	n_out = cut(segs, j->gpa, 16);
	n_in = cut(segs + n_out, j->gpa + 16, 16);
	if (drv_add(f->p, segs, n_out, n_in, j - f->jobs))
		return false;
	j->busy = true;
	j->number = f->sent++;
	memset(pair_host(f->p, j->gpa), 0, 32);
	memcpy(pair_host(f->p, j->gpa), &j->number, sizeof(j->number));
	return true;
}

static void flow_take(struct flow *f, unsigned max)
{
	unsigned n = dev_pop(f->p, max);

	for (unsigned i = 0; i < n; i++) {
		unsigned at = f->n_held++;

		cr_assert_lt(at, FLOW_SIZE, "more in flight than the queue size");
		f->held[at] = f->p->chains[i];
		memcpy(f->held_segs[at], f->p->chains[i].segs,
		       (f->held[at].n_out + f->held[at].n_in) * sizeof(struct iovec));
		f->held[at].segs = f->held_segs[at];
	}
	cr_assert_eq(f->p->r.in_flight, f->n_held);
}

static void gather(const struct iovec *segs, unsigned n, uint8_t *out)
{
	for (unsigned i = 0; i < n; out += segs[i].iov_len, i++)
		memcpy(out, segs[i].iov_base, segs[i].iov_len);
}

static void scatter(const struct iovec *segs, unsigned n, const uint8_t *in)
{
	for (unsigned i = 0; i < n; in += segs[i].iov_len, i++)
		memcpy(segs[i].iov_base, in, segs[i].iov_len);
}

/* Gives back one held chain, any one: completion is out of order. */
static void flow_give(struct flow *f)
{
	unsigned at = rnd(f->n_held);
	struct chain *c = &f->held[at];
	uint8_t bytes[16];
	uint32_t number;

	cr_assert_eq(c->out_len, 16);
	cr_assert_eq(c->in_len, 16);
	gather(c->segs, c->n_out, bytes);
	memcpy(&number, bytes, sizeof(number));
	number = ~number;
	memcpy(bytes, &number, sizeof(number));
	scatter(c->segs + c->n_out, c->n_in, bytes);
	dev_push(f->p, c, 16);
	f->n_held--;
	if (at != f->n_held) {
		f->held[at] = f->held[f->n_held];
		memcpy(f->held_segs[at], f->held_segs[f->n_held], sizeof(f->held_segs[at]));
		f->held[at].segs = f->held_segs[at];
	}
}

static void flow_receive(struct flow *f)
{
	struct driver_used u;

	while (drv_poll(f->p, &u)) {
		struct job *j = &f->jobs[(uintptr_t)u.cookie];
		uint32_t answer;

		memcpy(&answer, pair_host(f->p, j->gpa + 16), sizeof(answer));
		cr_assert(j->busy);
		cr_assert_eq(answer, ~j->number);
		cr_assert_eq(u.len, 16);
		j->busy = false;
		f->back++;
	}
	cr_assert_null(driver_violation(&f->p->d), "%s", driver_violation(&f->p->d));
}

/* 70,000 chains: past the wrap of every 16-bit index, in random batches, out of order. */
RING_TEST(ring_flow, indices_wrap_with_out_of_order_batches)
{
	struct flow *f = calloc(1, sizeof(*f));

	cr_assert_not_null(f);
	pair_ring(p, FLOW_SIZE, driver_base_start(p->kind.layout));
	f->p = p;
	for (unsigned i = 0; i < FLOW_SIZE; i++)
		f->jobs[i].gpa = pair_alloc(p, 32);
	while (f->back < 70000) {
		for (unsigned n = rnd(20); n > 0 && f->sent < 70000 && flow_send(f); n--)
			;
		drv_publish(p);
		flow_take(f, rnd(40));
		for (unsigned n = rnd(20); n > 0 && f->n_held; n--)
			flow_give(f);
		dev_publish(p);
		dev_call(p);
		flow_receive(f);
	}
	cr_assert_eq(f->sent, 70000);
	cr_assert_eq(counter_read(&p->r.stats.popped), 70000);
	cr_assert_eq(counter_read(&p->r.stats.pushed), 70000);
	cr_assert_eq(p->r.in_flight, 0);
	free(f);
}

RING_TEST(ring_flow, pop_takes_no_more_than_asked_and_keeps_the_order)
{
	for (unsigned i = 0; i < 10; i++)
		drv_send_one(p, i);
	cr_assert_eq(dev_pop(p, 4), 4);
	cr_assert_eq(p->r.in_flight, 4);
	for (unsigned i = 0; i < 4; i++)
		dev_push(p, &p->chains[i], 0);
	cr_assert_eq(dev_pop(p, 32), 6);
	for (unsigned i = 0; i < 6; i++)
		dev_push(p, &p->chains[i], 0);
	dev_publish(p);
	for (uintptr_t i = 0; i < 10; i++) {
		struct driver_used u;

		cr_assert(drv_poll(p, &u));
		cr_assert_eq((uintptr_t)u.cookie, i);
	}
}

RING_TEST(ring_flow, pop_stops_where_the_segments_might_not_do)
{
	uint64_t gpa = pair_alloc(p, 64);
	struct driver_seg segs[5];
	struct driver_used u;

	for (unsigned i = 0; i < 5; i++)
		segs[i] = (struct driver_seg) { gpa + i, 1 };
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(drv_add(p, segs, 5, 0, i), 0);
	drv_publish(p);
	/* Two and a half chains fit: two come, the third comes whole at the next pop. */
	cr_assert_eq(dev_pop_into(p, 8, 12), 2);
	cr_assert_null(p->r.broken);
	for (unsigned i = 0; i < 2; i++)
		dev_push(p, &p->chains[i], 0);
	cr_assert_eq(dev_pop_into(p, 8, 12), 1);
	cr_assert_eq(p->chains[0].n_out, 5);
	cr_assert_eq(p->chains[0].out_len, 5);
	dev_push(p, &p->chains[0], 0);
	dev_publish(p);
	for (uintptr_t i = 0; i < 3; i++) {
		cr_assert(drv_poll(p, &u));
		cr_assert_eq((uintptr_t)u.cookie, i);
	}
}

static void dev_unpop(struct pair *p, unsigned first, unsigned n)
{
	if (p->r.layout == RING_SPLIT)
		ring_unpop(&p->r, RING_SPLIT, p->chains + first, n);
	else
		ring_unpop(&p->r, RING_PACKED, p->chains + first, n);
}

RING_TEST(ring_flow, unpop_is_as_if_never_popped)
{
	struct driver_used u;

	/* Across the end of the ring: begin 3 before it. */
	pair_cycle(p, PAIR_SIZE - 3);
	for (unsigned i = 0; i < 8; i++)
		drv_send_one(p, i);
	for (unsigned keep = 0; keep <= 6; keep++) {
		uint64_t popped = counter_read(&p->r.stats.popped);
		uint16_t id;

		cr_assert_eq(dev_pop(p, 6), 6);
		id = p->chains[keep % 6].id;
		dev_unpop(p, keep, 6 - keep);
		cr_assert_eq(p->r.in_flight, keep);
		cr_assert_eq(counter_read(&p->r.stats.popped), popped + keep);
		if (keep < 6) {
			struct chain kept[6];

			memcpy(kept, p->chains, sizeof(kept));
			cr_assert_eq(dev_pop(p, 1), 1);
			cr_assert_eq(p->chains[0].id, id, "the first that was put back is next");
			dev_unpop(p, 0, 1);
			memcpy(p->chains, kept, sizeof(kept));
		}
		dev_unpop(p, 0, keep);
		cr_assert_eq(p->r.in_flight, 0);
	}
	cr_assert_eq(dev_pop(p, 32), 8);
	for (unsigned i = 0; i < 8; i++)
		dev_push(p, &p->chains[i], 0);
	dev_publish(p);
	for (uintptr_t i = 0; i < 8; i++) {
		cr_assert(drv_poll(p, &u));
		cr_assert_eq((uintptr_t)u.cookie, i);
	}
}

RING_TEST(ring_flow, full_ring_goes_round_and_round)
{
	struct driver_used u;

	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < PAIR_SIZE; i++)
			drv_send_one(p, i);
		cr_assert_eq(drv_add(p, &(struct driver_seg) { NEXT_GPA, 1 }, 1, 0, 0), -ENOSPC);
		cr_assert_eq(dev_pop(p, 2 * PAIR_SIZE), PAIR_SIZE);
		cr_assert_eq(p->r.in_flight, PAIR_SIZE);
		cr_assert_eq(dev_pop(p, 1), 0);
		for (unsigned i = PAIR_SIZE; i-- > 0;)
			dev_push(p, &p->chains[i], 0);
		dev_publish(p);
		for (unsigned i = 0; i < PAIR_SIZE; i++)
			cr_assert(drv_poll(p, &u));
	}
}

/* Only the used ring is the device's to write: 2.7.6, 2.7.8. */
RING_TEST(ring_flow, device_writes_nothing_but_its_own_areas)
{
	uint32_t desc_bytes = 16 * PAIR_SIZE;
	uint64_t gpa = pair_alloc(p, 64);
	struct driver_seg segs[] = { { gpa, 8 }, { gpa + 8, 8 } };
	uint8_t *before = malloc(MAIN_BYTES);
	uint8_t *now = p->map->region[MAIN].host;
	uint64_t device_at = (uint8_t *)driver_device_area(&p->d) - now;
	uint64_t device_bytes = ring_device_bytes(p->r.layout, PAIR_SIZE, p->kind.event_idx);

	cr_assert_not_null(before);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(drv_add(p, segs, 1, 1, i), 0);
	drv_publish(p);
	memcpy(before, now, MAIN_BYTES);
	dev_kicks_on(p);
	cr_assert_eq(dev_pop(p, 8), 3);
	for (unsigned i = 0; i < 3; i++)
		dev_push(p, &p->chains[i], 8);
	dev_publish(p);
	dev_call(p);
	dev_kicks_on(p);
	for (uint64_t i = 0; i < MAIN_BYTES; i++) {
		bool device_area = i >= device_at && i < device_at + device_bytes;
		bool packed_desc = !PAIR_SPLIT(p) && i < desc_bytes;

		if (!device_area && !packed_desc)
			cr_assert_eq(now[i], before[i], "byte %#llx of memory was changed",
				     (unsigned long long)i);
	}
	free(before);
	for (struct driver_used u; drv_poll(p, &u);)
		cr_assert_eq(u.len, 8);
}
