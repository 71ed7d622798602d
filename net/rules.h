/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a port lets in and out beyond plain forwarding. A port without rules costs a burst one test
 * each way (port.rules_on); all that follows is for the others.
 */
#ifndef SLUICE_NET_RULES_H
#define SLUICE_NET_RULES_H

#include "net/vlan.h"

struct port;

/* Bits of port.rules_on. */
#define PORT_VLAN 1u

/* Those that are looked at when a frame comes in by the port, and when one is to leave by it. */
#define PORT_RULES_IN PORT_VLAN
#define PORT_RULES_OUT PORT_VLAN

/*
 * As configured; does not change while the port is attached.
 *
 * VLANs: a port with neither key is in none: it exchanges frames with its like alone, and tags in
 * them are none of the switch's business. An access port has @untagged alone; a trunk has @tagged,
 * and @untagged where it has a native VLAN.
 */
struct port_rules {
	uint16_t untagged;	/* the VLAN of frames without a tag, both ways; 0: there are none */
	struct vlan_set tagged; /* VLANs whose frames have a tag, both ways */
};

/* Control thread, while no packet comes in by @p or leaves by it. @rules: NULL for none. */
void port_set_rules(struct port *p, const struct port_rules *rules);

/*
 * Worker thread. Leaves those of the @n packets that may come in by @from, in order, and counts the
 * others; gives each its VLAN. @return how many are left.
 */
unsigned rules_admit(struct port *from, struct packet *packets, unsigned n);

/*
 * Worker thread. port_ops.deliver() of those of @run that may leave by @to, as it wants them.
 * Packets are afterwards as they were. @return whether there were any.
 */
bool rules_deliver(struct port *from, struct port *to, struct packet **run, unsigned n);

#endif
