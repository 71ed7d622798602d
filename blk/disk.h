/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands behind a virtio-blk device: one open image, device or invention, shared by the
 * device's queues, each of which has its own struct disk_queue on its own worker.
 *
 * The contract of a request: submit() takes it and cannot fail; reap() gives it back exactly once,
 * with result set, on the queue's own worker. Even a request that is refused at once comes back
 * through reap(). Completions are pulled, never called back.
 */
#ifndef SLUICE_BLK_DISK_H
#define SLUICE_BLK_DISK_H

#include "blk/blk.h"
#include "blk/block_device.h"

struct disk;

enum disk_op {
	DISK_READ,
	DISK_WRITE,
	DISK_FLUSH,
	DISK_DISCARD,	   /* what was there is of no use any more: the space may be given back */
	DISK_ZERO,	   /* reads as zeros from now on */
	DISK_SECURE_ERASE, /* nobody finds what was there, not even in the medium itself */
};

/* How a file does a DISCARD or ZERO, the best way first; the next one where the kernel cannot. */
enum range_way { RANGE_DISCARD, RANGE_PUNCH, RANGE_ZERO, RANGE_WRITE };

struct disk_request {
	enum disk_op op;
	bool fua;	 /* WRITE, DISCARD, ZERO: on stable storage before it completes */
	bool unmap;	 /* ZERO: the space may be given back */
	uint64_t offset; /* bytes */
	uint64_t len;	 /* bytes, the sum over @iov; ranges without data have none */
	/*
	 * Guest memory. The disk moves on in it by disk_request_advance(), which leaves the
	 * segments that it passes as they were.
	 */
	struct iovec *iov;
	unsigned n_iov;
	size_t cut; /* bytes taken off the start of the first one */
	int result; /* 0 or -errno, set when reaped: all of len, or an error */

	/* The disk's own while the request is with it. */
	struct io_op io;
	uint64_t moved; /* bytes transferred so far */
	void *bounce;	/* aligned copy, NULL: none */
	bool in_bounce; /* the step under way goes through it */
	bool bounced;	/* some step did; for the count */
	uint8_t tries;	/* submissions in a row that the kernel sent back (EINTR, EAGAIN) */
	uint8_t way;	/* enum range_way */
	uint64_t step;	/* bytes of the step under way, of a DISCARD, ZERO or SECURE_ERASE */
	STAILQ_ENTRY(disk_request) link;
};
STAILQ_HEAD(disk_request_list, disk_request);

/* The first @bytes of what is left of @r were transferred. */
static inline void disk_request_advance(struct disk_request *r, size_t bytes)
{
	if (r->n_iov == 0)
		return;
	r->iov->iov_base = (char *)r->iov->iov_base - r->cut;
	r->iov->iov_len += r->cut;
	bytes += r->cut;
	for (; r->n_iov && bytes >= r->iov->iov_len; r->iov++, r->n_iov--)
		bytes -= r->iov->iov_len;
	r->cut = r->n_iov ? bytes : 0;
	if (r->cut) {
		r->iov->iov_base = (char *)r->iov->iov_base + r->cut;
		r->iov->iov_len -= r->cut;
	}
}

/* As it was when it was submitted first, to be submitted again; @segs: what iov was then. */
static inline void disk_request_rewind(struct disk_request *r, struct iovec *segs)
{
	if (r->n_iov && r->cut) {
		r->iov->iov_base = (char *)r->iov->iov_base - r->cut;
		r->iov->iov_len += r->cut;
	}
	if (r->op == DISK_READ || r->op == DISK_WRITE) {
		r->n_iov += (unsigned)(r->iov - segs);
		r->iov = segs;
	}
	r->cut = 0;
}

/* Facts about an open disk. */
struct disk_info {
	uint64_t size;		      /* bytes, a multiple of 512 */
	uint32_t block_size;	      /* bytes, what the guest is told (logical) */
	uint32_t physical_size;	      /* bytes, physical block; a power of two times block_size */
	uint32_t optimal_size;	      /* bytes, of a sustained transfer; 0: not known */
	uint32_t align_mem, align_io; /* what O_DIRECT asks of addresses and of offsets/lengths */
	bool volatile_cache;	      /* writes need a flush to be durable */
	/*
	 * Requests that a queue takes in one poll: from 1 to 32. As many as one system call sends
	 * off well; but few where the worker does them itself. What they are is shown to the guest
	 * in one step, and a guest with no more in flight than that would do nothing while the
	 * worker works, and the worker nothing while the guest does.
	 */
	unsigned burst;
	/* Bytes that one DISCARD, one ZERO may have; 0: the disk cannot. */
	uint64_t discard_max, zero_max;
	uint32_t discard_align; /* bytes: discards that keep to it give all their space back */
	bool zero_unmaps;	/* a ZERO with unmap may give space back */
	uint64_t erase_max;	/* bytes of one SECURE_ERASE; 0: the disk cannot */
	uint32_t erase_align;	/* bytes: what its place must be a multiple of */
	bool has_lifetime;
	struct disk_lifetime lifetime;
	char how[96]; /* for status */
};

/* Every disk's queue starts with this: one virtqueue's door to the disk, on one worker. */
struct disk_queue {
	struct disk *disk;
	struct poller *poller;
};

struct disk_ops {
	const char *name;
	/* Control thread. Half-built disks are closed by close(). */
	int (*open)(const struct blk_config *cfg, struct disk **out, struct error *err);
	void (*close)(struct disk *d);
	/*
	 * Control thread, where a disk can be shared, else NULL: before the first queue runs, to be
	 * its only user; and when no queue runs any more and all is flushed, to leave it to others.
	 */
	int (*use)(struct disk *d, struct error *err);
	void (*release)(struct disk *d);
	/*
	 * Control thread, where a disk does anything for a guest by itself, else NULL: none runs
	 * any more, and until use() another host may write to what is behind the disk. A flush
	 * follows.
	 */
	void (*idle)(struct disk *d);
	/*
	 * Control thread, where the size can change, else NULL: makes the disk @size bytes large;
	 * 0: takes notice of how large it is by now. Never smaller. info.size is the caller's to
	 * set. @return 0 with *@now, or -errno with @err.
	 */
	int (*resize)(struct disk *d, uint64_t size, uint64_t *now, struct error *err);
	/*
	 * Control thread, where a disk grows without anybody having asked for it, else NULL: an
	 * eventfd of the disk's, readable when it has. resize() with 0 then says by how much.
	 */
	int (*grown_fd)(struct disk *d);
	/*
	 * Control thread, where a disk can be away, else NULL. @return for how long it is, 0: it is
	 * there; @why: what happened last.
	 */
	uint64_t (*away)(struct disk *d, char *why, size_t bytes);
	/*
	 * Control thread; NULL: whatever is submitted comes back soon anyhow. The device is being
	 * closed: what its queues still have with the disk, and a last flush, are not to wait for
	 * long. Then comes close().
	 */
	void (*closing)(struct disk *d);
	/* Control thread; @poller is the queue's, not yet on its worker. */
	int (*queue_open)(struct disk *d, struct poller *poller, struct disk_queue **out);
	void (*queue_close)(struct disk_queue *q); /* nothing in flight */
	/* Worker thread. */
	void (*submit)(struct disk_queue *q, struct disk_request *r);
	/* Up to @max finished requests. @return how many. */
	unsigned (*reap)(struct disk_queue *q, struct disk_request **done, unsigned max);
	/* Sends what was submitted on its way, once a poll, before reap. NULL where the worker's
	 * ring does that, at the round's end. */
	void (*kick)(struct disk_queue *q);
	/*
	 * Is there something to do that no io_op of the poller's will announce (requests that wait
	 * for a submission entry, results that wait for reap)? Then the poller must not park.
	 */
	bool (*pending)(const struct disk_queue *q);
	/*
	 * Worker thread; NULL: whatever is submitted comes back soon anyhow. The queue ends:
	 * nothing is begun any more, and @r, which the disk has, is to come back as soon as it can.
	 * What has not been done whole comes back with -ECANCELED, and nothing of it happens later;
	 * but for what a server has got that stays silent, of which nobody can say (NBD_END_S).
	 * @return false: not yet, ask again. @r NULL: is no such call under way any more?
	 */
	bool (*cancel)(struct disk_queue *q, struct disk_request *r);
};

/* Every disk starts with this. */
struct disk {
	const struct disk_ops *ops;
	struct disk_info info;
	/*
	 * Atomic: the errno of a flush that failed, where what it was for is not there any more to
	 * be flushed again. From then on nothing is durable: flushes and writes with fua fail with
	 * it. 0: none. Until the disk is closed.
	 */
	int lost;
};

/* Does @r ask for what a disk that has lost something cannot promise? */
static inline bool disk_request_is_in_vain(const struct disk *d, const struct disk_request *r)
{
	return __atomic_load_n(&d->lost, __ATOMIC_ACQUIRE) && (r->op == DISK_FLUSH || r->fua);
}

extern const struct disk_ops disk_file, disk_null, disk_ram, disk_nbd;
/* The back-ends, by enum disk_kind: the only list of them. */
extern const struct disk_ops *const disk_kinds[];

#endif
