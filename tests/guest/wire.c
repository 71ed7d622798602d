/* SPDX-License-Identifier: Apache-2.0 */
/* The front-end's socket: bytes, descriptors, time limits. */
#include "base/clock.h"
#include "tests/guest/frontend.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static_assert(sizeof(struct vu_header) == 12, "vhost-user header");
static_assert(sizeof(struct vu_addr) == 40, "vhost-user vring address description");
static_assert(sizeof(struct vu_region) == 32, "vhost-user memory region description");
static_assert(sizeof(struct vu_mem_reg) == 40, "vhost-user single memory region description");
static_assert(sizeof(struct vu_config) == 12 + VU_CONFIG_MAX, "vhost-user config space");

/* More than any sane test sends: SCM_MAX_FD of the kernel. */
#define RAW_FDS_MAX 253

int frontend_fail(struct frontend *f, int code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(f->error, sizeof(f->error), fmt, args);
	va_end(args);
	return code;
}

void frontend_init(struct frontend *f)
{
	memset(f, 0, sizeof(*f));
	f->sock = -1;
	f->backend_sock = -1;
	f->timeout_ms = 10000;
	for (unsigned i = 0; i < FRONTEND_QUEUES_MAX; i++)
		f->queue[i].kick_fd = f->queue[i].call_fd = f->queue[i].err_fd = -1;
}

static uint64_t deadline_ns(int timeout_ms)
{
	return clock_ns() + (uint64_t)timeout_ms * 1000000;
}

void frontend_idle(struct frontend *f)
{
	if (f->idle)
		f->idle(f->idle_arg);
	else
		nanosleep(&(struct timespec) { .tv_nsec = 200000 }, NULL);
}

/* Waits for one of @fds (-1: left out), running f->idle meanwhile. @return 0 or -ETIMEDOUT. */
static int wait_fds(struct frontend *f, struct pollfd *fds, unsigned n, uint64_t deadline)
{
	for (;;) {
		uint64_t now = clock_ns();
		int left = now >= deadline ? 0 : (int)((deadline - now) / 1000000) + 1;
		int ready = poll(fds, n, f->idle ? 0 : left);

		if (ready > 0)
			return 0;
		if (ready < 0 && errno != EINTR)
			return frontend_fail(f, -errno, "poll: %s", strerror(errno));
		if (now >= deadline)
			return -ETIMEDOUT;
		if (f->idle)
			f->idle(f->idle_arg);
	}
}

static int wait_fd(struct frontend *f, int fd, short events, uint64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = events };

	return wait_fds(f, &p, 1, deadline);
}

static int try_connect(struct frontend *f, const struct sockaddr_un *addr)
{
	/* Else it would wait for ever for a place in a queue of connections that nobody takes. */
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ||
	    fcntl(fd, F_SETFL, 0) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	frontend_attach(f, fd);
	return 0;
}

int frontend_connect(struct frontend *f, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	uint64_t deadline = deadline_ns(f->timeout_ms);
	int rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return frontend_fail(f, -ENAMETOOLONG, "%s: too long for a socket", path);
	memcpy(addr.sun_path, path, strlen(path));
	/* The back-end may be about to make it. */
	while ((rc = try_connect(f, &addr)) == -ENOENT || rc == -ECONNREFUSED || rc == -EAGAIN) {
		if (clock_ns() > deadline)
			break;
		frontend_idle(f);
	}
	if (rc == -EAGAIN)
		return frontend_fail(f, rc, "connect to %s: too many wait there to be taken", path);
	return rc ? frontend_fail(f, rc, "connect to %s: %s", path, strerror(-rc)) : 0;
}

int frontend_accept(struct frontend *f, int listen_fd)
{
	int fd, rc = wait_fd(f, listen_fd, POLLIN, deadline_ns(f->timeout_ms));

	if (rc < 0)
		return frontend_fail(f, rc, "nobody connected");
	fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return frontend_fail(f, -errno, "accept: %s", strerror(errno));
	frontend_attach(f, fd);
	return 0;
}

void frontend_attach(struct frontend *f, int fd)
{
	f->sock = fd;
	f->features = f->offered = f->protocol = f->protocol_offered = 0;
}

static int send_some(struct frontend *f, struct msghdr *msg)
{
	uint64_t deadline = deadline_ns(f->timeout_ms);

	for (;;) {
		ssize_t n = sendmsg(f->sock, msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		int rc;

		if (n >= 0)
			return n;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return errno == EPIPE || errno == ECONNRESET
				       ? frontend_fail(f, -ECONNRESET, "back-end hung up")
				       : frontend_fail(f, -errno, "sendmsg: %s", strerror(errno));
		rc = wait_fd(f, f->sock, POLLOUT, deadline);
		if (rc < 0)
			return frontend_fail(f, rc, "back-end does not read");
	}
}

int frontend_send_raw(struct frontend *f, const void *bytes, size_t n, const int *fds,
		      unsigned n_fds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * RAW_FDS_MAX)];
	} control;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds > RAW_FDS_MAX)
		return frontend_fail(f, -EINVAL, "%u descriptors", n_fds);
	if (n_fds) {
		struct cmsghdr *c = &control.align;

		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	while (iov.iov_len) {
		int sent = send_some(f, &msg);

		if (sent < 0)
			return sent;
		iov.iov_base = (char *)iov.iov_base + sent;
		iov.iov_len -= sent;
		msg.msg_control = NULL;
		msg.msg_controllen = 0;
	}
	return 0;
}

int frontend_send(struct frontend *f, uint32_t request, uint32_t flags, const void *payload,
		  uint32_t size, const int *fds, unsigned n_fds)
{
	struct vu_header h = { .request = request, .flags = flags, .size = size };
	uint8_t bytes[sizeof(h) + VU_PAYLOAD_MAX];

	if (size > VU_PAYLOAD_MAX)
		return frontend_fail(f, -EINVAL, "payload of %u bytes", size);
	memcpy(bytes, &h, sizeof(h));
	if (size)
		memcpy(bytes + sizeof(h), payload, size);
	return frontend_send_raw(f, bytes, sizeof(h) + size, fds, n_fds);
}

static int take_fds(struct frontend *f, struct msghdr *msg, int *fds, unsigned max, unsigned *n_fds)
{
	int rc = 0;

	*n_fds = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		unsigned n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		struct ucred cred;

		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			f->sender = cred.pid;
		}
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (unsigned i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (*n_fds < max) {
				fds[(*n_fds)++] = fd;
			} else {
				close(fd);
				rc = -EPROTO;
			}
		}
	}
	return rc ? frontend_fail(f, rc, "descriptors that nobody asked for") : 0;
}

/* Exactly @n bytes; @msg_fds only with the first of them. */
static int recv_bytes(struct frontend *f, int sock, void *buf, size_t n, int *fds, unsigned *n_fds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int) * VU_FDS_MAX)];
	} control;
	uint64_t deadline = deadline_ns(f->timeout_ms);
	unsigned max = fds ? *n_fds : 0;

	if (fds)
		*n_fds = 0;
	for (size_t got = 0; got < n;) {
		struct iovec iov = { .iov_base = (char *)buf + got, .iov_len = n - got };
		struct msghdr msg = { .msg_iov = &iov,
				      .msg_iovlen = 1,
				      .msg_control = &control,
				      .msg_controllen = sizeof(control) };
		int rc = wait_fd(f, sock, POLLIN, deadline);
		unsigned n_more;
		ssize_t len;

		if (rc < 0)
			return frontend_fail(f, rc, "no message within %d ms", f->timeout_ms);
		len = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		/* Readable again and again, with nothing that we read: bytes out of band. */
		if (len < 0 && (errno == EINTR || errno == EAGAIN) && clock_ns() < deadline)
			continue;
		if (len < 0 && (errno == EINTR || errno == EAGAIN))
			return frontend_fail(f, -ETIMEDOUT, "no message within %d ms",
					     f->timeout_ms);
		if (len <= 0)
			return frontend_fail(f, -ECONNRESET, "back-end hung up");
		rc = take_fds(f, &msg, fds, got == 0 ? max : 0, &n_more);
		if (rc < 0)
			return rc;
		if (got == 0 && fds)
			*n_fds = n_more;
		got += len;
	}
	return 0;
}

int frontend_recv(struct frontend *f, struct vu_header *h, void *payload, uint32_t max, int *fds,
		  unsigned *n_fds)
{
	int rc;

	f->receiving = true;
	rc = recv_bytes(f, f->sock, h, sizeof(*h), fds, n_fds);
	f->receiving = false;
	if (rc < 0)
		return rc;
	if ((h->flags & VU_VERSION_MASK) != VU_VERSION)
		return frontend_fail(f, -EPROTO, "message %u: flags %#x", h->request, h->flags);
	if (h->size > max)
		return frontend_fail(f, -EPROTO,
				     "message %u: %u bytes of payload, at most %u expected",
				     h->request, h->size, max);
	rc = recv_bytes(f, f->sock, payload, h->size, NULL, NULL);
	return rc < 0 ? rc : (int)h->size;
}

int frontend_recv_reply(struct frontend *f, uint32_t request, void *payload, uint32_t max, int *fds,
			unsigned *n_fds)
{
	struct vu_header h;
	int rc = frontend_recv(f, &h, payload, max, fds, n_fds);

	if (rc < 0)
		return rc;
	if (h.request != request || !(h.flags & VU_REPLY))
		return frontend_fail(f, -EPROTO, "answer to message %u: message %u, flags %#x",
				     request, h.request, h.flags);
	return rc;
}

int frontend_wait_hangup(struct frontend *f)
{
	int rc = wait_fd(f, f->sock, POLLIN, deadline_ns(f->timeout_ms));
	char byte;
	ssize_t n;

	if (rc < 0)
		return frontend_fail(f, rc, "back-end did not hang up");
	n = recv(f->sock, &byte, 1, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return 0;
	return frontend_fail(f, -EPROTO, "back-end did not hang up but spoke");
}

int frontend_backend_message(struct frontend *f, struct vu_header *h)
{
	uint8_t payload[VU_PAYLOAD_MAX];
	int rc;

	if (f->backend_sock < 0)
		return frontend_fail(f, -ENOTCONN, "no back-end channel");
	rc = recv_bytes(f, f->backend_sock, h, sizeof(*h), NULL, NULL);
	if (rc < 0)
		return rc;
	if (h->size > sizeof(payload) || (h->flags & VU_VERSION_MASK) != VU_VERSION)
		return frontend_fail(f, -EPROTO, "back-end message %u: flags %#x, %u bytes",
				     h->request, h->flags, h->size);
	rc = recv_bytes(f, f->backend_sock, payload, h->size, NULL, NULL);
	if (rc == 0 && h->flags & VU_NEED_REPLY) {
		struct {
			struct vu_header h;
			uint64_t value;
		} __attribute__((packed))
		ack = { .h = { h->request, VU_VERSION | VU_REPLY, sizeof(uint64_t) } };

		if (send(f->backend_sock, &ack, sizeof(ack), MSG_NOSIGNAL) != sizeof(ack))
			return frontend_fail(f, -errno, "back-end channel: %s", strerror(errno));
	}
	return rc;
}

bool frontend_take_event(int fd)
{
	uint64_t count;
	struct iovec iov = { &count, sizeof(count) };

	return preadv2(fd, &iov, 1, -1, RWF_NOWAIT) == sizeof(count);
}

static int take_call(struct frontend *f, unsigned index)
{
	struct frontend_queue *q = &f->queue[index];

	if (!frontend_take_event(q->call_fd))
		return frontend_fail(f, -EIO, "queue %u: call eventfd: %s", index, strerror(errno));
	q->calls++;
	return 0;
}

int frontend_wait_call(struct frontend *f, unsigned index, int timeout_ms)
{
	int rc = wait_fd(f, f->queue[index].call_fd, POLLIN, deadline_ns(timeout_ms));

	if (rc < 0)
		return frontend_fail(f, rc, "queue %u: no call within %d ms", index, timeout_ms);
	return take_call(f, index);
}

static int not_used(struct frontend *f, unsigned index, const char *what)
{
	return frontend_fail(f, -ETIMEDOUT, "queue %u: %s within %d ms", index, what,
			     f->timeout_ms);
}

/* Sleeps until the device calls, or complains: of "nothing", if it has used no chain. */
static int wait_device(struct frontend *f, unsigned index, uint64_t deadline, const char *nothing)
{
	struct frontend_queue *q = &f->queue[index];
	struct pollfd fds[] = { { .fd = q->call_fd, .events = POLLIN },
				{ .fd = q->err_fd, .events = POLLIN },
				{ .fd = f->sock, .events = POLLRDHUP } };
	int rc = wait_fds(f, fds, ARRAY_SIZE(fds), deadline);

	if (rc == -ETIMEDOUT) {
		bool used = driver_ring_has_used(&q->ring);

		return not_used(f, index, used ? "chains were used, but no call came" : nothing);
	}
	if (rc < 0)
		return rc;
	if (fds[0].revents)
		return take_call(f, index);
	return fds[1].revents
		       ? frontend_fail(f, -EREMOTEIO, "queue %u: the device signalled err", index)
		       : frontend_fail(f, -ECONNRESET, "back-end hung up");
}

int frontend_wait_used(struct frontend *f, unsigned index, struct driver_used *used)
{
	struct frontend_queue *q = &f->queue[index];
	uint64_t deadline = deadline_ns(f->timeout_ms), calls_before = q->calls;
	const char *nothing = "nothing used";

	while (!frontend_poll(f, index, used)) {
		int rc;

		if (driver_violation(&q->ring))
			return frontend_fail(f, -EREMOTEIO, "queue %u: %s", index,
					     driver_violation(&q->ring));
		rc = driver_ring_calls_on(&q->ring) ? wait_device(f, index, deadline, nothing) : 0;
		if (rc < 0)
			return rc;
		if (q->calls != calls_before)
			nothing = "called, and nothing used";
		if (clock_ns() >= deadline && frontend_poll(f, index, used))
			return 0;
		if (clock_ns() >= deadline)
			return not_used(f, index, nothing);
	}
	return 0;
}
