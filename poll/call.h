/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls between threads: a function that another thread runs at a moment of its choosing. This is
 * the only way in which the control thread touches what a worker owns, and the only way in which a
 * worker tells the control thread anything.
 */
#ifndef SLUICE_POLL_CALL_H
#define SLUICE_POLL_CALL_H

#include "base/compiler.h"

/*
 * Embedded in the caller's object, so that posting allocates nothing. Once posted it belongs to
 * the queue until @fn is entered; from then on @fn may post it again or free it.
 */
struct call {
	void (*fn)(struct call *c);
	struct call *next;
};

/* Many posters, one runner; lock-free. Zero-initialised is empty. */
struct call_queue {
	struct call *head;
};

/* Any thread. @return 1 when the queue was empty before, and so its runner may have to be woken. */
int call_post(struct call_queue *q, struct call *c);

/* The runner's thread. Runs all that was posted before, oldest first; @return how many. */
unsigned call_run_all(struct call_queue *q);

#endif
