/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux AIO, for block devices that do requests on the CPU of whoever submits them (zram, and other
 * drivers without a hardware behind them) and that take no NOWAIT: io_uring hands each request for
 * one of these to a thread of its own. io_submit() does them in place, and when it returns they are
 * done.
 *
 * Such a device can turn slow all the same, and then whoever submits stands still. So each
 * submission is measured: after one that took long, or left requests under way, none goes this way
 * for a while (aio_is_on()), and io_uring's threads do the waiting.
 */
#ifndef SLUICE_BLK_DISK_AIO_H
#define SLUICE_BLK_DISK_AIO_H

#include "base/compiler.h"

#include <linux/aio_abi.h>
#include <stdbool.h>
#include <sys/uio.h>

#define AIO_BURST 16 /* of one io_submit() */

struct aio_ring; /* the completions, in memory that the kernel shares */

struct aio {
	struct aio_ring *ring; /* NULL: there is none */
	unsigned n_staged, n_under_way;
	uint64_t rest_until; /* clock_cycles() */
	uint64_t era;	     /* as of the last aio_send() */
	long sleeps;	     /* of the thread, at the beginning of that */
	struct iocb staged[AIO_BURST];
};

/* Control thread. @return 0 or -errno, and then the queue does without. */
int aio_open(struct aio *a);
/* Control thread; nothing is staged or under way. */
void aio_close(struct aio *a);

/*
 * Control thread. Would requests to @fd (a block device, O_DIRECT) do well this way? True where the
 * kernel has no NOWAIT for it, and a read of @len bytes at its start, to and from addresses that
 * are multiples of it, is done by the time that it is submitted.
 */
bool aio_suits(int fd, size_t len);

/* Worker thread, all below. Is there room for one more, and no rest to be kept? */
bool aio_is_on(const struct aio *a, uint64_t now);

/* For aio_send(). @iov need not outlive that, what it names has to. @cookie: for aio_take(). */
void aio_stage(struct aio *a, bool is_write, bool dsync, int fd, const struct iovec *iov,
	       unsigned n_iov, uint64_t offset, void *cookie);
/*
 * Submits what is staged. @era: the same as before only if the thread has not slept since, so that
 * the kernel need not be asked each time how often it has. @return how many of them, from the first
 * on, were; the others' cookies are in @left (AIO_BURST of them), and *@n_left says how many.
 */
unsigned aio_send(struct aio *a, uint64_t era, void **left, unsigned *n_left);
/* One that is done: its cookie, and bytes or -errno in *@res. NULL: none. */
void *aio_take(struct aio *a, int32_t *res);

#endif
