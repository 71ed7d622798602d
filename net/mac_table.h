/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The addresses that a switch has learned, and the port of each. Workers look up and learn without
 * locks and without allocating: entries come from a pool made once. Only the control thread takes
 * entries out, and it waits for a QSBR grace period before it gives them back to the pool, so that
 * what a worker found stays an entry for the rest of its round.
 *
 * Who may have how many. While f entries are free, a port may learn another one as long as it has
 * fewer than max(MAC_PORT_MIN, f). So one port that floods random addresses gets half of the table
 * and no more, two get a third each, and so on: some always remains for the others, and a quiet
 * table lets a single uplink have half of it. An address that moves stays in the share of the port
 * that learned it. Nothing is ever evicted but by age or detach.
 */
#ifndef SLUICE_NET_MAC_TABLE_H
#define SLUICE_NET_MAC_TABLE_H

#include "base/compiler.h"

#include <stdbool.h>
#include <string.h>

#define MAC_PORT_MIN 16u
#define MAC_TABLE_MAX (1u << 20)
#define MAC_PORT_NONE UINT32_MAX

struct mac_table;

/* A unicast address and its VLAN; the form in which the table compares them. */
typedef uint64_t mac_key_t;

HOT mac_key_t mac_key(const uint8_t mac[6], uint16_t vlan)
{
	mac_key_t key = 0;

	static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the VLAN goes above the address");
	memcpy(&key, mac, 6);
	return key | (mac_key_t)vlan << 48;
}

enum mac_learned {
	MAC_KNOWN, /* there already, by that port; its age is new */
	MAC_NEW,
	MAC_MOVED, /* it was another port's */
	MAC_FULL,  /* not there, and no room for that port */
};

/* Control thread. @max entries, 1 to MAC_TABLE_MAX, for ports 0 to @n_ports - 1. 0 or -errno. */
int mac_table_create(unsigned max, unsigned n_ports, struct mac_table **out);
/* Control thread. @port may learn @max addresses at most, whatever is free; 0: no such limit. */
void mac_table_set_max(struct mac_table *t, uint32_t port, uint32_t max);
/* No worker uses it any more. NULL is fine. */
void mac_table_destroy(struct mac_table *t);

/* Worker thread, registered with QSBR and online. @return the port, or MAC_PORT_NONE. */
uint32_t mac_table_lookup(struct mac_table *t, mac_key_t key);

/* Worker thread. @key was seen to come in by @port at @now_s, seconds of clock_ns(). */
enum mac_learned mac_table_learn(struct mac_table *t, mac_key_t key, uint32_t port, uint32_t now_s);

/*
 * Worker thread. @key is @port's from now on, until that is purged: it does not age or move, and
 * does not count as learned, nor in its share. @return false when no entry at all is free.
 */
bool mac_table_fix(struct mac_table *t, mac_key_t key, uint32_t port);
/* Control thread, not beside mac_table_fix(). @port's are as if it had just learned them. */
void mac_table_unfix(struct mac_table *t, uint32_t port);

/*
 * Control thread. Takes out what was last seen before @before_s, what belongs to @port, or what it
 * learned alone, and waits for a grace period if there was any. @return how many.
 */
unsigned mac_table_age(struct mac_table *t, uint32_t before_s);
unsigned mac_table_purge(struct mac_table *t, uint32_t port);
unsigned mac_table_forget(struct mac_table *t, uint32_t port);

/* Any thread: how many are in the table now, and how many of them @port learned. */
unsigned mac_table_count(const struct mac_table *t);
unsigned mac_table_count_port(const struct mac_table *t, uint32_t port);

/* Control thread. */
void mac_table_for_each(const struct mac_table *t,
			void (*fn)(const uint8_t mac[6], uint16_t vlan, uint32_t port,
				   uint32_t seen_s, void *arg),
			void *arg);

#endif
