/* SPDX-License-Identifier: Apache-2.0 */
/* A virtqueue from what the front-end said of it to a running ring, and back. */
#include "base/clock.h"
#include "poll/control.h"
#include "vhost/dirty_log.h"
#include "vhost/iotlb.h"
#include "vhost/postcopy.h"
#include "vhost/session.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <unistd.h>

#define CALL_BLOCKED_REST_NS UINT64_C(10000000000)

struct area {
	const char *what;
	uva_t uva;
	uint64_t len, align;
	uint8_t access; /* what we do there: IOTLB_* */
	void **host;
};

/* Of a ring address: an I/O virtual one where there is an IOMMU, else a user address. */
static int area_resolve(struct virtqueue *vq, const struct area *a, struct error *err)
{
	uint8_t *host;

	if (iommu_on(vq->device)) {
		int rc = iommu_resolve_area(vq, a->uva, a->len, a->access, &host, err);

		if (rc < 0) {
			error_prefix(err, "its %s at 0x%" PRIx64, a->what, a->uva);
			return rc;
		}
	} else {
		host = mem_resolve_uva(vq->device->map, a->uva, a->len);
	}
	if (!host)
		return error_set(err, -EFAULT,
				 "its %s, %" PRIu64 " bytes at user address 0x%" PRIx64
				 ", does not lie within one memory region",
				 a->what, a->len, a->uva);
	/* Ours counts: a region may start anywhere in its file, so that a round address is not
	 * round here. */
	if (!IS_ALIGNED((uintptr_t)host, a->align))
		return error_set(err, -EINVAL,
				 "its %s at user address 0x%" PRIx64 " is not aligned to %" PRIu64
				 " bytes in its file",
				 a->what, a->uva, a->align);
	if (postcopy_wait_area(vq, host, a->len))
		return error_set(err, -EAGAIN, "its %s has not arrived yet", a->what);
	*a->host = host;
	return 0;
}

/* Packed: slot 0 and wrap counter 1, for what is taken and for what is given back. */
static uint32_t fresh_base(enum ring_layout layout)
{
	return layout == RING_PACKED ? 0x80008000u : 0;
}

/*
 * vhost-user "Vring descriptor indices for packed virtqueues": both halves of the word. Front-ends
 * that fill in the half of what was taken alone mean the same place for what was given back, since
 * nothing is in flight in a ring that stopped.
 */
static uint32_t packed_base(const struct vring_setup *setup)
{
	if (!setup->has_base)
		return fresh_base(RING_PACKED);
	if (setup->base <= UINT16_MAX)
		return setup->base | setup->base << 16;
	return setup->base;
}

/* Finds the ring's three areas. virtio 1.3 2.7 and 2.8: alignments. */
static int ring_config_areas(struct virtqueue *vq, struct ring_config *cfg, struct error *err)
{
	const struct vring_setup *setup = &vq->setup;
	bool packed = cfg->layout == RING_PACKED;
	const struct area areas[] = {
		{ "descriptor area", setup->desc, ring_desc_bytes(cfg->layout, cfg->size), 16,
		  packed ? IOTLB_READ | IOTLB_WRITE : IOTLB_READ, &cfg->desc },
		{ "driver area", setup->driver,
		  ring_driver_bytes(cfg->layout, cfg->size, cfg->event_idx), packed ? 4 : 2,
		  IOTLB_READ, &cfg->driver },
		{ "device area", setup->device,
		  ring_device_bytes(cfg->layout, cfg->size, cfg->event_idx), 4, IOTLB_WRITE,
		  &cfg->device },
	};
	int rc = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(areas); i++) {
		int area_rc = area_resolve(vq, &areas[i], err);

		/* All of them are asked for, so that one round of answers does. */
		if (area_rc == -EAGAIN)
			rc = area_rc;
		else if (area_rc < 0)
			return area_rc;
	}
	return rc;
}

/* What the chains of a queue lack. */
struct miss {
	struct ring_ahead wants; /* not mapped */
	const void *absent;	 /* has not arrived; NULL: nothing */
};

/* On the queue's worker, or under its lock: what its chains lack, to @arg, to be asked for. */
static void take_miss(struct virtqueue *vq, void *arg)
{
	struct miss *m = arg;
	struct ring_ahead *a = &vq->ahead;
	struct ring *r = &vq->ring;

	r->miss_told = false;
	if (vq->state != VIRTQUEUE_RUNNING)
		return;
	if (r->stalled & RING_MISSED)
		m->absent = r->absent;
	if (r->stalled & RING_MISSED && r->iommu) {
		/* What it needs now comes first. With that, what it will need next. */
		a->n = 0;
		if (!r->absent)
			a->want[a->n++] = (struct ring_want) { r->miss, r->miss_write };
		ring_ahead_restart(r, a);
		ring_look_ahead(r, a);
	}
	m->wants = *a;
	a->n = 0;
	/* There may be more than it had room for. */
	if (vq->looks_ahead && m->wants.n == RING_AHEAD_MAX)
		poller_wake(vq->poller);
}

/* @return whether the front-end was asked for something. */
static bool see_to_miss(struct virtqueue *vq)
{
	struct vhost_device *d = vq->device;
	struct miss m = { .absent = NULL };
	bool asked = false;

	vhost_queue_change(vq, take_miss, &m);
	if (!d->session || d->session->closing)
		return false;
	for (unsigned i = 0; i < m.wants.n; i++)
		asked |= iommu_ask(d, m.wants.want[i].addr,
				   m.wants.want[i].write ? IOTLB_WRITE : IOTLB_READ);
	if (m.absent)
		postcopy_wait(vq, m.absent);
	return asked || m.absent;
}

/*
 * A guest that kicks makes a stalled ring look again, and miss the same: then the worker is waited
 * for in vain, and that is paid for in full.
 */
static void see_to_miss_or_wait(struct virtqueue *vq)
{
	struct vhost_device *d = vq->device;
	uint64_t now = clock_ns();

	vq->miss_waits = d->quota.waits;
	if (vq->miss_waits)
		return;
	quota_begin(d);
	if (see_to_miss(vq))
		quota_spare(d, now);
	quota_end(d);
}

static void miss_call(struct call *c)
{
	struct virtqueue *vq = container_of(c, struct virtqueue, miss_call);

	/* First: pairs with queue_missed(), which leaves to this what it finds not begun. */
	__atomic_store_n(&vq->miss_posted, false, __ATOMIC_SEQ_CST);
	see_to_miss_or_wait(vq);
}

void queues_missed_again(struct vhost_device *d)
{
	for (unsigned i = 0; i < d->n_queues; i++)
		if (d->queues[i].miss_waits)
			see_to_miss_or_wait(&d->queues[i]);
}

/*
 * On a worker: its ring has stalled, or has looked ahead. The ring says so once until it is seen
 * to, but that may be without this call (queues_missed_again()), and a ring that starts anew
 * forgets: a call that is posted twice would make the control thread go round for ever.
 */
static void queue_missed(struct ring *r)
{
	struct virtqueue *vq = container_of(r, struct virtqueue, ring);

	if (__atomic_exchange_n(&vq->miss_posted, true, __ATOMIC_SEQ_CST))
		return;
	vq->miss_call.fn = miss_call;
	control_call(&vq->miss_call);
}

static int ring_config_fill(struct virtqueue *vq, struct ring_config *cfg, struct error *err)
{
	const struct vhost_device *d = vq->device;
	const struct vring_setup *setup = &vq->setup;
	bool packed = vhost_has_feature(d, VIRTIO_F_RING_PACKED);
	int rc;

	*cfg = (struct ring_config) {
		.layout = packed ? RING_PACKED : RING_SPLIT,
		.size = setup->num,
		.indirect = vhost_has_feature(d, VIRTIO_RING_F_INDIRECT_DESC),
		.event_idx = vhost_has_feature(d, VIRTIO_RING_F_EVENT_IDX),
		.base = packed ? packed_base(setup) : setup->base,
		/*
		 * A front-end whose back-end has died has no base from it. cloud-hypervisor tells
		 * how far the driver has come instead, and a card that believed it would never
		 * again see the buffers that it was to receive into.
		 */
		.base_is_used = d->ops->in_order,
		.map = d->map,
		.name = vq->name,
		.call_blocked_ns = &vq->device->call_blocked_ns,
		.alarm = &vq->alarm,
		.missed = queue_missed,
		.iommu = iommu_on(d),
		.partial = postcopy_on(d),
	};
	if (cfg->iommu) {
		cfg->both = iotlb_both_map(d->iotlb);
		cfg->read = iotlb_read_map(d->iotlb);
		cfg->write = iotlb_write_map(d->iotlb);
		/* Without them it is slower, and nothing else. */
		if (!vq->hints)
			vq->hints = calloc(RING_HINTS, sizeof(vq->hints[0]));
		cfg->hints = vq->hints;
	}
	if (cfg->partial)
		cfg->both = &mem_map_none;
	if (!d->map)
		return error_set(err, -EINVAL, "there is no guest memory yet");
	if (!setup->has_addr)
		return error_set(err, -EINVAL, "its addresses were not set");
	if (setup->num == 0)
		return error_set(err, -EINVAL, "its size was not set");
	if (!packed && !IS_POWER_OF_2(setup->num))
		return error_set(err, -EINVAL,
				 "its size is %" PRIu32
				 ", and that of a split ring has to be a power of two",
				 setup->num);

	rc = ring_config_areas(vq, cfg, err);
	if (rc < 0)
		return rc;
	cfg->log = dirty_log_ring(vq, cfg->device);
	return 0;
}

bool queue_should_run(const struct virtqueue *vq)
{
	const struct vring_setup *setup = &vq->setup;

	return setup->started && (setup->enabled || vq->device->ops->runs_disabled) &&
	       !setup->failed && !setup->broken;
}

/* A front-end that held up a worker may try again, but not at once. */
static int check_call_blocked(struct vhost_device *d, struct error *err)
{
	uint64_t at = __atomic_load_n(&d->call_blocked_ns, __ATOMIC_RELAXED);

	if (!at)
		return 0;
	if (clock_ns() - at < CALL_BLOCKED_REST_NS)
		return error_set(
			err, -EPERM,
			"the front-end has held up a worker with a descriptor that blocks; "
			"no queue of this device is started for 10 s after that");
	__atomic_store_n(&d->call_blocked_ns, 0, __ATOMIC_RELAXED);
	return 0;
}

/* The ring may have been reset since, and then there is nothing to say of it any more. */
static void ring_broken(struct call *c)
{
	struct virtqueue *vq = container_of(c, struct virtqueue, alarm.call);
	const char *why = __atomic_load_n(&vq->ring.broken, __ATOMIC_RELAXED);

	__atomic_store_n(&vq->alarm.posted, false, __ATOMIC_RELEASE);
	if (why)
		device_warn(vq->device,
			    "%s: broken by its driver: %s; the queue stands still until it is "
			    "reset",
			    vq->name, why);
}

static void call_once(struct virtqueue *vq, void *arg)
{
	(void)arg;
	ring_call_now(&vq->ring);
}

int queue_start(struct virtqueue *vq, struct error *err)
{
	struct ring_config cfg;
	const char *why;
	int rc;

	vq->setup.failed = true;
	vq->alarm.call.fn = ring_broken;
	rc = check_call_blocked(vq->device, err);
	if (rc != 0)
		return rc;
	rc = ring_config_fill(vq, &cfg, err);
	if (rc == -EAGAIN)
		vq->setup.failed = false;
	if (rc != 0)
		return rc;
	vq->absent = 0;
	vq->poller = NULL;
	vq->looks_ahead = false;
	why = ring_init(&vq->ring, &cfg);
	if (why)
		return error_set(err, -EINVAL, "%s", why);
	vq->ahead.n = 0;
	ring_ahead_restart(&vq->ring, &vq->ahead);
	rc = queue_track(vq, err);
	if (rc != 0)
		return rc;
	vq->ring.call_fd = vq->setup.call_fd;
	vq->ring.err_fd = vq->setup.err_fd;
	vq->setup.base = ring_base(&vq->ring);
	vq->setup.has_base = true;

	/*
	 * A new poller is active, so the ring is looked at once before any kick: vhost-user "Ring
	 * states" wants no reliance on one.
	 */
	vq->state = VIRTQUEUE_RUNNING;
	rc = vq->device->ops->queue_start(vq->device, vq);
	if (rc < 0) {
		vq->state = VIRTQUEUE_STOPPED;
		vq->worker = NULL;
		return error_set(err, rc, "the device could not start it (error %d)", -rc);
	}
	vq->setup.failed = false;
	vq->setup.settled = true;
	/*
	 * A back-end that died between its last used entry and the call for it leaves a guest that
	 * waits. So a ring that goes on where it was begins with a call; drivers expect calls too
	 * many (virtio 1.3 2.7.7.1). A new ring has nothing to be told of. By the worker, since the
	 * descriptor may block.
	 */
	if (vq->setup.base != fresh_base(cfg.layout))
		vhost_queue_change(vq, call_once, NULL);
	return 0;
}

void queue_stop(struct virtqueue *vq)
{
	vq->state = VIRTQUEUE_STOPPING;
	vq->device->ops->queue_stop(vq->device, vq);
}

static void stopped_call(struct call *c)
{
	struct virtqueue *vq = container_of(c, struct virtqueue, stopped_call);

	session_queue_stopped(vq->device->session, vq);
}

void vhost_queue_stopped(struct virtqueue *vq)
{
	vq->stopped_call.fn = stopped_call;
	control_call(&vq->stopped_call);
}

void queue_stop_done(struct virtqueue *vq)
{
	assert(vq->state == VIRTQUEUE_STOPPING);
	vq->state = VIRTQUEUE_STOPPED;
	vq->worker = NULL;
	vq->setup.base = vq->kept.base = ring_base(&vq->ring);
	/*
	 * Requests of the back-end before us that the ring did not come to, for it was stalled:
	 * they stand in the in-flight buffer still, and are found there when it starts again. So
	 * are those that a stop has left there.
	 */
	if (vq->ring.n_again || (vq->leaves && vq->ring.in_flight))
		vq->setup.settled = false;
	if (vq->ring.broken) {
		vq->setup.broken = true;
		counter_add(&vq->device->stats.queues_broken, 1);
	}
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void queue_setup_reset(struct virtqueue *vq)
{
	assert(vq->state == VIRTQUEUE_STOPPED);
	inband_unwatch(vq, INBAND_CALL);
	inband_unwatch(vq, INBAND_ERR);
	close_fd(&vq->setup.kick_fd);
	close_fd(&vq->setup.call_fd);
	close_fd(&vq->setup.err_fd);
	queue_untrack(vq);
	free(vq->hints);
	vq->hints = NULL;
	vq->setup = (struct vring_setup) { .kick_fd = -1, .call_fd = -1, .err_fd = -1 };
	__atomic_store_n(&vq->enabled, false, __ATOMIC_RELAXED);
}

struct change {
	struct virtqueue *vq;
	void (*fn)(struct virtqueue *vq, void *arg);
	void *arg;
};

static void run_change(void *arg)
{
	const struct change *c = arg;

	spin_lock(&c->vq->lock);
	c->fn(c->vq, c->arg);
	spin_unlock(&c->vq->lock);
}

void vhost_queue_change(struct virtqueue *vq, void (*fn)(struct virtqueue *vq, void *arg),
			void *arg)
{
	struct change c = { .vq = vq, .fn = fn, .arg = arg };

	if (vq->state != VIRTQUEUE_STOPPED && vq->worker)
		worker_call_wait(vq->worker, run_change, &c);
	else
		run_change(&c);
}

static void change_enabled(struct virtqueue *vq, void *arg)
{
	__atomic_store_n(&vq->enabled, *(bool *)arg, __ATOMIC_RELAXED);
}

void queue_set_enabled(struct virtqueue *vq, bool enabled)
{
	if (vq->setup.enabled == enabled)
		return;
	vq->setup.enabled = enabled;
	/* Through the worker, so that no burst is half-way when the front-end gets its answer. */
	vhost_queue_change(vq, change_enabled, &enabled);
	if (vq->device->ops->queue_enabled)
		vq->device->ops->queue_enabled(vq->device, vq, enabled);
}
