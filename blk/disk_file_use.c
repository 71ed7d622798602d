/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose image is it? Mostly ours from opening to closing. But when a guest migrates on shared
 * storage, two daemons have its image open for a while, and only one of them may have the lock: the
 * source's, until its last queue has stopped, and from then on the destination's (lock: run), which
 * takes it before its first queue runs.
 */
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "blk/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/*
 * A front-end has each queue of its device started again by each of many messages, and the control
 * thread serves others: one wait for all of them, and none soon after. What a process that has
 * ended left under way is done by then; one that runs is not waited for at all. Nobody tries by
 * himself later: who was told that his queue does not start does not expect that it does.
 */
#define WAIT_AGAIN_NS UINT64_C(10000000000)

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
	/* Given: others are served already, and whoever handed it over can try again. */
	bool wait = !f->given && (!f->waited_ns || clock_ns() - f->waited_ns > WAIT_AGAIN_NS);
	int rc;

	if (f->locked)
		return 0;
	rc = disk_lock(f->fd, f->path, f->read_only, wait, err);
	if (wait)
		f->waited_ns = rc == -EBUSY ? clock_ns() : 0;
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

/* Its worker says nothing itself. */
void file_log_loss(struct call *c)
{
	const struct file_disk *f = container_of(c, struct file_disk, lost_call);

	log_error("disk %s: a flush or durable write of %s failed: %s; what its guest wrote since "
		  "the last flush may be lost, and flushes fail from now on; mend the storage, "
		  "check the image, and open it again (sluice disk remove and add, or restart "
		  "sluiced) or another (sluice disk replace)",
		  f->name, f->path, strerror(f->disk.lost));
}
