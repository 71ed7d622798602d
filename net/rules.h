/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a port lets in and out beyond plain forwarding. A port without rules costs a burst one test
 * each way (port.rules_on); all that follows is for the others.
 */
#ifndef SLUICE_NET_RULES_H
#define SLUICE_NET_RULES_H

#include "base/bucket.h"
#include "net/vlan.h"

struct port;

/* Bits of port.rules_on. */
#define PORT_VLAN 1u
#define PORT_DOWN 2u
#define PORT_GUARD 4u /* whose addresses its frames may have */
#define PORT_ISOLATED 8u
#define PORT_POLICE_IN 16u  /* limits, kept by dropping what comes in … */
#define PORT_HOLD_IN 32u    /* … or by its pollers, which leave it where it is */
#define PORT_POLICE_OUT 64u /* limits of what goes out */
#define PORT_STORM 128u	    /* limits of what goes to all */
#define PORT_CAPTURE 256u   /* somebody looks: net/capture.h */

/* Those that are looked at when a frame comes in by the port, and when one is to leave by it. */
#define PORT_RULES_IN (PORT_VLAN | PORT_DOWN | PORT_GUARD | PORT_POLICE_IN | PORT_CAPTURE)
#define PORT_RULES_OUT (PORT_VLAN | PORT_DOWN | PORT_ISOLATED | PORT_POLICE_OUT | PORT_CAPTURE)

#define PORT_MACS_MAX 64
#define PORT_IPS_MAX 64

/* A second; 0: no limit. Bursts 0: what 50 ms bring. Bits are those of frames without checksum. */
struct port_rate {
	uint64_t bits, bits_burst, packets, packets_burst;
};

struct mac_list {
	unsigned n;
	uint8_t mac[PORT_MACS_MAX][6];
};

struct ip_prefix {
	bool v6;
	uint8_t bits; /* of addr that count */
	uint8_t addr[16];
};

struct ip_list {
	unsigned n;
	struct ip_prefix ip[PORT_IPS_MAX];
};

/*
 * As configured. While the port is attached the limits alone change in place, which are for the
 * control thread to read; the rest changes as a whole: port_change_rules().
 *
 * VLANs: a port with neither key is in none: it exchanges frames with its like alone, and tags in
 * them are none of the switch's business. An access port has @untagged alone; a trunk has @tagged,
 * and @untagged where it has a native VLAN.
 */
struct port_rules {
	uint16_t untagged;	/* the VLAN of frames without a tag, both ways; 0: there are none */
	struct vlan_set tagged; /* VLANs whose frames have a tag, both ways */
	/* An isolated port exchanges frames with ports alone that are not. */
	bool isolated;
	struct port_rate in, out; /* from the port into the switch; out of the switch to it */
	uint64_t broadcast,
		unknown;       /* packets a second to group and to unknown addresses; 0: any */
	uint32_t mac_max;      /* addresses learned from it; 0: as many as the table lets it */
	struct mac_list macs;  /* that its frames may have; none: any */
	struct ip_list ips;    /* that it may speak for; none: any */
	struct mac_list fixed; /* that live there whatever others say */
};

/* The state of its limits. */
struct port_buckets {
	struct bucket in_bits, in_packets, out_bits, out_packets, broadcast, unknown;
};

/* Control thread, while no packet comes in by @p or leaves by it. @rules: NULL for none. */
void port_set_rules(struct port *p, const struct port_rules *rules);

/*
 * Control thread, at any time: @p has @rules from now on, and keeps its limits (in, out, broadcast,
 * unknown), which are not looked at. Returns when no worker goes by the old ones any more. The
 * switch is still to be told: switch_relearn().
 */
void port_change_rules(struct port *p, const struct port_rules *rules);

/*
 * What holds now. A worker asks once for what has to fit together, and keeps it until the end of
 * its poll at most.
 */
const struct port_rules *port_rules_now(const struct port *p);

/*
 * Control thread, at any time: the limits of @rules (in, out, broadcast, unknown) are @p's from now
 * on, and the rest of @rules is not looked at. A poller that waits by an old limit of @p.in is the
 * caller's to wake.
 */
void port_set_limits(struct port *p, const struct port_rules *rules);

/* Control thread, at any time. Frames to and from a port that is down are dropped and counted. */
void port_set_down(struct port *p, bool down);
bool port_is_down(const struct port *p);

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

/* Worker thread, for a port with PORT_HOLD_IN: for how long nothing may be taken in; 0: now. */
uint64_t rules_hold_ns(const struct port *from);
/* … and what was. */
void rules_took(struct port *from, unsigned packets, uint64_t bytes);

/*
 * Worker thread, for a port with PORT_STORM. @flood: the packets that would go to all.
 * @return those of them that may.
 */
uint32_t rules_flood(struct port *from, const struct packet *packets, uint32_t flood);

/*
 * guard.c: may the port with these rules send this, after its own tag is off? Looks at the source
 * of the frame, ARP and ND, and IPv4 and IPv6, as far as the head goes: give it all of
 * PACKET_HEAD_MAX. Finishes a checksum whose place is nobody's.
 */
enum guard_verdict { GUARD_PASS, GUARD_MAC, GUARD_IP };
enum guard_verdict guard_look(const struct port_rules *r, struct packet *p);

/* Bytes that a port's pollers copy of a frame without offloads. */
static inline unsigned rules_head_len(uint32_t rules_on)
{
	return unlikely(rules_on & PORT_GUARD) ? PACKET_HEAD_MAX : PACKET_HEAD_PLAIN;
}

#endif
