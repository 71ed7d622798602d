/* SPDX-License-Identifier: Apache-2.0 */
/* A guest port's life on the control thread: features, configuration space, queues coming and
 * going. */
#include "base/clock.h"
#include "base/error.h"
#include "net/virtio_net.h"
#include "vhost/disposal.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* virtio 1.3 5.1.4.1: the smallest MTU that a device may name. */
#define MTU_MIN 68

/* virtio 1.3 5.1.4: Mbit/s, 0 to 0x7fffffff, or all ones; a switch's port is full duplex. */
#define SPEED_MAX 0x7fffffffu
#define SPEED_UNKNOWN UINT32_MAX
#define DUPLEX_FULL 1
#define DUPLEX_UNKNOWN 0xff

/*
 * A queue without a kick eventfd (vhost-user SET_VRING_KICK, bit 8) has to be looked at now and
 * then.
 */
#define NO_KICK_PARK_US 200

/* A poll of a transmit queue that takes longer is followed by one that takes less. */
#define POLL_MAX_US 50

#define RARP_LEN 60

static uint64_t bit(unsigned n)
{
	return UINT64_C(1) << n;
}

/* Without UFO: that is for drivers of long ago. */
static uint64_t net_features(struct vhost_device *vdev)
{
	const struct net_device *d = net_device_of(vdev);
	uint64_t f = bit(VIRTIO_NET_F_CSUM) | bit(VIRTIO_NET_F_HOST_TSO4) |
		     bit(VIRTIO_NET_F_HOST_TSO6) | bit(VIRTIO_NET_F_HOST_ECN) |
		     bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO4) |
		     bit(VIRTIO_NET_F_GUEST_TSO6) | bit(VIRTIO_NET_F_GUEST_ECN) |
		     bit(VIRTIO_NET_F_MRG_RXBUF) | bit(VIRTIO_NET_F_STATUS) |
		     bit(VIRTIO_NET_F_CTRL_VQ) | bit(VIRTIO_NET_F_CTRL_MAC_ADDR) |
		     bit(VIRTIO_NET_F_CTRL_RX) | bit(VIRTIO_NET_F_CTRL_RX_EXTRA) |
		     bit(VIRTIO_NET_F_CTRL_VLAN) | bit(VIRTIO_NET_F_HOST_USO) |
		     bit(VIRTIO_NET_F_GUEST_USO4) | bit(VIRTIO_NET_F_GUEST_USO6) |
		     bit(VIRTIO_NET_F_GUEST_ANNOUNCE) | bit(VIRTIO_NET_F_RSS) |
		     bit(VIRTIO_NET_F_HASH_REPORT) | bit(VIRTIO_NET_F_NOTF_COAL) |
		     bit(VIRTIO_NET_F_VQ_NOTF_COAL) | bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);

	/*
	 * Not VIRTIO_F_RING_RESET: QEMU takes it from the guest and tells a vhost-user back-end
	 * nothing of a reset, so that we would go on in a ring that is not the driver's any more.
	 */
	if (d->cfg.has_mac)
		f |= bit(VIRTIO_NET_F_MAC);
	if (d->cfg.mtu)
		f |= bit(VIRTIO_NET_F_MTU);
	if (d->cfg.speed)
		f |= bit(VIRTIO_NET_F_SPEED_DUPLEX);
	if (d->cfg.queue_pairs > 1)
		f |= bit(VIRTIO_NET_F_MQ);
	return f;
}

/* The state that a guest's driver has set, back to that of a device just plugged in. */
static void driver_state_forget(struct net_device *d)
{
	d->ctrl_ours = d->state_came = false;
	__atomic_store_n(&d->pairs_used, d->cfg.queue_pairs, __ATOMIC_RELAXED);
	__atomic_store_n(&d->mac, d->cfg.has_mac ? mac_word(d->cfg.mac) : 0, __ATOMIC_RELAXED);
	net_steer(d, &(struct rss_config) { 0 });
	net_coalesce_forget(d);
	net_offloads_set(d, 0);
	net_filter_forget(d);
	flows_forget(d->flows);
}

/*
 * Comes when a driver begins anew; and when one that came from elsewhere goes on here, whose state
 * a front-end may hand over before it starts the device (vhost-user "Migrating back-end state").
 */
static void net_set_features(struct vhost_device *vdev, uint64_t features)
{
	struct net_device *d = net_device_of(vdev);

	if (!d->state_came)
		driver_state_forget(d);
	net_look(d, NET_FLOWS, features & bit(VIRTIO_NET_F_MQ));
}

static void net_get_config(struct vhost_device *vdev, uint8_t *config)
{
	const struct net_device *d = net_device_of(vdev);
	struct virtio_net_config c = {
		.status = htole16(port_is_down(&d->port) ? 0 : VIRTIO_NET_S_LINK_UP),
		.max_virtqueue_pairs = htole16((uint16_t)d->cfg.queue_pairs),
		.mtu = htole16(d->mtu),
		.speed = htole32(d->cfg.speed ? d->cfg.speed : SPEED_UNKNOWN),
		.duplex = d->cfg.speed ? DUPLEX_FULL : DUPLEX_UNKNOWN,
		.rss_max_key_size = RSS_KEY_MAX,
		.rss_max_indirection_table_length = htole16(RSS_TABLE_MAX),
		.supported_hash_types = htole32(RSS_HASH_TYPES),
	};
	uint64_t mac = __atomic_load_n(&d->mac, __ATOMIC_RELAXED);

	memcpy(c.mac, &mac, sizeof(c.mac));
	memcpy(config, &c, sizeof(c));
}

/* virtio 1.3 5.1.4.2.1: legacy drivers set their address here; since 1.0 all of it is read-only. */
static int net_set_config(struct vhost_device *vdev, uint32_t offset, const uint8_t *data,
			  uint32_t len, bool migration)
{
	struct net_device *d = net_device_of(vdev);
	uint64_t mac = __atomic_load_n(&d->mac, __ATOMIC_RELAXED);
	uint32_t start = MIN(offset, 6u), n = MIN(len, 6u - start);

	if (!migration && (vhost_has_feature(vdev, VIRTIO_F_VERSION_1) || n < len))
		return -EACCES;
	memcpy((uint8_t *)&mac + start, data, n);
	__atomic_store_n(&d->mac, mac, __ATOMIC_RELAXED);
	return 0;
}

/*
 * virtio 1.3 5.1.2: the control queue comes after the last pair, which is the first one where
 * neither MQ nor RSS was negotiated. So index 2 is a receive queue or the control queue.
 */
static int queue_role(const struct net_device *d, unsigned index, enum net_queue_role *role)
{
	bool mq = vhost_has_feature(&d->vdev, VIRTIO_NET_F_MQ) ||
		  vhost_has_feature(&d->vdev, VIRTIO_NET_F_RSS);

	if (vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_VQ) &&
	    index == (mq ? 2 * d->cfg.queue_pairs : 2))
		*role = NET_QUEUE_CONTROL;
	else if (index < 2 * d->cfg.queue_pairs)
		*role = index % 2 ? NET_QUEUE_TRANSMIT : NET_QUEUE_RECEIVE;
	else
		return -ENOENT;
	return 0;
}

/* Offloads depend on each other as virtio 1.3 5.1.3.1 has it; what lacks its base is not there. */
static void queue_decide(struct net_queue *q)
{
	const struct vhost_device *v = &q->dev->vdev;
	bool host_csum = vhost_has_feature(v, VIRTIO_NET_F_CSUM);

	q->mergeable = vhost_has_feature(v, VIRTIO_NET_F_MRG_RXBUF);
	q->hdr_len = q->mergeable || vhost_has_feature(v, VIRTIO_F_VERSION_1) ? VNET_HDR_LEN
									      : VNET_HDR_LEN_LEGACY;
	if (vhost_has_feature(v, VIRTIO_NET_F_HASH_REPORT))
		q->hdr_len = VNET_HDR_LEN_HASH;
	q->coalesces = vhost_has_feature(v, VIRTIO_NET_F_NOTF_COAL) ||
		       vhost_has_feature(v, VIRTIO_NET_F_VQ_NOTF_COAL);
	q->coalesce.pending = q->coalesce.looked = 0;
	q->asleep = q->no_wake = false;
	net_offloads_decide(q);
	q->sender_offloads = 0;
	if (!host_csum)
		return;
	q->sender_offloads |= OFFLOAD_CSUM;
	if (vhost_has_feature(v, VIRTIO_NET_F_HOST_TSO4))
		q->sender_offloads |= OFFLOAD_TSO4;
	if (vhost_has_feature(v, VIRTIO_NET_F_HOST_TSO6))
		q->sender_offloads |= OFFLOAD_TSO6;
	if (vhost_has_feature(v, VIRTIO_NET_F_HOST_USO))
		q->sender_offloads |= OFFLOAD_USO;
	if (vhost_has_feature(v, VIRTIO_NET_F_HOST_ECN))
		q->sender_offloads |= OFFLOAD_ECN;
}

/*
 * On the queue's worker. The lock publishes: all that was written before is there for the worker
 * that takes the lock and finds @running true; once it is false nobody touches the ring.
 */
static void rx_start(void *arg)
{
	struct net_queue *q = arg;

	spin_lock(&q->vq->lock);
	__atomic_store_n(&q->running, true, __ATOMIC_RELAXED);
	spin_unlock(&q->vq->lock);
}

static void rx_stop(void *arg)
{
	struct net_queue *q = arg;

	spin_lock(&q->vq->lock);
	__atomic_store_n(&q->running, false, __ATOMIC_RELAXED);
	if (q->coalesces)
		coalesce_flush(&q->coalesce, &q->vq->ring, q->vq->ring.layout);
	spin_unlock(&q->vq->lock);
}

/* On the queue's worker, after its last poll: what is pending would never be told. */
static void tx_stop(void *arg)
{
	struct net_queue *q = arg;

	coalesce_flush(&q->coalesce, &q->vq->ring, q->vq->ring.layout);
}

static void queue_poll(struct net_queue *q, const struct poller_ops *ops)
{
	struct virtqueue *vq = q->vq;

	q->poller = (struct poller) {
		.ops = ops,
		.event_fd = vq->setup.kick_fd,
		.event_is_counter = true,
		.park_max_us = vq->setup.kick_fd < 0 ? NO_KICK_PARK_US : 0,
	};
	q->park_max_us = q->poller.park_max_us;
	vq->poller = &q->poller;
	worker_add(vq->worker, &q->poller);
}

static int net_queue_start(struct vhost_device *vdev, struct virtqueue *vq)
{
	struct net_device *d = net_device_of(vdev);
	struct net_queue *q = &d->queues[vq->index];
	unsigned way = ring_way(&vq->ring);
	int rc = queue_role(d, vq->index, &q->role);

	if (rc < 0)
		return rc;
	d->state_came = false;
	queue_decide(q);
	vq->worker = vhost_queue_pick(vq);
	if (!q->has_lane)
		q->lane = (uint16_t)worker_index(vq->worker);
	q->has_lane = true;
	if (q->role == NET_QUEUE_RECEIVE) {
		q->to_guest = to_guest_fns[way];
		worker_call_wait(vq->worker, rx_start, q);
		net_span_update(d);
		vq->looks_ahead = vhost_has_iommu(vdev);
		if (vq->looks_ahead || q->coalesces)
			queue_poll(q, &rx_ops);
		return 0;
	}
	if (q->role == NET_QUEUE_CONTROL && !d->ctrl_ours) {
		d->ctrl_ours = true;
		/* virtio 1.3 5.1.6.5.5: one pair, until the driver asks for more. */
		__atomic_store_n(&d->pairs_used, 1, __ATOMIC_RELAXED);
	}
	vq->ring.unread = q->role == NET_QUEUE_TRANSMIT && !q->sender_offloads ? q->hdr_len : 0;
	q->burst = PORT_BURST;
	q->cost_max = POLL_MAX_US * clock_cycles_per_us();
	queue_poll(q, q->role == NET_QUEUE_CONTROL ? &ctrl_ops[way] : &from_guest_ops[way]);
	return 0;
}

/* A poll pushes every chain that it popped, so nothing is in flight once it is over. */
static void net_queue_stop(struct vhost_device *vdev, struct virtqueue *vq)
{
	struct net_device *d = net_device_of(vdev);
	struct net_queue *q = &d->queues[vq->index];

	if (q->role == NET_QUEUE_RECEIVE && q->coalesces)
		rx_wakes_end(q);
	if (vq->poller)
		worker_remove(vq->poller);
	if (q->role == NET_QUEUE_RECEIVE) {
		worker_call_wait(vq->worker, rx_stop, q);
		net_span_update(d);
	} else if (q->role == NET_QUEUE_TRANSMIT && q->coalesces) {
		worker_call_wait(vq->worker, tx_stop, q);
	}
	vhost_queue_stopped(vq);
}

static void rx_wakes_begin(void *arg)
{
	struct net_queue *q = arg;

	spin_lock(&q->vq->lock);
	q->no_wake = false;
	spin_unlock(&q->vq->lock);
	poller_wake(&q->poller);
}

/*
 * Nothing is in flight between two polls, and what was sent from the old worker is with its
 * receivers by then. A receive queue may have no poller; whoever has packets for it fills it.
 */
static void net_queue_move(struct vhost_device *vdev, struct virtqueue *vq, struct worker *to)
{
	struct net_queue *q = vq->priv;
	bool wakes = q->role == NET_QUEUE_RECEIVE && q->coalesces;

	(void)vdev;
	if (to == vq->worker)
		return;
	if (wakes)
		rx_wakes_end(q);
	if (vq->poller)
		worker_move(vq->poller, to);
	vq->worker = to;
	/* It is active there, and looks at what was left pending meanwhile. */
	if (wakes)
		worker_call_wait(to, rx_wakes_begin, q);
}

static void net_queue_enabled(struct vhost_device *vdev, struct virtqueue *vq, bool enabled)
{
	net_span_update(net_device_of(vdev));
	if (enabled)
		net_coalesce_enabled(vq->priv);
}

static int net_set_mtu(struct vhost_device *vdev, uint16_t mtu)
{
	struct net_device *d = net_device_of(vdev);

	if (mtu < MTU_MIN)
		return -EINVAL;
	d->mtu = mtu;
	return 0;
}

struct rarp {
	struct net_device *dev;
	struct packet packet;
};

static void rarp_forward(void *arg)
{
	struct rarp *r = arg;

	switch_forward(r->dev->port.sw, &r->dev->port, &r->packet, 1);
}

/*
 * A RARP request for its own address, by broadcast: what bridges and switches learn from. The guest
 * has moved here and has not sent anything yet.
 */
static int net_send_rarp(struct vhost_device *vdev, const uint8_t mac[6])
{
	static const uint8_t fixed[] = { 0x80, 0x35,		       /* ethertype: RARP */
					 0x00, 0x01, 0x08, 0x00, 6, 4, /* Ethernet, IPv4 */
					 0x00, 0x03 };		       /* request reverse */
	struct rarp r = { .dev = net_device_of(vdev),
			  .packet = { .len = RARP_LEN, .head_len = RARP_LEN } };
	uint8_t *head = r.packet.head;

	if (mac[0] & 1)
		return -EINVAL;
	memset(head, 0xff, 6);
	memcpy(head + 6, mac, 6);
	memcpy(head + 12, fixed, sizeof(fixed));
	memcpy(head + 22, mac, 6); /* sender, and from 32 on the target; addresses unknown: 0 */
	memcpy(head + 32, mac, 6);
	worker_call_wait(workers_get(vdev->workers, 0), rarp_forward, &r);
	return 0;
}

static void net_reset(struct vhost_device *vdev)
{
	driver_state_forget(net_device_of(vdev));
}

static void net_disconnected(struct vhost_device *vdev)
{
	struct net_device *d = net_device_of(vdev);

	driver_state_forget(d);
	for (unsigned i = 0; i < vdev->n_queues; i++)
		d->queues[i].has_lane = false;
}

static const struct vhost_device_ops net_ops = {
	.kind = "net",
	.runs_disabled = true,
	.in_order = true,
	.inflight = true,
	.features = net_features,
	.set_features = net_set_features,
	.config_size = sizeof(struct virtio_net_config),
	.get_config = net_get_config,
	.set_config = net_set_config,
	.queue_start = net_queue_start,
	.queue_stop = net_queue_stop,
	.save_state = net_save_state,
	.load_state = net_load_state,
	.queue_move = net_queue_move,
	.queue_enabled = net_queue_enabled,
	.set_mtu = net_set_mtu,
	.send_rarp = net_send_rarp,
	.disconnected = net_disconnected,
	.reset = net_reset,
};

static const struct port_ops guest_port_ops = {
	.kind = "guest",
	.holds = true,
	.deliver = net_deliver,
};

static void device_free(struct net_device *d)
{
	switch_detach(&d->port);
	vhost_device_fini(&d->vdev);
	free(d->port.stats);
	free(d->queues);
	free(d->flows);
	free(d);
}

static void socket_drop(struct vhost_socket *s)
{
	free(s->path);
	free(s->group);
	if (s->fd >= 0) /* maybe a client's, and of any kind */
		disposal_close(NULL, s->fd);
}

static void hung_up(struct vhost_device *vdev)
{
	struct net_device *d = net_device_of(vdev);

	if (d->on_closed)
		d->on_closed(d->on_closed_arg);
}

static int device_alloc(struct net_device *d, struct workers *workers, struct error *err)
{
	unsigned n_queues = 2 * d->cfg.queue_pairs + 1;
	size_t stats_bytes = workers_count(workers) * sizeof(struct port_stats);
	int rc = vhost_device_init(&d->vdev, &net_ops, d->cfg.name, n_queues, workers, err);

	if (rc < 0)
		return rc;
	d->vdev.queue_num = d->cfg.queue_pairs;
	d->vdev.closed = hung_up;
	d->cfg.name = d->vdev.name;
	d->queues = calloc(n_queues, sizeof(d->queues[0]));
	d->port.stats = aligned_alloc(CACHE_LINE, stats_bytes);
	if (d->cfg.queue_pairs > 1)
		d->flows = flows_new();
	if (!d->queues || !d->port.stats || (d->cfg.queue_pairs > 1 && !d->flows))
		return error_set(err, -ENOMEM, "port %s: out of memory", d->cfg.name);
	memset(d->port.stats, 0, stats_bytes);
	for (unsigned i = 0; i < n_queues; i++) {
		struct net_queue *q = &d->queues[i];

		q->dev = d;
		q->vq = &d->vdev.queues[i];
		q->pair = i / 2;
		q->vq->priv = q;
	}
	return 0;
}

static int config_check(const struct net_device_config *cfg, struct error *err)
{
	if (cfg->queue_pairs < 1 || cfg->queue_pairs > NET_QUEUE_PAIRS_MAX)
		return error_set(err, -EINVAL, "port %s: %u queue pairs: give 1 to %u", cfg->name,
				 cfg->queue_pairs, NET_QUEUE_PAIRS_MAX);
	if (cfg->has_mac && (cfg->mac[0] & 1 || mac_word(cfg->mac) == 0))
		return error_set(
			err, -EINVAL,
			"port %s: the MAC address is zero or a group address: give that of "
			"one station, like 52:54:00:00:00:01",
			cfg->name);
	if (cfg->mtu && cfg->mtu < MTU_MIN)
		return error_set(err, -EINVAL, "port %s: an MTU of %u: give %u to 65535, or none",
				 cfg->name, cfg->mtu, MTU_MIN);
	if (cfg->speed > SPEED_MAX)
		return error_set(err, -EINVAL, "port %s: a speed of %u: give 1 to %u, or none",
				 cfg->name, cfg->speed, SPEED_MAX);
	return 0;
}

int net_device_create(const struct net_device_config *cfg, struct net_switch *sw,
		      struct workers *workers, struct net_device **out, struct error *err)
{
	struct vhost_socket s = cfg->socket;
	struct net_device *d = NULL;
	int rc = config_check(cfg, err);

	if (rc < 0)
		goto drop_socket;
	d = calloc(1, sizeof(*d));
	if (!d) {
		rc = error_set(err, -ENOMEM, "port %s: out of memory", cfg->name);
		goto drop_socket;
	}

	d->cfg = *cfg;
	d->cfg.socket = (struct vhost_socket) { .fd = -1 };
	d->mtu = cfg->mtu;
	d->port.ops = &guest_port_ops;
	snprintf(d->port.name, sizeof(d->port.name), "%s", cfg->name);
	port_set_rules(&d->port, cfg->rules);
	d->cfg.rules = NULL; /* the port has them */
	rc = device_alloc(d, workers, err);
	if (rc < 0)
		goto drop_socket;
	driver_state_forget(d);
	rc = switch_attach(sw, &d->port, err);
	if (rc < 0)
		goto drop_socket;
	rc = vhost_device_serve(&d->vdev, &s, err);
	if (rc < 0)
		goto drop_device;
	*out = d;
	return 0;

drop_socket:
	socket_drop(&s);
drop_device:
	if (d)
		device_free(d);
	return rc;
}

static void closed(struct vhost_device *vdev)
{
	struct net_device *d = net_device_of(vdev);
	void (*fn)(void *arg) = d->closed;
	void *arg = d->closed_arg;

	device_free(d);
	if (fn)
		fn(arg);
}

void net_device_close(struct net_device *d, void (*fn)(void *arg), void *arg)
{
	d->closed = fn;
	d->closed_arg = arg;
	vhost_device_close(&d->vdev, closed);
}

const struct vhost_device *net_device_vhost(const struct net_device *d)
{
	return &d->vdev;
}

void net_device_on_closed(struct net_device *d, void (*fn)(void *arg), void *arg)
{
	d->on_closed = fn;
	d->on_closed_arg = arg;
}

const struct port *net_device_port(const struct net_device *d)
{
	return &d->port;
}

bool net_device_set_down(struct net_device *d, bool down)
{
	if (port_is_down(&d->port) == down)
		return false;
	port_set_down(&d->port, down);
	return vhost_has_feature(&d->vdev, VIRTIO_NET_F_STATUS) &&
	       vhost_device_config_changed(&d->vdev);
}

/* On the queue's worker: its next poll sees how long it has to wait now, if it has to. */
static void stop_resting(struct virtqueue *vq, void *arg)
{
	struct net_queue *q = vq->priv;

	(void)arg;
	if (!vq->poller || !q->poller.rests)
		return;
	q->poller.rests = false;
	q->poller.park_max_us = q->park_max_us;
	poller_wake(&q->poller);
}

void net_device_set_limits(struct net_device *d, const struct port_rules *rules)
{
	port_set_limits(&d->port, rules);
	for (unsigned pair = 0; pair < d->cfg.queue_pairs; pair++)
		vhost_queue_change(d->queues[2 * pair + 1].vq, stop_resting, NULL);
}

void net_device_set_rules(struct net_device *d, const struct port_rules *rules)
{
	port_change_rules(&d->port, rules);
	switch_relearn(&d->port);
}

const struct net_device_config *net_device_config(const struct net_device *d)
{
	return &d->cfg;
}
