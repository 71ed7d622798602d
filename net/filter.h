/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest's driver wants to receive at all (virtio 1.3 5.1.6.5.1 to .3): receive modes, a
 * table of addresses, and VLANs. Asked where frames are about to be put into its queues
 * (net/steer.c), and only once a driver has said that it wants less than everything.
 */
#ifndef SLUICE_NET_FILTER_H
#define SLUICE_NET_FILTER_H

#include "net/port.h"

struct net_device;

/* Of each kind; 5.1.6.5.2: with more, all of that kind are let in. */
#define FILTER_MACS_MAX 64

/* Modes: bit n is command n of VIRTIO_NET_CTRL_RX. */
#define FILTER_PROMISC 1u
#define FILTER_ALLMULTI 2u
#define FILTER_ALLUNI 4u
#define FILTER_NOMULTI 8u
#define FILTER_NOUNI 16u
#define FILTER_NOBCAST 32u
/* The table had no room for all addresses to single stations, or to groups. */
#define FILTER_MANY_UNI 64u
#define FILTER_MANY_MULTI 128u

enum filter_kind { FILTER_UNI, FILTER_MULTI };

struct filter_config {
	uint32_t modes;
	uint32_t n_macs[2];		   /* by enum filter_kind */
	uint64_t macs[2][FILTER_MACS_MAX]; /* mac_word() */
	struct vlan_set vlans;
};

/* Is all of it within its bounds? For what a peer says. */
bool filter_config_ok(const struct filter_config *c);

/*
 * In two places, by turns: the control queue's worker writes the one that is not in force. Its
 * words are atomic, so that who still reads there sees numbers that were checked, if of two
 * filters.
 */
struct filter {
	unsigned gen; /* config[gen % 2] is in force. Atomic */
	struct filter_config config[2];
};

/* Control queue's worker; control thread while no queue runs: @c, which is right, is in force. */
void net_filter_set(struct net_device *d, const struct filter_config *c);
/* Control thread, no queue runs: everything is let in, as a driver finds it that begins anew. */
void net_filter_forget(struct net_device *d);
/* The same threads as net_filter_set(). */
const struct filter_config *net_filter_get(const struct net_device *d);

/*
 * Control queue's worker. What VIRTIO_NET_CTRL_RX_*, _MAC_TABLE_SET and _VLAN_* say. @data: the
 * first @len bytes, private; @total: bytes that the command has. @return false: it is not right.
 */
bool net_filter_modes_command(struct net_device *d, uint8_t cmd, const uint8_t *data, size_t len);
bool net_filter_table_command(struct net_device *d, const uint8_t *data, size_t len, size_t total);
bool net_filter_vlan_command(struct net_device *d, uint8_t cmd, const uint8_t *data, size_t len);

/* Worker thread. Those of @packets that @d's guest wants, into @kept; counts the others. */
unsigned net_filter(struct net_device *d, struct packet *const *packets, unsigned n,
		    struct packet **kept, struct port_stats *stats);

#endif
