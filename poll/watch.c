/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watchdog. A worker writes to eventfds whose open file the front-end shares: it can clear
 * O_NONBLOCK and fill the counter whenever it likes, and then write(2) sleeps for as long as it
 * pleases. Eventfds take no flag with the call (pwritev2 with RWF_NOWAIT is not supported), so what
 * remains is to notice, and to end the call by a signal: it returns EINTR, and its caller knows
 * whom to blame.
 *
 * A thread of its own, because the control thread itself waits for rounds of the workers
 * (worker_call_wait()), and would wait for a blocked one for ever.
 */
#include "base/error.h"
#include "poll/worker_impl.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

/* Its default action is to be ignored, and nobody else here has a use for it. */
#define WATCH_SIGNAL SIGURG
#define NS_PER_S 1000000000L
#define TICK_NS (NS_PER_S / 40)
#define TICK_ASLEEP_NS NS_PER_S /* while no worker is awake */
#define STILL_TICKS_MAX 2

void watch_allow(sigset_t *blocked)
{
	sigdelset(blocked, WATCH_SIGNAL);
}

static void nothing(int signo)
{
	(void)signo;
}

/*
 * Interrupts @w if it is awake and has not come around for a while; again and again, since the
 * signal may have come just before the call that blocks, and the next call may block too. For a
 * worker that is merely slow it means nothing. @return whether it is awake.
 */
static bool look_after(struct worker *w)
{
	uint64_t rounds = counter_read(&w->stats.rounds);

	if (__atomic_load_n(&w->sleeping, __ATOMIC_RELAXED)) {
		w->watch.still = 0;
		return false;
	}
	if (rounds != w->watch.rounds) {
		w->watch.rounds = rounds;
		w->watch.still = 0;
	} else if (++w->watch.still >= STILL_TICKS_MAX) {
		counter_add(&w->stats.interrupts, 1);
		tgkill(getpid(), w->tid, WATCH_SIGNAL);
	}
	return true;
}

/* @return false when it is time to end. */
static bool pause_for(struct watch *watch, long ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += ns;
	until.tv_sec += until.tv_nsec / NS_PER_S;
	until.tv_nsec %= NS_PER_S;
	return sem_clockwait(&watch->stop, CLOCK_MONOTONIC, &until) < 0;
}

static void *watch_main(void *arg)
{
	struct watch *watch = arg;
	bool awake = true;

	pthread_setname_np(pthread_self(), "sluice-watch");
	while (pause_for(watch, awake ? TICK_NS : TICK_ASLEEP_NS)) {
		awake = false;
		for (unsigned i = 0; i < workers_count(watch->workers); i++)
			awake |= look_after(workers_get(watch->workers, i));
	}
	return NULL;
}

int watch_start(struct watch *watch, const struct workers *ws, struct error *err)
{
	/* Without SA_RESTART: the call that was interrupted is to end. */
	const struct sigaction act = { .sa_handler = nothing };
	sigset_t all, before;
	int rc;

	sigaction(WATCH_SIGNAL, &act, NULL);
	watch->workers = ws;
	sem_init(&watch->stop, 0, 0);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&watch->thread, NULL, watch_main, watch);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		sem_destroy(&watch->stop);
		return error_set(err, -rc, "workers: cannot start the watchdog's thread: %s",
				 strerror(rc));
	}
	watch->running = true;
	return 0;
}

void watch_stop(struct watch *watch)
{
	if (!watch->running)
		return;
	sem_post(&watch->stop);
	pthread_join(watch->thread, NULL);
	sem_destroy(&watch->stop);
	watch->running = false;
}
