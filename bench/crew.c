/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/crew.h"

#include "base/clock.h"
#include "bench/interrupt.h"

#include <err.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_EVERY_NS 20000000
#define TELL_EVERY_NS UINT64_C(1000000000)

/* What the main thread knows of the run. */
struct watch {
	struct crew *crew;
	bool told;		    /* progress is told */
	uint64_t start, next_phase; /* ns; next_phase: 0: none */
	uint64_t next_told, done;
	double cpu, steal, steal_told;
};

static void *member_main(void *arg)
{
	struct crew_member *m = arg;
	struct crew *c = m->crew;

	if (c->opt->n_cpus)
		rig_pin(c->opt->cpus[m->index]);
	c->run(m);
	__atomic_store_n(&m->finished, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool all_finished(const struct crew *c)
{
	for (unsigned i = 0; i < c->opt->threads; i++)
		if (!__atomic_load_n(&c->member[i].finished, __ATOMIC_ACQUIRE))
			return false;
	return true;
}

static void begin_measuring(struct watch *w, uint64_t now)
{
	struct crew *c = w->crew;

	w->cpu = rig_cpu_seconds_of(c->rigs, c->n_rigs);
	w->steal = rig_steal_seconds();
	w->next_phase = c->to_the_end ? 0 : now + (uint64_t)c->opt->time_s * 1000000000;
	__atomic_store_n(&c->phase, CREW_MEASURE, __ATOMIC_RELAXED);
}

static void end_measuring(struct watch *w)
{
	struct crew *c = w->crew;

	__atomic_store_n(&c->phase, CREW_STOP, __ATOMIC_RELAXED);
	w->next_phase = 0;
	c->cpu_s = rig_spent(w->cpu, rig_cpu_seconds_of(c->rigs, c->n_rigs));
	c->steal_s = rig_spent(w->steal, rig_steal_seconds());
}

static void tell(struct watch *w, uint64_t now)
{
	static const char *const words[] = { "warming up", "measuring", "ending" };
	const struct crew *c = w->crew;
	double steal = rig_steal_seconds(), seconds = (double)(now - w->next_told) / 1e9 + 1;
	uint64_t done = 0;

	for (unsigned i = 0; i < c->opt->threads; i++)
		done += __atomic_load_n(&c->member[i].done, __ATOMIC_RELAXED);
	/* Members start counting anew where the measurement begins. */
	fprintf(stderr, "%s%4.0f s  %s: %.0f %s/s, steal %.2f s%s", isatty(2) ? "\r" : "",
		(double)(now - w->start) / 1e9, words[c->phase],
		done < w->done ? 0 : (double)(done - w->done) / seconds, c->unit,
		MAX(rig_spent(w->steal_told, steal), 0.0), isatty(2) ? "   " : "\n");
	w->done = done;
	w->steal_told = steal;
	w->next_told = now + TELL_EVERY_NS;
}

static void look(struct watch *w, uint64_t now)
{
	struct crew *c = w->crew;

	for (unsigned i = 0; i < c->n_rigs; i++)
		rig_check_alive(c->rigs[i], 0, c->opt->timeout_ms);
	if (interrupted() && c->phase != CREW_STOP) {
		c->never_began = c->phase == CREW_WARMUP;
		end_measuring(w);
	} else if (w->next_phase && now >= w->next_phase) {
		if (c->phase == CREW_WARMUP)
			begin_measuring(w, now);
		else
			end_measuring(w);
	}
	if (w->told && now >= w->next_told)
		tell(w, now);
}

static void watch(struct watch *w)
{
	struct crew *c = w->crew;

	while (!all_finished(c)) {
		uint64_t now = clock_ns(), wait = LOOK_EVERY_NS;

		look(w, now);
		if (w->next_phase)
			wait = MIN(wait, w->next_phase > now ? w->next_phase - now : 0);
		nanosleep(&(struct timespec) { .tv_nsec = (long)wait }, NULL);
	}
	if (c->phase != CREW_STOP)
		end_measuring(w);
	if (w->told && isatty(2))
		fprintf(stderr, "\r%60s\r", "");
}

void crew_run(struct crew *c)
{
	struct watch w = { .crew = c, .told = c->opt->progress || isatty(2), .start = clock_ns() };
	uint64_t cycles = 0, now = clock_cycles();
	pthread_t thread[RIG_THREADS_MAX] = { 0 };

	w.next_told = w.start + TELL_EVERY_NS;
	w.steal_told = rig_steal_seconds();
	if (c->opt->warmup_s)
		w.next_phase = w.start + (uint64_t)c->opt->warmup_s * 1000000000;
	else
		begin_measuring(&w, w.start);
	interrupt_defer();
	/* The back-end's CPU is left alone. */
	if (c->opt->n_cpus)
		rig_pin(c->opt->cpus[0]);
	for (unsigned i = 0; i < c->opt->threads; i++) {
		struct crew_member *m = &c->member[i];
		int rc;

		*m = (struct crew_member) { .crew = c, .arg = c->arg, .index = i, .from = now };
		rc = pthread_create(&thread[i], NULL, member_main, m);
		if (rc)
			errx(1, "driver thread %u: %s", i, strerror(rc));
	}
	watch(&w);
	now = clock_cycles();
	for (unsigned i = 0; i < c->opt->threads; i++) {
		pthread_join(thread[i], NULL);
		cycles += (c->member[i].until ? c->member[i].until : now) - c->member[i].from;
	}
	/* Never 0, however early a signal came. */
	c->seconds = (double)MAX(cycles, UINT64_C(1)) / c->opt->threads /
		     (double)clock_cycles_per_us() / 1e6;
}
