/* SPDX-License-Identifier: Apache-2.0 */
/* The set of workers: their threads, where they run, and how they end. */
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "poll/ring_limits.h"
#include "poll/worker_impl.h"

#include <errno.h>
#include <numa.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <urcu/urcu-qsbr.h>

#define RING_ENTRIES_DEFAULT 1024
#define CPUS_MAX 8192

/* A set of CPU numbers, for machines with more CPUs than a cpu_set_t holds. */
struct cpus {
	cpu_set_t set[CPUS_MAX / CPU_SETSIZE];
};

/* Ring flags, best first. The kernel answers EINVAL to those that it does not know. */
static const struct ring_kind {
	unsigned flags;
	const char *name;
} ring_kinds[] = {
	{ IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	  "single issuer, deferred task work" },
	{ IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, "cooperative task work" },
	{ 0, "no flags: the kernel is older than 5.19" },
};

struct workers {
	struct watch watch;
	unsigned n;
	struct member {
		struct worker *worker; /* allocated by its own thread, in that CPU's memory */
		pthread_t thread;
	} members[];
};

/* Handed to a thread that starts; on the stack of workers_start(). */
struct start {
	const struct workers_config *cfg;
	unsigned index;
	int cpu; /* -1: not pinned */
	sem_t ready;
	/* The answer. */
	struct worker *worker; /* NULL: @err says why */
	const struct ring_kind *ring_kind;
	struct error err;
};

static int pin(struct start *s)
{
	struct cpus cpus;
	int rc;

	if (s->cpu < 0)
		return 0;
	memset(&cpus, 0, sizeof(cpus));
	CPU_SET_S((size_t)s->cpu, sizeof(cpus), cpus.set);
	rc = pthread_setaffinity_np(pthread_self(), sizeof(cpus), cpus.set);
	if (rc)
		return error_set(&s->err, -rc, "workers: cannot pin a thread to CPU %d: %s", s->cpu,
				 strerror(rc));
	if (numa_available() >= 0)
		numa_set_localalloc();
	return 0;
}

static int ring_open(struct start *s, struct io_uring *ring)
{
	unsigned entries = s->cfg->ring_entries ? s->cfg->ring_entries : RING_ENTRIES_DEFAULT;
	const char *hint = "";
	int rc = -EINVAL;

	for (unsigned i = 0; i < ARRAY_SIZE(ring_kinds) && rc == -EINVAL; i++) {
		/* A completion queue of 4 times the submissions: slow disks have many in flight. */
		struct io_uring_params params = {
			.flags = ring_kinds[i].flags | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE |
				 IORING_SETUP_R_DISABLED,
			.cq_entries = entries * 4,
		};

		rc = io_uring_queue_init_params(entries, ring, &params);
		s->ring_kind = &ring_kinds[i];
		if (rc == 0 && !(params.features & IORING_FEAT_NODROP)) {
			io_uring_queue_exit(ring);
			return error_set(
				&s->err, -ENOSYS,
				"workers: this kernel's io_uring drops completions when its "
				"queue is full; run Linux 5.15 or newer");
		}
	}
	if (rc == 0) {
		rc = ring_limit_and_enable(ring);
		if (rc)
			io_uring_queue_exit(ring);
	}
	if (rc == -ENOSYS || rc == -EPERM)
		hint = "; allow it (sysctl kernel.io_uring_disabled=0, and the container's seccomp "
		       "profile)";
	else if (rc == -ENOMEM)
		hint = "; raise the limit of locked memory (ulimit -l)";
	if (rc)
		return error_set(&s->err, rc,
				 "workers: cannot create an io_uring of %u entries: %s%s", entries,
				 strerror(-rc), hint);
	/* Saves a file look-up in each system call; nothing is lost where the kernel refuses. */
	io_uring_register_ring_fd(ring);
	return 0;
}

static struct worker *worker_create(struct start *s)
{
	const struct workers_config *cfg = s->cfg;
	uint32_t idle_us = cfg->idle_us ? cfg->idle_us : WORKER_IDLE_US_DEFAULT;
	struct worker *w;

	if (pin(s) < 0)
		return NULL;
	w = aligned_alloc(CACHE_LINE, sizeof(*w));
	if (!w) {
		error_set(&s->err, -ENOMEM, "workers: no memory for worker %u", s->index);
		return NULL;
	}
	*w = (struct worker) {
		.idle_cycles = idle_us * clock_cycles_per_us(),
		.next_deadline = UINT64_MAX,
		.may_park = cfg->idle == IDLE_ADAPTIVE,
		.index = s->index,
		.cpu = s->cpu,
		.tid = gettid(),
		.now = clock_cycles(),
	};
	sharing_init(&w->sharing);
	TAILQ_INIT(&w->active);
	TAILQ_INIT(&w->parked);
	/* Blocking: io_uring would not wait on an fd with O_NONBLOCK, but answer EAGAIN. */
	w->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (w->wake_fd < 0) {
		error_set(&s->err, -errno, "workers: cannot create an eventfd: %s",
			  strerror(errno));
		free(w);
		return NULL;
	}
	if (ring_open(s, &w->ring) < 0) {
		close(w->wake_fd);
		free(w);
		return NULL;
	}
	return w;
}

static void *worker_main(void *arg)
{
	struct start *s = arg;
	struct worker *w;
	char name[16];

	snprintf(name, sizeof(name), "sluice-w%u", s->index);
	pthread_setname_np(pthread_self(), name);
	w = worker_create(s);
	s->worker = w;
	sem_post(&s->ready); /* @s is gone */
	if (!w)
		return NULL;
	worker_set_current(w);
	urcu_qsbr_register_thread();
	worker_run(w);
	/* Calls that came in with the last one. */
	while (call_run_all(&w->calls))
		;
	urcu_qsbr_unregister_thread();
	assert(TAILQ_EMPTY(&w->active) && TAILQ_EMPTY(&w->parked));
	/* The watchdog need not look any more. */
	__atomic_store_n(&w->sleeping, true, __ATOMIC_RELAXED);
	/* By the thread that made it: a ring with a single issuer lets nobody else in. */
	io_uring_queue_exit(&w->ring);
	return NULL;
}

/*
 * The thread takes no signals but the watchdog's: they are the control thread's. But faults stay
 * its own, for whoever handles a SIGBUS in guest memory.
 */
static int spawn(struct start *s, pthread_t *thread)
{
	static const int faults[] = { SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT };
	sigset_t block, before;
	int rc;

	sigfillset(&block);
	for (unsigned i = 0; i < ARRAY_SIZE(faults); i++)
		sigdelset(&block, faults[i]);
	watch_allow(&block);
	sem_init(&s->ready, 0, 0);
	pthread_sigmask(SIG_SETMASK, &block, &before);
	rc = pthread_create(thread, NULL, worker_main, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		error_set(&s->err, -rc, "workers: cannot start thread %u: %s", s->index,
			  strerror(rc));
	else
		while (sem_wait(&s->ready) < 0)
			assert(errno == EINTR);
	sem_destroy(&s->ready);
	if (rc == 0 && !s->worker)
		pthread_join(*thread, NULL);
	return s->err.code;
}

/* Writes the set as "0-3,8" for an error's text. */
static void cpus_print(const struct cpus *cpus, char *out, size_t size)
{
	size_t used = 0;

	out[0] = '\0';
	for (unsigned i = 0; i < CPUS_MAX; i++) {
		unsigned first = i;

		if (!CPU_ISSET_S(i, sizeof(*cpus), cpus->set))
			continue;
		while (i + 1 < CPUS_MAX && CPU_ISSET_S(i + 1, sizeof(*cpus), cpus->set))
			i++;
		if (used < size)
			used += (size_t)snprintf(out + used, size - used,
						 first == i ? "%s%u" : "%s%u-%u", used ? "," : "",
						 first, i);
	}
}

static int cpus_check(const struct workers_config *cfg, struct error *err)
{
	long exist = sysconf(_SC_NPROCESSORS_CONF);
	struct cpus allowed;
	char text[128];

	memset(&allowed, 0, sizeof(allowed));
	if (sched_getaffinity(0, sizeof(allowed), allowed.set) < 0)
		return error_set(err, -errno, "workers: cannot read the CPU affinity: %s",
				 strerror(errno));
	for (unsigned i = 0; i < cfg->n; i++) {
		unsigned cpu = cfg->cpus[i];

		if (cpu >= CPUS_MAX || (long)cpu >= exist)
			return error_set(
				err, -EINVAL,
				"workers: CPU %u does not exist on this machine (0-%ld do); "
				"name one that does",
				cpu, exist - 1);
		if (!CPU_ISSET_S(cpu, sizeof(allowed), allowed.set)) {
			cpus_print(&allowed, text, sizeof(text));
			return error_set(
				err, -EINVAL,
				"workers: this process may not run on CPU %u (it may on %s); "
				"name one of those, or widen its CPU set (taskset, "
				"CPUAffinity=, cpuset)",
				cpu, text);
		}
		for (unsigned j = 0; j < i; j++)
			if (cfg->cpus[j] == cpu)
				return error_set(
					err, -EINVAL,
					"workers: CPU %u is named twice; two workers on one "
					"CPU only slow each other down",
					cpu);
	}
	return 0;
}

/*
 * The control thread, and all threads that it makes, stay off the workers' CPUs where there are
 * others: the kernel would let a thread that mostly sleeps have a worker's CPU whenever it wakes.
 */
static void leave_cpus_to_workers(const struct workers_config *cfg)
{
	struct cpus rest;

	if (sched_getaffinity(0, sizeof(rest), rest.set) < 0)
		return;
	for (unsigned i = 0; i < cfg->n; i++)
		CPU_CLR_S(cfg->cpus[i], sizeof(rest), rest.set);
	if (CPU_COUNT_S(sizeof(rest), rest.set) > 0)
		sched_setaffinity(0, sizeof(rest), rest.set);
}

int workers_start(const struct workers_config *cfg, struct workers **out, struct error *err)
{
	const struct ring_kind *kind = NULL;
	struct workers *ws;
	int rc;

	if (!cfg->n)
		return error_set(err, -EINVAL, "workers: none configured; at least one is needed");
	if (cfg->cpus && (rc = cpus_check(cfg, err)) < 0)
		return rc;
	ws = calloc(1, sizeof(*ws) + cfg->n * sizeof(ws->members[0]));
	if (!ws)
		return error_set(err, -ENOMEM, "workers: no memory for %u workers", cfg->n);
	clock_cycles_per_us(); /* measured now, not by a worker */
	if (cfg->cpus)
		leave_cpus_to_workers(cfg);
	for (unsigned i = 0; i < cfg->n; i++) {
		struct start s = { .cfg = cfg,
				   .index = i,
				   .cpu = cfg->cpus ? (int)cfg->cpus[i] : -1 };

		rc = spawn(&s, &ws->members[i].thread);
		if (rc < 0) {
			workers_stop(ws);
			return error_set(err, rc, "%s", s.err.text);
		}
		ws->members[ws->n++].worker = s.worker;
		kind = s.ring_kind;
	}
	rc = watch_start(&ws->watch, ws, err);
	if (rc < 0) {
		workers_stop(ws);
		return rc;
	}
	log_info("workers: %u running, %s; io_uring with %s", ws->n,
		 cfg->idle == IDLE_POLL ? "always polling" : "sleeping when idle", kind->name);
	*out = ws;
	return 0;
}

static void stop(struct call *c)
{
	(void)c;
	worker_current()->stopping = true;
}

void workers_stop(struct workers *ws)
{
	if (!ws)
		return;
	for (unsigned i = 0; i < ws->n; i++) {
		struct worker *w = ws->members[i].worker;
		struct call c = { .fn = stop };

		worker_call(w, &c);
		pthread_join(ws->members[i].thread, NULL);
	}
	/* Until here a worker may have had to be interrupted. */
	watch_stop(&ws->watch);
	for (unsigned i = 0; i < ws->n; i++) {
		close(ws->members[i].worker->wake_fd);
		free(ws->members[i].worker);
	}
	free(ws);
}

unsigned workers_count(const struct workers *ws)
{
	return ws->n;
}

struct worker *workers_get(const struct workers *ws, unsigned index)
{
	assert(index < ws->n);
	return ws->members[index].worker;
}

struct worker *workers_pick(const struct workers *ws)
{
	struct worker *best = ws->members[0].worker;

	for (unsigned i = 1; i < ws->n; i++)
		if (worker_n_pollers(ws->members[i].worker) < worker_n_pollers(best))
			best = ws->members[i].worker;
	return best;
}

unsigned worker_index(const struct worker *w)
{
	return w->index;
}

int worker_cpu(const struct worker *w)
{
	return w->cpu;
}

unsigned worker_n_pollers(const struct worker *w)
{
	return __atomic_load_n(&w->n_pollers, __ATOMIC_RELAXED);
}

unsigned worker_n_active(const struct worker *w)
{
	return __atomic_load_n(&w->n_active, __ATOMIC_RELAXED);
}

const struct worker_stats *worker_stats(const struct worker *w)
{
	return &w->stats;
}
