/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/limit.h"

#include <string.h>

#define NS_PER_S 1000000000.0
/* Of a second at its rate: what may be saved up, so that no worker has to be on time. */
#define DEPTH_S 0.05
/* Longer than this nothing waits for a debt, and no sum of debts overflows. */
#define DEBT_MAX ((limit_time_t)86400 * 1000000000 * LIMIT_TICKS_PER_NS)
#define DEPTH_MAX DEBT_MAX

static void add_clock(struct limit *l, unsigned what, bool of_bytes, uint64_t rate, double depth_s)
{
	struct limit_clock *c = &l->clock[l->n++];
	double depth = depth_s * NS_PER_S * LIMIT_TICKS_PER_NS;

	*c = (struct limit_clock) {
		.depth = depth < (double)DEPTH_MAX ? (limit_time_t)depth : DEPTH_MAX,
		.cost = NS_PER_S * LIMIT_TICKS_PER_NS / (double)rate,
		.of_bytes = of_bytes,
		.of_reads = what != BLK_LIMIT_WRITE,
		.of_writes = what != BLK_LIMIT_READ,
	};
}

/* The rate itself; and where it may be exceeded, by as much as lasts for @burst_s at the maximum.
 */
static void add_rate(struct limit *l, unsigned what, bool of_bytes, const struct blk_rate *r,
		     double burst_s)
{
	double depth_s = DEPTH_S;

	if (r->rate == 0)
		return;
	if (r->max > r->rate) {
		depth_s += (double)(r->max - r->rate) / (double)r->rate * burst_s;
		add_clock(l, what, of_bytes, r->max, DEPTH_S);
	}
	add_clock(l, what, of_bytes, r->rate, depth_s);
}

void limit_init(struct limit *l, const struct blk_limits *rates, uint64_t now_ns)
{
	limit_time_t now = (limit_time_t)now_ns * LIMIT_TICKS_PER_NS;
	unsigned burst_s = rates->burst_s ? rates->burst_s : BLK_BURST_S_DEFAULT;

	memset(l, 0, sizeof(*l));
	for (unsigned i = 0; i < BLK_LIMITS; i++) {
		add_rate(l, i, false, &rates->ops[i], burst_s);
		add_rate(l, i, true, &rates->bytes[i], burst_s);
	}
	for (unsigned i = 0; i < l->n; i++)
		l->clock[i].due = now - l->clock[i].depth;
}

void limit_begin(const struct limit *l, struct limit_view *v, uint64_t now_ns)
{
	v->now = (limit_time_t)now_ns * LIMIT_TICKS_PER_NS;
	v->any_taken = false;
	for (unsigned i = 0; i < l->n; i++) {
		const struct limit_clock *c = &l->clock[i];
		limit_time_t due = __atomic_load_n(&c->due, __ATOMIC_RELAXED);

		v->due[i] = MAX(due, v->now - c->depth);
		v->taken[i] = 0;
	}
}

uint64_t limit_take(const struct limit *l, struct limit_view *v, bool is_write, uint64_t bytes)
{
	limit_time_t wait = 0;

	for (unsigned i = 0; i < l->n; i++) {
		const struct limit_clock *c = &l->clock[i];
		double cost = c->of_bytes ? c->cost * (double)bytes : c->cost;
		limit_time_t ticks = cost < (double)DEBT_MAX ? (limit_time_t)(cost + 0.5)
							     : DEBT_MAX;

		if (is_write ? !c->of_writes : !c->of_reads)
			continue;
		wait = MAX(wait, v->due[i] - v->now);
		v->due[i] = MIN(v->due[i] + ticks, v->now + DEBT_MAX);
		v->taken[i] = MIN(v->taken[i] + ticks, DEBT_MAX);
		v->any_taken = true;
	}
	return wait > 0 ? ((uint64_t)wait + LIMIT_TICKS_PER_NS - 1) / LIMIT_TICKS_PER_NS : 0;
}

void limit_end(struct limit *l, struct limit_view *v)
{
	if (!v->any_taken)
		return;
	for (unsigned i = 0; i < l->n; i++) {
		struct limit_clock *c = &l->clock[i];
		limit_time_t old, now = v->now;

		if (v->taken[i] == 0)
			continue;
		/* Nothing but the clock itself is said by it: no order with other memory. */
		old = __atomic_load_n(&c->due, __ATOMIC_RELAXED);
		while (!__atomic_compare_exchange_n(
			&c->due, &old, MIN(MAX(old, now - c->depth) + v->taken[i], now + DEBT_MAX),
			true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			;
	}
}
