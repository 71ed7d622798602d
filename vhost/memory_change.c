/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A new memory map under running queues. Each gets it between two polls, in one step, and goes on.
 * Only a queue that still uses something that the new map lacks has to stop: its ring lies there,
 * or a request in flight does. It keeps the old map until then, and what was taken out stays mapped
 * until the last of them has stopped.
 *
 *	old map ──► memory_change() ──► every queue has the new one; nobody uses the rest: done
 *	                  │ somebody does: those queues stop, requests in flight finish
 *	                  ▼
 *	            memory_change_end(): what was taken out is unmapped
 */
#include "vhost/session.h"

struct change {
	const struct mem_map *old, *next;
};

/* Is host memory of [@p, @p + @len) in a region of @old whose mapping @next has not? */
static bool vanishes(const struct change *c, const void *p, uint64_t len)
{
	for (unsigned i = 0; c->old && i < c->old->n; i++) {
		const struct mem_region *r = &c->old->region[i];

		if (!mem_map_keeps(c->next, r) && (const uint8_t *)p < r->host + r->size &&
		    (const uint8_t *)p + len > r->host)
			return true;
	}
	return false;
}

static bool ring_vanishes(const struct change *c, const struct ring *r)
{
	return vanishes(c, r->split.desc, ring_desc_bytes(r->layout, r->size)) ||
	       vanishes(c, r->split.avail, ring_driver_bytes(r->layout, r->size, r->event_idx)) ||
	       vanishes(c, r->split.used, ring_device_bytes(r->layout, r->size, r->event_idx));
}

static bool requests_vanish(const struct change *c, struct virtqueue *vq)
{
	const struct vhost_device_ops *ops = vq->device->ops;

	if (vq->ring.in_flight == 0)
		return false;
	for (unsigned i = 0; c->old && i < c->old->n; i++) {
		const struct mem_region *r = &c->old->region[i];

		if (!mem_map_keeps(c->next, r) &&
		    (!ops->queue_uses || ops->queue_uses(vq, r->host, r->size)))
			return true;
	}
	return false;
}

/*
 * On the queue's worker, under its lock: from here on it pops nothing through the old map. Unless
 * it has to stop: then it polls on until it is told to, and needs a map that has what its ring
 * holds. The old one stays for as long.
 */
static void change_queue(struct virtqueue *vq, void *arg)
{
	const struct change *c = arg;

	vq->must_stop = ring_vanishes(c, &vq->ring) || requests_vanish(c, vq);
	if (!vq->must_stop)
		vq->ring.map = c->next;
}

bool memory_change(struct vhost_session *s, struct mem_map *next)
{
	struct vhost_device *d = s->device;
	struct change c = { .old = d->map, .next = next };
	bool wait = false;

	mem_map_watch(next, d->memory_watch);
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct virtqueue *vq = &d->queues[i];

		/* Queues that could not start for want of memory get another try. */
		vq->setup.failed = false;
		if (vq->state != VIRTQUEUE_RUNNING)
			continue;
		vhost_queue_change(vq, change_queue, &c);
		wait |= vq->must_stop;
	}
	s->old_map = d->map;
	d->map = next;
	if (!wait)
		memory_change_end(s);
	return wait;
}

void memory_change_end(struct vhost_session *s)
{
	mem_map_free(s->old_map);
	s->old_map = NULL;
}
