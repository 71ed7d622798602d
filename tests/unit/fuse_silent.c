/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/fuse_silent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILE_BYTES (4u << 20)
#define REQUEST_MAX (FUSE_MIN_READ_BUFFER + (1 << 17))

static void reply(int dev, uint64_t unique, int error, const void *body, size_t len)
{
	struct {
		struct fuse_out_header h;
		char body[256];
	} out = {
		.h = { .len = (uint32_t)(sizeof(out.h) + len), .error = error, .unique = unique }
	};

	if (len)
		memcpy(out.body, body, len);
	if (write(dev, &out, out.h.len) < 0)
		_exit(1);
}

static struct fuse_attr attr_of(uint64_t node)
{
	return (struct fuse_attr) { .ino = node,
				    .size = node == FUSE_ROOT_ID ? 0 : FILE_BYTES,
				    .mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644,
				    .nlink = 1,
				    .blksize = 4096 };
}

static void answer(int dev, const struct fuse_in_header *in)
{
	struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION,
				      .minor = FUSE_KERNEL_MINOR_VERSION,
				      .max_write = 4096 };
	struct fuse_entry_out entry = { .nodeid = 2, .entry_valid = 1000, .attr = attr_of(2) };
	struct fuse_attr_out attr = { .attr = attr_of(in->nodeid) };
	struct fuse_open_out opened = { .fh = 1 };

	switch (in->opcode) {
	case FUSE_INIT:
		reply(dev, in->unique, 0, &init, sizeof(init));
		break;
	case FUSE_LOOKUP:
		reply(dev, in->unique, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
		reply(dev, in->unique, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
		reply(dev, in->unique, 0, &opened, sizeof(opened));
		break;
	default:
		reply(dev, in->unique, -ENOSYS, NULL, 0);
	}
}

/* Until the other end of @quiet is closed; then it is there, and that is all. */
static void serve(int dev, int quiet)
{
	static char request[REQUEST_MAX];

	for (;;) {
		struct pollfd p[] = { { .fd = quiet }, { .fd = dev, .events = POLLIN } };

		poll(p, 2, -1);
		if (p[0].revents)
			pause();
		if (read(dev, request, sizeof(request)) < (ssize_t)sizeof(struct fuse_in_header))
			_exit(1);
		answer(dev, (const struct fuse_in_header *)request);
	}
}

int fuse_silent_open(struct fuse_silent *f)
{
	int dev = open("/dev/fuse", O_RDWR | O_CLOEXEC), quiet[2], rc;
	char text[100];

	*f = (struct fuse_silent) { .fd = -1 };
	strcpy(f->folder, "/tmp/sluice-fuse-XXXXXX");
	if (dev < 0)
		return -errno;
	if (!mkdtemp(f->folder) || pipe2(quiet, O_CLOEXEC) < 0)
		return -errno;
	snprintf(text, sizeof(text), "fd=%d,rootmode=40000,user_id=0,group_id=0", dev);
	if (mount("silent", f->folder, "fuse", MS_NODEV | MS_NOSUID, text) < 0) {
		rc = -errno;
		rmdir(f->folder);
		close(dev);
		return rc;
	}
	f->server = fork();
	if (f->server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(60); /* where somebody is stuck in it for good, and so cannot die either */
		close(quiet[1]);
		serve(dev, quiet[0]);
	}
	close(dev);
	snprintf(text, sizeof(text), "%s/file", f->folder);
	f->fd = open(text, O_RDWR | O_CLOEXEC);
	rc = f->fd < 0 ? -errno : 0;
	close(quiet[1]); /* end of file: silence */
	close(quiet[0]);
	if (rc < 0)
		fuse_silent_close(f);
	return rc;
}

void fuse_silent_close(struct fuse_silent *f)
{
	kill(f->server, SIGKILL);
	waitpid(f->server, NULL, 0);
	if (f->fd >= 0)
		close(f->fd);
	umount2(f->folder, MNT_DETACH);
	rmdir(f->folder);
}
