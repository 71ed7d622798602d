/* SPDX-License-Identifier: Apache-2.0 */
/* For whom a port may speak: frames built by hand, and what is said of each. */
#include "net/offload.h"
#include "net/rules.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>

static const uint8_t mine[6] = { 0x52, 0x54, 0, 0, 0, 1 }, other[6] = { 0x52, 0x54, 0, 0, 0, 2 };
static struct port_rules rules;
static struct packet p;

static void allow_ip(const char *text, unsigned bits)
{
	struct ip_prefix *ip = &rules.ips.ip[rules.ips.n++];

	ip->v6 = strchr(text, ':') != NULL;
	ip->bits = (uint8_t)bits;
	cr_assert_eq(inet_pton(ip->v6 ? AF_INET6 : AF_INET, text, ip->addr), 1);
}

static void allow_mac(const uint8_t *mac)
{
	memcpy(rules.macs.mac[rules.macs.n++], mac, 6);
}

static void usual(void)
{
	memset(&rules, 0, sizeof(rules));
	allow_mac(mine);
	allow_ip("10.0.0.5", 32);
	allow_ip("10.1.0.0", 20);
	allow_ip("fd00::5", 128);
	allow_ip("fd01::", 60);
}

static uint8_t *begin(const uint8_t *src, uint16_t type, unsigned len)
{
	memset(&p, 0, sizeof(p));
	p.head_len = (uint16_t)(14 + len);
	p.len = p.head_len;
	memset(p.head, 0xff, 6);
	memcpy(p.head + 6, src, 6);
	p.head[12] = (uint8_t)(type >> 8);
	p.head[13] = (uint8_t)type;
	return p.head + 14;
}

static void expect(enum guard_verdict want, int line)
{
	enum guard_verdict v = guard_look(&rules, &p);

	cr_expect_eq(v, want, "line %d: %d, not %d", line, v, want);
	/* Of whatever is cut off, nothing more is allowed: no byte beyond the head is looked at. */
	for (uint16_t len = 14; len < p.head_len; len++) {
		static struct packet cut;

		cut = p;
		cut.head_len = len;
		memset(cut.head + len, 0xa5, sizeof(cut.head) - len);
		v = guard_look(&rules, &cut);
		memset(cut.head + len, 0, sizeof(cut.head) - len);
		cr_expect_eq(guard_look(&rules, &cut), v, "line %d, %u bytes", line, len);
	}
}
#define EXPECT(want) expect(want, __LINE__)

static void arp(const uint8_t *mac, const char *ip)
{
	static const uint8_t fixed[] = { 0, 1, 8, 0, 6, 4, 0, 1 };
	uint8_t *a = begin(mine, 0x0806, 28);

	memcpy(a, fixed, 8);
	memcpy(a + 8, mac, 6);
	inet_pton(AF_INET, ip, a + 14);
}

static uint8_t *ipv4(const char *src, const char *dst, uint8_t proto, unsigned payload)
{
	uint8_t *ip = begin(mine, 0x0800, 20 + payload);

	ip[0] = 0x45;
	ip[9] = proto;
	inet_pton(AF_INET, src, ip + 12);
	inet_pton(AF_INET, dst, ip + 16);
	return ip + 20;
}

static uint8_t *ipv6(const char *src, const char *dst, uint8_t next, unsigned payload)
{
	uint8_t *ip = begin(mine, 0x86dd, 40 + payload);

	ip[0] = 0x60;
	ip[5] = (uint8_t)payload;
	ip[6] = next;
	inet_pton(AF_INET6, src, ip + 8);
	inet_pton(AF_INET6, dst, ip + 24);
	return ip + 40;
}

/* Of this type, for @target, with an option that tells @mac. */
static void nd(const char *src, uint8_t type, const char *target, const uint8_t *mac)
{
	uint8_t *m = ipv6(src, "ff02::1", 58, 32);

	m[0] = type;
	inet_pton(AF_INET6, target, m + 8);
	m[24] = type == 136 ? 2 : 1;
	m[25] = 1;
	memcpy(m + 26, mac, 6);
}

Test(guard, source_address_of_the_frame)
{
	usual();
	rules.ips.n = 0;
	begin(mine, 0x88b5, 46);
	EXPECT(GUARD_PASS);
	begin(other, 0x88b5, 46);
	EXPECT(GUARD_MAC);
	allow_mac(other);
	EXPECT(GUARD_PASS);
}

Test(guard, sender_of_arp)
{
	usual();
	arp(mine, "10.0.0.5");
	EXPECT(GUARD_PASS);
	arp(mine, "10.1.15.255");
	EXPECT(GUARD_PASS);
	arp(mine, "0.0.0.0");
	EXPECT(GUARD_PASS);
	arp(mine, "10.0.0.6");
	EXPECT(GUARD_IP);
	arp(mine, "10.1.16.0");
	EXPECT(GUARD_IP);
	arp(other, "10.0.0.5");
	EXPECT(GUARD_MAC);
	arp(mine, "10.0.0.5");
	p.head[14 + 4] = 8;
	EXPECT(GUARD_IP);
	arp(mine, "10.0.0.5");
	p.head_len--;
	cr_expect_eq(guard_look(&rules, &p), GUARD_IP);
	rules.ips.n = 0;
	arp(other, "1.2.3.4");
	EXPECT(GUARD_MAC);
}

Test(guard, source_of_ipv4)
{
	usual();
	ipv4("10.0.0.5", "1.1.1.1", 17, 20);
	EXPECT(GUARD_PASS);
	ipv4("10.0.0.4", "1.1.1.1", 17, 20);
	EXPECT(GUARD_IP);
	ipv4("0.0.0.0", "255.255.255.255", 17, 20);
	EXPECT(GUARD_IP);
	ipv4("10.0.0.5", "1.1.1.1", 17, 20);
	p.head[14] = 0x65;
	EXPECT(GUARD_IP);
	ipv4("10.0.0.5", "1.1.1.1", 17, 0);
	p.head_len--;
	cr_expect_eq(guard_look(&rules, &p), GUARD_IP);
}

Test(guard, dhcp_from_nobody_is_allowed_and_nothing_else_RFC_2131_4_1)
{
	static const uint8_t ports[4] = { 0, 68, 0, 67 };
	static const struct {
		unsigned at;
		uint8_t value;
	} wrong[] = { { 9, 6 },	  { 7, 1 },   { 6, 0x20 }, { 19, 1 },
		      { 21, 69 }, { 23, 68 }, { 0, 0x44 } };

	usual();
	memcpy(ipv4("0.0.0.0", "255.255.255.255", 17, 100), ports, 4);
	EXPECT(GUARD_PASS);
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		memcpy(ipv4("0.0.0.0", "255.255.255.255", 17, 100), ports, 4);
		p.head[14 + wrong[i].at] = wrong[i].value;
		expect(GUARD_IP, (int)i);
	}
}

Test(guard, source_of_ipv6)
{
	usual();
	ipv6("fd00::5", "fd00::1", 6, 20);
	EXPECT(GUARD_PASS);
	ipv6("fd01:0:0:f::1", "fd00::1", 6, 20);
	EXPECT(GUARD_PASS);
	ipv6("fd01:0:0:10::1", "fd00::1", 6, 20);
	EXPECT(GUARD_IP);
	/* Its own, made of its MAC address; RFC 4291 2.5.1. */
	ipv6("fe80::5054:ff:fe00:1", "ff02::1", 6, 20);
	EXPECT(GUARD_PASS);
	ipv6("fe80::5054:ff:fe00:2", "ff02::1", 6, 20);
	EXPECT(GUARD_IP);
	ipv6("::", "ff02::1", 58, 20);
	EXPECT(GUARD_PASS);
	ipv6("::", "fd00::1", 58, 20);
	EXPECT(GUARD_IP);
	ipv6("fd00::5", "fd00::1", 6, 20);
	p.head[14] = 0x40;
	EXPECT(GUARD_IP);
}

Test(guard, neighbour_discovery)
{
	usual();
	nd("fd00::5", 135, "fd00::1", mine);
	EXPECT(GUARD_PASS);
	nd("fd00::5", 135, "fd00::1", other);
	EXPECT(GUARD_MAC);
	nd("::", 135, "fd00::5", mine);
	EXPECT(GUARD_PASS);
	nd("::", 135, "fd00::6", mine);
	EXPECT(GUARD_IP);
	nd("fd00::5", 136, "fd00::5", mine);
	EXPECT(GUARD_PASS);
	nd("fd00::5", 136, "fd00::6", mine);
	EXPECT(GUARD_IP);
	nd("fd00::5", 136, "fd00::5", other);
	EXPECT(GUARD_MAC);
	nd("fe80::5054:ff:fe00:1", 136, "fe80::5054:ff:fe00:1", mine);
	EXPECT(GUARD_PASS);
	nd("fd00::5", 134, "::", mine);
	EXPECT(GUARD_IP);
	nd("fd00::5", 137, "::", mine);
	EXPECT(GUARD_IP);
	/* An option of no length, and one that goes on beyond what is seen. */
	nd("fd00::5", 136, "fd00::5", mine);
	p.head[14 + 40 + 25] = 0;
	EXPECT(GUARD_MAC);
	nd("fd00::5", 136, "fd00::5", mine);
	p.head_len -= 2;
	cr_expect_eq(guard_look(&rules, &p), GUARD_MAC);
	p.head_len -= 10;
	cr_expect_eq(guard_look(&rules, &p), GUARD_IP);
}

/* Whose addresses of IP are free, but not those of its link. */
Test(guard, options_of_routers_RFC_4861_4_2_4_5)
{
	static const struct {
		uint8_t type;
		unsigned at;
	} rows[] = { { 134, 16 }, { 137, 40 } };

	usual();
	rules.ips.n = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t *m = ipv6("fe80::1", "ff02::1", 58, rows[i].at + 8);

		m[0] = rows[i].type;
		m[rows[i].at] = rows[i].type == 134 ? 1 : 2;
		m[rows[i].at + 1] = 1;
		memcpy(m + rows[i].at + 2, other, 6);
		expect(GUARD_MAC, (int)i);
		memcpy(m + rows[i].at + 2, mine, 6);
		expect(GUARD_PASS, (int)i);
	}
}

/* ND that hides behind other headers. */
Test(guard, headers_before_icmpv6_hide_nothing)
{
	static const uint8_t kinds[] = { 0, 43, 60, 44 };

	usual();
	for (unsigned i = 0; i < 4; i++) {
		uint8_t *m = ipv6("fd00::5", "ff02::1", kinds[i], 16 + 32);

		m[0] = 60;
		m[8] = 58;
		m[16] = 136;
		m[24 + 15] = 9;
		expect(GUARD_IP, (int)i);
		inet_pton(AF_INET6, "fd00::5", m + 24);
		m[40] = 2;
		m[41] = 1;
		memcpy(m + 42, mine, 6);
		expect(GUARD_PASS, (int)i);
		/* So long that nobody can see what follows. */
		m[9] = 30;
		expect(GUARD_IP, (int)i);
		m[8] = 60;
		expect(GUARD_IP, (int)i);
	}
	/* Of no length: Linux takes all of the frame for it, and so an option that is another's. */
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *m = ipv6("fd00::5", "ff02::1", i ? 58 : 0, 8 + 32), *nd = m + (i ? 0 : 8);

		m[-40 + 5] = 0;
		m[0] = 58;
		nd[0] = 136;
		inet_pton(AF_INET6, "fd00::5", nd + 8);
		nd[24] = 2;
		nd[25] = 1;
		memcpy(nd + 26, other, 6);
		expect(GUARD_IP, (int)i);
	}
	ipv6("fd00::5", "fd00::1", 59, 0);
	EXPECT(GUARD_PASS);
	/* Not the first fragment: it begins in the middle of something. */
	ipv6("fd00::5", "fd00::1", 44, 40)[3] = 8;
	EXPECT(GUARD_PASS);
}

Test(guard, tags_that_are_not_the_switchs_hide_nothing)
{
	usual();
	for (unsigned tags = 1; tags < 45; tags++) {
		uint8_t *at = begin(mine, tags & 1 ? 0x8100 : 0x88a8, 160);

		for (unsigned i = 1; i < tags && at + 4 < p.head + p.head_len; i++, at += 4) {
			at[2] = 0x81;
			at[3] = 0;
		}
		if (at + 24 > p.head + p.head_len) {
			EXPECT(GUARD_IP);
			/* Also where only what it says of addresses of links matters. */
			rules.ips.n = 0;
			for (; at + 4 <= p.head + p.head_len; at += 4) {
				at[2] = 0x81;
				at[3] = 0;
			}
			p.head_len = (uint16_t)(at - p.head);
			cr_expect_eq(guard_look(&rules, &p), GUARD_IP);
			break;
		}
		at[2] = 8;
		at[3] = 0;
		at[4] = 0x45;
		inet_pton(AF_INET, "10.0.0.5", at + 4 + 12);
		EXPECT(GUARD_PASS);
		inet_pton(AF_INET, "10.0.0.6", at + 4 + 12);
		EXPECT(GUARD_IP);
	}
}

/* Asks for a checksum from @start on, to be written at @field, such that @want comes to stand
 * there. */
static void unfinished(unsigned start, unsigned field, const void *want)
{
	uint16_t sum = 0, w;
	uint32_t all = 0;

	p.offload.needs_csum = true;
	p.offload.csum_start = (uint16_t)start;
	p.offload.csum_offset = (uint16_t)(field - start);
	memset(p.head + p.head_len - 2, 0, 2);
	for (unsigned i = start; i < p.head_len; i += 2) {
		memcpy(&w, p.head + i, 2);
		all += w;
	}
	memcpy(&w, want, 2);
	sum = (uint16_t)~w;
	all = 0xffffu * 4 + sum - all % 0xffff;
	w = (uint16_t)(all % 0xffff);
	memcpy(p.head + p.head_len - 2, &w, 2);
}

/* virtio 1.3 5.1.6.2: the driver says where a checksum belongs. A hostile one says: into an
 * address. */
Test(guard, a_checksum_that_becomes_an_address_is_seen)
{
	uint8_t *at;

	usual();
	/* It does what it is to do: 10.0.0.5 becomes 10.0.9.9. */
	ipv4("10.0.0.5", "10.0.0.1", 17, 20);
	unfinished(14 + 12, 14 + 14, "\x09\x09");
	packet_complete_csum(&p);
	cr_assert_arr_eq(p.head + 14 + 12, "\x0a\x00\x09\x09", 4);

	ipv4("10.0.0.5", "10.0.0.1", 17, 20);
	unfinished(14 + 12, 14 + 14, "\x09\x09");
	cr_expect_eq(guard_look(&rules, &p), GUARD_IP);
	ipv4("10.0.0.5", "10.0.0.1", 17, 20);
	unfinished(14, 14 + 14, "\x00\x05");
	cr_expect_eq(guard_look(&rules, &p), GUARD_PASS, "it is no other address");
	cr_expect_not(p.offload.needs_csum);

	arp(mine, "10.0.0.5");
	p.head_len = (uint16_t)(p.len = p.head_len + 18);
	unfinished(14, 14 + 16, "\x09\x09");
	cr_expect_eq(guard_look(&rules, &p), GUARD_IP);
	arp(mine, "10.0.0.5");
	p.head_len = (uint16_t)(p.len = p.head_len + 18);
	unfinished(14, 14 + 12, "\x09\x09");
	cr_expect_eq(guard_look(&rules, &p), GUARD_MAC);

	ipv6("fd00::5", "fd00::1", 17, 20);
	unfinished(14 + 8, 14 + 22, "\x09\x09");
	cr_expect_eq(guard_look(&rules, &p), GUARD_IP);
	nd("fd00::5", 136, "fd00::5", mine);
	unfinished(14 + 40, 14 + 40 + 22, "\x09\x09");
	cr_expect_eq(guard_look(&rules, &p), GUARD_IP);
	nd("fd00::5", 136, "fd00::5", mine);
	at = p.head + 14 + 40 + 24;
	p.head_len = (uint16_t)(p.len = p.head_len + 8);
	unfinished(14 + 40, (unsigned)(at - p.head) + 6, "\x09\x09");
	cr_expect_eq(guard_look(&rules, &p), GUARD_MAC);
}

/* What a driver asks for in earnest is left to whoever takes the frame, or to a device. */
Test(guard, a_checksum_of_tcp_udp_or_icmpv6_stays_unfinished)
{
	static const struct {
		uint8_t proto, offset;
		bool v6;
	} rows[] = { { 6, 16, 0 }, { 17, 6, 0 }, { 6, 16, 1 }, { 17, 6, 1 }, { 58, 2, 1 } };

	usual();
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		unsigned l4 = rows[i].v6 ? 54 : 34;

		for (unsigned off = 0; off < 3; off++) {
			if (rows[i].v6)
				ipv6("fd00::5", "fd00::1", rows[i].proto, 24);
			else
				ipv4("10.0.0.5", "10.0.0.1", rows[i].proto, 24);
			unfinished(l4 - (off == 1), l4 + rows[i].offset + (off == 2), "\x01\x01");
			p.offload.csum_offset = (uint16_t)(rows[i].offset + (off == 2));
			cr_expect_eq(guard_look(&rules, &p), GUARD_PASS);
			cr_expect_eq(p.offload.needs_csum, off == 0, "row %u, %u", i, off);
		}
	}
}

/* Nor is what nobody asked to be looked at held to be anything. */
Test(guard, what_is_free_may_be_cut_short)
{
	usual();
	rules.ips.n = 0;
	begin(mine, 0x0800, 8);
	EXPECT(GUARD_PASS);
	usual();
	rules.macs.n = 0;
	nd("fd00::5", 136, "fd00::5", other);
	EXPECT(GUARD_PASS);
	p.head[14 + 40 + 25] = 0;
	EXPECT(GUARD_PASS);
}

Test(guard, other_protocols_pass_where_ip_is_free_alone)
{
	usual();
	begin(mine, 0x8864, 46);
	EXPECT(GUARD_IP);
	begin(mine, 0x8035, 46);
	EXPECT(GUARD_PASS);
	rules.ips.n = 0;
	begin(mine, 0x8864, 46);
	EXPECT(GUARD_PASS);
}
