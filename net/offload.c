/* SPDX-License-Identifier: Apache-2.0 */
#include "net/offload.h"

#include <endian.h>
#include <string.h>

#define ETHERTYPE_VLAN_C 0x8100
#define ETHERTYPE_VLAN_S 0x88a8
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd

#define IPV4_HDR_MIN 20
#define IPV4_OFF_LEN 2
#define IPV4_OFF_ID 4
#define IPV4_OFF_FRAG 6
#define IPV4_FRAG_MASK 0x3fff /* more fragments, and the fragment's offset */
#define IPV4_OFF_PROTO 9
#define IPV4_OFF_CSUM 10
#define IPV4_OFF_SRC 12

#define IPV6_HDR_LEN 40
#define IPV6_OFF_LEN 4
#define IPV6_OFF_NEXT 6
#define IPV6_OFF_SRC 8
#define IPV6_HOP_BY_HOP 0
#define IPV6_DEST_OPTIONS 60

#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMPV6 58
#define ICMPV6_OFF_CSUM 2
#define UDP_HDR_LEN 8
#define UDP_OFF_LEN 4
#define UDP_OFF_CSUM 6
#define TCP_HDR_MIN 20
#define TCP_OFF_SEQ 4
#define TCP_OFF_DOFF 12
#define TCP_OFF_FLAGS 13
#define TCP_OFF_CSUM 16
#define TCP_FIN 0x01
#define TCP_PSH 0x08
#define TCP_CWR 0x80

static uint16_t be16_at(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void be16_put(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t be32_at(const uint8_t *p)
{
	return (uint32_t)be16_at(p) << 16 | be16_at(p + 2);
}

static void be32_put(uint8_t *p, uint32_t v)
{
	be16_put(p, (uint16_t)(v >> 16));
	be16_put(p + 2, (uint16_t)v);
}

/* Where the headers of a large frame lie; @proto: TCP or UDP, by its GSO type. */
struct l4_headers {
	uint16_t l3, l4, end; /* offsets in the frame */
	uint8_t proto;
	bool v6;
};

/* The ethertype behind any VLAN tags, and where its header starts; 0 if it is not there. */
static uint16_t ether_parse(const uint8_t *head, unsigned len, uint16_t *l3)
{
	for (unsigned at = ETHER_HDR_LEN - 2; at + 2 <= len; at += VLAN_TAG_LEN) {
		uint16_t type = be16_at(head + at);

		if (type != ETHERTYPE_VLAN_C && type != ETHERTYPE_VLAN_S) {
			*l3 = (uint16_t)(at + 2);
			return type;
		}
	}
	return 0;
}

static const char *ipv4_parse(const uint8_t *head, unsigned len, struct l4_headers *t)
{
	unsigned ihl;

	if (t->l3 + IPV4_HDR_MIN > (int)len)
		return "IPv4 header does not fit";
	ihl = (head[t->l3] & 15u) * 4;
	if (head[t->l3] >> 4 != 4 || ihl < IPV4_HDR_MIN || t->l3 + ihl > len)
		return "bad IPv4 header";
	if (be16_at(head + t->l3 + IPV4_OFF_FRAG) & IPV4_FRAG_MASK)
		return "GSO of an IPv4 fragment";
	if (head[t->l3 + IPV4_OFF_PROTO] != t->proto)
		return "GSO type and protocol disagree";
	t->l4 = (uint16_t)(t->l3 + ihl);
	return NULL;
}

/*
 * Only extension headers that leave the pseudo header alone: a routing header replaces the final
 * destination (RFC 8200 8.1), a fragment is no whole segment.
 */
static const char *ipv6_parse(const uint8_t *head, unsigned len, struct l4_headers *t)
{
	unsigned at = t->l3 + IPV6_HDR_LEN;
	uint8_t next;

	if (at > len || head[t->l3] >> 4 != 6)
		return "bad IPv6 header";
	next = head[t->l3 + IPV6_OFF_NEXT];
	while (next == IPV6_HOP_BY_HOP || next == IPV6_DEST_OPTIONS) {
		if (at + 8 > len)
			return "IPv6 extension headers do not fit";
		next = head[at];
		at += (head[at + 1] + 1u) * 8;
	}
	if (next != t->proto)
		return "GSO type and protocol disagree";
	if (at > len)
		return "IPv6 extension headers do not fit";
	t->l4 = (uint16_t)at;
	return NULL;
}

static const char *tcp_parse(const uint8_t *head, unsigned len, struct l4_headers *t)
{
	unsigned doff;

	if (t->l4 + TCP_HDR_MIN > (int)len)
		return "TCP header does not fit";
	doff = (head[t->l4 + TCP_OFF_DOFF] >> 4) * 4u;
	if (doff < TCP_HDR_MIN || t->l4 + doff > len)
		return "bad TCP header length";
	t->end = (uint16_t)(t->l4 + doff);
	return NULL;
}

static const char *udp_parse(unsigned len, struct l4_headers *t)
{
	if (t->l4 + UDP_HDR_LEN > (int)len)
		return "UDP header does not fit";
	t->end = (uint16_t)(t->l4 + UDP_HDR_LEN);
	return NULL;
}

/* @len: bytes of @head that are there. */
static const char *gso_parse(const uint8_t *head, unsigned len, uint8_t gso_type,
			     struct l4_headers *t)
{
	uint16_t type = ether_parse(head, len, &t->l3);
	bool udp = gso_type == VIRTIO_NET_HDR_GSO_UDP_L4;
	const char *why;

	t->proto = udp ? PROTO_UDP : PROTO_TCP;
	t->v6 = type == ETHERTYPE_IPV6;
	if ((udp || gso_type == VIRTIO_NET_HDR_GSO_TCPV4) && type == ETHERTYPE_IPV4)
		why = ipv4_parse(head, len, t);
	else if ((udp || gso_type == VIRTIO_NET_HDR_GSO_TCPV6) && t->v6)
		why = ipv6_parse(head, len, t);
	else
		why = "GSO type and ethertype disagree";
	if (why)
		return why;
	return udp ? udp_parse(len, t) : tcp_parse(head, len, t);
}

static unsigned gso_feature(uint8_t type)
{
	switch (type) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return OFFLOAD_TSO4;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return OFFLOAD_TSO6;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		return OFFLOAD_USO;
	}
	return 0;
}

static const char *set_gso(struct packet *p, const struct virtio_net_hdr *h, unsigned allowed,
			   unsigned copied)
{
	struct packet_offload *o = &p->offload;
	uint8_t type = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	bool ecn = h->gso_type & VIRTIO_NET_HDR_GSO_ECN, udp = type == VIRTIO_NET_HDR_GSO_UDP_L4;
	struct l4_headers t;
	const char *why;

	if (!(allowed & gso_feature(type)))
		return "GSO type is unknown or was not negotiated";
	if (ecn && udp)
		return "ECN of something other than TCP";
	if (ecn && !(allowed & OFFLOAD_ECN))
		return "ECN was not negotiated";
	if (!o->needs_csum)
		return "GSO without an unfinished checksum"; /* virtio 1.3 5.1.6.2.1 */
	if (h->gso_size < (udp ? 1 : GSO_SIZE_MIN))
		return "GSO size is too small";
	why = gso_parse(p->head, copied, type, &t);
	if (why)
		return why;
	if (o->csum_start != t.l4 || o->csum_offset != (udp ? UDP_OFF_CSUM : TCP_OFF_CSUM))
		return "the checksum of a GSO frame is not its protocol's";
	if (t.end >= p->len)
		return "GSO frame without payload";
	if (p->len - t.end > h->gso_size) {
		o->gso_type = type;
		o->gso_size = h->gso_size;
		o->ecn = ecn;
		o->v6 = t.v6;
	}
	o->hdr_len = t.end;
	p->head_len = t.end;
	return NULL;
}

const char *packet_set_offload(struct packet *p, const struct virtio_net_hdr *h, unsigned allowed)
{
	struct packet_offload *o = &p->offload;
	unsigned copied = MIN(p->len, (uint32_t)PACKET_HEAD_MAX);

	memset(o, 0, sizeof(*o));
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		if (!(allowed & OFFLOAD_CSUM))
			return "checksum offload was not negotiated";
		/* Sums of what two 16-bit fields hold, in int: they do not wrap. */
		if (h->csum_start < ETHER_HDR_LEN ||
		    h->csum_start + h->csum_offset + 2 > (int)copied)
			return "checksum field outside the headers";
		o->needs_csum = true;
		o->csum_start = h->csum_start;
		o->csum_offset = h->csum_offset;
	}
	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return NULL;
	return set_gso(p, h, allowed, copied);
}

/*
 * The Internet checksum (RFC 1071) as a plain sum of 32-bit words: it is the same for either byte
 * order, and carries are folded at the end. 64 bits hold the sums of 16 GiB.
 */
static uint64_t sum_bytes(const uint8_t *p, size_t len)
{
	uint64_t a = 0, b = 0;
	uint32_t w[4];

	for (; len >= 16; p += 16, len -= 16) {
		memcpy(w, p, 16);
		a += (uint64_t)w[0] + w[2];
		b += (uint64_t)w[1] + w[3];
	}
	a += b;
	for (; len >= 4; p += 4, len -= 4) {
		memcpy(w, p, 4);
		a += w[0];
	}
	if (len) {
		w[0] = 0;
		memcpy(w, p, len);
		a += w[0];
	}
	return a;
}

static uint16_t fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* Adds @len bytes that lie at an odd or even place of the summed range. */
static uint64_t sum_add(uint64_t sum, const void *p, size_t len, bool odd)
{
	uint64_t s = sum_bytes(p, len);

	if (odd) /* RFC 1071 1.2 (B): the sum of swapped bytes is the swapped sum */
		s = __builtin_bswap16(fold(s));
	return sum + s;
}

/* Stores a folded sum, which is in memory order already. */
static void sum_store(uint8_t *at, uint16_t v)
{
	memcpy(at, &v, sizeof(v));
}

void frame_complete_csum(struct frame *f)
{
	struct packet_offload *o = &f->offload;
	struct frame body = *f;
	uint32_t at = f->head_len - o->csum_start, len;
	const void *piece;
	uint64_t sum;
	uint16_t csum;

	/* The field holds the pseudo header's sum already, and is part of what is summed. */
	sum = sum_bytes(f->head + o->csum_start, at);
	while ((piece = frame_next(&body, UINT32_MAX, &len))) {
		sum = sum_add(sum, piece, len, at & 1);
		at += len;
	}
	csum = (uint16_t)~fold(sum);
	/* RFC 768: in UDP a sent zero means "no checksum"; both zeroes are the same number. */
	sum_store(f->head + o->csum_start + o->csum_offset, csum ? csum : 0xffff);
	o->needs_csum = false;
}

void packet_complete_csum(struct packet *p)
{
	struct frame f;

	if (!p->offload.needs_csum)
		return;
	frame_of_packet(&f, p);
	frame_complete_csum(&f);
	p->offload.needs_csum = false;
}

bool packet_csum_is_l4(const struct packet *p)
{
	const struct packet_offload *o = &p->offload;
	uint16_t l3 = 0, type = ether_parse(p->head, p->head_len, &l3);
	bool v6 = type == ETHERTYPE_IPV6;
	unsigned l4;

	if ((type != ETHERTYPE_IPV4 && !v6) ||
	    l3 + (v6 ? IPV6_HDR_LEN : IPV4_HDR_MIN) > (int)p->head_len)
		return false;
	l4 = l3 + (v6 ? IPV6_HDR_LEN : (p->head[l3] & 15u) * 4);
	if (o->csum_start != l4 || l4 < l3 + (unsigned)IPV4_HDR_MIN)
		return false;
	switch (p->head[l3 + (v6 ? IPV6_OFF_NEXT : IPV4_OFF_PROTO)]) {
	case PROTO_TCP:
		return o->csum_offset == TCP_OFF_CSUM;
	case PROTO_UDP:
		return o->csum_offset == UDP_OFF_CSUM;
	case PROTO_ICMPV6:
		return v6 && o->csum_offset == ICMPV6_OFF_CSUM;
	}
	return false;
}

void segmenter_init(struct segmenter *s, struct packet *p)
{
	struct l4_headers t = { 0 };
	const char *why = gso_parse(p->head, p->head_len, p->offload.gso_type, &t);

	assert(!why && t.end == p->head_len && p->offload.gso_size > 0);
	(void)why;
	s->p = p;
	frame_of_packet(&s->rest, p);
	s->l3 = t.l3;
	s->l4 = t.l4;
	s->ip_id = be16_at(p->head + t.l3 + IPV4_OFF_ID);
	s->udp = t.proto == PROTO_UDP;
	if (!s->udp) {
		s->seq = be32_at(p->head + t.l4 + TCP_OFF_SEQ);
		s->tcp_flags = p->head[t.l4 + TCP_OFF_FLAGS];
	}
	s->first = true;
	s->left = p->offload.cuts_max ? p->offload.cuts_max : UINT16_MAX;
	memcpy(s->head, p->head, p->head_len);
}

/* Length, identification and checksum of the IP header of a segment; @return the pseudo header's
 * sum.
 */
static uint64_t segment_ip(struct segmenter *s, uint32_t frame_bytes)
{
	uint8_t *ip = s->head + s->l3;
	uint16_t l4_len = (uint16_t)(frame_bytes - s->l4);
	uint64_t sum = htobe16(l4_len) + (uint64_t)htobe16(s->udp ? PROTO_UDP : PROTO_TCP);

	if (s->p->offload.v6) {
		be16_put(ip + IPV6_OFF_LEN, (uint16_t)(frame_bytes - s->l3 - IPV6_HDR_LEN));
		return sum + sum_bytes(ip + IPV6_OFF_SRC, 32);
	}
	be16_put(ip + IPV4_OFF_LEN, (uint16_t)(frame_bytes - s->l3));
	be16_put(ip + IPV4_OFF_ID, s->ip_id++);
	be16_put(ip + IPV4_OFF_CSUM, 0);
	sum_store(ip + IPV4_OFF_CSUM, (uint16_t)~fold(sum_bytes(ip, (size_t)(s->l4 - s->l3))));
	return sum + sum_bytes(ip + IPV4_OFF_SRC, 8);
}

static void segment_tcp(struct segmenter *s, bool last, uint64_t pseudo)
{
	uint8_t *tcp = s->head + s->l4;
	uint8_t flags = s->tcp_flags;

	be32_put(tcp + TCP_OFF_SEQ, s->seq);
	/* RFC 3168 6.1.2: the congestion window was reduced once, so it is said once. */
	if (!s->first)
		flags &= (uint8_t)~TCP_CWR;
	if (!last)
		flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	tcp[TCP_OFF_FLAGS] = flags;
	sum_store(tcp + TCP_OFF_CSUM, fold(pseudo));
}

static void segment_udp(struct segmenter *s, uint32_t frame_bytes, uint64_t pseudo)
{
	uint8_t *udp = s->head + s->l4;

	be16_put(udp + UDP_OFF_LEN, (uint16_t)(frame_bytes - s->l4));
	sum_store(udp + UDP_OFF_CSUM, fold(pseudo));
}

bool segmenter_next(struct segmenter *s, struct frame *f)
{
	struct frame *rest = &s->rest;
	uint32_t payload = MIN(rest->body_len, (uint32_t)s->p->offload.gso_size), left = payload, n;
	uint64_t pseudo;

	if (payload == 0 || s->left == 0)
		return false;
	s->left--;
	*f = *rest;
	f->head = s->head;
	f->body_len = payload;
	f->offload = (struct packet_offload) { .needs_csum = true,
					       .csum_start = s->l4,
					       .csum_offset = s->udp ? UDP_OFF_CSUM
								     : TCP_OFF_CSUM };
	pseudo = segment_ip(s, frame_len(f));
	if (s->udp)
		segment_udp(s, frame_len(f), pseudo);
	else
		segment_tcp(s, payload == rest->body_len, pseudo);
	s->seq += payload;
	s->first = false;
	while (left > 0 && frame_next(rest, left, &n))
		left -= n;
	return true;
}
