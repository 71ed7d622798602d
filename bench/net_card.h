/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network card of the guest's: pairs of a rig's rings, and buffers for them. One thread. A card
 * of several pairs is an array of as many struct card, which share the rig.
 */
#ifndef SLUICE_BENCH_NET_CARD_H
#define SLUICE_BENCH_NET_CARD_H

#include "base/clock.h"
#include "bench/net_frame.h"
#include "bench/rig.h"

#define CARD_RX_MIN 256	      /* of a receive buffer, so that headers lie in the first */
#define CARD_RX_USUAL 1526    /* header and a full frame, as Linux has them */
#define CARD_RX_TSO_MAX 65562 /* virtio 1.3 5.1.6.3.1 */
#define CARD_TX_SEGS_MAX 64
#define CARD_RX_BUFS_MAX (CARD_RX_TSO_MAX / CARD_RX_MIN + 1)

enum { CARD_RX, CARD_TX }; /* virtio 1.3 5.1.2: receiveq1, transmitq1; of a later pair 2 N on */
#define CARD_PAIRS_MAX 16
#define CARD_AHEAD 32u	 /* receive buffers that are looked for at once */
#define CARD_TX_AHEAD 8u /* of the buffers that are sent next, which one's lines are asked for */

struct card_options {
	uint32_t frame_max; /* longest frame, bytes */
	uint32_t rx_bytes;  /* of a mergeable receive buffer */
	unsigned tx_segs;   /* descriptors of a frame that is sent */
	bool mergeable, tso;
};

struct card_buf {
	uint64_t gpa;
	uint8_t *host;
	/* The headers that a transmit buffer holds are of this flow and size; NULL: none. */
	const struct flow *flow;
	uint32_t size;
};

struct card {
	struct rig *rig;
	unsigned pair, n_pairs; /* of so many; the first is the card */
	struct driver_ring *tx, *rx;
	struct card_buf *rx_bufs, *tx_bufs, **tx_free;
	unsigned n_tx, n_tx_free, tx_segs, rx_per_frame;
	uint32_t rx_bytes;
	bool mergeable;
	uint64_t no_count; /* frames that came with a number of buffers of 0 */
	/* Receive buffers that are back and not taken yet. */
	struct driver_used came[CARD_AHEAD];
	unsigned n_came, n_taken;
	uint64_t came_at; /* cycles: when they were found */
};

/* A frame that came, in pieces. */
struct card_frame {
	unsigned n;
	uint32_t bytes; /* with the virtio-net header */
	struct card_buf *buf[CARD_RX_BUFS_MAX];
	uint32_t len[CARD_RX_BUFS_MAX];
};

/* Connects, and gives the device its receive buffers: for o->queues pairs, from @c on. Ends the
 * program when that fails. */
void card_open(struct card *c, const struct rig_options *o, const char *path,
	       const struct card_options *opt);
void card_close(struct card *c);

/* Has the device broken a rule, or signalled an error, in any pair? Then this ends the program. */
void card_check(const struct card *c);

/* Of the frames that were sent and not taken back, in all pairs. */
uint64_t card_bytes_under_way(const struct card *c);

/* Shows the device what was added to a ring of that pair, and kicks if it wants that. */
void card_submit(struct card *c, unsigned ring);

/*
 * Waits for a call of one of @n rings (4 * CARD_PAIRS_MAX at most), @timeout_ns at most. Ends the
 * program where a ring had something after that time and no call comes for @patience_ms.
 */
#define CARD_NAP_NS UINT64_C(10000000)
struct card_wait {
	struct card *card;
	unsigned ring;
	bool asked; /* card_sleep()'s own: for a call */
};
void card_sleep(struct card_wait *wait, unsigned n, uint64_t timeout_ns, unsigned patience_ms);

/* The parts of what follows that are not for every frame. */
void card_refused(const struct card *c, const char *ring) COLD __attribute__((noreturn));
unsigned card_cut(const struct card *c, const struct card_buf *b, uint32_t bytes,
		  struct driver_seg *seg);
bool card_offload_is_right(struct card *c, const struct virtio_net_hdr_v1 *h);
bool card_gather(struct card *c, struct card_frame *f, unsigned n);
bool card_no_header(struct card *c, uint32_t bytes) COLD;

HOT bool card_add(struct driver_ring *r, const struct driver_seg *seg, unsigned n_out,
		  unsigned n_in, void *cookie)
{
	return (r->layout == DRIVER_SPLIT
			? driver_add(r, DRIVER_SPLIT, seg, n_out, n_in, cookie)
			: driver_add(r, DRIVER_PACKED, seg, n_out, n_in, cookie)) == 0;
}

HOT bool card_poll(struct driver_ring *r, struct driver_used *u)
{
	return r->layout == DRIVER_SPLIT ? driver_poll(r, DRIVER_SPLIT, u)
					 : driver_poll(r, DRIVER_PACKED, u);
}

/* Takes back what the device is done with. @return frames. */
HOT unsigned card_reap(struct card *c)
{
	struct driver_used u;
	unsigned n = 0;

	for (; c->n_tx_free < c->n_tx && card_poll(c->tx, &u); n++)
		c->tx_free[c->n_tx_free++] = u.cookie;
	return n;
}

/* Of a frame two lines are written, or read, unless its payload is too; the back-end had them. */
HOT void card_prefetch(const struct card_buf *b, bool to_write)
{
	for (unsigned i = 0; i < 2; i++)
		if (to_write)
			prefetch_write(b->host + i * CACHE_LINE);
		else
			__builtin_prefetch(b->host + i * CACHE_LINE);
}

/* A buffer to send, NULL: all are under way. card_send() takes it; @bytes with the header. */
HOT struct card_buf *card_tx_buf(struct card *c)
{
	if (likely(c->n_tx_free > CARD_TX_AHEAD))
		card_prefetch(c->tx_free[c->n_tx_free - 1 - CARD_TX_AHEAD], true);
	return c->n_tx_free ? c->tx_free[c->n_tx_free - 1] : NULL;
}

HOT void card_send(struct card *c, struct card_buf *b, uint32_t bytes)
{
	struct driver_seg seg[CARD_TX_SEGS_MAX];
	unsigned n = 1;

	if (likely(c->tx_segs == 1))
		seg[0] = (struct driver_seg) { b->gpa, bytes };
	else
		n = card_cut(c, b, bytes, seg);
	if (unlikely(!card_add(c->tx, seg, n, 0, b)))
		card_refused(c, "transmit");
	c->n_tx_free--;
}

/*
 * The next receive buffer that is back. Those behind it are looked for with it, so that their
 * frames come from the back-end's CPU while the first ones are taken. @return false when there is
 * none, or after a violation.
 */
HOT bool card_next(struct card *c, struct driver_used *u)
{
	if (c->n_taken == c->n_came) {
		c->n_taken = c->n_came = 0;
		while (c->n_came < CARD_AHEAD && card_poll(c->rx, &c->came[c->n_came]))
			card_prefetch(c->came[c->n_came++].cookie, false);
		if (!c->n_came)
			return false;
		c->came_at = clock_cycles();
	}
	if (unlikely(c->rx->broken))
		return false;
	*u = c->came[c->n_taken++];
	return true;
}

/* @return false when there is none. card_return() gives the buffers to the device again. */
HOT bool card_receive(struct card *c, struct card_frame *f)
{
	struct virtio_net_hdr_v1 h;
	struct driver_used u;

	if (!card_next(c, &u))
		return false;
	f->n = 1;
	f->buf[0] = u.cookie;
	f->len[0] = f->bytes = u.len;
	if (unlikely(u.len < NET_HDR_BYTES))
		return card_no_header(c, u.len);
	memcpy(&h, f->buf[0]->host, sizeof(h));
	if (unlikely(h.flags | h.gso_type) && !card_offload_is_right(c, &h))
		return false;
	/* virtio 1.3 5.1.6.4.1: the number of buffers, 1 where MRG_RXBUF was not negotiated. */
	return likely(h.num_buffers == 1) || card_gather(c, f, h.num_buffers);
}

HOT void card_give(struct card *c, struct card_buf *b)
{
	struct driver_seg seg = { b->gpa, c->rx_bytes };

	if (unlikely(!card_add(c->rx, &seg, 0, 1, b)))
		card_refused(c, "receive");
}

HOT void card_return(struct card *c, const struct card_frame *f)
{
	for (unsigned i = 0; i < f->n; i++)
		card_give(c, f->buf[i]);
}

#endif
