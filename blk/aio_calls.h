/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls of Linux AIO, for which the C library has no functions. */
#ifndef SLUICE_BLK_AIO_CALLS_H
#define SLUICE_BLK_AIO_CALLS_H

#include <linux/aio_abi.h>
#include <stdint.h>

/* @return 0 or -errno; as io_setup(2) and io_destroy(2). */
int aio_sys_setup(unsigned n, aio_context_t *ctx);
void aio_sys_destroy(aio_context_t ctx);
/* @return how many were taken, or -errno that the first one met. io_submit(2). */
long aio_sys_submit(aio_context_t ctx, long n, struct iocb **list);
/* One event, waited for no longer than @ns, which is less than a second. @return how many. */
long aio_sys_wait(aio_context_t ctx, struct io_event *event, uint32_t ns);

#endif
