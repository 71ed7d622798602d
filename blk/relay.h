/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that threads of a library do, or of our own, that are no workers: what they have done
 * goes back to the queue's worker here. They never block on it, nor does it on them; the worker
 * pulls, in its disk's reap(), and is called only where its poller is parked.
 *
 *	any thread   relay_answer()                     worker   relay_take()   in reap()
 *	                │  push, and if the poller                  relay_may_park()   for pending()
 *	                └─ is parked: worker_call()
 *
 * When relay_take() has given back the last of what was outstanding, no thread touches the relay
 * any more and no call of it is on its way: the queue can move or end.
 */
#ifndef SLUICE_BLK_RELAY_H
#define SLUICE_BLK_RELAY_H

#include "poll/worker.h"

/* Stands in a request: no allocation. */
struct relay_item {
	struct relay_item *next;
};

/* Many posters, one taker; lock-free. */
struct relay_stack {
	struct relay_item *newest;
};

/* Any thread. */
HOT void relay_push(struct relay_stack *s, struct relay_item *i)
{
	struct relay_item *newest = __atomic_load_n(&s->newest, __ATOMIC_RELAXED);

	do
		i->next = newest;
	while (!__atomic_compare_exchange_n(&s->newest, &newest, i, true, __ATOMIC_SEQ_CST,
					    __ATOMIC_RELAXED));
}

HOT bool relay_is_empty(struct relay_stack *s)
{
	return !__atomic_load_n(&s->newest, __ATOMIC_SEQ_CST);
}

/* The taker's thread: all of them, the oldest first. One exchange, so there is no ABA. */
HOT struct relay_item *relay_pop_all(struct relay_stack *s)
{
	struct relay_item *i = __atomic_exchange_n(&s->newest, NULL, __ATOMIC_SEQ_CST);
	struct relay_item *oldest = NULL;

	while (i) {
		struct relay_item *before = i->next;

		i->next = oldest;
		oldest = i;
		i = before;
	}
	return oldest;
}

struct relay {
	struct relay_stack done;
	uint32_t posting; /* threads between their push and the end of what it made them do */
	uint32_t parked;  /* the next push has to call the worker */
	struct call call; /* one at a time: parked is set only when none is on its way */
	struct poller *poller;

	struct relay_item *taken; /* the worker's own, the oldest first */
} CACHE_ALIGNED;

static inline void relay_called(struct call *c)
{
	struct relay *r = container_of(c, struct relay, call);

	poller_wake(r->poller);
	__atomic_fetch_sub(&r->posting, 1, __ATOMIC_SEQ_CST);
}

static inline void relay_init(struct relay *r, struct poller *poller)
{
	*r = (struct relay) { .poller = poller, .call = { .fn = relay_called } };
}

/* Any thread; @i came from @r's worker, and is its again. */
static inline void relay_answer(struct relay *r, struct relay_item *i)
{
	__atomic_fetch_add(&r->posting, 1, __ATOMIC_SEQ_CST);
	relay_push(&r->done, i);
	/* Pairs with relay_may_park(): either it sees the item, or this sees that it parks. */
	if (__atomic_exchange_n(&r->parked, 0, __ATOMIC_SEQ_CST))
		worker_call(r->poller->worker, &r->call); /* which ends the posting */
	else
		__atomic_fetch_sub(&r->posting, 1, __ATOMIC_SEQ_CST);
}

/* Worker thread. The oldest of what is done, or NULL: none for now. */
HOT struct relay_item *relay_take(struct relay *r)
{
	struct relay_item *i = r->taken;

	if (!i && unlikely(!relay_is_empty(&r->done)))
		i = r->taken = relay_pop_all(&r->done);
	if (likely(!i))
		return NULL;
	/*
	 * Once these are out the queue may end, so whoever posted them has to be through with it.
	 * They stay in taken until then, which is a few instructions, or our next round.
	 */
	if (unlikely(__atomic_load_n(&r->posting, __ATOMIC_SEQ_CST)))
		return NULL;
	r->taken = i->next;
	return i;
}

/* Worker thread. @return true: nothing is there to take, and what comes will wake the poller. */
HOT bool relay_may_park(struct relay *r)
{
	if (r->taken || __atomic_load_n(&r->posting, __ATOMIC_SEQ_CST))
		return false;
	__atomic_store_n(&r->parked, 1, __ATOMIC_SEQ_CST);
	if (likely(relay_is_empty(&r->done)))
		return true;
	__atomic_store_n(&r->parked, 0, __ATOMIC_SEQ_CST);
	return false;
}

#endif
