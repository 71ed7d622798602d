/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back-end's own channel to the front-end (vhost-user "Back-end communication"). It is the
 * front-end's socket and may be full, or shut, or worse: nothing here waits for it. It is read by
 * another thread (vhost/aside.h); to send takes no lock that the front-end could hold. A message
 * that it does not take is not kept either; whoever has one to send keeps that in its own state and
 * sends it when there is room again (backend_resume).
 */
#include "vhost/session.h"

#include "poll/control.h"
#include "vhost/aside.h"
#include "vhost/disposal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct backend_channel {
	struct vhost_session *session;
	int fd; /* in: -1: hung up */
	struct aside *in;
	sd_event_source *io; /* off while it is being read */
	size_t rx_got;
	uint8_t rx[sizeof(struct vhost_user_header) + sizeof(uint64_t)];
};

/* Its peer sees the end at once. */
static void let_go(struct backend_channel *c)
{
	c->io = sd_event_source_disable_unref(c->io);
	if (c->fd >= 0)
		shutdown(c->fd, SHUT_RDWR);
	aside_free(c->in);
	c->in = NULL;
	c->fd = -1;
	c->session->inband_waits = 0; /* nobody will answer any more */
}

static bool alive(const struct vhost_session *s)
{
	return s->backend && s->backend->fd >= 0;
}

/* It stays closed until the front-end sends another one. */
static void hang_up(struct backend_channel *c, const char *why)
{
	device_warn(c->session->device, "%s: the back-end channel is closed: %s",
		    c->session->device->name, why);
	let_go(c);
}

/* All that the front-end may say here is an answer: REPLY_ACK's u64. */
static bool reply_ok(const struct vhost_user_header *h)
{
	return (h->flags & VHOST_USER_VERSION_MASK) == VHOST_USER_VERSION &&
	       (h->flags & VHOST_USER_REPLY) && h->size == sizeof(uint64_t);
}

/* @n bytes more of an answer, or what recv() said. */
static void take(struct backend_channel *c, ssize_t n)
{
	struct vhost_user_header hdr;

	if (n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR)) {
		hang_up(c, n ? strerror((int)-n) : "the front-end hung up");
		return;
	}
	if (n > 0) {
		memcpy(c->rx + c->rx_got, aside_bytes(c->in), (size_t)n);
		c->rx_got += (size_t)n;
	}
	memcpy(&hdr, c->rx, sizeof(hdr));
	if (c->rx_got >= sizeof(hdr) && !reply_ok(&hdr)) {
		hang_up(c, "what came is no answer");
		return;
	}
	if (c->rx_got < sizeof(c->rx))
		return;
	c->rx_got = 0;
	inband_answered(c->session, hdr.request);
}

void backend_listen(struct vhost_session *s)
{
	struct backend_channel *c = s->backend;

	if (alive(s))
		sd_event_source_set_enabled(c->io, s->device->quota.waits || aside_busy(c->in)
							   ? SD_EVENT_OFF
							   : SD_EVENT_ON);
}

static void on_read(void *arg, ssize_t n)
{
	struct backend_channel *c = arg;
	struct vhost_device *d = c->session->device;

	quota_begin(d);
	take(c, n);
	quota_end(d);
	backend_listen(c->session);
}

/* It can be written to, or read. */
static void serve(struct backend_channel *c, uint32_t events)
{
	if (events & EPOLLOUT) {
		sd_event_source_set_io_events(c->io, EPOLLIN);
		backend_resume(c->session);
	}
	/* What is said then may find that nobody is there. */
	if (c->fd < 0 || !(events & ~(uint32_t)EPOLLOUT))
		return;
	if (aside_read(c->in, sizeof(c->rx) - c->rx_got) < 0)
		hang_up(c, "there is no thread to read it");
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct backend_channel *c = arg;
	struct vhost_device *d = c->session->device;

	(void)source;
	(void)fd;
	quota_begin(d);
	serve(c, events);
	quota_end(d);
	backend_listen(c->session);
	return 0;
}

int backend_open(struct vhost_session *s, int fd, struct error *err)
{
	struct backend_channel *c = calloc(1, sizeof(*c));
	int rc;

	if (!c) {
		disposal_close_socket(s->device->disposal, fd);
		return error_set(err, -ENOMEM, "out of memory");
	}
	*c = (struct backend_channel) { .session = s, .fd = fd };
	c->in = aside_new(s->device->disposal, fd, true, sizeof(c->rx), on_read, c, err);
	if (!c->in) {
		free(c);
		return err->code;
	}
	rc = sd_event_add_io(control_event(), &c->io, fd, EPOLLIN, on_io, c);
	if (rc < 0) {
		let_go(c);
		free(c);
		return error_set(err, rc, "its descriptor cannot be watched: %s", strerror(-rc));
	}
	backend_close(s);
	s->backend = c;
	backend_resume(s);
	return 0;
}

void backend_close(struct vhost_session *s)
{
	struct backend_channel *c = s->backend;

	if (!c)
		return;
	let_go(c);
	free(c);
	s->backend = NULL;
}

bool backend_is_open(const struct vhost_session *s)
{
	return alive(s) && !s->closing;
}

int backend_send(struct vhost_session *s, uint32_t request, uint32_t flags, const void *payload,
		 uint32_t size)
{
	struct backend_channel *c = s->backend;
	struct vhost_user_header hdr = { .request = request,
					 .flags = VHOST_USER_VERSION | flags,
					 .size = size };
	uint8_t bytes[sizeof(hdr) + 64];
	ssize_t n;

	assert(size <= sizeof(bytes) - sizeof(hdr));
	if (!backend_is_open(s))
		return -ENOTCONN;
	memcpy(bytes, &hdr, sizeof(hdr));
	if (size)
		memcpy(bytes + sizeof(hdr), payload, size);
	n = send(c->fd, bytes, sizeof(hdr) + size, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n == (ssize_t)(sizeof(hdr) + size))
		return 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)) {
		sd_event_source_set_io_events(c->io, EPOLLIN | EPOLLOUT);
		return -EAGAIN;
	}
	/* Half a message: what comes after it would not be understood. */
	hang_up(c, n < 0 ? strerror(errno) : "it took half a message");
	return -ENOTCONN;
}
