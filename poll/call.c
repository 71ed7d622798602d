/* SPDX-License-Identifier: Apache-2.0 */
#include "poll/call.h"

#include <stdbool.h>

int call_post(struct call_queue *q, struct call *c)
{
	struct call *head = __atomic_load_n(&q->head, __ATOMIC_RELAXED);

	do
		c->next = head;
	/* Release: pairs with the exchange in call_run_all(); what @c stands in, then @c itself. */
	while (!__atomic_compare_exchange_n(&q->head, &head, c, true, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED));
	return head == NULL;
}

unsigned call_run_all(struct call_queue *q)
{
	/* Acquire: pairs with call_post(). One exchange takes all, so there is no ABA. */
	struct call *newest = __atomic_exchange_n(&q->head, NULL, __ATOMIC_ACQUIRE);
	struct call *oldest = NULL;
	unsigned n = 0;

	while (newest) {
		struct call *before = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = before;
	}
	while (oldest) {
		struct call *c = oldest;

		oldest = c->next; /* first: @fn may free or post @c */
		c->fn(c);
		n++;
	}
	return n;
}
