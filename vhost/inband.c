/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notifications as messages (vhost-user "In-band notifications"): for simulators, and other front-
 * ends that want to see each one go by. Rings and workers do not know: where the front-end names no
 * eventfd, the ring gets one of our own. A VRING_KICK signals it; and the control thread watches
 * those for calls and errors, and turns what it finds there into messages.
 *
 * One message is on its way at a time, and its answer is awaited, as the text asks for. Calls that
 * come meanwhile are one call.
 */
#include "vhost/session.h"

#include "poll/control.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const uint32_t requests[] = {
	[INBAND_CALL] = VHOST_USER_BACKEND_VRING_CALL,
	[INBAND_ERR] = VHOST_USER_BACKEND_VRING_ERR,
};

static int own_eventfd(struct error *err)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd < 0 ? error_set(err, -errno, "no eventfd: %s", strerror(errno)) : fd;
}

static void take_count(int fd)
{
	eventfd_t count;

	(void)eventfd_read(fd, &count);
}

void inband_resume(struct vhost_session *s)
{
	struct vhost_device *d = s->device;

	for (unsigned i = 0; i < d->n_queues && !s->inband_waits; i++) {
		/* Each queue in turn, from the one after the last that was served. */
		struct virtqueue *vq = &d->queues[(s->inband_next + i) % d->n_queues];
		struct vhost_user_vring_state state = { .index = vq->index };

		/* vhost-user "Suspended device state": a stopped ring says nothing. */
		if (vq->state != VIRTQUEUE_RUNNING)
			continue;
		for (unsigned kind = 0; kind < INBAND_KINDS && !s->inband_waits; kind++) {
			if (!vq->inband[kind].due ||
			    backend_send(s, requests[kind], VHOST_USER_NEED_REPLY, &state,
					 sizeof(state)) < 0)
				continue;
			vq->inband[kind].due = false;
			s->inband_waits = requests[kind];
			s->inband_next = (vq->index + 1) % d->n_queues;
		}
	}
}

void inband_answered(struct vhost_session *s, uint32_t request)
{
	if (request != s->inband_waits)
		return;
	s->inband_waits = 0;
	inband_resume(s);
}

static int on_signal(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct inband *in = arg;

	(void)source;
	(void)events;
	take_count(fd);
	in->due = true;
	if (in->vq->device->session)
		inband_resume(in->vq->device->session);
	return 0;
}

int inband_watch(struct virtqueue *vq, enum inband_kind kind, struct error *err)
{
	struct inband *in = &vq->inband[kind];
	int fd = own_eventfd(err), rc;

	if (fd < 0)
		return fd;
	in->vq = vq;
	rc = sd_event_add_io(control_event(), &in->io, fd, EPOLLIN, on_signal, in);
	if (rc < 0) {
		close(fd);
		return error_set(err, rc, "no event source: %s", strerror(-rc));
	}
	return fd;
}

void inband_unwatch(struct virtqueue *vq, enum inband_kind kind)
{
	struct inband *in = &vq->inband[kind];

	in->io = sd_event_source_disable_unref(in->io);
	in->due = false;
}

int inband_kick_fd(struct error *err)
{
	return own_eventfd(err);
}

static void wake(struct virtqueue *vq, void *arg)
{
	(void)arg;
	if (vq->poller)
		poller_wake(vq->poller);
}

/* The ring starts by it, if SET_VRING_KICK did not do that already (vhost-user "Ring states"). */
int handle_vring_kick(struct vhost_session *s, struct message *m, struct error *err)
{
	struct virtqueue *vq = message_queue(s, m);

	if (!vq)
		return error_set(err, -EINVAL, "there is no queue %u", m->payload.state.index);
	if (!vq->setup.started) {
		int fd = inband_kick_fd(err);

		if (fd < 0)
			return fd;
		vq->setup.kick_fd = fd;
		vq->setup.started = true;
		vq->setup.failed = false;
	} else if (vq->state == VIRTQUEUE_RUNNING) {
		vhost_queue_change(vq, wake, NULL);
	}
	return 0;
}
