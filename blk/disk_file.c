/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks in files and on block devices: how a request gets through the worker's io_uring. The bytes
 * of the image are the bytes of the disk, always: its format is never probed, so nothing that a
 * guest writes to its disk can name another file.
 *
 * A request is issued in one or more steps, each for what is left of it: file_issue() decides anew
 * each time, by where the rest lies, how it goes.
 *
 *	O_DIRECT, aligned ──────────────► straight between the device and the guest's pages
 *	O_DIRECT, memory misaligned ────► by way of an aligned bounce buffer, a piece at a time
 *	O_DIRECT, place misaligned ─────► the same file through the page cache
 *	buffered ───────────────────────► the page cache
 *
 * The first two go by Linux AIO instead of io_uring where that suits the device; see disk_aio.h.
 * Ranges without data (DISCARD, ZERO) take disk_file_range.c's ways.
 */
#include "blk/disk_file.h"

#include "blk/iov.h"
#include "poll/control.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BOUNCE_SIZE (128u << 10) /* a multiple of any alignment that is accepted */
#define TRIES_MAX 16
/*
 * Bytes that a queue sends on their way in one round, and in one step of a request. What goes
 * through the page cache may be copied within the system call, and what does not has its pages
 * looked up there: the worker has other guests. More than any driver asks for in one request.
 */
#define ROUND_BYTES (4u << 20)
#define STEP_BYTES (2u << 20)
/* Of both, where the device does them while they are submitted: as much as one ring_pop(). */
#define AIO_ROUND_BYTES (128u << 10)

static void file_queue_close(struct disk_queue *dq)
{
	struct file_queue *q = container_of(dq, struct file_queue, base);

	assert(q->n_bounce_free == BOUNCE_BUFFERS);
	assert(q->aio.n_staged == 0 && q->aio.n_under_way == 0);
	aio_close(&q->aio);
	eraser_close(&q->eraser);
	munmap(q->bounce_mem, BOUNCE_BUFFERS * BOUNCE_SIZE);
	free(q);
}

static int file_queue_open(struct disk *d, struct poller *poller, struct disk_queue **out)
{
	struct file_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->base.disk = d;
	q->base.poller = poller;
	STAILQ_INIT(&q->wait_sqe);
	STAILQ_INIT(&q->wait_bounce);
	STAILQ_INIT(&q->early);
	/* Without it io_uring does. */
	if (file_of(q)->aio)
		aio_open(&q->aio);
	q->round_max = q->aio.ring ? AIO_ROUND_BYTES : ROUND_BYTES;
	q->step_max = q->aio.ring ? AIO_ROUND_BYTES : STEP_BYTES;
	q->round_bytes = q->round_max;
	/* Takes memory only when a guest makes use of it. */
	q->bounce_mem = mmap(NULL, BOUNCE_BUFFERS * BOUNCE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (q->bounce_mem == MAP_FAILED) {
		aio_close(&q->aio);
		free(q);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < BOUNCE_BUFFERS; i++)
		q->bounce_free[q->n_bounce_free++] = q->bounce_mem + i * BOUNCE_SIZE;
	if (d->info.erase_max) {
		int rc = eraser_open(&q->eraser, file_of(q)->fd);

		if (rc) {
			file_queue_close(&q->base);
			return rc;
		}
	}
	*out = &q->base;
	return 0;
}

/*
 * What is left of @r has an offset or length that O_DIRECT cannot do. It goes through the page
 * cache, which is coherent with direct I/O to the same inode: the kernel writes dirty pages back
 * and drops them around each direct transfer, and one fdatasync covers both. That is safe only if
 * no direct request ever covers part of a page, which is why disk_file_open.c keeps this for
 * alignments of a page and more. (What stays undefined are two writes to the same sectors at
 * the same time, which no disk defines.)
 */
int file_fd(const struct file_disk *f, bool place_aligned)
{
	return !f->direct || place_aligned ? f->fd : f->fd_buffered;
}

static void prepare(struct io_uring_sqe *sqe, int fd, struct disk_request *r,
		    const struct iovec *iov, unsigned n_iov)
{
	uint64_t offset = r->offset + r->moved;

	/* One segment needs no vector for the kernel to copy in. */
	if (r->op == DISK_READ && n_iov == 1)
		io_uring_prep_read(sqe, fd, iov->iov_base, (unsigned)iov->iov_len, offset);
	else if (r->op == DISK_READ)
		io_uring_prep_readv(sqe, fd, iov, n_iov, offset);
	else if (n_iov == 1)
		io_uring_prep_write(sqe, fd, iov->iov_base, (unsigned)iov->iov_len, offset);
	else
		io_uring_prep_writev(sqe, fd, iov, n_iov, offset);
	if (r->fua)
		sqe->rw_flags = RWF_DSYNC;
	io_uring_sqe_set_data(sqe, &r->io);
}

/* A step of @r goes into @sqe, or by AIO where that is NULL. */
static void send_step(struct file_queue *q, struct io_uring_sqe *sqe, int fd,
		      struct disk_request *r, const struct iovec *iov, unsigned n_iov)
{
	if (sqe)
		prepare(sqe, fd, r, iov, n_iov);
	else
		aio_stage(&q->aio, r->op == DISK_WRITE, r->fua, fd, iov, n_iov,
			  r->offset + r->moved, r);
}

static bool take_bounce(struct file_queue *q, struct disk_request *r)
{
	if (!r->bounce && q->n_bounce_free)
		r->bounce = q->bounce_free[--q->n_bounce_free];
	return r->bounce;
}

/*
 * How many segments of @r one step takes, with *@bytes in them; 0: not all of the first. Cut
 * between segments, a transfer stays as aligned as it was.
 */
static unsigned step_segs(const struct disk_request *r, uint64_t max, uint64_t *bytes)
{
	unsigned n = 0;

	*bytes = r->len - r->moved;
	if (likely(*bytes <= max))
		return r->n_iov;
	for (*bytes = 0; *bytes + r->iov[n].iov_len <= max; n++)
		*bytes += r->iov[n].iov_len;
	if (n == 0)
		*bytes = max;
	return n;
}

/* One step: what is left of @r, or of it as much as one step or a bounce buffer holds. */
static void issue_rw(struct file_queue *q, struct disk_request *r)
{
	const struct file_disk *f = file_of(q);
	const struct disk_info *info = &f->disk.info;
	uint64_t left = r->len - r->moved;
	bool place_aligned = IS_ALIGNED(r->offset + r->moved, info->align_io) &&
			     IS_ALIGNED(left, info->align_io);
	int fd = file_fd(f, place_aligned);
	bool bounce = f->direct && place_aligned &&
		      !iov_is_aligned(r->iov, r->n_iov, info->align_mem, info->align_io);
	struct iovec piece = { .iov_len = MIN(left, (uint64_t)BOUNCE_SIZE) };
	bool aio = place_aligned && aio_is_on(&q->aio, worker_now(q->base.poller->worker));
	struct io_uring_sqe *sqe = NULL;
	uint64_t bytes;
	unsigned n_segs;

	if (unlikely(fd < 0)) {
		/* The kernel stopped a transfer within a block: the file is not what it was. */
		r->result = -EIO;
		STAILQ_INSERT_TAIL(&q->early, r, link);
		return;
	}
	if (unlikely(bounce) && !take_bounce(q, r)) {
		STAILQ_INSERT_TAIL(&q->wait_bounce, r, link);
		return;
	}
	if (!aio && q->round_bytes)
		sqe = worker_sqe(q->base.poller->worker);
	if (unlikely(!q->round_bytes || (!aio && !sqe))) {
		STAILQ_INSERT_TAIL(&q->wait_sqe, r, link);
		return;
	}
	n_segs = step_segs(r, q->step_max, &bytes);
	if (unlikely(bounce)) {
		bytes = piece.iov_len;
		piece.iov_base = r->bounce;
		r->bounced = true;
		if (r->op == DISK_WRITE)
			iov_gather(r->iov, r->n_iov, r->bounce, piece.iov_len);
		send_step(q, sqe, fd, r, &piece, 1);
	} else if (unlikely(n_segs == 0)) {
		piece = (struct iovec) { r->iov->iov_base, bytes };
		send_step(q, sqe, fd, r, &piece, 1);
	} else {
		send_step(q, sqe, fd, r, r->iov, n_segs);
	}
	q->round_bytes -= MIN(q->round_bytes, bytes);
	r->in_bounce = bounce;
}

/*
 * Flushes cover the writes that had completed when the flush came (virtio 1.3 5.2.6.2): those are
 * in the kernel, so fdatasync finds them, whatever it runs beside.
 */
static void issue_flush(struct file_queue *q, struct disk_request *r)
{
	struct io_uring_sqe *sqe = worker_sqe(q->base.poller->worker);

	if (unlikely(!sqe)) {
		STAILQ_INSERT_TAIL(&q->wait_sqe, r, link);
		return;
	}
	io_uring_prep_fsync(sqe, file_of(q)->fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data(sqe, &r->io);
}

/*
 * Linux tells of a page that it could not write back once, to the first fsync() of a description
 * that comes to look, and then takes the page for clean: the next fsync() succeeds, and the data is
 * gone ("fsyncgate"). So a disk whose data stands in the page cache is not flushed again after a
 * flush that failed, as QEMU's block/file-posix.c does not either (page_cache_inconsistent). With
 * O_DIRECT no page holds data: what failed is the device's own flush, or the file system's, which
 * keep what they have, and another one tells the truth. A write with fua (RWF_DSYNC) looks as a
 * flush does, and may be told of the page of another. That is EIO; no space is the write's own.
 */
static void note_loss(struct file_queue *q, const struct disk_request *r, int res)
{
	struct file_disk *f = file_of(q);
	bool looks = r->op == DISK_FLUSH || (r->op == DISK_WRITE && r->fua && res == -EIO);
	int none = 0;

	if (!looks || (f->direct && f->fd_buffered < 0) || res == -ECANCELED)
		return;
	/* Once in the life of a disk. It runs before the call by which this queue ends. */
	if (__atomic_compare_exchange_n(&f->disk.lost, &none, -res, false, __ATOMIC_ACQ_REL,
					__ATOMIC_RELAXED))
		control_call(&f->lost_call);
}

static int lost_result(const struct file_queue *q)
{
	return -__atomic_load_n(&q->base.disk->lost, __ATOMIC_RELAXED);
}

void file_issue(struct file_queue *q, struct disk_request *r)
{
	if (unlikely(q->ends)) {
		r->result = -ECANCELED;
		STAILQ_INSERT_TAIL(&q->early, r, link);
	} else if (unlikely(disk_request_is_in_vain(q->base.disk, r))) {
		r->result = lost_result(q);
		STAILQ_INSERT_TAIL(&q->early, r, link);
	} else if (r->op == DISK_FLUSH)
		issue_flush(q, r);
	else if (unlikely(disk_request_is_range(r)))
		range_issue(q, r);
	else
		issue_rw(q, r);
}

static void file_submit(struct disk_queue *dq, struct disk_request *r)
{
	struct file_queue *q = container_of(dq, struct file_queue, base);

	r->moved = 0;
	r->bounce = NULL;
	r->tries = 0;
	r->io.owner = dq->poller;
	if (unlikely(disk_request_is_range(r)))
		range_begin(q, r);
	/* Behind those that wait already. */
	if (unlikely(!STAILQ_EMPTY(&q->wait_sqe)))
		STAILQ_INSERT_TAIL(&q->wait_sqe, r, link);
	else
		file_issue(q, r);
}

/* The bytes of one step. @return true when they were the last. */
static bool advance(struct disk_request *r, uint32_t bytes)
{
	if (r->in_bounce && r->op == DISK_READ)
		iov_scatter(r->iov, r->n_iov, r->bounce, bytes);
	disk_request_advance(r, bytes);
	r->moved += bytes;
	r->tries = 0;
	return r->moved == r->len;
}

/* @return true: @r is done, its result set; false: more of it is under way. */
static bool file_completed(struct file_queue *q, struct disk_request *r)
{
	int res = r->io.res;

	/* Of a queue that ends: it is not sent again, but comes back as cancelled. */
	if ((res == -EAGAIN || res == -EINTR) && (q->ends || r->tries++ < TRIES_MAX)) {
		file_issue(q, r);
		return false;
	}
	if (unlikely(disk_request_is_range(r)))
		return range_completed(q, r, res);
	if (unlikely(res < 0))
		note_loss(q, r, res);
	if (res < 0) {
		r->result = res;
	} else if (unlikely(disk_request_is_in_vain(q->base.disk, r))) {
		/* The failure that was told to another beside it may have been this one's. */
		r->result = lost_result(q);
	} else if (r->op == DISK_FLUSH) {
		r->result = 0;
	} else if (res == 0) {
		/* The end of a file that was longer when it was opened. */
		r->result = -EIO;
	} else if (advance(r, (uint32_t)res)) {
		r->result = 0;
	} else {
		file_issue(q, r);
		return false;
	}
	return true;
}

static void give_bounce(struct file_queue *q, struct disk_request *r)
{
	struct disk_request *next = STAILQ_FIRST(&q->wait_bounce);

	q->bounce_free[q->n_bounce_free++] = r->bounce;
	r->bounce = NULL;
	if (next) {
		STAILQ_REMOVE_HEAD(&q->wait_bounce, link);
		file_issue(q, next);
	}
}

/* Those that found no submission entry before; stops when there is none again. */
static void issue_waiting(struct file_queue *q)
{
	struct disk_request_list waiting = STAILQ_HEAD_INITIALIZER(waiting);
	struct disk_request *r;

	STAILQ_CONCAT(&waiting, &q->wait_sqe);
	while ((r = STAILQ_FIRST(&waiting))) {
		STAILQ_REMOVE_HEAD(&waiting, link);
		file_issue(q, r);
		if (!STAILQ_EMPTY(&q->wait_sqe))
			break;
	}
	STAILQ_CONCAT(&q->wait_sqe, &waiting);
}

static unsigned file_reap(struct disk_queue *dq, struct disk_request **done, unsigned max)
{
	struct file_queue *q = container_of(dq, struct file_queue, base);
	struct disk_request *r;
	unsigned n = 0;
	struct io_op *op;
	int32_t res;

	q->round_bytes = q->round_max;
	if (unlikely(!STAILQ_EMPTY(&q->wait_sqe)))
		issue_waiting(q);
	while (n < max && unlikely(!STAILQ_EMPTY(&q->early))) {
		done[n++] = STAILQ_FIRST(&q->early);
		STAILQ_REMOVE_HEAD(&q->early, link);
	}
	while (n < max && (op = poller_take_done(dq->poller))) {
		r = container_of(op, struct disk_request, io);
		if (unlikely(op == &q->cancel_op))
			q->cancels = false; /* what came of it the request itself tells */
		else if (file_completed(q, r))
			done[n++] = r;
	}
	while (n < max && (r = aio_take(&q->aio, &res))) {
		r->io.res = res;
		if (file_completed(q, r))
			done[n++] = r;
	}
	for (unsigned i = 0; i < n; i++)
		if (unlikely(done[i]->bounce))
			give_bounce(q, done[i]);
	return n;
}

/* What AIO does not take goes by io_uring, which has it wait where it must, or says what is wrong.
 */
static void file_kick(struct disk_queue *dq)
{
	struct file_queue *q = container_of(dq, struct file_queue, base);
	const struct worker_stats *w;
	void *left[AIO_BURST];
	unsigned n_left;

	if (likely(q->aio.n_staged == 0))
		return;
	/* Where the worker sleeps, but for AIO itself, it is in one of these. */
	w = worker_stats(dq->poller->worker);
	aio_send(&q->aio, counter_read(&w->submits) + counter_read(&w->sleeps) + 1, left, &n_left);
	for (unsigned i = 0; i < n_left; i++)
		STAILQ_INSERT_TAIL(&q->wait_sqe, (struct disk_request *)left[i], link);
}

static bool file_pending(const struct disk_queue *dq)
{
	const struct file_queue *q = container_of(dq, const struct file_queue, base);

	/* By AIO no longer than a device takes that has just turned slow. */
	return !STAILQ_EMPTY(&q->wait_sqe) || !STAILQ_EMPTY(&q->early) || q->aio.n_staged ||
	       q->aio.n_under_way;
}

/*
 * One at a time. The kernel looks for @r->io among what it has, by its user_data, and finds nothing
 * where that came back already; whatever it finds comes back once, by its own completion.
 */
static bool file_cancel(struct disk_queue *dq, struct disk_request *r)
{
	struct file_queue *q = container_of(dq, struct file_queue, base);
	struct io_uring_sqe *sqe;

	/* Those that wait to be sent come back too, when they would be: see file_issue(). */
	q->ends = true;
	__atomic_store_n(&q->eraser.cancel, true, __ATOMIC_RELAXED);
	if (q->cancels || !r)
		return !q->cancels;
	sqe = worker_sqe(dq->poller->worker);
	if (!sqe)
		return false;
	io_uring_prep_cancel(sqe, &r->io, 0);
	q->cancel_op.owner = dq->poller;
	io_uring_sqe_set_data(sqe, &q->cancel_op);
	q->cancels = true;
	return true;
}

const struct disk_ops disk_file = {
	.name = "file",
	.open = file_open,
	.close = file_close,
	.use = file_use,
	.release = file_release,
	.resize = file_resize,
	.queue_open = file_queue_open,
	.queue_close = file_queue_close,
	.submit = file_submit,
	.reap = file_reap,
	.kick = file_kick,
	.pending = file_pending,
	.cancel = file_cancel,
};
