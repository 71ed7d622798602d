/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-bench net: the account of a run, of all its streams together. */
#include "bench/net.h"

/* What should have come by @last of what was sent by @first, and did not. */
static uint64_t lost_between(const struct stream *first, const struct stream *last)
{
	uint64_t meant = first->n.sent + first->n.unsent;
	uint64_t came = first->to ? last->n.received + last->n.corrupt : first->n.sent;

	if (first != last)
		came += first->n.corrupt;
	return meant > came ? meant - came : 0;
}

/* Frames that were asked for: with an answer to each, the answers are no more of them. */
static void add_sent(struct net_totals *t, const struct stream *s)
{
	t->sent += s->n.sent;
	t->unsent += s->n.unsent;
	t->driver_late += s->n.driver_late;
	t->meant += s->n.sent + s->n.unsent + s->n.driver_late;
	t->lost += lost_between(s, s->answer ? s->answer : s);
}

static void add_received(const struct net_bench *b, struct net_totals *t, unsigned i)
{
	t->received += b->streams[i].n.received;
	t->in_time += b->run.received_in[i];
	t->rate += (double)b->run.received_in[i] / b->run.seconds;
	t->gbit_s += (double)b->run.bytes_in[i] * 8e-9 / b->run.seconds;
}

void net_totals(const struct net_bench *b, struct net_totals *t)
{
	bool answers = b->streams[0].answer;

	*t = (struct net_totals) { 0 };
	for (unsigned i = 0; i < b->n_streams; i++) {
		const struct net_counts *n = &b->streams[i].n;

		if (!answers || i == 0)
			add_sent(t, &b->streams[i]);
		if (!answers || i > 0)
			add_received(b, t, i);
		t->reordered += n->reordered;
		t->duplicated += n->duplicated;
		t->corrupt += n->corrupt;
		t->foreign += n->foreign;
	}
}
