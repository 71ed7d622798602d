/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/dirty_log.h"

#include "base/error.h"
#include "vhost/mapped_file.h"
#include "vhost/mem_guard.h"
#include "vhost/shared_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct dirty_log {
	uint8_t *bits;
	uint64_t size;		 /* bytes */
	struct mapped_file file; /* it starts with a page */
	struct mem_guard *guard;
};

static int check(int fd, uint64_t size, uint64_t offset, struct error *err)
{
	struct stat st;

	/* A bit for each page that there can be is 2^49 bytes: no sum below wraps. */
	if (size == 0 || size > UINT64_C(1) << 49 || offset > UINT64_C(1) << 60)
		return error_set(err, -EINVAL,
				 "a log of 0x%" PRIx64 " bytes at offset 0x%" PRIx64
				 " cannot be: it has a bit for each page of guest memory",
				 size, offset);
	if (shared_file_check(fd, err) < 0)
		return err->code;
	if (fstat(fd, &st) < 0)
		return error_set(err, -errno, "its descriptor: %s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "its descriptor is not a file of shared memory");
	/* A touch beyond the end of the file would be a SIGBUS. */
	if (offset + size > (uint64_t)st.st_size)
		return error_set(err, -EINVAL,
				 "a log of 0x%" PRIx64 " bytes at offset 0x%" PRIx64
				 " lies beyond the end of its file (0x%" PRIx64 ")",
				 size, offset, (uint64_t)st.st_size);
	return 0;
}

struct dirty_log *dirty_log_open(struct mem_account *a, int fd, uint64_t size, uint64_t offset,
				 struct mem_watch *watch, struct error *err)
{
	uint64_t page, lead;
	struct dirty_log *log;

	if (check(fd, size, offset, err) < 0)
		return NULL;
	page = shared_file_page(fd);
	lead = offset & (page - 1);
	log = malloc(sizeof(*log));
	if (!log) {
		error_set(err, -ENOMEM, "out of memory for a dirty log");
		return NULL;
	}
	*log = (struct dirty_log) { .size = size };
	if (mapped_file_open(&log->file, a, fd, offset - lead, ALIGN_UP(lead + size, page),
			     MAP_NORESERVE, err) < 0) {
		error_prefix(err,
			     "a log of 0x%" PRIx64 " bytes at offset 0x%" PRIx64
			     " cannot be mapped",
			     size, offset);
		dirty_log_close(log);
		return NULL;
	}
	log->bits = (uint8_t *)log->file.base + lead;
	log->guard = mem_guard_add(
		&(struct mem_guarded) {
			.base = log->file.base, .len = log->file.len, .page = page, .fd = -1 },
		watch);
	if (!log->guard) {
		error_set(err, -ENOMEM, "out of memory for a dirty log");
		dirty_log_close(log);
		return NULL;
	}
	return log;
}

void dirty_log_close(struct dirty_log *log)
{
	if (!log)
		return;
	mem_guard_remove(log->guard);
	/* The mapping alone keeps the whole file, which may be a large one. */
	mapped_file_close(&log->file);
	free(log);
}

uint64_t dirty_log_pages(const struct dirty_log *log)
{
	return log->size * 8;
}

/*
 * The front-end says where the used ring is ("log_guest_addr"), by guest address. Behind an IOMMU
 * its idea of a guest address is an I/O virtual one, and the bitmap is not about those.
 */
static bool device_gpa(const struct virtqueue *vq, const void *area, gpa_t *gpa)
{
	unsigned hint = 0;

	*gpa = vq->setup.log;
	if (!vhost_has_feature(vq->device, VIRTIO_F_ACCESS_PLATFORM))
		return true;
	return mem_find_host(vq->device->map, area, &hint, gpa);
}

static struct ring_log wanted(const struct virtqueue *vq, const void *area)
{
	const struct vhost_device *d = vq->device;
	struct ring_log log = { .call_fd = d->log_fd };

	if (!d->log)
		return log;
	log.bits = d->log->bits;
	log.n_pages = dirty_log_pages(d->log);
	log.data = vhost_has_feature(d, VHOST_F_LOG_ALL);
	log.device_area = (vq->setup.flags & VHOST_VRING_F_LOG) &&
			  device_gpa(vq, area, &log.device_gpa);
	return log;
}

bool vhost_is_migrating(const struct vhost_device *d)
{
	return d->log && vhost_has_feature(d, VHOST_F_LOG_ALL);
}

static bool is_on(const struct ring_log *log)
{
	return log->data || log->device_area;
}

struct ring_log *dirty_log_ring(struct virtqueue *vq, const void *device_area)
{
	vq->log = wanted(vq, device_area);
	return is_on(&vq->log) ? &vq->log : NULL;
}

/* On the worker: between two polls, with the queue's lock. */
static void change(struct virtqueue *vq, void *arg)
{
	const struct ring_log *log = arg;

	vq->log = *log;
	vq->ring.log = is_on(log) ? &vq->log : NULL;
}

void dirty_log_apply(struct virtqueue *vq)
{
	const struct ring *r = &vq->ring;
	const void *area = r->layout == RING_SPLIT ? (const void *)r->split.used
						   : (const void *)r->packed.device;
	struct ring_log log;

	if (vq->state == VIRTQUEUE_STOPPED)
		return; /* queue_start() will see to it */
	log = wanted(vq, area);
	vhost_queue_change(vq, change, &log);
}

void dirty_log_apply_all(struct vhost_device *d)
{
	for (unsigned i = 0; i < d->n_queues; i++)
		dirty_log_apply(&d->queues[i]);
}

void dirty_log_forget(struct vhost_device *d)
{
	dirty_log_close(d->log);
	d->log = NULL;
	if (d->log_fd >= 0)
		close(d->log_fd);
	d->log_fd = -1;
}
