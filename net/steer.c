/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of a guest's receive queues a frame goes to: by the table that the driver has set (RSS,
 * virtio 1.3 5.1.6.5.7), else by the lane that it comes from. What belongs to one flow goes one way
 * in both cases, so nothing is reordered; when the table changes, all that went by the old one is
 * in its queue before the first that goes by the new one.
 *
 * The table, and the hash's, stand in two places of the device, by turns. Workers read them without
 * a lock, and see under the lock of the queue that they chose whether these were still in force.
 * What they read meanwhile may be of two tables, but each word of it is one that was checked.
 */
#include "net/virtio_net.h"

/*
 * The receive queue for a lane, locked: what has one lane stays in order. A lane is the worker
 * where the sending queue began, so that with several pairs each worker has a queue to itself and
 * they do not wait for each other; a queue that moves to another worker keeps its lane. NULL: the
 * guest listens on none.
 */
static struct net_queue *rx_lock(struct net_device *d, unsigned lane)
{
	unsigned span = __atomic_load_n(&d->rx_span, __ATOMIC_RELAXED);
	unsigned used = __atomic_load_n(&d->pairs_used, __ATOMIC_RELAXED);

	span = MIN(span, used);
	for (unsigned i = 0; i < span; i++) {
		struct net_queue *q = &d->queues[2 * ((lane + i) % span)];
		struct virtqueue *vq = q->vq;

		if (!__atomic_load_n(&q->running, __ATOMIC_RELAXED) ||
		    !__atomic_load_n(&vq->enabled, __ATOMIC_RELAXED))
			continue;
		spin_lock(&vq->lock);
		/* The truth: whoever changes one of these takes the lock after. */
		if (__atomic_load_n(&q->running, __ATOMIC_RELAXED) &&
		    __atomic_load_n(&vq->enabled, __ATOMIC_RELAXED) &&
		    q->pair < __atomic_load_n(&d->pairs_used, __ATOMIC_RELAXED))
			return q;
		spin_unlock(&vq->lock);
	}
	return NULL;
}

/* The receive queue of @pair, locked; NULL: it does not run. 5.1.6.5.7.2: no other one will do. */
static struct net_queue *pair_lock(struct net_device *d, unsigned pair)
{
	struct net_queue *q = &d->queues[2 * pair];

	spin_lock(&q->vq->lock);
	if (__atomic_load_n(&q->running, __ATOMIC_RELAXED) &&
	    __atomic_load_n(&q->vq->enabled, __ATOMIC_RELAXED))
		return q;
	spin_unlock(&q->vq->lock);
	return NULL;
}

#define PAIR_BY_LANE UINT16_MAX

/*
 * The hash, and the pair, of those of the packets that @which names; NULL there: the lane decides.
 * @return the number of the configuration that they go by.
 */
static unsigned hash_packets(struct net_device *d, struct packet *const *packets, uint32_t which,
			     uint16_t *pairs)
{
	/* Pairs with the release in net_steer(): the number, then what it is the number of. */
	unsigned gen = __atomic_load_n(&d->rss_gen, __ATOMIC_ACQUIRE);
	const struct rss *r = &d->rss[gen % 2];
	bool steers = __atomic_load_n(&r->config.steers, __ATOMIC_RELAXED);

	for (; which; which &= which - 1) {
		unsigned i = (unsigned)__builtin_ctz(which);
		struct packet *p = packets[i];

		p->hash = rss_hash(r, p, &p->hash_report);
		pairs[i] = PAIR_BY_LANE;
		if (steers)
			pairs[i] = (uint16_t)rss_pair(r, p->hash, p->hash_report);
	}
	return gen;
}

/* Those of @which that go where the first of them goes. @return which ones these are. */
static uint32_t same_pair(const uint16_t *pairs, uint32_t which)
{
	uint16_t pair = pairs[__builtin_ctz(which)];
	uint32_t same = 0;

	for (; which; which &= which - 1) {
		unsigned i = (unsigned)__builtin_ctz(which);

		same |= (uint32_t)(pairs[i] == pair) << i;
	}
	return same;
}

static bool steering_changed(const struct net_device *d, unsigned gen)
{
	/* What was read of the configuration, then whether it was the one: seen by the lock's
	 * order against net_steer(), which takes the lock when it has stored the number. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&d->rss_gen, __ATOMIC_RELAXED) != gen;
}

static unsigned deliver_run(struct net_queue *q, struct packet *const *packets, uint32_t which,
			    struct port_stats *stats)
{
	struct packet *run[PORT_BURST];
	unsigned n = 0;

	for (; which; which &= which - 1)
		run[n++] = packets[__builtin_ctz(which)];
	return q->to_guest(q, run, n, stats);
}

/* Each queue that has a share in the burst, one after the other. */
static unsigned deliver_hashed(struct net_device *d, struct packet *const *packets, unsigned n,
			       struct port_stats *stats)
{
	uint32_t left = (uint32_t)((UINT64_C(1) << n) - 1);
	uint16_t pairs[PORT_BURST];
	unsigned taken = 0, gen;

	assert(n <= PORT_BURST);
	gen = hash_packets(d, packets, left, pairs);
	while (left) {
		uint32_t which = same_pair(pairs, left);
		unsigned pair = pairs[__builtin_ctz(left)];
		struct net_queue *q = pair == PAIR_BY_LANE ? rx_lock(d, packets[0]->lane)
							   : pair_lock(d, pair);

		if (unlikely(steering_changed(d, gen))) {
			if (q)
				spin_unlock(&q->vq->lock);
			gen = hash_packets(d, packets, left, pairs);
			continue;
		}
		left &= ~which;
		if (!q) {
			counter_add(&stats->tx_down, (unsigned)__builtin_popcount(which));
			continue;
		}
		taken += deliver_run(q, packets, which, stats);
		spin_unlock(&q->vq->lock);
	}
	return taken;
}

static bool hashes(const struct net_device *d)
{
	return __atomic_load_n(&d->looks, __ATOMIC_RELAXED) & NET_HASHES;
}

HOT unsigned deliver_by_lane(struct net_device *d, struct packet *const *packets, unsigned n,
			     struct port_stats *stats)
{
	struct net_queue *q;
	unsigned taken;

	q = rx_lock(d, packets[0]->lane);
	if (!q) {
		counter_add(&stats->tx_down, n);
		return 0;
	}
	/* The truth: net_steer() takes the lock after it has changed this. */
	if (unlikely(hashes(d))) {
		spin_unlock(&q->vq->lock);
		return deliver_hashed(d, packets, n, stats);
	}
	taken = q->to_guest(q, packets, n, stats);
	spin_unlock(&q->vq->lock);
	return taken;
}

static unsigned COLD deliver_looking(struct net_device *d, struct packet *const *packets,
				     unsigned n, struct port_stats *stats)
{
	struct packet *wanted[PORT_BURST];

	if (__atomic_load_n(&d->looks, __ATOMIC_RELAXED) & NET_FILTERS) {
		n = net_filter(d, packets, n, wanted, stats);
		packets = wanted;
		if (n == 0)
			return 0;
	}
	return hashes(d) ? deliver_hashed(d, packets, n, stats)
			 : deliver_by_lane(d, packets, n, stats);
}

unsigned net_deliver(struct port *p, struct packet *const *packets, unsigned n)
{
	struct net_device *d = container_of(p, struct net_device, port);
	struct port_stats *stats = &p->stats[worker_index(worker_current())];

	if (unlikely(__atomic_load_n(&d->looks, __ATOMIC_RELAXED)))
		return deliver_looking(d, packets, n, stats);
	return deliver_by_lane(d, packets, n, stats);
}

void net_steer(struct net_device *d, const struct rss_config *c)
{
	unsigned gen = d->rss_gen + 1;
	bool reported = vhost_has_feature(&d->vdev, VIRTIO_NET_F_HASH_REPORT);

	/* A worker that still reads this place, of two changes ago, sees that by the number. */
	rss_set(&d->rss[gen % 2], c);
	/* Pairs with the acquire in hash_packets(). */
	__atomic_store_n(&d->rss_gen, gen, __ATOMIC_RELEASE);
	net_look(d, NET_HASHES, reported || c->steers);
	for (unsigned i = 0; i < d->cfg.queue_pairs; i++) {
		struct virtqueue *vq = d->queues[2 * i].vq;

		spin_lock(&vq->lock);
		spin_unlock(&vq->lock);
	}
}
