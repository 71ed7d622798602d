/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one ring_pop() takes is bounded by bytes and descriptors, not by chains alone (T22); and
 * what it leaves comes with the next.
 */
#include "tests/unit/ring_pair.h"

/* Pops until nothing is left. @return chains; in *@most those of the fullest pop. */
static unsigned pop_all(struct pair *p, unsigned *most)
{
	unsigned total = 0, n;

	*most = 0;
	while ((n = dev_pop(p, ARRAY_SIZE(p->chains)))) {
		for (unsigned i = 0; i < n; i++)
			dev_push(p, &p->chains[i], 0);
		dev_publish(p);
		*most = MAX(*most, n);
		total += n;
	}
	return total;
}

static void chains_all_come(struct pair *p, const struct driver_seg *segs, unsigned n_segs,
			    unsigned n_chains, unsigned most_wanted)
{
	struct driver_used u;
	unsigned most;

	for (unsigned i = 0; i < n_chains; i++)
		cr_assert_eq(drv_add(p, segs, n_segs, 0, i), 0);
	drv_publish(p);
	cr_assert_eq(pop_all(p, &most), n_chains);
	cr_assert_eq(most, most_wanted, "%u at once", most);
	for (unsigned i = 0; i < n_chains; i++) {
		cr_assert(drv_poll(p, &u));
		cr_assert_eq((uintptr_t)u.cookie, i);
	}
}

RING_TEST(ring_budget, large_chains_are_popped_a_few_at_a_time)
{
	struct driver_seg seg = { .len = 64 << 10 };

	pair_ring(p, 64, driver_base_start(p->kind.layout));
	seg.gpa = pair_alloc(p, seg.len);
	chains_all_come(p, &seg, 1, 32, 2);
}

/* 1024 are allowed in one chain; here it is 31 in each. */
RING_TEST(ring_budget, empty_descriptors_are_popped_a_few_at_a_time)
{
	struct driver_seg segs[PAIR_SEGS] = { { .gpa = NEXT_GPA, .len = 64 } };

	pair_ring(p, p->kind.indirect == DRIVER_DIRECT ? 8192 : 256,
		  driver_base_start(p->kind.layout));
	for (unsigned i = 1; i < PAIR_SEGS; i++)
		segs[i].gpa = NEXT_GPA;
	/* 32 * 64 bytes for the descriptors and 64: 63 chains come to 128 KiB */
	chains_all_come(p, segs, PAIR_SEGS, 200, 63);
}

/* An ordinary burst is not cut. */
RING_TEST(ring_budget, small_chains_are_popped_all_at_once)
{
	struct driver_seg segs[] = { { NEXT_GPA, 12 }, { NEXT_GPA + 64, 1500 } };

	pair_ring(p, 256, driver_base_start(p->kind.layout));
	chains_all_come(p, segs, 2, 64, 64);
}
