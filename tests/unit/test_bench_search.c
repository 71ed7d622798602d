/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-bench net --search over a back-end that passes a rate once, and fails it the next time. */
#include "bench/interrupt.h"
#include "bench/net.h"

#include <criterion/criterion.h>

#define LIMIT 600.0

static double tried[64];
static unsigned n_tried, interrupt_at; /* 0: never */

/* Loses nothing up to LIMIT, the first time; and half of the frames otherwise. */
void net_run(struct net_bench *b, uint64_t us)
{
	bool again = false;

	(void)us;
	for (unsigned i = 0; i < n_tried; i++)
		again |= tried[i] >= b->opt.load.rate && tried[i] <= b->opt.load.rate;
	tried[n_tried++ % ARRAY_SIZE(tried)] = b->opt.load.rate;
	b->streams[0].n.sent = (uint64_t)b->opt.load.rate;
	b->streams[0].n.received = (uint64_t)b->opt.load.rate;
	if (again || b->opt.load.rate > LIMIT)
		b->streams[0].n.received /= 2;
	if (n_tried == interrupt_at)
		interrupt_signal = SIGINT;
	b->run.seconds = b->run.cpu = b->opt.load.rate;
}

void net_totals(const struct net_bench *b, struct net_totals *t)
{
	const struct net_counts *n = &b->streams[0].n;

	*t = (struct net_totals) { .meant = n->sent,
				   .received = n->received,
				   .lost = n->sent - n->received };
}

Test(bench_search, what_is_reported_is_the_trial_that_passed)
{
	static struct net_bench b = {
		.n_streams = 1,
		.opt = { .rate = 1000, .trial_ms = 10, .attempts = 1, .resolution = 20 }
	};
	struct net_totals t;
	struct search s;

	net_search(&b, &s); /* 1000 fails, 500 passes, 750 and 625 fail */
	net_totals(&b, &t);
	cr_assert_float_eq(s.rate, 500, 0.1, "%g", s.rate);
	cr_assert_eq(t.meant, 500u, "%lu", (unsigned long)t.meant);
	cr_assert_eq(t.lost, 0u, "%lu", (unsigned long)t.lost);
	cr_assert_float_eq(b.run.seconds, 500, 0.1);
	cr_assert_float_eq(b.run.cpu, 500, 0.1);
	cr_assert_eq(n_tried, s.trials);
}

Test(bench_search, one_that_is_cut_short_tells_the_highest_rate_that_passed_by_then)
{
	static struct net_bench b = {
		.n_streams = 1,
		.opt = { .rate = 1000, .trial_ms = 10, .attempts = 1, .resolution = 20 }
	};
	struct net_totals t;
	struct search s;

	interrupt_at = 3; /* 1000 fails, 500 passes, 750 is cut short */
	net_search(&b, &s);
	net_totals(&b, &t);
	cr_assert_eq(n_tried, 3u);
	cr_assert_eq(s.trials, 2u);
	cr_assert_float_eq(s.rate, 500, 0.1, "%g", s.rate);
	cr_assert_eq(t.meant, 500u);
	cr_assert_str_eq(s.limit, "the signal");
}

Test(bench_search, one_that_is_cut_short_at_once_has_no_rate)
{
	static struct net_bench b = { .n_streams = 1,
				      .opt = { .trial_ms = 10, .attempts = 1, .resolution = 20 } };
	struct search s;

	interrupt_at = 1;
	net_search(&b, &s);
	cr_assert_eq(s.trials, 0u);
	cr_assert_float_eq(s.rate, 0, 0.1);
	cr_assert_str_eq(s.limit, "the signal");
}

Test(bench_search, a_trial_that_is_cut_short_has_not_passed_however_little_it_lost)
{
	static struct net_bench b = {
		.n_streams = 1,
		.opt = { .rate = 1000, .trial_ms = 10, .attempts = 1, .resolution = 20 }
	};
	struct search s;

	interrupt_at = 2; /* 1000 fails, 500 would pass */
	net_search(&b, &s);
	cr_assert_eq(s.trials, 1u);
	cr_assert_float_eq(s.rate, 0, 0.1);
}
