/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one ring_pop() takes is bounded by bytes and descriptors, not by chains alone (T22); and
 * what it leaves comes with the next.
 */
#include "tests/unit/ring_pair.h"
#include "vhost/ring_ahead.h"

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

/* A ring full of descriptors, each of which says that another one follows. */
static void offer_without_end(struct pair *p)
{
	const uint16_t mark = VRING_DESC_F_NEXT | driver_packed_mark(p->d.avail_wrap);

	for (uint32_t i = 0; i < p->d.size; i++) {
		if (p->kind.layout == DRIVER_SPLIT)
			p->d.split.desc[i] = (struct vring_desc) { NEXT_GPA, 16, VRING_DESC_F_NEXT,
								   (i + 1) % p->d.size };
		else
			p->d.packed.desc[i] = (struct vring_packed_desc) { NEXT_GPA, 16, 0, mark };
	}
	if (p->kind.layout == DRIVER_SPLIT)
		p->d.split.avail->idx = 4;
}

/* Behind an IOMMU; what ring_pop() will say to such a chain is another matter. */
RING_TEST(ring_budget, a_look_ahead_at_a_chain_without_end_is_bounded)
{
	struct ring_ahead a = { 0 };

	pair_ring(p, 4 * RING_AHEAD_PIECES, driver_base_start(p->kind.layout));
	offer_without_end(p);
	ring_ahead_restart(&p->r, &a);
	for (unsigned look = 0; look < 8; look++) {
		unsigned pieces = ring_look_ahead(&p->r, &a);

		cr_assert_leq(pieces, RING_AHEAD_PIECES, "look %u: %u pieces", look, pieces);
		cr_assert_eq(look > 0 || pieces > 0, true, "nothing was looked at");
		cr_assert_eq(a.n, 0);
	}
	p->may_break = true;
}
