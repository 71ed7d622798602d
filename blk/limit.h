/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much a disk may do: operations and bytes a second, of reads, of writes, and of both together,
 * shared by all queues of the disk on whichever workers they are.
 *
 * Each rate is a clock of its own (virtual scheduling, as in ATM's GCRA): @due is when all that was
 * taken so far is paid for, and whatever is taken moves it on by its cost. A request may start when
 * every clock that counts it shows a time that has come, however dear it is itself: what is large
 * goes into debt, and those behind it wait. A clock that has fallen back by more than @depth is
 * moved up: what is not used in time is lost. A rate that may be exceeded for a while (`_max`) is
 * two clocks: a deep one at the rate, and a shallow one at the maximum.
 *
 * A poll works on a copy (struct limit_view) and adds what it took to the clocks once, at its end.
 * Workers that poll at the same moment may both start what only one should have: their sum is in
 * the clocks then, and those who come next wait the longer for it.
 */
#ifndef SLUICE_BLK_LIMIT_H
#define SLUICE_BLK_LIMIT_H

#include "base/compiler.h"
#include "blk/blk.h"

#define LIMIT_CLOCKS_MAX 12

/* Time, so fine that the cost of one small request is not rounded by more than a thousandth. */
typedef int64_t limit_time_t;
#define LIMIT_TICKS_PER_NS 16

struct limit_clock {
	limit_time_t due; /* atomic */
	limit_time_t depth;
	double cost; /* ticks of an operation, or of a byte */
	bool of_bytes;
	bool of_reads, of_writes;
};

struct limit {
	unsigned n;
	struct limit_clock clock[LIMIT_CLOCKS_MAX];
} CACHE_ALIGNED;

/* One poll's view of the clocks. */
struct limit_view {
	limit_time_t now;
	limit_time_t due[LIMIT_CLOCKS_MAX], taken[LIMIT_CLOCKS_MAX];
	bool any_taken;
};

/* Any thread. Clocks for @rates, as of @now_ns, with all that may be saved up. */
void limit_init(struct limit *l, const struct blk_limits *rates, uint64_t now_ns);

/* Worker thread; for a poll, in this order: begin, any number of takes, end. */
void limit_begin(const struct limit *l, struct limit_view *v, uint64_t now_ns);
/*
 * Takes what a request of @bytes costs, whether or not it is there.
 * @return how long it has to wait before it may start, in ns; 0: not at all.
 */
uint64_t limit_take(const struct limit *l, struct limit_view *v, bool is_write, uint64_t bytes);
void limit_end(struct limit *l, struct limit_view *v);

#endif
