/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/state_transfer.h"

#include "base/error.h"
#include "base/log.h"
#include "poll/control.h"
#include "vhost/aside.h"
#include "vhost/device.h"
#include "vhost/disposal.h"
#include "vhost/shared_file.h"
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
	bool load;
	struct aside *channel;	     /* NULL: closed */
	sd_event_source *io, *timer; /* io: off while it is read or written */
	struct state_blob blob;
	uint32_t done; /* bytes of it written */
	struct error err;
	int result; /* -EINPROGRESS; 0; -errno, said in err */
	/* The front-end asks how it stands, and waits for an answer. */
	state_transfer_fn *settled;
	void *arg;
	bool fresh;    /* what is under way began after that */
	bool answered; /* settled was called */
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

/* The last thing that is done with @t: it may free it. */
static void answer(struct state_transfer *t)
{
	state_transfer_fn *fn = t->settled;

	if (!fn)
		return;
	t->settled = NULL;
	t->answered = true;
	fn(t->arg);
}

static void stop(struct state_transfer *t)
{
	t->io = sd_event_source_disable_unref(t->io);
	t->timer = sd_event_source_disable_unref(t->timer);
	aside_free(t->channel);
	t->channel = NULL;
}

/* Nothing more comes or goes. The other end sees that. May free @t. */
static void end(struct state_transfer *t, int result)
{
	stop(t);
	t->result = result;
	answer(t);
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

/* Reads or writes once more. May free @t. */
static void step(struct state_transfer *t)
{
	size_t room = STATE_MAX - t->blob.len;
	int rc;

	if (t->load) /* a byte too many has to show */
		rc = aside_read(t->channel, MAX(room, (size_t)1));
	else
		rc = aside_write(t->channel, t->blob.bytes + t->done, t->blob.len - t->done);
	if (rc < 0)
		fail(t, rc);
	else
		sd_event_source_set_enabled(t->io, SD_EVENT_OFF);
}

/* It would wait. The other end may have gone on just before the front-end asked. */
static void wait_for_more(struct state_transfer *t)
{
	if (t->settled && !t->fresh) {
		t->fresh = true;
		step(t);
		return;
	}
	sd_event_source_set_enabled(t->io, SD_EVENT_ON);
	answer(t);
}

static void saved(struct state_transfer *t, uint32_t n)
{
	t->done += n;
	if (t->done == t->blob.len)
		end(t, 0);
	else
		step(t);
}

static void loaded(struct state_transfer *t, uint32_t n)
{
	if (n == 0) {
		apply(t);
	} else if (t->blob.len == STATE_MAX) {
		end(t, error_set(&t->err, -EFBIG, "the state is longer than %u bytes", STATE_MAX));
	} else {
		memcpy(t->blob.bytes + t->blob.len, aside_bytes(t->channel), n);
		t->blob.len += n;
		step(t);
	}
}

static void on_step(void *arg, ssize_t n)
{
	struct state_transfer *t = arg;

	if (n == -EAGAIN || n == -EINTR)
		wait_for_more(t);
	else if (n < 0)
		fail(t, (int)n);
	else if (t->load)
		loaded(t, (uint32_t)n);
	else
		saved(t, (uint32_t)n);
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	(void)source;
	(void)fd;
	(void)events;
	step(arg);
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
 * who could make us wait. Found out without asking a file system, and without a pipe's lock, which
 * F_GETPIPE_SZ would take.
 */
static int check_kind(int fd, bool load, bool *is_socket, struct error *err)
{
	int flags = fcntl(fd, F_GETFL) & O_ACCMODE, domain = 0, type = 0;
	socklen_t len = sizeof(int);

	*is_socket = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
		     getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0;
	if (*is_socket) {
		if (domain == AF_UNIX && type == SOCK_STREAM)
			return 0;
	} else if (shared_file_is_pipe(fd)) {
		if (flags == O_RDWR || flags == (load ? O_RDONLY : O_WRONLY))
			return 0;
		return error_set(err, -EBADF, "its pipe goes the other way");
	}
	return error_set(err, -EINVAL, "its descriptor is neither a pipe nor a unix stream socket");
}

/* Off at first: nearly always a step or two are all that there is to do. */
static int watch(struct state_transfer *t, int fd)
{
	int rc = sd_event_add_io(control_event(), &t->io, fd, t->load ? EPOLLIN : EPOLLOUT, on_io,
				 t);

	if (rc >= 0)
		rc = sd_event_source_set_enabled(t->io, SD_EVENT_OFF);
	if (rc < 0)
		return rc;
	return sd_event_add_time_relative(control_event(), &t->timer, CLOCK_MONOTONIC,
					  TRANSFER_MAX_US, 0, on_time, t);
}

struct state_transfer *state_transfer_begin(struct vhost_device *d, int fd, bool load,
					    struct error *err)
{
	struct state_transfer *t = calloc(1, sizeof(*t));
	bool is_socket;
	int rc;

	if (!t || check_kind(fd, load, &is_socket, err) < 0) {
		disposal_close(d->disposal, fd);
		if (!t)
			error_set(err, -ENOMEM, "out of memory for a device's state");
		free(t);
		return NULL;
	}
	t->device = d;
	t->load = load;
	t->result = -EINPROGRESS;
	t->channel = aside_new(d->disposal, fd, is_socket, STATE_MAX, on_step, t, err);
	if (!t->channel) {
		free(t);
		return NULL;
	}
	rc = watch(t, fd);
	if (rc < 0) {
		error_set(err, rc, "its descriptor cannot be watched: %s", strerror(-rc));
		state_transfer_free(t);
		return NULL;
	}
	if (!load)
		d->ops->save_state(d, &t->blob);
	step(t);
	return t;
}

bool state_transfer_settle(struct state_transfer *t, state_transfer_fn *settled, void *arg)
{
	bool answered = t->answered;

	t->answered = false;
	if (answered || t->result != -EINPROGRESS)
		return true;
	t->fresh = !aside_busy(t->channel);
	if (t->fresh)
		step(t);
	if (t->result != -EINPROGRESS)
		return true;
	t->settled = settled;
	t->arg = arg;
	return false;
}

int state_transfer_outcome(struct state_transfer *t, struct error *err)
{
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
	stop(t);
	free(t);
}
