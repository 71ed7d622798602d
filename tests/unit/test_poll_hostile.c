/* SPDX-License-Identifier: Apache-2.0 */
/* Event fds as a hostile or broken front-end may hand them over. */
#include "tests/unit/poll_util.h"

#include <fcntl.h>
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
	uint64_t cpu, wall;

	cr_assert(EVENTUALLY(stuck(v) > 0, 5000));
	usleep(50000); /* time between two looks grows */
	cpu = worker_cpu_ns(v->w);
	wall = clock_ns();
	usleep(200000);
	cpu = worker_cpu_ns(v->w) - cpu;
	wall = clock_ns() - wall;
	cr_assert_lt(cpu * 5, wall, "%lu of %lu ns", (unsigned long)cpu, (unsigned long)wall);
	for (unsigned i = 1; i <= 20; i++) {
		STORE(v->q.avail, v->q.avail + 1);
		cr_assert(EVENTUALLY(LOAD(v->q.used) == v->q.avail, 2000));
		cr_assert(EVENTUALLY(PARKED(&v->neighbour), 2000));
		queue_produce(&v->neighbour);
		cr_assert(EVENTUALLY(LOAD(v->neighbour.used) == i, 2000));
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
	cr_assert(EVENTUALLY(stuck(&v) > 0, 5000));
	while (read(ends[0], data, sizeof(data)) > 0)
		;
	cr_assert(EVENTUALLY(is_watched(&v), 5000));
	for (unsigned i = 0; i < 50; i++) {
		uint64_t wakes = counter_read(&worker_stats(v.w)->wakes);

		cr_assert(EVENTUALLY(PARKED(&v.q), 2000));
		STORE(v.q.avail, v.q.avail + 1);
		cr_assert_eq(write(ends[1], data, 8), 8);
		cr_assert(EVENTUALLY(LOAD(v.q.used) == v.q.avail, 2000));
		cr_assert(EVENTUALLY(counter_read(&worker_stats(v.w)->wakes) > wakes, 2000));
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
		cr_assert(EVENTUALLY(PARKED(&v.q) && LOAD(v.q.wants_event), 2000));
		queue_produce(&v.q);
		cr_assert(EVENTUALLY(LOAD(v.q.used) == v.q.avail, 2000));
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
		cr_assert(EVENTUALLY(LOAD(v.neighbour.used) == served, 2000));
	}
	cr_assert_gt(served, 10u);
	victim_close(&v);
	close(v.q.poller.event_fd);
}
