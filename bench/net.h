/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-bench net: what its parts share. */
#ifndef SLUICE_BENCH_NET_H
#define SLUICE_BENCH_NET_H

#include "bench/net_stream.h"

struct net_options {
	struct rig_options rig;
	struct net_load load;
	struct card_options card;
	bool both, latency, send_only, search;
	unsigned rate, trial_ms, attempts;
	double loss, resolution; /* percent */
};

struct net_bench {
	struct net_options opt;
	struct card cards[2][CARD_PAIRS_MAX];
	unsigned n_cards;
	struct stream streams[2];
	unsigned n_streams;
	struct run run;
	double steal; /* seconds of the last run; -1: unknown */
};

/* One run, with what it cost. */
void net_run(struct net_bench *b, uint64_t us);

/*
 * Of all streams. With --latency between two cards: requests that were sent, and answers that came;
 * lost is what did not come back.
 */
struct net_totals {
	uint64_t meant, sent, received, reordered, duplicated, corrupt, foreign;
	uint64_t lost;	      /* should have come and did not: on the way, or never sent */
	uint64_t unsent;      /* of the lost ones: found the ring full */
	uint64_t driver_late; /* of the meant ones, beside the lost */
	uint64_t in_time;     /* frames that came, or with --send-only were taken, in the time */
	double rate;	      /* of those, a second */
	double gbit_s;
};

void net_totals(const struct net_bench *b, struct net_totals *t);
/* More than --loss of those that were meant to be sent? */
HOT bool net_is_too_many(const struct net_bench *b, uint64_t frames, const struct net_totals *t)
{
	return (double)frames * 100 > b->opt.loss * (double)t->meant;
}

/*
 * RFC 2544, 26.1: the highest rate at which no more than the given share of the frames is lost.
 * Tells its progress on standard error, and leaves the trial that passed at that rate in @b.
 */
struct search {
	double rate;	   /* frames a second; 0: none was found */
	double upper;	   /* the highest that was tried */
	const char *limit; /* what stood in the way of a higher one */
	unsigned trials;
};

void net_search(struct net_bench *b, struct search *s);

void net_report(const struct net_bench *b, const struct search *s);

#endif
