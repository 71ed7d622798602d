/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that becomes larger under its guest. */
#include "base/error.h"
#include "base/log.h"
#include "blk/device_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static int check_size(const struct blk_device *b, uint64_t size, struct error *err)
{
	uint64_t old = b->disk->info.size;

	if (!b->disk->ops->resize)
		return error_set(err, -EOPNOTSUPP, "disk %s: a %s disk cannot be resized",
				 b->cfg.name, b->disk->ops->name);
	if (size % BLK_SECTOR)
		return error_set(err, -EINVAL,
				 "disk %s: %llu bytes are no whole number of sectors of %d",
				 b->cfg.name, (unsigned long long)size, BLK_SECTOR);
	if (size && size < old)
		return error_set(err, -EINVAL,
				 "disk %s has %llu bytes, and %llu would cut off what the guest "
				 "has there; a disk can only grow",
				 b->cfg.name, (unsigned long long)old, (unsigned long long)size);
	return 0;
}

int blk_device_resize(struct blk_device *b, uint64_t size, struct error *err)
{
	uint64_t old = b->disk->info.size, now;
	int rc = check_size(b, size, err);

	if (rc == 0)
		rc = b->disk->ops->resize(b->disk, size, &now, err);
	if (rc)
		return rc;
	now = ALIGN_DOWN(now, (uint64_t)BLK_SECTOR);
	if (now < old)
		return error_set(err, -ESTALE,
				 "disk %s: its file has become shorter, from %llu to %llu bytes; "
				 "the guest is not told, and cannot use what is missing",
				 b->cfg.name, (unsigned long long)old, (unsigned long long)now);
	if (now == old)
		return 0;
	b->disk->info.size = now;
	/* Before the guest is told: it may use the room at once. */
	blk_update_queues(b);
	vhost_device_config_changed(&b->vhost);
	log_info("disk %s: grown from %llu to %llu bytes", b->cfg.name, (unsigned long long)old,
		 (unsigned long long)now);
	return 0;
}

static int on_grown(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct blk_device *b = arg;
	struct error err = { 0 };
	uint64_t count;

	(void)source;
	(void)events;
	if (read(fd, &count, sizeof(count)) < 0)
		return 0;
	if (blk_device_resize(b, 0, &err) < 0)
		log_warn("%s", err.text);
	return 0;
}

int blk_watch_size(struct blk_device *b, struct error *err)
{
	int rc = 0;

	if (b->disk->ops->grown_fd)
		rc = sd_event_add_io(control_event(), &b->grown, b->disk->ops->grown_fd(b->disk),
				     EPOLLIN, on_grown, b);
	return rc < 0 ? error_set(err, rc, "disk %s: %s", b->cfg.name, strerror(-rc)) : 0;
}
