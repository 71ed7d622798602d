/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in a file or on a block device: what opening (disk_file_open.c) and I/O share. */
#ifndef SLUICE_BLK_DISK_FILE_H
#define SLUICE_BLK_DISK_FILE_H

#include "blk/disk.h"

struct file_disk {
	struct disk disk;
	int fd;		 /* O_DIRECT if @direct; holds the lock (so does fd_buffered) */
	int fd_buffered; /* the same file through the page cache, see file_fd(); -1: not needed */
	bool direct, read_only;
	bool locked;	  /* the image is ours; the control thread's */
	const char *path; /* the configuration's, which outlives the disk */
};

/* For struct disk_ops. */
int file_open(const struct blk_config *cfg, struct disk **out, struct error *err);
void file_close(struct disk *d);

/* For struct disk_ops; disk_file_use.c. */
int file_use(struct disk *d, struct error *err);
void file_release(struct disk *d);

/*
 * Control thread. Locks @fd against other users of the image; see disk_lock.c. Waits up to 2 s for
 * what a process that has just ended left under way.
 */
int disk_lock(int fd, const char *path, bool read_only, struct error *err);
/* Holds the same locks by a further description of the image, once disk_lock() has succeeded. */
int disk_lock_also(int fd, bool read_only);
void disk_unlock(int fd);

#endif
