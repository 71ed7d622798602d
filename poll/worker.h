/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker: one thread, pinned to a CPU, that runs pollers. A poller is one queue's worth of work:
 * a virtqueue, a NIC's receive queue. It belongs to one worker at a time, and only that worker
 * calls it, so nothing that a poller owns needs a lock.
 *
 *            work ┌────────┐ no work for idle_us: arm()
 *           ┌────►│ active │───────────────┐
 *           └─────┤ polled │               ▼
 *                 └────────┘           ┌────────┐
 *                     ▲   event_fd,    │ parked │   all parked: the worker sleeps in
 *                     └────────────────┤ waits  │   its io_uring, which carries event
 *                        completion    └────────┘   fds, completions and timers alike
 *
 * A parked poller costs nothing; an active one costs its poll() each round. While a poller is
 * active its event fd is neither read nor watched. idle: poll (struct workers_config) keeps every
 * poller active for ever.
 *
 * The worker's io_uring serves its pollers too: see struct io_op. All submissions of one round go
 * to the kernel in one system call, at the round's end.
 */
#ifndef SLUICE_POLL_WORKER_H
#define SLUICE_POLL_WORKER_H

#include "base/counter.h"
#include "poll/call.h"

#include <liburing.h>
#include <stdbool.h>
#include <sys/queue.h>

struct error;
struct worker;
struct workers;

/*
 * One operation in a worker's io_uring. Stands in its owner's request: no allocation. The worker
 * fills @res and appends it to owner->done, in order of completion, and makes the owner active.
 */
struct io_op {
	struct poller *owner;
	STAILQ_ENTRY(io_op) link;
	int32_t res;
};
STAILQ_HEAD(io_op_list, io_op);

struct poller_ops {
	/*
	 * Does a bounded amount of work (a batch, not all there is), so that the neighbours get
	 * their turn. @return units of work done; 0 means that there was nothing to do.
	 */
	unsigned (*poll)(struct poller *p);
	/*
	 * Asks the guest (or device) for events, then looks once more. @return true when the poller
	 * may be parked; false when work has come in between, and then notifications are off again.
	 * NULL: the poller is never parked.
	 */
	bool (*arm)(struct poller *p);
	/* Stops events again; called before the first poll() after parking. */
	void (*disarm)(struct poller *p);
};

/*
 * Where pollers together have more to do than their worker has time, they have it in these
 * proportions. The usual share, and the largest; the least is 1.
 */
#define POLLER_SHARE 100
#define POLLER_SHARE_MAX 10000

struct poller {
	/* Set by the owner before worker_add(). */
	const struct poller_ops *ops;
	int event_fd;	       /* becomes readable when there is work; -1: none. Borrowed */
	bool event_is_counter; /* an eventfd: the worker drains it, without ever blocking on it */
	uint32_t park_max_us;  /* longest time parked before it is polled again; 0: for ever */
	uint32_t share;	       /* of the worker's time, see POLLER_SHARE; 0: the usual one */
	bool rests; /* set by its poll(): there is no use in polling on; it parks at once */

	/* The owner's to read and take from, on the worker. */
	struct io_op_list done; /* completed operations; see poller_take_done() */
	struct worker *worker;	/* NULL while it is not on a worker */

	/* The worker's own. */
	enum poller_state { POLLER_OFF, POLLER_ACTIVE, POLLER_PARKED } state;
	TAILQ_ENTRY(poller) link;
	struct io_op event_op;
	bool event_armed;   /* an operation of the ring watches event_fd */
	bool removing;	    /* worker_remove() waits for that operation's end */
	uint8_t void_wakes; /* wakes by event_fd in a row that brought no work */
	uint64_t last_work; /* clock_cycles() */
	uint64_t cost;	    /* cycles of its last poll() with work; its owner may read it there */
	uint64_t debt;	    /* cycles that it has had more than its share; see share.h */
	uint64_t parked_until; /* clock_cycles(), with park_max_us */
};

enum idle_mode { IDLE_ADAPTIVE, IDLE_POLL };

struct workers_config {
	const unsigned *cpus; /* one worker for each; NULL: @n workers on any CPU, not pinned */
	unsigned n;
	enum idle_mode idle;
	uint32_t idle_us; /* an active poller parks after this long without work; 0: the default */
	unsigned ring_entries; /* submissions a round; 0: the default */
};

#define WORKER_IDLE_US_DEFAULT 100

/*
 * Counters of one worker: written by it, read by anyone with counter_read(). Cycles are those of
 * clock_cycles().
 */
struct worker_stats {
	counter_t rounds;	/* times around the loop */
	counter_t rounds_idle;	/* of these, without work */
	counter_t cycles_busy;	/* cycles in rounds with work */
	counter_t sleeps;	/* times asleep in the kernel */
	counter_t wakes;	/* pollers woken by their event fd */
	counter_t submits;	/* io_uring_enter calls for submission */
	counter_t stuck_events; /* times parked by time, because event_fd never falls silent */
	counter_t interrupts;	/* times that the watchdog found it blocked; the watchdog's own */
};

/* Control thread. Starts the threads. @return 0 and *@out, or -errno with @err filled. */
int workers_start(const struct workers_config *cfg, struct workers **out, struct error *err);

/* Control thread. Every poller must have been removed. Stops and joins the threads. NULL is fine.
 */
void workers_stop(struct workers *ws);

unsigned workers_count(const struct workers *ws);
struct worker *workers_get(const struct workers *ws, unsigned index);

/* Control thread. The worker with the fewest pollers, the lowest index among equals. */
struct worker *workers_pick(const struct workers *ws);

/* Any thread. */
unsigned worker_index(const struct worker *w);
int worker_cpu(const struct worker *w); /* -1: not pinned */
unsigned worker_n_pollers(const struct worker *w);
unsigned worker_n_active(const struct worker *w); /* a snapshot */
const struct worker_stats *worker_stats(const struct worker *w);

/* Worker thread: clock_cycles() as the round began. */
uint64_t worker_now(const struct worker *w);

/* The worker that runs the calling thread; NULL elsewhere. */
struct worker *worker_current(void);

/* Any thread, without blocking: @c runs on @w, once, between two polls. */
void worker_call(struct worker *w, struct call *c);

/* Control thread. Runs fn(arg) on @w between two polls, and returns when it is done. */
void worker_call_wait(struct worker *w, void (*fn)(void *arg), void *arg);

/*
 * Control thread. Gives @p (all owner fields set, state POLLER_OFF) to @w, and returns once it is
 * active there. worker_remove() takes it back: when it returns no poll() of @p runs or will run,
 * nothing of the ring refers to it, and event_fd may be closed. The owner must have no struct io_op
 * in flight then. Both wait for a round of the worker.
 */
void worker_add(struct worker *w, struct poller *p);
void worker_remove(struct poller *p);
/* Both, under the same conditions: when it returns @p is active on @to, which may be where it was.
 */
void worker_move(struct poller *p, struct worker *to);

/* Worker thread, between two polls. 0: the usual one. */
static inline void poller_set_share(struct poller *p, uint32_t share)
{
	p->share = share ? MIN(share, (uint32_t)POLLER_SHARE_MAX) : POLLER_SHARE;
}

/*
 * Worker thread, from any poller or call on the same worker. Makes @p active, so that it is polled
 * in this round or the next.
 */
void poller_wake(struct poller *p);

/* Worker thread. The operation that completed first, or NULL. Each comes out exactly once. */
HOT struct io_op *poller_take_done(struct poller *p)
{
	struct io_op *op = STAILQ_FIRST(&p->done);

	if (op)
		STAILQ_REMOVE_HEAD(&p->done, link);
	return op;
}

/*
 * Worker thread. A cleared submission entry of the worker's ring, to be prepared by the caller
 * (io_uring_prep_*) and tied to @op with io_uring_sqe_set_data(). @op->owner must be set and stay
 * valid until the operation comes back through poller_take_done(). It is submitted at the end of
 * the round. @return NULL when the kernel takes no more for now: try again in a later round.
 */
struct io_uring_sqe *worker_sqe(struct worker *w);

/* The ring itself, for registrations and probing. On @w's thread only. */
struct io_uring *worker_ring(struct worker *w);

#endif
