/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of a guest's receive queues a frame goes to: by the table that the driver has set (RSS,
 * virtio 1.3 5.1.6.5.7); else by the pair from which the guest sends the frame's flow (automatic
 * receive steering, 5.1.6.5.6); of a flow that it does not send, by the lane that the frame comes
 * from, so that what only comes in is never split over rings.
 *
 * The table, and the hash's, stand in two places of the device, by turns. Workers read them without
 * a lock, and see under the lock of the queue that they chose whether these were still in force.
 * What they read meanwhile may be of two tables, but each word of it is one that was checked. When
 * the table changes, all that went by the old one is in its queue before the first that goes by the
 * new one.
 *
 * Order. What belongs to one flow and comes by one sending queue stays in order: the driver takes
 * each frame of it off a ring before the next one is there to be taken off another. (A flow that is
 * sent by two queues at once has no order.) By the table and by the lane it goes one way anyway.
 * Where its guest begins to send it, or moves it to another pair, it changes rings, and a driver
 * empties its rings in no order. So a flow goes where it went, and its entry has the place in that
 * ring of its last frame (FLOW_PLACED; before there is one: all that is in the ring), until one of
 * these holds:
 *
 * - The driver has taken all before that place: ring_taken() knows from what it has made available
 *   since. Drivers whose rings are full of buffers, as Linux's and DPDK's, show that whenever they
 *   have caught up with what came and filled the ring again.
 * - Nothing of the flow has come for FLOWS_STALE, two to four seconds: whoever does not look at a
 *   ring for that long has no order to lose. For drivers with fewer buffers than a ring can hold;
 *   and its place in the table may be given to another flow by then.
 * - It is the same ring.
 *
 * One worker at a time brings what a queue sends, burst by burst, and it alone settles where a
 * flow goes; the workers of the guest's own queues only say where it is wanted. A burst with an
 * earlier frame that may be of the same flow settles nothing: that frame is not in its ring yet.
 *
 * Three things change rings without waiting, all of them the driver's or the front-end's own doing:
 * the number of pairs (VQ_PAIRS_SET), another table, a queue that is stopped. And the table of
 * flows stays behind when the guest migrates, or another process takes over.
 */
#include "net/virtio_net.h"
#include "vhost/ring_taken.h"

static_assert(NET_QUEUE_PAIRS_MAX <= FLOW_BY_LANE, "a pair is none of these");

/*
 * The receive queue for a pair or a lane, locked; the next that runs where that one does not. What
 * has one lane stays in order. A lane is the worker where the sending queue began, so that with
 * several pairs each worker has a queue to itself and they do not wait for each other; a queue that
 * moves to another worker keeps its lane. NULL: the guest listens on none.
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

static bool hashes(const struct net_device *d)
{
	return __atomic_load_n(&d->looks, __ATOMIC_RELAXED) & NET_HASHES;
}

/* The pairs that frames go to without a table. */
static unsigned pairs_open(const struct net_device *d)
{
	return MIN(__atomic_load_n(&d->rx_span, __ATOMIC_RELAXED),
		   __atomic_load_n(&d->pairs_used, __ATOMIC_RELAXED));
}

/* With a table no flow is asked for; the next one that comes without has to be learned then. */
static bool learns(const struct net_device *d)
{
	unsigned gen = __atomic_load_n(&d->rss_gen, __ATOMIC_RELAXED);

	return __atomic_load_n(&d->looks, __ATOMIC_RELAXED) & NET_FLOWS && pairs_open(d) > 1 &&
	       !__atomic_load_n(&d->rss[gen % 2].config.steers, __ATOMIC_RELAXED);
}

static bool follows(const struct net_device *d)
{
	return learns(d) && __atomic_load_n(&d->flows->used, __ATOMIC_RELAXED);
}

/* Where a burst goes. */
struct choice {
	unsigned gen;  /* the number of the configuration that it goes by */
	bool hashed;   /* the guest has NET_HASHES */
	bool by_table; /* no pair will do but that which the table names */
	bool tried;    /* a flow of it has been looked at whether it may move: one a burst */
	uint8_t age;
	unsigned open;	  /* pairs_open(), of which a burst sees one number */
	bool apart;	  /* it has hashes, or more than one way to go, or flows to be marked */
	unsigned by_lane; /* the pair of frames without a flow, or of an unknown one */
	uint32_t stay;	  /* of flows that go where they went, but are wanted elsewhere */
	uint16_t pairs[PORT_BURST];
	uint64_t flows[PORT_BURST]; /* their hashes; 0: none */
};

/* Has the driver taken what came of the flow by @pair? See "Order" above. */
static bool flow_taken(struct net_device *d, unsigned pair, uint64_t flow, uint8_t age)
{
	struct net_queue *q;
	const struct ring *r;
	bool taken;

	if (!flow_written_within(flow, age, FLOWS_STALE))
		return true;
	q = rx_lock(d, pair);
	if (!q)
		return true;
	r = &q->vq->ring;
	taken = ring_taken(r, flow & FLOW_PLACED ? (uint16_t)flow : ring_place(r));
	spin_unlock(&q->vq->lock);
	return taken;
}

/* Those before @i of the burst @which that may be of its flow. */
static bool flow_came_before(const struct choice *c, uint32_t which, unsigned i)
{
	for (which &= (UINT32_C(1) << i) - 1; which; which &= which - 1)
		if (flow_index(c->flows[__builtin_ctz(which)]) == flow_index(c->flows[i]))
			return true;
	return false;
}

/*
 * Of a flow that goes elsewhere than it is wanted. Its guest may keep it so for ever, so that is
 * looked into once a burst.
 */
static unsigned COLD flow_moves(struct net_device *d, struct choice *c, uint32_t which, unsigned i,
				uint64_t flow)
{
	while (flow) {
		unsigned from = flow_goes(flow), to = flow_wanted(flow);
		bool may = to < c->open;

		if (from >= c->open)
			from = c->by_lane;
		if (from == to && flow_settled(flow))
			return from;
		if (may && from != to) {
			may = !c->tried && !flow_came_before(c, which, i) &&
			      flow_taken(d, from, flow, c->age);
			c->tried = true;
		}
		if (!may) {
			c->stay |= UINT32_C(1) << i;
			return from;
		}
		if (flows_settle(d->flows, c->flows[i], flow, c->age))
			return to;
		flow = flows_find(d->flows, c->flows[i], c->age);
	}
	return c->by_lane;
}

HOT unsigned flow_pair(struct net_device *d, struct choice *c, uint32_t which, unsigned i,
		       const struct packet *p)
{
	uint64_t flow;

	c->flows[i] = 0;
	/* What goes to a group is nobody's flow with this guest. */
	if (p->head[0] & 1)
		return c->by_lane;
	c->flows[i] = flows_hash(d->flows, p);
	if (!c->flows[i])
		return c->by_lane;
	flow = flows_find(d->flows, c->flows[i], c->age);
	if (likely(!flow))
		return c->by_lane;
	if (unlikely(!flow_settled(flow)))
		return flow_moves(d, c, which, i, flow);
	return flow_goes(flow) < c->open ? flow_goes(flow) : c->by_lane;
}

/*
 * A look at one frame now and then costs next to nothing, and will do: a flow with much to send is
 * soon seen, and one with little finds a queue that has not been looked at for a while. At random,
 * for flows may come by turns.
 */
void net_sent(struct net_queue *q, const struct packet *packets, unsigned n)
{
	struct flows *f = q->dev->flows;
	uint64_t now = worker_now(worker_current()), hash;
	const struct packet *p;

	if (now - q->looked_at < f->look_cycles || !learns(q->dev))
		return;
	q->looked_at = now;
	p = &packets[((uint32_t)now * UINT32_C(0x9e3779b9) >> 16) * n >> 16];
	hash = p->head[0] & 1 ? 0 : flows_hash(f, p);
	if (hash)
		flows_sent(f, hash, q->pair, flows_age(f, now));
}

/* By their flows. */
static void choose_flows(struct net_device *d, struct packet *const *packets, uint32_t which,
			 struct choice *c)
{
	c->open = pairs_open(d);
	if (c->by_lane >= c->open)
		c->by_lane %= MAX(c->open, 1u);
	c->tried = false;
	c->age = flows_age(d->flows, worker_now(worker_current()));
	for (uint32_t left = which; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);
		unsigned pair = flow_pair(d, c, which, i, packets[i]);

		c->pairs[i] = (uint16_t)pair;
		c->apart |= pair != c->by_lane;
	}
	c->apart |= c->stay != 0;
}

/* The pair of those of the packets that @which names, and the hash, if the guest has any. */
static void choose(struct net_device *d, struct packet *const *packets, uint32_t which,
		   struct choice *c)
{
	bool followed = follows(d);
	const struct rss *r;

	/* Pairs with the release in net_steer(): the number, then what it is the number of. */
	c->gen = __atomic_load_n(&d->rss_gen, __ATOMIC_ACQUIRE);
	r = &d->rss[c->gen % 2];
	c->hashed = hashes(d);
	c->by_table = __atomic_load_n(&r->config.steers, __ATOMIC_RELAXED);
	c->by_lane = packets[0]->lane;
	c->stay = 0;
	c->apart = c->hashed | c->by_table;
	if (followed && !c->by_table)
		choose_flows(d, packets, which, c);
	for (uint32_t left = c->apart || !followed ? which : 0; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);
		struct packet *p = packets[i];

		if (c->hashed || c->by_table)
			p->hash = rss_hash(r, p, &p->hash_report);
		if (c->by_table)
			c->pairs[i] = (uint16_t)rss_pair(r, p->hash, p->hash_report);
		else if (!followed)
			c->pairs[i] = (uint16_t)c->by_lane;
	}
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

static bool steering_changed(const struct net_device *d, const struct choice *c)
{
	/* What was read of the configuration, then whether it was the one: seen by the lock's
	 * order against net_steer(), which takes the lock when it has stored both. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&d->rss_gen, __ATOMIC_RELAXED) != c->gen || hashes(d) != c->hashed;
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

static unsigned deliver_apart(struct net_device *d, struct packet *const *packets, unsigned n,
			      struct port_stats *stats);

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
		return deliver_apart(d, packets, n, stats);
	}
	taken = q->to_guest(q, packets, n, stats);
	spin_unlock(&q->vq->lock);
	return taken;
}

/* The flows of @which that may not move yet have come into @q, whose lock is held. */
static void COLD flows_mark(struct net_queue *q, const struct choice *c, uint32_t which)
{
	uint16_t place = ring_place(&q->vq->ring);

	for (which &= c->stay; which; which &= which - 1)
		flows_stayed(q->dev->flows, c->flows[__builtin_ctz(which)], place, c->age);
}

/* Each queue that has a share in the burst, one after the other. */
static unsigned deliver_apart(struct net_device *d, struct packet *const *packets, unsigned n,
			      struct port_stats *stats)
{
	const uint32_t all = (uint32_t)((UINT64_C(1) << n) - 1);
	uint32_t left = all;
	unsigned taken = 0;
	struct choice c;

	assert(n <= PORT_BURST);
	choose(d, packets, left, &c);
	if (likely(!c.apart))
		return deliver_by_lane(d, packets, n, stats);
	while (left) {
		uint32_t which = same_pair(c.pairs, left);
		unsigned pair = c.pairs[__builtin_ctz(left)];
		struct net_queue *q = c.by_table ? pair_lock(d, pair) : rx_lock(d, pair);

		if (unlikely(steering_changed(d, &c))) {
			if (q)
				spin_unlock(&q->vq->lock);
			choose(d, packets, left, &c);
			continue;
		}
		left &= ~which;
		if (!q) {
			counter_add(&stats->tx_down, (unsigned)__builtin_popcount(which));
			continue;
		}
		taken += which == all ? q->to_guest(q, packets, n, stats)
				      : deliver_run(q, packets, which, stats);
		if (unlikely(c.stay & which))
			flows_mark(q, &c, which);
		spin_unlock(&q->vq->lock);
	}
	return taken;
}

static unsigned COLD deliver_wanted(struct net_device *d, struct packet *const *packets, unsigned n,
				    struct port_stats *stats)
{
	struct packet *wanted[PORT_BURST];

	n = net_filter(d, packets, n, wanted, stats);
	if (n == 0)
		return 0;
	return hashes(d) || follows(d) ? deliver_apart(d, wanted, n, stats)
				       : deliver_by_lane(d, wanted, n, stats);
}

unsigned net_deliver(struct port *p, struct packet *const *packets, unsigned n)
{
	struct net_device *d = container_of(p, struct net_device, port);
	struct port_stats *stats = &p->stats[worker_index(worker_current())];
	uint8_t looks = __atomic_load_n(&d->looks, __ATOMIC_RELAXED);

	if (likely(!looks))
		return deliver_by_lane(d, packets, n, stats);
	if (unlikely(looks & NET_FILTERS))
		return deliver_wanted(d, packets, n, stats);
	return looks & NET_HASHES || follows(d) ? deliver_apart(d, packets, n, stats)
						: deliver_by_lane(d, packets, n, stats);
}

/*
 * Workers look for receive queues below rx_span only, and share flows out among these. Enabled
 * ones, for QEMU starts as many as there are, and enables those that the guest uses.
 */
void net_span_update(struct net_device *d)
{
	unsigned span = 0;

	for (unsigned pair = 0; pair < d->cfg.queue_pairs; pair++) {
		const struct net_queue *q = &d->queues[2 * pair];

		if (__atomic_load_n(&q->running, __ATOMIC_RELAXED) &&
		    __atomic_load_n(&q->vq->enabled, __ATOMIC_RELAXED))
			span = pair + 1;
	}
	__atomic_store_n(&d->rx_span, span, __ATOMIC_RELAXED);
}

void net_steer(struct net_device *d, const struct rss_config *c)
{
	unsigned gen = d->rss_gen + 1;
	bool reported = vhost_has_feature(&d->vdev, VIRTIO_NET_F_HASH_REPORT);

	/* A worker that still reads this place, of two changes ago, sees that by the number. */
	rss_set(&d->rss[gen % 2], c);
	/* Pairs with the acquire in choose(). */
	__atomic_store_n(&d->rss_gen, gen, __ATOMIC_RELEASE);
	net_look(d, NET_HASHES, reported || c->steers);
	for (unsigned i = 0; i < d->cfg.queue_pairs; i++) {
		struct virtqueue *vq = d->queues[2 * i].vq;

		spin_lock(&vq->lock);
		spin_unlock(&vq->lock);
	}
}
