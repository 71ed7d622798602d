/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Anti-spoofing: for whom a guest speaks. All is read from the packet's private head; what does not
 * lie there whole, and would have to be looked at, is taken for spoofed.
 */
#include "net/offload.h"
#include "net/rules.h"

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_RARP 0x8035 /* a front-end's, after a migration */
#define ETHERTYPE_IPV6 0x86dd

/* RFC 826, for Ethernet and IPv4. */
#define ARP_LEN 28
#define ARP_SENDER_MAC 8
#define ARP_SENDER_IP 14

#define IPV4_HDR_MIN 20
#define IPV4_OFF_FRAG 6
#define IPV4_OFF_PROTO 9
#define IPV4_OFF_SRC 12
#define IPV4_OFF_DST 16

#define IPV6_HDR_LEN 40
#define IPV6_OFF_NEXT 6
#define IPV6_OFF_SRC 8
#define IPV6_OFF_DST 24
#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_FRAGMENT 44
#define IPV6_ICMP 58
#define IPV6_NO_NEXT 59
#define IPV6_DEST_OPTIONS 60

/* RFC 4861 4 */
#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOUR_SOLICIT 135
#define ND_NEIGHBOUR_ADVERT 136
#define ND_REDIRECT 137
#define ND_OFF_TARGET 8
#define ND_OPTION_SOURCE 1
#define ND_OPTION_TARGET 2

static bool mac_allowed(const struct port_rules *r, const uint8_t *mac)
{
	for (unsigned i = 0; i < r->macs.n; i++)
		if (memcmp(r->macs.mac[i], mac, 6) == 0)
			return true;
	return r->macs.n == 0;
}

static bool is_in(const struct ip_prefix *p, const uint8_t *addr)
{
	unsigned whole = p->bits / 8, rest = p->bits % 8;

	if (memcmp(p->addr, addr, whole) != 0)
		return false;
	return rest == 0 || (p->addr[whole] ^ addr[whole]) >> (8 - rest) == 0;
}

static bool ip_allowed(const struct port_rules *r, const uint8_t *addr, bool v6)
{
	for (unsigned i = 0; i < r->ips.n; i++)
		if (r->ips.ip[i].v6 == v6 && is_in(&r->ips.ip[i], addr))
			return true;
	return r->ips.n == 0;
}

/* Also the link-local address that comes of the frame's own, RFC 4291 2.5.1 and RFC 2464 4. */
static bool ip6_allowed(const struct port_rules *r, const uint8_t *addr, const uint8_t *mac)
{
	const uint8_t own[16] = { 0xfe,	      0x80,   0,      0,    0,	  0,	  0,	  0,
				  mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5] };

	return memcmp(addr, own, sizeof(own)) == 0 || ip_allowed(r, addr, true);
}

static bool is_zero(const uint8_t *p, unsigned n)
{
	while (n > 0 && p[n - 1] == 0)
		n--;
	return n == 0;
}

static enum guard_verdict look_at_arp(const struct port_rules *r, const uint8_t *arp, unsigned len)
{
	static const uint8_t fixed[6] = { 0, 1, 0x08, 0, 6, 4 };

	if (len < ARP_LEN || memcmp(arp, fixed, sizeof(fixed)) != 0)
		return r->ips.n ? GUARD_IP : GUARD_MAC;
	if (!mac_allowed(r, arp + ARP_SENDER_MAC))
		return GUARD_MAC;
	/* RFC 5227 2.1.1: who asks whether an address is free has none. */
	if (is_zero(arp + ARP_SENDER_IP, 4) || ip_allowed(r, arp + ARP_SENDER_IP, false))
		return GUARD_PASS;
	return GUARD_IP;
}

/* RFC 2131 4.1: a client without an address asks everybody. */
static bool is_dhcp(const uint8_t *ip, unsigned len)
{
	static const uint8_t everybody[4] = { 0xff, 0xff, 0xff, 0xff };
	static const uint8_t ports[4] = { 0, 68, 0, 67 };
	unsigned ihl = (ip[0] & 15u) * 4;

	return is_zero(ip + IPV4_OFF_SRC, 4) && memcmp(ip + IPV4_OFF_DST, everybody, 4) == 0 &&
	       ip[IPV4_OFF_PROTO] == 17 && !(ip[IPV4_OFF_FRAG] & 0x3f) && !ip[IPV4_OFF_FRAG + 1] &&
	       ihl >= IPV4_HDR_MIN && ihl + 8 <= len && memcmp(ip + ihl, ports, 4) == 0;
}

static enum guard_verdict look_at_ipv4(const struct port_rules *r, const uint8_t *ip, unsigned len)
{
	if (r->ips.n == 0)
		return GUARD_PASS;
	if (len < IPV4_HDR_MIN || ip[0] >> 4 != 4)
		return GUARD_IP;
	return ip_allowed(r, ip + IPV4_OFF_SRC, false) || is_dhcp(ip, len) ? GUARD_PASS : GUARD_IP;
}

/* The addresses of links that ND tells of, in options at @at. */
static enum guard_verdict look_at_nd_options(const struct port_rules *r, const uint8_t *ip,
					     unsigned at, unsigned len, unsigned end)
{
	if (r->macs.n == 0)
		return GUARD_PASS;
	while (at < end) {
		unsigned n;

		if (at + 8 > len)
			return GUARD_MAC;
		n = ip[at + 1] * 8u;
		if (n == 0)
			return GUARD_MAC; /* RFC 4861 4.6: nobody takes it */
		if ((ip[at] == ND_OPTION_SOURCE || ip[at] == ND_OPTION_TARGET) &&
		    !mac_allowed(r, ip + at + 2))
			return GUARD_MAC;
		at += n;
	}
	return GUARD_PASS;
}

/* @at: of the ICMPv6 header, in the @len bytes at @ip; @end: of the message, beyond them maybe. */
static enum guard_verdict look_at_nd(const struct port_rules *r, const uint8_t *ip, unsigned at,
				     unsigned len, unsigned end, const uint8_t *mac)
{
	bool no_source = is_zero(ip + IPV6_OFF_SRC, 16);

	if (at + 4 > len)
		return GUARD_IP;
	switch (ip[at]) {
	case ND_ROUTER_SOLICIT:
		return look_at_nd_options(r, ip, at + 8, len, end);
	case ND_ROUTER_ADVERT:
	case ND_REDIRECT:
		/* Who is bound to its own addresses forwards for nobody. */
		if (r->ips.n)
			return GUARD_IP;
		return look_at_nd_options(r, ip, at + (ip[at] == ND_REDIRECT ? 40 : 16), len, end);
	case ND_NEIGHBOUR_SOLICIT:
	case ND_NEIGHBOUR_ADVERT:
		if (at + ND_OFF_TARGET + 16 > len)
			return GUARD_IP;
		/* RFC 4862 5.4: to ask whether an address is free, without one, is to claim it. */
		if ((ip[at] == ND_NEIGHBOUR_ADVERT || no_source) &&
		    !ip6_allowed(r, ip + at + ND_OFF_TARGET, mac))
			return GUARD_IP;
		return look_at_nd_options(r, ip, at + ND_OFF_TARGET + 16, len, end);
	default:
		return GUARD_PASS;
	}
}

/*
 * Past the headers that may stand before ICMPv6. A fragment that is not the first tells nothing,
 * and ND in fragments is taken by nobody (RFC 6980 5). A length of 0 is a jumbogram's (RFC 2675 3),
 * which no frame here holds, but Linux reads on to the end of the frame: it is not looked for
 * there.
 */
static enum guard_verdict look_behind(const struct port_rules *r, const uint8_t *ip, unsigned len,
				      const uint8_t *mac)
{
	unsigned at = IPV6_HDR_LEN, end = IPV6_HDR_LEN + (ip[4] << 8 | ip[5]), at_next;
	uint8_t next = ip[IPV6_OFF_NEXT];

	if (end == IPV6_HDR_LEN && next != IPV6_NO_NEXT)
		return GUARD_IP;
	while (next == IPV6_HOP_BY_HOP || next == IPV6_ROUTING || next == IPV6_DEST_OPTIONS ||
	       next == IPV6_FRAGMENT) {
		if (at + 8 > len)
			return GUARD_IP;
		if (next == IPV6_FRAGMENT && ((ip[at + 2] << 8 | ip[at + 3]) & 0xfff8))
			return GUARD_PASS;
		at_next = at + (next == IPV6_FRAGMENT ? 8 : (ip[at + 1] + 1u) * 8);
		next = ip[at];
		at = at_next;
	}
	return next == IPV6_ICMP ? look_at_nd(r, ip, at, len, end, mac) : GUARD_PASS;
}

static enum guard_verdict look_at_ipv6(const struct port_rules *r, const uint8_t *ip, unsigned len,
				       const uint8_t *mac)
{
	if (len < IPV6_HDR_LEN || ip[0] >> 4 != 6)
		return GUARD_IP;
	/* Without an address: to groups alone, as those who are about to have one do. */
	if (r->ips.n && (is_zero(ip + IPV6_OFF_SRC, 16) ? ip[IPV6_OFF_DST] != 0xff
							: !ip6_allowed(r, ip + IPV6_OFF_SRC, mac)))
		return GUARD_IP;
	return look_behind(r, ip, len, mac);
}

enum guard_verdict guard_look(const struct port_rules *r, struct packet *p)
{
	const uint8_t *mac = p->head + 6;
	unsigned at = VLAN_TYPE_AT;
	uint16_t type;

	/*
	 * An unfinished checksum is written on the way out, into a field that the guest names: an
	 * address, if it likes. So that what is looked at is what arrives, any but a protocol's own
	 * is finished first. GSO frames have no other (packet_set_offload()).
	 */
	if (p->offload.needs_csum && !packet_csum_is_l4(p) && !p->offload.gso_type)
		packet_complete_csum(p);
	if (!mac_allowed(r, mac))
		return GUARD_MAC;
	/* Tags that are not the switch's, down to what they hide. */
	for (;; at += VLAN_TAG_LEN) {
		if (at + 2 > p->head_len)
			return GUARD_IP;
		type = vlan_be16(p->head + at);
		if (type != VLAN_TPID && type != VLAN_TPID_SERVICE)
			break;
	}
	at += 2;
	switch (type) {
	case ETHERTYPE_ARP:
		return look_at_arp(r, p->head + at, p->head_len - at);
	case ETHERTYPE_IPV4:
		return look_at_ipv4(r, p->head + at, p->head_len - at);
	case ETHERTYPE_IPV6:
		return look_at_ipv6(r, p->head + at, p->head_len - at, mac);
	case ETHERTYPE_RARP:
		return GUARD_PASS;
	default:
		/* IP comes in other wrappings too (802.2 SNAP, PPPoE …). */
		return r->ips.n ? GUARD_IP : GUARD_PASS;
	}
}
