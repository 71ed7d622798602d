/* SPDX-License-Identifier: Apache-2.0 */
/* Parking and waking by event fds. */
#include "tests/unit/poll_util.h"

Test(poll_park, kick_wakes_a_parked_poller)
{
	struct workers *ws = start_workers(1, 50);
	struct worker *w = workers_get(ws, 0);
	struct queue q;

	queue_open(&q);
	worker_add(w, &q.poller);
	for (unsigned i = 1; i <= 200; i++) {
		cr_assert(EVENTUALLY(PARKED(&q) && LOAD(q.wants_event), 20), "round %u", i);
		queue_produce(&q);
		cr_assert(EVENTUALLY(LOAD(q.used) == i, 20), "round %u", i);
		cr_assert_eq(q.signals, i);
	}
	cr_assert_geq(counter_read(&worker_stats(w)->wakes), 200u);
	cr_assert_leq(LOAD(q.disarms), LOAD(q.arms));
	/* Each kick was taken out of the eventfd: none woke twice. */
	cr_assert_leq(counter_read(&worker_stats(w)->wakes), 201u);
	cr_assert_eq(counter_read(&worker_stats(w)->stuck_events), 0u);
	worker_remove(&q.poller);
	cr_assert_eq(q.poller.state, POLLER_OFF);
	cr_assert_null(q.poller.worker);
	workers_stop(ws);
	close(q.poller.event_fd);
}

/* The producer races parking at every distance; each item that is never consumed is a lost wake. */
Test(poll_park, no_wake_is_lost_under_a_racing_producer, .timeout = 60)
{
	const uint64_t items = 3000000, end = clock_ns() + UINT64_C(4000000000);
	struct workers *ws = start_workers(1, 1);
	struct worker *w = workers_get(ws, 0);
	uint64_t random = 88172645463325252u, waited = 0;
	struct queue q;

	queue_open(&q);
	worker_add(w, &q.poller);
	for (uint64_t i = 1; i <= items && clock_ns() < end; i++) {
		queue_produce(&q);
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		if (random % 8)
			continue;
		/* Let it catch up, and then hit the time at which it parks. */
		for (uint64_t stop = clock_ns() + UINT64_C(2000000000); LOAD(q.used) != q.avail;)
			cr_assert(clock_ns() < stop, "item %lu was never seen", (unsigned long)i);
		waited++;
		for (uint64_t n = random / 8 % 4096; n; n--)
			__asm__ volatile("");
	}
	cr_assert(EVENTUALLY(LOAD(q.used) == q.avail, 20));
	/* Without these the test would not have raced anything. */
	cr_assert_gt(q.avail, 1000u);
	cr_assert_gt(waited, 100u);
	cr_assert_gt(LOAD(q.arms), 100u);
	cr_assert_gt(counter_read(&worker_stats(w)->sleeps), 10u);
	worker_remove(&q.poller);
	workers_stop(ws);
	close(q.poller.event_fd);
}

static unsigned count_poll(struct poller *p)
{
	struct queue *q = container_of(p, struct queue, poller);

	STORE(q->polls, q->polls + 1);
	return 0;
}

static const struct poller_ops never_parked_ops = { .poll = count_poll };

Test(poll_park, event_fd_of_an_active_poller_is_neither_read_nor_watched)
{
	struct workers *ws = start_workers(1, 50);
	struct worker *w = workers_get(ws, 0);
	uint64_t count = 0, submits;
	struct queue q;

	queue_open(&q);
	q.poller.ops = &never_parked_ops;
	worker_add(w, &q.poller);
	submits = counter_read(&worker_stats(w)->submits);
	for (unsigned i = 0; i < 1000; i++)
		queue_signal(&q);
	count = LOAD(q.polls);
	cr_assert(EVENTUALLY(LOAD(q.polls) > count + 1000, 20));
	cr_assert_eq(counter_read(&worker_stats(w)->submits), submits);
	cr_assert_eq(counter_read(&worker_stats(w)->wakes), 0u);
	cr_assert_eq(read(q.poller.event_fd, &count, sizeof(count)), (ssize_t)sizeof(count));
	cr_assert_eq(count, 1000u);
	worker_remove(&q.poller);
	workers_stop(ws);
	close(q.poller.event_fd);
}

Test(poll_park, idle_poll_never_parks)
{
	struct workers_config cfg = { .n = 1, .idle = IDLE_POLL, .idle_us = 1 };
	struct workers *ws;
	struct queue q;

	cr_assert_eq(workers_start(&cfg, &ws, NULL), 0);
	queue_open(&q);
	worker_add(workers_get(ws, 0), &q.poller);
	cr_assert(EVENTUALLY(LOAD(q.polls) > 100000, 100));
	cr_assert_eq(LOAD(q.arms), 0u);
	cr_assert_eq(worker_n_active(workers_get(ws, 0)), 1u);
	worker_remove(&q.poller);
	workers_stop(ws);
	close(q.poller.event_fd);
}

Test(poll_park, parked_pollers_cost_no_cpu_time)
{
	struct workers *ws = start_workers(1, 100);
	struct worker *w = workers_get(ws, 0);
	struct queue q[8];

	for (unsigned i = 0; i < ARRAY_SIZE(q); i++) {
		queue_open(&q[i]);
		worker_add(w, &q[i].poller);
	}
	cr_assert_eq(worker_n_pollers(w), ARRAY_SIZE(q));
	cr_assert(EVENTUALLY(worker_n_active(w) == 0, 20));
	cr_assert(rests(w, 20));
	for (unsigned i = 0; i < ARRAY_SIZE(q); i++) {
		worker_remove(&q[i].poller);
		close(q[i].poller.event_fd);
	}
	cr_assert_eq(worker_n_pollers(w), 0u);
	workers_stop(ws);
}

/* A few sleep while one is busy: their kicks must come through without a sleep. */
Test(poll_park, kick_wakes_a_parked_poller_beside_an_active_one)
{
	struct workers *ws = start_workers(1, 20);
	struct worker *w = workers_get(ws, 0);
	struct queue busy, q;

	queue_open(&busy);
	busy.poller.ops = &never_parked_ops;
	queue_open(&q);
	worker_add(w, &busy.poller);
	worker_add(w, &q.poller);
	for (unsigned i = 1; i <= 50; i++) {
		cr_assert(EVENTUALLY(PARKED(&q) && LOAD(q.wants_event), 20));
		queue_produce(&q);
		cr_assert(EVENTUALLY(LOAD(q.used) == i, 20));
	}
	worker_remove(&q.poller);
	worker_remove(&busy.poller);
	workers_stop(ws);
	close(q.poller.event_fd);
	close(busy.poller.event_fd);
}

Test(poll_park, park_max_us_polls_again_without_an_event)
{
	struct workers *ws = start_workers(1, 50);
	struct worker *w = workers_get(ws, 0);
	uint64_t polls, ns;
	struct queue q;

	queue_open(&q);
	close(q.poller.event_fd);
	q.poller.event_fd = -1;
	q.poller.park_max_us = 2000;
	worker_add(w, &q.poller);
	cr_assert(EVENTUALLY(LOAD(q.arms) >= 3, 20));
	ns = clock_ns();
	polls = LOAD(q.polls);
	cr_assert(EVENTUALLY(LOAD(q.polls) >= polls + 20, 50));
	ns = clock_ns() - ns;
	/* 20 polls, 2 ms apart: a poller that spun would need a few microseconds. */
	cr_assert_gt(ns, 20000000u);
	/* Work that nobody signals is found, too. */
	STORE(q.avail, q.avail + 1);
	cr_assert(EVENTUALLY(LOAD(q.used) == q.avail, 20));
	worker_remove(&q.poller);
	workers_stop(ws);
}

Test(poll_park, remove_while_the_event_fd_is_watched)
{
	struct workers *ws = start_workers(2, 20);
	struct queue q;

	queue_open(&q);
	for (unsigned i = 0; i < 500; i++) {
		worker_add(workers_get(ws, i % 2), &q.poller);
		if (i % 4)
			cr_assert(EVENTUALLY(PARKED(&q), 20));
		if (i % 3 == 0)
			queue_signal(&q);
		worker_remove(&q.poller);
		cr_assert_eq(q.poller.state, POLLER_OFF);
		cr_assert_not(q.poller.event_armed);
		cr_assert_null(q.poller.worker);
	}
	workers_stop(ws);
	close(q.poller.event_fd);
}

struct storm {
	struct queue *q;
	bool stop;
};

static void *storm(void *arg)
{
	struct storm *s = arg;
	uint64_t one = 1;

	while (!LOAD(s->stop))
		if (write(s->q->poller.event_fd, &one, sizeof(one)) != sizeof(one))
			break;
	return NULL;
}

Test(poll_park, remove_while_events_storm, .timeout = 60)
{
	struct workers *ws = start_workers(1, 1);
	struct worker *w = workers_get(ws, 0);
	struct queue q;
	struct storm s = { .q = &q };
	pthread_t thread;

	queue_open(&q);
	cr_assert_eq(pthread_create(&thread, NULL, storm, &s), 0);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t polls;

		worker_add(w, &q.poller);
		if (i % 2)
			cr_assert(EVENTUALLY(LOAD(q.arms) > 0, 20));
		worker_remove(&q.poller);
		polls = LOAD(q.polls);
		cr_assert_eq(worker_n_pollers(w), 0u);
		cr_assert_not(q.poller.event_armed);
		if (i % 50 == 0)
			usleep(1000);
		cr_assert_eq(LOAD(q.polls), polls, "polled after it was removed");
	}
	STORE(s.stop, true);
	pthread_join(thread, NULL);
	workers_stop(ws);
	close(q.poller.event_fd);
}

/* A queue moves to another worker and loses nothing. */
Test(poll_park, move_between_workers)
{
	struct workers *ws = start_workers(2, 20);
	struct queue q;

	queue_open(&q);
	for (unsigned i = 0; i < 200; i++) {
		worker_add(workers_get(ws, i % 2), &q.poller);
		queue_produce(&q);
		cr_assert(EVENTUALLY(LOAD(q.used) == i + 1, 20));
		worker_remove(&q.poller);
	}
	workers_stop(ws);
	close(q.poller.event_fd);
}

/* A parked poller has its events on; where it goes on it is active, and they are off. */
Test(poll_park, a_parked_poller_moves_with_its_events_off)
{
	struct workers *ws = start_workers(2, 20000);
	struct queue q;

	queue_open(&q);
	worker_add(workers_get(ws, 0), &q.poller);
	for (unsigned i = 1; i <= 10; i++) {
		queue_produce(&q);
		cr_assert(EVENTUALLY(PARKED(&q) && LOAD(q.used) == i, 100));
		cr_assert(LOAD(q.wants_event));
		worker_move(&q.poller, workers_get(ws, i % 2));
		cr_assert_eq(q.poller.worker, workers_get(ws, i % 2));
		cr_assert_geq(LOAD(q.disarms), i);
		cr_assert_eq(worker_n_pollers(workers_get(ws, i % 2)), 1u);
		cr_assert_eq(worker_n_pollers(workers_get(ws, (i + 1) % 2)), 0u);
	}
	worker_remove(&q.poller);
	workers_stop(ws);
	close(q.poller.event_fd);
}
