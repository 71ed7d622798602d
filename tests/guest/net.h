/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio-net driver on one queue pair of a front-end (virtio 1.3, 5.1.6): frames with headers out
 * and in, with mergeable buffers or big ones, checked as they arrive.
 */
#ifndef SLUICE_TESTS_GUEST_NET_H
#define SLUICE_TESTS_GUEST_NET_H

#include "tests/guest/frontend.h"

#include <linux/virtio_net.h>

#define GUEST_NET_HDR_BYTES 12 /* with VIRTIO_F_VERSION_1, always (virtio 1.3, 5.1.6.1) */
#define GUEST_NET_SEGS_MAX 32

struct guest_net_options {
	bool mergeable;	   /* VIRTIO_NET_F_MRG_RXBUF was negotiated */
	uint32_t rx_bytes; /* of one receive buffer, header included; 0: 1526 or, mergeable, 2048 */
	unsigned rx_segs;  /* descriptors of one receive buffer; 0: 1 */
	unsigned rx_count; /* receive buffers; 0: as many as the ring takes */
	uint32_t tx_bytes; /* largest frame to send; 0: 1514 */
	/* The header is a descriptor of its own, and the frame is cut into @tx_segs; 0: all in one.
	 */
	unsigned tx_segs;
};

struct guest_net_buf {
	uint64_t gpa;
	uint8_t *host;
};

struct guest_net {
	struct frontend *f; /* borrowed */
	unsigned rx, tx;    /* queues */
	struct guest_net_options opt;
	struct guest_net_buf *rx_bufs, *tx_bufs;
	unsigned n_rx, n_tx, n_rx_free, n_tx_free;
	struct guest_net_buf **rx_free, **tx_free;
	uint64_t sent, received;
};

/* Queue pair @pair (queues 2n and 2n + 1), both set up. @return 0 or -errno. */
int guest_net_open(struct guest_net *n, struct frontend *f, unsigned pair,
		   const struct guest_net_options *opt);
void guest_net_close(struct guest_net *n);

/* Gives the device all receive buffers that it has not. @return how many. */
unsigned guest_net_fill(struct guest_net *n);

/*
 * Adds a frame, copied, with the header @h (NULL: all zero). @return 0, -ENOSPC or -EMSGSIZE. Not
 * seen before guest_net_kick().
 */
int guest_net_add(struct guest_net *n, const struct virtio_net_hdr_v1 *h, const void *frame,
		  uint32_t len);
void guest_net_kick(struct guest_net *n);
/* Takes back what was sent. @return how many frames, or -EPROTO. */
int guest_net_reap(struct guest_net *n);
/* guest_net_reap() until everything is back. @return 0 or -errno. */
int guest_net_drain(struct guest_net *n);
/* Add, kick, and take back what is done. */
int guest_net_send(struct guest_net *n, const struct virtio_net_hdr_v1 *h, const void *frame,
		   uint32_t len);

/*
 * A received frame without its header (which goes to @h, may be NULL); its buffers go back to the
 * device at the next guest_net_fill(). @return its length, 0 when there is none, -EMSGSIZE when it
 * is longer than @max (and lost), -EPROTO when the device broke a rule.
 */
int guest_net_recv(struct guest_net *n, struct virtio_net_hdr_v1 *h, void *frame, uint32_t max);
/* The same, refilling and sleeping until there is one. @return its length, or -errno. */
int guest_net_wait(struct guest_net *n, struct virtio_net_hdr_v1 *h, void *frame, uint32_t max);

#endif
