/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's file that somebody else has opened for us, because we may not any more. What kind of
 * descriptor it is, the kernel tells: a descriptor for reading cannot become a disk that is
 * written, nor a pipe one at all.
 */
#include "base/error.h"
#include "base/image_file.h"
#include "blk/disk_file.h"
#include "vhost/disposal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define NO_IMAGE(err, rc, cfg, what) error_set(err, rc, "disk image %s: %s", (cfg)->file, what)

/* What holds for either descriptor. @return 0 with its @flags and @st. */
static int check_one(const struct blk_config *cfg, int fd, int *flags, struct stat *st,
		     struct error *err)
{
	int mode, rc;

	*flags = fcntl(fd, F_GETFL);
	if (*flags < 0)
		return NO_IMAGE(err, -EBADF, cfg, "its open descriptor was not handed over");
	if (*flags & O_PATH)
		return NO_IMAGE(err, -EBADF, cfg,
				"the descriptor handed over is a name of it only (O_PATH)");
	/* Kinds first: fcntl() answers for sockets and pipes as well. */
	if (fstat(fd, st))
		return NO_IMAGE(err, -errno, cfg, strerror(errno));
	rc = image_file_check_type(cfg->file, st->st_mode, err);
	if (rc)
		return rc;
	mode = *flags & O_ACCMODE;
	if (mode != O_RDWR && (mode != O_RDONLY || !cfg->read_only))
		return NO_IMAGE(err, -EACCES, cfg,
				mode == O_RDONLY
					? "the descriptor handed over can only be read; open it "
					  "for writing, or say read_only: true"
					: "the descriptor handed over cannot be read");
	/* Every write would go to the end of the file, whatever its place. */
	if (*flags & O_APPEND)
		return NO_IMAGE(err, -EINVAL, cfg, "the descriptor handed over appends (O_APPEND)");
	return 0;
}

static int check(const struct blk_config *cfg, const struct image_file *f, struct error *err)
{
	struct stat st = { 0 }, second = { 0 };
	int flags, rc;

	rc = check_one(cfg, f->fd, &flags, &st, err);
	if (rc)
		return rc;
	if ((flags & O_DIRECT) && cfg->cache != DISK_CACHE_NONE)
		return NO_IMAGE(err, -EINVAL, cfg,
				"the descriptor handed over has O_DIRECT, which goes with cache: "
				"none alone");
	if (!(flags & O_DIRECT))
		return f->fd_buffered < 0 ? 0
					  : NO_IMAGE(err, -EINVAL, cfg,
						     "a second descriptor of it was handed over, "
						     "and the first is not O_DIRECT");
	rc = check_one(cfg, f->fd_buffered, &flags, &second, err);
	if (rc)
		return rc;
	if (st.st_dev != second.st_dev || st.st_ino != second.st_ino)
		return NO_IMAGE(err, -EINVAL, cfg,
				"the two descriptors handed over are of different files");
	if (flags & O_DIRECT)
		return NO_IMAGE(err, -EINVAL, cfg,
				"both descriptors handed over have O_DIRECT; the second must not");
	return 0;
}

int file_take_given(const struct blk_config *cfg, struct image_file *out, struct error *err)
{
	int rc = check(cfg, cfg->image, err);

	if (rc)
		return rc;
	*out = *cfg->image;
	*cfg->image = (struct image_file) { -1, -1 };
	return 0;
}

void image_drop(struct image_file *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		disposal_close(NULL, f->fd);
	if (f->fd_buffered >= 0)
		disposal_close(NULL, f->fd_buffered);
	*f = (struct image_file) { -1, -1 };
}
