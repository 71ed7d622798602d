/* SPDX-License-Identifier: Apache-2.0 */
#include "base/histogram.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static struct histogram h, other;

Test(histogram, of_nothing_tells_nothing)
{
	cr_assert_eq(histogram_percentile(&h, 500000), 0);
	cr_assert_eq(histogram_mean(&h), 0);
	cr_assert_eq(histogram_min(&h), 0);
}

Test(histogram, the_least_value_is_told_and_never_more_than_3_2_percent_too_small)
{
	srandom(2);
	for (unsigned i = 0; i < 10000; i++) {
		uint64_t v = (uint64_t)random() << (random() % 20), min;

		other = (struct histogram) { 0 };
		histogram_add(&other, v);
		histogram_add(&other, v * 2 + 1);
		min = histogram_min(&other);
		cr_assert(min <= v && v - min <= v / 32, "%lu of %lu", min, v);
	}
}

Test(histogram, small_values_are_exact)
{
	for (unsigned i = 1; i <= 20; i++)
		histogram_add(&h, i);
	cr_assert_eq(histogram_percentile(&h, 500000), 10);
	cr_assert_eq(histogram_percentile(&h, 950000), 19);
	cr_assert_eq(histogram_percentile(&h, 950001), 20);
	cr_assert_eq(histogram_percentile(&h, 1000000), 20);
	cr_assert_eq(histogram_mean(&h), 10.5);
}

Test(histogram, buckets_rise_with_the_value_and_stay_in_bounds)
{
	unsigned last = 0;

	for (unsigned shift = 0; shift < 64; shift++)
		for (int d = -1; d <= 1; d++) {
			uint64_t v = (UINT64_C(1) << shift) + (uint64_t)d;
			unsigned b = histogram_bucket(v);

			cr_assert_lt(b, HISTOGRAM_BUCKETS);
			if (shift > 0 && d > -1)
				cr_assert_geq(b, last, "2^%u%+d", shift, d);
			if (d < 1)
				last = b;
		}
	cr_assert_lt(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS);
}

Test(histogram, a_percentile_is_never_below_the_value_nor_3_2_percent_above)
{
	srandom(1);
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t v = (uint64_t)random() << (random() % 20), p;

		other = (struct histogram) { 0 };
		histogram_add(&other, v);
		/* Not the greatest, so that the answer is not cut to it. */
		other.max = UINT64_MAX;
		p = histogram_percentile(&other, 1000000);
		cr_assert_geq(p, v);
		cr_assert_leq(p - v, v / 32 + 1);
	}
}

Test(histogram, merging_adds_all)
{
	histogram_add(&h, 5);
	histogram_add(&other, 1000);
	histogram_add(&other, 7);
	histogram_merge(&h, &other);
	cr_assert_eq(h.n, 3);
	cr_assert_eq(h.sum, 1012);
	cr_assert_eq(histogram_percentile(&h, 1000000), 1000);
	cr_assert_eq(histogram_percentile(&h, 500000), 7);
}
