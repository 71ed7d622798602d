/* SPDX-License-Identifier: Apache-2.0 */
#include "net/filter.h"

#include "net/virtio_net.h"

#include <endian.h>
#include <string.h>

#define MODES_RX (FILTER_PROMISC | FILTER_ALLMULTI)
#define MODES_EXTRA (FILTER_ALLUNI | FILTER_NOMULTI | FILTER_NOUNI | FILTER_NOBCAST)
#define MODES_ALL (MODES_RX | MODES_EXTRA | FILTER_MANY_UNI | FILTER_MANY_MULTI)

/* Frames that were looked at while the filter changed twice are let in: 5.1.6.5.1, best effort. */
#define LOOKS_MAX 2

bool filter_config_ok(const struct filter_config *c)
{
	return !(c->modes & ~MODES_ALL) && c->n_macs[FILTER_UNI] <= FILTER_MACS_MAX &&
	       c->n_macs[FILTER_MULTI] <= FILTER_MACS_MAX;
}

static void config_put(struct filter_config *to, const struct filter_config *c)
{
	for (unsigned kind = 0; kind < 2; kind++) {
		for (unsigned i = 0; i < FILTER_MACS_MAX; i++)
			__atomic_store_n(&to->macs[kind][i], c->macs[kind][i], __ATOMIC_RELAXED);
		__atomic_store_n(&to->n_macs[kind], c->n_macs[kind], __ATOMIC_RELAXED);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(to->vlans.bits); i++)
		__atomic_store_n(&to->vlans.bits[i], c->vlans.bits[i], __ATOMIC_RELAXED);
	__atomic_store_n(&to->modes, c->modes, __ATOMIC_RELAXED);
}

void net_filter_set(struct net_device *d, const struct filter_config *c)
{
	struct filter *f = &d->filter;
	unsigned gen = f->gen + 1;

	/* A worker that still reads this place, of two changes ago, sees that by the number. */
	config_put(&f->config[gen % 2], c);
	/* Pairs with the acquire in net_filter(). */
	__atomic_store_n(&f->gen, gen, __ATOMIC_RELEASE);
	net_look(d, NET_FILTERS, !(c->modes & FILTER_PROMISC));
}

void net_filter_forget(struct net_device *d)
{
	const struct filter_config all = { .modes = FILTER_PROMISC };

	net_filter_set(d, &all);
}

const struct filter_config *net_filter_get(const struct net_device *d)
{
	return &d->filter.config[d->filter.gen % 2];
}

bool net_filter_modes_command(struct net_device *d, uint8_t cmd, const uint8_t *data, size_t len)
{
	struct filter_config c = *net_filter_get(d);
	uint32_t allowed = 0;

	if (vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_RX))
		allowed |= MODES_RX;
	if (vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_RX_EXTRA))
		allowed |= MODES_EXTRA;
	if (cmd >= 32 || !(allowed >> cmd & 1) || len < 1 || data[0] > 1)
		return false;
	c.modes &= ~(1u << cmd);
	c.modes |= (uint32_t)data[0] << cmd;
	net_filter_set(d, &c);
	return true;
}

/*
 * One of the table's two lists: a number, and so many addresses, of which only the first bytes may
 * be here. @return the bytes that it takes; 0: the command is not as long as it says.
 */
static uint64_t list_read(struct filter_config *c, enum filter_kind kind, const uint8_t *data,
			  size_t len, uint64_t total)
{
	uint32_t many = kind == FILTER_UNI ? FILTER_MANY_UNI : FILTER_MANY_MULTI;
	uint64_t bytes;
	uint32_t n;

	if (len < sizeof(n))
		return 0;
	memcpy(&n, data, sizeof(n));
	n = le32toh(n);
	bytes = sizeof(n) + 6 * (uint64_t)n;
	if (bytes > total)
		return 0;
	if (n > FILTER_MACS_MAX || bytes > len) {
		c->modes |= many;
		return bytes;
	}
	c->n_macs[kind] = n;
	for (uint32_t i = 0; i < n; i++)
		c->macs[kind][i] = mac_word(data + sizeof(n) + 6 * (size_t)i);
	return bytes;
}

bool net_filter_table_command(struct net_device *d, const uint8_t *data, size_t len, size_t total)
{
	struct filter_config c = *net_filter_get(d);
	uint64_t at;

	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_RX))
		return false;
	c.modes &= ~(FILTER_MANY_UNI | FILTER_MANY_MULTI);
	c.n_macs[FILTER_UNI] = c.n_macs[FILTER_MULTI] = 0;
	at = list_read(&c, FILTER_UNI, data, len, total);
	if (at == 0 || total - at < sizeof(uint32_t))
		return false;
	/* The second list begins beyond what was read of a command of hundreds of addresses. */
	if (at + sizeof(uint32_t) > len)
		c.modes |= FILTER_MANY_MULTI;
	else if (list_read(&c, FILTER_MULTI, data + at, len - at, total - at) == 0)
		return false;
	net_filter_set(d, &c);
	return true;
}

bool net_filter_vlan_command(struct net_device *d, uint8_t cmd, const uint8_t *data, size_t len)
{
	struct filter_config c = *net_filter_get(d);
	uint16_t vlan;

	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_VLAN) || len < sizeof(vlan))
		return false;
	memcpy(&vlan, data, sizeof(vlan));
	vlan = le16toh(vlan);
	if (vlan > VLAN_ID_MASK)
		return false;
	if (cmd == VIRTIO_NET_CTRL_VLAN_ADD)
		vlan_set_add(&c.vlans, vlan);
	else if (cmd == VIRTIO_NET_CTRL_VLAN_DEL)
		c.vlans.bits[vlan / 64] &= ~(UINT64_C(1) << vlan % 64);
	else
		return false;
	/* Without receive modes the driver cannot end promiscuity, and means VLANs alone. */
	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_RX))
		c.modes = FILTER_ALLUNI | FILTER_ALLMULTI;
	net_filter_set(d, &c);
	return true;
}

static bool in_table(const struct filter_config *c, enum filter_kind kind, uint64_t mac)
{
	uint32_t n = __atomic_load_n(&c->n_macs[kind], __ATOMIC_RELAXED);

	for (uint32_t i = 0; i < MIN(n, (uint32_t)FILTER_MACS_MAX); i++)
		if (__atomic_load_n(&c->macs[kind][i], __ATOMIC_RELAXED) == mac)
			return true;
	return false;
}

static bool wants_mac(const struct filter_config *c, uint32_t modes, const uint8_t *dst,
		      uint64_t own)
{
	uint64_t mac = mac_word(dst);

	if (mac == UINT64_C(0xffffffffffff))
		return !(modes & FILTER_NOBCAST);
	if (dst[0] & 1) {
		if (modes & FILTER_NOMULTI)
			return false;
		return modes & (FILTER_ALLMULTI | FILTER_MANY_MULTI) ||
		       in_table(c, FILTER_MULTI, mac);
	}
	if (modes & FILTER_NOUNI)
		return false;
	/* Without an address in the configuration space we do not know which one the driver has. */
	if (modes & (FILTER_ALLUNI | FILTER_MANY_UNI) || own == 0 || mac == own)
		return true;
	return in_table(c, FILTER_UNI, mac);
}

/* A tag without a VLAN, which only carries a priority, is let in. */
static bool wants_vlan(const struct filter_config *c, const struct packet *p)
{
	unsigned vlan;

	if (p->head_len < VLAN_TYPE_AT + VLAN_TAG_LEN ||
	    vlan_be16(p->head + VLAN_TYPE_AT) != VLAN_TPID)
		return true;
	vlan = vlan_be16(p->head + VLAN_TYPE_AT + 2) & VLAN_ID_MASK;
	return vlan == 0 ||
	       __atomic_load_n(&c->vlans.bits[vlan / 64], __ATOMIC_RELAXED) >> vlan % 64 & 1;
}

/* Which of @n packets are not wanted, and for which reason. */
struct unwanted {
	uint32_t by_mac, by_vlan;
};

static void look(const struct net_device *d, const struct filter_config *c,
		 struct packet *const *packets, unsigned n, struct unwanted *u)
{
	bool vlans = vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_VLAN);
	uint32_t modes = __atomic_load_n(&c->modes, __ATOMIC_RELAXED);
	uint64_t own = __atomic_load_n(&d->mac, __ATOMIC_RELAXED);

	u->by_mac = u->by_vlan = 0;
	if (modes & FILTER_PROMISC)
		return;
	for (unsigned i = 0; i < n; i++) {
		if (vlans && !wants_vlan(c, packets[i]))
			u->by_vlan |= 1u << i;
		else if (!wants_mac(c, modes, packets[i]->head, own))
			u->by_mac |= 1u << i;
	}
}

unsigned net_filter(struct net_device *d, struct packet *const *packets, unsigned n,
		    struct packet **kept, struct port_stats *stats)
{
	/* Pairs with the release in net_filter_set(): the number, then what it is the number of. */
	unsigned gen = __atomic_load_n(&d->filter.gen, __ATOMIC_ACQUIRE), looks = 1, left = 0;
	struct unwanted u;

	assert(n <= PORT_BURST);
	for (;; looks++) {
		unsigned before = gen;

		look(d, &d->filter.config[gen % 2], packets, n, &u);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		gen = __atomic_load_n(&d->filter.gen, __ATOMIC_ACQUIRE);
		if (likely(gen == before))
			break;
		if (looks == LOOKS_MAX) {
			u.by_mac = u.by_vlan = 0;
			break;
		}
	}
	for (unsigned i = 0; i < n; i++)
		if (!((u.by_mac | u.by_vlan) >> i & 1))
			kept[left++] = packets[i];
	if (u.by_mac)
		counter_add(&stats->tx_not_for_it, (unsigned)__builtin_popcount(u.by_mac));
	if (u.by_vlan)
		counter_add(&stats->tx_not_its_vlan, (unsigned)__builtin_popcount(u.by_vlan));
	return left;
}
