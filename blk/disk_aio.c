/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/disk_aio.h"

#include "base/clock.h"
#include "blk/aio_calls.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

/* Requests that a queue can have under way; further ones go by io_uring. */
#define DEPTH 128
/* A submission is slow that takes longer and in which the thread slept; without, others had its
 * CPU. */
#define SLOW_US 500
/* After a slow one this many times its length, so that waiting takes a thousandth of the time. */
#define REST_TIMES 1000
/* After one that left requests under way or took none: another look costs nothing. */
#define REST_MS 1000
#define PROBES 4
#define PROBE_WAIT_NS 100000000

/* Linux, fs/aio.c: what io_setup()'s context points to. Read in place, as others do. */
struct aio_ring {
	unsigned id, nr, head, tail, magic, compat, incompat, header_length;
	struct io_event events[];
};
#define AIO_RING_MAGIC 0xa10a10a1u

static aio_context_t context_of(const struct aio *a)
{
	return (aio_context_t)(uintptr_t)a->ring;
}

int aio_open(struct aio *a)
{
	aio_context_t ctx = 0;
	int rc;

	*a = (struct aio) { 0 };
	rc = aio_sys_setup(DEPTH, &ctx);
	if (rc)
		return rc;
	a->ring = (struct aio_ring *)(uintptr_t)ctx;
	/* Another layout than the one that has been there since 2003. */
	if (a->ring->magic != AIO_RING_MAGIC || a->ring->incompat) {
		aio_close(a);
		return -ENOSYS;
	}
	return 0;
}

void aio_close(struct aio *a)
{
	if (a->ring)
		aio_sys_destroy(context_of(a));
	a->ring = NULL;
}

bool aio_is_on(const struct aio *a, uint64_t now)
{
	return a->ring && a->n_staged < AIO_BURST && a->n_staged + a->n_under_way < DEPTH &&
	       now >= a->rest_until;
}

void aio_stage(struct aio *a, bool is_write, bool dsync, int fd, const struct iovec *iov,
	       unsigned n_iov, uint64_t offset, void *cookie)
{
	struct iocb *c = &a->staged[a->n_staged++];

	*c = (struct iocb) {
		.aio_data = (uintptr_t)cookie,
		.aio_lio_opcode = is_write ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV,
		.aio_fildes = (uint32_t)fd,
		.aio_buf = (uintptr_t)iov,
		.aio_nbytes = n_iov,
		.aio_offset = (int64_t)offset,
		.aio_rw_flags = dsync ? RWF_DSYNC : 0,
	};
	if (n_iov == 1) {
		c->aio_lio_opcode = is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		c->aio_buf = (uintptr_t)iov->iov_base;
		c->aio_nbytes = iov->iov_len;
	}
}

/* Completions that lie in the ring. */
static unsigned n_done(const struct aio *a)
{
	unsigned head = a->ring->head;
	/* Pairs with the kernel's store of the tail: the events, then the tail. */
	unsigned tail = __atomic_load_n(&a->ring->tail, __ATOMIC_ACQUIRE);

	return tail >= head ? tail - head : tail + a->ring->nr - head;
}

/* How often the calling thread has slept. */
static long sleeps(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nvcsw;
}

static void look_at_cost(struct aio *a, uint64_t start, bool refused)
{
	uint64_t now = clock_cycles(), per_us = clock_cycles_per_us();

	if (unlikely(now - start > SLOW_US * per_us) && sleeps() != a->sleeps)
		a->rest_until = now + (now - start) * REST_TIMES;
	else if (unlikely(refused || n_done(a) < a->n_under_way))
		a->rest_until = now + REST_MS * 1000 * per_us;
}

unsigned aio_send(struct aio *a, uint64_t era, void **left, unsigned *n_left)
{
	struct iocb *list[AIO_BURST];
	unsigned n = a->n_staged;
	uint64_t start;
	long sent;

	*n_left = 0;
	if (unlikely(a->era != era)) {
		a->era = era;
		a->sleeps = sleeps();
	}
	start = clock_cycles();
	for (unsigned i = 0; i < n; i++)
		list[i] = &a->staged[i];
	sent = aio_sys_submit(context_of(a), n, list);
	if (sent < 0)
		sent = 0;
	a->n_staged = 0;
	a->n_under_way += (unsigned)sent;
	look_at_cost(a, start, sent < (long)n);
	for (unsigned i = (unsigned)sent; i < n; i++)
		left[(*n_left)++] = (void *)(uintptr_t)a->staged[i].aio_data;
	return (unsigned)sent;
}

void *aio_take(struct aio *a, int32_t *res)
{
	struct io_event *e;
	void *cookie;

	if (!a->n_under_way || !n_done(a))
		return NULL;
	e = &a->ring->events[a->ring->head];
	cookie = (void *)(uintptr_t)e->data;
	*res = (int32_t)e->res;
	a->n_under_way--;
	/* Pairs with the kernel's look at the head: the event was read, then its place is free. */
	__atomic_store_n(&a->ring->head, (a->ring->head + 1) % a->ring->nr, __ATOMIC_RELEASE);
	return cookie;
}

/* One read. @return true: done on return; else it may still be under way: *@lost. */
static bool done_at_once(struct aio *a, int fd, void *buf, size_t len, bool *lost)
{
	struct iovec iov = { buf, len };
	struct io_event event;
	void *left[AIO_BURST];
	unsigned n_left;
	int32_t res;

	aio_stage(a, false, false, fd, &iov, 1, 0, buf);
	if (aio_send(a, a->era + 1, left, &n_left) != 1)
		return false;
	if (aio_take(a, &res))
		return res >= 0;
	*lost = aio_sys_wait(context_of(a), &event, PROBE_WAIT_NS) != 1;
	return false;
}

bool aio_suits(int fd, size_t len)
{
	bool suits = true, lost = false;
	struct iovec iov = { NULL, len };
	struct aio a;
	void *buf;

	if (aio_open(&a))
		return false;
	buf = aligned_alloc(len, len);
	iov.iov_base = buf;
	suits = buf && preadv2(fd, &iov, 1, 0, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP;
	for (unsigned i = 0; suits && i < PROBES; i++)
		suits = done_at_once(&a, fd, buf, len, &lost);
	/* A device without an answer: to end the context would wait for it. */
	if (lost)
		return false;
	aio_close(&a);
	free(buf);
	return suits;
}
