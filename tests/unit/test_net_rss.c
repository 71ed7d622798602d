/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSS and hash reports (virtio 1.3 5.1.6.4.3, 5.1.6.5.7): the hash against the vectors that
 * Microsoft publishes for it ("Verifying the RSS Hash Calculation"), and cards that steer by it.
 */
#include "net/rss.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>

static const uint8_t ms_key[40] = { 0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
				    0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
				    0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
				    0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa };

static const struct vector {
	const char *dst, *src;
	uint16_t dport, sport;
	uint32_t ip, tcp;
} vectors[] = {
	{ "161.142.100.80", "66.9.149.187", 1766, 2794, 0x323e8fc2, 0x51ccc178 },
	{ "65.69.140.83", "199.92.111.2", 4739, 14230, 0xd718262a, 0xc626b0ea },
	{ "12.22.207.184", "24.19.198.95", 38024, 12898, 0xd2d0a5de, 0x5c2b394a },
	{ "209.142.163.6", "38.27.205.30", 2217, 48228, 0x82989176, 0xafc7327f },
	{ "202.188.127.2", "153.39.163.191", 1303, 44251, 0x5d1809c5, 0x10e828a2 },
	{ "3ffe:2501:200:3::1", "3ffe:2501:200:1fff::7", 1766, 2794, 0x2cc18cd5, 0x40207d3d },
	{ "ff02::1", "3ffe:501:8::260:97ff:fe40:efab", 4739, 14230, 0x0f0c461c, 0xdde51bbf },
	{ "fe80::200:f8ff:fe21:67cf", "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 38024, 44251,
	  0x4b61e985, 0x02d1feef },
};

/* What stands between the IP header and the ports, or before the IP header. */
enum { PLAIN, TAGS = 1, OPTIONS = 2, FRAGMENT = 4 };

struct made {
	uint8_t bytes[200];
	unsigned len;
	bool v6;
};

static void make(struct made *m, const struct vector *v, uint8_t proto, unsigned how)
{
	static const uint8_t tags[] = { 0x88, 0xa8, 0, 5, 0x81, 0, 0, 7 };
	uint8_t *at = m->bytes + 12, *ip;

	memset(m, 0, sizeof(*m));
	m->v6 = strchr(v->dst, ':');
	if (how & TAGS) {
		memcpy(at, tags, sizeof(tags));
		at += sizeof(tags);
	}
	frame_put16(at, m->v6 ? 0x86dd : 0x0800);
	ip = at + 2;
	if (m->v6) {
		ip[0] = 0x60;
		ip[6] = proto;
		cr_assert_eq(inet_pton(AF_INET6, v->src, ip + 8), 1);
		cr_assert_eq(inet_pton(AF_INET6, v->dst, ip + 24), 1);
		at = ip + 40;
		if (how & OPTIONS) { /* hop by hop of 8 bytes, destination options of 24 */
			ip[6] = 0;
			at[0] = 60;
			at[8] = proto;
			at[9] = 2;
			at += 32;
		}
		if (how & FRAGMENT) {
			at[0] = ip[6];
			at[3] = 1; /* more */
			ip[6] = 44;
			at += 8;
		}
	} else {
		ip[0] = how & OPTIONS ? 0x4f : 0x45;
		ip[9] = proto;
		frame_put16(ip + 6, how & FRAGMENT ? 0x2000 : 0x4000);
		cr_assert_eq(inet_pton(AF_INET, v->src, ip + 12), 1);
		cr_assert_eq(inet_pton(AF_INET, v->dst, ip + 16), 1);
		at = ip + (ip[0] & 15) * 4;
	}
	frame_put16(at, v->sport);
	frame_put16(at + 2, v->dport);
	m->len = (unsigned)(at - m->bytes) + 20;
}

/* The hash of a frame of which @head bytes are in the head, and the rest in pieces of @piece. */
static uint32_t hash_of(const struct rss *r, const struct made *m, unsigned head, unsigned piece,
			uint16_t *report)
{
	struct packet p = { .len = m->len, .head_len = (uint16_t)head };
	struct iovec segs[200];
	unsigned n = 0;

	if (head > m->len)
		p.head_len = (uint16_t)m->len;
	memcpy(p.head, m->bytes, p.head_len);
	for (unsigned at = p.head_len; at < m->len; at += piece)
		segs[n++] = (struct iovec) { (void *)(m->bytes + at),
					     m->len - at < piece ? m->len - at : piece };
	p.segs = segs;
	p.n_segs = (uint16_t)n;
	return rss_hash(r, &p, report);
}

static struct rss rss;

static void key_set(uint32_t types)
{
	struct rss_config c = { .hash_types = types, .key_len = sizeof(ms_key) };

	memcpy(c.key, ms_key, sizeof(ms_key));
	rss_set(&rss, &c);
}

static void expect_hash(const struct made *m, uint32_t hash, uint16_t want)
{
	uint16_t report = 99;

	cr_assert_eq(hash_of(&rss, m, 188, 1, &report), hash);
	cr_assert_eq(report, want);
	/* Wherever the bytes lie. */
	for (unsigned head = 14; head < m->len; head++) {
		cr_assert_eq(hash_of(&rss, m, head, 1 + head % 9, &report), hash, "head %u", head);
		cr_assert_eq(report, want);
	}
}

Test(rss, hashes_are_those_of_the_published_vectors)
{
	struct made m;

	for (unsigned i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		const struct vector *v = &vectors[i];

		for (unsigned how = 0; how < 4; how++) {
			make(&m, v, IPPROTO_TCP, how);
			key_set(RSS_HASH_TYPES);
			expect_hash(&m, v->tcp, m.v6 ? 5 : 2);
			key_set(VIRTIO_NET_RSS_HASH_TYPE_IPv4 | VIRTIO_NET_RSS_HASH_TYPE_IPv6);
			expect_hash(&m, v->ip, m.v6 ? 4 : 1);
			/* UDP has the same ports in the same place. */
			make(&m, v, IPPROTO_UDP, how);
			key_set(RSS_HASH_TYPES);
			expect_hash(&m, v->tcp, m.v6 ? 6 : 3);
		}
	}
}

/* 5.1.6.4.3.2: a type that is not enabled is as if the header were not there. */
Test(rss, only_enabled_types_are_hashed_5_1_6_4_3)
{
	struct made m;

	for (unsigned i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		const struct vector *v = &vectors[i];
		unsigned shift;

		make(&m, v, IPPROTO_TCP, PLAIN);
		shift = m.v6 ? 3 : 0;
		key_set(RSS_HASH_TYPES & ~(VIRTIO_NET_RSS_HASH_TYPE_TCPv4 << shift));
		expect_hash(&m, v->ip, m.v6 ? 4 : 1);
		key_set(VIRTIO_NET_RSS_HASH_TYPE_UDPv4 << shift);
		expect_hash(&m, 0, 0);
		/* Those of the other family alone. */
		key_set(RSS_HASH_TYPES & (m.v6 ? 7 : 7 << 3));
		expect_hash(&m, 0, 0);
		key_set(0);
		expect_hash(&m, 0, 0);
		key_set(RSS_HASH_TYPES);
		make(&m, v, IPPROTO_ICMP, PLAIN);
		expect_hash(&m, v->ip, m.v6 ? 4 : 1);
		/* All fragments of a datagram go where the first one goes. */
		make(&m, v, IPPROTO_UDP, FRAGMENT);
		expect_hash(&m, v->ip, m.v6 ? 4 : 1);
	}
}

Test(rss, frames_that_end_within_their_headers_are_hashed_as_far_as_they_go)
{
	uint16_t report;
	struct made m;

	key_set(RSS_HASH_TYPES);
	for (unsigned i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
		for (unsigned how = 0; how < 4; how++) {
			make(&m, &vectors[i], IPPROTO_TCP, how);
			for (m.len -= 20; m.len >= 14; m.len--) {
				uint32_t hash = hash_of(&rss, &m, 188, 1, &report);

				cr_assert(hash == vectors[i].ip ? report == (m.v6 ? 4 : 1)
								: hash == 0 && report == 0);
			}
		}
	/* Headers that lie. */
	make(&m, &vectors[0], IPPROTO_TCP, PLAIN);
	m.bytes[14] = 0x41;
	expect_hash(&m, vectors[0].ip, 1);
	m.bytes[14] = 0x65;
	expect_hash(&m, 0, 0);
	make(&m, &vectors[5], IPPROTO_TCP, OPTIONS);
	m.bytes[14 + 40 + 1] = 0xff;
	expect_hash(&m, vectors[5].ip, 4);
}

/* A guest's own reckoning, a bit at a time. */
static uint32_t ref_toeplitz(const uint8_t *key, unsigned key_len, const uint8_t *in, unsigned len)
{
	uint32_t hash = 0;

	for (unsigned bit = 0; bit < 8 * len; bit++) {
		if (!(in[bit / 8] >> (7 - bit % 8) & 1))
			continue;
		for (unsigned k = 0; k < 32; k++) {
			unsigned at = bit + k;

			if (at < 8 * key_len && key[at / 8] >> (7 - at % 8) & 1)
				hash ^= 1u << (31 - k);
		}
	}
	return hash;
}

/* 5.1.6.5.7.1: hash_key_length may be shorter; what is not there is zero. */
Test(rss, short_keys_go_on_with_zeros)
{
	uint8_t input[12];
	uint16_t report;
	struct made m;

	make(&m, &vectors[0], IPPROTO_TCP, PLAIN);
	memcpy(input, m.bytes + 26, 12);
	for (uint8_t n = 0; n <= 40; n++) {
		struct rss_config c = { .hash_types = RSS_HASH_TYPES, .key_len = n };

		memcpy(c.key, ms_key, sizeof(c.key)); /* what lies behind it does not count */
		rss_set(&rss, &c);
		cr_assert_eq(hash_of(&rss, &m, 188, 1, &report), ref_toeplitz(ms_key, n, input, 12),
			     "%u", n);
	}
}

/* Cards. */

#define F(name) NG_BIT(VIRTIO_NET_F_##name)
#define CTRL F(CTRL_VQ)

static struct net_guest a, b;
static struct ng_frame got;

static uint8_t control(struct net_guest *g, uint8_t cmd, const void *data, unsigned len)
{
	uint64_t gpa = g->tx_gpa[NG_TX_SLOTS - 1] + NG_FRAME_MAX / 2; /* nothing so long is sent */
	uint8_t *p = g->tx[NG_TX_SLOTS - 1] + NG_FRAME_MAX / 2;
	struct driver_seg segs[] = { { gpa, 2 + len }, { gpa + 1000, 1 } };

	p[0] = VIRTIO_NET_CTRL_MQ;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	p[1000] = 0x77;
	cr_assert_eq(ng_submit_wait(g, ng_ctrl_index(g), segs, 1, 1), 1);
	return p[1000];
}

struct command {
	uint32_t types;
	uint16_t mask, unclassified, table[RSS_TABLE_MAX + 8], max_tx;
	uint8_t key_len, key[60];
};

/* As a driver lays it down; @return its length. */
static unsigned lay_down(const struct command *c, uint8_t *out)
{
	unsigned n = 0, entries = c->mask + 1u;

	if (entries > RSS_TABLE_MAX + 8)
		entries = RSS_TABLE_MAX + 8;
#define PUT(field, len)                      \
	do {                                 \
		memcpy(out + n, field, len); \
		n += len;                    \
	} while (0)
	PUT(&c->types, 4);
	PUT(&c->mask, 2);
	PUT(&c->unclassified, 2);
	PUT(c->table, 2 * entries);
	PUT(&c->max_tx, 2);
	PUT(&c->key_len, 1);
	PUT(c->key, c->key_len < 60 ? c->key_len : 60);
#undef PUT
	return n;
}

static struct command good_command(unsigned pairs)
{
	struct command c = { .types = RSS_HASH_TYPES,
			     .mask = 127,
			     .unclassified = 1,
			     .max_tx = (uint16_t)pairs,
			     .key_len = 40 };

	memcpy(c.key, ms_key, 40);
	for (unsigned i = 0; i < RSS_TABLE_MAX; i++)
		c.table[i] = (uint16_t)(i * 7 / 3 % pairs);
	return c;
}

static uint8_t configure(struct net_guest *g, const struct command *c)
{
	uint8_t bytes[512];

	return control(g, VIRTIO_NET_CTRL_MQ_RSS_CONFIG, bytes, lay_down(c, bytes));
}

static uint32_t rnd = 1234;

/* An IPv4/UDP frame of a flow, with a number in it. @return its hash. */
static uint32_t flow_frame(uint8_t bytes[100], const struct net_guest *from,
			   const struct net_guest *to, unsigned flow, uint32_t number)
{
	struct vector v = { "10.0.0.2", "10.0.0.1", 80, (uint16_t)(1000 + flow), 0, 0 };
	struct made m;

	make(&m, &v, IPPROTO_UDP, PLAIN);
	memcpy(bytes, m.bytes, 100);
	memcpy(bytes, to->mac, 6);
	memcpy(bytes + 6, from->mac, 6);
	frame_put32(bytes + 60, flow);
	frame_put32(bytes + 64, number);
	return ref_toeplitz(ms_key, 40, bytes + 26, 12);
}

static void start(struct ng_options *ob, unsigned workers)
{
	struct ng_options oa = { .packed = !ob->packed };

	ng_world_start(workers);
	ng_start(&a, 0, &oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

/* Sends a flow's frame, which has to come on @pair alone. */
static void expect_on(unsigned flow, unsigned pair, uint32_t hash, uint16_t report)
{
	uint8_t bytes[100];

	flow_frame(bytes, &a, &b, flow, flow);
	ng_send(&a, 0, NULL, bytes, 100, NULL);
	ng_receive(&b, pair, &got);
	cr_assert_eq(got.len, 100);
	cr_assert_arr_eq(got.bytes, bytes, 100);
	cr_assert_eq(got.hash_value, hash);
	cr_assert_eq(got.hash_report, report);
	cr_assert_eq(got.hdr.num_buffers, got.n_buffers);
}

static void steered(struct ng_options *o)
{
	bool reports = o->features & F(HASH_REPORT);
	struct command c = good_command(4);
	uint8_t bytes[100];

	start(o, 1);
	/* 5.1.6.5.6.2: before the first command, the first queue; and no hash. */
	expect_on(1, 0, 0, 0);
	cr_assert_eq(configure(&b, &c), VIRTIO_NET_OK);
	for (unsigned flow = 0; flow < 60; flow++) {
		uint32_t hash = flow_frame(bytes, &a, &b, flow, 0);

		expect_on(flow, c.table[hash & 127], reports ? hash : 0,
			  reports ? VIRTIO_NET_HASH_REPORT_UDPv4 : 0);
	}
	/* A smaller table, another unclassified queue, no UDP. */
	c.mask = 3;
	c.types = VIRTIO_NET_RSS_HASH_TYPE_TCPv4;
	c.unclassified = 3;
	cr_assert_eq(configure(&b, &c), VIRTIO_NET_OK);
	expect_on(5, 3, 0, 0);
	/* A queue that does not run: no other one will do, 5.1.6.5.7.2. */
	cr_assert_eq(frontend_queue_enable(&b.fe, 6, false), 0);
	ng_send(&a, 0, NULL, bytes, 100, NULL);
	ng_sent(&a, 0);
	cr_assert_eq(ng_stats(&b).tx_down, 1);
	stop();
}

Test(net_rss, frames_go_where_the_table_says_5_1_6_5_7, .timeout = 60)
{
	struct ng_options o = { .features = F(RSS) | CTRL, .pairs = 4 };

	FOR_EACH_LAYOUT(o)
	{
		o.features = F(RSS) | CTRL;
		steered(&o);
		o.features = F(RSS) | CTRL | F(MQ) | F(HASH_REPORT) | NG_MRG;
		o.rx_buffer = 120; /* header, and less than half of a frame in the next one */
		steered(&o);
		o.rx_buffer = 0;
		o.rx_pieces = 20; /* the header's fields lie apart */
		o.ring_size = 1024;
		o.rx_count = 20;
		steered(&o);
		o.rx_pieces = o.ring_size = o.rx_count = 0;
	}
}

/* 5.1.6.5.6.4: the hash is reported, and says nothing of the queue. */
Test(net_rss, hash_config_reports_without_steering, .timeout = 60)
{
	struct ng_options o = { .features = F(HASH_REPORT) | CTRL };
	uint8_t bytes[100], data[64] = { 0 };
	const uint32_t types = VIRTIO_NET_RSS_HASH_TYPE_UDPv4;

	memcpy(data, &types, 4);
	data[12] = 40;
	memcpy(data + 13, ms_key, 40);
	FOR_EACH_LAYOUT(o)
	{
		start(&o, 1);
		expect_on(1, 0, 0, VIRTIO_NET_HASH_REPORT_NONE);
		cr_assert_eq(control(&b, VIRTIO_NET_CTRL_MQ_HASH_CONFIG, data, 53), VIRTIO_NET_OK);
		expect_on(7, 0, flow_frame(bytes, &a, &b, 7, 0), VIRTIO_NET_HASH_REPORT_UDPv4);
		/* Cut off anywhere; a type that is not supported; a key that is too long. */
		for (unsigned n = 0; n < 53; n++)
			cr_assert_eq(control(&b, VIRTIO_NET_CTRL_MQ_HASH_CONFIG, data, n),
				     VIRTIO_NET_ERR);
		data[1] = 1;
		cr_assert_eq(control(&b, VIRTIO_NET_CTRL_MQ_HASH_CONFIG, data, 53), VIRTIO_NET_ERR);
		data[1] = 0;
		data[12] = 41;
		cr_assert_eq(control(&b, VIRTIO_NET_CTRL_MQ_HASH_CONFIG, data, 64), VIRTIO_NET_ERR);
		data[12] = 40;
		/* Nothing of that was taken. RSS was not negotiated. */
		expect_on(8, 0, flow_frame(bytes, &a, &b, 8, 0), VIRTIO_NET_HASH_REPORT_UDPv4);
		cr_assert_eq(configure(&b, &(struct command) { .types = 1, .max_tx = 1 }),
			     VIRTIO_NET_ERR);
		/* The hash of a driver is forgotten with it. */
		ng_disconnect(&b);
		ng_connect(&b);
		expect_on(9, 0, 0, VIRTIO_NET_HASH_REPORT_NONE);
		stop();
	}
}

/* A large frame that is cut has the hash in each of its pieces. */
Test(net_rss, segments_have_the_hash_of_their_frame, .timeout = 60)
{
	struct ng_options oa = { .features = NG_SENDER };
	struct ng_options ob = { .features = F(RSS) | F(HASH_REPORT) | CTRL, .pairs = 2 };
	struct tcp_spec spec = { .payload = 4000 };
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				    .gso_size = 1000,
				    .csum_start = 34,
				    .csum_offset = 16 };
	struct command c = good_command(2);
	static struct tcp_frame f;

	FOR_EACH_LAYOUT(ob)
	{
		uint32_t hash;

		ng_world_start(1);
		ng_start(&a, 0, &oa);
		ng_start(&b, 1, &ob);
		cr_assert_eq(configure(&b, &c), VIRTIO_NET_OK);
		tcp_frame_make(&f, &spec, 3);
		memcpy(f.bytes, b.mac, 6);
		hash = ref_toeplitz(ms_key, 40, f.bytes + 26, 12);
		ng_send(&a, 0, &h, f.bytes, f.len, NULL);
		for (unsigned i = 0; i < 4; i++) {
			ng_receive(&b, c.table[hash & 127], &got);
			cr_assert_eq(got.hash_value, hash);
			cr_assert_eq(got.hash_report, VIRTIO_NET_HASH_REPORT_TCPv4);
		}
		stop();
	}
}

/* 5.1.6.5.7: lengths, sizes and numbers are the driver's, and none is believed. */
static void hostile(struct net_guest *g)
{
	struct command good = good_command(4), c = good;
	uint8_t bytes[512];
	unsigned len = lay_down(&good, bytes);

	cr_assert_eq(configure(g, &good), VIRTIO_NET_OK);
	for (unsigned n = 0; n < len; n++)
		cr_assert_eq(control(g, VIRTIO_NET_CTRL_MQ_RSS_CONFIG, bytes, n), VIRTIO_NET_ERR,
			     "%u of %u bytes", n, len);
#define REFUSED(field, value)                                               \
	do {                                                                \
		c = good;                                                   \
		c.field = (value);                                          \
		cr_assert_eq(configure(g, &c), VIRTIO_NET_ERR, #field " "); \
	} while (0)
	REFUSED(mask, 128);
	REFUSED(mask, 255);
	REFUSED(mask, 0xffff);
	REFUSED(mask, 2); /* three entries */
	REFUSED(mask, 126);
	REFUSED(unclassified, 4);
	REFUSED(unclassified, 0xffff);
	REFUSED(unclassified, 0x8001);
	REFUSED(table[0], 4);
	REFUSED(table[127], 0xffff);
	REFUSED(table[63], 0x8000);
	REFUSED(max_tx, 0);
	REFUSED(max_tx, 5);
	REFUSED(key_len, 41);
	REFUSED(key_len, 255);
	REFUSED(types, 1 << 6);
	REFUSED(types, 0xffffffff);
#undef REFUSED
	c = good;
	c.key_len = 0;
	cr_assert_eq(configure(g, &c), VIRTIO_NET_OK);
	c = good;
	c.mask = 0;
	c.table[0] = 3;
	cr_assert_eq(configure(g, &c), VIRTIO_NET_OK);
	expect_on(2, 3, 0, 0);
	/* What is refused changes nothing. */
	c.table[0] = 4;
	cr_assert_eq(configure(g, &c), VIRTIO_NET_ERR);
	expect_on(3, 3, 0, 0);
	/* HASH_CONFIG and VQ_PAIRS_SET are of features that were not negotiated. */
	cr_assert_eq(control(g, VIRTIO_NET_CTRL_MQ_HASH_CONFIG, bytes, 53), VIRTIO_NET_ERR);
	cr_assert_eq(control(g, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, "\2\0", 2), VIRTIO_NET_ERR);
	cr_assert_eq(control(g, 3, bytes, len), VIRTIO_NET_ERR);
}

Test(net_rss, T17_rss_commands, .timeout = 60)
{
	struct ng_options o = { .features = F(RSS) | CTRL, .pairs = 4 };

	FOR_EACH_LAYOUT(o)
	{
		for (unsigned i = 0; i < 2; i++) {
			o.indirect = i ? DRIVER_INDIRECT_ALL : DRIVER_DIRECT;
			start(&o, 1);
			hostile(&b);
			stop();
		}
	}
}

/* 5.1.6.5.5: the last command says which way of steering it is. */
Test(net_rss, pairs_set_ends_rss_and_rss_ends_pairs_set, .timeout = 60)
{
	struct ng_options o = { .features = F(RSS) | F(MQ) | CTRL, .pairs = 4 };
	struct command c = good_command(4);

	c.mask = 0;
	c.table[0] = 2;
	FOR_EACH_LAYOUT(o)
	{
		start(&o, 1);
		for (unsigned i = 0; i < 3; i++) {
			cr_assert_eq(configure(&b, &c), VIRTIO_NET_OK);
			expect_on(i, 2, 0, 0);
			cr_assert_eq(control(&b, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, "\1\0", 2),
				     VIRTIO_NET_OK);
			expect_on(i, 0, 0, 0);
		}
		stop();
	}
}

/*
 * A table that changes all the time: a queue has each flow in its order, and with what the driver
 * has seen answered no frame comes by an old table.
 */
Test(net_rss, a_flow_stays_in_order_while_the_table_changes, .timeout = 120)
{
	struct ng_options o = { .features = F(RSS) | CTRL, .pairs = 4, .ring_size = 1024 };
	struct command c = good_command(4);
	uint8_t bytes[100];

	FOR_EACH_LAYOUT(o)
	{
		uint32_t sent[8] = { 0 }, seen[8] = { 0 };
		unsigned where[8] = { 0 };

		start(&o, 2);
		for (unsigned round = 0; round < 150; round++) {
			unsigned flow;

			for (unsigned i = 0; i < RSS_TABLE_MAX; i++)
				c.table[i] = (uint16_t)(frame_random(&rnd) % 4);
			cr_assert_eq(configure(&b, &c), VIRTIO_NET_OK);
			for (flow = 0; flow < 8; flow++) {
				uint32_t hash = flow_frame(bytes, &a, &b, flow, ++sent[flow]);

				where[flow] = c.table[hash & 127];
				ng_send(&a, 0, NULL, bytes, 100, NULL);
			}
			ng_sent(&a, 0);
			for (unsigned pair = 0; pair < 4; pair++)
				while (ng_try_receive(&b, pair, &got)) {
					flow = frame_get32(got.bytes + 60);
					cr_assert_lt(flow, 8);
					cr_assert_eq(where[flow], pair);
					cr_assert_eq(frame_get32(got.bytes + 64), ++seen[flow]);
				}
			for (flow = 0; flow < 8; flow++)
				cr_assert_eq(seen[flow], sent[flow]);
		}
		stop();
	}
}

/* 5.1.4: what a driver must be able to rely on. */
Test(net_rss, configuration_space_says_what_there_is_5_1_4, .timeout = 60)
{
	struct ng_options o = { .features = F(RSS) | CTRL, .pairs = 2 };
	struct virtio_net_config c;

	start(&o, 1);
	cr_assert_eq(frontend_get_config(&b.fe, 0, &c, sizeof(c)), 0, "%s", b.fe.error);
	cr_assert_eq(c.rss_max_key_size, 40);
	cr_assert_eq(c.rss_max_indirection_table_length, 128);
	cr_assert_eq(c.supported_hash_types, 0x3f);
	cr_assert_eq(c.max_virtqueue_pairs, 2);
	stop();
}
