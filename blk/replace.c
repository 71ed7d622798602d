/* SPDX-License-Identifier: Apache-2.0 */
/* Another image in the place of a disk's, while no front-end is connected. */
#include "base/error.h"
#include "base/log.h"
#include "blk/device_impl.h"
#include "blk/disk_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* An image that another has replaced, until what was written to it is flushed. */
struct old_disk {
	struct blk_device *device;
	struct disk *disk;
	const char *file; /* owned */
	struct last_flush flush;
	void (*replaced)(void *arg);
	void *arg;
};

static void old_flushed(struct last_flush *f)
{
	struct old_disk *old = container_of(f, struct old_disk, flush);
	struct blk_device *b = old->device;
	void (*replaced)(void *arg) = old->replaced;
	void *arg = old->arg;

	if (f->result)
		log_error("disk %s: the last flush of %s failed: %s; writes since the guest's own "
			  "last flush may be lost",
			  b->cfg.name, old->file, strerror(-f->result));
	old->disk->ops->close(old->disk);
	free((char *)old->file);
	free(old);
	b->old = NULL;
	replaced(arg);
	blk_go_on_closing(b);
}

static int may_replace(const struct blk_device *b, struct error *err)
{
	if (b->cfg.kind != DISK_FILE)
		return error_set(err, -EOPNOTSUPP,
				 "disk %s: a %s disk has no image that could be replaced",
				 b->cfg.name, b->disk->ops->name);
	/* Also where the guest does not run: it may be paused, and remember what it has read. */
	if (b->vhost.session)
		return error_set(err, -EBUSY,
				 "disk %s is in use: a front-end is connected, and its guest would "
				 "find another disk under it; power it off first",
				 b->cfg.name);
	if (b->old || b->settling || b->close_asked)
		return error_set(err, -EBUSY, "disk %s: its image is being flushed; try again",
				 b->cfg.name);
	return 0;
}

static int open_new(const struct blk_device *b, struct blk_config *cfg, struct disk **disk,
		    struct error *err)
{
	int rc = may_replace(b, err);

	if (rc)
		return rc;
	return cfg->file ? disk_kinds[cfg->kind]->open(cfg, disk, err)
			 : error_set(err, -ENOMEM, "disk %s: out of memory", cfg->name);
}

int blk_device_replace(struct blk_device *b, const char *file, struct image_file *image,
		       void (*replaced)(void *arg), void *arg, struct error *err)
{
	struct old_disk *old = calloc(1, sizeof(*old));
	struct blk_config cfg = b->cfg;
	struct disk *disk = NULL;
	int rc;

	/* The disk keeps the name, for as long as it is open. */
	cfg.file = old ? strdup(file) : NULL;
	cfg.image = image;
	rc = open_new(b, &cfg, &disk, err);
	image_drop(image); /* what was not taken */
	if (rc || !old) {
		free((char *)cfg.file);
		free(old);
		return rc;
	}
	*old = (struct old_disk) {
		.device = b, .disk = b->disk, .file = b->cfg.file, .replaced = replaced, .arg = arg
	};
	b->disk = disk;
	b->cfg.file = cfg.file;
	b->old = old;
	last_flush_begin(&old->flush, old->disk, b->vhost.workers, old_flushed);
	return 0;
}
