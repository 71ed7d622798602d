/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/aio_calls.h"

#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int aio_sys_setup(unsigned n, aio_context_t *ctx)
{
	return syscall(SYS_io_setup, n, ctx) < 0 ? -errno : 0;
}

void aio_sys_destroy(aio_context_t ctx)
{
	syscall(SYS_io_destroy, ctx);
}

long aio_sys_submit(aio_context_t ctx, long n, struct iocb **list)
{
	long rc = syscall(SYS_io_submit, ctx, n, list);

	return rc < 0 ? -errno : rc;
}

long aio_sys_wait(aio_context_t ctx, struct io_event *event, uint32_t ns)
{
	struct timespec wait = { .tv_nsec = (long)ns };
	long rc = syscall(SYS_io_getevents, ctx, 1L, 1L, event, &wait);

	return rc < 0 ? -errno : rc;
}
