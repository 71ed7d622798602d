/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest takes unfinished: what its driver has negotiated, less what it has switched off
 * since over a control queue that is ours (virtio 1.3 5.1.6.5.8).
 */
#include "net/virtio_net.h"

#include <endian.h>
#include <string.h>

static uint64_t bit(unsigned n)
{
	return UINT64_C(1) << n;
}

uint64_t net_offloads_known(void)
{
	return bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO4) |
	       bit(VIRTIO_NET_F_GUEST_TSO6) | bit(VIRTIO_NET_F_GUEST_ECN) |
	       bit(VIRTIO_NET_F_GUEST_USO4) | bit(VIRTIO_NET_F_GUEST_USO6);
}

static uint64_t negotiated(const struct net_device *d)
{
	return __atomic_load_n(&d->vdev.features, __ATOMIC_RELAXED) & net_offloads_known();
}

/*
 * The control thread is here for a queue that starts while the control queue's worker is for all of
 * them: what is off is read under the lock, so that whoever comes last has what was said last.
 */
void net_offloads_decide(struct net_queue *q)
{
	const struct net_device *d = q->dev;
	uint64_t on;

	spin_lock(&q->vq->lock);
	on = negotiated(d) & ~__atomic_load_n(&d->offloads_off, __ATOMIC_RELAXED);
	/* 5.1.3.1: what lacks its base is not there. */
	q->csum = on & bit(VIRTIO_NET_F_GUEST_CSUM);
	q->tso4 = q->csum && on & bit(VIRTIO_NET_F_GUEST_TSO4);
	q->tso6 = q->csum && on & bit(VIRTIO_NET_F_GUEST_TSO6);
	q->uso4 = q->csum && on & bit(VIRTIO_NET_F_GUEST_USO4);
	q->uso6 = q->csum && on & bit(VIRTIO_NET_F_GUEST_USO6);
	q->ecn = on & bit(VIRTIO_NET_F_GUEST_ECN);
	spin_unlock(&q->vq->lock);
}

void net_offloads_set(struct net_device *d, uint64_t off)
{
	__atomic_store_n(&d->offloads_off, off, __ATOMIC_RELAXED);
	for (unsigned pair = 0; pair < d->cfg.queue_pairs; pair++)
		net_offloads_decide(&d->queues[2 * pair]);
}

bool net_offloads_command(struct net_device *d, uint8_t cmd, const uint8_t *data, size_t len)
{
	uint64_t on, may = negotiated(d);

	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) ||
	    cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || len < sizeof(on))
		return false;
	memcpy(&on, data, sizeof(on));
	on = le64toh(on);
	if (on & ~may)
		return false;
	net_offloads_set(d, may & ~on);
	return true;
}
