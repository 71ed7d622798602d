/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drivers that break the rules: each breaks its ring, for the right reason, and nothing else. Every
 * malformed chain is offered in the ring itself, and in an indirect table where that is negotiated.
 */
#include "tests/unit/ring_pair.h"

#define NEXT_F VRING_DESC_F_NEXT
#define WRITE_F VRING_DESC_F_WRITE
#define INDIRECT_F VRING_DESC_F_INDIRECT

struct raw {
	uint64_t gpa;
	uint32_t len;
	uint16_t flags;
	int next; /* split: index, where NEXT is set; 0: the following one */
};

static bool has_indirect(const struct pair *p)
{
	return p->kind.indirect != DRIVER_DIRECT;
}

/* Both layouts: gpa, len; split: flags, next; packed: id, flags. */
static void put_desc(struct pair *p, void *at, const struct raw *raw, unsigned i, uint16_t mark)
{
	if (PAIR_SPLIT(p))
		*(struct vring_desc *)at = (struct vring_desc) { raw->gpa, raw->len, raw->flags,
								 raw->next ? raw->next
									   : (int)i + 1 };
	else
		*(struct vring_packed_desc *)at = (struct vring_packed_desc) { raw->gpa, raw->len,
									       0,
									       raw->flags | mark };
}

/* An indirect table in MAIN. @return its gpa. */
static uint64_t put_table(struct pair *p, const struct raw *raws, unsigned n)
{
	uint64_t gpa = pair_alloc(p, 16 * n);

	for (unsigned i = 0; i < n; i++)
		put_desc(p, (uint8_t *)pair_host(p, gpa) + 16 * i, &raws[i], i, 0);
	return gpa;
}

/* Makes the chain of @raws available, behind the driver's back; its head (or id) is 0. */
static void offer(struct pair *p, const struct raw *raws, unsigned n)
{
	struct driver_ring *d = &p->d;
	uint16_t slot = d->avail_idx;
	bool wrap = d->avail_wrap;

	if (PAIR_SPLIT(p)) {
		for (unsigned i = 0; i < n; i++)
			put_desc(p, &d->split.desc[i], &raws[i], i, 0);
		d->split.avail->ring[slot & (d->size - 1)] = 0;
		d->split.avail->idx = slot + 1;
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		put_desc(p, &d->packed.desc[slot], &raws[i], i, driver_packed_mark(wrap));
		if (++slot == d->size) {
			slot = 0;
			wrap = !wrap;
		}
	}
}

static void assert_broken(struct pair *p, const char *why)
{
	eventfd_t count = 0;
	uint16_t used = PAIR_SPLIT(p) ? p->d.split.used->idx : 0;

	p->may_break = true;
	cr_assert_eq(dev_pop(p, 8), 0, "a malformed chain was popped");
	cr_assert_not_null(p->r.broken, "the ring did not break (expected: %s)", why);
	cr_assert_not_null(strstr(p->r.broken, why), "broke for \"%s\", expected \"%s\"",
			   p->r.broken, why);
	cr_assert_eq(eventfd_read(p->err_fd, &count), 0, "err was not signalled");
	/* Sticky, told once, and deaf to everything. */
	cr_assert_eq(dev_pop(p, 8), 0);
	cr_assert_not(dev_has_work(p));
	cr_assert(dev_kicks_on(p));
	cr_assert_eq(eventfd_read(p->err_fd, &count), -1, "err was signalled twice");
	cr_assert_eq(p->r.in_flight, 0);
	cr_assert_eq(PAIR_SPLIT(p) ? p->d.split.used->idx : 0, used);
}

/* The same ring, made anew. */
static void mend(struct pair *p)
{
	pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
}

/* The chain breaks the ring, given in the ring or through a table. */
static void breaks(struct pair *p, const struct raw *raws, unsigned n, const char *why)
{
	mend(p);
	offer(p, raws, n);
	assert_broken(p, why);
	if (has_indirect(p)) {
		struct raw table = { .len = 16 * n, .flags = INDIRECT_F };

		mend(p);
		table.gpa = put_table(p, raws, n);
		offer(p, &table, 1);
		assert_broken(p, why);
	}
	mend(p);
}

#define BREAKS(p, why, ...)                                           \
	do {                                                          \
		const struct raw breaks_raws[] = { __VA_ARGS__ };     \
		breaks(p, breaks_raws, ARRAY_SIZE(breaks_raws), why); \
	} while (0)

#define OUTSIDE "outside guest memory"

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

RING_TEST(ring_hostile, readable_after_writable_breaks_2_7_4_2)
{
	BREAKS(p, "device-readable", { MAIN_GPA, 8, NEXT_F | WRITE_F, 0 }, { MAIN_GPA, 8, 0, 0 });
	BREAKS(p, "device-readable", { MAIN_GPA, 8, NEXT_F, 0 },
	       { MAIN_GPA, 8, NEXT_F | WRITE_F, 0 }, { MAIN_GPA, 8, 0, 0 });
}

RING_TEST(ring_hostile, head_or_id_outside_the_queue_breaks_T3)
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

RING_TEST_FOR(RING_SPLIT_CASES, ring_hostile, next_outside_the_table_breaks_T3)
{
	const int bad[] = { PAIR_SIZE, 0x7fff, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		BREAKS(p, "outside the", { MAIN_GPA, 8, NEXT_F, bad[i] });
}

/* Within an indirect table the bound is its own length, not the ring's. */
RING_TEST_FOR(RING_SPLIT_INDIRECT_CASES, ring_hostile, next_outside_a_short_table_breaks_T3)
{
	struct raw raws[] = { { MAIN_GPA, 8, NEXT_F, 2 },
			      { MAIN_GPA, 8, 0, 0 },
			      { MAIN_GPA, 8, 0, 0 } };
	struct raw table = { .len = 32, .flags = INDIRECT_F };

	table.gpa = put_table(p, raws, 3);
	offer(p, &table, 1);
	assert_broken(p, "outside the indirect table");
}

RING_TEST_FOR(RING_SPLIT_CASES, ring_hostile, avail_index_that_jumps_breaks_T3)
{
	const uint16_t jumps[] = { PAIR_SIZE + 1, 2 * PAIR_SIZE, 0x8000, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(jumps); i++) {
		mend(p);
		offer(p, &(struct raw) { MAIN_GPA, 8, 0, 0 }, 1);
		p->d.split.avail->idx = jumps[i];
		assert_broken(p, "more chains available");
	}
}

RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile, indirect_table_of_odd_length_breaks_T3)
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

RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile, nested_indirect_table_breaks_T3)
{
	struct raw inner = { MAIN_GPA, 8, 0, 0 };
	struct raw table = { .len = 16, .flags = INDIRECT_F };

	inner = (struct raw) { put_table(p, &inner, 1), 16, INDIRECT_F, 0 };
	table.gpa = put_table(p, &inner, 1);
	offer(p, &table, 1);
	assert_broken(p, "within an indirect table");
}

RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile, indirect_with_next_breaks_T3)
{
	struct raw data = { MAIN_GPA, 8, 0, 0 };
	struct raw raws[2] = { { .len = 16, .flags = INDIRECT_F | NEXT_F }, data };

	raws[0].gpa = put_table(p, &data, 1);
	offer(p, raws, 2);
	assert_broken(p, "indirect descriptor with a next one");
}

RING_TEST_FOR(RING_DIRECT_CASES, ring_hostile, indirect_that_was_not_negotiated_breaks_T10)
{
	struct raw data = { MAIN_GPA, 8, 0, 0 };
	struct raw table = { .len = 16, .flags = INDIRECT_F };

	table.gpa = put_table(p, &data, 1);
	offer(p, &table, 1);
	assert_broken(p, "without VIRTIO_F_INDIRECT_DESC");
}

/* Not hostile, but unusual: 2.7.5.3.2, direct descriptors and then a table. */
RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile,
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

RING_TEST_FOR(RING_SPLIT_CASES, ring_hostile, self_loop_breaks_T4)
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

RING_TEST_FOR(RING_SPLIT_INDIRECT_CASES, ring_hostile, loop_in_an_indirect_table_breaks_T4)
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
RING_TEST_FOR(RING_PACKED_CASES, ring_hostile, packed_chain_without_end_breaks_T4)
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

RING_TEST(ring_hostile, chain_as_long_as_the_queue_is_taken_T4)
{
	struct raw raws[PAIR_SIZE];

	for (unsigned i = 0; i < PAIR_SIZE; i++)
		raws[i] = (struct raw) { MAIN_GPA, 8, i + 1 < PAIR_SIZE ? NEXT_F : 0, 0 };
	offer(p, raws, PAIR_SIZE);
	cr_assert_eq(dev_pop(p, 2), 1);
	cr_assert_eq(p->chains[0].n_out, PAIR_SIZE);
}

/* As many segments as a chain may have, and one more. */
RING_TEST_FOR(RING_INDIRECT_CASES, ring_hostile, chain_of_too_many_segments_breaks_T4)
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
RING_TEST(ring_hostile, chain_of_4_gib_breaks_2_7_5_1)
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
RING_TEST(ring_hostile, more_chains_in_flight_than_the_queue_size_break_T9)
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
RING_TEST(ring_hostile, chains_before_a_malformed_one_come_out)
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
RING_TEST(ring_hostile, broken_ring_stays_broken_until_made_anew)
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
RING_TEST(ring_hostile, broken_ring_is_left_as_it_is)
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
RING_TEST(ring_hostile, ring_breaks_once)
{
	eventfd_t count = 0;

	p->may_break = true;
	ring_break(&p->r, "first");
	ring_break(&p->r, "second");
	cr_assert_str_eq(p->r.broken, "first");
	cr_assert_eq(eventfd_read(p->err_fd, &count), 0);
	cr_assert_eq(count, 1);
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
