/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench blk: which request comes next, and when.
 *
 * A closed loop has a request due whenever a slot is idle. An open loop (--rate, --trace) has a
 * schedule that nothing delays: a request that finds no slot idle, or the thread late, keeps the
 * time at which it was due, and its latency runs from there. So a stall of the back-end's counts
 * for every request that it would have kept waiting, and not only for those that were in flight.
 */
#include "bench/blk.h"

#include "base/clock.h"

#include <math.h>

/* An open loop whose CPU was taken away at the end of the time is behind by so many. */
#define LATE_SHARE 0.01
#define LATE_S 0.1
#define LATE_FEW 3u

bool blk_is_open_loop(const struct blk_options *o)
{
	return o->rate || (o->trace_path && !o->trace_fast);
}

static uint64_t next_random(uint64_t *s)
{
	/* xorshift64* */
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * UINT64_C(2685821657736338717);
}

void blk_load_init(struct blk_driver *d, unsigned index)
{
	const struct blk_options *o = d->run->opt;
	struct blk_load *l = &d->load;
	unsigned n = o->rig.threads;

	if (!o->trace_path) {
		uint64_t blocks = d->run->disk.bytes / o->bs;

		/* To each thread a part of its own: two at one block could not be verified. */
		l->first_block = blocks * index / n;
		l->n_blocks = blocks * (index + 1) / n - l->first_block;
	}
	l->random = clock_ns() * UINT64_C(0x9e3779b97f4a7c15) + index * 7919 + 1;
	l->random |= l->random == 0;
	l->next_trace = index;
	l->over = o->trace_path && index >= o->trace.n;
	if (o->rate)
		l->gap = (double)clock_cycles_per_us() * 1e6 * n / (double)o->rate;
}

static uint64_t pick_block(struct blk_driver *d)
{
	struct blk_load *l = &d->load;
	uint64_t block;

	do {
		if (d->run->opt->random)
			block = next_random(&l->random) % l->n_blocks;
		else
			block = l->next_block++ % l->n_blocks;
	} while (d->written.busy && d->written.busy[block]);
	return block;
}

/* Of a mix the dice decide, so that no pattern of the ring's meets one of ours. */
static enum blk_op pick_op(struct blk_driver *d)
{
	const struct blk_options *o = d->run->opt;
	struct blk_load *l = &d->load;

	if (o->fsync && l->writes >= o->fsync) {
		l->writes = 0;
		return BLK_FLUSH;
	}
	if (o->op != BLK_READ || o->read_percent == 100)
		return o->op;
	if (o->read_percent && (next_random(&l->random) >> 32) % 100 < o->read_percent)
		return BLK_READ;
	l->writes++;
	return BLK_WRITE;
}

/* When the request after this one is due. */
static void advance(struct blk_load *l, bool poisson)
{
	/* An interval of a Poisson process: from a number in (0, 1]. */
	double u = (double)((next_random(&l->random) >> 11) + 1) / 9007199254740992.0;

	l->next_at += poisson ? -log(u) * l->gap : l->gap;
}

static bool next_of_trace(struct blk_driver *d, struct blk_slot *s, uint64_t now)
{
	const struct blk_options *o = d->run->opt;
	const struct blk_trace *t = &o->trace;
	struct blk_load *l = &d->load;
	const struct blk_request *r = &t->request[l->next_trace];
	uint64_t due = d->member->from + r->at_us * clock_cycles_per_us();

	l->next_at = (double)due;
	if (!o->trace_fast && now < due)
		return false;
	s->op = r->op;
	s->offset = r->offset;
	s->len = r->len;
	s->intended = o->trace_fast ? now : due;
	l->next_trace += o->rig.threads;
	l->over = l->next_trace >= t->n;
	return true;
}

bool blk_load_next(struct blk_driver *d, struct blk_slot *s, uint64_t now)
{
	const struct blk_options *o = d->run->opt;
	struct blk_load *l = &d->load;

	if (l->over)
		return false;
	if (o->trace_path)
		return next_of_trace(d, s, now);
	if (o->rate) {
		if (l->next_at == 0)
			l->next_at = (double)now;
		if ((double)now < l->next_at)
			return false;
		s->intended = (uint64_t)l->next_at;
		advance(l, o->poisson);
	} else {
		s->intended = now;
	}
	s->op = pick_op(d);
	s->len = s->op == BLK_FLUSH ? 0 : o->bs;
	s->offset = s->op == BLK_FLUSH ? 0 : (l->first_block + pick_block(d)) * o->bs;
	return true;
}

uint64_t blk_load_unsent(struct blk_driver *d, uint64_t until)
{
	const struct blk_options *o = d->run->opt;
	const struct blk_trace *t = &o->trace;
	struct blk_load *l = &d->load;
	uint64_t n = 0, per_us = clock_cycles_per_us();

	if (o->trace_path && !o->trace_fast)
		for (uint64_t i = l->next_trace;
		     i < t->n && d->member->from + t->request[i].at_us * per_us < until;
		     i += o->rig.threads)
			n++;
	/* Without looking at each, for there may be thousands of millions; of Poisson's, the mean.
	 */
	if (o->rate && l->next_at < (double)until) {
		n = (uint64_t)ceil(((double)until - l->next_at) / l->gap);
		l->next_at += (double)n * l->gap;
	}
	return n;
}

bool blk_is_behind(uint64_t unsent, uint64_t due, double seconds)
{
	double share = seconds > LATE_S ? MAX(LATE_SHARE, LATE_S / seconds) : 1;

	return (double)unsent > LATE_FEW + share * (double)due;
}
