/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/blk_file.h"

#include "blk/aio_calls.h"
#include "blk/device_impl.h"
#include "blk/disk_file.h"
#include "tests/fuzz/sim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 64

/* NOLINTBEGIN(bugprone-reserved-identifier): the linker's names (--wrap) */
struct io_uring_sqe *__wrap_worker_sqe(struct worker *w);
long __real_aio_sys_submit(aio_context_t ctx, long n, struct iocb **list);
long __wrap_aio_sys_submit(aio_context_t ctx, long n, struct iocb **list);
void *__real_aio_take(struct aio *a, int32_t *res);
void *__wrap_aio_take(struct aio *a, int32_t *res);
void __real_sim_round(struct workers *ws);
void __wrap_sim_round(struct workers *ws);

static struct {
	uint32_t trouble; /* two bits for each thing that may go wrong, from the lowest on */
	struct io_uring_sqe sqes[ENTRIES];
	unsigned n;
} u;

/* Bits of @trouble that decide this once. */
static unsigned next_trouble(void)
{
	unsigned t = u.trouble & 3;

	u.trouble >>= 2;
	return t;
}

const char *blk_file_image(uint64_t bytes)
{
	static char path[64];
	int fd = memfd_create("image", MFD_CLOEXEC);

	FUZZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return path;
}

void blk_file_set(struct blk_device *b, bool direct)
{
	struct file_disk *f = container_of(b->disk, struct file_disk, disk);

	f->aio = true;
	f->direct = direct;
	f->disk.info.align_mem = f->disk.info.align_io = direct ? 512 : 1;
	f->disk.info.burst = FILE_BURST_AIO;
}

void blk_file_begin(uint32_t trouble)
{
	u.trouble = trouble;
}

void blk_file_end(void)
{
	u.trouble = 0;
}

struct io_uring_sqe *__wrap_worker_sqe(struct worker *w)
{
	struct io_uring_sqe *sqe = &u.sqes[u.n];

	(void)w;
	if (u.n == ENTRIES)
		return NULL;
	memset(sqe, 0, sizeof(*sqe));
	u.n++;
	return sqe;
}

static int32_t do_entry(const struct io_uring_sqe *e)
{
	void *at = (void *)(uintptr_t)e->addr; /* NOLINT(performance-no-int-to-ptr) */
	ssize_t n = -1;

	switch (e->opcode) {
	case IORING_OP_READ:
		n = pread(e->fd, at, e->len, (off_t)e->off);
		break;
	case IORING_OP_READV:
		n = preadv(e->fd, at, (int)e->len, (off_t)e->off);
		break;
	case IORING_OP_WRITE:
		n = pwrite(e->fd, at, e->len, (off_t)e->off);
		break;
	case IORING_OP_WRITEV:
		n = pwritev(e->fd, at, (int)e->len, (off_t)e->off);
		break;
	case IORING_OP_FSYNC:
		n = fdatasync(e->fd);
		break;
	default:
		return -EINVAL;
	}
	return n < 0 ? -errno : (int32_t)n;
}

/* What was submitted in the last round is done, in any case before a queue stops. */
void __wrap_sim_round(struct workers *ws)
{
	unsigned n = u.n;

	u.n = 0;
	for (unsigned i = 0; i < n; i++) {
		struct io_op *op = (struct io_op *)(uintptr_t)u.sqes[i].user_data;
		unsigned t = next_trouble();

		op->res = t == 1 ? -EAGAIN : t == 2 ? -EIO : do_entry(&u.sqes[i]);
		STAILQ_INSERT_TAIL(&op->owner->done, op, link);
		poller_wake(op->owner);
	}
	__real_sim_round(ws);
}

long __wrap_aio_sys_submit(aio_context_t ctx, long n, struct iocb **list)
{
	switch (next_trouble()) {
	case 1:
		return -EAGAIN;
	case 2:
		n = (n + 1) / 2;
		break;
	}
	return __real_aio_sys_submit(ctx, n, list);
}

void *__wrap_aio_take(struct aio *a, int32_t *res)
{
	void *cookie;
	unsigned t;

	if (!a->n_under_way)
		return NULL;
	t = next_trouble();
	if (t == 1) /* late */
		return NULL;
	cookie = __real_aio_take(a, res);
	if (cookie && t == 2 && *res > 0)
		*res = *res > 512 ? 512 : 0;
	if (cookie && t == 3)
		*res = *res & 512 ? -EIO : -EAGAIN;
	return cookie;
}
/* NOLINTEND(bugprone-reserved-identifier) */
