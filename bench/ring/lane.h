/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One direction of a virtqueue pair under measurement: the driver's side, which fills the ring
 * before a timed phase and empties it after. The same code drives our ring and DPDK's, and none of
 * it is ever within the clock.
 */
#ifndef SLUICE_BENCH_RING_LANE_H
#define SLUICE_BENCH_RING_LANE_H

#include "tests/guest/driver_ring.h"
#include "tests/guest/memory.h"

struct rte_mbuf;
struct rte_mempool;

#define RING_SIZE 256
#define HDR_BYTES 12 /* virtio 1.3 5.1.6.1: with VERSION_1 */
#define FRAME_BYTES 64
#define BATCH_MAX 32
#define SEGS_MAX 3
/* As far apart as a driver's buffers for frames of 1514 bytes; not a power of two, so that their
 * first lines do not share a few sets of the cache. */
#define BUF_STRIDE 1600

/* What else a ring may have to keep: of ours alone, and only of ring_pop() and its like. */
enum row_extra {
	EXTRA_NONE,
	EXTRA_HELD,	/* IN_ORDER as a disk has it: what is pushed early is held for its turn */
	EXTRA_INFLIGHT, /* the in-flight buffer of disks */
	EXTRA_KEPT,	/* the in-flight buffer of cards, which needs the place alone */
	EXTRA_LOG,	/* the dirty log of a migration */
};

/* What a row of the table varies. */
struct row {
	enum driver_layout layout;
	unsigned batch; /* chains a call */
	unsigned segs;	/* descriptors a chain: 1, or 3 (header, half a frame, half a frame) */
	bool indirect;	/* through an indirect table, always */
	bool event_idx;
	bool in_order;
	enum row_extra extra;
};

static inline bool row_is_ours_alone(const struct row *row)
{
	return row->extra != EXTRA_NONE;
}

struct lane {
	struct row row;
	bool in; /* the device writes: a receive queue */
	struct guest_memory *memory;
	struct driver_ring *ring;
	uint64_t bufs_gpa;
	unsigned n_chains; /* as many as the ring takes */
	bool cold; /* what the device reads is flushed out of the caches before each phase */
};

/* @ring is made and started already. @return 0 or -ENOMEM. */
int lane_open(struct lane *l, const struct row *row, bool in, struct guest_memory *m,
	      struct driver_ring *ring);
/* Fills the ring. No calls are wanted. */
void lane_fill(struct lane *l);
/* Takes all of it back. Ends the program, with a sentence, if the device broke a rule. */
void lane_empty(struct lane *l);

/* The options of a ring that suits @row. */
struct driver_config lane_ring_config(const struct row *row);

#endif
