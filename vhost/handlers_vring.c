/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that describe, start, enable and stop one ring. */
#include "vhost/dirty_log.h"
#include "vhost/session.h"
#include "vhost/shared_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

static struct virtqueue *find_queue(const struct vhost_session *s, uint64_t index,
				    struct error *err)
{
	struct vhost_device *d = s->device;

	if (index < d->n_queues)
		return &d->queues[index];
	error_set(err, -EINVAL, "there is no queue %" PRIu64 ": the device has queues 0 to %u",
		  index, d->n_queues - 1);
	return NULL;
}

static int check_stopped(const struct virtqueue *vq, struct error *err)
{
	if (vq->state == VIRTQUEUE_STOPPED)
		return 0;
	return error_set(err, -EBUSY, "queue %u runs; it has to be stopped first", vq->index);
}

int handle_set_vring_num(struct vhost_session *s, struct message *m, struct error *err)
{
	struct virtqueue *vq = find_queue(s, m->payload.state.index, err);
	uint32_t num = m->payload.state.num;

	if (!vq)
		return err->code;
	if (num == 0 || num > RING_SIZE_MAX)
		return error_set(err, -EINVAL, "queue %u cannot have %" PRIu32 " entries: 1 to %d",
				 vq->index, num, RING_SIZE_MAX);
	if (num != vq->setup.num && check_stopped(vq, err) < 0)
		return err->code;
	vq->setup.num = num;
	vq->setup.failed = false;
	return 0;
}

int handle_set_vring_addr(struct vhost_session *s, struct message *m, struct error *err)
{
	const struct vhost_user_vring_addr *addr = &m->payload.addr;
	struct virtqueue *vq = find_queue(s, addr->index, err);
	struct vring_setup *setup;

	if (!vq)
		return err->code;
	setup = &vq->setup;
	/* QEMU repeats the addresses of running rings with another log flag when it migrates. */
	if ((!setup->has_addr || setup->desc != addr->desc || setup->driver != addr->avail ||
	     setup->device != addr->used) &&
	    check_stopped(vq, err) < 0)
		return err->code;
	setup->desc = addr->desc;
	setup->driver = addr->avail;
	setup->device = addr->used;
	setup->flags = addr->flags;
	setup->log = addr->log;
	setup->has_addr = true;
	setup->failed = false;
	dirty_log_apply(vq);
	return 0;
}

int handle_set_vring_base(struct vhost_session *s, struct message *m, struct error *err)
{
	struct virtqueue *vq = find_queue(s, m->payload.state.index, err);

	if (!vq || check_stopped(vq, err) < 0)
		return err->code;
	vq->setup.base = m->payload.state.num;
	vq->setup.has_base = true;
	vq->setup.failed = false;
	return 0;
}

static void close_kick(struct vring_setup *setup)
{
	if (setup->kick_fd >= 0)
		close(setup->kick_fd);
	setup->kick_fd = -1;
}

/* The queue is stopped by now. The descriptors for calls and errors stay for its next life. */
int handle_get_vring_base(struct vhost_session *s, struct message *m, struct error *err)
{
	struct virtqueue *vq = find_queue(s, m->payload.state.index, err);

	if (!vq)
		return err->code;
	close_kick(&vq->setup);
	vq->setup.started = false;
	vq->setup.failed = false;
	vq->setup.broken = false;
	m->payload.state.num = vq->setup.base;
	m->reply_size = sizeof(m->payload.state);
	return 0;
}

/*
 * A worker will watch, read and write it, and nothing but an eventfd does that as one expects: a
 * write to a pipe, or to a file that the front-end serves (FUSE), blocks. /proc knows; in a sandbox
 * without it the inode has to do.
 */
static int check_event_fd(int fd, struct error *err)
{
	char link[32], target[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0) {
		if (shared_file_is_eventfd(fd))
			return 0;
		return error_set(err, -EINVAL, "its descriptor is not an eventfd");
	}
	target[n] = 0;
	if (strcmp(target, "anon_inode:[eventfd]") == 0)
		return 0;
	return error_set(err, -EINVAL, "its descriptor is %.100s and not an eventfd", target);
}

/*
 * What SET_VRING_KICK, _CALL and _ERR have in common: @return the queue, and in *@fd the
 * descriptor, ours from now on, or -1.
 */
static struct virtqueue *vring_fd(struct vhost_session *s, struct message *m, int *fd,
				  struct error *err)
{
	uint64_t word = m->payload.u64;
	bool no_fd = word & VHOST_USER_VRING_NOFD;
	struct virtqueue *vq;

	if (word & ~(VHOST_USER_VRING_INDEX_MASK | VHOST_USER_VRING_NOFD)) {
		error_set(err, -EINVAL, "its value 0x%" PRIx64 " has bits that mean nothing", word);
		return NULL;
	}
	vq = find_queue(s, word & VHOST_USER_VRING_INDEX_MASK, err);
	if (!vq)
		return NULL;
	if (no_fd != (m->n_fds == 0)) {
		error_set(err, -EBADMSG, "bit 8 of 0x%" PRIx64 " and %u file descriptors disagree",
			  word, m->n_fds);
		return NULL;
	}
	*fd = -1;
	if (no_fd)
		return vq;
	if (check_event_fd(m->fds[0], err) < 0)
		return NULL;
	*fd = m->fds[0];
	m->fds[0] = -1;
	return vq;
}

/* vhost-user "Ring states": the ring starts by this message; a second one starts it anew. */
int handle_set_vring_kick(struct vhost_session *s, struct message *m, struct error *err)
{
	int fd;
	struct virtqueue *vq = vring_fd(s, m, &fd, err);

	if (!vq)
		return err->code;
	if (fd < 0 && session_negotiated(s, VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS)) {
		fd = inband_kick_fd(err);
		if (fd < 0)
			return fd;
	}
	close_kick(&vq->setup);
	vq->setup.kick_fd = fd;
	vq->setup.started = true;
	vq->setup.failed = false;
	vq->setup.broken = false;
	return 0;
}

/*
 * What was signalled on the old one may have been missed; see queue_start(). The state does not
 * change meanwhile: the control thread waits for us.
 */
static void change_call_fd(struct virtqueue *vq, void *arg)
{
	vq->ring.call_fd = *(int *)arg;
	if (vq->state == VIRTQUEUE_RUNNING)
		ring_call_now(&vq->ring);
}

static void change_err_fd(struct virtqueue *vq, void *arg)
{
	vq->ring.err_fd = *(int *)arg;
}

/* Puts @fd in the place of *@slot; the ring lets go of the old one before it is closed. */
static void replace_fd(struct virtqueue *vq, int *slot, int fd,
		       void (*change)(struct virtqueue *vq, void *arg))
{
	int old = *slot;

	*slot = fd;
	vhost_queue_change(vq, change, &fd);
	if (old >= 0)
		close(old);
}

/*
 * A worker writes to these: a counter that nobody reads must not hold it up. A front-end that takes
 * the flag away again is the watchdog's business (poll/watch.c).
 */
static int make_nonblocking(int fd, struct error *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_set(err, -errno, "its descriptor cannot be made non-blocking: %s",
				 strerror(errno));
	return 0;
}

/* @fd -1: none. It is ours already, and an eventfd. */
static int take_signal_fd(int fd, struct error *err)
{
	if (fd >= 0 && make_nonblocking(fd, err) < 0) {
		close(fd);
		return err->code;
	}
	return 0;
}

int vring_signal_fd(int fd, struct error *err)
{
	return check_event_fd(fd, err) < 0 ? err->code : make_nonblocking(fd, err);
}

/* As take_signal_fd(); where there is none and notifications are messages, one of our own. */
static int signal_fd(struct vhost_session *s, struct virtqueue *vq, enum inband_kind kind, int *fd,
		     struct error *err)
{
	int rc = take_signal_fd(*fd, err);

	if (rc < 0)
		return rc;
	inband_unwatch(vq, kind);
	if (*fd < 0 && session_negotiated(s, VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS)) {
		*fd = inband_watch(vq, kind, err);
		return MIN(*fd, 0);
	}
	return 0;
}

int handle_set_vring_call(struct vhost_session *s, struct message *m, struct error *err)
{
	int fd;
	struct virtqueue *vq = vring_fd(s, m, &fd, err);

	if (!vq || signal_fd(s, vq, INBAND_CALL, &fd, err) < 0)
		return err->code;
	replace_fd(vq, &vq->setup.call_fd, fd, change_call_fd);
	return 0;
}

int handle_set_vring_err(struct vhost_session *s, struct message *m, struct error *err)
{
	int fd;
	struct virtqueue *vq = vring_fd(s, m, &fd, err);

	if (!vq || signal_fd(s, vq, INBAND_ERR, &fd, err) < 0)
		return err->code;
	replace_fd(vq, &vq->setup.err_fd, fd, change_err_fd);
	return 0;
}

/* QEMU's virtio-net enables queue pair 0 before it has set any features: no gate but our offer. */
int handle_set_vring_enable(struct vhost_session *s, struct message *m, struct error *err)
{
	struct virtqueue *vq = find_queue(s, m->payload.state.index, err);

	if (!vq)
		return err->code;
	if (m->payload.state.num > 1)
		return error_set(err, -EINVAL, "%" PRIu32 " is neither 0 (disable) nor 1 (enable)",
				 m->payload.state.num);
	vq->setup.failed = false;
	queue_set_enabled(vq, m->payload.state.num);
	return 0;
}
