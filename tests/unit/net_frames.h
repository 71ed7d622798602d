/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames for tests, and a slow reference for what they must look like: byte by byte, in wire order,
 * sharing no code with net/.
 */
#ifndef SLUICE_TESTS_NET_FRAMES_H
#define SLUICE_TESTS_NET_FRAMES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_BUF 66000

struct tcp_spec {
	bool v6;
	unsigned vlan_tags;   /* 0 to 2 */
	unsigned ip_options;  /* bytes, a multiple of 4 (v4) or 8 (v6: one destination options
				 header) */
	unsigned tcp_options; /* bytes, a multiple of 4 */
	uint8_t flags;
	uint32_t seq;
	uint16_t ip_id;
	unsigned payload;
};

struct tcp_frame {
	uint8_t bytes[FRAME_BUF];
	unsigned l3, l4, payload_at, len;
};

static inline void frame_put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline unsigned frame_get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static inline void frame_put32(uint8_t *p, uint32_t v)
{
	frame_put16(p, v >> 16);
	frame_put16(p + 2, v & 0xffff);
}

static inline uint32_t frame_get32(const uint8_t *p)
{
	return (uint32_t)frame_get16(p) << 16 | frame_get16(p + 2);
}

/* One's complement sum of 16-bit words in wire order, an odd last byte padded with zero. */
static inline unsigned ref_sum(unsigned sum, const uint8_t *p, unsigned len)
{
	for (unsigned i = 0; i < len; i++) {
		sum += i % 2 ? p[i] : (unsigned)p[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

/* The sum of the pseudo header of the TCP or UDP packet whose IP header is at @ip. */
static inline unsigned ref_pseudo(const uint8_t *ip, unsigned proto, unsigned l4_len)
{
	unsigned sum = (ip[0] >> 4) == 4 ? ref_sum(0, ip + 12, 8) : ref_sum(0, ip + 8, 32);

	sum += proto + l4_len;
	return (sum & 0xffff) + (sum >> 16);
}

static inline uint32_t frame_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* A TCP frame whose checksum field holds the pseudo header's sum: as a guest sends it for TSO. */
static inline void tcp_frame_make(struct tcp_frame *f, const struct tcp_spec *s, uint32_t seed)
{
	uint32_t rnd = seed | 1;
	unsigned at = 12, l4_len;
	uint8_t *b = f->bytes;

	for (unsigned i = 0; i < 12; i++)
		b[i] = (uint8_t)(frame_random(&rnd) & 0xfe);
	for (unsigned i = 0; i < s->vlan_tags; i++, at += 4) {
		frame_put16(b + at, i + 1 < s->vlan_tags ? 0x88a8 : 0x8100);
		frame_put16(b + at + 2, 100 + i);
	}
	frame_put16(b + at, s->v6 ? 0x86dd : 0x0800);
	f->l3 = at + 2;
	f->l4 = f->l3 + (s->v6 ? 40 : 20) + s->ip_options;
	f->payload_at = f->l4 + 20 + s->tcp_options;
	f->len = f->payload_at + s->payload;
	for (unsigned i = f->l3; i < f->len; i++)
		b[i] = (uint8_t)frame_random(&rnd);
	l4_len = f->len - f->l4;
	if (s->v6) {
		b[f->l3] = 0x60;
		frame_put16(b + f->l3 + 4, (f->len - f->l3 - 40) & 0xffff);
		b[f->l3 + 6] = s->ip_options ? 60 : 6;
		if (s->ip_options) {
			b[f->l3 + 40] = 6;
			b[f->l3 + 41] = (uint8_t)(s->ip_options / 8 - 1);
		}
	} else {
		b[f->l3] = (uint8_t)(0x40 | (5 + s->ip_options / 4));
		frame_put16(b + f->l3 + 2, (f->len - f->l3) & 0xffff);
		frame_put16(b + f->l3 + 4, s->ip_id);
		frame_put16(b + f->l3 + 6, 0x4000);
		b[f->l3 + 9] = 6;
		frame_put16(b + f->l3 + 10, 0);
		frame_put16(b + f->l3 + 10, ~ref_sum(0, b + f->l3, f->l4 - f->l3) & 0xffff);
	}
	frame_put32(b + f->l4 + 4, s->seq);
	b[f->l4 + 12] = (uint8_t)((5 + s->tcp_options / 4) << 4);
	b[f->l4 + 13] = s->flags;
	frame_put16(b + f->l4 + 16, ref_pseudo(b + f->l3, 6, l4_len));
}

/* The same of UDP, as a guest sends it for USO; @payload is at least 12 bytes. */
static inline void udp_frame_make(struct tcp_frame *f, bool v6, uint16_t ip_id, unsigned payload,
				  uint32_t seed)
{
	struct tcp_spec spec = { .v6 = v6, .ip_id = ip_id, .payload = payload - 12 };
	uint8_t *ip;

	tcp_frame_make(f, &spec, seed);
	ip = f->bytes + f->l3;
	f->payload_at = f->l4 + 8;
	if (v6) {
		ip[6] = 17;
	} else {
		ip[9] = 17;
		frame_put16(ip + 10, 0);
		frame_put16(ip + 10, ~ref_sum(0, ip, 20) & 0xffff);
	}
	frame_put16(f->bytes + f->l4 + 4, f->len - f->l4);
	frame_put16(f->bytes + f->l4 + 6, ref_pseudo(ip, 17, f->len - f->l4));
}

/* Is the TCP (or, of @proto, other) checksum of this whole frame right, and v4's header's too? */
static inline bool frame_csum_ok(const uint8_t *b, unsigned len, unsigned l3, unsigned l4,
				 unsigned proto)
{
	if (b[l3] >> 4 == 4 && ref_sum(0, b + l3, (b[l3] & 15u) * 4) != 0xffff)
		return false;
	return ref_sum(ref_pseudo(b + l3, proto, len - l4), b + l4, len - l4) == 0xffff;
}

#endif
