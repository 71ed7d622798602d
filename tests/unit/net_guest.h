/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest with a virtio-net card, over a real socket and real workers: tests/guest's front-end, and
 * what a virtio-net driver does with frames. For the tests of net/. Failures are cr_assert()s.
 */
#ifndef SLUICE_TESTS_NET_GUEST_H
#define SLUICE_TESTS_NET_GUEST_H

#include "net/net.h"
#include "tests/guest/frontend_inflight.h"

#include <linux/virtio_net.h>

#define NG_BIT(n) (UINT64_C(1) << (n))
#define NG_SENDER                                                     \
	(NG_BIT(VIRTIO_NET_F_CSUM) | NG_BIT(VIRTIO_NET_F_HOST_TSO4) | \
	 NG_BIT(VIRTIO_NET_F_HOST_TSO6) | NG_BIT(VIRTIO_NET_F_HOST_ECN))
#define NG_CSUM NG_BIT(VIRTIO_NET_F_GUEST_CSUM)
#define NG_TSO                                                                         \
	(NG_CSUM | NG_BIT(VIRTIO_NET_F_GUEST_TSO4) | NG_BIT(VIRTIO_NET_F_GUEST_TSO6) | \
	 NG_BIT(VIRTIO_NET_F_GUEST_ECN))
#define NG_MRG NG_BIT(VIRTIO_NET_F_MRG_RXBUF)

#define NG_FRAME_MAX 66000
#define NG_IOVA UINT64_C(0x7f0000000000) /* + guest address: what the driver says, with iommu */
#define NG_TX_SLOTS 8
#define NG_TX_EACH 2 /* of a pair, at a time */
#define NG_PAIRS_MAX 127

struct net_guest;

struct ng_options {
	uint64_t features; /* NG_*, VIRTIO_NET_F_*; MQ and CTRL_VQ too */
	bool packed, event_idx, legacy;
	bool iommu; /* behind one; its misses are answered whenever something is waited for */
	enum driver_indirect indirect;
	unsigned pairs;	      /* of the device; 0: 1 */
	unsigned run_pairs;   /* that the driver sets up; 0: all */
	unsigned ring_size;   /* 0: 256 */
	unsigned table_segs;  /* longest indirect table; 0: frontend.h's */
	unsigned rx_buffer;   /* bytes of a receive chain, header included; 0: 1526 + 12 */
	unsigned rx_pieces;   /* segments of one; 0: 1 */
	unsigned rx_count;    /* receive chains; 0: as many as fit */
	bool rx_idle;	      /* none is made available before ng_fill() */
	bool backend_channel; /* opened: what the device says is the test's to read */
	struct frontend_inflight *inflight; /* not NULL: one is asked for, and set */
	bool has_mac;
	uint16_t mtu;
	uint32_t speed;
	const struct port_rules *rules; /* NULL: none */
	/*
	 * Instead of sharing memory and filling receive queues: called when all queues are made and
	 * none has started, to do it in another way. PAGEFAULT is negotiated then.
	 */
	void (*share)(struct net_guest *g);
};

struct ng_buffer {
	unsigned pair;
	uint8_t *host;
	struct driver_seg segs[64];
};

struct net_guest {
	struct frontend fe;
	struct guest_memory mem;
	struct ng_options opt;
	struct net_device *dev;
	char path[64];
	uint8_t mac[6];
	unsigned hdr_len;
	struct ng_buffer *rx; /* all receive buffers, of all pairs */
	unsigned n_rx;
	uint8_t *tx[NG_TX_SLOTS];
	uint64_t tx_gpa[NG_TX_SLOTS];
	unsigned tx_next;
	unsigned tx_out[NG_PAIRS_MAX]; /* not back yet */
	bool deaf;		       /* misses are not answered */
	uint8_t access;		       /* of answers; VU_IOTLB_* */
	unsigned misses;
};

struct ng_frame {
	struct virtio_net_hdr_mrg_rxbuf hdr;
	uint32_t hash_value; /* with HASH_REPORT */
	uint16_t hash_report;
	uint8_t bytes[NG_FRAME_MAX];
	unsigned len;
	unsigned n_buffers; /* chains that it came in */
};

/* Workers, a switch, and nothing else. */
void ng_world_start(unsigned n_workers);
void ng_world_stop(void);
extern bool ng_never_parks; /* of the worlds that start from now on: workers only poll */
extern struct workers *ng_workers;
extern struct net_switch *ng_switch;

/* Creates the port alone; connects and starts the driver; both. */
void ng_create(struct net_guest *g, unsigned number, const struct ng_options *opt);
void ng_connect(struct net_guest *g);
void ng_start(struct net_guest *g, unsigned number, const struct ng_options *opt);
/* Hangs up and waits until the port has noticed. */
void ng_disconnect(struct net_guest *g);
void ng_stop(struct net_guest *g);

/* Index of the control queue, by what was negotiated. */
unsigned ng_ctrl_index(const struct net_guest *g);

/*
 * Puts a chain of header and frame, cut into pieces of the lengths in @cuts (0-terminated, the last
 * one repeated; NULL: header and frame). Does not wait.
 */
void ng_send(struct net_guest *g, unsigned pair, const struct virtio_net_hdr *hdr,
	     const uint8_t *bytes, unsigned len, const unsigned *cuts);
/* Any chain on any queue; waits until it is back. @return bytes written. */
unsigned ng_submit_wait(struct net_guest *g, unsigned queue, const struct driver_seg *segs,
			unsigned n_out, unsigned n_in);
/* Waits until all that was sent is back: then it is delivered, or dropped. */
void ng_sent(struct net_guest *g, unsigned pair);
/* @return false when no frame is there now. */
bool ng_try_receive(struct net_guest *g, unsigned pair, struct ng_frame *f);
/* Waits for one. */
void ng_receive(struct net_guest *g, unsigned pair, struct ng_frame *f);
/* Makes @n more receive buffers available. */
void ng_fill(struct net_guest *g, unsigned pair, unsigned n);
struct port_stats ng_stats(const struct net_guest *g);
/* Waits for a message on the back-end's channel. @return whether it says that the configuration has
 * changed. */
bool ng_told(struct net_guest *g);
/* virtio 1.3 5.1.4: what the driver finds when it is told that something has changed. */
bool ng_link_is_up(struct net_guest *g);
/* Steps the control thread once; for waiting by hand. */
void ng_idle(void *arg);
/* Memory of the guest's, and its address. */
uint8_t *ng_alloc(struct net_guest *g, unsigned bytes, uint64_t *gpa);

#endif
