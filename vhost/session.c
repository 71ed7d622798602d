/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's life: from accept() to the last queue's stop. */
#include "vhost/session.h"
#include "vhost/ring_track.h"

#include "base/clock.h"
#include "base/log.h"
#include "poll/control.h"
#include "vhost/dirty_log.h"
#include "vhost/disposal.h"
#include "vhost/inflight.h"
#include "vhost/mem_guard.h"
#include "vhost/postcopy.h"
#include "vhost/state_transfer.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Messages of one session in a row, before other sockets get their turn. */
#define MESSAGES_MAX 32
/* Refused messages of one session that are logged; the rest are only counted. */
#define REFUSED_LOG_MAX 20

static void session_free(struct vhost_session *s)
{
	struct vhost_device *d = s->device;

	for (unsigned i = 0; i < d->n_queues; i++)
		queue_setup_reset(&d->queues[i]);
	memory_change_end(s);
	memory_wait_end(s);
	state_transfer_free(s->transfer);
	iommu_forget(d);
	postcopy_forget(d);
	mem_map_free(d->map);
	d->map = NULL;
	dirty_log_forget(d);
	inflight_unmap(d->inflight);
	d->inflight = NULL;
	mem_watch_reset(d->memory_watch);
	d->features = 0;
	d->protocol_features = 0;
	d->status = 0;
	d->session = NULL;

	message_close_fds(s);
	backend_close(s);
	disposal_close_socket(d->disposal, s->fd);
	device_info(d, "%s: front-end disconnected: %s", d->name, s->why);
	free(s->tx);
	free(s);
	if (d->ops->disconnected)
		d->ops->disconnected(d);
	quota_end(d);
	device_session_ended(d); /* may free the device */
}

/* Whether there is a buffer in which what is in flight could be left. */
static bool can_leave(const struct virtqueue *vq)
{
	return vq->ring.track && vq->ring.track->region && !vq->ring.broken;
}

/*
 * Begins to stop @only (QUIET_QUEUE, QUIET_LEAVING), the marked queues or all. @return whether any
 * has to be waited for.
 */
static bool stop_queues(struct vhost_session *s, enum quiet which, const struct virtqueue *only)
{
	struct vhost_device *d = s->device;

	for (unsigned i = 0; i < d->n_queues && which != QUIET_NONE; i++) {
		struct virtqueue *vq = &d->queues[i];

		if (((which == QUIET_QUEUE || which == QUIET_LEAVING) && vq != only) ||
		    (which == QUIET_MARKED && !vq->must_stop) || vq->state != VIRTQUEUE_RUNNING)
			continue;
		vq->must_stop = false;
		vq->leaves = which == QUIET_LEAVING && can_leave(vq);
		s->n_stopping++;
		queue_stop(vq);
	}
	return s->n_stopping > 0;
}

void session_close(struct vhost_session *s, const char *why)
{
	struct vhost_device *d = s->device;

	if (s->closing)
		return;
	s->closing = true;
	s->why = why;
	s->io = sd_event_source_disable_unref(s->io);
	s->message_waits = false;
	/* Replies that it has not read are lost with the connection; so are messages not read here.
	 */
	if (!stop_queues(s, QUIET_ALL, NULL))
		session_free(s);
	else
		quota_end(d);
}

bool session_peer_gone(const struct vhost_session *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLRDHUP };

	return s->closing || (poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)));
}

void session_log_refused(struct vhost_session *s, const struct message *m, const struct error *err)
{
	struct vhost_device *d = s->device;

	counter_add(&d->stats.messages_refused, 1);
	s->refused++;
	if (s->refused <= REFUSED_LOG_MAX)
		device_warn(d, "%s: %s (%" PRIu32 ") refused: %s%s", d->name,
			    message_name(m->hdr.request), m->hdr.request, err->text,
			    s->refused < REFUSED_LOG_MAX
				    ? ""
				    : "; further ones of this connection are not logged");
}

static void log_running(struct vhost_session *s, const struct virtqueue *vq)
{
	struct vhost_device *d = s->device;
	char text[640];

	if (s->running_logged)
		return;
	s->running_logged = true;
	device_info(d, "%s: running: %s rings, first %s of %" PRIu32 " entries", d->name,
		    vq->ring.layout == RING_PACKED ? "packed" : "split", vq->name, vq->ring.size);
	device_features_text(d->features, text, sizeof(text));
	device_log(d, LOG_LEVEL_DEBUG, "%s: features %s, protocol features 0x%" PRIx64, d->name,
		   text, d->protocol_features);
}

/* Starts what should run and does not. @return the first failure, each of which is logged. */
static int start_queues(struct vhost_session *s)
{
	struct vhost_device *d = s->device;
	int first = 0;

	for (unsigned i = 0; i < d->n_queues; i++) {
		struct virtqueue *vq = &d->queues[i];
		struct error err = { 0 };
		int rc;

		if (vq->state != VIRTQUEUE_STOPPED || !queue_should_run(vq))
			continue;
		rc = queue_start(vq, &err);
		if (rc == 0) {
			log_running(s, vq);
			continue;
		}
		if (rc == -EAGAIN)
			continue; /* the front-end was asked for its addresses */
		device_warn(d, "%s: not started: %s", vq->name, err.text);
		if (first == 0)
			first = rc;
	}
	if (vhost_device_state(d) == VHOST_DEVICE_RUNNING)
		backend_resume(s);
	return first;
}

void session_retry(struct vhost_session *s)
{
	/* Else message_finish() does it. */
	if (!s->closing && !s->message_waits)
		start_queues(s);
}

/* Stops what @which says, and then goes on with the message. @return false: nothing runs there. */
static bool message_wait(struct vhost_session *s, enum quiet which)
{
	if (!stop_queues(s, which, message_queue(s, &s->rx)))
		return false;
	s->message_waits = true;
	session_listen(s);
	return true;
}

/* The rings are as quiet as the message needs them. @return 0 or -errno: hang up. */
static int message_finish(struct vhost_session *s, int rc, struct error *err)
{
	struct message *m = &s->rx;
	/* A ring that is wrongly described fails the message that described it, and no other. */
	bool of_queue = message_queue(s, m) != NULL;
	int start_rc;

	while (rc == 0 && (rc = message_handle(s, m, err)) > 0) {
		if (rc == HANDLER_LATER) {
			s->message_waits = true;
			session_listen(s);
			return 0;
		}
		if (message_wait(s, QUIET_MARKED))
			return 0;
		rc = 0;
	}
	if (rc < 0)
		session_log_refused(s, m, err);
	if (rc < 0 && s->why)
		return rc; /* the text wants us to hang up */
	start_rc = start_queues(s);
	if (rc == 0 && of_queue)
		rc = start_rc;
	if (vhost_device_state(s->device) != VHOST_DEVICE_RUNNING)
		s->running_logged = false;
	rc = message_answer(s, m, rc);
	session_receive_next(s);
	return rc;
}

/* A whole message is in s->rx. @return 0 or -errno: hang up. */
static int message_begin(struct vhost_session *s)
{
	struct vhost_device *d = s->device;
	struct message *m = &s->rx;
	bool spared = m->hdr.request == VHOST_USER_IOTLB_MSG;
	uint64_t now = spared ? clock_ns() : 0;
	struct error err = { 0 };
	int rc;

	counter_add(&d->stats.messages, 1);
	rc = message_check(s, m, &err);
	if (rc == 0 && message_wait(s, message_quiet(s, m)))
		return 0;
	rc = message_finish(s, rc, &err);
	if (spared)
		quota_spare(d, now);
	return rc;
}

void session_listen(struct vhost_session *s)
{
	bool on = !s->message_waits && !s->device->quota.waits;

	if (s->io)
		sd_event_source_set_enabled(s->io, on ? SD_EVENT_ON : SD_EVENT_OFF);
	backend_listen(s);
}

static void message_resume(struct vhost_session *s)
{
	struct vhost_device *d = s->device;
	struct error err = { 0 };

	s->message_waits = false;
	session_listen(s);
	if (message_finish(s, 0, &err) < 0)
		session_close(s, s->why);
	else
		quota_end(d);
}

void session_go_on(struct vhost_session *s)
{
	if (s->closing)
		return;
	quota_begin(s->device);
	message_resume(s);
}

void session_queue_stopped(struct vhost_session *s, struct virtqueue *vq)
{
	struct vhost_device *d = s->device;

	queue_stop_done(vq);
	if (--s->n_stopping)
		return;
	quota_begin(d);
	if (s->closing) {
		session_free(s);
	} else if (s->message_waits) {
		message_resume(s);
	}
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct vhost_session *s = arg;
	struct vhost_device *d = s->device;
	int rc = 0;

	(void)source;
	(void)fd;
	quota_begin(d);
	if (events & EPOLLOUT)
		rc = session_flush(s);
	for (unsigned i = 0; rc == 0 && i < MESSAGES_MAX && !s->message_waits; i++) {
		rc = session_receive(s);
		if (rc == 0)
			break; /* the rest has to come yet */
		if (rc > 0)
			rc = message_begin(s);
	}
	if (rc >= 0) {
		quota_end(d);
		return 0;
	}
	if (s->rx_got && rc == -EPROTO)
		counter_add(&d->stats.messages_refused, 1);
	session_close(s, s->why ? s->why : strerror(-rc));
	return 0;
}

static void log_connected(const struct vhost_session *s)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);

	if (getsockopt(s->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 0)
		device_info(s->device, "%s: front-end connected: process %d of user %u",
			    s->device->name, (int)peer.pid, (unsigned)peer.uid);
	else
		device_info(s->device, "%s: front-end connected", s->device->name);
}

int session_open(struct vhost_device *d, int fd)
{
	struct vhost_session *s = calloc(1, sizeof(*s));
	int rc;

	if (!s) {
		disposal_close_socket(d->disposal, fd);
		return -ENOMEM;
	}
	s->device = d;
	s->fd = fd;
	/*
	 * Else our recvmsg() would drop what came with MSG_OOB, and close the descriptors in it
	 * here. This end is ours alone: nobody takes the option back.
	 */
	rc = setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &(int) { 1 }, sizeof(int)) < 0 ? -errno : 0;
	if (rc == 0)
		rc = sd_event_add_io(control_event(), &s->io, fd, EPOLLIN, on_io, s);
	if (rc < 0) {
		disposal_close_socket(d->disposal, fd);
		free(s);
		return rc;
	}
	d->session = s;
	counter_add(&d->stats.connects, 1);
	log_connected(s);
	if (d->ops->connected)
		d->ops->connected(d);
	return 0;
}
