/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SECURE_ERASE of a block device. The kernel knows it as an ioctl alone, which returns when all of
 * it is erased; so each queue of a disk that can has a thread for it, which sleeps but for that.
 * One request at a time; others wait.
 */
#ifndef SLUICE_BLK_DISK_FILE_ERASE_H
#define SLUICE_BLK_DISK_FILE_ERASE_H

#include "blk/disk.h"

#include <pthread.h>
#include <semaphore.h>

struct eraser {
	bool open;
	pthread_t thread;
	sem_t go;
	bool stop;   /* the control thread's; when nothing is under way */
	bool cancel; /* atomic, the worker's: what is under way may end before its end */

	/* The worker's, but for the time between go and done. */
	struct worker *worker;
	struct disk_request *now;	/* under way; NULL: none */
	struct disk_request_list waits; /* for their turn */
	int fd;
	int result;
	struct call done;
};

/* Control thread. @return 0 or -errno; close takes also what was never opened. */
int eraser_open(struct eraser *e, int fd);
void eraser_close(struct eraser *e);

/*
 * Worker thread. Takes @r, whose range is what is left of it. It comes back as if its io_op had
 * been an operation of io_uring's; and then eraser_next() gives the one that has waited longest,
 * NULL: none, to be begun.
 */
void eraser_begin(struct eraser *e, struct worker *w, struct disk_request *r);
struct disk_request *eraser_next(struct eraser *e);

#endif
