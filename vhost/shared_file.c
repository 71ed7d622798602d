/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/shared_file.h"

#include "base/compiler.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

/* File systems that answer by themselves. Network ones and FUSE are left out on purpose. */
static const char *const local_types[] = { "tmpfs", "ramfs",	"hugetlbfs", "devtmpfs", "ext2",
					   "ext3",  "ext4",	"xfs",	     "btrfs",	 "f2fs",
					   "zfs",   "bcachefs", "overlay" };

#define REMEDY                                                                               \
	"let the VMM share memory from a memfd (QEMU: memory-backend-memfd,share=on), from " \
	"/dev/shm or from hugepages"

/* Of a file in memory. */
#define FREED_AT_ONCE_MAX (1 << 20)

static int mounts_fd = -1;

void shared_file_prepare(void)
{
	if (mounts_fd < 0)
		mounts_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
}

/* Seals belong to files in memory alone: tmpfs, memfds and hugetlbfs. Asks nobody but the kernel.
 */
static bool is_in_memory(int fd)
{
	return fcntl(fd, F_GET_SEALS) >= 0;
}

/* What the kernel knows without asking the file's own file system. */
static int look_at(int fd, struct statx *st)
{
	return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_MNT_ID, st);
}

/* The type of the mount @id, in @type; false where we do not see it. */
static bool find_mount(uint64_t id, char *type, size_t size)
{
	char *line = NULL;
	size_t room = 0;
	bool found = false;
	FILE *f;
	int fd;

	shared_file_prepare();
	fd = mounts_fd < 0 ? -1 : dup(mounts_fd);
	f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	rewind(f); /* the file is made anew by each reading from its start */
	while (!found && getline(&line, &room, f) >= 0) {
		char *sep = strstr(line, " - ");

		found = sep && strtoull(line, NULL, 10) == id;
		if (found)
			snprintf(type, size, "%.*s", (int)strcspn(sep + 3, " "), sep + 3);
	}
	free(line);
	fclose(f);
	return found;
}

static bool is_local(const char *type)
{
	for (unsigned i = 0; i < ARRAY_SIZE(local_types); i++)
		if (strcmp(type, local_types[i]) == 0)
			return true;
	return false;
}

static bool is_dax(const struct statx *st)
{
	char link[64], target[256];
	ssize_t n;

	snprintf(link, sizeof(link), "/sys/dev/char/%u:%u/subsystem", st->stx_rdev_major,
		 st->stx_rdev_minor);
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		return false;
	target[n] = 0;
	return n > 4 && strcmp(target + n - 4, "/dax") == 0;
}

int shared_file_check(int fd, struct error *err)
{
	struct statx st;
	char type[32] = "";

	if (is_in_memory(fd))
		return 0;
	if (look_at(fd, &st) < 0)
		return error_set(err, -EINVAL, "its descriptor cannot be looked at: %s; " REMEDY,
				 strerror(errno));
	if (S_ISCHR(st.stx_mode)) {
		if (is_dax(&st))
			return 0;
		return error_set(err, -EINVAL,
				 "its descriptor is a device (%u:%u) that is not memory; " REMEDY,
				 st.stx_rdev_major, st.stx_rdev_minor);
	}
	if (!S_ISREG(st.stx_mode))
		return error_set(err, -EINVAL, "its descriptor is not a file; " REMEDY);
	if (!(st.stx_mask & STATX_MNT_ID) || !find_mount(st.stx_mnt_id, type, sizeof(type)))
		return error_set(
			err, -EINVAL,
			"its file lies on a file system that sluiced does not see; " REMEDY);
	if (!is_local(type))
		return error_set(err, -EINVAL,
				 "its file lies on %s, which can keep us waiting; " REMEDY, type);
	return 0;
}

bool shared_file_is_pipe(int fd)
{
	struct statx st;

	return look_at(fd, &st) == 0 && S_ISFIFO(st.stx_mode);
}

/* Eventfds share one anonymous inode; no file, pipe or socket has it, but there are others. */
bool shared_file_is_eventfd(int fd)
{
	static struct statx own = { .stx_mask = 0 };
	struct statx st;

	if (!own.stx_mask) {
		int probe = eventfd(0, EFD_CLOEXEC);

		if (probe < 0 || look_at(probe, &own) < 0)
			own.stx_mask = 0;
		if (probe >= 0)
			close(probe);
	}
	return own.stx_mask && look_at(fd, &st) == 0 && st.stx_ino == own.stx_ino &&
	       st.stx_dev_major == own.stx_dev_major && st.stx_dev_minor == own.stx_dev_minor;
}

/*
 * Its memory is freed by whoever closes it last: 40 us a MiB. Hardly any can be added to it between
 * this and a close() that is then the last one: whoever adds it has the file.
 */
static bool has_little(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_blocks <= FREED_AT_ONCE_MAX / 512;
}

/* Others have that inode too: an epoll, a virtual machine of KVM's. Where /proc is away it is no.
 */
static bool is_named_eventfd(int fd)
{
	static const char name[] = "anon_inode:[eventfd]";
	char link[32], target[sizeof(name)]; /* a longer one is cut off, and differs */
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target));
	return n == sizeof(name) - 1 && memcmp(target, name, sizeof(name) - 1) == 0;
}

bool shared_file_closes_at_once(int fd)
{
	return is_in_memory(fd) ? has_little(fd) : is_named_eventfd(fd);
}

uint64_t shared_file_page(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
		return (uint64_t)fs.f_bsize;
	return (uint64_t)sysconf(_SC_PAGESIZE);
}
