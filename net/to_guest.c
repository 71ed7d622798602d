/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Into a guest: a receive queue takes packets straight from where they lie, in one copy. Any worker
 * may deliver to any queue, so the queue's lock is held for a burst; one lock at a time, so that
 * nobody waits in a circle.
 */
#include "net/virtio_net.h"

#include <endian.h>
#include <string.h>

/*
 * Chains that one frame may be spread over: as many as it has pieces of 256 bytes, and some. It is
 * the sender's worker that takes them, so smaller buffers would cost others more than the frame.
 */
#define CHAINS_MAX 256u
#define CHAINS_FEW 24u
#define CHAIN_BYTES 256u

enum land { LAND_OK, LAND_NO_BUFFER, LAND_TOO_BIG, LAND_BROKEN };

/* What a burst did, written to the counters once. */
struct tally {
	uint64_t packets, bytes, no_buffer, too_big, cut_short, error;
	/*
	 * A frame that needs so many bytes found no place in this burst. Whoever needs as many is
	 * not tried: it is the sender's worker that looks through a receiver's poor buffers.
	 */
	uint32_t hopeless;
	enum land hopeless_why;
};

/* The buffers that a frame goes into. Their segments follow each other without a gap. */
struct landing {
	unsigned n;
	struct chain chains[CHAINS_MAX];
	struct iovec segs[2 * RING_CHAIN_SEGS_MAX];
};

static enum land COLD land_break(struct ring *r, const char *why)
{
	ring_break(r, why);
	return LAND_BROKEN;
}

/*
 * Takes chains until they hold @need bytes, header included. virtio 1.3 5.1.6.3: without MRG_RXBUF
 * one chain has to do; a chain that may come first holds at least the header.
 */
HOT enum land land(struct net_queue *q, enum ring_layout layout, uint64_t need, struct landing *l)
{
	struct ring *r = &q->vq->ring;
	unsigned used = 0, empty = 0;
	unsigned most = MIN(CHAINS_MAX, CHAINS_FEW + (unsigned)(need / CHAIN_BYTES));
	uint64_t room = 0;

	for (l->n = 0; room < need; l->n++) {
		struct chain *c = &l->chains[l->n];

		if (unlikely(l->n == most || used + empty > RING_CHAIN_SEGS_MAX))
			return LAND_TOO_BIG;
		if (unlikely(l->n == 1 && !q->mergeable))
			return LAND_TOO_BIG;
		if (!ring_pop(r, layout, c, 1, l->segs + used, RING_CHAIN_SEGS_MAX))
			return LAND_NO_BUFFER;
		if (unlikely(c->n_out != 0))
			return land_break(r, "readable segment in a receive queue");
		if (unlikely(c->in_len < q->hdr_len))
			return land_break(r, "receive buffer shorter than the header");
		used += c->n_in;
		empty += c->n_empty;
		room += c->in_len;
	}
	return LAND_OK;
}

/* The header that the receiver is to see; offloads that it does not take are finished by now. */
HOT void header_fill(struct virtio_net_hdr_mrg_rxbuf *h, const struct net_queue *q,
		     const struct packet_offload *o, unsigned n_buffers)
{
	memset(h, 0, sizeof(*h));
	/* 5.1.6.4.1: 1 also where buffers are not merged. */
	h->num_buffers = htole16((uint16_t)n_buffers);
	if (o->needs_csum) {
		h->hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		h->hdr.csum_start = htole16(o->csum_start);
		h->hdr.csum_offset = htole16(o->csum_offset);
	} else if (o->csum_valid && q->csum) {
		h->hdr.flags = VIRTIO_NET_HDR_F_DATA_VALID;
	}
	if (unlikely(o->gso_type != VIRTIO_NET_HDR_GSO_NONE)) {
		h->hdr.gso_type = o->gso_type | (o->ecn ? VIRTIO_NET_HDR_GSO_ECN : 0);
		h->hdr.gso_size = htole16(o->gso_size);
		h->hdr.hdr_len = htole16(o->hdr_len);
	}
}

/* Appends to the segments at *@at, which have the room. */
HOT void put(struct iovec **at, const void *from, size_t len)
{
	const uint8_t *p = from;

	while (len > 0) {
		struct iovec *v = *at;
		/* land() has filled as many segments as @len needs.
		 * NOLINTNEXTLINE(clang-analyzer-core.*) */
		size_t n = MIN(len, v->iov_len);

		memcpy(v->iov_base, p, n);
		v->iov_base = (uint8_t *)v->iov_base + n;
		v->iov_len -= n;
		if (v->iov_len == 0)
			(*at)++;
		p += n;
		len -= n;
	}
}

/* Header and frame, into buffers that hold them. */
HOT void fill(const struct net_queue *q, const struct virtio_net_hdr_mrg_rxbuf *h, struct frame *f,
	      struct landing *l)
{
	struct iovec *at = l->segs;
	const void *piece;
	uint32_t n;

	put(&at, h, q->hdr_len);
	put(&at, f->head, f->head_len);
	while ((piece = frame_next(f, UINT32_MAX, &n)))
		put(&at, piece, n);
}

/* The same while the guest migrates: what is filled goes to the dirty log. */
static void COLD fill_logged(const struct net_queue *q, const struct virtio_net_hdr_mrg_rxbuf *h,
			     struct frame *f, struct landing *l, uint32_t len)
{
	const struct chain *last;
	struct iovec segs[ARRAY_SIZE(l->segs)]; /* put() uses the landing's up */
	unsigned n;

	assert(l->n > 0);
	last = &l->chains[l->n - 1];
	n = (unsigned)(last->segs - l->segs) + last->n_in;
	memcpy(segs, l->segs, n * sizeof(segs[0]));
	fill(q, h, f, l);
	ring_log_iov(&q->vq->ring, segs, n, len);
}

HOT bool put_frame(struct net_queue *q, enum ring_layout layout, struct frame *f, struct tally *t)
{
	struct ring *r = &q->vq->ring;
	struct ring_mark mark = ring_mark(r);
	uint32_t len = frame_len(f), left = len + q->hdr_len;
	struct virtio_net_hdr_mrg_rxbuf h;
	struct landing l;
	enum land rc = t->hopeless_why;

	l.n = 0;
	if (likely(left < t->hopeless))
		rc = land(q, layout, left, &l);
	if (unlikely(rc != LAND_OK)) {
		ring_rewind(r, mark);
		t->hopeless = MIN(t->hopeless, left);
		t->hopeless_why = rc;
		t->no_buffer += rc == LAND_NO_BUFFER;
		t->too_big += rc == LAND_TOO_BIG;
		t->error += rc == LAND_BROKEN;
		return false;
	}
	/* Committed: there is room for all of it. */
	header_fill(&h, q, &f->offload, l.n);
	if (unlikely(r->log))
		fill_logged(q, &h, f, &l, left);
	else
		fill(q, &h, f, &l);
	for (unsigned i = 0; i < l.n; i++) {
		uint32_t written = MIN(left, l.chains[i].in_len);

		ring_push(r, layout, l.chains[i].id, l.chains[i].n_slots, written);
		left -= written;
	}
	t->packets++;
	t->bytes += len;
	return true;
}

HOT bool takes_gso(const struct net_queue *q, const struct packet_offload *o)
{
	if (o->ecn && !q->ecn)
		return false;
	return o->gso_type == VIRTIO_NET_HDR_GSO_TCPV4 ? q->tso4 : q->tso6;
}

HOT bool put_segments(struct net_queue *q, enum ring_layout layout, struct packet *p,
		      struct tally *t)
{
	struct segmenter s;
	struct frame f;

	for (segmenter_init(&s, p); segmenter_next(&s, &f);) {
		if (!q->csum)
			frame_complete_csum(&f);
		/* A hole in a TCP stream makes the rest of this frame worth little. */
		if (!put_frame(q, layout, &f, t))
			return false;
	}
	t->cut_short += segmenter_cut_short(&s);
	return !segmenter_cut_short(&s);
}

HOT bool put_packet(struct net_queue *q, enum ring_layout layout, struct packet *p, struct tally *t)
{
	struct frame f;

	if (unlikely(p->offload.gso_type != VIRTIO_NET_HDR_GSO_NONE) && !takes_gso(q, &p->offload))
		return put_segments(q, layout, p, t);
	if (!q->csum)
		packet_complete_csum(p);
	frame_of_packet(&f, p);
	return put_frame(q, layout, &f, t);
}

HOT unsigned to_guest(struct net_queue *q, enum ring_layout layout, struct packet *const *packets,
		      unsigned n, struct port_stats *stats)
{
	struct ring *r = &q->vq->ring;
	struct tally t = { .hopeless = UINT32_MAX };
	unsigned taken = 0;

	for (unsigned i = 0; i < n; i++)
		taken += put_packet(q, layout, packets[i], &t);
	ring_publish(r, layout);
	ring_call(r, layout);
	counter_add(&stats->tx_packets, t.packets);
	counter_add(&stats->tx_bytes, t.bytes);
	if (unlikely(taken < n)) {
		counter_add(&stats->tx_no_buffer, t.no_buffer);
		counter_add(&stats->tx_too_big, t.too_big);
		counter_add(&stats->tx_cut_short, t.cut_short);
		counter_add(&stats->tx_error, t.error);
	}
	return taken;
}

#define X(name, layout)                                                                     \
	static unsigned to_guest_##name(struct net_queue *q, struct packet *const *packets, \
					unsigned n, struct port_stats *stats)               \
	{                                                                                   \
		return to_guest(q, layout, packets, n, stats);                              \
	}
RING_LAYOUTS(X)
#undef X

unsigned (*const to_guest_fns[2])(struct net_queue *q, struct packet *const *packets, unsigned n,
				  struct port_stats *stats) = {
	[RING_SPLIT] = to_guest_split,
	[RING_PACKED] = to_guest_packed,
};

/*
 * The poller of a receive queue behind an IOMMU. Its buffers wait until somebody has a frame for
 * them, and a frame is not kept until the front-end has said where a buffer is: so that is asked
 * for as soon as the driver has made the buffer available.
 */
static unsigned look_ahead(struct poller *p)
{
	struct virtqueue *vq = container_of(p, struct net_queue, poller)->vq;
	unsigned done;

	spin_lock(&vq->lock);
	if (vq->ring.kicks_wanted)
		ring_ahead_kicks_off(&vq->ring);
	done = vhost_look_ahead(vq);
	spin_unlock(&vq->lock);
	return done;
}

static bool ahead_arm(struct poller *p)
{
	struct virtqueue *vq = container_of(p, struct net_queue, poller)->vq;
	bool parked;

	spin_lock(&vq->lock);
	parked = ring_ahead_kicks_on(&vq->ring, &vq->ahead);
	spin_unlock(&vq->lock);
	return parked;
}

/* Whoever wakes the poller may have the lock: its next poll() turns the kicks off. */
static void ahead_disarm(struct poller *p)
{
	(void)p;
}

const struct poller_ops ahead_ops = { look_ahead, ahead_arm, ahead_disarm };

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

unsigned net_deliver(struct port *p, struct packet *const *packets, unsigned n)
{
	struct net_device *d = container_of(p, struct net_device, port);
	unsigned worker = worker_index(worker_current()), taken;
	struct port_stats *stats = &p->stats[worker];
	struct net_queue *q = rx_lock(d, packets[0]->lane);

	if (!q) {
		counter_add(&stats->tx_down, n);
		return 0;
	}
	taken = q->to_guest(q, packets, n, stats);
	spin_unlock(&q->vq->lock);
	return taken;
}
