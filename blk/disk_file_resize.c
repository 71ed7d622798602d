/* SPDX-License-Identifier: Apache-2.0 */
/* A file that becomes larger while its disk is served. */
#include "base/error.h"
#include "blk/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

int file_size(int fd, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	*size = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, size))
		return -errno;
	return 0;
}

/* What has been allocated beyond the old end reads as zeros, as ftruncate says. */
static int grow(const struct file_disk *f, uint64_t from, uint64_t to, struct error *err)
{
	if (f->is_device)
		return error_set(err, -EINVAL,
				 "%s is a block device of %llu bytes; make that larger, and then "
				 "resize the disk without naming a size",
				 f->path, (unsigned long long)from);
	if (f->read_only)
		return error_set(err, -EROFS,
				 "disk image %s is open for reading; make it larger, and then "
				 "resize the disk without naming a size",
				 f->path);
	if (ftruncate(f->fd, (off_t)to))
		return error_set(err, -errno, "disk image %s cannot be made larger: %s", f->path,
				 strerror(errno));
	return 0;
}

int file_resize(struct disk *d, uint64_t size, uint64_t *now, struct error *err)
{
	const struct file_disk *f = container_of(d, struct file_disk, disk);
	int rc = file_size(f->fd, now);

	if (rc)
		return error_set(err, rc, "disk image %s: %s", f->path, strerror(-rc));
	if (size > *now) {
		rc = grow(f, *now, size, err);
		*now = size;
	} else if (size) {
		/* The file may have grown further than the guest is to know. */
		*now = size;
	}
	return rc;
}
