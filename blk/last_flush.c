/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/last_flush.h"

#include "poll/control.h"

static void done(struct call *c)
{
	struct last_flush *f = container_of(c, struct last_flush, done_call);

	worker_remove(&f->poller);
	f->disk->ops->queue_close(f->queue);
	f->result = f->request.result;
	f->then(f);
}

static unsigned flush_poll(struct poller *p)
{
	struct last_flush *f = container_of(p, struct last_flush, poller);
	const struct disk_ops *ops = f->disk->ops;
	struct disk_request *reaped;

	if (!f->sent) {
		f->sent = true;
		ops->submit(f->queue, &f->request);
	}
	if (ops->kick)
		ops->kick(f->queue);
	if (ops->reap(f->queue, &reaped, 1) == 0)
		return 0;
	control_call(&f->done_call);
	return 1;
}

static bool flush_arm(struct poller *p)
{
	struct last_flush *f = container_of(p, struct last_flush, poller);

	return !f->disk->ops->pending(f->queue);
}

static void flush_disarm(struct poller *p)
{
	(void)p;
}

void last_flush_begin(struct last_flush *f, struct disk *d, struct workers *workers,
		      void (*then)(struct last_flush *f))
{
	static const struct poller_ops ops = { flush_poll, flush_arm, flush_disarm };

	*f = (struct last_flush) { .disk = d, .then = then };
	f->poller = (struct poller) { .ops = &ops, .event_fd = -1 };
	STAILQ_INIT(&f->poller.done);
	f->request.op = DISK_FLUSH;
	f->request.io.owner = &f->poller;
	f->done_call.fn = done;
	if (d->info.volatile_cache)
		f->result = d->ops->queue_open(d, &f->poller, &f->queue);
	if (!d->info.volatile_cache || f->result)
		then(f);
	else
		worker_add(workers_pick(workers), &f->poller);
}
