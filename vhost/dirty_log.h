/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log of a device (vhost-user "Migration"): a bitmap in memory of the front-end's, and
 * which rings log to it. Control thread throughout; what the workers do with it stands in
 * ring_log.h.
 */
#ifndef SLUICE_VHOST_DIRTY_LOG_H
#define SLUICE_VHOST_DIRTY_LOG_H

#include "vhost/device.h"

struct error;

/* In the virtio feature word: "log all writes". Legacy virtio has no device with this bit. */
#define VHOST_F_LOG_ALL 26
/* SET_VRING_ADDR's flags: "log writes to the device area, too". */
#define VHOST_VRING_F_LOG 1u

/* One mapping of a log. */
struct dirty_log;

/*
 * Maps [@offset, @offset + @size) of @fd (borrowed) as a log, for @a (mapped_file.h); @watch is
 * told when its file loses pages.
 * @return it, or NULL with @err: a size of 0, a wrap, a file that is shorter or cannot be mapped.
 */
struct dirty_log *dirty_log_open(struct mem_account *a, int fd, uint64_t size, uint64_t offset,
				 struct mem_watch *watch, struct error *err);
/* No ring logs to it any more. NULL is fine. */
void dirty_log_close(struct dirty_log *log);
uint64_t dirty_log_pages(const struct dirty_log *log); /* that it has bits for */

/* Where @vq, whose device area is mapped at @device_area and which is about to start, is to log by
 * what the front-end has said; NULL: nowhere. */
struct ring_log *dirty_log_ring(struct virtqueue *vq, const void *device_area);
/* The same for rings that run already, each through its worker. On return no worker uses what was
 * there before. */
void dirty_log_apply(struct virtqueue *vq);
void dirty_log_apply_all(struct vhost_device *d);

/* The end of a connection: no queue runs. */
void dirty_log_forget(struct vhost_device *d);

#endif
