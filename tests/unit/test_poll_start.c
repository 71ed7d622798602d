/* SPDX-License-Identifier: Apache-2.0 */
/* Starting and choosing workers. */
#include "tests/unit/poll_util.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static int start_on(const unsigned *cpus, unsigned n, struct workers **ws, struct error *err)
{
	struct workers_config cfg = { .cpus = cpus, .n = n };

	*ws = NULL;
	*err = (struct error) { 0 };
	return workers_start(&cfg, ws, err);
}

/* Some CPU that this process may run on. */
static unsigned allowed_cpu(void)
{
	cpu_set_t set;
	unsigned cpu = 0;

	cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	while (!CPU_ISSET(cpu, &set))
		cpu++;
	return cpu;
}

static void where_am_i(void *arg)
{
	cpu_set_t *set = arg;

	pthread_getaffinity_np(pthread_self(), sizeof(*set), set);
}

static void what_is_my_name(void *arg)
{
	pthread_getname_np(pthread_self(), arg, 16);
}

Test(poll_start, worker_is_pinned_to_its_cpu_and_named)
{
	unsigned cpu = allowed_cpu();
	struct workers *ws;
	struct error err;
	char name[16];
	cpu_set_t set;

	cr_assert_eq(start_on(&cpu, 1, &ws, &err), 0, "%s", err.text);
	cr_assert_eq(workers_count(ws), 1u);
	cr_assert_eq(worker_cpu(workers_get(ws, 0)), (int)cpu);
	CPU_ZERO(&set);
	worker_call_wait(workers_get(ws, 0), where_am_i, &set);
	cr_assert_eq(CPU_COUNT(&set), 1);
	cr_assert(CPU_ISSET(cpu, &set));
	worker_call_wait(workers_get(ws, 0), what_is_my_name, name);
	cr_assert_str_eq(name, "sluice-w0");
	workers_stop(ws);
}

Test(poll_start, cpu_that_does_not_exist_is_refused)
{
	const unsigned bad[] = { (unsigned)sysconf(_SC_NPROCESSORS_CONF), 8191, 8192, 4000000000u };
	struct workers *ws;
	struct error err;
	char text[32];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		unsigned cpus[2] = { allowed_cpu(), bad[i] };

		cr_assert_eq(start_on(cpus, 2, &ws, &err), -EINVAL);
		snprintf(text, sizeof(text), "CPU %u does not exist", bad[i]);
		cr_assert(strstr(err.text, text), "%s", err.text);
		cr_assert_null(ws);
	}
}

Test(poll_start, cpu_outside_the_allowed_set_is_refused)
{
	unsigned mine = allowed_cpu(), other;
	struct workers *ws;
	struct error err;
	cpu_set_t set;

	if (sysconf(_SC_NPROCESSORS_CONF) < 2)
		cr_skip_test("one CPU only");
	other = mine == 0 ? 1 : 0;
	CPU_ZERO(&set);
	CPU_SET(mine, &set);
	cr_assert_eq(sched_setaffinity(0, sizeof(set), &set), 0);
	cr_assert_eq(start_on(&other, 1, &ws, &err), -EINVAL);
	cr_assert(strstr(err.text, "may not run on CPU"), "%s", err.text);
}

Test(poll_start, cpu_named_twice_and_no_workers_are_refused)
{
	unsigned cpu = allowed_cpu(), cpus[2] = { cpu, cpu };
	struct workers *ws;
	struct error err;

	cr_assert_eq(start_on(cpus, 2, &ws, &err), -EINVAL);
	cr_assert(strstr(err.text, "twice"), "%s", err.text);
	cr_assert_eq(start_on(NULL, 0, &ws, &err), -EINVAL);
	cr_assert(strstr(err.text, "none configured"), "%s", err.text);
}

/* IORING_SETUP_CLAMP: more than the kernel gives is not an error. */
Test(poll_start, more_ring_entries_than_the_kernel_gives)
{
	struct workers_config cfg = { .n = 1, .ring_entries = 1u << 20 };
	struct error err = { 0 };
	struct workers *ws;

	cr_assert_eq(workers_start(&cfg, &ws, &err), 0, "%s", err.text);
	workers_stop(ws);
}

/* The second worker finds no descriptor left: the first is stopped again, and nothing leaks. */
Test(poll_start, failure_halfway_stops_what_had_started)
{
	struct workers_config cfg = { .n = 64 };
	struct error err = { 0 };
	struct workers *ws;
	int before = dup(0), after;

	close(before);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &(struct rlimit) { (rlim_t)before + 5, 4096 }), 0);
	cr_assert_eq(workers_start(&cfg, &ws, &err), -EMFILE, "%s", err.text);
	cr_assert(strstr(err.text, "workers: cannot create"), "%s", err.text);
	after = dup(0);
	cr_assert_eq(after, before);
	close(after);
}

Test(poll_start, pick_spreads_pollers_evenly)
{
	struct workers *ws = start_workers(3, 20);
	struct queue q[7];
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(q); i++) {
		struct worker *w = workers_pick(ws);

		cr_assert_eq(worker_index(w), i % 3);
		cr_assert_eq(worker_cpu(w), -1);
		queue_open(&q[i]);
		worker_add(w, &q[i].poller);
	}
	worker_remove(&q[1].poller);
	cr_assert_eq(worker_index(workers_pick(ws)), 1u);
	for (i = 0; i < ARRAY_SIZE(q); i++) {
		if (i != 1)
			worker_remove(&q[i].poller);
		close(q[i].poller.event_fd);
	}
	workers_stop(ws);
}

Test(poll_start, stop_without_workers_is_fine)
{
	workers_stop(NULL);
}

Test(poll_start, stats_count_rounds_and_busy_cycles)
{
	struct workers *ws = start_workers(1, 20);
	const struct worker_stats *s = worker_stats(workers_get(ws, 0));
	struct queue q;

	queue_open(&q);
	worker_add(workers_get(ws, 0), &q.poller);
	cr_assert(EVENTUALLY(PARKED(&q), 20));
	cr_assert_eq(counter_read(&s->cycles_busy), 0u);
	cr_assert_eq(counter_read(&s->rounds), counter_read(&s->rounds_idle));
	queue_produce(&q);
	cr_assert(EVENTUALLY(counter_read(&s->rounds) == counter_read(&s->rounds_idle) + 1, 20));
	cr_assert_gt(counter_read(&s->cycles_busy), 0u);
	cr_assert_gt(counter_read(&s->sleeps), 0u);
	worker_remove(&q.poller);
	workers_stop(ws);
	close(q.poller.event_fd);
}

/* seccomp does not see what a ring is asked to do, so the ring itself must refuse. */
struct attempt {
	struct poller poller;
	struct io_op op;
	uint8_t opcode;
	bool sent, back;
	int32_t res;
};

static unsigned attempt_poll(struct poller *p)
{
	struct attempt *a = container_of(p, struct attempt, poller);

	if (!a->sent) {
		struct io_uring_sqe *sqe = worker_sqe(p->worker);

		a->sent = true;
		sqe->opcode = a->opcode;
		sqe->fd = -1;
		a->op.owner = p;
		io_uring_sqe_set_data(sqe, &a->op);
	}
	if (poller_take_done(p)) {
		a->res = a->op.res;
		STORE(a->back, true);
	}
	return 1;
}

Test(poll_start, the_ring_takes_no_operation_that_opens_or_connects)
{
	static const uint8_t forbidden[] = { IORING_OP_OPENAT,	 IORING_OP_OPENAT2,
					     IORING_OP_SOCKET,	 IORING_OP_CONNECT,
					     IORING_OP_ACCEPT,	 IORING_OP_UNLINKAT,
					     IORING_OP_RENAMEAT, IORING_OP_CLOSE,
					     IORING_OP_STATX };
	static const struct poller_ops ops = { .poll = attempt_poll };
	struct workers *ws = start_workers(1, 100);

	for (unsigned i = 0; i <= ARRAY_SIZE(forbidden); i++) {
		bool allowed = i == ARRAY_SIZE(forbidden);
		struct attempt a = { .poller = { .ops = &ops, .event_fd = -1 },
				     .opcode = allowed ? IORING_OP_NOP : forbidden[i] };

		worker_add(workers_get(ws, 0), &a.poller);
		cr_assert(EVENTUALLY(LOAD(a.back), 50));
		worker_remove(&a.poller);
		cr_assert_eq(a.res, allowed ? 0 : -EACCES, "operation %u: %d", a.opcode, a.res);
	}
	workers_stop(ws);
}

/* The kernel would let the control thread have a worker's CPU each time that it wakes. */
Test(poll_start, the_control_thread_stays_off_pinned_cpus)
{
	unsigned cpu;
	struct workers_config cfg = { .cpus = &cpu, .n = 1 };
	struct error err = { 0 };
	struct workers *ws;
	cpu_set_t before, after;

	cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	for (cpu = 0; !CPU_ISSET(cpu, &before);)
		cpu++;
	cr_assert_eq(workers_start(&cfg, &ws, &err), 0, "%s", err.text);
	cr_assert_eq(sched_getaffinity(0, sizeof(after), &after), 0);
	if (CPU_COUNT(&before) > 1)
		CPU_CLR(cpu, &before); /* it stays where there is no other */
	cr_assert(CPU_EQUAL(&before, &after));
	workers_stop(ws);
}
