/* SPDX-License-Identifier: Apache-2.0 */
#include "net/rss.h"

#include "net/vlan.h"

#include <endian.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd

#define IPV4_HDR_MIN 20
#define IPV4_OFF_FRAG 6
#define IPV4_FRAG_MASK 0x3fff /* more fragments, and the fragment's offset */
#define IPV4_OFF_PROTO 9
#define IPV4_OFF_SRC 12

#define IPV6_HDR_LEN 40
#define IPV6_OFF_NEXT 6
#define IPV6_OFF_SRC 8
#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_DEST_OPTIONS 60
/* As many as anybody sends; a frame with more has no ports. */
#define IPV6_EXTENSIONS_MAX 8

#define PROTO_TCP 6
#define PROTO_UDP 17
#define PORTS_LEN 4
#define TAGS_MAX 2

bool rss_config_ok(const struct rss_config *c, unsigned n_pairs)
{
	unsigned entries = c->table_mask + 1u;

	if (c->hash_types & ~(uint32_t)RSS_HASH_TYPES || c->key_len > RSS_KEY_MAX)
		return false;
	if (!c->steers)
		return true;
	if (entries > RSS_TABLE_MAX || (entries & c->table_mask) != 0)
		return false;
	if (c->unclassified >= n_pairs || c->max_tx < 1 || c->max_tx > n_pairs)
		return false;
	for (unsigned i = 0; i < entries; i++)
		if (c->table[i] >= n_pairs)
			return false;
	return true;
}

/* What is left of a command. */
struct words {
	const uint8_t *at;
	size_t left;
	bool short_of;
};

static void take(struct words *w, void *to, size_t len)
{
	if (w->left < len) {
		w->short_of = true;
		memset(to, 0, len);
		return;
	}
	memcpy(to, w->at, len);
	w->at += len;
	w->left -= len;
}

static uint16_t take_le16(struct words *w)
{
	uint16_t v;

	take(w, &v, sizeof(v));
	return le16toh(v);
}

static uint32_t take_le32(struct words *w)
{
	uint32_t v;

	take(w, &v, sizeof(v));
	return le32toh(v);
}

/* A shorter key is one that goes on with zeros. */
static void take_key(struct words *w, struct rss_config *c)
{
	take(w, &c->key_len, 1);
	if (c->key_len <= RSS_KEY_MAX)
		take(w, c->key, c->key_len);
}

bool rss_config_read(struct rss_config *c, const uint8_t *data, size_t len, unsigned n_pairs)
{
	struct words w = { data, len, false };

	*c = (struct rss_config) { .steers = true };
	c->hash_types = take_le32(&w);
	c->table_mask = take_le16(&w);
	c->unclassified = take_le16(&w);
	if (c->table_mask >= RSS_TABLE_MAX)
		return false;
	for (unsigned i = 0; i <= c->table_mask; i++)
		c->table[i] = take_le16(&w);
	c->max_tx = take_le16(&w);
	take_key(&w, c);
	return !w.short_of && rss_config_ok(c, n_pairs);
}

bool hash_config_read(struct rss_config *c, const uint8_t *data, size_t len)
{
	struct words w = { data, len, false };
	uint8_t reserved[8]; /* 5.1.6.5.6.4: zero; but Linux has its queues there */

	*c = (struct rss_config) { 0 };
	c->hash_types = take_le32(&w);
	take(&w, reserved, sizeof(reserved));
	take_key(&w, c);
	return !w.short_of && rss_config_ok(c, 0);
}

/* The 32 bits of the key from @bit on, which are what a bit of the input brings. */
static uint32_t key_window(const uint8_t *key, unsigned bit)
{
	uint64_t w = 0;

	for (unsigned i = 0; i < 5; i++)
		w = w << 8 | (bit / 8 + i < RSS_KEY_MAX ? key[bit / 8 + i] : 0);
	return (uint32_t)(w >> (8 - bit % 8));
}

/* The configuration's words are atomic too, as long as these are all that workers read. */
static void config_set(struct rss_config *to, const struct rss_config *c)
{
	__atomic_store_n(&to->hash_types, c->hash_types, __ATOMIC_RELAXED);
	__atomic_store_n(&to->table_mask, c->table_mask, __ATOMIC_RELAXED);
	__atomic_store_n(&to->unclassified, c->unclassified, __ATOMIC_RELAXED);
	__atomic_store_n(&to->steers, c->steers, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < RSS_TABLE_MAX; i++)
		__atomic_store_n(&to->table[i], c->table[i], __ATOMIC_RELAXED);
	to->max_tx = c->max_tx;
	to->key_len = c->key_len;
	memcpy(to->key, c->key, sizeof(to->key));
}

void rss_set(struct rss *r, const struct rss_config *c)
{
	uint8_t key[RSS_KEY_MAX] = { 0 };

	memcpy(key, c->key, c->key_len);
	config_set(&r->config, c);
	for (unsigned i = 0; i < 2 * RSS_INPUT_MAX; i++) {
		for (unsigned v = 0; v < 16; v++) {
			uint32_t hash = 0;

			for (unsigned b = 0; b < 4; b++)
				if (v & 8u >> b)
					hash ^= key_window(key, 4 * i + b);
			__atomic_store_n(&r->half[i][v], hash, __ATOMIC_RELAXED);
		}
	}
}

static uint32_t toeplitz(const struct rss *r, const uint8_t *input, unsigned len)
{
	uint32_t hash = 0;

	for (unsigned i = 0; i < len; i++) {
		hash ^= __atomic_load_n(&r->half[2 * i][input[i] >> 4], __ATOMIC_RELAXED);
		hash ^= __atomic_load_n(&r->half[2 * i + 1][input[i] & 15], __ATOMIC_RELAXED);
	}
	return hash;
}

/* Some of them, or all, lie behind the head. @return false: the segments are not that long. */
static bool COLD peek_behind(const struct packet *p, uint32_t at, uint8_t *out, uint32_t len)
{
	for (; len > 0 && at < p->head_len; len--)
		*out++ = p->head[at++];
	at -= p->head_len;
	for (unsigned i = 0; len > 0 && i < p->n_segs; i++) {
		const struct iovec *v = &p->segs[i];

		for (; len > 0 && at < v->iov_len; len--)
			*out++ = ((const uint8_t *)v->iov_base)[at++];
		at -= (uint32_t)MIN(v->iov_len, (size_t)at);
	}
	return len == 0;
}

/* Bytes of the frame, wherever they lie. @return false: it is not that long. */
HOT bool peek(const struct packet *p, uint32_t at, void *to, uint32_t len)
{
	if (at + len > p->len)
		return false;
	if (unlikely(at + len > p->head_len))
		return peek_behind(p, at, to, len);
	memcpy(to, p->head + at, len);
	return true;
}

/* 5.1.6.4.3: "has a TCP header": a fragment has none, so that all of a datagram go one way. */
static bool ipv4_flow(const struct packet *p, uint32_t at, struct rss_flow *f)
{
	uint8_t ip[IPV4_HDR_MIN];
	unsigned ihl;

	if (!peek(p, at, ip, sizeof(ip)) || ip[0] >> 4 != 4)
		return false;
	memcpy(f->input, ip + IPV4_OFF_SRC, 8);
	f->addresses = 8;
	ihl = (ip[0] & 15u) * 4;
	if (vlan_be16(ip + IPV4_OFF_FRAG) & IPV4_FRAG_MASK || ihl < IPV4_HDR_MIN)
		return true;
	f->proto = ip[IPV4_OFF_PROTO];
	if ((f->proto != PROTO_TCP && f->proto != PROTO_UDP) ||
	    !peek(p, at + ihl, f->input + f->addresses, PORTS_LEN))
		f->proto = 0;
	return true;
}

static bool ipv6_flow(const struct packet *p, uint32_t at, struct rss_flow *f)
{
	uint8_t ip[IPV6_HDR_LEN], ext[2], next;

	if (!peek(p, at, ip, sizeof(ip)) || ip[0] >> 4 != 6)
		return false;
	memcpy(f->input, ip + IPV6_OFF_SRC, 32);
	f->addresses = 32;
	next = ip[IPV6_OFF_NEXT];
	at += IPV6_HDR_LEN;
	for (unsigned i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (next != IPV6_HOP_BY_HOP && next != IPV6_ROUTING && next != IPV6_DEST_OPTIONS)
			break;
		if (!peek(p, at, ext, sizeof(ext)))
			return true;
		next = ext[0];
		at += (ext[1] + 1u) * 8;
	}
	if ((next == PROTO_TCP || next == PROTO_UDP) &&
	    peek(p, at, f->input + f->addresses, PORTS_LEN))
		f->proto = next;
	return true;
}

bool rss_flow_of(const struct packet *p, struct rss_flow *f, bool *v6)
{
	uint32_t at = VLAN_TYPE_AT;
	uint8_t type[2];

	for (unsigned i = 0; i <= TAGS_MAX; i++, at += VLAN_TAG_LEN) {
		if (!peek(p, at, type, sizeof(type)))
			return false;
		switch (vlan_be16(type)) {
		case VLAN_TPID:
		case VLAN_TPID_SERVICE:
			continue;
		case ETHERTYPE_IPV4:
			*v6 = false;
			return ipv4_flow(p, at + 2, f);
		case ETHERTYPE_IPV6:
			*v6 = true;
			return ipv6_flow(p, at + 2, f);
		default:
			return false;
		}
	}
	return false;
}

/* The types of IPv6 are those of IPv4, three bits on; a report is the number of its type's bit. */
#define V6_REPORT (VIRTIO_NET_HASH_REPORT_IPv6 - VIRTIO_NET_HASH_REPORT_IPv4)

uint32_t rss_hash(const struct rss *r, const struct packet *p, uint16_t *report)
{
	uint32_t types = __atomic_load_n(&r->config.hash_types, __ATOMIC_RELAXED);
	struct rss_flow f = { .proto = 0 };
	bool v6 = false;

	*report = VIRTIO_NET_HASH_REPORT_NONE;
	if (types == 0 || !rss_flow_of(p, &f, &v6))
		return 0;
	types >>= v6 ? V6_REPORT : 0;
	if (f.proto == PROTO_TCP && types & VIRTIO_NET_RSS_HASH_TYPE_TCPv4)
		*report = VIRTIO_NET_HASH_REPORT_TCPv4;
	else if (f.proto == PROTO_UDP && types & VIRTIO_NET_RSS_HASH_TYPE_UDPv4)
		*report = VIRTIO_NET_HASH_REPORT_UDPv4;
	else if (types & VIRTIO_NET_RSS_HASH_TYPE_IPv4)
		*report = VIRTIO_NET_HASH_REPORT_IPv4;
	else
		return 0;
	if (*report != VIRTIO_NET_HASH_REPORT_IPv4)
		f.addresses += PORTS_LEN;
	*report = (uint16_t)(*report + (v6 ? V6_REPORT : 0));
	return toeplitz(r, f.input, f.addresses);
}
