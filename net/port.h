/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port of the switch: a guest's virtio-net device, or a DPDK ethdev. Packets come in through the
 * port's own pollers, which hand bursts to switch_forward(); they go out through deliver().
 */
#ifndef SLUICE_NET_PORT_H
#define SLUICE_NET_PORT_H

#include "base/counter.h"
#include "net/packet.h"
#include "net/rules.h"
#include "poll/worker.h"

struct error;
struct net_switch;
struct port;

#define PORT_NAME_MAX 64
/* Packets of one burst. */
#define PORT_BURST 32

struct port_ops {
	const char *kind; /* "guest", "dpdk" */
	bool holds;	  /* its pollers wait where a limit says so: see PORT_HOLD_IN */
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
 * The counters of a port, by the names that status gives them: X(name, DROP or PASS, what). The
 * port counts them itself, in its pollers (rx_*: from the port into the switch) and in deliver()
 * (tx_*: out of the switch to the port), except those that come of rules and of routing, which the
 * switch counts.
 */
#define PORT_COUNTERS(X)                                                                       \
	X(rx_packets, PASS, "came in")                                                         \
	X(rx_bytes, PASS, "bytes of these")                                                    \
	X(tx_packets, PASS, "went out")                                                        \
	X(tx_bytes, PASS, "bytes of these")                                                    \
	X(rx_bad, DROP, "malformed: runt, bad header, bad offload fields")                     \
	X(rx_vlan, DROP, "a tag, or none, that the port does not take")                        \
	X(tx_vlan, DROP, "would have left without its tag, and a second one behind it")        \
	X(rx_spoofed_mac, DROP, "a source address that is not in macs")                        \
	X(rx_spoofed_ip, DROP, "an IP address that is not in ips, or a router's message")      \
	X(rx_limited, DROP, "more than limit.tx, from a port that does not wait")              \
	X(rx_held, PASS, "times that a guest had to wait, by limit.tx")                        \
	X(rx_broadcast, DROP, "more than flood_limit.broadcast")                               \
	X(rx_unknown, DROP, "more than flood_limit.unknown")                                   \
	X(rx_isolated, DROP, "from an isolated port to another")                               \
	X(rx_port_down, DROP, "came in while the port was down")                               \
	X(tx_port_down, DROP, "was to go out while the port was down")                         \
	X(tx_limited, DROP, "more than limit.rx")                                              \
	X(mac_refused, PASS, "addresses not learned: mac_max, or the table was full")          \
	X(tx_no_buffer, DROP, "the receiver had no (or too few) buffers")                      \
	X(tx_too_big, DROP, "no buffer of the receiver holds such a frame")                    \
	X(tx_cut_short, DROP, "large frames, cut no further: their sender's poll was used up") \
	X(tx_not_for_it, DROP, "an address that the receiver's driver filters")                \
	X(tx_not_its_vlan, DROP, "a VLAN that the receiver's driver filters")                  \
	X(tx_down, DROP, "the receiver was not running")                                       \
	X(tx_error, DROP, "the device refused")                                                \
	X(filtered, PASS, "back to its own port, or otherwise nowhere to go")

/* On one worker: written by that worker alone. */
struct port_stats {
#define X(name, kind, what) counter_t name;
	PORT_COUNTERS(X)
#undef X
} CACHE_ALIGNED;

struct port {
	const struct port_ops *ops;
	struct net_switch *sw; /* NULL: not attached */
	char name[PORT_NAME_MAX];
	unsigned id;		  /* index in the switch */
	uint32_t rules_on;	  /* PORT_*: which of its rules there are. Atomic */
	struct port_stats *stats; /* one for each worker, by worker_index(); owned by the port */
	/* Two, so that a change needs no memory and cannot fail: see port_rules_now(). */
	struct port_rules rules[2];
	unsigned rules_now; /* index of what holds. Atomic */
	struct port_buckets buckets;
	struct capture *capture; /* NULL: nobody looks. Atomic */
};

/* By index: a counter's name, and whether it is of frames that were dropped. */
struct port_counter {
	const char *name;
	bool drop;
};
extern const struct port_counter port_counters[];
extern const unsigned port_n_counters;

/* Any thread: the sums over the workers. */
void port_stats_sum(const struct port *p, unsigned n_workers, struct port_stats *out);
/* Any thread. The counter at @index of port_counters[] in what port_stats_sum() gave. */
uint64_t port_stats_get(const struct port_stats *s, unsigned index);

#endif
