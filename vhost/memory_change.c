/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New guest memory, or a new IOTLB, under running queues. Each gets the new maps between two polls,
 * in one step, and goes on. Only a queue that still uses memory that has gone has to stop: its ring
 * lies there, or a request in flight does. It keeps the old ones until then, and pops nothing more.
 * What was taken out stays mapped until the last of them has stopped.
 *
 *	old maps ──► memory_change() ──► every queue has the new ones, nobody uses the rest: done
 *	                  │ somebody does: those queues stop, requests in flight finish
 *	                  ▼
 *	            memory_changed(): what was taken out is unmapped
 */
#include "vhost/iotlb.h"
#include "vhost/postcopy.h"
#include "vhost/session.h"

#define GONE_MAX 16

struct change {
	const struct mem_map *map, *both, *read, *write;
	bool forgotten; /* what has gone is not the guest's doing: there was no room for it */
	bool partial;
	struct iovec gone[GONE_MAX]; /* host memory */
	unsigned n_gone;	     /* more than GONE_MAX: take it that all of it is */
};

static bool is_gone(const struct change *c, const void *p, uint64_t len)
{
	for (unsigned i = 0; i < c->n_gone && c->n_gone <= GONE_MAX; i++) {
		const uint8_t *from = c->gone[i].iov_base;

		if ((const uint8_t *)p < from + c->gone[i].iov_len &&
		    (const uint8_t *)p + len > from)
			return true;
	}
	return c->n_gone > GONE_MAX;
}

static bool ring_is_gone(const struct change *c, const struct ring *r)
{
	return is_gone(c, r->split.desc, ring_desc_bytes(r->layout, r->size)) ||
	       is_gone(c, r->split.avail, ring_driver_bytes(r->layout, r->size, r->event_idx)) ||
	       is_gone(c, r->split.used, ring_device_bytes(r->layout, r->size, r->event_idx));
}

static bool requests_are_gone(const struct change *c, struct virtqueue *vq)
{
	const struct vhost_device_ops *ops = vq->device->ops;

	if (vq->ring.in_flight == 0 || c->n_gone == 0)
		return false;
	if (!ops->queue_uses || c->n_gone > GONE_MAX)
		return true;
	for (unsigned i = 0; i < c->n_gone; i++)
		if (ops->queue_uses(vq, c->gone[i].iov_base, c->gone[i].iov_len))
			return true;
	return false;
}

/* On the queue's worker, under its lock: from here on it pops nothing through the old maps. */
static void change_queue(struct virtqueue *vq, void *arg)
{
	const struct change *c = arg;
	struct ring *r = &vq->ring;

	vq->must_stop = ring_is_gone(c, r) || requests_are_gone(c, vq);
	if (vq->must_stop) {
		r->stalled |= RING_ENDING;
		return;
	}
	r->map = c->map;
	r->both = c->both;
	r->through[0] = c->read;
	r->through[1] = c->write;
	r->partial = c->partial;
	if (r->stalled & RING_MISSED) {
		ring_go_on(r);
		if (vq->poller)
			poller_wake(vq->poller);
	}
	/*
	 * What was looked at may be what has gone. Not so where the table was full: if everybody
	 * looked ahead again at once, it would be full again.
	 */
	if (vq->looks_ahead && c->n_gone && !c->forgotten) {
		ring_ahead_restart(r, &vq->ahead);
		poller_wake(vq->poller);
	}
}

struct worker_change {
	struct vhost_device *device;
	const struct worker *worker;
	struct change *change;
};

/* All queues of a worker's at once: each time that it is waited for costs a round of it. */
static void change_worker(void *arg)
{
	const struct worker_change *w = arg;

	for (unsigned i = 0; i < w->device->n_queues; i++) {
		struct virtqueue *vq = &w->device->queues[i];

		if (vq->state != VIRTQUEUE_RUNNING || vq->worker != w->worker)
			continue;
		spin_lock(&vq->lock);
		change_queue(vq, w->change);
		spin_unlock(&vq->lock);
	}
}

/* Is there a running queue before @index that has its worker? */
static bool worker_is_done(const struct vhost_device *d, unsigned index)
{
	for (unsigned i = 0; i < index; i++)
		if (d->queues[i].state == VIRTQUEUE_RUNNING &&
		    d->queues[i].worker == d->queues[index].worker)
			return true;
	return false;
}

/* @return 0, or HANDLER_AGAIN: somebody uses what has gone. */
static int change_queues(struct vhost_session *s, struct change *c)
{
	struct vhost_device *d = s->device;

	for (unsigned i = 0; i < d->n_queues; i++) {
		struct virtqueue *vq = &d->queues[i];
		struct worker_change w = { d, vq->worker, c };

		/* Queues that could not start for want of memory get another try. */
		vq->setup.failed = false;
		if (vq->state == VIRTQUEUE_RUNNING && !worker_is_done(d, i))
			worker_call_wait(vq->worker, change_worker, &w);
		s->memory_changing |= vq->state == VIRTQUEUE_RUNNING && vq->must_stop;
	}
	if (s->memory_changing)
		return HANDLER_AGAIN;
	memory_change_end(s);
	return 0;
}

static void change_maps(struct change *c, const struct vhost_device *d)
{
	c->map = d->map ? d->map : &mem_map_none;
	c->both = iommu_on(d) ? iotlb_both_map(d->iotlb) : c->map;
	c->read = iommu_on(d) ? iotlb_read_map(d->iotlb) : c->map;
	c->write = iommu_on(d) ? iotlb_write_map(d->iotlb) : c->map;
	c->partial = postcopy_on(d);
	/* Nothing is in the region at hand, so that all is resolved where presence is looked at. */
	if (c->partial)
		c->both = &mem_map_none;
}

int memory_change(struct vhost_session *s, struct mem_map *next, struct error *err)
{
	struct vhost_device *d = s->device;
	struct iotlb *iotlb = NULL;
	struct change c = { 0 };

	if (d->iotlb) {
		iotlb = iotlb_moved(d->iotlb, next, err);
		if (!iotlb) {
			mem_map_free(next);
			return err->code;
		}
	}
	mem_map_watch(next, d->memory_watch);
	for (unsigned i = 0; d->map && i < d->map->n; i++) {
		const struct mem_region *r = &d->map->region[i];

		if (mem_map_keeps(next, r))
			continue;
		if (c.n_gone < GONE_MAX)
			c.gone[c.n_gone] = (struct iovec) { .iov_base = r->host,
							    .iov_len = r->size };
		c.n_gone++;
	}
	s->old_map = d->map;
	s->old_iotlb = d->iotlb;
	d->map = next;
	d->iotlb = iotlb;
	change_maps(&c, d);
	return change_queues(s, &c);
}

int iotlb_change(struct vhost_session *s, struct iotlb *next, uint64_t first, uint64_t last,
		 enum iotlb_change why)
{
	struct vhost_device *d = s->device;
	struct change c = { .forgotten = why == IOTLB_WAS_FULL };

	c.n_gone = iotlb_gone(d->iotlb, next, d->map, first, last, c.gone, GONE_MAX);
	s->old_iotlb = d->iotlb;
	d->iotlb = next;
	change_maps(&c, d);
	return change_queues(s, &c);
}

void memory_refresh(struct vhost_session *s)
{
	struct change c = { 0 };

	change_maps(&c, s->device);
	change_queues(s, &c); /* nothing has gone, so that nobody stops */
}

bool memory_changed(struct vhost_session *s)
{
	if (!s->memory_changing)
		return false;
	memory_change_end(s);
	return true;
}

void memory_change_end(struct vhost_session *s)
{
	mem_map_free(s->old_map);
	s->old_map = NULL;
	iotlb_free(s->old_iotlb);
	s->old_iotlb = NULL;
	s->memory_changing = false;
}
