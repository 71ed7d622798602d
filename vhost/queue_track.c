/* SPDX-License-Identifier: Apache-2.0 */
/* Which rings need a memory of their chains, and whether one is there from before. */
#include "base/log.h"
#include "vhost/ring_keep.h"
#include "vhost/ring_track.h"
#include "vhost/session.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>

void queue_untrack(struct virtqueue *vq)
{
	ring_track_free(vq->track);
	vq->track = vq->ring.track = NULL;
	vq->ring.kept = NULL;
	vq->kept = (struct virtqueue_kept) { .region = NULL };
}

static int begin_or_recover(struct virtqueue *vq, struct error *err)
{
	struct ring *r = &vq->ring;
	const char *why = NULL;

	/* A ring that ran in this connection stopped with nothing in flight; it is what it says. */
	if (vq->setup.settled)
		ring_track_begin(r);
	else
		why = ring_recover(r);
	if (why) {
		queue_untrack(vq);
		return error_set(err, -EINVAL, "%s", why);
	}
	if (r->n_again)
		device_info(
			vq->device,
			"%s: %" PRIu32
			" requests were in flight when the ring stopped, or the back-end before us "
			"ended; they are done again",
			vq->name, r->n_again);
	return 0;
}

/* Does the region say what is so, since this ring ran in it before and stopped where it is? */
static bool keeps_on(const struct virtqueue *vq, void *region)
{
	const struct ring *r = &vq->ring;
	const struct virtqueue_kept *k = &vq->kept;

	return k->region == region && k->layout == r->layout && k->size == r->size &&
	       k->base == ring_base(r);
}

/* A kind that gives chains back in order: ring_keep.h. */
static int queue_keep(struct virtqueue *vq, void *region, struct error *err)
{
	struct ring *r = &vq->ring;
	const char *why = NULL;

	if (vq->setup.settled && keeps_on(vq, region))
		r->kept = r->layout == RING_PACKED ? region : NULL;
	else if (vq->setup.settled)
		ring_keep_begin(r, region);
	else
		why = ring_keep_recover(r, region);
	if (why) {
		r->kept = NULL;
		return error_set(err, -EINVAL, "%s", why);
	}
	vq->kept = (struct virtqueue_kept) { .region = region,
					     .layout = r->layout,
					     .size = r->size };
	return 0;
}

int queue_track(struct virtqueue *vq, struct error *err)
{
	const struct vhost_device *d = vq->device;
	struct ring *r = &vq->ring;
	bool in_order = vhost_has_feature(d, VIRTIO_F_IN_ORDER) && !d->ops->in_order;
	void *region = inflight_region(d->inflight, vq->index, r->layout, r->size);

	if (d->inflight && !region)
		device_warn(vq->device,
			    "%s: the front-end's in-flight buffer has no room for its %" PRIu32
			    " entries; a crash of this back-end could lose requests",
			    vq->name, r->size);
	if (d->ops->in_order && region)
		return queue_keep(vq, region, err);
	if (vq->track && (in_order || region) &&
	    ring_track_serves(vq->track, r, in_order, region)) {
		r->track = vq->track;
		return 0;
	}
	queue_untrack(vq);
	if (!in_order && !region)
		return 0;
	/* As many entries as the ring has now, not as it had when something else was agreed on. */
	vq->track = r->track = ring_track_new(r->layout, r->size, in_order, region);
	if (!vq->track)
		return error_set(err, -ENOMEM, "out of memory for %" PRIu32 " entries", r->size);
	return region ? begin_or_recover(vq, err) : 0;
}
