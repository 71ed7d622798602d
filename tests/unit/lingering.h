/* SPDX-License-Identifier: Apache-2.0 */
/* A descriptor that takes long to close, and ways to send it. */
#ifndef SLUICE_TESTS_UNIT_LINGERING_H
#define SLUICE_TESTS_UNIT_LINGERING_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* One end of a connection with bytes that its peer does not take: close() waits for 60 s. */
struct lingering {
	int fd, peer;
};

static inline void lingering_open(struct lingering *l)
{
	const struct linger linger = { .l_onoff = 1, .l_linger = 60 };
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 4096;
	socklen_t len = sizeof(sin);
	static char bytes[1 << 16];

	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	cr_assert_eq(bind(listener, (struct sockaddr *)&sin, len), 0);
	cr_assert_eq(listen(listener, 1), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&sin, &len), 0);
	l->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(l->fd, (struct sockaddr *)&sin, len), 0);
	l->peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	close(listener);
	cr_assert_eq(setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	while (send(l->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

/* A reset ends the wait of whoever closes the other end. */
static inline void lingering_close(struct lingering *l)
{
	const struct linger now = { .l_onoff = 1 };

	setsockopt(l->peer, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(l->peer);
}

/* @fd goes along. @return 0 or -errno. */
static inline int send_fd(int sock, const void *bytes, size_t len, int flags, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };

	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.align), &fd, sizeof(int));
	return sendmsg(sock, &msg, flags) == (ssize_t)len ? 0 : -errno;
}

#endif
