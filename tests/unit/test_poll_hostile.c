/* SPDX-License-Identifier: Apache-2.0 */
/* Event fds as a hostile or broken front-end may hand them over. */
#include "tests/unit/poll_util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct victim {
	struct workers *ws;
	struct worker *w;
	struct queue q, neighbour;
	bool watched;
};

/* One poller that listens to @fd, and an honest one beside it. */
static void victim_open(struct victim *v, int fd)
{
	v->ws = start_workers(1, 20);
	v->w = workers_get(v->ws, 0);
	queue_open(&v->neighbour);
	v->q = (struct queue) {
		.poller = { .ops = &queue_ops, .event_fd = fd, .event_is_counter = true }
	};
	worker_add(v->w, &v->neighbour.poller);
	worker_add(v->w, &v->q.poller);
}

static void victim_close(struct victim *v)
{
	worker_remove(&v->q.poller);
	worker_remove(&v->neighbour.poller);
	workers_stop(v->ws);
	close(v->neighbour.poller.event_fd);
}

static uint64_t stuck(struct victim *v)
{
	return counter_read(&worker_stats(v->w)->stuck_events);
}

/* The worker neither hangs nor spins, the victim's work is done late, the neighbour's at once. */
static void check_endures(struct victim *v)
{
	cr_assert(EVENTUALLY(stuck(v) > 0, 20));
	usleep(50000); /* time between two looks grows */
	cr_assert(rests(v->w, 5));
	for (unsigned i = 1; i <= 20; i++) {
		STORE(v->q.avail, v->q.avail + 1);
		cr_assert(EVENTUALLY(LOAD(v->q.used) == v->q.avail, 20));
		cr_assert(EVENTUALLY(PARKED(&v->neighbour), 20));
		queue_produce(&v->neighbour);
		cr_assert(EVENTUALLY(LOAD(v->neighbour.used) == i, 20));
	}
}

Test(poll_hostile, full_pipe_with_blocking_ends, .timeout = 30)
{
	char data[4096] = { 0 };
	struct victim v;
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(write(ends[1], data, sizeof(data)), (ssize_t)sizeof(data));
	victim_open(&v, ends[0]);
	check_endures(&v);
	victim_close(&v);
	close(ends[0]);
	close(ends[1]);
}

Test(poll_hostile, pipe_whose_other_end_is_closed, .timeout = 30)
{
	struct victim v;
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	close(ends[1]);
	victim_open(&v, ends[0]);
	check_endures(&v);
	victim_close(&v);
	close(ends[0]);
}

Test(poll_hostile, socket_whose_peer_hung_up, .timeout = 30)
{
	struct victim v;
	int ends[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	close(ends[1]);
	victim_open(&v, ends[0]);
	check_endures(&v);
	victim_close(&v);
	close(ends[0]);
}

Test(poll_hostile, device_that_is_always_readable, .timeout = 30)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	struct victim v;

	cr_assert_geq(fd, 0);
	victim_open(&v, fd);
	check_endures(&v);
	victim_close(&v);
	close(fd);
}

Test(poll_hostile, regular_file, .timeout = 30)
{
	char path[] = "/tmp/sluice-test-XXXXXX";
	int fd = mkstemp(path);
	struct victim v;

	cr_assert_geq(fd, 0);
	unlink(path);
	victim_open(&v, fd);
	check_endures(&v);
	victim_close(&v);
	close(fd);
}

/* Cannot happen unless an owner closes it too early; must not hang a worker even so. */
Test(poll_hostile, number_that_is_no_descriptor, .timeout = 30)
{
	struct victim v;

	victim_open(&v, 1000000);
	check_endures(&v);
	victim_close(&v);
}

static void read_watched(void *arg)
{
	struct victim *v = arg;

	STORE(v->watched, v->q.poller.state == POLLER_PARKED && v->q.poller.event_armed);
}

static bool is_watched(struct victim *v)
{
	worker_call_wait(v->w, read_watched, v);
	return LOAD(v->watched);
}

/* Once the fd falls silent it is trusted again, and wakes at once. */
Test(poll_hostile, fd_that_falls_silent_is_watched_again, .timeout = 30)
{
	char data[4096] = { 0 };
	struct victim v;
	int ends[2];

	cr_assert_eq(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
	cr_assert_eq(write(ends[1], data, sizeof(data)), (ssize_t)sizeof(data));
	victim_open(&v, ends[0]);
	cr_assert(EVENTUALLY(stuck(&v) > 0, 20));
	while (read(ends[0], data, sizeof(data)) > 0)
		;
	cr_assert(EVENTUALLY(is_watched(&v), 20));
	for (unsigned i = 0; i < 50; i++) {
		uint64_t wakes = counter_read(&worker_stats(v.w)->wakes);

		cr_assert(EVENTUALLY(PARKED(&v.q), 20));
		STORE(v.q.avail, v.q.avail + 1);
		cr_assert_eq(write(ends[1], data, 8), 8);
		cr_assert(EVENTUALLY(LOAD(v.q.used) == v.q.avail, 20));
		cr_assert(EVENTUALLY(counter_read(&worker_stats(v.w)->wakes) > wakes, 20));
	}
	victim_close(&v);
	close(ends[0]);
	close(ends[1]);
}

struct thief {
	int fd;
	bool stop;
};

/* Takes the count away between the event and the worker's read. */
static void *steal(void *arg)
{
	struct thief *t = arg;
	uint64_t n;

	while (!LOAD(t->stop)) {
		n = 1;
		if (write(t->fd, &n, sizeof(n)) != sizeof(n))
			break;
		if (fcntl(t->fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
			break;
		if (read(t->fd, &n, sizeof(n)) < 0)
			n = 0; /* the worker was quicker */
		if (fcntl(t->fd, F_SETFL, O_RDWR) < 0)
			break;
	}
	return NULL;
}

Test(poll_hostile, eventfd_that_blocks_and_is_emptied_by_another, .timeout = 30)
{
	struct victim v;
	struct thief t = { .fd = eventfd(0, EFD_CLOEXEC) };
	uint64_t end = clock_ns() + UINT64_C(1000000000), calls = 0, n = 0;
	pthread_t thread;

	victim_open(&v, t.fd);
	cr_assert_eq(pthread_create(&thread, NULL, steal, &t), 0);
	while (clock_ns() < end) {
		n = worker_cpu_ns(v.w); /* a worker that blocks in read() never answers */
		calls++;
	}
	cr_assert_gt(calls, 100u);
	cr_assert_gt(n, 0u);
	cr_assert_gt(counter_read(&worker_stats(v.w)->wakes), 0u);
	STORE(t.stop, true);
	pthread_join(thread, NULL);
	/* And it is an honest one from here on. */
	for (unsigned i = 0; i < 20; i++) {
		cr_assert(EVENTUALLY(PARKED(&v.q) && LOAD(v.q.wants_event), 20));
		queue_produce(&v.q);
		cr_assert(EVENTUALLY(LOAD(v.q.used) == v.q.avail, 20));
	}
	victim_close(&v);
	close(t.fd);
}

/* Kicks without work, as fast as they can be sent: the neighbour is served all the same. */
Test(poll_hostile, kicks_without_work_storm, .timeout = 30)
{
	struct victim v;
	uint64_t end, n = 1;
	unsigned served = 0;

	victim_open(&v, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	end = clock_ns() + UINT64_C(500000000);
	while (clock_ns() < end) {
		for (unsigned i = 0; i < 100; i++)
			cr_assert_eq(write(v.q.poller.event_fd, &n, sizeof(n)), (ssize_t)sizeof(n));
		queue_produce(&v.neighbour);
		served++;
		cr_assert(EVENTUALLY(LOAD(v.neighbour.used) == served, 20));
	}
	cr_assert_gt(served, 10u);
	victim_close(&v);
	close(v.q.poller.event_fd);
}

/* A poller whose poll() writes into an eventfd that is full and blocks, @writes times. */
struct blocker {
	struct poller poller;
	int fd, writes;
	int interrupted; /* that ended with EINTR */
};

static unsigned blocker_poll(struct poller *p)
{
	struct blocker *b = container_of(p, struct blocker, poller);
	const uint64_t one = 1;

	if (LOAD(b->writes) == 0)
		return 0;
	if (write(b->fd, &one, sizeof(one)) < 0 && errno == EINTR)
		STORE(b->interrupted, b->interrupted + 1);
	STORE(b->writes, b->writes - 1);
	return 1;
}

static bool blocker_arm(struct poller *p)
{
	return LOAD(container_of(p, struct blocker, poller)->writes) == 0;
}

static uint64_t interrupts(struct worker *w)
{
	return counter_read(&worker_stats(w)->interrupts);
}

Test(poll_hostile, write_that_blocks_is_ended_by_the_watchdog, .timeout = 30)
{
	static const struct poller_ops ops = { blocker_poll, blocker_arm, NULL };
	struct workers *ws = start_workers(2, 20);
	struct blocker b = { .poller = { .ops = &ops, .event_fd = -1, .park_max_us = 1000 },
			     .fd = eventfd(0, EFD_CLOEXEC) };
	uint64_t full = UINT64_MAX - 1, start;

	cr_assert_eq(write(b.fd, &full, sizeof(full)), (ssize_t)sizeof(full));
	worker_add(workers_get(ws, 1), &b.poller);
	start = clock_ns();
	STORE(b.writes, 3);
	cr_assert(EVENTUALLY(LOAD(b.interrupted) == 3, 20));
	cr_assert_geq(clock_ns() - start, UINT64_C(100000000));
	cr_assert_geq(interrupts(workers_get(ws, 1)), 3u);
	cr_assert_eq(interrupts(workers_get(ws, 0)), 0u);
	/* workers_stop() waits for the last one: the watchdog outlives the workers. */
	worker_remove(&b.poller);
	workers_stop(ws);
	close(b.fd);
}

/* Neither a worker that sleeps nor one that goes round is interrupted. */
Test(poll_hostile, watchdog_leaves_healthy_workers_alone, .timeout = 30)
{
	struct workers_config polling = { .n = 1, .idle = IDLE_POLL };
	struct workers *asleep = start_workers(1, 20), *awake = NULL;
	bool quiet = false;
	struct queue q[2];
	uint64_t before;

	cr_assert_eq(workers_start(&polling, &awake, NULL), 0);
	queue_open(&q[0]);
	queue_open(&q[1]);
	worker_add(workers_get(asleep, 0), &q[0].poller);
	worker_add(workers_get(awake, 0), &q[1].poller);
	/*
	 * One that gets no CPU stands still too, as far as anybody can see. But not in every half
	 * second of ten, in each of which the watchdog looks twenty times.
	 */
	for (unsigned i = 0; i < 20 && !quiet; i++) {
		before = interrupts(workers_get(awake, 0));
		usleep(500000);
		quiet = interrupts(workers_get(awake, 0)) == before;
	}
	cr_assert(quiet);
	cr_assert_eq(interrupts(workers_get(asleep, 0)), 0u);
	worker_remove(&q[0].poller);
	worker_remove(&q[1].poller);
	workers_stop(asleep);
	workers_stop(awake);
	close(q[0].poller.event_fd);
	close(q[1].poller.event_fd);
}

struct storm {
	pid_t tid;
	bool stop;
	uint64_t sent;
};

static void read_tid(void *arg)
{
	*(pid_t *)arg = gettid();
}

static void *send_signals(void *arg)
{
	struct storm *s = arg;

	for (; !LOAD(s->stop); s->sent++) {
		cr_assert_eq(tgkill(getpid(), s->tid, SIGURG), 0);
		usleep(20);
	}
	return NULL;
}

/* The signal may come at any moment: asleep, in a submission, between two polls. */
Test(poll_hostile, watchdog_signals_at_any_moment_lose_nothing, .timeout = 60)
{
	struct victim v;
	struct storm s = { .tid = 0 };
	pthread_t thread;

	victim_open(&v, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	worker_call_wait(v.w, read_tid, &s.tid);
	cr_assert_eq(pthread_create(&thread, NULL, send_signals, &s), 0);
	for (unsigned i = 1; i <= 2000; i++) {
		if (i % 2)
			cr_assert(EVENTUALLY(PARKED(&v.q), 20));
		queue_produce(&v.q);
		queue_produce(&v.neighbour);
		cr_assert(EVENTUALLY(LOAD(v.q.used) == i && LOAD(v.neighbour.used) == i, 20));
	}
	/* Also while pollers come and go, which waits for cancellations. */
	for (unsigned i = 0; i < 200; i++) {
		worker_remove(&v.q.poller);
		worker_add(v.w, &v.q.poller);
	}
	STORE(s.stop, true);
	pthread_join(thread, NULL);
	cr_assert_gt(s.sent, 100u);
	victim_close(&v);
	close(v.q.poller.event_fd);
}
