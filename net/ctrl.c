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

/* What is read of a command: of those that have no end, MAC_TABLE_SET, this much. */
#define CTRL_DATA_MAX 2048

struct ctrl_command {
	struct virtio_net_ctrl_hdr hdr;
	uint8_t data[CTRL_DATA_MAX];
};
static_assert(offsetof(struct ctrl_command, data) == 2, "virtio 1.3 5.1.6.5");
static_assert(CTRL_DATA_MAX >= 4 + 2 + 2 + 2 * RSS_TABLE_MAX + 2 + 1 + RSS_KEY_MAX,
	      "virtio 1.3 5.1.6.5.7.1");
static_assert(CTRL_DATA_MAX >= 2 * (4 + 6 * FILTER_MACS_MAX), "virtio 1.3 5.1.6.5.2");

/*
 * virtio 1.3 5.1.6.5.6.2: after the answer no packet goes to the queues left out. So wait until no
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

/* Automatic steering: what the hash is made of stays, for it may be reported. */
static bool pairs_command(struct net_device *d, const uint8_t *data, size_t len)
{
	struct rss_config hashing = *net_steering(d);
	uint16_t pairs;

	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_MQ) || len < sizeof(pairs))
		return false;
	memcpy(&pairs, data, sizeof(pairs));
	pairs = le16toh(pairs);
	if (pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN || pairs > d->cfg.queue_pairs)
		return false;
	pairs_use(d, pairs);
	if (hashing.steers) {
		hashing.steers = false;
		net_steer(d, &hashing);
	}
	return true;
}

/* 5.1.6.5.5: "defined by the last command sent": a table replaces automatic steering, and back. */
static bool mq_command(struct net_device *d, const struct ctrl_command *c, size_t len)
{
	struct rss_config rss;

	switch (c->hdr.cmd) {
	case VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
		return pairs_command(d, c->data, len);
	case VIRTIO_NET_CTRL_MQ_RSS_CONFIG:
		if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_RSS) ||
		    !rss_config_read(&rss, c->data, len, d->cfg.queue_pairs))
			return false;
		net_steer(d, &rss);
		return true;
	case VIRTIO_NET_CTRL_MQ_HASH_CONFIG:
		if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_HASH_REPORT) ||
		    !hash_config_read(&rss, c->data, len))
			return false;
		net_steer(d, &rss);
		return true;
	}
	return false;
}

static bool mac_command(struct net_device *d, const struct ctrl_command *c, size_t data_len,
			size_t total)
{
	if (c->hdr.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
		return net_filter_table_command(d, c->data, data_len, total);
	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_MAC_ADDR) ||
	    c->hdr.cmd != VIRTIO_NET_CTRL_MAC_ADDR_SET || data_len < 6)
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

/*
 * What the driver gets: the byte that says how it went, behind what it asked for, if it did
 * (5.1.6.5: command-specific-data comes before ack).
 */
struct ctrl_answer {
	uint8_t bytes[9];
	unsigned len;
};

#define COAL_VQ_GET 3

static bool coalesce_command(struct net_device *d, const struct ctrl_command *c, size_t len,
			     uint32_t room, struct ctrl_answer *a)
{
	struct coalesce_params got = { 0 };
	uint32_t words[2];
	bool gets = c->hdr.cmd == COAL_VQ_GET, ok;

	if (gets && room < sizeof(a->bytes))
		return false;
	ok = net_coalesce_command(d, c->hdr.cmd, c->data, len, &got);
	if (gets && vhost_has_feature(&d->vdev, VIRTIO_NET_F_VQ_NOTF_COAL)) {
		words[0] = htole32(got.max_packets);
		words[1] = htole32(got.max_usecs);
		memcpy(a->bytes, words, sizeof(words));
		a->len = sizeof(a->bytes);
	}
	return ok;
}

/* @chain: the command's, of which @len bytes are in @c; it has room for an answer of a byte. */
static void ctrl_obey(struct net_device *d, const struct chain *chain, const struct ctrl_command *c,
		      size_t len, struct ctrl_answer *a)
{
	size_t data_len = len - sizeof(c->hdr);
	bool ok = false;

	a->len = 1;
	if (len >= sizeof(c->hdr)) {
		switch (c->hdr.class) {
		case VIRTIO_NET_CTRL_MQ:
			ok = mq_command(d, c, data_len);
			break;
		case VIRTIO_NET_CTRL_MAC:
			ok = mac_command(d, c, data_len, chain->out_len - sizeof(c->hdr));
			break;
		case VIRTIO_NET_CTRL_RX:
			ok = net_filter_modes_command(d, c->hdr.cmd, c->data, data_len);
			break;
		case VIRTIO_NET_CTRL_VLAN:
			ok = net_filter_vlan_command(d, c->hdr.cmd, c->data, data_len);
			break;
		case VIRTIO_NET_CTRL_ANNOUNCE:
			ok = announce_command(d, c);
			break;
		case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
			ok = net_offloads_command(d, c->hdr.cmd, c->data, data_len);
			break;
		case VIRTIO_NET_CTRL_NOTF_COAL:
			ok = coalesce_command(d, c, data_len, chain->in_len, a);
			break;
		}
	}
	a->bytes[a->len - 1] = ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
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

/* There is room for it. */
static void answer_write(struct ring *r, const struct chain *c, const struct ctrl_answer *a)
{
	unsigned at = 0;

	for (unsigned i = c->n_out; at < a->len; i++) {
		size_t n = MIN((size_t)(a->len - at), c->segs[i].iov_len);

		memcpy(c->segs[i].iov_base, a->bytes + at, n);
		if (unlikely(r->log))
			ring_log_write(r, c->segs[i].iov_base, (uint32_t)n);
		at += (unsigned)n;
	}
}

HOT unsigned ctrl_poll(struct net_queue *q, enum ring_layout layout, enum ring_keeping keeping)
{
	struct ring *r = &q->vq->ring;
	struct iovec segs[RING_CHAIN_SEGS_MAX];
	struct ctrl_command command;
	struct ctrl_answer answer;
	struct chain c;
	unsigned n;

	for (n = 0; n < CTRL_BURST && ring_pop(r, layout, &c, 1, segs, RING_CHAIN_SEGS_MAX); n++) {
		if (unlikely(c.in_len == 0)) {
			ring_push_way(r, layout, keeping, &c, 0);
			ring_break(r, "control command without room for its answer");
			break;
		}
		ctrl_obey(q->dev, &c, &command, command_read(&c, &command), &answer);
		answer_write(r, &c, &answer);
		ring_push_way(r, layout, keeping, &c, answer.len);
	}
	ring_publish_way(r, layout, keeping);
	ring_call(r, layout);
	return n;
}

#define X(name, layout, keeping)                                                              \
	static unsigned ctrl_##name(struct poller *p)                                         \
	{                                                                                     \
		return ctrl_poll(container_of(p, struct net_queue, poller), layout, keeping); \
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
RING_WAYS(X)
#undef X

#define X(name, layout, keeping) \
	[RING_WAY(layout, keeping)] = { ctrl_##name, arm_##name, disarm_##name },
const struct poller_ops ctrl_ops[N_RING_WAYS] = { RING_WAYS(X) };
#undef X
