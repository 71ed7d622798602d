/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The insides of a guest port: a virtio-net device and its queues (virtio 1.3 5.1). Shared by
 * device.c, from_guest.c, to_guest.c, steer.c and ctrl.c; the daemon sees net/net.h.
 */
#ifndef SLUICE_NET_VIRTIO_NET_H
#define SLUICE_NET_VIRTIO_NET_H

#include "net/coalesce.h"
#include "net/filter.h"
#include "net/flows.h"
#include "net/net.h"
#include "net/offload.h"
#include "net/rss.h"
#include "vhost/ring_keep.h"

#include <linux/virtio_net.h>

/*
 * virtio 1.3 5.1.6: with VERSION_1 or MRG_RXBUF the header has num_buffers, else it ends before;
 * with HASH_REPORT a hash follows.
 */
#define VNET_HDR_LEN_HASH sizeof(struct virtio_net_hdr_v1_hash)
#define VNET_HDR_LEN sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define VNET_HDR_LEN_LEGACY sizeof(struct virtio_net_hdr)
static_assert(VNET_HDR_LEN_HASH == 20 && VNET_HDR_LEN == 12 && VNET_HDR_LEN_LEGACY == 10,
	      "virtio 1.3 5.1.6");

/* virtio 1.3 5.1.3; not in Linux's headers of 6.1. */
#define VIRTIO_NET_F_VQ_NOTF_COAL 52
#ifndef VIRTIO_NET_F_HOST_USO
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO 56
#endif

/*
 * The front-end names a queue in 8 bits when it hands over its eventfds (vhost-user
 * SET_VRING_KICK), so there are 256 of them, and one is the control queue.
 */
#define NET_QUEUE_PAIRS_MAX 127

/* Seen from the guest, as virtio 1.3 5.1.2 names them. */
enum net_queue_role { NET_QUEUE_RECEIVE, NET_QUEUE_TRANSMIT, NET_QUEUE_CONTROL };

struct net_queue {
	struct virtqueue *vq;
	struct net_device *dev;
	enum net_queue_role role;
	unsigned pair;
	uint16_t lane; /* transmit: of its packets */
	bool has_lane;
	struct poller poller; /* a receive queue has one behind an IOMMU only */
	unsigned burst;	      /* transmit: chains that the next poll takes; see burst_adapt() */
	uint32_t park_max_us; /* transmit: of its poller, while it does not rest */
	uint64_t cost_max;    /* transmit: cycles of a poll that is to take no more */
	uint64_t looked_at;   /* transmit: when net_sent() last did, in cycles */

	/* Decided when the queue starts, from the negotiated features; constant while it runs. */
	uint8_t hdr_len;
	unsigned sender_offloads; /* transmit: OFFLOAD_* that the guest may ask for */
	bool mergeable;		  /* receive: MRG_RXBUF */
	bool coalesces;		  /* the driver may ask for fewer calls */

	/* Receive: what the guest takes unfinished. Under vq->lock; see net_offloads_decide(). */
	bool csum, tso4, tso6, uso4, uso6, ecn;

	/*
	 * Receive: workers may use the ring. Written under vq->lock on the queue's worker; read as
	 * a hint without the lock, as the truth with it.
	 */
	bool running;
	struct coalesce coalesce; /* receive: under vq->lock; transmit: its worker's */
	/*
	 * Receive, with coalescing: whoever leaves the first packet pending has a poller that
	 * sleeps woken, unless @no_wake. Under vq->lock.
	 */
	bool asleep, no_wake;
	bool wake_posted; /* atomic: @wake is on its way */
	struct call wake;
	unsigned (*to_guest)(struct net_queue *q, struct packet *const *packets, unsigned n,
			     struct port_stats *stats);
};

/* Bits of net_device.looks: a frame's hash is reported, or chooses its queue; not all are wanted;
 * the driver may use several pairs, and has flows steered where it sends them from. */
#define NET_HASHES 1u
#define NET_FILTERS 2u
#define NET_FLOWS 4u

struct net_device {
	struct vhost_device vdev;
	struct port port;
	struct net_device_config cfg; /* name: vdev's; socket: vdev has it */
	struct net_queue *queues;     /* as many as vdev has virtqueues */
	uint16_t mtu;		      /* cfg.mtu, or what NET_SET_MTU said since */

	/*
	 * The address in the configuration space, as mac_word() packs it. Atomic: the control
	 * queue's worker writes it while the control thread reads.
	 */
	uint64_t mac;
	/*
	 * Pairs that the guest uses, 1 to cfg.queue_pairs. Atomic. It is the control queue's to
	 * set; where the front-end keeps that queue to itself, all pairs that it enables are used.
	 */
	unsigned pairs_used;
	/* For all queues of a role, and for those that are enabled anew. Atomic. */
	struct coalesce coalesce[NET_QUEUE_CONTROL];
	/* Negotiated offloads, as bits of features, that the driver has switched off. Atomic. */
	uint64_t offloads_off;
	bool ctrl_ours; /* the front-end handed the control queue to us */
	/* The driver's state came from a source, and no queue has started since: the features that
	 * follow are that driver's. */
	bool state_came;
	/* Pairs below it may have a receive queue that runs and is enabled. Atomic. */
	unsigned rx_span;
	/*
	 * NET_HASHES, NET_FILTERS, NET_FLOWS: why frames to this guest are looked at before they go
	 * into a queue. Atomic. How hashes are computed is in rss[rss_gen % 2]: see net_steer().
	 */
	uint8_t looks;
	unsigned rss_gen;
	struct rss rss[2];
	struct filter filter;
	struct flows *flows; /* NULL with one pair */

	void (*on_closed)(void *arg); /* of net_device_on_closed() */
	void *on_closed_arg;
	void (*closed)(void *arg); /* of net_device_close() */
	void *closed_arg;
};

static inline struct net_device *net_device_of(struct vhost_device *vdev)
{
	return container_of(vdev, struct net_device, vdev);
}

static inline uint64_t mac_word(const uint8_t mac[6])
{
	uint64_t w = 0;

	__builtin_memcpy(&w, mac, 6);
	return w;
}

/* Any thread: what a driver negotiates anew while its rings run is the control thread's to say. */
static inline void net_look(struct net_device *d, uint8_t why, bool on)
{
	if (on)
		__atomic_or_fetch(&d->looks, why, __ATOMIC_RELAXED);
	else
		__atomic_and_fetch(&d->looks, (uint8_t)~why, __ATOMIC_RELAXED);
}

/* A worker's own counters of @d's port. */
HOT struct port_stats *net_stats(struct net_device *d)
{
	return &d->port.stats[worker_index(worker_current())];
}

/* from_guest.c: the poller of a transmit queue, by ring_way(). */
extern const struct poller_ops from_guest_ops[N_RING_WAYS];

/* to_guest.c: the way into receive queues, by ring_way(). */
extern unsigned (*const to_guest_fns[N_RING_WAYS])(struct net_queue *q,
						   struct packet *const *packets, unsigned n,
						   struct port_stats *stats);
extern const struct poller_ops rx_ops; /* the poller of a receive queue, if it has one */
/* Control thread: no rx_ops poller of @q is woken by others any more, until the queue starts or
 * moves. */
void rx_wakes_end(struct net_queue *q);

/* steer.c: port_ops.deliver, into the right receive queue. */
unsigned net_deliver(struct port *p, struct packet *const *packets, unsigned n);
/* Worker thread, with NET_FLOWS: what the guest sent by @q, whose answers are to come there. */
void net_sent(struct net_queue *q, const struct packet *packets, unsigned n);
/* Control thread: a receive queue has started or stopped, or was enabled or disabled. */
void net_span_update(struct net_device *d);
/*
 * From now on frames are hashed and steered by @c, which is right. On the control queue's worker;
 * on the control thread while no queue runs. When it returns no frame goes by what was before.
 */
void net_steer(struct net_device *d, const struct rss_config *c);
/* What net_steer() was last told. The same threads. */
static inline const struct rss_config *net_steering(const struct net_device *d)
{
	return &d->rss[d->rss_gen % 2].config;
}

/* coalesce.c */
/* Control thread, no queue runs: as a driver finds it that begins anew. */
void net_coalesce_forget(struct net_device *d);
/* Control thread: @q is enabled anew. */
void net_coalesce_enabled(struct net_queue *q);
/* Control queue's worker. What VIRTIO_NET_CTRL_NOTF_COAL_* say; @return false: it is not right. */
bool net_coalesce_command(struct net_device *d, uint8_t cmd, const uint8_t *data, size_t len,
			  struct coalesce_params *got);

/* guest_offloads.c */
/* What a driver may switch, as bits of features. */
uint64_t net_offloads_known(void);
/* Control thread: a queue starts. */
void net_offloads_decide(struct net_queue *q);
/*
 * What of these is not @off is on from now on, if it was negotiated. On the control queue's worker,
 * or on the control thread; when it returns no frame goes by what was before.
 */
void net_offloads_set(struct net_device *d, uint64_t off);
/* Control queue's worker. VIRTIO_NET_CTRL_GUEST_OFFLOADS_*; @return false: it is not right. */
bool net_offloads_command(struct net_device *d, uint8_t cmd, const uint8_t *data, size_t len);

/* state.c: vhost_device_ops. */
void net_save_state(struct vhost_device *vdev, struct state_blob *state);
int net_load_state(struct vhost_device *vdev, const struct state_blob *state, struct error *err);

/* ctrl.c: the poller of the control queue, by ring_way(). */
extern const struct poller_ops ctrl_ops[N_RING_WAYS];

#endif
