/* SPDX-License-Identifier: Apache-2.0 */
/* A DPDK port: what its set-up (dpdk_port.c) and its data path (dpdk_io.c) share. */
#ifndef SLUICE_NET_DPDK_IMPL_H
#define SLUICE_NET_DPDK_IMPL_H

#include "base/spinlock.h"
#include "net/net.h"

#include <rte_mbuf.h>

/* Bytes of a frame in one mbuf; a frame up to this size is one segment. */
#define DPDK_MBUF_ROOM 2048
/* Segments of a received frame: 64 KiB and a little. */
#define DPDK_RX_SEGS 34

/*
 * Without interrupts a queue is looked at every so often: soon, for a number of looks after there
 * was traffic, then ever less often as none comes. So much later, at most, a frame is noticed.
 */
#define DPDK_RX_PARK_MIN_US 250
#define DPDK_RX_PARK_LOOKS 32
#define DPDK_RX_PARK_MAX_US 16000

/* One receive queue, polled by one worker. */
struct dpdk_rxq {
	struct poller poller;
	struct dpdk_port *port;
	uint16_t id;
	bool has_intr; /* interrupts are switched on and off; otherwise the fd tells by itself */
	unsigned idle_looks; /* in a row, by timer */
	struct packet packets[PORT_BURST];
	struct iovec segs[PORT_BURST][DPDK_RX_SEGS];
} CACHE_ALIGNED;

/* Frames on their way into a transmit queue, and those that may wait for another worker's call. */
#define DPDK_TX_BATCH 64u
#define DPDK_TX_LEFT 256u

/*
 * One transmit queue. A worker's own where the device has enough of them; else workers share it.
 * For drivers that have only one (af_packet, pcap) a burst may be a system call, so the lock is not
 * held over it: see tx_flush().
 */
struct dpdk_txq {
	bool shared;
	uint16_t id;
	struct dpdk_port *port;
	struct call go_on; /* of the worker that is at it */

	struct spinlock lock; /* of what follows; held for moments */
	bool busy;	      /* a worker is at it */
	unsigned n_left;
	struct rte_mbuf *left[DPDK_TX_LEFT];
} CACHE_ALIGNED;

struct dpdk_port {
	struct port port;
	struct dpdk_port_config config;
	struct workers *workers;
	struct rte_device *dev;
	struct rte_mempool *pool;
	struct dpdk_rxq *rxqs;
	struct dpdk_txq *txqs;
	uint64_t tx_offloads; /* RTE_ETH_TX_OFFLOAD_* that are on */
	uint64_t caps;	      /* CAP_* that it needs while it runs */
	uint32_t max_frame;   /* bytes, with one VLAN tag */
	uint16_t id;
	uint16_t n_queues; /* of either direction */
	int promisc_fd;	   /* a socket whose life keeps the host's interface promiscuous; -1 */
	bool has_eal, configured, started, attached, polled;
	const char *driver;
	char how[160];
};

extern const struct port_ops dpdk_port_ops;
void dpdk_tx_go_on(struct call *c); /* dpdk_txq.go_on */
extern const struct poller_ops dpdk_rx_ops;

/*
 * Fills @pk with a view of @m, @head_len bytes of it in its head. @segs has room for DPDK_RX_SEGS.
 * @return false: not a frame.
 */
bool dpdk_view(struct packet *pk, const struct rte_mbuf *m, struct iovec *segs, uint32_t head_len);

#endif
