/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What worker.c (the loop), workers.c (threads, start and stop) and watch.c (the watchdog) share.
 * Nobody else includes it.
 */
#ifndef SLUICE_POLL_WORKER_IMPL_H
#define SLUICE_POLL_WORKER_IMPL_H

#include "poll/share.h"
#include "poll/worker.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

TAILQ_HEAD(poller_list, poller);

/* On the stack of the control thread, which waits in worker_remove(). */
struct removal {
	struct call call;
	struct poller *poller;
	struct io_op cancel_op;
	bool cancel_sent, cancel_done;
	bool was_parked;
	sem_t done;
};

struct worker {
	struct io_uring ring;
	struct poller_list active, parked;
	uint64_t now;	      /* clock_cycles() as the round began: one time for all of a round */
	uint64_t idle_cycles; /* without work for longer: park */
	struct sharing sharing;
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
	pid_t tid;
	unsigned n_pollers, n_active;
	struct worker_stats stats;

	/* Other threads write here. */
	struct call_queue calls CACHE_ALIGNED;
	bool sleeping; /* or gone */

	/* The watchdog's: what it saw when it last looked, and how often in a row it was the same.
	 */
	struct {
		uint64_t rounds;
		unsigned still;
	} watch;
};

/* Runs until worker->stopping. The thread is set up: pinned, registered with RCU, ring made. */
void worker_run(struct worker *w);

/* Sets what worker_current() answers on this thread. */
void worker_set_current(struct worker *w);

/* One thread that looks after all workers; see watch.c. */
struct watch {
	const struct workers *workers;
	pthread_t thread;
	sem_t stop;
	bool running;
};

/* Control thread. All workers run. @return 0, or -errno with @err filled. */
int watch_start(struct watch *watch, const struct workers *ws, struct error *err);
/* Control thread. No worker may block any more: all have ended. Nothing if it was not started. */
void watch_stop(struct watch *watch);
/* Takes the watchdog's signal out of the set that a worker blocks. */
void watch_allow(sigset_t *blocked);

#endif
