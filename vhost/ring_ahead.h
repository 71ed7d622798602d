/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking ahead, behind an IOMMU: which addresses of the chains that wait are not mapped? They are
 * asked for together, and before they are needed: a receive queue that found out one by one, with a
 * frame in its hands, would lose a frame for each; a disk would wait for the front-end once for
 * each page of a request.
 *
 * What is read here is a guess at what ring_pop() will read, and check, later. The front-end is
 * asked for these addresses, and nothing else is done with them; so the driver may change its mind.
 */
#ifndef SLUICE_VHOST_RING_AHEAD_H
#define SLUICE_VHOST_RING_AHEAD_H

#include "vhost/ring.h"

#define RING_AHEAD_MAX 64
/* Chains (packed: descriptors) beyond the next one to be popped that are looked at. */
#define RING_AHEAD_CHAINS 256
/* Pieces of memory that one look takes, so that no driver keeps a worker: the longest chain. */
#define RING_AHEAD_PIECES RING_CHAIN_SEGS_MAX
/* An answer may hold for more, but not for less (virtio-iommu's and VT-d's smallest page). */
#define RING_AHEAD_PAGE 4096u

struct ring_want {
	gpa_t addr;
	bool write;
};

struct ring_ahead {
	uint16_t idx; /* where to go on looking; as avail_idx, avail_wrap */
	bool wrap;
	unsigned n;
	struct ring_want want[RING_AHEAD_MAX]; /* not mapped */
};

/* The queue's worker, or under its lock, for all of these. From the next chain to be popped on. */
void ring_ahead_restart(const struct ring *r, struct ring_ahead *a);

/*
 * Adds to @a what is not mapped of the chains that were not looked at yet. Ends early where @a is
 * full. @return the pieces that were looked at; 0: nothing new.
 */
unsigned ring_look_ahead(struct ring *r, struct ring_ahead *a);

/* As ring_kicks_on(), but for chains to look at instead of chains to pop; and the way back. */
bool ring_ahead_kicks_on(struct ring *r, const struct ring_ahead *a);
void ring_ahead_kicks_off(struct ring *r);

#endif
