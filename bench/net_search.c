/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/net.h"

#include "bench/interrupt.h"

#include <err.h>
#include <stdio.h>

/* A trial that fails while the hypervisor took more than this share of it says little: it is
 * repeated, beside the attempts that each rate has. */
#define STEAL_MAX 0.01
#define RETRIES 2
#define WARM_UP_US 100000
#define UPPER_BOUND 1.25 /* of what a closed loop reaches */

/* The run of the last trial that passed: what is reported, for the same rate may fail when tried
 * again. */
static struct {
	struct run run;
	struct net_counts n[2];
	double steal;
} kept;

static void keep(const struct net_bench *b)
{
	kept.run = b->run;
	for (unsigned i = 0; i < b->n_streams; i++)
		kept.n[i] = b->streams[i].n;
	kept.steal = b->steal;
}

static void bring_back(struct net_bench *b)
{
	b->run = kept.run;
	for (unsigned i = 0; i < b->n_streams; i++)
		b->streams[i].n = kept.n[i];
	b->steal = kept.steal;
}

struct trial {
	bool passed, late;
	double rate;
};

static void one_trial(struct net_bench *b, double rate, struct trial *t)
{
	double seconds = b->opt.trial_ms / 1e3;
	struct net_totals n;
	uint64_t missed;

	b->opt.load.rate = rate;
	net_run(b, (uint64_t)b->opt.trial_ms * 1000);
	t->rate = rate;
	t->passed = t->late = false;
	if (interrupted()) /* a part of a trial says nothing of its rate */
		return;
	net_totals(b, &n);
	missed = n.lost + n.driver_late; /* at this rate nothing was tried of the latter */
	t->passed = !net_is_too_many(b, missed + n.corrupt, &n);
	t->late = n.driver_late > n.lost;
	if (t->passed)
		keep(b);
	fprintf(stderr, "%12.0f frames a second: %.4f %% lost (%llu of %llu)%s%s\n", rate,
		n.meant ? 100 * (double)missed / (double)n.meant : 0, (unsigned long long)missed,
		(unsigned long long)n.meant,
		t->passed ? ""
		: t->late ? "; the driver was not fast enough"
			  : "; too many",
		b->steal > STEAL_MAX * seconds ? "; CPU time was stolen" : "");
}

/* A rate is too high once it has failed in each of its attempts: halving never comes back to it. */
static void try_rate(struct net_bench *b, double rate, struct search *s, struct trial *t)
{
	unsigned failed = 0;

	for (unsigned i = 0; i < b->opt.attempts + RETRIES && failed < b->opt.attempts; i++) {
		one_trial(b, rate, t);
		if (interrupted())
			return;
		s->trials++;
		if (t->passed)
			return;
		failed += b->steal <= STEAL_MAX * b->opt.trial_ms / 1e3;
	}
}

/* The highest rate to try: a little more than what a sender reaches who waits for the receiver. */
static double upper_bound(struct net_bench *b)
{
	struct net_totals n;

	if (b->opt.rate)
		return b->opt.rate;
	b->opt.load.rate = 0;
	net_run(b, WARM_UP_US);
	net_run(b, (uint64_t)b->opt.trial_ms * 1000);
	net_totals(b, &n);
	if (!n.received || interrupted())
		return 0;
	fprintf(stderr, "%12.0f frames a second in a closed loop\n", n.rate);
	return n.rate * UPPER_BOUND;
}

void net_search(struct net_bench *b, struct search *s)
{
	double low = 0, high, step;
	struct trial t = { 0 };

	*s = (struct search) { .limit = "the back-end" };
	high = s->upper = upper_bound(b);
	step = high * b->opt.resolution / 100;
	if (high <= 0) {
		s->limit = interrupted() ? "the signal" : s->limit;
		return;
	}
	try_rate(b, high, s, &t);
	if (t.passed) {
		low = high;
		s->limit = "the highest rate that was tried";
	}
	while (high - low > step && !interrupted()) {
		double middle = (low + high) / 2;

		try_rate(b, middle, s, &t);
		if (t.passed) {
			low = middle;
		} else if (!interrupted()) {
			high = middle;
			s->limit = t.late ? "the driver" : "the back-end";
		}
	}
	if (interrupted())
		s->limit = "the signal";
	s->rate = low;
	if (low > 0)
		bring_back(b);
}
