/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose image is it? Mostly ours from opening to closing. But when a guest migrates on shared
 * storage, two daemons have its image open for a while, and only one of them may have the lock: the
 * source's, until its last queue has stopped, and from then on the destination's (lock: run), which
 * takes it before its first queue runs.
 */
#include "base/error.h"
#include "base/log.h"
#include "blk/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* While another had it, the image may have changed, and even its size. */
static int look_again(const struct file_disk *f, struct error *err)
{
	int cached = f->direct ? f->fd_buffered : f->fd;
	struct stat st;
	int rc;

	if (fstat(f->fd, &st) < 0)
		return error_set(err, -errno, "disk image %s: %s", f->path, strerror(errno));
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < f->disk.info.size)
		return error_set(err, -ESTALE,
				 "disk image %s has become shorter since it was opened; restart "
				 "the disk",
				 f->path);
	/* What we have read before is not what is there now: on another host it was written. */
	rc = cached < 0 ? 0 : posix_fadvise(cached, 0, 0, POSIX_FADV_DONTNEED);
	if (rc)
		return error_set(err, -rc, "disk image %s: the page cache cannot be dropped: %s",
				 f->path, strerror(rc));
	return 0;
}

int file_use(struct disk *d, struct error *err)
{
	struct file_disk *f = container_of(d, struct file_disk, disk);
	int rc;

	if (f->locked)
		return 0;
	/* Given: others are served already, and whoever handed it over can try again. */
	rc = disk_lock(f->fd, f->path, f->read_only, !f->given, err);
	if (rc == 0)
		rc = look_again(f, err);
	if (rc < 0) {
		disk_unlock(f->fd);
		return rc;
	}
	/* What is under way through it has to be waited for as well. No locks: disk_lock() said so.
	 */
	if (f->fd_buffered >= 0)
		disk_lock_also(f->fd_buffered, f->read_only);
	f->locked = true;
	return 0;
}

void file_release(struct disk *d)
{
	struct file_disk *f = container_of(d, struct file_disk, disk);

	if (!f->locked)
		return;
	disk_unlock(f->fd);
	if (f->fd_buffered >= 0)
		disk_unlock(f->fd_buffered);
	f->locked = false;
	log_info("disk image %s: let go of; another may use it now", f->path);
}
