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
	STAILQ_INIT(&q->todo);
	*out = &q->base;
	return 0;
}

void instant_queue_close(struct disk_queue *dq)
{
	struct instant_queue *q = container_of(dq, struct instant_queue, base);

	assert(STAILQ_EMPTY(&q->todo));
	free(q);
}

void instant_submit(struct disk_queue *dq, struct disk_request *r)
{
	struct instant_queue *q = container_of(dq, struct instant_queue, base);

	r->moved = 0;
	STAILQ_INSERT_TAIL(&q->todo, r, link);
}

unsigned instant_reap(struct disk_queue *dq, struct disk_request **done, unsigned max,
		      instant_fn *move)
{
	struct instant_queue *q = container_of(dq, struct instant_queue, base);
	uint64_t budget = INSTANT_BYTES_MAX;
	struct disk_request *r;
	unsigned n = 0;

	while (n < max && (r = STAILQ_FIRST(&q->todo))) {
		if (r->op != DISK_FLUSH) {
			size_t len = MIN(r->len - r->moved, budget);

			move(dq->disk, r, len);
			disk_request_advance(r, len);
			r->moved += len;
			budget -= len;
			if (r->moved < r->len)
				break;
		}
		r->result = 0;
		STAILQ_REMOVE_HEAD(&q->todo, link);
		done[n++] = r;
	}
	return n;
}

bool instant_pending(const struct disk_queue *dq)
{
	const struct instant_queue *q = container_of(dq, const struct instant_queue, base);

	return !STAILQ_EMPTY(&q->todo);
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
	info->burst = INSTANT_BURST;
	if (cfg->read_only)
		return 0;
	info->discard_max = info->zero_max = INSTANT_RANGE_MAX;
	info->discard_align = 4096;
	info->zero_unmaps = true;
	return 0;
}
