/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Automatic receive steering (virtio 1.3 5.1.6.5.6): by which of a guest's queue pairs it sends
 * each flow, so that what comes back goes there.
 *
 * A table of fixed size for each card, which its own guest alone fills. A flow's place follows from
 * its hash; it belongs to one flow until that has been silent for a while, both ways, so that two
 * that meet there do not take it from each other by turns, and what only comes in keeps its queue.
 * Words are atomic and read without a lock. A worker writes one only where it says something else,
 * or has not been written for long: in a flow that goes on as it did nothing is written that others
 * read.
 */
#ifndef SLUICE_NET_FLOWS_H
#define SLUICE_NET_FLOWS_H

#include "net/packet.h"

#define FLOWS_MAX 1024

/* What flows_sent() and flows_pair() count age in: a quarter of a second, or a half, each. */
#define FLOWS_STALE 4

struct flows {
	uint64_t seed; /* of the hash: one that guests do not know */
	unsigned age_shift;
	uint64_t entry[FLOWS_MAX];
};

/* No pair, or no flow. */
#define FLOW_PAIR_NONE UINT16_MAX

/* Control thread. @return NULL: no memory. */
struct flows *flows_new(void);
/* Control thread, at any time: nothing has been sent yet. */
void flows_forget(struct flows *f);

/*
 * The same for both directions of a TCP or UDP connection, or for what goes between two IP
 * addresses otherwise, and for all fragments of a datagram. @return false: it is not IP.
 */
bool flows_hash(const struct flows *f, const struct packet *p, uint64_t *hash);

/* Worker thread: the guest has sent that flow by @pair. @now: clock_cycles(). */
void flows_sent(struct flows *f, uint64_t hash, unsigned pair, uint64_t now);
/* Worker thread: by which pair it last did; FLOW_PAIR_NONE: it is not known. */
uint16_t flows_pair(struct flows *f, uint64_t hash, uint64_t now);

#endif
