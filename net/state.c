/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest's driver has said over a control queue that is ours, on its way to another back-end
 * (vhost-user "Migrating back-end state"). Elsewhere the front-end knows all of it.
 */
#include "base/error.h"
#include "net/virtio_net.h"
#include "vhost/state_blob.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <string.h>

static const uint16_t state_fields[] = { STATE_NET_MAC,	     STATE_NET_PAIRS,  STATE_NET_RSS,
					 STATE_NET_COALESCE, STATE_NET_FILTER, STATE_NET_OFFLOADS };

/* STATE_NET_RSS: struct rss_config, little-endian. */
struct rss_state {
	uint32_t hash_types;
	uint16_t table_mask, unclassified, max_tx;
	uint8_t steers, key_len;
	uint8_t key[RSS_KEY_MAX];
	uint16_t table[RSS_TABLE_MAX];
} __attribute__((packed));
static_assert(sizeof(struct rss_state) == 12 + 40 + 256, "a state's fields do not change");

static void rss_save(const struct rss_config *c, struct state_blob *state)
{
	struct rss_state s = { .hash_types = htole32(c->hash_types),
			       .table_mask = htole16(c->table_mask),
			       .unclassified = htole16(c->unclassified),
			       .max_tx = htole16(c->max_tx),
			       .steers = c->steers,
			       .key_len = c->key_len };

	/* Who has never heard of it can take the state of a driver that has not either. */
	if (!c->steers && !c->hash_types)
		return;
	memcpy(s.key, c->key, sizeof(s.key));
	for (unsigned i = 0; i < RSS_TABLE_MAX; i++)
		s.table[i] = htole16(c->table[i]);
	state_put(state, STATE_NET_RSS, &s, sizeof(s));
}

/* @return false: it is there, and not right. */
static bool rss_load(struct rss_config *c, const struct state_blob *state, unsigned n_pairs)
{
	struct rss_state s;

	*c = (struct rss_config) { 0 };
	if (!state_has(state, STATE_NET_RSS))
		return true;
	if (!state_get(state, STATE_NET_RSS, &s, sizeof(s)) || s.steers > 1)
		return false;
	c->hash_types = le32toh(s.hash_types);
	c->table_mask = le16toh(s.table_mask);
	c->unclassified = le16toh(s.unclassified);
	c->max_tx = le16toh(s.max_tx);
	c->steers = s.steers;
	c->key_len = s.key_len;
	memcpy(c->key, s.key, sizeof(c->key));
	for (unsigned i = 0; i < RSS_TABLE_MAX; i++)
		c->table[i] = le16toh(s.table[i]);
	return rss_config_ok(c, n_pairs);
}

/* STATE_NET_COALESCE: for receive queues, for transmit queues, for each of them; little-endian. */
struct coalesce_state {
	uint32_t all[2][2];
	uint32_t each[2 * NET_QUEUE_PAIRS_MAX][2];
};
static_assert(sizeof(struct coalesce_state) == 2048, "a state's fields do not change");

static bool put_params(uint32_t to[2], const struct coalesce *c)
{
	struct coalesce_params p = coalesce_get(c);

	to[0] = htole32(p.max_packets);
	to[1] = htole32(p.max_usecs);
	return p.max_packets || p.max_usecs;
}

static void take_params(struct coalesce *to, const uint32_t from[2])
{
	coalesce_set(to, (struct coalesce_params) { le32toh(from[0]), le32toh(from[1]) });
}

static void coalesce_save(const struct net_device *d, struct state_blob *state)
{
	struct coalesce_state s = { 0 };
	bool any = false;

	for (unsigned i = 0; i < 2; i++)
		any |= put_params(s.all[i], &d->coalesce[i]);
	for (unsigned i = 0; i < 2 * d->cfg.queue_pairs; i++)
		any |= put_params(s.each[i], &d->queues[i].coalesce);
	if (any)
		state_put(state, STATE_NET_COALESCE, &s, sizeof(s));
}

/* Any numbers will do. @return false: it is there, and of another length. */
static bool coalesce_load(struct net_device *d, const struct state_blob *state, bool commit)
{
	struct coalesce_state s;

	if (!state_has(state, STATE_NET_COALESCE)) {
		if (commit)
			net_coalesce_forget(d);
		return true;
	}
	if (!state_get(state, STATE_NET_COALESCE, &s, sizeof(s)))
		return false;
	for (unsigned i = 0; commit && i < 2; i++)
		take_params(&d->coalesce[i], s.all[i]);
	for (unsigned i = 0; commit && i < 2 * d->cfg.queue_pairs; i++)
		take_params(&d->queues[i].coalesce, s.each[i]);
	return true;
}

/* STATE_NET_FILTER: struct filter_config, little-endian. */
struct filter_state {
	uint16_t modes;
	uint8_t n_macs[2];
	uint8_t macs[2][FILTER_MACS_MAX][6];
	uint64_t vlans[64];
} __attribute__((packed));
static_assert(sizeof(struct filter_state) == 4 + 768 + 512, "a state's fields do not change");
static_assert(24 + 6 * 4 + 6 + 2 + 8 + sizeof(struct rss_state) + sizeof(struct coalesce_state) +
			      sizeof(struct filter_state) <=
		      STATE_MAX,
	      "all fields are in one state");

static void filter_save(const struct filter_config *c, struct state_blob *state)
{
	struct filter_state s = { .modes = htole16((uint16_t)c->modes),
				  .n_macs = { (uint8_t)c->n_macs[0], (uint8_t)c->n_macs[1] } };
	uint64_t any = c->n_macs[0] | c->n_macs[1] | (c->modes ^ FILTER_PROMISC);

	for (unsigned kind = 0; kind < 2; kind++)
		for (unsigned i = 0; i < c->n_macs[kind]; i++)
			memcpy(s.macs[kind][i], &c->macs[kind][i], 6);
	for (unsigned i = 0; i < ARRAY_SIZE(s.vlans); i++) {
		s.vlans[i] = htole64(c->vlans.bits[i]);
		any |= s.vlans[i];
	}
	if (any)
		state_put(state, STATE_NET_FILTER, &s, sizeof(s));
}

/* @return false: it is there, and not right. */
static bool filter_load(struct filter_config *c, const struct state_blob *state)
{
	struct filter_state s;

	memset(c, 0, sizeof(*c));
	c->modes = FILTER_PROMISC;
	if (!state_has(state, STATE_NET_FILTER))
		return true;
	if (!state_get(state, STATE_NET_FILTER, &s, sizeof(s)))
		return false;
	c->modes = le16toh(s.modes);
	for (unsigned kind = 0; kind < 2; kind++) {
		c->n_macs[kind] = s.n_macs[kind];
		for (unsigned i = 0; i < FILTER_MACS_MAX; i++)
			c->macs[kind][i] = mac_word(s.macs[kind][i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(s.vlans); i++)
		c->vlans.bits[i] = le64toh(s.vlans[i]);
	return filter_config_ok(c);
}

static void offloads_save(const struct net_device *d, struct state_blob *state)
{
	uint64_t off = htole64(__atomic_load_n(&d->offloads_off, __ATOMIC_RELAXED));

	if (off)
		state_put(state, STATE_NET_OFFLOADS, &off, sizeof(off));
}

/* @return false: it is there, and not right. */
static bool offloads_load(uint64_t *off, const struct state_blob *state)
{
	*off = 0;
	if (!state_has(state, STATE_NET_OFFLOADS))
		return true;
	if (!state_get(state, STATE_NET_OFFLOADS, off, sizeof(*off)))
		return false;
	*off = le64toh(*off);
	return !(*off & ~net_offloads_known());
}

void net_save_state(struct vhost_device *vdev, struct state_blob *state)
{
	const struct net_device *d = net_device_of(vdev);
	uint64_t mac = __atomic_load_n(&d->mac, __ATOMIC_RELAXED);
	uint16_t pairs = d->ctrl_ours ? (uint16_t)__atomic_load_n(&d->pairs_used, __ATOMIC_RELAXED)
				      : 0;

	pairs = htole16(pairs);
	state_begin(state, VIRTIO_ID_NET);
	state_put(state, STATE_NET_MAC, &mac, 6);
	state_put(state, STATE_NET_PAIRS, &pairs, sizeof(pairs));
	rss_save(net_steering(d), state);
	filter_save(net_filter_get(d), state);
	coalesce_save(d, state);
	offloads_save(d, state);
}

int net_load_state(struct vhost_device *vdev, const struct state_blob *state, struct error *err)
{
	struct net_device *d = net_device_of(vdev);
	struct rss_config rss;
	struct filter_config filter;
	uint64_t off;
	uint16_t pairs;
	uint8_t mac[6];

	if (state_check(state, VIRTIO_ID_NET, state_fields, ARRAY_SIZE(state_fields), err) < 0)
		return err->code;
	if (!state_get(state, STATE_NET_MAC, mac, sizeof(mac)) ||
	    !state_get(state, STATE_NET_PAIRS, &pairs, sizeof(pairs)))
		return error_set(err, -EBADMSG, "the state lacks its address or its queue pairs");
	pairs = le16toh(pairs);
	if (mac[0] & 1)
		return error_set(err, -EINVAL, "the state has a group address as the card's");
	if (pairs > d->cfg.queue_pairs)
		return error_set(err, -EINVAL,
				 "the source's guest uses %u queue pairs, and port %s has %u: "
				 "give it as many",
				 pairs, d->cfg.name, d->cfg.queue_pairs);
	if (!rss_load(&rss, state, d->cfg.queue_pairs))
		return error_set(err, -EINVAL,
				 "the state's receive-side scaling is none that port %s with its "
				 "%u queue pairs could have",
				 d->cfg.name, d->cfg.queue_pairs);
	if (!coalesce_load(d, state, false))
		return error_set(err, -EBADMSG, "the state's notification coalescing is cut off");
	if (!filter_load(&filter, state))
		return error_set(err, -EINVAL, "the state's receive filter is none that can be");
	if (!offloads_load(&off, state))
		return error_set(err, -EINVAL,
				 "the state has other offloads off than there are to be switched");
	/* Committed. */
	d->state_came = true;
	__atomic_store_n(&d->mac, mac_word(mac), __ATOMIC_RELAXED);
	if (pairs) {
		d->ctrl_ours = true;
		__atomic_store_n(&d->pairs_used, pairs, __ATOMIC_RELAXED);
	}
	net_steer(d, &rss);
	coalesce_load(d, state, true);
	net_filter_set(d, &filter);
	net_offloads_set(d, off);
	return 0;
}
