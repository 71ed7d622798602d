/* SPDX-License-Identifier: Apache-2.0 */
#include "base/image_file.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* errno of a failed stat or open, as a sentence. */
static int explain(const struct image_wish *w, int rc, struct error *err)
{
	switch (rc) {
	case -ENOENT:
		return error_set(err, rc,
				 "disk image %s: %s; create it, for example with: truncate -s 10G "
				 "FILE",
				 w->path, strerror(-rc));
	case -EACCES:
	case -EPERM:
		if (w->read_only)
			return error_set(err, rc, "disk image %s: %s; let %s read it", w->path,
					 strerror(-rc), w->user);
		return error_set(err, rc, "disk image %s: %s; let %s read and write it, or %s",
				 w->path, strerror(-rc), w->user, w->say_read_only);
	case -EROFS:
		return error_set(err, rc, "disk image %s: %s; %s", w->path, strerror(-rc),
				 w->say_read_only);
	case -EBUSY:
		return error_set(err, rc,
				 "disk image %s: %s; it is mounted, or part of another volume: "
				 "release it first",
				 w->path, strerror(-rc));
	default:
		return error_set(err, rc, "disk image %s: %s", w->path, strerror(-rc));
	}
}

int image_file_check_type(const char *path, mode_t mode, struct error *err)
{
	if (S_ISREG(mode) || S_ISBLK(mode))
		return 0;
	return error_set(err, S_ISDIR(mode) ? -EISDIR : -EINVAL,
			 "disk image %s is a %s; name a raw image file or a block device", path,
			 S_ISDIR(mode)	  ? "directory"
			 : S_ISCHR(mode)  ? "character device"
			 : S_ISFIFO(mode) ? "pipe"
					  : "socket");
}

int image_file_open(const struct image_wish *w, struct image_file *out, struct error *err)
{
	int flags = O_CLOEXEC | (w->read_only ? O_RDONLY : O_RDWR), exclusive = 0, rc;
	struct stat st;

	*out = (struct image_file) { -1, -1 };
	/* Before opening, which of a pipe would wait and of a tape would rewind. */
	if (stat(w->path, &st))
		return explain(w, -errno, err);
	rc = image_file_check_type(w->path, st.st_mode, err);
	if (rc)
		return rc;
	if (S_ISBLK(st.st_mode) && w->exclusive)
		exclusive = O_EXCL;
	if (w->direct)
		out->fd = open(w->path, flags | exclusive | O_DIRECT);
	if (out->fd >= 0) {
		/* Of the same holder: a second O_EXCL would exclude the first. */
		out->fd_buffered = open(w->path, flags);
		if (out->fd_buffered >= 0)
			return 0;
		rc = -errno;
		image_file_close(out);
		return explain(w, rc, err);
	}
	/* EINVAL: the file system has no O_DIRECT, which is the caller's to speak of. */
	if (w->direct && errno != EINVAL)
		return explain(w, -errno, err);
	out->fd = open(w->path, flags | exclusive);
	return out->fd < 0 ? explain(w, -errno, err) : 0;
}

void image_file_close(struct image_file *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		close(f->fd);
	if (f->fd_buffered >= 0)
		close(f->fd_buffered);
	*f = (struct image_file) { -1, -1 };
}
