/* SPDX-License-Identifier: Apache-2.0 */
/* Calls between threads: to a worker and to the control thread. */
#include "poll/control.h"
#include "tests/unit/poll_util.h"

#include <stdlib.h>
#include <urcu/urcu-qsbr.h>

#define POSTERS 4
#define CALLS 20000

struct numbered {
	struct call call;
	unsigned poster, number;
};

/* The runner's alone, until it has stopped. */
static unsigned next_number[POSTERS], misplaced, total;

static void run_numbered(struct call *c)
{
	struct numbered *n = container_of(c, struct numbered, call);

	misplaced += n->number != next_number[n->poster];
	next_number[n->poster] = n->number + 1;
	__atomic_store_n(&total, total + 1, __ATOMIC_RELEASE);
	free(n); /* a call belongs to its function again */
}

struct poster {
	pthread_t thread;
	unsigned index;
	struct worker *worker; /* NULL: the control thread */
};

static void *post_all(void *arg)
{
	struct poster *p = arg;

	for (unsigned i = 0; i < CALLS; i++) {
		struct numbered *n = malloc(sizeof(*n));

		*n = (struct numbered) { .call.fn = run_numbered, .poster = p->index, .number = i };
		if (p->worker)
			worker_call(p->worker, &n->call);
		else
			control_call(&n->call);
		if (i % 64 == 0)
			usleep(10);
	}
	return NULL;
}

static void start_posters(struct poster posters[POSTERS], struct worker *w)
{
	for (unsigned i = 0; i < POSTERS; i++) {
		posters[i] = (struct poster) { .index = i, .worker = w };
		cr_assert_eq(pthread_create(&posters[i].thread, NULL, post_all, &posters[i]), 0);
	}
}

static void check_all_ran(void)
{
	cr_assert_eq(misplaced, 0u);
	cr_assert_eq(total, POSTERS * CALLS);
	for (unsigned i = 0; i < POSTERS; i++)
		cr_assert_eq(next_number[i], CALLS);
}

Test(poll_call, worker_runs_calls_of_many_threads_once_and_in_order, .timeout = 60)
{
	struct workers *ws = start_workers(1, 20);
	struct poster posters[POSTERS];

	start_posters(posters, workers_get(ws, 0));
	for (unsigned i = 0; i < POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	cr_assert(EVENTUALLY(__atomic_load_n(&total, __ATOMIC_ACQUIRE) == POSTERS * CALLS, 50));
	workers_stop(ws);
	check_all_ran();
}

Test(poll_call, control_runs_calls_of_many_threads_once_and_in_order, .timeout = 60)
{
	struct poster posters[POSTERS];
	uint64_t end = clock_ns() + UINT64_C(20000000000);

	cr_assert_eq(control_init(), 0);
	start_posters(posters, NULL);
	while (total < POSTERS * CALLS && clock_ns() < end)
		cr_assert_eq(control_step(1000000), 0);
	for (unsigned i = 0; i < POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	check_all_ran();
	control_fini();
}

static void post_exit(struct call *c)
{
	(void)c;
	cr_assert(control_is_current());
	control_exit(7);
}

static void call_control_back(void *arg)
{
	cr_assert_not(control_is_current());
	control_call(arg);
}

Test(poll_call, control_run_returns_the_code_of_control_exit)
{
	struct workers *ws = start_workers(1, 20);
	struct call c = { .fn = post_exit };

	cr_assert_not(control_is_current());
	cr_assert_eq(control_init(), 0);
	cr_assert(control_is_current());
	worker_call_wait(workers_get(ws, 0), call_control_back, &c);
	cr_assert_eq(control_run(), 7);
	workers_stop(ws);
	control_fini();
	cr_assert_not(control_is_current());
}

static void count_call(struct call *c)
{
	(void)c;
	total++;
}

Test(poll_call, control_fini_runs_what_was_posted)
{
	struct call c[3] = { { .fn = count_call }, { .fn = count_call }, { .fn = count_call } };

	cr_assert_eq(control_init(), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++)
		control_call(&c[i]);
	control_fini();
	cr_assert_eq(total, 3u);
}

/* A call that posts itself again waits for the next turn, so that it cannot starve its runner. */
static struct call_queue again_queue;

static void post_again(struct call *c)
{
	total++;
	call_post(&again_queue, c);
}

Test(poll_call, call_posted_while_running_waits_for_the_next_turn)
{
	struct call c = { .fn = post_again };

	cr_assert_eq(call_run_all(&again_queue), 0u);
	cr_assert_eq(call_post(&again_queue, &c), 1);
	for (unsigned i = 1; i <= 3; i++) {
		cr_assert_eq(call_run_all(&again_queue), 1u);
		cr_assert_eq(total, i);
	}
}

static void slow(void *arg)
{
	usleep(50000);
	STORE(*(bool *)arg, true);
}

Test(poll_call, call_wait_waits_for_a_slow_function)
{
	struct workers *ws = start_workers(1, 20);
	bool done = false;

	worker_call_wait(workers_get(ws, 0), slow, &done);
	cr_assert(done);
	workers_stop(ws);
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

static void call_wait_nested(void *arg)
{
	worker_call_wait(worker_current(), set_flag, arg);
	cr_assert(*(bool *)arg); /* run here and now */
}

Test(poll_call, call_wait_on_the_worker_itself_runs_directly, .timeout = 10)
{
	struct workers *ws = start_workers(1, 20);
	bool done = false;

	cr_assert_null(worker_current());
	worker_call_wait(workers_get(ws, 0), call_wait_nested, &done);
	cr_assert(done);
	workers_stop(ws);
}

static void increment(void *arg)
{
	++*(uint64_t *)arg;
}

/* Each call meets the worker asleep, awake or between the two. A lost wake-up hangs here. */
Test(poll_call, no_call_is_lost_while_the_worker_falls_asleep, .timeout = 60)
{
	struct workers *ws = start_workers(1, 1);
	struct worker *w = workers_get(ws, 0);
	uint64_t n = 0, i, end = clock_ns() + UINT64_C(2000000000);

	for (i = 0; i < 1000000 && clock_ns() < end; i++) {
		worker_call_wait(w, increment, &n);
		for (uint64_t spin = i * 37 % 2000; spin; spin--)
			__asm__ volatile("");
	}
	cr_assert_eq(n, i);
	cr_assert_gt(i, 100u);
	cr_assert_gt(counter_read(&worker_stats(w)->sleeps), 10u);
	workers_stop(ws);
}

/* A grace period ends both beside a worker that sleeps and beside one that polls. */
Test(poll_call, rcu_grace_periods_end, .timeout = 20)
{
	struct workers *ws = start_workers(1, 1000000);
	struct worker *w = workers_get(ws, 0);
	struct queue q;

	cr_assert(EVENTUALLY(counter_read(&worker_stats(w)->sleeps) > 0, 15));
	urcu_qsbr_synchronize_rcu();
	queue_open(&q);
	worker_add(w, &q.poller);
	cr_assert_eq(worker_n_active(w), 1u);
	urcu_qsbr_synchronize_rcu();
	worker_remove(&q.poller);
	workers_stop(ws);
	close(q.poller.event_fd);
}
