/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drivers whose descriptors and tables lie where they should not, or are empty: each breaks its
 * ring, for the right reason, and nothing else.
 */
#include "tests/unit/ring_raw.h"

RING_TEST(ring_hostile, unmapped_descriptor_breaks_T1)
{
	BREAKS(p, OUTSIDE, { HOLE_GPA, 1, 0, 0 });
	BREAKS(p, OUTSIDE, { 0, 1, 0, 0 });
	BREAKS(p, OUTSIDE, { 0, 4096, WRITE_F, 0 });
	BREAKS(p, OUTSIDE, { UINT64_MAX, 1, 0, 0 });
	BREAKS(p, OUTSIDE, { MAIN_GPA - 1, 1, WRITE_F, 0 });
	/* The second of a chain. */
	BREAKS(p, OUTSIDE, { NEXT_GPA, 16, NEXT_F, 0 }, { HOLE_GPA, 1, WRITE_F, 0 });
}

RING_TEST(ring_hostile, partly_mapped_descriptor_breaks_T1)
{
	BREAKS(p, OUTSIDE, { MAIN_GPA - 1, 2, 0, 0 });
	BREAKS(p, OUTSIDE, { HOLE_GPA - 1, 2, 0, 0 });
	BREAKS(p, OUTSIDE,
	       { HOLE_GPA - 1, 0x20000, WRITE_F, 0 }); /* from NEXT over the hole into LATE */
	BREAKS(p, OUTSIDE, { LATE_GPA + LATE_BYTES - 8, 9, 0, 0 });
	BREAKS(p, OUTSIDE, { NEXT_GPA, UINT32_MAX, WRITE_F, 0 });
}

RING_TEST(ring_hostile, address_that_wraps_breaks_T1)
{
	BREAKS(p, OUTSIDE, { LAST_GPA, LAST_BYTES + 1, 0, 0 });
	BREAKS(p, OUTSIDE, { UINT64_MAX - 15, 32, 0, 0 });
	BREAKS(p, OUTSIDE, { UINT64_MAX - 1, UINT32_MAX, WRITE_F, 0 });
	/* Wraps to where memory is. */
	BREAKS(p, OUTSIDE, { LAST_GPA + LAST_BYTES - 1, UINT32_MAX, 0, 0 });
}

/*
 * @raw, with @id as its head or id, behind chains of any kind and in any region: what comes next is
 * guessed to be like them, and taken in a run.
 */
static void breaks_in_a_run(struct pair *p, struct raw raw, uint16_t id, const char *why)
{
	for (unsigned i = 0; i < N_REGIONS * 3; i++) {
		mend(p);
		p->r.map_hint = i / 3;
		p->r.run = i % 3; /* RING_RUN_* */
		offer(p, &raw, 1);
		if (PAIR_SPLIT(p)) {
			p->d.split.avail->ring[0] = id;
			p->d.split.avail->ring[1] = 0;
			p->d.split.avail->idx = 2; /* one alone is no run */
			/* Where it would be, in the guest's memory, stands one that is good. */
			if (id == UINT16_MAX)
				put_desc(p, &p->d.split.desc[id], &raw, 0, 0);
		} else {
			p->d.packed.desc[0].id = id;
		}
		assert_broken(p, why);
	}
}

RING_TEST(ring_hostile, what_breaks_alone_breaks_in_a_run_T1)
{
	for (uint16_t flags = 0; flags <= WRITE_F; flags += WRITE_F) {
		const struct raw bad[] = {
			{ HOLE_GPA, 1, flags, 0 },
			{ 0, 1, flags, 0 },
			{ MAIN_GPA - 1, 1, flags, 0 },
			{ MAIN_GPA - 1, 2, flags, 0 },
			{ HOLE_GPA - 1, 2, flags, 0 },
			{ NEXT_GPA, UINT32_MAX, flags, 0 },
			{ LATE_GPA + LATE_BYTES - 8, 9, flags, 0 },
			{ LATE_GPA + LATE_BYTES, 1, flags, 0 },
			{ LAST_GPA, LAST_BYTES + 1, flags, 0 },
			{ UINT64_MAX - 1, UINT32_MAX, flags, 0 },
		};

		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
			breaks_in_a_run(p, bad[i], 0, OUTSIDE);
		breaks_in_a_run(p, (struct raw) { MAIN_GPA, 8, flags, 0 }, PAIR_SIZE,
				"outside the queue");
		breaks_in_a_run(p, (struct raw) { MAIN_GPA, 8, flags, 0 }, UINT16_MAX,
				"outside the queue");
	}
}

/* Every segment that came out lies within the host memory of one region. */
static void assert_segments_mapped(struct pair *p, const struct chain *c)
{
	for (unsigned i = 0; i < c->n_out + c->n_in; i++) {
		const uint8_t *at = c->segs[i].iov_base;
		uint64_t len = c->segs[i].iov_len;
		bool inside = false;

		for (unsigned k = 0; k < p->map->n; k++) {
			const struct mem_region *r = &p->map->region[k];

			inside |= at >= r->host && at < r->host + r->size &&
				  len <= (uint64_t)(r->host + r->size - at);
		}
		cr_assert(inside, "segment %u of %llu bytes", i, (unsigned long long)len);
	}
}

RING_TEST(ring_hostile, descriptor_across_adjacent_regions_is_split_T1)
{
	struct raw raw = { NEXT_GPA - 100, 300, 0, 0 };
	const struct chain *c = &p->chains[0];

	offer(p, &raw, 1);
	cr_assert_eq(dev_pop(p, 1), 1);
	cr_assert_eq(c->n_out, 2);
	cr_assert_eq(c->out_len, 300);
	cr_assert_eq(c->segs[0].iov_base, pair_host(p, NEXT_GPA - 100));
	cr_assert_eq(c->segs[0].iov_len, 100);
	cr_assert_eq(c->segs[1].iov_base, pair_host(p, NEXT_GPA));
	cr_assert_eq(c->segs[1].iov_len, 200);
	assert_segments_mapped(p, c);
}

RING_TEST(ring_hostile, last_byte_of_a_region_is_usable_T1)
{
	struct raw raws[] = { { HOLE_GPA - 1, 1, NEXT_F, 0 },
			      { LAST_GPA + LAST_BYTES - 1, 1, NEXT_F, 0 },
			      { LATE_GPA, 1, WRITE_F, 0 } };

	offer(p, raws, 3);
	cr_assert_eq(dev_pop(p, 1), 1);
	cr_assert_eq(p->chains[0].n_out, 2);
	cr_assert_eq(p->chains[0].n_in, 1);
	assert_segments_mapped(p, &p->chains[0]);
}

/* Whoever resolves the table must not believe that it lies in one piece. */
RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile, indirect_table_across_adjacent_regions_is_read_T1)
{
	struct raw raws[] = { { MAIN_GPA, 11, NEXT_F, 0 },
			      { MAIN_GPA, 22, NEXT_F, 0 },
			      { MAIN_GPA, 33, WRITE_F, 0 } };
	struct raw table = { NEXT_GPA - 24, sizeof(struct vring_desc) * 3, INDIRECT_F, 0 };
	uint8_t bytes[48];

	/* The second descriptor lies half in MAIN and half in NEXT. */
	for (unsigned i = 0; i < 3; i++)
		put_desc(p, bytes + 16 * i, &raws[i], i, 0);
	memcpy(pair_host(p, NEXT_GPA - 24), bytes, 24);
	memcpy(pair_host(p, NEXT_GPA), bytes + 24, 24);
	offer(p, &table, 1);
	cr_assert_eq(dev_pop(p, 1), 1);
	cr_assert_eq(p->chains[0].n_out, 2);
	cr_assert_eq(p->chains[0].out_len, 33);
	cr_assert_eq(p->chains[0].in_len, 33);
	assert_segments_mapped(p, &p->chains[0]);
}

RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile, indirect_table_outside_memory_breaks_T1)
{
	const struct raw tables[] = {
		{ HOLE_GPA, 16, INDIRECT_F, 0 },
		{ HOLE_GPA - 16, 32, INDIRECT_F, 0 },
		{ HOLE_GPA - 8, 16, INDIRECT_F, 0 },
		{ UINT64_MAX - 7, 16, INDIRECT_F, 0 },
		{ LAST_GPA + LAST_BYTES - 16, 4096, INDIRECT_F, 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
		mend(p);
		/* Where a table is partly there, the part that is must not end the chain. */
		for (uint64_t gpa = HOLE_GPA - 16; gpa < HOLE_GPA; gpa += 16)
			put_desc(p, pair_host(p, gpa),
				 &(struct raw) { MAIN_GPA, 1, PAIR_SPLIT(p) ? NEXT_F : 0, 1 }, 0,
				 0);
		put_desc(p, pair_host(p, LAST_GPA + LAST_BYTES - 16),
			 &(struct raw) { MAIN_GPA, 1, PAIR_SPLIT(p) ? NEXT_F : 0, 1 }, 0, 0);
		offer(p, &tables[i], 1);
		assert_broken(p, OUTSIDE);
	}
}

RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile, indirect_table_at_an_odd_address_is_read)
{
	struct raw raws[] = { { MAIN_GPA, 5, NEXT_F, 0 }, { MAIN_GPA, 6, WRITE_F, 0 } };
	uint8_t bytes[32];

	for (unsigned i = 0; i < 2; i++)
		put_desc(p, bytes + 16 * i, &raws[i], i, 0);
	memcpy(pair_host(p, LATE_GPA + 3), bytes, 32);
	offer(p, &(struct raw) { LATE_GPA + 3, 32, INDIRECT_F, 0 }, 1);
	cr_assert_eq(dev_pop(p, 1), 1);
	cr_assert_eq(p->chains[0].out_len, 5);
	cr_assert_eq(p->chains[0].in_len, 6);
}

/* A segment of no bytes is legal for us, wherever it says it is, and simply not there. */
RING_TEST(ring_hostile, zero_length_descriptors_are_left_out_T2)
{
	struct raw raws[] = { { HOLE_GPA, 0, NEXT_F, 0 },
			      { MAIN_GPA, 4, NEXT_F, 0 },
			      { 0, 0, NEXT_F, 0 },
			      { UINT64_MAX, 0, NEXT_F | WRITE_F, 0 },
			      { MAIN_GPA, 8, WRITE_F, 0 } };

	offer(p, raws, 5);
	cr_assert_eq(dev_pop(p, 1), 1);
	cr_assert_eq(p->chains[0].n_out, 1);
	cr_assert_eq(p->chains[0].n_in, 1);
	cr_assert_eq(p->chains[0].out_len, 4);
	cr_assert_eq(p->chains[0].in_len, 8);
}

/* Else 32768 of them in a table, 32 tables in a burst, would hold up the neighbours for long. */
RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile, only_so_many_zero_length_descriptors_are_read_T2)
{
	static struct raw raws[RING_CHAIN_SEGS_MAX + 2];

	for (unsigned most = RING_CHAIN_SEGS_MAX; most <= RING_CHAIN_SEGS_MAX + 1; most++) {
		struct raw table = { .len = 16 * (most + 1), .flags = INDIRECT_F };

		mend(p);
		for (unsigned i = 0; i < most; i++)
			raws[i] = (struct raw) { HOLE_GPA, 0, NEXT_F, 0 };
		raws[most] = (struct raw) { MAIN_GPA, 8, 0, 0 };
		table.gpa = put_table(p, raws, most + 1);
		offer(p, &table, 1);
		if (most > RING_CHAIN_SEGS_MAX) {
			assert_broken(p, "too many zero-length");
			continue;
		}
		cr_assert_eq(dev_pop(p, 1), 1);
		cr_assert_eq(p->chains[0].n_out, 1);
		cr_assert_eq(p->chains[0].out_len, 8);
		dev_push(p, &p->chains[0], 0);
		dev_publish(p);
	}
}

RING_TEST(ring_hostile, chain_of_no_bytes_comes_and_goes_T2)
{
	struct raw raws[] = { { HOLE_GPA, 0, NEXT_F, 0 }, { HOLE_GPA, 0, WRITE_F, 0 } };

	offer(p, raws, 2);
	cr_assert_eq(dev_pop(p, 1), 1);
	cr_assert_eq(p->chains[0].n_out + p->chains[0].n_in, 0);
	cr_assert_eq(p->chains[0].n_slots, PAIR_SPLIT(p) ? 1 : 2);
	dev_push(p, &p->chains[0], 0);
	dev_publish(p);
	cr_assert_eq(p->r.in_flight, 0);
}

/*
 * Memory is taken away under running rings, so that a ring's guess at the region may lie behind the
 * end of its map. There stands a region here that would answer for NEXT, with memory of its own.
 */
RING_TEST(ring_hostile, guess_behind_the_end_of_the_map_is_not_believed_T14)
{
	struct mem_map *old = p->map;
	struct mem_map *m = calloc(1, sizeof(*m) + (N_REGIONS + 1) * sizeof(m->region[0]));
	uint8_t wrong[64];

	cr_assert_not_null(m);
	memcpy(m, old, sizeof(*m) + N_REGIONS * sizeof(m->region[0]));
	m->region[N_REGIONS] = (struct mem_region) { .gpa = NEXT_GPA,
						     .size = sizeof(wrong),
						     .host = wrong };
	p->map = m;
	pair_device(p, driver_base_start(p->kind.layout));
	for (unsigned i = 0; i < 3; i++) {
		p->r.map_hint = N_REGIONS;
		drv_send_one(p, i);
		cr_assert_eq(dev_pop(p, 1), 1);
		cr_assert_eq(p->chains[0].segs[0].iov_base, old->region[NEXT].host);
	}
	p->map = old;
	free(m);
}

/*
 * Slots that are in flight are made available once more, so that chains together have more of them
 * than the ring; and are put back, as a frame does that does not fit into any number of buffers.
 */
RING_TEST_FOR(RING_PACKED_CASES, ring_hostile, slots_in_flight_that_are_available_again_come_back)
{
	struct raw raws[PAIR_SIZE];

	for (unsigned i = 0; i < PAIR_SIZE; i++)
		raws[i] = (struct raw) { pair_alloc(p, 64), 64,
					 WRITE_F | (i + 1 < PAIR_SIZE ? NEXT_F : 0), 0 };
	for (unsigned from = 0; from < PAIR_SIZE; from += 5) {
		struct chain popped[3];
		uint16_t idx;
		bool wrap;

		pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
		pair_cycle(p, from);
		idx = p->r.avail_idx;
		wrap = p->r.avail_wrap;
		for (unsigned i = 0; i < 3; i++) {
			offer(p, raws, PAIR_SIZE);
			cr_assert_eq(dev_pop(p, 1), 1);
			popped[i] = p->chains[0];
			cr_assert_eq(popped[i].n_slots, PAIR_SIZE);
			p->d.avail_wrap = !p->d.avail_wrap;
		}
		ring_unpop(&p->r, RING_PACKED, popped, 3);
		cr_assert_eq(p->r.avail_idx, idx);
		cr_assert_eq(p->r.avail_wrap, wrap);
		cr_assert_eq(p->r.in_flight, 0);
	}
	p->may_break = true;
}
