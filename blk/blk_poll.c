/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The datapath of virtio-blk: one function in four steps, for both ring layouts. Every chain that
 * is popped in step 1 is pushed there or in step 3 (of this poll or a later one), once; there is no
 * third way out.
 */
#include "blk/queue.h"

#include "poll/control.h"

#include <errno.h>
#include <linux/virtio_blk.h>

static void count(struct blk_queue *q, const struct request *r)
{
	struct blk_queue_stats *s = q->stats;

	if (r->io.bounced)
		counter_add(&s->bounced, 1);
	if (unlikely(r->malformed)) {
		counter_add(&s->malformed, 1);
	} else if (likely(r->result == VIRTIO_BLK_S_OK)) {
		counter_add(&s->ok[r->kind], 1);
		if (r->kind == REQUEST_READ)
			counter_add(&s->read_bytes, r->filled);
		else if (r->kind == REQUEST_WRITE)
			counter_add(&s->write_bytes, r->io.len);
		else if (r->kind == REQUEST_DISCARD)
			counter_add(&s->discarded_bytes, r->range_len);
		else if (r->kind == REQUEST_ZERO)
			counter_add(&s->zeroed_bytes, r->range_len);
		else if (r->kind == REQUEST_SECURE_ERASE)
			counter_add(&s->erased_bytes, r->range_len);
	} else {
		counter_add(r->result == VIRTIO_BLK_S_UNSUPP ? &s->unsupported : &s->errors, 1);
	}
}

HOT void finish(struct blk_queue *q, enum ring_layout layout, struct request *r)
{
	uint32_t written = request_finish(r);

	count(q, r);
	if (unlikely(q->ring->log))
		request_log(r, q->ring);
	ring_push(q->ring, layout, r->id, r->n_slots, written);
	if (r->big)
		q->big_free[q->n_big_free++] = r->big;
	r->busy = false;
	q->n_busy--;
}

/* @return true: the disk has not done @r, and it stays in flight for whoever has the ring next. */
static bool leave(struct blk_queue *q, struct request *r)
{
	if (!q->leaving || r->io.result != -ECANCELED)
		return false;
	r->issued = 0;
	q->n_left++;
	return true;
}

/* Step 1: what the guest asks goes to the disk, or straight back when there is no need of one. */
HOT unsigned pop_and_submit(struct blk_queue *q, enum ring_layout layout)
{
	/* Any chain may be a long one, so no more of them than there are arrays for long ones. */
	unsigned budget = MIN(q->n_big_free, q->disk->info.burst);
	uint64_t now;
	unsigned n;

	if (unlikely(throttle_is_shut(q)) && !q->draining)
		return 0;
	n = ring_pop(q->ring, layout, q->chains, budget, q->segs, BLK_POLL_SEGS);

	now = worker_now(q->poller.worker);
	for (unsigned i = 0; i < n; i++) {
		const struct chain *c = &q->chains[i];
		struct request *r = &q->requests[c->id];
		bool to_disk;

		if (unlikely(c->id >= q->size || r->busy)) {
			/* Requests are found by it, and so are the driver's own. */
			ring_break(q->ring, "buffer id out of range, or in use twice");
			return i;
		}
		r->busy = true;
		if (unlikely(c->id >= q->n_used))
			q->n_used = c->id + 1u;
		r->issued = now;
		q->n_busy++;
		to_disk = request_parse(r, c, &q->limits, q->big_free[q->n_big_free - 1]);
		if (r->big)
			q->n_big_free--;
		if (unlikely(!to_disk))
			finish(q, layout, r);
		else if (likely(!q->throttle.active) || throttle_pass(q, r))
			q->disk->ops->submit(q->disk_queue, &r->io);
	}
	return n;
}

/*
 * The guest has changed to write-through (CONFIG_WCE) since @r came: it sends no flush any more,
 * and relies on what it is told from then on, @r too. The flush of that moment may not cover it.
 * @return true: one of its own is under way.
 */
static bool make_durable(struct blk_queue *q, struct request *r)
{
	enum disk_op op = r->io.op;

	if (r->io.result || r->io.fua ||
	    (op != DISK_WRITE && op != DISK_DISCARD && op != DISK_ZERO))
		return false;
	r->io.op = DISK_FLUSH;
	r->io.fua = true;
	q->disk->ops->submit(q->disk_queue, &r->io);
	return true;
}

/* Step 3: what the disk has done goes back to the guest. */
HOT unsigned reap(struct blk_queue *q, enum ring_layout layout)
{
	struct disk_request *done[BLK_POLL_BUDGET];
	unsigned n = q->disk->ops->reap(q->disk_queue, done, BLK_POLL_BUDGET);

	for (unsigned i = 0; i < n; i++) {
		struct request *r = container_of(done[i], struct request, io);

		if (unlikely(r->io.result) && (leave(q, r) || fault_keep(q, r)))
			continue;
		if (unlikely(q->limits.writethrough) && make_durable(q, r))
			continue;
		if (unlikely(r == q->failed.trying))
			fault_over(q);
		request_from_disk(r);
		finish(q, layout, r);
	}
	return n;
}

/* The last request is out and published: the ring goes back to the control thread. */
static void drained(struct blk_queue *q)
{
	q->drained = true;
	control_call(&q->drained_call);
}

/* The disk gives back what it has. Held requests have no time of issue, and are not with it. */
static void cancel(struct blk_queue *q)
{
	if (!q->disk->ops->cancel)
		return;
	for (; q->leave_at < q->n_used; q->leave_at++) {
		struct request *r = &q->requests[q->leave_at];

		if (r->busy && r->issued && !q->disk->ops->cancel(q->disk_queue, &r->io))
			return;
	}
}

/* What is held moves to another worker with its queue. */
static bool is_drained(const struct blk_queue *q)
{
	if (q->leaving)
		return q->n_busy == blk_queue_held(q) &&
		       (!q->disk->ops->cancel || q->disk->ops->cancel(q->disk_queue, NULL));
	return q->n_busy == blk_queue_held(q) && !ring_unfinished(q->ring);
}

/* Step 1, of all that may begin now. A queue that leaves begins nothing. */
HOT unsigned begin(struct blk_queue *q, enum ring_layout layout)
{
	unsigned work = 0;

	if (unlikely(q->throttle.active))
		work += throttle_begin(q);
	if (likely(!q->draining) || ring_unfinished(q->ring))
		work += pop_and_submit(q, layout);
	if (unlikely(q->throttle.active))
		throttle_end(q);
	if (unlikely(q->failed.n))
		work += fault_retry(q);
	return work;
}

HOT unsigned blk_poll(struct poller *p, enum ring_layout layout)
{
	struct blk_queue *q = container_of(p, struct blk_queue, poller);
	unsigned work = 0;

	if (unlikely(q->drained))
		return 0;

	/* 1 */
	if (likely(!q->leaving))
		work = begin(q, layout);
	else
		cancel(q);
	/* 2 */
	if (q->disk->ops->kick)
		q->disk->ops->kick(q->disk_queue);
	/* 3: of a disk that is done by now, what was popped above too. */
	work += reap(q, layout);
	/* 4 */
	ring_publish(q->ring, layout);
	ring_call(q->ring, layout);

	if (work)
		__atomic_store_n(&q->stats->in_flight, q->n_busy, __ATOMIC_RELAXED);
	if (unlikely(q->draining) && is_drained(q))
		drained(q);
	return work;
}

HOT bool blk_arm(struct poller *p, enum ring_layout layout)
{
	struct blk_queue *q = container_of(p, struct blk_queue, poller);

	if (unlikely(q->drained))
		return true;
	if (q->disk->ops->pending(q->disk_queue))
		return false;
	/* Nothing new is popped any more, so only completions are worth waking up for. */
	if (unlikely(q->draining))
		return q->leaving ? !q->disk->ops->cancel || q->leave_at == q->n_used
				  : !ring_unfinished(q->ring);
	if (unlikely(throttle_is_shut(q)))
		return true;
	return ring_kicks_on(q->ring, layout);
}

HOT void blk_disarm(struct poller *p, enum ring_layout layout)
{
	struct blk_queue *q = container_of(p, struct blk_queue, poller);

	if (likely(!q->drained))
		ring_kicks_off(q->ring, layout);
}

#define X(name, layout)                                   \
	static unsigned blk_poll_##name(struct poller *p) \
	{                                                 \
		return blk_poll(p, layout);               \
	}                                                 \
	static bool blk_arm_##name(struct poller *p)      \
	{                                                 \
		return blk_arm(p, layout);                \
	}                                                 \
	static void blk_disarm_##name(struct poller *p)   \
	{                                                 \
		blk_disarm(p, layout);                    \
	}
RING_LAYOUTS(X)
#undef X

const struct poller_ops blk_poller_ops[] = {
#define X(name, layout) \
	[layout] = { .poll = blk_poll_##name, .arm = blk_arm_##name, .disarm = blk_disarm_##name },
	RING_LAYOUTS(X)
#undef X
};

void blk_queue_drain(struct call *c)
{
	struct blk_queue *q = container_of(c, struct blk_queue, drain_call);

	q->draining = q->ending = true;
	poller_wake(&q->poller);
}

void blk_queue_leave(struct call *c)
{
	struct blk_queue *q = container_of(c, struct blk_queue, drain_call);

	q->draining = q->leaving = true;
	poller_wake(&q->poller);
}

void blk_queue_pause(struct call *c)
{
	struct blk_queue *q = container_of(c, struct blk_queue, drain_call);

	q->draining = true;
	poller_wake(&q->poller);
}
