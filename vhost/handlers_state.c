/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-user "Migrating back-end state": the device's own state as bytes that nobody else reads. */
#include "vhost/session.h"
#include "vhost/state_transfer.h"

#include <errno.h>
#include <inttypes.h>

#define REPLY_FAILED 1u
#define REPLY_NO_FD (UINT64_C(1) << 8) /* the front-end's own descriptor is used */

static int check(const struct vhost_session *s, const struct vhost_user_transfer *transfer,
		 struct error *err)
{
	if (transfer->direction > STATE_LOAD || transfer->phase != 0)
		return error_set(err, -EINVAL,
				 "direction %" PRIu32 " or phase %" PRIu32 " is unknown",
				 transfer->direction, transfer->phase);
	/* "the device must be suspended" */
	for (unsigned i = 0; i < s->device->n_queues; i++)
		if (s->device->queues[i].state != VIRTQUEUE_STOPPED)
			return error_set(err, -EBUSY, "queue %u runs; it has to be stopped first",
					 i);
	return 0;
}

/* A transfer that is under way gives way to the new one. Errors are told by the reply. */
int handle_set_device_state_fd(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_user_transfer transfer = m->payload.transfer;
	int fd;

	state_transfer_free(s->transfer);
	s->transfer = NULL;
	if (check(s, &transfer, err) == 0) {
		fd = m->fds[0];
		m->fds[0] = -1;
		s->transfer = state_transfer_begin(s->device, fd, transfer.direction == STATE_LOAD,
						   err);
	}
	if (!s->transfer)
		session_log_refused(s, m, err);
	m->payload.u64 = REPLY_NO_FD | (s->transfer ? 0 : REPLY_FAILED);
	m->reply_size = sizeof(m->payload.u64);
	return 0;
}

static void settled(void *arg)
{
	session_go_on(arg);
}

int handle_check_device_state(struct vhost_session *s, struct message *m, struct error *err)
{
	int rc;

	if (s->transfer && !state_transfer_settle(s->transfer, settled, s))
		return HANDLER_LATER;
	if (s->transfer)
		rc = state_transfer_outcome(s->transfer, err);
	else
		rc = error_set(err, -EINVAL, "there was no transfer");
	if (rc < 0)
		session_log_refused(s, m, err);
	m->payload.u64 = rc < 0 ? REPLY_FAILED : 0;
	m->reply_size = sizeof(m->payload.u64);
	return 0;
}
