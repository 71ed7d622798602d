/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/state_transfer.h"

#include "base/error.h"
#include "base/log.h"
#include "poll/control.h"
#include "vhost/device.h"
#include "vhost/disposal.h"
#include "vhost/state_blob.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <systemd/sd-event.h>
#include <unistd.h>

/* For a few hundred bytes; a peer that takes longer has given up, or means ill. */
#define TRANSFER_MAX_US UINT64_C(10000000)

struct state_transfer {
	struct vhost_device *device;
	int fd; /* -1: closed */
	bool load, socket;
	sd_event_source *io, *timer;
	struct state_blob blob;
	uint32_t done; /* bytes of it written */
	struct error err;
	int result; /* -EINPROGRESS; 0; -errno, said in err */
};

bool state_transfer_possible(void)
{
	static int possible = -1;
	struct iovec v = { .iov_base = &(char) { 0 }, .iov_len = 1 };
	int fds[2];

	/* A pipe's O_NONBLOCK is shared with its owner, who can take it away: Linux 6.4 has a flag
	 * of the call's own. */
	if (possible < 0 && pipe2(fds, O_CLOEXEC) == 0) {
		possible = preadv2(fds[0], &v, 1, -1, RWF_NOWAIT) < 0 && errno == EAGAIN;
		close(fds[0]);
		close(fds[1]);
	}
	return possible > 0;
}

static ssize_t read_some(struct state_transfer *t, void *to, size_t len)
{
	struct iovec v = { .iov_base = to, .iov_len = len };
	ssize_t n = t->socket ? recv(t->fd, to, len, MSG_DONTWAIT)
			      : preadv2(t->fd, &v, 1, -1, RWF_NOWAIT);

	return n < 0 ? -errno : n;
}

/* The daemon ignores SIGPIPE. */
static ssize_t write_some(struct state_transfer *t, const void *from, size_t len)
{
	struct iovec v = { .iov_base = (void *)from, .iov_len = len };
	ssize_t n = t->socket ? send(t->fd, from, len, MSG_DONTWAIT | MSG_NOSIGNAL)
			      : pwritev2(t->fd, &v, 1, -1, RWF_NOWAIT);

	return n < 0 ? -errno : n;
}

/* Nothing more comes or goes. The other end sees that. */
static void end(struct state_transfer *t, int result)
{
	t->io = sd_event_source_disable_unref(t->io);
	t->timer = sd_event_source_disable_unref(t->timer);
	if (t->fd >= 0)
		disposal_close(t->device->disposal, t->fd);
	t->fd = -1;
	t->result = result;
}

static void fail(struct state_transfer *t, int rc)
{
	end(t, error_set(&t->err, rc, "the transfer failed: %s", strerror(-rc)));
}

/* All of it is here. Whoever started a queue meanwhile did not want it any more. */
static void apply(struct state_transfer *t)
{
	struct vhost_device *d = t->device;

	if (vhost_device_state(d) == VHOST_DEVICE_RUNNING)
		end(t,
		    error_set(&t->err, -EBUSY, "a queue was started before the state was whole"));
	else
		end(t, d->ops->load_state(d, &t->blob, &t->err));
}

static void save_more(struct state_transfer *t)
{
	while (t->done < t->blob.len) {
		ssize_t n = write_some(t, t->blob.bytes + t->done, t->blob.len - t->done);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n < 0) {
			fail(t, (int)n);
			return;
		}
		t->done += (uint32_t)n;
	}
	end(t, 0);
}

static void load_more(struct state_transfer *t)
{
	for (;;) {
		uint8_t surplus;
		bool full = t->blob.len == STATE_MAX;
		ssize_t n = read_some(t, full ? &surplus : t->blob.bytes + t->blob.len,
				      full ? 1 : STATE_MAX - t->blob.len);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n < 0) {
			fail(t, (int)n);
			return;
		}
		if (n == 0) {
			apply(t);
			return;
		}
		if (full) {
			end(t, error_set(&t->err, -EFBIG, "the state is longer than %u bytes",
					 STATE_MAX));
			return;
		}
		t->blob.len += (uint32_t)n;
	}
}

static void more(struct state_transfer *t)
{
	if (t->result != -EINPROGRESS)
		return;
	if (t->load)
		load_more(t);
	else
		save_more(t);
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	(void)source;
	(void)fd;
	(void)events;
	more(arg);
	return 0;
}

static int on_time(sd_event_source *source, uint64_t usec, void *arg)
{
	struct state_transfer *t = arg;

	(void)source;
	(void)usec;
	end(t, error_set(&t->err, -ETIMEDOUT, "it was not over within %u s",
			 (unsigned)(TRANSFER_MAX_US / 1000000)));
	return 0;
}

/*
 * What is neither a pipe nor a stream between processes of this machine may be served by its owner,
 * who could make us wait. Found out without asking a file system.
 */
static int check_kind(struct state_transfer *t, struct error *err)
{
	int flags = fcntl(t->fd, F_GETFL) & O_ACCMODE, domain = 0, type = 0;
	socklen_t len = sizeof(int);

	if (getsockopt(t->fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
	    getsockopt(t->fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0) {
		t->socket = true;
		if (domain == AF_UNIX && type == SOCK_STREAM)
			return 0;
	} else if (fcntl(t->fd, F_GETPIPE_SZ) >= 0) {
		if (flags == O_RDWR || flags == (t->load ? O_RDONLY : O_WRONLY))
			return 0;
		return error_set(err, -EBADF, "its pipe goes the other way");
	}
	return error_set(err, -EINVAL, "its descriptor is neither a pipe nor a unix stream socket");
}

static int watch(struct state_transfer *t)
{
	int rc = sd_event_add_io(control_event(), &t->io, t->fd, t->load ? EPOLLIN : EPOLLOUT,
				 on_io, t);

	if (rc < 0)
		return rc;
	return sd_event_add_time_relative(control_event(), &t->timer, CLOCK_MONOTONIC,
					  TRANSFER_MAX_US, 0, on_time, t);
}

struct state_transfer *state_transfer_begin(struct vhost_device *d, int fd, bool load,
					    struct error *err)
{
	struct state_transfer *t = calloc(1, sizeof(*t));
	int rc = -ENOMEM;

	if (!t) {
		disposal_close(d->disposal, fd);
		error_set(err, -ENOMEM, "out of memory for a device's state");
		return NULL;
	}
	t->device = d;
	t->fd = fd;
	t->load = load;
	t->result = -EINPROGRESS;
	if (check_kind(t, err) < 0) {
		state_transfer_free(t);
		return NULL;
	}
	rc = watch(t);
	if (rc < 0) {
		error_set(err, rc, "its descriptor cannot be watched: %s", strerror(-rc));
		state_transfer_free(t);
		return NULL;
	}
	if (!load)
		d->ops->save_state(d, &t->blob);
	more(t); /* nearly always that is all there is to do */
	return t;
}

int state_transfer_outcome(struct state_transfer *t, struct error *err)
{
	/* The other end may have closed just before it asked. */
	more(t);
	if (t->result == -EINPROGRESS)
		return error_set(err, -EINPROGRESS, "the transfer is not over");
	if (t->result < 0)
		*err = t->err;
	return t->result;
}

void state_transfer_free(struct state_transfer *t)
{
	if (!t)
		return;
	end(t, 0);
	free(t);
}
