/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Automatic receive steering (virtio 1.3 5.1.6.5.6): by which of a guest's queue pairs it sends
 * each flow, so that what comes back goes there.
 *
 * A table of fixed size for each card, which its own guest alone fills. A flow has one place, which
 * follows from its hash. That belongs to one flow until it has been silent for a while, both ways,
 * so that two that meet there do not take it from each other by turns, and what only comes in keeps
 * its queue. Words are atomic and read without a lock. A worker writes one only where it says
 * something else, or has not been written for long: in a flow that goes on as it did nothing is
 * written that others read.
 *
 * An entry says where the guest wants its flow, and where the flow still goes: net/steer.c moves
 * it.
 */
#ifndef SLUICE_NET_FLOWS_H
#define SLUICE_NET_FLOWS_H

#include "net/packet.h"

#define FLOWS_MAX 4096

/* Of what a queue sends a frame is looked at so often, if there is one. */
#define FLOWS_LOOK_US 10

/* Silent for so long is silent, in units of age: a quarter of a second, or a half, each. */
#define FLOWS_STALE 8

/* Where a flow goes that nobody has moved yet: as if it were not here. Above any pair. */
#define FLOW_BY_LANE 127u

struct flows {
	uint64_t seed[2];     /* of the hash: guests do not know them */
	uint64_t look_cycles; /* between two looks at what a queue has sent */
	unsigned age_shift;
	bool used; /* atomic; false: all entries are 0 */
	uint64_t entry[FLOWS_MAX];
};

/*
 * An entry; 0: nobody's. From below: a place in the ring of the queue that the flow goes to (16
 * bits, see net/steer.c), that queue's pair (7), the pair that the guest sends it by (7), is there
 * a place, is there a flow; when it was written (8), and the upper bits of the flow's hash (24). A
 * flow's hash has FLOW_IS set, and its index in the lower bits.
 */
#define FLOW_GOES_SHIFT 16
#define FLOW_WANTED_SHIFT 23
#define FLOW_PAIR_MASK UINT64_C(0x7f)
#define FLOW_PLACED (UINT64_C(1) << 30)
#define FLOW_IS (UINT64_C(1) << 31)
#define FLOW_AGE_SHIFT 32
#define FLOW_TAG (UINT64_C(0xffffff) << 40)

static_assert((FLOWS_MAX & (FLOWS_MAX - 1)) == 0 && FLOWS_MAX <= UINT64_C(1) << 31,
	      "an index is a mask of the hash, and no bit of it stands for another thing");

/* By which pair the flow comes; FLOW_BY_LANE. */
static inline unsigned flow_goes(uint64_t flow)
{
	return (unsigned)(flow >> FLOW_GOES_SHIFT & FLOW_PAIR_MASK);
}

/* By which pair its guest last sent it. */
static inline unsigned flow_wanted(uint64_t flow)
{
	return (unsigned)(flow >> FLOW_WANTED_SHIFT & FLOW_PAIR_MASK);
}

static inline bool flow_settled(uint64_t flow)
{
	return flow_goes(flow) == flow_wanted(flow);
}

/* Written less than @units ago? Another worker's clock may be ahead by one. */
static inline bool flow_written_within(uint64_t flow, uint8_t age, unsigned units)
{
	return (uint8_t)(age - (uint8_t)(flow >> FLOW_AGE_SHIFT) + 1) < units + 1;
}

static inline unsigned flow_index(uint64_t hash)
{
	return hash & (FLOWS_MAX - 1);
}

/* Control thread. @return NULL: no memory. */
struct flows *flows_new(void);
/* Control thread, at any time: nothing has been sent yet. NULL is fine. */
void flows_forget(struct flows *f);

/*
 * The same for both directions of a TCP or UDP connection, or for what goes between two IP
 * addresses otherwise, and for all fragments of a datagram. @return 0: it is not IP.
 */
uint64_t flows_hash(const struct flows *f, const struct packet *p);

/* @now: clock_cycles(). */
static inline uint8_t flows_age(const struct flows *f, uint64_t now)
{
	return (uint8_t)(now >> f->age_shift);
}

/* Worker thread: the guest has sent that flow by @pair. */
void flows_sent(struct flows *f, uint64_t hash, unsigned pair, uint8_t age);

/* Of flows_find(): it has not been written for long. */
uint64_t flows_refresh(struct flows *f, uint64_t hash, uint8_t age) COLD;

/* Worker thread: the flow's entry; 0: it is not known. */
HOT uint64_t flows_find(struct flows *f, uint64_t hash, uint8_t age)
{
	uint64_t flow = __atomic_load_n(&f->entry[flow_index(hash)], __ATOMIC_RELAXED);

	if ((flow ^ hash) & (FLOW_TAG | FLOW_IS))
		return 0;
	if (unlikely(!flow_written_within(flow, age, FLOWS_STALE / 2)) && flow_settled(flow))
		return flows_refresh(f, hash, age);
	return flow;
}

/*
 * Worker thread, which brings the frames: from now on the flow, whose entry is @flow, goes where it
 * is wanted. @return false: the guest has sent it by yet another pair; it goes where it went.
 */
bool flows_settle(struct flows *f, uint64_t hash, uint64_t flow, uint8_t age);
/* … it goes where it went, and came as far as @place there. */
void flows_stayed(struct flows *f, uint64_t hash, uint16_t place, uint8_t age);

#endif
