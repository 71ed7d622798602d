/* SPDX-License-Identifier: Apache-2.0 */
/* A guest of the soak: its connections on the main thread, its driver on its own. */
#include "tests/soak/soak.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void nap(void)
{
	nanosleep(&(struct timespec) { .tv_nsec = 1500000 }, NULL);
}

/* Naps between its steps: the machine has other threads to run. That something is in flight when
 * something happens does not depend on it: see guest_load().
 */
static void *driver_main(void *arg)
{
	struct guest *g = arg;

	while (!__atomic_load_n(&g->stop, __ATOMIC_RELAXED)) {
		if (!__atomic_load_n(&g->wanted, __ATOMIC_RELAXED)) {
			pthread_mutex_lock(&g->lock);
			if (g->open)
				g->ops->work(g);
			pthread_mutex_unlock(&g->lock);
			__atomic_fetch_add(&g->steps, 1, __ATOMIC_RELAXED);
		}
		nap();
	}
	return NULL;
}

void guest_lock(struct guest *g)
{
	__atomic_store_n(&g->wanted, true, __ATOMIC_RELAXED);
	pthread_mutex_lock(&g->lock);
}

void guest_unlock(struct guest *g)
{
	pthread_mutex_unlock(&g->lock);
	__atomic_store_n(&g->wanted, false, __ATOMIC_RELAXED);
}

void guest_ok(struct guest *g, int rc, const char *what)
{
	if (rc < 0)
		soak_fail("%s: %s: %s (%s)", g->name, what, g->f.error, strerror(-rc));
}

static void idle(void *arg)
{
	(void)arg;
	soak_step();
}

void guest_init(struct guest *g, const char *name, const struct guest_ops *ops, unsigned n_queues,
		unsigned seed)
{
	static const struct guest_range ranges[] = {
		{ 0, 8 * MIB },
		{ UINT64_C(4) << 30, 4 * MIB },
		{ UINT64_C(6) << 30, MIB },
		{ UINT64_C(7) << 30, MIB },
	};
	int rc = guest_memory_create(&g->mem, ranges, ARRAY_SIZE(ranges), 0);

	if (rc == 0)
		rc = frontend_log_create(&g->log, UINT64_C(8) << 30, 0);
	if (rc < 0)
		soak_fail("%s: no memory for a guest: %s", name, strerror(-rc));
	g->name = name;
	g->ops = ops;
	g->n_queues = n_queues;
	g->rng = seed;
	g->driver_rng = seed + 1;
	snprintf(g->path, sizeof(g->path), "soak-%d-%s.sock", (int)getpid(), name);
	pthread_mutex_init(&g->lock, NULL);
	frontend_init(&g->f);
	g->inflight.fd = -1;
	g->f.timeout_ms = SOAK_PATIENCE_MS;
	g->f.idle = idle;
	g->ops->create(g);
	rc = pthread_create(&g->thread, NULL, driver_main, g);
	if (rc)
		soak_fail("%s: no thread: %s", name, strerror(rc));
}

void guest_fini(struct guest *g)
{
	__atomic_store_n(&g->stop, true, __ATOMIC_RELAXED);
	pthread_join(g->thread, NULL);
	pthread_mutex_destroy(&g->lock);
	frontend_close(&g->f);
	frontend_inflight_close(&g->inflight);
	frontend_log_destroy(&g->log);
	g->mem.n = EXTRA_FIRST + EXTRA_N;
	guest_memory_destroy(&g->mem);
	unlink(g->path);
}

void guest_hang_up(struct guest *g)
{
	if (g->f.sock >= 0)
		close(g->f.sock);
	g->f.sock = -1;
	g->connected = false;
}

void guest_hello(struct guest *g)
{
	uint64_t wanted = VU_PF_USUAL | VU_PF_BACKEND_REQ;

	/* The classic table of at most 8 regions, or slots. */
	if (chance(&g->rng, 50))
		wanted &= ~VU_PF_CONFIGURE_MEM_SLOTS;
	if (chance(&g->rng, 50))
		wanted |= g->ops->protocol;
	guest_ok(g, frontend_connect(&g->f, g->path), "connect");
	guest_ok(g, frontend_hello(&g->f, wanted), "hello");
	g->connected = true;
}

static void share_memory(struct guest *g)
{
	unsigned n = EXTRA_FIRST;

	/* Extra regions in order, so that a table can hold the first ones. */
	for (unsigned i = 0; i < EXTRA_N; i++)
		g->extra_there[i] = n == EXTRA_FIRST + i && chance(&g->rng, 50) && ++n;
	g->mem.n = n;
	guest_ok(g, frontend_share_memory(&g->f, &g->mem), "share memory");
	g->mem.n = EXTRA_FIRST + EXTRA_N;
}

/* The old rings are the device's no longer: a new session, a reset or a removal saw to that. */
static void forget(struct guest *g)
{
	if (g->open)
		g->ops->close(g);
	g->open = false;
	for (unsigned i = 0; i < g->n_queues; i++)
		frontend_queue_free(&g->f, i);
	for (unsigned i = 0; i < g->mem.n; i++)
		g->mem.region[i].used = 0;
}

/* A buffer of its own for each set of rings: nothing is in flight in it. */
static void begin_inflight(struct guest *g, uint32_t size)
{
	frontend_inflight_close(&g->inflight);
	if (!(g->f.protocol & VU_PF_INFLIGHT_SHMFD))
		return;
	guest_ok(g,
		 frontend_get_inflight(&g->f, &g->inflight, (uint16_t)g->n_queues, (uint16_t)size),
		 "GET_INFLIGHT_FD");
	guest_ok(g, frontend_set_inflight(&g->f, &g->inflight), "SET_INFLIGHT_FD");
}

void guest_begin(struct guest *g)
{
	static const uint32_t sizes[] = { 16, 64, 256 };
	static const enum driver_indirect indirect[] = { DRIVER_DIRECT, DRIVER_INDIRECT_LONG,
							 DRIVER_INDIRECT_ALL };
	uint64_t features = VU_F_VERSION_1 | g->ops->features(g);
	struct frontend_queue_options opt = {
		.size = sizes[soak_random(&g->rng, ARRAY_SIZE(sizes))],
		.indirect = indirect[soak_random(&g->rng, ARRAY_SIZE(indirect))],
		.indirect_segs = 16,
	};

	if (chance(&g->rng, 50))
		features |= VU_F_PACKED;
	if (chance(&g->rng, 50))
		features |= VU_F_EVENT_IDX;
	if (opt.indirect != DRIVER_DIRECT)
		features |= VU_F_INDIRECT;
	/* A stop that leaves requests may leave some that are done, behind one that is not. */
	if (chance(&g->rng, 30) && !(g->f.protocol & VU_PF_GET_VRING_BASE_INFLIGHT))
		features |= VU_F_IN_ORDER;

	guest_lock(g);
	forget(g);
	g->log_on = false;
	guest_ok(g, frontend_set_features(&g->f, features), "set features");
	share_memory(g);
	begin_inflight(g, opt.size);
	for (unsigned i = 0; i < g->n_queues; i++)
		guest_ok(g, frontend_queue_setup(&g->f, i, &opt), "set up a queue");
	g->ops->open(g);
	for (unsigned i = 0; i < g->n_queues; i++)
		guest_ok(g, frontend_queue_start(&g->f, i), "start a queue");
	g->open = true;
	guest_unlock(g);
}

unsigned guest_load(struct guest *g)
{
	unsigned n = 0;

	guest_lock(g);
	/* A worker that wakes at once may be done before we look. */
	for (unsigned i = 0; g->open && n == 0 && i < 5; i++) {
		g->ops->work(g);
		n = g->ops->in_flight(g);
	}
	guest_unlock(g);
	return n;
}

void guest_check_progress(struct guest *g)
{
	uint64_t steps = __atomic_load_n(&g->steps, __ATOMIC_RELAXED);
	uint64_t asked;

	/* The driver has had its turn, so that something is asked for. */
	soak_wait(&g->steps, steps + 2, g, "its driver does nothing");
	asked = __atomic_load_n(&g->asked, __ATOMIC_RELAXED);
	soak_wait(&g->answered, asked, g, "requests are not answered");
}

void guest_closed(void *arg)
{
	struct guest *g = arg;

	g->closed = true;
}

void guest_wait_closed(struct guest *g)
{
	for (unsigned i = 0; !g->closed; i++) {
		if (i == 300000)
			soak_fail("%s: its device is not removed", g->name);
		soak_step();
	}
	/* Its front-end finds that it has been hung up. */
	guest_lock(g);
	guest_hang_up(g);
	forget(g);
	guest_unlock(g);
}
