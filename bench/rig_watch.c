/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kick writes to an eventfd whose open file the back-end shares: it can clear O_NONBLOCK and fill
 * the counter, and then write(2) sleeps for as long as it pleases. Eventfds take no flag with the
 * call (pwritev2 with RWF_NOWAIT is not supported), so what remains is to notice. The threads that
 * drive, and may hang there, include the main one; hence a thread of its own.
 */
#include "base/error.h"
#include "bench/rig.h"

#include <err.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

/* In each --timeout. Longer than the machine stands still now and then, one look would not do. */
#define LOOKS 4

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(rig_list, rig) watched = LIST_HEAD_INITIALIZER(watched);
static uint64_t look_every_ns; /* 0: nobody looks yet */

/* Else the thread that kicks was only kept from its CPU. */
static bool is_full(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	return poll(&p, 1, 0) == 0;
}

/* Ends the program if a kick has been under way at all of the last looks. */
static void look_at(struct rig *r)
{
	for (unsigned i = 0; i < r->n_rings; i++) {
		struct rig_kick *k = &r->kick[i];
		uint64_t turns = __atomic_load_n(&r->frontend.queue[i].kick_turns,
						 __ATOMIC_RELAXED);

		k->looks = turns % 2 && turns == k->turns ? k->looks + 1 : 0;
		k->turns = turns;
		if (k->looks > LOOKS && is_full(r->frontend.queue[i].kick_fd))
			errx(1,
			     "%s: the back-end made the kick eventfd of queue %u blocking, and "
			     "full: a kick waits for ever",
			     r->path, i);
	}
}

static void *watch_main(void *arg)
{
	const struct timespec pause = { .tv_sec = (time_t)(look_every_ns / 1000000000),
					.tv_nsec = (long)(look_every_ns % 1000000000) };

	(void)arg;
	for (;;) {
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&lock);
		for (struct rig *r = LIST_FIRST(&watched); r; r = LIST_NEXT(r, link))
			look_at(r);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void start_thread(void)
{
	sigset_t all, before;
	pthread_t thread;
	int rc;

	sigfillset(&all); /* SIGINT is for those who can be interrupted */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, NULL, watch_main, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		errx(1, "the watching thread: %s", strerror(rc));
	pthread_detach(thread);
}

void rig_watch(struct rig *r, unsigned timeout_ms)
{
	bool first;

	pthread_mutex_lock(&lock);
	LIST_INSERT_HEAD(&watched, r, link);
	first = look_every_ns == 0;
	if (first)
		look_every_ns = MAX((uint64_t)timeout_ms * 1000000 / LOOKS, UINT64_C(1000000));
	pthread_mutex_unlock(&lock);
	if (first)
		start_thread();
}

void rig_unwatch(struct rig *r)
{
	pthread_mutex_lock(&lock);
	LIST_REMOVE(r, link);
	pthread_mutex_unlock(&lock);
}
