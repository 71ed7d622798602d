/* SPDX-License-Identifier: Apache-2.0 */
/* What sluice-bench net tells of its streams together. */
#include "bench/net.h"

#include <criterion/criterion.h>

static struct net_bench b;
static struct card card;
static struct net_totals t;

static void streams(struct net_counts first, struct net_counts second, bool answers)
{
	b = (struct net_bench) { .n_streams = 2, .run.seconds = 2 };
	b.streams[0].to = b.streams[1].to = &card;
	b.streams[0].n = first;
	b.streams[1].n = second;
	b.streams[0].answer = answers ? &b.streams[1] : NULL;
	b.run.received_in[0] = first.received;
	b.run.received_in[1] = second.received;
	net_totals(&b, &t);
}

Test(bench_totals, frames_both_ways_add_up)
{
	streams((struct net_counts) { .sent = 90, .unsent = 7, .driver_late = 3, .received = 80 },
		(struct net_counts) { .sent = 50, .received = 50, .corrupt = 0 }, false);
	cr_assert_eq(t.sent, 140u);
	cr_assert_eq(t.received, 130u);
	cr_assert_eq(t.meant, 150u);
	cr_assert_eq(t.unsent, 7u);
	cr_assert_eq(t.driver_late, 3u);
	cr_assert_eq(t.lost, 17u);
	cr_assert_float_eq(t.rate, 65, 1e-9);
}

Test(bench_totals, of_request_and_answer_requests_are_sent_and_answers_received)
{
	/* 10 are lost on the way there, 1 comes corrupt, and 4 answers are lost on the way back. */
	streams((struct net_counts) { .sent = 990, .unsent = 10, .received = 979, .corrupt = 1 },
		(struct net_counts) { .sent = 979, .received = 975 }, true);
	cr_assert_eq(t.sent, 990u);
	cr_assert_eq(t.received, 975u);
	cr_assert_eq(t.meant, 1000u);
	cr_assert_eq(t.unsent, 10u);
	cr_assert_eq(t.corrupt, 1u);
	cr_assert_eq(t.lost, 24u);
	cr_assert_float_eq(t.rate, 975.0 / 2, 1e-9);
}

Test(bench_totals, an_answer_that_found_no_buffer_is_lost)
{
	streams((struct net_counts) { .sent = 10, .received = 10 },
		(struct net_counts) { .sent = 8, .received = 8 }, true);
	cr_assert_eq(t.lost, 2u);
}

Test(bench_totals, who_sends_only_loses_what_the_ring_did_not_take)
{
	b = (struct net_bench) { .n_streams = 1, .run.seconds = 1 };
	b.streams[0].n = (struct net_counts) { .sent = 10, .unsent = 5 };
	net_totals(&b, &t);
	cr_assert_eq(t.lost, 5u);
	cr_assert_eq(t.meant, 15u);
}
