/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that keeps nothing, for measuring everything but the disk. Reads give zeros: the guest is
 * told that its buffers were written, so they must be.
 */
#include "blk/disk_instant.h"
#include "blk/iov.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static void null_close(struct disk *d)
{
	free(d);
}

static int null_open(const struct blk_config *cfg, struct disk **out, struct error *err)
{
	struct disk *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return -ENOMEM;
	d->ops = disk_kinds[DISK_NULL];
	rc = instant_info(cfg, &d->info, err);
	if (rc) {
		null_close(d);
		return rc;
	}
	snprintf(d->info.how, sizeof(d->info.how), "null: reads give zeros, writes are dropped");
	*out = d;
	return 0;
}

static int null_resize(struct disk *d, uint64_t size, uint64_t *now, struct error *err)
{
	(void)err;
	*now = size ? size : d->info.size;
	return 0;
}

static void null_move(struct disk *d, struct disk_request *r, size_t len)
{
	(void)d;
	if (r->op == DISK_READ)
		iov_zero(r->iov, r->n_iov, len);
}

static unsigned null_reap(struct disk_queue *dq, struct disk_request **done, unsigned max)
{
	return instant_reap(dq, done, max, null_move);
}

const struct disk_ops disk_null = {
	.name = "null",
	.open = null_open,
	.close = null_close,
	.resize = null_resize,
	.queue_open = instant_queue_open,
	.queue_close = instant_queue_close,
	.submit = instant_submit,
	.reap = null_reap,
	.pending = instant_pending,
};
