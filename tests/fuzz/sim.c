/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/sim.h"

#include <stdlib.h>
#include <urcu/urcu-qsbr.h>

#define SIM_POLLERS_MAX 1024

struct worker {
	unsigned index, n_pollers;
	struct poller *pollers[SIM_POLLERS_MAX];
	struct call_queue calls;
	struct worker_stats stats;
};

struct workers {
	unsigned n;
	struct worker w[];
};

static struct worker *current;

struct worker *worker_current(void)
{
	return current;
}

struct io_uring *worker_ring(struct worker *w)
{
	(void)w;
	return NULL;
}

/* Always the same, for runs that can be repeated. */
uint64_t worker_now(const struct worker *w)
{
	(void)w;
	return 1;
}

struct io_uring_sqe *worker_sqe(struct worker *w)
{
	(void)w;
	return NULL;
}

void poller_wake(struct poller *p)
{
	if (p->state != POLLER_PARKED)
		return;
	p->state = POLLER_ACTIVE;
	if (p->ops->disarm)
		p->ops->disarm(p);
}

int workers_start(const struct workers_config *cfg, struct workers **out, struct error *err)
{
	struct workers *ws = calloc(1, sizeof(*ws) + cfg->n * sizeof(ws->w[0]));

	(void)err;
	assert(ws);
	ws->n = cfg->n;
	for (unsigned i = 0; i < ws->n; i++)
		ws->w[i].index = i;
	urcu_qsbr_register_thread();
	*out = ws;
	return 0;
}

void workers_stop(struct workers *ws)
{
	if (!ws)
		return;
	assert(sim_n_pollers(ws) == 0);
	urcu_qsbr_unregister_thread();
	free(ws);
}

unsigned workers_count(const struct workers *ws)
{
	return ws->n;
}

struct worker *workers_get(const struct workers *ws, unsigned index)
{
	assert(index < ws->n);
	return (struct worker *)&ws->w[index];
}

struct worker *workers_pick(const struct workers *ws)
{
	const struct worker *best = &ws->w[0];

	for (unsigned i = 1; i < ws->n; i++)
		if (ws->w[i].n_pollers < best->n_pollers)
			best = &ws->w[i];
	return (struct worker *)best;
}

unsigned worker_index(const struct worker *w)
{
	return w->index;
}

int worker_cpu(const struct worker *w)
{
	(void)w;
	return -1;
}

unsigned worker_n_pollers(const struct worker *w)
{
	return w->n_pollers;
}

unsigned worker_n_active(const struct worker *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < w->n_pollers; i++)
		n += w->pollers[i]->state == POLLER_ACTIVE;
	return n;
}

const struct worker_stats *worker_stats(const struct worker *w)
{
	return &w->stats;
}

void worker_call(struct worker *w, struct call *c)
{
	call_post(&w->calls, c);
}

/* What was posted before runs before, as on a real worker. */
void worker_call_wait(struct worker *w, void (*fn)(void *arg), void *arg)
{
	struct worker *before = current;

	current = w;
	while (call_run_all(&w->calls))
		;
	fn(arg);
	current = before;
}

void worker_add(struct worker *w, struct poller *p)
{
	assert(p->state == POLLER_OFF && !p->worker && p->ops->poll);
	assert(w->n_pollers < SIM_POLLERS_MAX);
	STAILQ_INIT(&p->done);
	p->worker = w;
	p->state = POLLER_ACTIVE;
	w->pollers[w->n_pollers++] = p;
}

void worker_remove(struct poller *p)
{
	struct worker *w = p->worker;
	unsigned i = 0;

	assert(w);
	while (w->pollers[i] != p)
		i++;
	w->pollers[i] = w->pollers[--w->n_pollers];
	p->worker = NULL;
	p->state = POLLER_OFF;
}

void worker_move(struct poller *p, struct worker *to)
{
	worker_remove(p);
	worker_add(to, p);
}

void sim_round(struct workers *ws)
{
	for (unsigned i = 0; i < ws->n; i++) {
		struct worker *w = &ws->w[i];

		current = w;
		call_run_all(&w->calls);
		for (unsigned k = 0; k < w->n_pollers; k++)
			if (w->pollers[k]->state == POLLER_ACTIVE)
				w->pollers[k]->ops->poll(w->pollers[k]);
		w->stats.rounds++;
	}
	current = NULL;
	urcu_qsbr_quiescent_state();
}

void sim_park(struct workers *ws)
{
	for (unsigned i = 0; i < ws->n; i++) {
		struct worker *w = &ws->w[i];

		current = w;
		for (unsigned k = 0; k < w->n_pollers; k++) {
			struct poller *p = w->pollers[k];

			if (p->state == POLLER_ACTIVE && p->ops->arm && p->ops->arm(p))
				p->state = POLLER_PARKED;
		}
	}
	current = NULL;
}

void sim_wake(struct workers *ws)
{
	for (unsigned i = 0; i < ws->n; i++) {
		current = &ws->w[i];
		for (unsigned k = 0; k < current->n_pollers; k++)
			poller_wake(current->pollers[k]);
	}
	current = NULL;
}

unsigned sim_n_pollers(const struct workers *ws)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ws->n; i++)
		n += ws->w[i].n_pollers;
	return n;
}
