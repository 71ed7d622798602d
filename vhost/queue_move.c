/* SPDX-License-Identifier: Apache-2.0 */
/* Which worker a queue runs on, and how an operator changes that. */
#include "vhost/device.h"

bool vhost_queue_move(struct virtqueue *vq, struct worker *to)
{
	struct vhost_device *d = vq->device;

	vq->home = to;
	if (vq->state == VIRTQUEUE_RUNNING && d->ops->queue_move)
		d->ops->queue_move(d, vq, to);
	return !vq->worker || vq->worker == to;
}

struct worker *vhost_queue_pick(const struct virtqueue *vq)
{
	return vq->home ? vq->home : workers_pick(vq->device->workers);
}
