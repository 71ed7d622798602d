/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of a worker. Read worker_run() first, then worker_round().
 *
 * What a completion is for shows in its user_data, which is always a struct io_op: a poller's
 * event_op (its event fd became readable), the worker's wake_op (a call came in while it slept), a
 * removal's cancel_op, or else an operation that a poller's owner submitted.
 */
#include "poll/worker.h"

#include "base/clock.h"
#include "poll/worker_impl.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>
#include <urcu/urcu-qsbr.h>

/*
 * An event fd comes from the front-end and may be anything: a pipe that is never empty, a socket
 * whose peer hung up. Such an fd would wake its poller the moment it parks, for ever. So after this
 * many wakes without work in a row the fd has to prove that it can fall silent; if it does not, the
 * poller is parked by time, longer and longer, until there is work again.
 */
#define VOID_WAKES_MAX 8
#define STUCK_PARK_US 1000
#define STUCK_PARK_SHIFT_MAX 4

static __thread struct worker *current;

struct worker *worker_current(void)
{
	return current;
}

void worker_set_current(struct worker *w)
{
	current = w;
}

uint64_t worker_now(const struct worker *w)
{
	return w->now;
}

struct io_uring *worker_ring(struct worker *w)
{
	return &w->ring;
}

HOT unsigned sq_flags(struct worker *w)
{
	return __atomic_load_n(w->ring.sq.kflags, __ATOMIC_RELAXED);
}

static void submit(struct worker *w)
{
	const unsigned wants_enter = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;

	/*
	 * With DEFER_TASKRUN the kernel posts completions only from within our own system calls,
	 * and raises SQ_TASKRUN when it has some; completions that found the queue full wait
	 * likewise.
	 */
	if (io_uring_sq_ready(&w->ring)) {
		counter_add(&w->stats.submits, 1);
		/* An error (EAGAIN, EBUSY) leaves the entries where they are, for the next round.
		 */
		if (sq_flags(w) & wants_enter)
			io_uring_submit_and_get_events(&w->ring);
		else
			io_uring_submit(&w->ring);
	} else if (unlikely(sq_flags(w) & wants_enter)) {
		io_uring_get_events(&w->ring);
	}
}

struct io_uring_sqe *worker_sqe(struct worker *w)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&w->ring);

	assert(w == current);
	if (unlikely(!sqe)) {
		submit(w);
		sqe = io_uring_get_sqe(&w->ring);
	}
	/* Cleared here, because not every io_uring_prep_* sets every field. */
	if (sqe)
		*sqe = (struct io_uring_sqe) { 0 };
	return sqe;
}

/* The worker alone writes it; others may take a snapshot. */
static void set_state(struct poller *p, enum poller_state state)
{
	__atomic_store_n(&p->state, state, __ATOMIC_RELAXED);
}

static void list_active(struct worker *w, struct poller *p)
{
	set_state(p, POLLER_ACTIVE);
	p->last_work = w->now;
	TAILQ_INSERT_TAIL(&w->active, p, link);
	__atomic_store_n(&w->n_active, w->n_active + 1, __ATOMIC_RELAXED);
}

static void unlist(struct worker *w, struct poller *p)
{
	if (p->state == POLLER_ACTIVE) {
		TAILQ_REMOVE(&w->active, p, link);
		__atomic_store_n(&w->n_active, w->n_active - 1, __ATOMIC_RELAXED);
	} else if (p->state == POLLER_PARKED) {
		TAILQ_REMOVE(&w->parked, p, link);
	}
	set_state(p, POLLER_OFF);
}

void poller_wake(struct poller *p)
{
	struct worker *w = p->worker;

	if (p->state != POLLER_PARKED)
		return;
	assert(w == current);
	unlist(w, p);
	if (p->ops->disarm)
		p->ops->disarm(p);
	list_active(w, p);
}

/* Takes the count out of an eventfd. Never blocks, whatever the fd is and however it is flagged. */
static void drain(struct poller *p)
{
	uint64_t n;
	struct iovec iov = { &n, sizeof(n) };

	/*
	 * The front-end shares the open file and may clear O_NONBLOCK at any time, so the flag must
	 * come with the call. What cannot be read like this (EOPNOTSUPP) stays as it is, and
	 * event_is_stuck() will see to it.
	 */
	if (p->event_is_counter && preadv2(p->event_fd, &iov, 1, -1, RWF_NOWAIT) < 0)
		return;
}

static bool event_is_stuck(struct poller *p)
{
	struct pollfd fd = { .fd = p->event_fd, .events = POLLIN };

	return poll(&fd, 1, 0) > 0;
}

/* Asks the ring to watch the event fd, once. @return false when it takes no submissions now. */
static bool watch_event(struct worker *w, struct poller *p)
{
	struct io_uring_sqe *sqe = worker_sqe(w);

	if (!sqe)
		return false;
	io_uring_prep_poll_add(sqe, p->event_fd, POLLIN);
	io_uring_sqe_set_data(sqe, &p->event_op);
	p->event_armed = true;
	return true;
}

static void event_done(struct worker *w, struct poller *p)
{
	p->event_armed = false;
	/* Active: the poller finds the work by itself, and the count is taken out when it parks. */
	if (p->state != POLLER_PARKED)
		return;
	counter_add(&w->stats.wakes, 1);
	if (p->void_wakes < UINT8_MAX)
		p->void_wakes++;
	drain(p);
	poller_wake(p);
}

/* @return for how long at most the poller may be parked, in microseconds; 0: for ever. */
static uint32_t park_time(struct worker *w, struct poller *p, bool *watch)
{
	uint32_t us;

	*watch = p->event_fd >= 0 && !p->event_armed;
	if (likely(!*watch || p->void_wakes < VOID_WAKES_MAX))
		return p->park_max_us;
	if (!event_is_stuck(p)) {
		p->void_wakes = 0;
		return p->park_max_us;
	}
	*watch = false;
	counter_add(&w->stats.stuck_events, 1);
	us = STUCK_PARK_US << MIN((p->void_wakes - VOID_WAKES_MAX) / 4, STUCK_PARK_SHIFT_MAX);
	if (p->void_wakes < UINT8_MAX)
		p->void_wakes++;
	return p->park_max_us ? MIN(us, p->park_max_us) : us;
}

/* Parks @p, unless its owner or its own arm() finds work. */
static void park(struct worker *w, struct poller *p)
{
	uint32_t us;
	bool watch;

	if (!p->ops->arm || !STAILQ_EMPTY(&p->done))
		return;
	/*
	 * Events of the active time go first; their work stands in the ring before them, where
	 * arm() looks last. One that comes later is seen by the ring: it looks at the fd's state,
	 * not at its changes. Nothing is left there to take while the ring still waits for the
	 * first event.
	 */
	if (p->event_fd >= 0 && !p->event_armed)
		drain(p);
	p->last_work = w->now;
	if (!p->ops->arm(p))
		return;
	us = park_time(w, p, &watch);
	if (watch && !watch_event(w, p)) {
		if (p->ops->disarm)
			p->ops->disarm(p);
		return;
	}
	unlist(w, p);
	set_state(p, POLLER_PARKED);
	p->parked_until = us ? w->now + us * clock_cycles_per_us() : UINT64_MAX;
	w->next_deadline = MIN(w->next_deadline, p->parked_until);
	TAILQ_INSERT_TAIL(&w->parked, p, link);
}

/* Wakes pollers whose time has come. */
static void expire(struct worker *w)
{
	struct poller *p, *next;

	w->next_deadline = UINT64_MAX;
	for (p = TAILQ_FIRST(&w->parked); p; p = next) {
		next = TAILQ_NEXT(p, link);
		if (p->parked_until > w->now) {
			w->next_deadline = MIN(w->next_deadline, p->parked_until);
			continue;
		}
		poller_wake(p);
		/* One look, not a full spell of polling, if there is nothing to do. */
		p->last_work = w->now - w->idle_cycles - 1;
	}
}

static void complete(struct worker *w, uint64_t user_data, int32_t res)
{
	struct io_op *op = (struct io_op *)(uintptr_t)user_data;
	struct poller *p;

	/* liburing's own timeout, where the kernel is too old to wait with one. */
	if (unlikely(user_data == LIBURING_UDATA_TIMEOUT))
		return;
	if (op == &w->wake_op) {
		w->wake_armed = false;
		return;
	}
	if (w->removal && op == &w->removal->cancel_op) {
		w->removal->cancel_done = true;
		return;
	}
	p = op->owner;
	if (op == &p->event_op) {
		event_done(w, p);
		return;
	}
	op->res = res;
	STAILQ_INSERT_TAIL(&p->done, op, link);
	poller_wake(p);
}

static void reap(struct worker *w)
{
	/* What the kernel adds meanwhile waits for the next round. */
	unsigned n = io_uring_cq_ready(&w->ring);
	struct io_uring_cqe *cqe;

	while (n-- && io_uring_peek_cqe(&w->ring, &cqe) == 0) {
		uint64_t user_data = cqe->user_data;
		int32_t res = cqe->res;

		/* Given back first: disarm() may submit, and the kernel may need the room. */
		io_uring_cqe_seen(&w->ring, cqe);
		complete(w, user_data, res);
	}
}

/* One step of taking a poller off the worker: cancels the watch, and waits for both to come back.
 */
static void removal_step(struct worker *w)
{
	struct removal *r = w->removal;
	struct poller *p = r->poller;

	if (p->event_armed && !r->cancel_sent) {
		struct io_uring_sqe *sqe = worker_sqe(w);

		if (!sqe)
			return;
		io_uring_prep_cancel(sqe, &p->event_op, 0);
		io_uring_sqe_set_data(sqe, &r->cancel_op);
		r->cancel_sent = true;
	}
	if (p->event_armed || r->cancel_sent != r->cancel_done)
		return;
	w->removal = NULL;
	p->removing = false;
	p->worker = NULL;
	__atomic_store_n(&w->n_pollers, w->n_pollers - 1, __ATOMIC_RELAXED);
	sem_post(&r->done); /* @r and @p are the control thread's again */
}

static void removal_begin(struct call *c)
{
	struct removal *r = container_of(c, struct removal, call);
	struct worker *w = current;

	assert(!w->removal && r->poller->worker == w);
	r->was_parked = r->poller->state == POLLER_PARKED;
	unlist(w, r->poller);
	r->poller->removing = true;
	w->removal = r;
}

/*
 * Polls those who owe nothing; see share.h. The clock is read once for each poll() with work, for
 * one ends as the next begins.
 * @return units of work done.
 */
static unsigned poll_active(struct worker *w)
{
	struct share_round round = SHARE_ROUND_BEGIN;
	struct poller *p, *next;
	unsigned work = 0;
	uint64_t start = 0;

	for (p = TAILQ_FIRST(&w->active); p; p = next) {
		unsigned n;

		if (share_owes(&w->sharing, p, &round)) {
			next = TAILQ_NEXT(p, link);
			continue;
		}
		if (!start)
			start = clock_cycles();
		n = p->ops->poll(p);

		/* After poll(), which may have woken others: they are polled in this round too. */
		next = TAILQ_NEXT(p, link);
		if (n) {
			uint64_t now = clock_cycles();

			share_took(&w->sharing, p, now - start, &round);
			start = now;
			p->last_work = w->now;
			p->void_wakes = 0;
			work += n;
			continue;
		}
		start = 0;
		if ((p->rests || w->now - p->last_work > w->idle_cycles) && w->may_park)
			park(w, p);
	}
	share_round_end(&w->sharing, &round, w->now);
	return work;
}

/*
 * Sleeps until something completes, a call comes or the next deadline. @return at once when there
 * is a reason not to.
 */
static void worker_sleep(struct worker *w)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	uint64_t us = 0;

	if (!w->wake_armed) {
		struct io_uring_sqe *sqe = worker_sqe(w);

		if (!sqe)
			return;
		io_uring_prep_read(sqe, w->wake_fd, &w->wake_value, sizeof(w->wake_value), 0);
		io_uring_sqe_set_data(sqe, &w->wake_op);
		w->wake_armed = true;
	}
	if (w->next_deadline != UINT64_MAX) {
		uint64_t now = clock_cycles();

		if (now >= w->next_deadline)
			return;
		us = (w->next_deadline - now) / clock_cycles_per_us() + 1;
		ts.tv_sec = (int64_t)(us / 1000000);
		ts.tv_nsec = (long long)(us % 1000000) * 1000;
	}
	__atomic_store_n(&w->sleeping, true, __ATOMIC_RELAXED);
	/* Pairs with the fence in worker_call(): one of us sees the other's store. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&w->calls.head, __ATOMIC_RELAXED)) {
		counter_add(&w->stats.sleeps, 1);
		if (io_uring_sq_ready(&w->ring))
			counter_add(&w->stats.submits, 1);
		/* Whoever waits for readers need not wait for a sleeper. */
		urcu_qsbr_thread_offline();
		if (us)
			io_uring_submit_and_wait_timeout(&w->ring, &cqe, 1, &ts, NULL);
		else
			io_uring_submit_and_wait(&w->ring, 1);
		urcu_qsbr_thread_online();
	}
	__atomic_store_n(&w->sleeping, false, __ATOMIC_RELAXED);
}

/* @return units of work done. */
static unsigned worker_round(struct worker *w)
{
	unsigned work;

	w->now = clock_cycles();
	reap(w);
	if (unlikely(w->now >= w->next_deadline))
		expire(w);
	work = poll_active(w);
	if (unlikely(__atomic_load_n(&w->calls.head, __ATOMIC_RELAXED)))
		call_run_all(&w->calls);
	if (unlikely(w->removal != NULL))
		removal_step(w);
	submit(w);
	urcu_qsbr_quiescent_state();

	counter_add(&w->stats.rounds, 1);
	if (work)
		counter_add(&w->stats.cycles_busy, clock_cycles() - w->now);
	else
		counter_add(&w->stats.rounds_idle, 1);
	return work;
}

void worker_run(struct worker *w)
{
	while (!w->stopping) {
		unsigned work = worker_round(w);

		if (TAILQ_EMPTY(&w->active) && !w->stopping &&
		    !(w->removal && !w->removal->cancel_sent))
			worker_sleep(w);
		else if (!work)
			cpu_relax();
	}
}

void worker_call(struct worker *w, struct call *c)
{
	const uint64_t one = 1;

	if (!call_post(&w->calls, c))
		return; /* whoever posted first wakes the worker */
	/* Pairs with the fence in worker_sleep(). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&w->sleeping, __ATOMIC_RELAXED) &&
	    write(w->wake_fd, &one, sizeof(one)) < 0)
		assert(errno == EINTR);
}

struct call_wait {
	struct call call;
	void (*fn)(void *arg);
	void *arg;
	sem_t done;
};

static void call_wait_run(struct call *c)
{
	struct call_wait *cw = container_of(c, struct call_wait, call);

	cw->fn(cw->arg);
	sem_post(&cw->done);
}

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem) < 0)
		assert(errno == EINTR);
	sem_destroy(sem);
}

void worker_call_wait(struct worker *w, void (*fn)(void *arg), void *arg)
{
	struct call_wait cw = { .call.fn = call_wait_run, .fn = fn, .arg = arg };

	if (w == current) {
		fn(arg);
		return;
	}
	sem_init(&cw.done, 0, 0);
	worker_call(w, &cw.call);
	wait_for(&cw.done);
}

struct addition {
	struct poller *poller;
	bool disarm; /* its events are on, from where it comes from */
};

static void add(void *arg)
{
	const struct addition *a = arg;
	struct poller *p = a->poller;
	struct worker *w = p->worker;

	if (a->disarm && p->ops->disarm)
		p->ops->disarm(p);
	list_active(w, p);
	__atomic_store_n(&w->n_pollers, w->n_pollers + 1, __ATOMIC_RELAXED);
}

static void add_to(struct worker *w, struct poller *p, bool disarm)
{
	struct addition a = { .poller = p, .disarm = disarm };

	assert(p->state == POLLER_OFF && !p->worker && p->ops->poll);
	STAILQ_INIT(&p->done);
	p->event_op = (struct io_op) { .owner = p };
	p->event_armed = false;
	p->removing = false;
	p->void_wakes = 0;
	p->cost = 0;
	p->debt = 0;
	poller_set_share(p, p->share);
	p->worker = w;
	worker_call_wait(w, add, &a);
}

void worker_add(struct worker *w, struct poller *p)
{
	add_to(w, p, false);
}

/* @return whether it was parked, and so has its events on. */
static bool take_off(struct poller *p)
{
	struct removal r = { .call.fn = removal_begin, .poller = p };

	assert(p->worker && p->worker != current);
	sem_init(&r.done, 0, 0);
	worker_call(p->worker, &r.call);
	wait_for(&r.done);
	return r.was_parked;
}

void worker_remove(struct poller *p)
{
	take_off(p);
}

void worker_move(struct poller *p, struct worker *to)
{
	bool was_parked = take_off(p);

	add_to(to, p, was_parked);
}
