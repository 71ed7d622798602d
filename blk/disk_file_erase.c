/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/disk_file_erase.h"

#include "blk/block_device.h"
#include "poll/worker.h"

#include <errno.h>
#include <signal.h>

/* Between two it is seen whether the queue ends. A multiple of any granularity. */
#define STEP (UINT64_C(16) << 20)

static int erase(const struct eraser *e, const struct disk_request *r)
{
	uint64_t end = r->offset + r->len;

	for (uint64_t at = r->offset + r->moved, step; at < end; at += step) {
		int rc;

		if (__atomic_load_n(&e->cancel, __ATOMIC_RELAXED))
			return -ECANCELED;
		step = MIN(end - at, STEP);
		rc = block_device_erase(e->fd, at, step);
		if (rc) /* those two would have it sent again, and no other begun */
			return rc == -EAGAIN || rc == -EINTR ? -EIO : rc;
	}
	return 0;
}

static void *erase_thread(void *arg)
{
	struct eraser *e = arg;

	pthread_setname_np(pthread_self(), "sluice-erase");
	for (;;) {
		while (sem_wait(&e->go) < 0)
			assert(errno == EINTR);
		if (__atomic_load_n(&e->stop, __ATOMIC_RELAXED))
			return NULL;
		e->result = erase(e, e->now);
		worker_call(e->worker, &e->done);
	}
}

/* On the worker. */
static void erased(struct call *c)
{
	struct eraser *e = container_of(c, struct eraser, done);
	struct io_op *op = &e->now->io;

	op->res = e->result;
	e->now = NULL;
	STAILQ_INSERT_TAIL(&op->owner->done, op, link);
	poller_wake(op->owner);
}

int eraser_open(struct eraser *e, int fd)
{
	sigset_t all, before;
	int rc;

	STAILQ_INIT(&e->waits);
	e->fd = fd;
	e->done.fn = erased;
	sem_init(&e->go, 0, 0);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&e->thread, NULL, erase_thread, e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	e->open = rc == 0;
	if (rc)
		sem_destroy(&e->go);
	return -rc;
}

void eraser_close(struct eraser *e)
{
	if (!e->open)
		return;
	assert(!e->now && STAILQ_EMPTY(&e->waits));
	__atomic_store_n(&e->stop, true, __ATOMIC_RELAXED);
	sem_post(&e->go);
	pthread_join(e->thread, NULL);
	sem_destroy(&e->go);
	e->open = false;
}

void eraser_begin(struct eraser *e, struct worker *w, struct disk_request *r)
{
	if (e->now) {
		STAILQ_INSERT_TAIL(&e->waits, r, link);
		return;
	}
	e->worker = w;
	e->now = r;
	sem_post(&e->go);
}

struct disk_request *eraser_next(struct eraser *e)
{
	struct disk_request *r = STAILQ_FIRST(&e->waits);

	if (r && !e->now)
		STAILQ_REMOVE_HEAD(&e->waits, link);
	return e->now ? NULL : r;
}
