/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/aside.h"

#include "base/error.h"
#include "poll/control.h"
#include "vhost/disposal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct aside {
	struct errand errand;
	struct disposal *disposal;
	int fd;
	int told; /* eventfd: the thread is done */
	sd_event_source *io;
	aside_fn *done;
	void *arg;
	unsigned refs; /* atomic: the owner, and the thread while it is at it */
	bool busy;     /* until done is called, not only while the thread is at it */
	bool over;     /* atomic, so that what the thread wrote is seen */
	bool is_socket, writes;
	size_t len, room;
	ssize_t n;
	uint8_t bytes[];
};

/* @return whether it was the last one, and @a is free but for its file. */
static bool put(struct aside *a)
{
	if (__atomic_sub_fetch(&a->refs, 1, __ATOMIC_ACQ_REL))
		return false;
	if (a->told >= 0)
		close(a->told);
	free(a);
	return true;
}

/* A pipe's O_NONBLOCK is its owner's, too; the flags of a call are ours. SIGPIPE is ignored. */
static ssize_t do_call(struct aside *a)
{
	struct iovec v = { .iov_base = a->bytes, .iov_len = a->len };
	ssize_t n;

	if (a->is_socket && a->writes)
		n = send(a->fd, a->bytes, a->len, MSG_DONTWAIT | MSG_NOSIGNAL);
	else if (a->is_socket)
		n = recv(a->fd, a->bytes, a->len, MSG_DONTWAIT);
	else if (a->writes)
		n = pwritev2(a->fd, &v, 1, -1, RWF_NOWAIT);
	else
		n = preadv2(a->fd, &v, 1, -1, RWF_NOWAIT);
	return n < 0 ? -errno : n;
}

static void run(struct errand *e)
{
	struct aside *a = container_of(e, struct aside, errand);
	int fd = a->fd;

	a->n = do_call(a);
	__atomic_store_n(&a->over, true, __ATOMIC_RELEASE);
	(void)eventfd_write(a->told, 1);
	if (put(a))
		close(fd); /* this thread may wait */
}

static int on_told(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct aside *a = arg;
	eventfd_t count;

	(void)source;
	(void)events;
	(void)eventfd_read(fd, &count);
	if (!__atomic_load_n(&a->over, __ATOMIC_ACQUIRE))
		return 0;
	a->busy = false;
	a->done(a->arg, a->n);
	return 0;
}

struct aside *aside_new(struct disposal *d, int fd, bool is_socket, size_t room, aside_fn *done,
			void *arg, struct error *err)
{
	struct aside *a = calloc(1, sizeof(*a) + room);
	int rc;

	if (!a) {
		disposal_close(d, fd);
		error_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	*a = (struct aside) { .disposal = d,
			      .fd = fd,
			      .told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
			      .done = done,
			      .arg = arg,
			      .refs = 1,
			      .is_socket = is_socket,
			      .room = room };
	a->errand.run = run;
	rc = a->told < 0 ? -errno
			 : sd_event_add_io(control_event(), &a->io, a->told, EPOLLIN, on_told, a);
	if (rc < 0) {
		error_set(err, rc, "no eventfd: %s", strerror(-rc));
		aside_free(a);
		return NULL;
	}
	return a;
}

void aside_free(struct aside *a)
{
	struct disposal *d;
	int fd;

	if (!a)
		return;
	a->io = sd_event_source_disable_unref(a->io);
	d = a->disposal;
	fd = a->fd;
	if (put(a))
		disposal_close(d, fd);
}

static int begin(struct aside *a, size_t len, bool writes)
{
	assert(!a->busy && len <= a->room);
	a->len = len;
	a->writes = writes;
	a->over = false;
	a->busy = true;
	/* Not 2: the thread may not have put down the last one yet. */
	__atomic_add_fetch(&a->refs, 1, __ATOMIC_RELAXED);
	if (disposal_run(a->disposal, &a->errand))
		return 0;
	__atomic_sub_fetch(&a->refs, 1, __ATOMIC_RELAXED);
	a->busy = false;
	return -EAGAIN;
}

int aside_read(struct aside *a, size_t len)
{
	return begin(a, len, false);
}

int aside_write(struct aside *a, const void *bytes, size_t len)
{
	assert(!a->busy && len <= a->room);
	memcpy(a->bytes, bytes, len);
	return begin(a, len, true);
}

bool aside_busy(const struct aside *a)
{
	return a->busy;
}

const void *aside_bytes(const struct aside *a)
{
	return a->bytes;
}
