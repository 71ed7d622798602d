/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What becomes of requests that the disk has failed. on_error: report: the guest is told, at once.
 * stop: the guest waits: they are kept in a list, and one of them tries again each second, or when
 * an operator says so; when that works the others go, too. Whatever else the guest asks for goes to
 * the disk as always: other parts of it may be in order.
 *
 * A ring that ends cannot wait. Its requests try once more, and what fails then is reported.
 */
#include "base/clock.h"
#include "blk/queue.h"

#include <errno.h>

#define RETRY_NS UINT64_C(1000000000)
/* So that it is not asleep for much longer than that. */
#define REST_US 250000u

/* All of it is done again, where it was the flush behind it that failed. */
static void begin_anew(struct request *r)
{
	if (r->kind == REQUEST_WRITE)
		r->io.op = DISK_WRITE;
	else if (r->kind == REQUEST_DISCARD)
		r->io.op = DISK_DISCARD;
	else if (r->kind == REQUEST_ZERO)
		r->io.op = DISK_ZERO;
	disk_request_rewind(&r->io, request_segs(r));
}

/* What an operator wants to know; worker thread, any thread reads. */
static void note(struct blk_queue *q, const struct request *r)
{
	struct blk_fault *f = &q->stats->fault;
	uint64_t now = clock_ns();

	__atomic_store_n(&f->error, -r->io.result, __ATOMIC_RELAXED);
	__atomic_store_n(&f->kind, r->kind, __ATOMIC_RELAXED);
	__atomic_store_n(&f->sector, r->io.offset / BLK_SECTOR, __ATOMIC_RELAXED);
	__atomic_store_n(&f->last_ns, now, __ATOMIC_RELAXED);
}

static void count_waiting(struct blk_queue *q)
{
	struct blk_fault *f = &q->stats->fault;
	uint32_t n = q->failed.n + (q->failed.trying != NULL);

	if (n && !f->waiting)
		__atomic_store_n(&f->since_ns, clock_ns(), __ATOMIC_RELAXED);
	__atomic_store_n(&f->waiting, n, __ATOMIC_RELAXED);
}

static void try_again(struct blk_queue *q, struct request *r)
{
	r->issued = worker_now(q->poller.worker);
	q->disk->ops->submit(q->disk_queue, &r->io);
}

static struct request *take_first(struct blk_queue *q)
{
	struct disk_request *io = STAILQ_FIRST(&q->failed.list);

	STAILQ_REMOVE_HEAD(&q->failed.list, link);
	q->failed.n--;
	return container_of(io, struct request, io);
}

static void try_all(struct blk_queue *q)
{
	while (q->failed.n)
		try_again(q, take_first(q));
}

bool fault_keep(struct blk_queue *q, struct request *r)
{
	bool tried = r == q->failed.trying;

	/* The disk knows no such operation; that is an answer. */
	if (r->io.result == -EOPNOTSUPP)
		return false;
	note(q, r);
	/* What is gone for good is told: to try again would be to say that it is there. */
	if (!q->failed.keep || q->ending || disk_request_is_in_vain(q->disk, &r->io)) {
		if (tried)
			q->failed.trying = NULL;
		count_waiting(q);
		return false;
	}
	r->issued = 0;
	/* Now, for blk_queue_uses() has to know of all the memory that it still needs. */
	begin_anew(r);
	if (tried) {
		q->failed.trying = NULL;
		STAILQ_INSERT_HEAD(&q->failed.list, &r->io, link);
	} else {
		STAILQ_INSERT_TAIL(&q->failed.list, &r->io, link);
	}
	if (tried || q->failed.n == 0)
		q->failed.next_ns = clock_ns() + RETRY_NS;
	q->failed.n++;
	count_waiting(q);
	q->poller.park_max_us = REST_US;
	return true;
}

void fault_over(struct blk_queue *q)
{
	q->failed.trying = NULL;
	try_all(q);
	count_waiting(q);
}

unsigned fault_retry(struct blk_queue *q)
{
	unsigned n = q->failed.n;

	if (q->ending) {
		try_all(q);
	} else if (n && !q->failed.trying && clock_ns() >= q->failed.next_ns && !q->draining) {
		q->failed.trying = take_first(q);
		try_again(q, q->failed.trying);
	}
	count_waiting(q);
	/* With limits it is theirs, and no longer. */
	if (!q->throttle.active || (q->failed.n && !q->poller.park_max_us))
		q->poller.park_max_us = q->failed.n ? REST_US : 0;
	return n - q->failed.n;
}

void fault_retry_now(struct blk_queue *q)
{
	q->failed.next_ns = 0;
	poller_wake(&q->poller);
}
