/* SPDX-License-Identifier: Apache-2.0 */
/* Where front-ends come from: a path that we listen on or connect to, or a descriptor given to us.
 */
#include "base/log.h"
#include "base/socket_file.h"
#include "poll/control.h"
#include "vhost/disposal.h"
#include "vhost/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RETRY_US 1000000

/*
 * Listening: io watches fd. Connecting: timer, while there is no session. After a failed accept()
 * both modes wait for the timer.
 */
struct vhost_listener {
	struct vhost_device *device;
	int fd; /* listening; -1: connecting */
	sd_event_source *io, *timer;
	bool created; /* the socket file is ours: unlink it if it is still the same */
	dev_t dev;
	ino_t ino;
	int told;  /* why connecting fails, as the log last had it; 0: nothing */
	bool over; /* one front-end was all; see exit_on_disconnect */
};

static void retry_later(struct vhost_listener *l)
{
	sd_event_source_set_time_relative(l->timer, RETRY_US);
	sd_event_source_set_enabled(l->timer, SD_EVENT_ONESHOT);
}

static int accept_one(struct vhost_listener *l, sd_event_source *source, int fd)
{
	struct vhost_device *d = l->device;
	int peer, rc;

	if (d->quota.waits) { /* it goes on when that is over */
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
		return 0;
	}
	/* The old peer has gone, only its queues are not drained yet: the new one waits its turn.
	 */
	if (d->session && session_peer_gone(d->session)) {
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
		return 0;
	}
	/* Even those that are turned away would have to be closed by the same thread. */
	if (disposal_full(d->disposal)) {
		device_warn(d,
			    "%s: a front-end has to wait: descriptors of the one before it are "
			    "still being closed",
			    d->name);
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
		retry_later(l);
		return 0;
	}
	peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (peer < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
		return 0;
	if (peer < 0) {
		/* Out of descriptors, say. The connection stays in the backlog, and would wake us.
		 */
		device_log(d, LOG_LEVEL_ERROR, "%s: cannot accept a front-end: %s", d->name,
			   strerror(errno));
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
		retry_later(l);
		return 0;
	}
	if (d->session) {
		device_warn(d, "%s: a second front-end was turned away: one is connected", d->name);
		disposal_close_socket(d->disposal, peer);
		return 0;
	}
	rc = session_open(d, peer);
	if (rc < 0)
		device_log(d, LOG_LEVEL_ERROR, "%s: cannot serve a front-end: %s", d->name,
			   strerror(-rc));
	return 0;
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct vhost_listener *l = arg;
	int rc;

	(void)events;
	quota_begin(l->device);
	rc = accept_one(l, source, fd);
	quota_end(l->device);
	return rc;
}

static void connect_now(struct vhost_listener *l)
{
	struct vhost_device *d = l->device;
	int fd = socket_connect(d->socket.path);

	if (fd >= 0) {
		l->told = 0;
		fd = session_open(d, fd);
		if (fd == 0)
			return;
	}
	/* Once for each reason: what was no socket yet may be one that is not for us. */
	if (l->told != -fd)
		device_warn(d, "%s: no front-end at %s: %s; %strying again each second", d->name,
			    d->socket.path, strerror(-fd),
			    fd == -EACCES ? "let the user that sluiced runs as write to it; " : "");
	l->told = -fd;
	retry_later(l);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg)
{
	struct vhost_listener *l = arg;

	(void)source;
	(void)usec;
	if (l->over || l->device->session)
		return 0;
	if (l->fd >= 0)
		sd_event_source_set_enabled(l->io, SD_EVENT_ON);
	else
		connect_now(l);
	return 0;
}

/* The file at the path is the one that we listen on: to be removed in the end. */
static void note_file(struct vhost_listener *l)
{
	struct stat st;

	if (lstat(l->device->socket.path, &st) == 0 && S_ISSOCK(st.st_mode)) {
		l->created = true;
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
}

static int bind_path(struct vhost_listener *l, struct error *err)
{
	const struct vhost_socket *s = &l->device->socket;

	l->fd = socket_file_bind(s->path, s->mode, s->group, err);
	if (l->fd < 0)
		return err->code;
	note_file(l);
	return 0;
}

/* A socket that somebody else has bound to the path for us, as they say: see that it is so. */
static int take_bound(struct vhost_listener *l, struct error *err)
{
	struct vhost_socket *s = &l->device->socket;
	int fd = s->fd, type = -1;
	struct sockaddr_un at = { .sun_family = AF_UNSPEC };
	socklen_t len = sizeof(type), at_len = sizeof(at);
	struct sockaddr_un peer;
	socklen_t peer_len = sizeof(peer);

	/* The kernel counts no NUL that is not there: sun_path of 108 bytes has none. */
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM ||
	    getsockname(fd, (struct sockaddr *)&at, &at_len) < 0 || at.sun_family != AF_UNIX)
		return error_set(err, -ENOTSOCK,
				 "what was handed over for %s is no Unix stream socket", s->path);
	if (getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0)
		return error_set(err, -EISCONN,
				 "the socket handed over for %s is connected; it must be bound "
				 "to that path and not be connected",
				 s->path);
	if (at_len <= offsetof(struct sockaddr_un, sun_path) ||
	    strncmp(at.sun_path, s->path, sizeof(at.sun_path)) != 0)
		return error_set(err, -EINVAL,
				 "the socket handed over is not bound to %s, but to %.100s",
				 s->path,
				 at_len > offsetof(struct sockaddr_un, sun_path) && at.sun_path[0]
					 ? at.sun_path
					 : "no path");
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return error_set(err, -errno, "socket %s: %s", s->path, strerror(errno));
	s->fd = -1;
	l->fd = fd;
	note_file(l);
	return 0;
}

/* The descriptor that we were given is a listening or a connected stream socket. */
static int open_given(struct vhost_listener *l, bool *listening, struct error *err)
{
	int fd = l->device->socket.fd, domain = -1, type = -1, accepts = 0, rc;
	socklen_t len = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || domain != AF_UNIX ||
	    type != SOCK_STREAM)
		return error_set(err, -ENOTSOCK,
				 "descriptor %d is not a Unix stream socket: pass one that is "
				 "connected or listens",
				 fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) < 0)
		return error_set(err, -errno, "descriptor %d: %s", fd, strerror(errno));
	l->device->socket.fd = -1;
	*listening = accepts;
	if (accepts) {
		l->fd = fd;
		return 0;
	}
	rc = session_open(l->device, fd);
	return rc < 0 ? error_set(err, rc, "descriptor %d: %s", fd, strerror(-rc)) : 0;
}

static int start_listening(struct vhost_listener *l, struct error *err)
{
	int rc;

	/* Harmless where it listens already. One front-end at a time; the next may queue. */
	if (listen(l->fd, 8) < 0)
		return error_set(err, -errno, "cannot listen: %s", strerror(errno));
	rc = sd_event_add_io(control_event(), &l->io, l->fd, EPOLLIN, on_accept, l);
	/* After the sessions, so that one which ends is seen to before the one that follows it. */
	if (rc >= 0)
		rc = sd_event_source_set_priority(l->io, SD_EVENT_PRIORITY_NORMAL + 1);
	return rc < 0 ? error_set(err, rc, "cannot watch the socket: %s", strerror(-rc)) : 0;
}

int listener_open(struct vhost_device *d, struct error *err)
{
	struct vhost_listener *l = calloc(1, sizeof(*l));
	bool listening = true;
	int rc;

	if (!l)
		return error_set(err, -ENOMEM, "out of memory");
	d->listener = l;
	l->device = d;
	l->fd = -1;
	rc = sd_event_add_time_relative(control_event(), &l->timer, CLOCK_MONOTONIC, RETRY_US, 0,
					on_timer, l);
	if (rc < 0) {
		error_set(err, rc, "cannot make a timer: %s", strerror(-rc));
		goto fail;
	}
	sd_event_source_set_enabled(l->timer, SD_EVENT_OFF);

	if (d->socket.path && d->socket.fd >= 0) {
		rc = take_bound(l, err);
	} else if (!d->socket.path) {
		rc = open_given(l, &listening, err);
	} else if (d->socket.connect) {
		struct sockaddr_un sun;

		listening = false;
		rc = socket_address(d->socket.path, &sun, err);
		if (rc == 0)
			connect_now(l);
	} else {
		rc = bind_path(l, err);
	}
	if (rc == 0 && listening)
		rc = start_listening(l, err);
	if (rc == 0)
		return 0;
fail:
	listener_close(d);
	return rc;
}

void listener_pause(struct vhost_device *d)
{
	if (!d->listener)
		return;
	d->listener->over = true;
	if (d->listener->io)
		sd_event_source_set_enabled(d->listener->io, SD_EVENT_OFF);
	sd_event_source_set_enabled(d->listener->timer, SD_EVENT_OFF);
}

void listener_resume(struct vhost_device *d)
{
	struct vhost_listener *l = d->listener;

	if (!l || l->over)
		return;
	if (l->io)
		sd_event_source_set_enabled(l->io, SD_EVENT_ON);
	else if (d->socket.connect)
		retry_later(l);
}

void listener_close(struct vhost_device *d)
{
	struct vhost_listener *l = d->listener;
	struct stat st;

	if (!l)
		return;
	d->listener = NULL;
	sd_event_source_disable_unref(l->io);
	sd_event_source_disable_unref(l->timer);
	if (l->created && d->socket.path && lstat(d->socket.path, &st) == 0 &&
	    st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(d->socket.path);
	if (l->fd >= 0)
		close(l->fd);
	free(l);
}
