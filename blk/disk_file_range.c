/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges of a file without data: DISCARD (the space is given back where that can be) and ZERO
 * (reads as zeros afterwards, always). What a file or device can do for that differs, and the
 * kernel tells best by doing it: a request takes the best way that is left, and where that turns
 * out not to be there (EOPNOTSUPP) the next one, for good.
 *
 *	              DISCARD    ZERO, unmap   ZERO
 *	RANGE_DISCARD a device                           its discard command, Linux 6.12
 *	RANGE_PUNCH   yes        yes                     a hole; of a device: zeroes that unmap
 *	RANGE_ZERO               yes           yes       allocated, and reads as zeros
 *	RANGE_WRITE              yes           yes       zeros, written
 *
 * The worker never waits: fallocate and the rest run on threads of the io_uring's. SECURE_ERASE has
 * one way, and no other would be as good: disk_file_erase.c.
 */
#include "blk/disk_file.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* One request: a hole costs the same whatever its size; zeros may have to be written. */
#define DISCARD_MAX (UINT64_C(1) << 30)
#define ZERO_MAX (UINT64_C(32) << 20)

#define ZEROS_SIZE (64u << 10)
#define WRITE_SEGS 16u

/* Never written to. Aligned for any O_DIRECT. */
static uint8_t zeros[ZEROS_SIZE] __attribute__((aligned(65536)));
/* One step of RANGE_WRITE; constant, so that the kernel may copy it whenever it submits. */
#define Z                         \
	{                         \
		zeros, ZEROS_SIZE \
	}
static const struct iovec zero_segs[WRITE_SEGS] = {
	Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z
};
#undef Z

/* The `discard` command of block devices as an io_uring operation (block/ioctl.c, Linux 6.12). */
#define BLOCK_URING_DISCARD _IO(0x12, 0)

static bool way_is_for(enum range_way way, const struct file_disk *f, const struct disk_request *r)
{
	switch (way) {
	case RANGE_DISCARD:
		return r->op == DISK_DISCARD && f->is_device;
	case RANGE_PUNCH:
		return r->op == DISK_DISCARD || r->unmap;
	case RANGE_ZERO:
	case RANGE_WRITE:
		return r->op == DISK_ZERO;
	}
	return false;
}

/* The best way from r->way on. @return false: there is none. */
static bool find_way(const struct file_queue *q, struct disk_request *r)
{
	for (; r->way <= RANGE_WRITE; r->way++) {
		bool gone = r->way < RANGE_WRITE && q->no_way[r->way];

		if (!gone && way_is_for(r->way, file_of(q), r))
			return true;
	}
	return false;
}

void range_begin(struct file_queue *q, struct disk_request *r)
{
	const struct file_disk *f = file_of(q);
	uint64_t end = ALIGN_DOWN(r->offset + r->len, (uint64_t)f->range_align);

	r->way = RANGE_DISCARD;
	/* Where the device's blocks are larger, what is not a whole one of them stays. */
	if (r->op == DISK_DISCARD) {
		uint64_t start = ALIGN_UP(r->offset, (uint64_t)f->range_align);

		r->offset = start;
		r->len = start < end ? end - start : 0;
	}
}

static void end_early(struct file_queue *q, struct disk_request *r, int result)
{
	r->result = result;
	STAILQ_INSERT_TAIL(&q->early, r, link);
}

/*
 * How many bytes the next step of a ZERO takes, and whether they have to be written: what lies in a
 * block of the device's that is not all ours.
 */
static uint64_t next_step(const struct file_disk *f, const struct disk_request *r, bool *write)
{
	uint64_t at = r->offset + r->moved, left = r->len - r->moved;
	uint64_t into = at & (f->range_align - 1);
	uint64_t whole = ALIGN_DOWN(left, (uint64_t)f->range_align);

	*write = r->way == RANGE_WRITE || into || whole == 0;
	if (!*write)
		return whole;
	if (into)
		left = MIN(left, f->range_align - into);
	return MIN(left, (uint64_t)WRITE_SEGS * ZEROS_SIZE);
}

/* Zeros like any other data. As long as it is a multiple of what O_DIRECT asks, straight there. */
static void prepare_write(const struct file_disk *f, struct disk_request *r,
			  struct io_uring_sqe *sqe)
{
	uint64_t at = r->offset + r->moved;
	uint32_t align = f->disk.info.align_io;
	int fd;

	if (r->step > align)
		r->step = ALIGN_DOWN(r->step, (uint64_t)align);
	fd = file_fd(f, IS_ALIGNED(at, align) && IS_ALIGNED(r->step, align));
	if (r->step > ZEROS_SIZE) {
		r->step = ALIGN_DOWN(r->step, (uint64_t)ZEROS_SIZE);
		io_uring_prep_writev(sqe, fd, zero_segs, (unsigned)(r->step / ZEROS_SIZE), at);
	} else {
		io_uring_prep_write(sqe, fd, zeros, (unsigned)r->step, at);
	}
}

static void prepare_range(const struct file_disk *f, struct disk_request *r,
			  struct io_uring_sqe *sqe)
{
	uint64_t at = r->offset + r->moved;

	if (r->way == RANGE_DISCARD) {
		io_uring_prep_rw(IORING_OP_URING_CMD, sqe, f->fd, NULL, 0, 0);
		sqe->cmd_op = BLOCK_URING_DISCARD;
		sqe->addr = at;
		sqe->addr3 = r->step;
		return;
	}
	io_uring_prep_fallocate(
		sqe, f->fd,
		FALLOC_FL_KEEP_SIZE |
			(r->way == RANGE_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
		(off_t)at, (off_t)r->step);
}

void range_issue(struct file_queue *q, struct disk_request *r)
{
	const struct file_disk *f = file_of(q);
	struct io_uring_sqe *sqe;
	bool write = false;

	if (r->len == 0) {
		end_early(q, r, 0);
		return;
	}
	if (r->op == DISK_SECURE_ERASE) {
		r->step = r->len - r->moved;
		r->in_bounce = false;
		eraser_begin(&q->eraser, q->base.poller->worker, r);
		return;
	}
	if (!find_way(q, r)) {
		end_early(q, r, -EOPNOTSUPP);
		return;
	}
	sqe = q->round_bytes ? worker_sqe(q->base.poller->worker) : NULL;
	if (!sqe) {
		STAILQ_INSERT_TAIL(&q->wait_sqe, r, link);
		return;
	}
	r->step = r->op == DISK_ZERO ? next_step(f, r, &write) : r->len - r->moved;
	r->in_bounce = write; /* by other means than r->way */
	if (write) {
		prepare_write(f, r, sqe);
		q->round_bytes -= MIN(q->round_bytes, r->step);
	} else {
		prepare_range(f, r, sqe);
	}
	io_uring_sqe_set_data(sqe, &r->io);
}

/* Is that the kernel's way of saying that it does not know how? */
static bool not_supported(const struct disk_request *r, int res)
{
	return res == -EOPNOTSUPP || res == -ENOSYS || (r->way == RANGE_DISCARD && res == -EINVAL);
}

static bool step_completed(struct file_queue *q, struct disk_request *r, int res)
{
	if (r->op != DISK_SECURE_ERASE && !r->in_bounce && not_supported(r, res)) {
		q->no_way[r->way] = true;
		file_issue(q, r);
		return false;
	}
	if (res < 0 || (r->in_bounce && res == 0)) {
		r->result = res < 0 ? res : -EIO;
		return true;
	}
	r->moved += r->in_bounce ? (uint64_t)res : r->step;
	r->tries = 0;
	if (r->moved == r->len) {
		r->result = 0;
		if (!r->fua)
			return true;
		r->op = DISK_FLUSH; /* and that is the last step */
	}
	file_issue(q, r);
	return false;
}

/* The next erasure begins as soon as this one has ended; where the queue ends, none does. */
bool range_completed(struct file_queue *q, struct disk_request *r, int res)
{
	bool erased = r->op == DISK_SECURE_ERASE;
	bool done = step_completed(q, r, res);
	struct disk_request *next;

	while (erased && (next = eraser_next(&q->eraser)))
		file_issue(q, next);
	return done;
}

/* A figure of the device's queue in sysfs; a partition has its disk's. 0: not known. */
static uint64_t queue_figure(const struct stat *st, const char *name)
{
	static const char *const up[] = { "", "../" };
	unsigned long long value = 0;
	char path[128];
	FILE *file = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(up) && !file; i++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(st->st_rdev),
			 minor(st->st_rdev), up[i], name);
		file = fopen(path, "re");
	}
	if (!file)
		return 0;
	if (fscanf(file, "%llu", &value) != 1)
		value = 0;
	fclose(file);
	return value;
}

static void probe_device(struct file_disk *f, const struct stat *st)
{
	struct disk_info *info = &f->disk.info;
	uint64_t granularity = queue_figure(st, "discard_granularity");
	/* Where we cannot look any more: the kernel says when it is asked to, and zeros do, too. */
	bool discards = f->given || queue_figure(st, "discard_max_bytes") ||
			queue_figure(st, "write_zeroes_max_bytes");
	int block = 0;

	f->range_align = ioctl(f->fd, BLKSSZGET, &block) == 0 && block > 0 && IS_POWER_OF_2(block)
				 ? (uint32_t)block
				 : 4096;
	info->discard_max = discards ? DISCARD_MAX : 0;
	info->discard_align = (uint32_t)MAX(MIN(granularity, (uint64_t)INT32_MAX),
					    (uint64_t)f->range_align);
	info->zero_unmaps = discards;
	if (block_device_can_erase(f->fd)) {
		info->erase_max = DISCARD_MAX;
		info->erase_align = info->discard_align;
	}
}

void range_probe(struct file_disk *f, const struct blk_config *cfg)
{
	struct disk_info *info = &f->disk.info;
	struct stat st;

	f->range_align = 1;
	if (fstat(f->fd, &st))
		return;
	info->has_lifetime = f->is_device && !f->given &&
			     block_device_lifetime(&st, &info->lifetime);
	if (cfg->read_only)
		return;
	info->zero_max = ZERO_MAX;
	if (f->is_device) {
		probe_device(f, &st);
	} else {
		/* Every file system that has holes punches them, and one without says so. */
		info->discard_max = DISCARD_MAX;
		info->discard_align = (uint32_t)MAX(st.st_blksize, 512);
		info->zero_unmaps = true;
	}
	if (cfg->keep_space) {
		info->discard_max = info->erase_max = 0;
		info->zero_unmaps = false;
	}
}
