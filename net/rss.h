/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receive-side scaling (virtio 1.3 5.1.6.5.7) and the hash that it goes by (5.1.6.4.3): Toeplitz,
 * over the addresses and ports of a frame. Knows neither queues nor the control queue.
 */
#ifndef SLUICE_NET_RSS_H
#define SLUICE_NET_RSS_H

#include "net/packet.h"

#include <linux/virtio_net.h>

/*
 * What the configuration space promises. virtio 1.3 5.1.4: at least 40 bytes and 128 entries; Linux
 * takes no device with a longer key.
 */
#define RSS_KEY_MAX 40
#define RSS_TABLE_MAX 128
/* Of IPv6 with extension headers, those are looked past (5.1.6.4.3.4: else …). */
#define RSS_HASH_TYPES                                                    \
	(VIRTIO_NET_RSS_HASH_TYPE_IPv4 | VIRTIO_NET_RSS_HASH_TYPE_TCPv4 | \
	 VIRTIO_NET_RSS_HASH_TYPE_UDPv4 | VIRTIO_NET_RSS_HASH_TYPE_IPv6 | \
	 VIRTIO_NET_RSS_HASH_TYPE_TCPv6 | VIRTIO_NET_RSS_HASH_TYPE_UDPv6)

/* Two IPv6 addresses and two ports. */
#define RSS_INPUT_MAX 36

/* As the driver has set it; host endian. All zero: no hash is computed, and nothing steered. */
struct rss_config {
	uint32_t hash_types; /* VIRTIO_NET_RSS_HASH_TYPE_* */
	uint16_t table_mask;
	uint16_t unclassified; /* the queue pair of frames without a hash */
	uint16_t max_tx;       /* transmit queues that the driver uses */
	bool steers; /* RSS_CONFIG: the table says where frames go; else the hash is reported */
	uint8_t key_len;
	uint8_t key[RSS_KEY_MAX];
	uint16_t table[RSS_TABLE_MAX]; /* queue pairs */
};

/*
 * Is all of it within what was promised, and every queue among @n_pairs? For what a guest or a peer
 * says.
 */
bool rss_config_ok(const struct rss_config *c, unsigned n_pairs);

/*
 * The data of VIRTIO_NET_CTRL_MQ_RSS_CONFIG, and of _HASH_CONFIG, which is private. @return false:
 * it is not right, and *c has no meaning.
 */
bool rss_config_read(struct rss_config *c, const uint8_t *data, size_t len, unsigned n_pairs);
bool hash_config_read(struct rss_config *c, const uint8_t *data, size_t len);

/*
 * The configuration, and what the hash of each half byte at each place of the input is: it is
 * linear, so that a hash is the sum (exclusive or) of those. Its words are atomic: see net/steer.c.
 */
struct rss {
	struct rss_config config;
	uint32_t half[2 * RSS_INPUT_MAX][16];
};

/* Any thread: puts @c, which is right, in place. */
void rss_set(struct rss *r, const struct rss_config *c);

/*
 * Worker thread. @return the hash of @p, and VIRTIO_NET_HASH_REPORT_* into *@report: NONE, with a
 * hash of 0, where none of the types that the driver wants fits. What does not lie in the head is
 * read from the sender's buffers, though nothing but the choice of a queue is decided by that.
 */
uint32_t rss_hash(const struct rss *r, const struct packet *p, uint16_t *report);

/* What a frame has that is hashed: addresses, and the ports behind them where @proto has any. */
struct rss_flow {
	uint8_t input[RSS_INPUT_MAX];
	unsigned addresses; /* bytes of them */
	uint8_t proto;	    /* TCP, UDP, or 0: no ports */
};

/* Worker thread. @f->proto: 0 before. @return false: it is neither IPv4 nor IPv6. */
bool rss_flow_of(const struct packet *p, struct rss_flow *f, bool *v6);

/* The queue pair for a frame that rss_hash() has looked at. */
static inline unsigned rss_pair(const struct rss *r, uint32_t hash, uint16_t report)
{
	uint16_t mask = __atomic_load_n(&r->config.table_mask, __ATOMIC_RELAXED);

	if (report == VIRTIO_NET_HASH_REPORT_NONE)
		return __atomic_load_n(&r->config.unclassified, __ATOMIC_RELAXED);
	return __atomic_load_n(&r->config.table[hash & mask & (RSS_TABLE_MAX - 1)],
			       __ATOMIC_RELAXED);
}

#endif
