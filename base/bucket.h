/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rate with a burst: a token bucket, kept as one clock (virtual scheduling, as in ATM's GCRA).
 * @due is when all that was taken so far is paid for. Whoever finds that time come may take,
 * however much it is: what is large goes into debt, and the next one waits for it, so the average
 * is exact. A clock that has fallen behind by more than @depth is moved up: what is not used is
 * lost.
 *
 * Threads may share one. Two that look at the same moment may both take what only one should have;
 * their sum is in the clock then.
 */
#ifndef SLUICE_BASE_BUCKET_H
#define SLUICE_BASE_BUCKET_H

#include "base/compiler.h"

#include <stdbool.h>

/* So fine that a unit of a fast rate is not rounded away: 16 of them are a nanosecond. */
typedef int64_t bucket_ticks_t;
#define BUCKET_TICKS_PER_NS 16
#define BUCKET_TICKS_MAX ((bucket_ticks_t)86400 * 1000000000 * BUCKET_TICKS_PER_NS)

struct bucket { /* atomic, each by itself */
	bucket_ticks_t due;
	bucket_ticks_t depth; /* what may be saved up */
	double cost;	      /* ticks of a unit; 0: there is no limit */
};

HOT double bucket_cost(const struct bucket *b)
{
	double cost;

	__atomic_load(&b->cost, &cost, __ATOMIC_RELAXED);
	return cost;
}

static inline bucket_ticks_t bucket_ticks(double ticks)
{
	return ticks < (double)BUCKET_TICKS_MAX ? (bucket_ticks_t)ticks : BUCKET_TICKS_MAX;
}

/*
 * @rate units a second (0: no limit), of which @burst may be saved up; it is full at first. @burst
 * 0: as many as 50 ms bring, so that nobody who takes need be on time.
 */
static inline void bucket_init(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ns)
{
	*b = (struct bucket) { 0 };
	if (rate == 0)
		return;
	b->cost = 1e9 * BUCKET_TICKS_PER_NS / (double)rate;
	b->depth = burst ? bucket_ticks(b->cost * (double)burst)
			 : (bucket_ticks_t)50000000 * BUCKET_TICKS_PER_NS;
	b->due = (bucket_ticks_t)now_ns * BUCKET_TICKS_PER_NS - b->depth;
}

/*
 * The same while others take from it: what is saved up, or owed, stays the same number of units.
 * Those who take at this very moment may do so by either rate, or by one's rate and the other's
 * burst.
 */
static inline void bucket_change(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ns)
{
	bucket_ticks_t now = (bucket_ticks_t)now_ns * BUCKET_TICKS_PER_NS;
	double before = bucket_cost(b);
	struct bucket to;

	bucket_init(&to, rate, burst, now_ns);
	if (rate && before > 0) {
		double owed = (double)(__atomic_load_n(&b->due, __ATOMIC_RELAXED) - now);

		to.due = now + (owed < 0 ? -bucket_ticks(-owed * to.cost / before)
					 : bucket_ticks(owed * to.cost / before));
	}
	__atomic_store_n(&b->due, to.due, __ATOMIC_RELAXED);
	__atomic_store_n(&b->depth, to.depth, __ATOMIC_RELAXED);
	__atomic_store(&b->cost, &to.cost, __ATOMIC_RELAXED);
}

/* Nanoseconds until something may be taken; 0: now. */
HOT uint64_t bucket_wait_ns(const struct bucket *b, uint64_t now_ns)
{
	bucket_ticks_t wait = __atomic_load_n(&b->due, __ATOMIC_RELAXED) -
			      (bucket_ticks_t)now_ns * BUCKET_TICKS_PER_NS;

	return bucket_cost(b) == 0 || wait <= 0 ? 0 : (uint64_t)wait / BUCKET_TICKS_PER_NS + 1;
}

/* Takes @units, whether or not they are there. */
HOT void bucket_take(struct bucket *b, uint64_t units, uint64_t now_ns)
{
	bucket_ticks_t now = (bucket_ticks_t)now_ns * BUCKET_TICKS_PER_NS, old, due, depth;
	double cost = bucket_cost(b);

	if (cost == 0)
		return;
	depth = __atomic_load_n(&b->depth, __ATOMIC_RELAXED);
	/* Nothing but the clock itself is said by it: no order with other memory. */
	old = __atomic_load_n(&b->due, __ATOMIC_RELAXED);
	do {
		due = MAX(old, now - depth) + bucket_ticks(cost * (double)units);
		due = MIN(due, now + BUCKET_TICKS_MAX);
	} while (!__atomic_compare_exchange_n(&b->due, &old, due, true, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
}

#endif
