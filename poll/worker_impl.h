/* SPDX-License-Identifier: Apache-2.0 */
/* What worker.c (the loop) and workers.c (threads, start and stop) share. Nobody else includes it.
 */
#ifndef SLUICE_POLL_WORKER_IMPL_H
#define SLUICE_POLL_WORKER_IMPL_H

#include "poll/worker.h"

#include <pthread.h>
#include <semaphore.h>

TAILQ_HEAD(poller_list, poller);

/* On the stack of the control thread, which waits in worker_remove(). */
struct removal {
	struct call call;
	struct poller *poller;
	struct io_op cancel_op;
	bool cancel_sent, cancel_done;
	sem_t done;
};

struct worker {
	struct io_uring ring;
	struct poller_list active, parked;
	uint64_t now;		/* clock_cycles() as the round began: one time for all of a round */
	uint64_t idle_cycles;	/* without work for longer: park */
	uint64_t next_deadline; /* the soonest parked_until, or sooner; UINT64_MAX: none */
	bool may_park;		/* IDLE_ADAPTIVE */
	bool stopping;
	bool wake_armed; /* the ring reads wake_fd */
	struct io_op wake_op;
	uint64_t wake_value;
	int wake_fd;
	struct removal *removal;
	unsigned index;
	int cpu; /* -1: not pinned */
	unsigned n_pollers, n_active;
	struct worker_stats stats;

	/* Other threads write here. */
	struct call_queue calls CACHE_ALIGNED;
	bool sleeping;
};

/* Runs until worker->stopping. The thread is set up: pinned, registered with RCU, ring made. */
void worker_run(struct worker *w);

/* Sets what worker_current() answers on this thread. */
void worker_set_current(struct worker *w);

#endif
