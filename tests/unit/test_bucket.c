/* SPDX-License-Identifier: Apache-2.0 */
/* A rate with a burst, over time that the test makes. */
#include "base/bucket.h"

#include <criterion/criterion.h>

#define SECOND UINT64_C(1000000000)
#define START (UINT64_C(86400) * 100 * SECOND)

static uint32_t rnd = 4711;

static uint32_t dice(uint32_t n)
{
	rnd ^= rnd << 13;
	rnd ^= rnd >> 17;
	rnd ^= rnd << 5;
	return rnd % n;
}

/* Who always has more, in pieces of up to @piece, comes when it may or up to @late_ns after. */
static double rate_over_10_s(uint64_t rate, uint64_t burst, uint32_t piece, uint32_t late_ns)
{
	uint64_t now = START, taken = 0;
	struct bucket b;

	bucket_init(&b, rate, burst, now);
	while (now < START + 10 * SECOND) {
		uint64_t wait = bucket_wait_ns(&b, now);

		if (wait) {
			now += wait + (late_ns ? dice(late_ns) : 0);
			continue;
		}
		uint64_t units = 1 + dice(piece);

		bucket_take(&b, units, now);
		taken += units;
	}
	/* What was saved up at the start, and the last piece, come on top. */
	return (double)taken / 10 / (double)rate;
}

Test(bucket, rate_is_kept_whatever_the_pieces_and_however_late_they_come)
{
	static const uint64_t rates[] = { 1000, 100000, 10000000, 1000000000,
					  UINT64_C(100000000000) };

	for (unsigned i = 0; i < 5; i++) {
		uint32_t piece = (uint32_t)MIN(rates[i] / 100, (uint64_t)1000000);
		double r = rate_over_10_s(rates[i], 0, piece, 20000000);

		cr_expect(r > 0.99 && r < 1.02, "%lu: %.4f", rates[i], r);
		r = rate_over_10_s(rates[i], rates[i] / 50, piece, 1000000);
		cr_expect(r > 0.99 && r < 1.02, "%lu with a burst: %.4f", rates[i], r);
	}
}

Test(bucket, no_rate_is_no_limit)
{
	struct bucket b;

	bucket_init(&b, 0, 0, START);
	bucket_take(&b, UINT64_MAX, START);
	cr_assert_eq(bucket_wait_ns(&b, START), 0);
}

Test(bucket, burst_is_saved_up_and_no_more)
{
	struct bucket b;

	bucket_init(&b, 1000, 50, START);
	for (unsigned round = 0; round < 3; round++) {
		uint64_t now = START + round * 1000 * SECOND;
		unsigned n = 0;

		for (; bucket_wait_ns(&b, now) == 0; n++)
			bucket_take(&b, 1, now);
		cr_assert(n == 50 || n == 51, "%u", n);
	}
}

Test(bucket, debt_is_paid_before_anything_else_and_has_an_end)
{
	struct bucket b;

	bucket_init(&b, 1000, 1, START);
	bucket_take(&b, 5000, START);
	cr_assert_gt(bucket_wait_ns(&b, START + 4 * SECOND), 0);
	cr_assert_eq(bucket_wait_ns(&b, START + 5 * SECOND), 0);
	for (unsigned i = 0; i < 100; i++)
		bucket_take(&b, UINT64_MAX, START);
	cr_assert_eq(bucket_wait_ns(&b, START + 86401 * SECOND), 0);
}

Test(bucket, change_keeps_what_is_owed_and_what_is_saved_up)
{
	struct bucket b;

	bucket_init(&b, 1000, 100, START);
	bucket_take(&b, 600, START); /* 500 are owed: half a second */
	bucket_change(&b, 5000, 100, START);
	cr_assert_float_eq((double)bucket_wait_ns(&b, START), 1e8, 1e4);
	bucket_change(&b, 100, 100, START);
	cr_assert_float_eq((double)bucket_wait_ns(&b, START), 5e9, 1e5);
	/* Nothing is owed by who had no limit, or has none. */
	bucket_change(&b, 0, 0, START);
	cr_assert_eq(bucket_wait_ns(&b, START), 0);
	bucket_take(&b, 1000000, START);
	cr_assert_eq(bucket_wait_ns(&b, START), 0);
	bucket_change(&b, 1000, 10, START);
	cr_assert_eq(bucket_wait_ns(&b, START), 0);
	/* 5 of 10 are saved up; the larger burst is not filled by that. */
	bucket_take(&b, 5, START);
	bucket_change(&b, 10, 100, START);
	bucket_take(&b, 5, START);
	cr_assert_eq(bucket_wait_ns(&b, START), 0);
	bucket_take(&b, 1, START);
	cr_assert_gt(bucket_wait_ns(&b, START), 0);
}
