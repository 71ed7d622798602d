/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads that drive a back-end, and the main thread, which watches them: it says when the
 * warm-up ends, when the measurement begins and ends, looks whether the back-end is still there,
 * tells progress, and reads what it cost. A signal (interrupt.h) ends the measurement early.
 *
 *	struct crew c = { .opt = …, .rigs = …, .n_rigs = …, .run = drive, .arg = …, .unit = … };
 *	crew_run(&c);		returns when all members have
 *	c.seconds, c.cpu_s, c.steal_s
 *
 *	static void drive(struct crew_member *m)
 *	{
 *		while (crew_look(m, clock_cycles()) != CREW_STOP) {
 *			if (m->began)			the measurement has just begun:
 *				forget what was counted
 *			…
 *			crew_tell(m, done);
 *		}
 *		take back what is in flight
 *	}
 *
 * A member that finds something wrong ends the program, as everything in rig.h does. It has to see
 * for itself that it does not wait for ever; that the back-end hung up is seen by the main thread.
 */
#ifndef SLUICE_BENCH_CREW_H
#define SLUICE_BENCH_CREW_H

#include "bench/rig.h"

enum crew_phase { CREW_WARMUP, CREW_MEASURE, CREW_STOP };

struct crew;

struct crew_member {
	struct crew *crew;
	void *arg; /* the crew's */
	unsigned index;
	enum crew_phase phase; /* as last seen */
	bool began;	       /* this look was the first of the measurement */
	uint64_t from, until;  /* of the measurement, in cycles; until: 0 before its end */
	uint64_t done;	       /* told by crew_tell(), read by the main thread */
	bool finished;
	char apart[CACHE_LINE]; /* no two members on one cache line */
};

struct crew {
	const struct rig_options *opt;
	struct rig *const *rigs;
	unsigned n_rigs;
	void (*run)(struct crew_member *m);
	void *arg;
	const char *unit; /* "requests" */
	bool to_the_end;  /* no time limit: until the members return */
	double steal_s;	  /* these three: of the measurement alone */
	double cpu_s;	  /* of the back-end; -1: unknown */
	double seconds;	  /* the members' mean */
	bool never_began; /* a signal came while it was warming up */
	enum crew_phase phase;
	struct crew_member member[RIG_THREADS_MAX];
};

/* opt->threads threads, pinned to opt->cpus where there are any. Once per crew; zeroed else. */
void crew_run(struct crew *c);

/* Where the run is. Once a round of the member's loop. */
HOT enum crew_phase crew_look(struct crew_member *m, uint64_t cycles)
{
	enum crew_phase now = __atomic_load_n(&m->crew->phase, __ATOMIC_RELAXED);

	m->began = now != m->phase && m->phase == CREW_WARMUP;
	if (unlikely(now != m->phase)) {
		if (m->began)
			m->from = cycles;
		if (now == CREW_STOP && !m->until)
			m->until = cycles;
		m->phase = now;
	}
	return now;
}

/* The member's own end, before that of the crew: a trace is over. */
HOT void crew_leave(struct crew_member *m, uint64_t cycles)
{
	if (!m->until)
		m->until = cycles;
}

/* How much the member has done since its start, for the progress. */
HOT void crew_tell(struct crew_member *m, uint64_t done)
{
	__atomic_store_n(&m->done, done, __ATOMIC_RELAXED);
}

#endif
