/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control queue (virtio 1.3 5.1.6.5), for front-ends that hand it to us (crosvm, QEMU's generic
 * vhost-user device). QEMU's vhost-user-net answers it itself and tells us the outcome in messages.
 *
 * Only commands of negotiated features are obeyed; everything else is answered with an error, never
 * with a pretended success.
 */
#include "net/virtio_net.h"

#include <endian.h>
#include <string.h>

/* Commands of one poll: rare, and none is urgent. */
#define CTRL_BURST 4

/* The longest command that is understood: a class, a command, a MAC address. */
struct ctrl_command {
	struct virtio_net_ctrl_hdr hdr;
	uint8_t data[6];
};
static_assert(sizeof(struct ctrl_command) == 8, "virtio 1.3 5.1.6.5");

/*
 * virtio 1.3 5.1.6.5.5.1: after the answer no packet goes to the queues left out. So wait until no
 * worker is within one of them; whoever comes later sees the new number under the lock.
 */
static void pairs_use(struct net_device *d, unsigned n)
{
	__atomic_store_n(&d->pairs_used, n, __ATOMIC_RELAXED);
	for (unsigned i = n; i < d->cfg.queue_pairs; i++) {
		struct virtqueue *vq = d->queues[2 * i].vq;

		spin_lock(&vq->lock);
		spin_unlock(&vq->lock);
	}
}

static bool mq_command(struct net_device *d, const struct ctrl_command *c, size_t data_len)
{
	uint16_t pairs;

	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_MQ) ||
	    c->hdr.cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || data_len < sizeof(pairs))
		return false;
	memcpy(&pairs, c->data, sizeof(pairs));
	pairs = le16toh(pairs);
	if (pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN || pairs > d->cfg.queue_pairs)
		return false;
	pairs_use(d, pairs);
	return true;
}

/* TABLE_SET belongs to CTRL_RX, which is not offered: the switch floods, and never filters. */
static bool mac_command(struct net_device *d, const struct ctrl_command *c, size_t data_len)
{
	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_MAC_ADDR) ||
	    c->hdr.cmd != VIRTIO_NET_CTRL_MAC_ADDR_SET || data_len < sizeof(c->data))
		return false;
	if (c->data[0] & 1 || mac_word(c->data) == 0)
		return false; /* a group address, or none */
	__atomic_store_n(&d->mac, mac_word(c->data), __ATOMIC_RELAXED);
	return true;
}

/* Nothing to clear: we never ask a guest to announce itself, the front-end does. */
static bool announce_command(struct net_device *d, const struct ctrl_command *c)
{
	return vhost_has_feature(&d->vdev, VIRTIO_NET_F_GUEST_ANNOUNCE) &&
	       c->hdr.cmd == VIRTIO_NET_CTRL_ANNOUNCE_ACK;
}

static uint8_t ctrl_obey(struct net_device *d, const struct ctrl_command *c, size_t len)
{
	size_t data_len = len - sizeof(c->hdr);
	bool ok = false;

	if (len < sizeof(c->hdr))
		return VIRTIO_NET_ERR;
	switch (c->hdr.class) {
	case VIRTIO_NET_CTRL_MQ:
		ok = mq_command(d, c, data_len);
		break;
	case VIRTIO_NET_CTRL_MAC:
		ok = mac_command(d, c, data_len);
		break;
	case VIRTIO_NET_CTRL_ANNOUNCE:
		ok = announce_command(d, c);
		break;
	}
	return ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
}

/* The command's first bytes, read once; @return how many there are, at most sizeof(*to). */
static size_t command_read(const struct chain *c, struct ctrl_command *to)
{
	size_t got = 0;

	for (unsigned i = 0; i < c->n_out && got < sizeof(*to); i++) {
		size_t n = MIN(sizeof(*to) - got, c->segs[i].iov_len);

		memcpy((uint8_t *)to + got, c->segs[i].iov_base, n);
		got += n;
	}
	return got;
}

HOT unsigned ctrl_poll(struct net_queue *q, enum ring_layout layout)
{
	struct ring *r = &q->vq->ring;
	struct iovec segs[RING_CHAIN_SEGS_MAX];
	struct ctrl_command command;
	struct chain c;
	unsigned n;

	for (n = 0; n < CTRL_BURST && ring_pop(r, layout, &c, 1, segs, RING_CHAIN_SEGS_MAX); n++) {
		if (unlikely(c.in_len == 0)) {
			ring_push(r, layout, c.id, c.n_slots, 0);
			ring_break(r, "control command without room for its answer");
			break;
		}
		*(uint8_t *)c.segs[c.n_out].iov_base = ctrl_obey(q->dev, &command,
								 command_read(&c, &command));
		if (unlikely(r->log))
			ring_log_write(r, c.segs[c.n_out].iov_base, 1);
		ring_push(r, layout, c.id, c.n_slots, 1);
	}
	ring_publish(r, layout);
	ring_call(r, layout);
	return n;
}

#define X(name, layout)                                                                       \
	static unsigned ctrl_##name(struct poller *p)                                         \
	{                                                                                     \
		return ctrl_poll(container_of(p, struct net_queue, poller), layout);          \
	}                                                                                     \
	static bool arm_##name(struct poller *p)                                              \
	{                                                                                     \
		return ring_kicks_on(&container_of(p, struct net_queue, poller)->vq->ring,    \
				     layout);                                                 \
	}                                                                                     \
	static void disarm_##name(struct poller *p)                                           \
	{                                                                                     \
		ring_kicks_off(&container_of(p, struct net_queue, poller)->vq->ring, layout); \
	}
RING_LAYOUTS(X)
#undef X

#define X(name, layout) [layout] = { ctrl_##name, arm_##name, disarm_##name },
const struct poller_ops ctrl_ops[2] = { RING_LAYOUTS(X) };
#undef X
