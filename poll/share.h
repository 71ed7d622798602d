/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pollers share their worker's time, not its rounds: a poll() that takes longer than those of
 * others on average (large frames to be cut, a flood, long chains) is a debt, and is paid by being
 * passed over while others who have work get as much; while nobody has, the time that passes pays.
 * Work now and then counts like work all the time: a guest can choose to have some in every other
 * round. Who has twice the usual share pays for half of what it takes, and takes twice as much so.
 * A poll() in which the thread lost its CPU to another counts for no more than one may take: its
 * poller had nothing of that time. None counts for more than keeps its poller waiting for wait_max.
 * For poll/ alone, and of the worker's thread.
 */
#ifndef SLUICE_POLL_SHARE_H
#define SLUICE_POLL_SHARE_H

#include "base/clock.h"
#include "poll/worker.h"

/* Of one worker; cycles are those of clock_cycles(). */
struct sharing {
	uint64_t fair;	     /* cycles that each has had in the last round, on average */
	uint64_t debt_max;   /* cycles; who owes more waits */
	uint64_t cost_max;   /* cycles that a poll() counts for at most which lost its CPU */
	uint64_t wait_max;   /* cycles that its poller waits for one poll() at most */
	uint64_t shares;     /* of those who had work in the last round */
	long times_lost_cpu; /* by the kernel's count, when it was asked last */
};

void sharing_init(struct sharing *s);

/* What comes together in a round. */
struct share_round {
	uint64_t spent;	 /* cycles */
	uint64_t shares; /* of the busy */
	uint64_t least;	 /* of those passed over */
};

#define SHARE_ROUND_BEGIN ((struct share_round) { .least = POLLER_SHARE })

/* The time that others had since is taken off. @return whether it still owes them some. */
HOT bool share_owes(const struct sharing *s, struct poller *p, struct share_round *r)
{
	if (likely(!p->debt))
		return false;
	p->debt = p->debt > s->fair ? p->debt - s->fair : 0;
	if (p->debt <= s->debt_max)
		return false;
	r->least = MIN(r->least, (uint64_t)p->share);
	return true;
}

/* What a poll() counts for that took longer than cost_max. */
uint64_t share_long(struct sharing *s, const struct poller *p, uint64_t cost);

/* What @cost is for one who has the usual share. */
HOT uint64_t share_weighed(const struct poller *p, uint64_t cost)
{
	return likely(p->share == POLLER_SHARE) ? cost : cost * POLLER_SHARE / p->share;
}

/* @p had work, for @cost cycles. */
HOT void share_took(struct sharing *s, struct poller *p, uint64_t cost, struct share_round *r)
{
	if (unlikely(cost > s->cost_max))
		cost = share_long(s, p, cost);
	p->cost = cost;
	p->debt += share_weighed(p, cost);
	r->spent += cost;
	r->shares += p->share;
}

/* @now: when the round began. */
HOT void share_round_end(struct sharing *s, const struct share_round *r, uint64_t now)
{
	s->shares = r->shares;
	/* Never 0: debts have an end. What nobody wants pays them at their own price. */
	s->fair = (r->shares ? r->spent * POLLER_SHARE / r->shares
			     : (clock_cycles() - now) * POLLER_SHARE / r->least) +
		  1;
}

#endif
