/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port of the switch: a guest's virtio-net device, or a DPDK ethdev. Packets come in through the
 * port's own pollers, which hand bursts to switch_forward(); they go out through deliver().
 */
#ifndef SLUICE_NET_PORT_H
#define SLUICE_NET_PORT_H

#include "base/counter.h"
#include "net/packet.h"
#include "poll/worker.h"

struct error;
struct net_switch;
struct port;

#define PORT_NAME_MAX 64
/* Packets of one burst. */
#define PORT_BURST 32

struct port_ops {
	const char *kind; /* "guest", "dpdk" */
	/*
	 * Worker thread, any worker. Copies each packet that the port accepts before it returns, in
	 * order; what it does not accept is dropped. A frame whose offloads
	 * the receiver did not negotiate is segmented and summed on the way.
	 * Counts them itself in p->stats (tx_*). @return how many were accepted.
	 */
	unsigned (*deliver)(struct port *p, struct packet *const *packets, unsigned n);
	/*
	 * Worker thread. Ends a round of deliveries to this port from this worker: publishes and
	 * notifies once for all of them. NULL where deliver() does it.
	 */
	void (*flush)(struct port *p);
};

/*
 * Counters of a port on one worker: written by that worker alone. The port counts everything
 * itself, in its pollers (rx_*) and in deliver() (tx_*), except filtered, which the switch counts
 * for the port that the packet came in by.
 */
struct port_stats {
	counter_t rx_packets, rx_bytes; /* from the port into the switch */
	counter_t tx_packets, tx_bytes; /* out of the switch to the port */
	counter_t rx_bad;		/* malformed: runt, bad header, bad offload fields */
	counter_t tx_no_buffer;		/* the receiver had no (or too few) buffers */
	counter_t tx_too_big;		/* no buffer of the receiver holds such a frame */
	counter_t tx_cut_short; /* large frames, cut no further: their sender's poll was used up */
	counter_t tx_down;	/* the receiver was not running */
	counter_t tx_error;	/* the device refused */
	counter_t filtered;	/* back to its own port, or otherwise nowhere to go */
} CACHE_ALIGNED;

struct port {
	const struct port_ops *ops;
	struct net_switch *sw; /* NULL: not attached */
	char name[PORT_NAME_MAX];
	unsigned id;		  /* index in the switch */
	struct port_stats *stats; /* one for each worker, by worker_index(); owned by the port */
};

/* Any thread: the sums over the workers. */
void port_stats_sum(const struct port *p, unsigned n_workers, struct port_stats *out);

#endif
