/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drivers whose chains are none: indices out of range, loops, too many, too long. Each breaks its
 * ring, for the right reason, and nothing else; and what a broken ring is.
 */
#include "tests/unit/ring_raw.h"

RING_TEST(ring_chains, readable_after_writable_breaks_2_7_4_2)
{
	BREAKS(p, "device-readable", { MAIN_GPA, 8, NEXT_F | WRITE_F, 0 }, { MAIN_GPA, 8, 0, 0 });
	BREAKS(p, "device-readable", { MAIN_GPA, 8, NEXT_F, 0 },
	       { MAIN_GPA, 8, NEXT_F | WRITE_F, 0 }, { MAIN_GPA, 8, 0, 0 });
}

RING_TEST(ring_chains, head_or_id_outside_the_queue_breaks_T3)
{
	const uint16_t bad[] = { PAIR_SIZE, PAIR_SIZE + 1, 0x7fff, 0x8000, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		mend(p);
		offer(p, &(struct raw) { MAIN_GPA, 8, 0, 0 }, 1);
		if (PAIR_SPLIT(p))
			p->d.split.avail->ring[0] = bad[i];
		else
			p->d.packed.desc[0].id = bad[i];
		assert_broken(p, "outside the queue");
	}
}

RING_TEST_FOR(RING_SPLIT_CASES, ring_chains, next_outside_the_table_breaks_T3)
{
	const int bad[] = { PAIR_SIZE, 0x7fff, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		BREAKS(p, "outside the", { MAIN_GPA, 8, NEXT_F, bad[i] });
}

/* Within an indirect table the bound is its own length, not the ring's. */
RING_TEST_FOR(RING_SPLIT_INDIRECT_CASES, ring_chains, next_outside_a_short_table_breaks_T3)
{
	struct raw raws[] = { { MAIN_GPA, 8, NEXT_F, 2 },
			      { MAIN_GPA, 8, 0, 0 },
			      { MAIN_GPA, 8, 0, 0 } };
	struct raw table = { .len = 32, .flags = INDIRECT_F };

	table.gpa = put_table(p, raws, 3);
	offer(p, &table, 1);
	assert_broken(p, "outside the indirect table");
}

RING_TEST_FOR(RING_SPLIT_CASES, ring_chains, avail_index_that_jumps_breaks_T3)
{
	const uint16_t jumps[] = { PAIR_SIZE + 1, 2 * PAIR_SIZE, 0x8000, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(jumps); i++) {
		mend(p);
		offer(p, &(struct raw) { MAIN_GPA, 8, 0, 0 }, 1);
		p->d.split.avail->idx = jumps[i];
		assert_broken(p, "more chains available");
	}
}

RING_TEST_FOR(RING_INDIRECT_CASES, ring_chains, indirect_table_of_odd_length_breaks_T3)
{
	const uint32_t bad[] = { 0, 1, 15, 17, 31, 0xffffffff };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct raw table = { MAIN_GPA + 65536, bad[i], INDIRECT_F, 0 };

		mend(p);
		offer(p, &table, 1);
		assert_broken(p, "not a multiple of 16");
	}
	for (uint32_t len = 16 * (RING_SIZE_MAX + 1); len; len = len < 0x80000000 ? 2 * len : 0) {
		struct raw table = { HUGE_GPA, len, INDIRECT_F, 0 };

		mend(p);
		offer(p, &table, 1);
		assert_broken(p, "more than 32768");
	}
}

RING_TEST_FOR(RING_INDIRECT_CASES, ring_chains, nested_indirect_table_breaks_T3)
{
	struct raw inner = { MAIN_GPA, 8, 0, 0 };
	struct raw table = { .len = 16, .flags = INDIRECT_F };

	inner = (struct raw) { put_table(p, &inner, 1), 16, INDIRECT_F, 0 };
	table.gpa = put_table(p, &inner, 1);
	offer(p, &table, 1);
	assert_broken(p, "within an indirect table");
}

RING_TEST_FOR(RING_INDIRECT_CASES, ring_chains, indirect_with_next_breaks_T3)
{
	struct raw data = { MAIN_GPA, 8, 0, 0 };
	struct raw raws[2] = { { .len = 16, .flags = INDIRECT_F | NEXT_F }, data };

	raws[0].gpa = put_table(p, &data, 1);
	offer(p, raws, 2);
	assert_broken(p, "indirect descriptor with a next one");
}

RING_TEST_FOR(RING_DIRECT_CASES, ring_chains, indirect_that_was_not_negotiated_breaks_T10)
{
	struct raw data = { MAIN_GPA, 8, 0, 0 };
	struct raw table = { .len = 16, .flags = INDIRECT_F };

	table.gpa = put_table(p, &data, 1);
	offer(p, &table, 1);
	assert_broken(p, "without VIRTIO_F_INDIRECT_DESC");
}

/* Not hostile, but unusual: 2.7.5.3.2, direct descriptors and then a table. */
RING_TEST_FOR(RING_INDIRECT_CASES, ring_chains,
	      direct_descriptors_before_a_table_are_taken_2_7_5_3_2)
{
	struct raw inner[] = { { MAIN_GPA, 3, NEXT_F, 0 }, { MAIN_GPA, 4, WRITE_F, 0 } };
	struct raw raws[] = { { MAIN_GPA, 1, NEXT_F, 0 },
			      { MAIN_GPA, 2, NEXT_F, 0 },
			      { .len = 32, .flags = INDIRECT_F | WRITE_F } };

	raws[2].gpa = put_table(p, inner, 2);
	offer(p, raws, 3);
	cr_assert_eq(dev_pop(p, 1), 1);
	cr_assert_eq(p->chains[0].n_out, 3);
	cr_assert_eq(p->chains[0].out_len, 6);
	cr_assert_eq(p->chains[0].in_len, 4);
	cr_assert_eq(p->chains[0].n_slots, PAIR_SPLIT(p) ? 1 : 3);
}

RING_TEST_FOR(RING_SPLIT_CASES, ring_chains, self_loop_breaks_T4)
{
	/* Zero-length, so that only the count of steps can end it. */
	for (uint32_t len = 0; len <= 8; len += 8) {
		struct raw self = { MAIN_GPA, len, NEXT_F, 0 };
		struct raw two[] = { { MAIN_GPA, len, NEXT_F, 1 }, { MAIN_GPA, len, NEXT_F, 0 } };

		mend(p);
		offer(p, &self, 1);
		p->d.split.desc[0].next = 0;
		assert_broken(p, "loop");
		mend(p);
		offer(p, two, 2);
		p->d.split.desc[1].next = 0;
		assert_broken(p, "loop");
	}
}

RING_TEST_FOR(RING_SPLIT_INDIRECT_CASES, ring_chains, loop_in_an_indirect_table_breaks_T4)
{
	for (uint32_t len = 0; len <= 8; len += 8) {
		struct raw two[] = { { MAIN_GPA, len, NEXT_F, 1 }, { MAIN_GPA, len, NEXT_F, 0 } };
		struct raw table = { .len = 32, .flags = INDIRECT_F };
		struct vring_desc *desc;

		mend(p);
		table.gpa = put_table(p, two, 2);
		desc = pair_host(p, table.gpa);
		desc[1].next = 0;
		offer(p, &table, 1);
		assert_broken(p, "loop");
		mend(p);
		table.gpa = put_table(p, two, 2);
		desc = pair_host(p, table.gpa);
		desc[0].next = 0;
		offer(p, &table, 1);
		assert_broken(p, "loop");
	}
}

/* Every slot says that the chain goes on: all of the ring, and around. */
RING_TEST_FOR(RING_PACKED_CASES, ring_chains, packed_chain_without_end_breaks_T4)
{
	struct raw raws[PAIR_SIZE];

	for (uint32_t len = 0; len <= 8; len += 8) {
		for (unsigned i = 0; i < PAIR_SIZE; i++)
			raws[i] = (struct raw) { MAIN_GPA, len, NEXT_F, 0 };
		mend(p);
		offer(p, raws, PAIR_SIZE);
		assert_broken(p, "longer than the queue");
	}
}

RING_TEST(ring_chains, chain_as_long_as_the_queue_is_taken_T4)
{
	struct raw raws[PAIR_SIZE];

	for (unsigned i = 0; i < PAIR_SIZE; i++)
		raws[i] = (struct raw) { MAIN_GPA, 8, i + 1 < PAIR_SIZE ? NEXT_F : 0, 0 };
	offer(p, raws, PAIR_SIZE);
	cr_assert_eq(dev_pop(p, 2), 1);
	cr_assert_eq(p->chains[0].n_out, PAIR_SIZE);
}

/* As many segments as a chain may have, and one more. */
RING_TEST_FOR(RING_INDIRECT_CASES, ring_chains, chain_of_too_many_segments_breaks_T4)
{
	struct raw *raws = calloc(RING_CHAIN_SEGS_MAX + 1, sizeof(*raws));

	for (unsigned n = RING_CHAIN_SEGS_MAX; n <= RING_CHAIN_SEGS_MAX + 1; n++) {
		struct raw table = { .len = 16 * n, .flags = INDIRECT_F };

		for (unsigned i = 0; i < n; i++)
			raws[i] = (struct raw) { MAIN_GPA, 1, i + 1 < n ? NEXT_F : 0, 0 };
		mend(p);
		table.gpa = put_table(p, raws, n);
		offer(p, &table, 1);
		if (n > RING_CHAIN_SEGS_MAX) {
			assert_broken(p, "too many segments");
		} else {
			cr_assert_eq(dev_pop_into(p, 1, RING_CHAIN_SEGS_MAX), 1);
			cr_assert_eq(p->chains[0].n_out, n);
		}
	}
	free(raws);
}

/* 2.7.5.1: 2^32 bytes in all; so that out_len and in_len cannot overflow. */
RING_TEST(ring_chains, chain_of_4_gib_breaks_2_7_5_1)
{
	const uint32_t half = 1u << 31;
	struct raw fits[] = { { HUGE_GPA, half, NEXT_F, 0 }, { HUGE_GPA, half - 1, WRITE_F, 0 } };

	BREAKS(p, "4 GiB", { HUGE_GPA, half, NEXT_F, 0 }, { HUGE_GPA, half, WRITE_F, 0 });
	BREAKS(p, "4 GiB", { HUGE_GPA, UINT32_MAX, NEXT_F, 0 }, { HUGE_GPA, 1, 0, 0 });
	offer(p, fits, 2);
	cr_assert_eq(dev_pop(p, 1), 1);
	cr_assert_eq(p->chains[0].out_len, half);
	cr_assert_eq(p->chains[0].in_len, half - 1);
}

/* T9: a driver that gives more chains than the queue has entries, while none is back. */
RING_TEST(ring_chains, more_chains_in_flight_than_the_queue_size_break_T9)
{
	struct raw one = { MAIN_GPA, 8, 0, 0 };
	unsigned taken = 0;

	for (unsigned i = 0; i < PAIR_SIZE; i++)
		drv_send_one(p, i);
	taken += dev_pop(p, 2 * PAIR_SIZE);
	cr_assert_eq(taken, PAIR_SIZE);
	/* One more, over a descriptor that is in flight. */
	offer(p, &one, 1);
	p->may_break = true;
	cr_assert_eq(dev_pop(p, 1), 0);
	cr_assert_not_null(p->r.broken);
	cr_assert_not_null(strstr(p->r.broken, "more chains available"));
	cr_assert_eq(p->r.in_flight, PAIR_SIZE);
	/* What is in flight can still come back. */
	for (unsigned i = 0; i < PAIR_SIZE; i++)
		dev_push(p, &p->chains[i], 0);
	dev_publish(p);
	cr_assert_eq(p->r.in_flight, 0);
}

/* A fault in the middle of a batch takes nothing away from the chains before it. */
RING_TEST(ring_chains, chains_before_a_malformed_one_come_out)
{
	struct driver_seg good = { NEXT_GPA, 8 }, bad = { HOLE_GPA, 8 };
	struct driver_used u;

	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(drv_add(p, i == 3 ? &bad : &good, 1, 0, i), 0);
	drv_publish(p);
	cr_assert_eq(dev_pop(p, 8), 3);
	cr_assert_not_null(p->r.broken);
	p->may_break = true;
	cr_assert_eq(p->r.in_flight, 3);
	for (unsigned i = 0; i < 3; i++)
		dev_push(p, &p->chains[i], 0);
	dev_publish(p);
	for (uintptr_t i = 0; i < 3; i++) {
		cr_assert(drv_poll(p, &u));
		cr_assert_eq((uintptr_t)u.cookie, i);
	}
	cr_assert_eq(dev_pop(p, 8), 0);
}

/* Sticky: not even a chain that is in order comes out of a broken ring, until it is made anew. */
RING_TEST(ring_chains, broken_ring_stays_broken_until_made_anew)
{
	struct raw bad = { HOLE_GPA, 8, 0, 0 }, good = { MAIN_GPA, 8, 0, 0 };

	offer(p, &bad, 1);
	assert_broken(p, OUTSIDE);
	offer(p, &good, 1);
	cr_assert_eq(dev_pop(p, 1), 0);
	pair_device(p, driver_base_start(p->kind.layout));
	cr_assert_null(p->r.broken);
	cr_assert_eq(dev_pop(p, 1), 1);
}

/* Nothing more is written to it, not even that kicks are wanted. */
RING_TEST(ring_chains, broken_ring_is_left_as_it_is)
{
	uint8_t before[4];

	p->may_break = true;
	dev_kicks_off(p);
	ring_break(&p->r, "broken");
	memcpy(before, driver_device_area(&p->d), sizeof(before));
	cr_assert(dev_kicks_on(p), "there is nothing to wait for");
	cr_assert(!p->r.kicks_wanted);
	cr_assert_eq(memcmp(before, driver_device_area(&p->d), sizeof(before)), 0);
}

/* The first reason is the cause; the front-end hears of it once. */
RING_TEST(ring_chains, ring_breaks_once)
{
	eventfd_t count = 0;

	p->may_break = true;
	ring_break(&p->r, "first");
	ring_break(&p->r, "second");
	cr_assert_str_eq(p->r.broken, "first");
	cr_assert_eq(eventfd_read(p->err_fd, &count), 0);
	cr_assert_eq(count, 1);
}
