/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A flush of a disk that no queue of its runs on any more: before it is closed, and before it is
 * handed over to another daemon. On a worker, through a poller of its own, because it may take
 * long, and the control thread serves other devices meanwhile.
 */
#ifndef SLUICE_BLK_LAST_FLUSH_H
#define SLUICE_BLK_LAST_FLUSH_H

#include "blk/disk.h"
#include "poll/worker.h"

struct last_flush {
	int result; /* when it is done: 0 or -errno */

	/* Its own. */
	struct disk *disk;
	void (*then)(struct last_flush *f);
	struct poller poller;
	struct disk_queue *queue;
	struct disk_request request;
	bool sent;
	struct call done_call;
};

/*
 * Control thread. Flushes what was written to @d and calls then(f), on the control thread; maybe
 * from within, where there is nothing to do. @f stays until then.
 */
void last_flush_begin(struct last_flush *f, struct disk *d, struct workers *workers,
		      void (*then)(struct last_flush *f));

#endif
