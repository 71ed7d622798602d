/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between a session's IOTLB and its rings, where ACCESS_PLATFORM was negotiated (vhost-user "IOMMU
 * support"; virtio 1.3 6.1).
 *
 *	a worker finds an address that is not mapped ──► ring_miss(): the ring stalls
 *	      │ a call to the control thread
 *	      ▼
 *	iommu_ask(): IOTLB_MSG "miss" through the back-end channel, once
 *	      ·  the front-end looks it up, at its leisure; other rings go on
 *	      ▼
 *	IOTLB_MSG "update" ──► a new table ──► every ring gets its maps between two polls and tries
 *again
 *
 * A ring whose own areas are not mapped does not start, or stops when they go away, and is tried
 * again after each message. An invalidation is acknowledged when no ring or request in flight uses
 * the memory any more that it took away.
 */
#include "vhost/iotlb.h"
#include "vhost/session.h"

#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdlib.h>

/*
 * An answer may be that there is none: the guest has not mapped it, and does so later. A driver
 * that kicks again makes us ask again, but not more often than this.
 */
#define ASK_AGAIN_NS UINT64_C(100000000)

bool iommu_on(const struct vhost_device *d)
{
	return vhost_has_feature(d, VIRTIO_F_ACCESS_PLATFORM);
}

/* An address that the front-end was asked for. */
struct iotlb_ask {
	iova_t iova;
	uint64_t at_ns;
	uint8_t access;
	bool sent;
};

/* Enough for two receive queues that look ahead; those that find no place forget older ones. */
#define ASKS_MAX 512

struct iotlb_asks {
	unsigned n;
	unsigned next; /* to be forgotten */
	struct iotlb_ask ask[ASKS_MAX];
};

void iommu_forget(struct vhost_device *d)
{
	iotlb_free(d->iotlb);
	d->iotlb = NULL;
	free(d->asks);
	d->asks = NULL;
}

static bool send_miss(struct vhost_session *s, const struct iotlb_ask *ask)
{
	struct vhost_user_iotlb msg = { .iova = ask->iova,
					.access = ask->access,
					.type = VHOST_USER_IOTLB_MISS };

	return backend_send(s, VHOST_USER_BACKEND_IOTLB_MSG, 0, &msg, sizeof(msg)) == 0;
}

/* The same question, that waits for its answer; the answer is for a page. */
static struct iotlb_ask *find_ask(struct iotlb_asks *asks, iova_t iova, uint8_t access)
{
	for (unsigned i = 0; i < asks->n; i++)
		if (!((asks->ask[i].iova ^ iova) / RING_AHEAD_PAGE) &&
		    !(access & ~asks->ask[i].access))
			return &asks->ask[i];
	return NULL;
}

/* A place for one more. What was not sent yet keeps its own. */
static struct iotlb_ask *new_ask(struct iotlb_asks *asks)
{
	if (asks->n < ASKS_MAX)
		return &asks->ask[asks->n++];
	for (unsigned i = 0; i < ASKS_MAX; i++) {
		struct iotlb_ask *a = &asks->ask[asks->next++ % ASKS_MAX];

		if (a->sent)
			return a;
	}
	return NULL;
}

bool iommu_ask(struct vhost_device *d, iova_t iova, uint8_t access)
{
	uint64_t now = clock_ns();
	struct iotlb_ask *a;

	if (!d->asks)
		d->asks = calloc(1, sizeof(*d->asks));
	if (!d->asks)
		return false; /* its ring will miss it again when it is kicked */
	a = find_ask(d->asks, iova, access);
	if (a && (!a->sent || now - a->at_ns < ASK_AGAIN_NS))
		return false;
	if (!a)
		a = new_ask(d->asks);
	if (!a)
		return false;
	*a = (struct iotlb_ask) { .iova = iova, .access = access, .at_ns = now };
	counter_add(&d->stats.iotlb_misses, 1);
	a->sent = send_miss(d->session, a);
	return true;
}

void iommu_resume(struct vhost_session *s)
{
	struct iotlb_asks *asks = s->device->asks;

	for (unsigned i = 0; asks && i < asks->n; i++)
		if (!asks->ask[i].sent)
			asks->ask[i].sent = send_miss(s, &asks->ask[i]);
}

/* What [@first, @last] was asked for is answered, or has to be asked for anew. */
static void forget_asked(struct vhost_device *d, iova_t first, iova_t last)
{
	struct iotlb_asks *asks = d->asks;
	unsigned n = 0;

	for (unsigned i = 0; asks && i < asks->n; i++)
		if (asks->ask[i].iova < first || asks->ask[i].iova > last)
			asks->ask[n++] = asks->ask[i];
	if (asks)
		asks->n = n;
}

int iommu_resolve_area(struct virtqueue *vq, iova_t iova, uint64_t len, uint8_t access,
		       uint8_t **host, struct error *err)
{
	const struct mem_map *maps[2] = { iotlb_read_map(vq->device->iotlb),
					  iotlb_write_map(vq->device->iotlb) };
	static const uint8_t bits[2] = { IOTLB_READ, IOTLB_WRITE };
	unsigned hint = 0;

	*host = NULL;
	if (len - 1 > UINT64_MAX - iova)
		return error_set(err, -EFAULT, "it wraps around");
	for (uint64_t done = 0; done < len;) {
		uint64_t piece = len - done;

		for (unsigned i = 0; i < 2; i++) {
			uint8_t *at;

			if (!(access & bits[i]))
				continue;
			at = mem_resolve(maps[i], iova + done, &piece, &hint);
			if (!at) {
				iommu_ask(vq->device, iova + done, access);
				return error_set(err, -EAGAIN, "0x%" PRIx64 " is not mapped yet",
						 iova + done);
			}
			/* We work on it through plain pointers. */
			if (!*host)
				*host = at;
			else if (*host + done != at)
				return error_set(
					err, -EFAULT,
					"it is not one piece of guest memory: at 0x%" PRIx64
					" another one begins",
					iova + done);
		}
		done += piece;
	}
	return 0;
}

unsigned vhost_look_ahead(struct virtqueue *vq)
{
	unsigned done = ring_look_ahead(&vq->ring, &vq->ahead);

	if (vq->ahead.n)
		ring_want(&vq->ring);
	return done;
}

bool vhost_has_iommu(const struct vhost_device *d)
{
	return iommu_on(d);
}

/* @next differs from the table within [@first, @last], or everywhere: it may have been full. */
static int change_table(struct vhost_session *s, struct iotlb *next, iova_t first, iova_t last)
{
	return next->anew ? iotlb_change(s, next, 0, UINT64_MAX, IOTLB_WAS_FULL)
			  : iotlb_change(s, next, first, last, IOTLB_WAS_TOLD);
}

static int update(struct vhost_session *s, const struct vhost_user_iotlb *msg, struct error *err)
{
	const struct iotlb_entry e = {
		.iova = msg->iova, .size = msg->size, .uva = msg->user_addr, .access = msg->access
	};
	struct vhost_device *d = s->device;
	struct iotlb *next;

	if (msg->access > (IOTLB_READ | IOTLB_WRITE))
		return error_set(err, -EINVAL, "access 0x%x is unknown", msg->access);
	next = iotlb_with(d->iotlb, d->map, &e, err);
	if (!next)
		return err->code;
	forget_asked(d, e.iova, e.iova + (e.size - 1));
	return change_table(s, next, e.iova, e.iova + (e.size - 1));
}

static int invalidate(struct vhost_session *s, const struct vhost_user_iotlb *msg,
		      struct error *err)
{
	struct vhost_device *d = s->device;
	iova_t first = msg->iova, last = msg->iova + (msg->size - 1);
	struct iotlb *next;

	/* QEMU says "all" as 2^64 bytes, which is 0. What wraps means: to the end. */
	if (msg->size == 0)
		first = 0;
	if (msg->size == 0 || last < first)
		last = UINT64_MAX;
	next = iotlb_without(d->iotlb, d->map, first, last, err);
	if (!next)
		return err->code;
	forget_asked(d, first, last);
	return change_table(s, next, first, last);
}

int handle_iotlb_msg(struct vhost_session *s, struct message *m, struct error *err)
{
	const struct vhost_user_iotlb *msg = &m->payload.iotlb;

	if (memory_changed(s))
		return 0;
	if (!iommu_on(s->device))
		return error_set(err, -EPROTO, "ACCESS_PLATFORM is not negotiated");
	switch (msg->type) {
	case VHOST_USER_IOTLB_UPDATE:
		return msg->access ? update(s, msg, err) : invalidate(s, msg, err);
	case VHOST_USER_IOTLB_INVALIDATE:
		return invalidate(s, msg, err);
	default:
		return error_set(err, -EINVAL, "type %u is neither an update nor an invalidation",
				 msg->type);
	}
}
