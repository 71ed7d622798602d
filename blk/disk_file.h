/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in a file or on a block device: what opening (disk_file_open.c) and I/O share. */
#ifndef SLUICE_BLK_DISK_FILE_H
#define SLUICE_BLK_DISK_FILE_H

#include "base/image_file.h"
#include "blk/disk.h"
#include "blk/disk_aio.h"
#include "blk/disk_file_erase.h"

struct file_disk {
	struct disk disk;
	int fd;		 /* O_DIRECT if @direct; holds the lock (so does fd_buffered) */
	int fd_buffered; /* the same file through the page cache, see file_fd(); -1: not needed */
	bool direct, read_only;
	bool given;	      /* by descriptors: what is not to be read without more is not known */
	bool is_device;	      /* a block device */
	bool aio;	      /* one that Linux AIO suits */
	uint32_t range_align; /* bytes: what DISCARD and ZERO ask of offsets and lengths */
	bool locked;	      /* the image is ours; the control thread's */
	uint64_t waited_ns;   /* when its lock was waited for in vain; 0: never; likewise */
	struct call lost_call;	 /* posted when disk.lost is set, which it is once */
	const char *name, *path; /* the configuration's, which outlives the disk */
};

#define FILE_BURST 32 /* see disk_info.burst: all in one io_uring_enter */
#define FILE_BURST_AIO 16
#define BOUNCE_BUFFERS 16 /* for each queue; further requests wait for one */

struct file_queue {
	struct disk_queue base;
	struct disk_request_list wait_sqe;    /* for the next round */
	struct disk_request_list wait_bounce; /* for a bounce buffer, which another request holds */
	struct disk_request_list early;	      /* done without I/O, result set */
	bool no_way[RANGE_WRITE];	      /* by enum range_way: the kernel cannot */
	uint8_t *bounce_mem;
	void *bounce_free[BOUNCE_BUFFERS];
	unsigned n_bounce_free;
	uint64_t round_bytes;	      /* still to be issued before the next reap */
	uint64_t round_max, step_max; /* see ROUND_BYTES */
	struct aio aio;
	struct eraser eraser; /* of a disk with erase_max */
	bool ends;	      /* nothing is issued any more; see disk_ops.cancel */
	bool cancels;	      /* cancel_op is under way */
	struct io_op cancel_op;
};

static inline struct file_disk *file_of(const struct file_queue *q)
{
	return container_of(q->base.disk, struct file_disk, disk);
}

/* Worker thread: the next step of @r. */
void file_issue(struct file_queue *q, struct disk_request *r);
/* The descriptor for a transfer whose place is, or is not, aligned to info.align_io; -1: none. */
int file_fd(const struct file_disk *f, bool place_aligned);

/* DISCARD, ZERO and SECURE_ERASE; disk_file_range.c. Worker thread, but for range_probe(). */
static inline bool disk_request_is_range(const struct disk_request *r)
{
	return r->op >= DISK_DISCARD;
}
void range_begin(struct file_queue *q, struct disk_request *r);
void range_issue(struct file_queue *q, struct disk_request *r);
/* A step has ended with @res. @return true: @r is done, its result set. */
bool range_completed(struct file_queue *q, struct disk_request *r, int res);
/* Control thread, of an open file: what ranges it can do, into disk.info. */
void range_probe(struct file_disk *f, const struct blk_config *cfg);

/* For struct disk_ops. */
int file_open(const struct blk_config *cfg, struct disk **out, struct error *err);
void file_close(struct disk *d);
/* Control thread: disk.lost has been set. disk_file_use.c. */
void file_log_loss(struct call *c);

/*
 * Takes cfg->image's descriptors, which came from outside: nothing is believed of them. @return 0,
 * or -errno with @err. disk_file_given.c.
 */
int file_take_given(const struct blk_config *cfg, struct image_file *out, struct error *err);

/*
 * Closes what somebody else has opened and we do not serve: it may be of any kind, and holds up
 * nobody. NULL is fine.
 */
void image_drop(struct image_file *f);

/* For struct disk_ops; disk_file_resize.c. */
int file_resize(struct disk *d, uint64_t size, uint64_t *now, struct error *err);
/* The size of the open file or device, in bytes. @return 0 or -errno. */
int file_size(int fd, uint64_t *size);

/* For struct disk_ops; disk_file_use.c. */
int file_use(struct disk *d, struct error *err);
void file_release(struct disk *d);

/*
 * Control thread. Locks @fd against other users of the image; see disk_lock.c. @wait: up to 2 s for
 * what a process that has just ended left under way.
 */
int disk_lock(int fd, const char *path, bool read_only, bool wait, struct error *err);
/* Holds the same locks by a further description of the image, once disk_lock() has succeeded. */
int disk_lock_also(int fd, bool read_only);
void disk_unlock(int fd);

#endif
