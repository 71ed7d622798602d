/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the method (fair.c), the two kinds of guests (fair_blk.c, fair_net.c) and the attacks on the
 * control thread that are the same for both (fair_session.c) share.
 */
#ifndef SLUICE_BENCH_FAIR_H
#define SLUICE_BENCH_FAIR_H

#include "bench/rig.h"

#define FAIR_HOSTILE_MAX 2u

/* A guest of either kind; it stands first in that kind's own struct. */
struct fair_guest {
	struct rig *rig;
	uint64_t done; /* what counts as work */
};

/* A crowd of hostile ones: the first attacks, a second one (cards) is its accomplice. */
struct fair_hostile {
	unsigned n;
	struct fair_guest *guest[FAIR_HOSTILE_MAX];
	struct fair_session *session; /* of fair_session.c */
	uint64_t steps;
};

struct fair_attack {
	const char *name, *what;
	void (*start)(struct fair_hostile *h);
	void (*step)(struct fair_hostile *h);
	void (*stop)(struct fair_hostile *h); /* may be NULL */
	uint32_t queue_size;		      /* of the hostile ones' rings; 0: as the others' */
	/* Cards: what the attacker and its accomplice want of the device's features. */
	uint64_t features[FAIR_HOSTILE_MAX];
	bool to_hostile; /* cards: the others send to the attacker too, in the calm windows as well
			  */
};

struct fair_kind {
	const char *name, *unit;
	unsigned n_hostile, guests_min; /* guests_min: in all */
	/* @index: among all of @n guests, hostile ones first. @attack: NULL for a well-behaved one.
	 */
	struct fair_guest *(*open)(const struct rig_options *o, const char *path, unsigned index,
				   unsigned n, const struct fair_attack *attack);
	void (*close)(struct fair_guest *g);
	/* Before the windows of @attack: the well-behaved may do something else. May be NULL. */
	void (*prepare)(const struct fair_attack *attack);
	void (*work_start)(struct fair_guest *g);
	void (*work_step)(struct fair_guest *g);
	const struct fair_attack *attacks;
	unsigned n_attacks;
};

extern const struct fair_kind fair_blk, fair_net;

/*
 * Storms of messages. None waits for the back-end: what the socket does not take is left out, and
 * answers are thrown away. The attacker's queue 0 or, for cards, 1 is the one that is broken.
 */
void fair_session_start(struct fair_hostile *h);
void fair_session_stop(struct fair_hostile *h);
void fair_messages_step(struct fair_hostile *h);
void fair_regions_step(struct fair_hostile *h);
void fair_tables_step(struct fair_hostile *h);
void fair_loops_start(struct fair_hostile *h);
void fair_loops_step(struct fair_hostile *h);
void fair_reconnect_start(struct fair_hostile *h);
void fair_reconnect_step(struct fair_hostile *h);
#define FAIR_SESSION_ATTACKS                                                            \
	{ .name = "messages",                                                           \
	  .what = "questions without end",                                              \
	  .start = fair_session_start,                                                  \
	  .step = fair_messages_step,                                                   \
	  .stop = fair_session_stop },                                                  \
		{ .name = "regions",                                                    \
		  .what = "memory added and taken away again",                          \
		  .start = fair_session_start,                                          \
		  .step = fair_regions_step,                                            \
		  .stop = fair_session_stop },                                          \
		{ .name = "tables",                                                     \
		  .what = "memory tables, the same again and again",                    \
		  .start = fair_session_start,                                          \
		  .step = fair_tables_step,                                             \
		  .stop = fair_session_stop },                                          \
		{ .name = "loops",                                                      \
		  .what = "endless chains, the broken ring started again",              \
		  .start = fair_loops_start,                                            \
		  .step = fair_loops_step,                                              \
		  .stop = fair_session_stop,                                            \
		  .queue_size = 1024 },                                                 \
	{                                                                               \
		.name = "reconnect", .what = "connects, starts its rings and hangs up", \
		.start = fair_reconnect_start, .step = fair_reconnect_step,             \
		.stop = fair_session_stop                                               \
	}

void fair_nothing(struct fair_hostile *h);

#endif
