/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames from one card to another, of any number of flows, each accounted for; and a run of one
 * such stream, or of one each way.
 *
 *	stream_init(&s, &load, from, to, direction);
 *	stream_hello(&s);			(switches learn where the flows go to)
 *	run(&r, seconds);			(as often as one likes)
 *	stream_fini(&s);
 */
#ifndef SLUICE_BENCH_NET_STREAM_H
#define SLUICE_BENCH_NET_STREAM_H

#include "bench/net_card.h"

/* What is sent, and how. */
struct net_load {
	uint32_t size; /* of a frame, without its checksum; with imix: of the longest */
	unsigned flows, mss;
	bool imix, tcp, verify;
	bool open;	  /* as fast as the ring takes */
	unsigned window;  /* else: frames under way at most; 0: as many as there are buffers for */
	double rate;	  /* else: frames a second; 0: not */
	unsigned backlog; /* at a rate: frames that wait for room in the ring */
};

/* One run's account. */
struct net_counts {
	uint64_t offered;     /* at a rate: frames that were due */
	uint64_t unsent;      /* of those: found the ring full and the backlog too */
	uint64_t driver_late; /* likewise, but this driver was not fast enough */
	uint64_t sent, received, bytes;
	uint64_t reordered, duplicated, corrupt;
	uint64_t foreign; /* frames that are not ours */
	struct histogram latency;
};

struct stream {
	const struct net_load *load;
	struct card *from,
		*to; /* may be the same; to may be NULL: who sends only. Their first pairs */
	struct stream *answer; /* sends a frame back for each that comes */
	struct flow *flows;
	struct flow_order *order;
	unsigned direction, turn, mix;
	unsigned window;
	uint64_t consumed; /* frames that the device took */
	uint64_t given_up; /* frames under way that nobody waits for any more */
	uint64_t excused;  /* of the backlog: fell due while this thread did not run */
	struct net_counts n;
	uint64_t since;		/* the run's beginning, in cycles */
	uint64_t seen, seen_at; /* what was consumed at the last check that saw some, and when */
	uint64_t ever_corrupt;	/* in all runs, a warm-up and a search's trials too */
	char wrong[160];	/* the first of those */
};

void stream_init(struct stream *s, const struct net_load *load, struct card *from, struct card *to,
		 unsigned direction);
void stream_fini(struct stream *s);
void stream_hello(struct stream *s, unsigned timeout_ms);

struct run {
	struct stream *stream[2]; /* the second may be NULL */
	unsigned timeout_ms;
	bool sleep, progress;
	/* Results. */
	double seconds;		 /* without the wait for the last frames */
	double cpu;		 /* of the back-end within them; -1: unknown */
	uint64_t received_in[2]; /* frames that came within them, and their bytes */
	uint64_t bytes_in[2];
	uint64_t told, told_frames; /* seconds, and what had come by then */
};

/* Runs for @us, then waits for what is under way. Ends the program when the back-end fails. */
void run(struct run *r, uint64_t us);

#endif
