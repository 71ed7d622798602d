/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A learning Ethernet switch: one for each configured network. The MAC table is read by all workers
 * without locks (liburcu's lock-free hash table under QSBR; workers pass a quiescent state each
 * round) and learns on the datapath.
 */
#ifndef SLUICE_NET_SWITCH_H
#define SLUICE_NET_SWITCH_H

#include "net/port.h"

struct net_switch;

struct switch_config {
	const char *name;
	unsigned mac_ageing_s; /* seconds without a frame after which an address is forgotten; 0:
				  300 */
	unsigned mac_max; /* addresses remembered; 0: 4096. A guest cannot make it grow further */
};

struct switch_stats {
	uint64_t flooded, learned, moved, aged, table_full;
	uint64_t macs; /* in the table now */
};

/* Control thread. */
int switch_create(const struct switch_config *cfg, struct workers *workers, struct net_switch **out,
		  struct error *err);
/* Control thread; every port has been detached. */
void switch_destroy(struct net_switch *sw);
/* Control thread. After detach returns no worker delivers to @p, nor will. */
int switch_attach(struct net_switch *sw, struct port *p, struct error *err);
void switch_detach(struct port *p);
/*
 * Control thread: after port_change_rules(). What was learned from @p is forgotten, for it may be
 * of a VLAN or a station that the port has no more, and its static addresses are set anew.
 */
void switch_relearn(struct port *p);
const char *switch_name(const struct net_switch *sw);
void switch_stats(const struct net_switch *sw, struct switch_stats *out);

/* Control thread. Calls fn for each address in the table (a snapshot, for status). */
typedef void switch_mac_fn(const uint8_t mac[6], uint16_t vlan, const struct port *p,
			   unsigned age_s, void *arg);
void switch_for_each_mac(const struct net_switch *sw, switch_mac_fn *fn, void *arg);

/*
 * Worker thread. Learns from and routes a burst of packets that came in by @from, delivers each run
 * of packets for one port in one deliver(), floods what has no known destination, counts the rest.
 * The packets are the caller's again when it returns.
 */
void switch_forward(struct net_switch *sw, struct port *from, struct packet *packets, unsigned n);

#endif
