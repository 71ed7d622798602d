/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that pollers submit to their worker's ring. */
#include "tests/unit/poll_util.h"

#include <errno.h>
#include <string.h>

#define OPS 512

struct io {
	struct poller poller;
	struct io_op ops[OPS];
	char bytes[OPS];
	int fds[OPS]; /* pipes to read from; -1: no-operations */
	unsigned to_submit, submitted, batch;
	/* What came back, in order. */
	unsigned order[OPS * 2];
	int32_t res[OPS * 2];
	unsigned n_done;
	bool parks; /* else it stays active */
};

static unsigned io_poll(struct poller *p)
{
	struct io *io = container_of(p, struct io, poller);
	unsigned work = 0, until = MIN(io->submitted + io->batch, LOAD(io->to_submit));
	struct io_op *op;

	while ((op = poller_take_done(p))) {
		unsigned n = io->n_done;

		io->order[n] = (unsigned)(op - io->ops);
		io->res[n] = op->res;
		STORE(io->n_done, n + 1);
		work++;
	}
	while (io->submitted < until) {
		unsigned i = io->submitted;
		struct io_uring_sqe *sqe = worker_sqe(p->worker);

		if (!sqe)
			break;
		if (io->fds[i] >= 0)
			io_uring_prep_read(sqe, io->fds[i], &io->bytes[i], 1, 0);
		else
			io_uring_prep_nop(sqe);
		io->ops[i].owner = p;
		io_uring_sqe_set_data(sqe, &io->ops[i]);
		STORE(io->submitted, io->submitted + 1);
		work++;
	}
	return work;
}

static bool io_arm(struct poller *p)
{
	struct io *io = container_of(p, struct io, poller);

	return io->parks && io->submitted == LOAD(io->to_submit);
}

static const struct poller_ops io_ops = { .poll = io_poll, .arm = io_arm };

static void io_init(struct io *io, unsigned batch)
{
	memset(io, 0, sizeof(*io));
	io->poller = (struct poller) { .ops = &io_ops, .event_fd = -1 };
	io->batch = batch;
	memset(io->fds, -1, sizeof(io->fds));
}

static void check_each_came_once(const struct io *io, unsigned n)
{
	bool seen[OPS] = { false };

	cr_assert_eq(io->n_done, n);
	for (unsigned i = 0; i < n; i++) {
		cr_assert_not(seen[io->order[i]], "operation %u came twice", io->order[i]);
		seen[io->order[i]] = true;
	}
}

static void nops(unsigned ring_entries, unsigned batch)
{
	struct workers_config cfg = { .n = 1, .ring_entries = ring_entries };
	static struct io io;
	struct workers *ws;

	cr_assert_eq(workers_start(&cfg, &ws, NULL), 0);
	io_init(&io, batch);
	worker_add(workers_get(ws, 0), &io.poller);
	STORE(io.to_submit, OPS);
	cr_assert(EVENTUALLY(LOAD(io.n_done) >= OPS, 50), "%u came back", io.n_done);
	usleep(2000);
	worker_remove(&io.poller);
	check_each_came_once(&io, OPS);
	/* No-operations complete as they are submitted. */
	for (unsigned i = 0; i < OPS; i++)
		cr_assert_eq(io.order[i], i);
	workers_stop(ws);
}

Test(poll_io, each_operation_completes_exactly_once)
{
	nops(0, 16);
}

/* 8 submissions and 32 completions fit: 512 in one poll go through both queues' ends. */
Test(poll_io, nothing_is_lost_when_both_queues_of_the_ring_overflow)
{
	nops(8, OPS);
}

Test(poll_io, one_system_call_submits_a_round)
{
	struct workers *ws = start_workers(1, 0);
	struct worker *w = workers_get(ws, 0);
	static struct io io;
	uint64_t submits;

	io_init(&io, OPS);
	worker_add(w, &io.poller);
	submits = counter_read(&worker_stats(w)->submits);
	STORE(io.to_submit, OPS);
	cr_assert(EVENTUALLY(LOAD(io.n_done) == OPS, 20));
	cr_assert_eq(counter_read(&worker_stats(w)->submits), submits + 1);
	worker_remove(&io.poller);
	workers_stop(ws);
}

/* Reads of 64 pipes, written in another order than that of submission. */
static void pipes(bool parks)
{
	enum { N = 64 };
	struct workers *ws = start_workers(1, 20);
	struct worker *w = workers_get(ws, 0);
	static struct io io;
	int ends[N][2];

	io_init(&io, N);
	io.parks = parks;
	for (unsigned i = 0; i < N; i++) {
		cr_assert_eq(pipe(ends[i]), 0);
		io.fds[i] = ends[i][0];
	}
	io.to_submit = N;
	worker_add(w, &io.poller); /* no event fd: from here only completions wake it */
	cr_assert(EVENTUALLY(LOAD(io.submitted) == N, 20));
	for (unsigned i = 0; i < N; i++) {
		unsigned k = i * 29 % N;
		char c = (char)k;

		if (parks)
			cr_assert(EVENTUALLY(PARKED(&io), 20));
		cr_assert_eq(write(ends[k][1], &c, 1), 1);
		cr_assert(EVENTUALLY(LOAD(io.n_done) == i + 1, 20), "operation %u", i);
		cr_assert_eq(io.order[i], k);
		cr_assert_eq(io.res[i], 1);
		cr_assert_eq(io.bytes[k], c);
	}
	worker_remove(&io.poller);
	check_each_came_once(&io, N);
	workers_stop(ws);
	for (unsigned i = 0; i < N; i++) {
		close(ends[i][0]);
		close(ends[i][1]);
	}
}

Test(poll_io, completions_come_in_their_own_order_to_an_active_poller)
{
	pipes(false);
}

Test(poll_io, completion_wakes_a_parked_poller)
{
	pipes(true);
}

Test(poll_io, failed_operation_reports_its_error)
{
	struct workers *ws = start_workers(1, 20);
	static struct io io;

	io_init(&io, 2);
	io.fds[0] = 1000000;
	worker_add(workers_get(ws, 0), &io.poller);
	STORE(io.to_submit, 2);
	cr_assert(EVENTUALLY(LOAD(io.n_done) == 2, 20));
	worker_remove(&io.poller);
	check_each_came_once(&io, 2);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(io.res[i], io.order[i] == 0 ? -EBADF : 0);
	workers_stop(ws);
}

/*
 * A poller that was woken by a completion still has its event fd watched. That kick must neither
 * be lost nor make it poll for ever.
 */
Test(poll_io, woken_by_a_completion_and_then_by_its_event_fd)
{
	struct workers *ws = start_workers(1, 20);
	static struct io io;
	uint64_t one = 1;
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	io_init(&io, 1);
	io.parks = true;
	io.fds[0] = ends[0];
	io.poller.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	io.poller.event_is_counter = true;
	worker_add(workers_get(ws, 0), &io.poller);
	cr_assert(EVENTUALLY(PARKED(&io), 20));
	STORE(io.to_submit, 1);
	cr_assert_eq(write(io.poller.event_fd, &one, sizeof(one)), (ssize_t)sizeof(one));
	cr_assert(EVENTUALLY(LOAD(io.submitted) == 1 && PARKED(&io), 20));
	cr_assert_eq(write(ends[1], "x", 1), 1);
	cr_assert(EVENTUALLY(LOAD(io.n_done) == 1 && PARKED(&io), 20));
	STORE(io.to_submit, 2);
	cr_assert_eq(write(io.poller.event_fd, &one, sizeof(one)), (ssize_t)sizeof(one));
	cr_assert(EVENTUALLY(LOAD(io.n_done) == 2, 20));
	worker_remove(&io.poller);
	check_each_came_once(&io, 2);
	workers_stop(ws);
	close(io.poller.event_fd);
	close(ends[0]);
	close(ends[1]);
}

/* poller_wake(): from a neighbour's poll(), on a parked poller with nothing to watch. */
struct waker {
	struct poller poller;
	struct queue *target;
};

static unsigned waker_poll(struct poller *p)
{
	struct waker *k = container_of(p, struct waker, poller);

	if (LOAD(k->target->avail) == k->target->used)
		return 0;
	poller_wake(&k->target->poller);
	return 1;
}

static const struct poller_ops waker_ops = { .poll = waker_poll };

Test(poll_io, neighbour_wakes_a_parked_poller)
{
	struct workers *ws = start_workers(1, 20);
	struct worker *w = workers_get(ws, 0);
	struct queue q;
	struct waker k = { .poller = { .ops = &waker_ops, .event_fd = -1 }, .target = &q };

	queue_open(&q);
	close(q.poller.event_fd);
	q.poller.event_fd = -1;
	worker_add(w, &q.poller);
	worker_add(w, &k.poller);
	for (unsigned i = 1; i <= 100; i++) {
		cr_assert(EVENTUALLY(PARKED(&q), 20));
		STORE(q.avail, i);
		cr_assert(EVENTUALLY(LOAD(q.used) == i, 20));
	}
	cr_assert_geq(q.disarms, 100u);
	worker_remove(&k.poller);
	worker_remove(&q.poller);
	workers_stop(ws);
}
