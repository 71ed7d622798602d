/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of poll/ share. */
#ifndef SLUICE_TESTS_POLL_UTIL_H
#define SLUICE_TESTS_POLL_UTIL_H

#include "base/clock.h"
#include "base/error.h"
#include "poll/worker.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_SEQ_CST)

/*
 * Waits for @cond to hold, for @seconds at most: less than criterion gives the test, and many, as a
 * loaded machine may give a thread no CPU for a while. @return whether it did.
 */
#define EVENTUALLY(cond, seconds)                                              \
	({                                                                     \
		uint64_t ev_end = clock_ns() + (seconds)*UINT64_C(1000000000); \
		bool ev_ok;                                                    \
		while (!(ev_ok = (cond)) && clock_ns() < ev_end)               \
			usleep(50);                                            \
		ev_ok;                                                         \
	})

/* Starts @n unpinned workers that park after @idle_us. */
static inline struct workers *start_workers(unsigned n, uint32_t idle_us)
{
	struct workers_config cfg = { .n = n, .idle_us = idle_us };
	struct workers *ws = NULL;
	struct error err = { 0 };

	cr_assert_eq(workers_start(&cfg, &ws, &err), 0, "%s", err.text);
	return ws;
}

/*
 * A queue as a virtqueue is one: a producer counts up @avail, and signals when asked to; the poller
 * counts up @used.
 */
struct queue {
	struct poller poller;
	uint64_t avail; /* producer */
	uint64_t used;	/* poller */
	bool wants_event;
	uint64_t polls, arms, disarms; /* written by the worker */
	uint64_t signals;	       /* written by the producer */
};

static inline unsigned queue_poll(struct poller *p)
{
	struct queue *q = container_of(p, struct queue, poller);
	uint64_t avail = LOAD(q->avail);
	unsigned n = (unsigned)(avail - q->used);

	STORE(q->polls, q->polls + 1);
	STORE(q->used, avail);
	return n;
}

static inline bool queue_arm(struct poller *p)
{
	struct queue *q = container_of(p, struct queue, poller);

	STORE(q->arms, q->arms + 1);
	STORE(q->wants_event, true);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the fence in queue_produce() */
	if (LOAD(q->avail) == q->used)
		return true;
	STORE(q->wants_event, false);
	return false;
}

static inline void queue_disarm(struct poller *p)
{
	struct queue *q = container_of(p, struct queue, poller);

	STORE(q->disarms, q->disarms + 1);
	STORE(q->wants_event, false);
}

static const struct poller_ops queue_ops = { queue_poll, queue_arm, queue_disarm };

static inline void queue_open(struct queue *q)
{
	*q = (struct queue) { .poller = { .ops = &queue_ops, .event_is_counter = true } };
	q->poller.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	cr_assert_geq(q->poller.event_fd, 0);
}

static inline void queue_signal(struct queue *q)
{
	uint64_t one = 1;

	cr_assert_eq(write(q->poller.event_fd, &one, sizeof(one)), (ssize_t)sizeof(one));
}

static inline void queue_produce(struct queue *q)
{
	STORE(q->avail, q->avail + 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the fence in queue_arm() */
	if (LOAD(q->wants_event)) {
		STORE(q->signals, q->signals + 1);
		queue_signal(q);
	}
}

/* A snapshot of a poller's state, from the control thread. */
static inline enum poller_state poller_state(const struct poller *p)
{
	return __atomic_load_n(&p->state, __ATOMIC_RELAXED);
}

#define PARKED(q) (poller_state(&(q)->poller) == POLLER_PARKED)

static inline void read_cpu_clock(void *ns)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	*(uint64_t *)ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* CPU time that @w's thread has used. Wakes it. */
static inline uint64_t worker_cpu_ns(struct worker *w)
{
	uint64_t ns = 0;

	worker_call_wait(w, read_cpu_clock, &ns);
	return ns;
}

/* Uses the worker less than one @part of the time? Looked at for 20 times: others steal, and are
 * counted with it. */
static inline bool rests(struct worker *w, unsigned part)
{
	bool ok = false;

	for (unsigned i = 0; i < 20 && !ok; i++) {
		uint64_t cpu = worker_cpu_ns(w), wall = clock_ns();

		usleep(200000);
		cpu = worker_cpu_ns(w) - cpu;
		wall = clock_ns() - wall;
		ok = cpu * part < wall;
	}
	return ok;
}

#endif
