/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue of a disk whose requests are done as soon as they are submitted (null, ram): the
 * results wait in a list for reap, so that there is one way out for every disk.
 */
#ifndef SLUICE_BLK_DISK_INSTANT_H
#define SLUICE_BLK_DISK_INSTANT_H

#include "blk/disk.h"

struct instant_queue {
	struct disk_queue base;
	struct disk_request_list done;
};

/* These four are entries for a struct disk_ops. */
int instant_queue_open(struct disk *d, struct poller *poller, struct disk_queue **out);
void instant_queue_close(struct disk_queue *dq);
unsigned instant_reap(struct disk_queue *dq, struct disk_request **done, unsigned max);
bool instant_pending(const struct disk_queue *dq);

/* Worker thread. @r has been done with @result; reap() hands it out. */
void instant_done(struct disk_queue *dq, struct disk_request *r, int result);

/* Control thread. The checks and facts that both kinds share: fills @info from cfg->size. */
int instant_info(const struct blk_config *cfg, struct disk_info *info, struct error *err);

#endif
