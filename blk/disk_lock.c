/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who else has this image open? The locks are QEMU's (its "image locking"), so that a QEMU or a
 * qemu-img on the same image is noticed, and notices us: whoever uses an image holds a shared lock
 * on one byte for each thing that it does, and on one byte for each thing that it cannot bear
 * others doing; then it looks whether anybody holds the opposite byte. All locks are shared ones,
 * so a read-only descriptor can hold them; two who start at once may both refuse, never both go on.
 * They belong to the open file description: two devices of one daemon exclude each other too.
 *
 * And a description lives as long as the last request that the kernel has of it. A daemon that was
 * killed leaves io_uring requests behind, which its death does not wait for: a write of its may
 * reach the disk after the daemon that follows has done the same request again, acknowledged it,
 * and done a newer one to the same sectors. The lock is what keeps the two apart: while the old
 * writes are under way it is held, and we wait.
 */
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "blk/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

enum { LOCK_USES = 100, LOCK_FORBIDS = 200 };		 /* first byte of each kind */
enum { PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3 }; /* bytes from there on */

static int lock_byte(int fd, off_t byte)
{
	struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &fl) ? -errno : 0;
}

/* Does another open file description hold @byte? */
static bool byte_is_held(int fd, off_t byte)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

void disk_unlock(int fd)
{
	struct flock fl = { .l_type = F_UNLCK,
			    .l_whence = SEEK_SET,
			    .l_start = LOCK_USES,
			    .l_len = 2 * (LOCK_FORBIDS - LOCK_USES) };

	fcntl(fd, F_OFD_SETLK, &fl);
}

/* For the requests of a daemon that has just died; a disk that takes longer fails the start. */
#define WAIT_NS UINT64_C(2000000000)
#define LOOK_AGAIN_NS 2000000

static const unsigned char forbidden[] = { PERM_WRITE, PERM_RESIZE };

int disk_lock_also(int fd, bool read_only)
{
	int rc = lock_byte(fd, LOCK_USES + PERM_READ);

	if (rc == 0 && !read_only)
		rc = lock_byte(fd, LOCK_USES + PERM_WRITE);
	for (unsigned i = 0; rc == 0 && i < ARRAY_SIZE(forbidden); i++)
		rc = lock_byte(fd, LOCK_FORBIDS + forbidden[i]);
	return rc;
}

/* Takes the bytes that are ours, and looks at the others'. @return 0, or -errno with @err. */
static int try_lock(int fd, const char *path, bool read_only, struct error *err)
{
	int rc = disk_lock_also(fd, read_only);
	bool conflict = false;

	if (rc == -ENOLCK || rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -EINVAL) {
		log_warn("disk image %s: its file system has no locks; make sure that nobody else "
			 "writes to it",
			 path);
		return 0;
	}
	if (rc && rc != -EAGAIN && rc != -EACCES)
		return error_set(err, rc, "disk image %s: cannot be locked: %m", path);

	conflict |= rc != 0;
	conflict |= byte_is_held(fd, LOCK_FORBIDS + PERM_READ);
	conflict |= !read_only && byte_is_held(fd, LOCK_FORBIDS + PERM_WRITE);
	for (unsigned i = 0; i < ARRAY_SIZE(forbidden); i++)
		conflict |= byte_is_held(fd, LOCK_USES + forbidden[i]);
	if (!conflict)
		return 0;
	return error_set(
		err, -EBUSY,
		read_only ? "disk image %s: another process or device writes to it (its "
			    "lock is held); stop that one, or use a copy of the image"
			  : "disk image %s: another process or device uses it (its lock is "
			    "held); stop that one, or make both read-only, or say lock: run if a "
			    "guest is to migrate from there to here",
		path);
}

int disk_lock(int fd, const char *path, bool read_only, bool wait, struct error *err)
{
	uint64_t start = clock_ns();
	int rc = try_lock(fd, path, read_only, err);

	while (wait && rc == -EBUSY && clock_ns() - start < WAIT_NS) {
		nanosleep(&(struct timespec) { .tv_nsec = LOOK_AGAIN_NS }, NULL);
		rc = try_lock(fd, path, read_only, err);
		if (rc == 0)
			log_info("disk image %s: its lock was held for %u ms more, by requests of "
				 "a process that has ended",
				 path, (unsigned)((clock_ns() - start) / 1000000));
	}
	return rc;
}
