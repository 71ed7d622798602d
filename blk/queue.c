/* SPDX-License-Identifier: Apache-2.0 */
/* A running virtqueue's memory, and what is asked of it while it runs. */
#include "blk/queue.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/*
 * Pages that take memory when they are touched, and not before: what a guest never has in flight
 * costs nothing. The heap would clear what it has had in use before, and a huge page would be all
 * of them at once.
 */
static void *map_zeros(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_NOHUGEPAGE); /* a kernel without them refuses */
	return p;
}

int blk_queue_alloc(struct blk_queue *q)
{
	unsigned n_big = MIN(q->size, (uint32_t)BLK_QUEUE_BIG_MAX);
	size_t requests = q->size * sizeof(*q->requests);
	size_t segs = BLK_POLL_SEGS * sizeof(*q->segs);
	struct iovec *big;

	q->mem_bytes = requests + segs + (size_t)n_big * RING_CHAIN_SEGS_MAX * sizeof(*big);
	q->mem = map_zeros(q->mem_bytes);
	q->big_free = calloc(n_big, sizeof(*q->big_free));
	if (!q->mem || !q->big_free)
		return -ENOMEM;
	q->requests = q->mem;
	q->segs = (struct iovec *)((char *)q->mem + requests);
	big = q->segs + BLK_POLL_SEGS;
	STAILQ_INIT(&q->failed.list);
	STAILQ_INIT(&q->throttle.list[0]);
	STAILQ_INIT(&q->throttle.list[1]);
	while (q->n_big_free < n_big) {
		q->big_free[q->n_big_free] = big + q->n_big_free * RING_CHAIN_SEGS_MAX;
		q->n_big_free++;
	}
	return q->disk->ops->queue_open(q->disk, &q->poller, &q->disk_queue);
}

void blk_queue_free(struct blk_queue *q)
{
	if (q->disk_queue)
		q->disk->ops->queue_close(q->disk_queue);
	if (q->mem)
		munmap(q->mem, q->mem_bytes);
	free(q->big_free);
	free(q);
}

void blk_queue_stop(struct vhost_device *d, struct virtqueue *vq)
{
	struct blk_queue *q = vq->priv;

	(void)d;
	q->stopping = true;
	if (q->move_to) /* it drains already; device.c goes on from there */
		return;
	q->drain_call.fn = vq->leaves ? blk_queue_leave : blk_queue_drain;
	worker_call(vq->worker, &q->drain_call);
}

/* Requests in flight are the old worker's io_uring's, and come back there. */
void blk_queue_move(struct vhost_device *d, struct virtqueue *vq, struct worker *to)
{
	struct blk_queue *q = vq->priv;
	bool drains = q->move_to != NULL;

	(void)d;
	if (!drains && to == vq->worker)
		return;
	q->move_to = to;
	if (drains)
		return;
	q->drain_call.fn = blk_queue_pause;
	worker_call(vq->worker, &q->drain_call);
}

static void set_limits(struct virtqueue *vq, void *arg)
{
	struct blk_queue *q = vq->priv;

	q->limits = *(const struct request_limits *)arg;
}

void blk_queue_update(struct virtqueue *vq, const struct request_limits *limits)
{
	if (vq->priv)
		vhost_queue_change(vq, set_limits, (void *)limits);
}

static void retry(struct virtqueue *vq, void *arg)
{
	(void)arg;
	fault_retry_now(vq->priv);
}

void blk_queue_retry(struct virtqueue *vq)
{
	if (vq->priv)
		vhost_queue_change(vq, retry, NULL);
}

struct slow {
	uint64_t cycles;
	struct blk_stats *stats;
};

static void find_slow(struct virtqueue *vq, void *arg)
{
	const struct blk_queue *q = vq->priv;
	struct blk_stats *s = ((struct slow *)arg)->stats;
	uint64_t now = clock_cycles();

	for (uint32_t i = 0; i < q->n_used; i++) {
		const struct request *r = &q->requests[i];
		uint64_t age = now - r->issued;

		if (!r->busy || !r->issued || (int64_t)age < (int64_t)((struct slow *)arg)->cycles)
			continue;
		s->slow++;
		age = age / clock_cycles_per_us() * 1000;
		if (age <= s->slowest_ns)
			continue;
		s->slowest_ns = age;
		s->slowest_sector = r->io.offset / BLK_SECTOR;
		s->slowest = blk_kind_name(r->kind);
	}
}

void blk_queue_slow(struct virtqueue *vq, uint64_t ns, struct blk_stats *s)
{
	struct slow slow = { ns / 1000 * clock_cycles_per_us(), s };

	if (vq->priv)
		vhost_queue_change(vq, find_slow, &slow);
}

const char *blk_kind_name(unsigned kind)
{
	static const char *const names[] = {
		[REQUEST_READ] = "read",
		[REQUEST_WRITE] = "write",
		[REQUEST_FLUSH] = "flush",
		[REQUEST_DISCARD] = "discard",
		[REQUEST_ZERO] = "write zeroes",
		[REQUEST_GET_ID] = "get id",
		[REQUEST_SECURE_ERASE] = "secure erase",
		[REQUEST_GET_LIFETIME] = "get lifetime",
	};

	return kind < ARRAY_SIZE(names) ? names[kind] : "?";
}

struct limit_change {
	struct limit *limit;
	uint32_t share;
};

static void set_limit(struct virtqueue *vq, void *arg)
{
	const struct limit_change *c = arg;
	struct blk_queue *q = vq->priv;

	poller_set_share(&q->poller, c->share);
	throttle_set(q, c->limit);
}

void blk_queue_limit(struct virtqueue *vq, struct limit *limit, uint32_t share)
{
	struct limit_change c = { limit, share };

	if (vq->priv)
		vhost_queue_change(vq, set_limit, &c);
}

static bool overlaps(const struct iovec *v, uintptr_t start, uint64_t len)
{
	uintptr_t at = (uintptr_t)v->iov_base;

	return at - start < len || start - at < v->iov_len;
}

/*
 * On the worker. What the disk has passed counts, too: if it fails what is left, or the flush
 * behind it, all of it is done again (fault.c).
 */
static bool request_uses(const struct request *r, uintptr_t start, uint64_t len)
{
	const struct iovec *segs;
	struct iovec cut;
	unsigned n = request_data(r, &segs, &cut);

	if (r->status && (uintptr_t)r->status - start < len)
		return true;
	for (unsigned i = 0; i < n; i++)
		if (overlaps(&segs[i], start, len))
			return true;
	return overlaps(&cut, start, len);
}

bool blk_queue_uses(struct virtqueue *vq, const void *host, uint64_t len)
{
	const struct blk_queue *q = vq->priv;

	for (uint32_t i = 0; i < q->n_used; i++)
		if (q->requests[i].busy && request_uses(&q->requests[i], (uintptr_t)host, len))
			return true;
	return false;
}
