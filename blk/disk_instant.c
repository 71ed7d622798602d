/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/disk_instant.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>

int instant_queue_open(struct disk *d, struct poller *poller, struct disk_queue **out)
{
	struct instant_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->base.disk = d;
	q->base.poller = poller;
	STAILQ_INIT(&q->done);
	*out = &q->base;
	return 0;
}

void instant_queue_close(struct disk_queue *dq)
{
	struct instant_queue *q = container_of(dq, struct instant_queue, base);

	assert(STAILQ_EMPTY(&q->done));
	free(q);
}

void instant_done(struct disk_queue *dq, struct disk_request *r, int result)
{
	struct instant_queue *q = container_of(dq, struct instant_queue, base);

	r->result = result;
	STAILQ_INSERT_TAIL(&q->done, r, link);
}

unsigned instant_reap(struct disk_queue *dq, struct disk_request **done, unsigned max)
{
	struct instant_queue *q = container_of(dq, struct instant_queue, base);
	unsigned n;

	for (n = 0; n < max && !STAILQ_EMPTY(&q->done); n++) {
		done[n] = STAILQ_FIRST(&q->done);
		STAILQ_REMOVE_HEAD(&q->done, link);
	}
	return n;
}

bool instant_pending(const struct disk_queue *dq)
{
	const struct instant_queue *q = container_of(dq, const struct instant_queue, base);

	return !STAILQ_EMPTY(&q->done);
}

int instant_info(const struct blk_config *cfg, struct disk_info *info, struct error *err)
{
	if (cfg->size == 0 || cfg->size % 512 != 0)
		return error_set(err, -EINVAL,
				 "disk %s: size %llu is not a multiple of 512 bytes above 0; "
				 "give for example size: 1G",
				 cfg->name, (unsigned long long)cfg->size);
	info->size = cfg->size;
	info->block_size = 512;
	info->physical_size = 512;
	info->align_mem = info->align_io = 1;
	return 0;
}
