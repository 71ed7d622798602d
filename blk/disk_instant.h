/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue of a disk that the worker does itself (null, ram): requests wait in a list for reap,
 * which does so many bytes of them at a time, whatever the guest asks for: the worker has other
 * guests.
 */
#ifndef SLUICE_BLK_DISK_INSTANT_H
#define SLUICE_BLK_DISK_INSTANT_H

#include "blk/disk.h"

/* Bytes in one reap: about as long as the kernel takes for a burst of small requests. */
#define INSTANT_BYTES_MAX (1u << 20)
/* See disk_info.burst: of 8, 16 and 32 the best at depth 32, and hardly less than 16 at 128. */
#define INSTANT_BURST 8
/* Of one DISCARD or WRITE_ZEROES; done in as small steps as all else. */
#define INSTANT_RANGE_MAX (UINT64_C(256) << 20)

struct instant_queue {
	struct disk_queue base;
	struct disk_request_list todo;
};

/* The next @len bytes of @r, from r->moved on; r->iov starts there, if it has data. */
typedef void instant_fn(struct disk *d, struct disk_request *r, size_t len);

/* These four are entries for a struct disk_ops. */
int instant_queue_open(struct disk *d, struct poller *poller, struct disk_queue **out);
void instant_queue_close(struct disk_queue *dq);
void instant_submit(struct disk_queue *dq, struct disk_request *r);
bool instant_pending(const struct disk_queue *dq);

/* Worker thread. For struct disk_ops.reap. */
unsigned instant_reap(struct disk_queue *dq, struct disk_request **done, unsigned max,
		      instant_fn *move);

/* Control thread. The checks and facts that both kinds share: fills @info from cfg->size. */
int instant_info(const struct blk_config *cfg, struct disk_info *info, struct error *err);

#endif
