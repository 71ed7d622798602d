/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Into a guest: a receive queue takes packets straight from where they lie, in one copy. Any worker
 * may deliver to any queue, so the queue's lock is held for a burst; one lock at a time, so that
 * nobody waits in a circle.
 */
#include "base/copy.h"
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

/*
 * Chains that were popped and not used yet. As many as there are packets are popped at once: the
 * ring's cache lines and the buffers' first ones come from the driver's core, and so come together.
 * What is left at the end of the burst goes back onto the ring. The chains' segments follow each
 * other without a gap.
 */
struct stock {
	unsigned at, n; /* chains[at] is the next, chains[n - 1] the last */
	unsigned want;	/* chains that this burst may still need */
	struct chain chains[PORT_BURST + CHAINS_MAX];
	struct iovec segs[3 * RING_CHAIN_SEGS_MAX];
};

HOT void stock_return(struct net_queue *q, enum ring_layout layout, struct stock *s)
{
	if (unlikely(s->n > s->at))
		ring_unpop(&q->vq->ring, layout, s->chains + s->at, s->n - s->at);
	s->at = s->n = 0;
}

/* Before each frame: so that a frame's chains and segments have room behind those before it. */
HOT void stock_tidy(struct net_queue *q, enum ring_layout layout, struct stock *s)
{
	if (s->at == s->n)
		s->at = s->n = 0;
	else if (unlikely(s->at >= PORT_BURST ||
			  s->chains[s->at].segs - s->segs > RING_CHAIN_SEGS_MAX))
		stock_return(q, layout, s);
}

/* @return false: the driver has made no more available. */
HOT bool stock_more(struct net_queue *q, enum ring_layout layout, struct stock *s)
{
	struct iovec *segs = s->segs;
	unsigned n = s->n ? 1 : MAX(MIN(s->want, (unsigned)PORT_BURST), 1u);

	if (s->n) {
		const struct chain *last = &s->chains[s->n - 1];

		segs = last->segs + last->n_out + last->n_in;
	}
	/* What stock_tidy() and land() see to. */
	assert(s->n + n <= ARRAY_SIZE(s->chains) &&
	       segs + RING_CHAIN_SEGS_MAX <= s->segs + ARRAY_SIZE(s->segs));
	n = ring_pop(&q->vq->ring, layout, s->chains + s->n, n, segs, RING_CHAIN_SEGS_MAX);
	s->n += n;
	return n > 0;
}

static enum land COLD land_break(struct ring *r, const char *why)
{
	ring_break(r, why);
	return LAND_BROKEN;
}

/*
 * How many chains of the stock hold @need bytes, header included: into *@n. virtio 1.3 5.1.6.3:
 * without MRG_RXBUF one chain has to do; a chain that may come first holds at least the header.
 */
HOT enum land land(struct net_queue *q, enum ring_layout layout, uint64_t need, struct stock *s,
		   unsigned *n)
{
	struct ring *r = &q->vq->ring;
	unsigned used = 0, empty = 0, i;
	unsigned most = MIN(CHAINS_MAX, CHAINS_FEW + (unsigned)(need / CHAIN_BYTES));
	uint64_t room = 0;

	stock_tidy(q, layout, s);
	for (i = 0; room < need; i++) {
		const struct chain *c;

		if (unlikely(i == most || used + empty > RING_CHAIN_SEGS_MAX))
			return LAND_TOO_BIG;
		if (unlikely(i == 1 && !q->mergeable))
			return LAND_TOO_BIG;
		if (s->at + i == s->n && unlikely(!stock_more(q, layout, s)))
			return LAND_NO_BUFFER;
		c = &s->chains[s->at + i];
		if (unlikely(c->n_out != 0))
			return land_break(r, "readable segment in a receive queue");
		if (unlikely(c->in_len < q->hdr_len))
			return land_break(r, "receive buffer shorter than the header");
		used += c->n_in;
		empty += c->n_empty;
		room += c->in_len;
	}
	*n = i;
	return LAND_OK;
}

/*
 * struct virtio_net_hdr_mrg_rxbuf as two words: put together from its fields in memory, it would be
 * read back before these small stores are through, and each frame would wait for that.
 */
struct header {
	uint64_t low;  /* flags, gso_type, hdr_len, gso_size, csum_start */
	uint32_t high; /* csum_offset, num_buffers */
};
static_assert(offsetof(struct virtio_net_hdr_mrg_rxbuf, hdr.gso_type) == 1 &&
		      offsetof(struct virtio_net_hdr_mrg_rxbuf, hdr.hdr_len) == 2 &&
		      offsetof(struct virtio_net_hdr_mrg_rxbuf, hdr.gso_size) == 4 &&
		      offsetof(struct virtio_net_hdr_mrg_rxbuf, hdr.csum_start) == 6 &&
		      offsetof(struct virtio_net_hdr_mrg_rxbuf, hdr.csum_offset) == 8 &&
		      offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers) == 10,
	      "virtio 1.3 5.1.6");

/* The header that the receiver is to see; offloads that it does not take are finished by now. */
HOT struct header header_of(const struct net_queue *q, const struct packet_offload *o,
			    unsigned n_buffers)
{
	uint64_t low = 0;
	/* 5.1.6.4.1: 1 also where buffers are not merged. */
	uint32_t high = (uint32_t)n_buffers << 16;

	if (o->needs_csum) {
		low = VIRTIO_NET_HDR_F_NEEDS_CSUM | (uint64_t)o->csum_start << 48;
		high |= o->csum_offset;
	} else if (o->csum_valid && q->csum) {
		low = VIRTIO_NET_HDR_F_DATA_VALID;
	}
	if (unlikely(o->gso_type != VIRTIO_NET_HDR_GSO_NONE))
		low |= (uint64_t)(o->gso_type | (o->ecn ? VIRTIO_NET_HDR_GSO_ECN : 0)) << 8 |
		       (uint64_t)o->hdr_len << 16 | (uint64_t)o->gso_size << 32;
	return (struct header) { htole64(low), htole32(high) };
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

		copy_bytes(v->iov_base, p, n);
		v->iov_base = (uint8_t *)v->iov_base + n;
		v->iov_len -= n;
		if (v->iov_len == 0)
			(*at)++;
		p += n;
		len -= n;
	}
}

/* virtio 1.3 5.1.6.4.4: what follows with HASH_REPORT. */
static void put_hash(uint8_t *to, const struct packet *p)
{
	struct {
		uint32_t value;
		uint16_t report, padding;
	} h = { htole32(p->hash), htole16(p->hash_report), 0 };

	memcpy(to, &h, sizeof(h));
	static_assert(VNET_HDR_LEN + sizeof(h) == VNET_HDR_LEN_HASH, "virtio 1.3 5.1.6");
}

/* Most receivers have VERSION_1 and lay the header and the frame into one buffer. */
HOT void put_header(struct iovec **at, const struct net_queue *q, const struct header *h,
		    const struct packet *p)
{
	uint8_t bytes[VNET_HDR_LEN_HASH];
	struct iovec *v = *at;
	bool whole = likely(q->hdr_len == VNET_HDR_LEN && v->iov_len > VNET_HDR_LEN);
	uint8_t *to = whole ? v->iov_base : bytes;

	memcpy(to, &h->low, sizeof(h->low));
	memcpy(to + sizeof(h->low), &h->high, sizeof(h->high));
	if (whole) {
		v->iov_base = to + VNET_HDR_LEN;
		v->iov_len -= VNET_HDR_LEN;
	} else {
		if (q->hdr_len == VNET_HDR_LEN_HASH)
			put_hash(bytes + VNET_HDR_LEN, p);
		put(at, bytes, q->hdr_len);
	}
}

/* Header and frame, which is @p or of it, into segments that hold them. */
HOT void fill(const struct net_queue *q, const struct header *h, const struct packet *p,
	      struct frame *f, struct iovec *at)
{
	const void *piece;
	uint32_t n;

	put_header(&at, q, h, p);
	put(&at, f->head, f->head_len);
	while ((piece = frame_next(f, UINT32_MAX, &n)))
		put(&at, piece, n);
}

/* The same while the guest migrates: what is filled goes to the dirty log. */
static void COLD fill_logged(const struct net_queue *q, const struct header *h,
			     const struct packet *p, struct frame *f, const struct chain *chains,
			     unsigned n_chains, uint32_t len)
{
	struct iovec *first = chains[0].segs;
	const struct chain *last = &chains[n_chains - 1];
	struct iovec segs[2 * RING_CHAIN_SEGS_MAX]; /* put() uses the stock's up */
	unsigned n = (unsigned)(last->segs - first) + last->n_in;

	memcpy(segs, first, n * sizeof(segs[0]));
	fill(q, h, p, f, first);
	ring_log_iov(&q->vq->ring, segs, n, len);
}

HOT bool put_frame(struct net_queue *q, enum ring_layout layout, enum ring_keeping keeping,
		   const struct packet *p, struct frame *f, struct stock *s, struct tally *t)
{
	struct ring *r = &q->vq->ring;
	uint32_t len = frame_len(f), left = len + q->hdr_len;
	enum land rc = t->hopeless_why;
	const struct chain *c;
	struct header h;
	unsigned n = 0;

	if (likely(left < t->hopeless))
		rc = land(q, layout, left, s, &n);
	if (unlikely(rc != LAND_OK)) {
		t->hopeless = MIN(t->hopeless, left);
		t->hopeless_why = rc;
		t->no_buffer += rc == LAND_NO_BUFFER;
		t->too_big += rc == LAND_TOO_BIG;
		t->error += rc == LAND_BROKEN;
		return false;
	}
	/* Committed: there is room for all of it. */
	assert(n > 0);
	c = &s->chains[s->at];
	h = header_of(q, &f->offload, n);
	if (unlikely(r->log))
		fill_logged(q, &h, p, f, c, n, left);
	else
		fill(q, &h, p, f, c->segs);
	for (const struct chain *end = c + n; c < end; c++) {
		uint32_t written = MIN(left, c->in_len);

		ring_push_way(r, layout, keeping, c, written);
		left -= written;
	}
	s->at += n;
	t->packets++;
	t->bytes += len;
	return true;
}

HOT bool takes_gso(const struct net_queue *q, const struct packet_offload *o)
{
	if (o->ecn && !q->ecn)
		return false;
	if (o->gso_type == VIRTIO_NET_HDR_GSO_UDP_L4)
		return o->v6 ? q->uso6 : q->uso4;
	return o->gso_type == VIRTIO_NET_HDR_GSO_TCPV4 ? q->tso4 : q->tso6;
}

HOT bool put_segments(struct net_queue *q, enum ring_layout layout, enum ring_keeping keeping,
		      struct packet *p, struct stock *stock, struct tally *t)
{
	struct segmenter s;
	struct frame f;

	stock->want = PORT_BURST;
	for (segmenter_init(&s, p); segmenter_next(&s, &f);) {
		if (!q->csum)
			frame_complete_csum(&f);
		/* A hole in a TCP stream makes the rest of this frame worth little; and where there
		 * is no buffer for a datagram there is none for the next one. */
		if (!put_frame(q, layout, keeping, p, &f, stock, t))
			return false;
	}
	t->cut_short += segmenter_cut_short(&s);
	return !segmenter_cut_short(&s);
}

HOT bool put_packet(struct net_queue *q, enum ring_layout layout, enum ring_keeping keeping,
		    struct packet *p, struct stock *stock, struct tally *t)
{
	struct frame f;

	if (unlikely(p->offload.gso_type != VIRTIO_NET_HDR_GSO_NONE) && !takes_gso(q, &p->offload))
		return put_segments(q, layout, keeping, p, stock, t);
	if (!q->csum)
		packet_complete_csum(p);
	frame_of_packet(&f, p);
	return put_frame(q, layout, keeping, p, &f, stock, t);
}

/* On the queue's worker. */
static void rx_wake(struct call *c)
{
	struct net_queue *q = container_of(c, struct net_queue, wake);

	/* Pairs with the exchange in coalesce_calls(): it may be posted again. */
	__atomic_store_n(&q->wake_posted, false, __ATOMIC_RELEASE);
	poller_wake(&q->poller);
}

/* Whoever is in here need not come back: the queue's own poller sees to what is left pending. */
static void COLD coalesce_calls(struct net_queue *q, enum ring_layout layout, uint32_t packets)
{
	if (!coalesce_call(&q->coalesce, &q->vq->ring, layout, packets) || !q->asleep || q->no_wake)
		return;
	q->asleep = false;
	if (__atomic_exchange_n(&q->wake_posted, true, __ATOMIC_ACQ_REL))
		return;
	q->wake.fn = rx_wake;
	worker_call(q->vq->worker, &q->wake);
}

/*
 * While a frame is copied, the lines of the next one come: from its sender's core, and for us
 * alone from its receiver's. @c: where it will probably go, or NULL.
 */
HOT void frame_ahead(const struct packet *p, const struct chain *c)
{
	const uint8_t *to;
	size_t len;

	if (!packet_ahead(p) || !c || !c->n_in)
		return;
	to = c->segs[0].iov_base;
	len = MIN(p->len, PACKET_AHEAD_MAX) + VNET_HDR_LEN;
	len = MIN(c->segs[0].iov_len, len);
	/* The ring's walk has the first two. */
	for (size_t i = 2 * (size_t)CACHE_LINE; i < len; i += CACHE_LINE)
		prefetch_write(to + i);
}

HOT unsigned to_guest(struct net_queue *q, enum ring_layout layout, enum ring_keeping keeping,
		      struct packet *const *packets, unsigned n, struct port_stats *stats)
{
	struct ring *r = &q->vq->ring;
	struct tally t = { .hopeless = UINT32_MAX };
	unsigned taken = 0;
	struct stock stock;

	stock.at = stock.n = 0;
	ring_push_ahead(r, layout, n);
	if (n > 0)
		frame_ahead(packets[0], NULL);
	for (unsigned i = 0; i < n; i++) {
		stock.want = n - i;
		if (i + 1 < n)
			frame_ahead(packets[i + 1],
				    stock.at + 1 < stock.n ? &stock.chains[stock.at + 1] : NULL);
		taken += put_packet(q, layout, keeping, packets[i], &stock, &t);
	}
	stock_return(q, layout, &stock);
	ring_publish_way(r, layout, keeping);
	if (likely(!q->coalesces))
		ring_call(r, layout);
	else
		coalesce_calls(q, layout, (uint32_t)t.packets);
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

#define X(name, layout, keeping)                                                            \
	static unsigned to_guest_##name(struct net_queue *q, struct packet *const *packets, \
					unsigned n, struct port_stats *stats)               \
	{                                                                                   \
		return to_guest(q, layout, keeping, packets, n, stats);                     \
	}
RING_WAYS(X)
#undef X

#define X(name, layout, keeping) [RING_WAY(layout, keeping)] = to_guest_##name,
unsigned (*const to_guest_fns[N_RING_WAYS])(struct net_queue *q, struct packet *const *packets,
					    unsigned n,
					    struct port_stats *stats) = { RING_WAYS(X) };
#undef X

/*
 * The poller of a receive queue, which it has behind an IOMMU, and where calls may be coalesced.
 *
 * Behind an IOMMU: its buffers wait until somebody has a frame for them, and a frame is not kept
 * until the front-end has said where a buffer is: so that is asked for as soon as the driver has
 * made the buffer available.
 */
static unsigned rx_poll(struct poller *p)
{
	struct net_queue *q = container_of(p, struct net_queue, poller);
	struct virtqueue *vq = q->vq;
	unsigned done = 0;

	spin_lock(&vq->lock);
	if (vq->looks_ahead) {
		if (vq->ring.kicks_wanted)
			ring_ahead_kicks_off(&vq->ring);
		done = vhost_look_ahead(vq);
	}
	if (q->coalesces) {
		q->asleep = false;
		done += coalesce_poll(&q->coalesce, &vq->ring, vq->ring.layout);
	}
	spin_unlock(&vq->lock);
	return done;
}

static bool rx_arm(struct poller *p)
{
	struct net_queue *q = container_of(p, struct net_queue, poller);
	struct virtqueue *vq = q->vq;
	bool parked = true;

	spin_lock(&vq->lock);
	if (vq->looks_ahead)
		parked = ring_ahead_kicks_on(&vq->ring, &vq->ahead);
	if (q->coalesces && parked) {
		coalesce_flush(&q->coalesce, &vq->ring, vq->ring.layout);
		q->asleep = true;
	}
	spin_unlock(&vq->lock);
	return parked;
}

/* Whoever wakes the poller may have the lock: its next poll() turns the kicks off. */
static void rx_disarm(struct poller *p)
{
	(void)p;
}

const struct poller_ops rx_ops = { rx_poll, rx_arm, rx_disarm };

static void no_more_wakes(void *arg)
{
	struct net_queue *q = arg;

	spin_lock(&q->vq->lock);
	q->no_wake = true;
	spin_unlock(&q->vq->lock);
}

static void nothing(void *arg)
{
	(void)arg;
}

/* Calls run in their order: one that was posted before the first of these two has run by the
 * second.
 */
void rx_wakes_end(struct net_queue *q)
{
	worker_call_wait(q->vq->worker, no_more_wakes, q);
	worker_call_wait(q->vq->worker, nothing, NULL);
}
