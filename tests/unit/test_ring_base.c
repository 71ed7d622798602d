/* SPDX-License-Identifier: Apache-2.0 */
/* Where a ring begins and where it stood: SET_VRING_BASE, GET_VRING_BASE; set-up (T9). */
#include "tests/unit/ring_pair.h"

/* Stop and start again at every place of the ring, twice around, half of the time mid-batch. */
RING_TEST(ring_base, stopped_ring_goes_on_where_it_stood)
{
	struct driver_used u;

	for (unsigned i = 0; i < 4 * PAIR_SIZE + 1; i++) {
		uint32_t base;

		drv_send_one(p, 2 * i);
		drv_send_one(p, 2 * i + 1);
		cr_assert_eq(dev_pop(p, 1 + i % 2), 1 + i % 2);
		for (unsigned k = 0; k <= i % 2; k++)
			dev_push(p, &p->chains[k], 0);
		dev_publish(p);

		base = ring_base(&p->r);
		memset(&p->r, 0xaa, sizeof(p->r)); /* nothing but the word is carried over */
		memset(&p->r.stats, 0, sizeof(p->r.stats));
		pair_device(p, base);
		cr_assert_eq(ring_base(&p->r), base);

		cr_assert_eq(dev_pop(p, 4), 1 - i % 2);
		if (i % 2 == 0)
			dev_push(p, &p->chains[0], 0);
		dev_publish(p);
		for (uintptr_t k = 0; k < 2; k++) {
			cr_assert(drv_poll(p, &u), "chain %u: %s", i, driver_violation(&p->d));
			cr_assert_eq((uintptr_t)u.cookie, 2 * i + k);
		}
		cr_assert_eq(ring_base(&p->r), driver_base(&p->d));
	}
}

/* vhost-user "Vring descriptor indices for packed virtqueues": slot and wrap bit, twice. */
RING_TEST(ring_base, base_word_holds_index_or_slots_and_wrap_bits)
{
	for (unsigned i = 0; i < 2 * PAIR_SIZE; i++) {
		uint32_t slot = i % PAIR_SIZE, wrap = i < PAIR_SIZE;

		if (PAIR_SPLIT(p))
			cr_assert_eq(ring_base(&p->r), i);
		else
			cr_assert_eq(ring_base(&p->r), slot | wrap << 15 | slot << 16 | wrap << 31);
		pair_cycle(p, 1);
	}
}

RING_TEST_FOR(RING_SPLIT_CASES, ring_base, split_index_wraps_at_65536)
{
	pair_ring(p, PAIR_SIZE, 65534);
	pair_cycle(p, 5);
	cr_assert_eq(ring_base(&p->r), 3);
}

/* A popped chain that was not given back counts as taken: that is why stops drain first. */
RING_TEST(ring_base, packed_base_tells_avail_and_used_apart)
{
	uint32_t base;

	for (unsigned i = 0; i < 3; i++)
		drv_send_one(p, i);
	cr_assert_eq(dev_pop(p, 3), 3);
	dev_push(p, &p->chains[0], 0);
	dev_publish(p);
	base = ring_base(&p->r);
	if (PAIR_SPLIT(p))
		cr_assert_eq(base, 3);
	else
		cr_assert_eq(base, 3u | 1u << 15 | 1u << 16 | 1u << 31);
}

static const char *try_init(struct pair *p, uint32_t size, uint32_t base)
{
	struct ring_config cfg = {
		.layout = PAIR_SPLIT(p) ? RING_SPLIT : RING_PACKED,
		.size = size,
		.desc = driver_desc_area(&p->d),
		.driver = driver_driver_area(&p->d),
		.device = driver_device_area(&p->d),
		.base = base,
		.map = p->map,
	};
	struct ring r = { .in_flight = 0 };

	return ring_init(&r, &cfg);
}

RING_TEST(ring_base, sizes_that_the_layout_does_not_have_are_refused_T9)
{
	uint32_t start = driver_base_start(p->kind.layout);

	cr_assert_not_null(try_init(p, 0, start));
	cr_assert_not_null(try_init(p, 32769, start));
	cr_assert_not_null(try_init(p, 65536, start));
	cr_assert_not_null(try_init(p, UINT32_MAX, start));
	cr_assert_null(try_init(p, 1, start));
	cr_assert_null(try_init(p, 8, start));
	/* 2.7: a power of two. 2.8: any. */
	if (PAIR_SPLIT(p))
		cr_assert_not_null(try_init(p, 12, start));
	else
		cr_assert_null(try_init(p, 12, start));
}

RING_TEST(ring_base, base_beyond_the_ring_is_refused_T9)
{
	if (PAIR_SPLIT(p)) {
		cr_assert_not_null(try_init(p, 8, 65536));
		cr_assert_not_null(try_init(p, 8, UINT32_MAX));
		cr_assert_null(try_init(p, 8, 65535));
		return;
	}
	cr_assert_not_null(try_init(p, 8, 8));
	cr_assert_not_null(try_init(p, 8, 8u << 16));
	cr_assert_not_null(try_init(p, 8, 0x7fff));
	cr_assert_null(try_init(p, 8, 7 | 1u << 15 | 7u << 16 | 1u << 31));
}

/* 2.8: a packed ring need not be a power of two; go round one that is not. */
RING_TEST_FOR(RING_PACKED_CASES, ring_base, packed_ring_of_odd_size_goes_round)
{
	pair_ring(p, 13, driver_base_start(DRIVER_PACKED));
	pair_cycle(p, 200);
}

RING_TEST(ring_base, ring_of_one_entry_works)
{
	pair_ring(p, 1, driver_base_start(p->kind.layout));
	for (unsigned i = 0; i < 10; i++) {
		pair_cycle(p, 1);
		dev_call(p);
		cr_assert(dev_kicks_on(p));
		dev_kicks_off(p);
	}
}

/* Filled, and given back, from shortly before its end; in tables of two, which take one slot each.
 */
RING_TEST(ring_base, largest_ring_works)
{
	static const struct driver_seg segs[] = { { NEXT_GPA, 64 }, { NEXT_GPA + 64, 64 } };
	unsigned n_segs = p->kind.indirect == DRIVER_DIRECT ? 1 : 2, back = 0;

	p->table_segs = 2; /* longer ones are more than MAIN has room for */
	pair_ring(p, 32768, PAIR_SPLIT(p) ? 65530 : 0xfffafffa);
	for (unsigned i = 0; i < 32768; i++)
		cr_assert_eq(drv_add(p, segs, n_segs, 0, i), 0);
	cr_assert_eq(drv_add(p, segs, n_segs, 0, 0), -ENOSPC);
	drv_publish(p);
	for (unsigned left = 32768; left;) {
		unsigned n = dev_pop(p, 256);

		cr_assert_eq(n, 256);
		for (unsigned i = 0; i < n; i++) {
			cr_assert_eq(p->chains[i].n_out, n_segs);
			dev_push(p, &p->chains[i], 0);
		}
		dev_publish(p);
		left -= n;
	}
	cr_assert_eq(dev_pop(p, 256), 0);
	dev_call(p);
	for (struct driver_used u; drv_poll(p, &u); back++)
		cr_assert_eq((uintptr_t)u.cookie, back);
	cr_assert_eq(back, 32768);
	pair_cycle(p, 10);
}

/* What SET_VRING_ADDR is checked against: 2.7 and 2.8 table of sizes. */
Test(ring_base, areas_have_the_sizes_of_2_7_and_2_8)
{
	cr_assert_eq(ring_desc_bytes(RING_SPLIT, 256), 16 * 256);
	cr_assert_eq(ring_desc_bytes(RING_PACKED, 256), 16 * 256);
	cr_assert_eq(ring_driver_bytes(RING_SPLIT, 256, true), 6 + 2 * 256);
	cr_assert_eq(ring_driver_bytes(RING_SPLIT, 256, false), 4 + 2 * 256);
	cr_assert_eq(ring_device_bytes(RING_SPLIT, 256, true), 6 + 8 * 256);
	cr_assert_eq(ring_device_bytes(RING_SPLIT, 256, false), 4 + 8 * 256);
	cr_assert_eq(ring_driver_bytes(RING_PACKED, 256, true), 4);
	cr_assert_eq(ring_device_bytes(RING_PACKED, 256, true), 4);
}
