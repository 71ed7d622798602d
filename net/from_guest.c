/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Out of a guest: its transmit queue's chains become packets, in place. One packet's walk:
 *
 *	1 ring_pop		up to PORT_BURST chains
 *	2 packet_from_chain	virtio-net header and the frame's head, read once; the rest stays
 *	3 switch_forward	… → net_deliver() of the receiver copies it out of here
 *	4 ring_push, publish, call
 */
#include "base/copy.h"
#include "net/virtio_net.h"

#include <endian.h>
#include <string.h>

#define HOLD_MIN_NS UINT64_C(1000000)
#define HOLD_MAX_NS UINT64_C(250000000)

/* Segments of a burst. Ordinary ones take one or two a chain; ring_pop() stops where it is full. */
#define SEGS_MAX (2 * RING_CHAIN_SEGS_MAX)

/* Copies @len bytes out of @segs, from their start on; the caller knows that they are there. */
HOT void gather(const struct iovec *segs, void *to, size_t len)
{
	uint8_t *out = to;

	for (; len > 0; segs++) {
		size_t n = MIN(len, segs->iov_len);

		copy_bytes(out, segs->iov_base, n);
		out += n;
		len -= n;
	}
}

/* Leaves the first @len bytes of the segments behind. */
HOT void advance(struct iovec **segs, unsigned *n_segs, size_t len)
{
	while (len > 0 && len >= (*segs)->iov_len) {
		len -= (*segs)->iov_len;
		(*segs)++;
		(*n_segs)--;
	}
	if (len > 0) {
		(*segs)->iov_base = (uint8_t *)(*segs)->iov_base + len;
		(*segs)->iov_len -= len;
	}
}

/*
 * Fills @p from what the guest sent.
 * The header may be spread over any number of segments and may share one with the frame
 * (virtio 1.3 5.1.6.2: no assumption on framing, 2.7.4.1).
 * @plain: bytes of the head of a frame without offloads.
 * @return false for a frame to be dropped. Where it returns true, nothing that was checked is read
 * from guest memory again.
 */
HOT bool packet_from_chain(const struct net_queue *q, struct chain *c, struct packet *p,
			   uint32_t plain)
{
	struct virtio_net_hdr h = { 0 };
	struct iovec *segs = c->segs;
	unsigned n_segs = c->n_out;
	uint32_t want;

	if (unlikely(c->out_len < q->hdr_len + (uint32_t)ETHER_HDR_LEN ||
		     c->out_len > q->hdr_len + (uint32_t)FRAME_LEN_MAX))
		return false;
	/* 5.1.6.2.2: without offloads none of its fields counts. */
	if (q->sender_offloads)
		gather(segs, &h, sizeof(h));
	advance(&segs, &n_segs, q->hdr_len);
	p->len = c->out_len - q->hdr_len;
	/* gather() has filled it. NOLINTNEXTLINE(clang-analyzer-core.*) */
	want = h.flags | h.gso_type ? PACKET_HEAD_MAX : plain;
	p->head_len = (uint16_t)MIN(p->len, want);
	gather(segs, p->head, p->head_len);
	p->vlan = 0;
	p->lane = q->lane;
	if (likely(!(h.flags | h.gso_type))) {
		memset(&p->offload, 0, sizeof(p->offload));
	} else {
		h.hdr_len = le16toh(h.hdr_len);
		h.gso_size = le16toh(h.gso_size);
		h.csum_start = le16toh(h.csum_start);
		h.csum_offset = le16toh(h.csum_offset);
		if (packet_set_offload(p, &h, q->sender_offloads))
			return false;
	}
	advance(&segs, &n_segs, p->head_len);
	p->segs = segs;
	p->n_segs = (uint16_t)n_segs;
	return true;
}

/*
 * What a frame costs shows only when it has gone its way: flooded to all ports, cut into many, put
 * into poor buffers. So polls that took long take fewer frames, and those that did not take more
 * again. Others wait for as long as one poll takes, whatever share of the time its owner has.
 */
HOT void burst_adapt(struct net_queue *q)
{
	if (unlikely(q->poller.cost > q->cost_max))
		q->burst = MAX(q->burst / 2, 1u);
	else if (unlikely(q->burst < PORT_BURST))
		q->burst++;
}

/*
 * A guest that has sent more than its limit waits with what it has in its ring, and this poller
 * rests meanwhile: for a millisecond at least, so that the worker does not wake for each frame.
 * What it might have had in that time is saved up (struct bucket).
 */
static bool COLD hold(struct net_queue *q, struct port_stats *stats)
{
	uint64_t wait_ns = rules_hold_ns(&q->dev->port);

	q->poller.rests = wait_ns > 0;
	if (!wait_ns) {
		q->poller.park_max_us = q->park_max_us;
		return false;
	}
	q->poller.park_max_us = (uint32_t)(MIN(MAX(wait_ns, HOLD_MIN_NS), HOLD_MAX_NS) / 1000);
	counter_add(&stats->rx_held, 1);
	return true;
}

HOT unsigned from_guest(struct net_queue *q, enum ring_layout layout, enum ring_keeping keeping)
{
	struct ring *r = &q->vq->ring;
	struct port_stats *stats = net_stats(q->dev);
	struct packet packets[PORT_BURST];
	struct chain chains[PORT_BURST];
	struct iovec segs[SEGS_MAX];
	unsigned n, good = 0, cuts = GSO_CUTS_MAX;
	uint32_t rules = __atomic_load_n(&q->dev->port.rules_on, __ATOMIC_RELAXED);
	uint32_t plain = rules_head_len(rules);
	uint64_t bytes = 0;

	if (unlikely(rules & PORT_HOLD_IN) && hold(q, stats))
		return 0;
	n = ring_pop(r, layout, chains, q->burst, segs, SEGS_MAX);
	if (n == 0)
		return unlikely(q->coalesces) ? coalesce_poll(&q->coalesce, r, layout) : 0;
	burst_adapt(q); /* by the poll before this one */
	ring_push_ahead(r, layout, n);
	/* vhost-user "Ring states": a disabled transmit ring is consumed, and its frames dropped.
	 */
	if (likely(__atomic_load_n(&q->vq->enabled, __ATOMIC_RELAXED))) {
		for (unsigned i = 0; i < n; i++) {
			struct packet *p = &packets[good];

			if (unlikely(!packet_from_chain(q, &chains[i], p, plain)))
				continue;
			packet_limit_cuts(p, &cuts);
			bytes += p->len;
			good++;
		}
		counter_add(&stats->rx_packets, good);
		counter_add(&stats->rx_bytes, bytes);
		if (unlikely(good < n))
			counter_add(&stats->rx_bad, n - good);
		if (unlikely(__atomic_load_n(&q->dev->looks, __ATOMIC_RELAXED) & NET_FLOWS) && good)
			net_sent(q, packets, good);
		if (good)
			switch_forward(q->dev->port.sw, &q->dev->port, packets, good);
	}
	if (unlikely(rules & PORT_HOLD_IN))
		rules_took(&q->dev->port, n, bytes);
	if (keeping == RING_PLAIN)
		ring_push_many(r, layout, chains, n, NULL);
	for (unsigned i = 0; keeping == RING_KEPT && i < n; i++)
		ring_push_kept(r, chains[i].id, chains[i].n_slots, 0);
	ring_publish_way(r, layout, keeping);
	if (likely(!q->coalesces))
		ring_call(r, layout);
	else
		coalesce_call(&q->coalesce, r, layout, n);
	return n;
}

#define X(name, layout, keeping)                                                               \
	static unsigned from_guest_##name(struct poller *p)                                    \
	{                                                                                      \
		return from_guest(container_of(p, struct net_queue, poller), layout, keeping); \
	}                                                                                      \
	static bool arm_##name(struct poller *p)                                               \
	{                                                                                      \
		struct net_queue *q = container_of(p, struct net_queue, poller);               \
                                                                                               \
		if (unlikely(q->coalesces))                                                    \
			coalesce_flush(&q->coalesce, &q->vq->ring, layout);                    \
		/* What is there has to wait: kicks would tell nothing new. */                 \
		return p->rests || ring_kicks_on(&q->vq->ring, layout);                        \
	}                                                                                      \
	static void disarm_##name(struct poller *p)                                            \
	{                                                                                      \
		ring_kicks_off(&container_of(p, struct net_queue, poller)->vq->ring, layout);  \
	}
RING_WAYS(X)
#undef X

#define X(name, layout, keeping) \
	[RING_WAY(layout, keeping)] = { from_guest_##name, arm_##name, disarm_##name },
const struct poller_ops from_guest_ops[N_RING_WAYS] = { RING_WAYS(X) };
#undef X
