/* SPDX-License-Identifier: Apache-2.0 */
/* The two messages of vhost-user "Inflight I/O tracking". */
#include "vhost/inflight.h"
#include "vhost/session.h"

#include <errno.h>

/*
 * Nothing of it is kept here: the front-end sends it back by SET_INFLIGHT_FD before it starts the
 * rings. No buffer at all is told by a size of 0, as other back-ends do.
 */
int handle_get_inflight_fd(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_user_inflight wanted = m->payload.inflight;
	struct vhost_device *d = s->device;
	int fd = -1;

	m->reply_size = m->hdr.size;
	m->payload.inflight = (struct vhost_user_inflight) { .num_queues = wanted.num_queues,
							     .queue_size = wanted.queue_size };
	if (wanted.num_queues == 0 || wanted.num_queues > d->n_queues)
		error_set(err, -EINVAL, "it asks for %u queues; the device has %u",
			  wanted.num_queues, d->n_queues);
	else if (wanted.queue_size == 0 || wanted.queue_size > RING_SIZE_MAX)
		error_set(err, -EINVAL, "it asks for queues of %u entries: 1 to %d",
			  wanted.queue_size, RING_SIZE_MAX);
	else
		fd = inflight_create(wanted.num_queues, wanted.queue_size, &m->payload.inflight,
				     err);
	if (fd < 0) {
		session_log_refused(s, m, err);
		return 0;
	}
	m->fds[0] = fd;
	m->n_fds = m->reply_fds = 1;
	return 0;
}

/* The rings are quiet; those that ran find nothing in flight and begin anew in the new buffer. */
int handle_set_inflight_fd(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;
	struct inflight *f;

	if (memory_must_wait(s, INFLIGHT_BYTES_MAX))
		return HANDLER_LATER;
	f = inflight_map(d->account, &m->payload.inflight, m->fds[0], d->n_queues, d->memory_watch,
			 err);
	if (!f)
		return err->code;
	for (unsigned i = 0; i < d->n_queues; i++) {
		queue_untrack(&d->queues[i]);
		d->queues[i].setup.failed = false;
	}
	inflight_unmap(d->inflight);
	d->inflight = f;
	if (d->ops->inflight_note)
		d->ops->inflight_note(d, inflight_note(f));
	return 0;
}
