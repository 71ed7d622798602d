/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that tell of the dirty log. No ring stops for them: the guest runs while it migrates. */
#include "base/log.h"
#include "vhost/dirty_log.h"
#include "vhost/session.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

/* Enough for addresses of 53 bits; few enough to leave addresses of ours for others. */
#define LOG_BYTES_MAX (UINT64_C(1) << 38)
/* Of pages of 1 GiB at its ends. */
#define PIECES_MAX (UINT64_C(2) << 30)

/* What the front-end may have forgotten: pages without a bit are lost on the destination. */
static void warn_short(struct vhost_device *d)
{
	const struct mem_map *map = d->map;
	const struct mem_region *last;
	uint64_t pages;

	if (!map || map->n == 0)
		return;
	last = &map->region[map->n - 1];
	pages = ((last->gpa + last->size - 1) >> LOG_PAGE_SHIFT) + 1;
	if (dirty_log_pages(d->log) < pages)
		device_warn(d,
			    "%s: the front-end's dirty log has room for %" PRIu64
			    " pages and guest memory reaches to page %" PRIu64
			    "; changes beyond it are not told",
			    d->name, dirty_log_pages(d->log), pages);
}

/*
 * Replaces the log, also while rings run; the old one is let go of when no worker writes to it any
 * more. Its bits are the front-end's business: QEMU reads the old log after this is answered.
 */
int handle_set_log_base(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;
	struct dirty_log *old = d->log, *log;

	if (m->payload.log.size > LOG_BYTES_MAX)
		return error_set(err, -ENOMEM,
				 "a log of 0x%" PRIx64 " bytes is longer than 0x%" PRIx64,
				 m->payload.log.size, LOG_BYTES_MAX);
	if (memory_must_wait(s, m->payload.log.size + PIECES_MAX))
		return HANDLER_LATER;
	log = dirty_log_open(d->account, m->fds[0], m->payload.log.size, m->payload.log.offset,
			     d->memory_watch, err);
	if (!log)
		return err->code;
	d->log = log;
	dirty_log_apply_all(d);
	dirty_log_close(old);
	warn_short(d);
	m->payload.u64 = 0;
	m->reply_size = sizeof(m->payload.u64);
	return 0;
}

/* An eventfd to signal whenever bits were set. QEMU's vhost-user sends none. */
int handle_set_log_fd(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;
	int fd = -1, old = d->log_fd;

	if (m->n_fds == 1) {
		if (vring_signal_fd(m->fds[0], err) < 0)
			return err->code;
		fd = m->fds[0];
		m->fds[0] = -1;
	}
	d->log_fd = fd;
	dirty_log_apply_all(d);
	if (old >= 0)
		close(old);
	return 0;
}
