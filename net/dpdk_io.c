/* SPDX-License-Identifier: Apache-2.0 */
/* The data path of a DPDK port: frames between mbufs and packets. Worker threads. */
#include "net/dpdk_impl.h"
#include "net/offload.h"

#include <rte_ethdev.h>
#include <rte_ip.h>

/* From the wire. */

bool dpdk_view(struct packet *pk, const struct rte_mbuf *m, struct iovec *segs, uint32_t head_len)
{
	uint32_t copied = 0, left, total = 0, promised = m->pkt_len;
	unsigned n = 0;

	if (m->pkt_len < ETHER_HDR_LEN)
		return false;
	left = MIN(m->pkt_len, head_len);
	pk->len = m->pkt_len;
	pk->head_len = (uint16_t)left;
	for (; m; m = m->next) {
		const uint8_t *at = rte_pktmbuf_mtod(m, const uint8_t *);
		uint32_t len = m->data_len, take = MIN(len, left);

		total += len;
		memcpy(pk->head + copied, at, take);
		copied += take;
		left -= take;
		if (take == len)
			continue;
		if (n == DPDK_RX_SEGS)
			return false;
		segs[n++] = (struct iovec) { (void *)(uintptr_t)(at + take), len - take };
	}
	pk->n_segs = (uint16_t)n;
	pk->segs = segs;
	pk->vlan = 0;
	pk->offload = (struct packet_offload) { 0 };
	/* Receivers go by the length, and so must find as many bytes. */
	return total == promised;
}

static unsigned rx_poll(struct poller *poller)
{
	struct dpdk_rxq *q = container_of(poller, struct dpdk_rxq, poller);
	struct dpdk_port *p = q->port;
	struct port_stats *s = &p->port.stats[worker_index(poller->worker)];
	struct rte_mbuf *mbufs[PORT_BURST];
	unsigned n = rte_eth_rx_burst(p->id, q->id, mbufs, PORT_BURST), n_good = 0;
	uint32_t head_len = rules_head_len(__atomic_load_n(&p->port.rules_on, __ATOMIC_RELAXED));
	uint64_t bytes = 0;

	if (n == 0)
		return 0;
	q->idle_looks = 0;
	for (unsigned i = 0; i < n; i++)
		__builtin_prefetch(rte_pktmbuf_mtod(mbufs[i], void *));
	for (unsigned i = 0; i < n; i++) {
		struct packet *pk = &q->packets[n_good];

		if (unlikely(!dpdk_view(pk, mbufs[i], q->segs[n_good], head_len)))
			continue;
		pk->offload.csum_valid = (mbufs[i]->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) ==
					 RTE_MBUF_F_RX_L4_CKSUM_GOOD;
		pk->lane = (uint16_t)worker_index(poller->worker);
		bytes += pk->len;
		n_good++;
	}
	counter_add(&s->rx_packets, n_good);
	counter_add(&s->rx_bytes, bytes);
	if (unlikely(n_good < n))
		counter_add(&s->rx_bad, n - n_good);
	switch_forward(p->port.sw, &p->port, q->packets, n_good);
	rte_pktmbuf_free_bulk(mbufs, n);
	return n;
}

static void rx_disarm(struct poller *poller)
{
	struct dpdk_rxq *q = container_of(poller, struct dpdk_rxq, poller);

	if (q->has_intr)
		rte_eth_dev_rx_intr_disable(q->port->id, q->id);
}

static bool rx_arm(struct poller *poller)
{
	struct dpdk_rxq *q = container_of(poller, struct dpdk_rxq, poller);

	if (q->has_intr)
		rte_eth_dev_rx_intr_enable(q->port->id, q->id);
	/* An interrupt tells of what comes after it was enabled: look once more. */
	if (rx_poll(poller) > 0) {
		rx_disarm(poller);
		return false;
	}
	if (poller->event_fd < 0) {
		if (q->idle_looks++ < DPDK_RX_PARK_LOOKS)
			poller->park_max_us = DPDK_RX_PARK_MIN_US;
		else
			poller->park_max_us = MIN(poller->park_max_us * 2,
						  (uint32_t)DPDK_RX_PARK_MAX_US);
	}
	return true;
}

const struct poller_ops dpdk_rx_ops = {
	.poll = rx_poll,
	.arm = rx_arm,
	.disarm = rx_disarm,
};

/* To the wire. */

struct tx {
	struct dpdk_port *p;
	struct dpdk_txq *q;
	struct port_stats *s;
	unsigned n;
	unsigned packet; /* the one that frames are now made of */
	uint32_t lost;	 /* bit i: packet i, or a frame cut from it, did not get out */
	struct rte_mbuf *mbufs[DPDK_TX_BATCH];
	uint8_t owner[DPDK_TX_BATCH]; /* the packet of each frame */
};

/* @return the frame's bytes. */
static uint32_t tx_lose(struct tx *tx, unsigned i)
{
	uint32_t len = tx->mbufs[i]->pkt_len;

	rte_pktmbuf_free(tx->mbufs[i]);
	tx->lost |= 1u << tx->owner[i];
	counter_add(&tx->s->tx_error, 1);
	return len;
}

/*
 * Hands all frames to the device. What it refuses as malformed is dropped alone; when its ring is
 * full the rest is dropped, since nobody waits on a worker.
 */
static void tx_send(struct tx *tx)
{
	uint16_t id = tx->p->id, queue = tx->q->id;
	unsigned at = 0, n_sent = 0;
	uint64_t bytes = 0;

	/* Now: a sent mbuf is not ours to look at. */
	for (unsigned i = 0; i < tx->n; i++)
		bytes += tx->mbufs[i]->pkt_len;
	while (at < tx->n) {
		uint16_t want = (uint16_t)(tx->n - at);
		uint16_t ready = rte_eth_tx_prepare(id, queue, tx->mbufs + at, want);
		uint16_t sent = 0;

		if (ready)
			sent = rte_eth_tx_burst(id, queue, tx->mbufs + at, ready);
		n_sent += sent;
		at += sent;
		if (sent < ready)
			break;
		if (ready < want)
			bytes -= tx_lose(tx, at++);
	}
	while (at < tx->n)
		bytes -= tx_lose(tx, at++);
	counter_add(&tx->s->tx_packets, n_sent);
	counter_add(&tx->s->tx_bytes, bytes);
	tx->n = 0;
}

/*
 * A shared queue. The driver's call may be a system call, and nobody waits for one that another
 * worker makes: whoever finds it busy leaves the frames, and the one who is at it sends them too,
 * in the order in which they were left.
 */

/* @return false: somebody else is at it, and has the frames now, or they are lost. */
static bool tx_claim(struct tx *tx)
{
	struct dpdk_txq *q = tx->q;
	unsigned taken;

	spin_lock(&q->lock);
	if (!q->busy) {
		q->busy = true;
		spin_unlock(&q->lock);
		return true;
	}
	taken = MIN(tx->n, DPDK_TX_LEFT - q->n_left);
	memcpy(q->left + q->n_left, tx->mbufs, taken * sizeof(q->left[0]));
	q->n_left += taken;
	spin_unlock(&q->lock);
	for (unsigned i = taken; i < tx->n; i++)
		tx_lose(tx, i);
	tx->n = 0;
	return false;
}

/* What others have left, at most a batch. @return false: nothing, and nobody is at it any more. */
static bool tx_take_left(struct tx *tx)
{
	struct dpdk_txq *q = tx->q;

	spin_lock(&q->lock);
	tx->n = MIN(q->n_left, DPDK_TX_BATCH);
	memcpy(tx->mbufs, q->left, tx->n * sizeof(q->left[0]));
	memset(tx->owner, 0, tx->n);
	q->n_left -= tx->n;
	memmove(q->left, q->left + tx->n, q->n_left * sizeof(q->left[0]));
	q->busy = tx->n > 0;
	spin_unlock(&q->lock);
	return tx->n > 0;
}

/* Others may leave frames as fast as we send them: a few batches, then between two polls again. */
static void tx_send_left(struct tx *tx)
{
	for (unsigned i = 0; i < DPDK_TX_LEFT / DPDK_TX_BATCH; i++) {
		if (!tx_take_left(tx))
			return;
		tx_send(tx);
	}
	worker_call(worker_current(), &tx->q->go_on);
}

void dpdk_tx_go_on(struct call *c)
{
	struct dpdk_txq *q = container_of(c, struct dpdk_txq, go_on);
	struct tx tx = { .p = q->port,
			 .q = q,
			 .s = &q->port->port.stats[worker_index(worker_current())] };

	tx_send_left(&tx);
}

static void tx_flush(struct tx *tx)
{
	uint32_t lost;

	if (likely(!tx->q->shared)) {
		tx_send(tx);
		return;
	}
	if (!tx_claim(tx))
		return;
	tx_send(tx);
	lost = tx->lost; /* others' losses are none of this burst */
	tx_send_left(tx);
	tx->lost = lost;
	tx->n = 0;
}

/* The frame's bytes, copied: the one copy on the way from a guest to the wire. NULL: no buffers. */
static struct rte_mbuf *mbuf_of_frame(struct rte_mempool *pool, struct frame *f)
{
	struct rte_mbuf *first = rte_pktmbuf_alloc(pool), *m = first;
	const void *piece;
	uint32_t len = 0;

	if (unlikely(!first))
		return NULL;
	memcpy(rte_pktmbuf_append(first, (uint16_t)f->head_len), f->head, f->head_len);
	while (f->body_len > 0) {
		if (rte_pktmbuf_tailroom(m) == 0) {
			m->next = rte_pktmbuf_alloc(pool);
			if (unlikely(!m->next)) {
				rte_pktmbuf_free(first);
				return NULL;
			}
			m = m->next;
			first->nb_segs++;
		}
		piece = frame_next(f, rte_pktmbuf_tailroom(m), &len);
		memcpy(rte_pktmbuf_mtod_offset(m, void *, m->data_len), piece, len);
		m->data_len += (uint16_t)len;
		first->pkt_len += len;
	}
	return first;
}

/* Where the headers of a frame are; only what devices finish themselves. */
struct layers {
	uint8_t l2, l3, l4; /* lengths */
	uint64_t flags;	    /* RTE_MBUF_F_TX_*: the IP version and the checksum's kind */
};

/* @return false: a checksum or headers that are done in software. */
static bool find_layers(struct layers *l, const struct frame *f)
{
	const struct packet_offload *o = &f->offload;
	unsigned l2 = 12, type = 0, proto;

	do {
		/* More than two tags the device may not know, nor l2_len's 7 bits hold. */
		if (l2 + 2 > f->head_len || l2 > 12 + 2 * 4)
			return false;
		type = f->head[l2] << 8 | f->head[l2 + 1];
		l2 += type == RTE_ETHER_TYPE_VLAN || type == RTE_ETHER_TYPE_QINQ ? 4 : 2;
	} while (type == RTE_ETHER_TYPE_VLAN || type == RTE_ETHER_TYPE_QINQ);
	if (o->csum_start <= l2 || o->csum_start > l2 + 60u)
		return false;
	l->l2 = (uint8_t)l2;
	l->l3 = (uint8_t)(o->csum_start - l2);
	if (type == RTE_ETHER_TYPE_IPV4 && l->l3 == (f->head[l2] & 0xf) * 4u && l->l3 >= 20) {
		l->flags = RTE_MBUF_F_TX_IPV4;
		proto = f->head[l2 + 9];
	} else if (type == RTE_ETHER_TYPE_IPV6 && l->l3 == 40) {
		l->flags = RTE_MBUF_F_TX_IPV6;
		proto = f->head[l2 + 6];
	} else {
		return false;
	}
	if (proto == IPPROTO_TCP && o->csum_offset == 16 && o->csum_start + 20u <= f->head_len) {
		l->flags |= RTE_MBUF_F_TX_TCP_CKSUM;
		l->l4 = (uint8_t)(f->head[o->csum_start + 12] >> 4) * 4;
		return l->l4 >= 20;
	}
	if (proto == IPPROTO_UDP && o->csum_offset == 6 && o->csum_start + 8u <= f->head_len) {
		l->flags |= RTE_MBUF_F_TX_UDP_CKSUM;
		l->l4 = 8;
		return true;
	}
	return false;
}

/* @return the flags with which the device finishes @f; 0: it cannot. */
static uint64_t device_does(const struct dpdk_port *p, const struct frame *f, struct layers *l)
{
	uint64_t on = p->tx_offloads;

	if (!f->offload.needs_csum || !find_layers(l, f))
		return 0;
	if (f->offload.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		/* Few devices cut datagrams: we do that, and they sum them. */
		if (f->offload.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ||
		    !(on & RTE_ETH_TX_OFFLOAD_TCP_TSO))
			return 0;
		/* The sender chose the size of the pieces: no device is asked to send giants. */
		if (f->head_len + f->offload.gso_size > p->max_frame)
			return 0;
		/* A cut IPv4 packet needs its header's checksum anew. */
		return l->flags | RTE_MBUF_F_TX_TCP_SEG |
		       (l->flags & RTE_MBUF_F_TX_IPV4 ? RTE_MBUF_F_TX_IP_CKSUM : 0);
	}
	if ((l->flags & RTE_MBUF_F_TX_L4_MASK) == RTE_MBUF_F_TX_TCP_CKSUM)
		return on & RTE_ETH_TX_OFFLOAD_TCP_CKSUM ? l->flags : 0;
	return on & RTE_ETH_TX_OFFLOAD_UDP_CKSUM ? l->flags : 0;
}

/* Takes one frame that needs nothing, or what @flags says the device does. */
static void tx_frame(struct tx *tx, struct frame *f, const struct layers *l, uint64_t flags)
{
	uint32_t len = frame_len(f);
	struct rte_mbuf *m;

	if (unlikely(len > tx->p->max_frame && !(flags & RTE_MBUF_F_TX_TCP_SEG))) {
		counter_add(&tx->s->tx_too_big, 1);
		tx->lost |= 1u << tx->packet;
		return;
	}
	m = mbuf_of_frame(tx->p->pool, f);
	if (unlikely(!m)) {
		counter_add(&tx->s->tx_no_buffer, 1);
		tx->lost |= 1u << tx->packet;
		return;
	}
	if (flags) {
		m->ol_flags |= flags;
		m->l2_len = l->l2;
		m->l3_len = l->l3;
		m->l4_len = l->l4;
		m->tso_segsz = f->offload.gso_size;
	}
	tx->mbufs[tx->n] = m;
	tx->owner[tx->n] = (uint8_t)tx->packet;
	if (++tx->n == DPDK_TX_BATCH)
		tx_flush(tx);
}

static void tx_packet(struct tx *tx, struct packet *pk)
{
	struct segmenter cut;
	struct layers l = { 0 };
	struct frame f;
	uint64_t flags;

	frame_of_packet(&f, pk);
	flags = device_does(tx->p, &f, &l);
	if (flags || pk->offload.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		if (!flags && pk->offload.needs_csum) {
			/* For all that this packet goes to, so that nobody finishes it twice. */
			packet_complete_csum(pk);
			frame_of_packet(&f, pk);
		}
		tx_frame(tx, &f, &l, flags);
		return;
	}
	for (segmenter_init(&cut, pk); segmenter_next(&cut, &f);) {
		flags = device_does(tx->p, &f, &l);
		if (!flags && f.offload.needs_csum)
			frame_complete_csum(&f);
		tx_frame(tx, &f, &l, flags);
	}
	if (segmenter_cut_short(&cut)) {
		counter_add(&tx->s->tx_cut_short, 1);
		tx->lost |= 1u << tx->packet;
	}
}

static unsigned dpdk_deliver(struct port *port, struct packet *const *packets, unsigned n)
{
	struct dpdk_port *p = container_of(port, struct dpdk_port, port);
	unsigned w = worker_index(worker_current());
	struct tx tx;

	assert(n > 0 && n <= PORT_BURST);
	tx.p = p;
	tx.q = &p->txqs[w % p->n_queues];
	tx.s = &port->stats[w];
	tx.n = 0;
	tx.lost = 0;
	packet_ahead(packets[0]);
	for (tx.packet = 0; tx.packet < n; tx.packet++) {
		if (tx.packet + 1 < n)
			packet_ahead(packets[tx.packet + 1]);
		tx_packet(&tx, packets[tx.packet]);
	}
	tx_flush(&tx);
	return n - (unsigned)__builtin_popcount(tx.lost);
}

const struct port_ops dpdk_port_ops = {
	.kind = "dpdk",
	.deliver = dpdk_deliver,
};
