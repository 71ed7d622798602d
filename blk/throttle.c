/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue of a disk that has limits. A request that may not start yet has been popped, stands in
 * its queue's request array as always, and waits in a list, of reads or of writes, so that one can
 * go on where only the other is limited. The first of a list has taken its share of the limits and
 * knows when it may start; those behind it take theirs when they are first. So queues that wait
 * take turns, whoever polls first.
 */
#include "base/clock.h"
#include "blk/queue.h"

/*
 * A worker need not be on time: what a queue may do meanwhile is saved up for it (limit.c). So it
 * sleeps for no less than this, and then sends what may go together.
 */
#define REST_MIN_NS 1000000u
#define REST_MAX_NS 250000000u

static uint64_t now_ns(const struct throttle *t)
{
	return (uint64_t)t->view.now / LIMIT_TICKS_PER_NS;
}

/* What moves data; a flush or discard counts for nothing, as with QEMU. */
static bool is_counted(const struct disk_request *r)
{
	return r->op == DISK_READ || r->op == DISK_WRITE || r->op == DISK_ZERO;
}

static uint32_t throttle_held(const struct blk_queue *q)
{
	return q->throttle.n[0] + q->throttle.n[1];
}

static void count_time(struct blk_queue *q)
{
	struct throttle *t = &q->throttle;
	uint64_t now = now_ns(t);

	if (t->since_ns)
		counter_add(&q->stats->throttled_ns, now - t->since_ns);
	t->since_ns = throttle_held(q) ? now : 0;
	__atomic_store_n(&q->stats->held_now, throttle_held(q), __ATOMIC_RELAXED);
}

/* Sends the first of list @i, if its time has come. */
static bool send_first(struct blk_queue *q, unsigned i)
{
	struct throttle *t = &q->throttle;
	struct disk_request *r = STAILQ_FIRST(&t->list[i]);

	if (!t->start_ns[i])
		t->start_ns[i] = now_ns(t) +
				 (t->limit ? limit_take(t->limit, &t->view, i, r->len) : 0);
	/* Whose ring ends goes at once. It is in debt then, and so will be what comes after it. */
	if (t->start_ns[i] > now_ns(t) && !q->ending)
		return false;
	t->start_ns[i] = 0;
	t->n[i]--;
	STAILQ_REMOVE_HEAD(&t->list[i], link);
	container_of(r, struct request, io)->issued = worker_now(q->poller.worker);
	q->disk->ops->submit(q->disk_queue, r);
	return true;
}

unsigned throttle_begin(struct blk_queue *q)
{
	struct throttle *t = &q->throttle;
	unsigned n = 0;

	if (likely(t->limit))
		limit_begin(t->limit, &t->view, clock_ns());
	else
		t->view.now = (limit_time_t)clock_ns() * LIMIT_TICKS_PER_NS;
	for (unsigned i = 0; i < 2; i++)
		while (n < BLK_POLL_BUDGET && t->n[i] && send_first(q, i))
			n++;
	return n;
}

bool throttle_pass(struct blk_queue *q, struct request *r)
{
	struct throttle *t = &q->throttle;
	unsigned i = r->io.op != DISK_READ;
	uint64_t wait;

	if (!t->limit || !is_counted(&r->io))
		return true;
	if (t->n[i] == 0) {
		wait = limit_take(t->limit, &t->view, i, r->io.len);
		if (wait == 0)
			return true;
		t->start_ns[i] = now_ns(t) + wait;
	}
	STAILQ_INSERT_TAIL(&t->list[i], &r->io, link);
	t->n[i]++;
	r->issued = 0;
	counter_add(&q->stats->held, 1);
	return false;
}

void throttle_end(struct blk_queue *q)
{
	struct throttle *t = &q->throttle;
	uint64_t now = now_ns(t), rest = REST_MAX_NS;

	if (likely(t->limit))
		limit_end(t->limit, &t->view);
	count_time(q);
	t->active = t->limit || throttle_held(q);
	for (unsigned i = 0; i < 2; i++)
		if (t->n[i])
			rest = MIN(rest, t->start_ns[i] > now ? t->start_ns[i] - now : 0);
	q->poller.park_max_us = throttle_held(q)
					? (uint32_t)(MAX(rest, (uint64_t)REST_MIN_NS) / 1000)
					: 0;
	/* Completions will wake it up in any case; but who waits for some is answered fast. */
	q->poller.rests = throttle_held(q) && blk_queue_held(q) == q->n_busy;
}

/* Between two polls. What is held asks anew, of the new limits, in the next one. */
void throttle_set(struct blk_queue *q, struct limit *limit)
{
	struct throttle *t = &q->throttle;

	t->limit = limit;
	t->active = true;
	t->start_ns[0] = t->start_ns[1] = 0;
	poller_wake(&q->poller);
}
