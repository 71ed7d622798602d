/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/net_card.h"

#include <err.h>
#include <poll.h>
#include <stdlib.h>

#define BIT(n) (UINT64_C(1) << (n))
#define TSO_FEATURES                                                                           \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_GUEST_CSUM) | \
	 BIT(VIRTIO_NET_F_GUEST_TSO4))

static void make_buf(struct card *c, struct card_buf *b, uint32_t bytes)
{
	b->host = rig_alloc(c->rig, ALIGN_UP((uint64_t)bytes, 64), 64, &b->gpa);
	if (!b->host)
		errx(1, "no guest memory for buffers");
}

static void make_bufs(struct card *c, unsigned queue_size, uint32_t tx_bytes)
{
	c->n_tx = queue_size / c->tx_segs;
	c->rx_bufs = calloc(queue_size, sizeof(*c->rx_bufs));
	c->tx_bufs = calloc(c->n_tx, sizeof(*c->tx_bufs));
	c->tx_free = calloc(c->n_tx, sizeof(struct card_buf *));
	if (!c->rx_bufs || !c->tx_bufs || !c->tx_free)
		errx(1, "out of memory");
	for (unsigned i = 0; i < queue_size; i++) {
		make_buf(c, &c->rx_bufs[i], c->rx_bytes);
		card_give(c, &c->rx_bufs[i]);
	}
	for (unsigned i = 0; i < c->n_tx; i++) {
		make_buf(c, &c->tx_bufs[i], tx_bytes);
		memset(c->tx_bufs[i].host, 0x5a, tx_bytes);
		c->tx_free[c->n_tx_free++] = &c->tx_bufs[i];
	}
	card_submit(c, CARD_RX);
}

static void check_tso(const struct card *c)
{
	uint64_t missing = TSO_FEATURES & ~c->rig->frontend.features;

	if (missing)
		errx(1, "%s: the back-end does not offer %s; leave --tso out", c->rig->path,
		     missing & BIT(VIRTIO_NET_F_CSUM)	      ? "VIRTIO_NET_F_CSUM"
		     : missing & BIT(VIRTIO_NET_F_HOST_TSO4)  ? "VIRTIO_NET_F_HOST_TSO4"
		     : missing & BIT(VIRTIO_NET_F_GUEST_CSUM) ? "VIRTIO_NET_F_GUEST_CSUM"
							      : "VIRTIO_NET_F_GUEST_TSO4");
}

void card_open(struct card *c, const struct rig_options *o, const char *path,
	       const struct card_options *opt)
{
	uint64_t wanted = (opt->mergeable ? BIT(VIRTIO_NET_F_MRG_RXBUF) : 0) |
			  (opt->tso ? TSO_FEATURES : 0) |
			  (o->queues > 1 ? BIT(VIRTIO_NET_F_MQ) : 0);
	uint32_t frame = NET_HDR_BYTES + opt->frame_max;
	unsigned n_pairs = o->queues;
	uint32_t whole = opt->tso ? CARD_RX_TSO_MAX : MAX(frame, (uint32_t)CARD_RX_USUAL);

	/* Memory for the larger of both: what is offered is known only then. */
	c->rig = rig_open(o, RIG_CARD, path, 2 * n_pairs, wanted,
			  n_pairs * (uint64_t)o->queue_size * ALIGN_UP((uint64_t)whole, 64) * 2 +
				  (1u << 20));
	if (opt->tso)
		check_tso(c);
	c->mergeable = c->rig->frontend.features & BIT(VIRTIO_NET_F_MRG_RXBUF);
	c->rx_bytes = c->mergeable ? opt->rx_bytes : whole;
	c->rx_per_frame = (frame + c->rx_bytes - 1) / c->rx_bytes;
	c->tx_segs = opt->tx_segs;
	if (c->rx_per_frame > o->queue_size)
		errx(2, "--queue-size %u: a frame takes %u receive buffers of %u bytes",
		     o->queue_size, c->rx_per_frame, c->rx_bytes);
	c->n_pairs = n_pairs;
	for (unsigned i = 0; i < n_pairs; i++) {
		c[i] = c[0];
		c[i].pair = i;
		c[i].tx = &c->rig->frontend.queue[2 * i + CARD_TX].ring;
		c[i].rx = &c->rig->frontend.queue[2 * i + CARD_RX].ring;
	}
	for (unsigned i = 0; i < n_pairs; i++)
		make_bufs(&c[i], o->queue_size, frame);
}

void card_close(struct card *c)
{
	rig_close(c->rig);
	for (unsigned i = 0; i < c->n_pairs; i++) {
		free(c[i].rx_bufs);
		free(c[i].tx_bufs);
		free(c[i].tx_free);
	}
}

void card_check(const struct card *c)
{
	for (unsigned i = 0; i < c->n_pairs; i++) {
		const char *tx = driver_violation(c[i].tx), *rx = driver_violation(c[i].rx);

		if (tx || rx)
			errx(1, "%s: the back-end broke a rule: %s", c->rig->path, tx ? tx : rx);
		rig_check_error(c->rig, 2 * i + CARD_RX);
		rig_check_error(c->rig, 2 * i + CARD_TX);
	}
}

void card_refused(const struct card *c, const char *ring)
{
	errx(1, "%s: the %s ring took no buffer", c->rig->path, ring);
}

unsigned card_cut(const struct card *c, const struct card_buf *b, uint32_t bytes,
		  struct driver_seg *seg)
{
	uint32_t piece = (bytes + c->tx_segs - 1) / c->tx_segs;
	unsigned n = 0;

	for (uint32_t at = 0; at < bytes; at += seg[n++].len) {
		seg[n].gpa = b->gpa + at;
		seg[n].len = MIN(piece, bytes - at);
	}
	return n;
}

/* Of a large frame's type: the features of which one allows it; 0: no such type. */
static uint64_t allows_gso(uint8_t type)
{
	switch (type) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return BIT(VIRTIO_NET_F_GUEST_TSO4);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return BIT(VIRTIO_NET_F_GUEST_TSO6);
	case VIRTIO_NET_HDR_GSO_UDP:
		return BIT(VIRTIO_NET_F_GUEST_UFO);
	default:
		return 0; /* UDP_L4, too: USO is not asked for */
	}
}

/* virtio 1.3 5.1.6.4.1: the device leaves to the driver only what that has said it can do. */
bool card_offload_is_right(struct card *c, const struct virtio_net_hdr_v1 *h)
{
	uint64_t features = c->rig->frontend.features;
	uint8_t type = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	bool needs_csum = h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;

	/* DATA_VALID may come without: that 1.3 forbids it was an error of the text. */
	if (needs_csum && !(features & BIT(VIRTIO_NET_F_GUEST_CSUM)))
		driver_violated(c->rx,
				"a frame without its checksum (flags %#x), and no "
				"VIRTIO_NET_F_GUEST_CSUM",
				h->flags);
	else if (type && !(features & allows_gso(type)))
		driver_violated(c->rx, "a large frame of type %u, which was not negotiated", type);
	else if (h->gso_type & VIRTIO_NET_HDR_GSO_ECN && !(features & BIT(VIRTIO_NET_F_GUEST_ECN)))
		driver_violated(c->rx, "a frame with ECN, and no VIRTIO_NET_F_GUEST_ECN");
	else if (type && (!needs_csum || !h->gso_size))
		driver_violated(c->rx, "a large frame with flags %#x and pieces of %u bytes",
				h->flags, h->gso_size);
	return !driver_violation(c->rx);
}

bool card_gather(struct card *c, struct card_frame *f, unsigned n)
{
	struct driver_used u;

	if (n > (c->mergeable ? CARD_RX_BUFS_MAX : 1)) {
		driver_violated(c->rx, "a frame in %u buffers%s", n,
				c->mergeable ? "" : " without VIRTIO_NET_F_MRG_RXBUF");
		return false;
	}
	/* DPDK 22.11 leaves the field as it was where it handles packets four at a time. */
	if (n == 0)
		c->no_count++;
	/* virtio 1.3 5.1.6.4.1: all of a frame's are used together, all but the last full. */
	for (unsigned i = 1; i < n; i++) {
		if (f->len[i - 1] != c->rx_bytes) {
			driver_violated(c->rx, "buffer %u of %u has %u of %u bytes", i, n,
					f->len[i - 1], c->rx_bytes);
			return false;
		}
		if (!card_next(c, &u)) {
			driver_violated(c->rx, "a frame of %u buffers came in %u", n, i);
			return false;
		}
		f->buf[f->n] = u.cookie;
		f->len[f->n++] = u.len;
		f->bytes += u.len;
	}
	return true;
}

bool card_no_header(struct card *c, uint32_t bytes)
{
	driver_violated(c->rx, "%u bytes came: less than a header", bytes);
	return false;
}

uint64_t card_bytes_under_way(const struct card *c)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < c->n_pairs; i++) {
		for (unsigned k = 0; k < c[i].n_tx; k++)
			sum += c[i].tx_bufs[k].size;
		for (unsigned k = 0; k < c[i].n_tx_free; k++)
			sum -= c[i].tx_free[k]->size;
	}
	return sum;
}

void card_submit(struct card *c, unsigned ring)
{
	frontend_submit(&c->rig->frontend, 2 * c->pair + ring);
}

/* @return false when there is something to do already. */
static unsigned queue_of(const struct card_wait *w)
{
	return 2 * w->card->pair + w->ring;
}

void card_sleep(struct card_wait *wait, unsigned n, uint64_t timeout_ns, unsigned patience_ms)
{
	struct timespec time = { (time_t)(timeout_ns / 1000000000),
				 (long)(timeout_ns % 1000000000) };
	struct pollfd fds[4 * CARD_PAIRS_MAX];
	bool idle = true;
	int rc = 0;

	for (unsigned i = 0; i < n; i++) {
		const struct card *c = wait[i].card;
		struct frontend_queue *q = &c->rig->frontend.queue[queue_of(&wait[i])];

		fds[i] = (struct pollfd) { q->call_fd, POLLIN, 0 };
		/* Who has buffers left waits for none of those that it has sent, as Linux does. */
		wait[i].asked = wait[i].ring == CARD_RX || !c->n_tx_free;
		if (wait[i].asked)
			idle &= driver_ring_calls_on(&q->ring);
	}
	if (idle)
		rc = ppoll(fds, n, &time, NULL);
	for (unsigned i = 0; i < n; i++) {
		struct rig *r = wait[i].card->rig;

		if (idle && timeout_ns > 0 && wait[i].asked)
			rig_check_called(r, queue_of(&wait[i]), fds[i].revents, rc, patience_ms);
		if (fds[i].revents & POLLIN)
			frontend_wait_call(&r->frontend, queue_of(&wait[i]), 0);
		rig_calls_off(r, queue_of(&wait[i]));
	}
}
