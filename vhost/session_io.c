/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of the socket to messages and back, without ever waiting for the front-end. */
#include "vhost/disposal.h"
#include "vhost/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEADER_SIZE sizeof(struct vhost_user_header)

void session_receive_next(struct vhost_session *s)
{
	message_close_fds(s);
	s->rx_got = 0;
	s->rx.fds_lost = false;
	s->rx.reply_size = 0;
	s->rx.reply_fds = 0;
}

/* Descriptors are ours from the moment that recvmsg() returns, whatever is wrong with the message.
 */
static void take_fds(struct vhost_session *s, struct msghdr *msg)
{
	struct message *m = &s->rx;
	int fds[MESSAGE_FDS_MAX];
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(c), n * sizeof(int));
		for (size_t i = 0; i < n; i++) {
			if (m->n_fds < MESSAGE_FDS_MAX) {
				m->fds[m->n_fds++] = fds[i];
			} else {
				disposal_close(s->device->disposal, fds[i]);
				m->fds_lost = true;
			}
		}
	}
	if (msg->msg_flags & MSG_CTRUNC)
		m->fds_lost = true;
}

/* @return bytes, 0 when there are none for now, or -errno with s->why. */
static ssize_t receive_some(struct vhost_session *s, void *to, size_t len)
{
	union {
		char bytes[CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { .iov_base = to, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	unsigned had_fds = s->rx.n_fds;
	ssize_t n;

	if (disposal_full(s->device->disposal)) {
		s->why = "its descriptors take too long to be closed";
		return -EBUSY;
	}
	do
		n = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n < 0) {
		s->why = "reading from its socket failed";
		return -errno;
	}
	take_fds(s, &msg);
	if (n == 0) {
		s->why = s->rx_got ? "it hung up in the middle of a message" : "it hung up";
		return -ECONNRESET;
	}
	/* vhost-user "Communication": descriptors belong to a message's first bytes. */
	if (s->rx_got && (s->rx.n_fds != had_fds || (msg.msg_flags & MSG_CTRUNC))) {
		s->why = "it sent file descriptors in the middle of a message";
		return -EPROTO;
	}
	return n;
}

static int header_check(struct vhost_session *s)
{
	const struct vhost_user_header *h = &s->rx.hdr;

	if ((h->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
		s->why = "it sent a message of another protocol version";
	else if (h->flags & VHOST_USER_REPLY)
		s->why = "it sent a reply where a request was due";
	else if (h->size > VHOST_USER_PAYLOAD_MAX)
		s->why = "it announced a message longer than any that exists";
	else
		return 0;
	return -EPROTO;
}

int session_receive(struct vhost_session *s)
{
	for (;;) {
		size_t want = HEADER_SIZE;
		uint8_t *to = (uint8_t *)&s->rx.hdr + s->rx_got;
		ssize_t n;

		if (s->rx_got >= HEADER_SIZE) {
			want += s->rx.hdr.size;
			if (s->rx_got == want)
				return 1;
			to = s->rx.payload.bytes + (s->rx_got - HEADER_SIZE);
		}
		n = receive_some(s, to, want - s->rx_got);
		if (n <= 0)
			return (int)n;
		s->rx_got += (size_t)n;
		if (s->rx_got != HEADER_SIZE)
			continue;
		if (header_check(s) < 0)
			return -EPROTO;
		/* A payload shorter than its struct reads as zeros, never as an older message. */
		memset(&s->rx.payload, 0, sizeof(s->rx.payload));
	}
}

static void watch_output(struct vhost_session *s)
{
	bool pending = s->tx_to > s->tx_from;

	sd_event_source_set_io_events(s->io, EPOLLIN | (pending ? EPOLLOUT : 0u));
}

int session_flush(struct vhost_session *s)
{
	while (s->tx_from < s->tx_to) {
		ssize_t n = send(s->fd, s->tx + s->tx_from, s->tx_to - s->tx_from,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (n < 0) {
			s->why = "writing to its socket failed";
			return -errno;
		}
		s->tx_from += (size_t)n;
	}
	if (s->tx_from == s->tx_to)
		s->tx_from = s->tx_to = 0;
	watch_output(s);
	return 0;
}

/* Keeps @len bytes for later. */
static int send_later(struct vhost_session *s, const uint8_t *bytes, size_t len)
{
	if (!s->tx) {
		s->tx = malloc(SESSION_TX_MAX);
		if (!s->tx)
			return -ENOMEM;
	}
	if (s->tx_from) {
		memmove(s->tx, s->tx + s->tx_from, s->tx_to - s->tx_from);
		s->tx_to -= s->tx_from;
		s->tx_from = 0;
	}
	if (len > SESSION_TX_MAX - s->tx_to) {
		s->why = "it does not read its replies";
		return -ENOBUFS;
	}
	memcpy(s->tx + s->tx_to, bytes, len);
	s->tx_to += len;
	watch_output(s);
	return 0;
}

/* As send(), with @n_fds descriptors. */
static ssize_t send_some(int fd, const void *bytes, size_t len, const int *fds, unsigned n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * MESSAGE_FDS_MAX)];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (n_fds) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * n_fds);
	}
	do
		n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n;
}

int session_send(struct vhost_session *s, const struct vhost_user_header *hdr, const void *payload)
{
	return session_send_fds(s, hdr, payload, NULL, 0);
}

int session_send_fds(struct vhost_session *s, const struct vhost_user_header *hdr,
		     const void *payload, const int *fds, unsigned n_fds)
{
	uint8_t bytes[HEADER_SIZE + VHOST_USER_PAYLOAD_MAX];
	size_t len = HEADER_SIZE + hdr->size, sent = 0;

	memcpy(bytes, hdr, HEADER_SIZE);
	memcpy(bytes + HEADER_SIZE, payload, hdr->size);
	if (s->tx_from == s->tx_to) {
		ssize_t n = send_some(s->fd, bytes, len, fds, n_fds);

		if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
			s->why = "writing to its socket failed";
			return -errno;
		}
		sent = n < 0 ? 0 : (size_t)n;
	}
	/* They go with a message's first byte. */
	if (n_fds && sent == 0) {
		s->why = "it does not read its replies";
		return -ENOBUFS;
	}
	return sent < len ? send_later(s, bytes + sent, len - sent) : 0;
}
