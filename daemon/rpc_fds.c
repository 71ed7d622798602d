/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/rpc_fds.h"

#include "vhost/disposal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void add(struct rpc_fds *fds, const struct cmsghdr *c, struct disposal *d)
{
	const unsigned char *data = CMSG_DATA(c);
	size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, data + i * sizeof(fd), sizeof(fd));
		if (fds->n < RPC_FDS_MAX) {
			fds->fd[fds->n++] = fd;
			continue;
		}
		/* Sent in several pieces, each of which had room for all. */
		fds->lost = true;
		disposal_close(d, fd);
	}
}

ssize_t rpc_fds_receive(int sock, void *buf, size_t size, struct rpc_fds *fds, struct disposal *d)
{
	union { /* aligned as cmsg(3) asks */
		char space[CMSG_SPACE(RPC_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { buf, size };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			add(fds, c, d);
	if (m.msg_flags & MSG_CTRUNC)
		fds->lost = true;
	return n;
}

void rpc_fds_close(struct rpc_fds *fds, struct disposal *d)
{
	for (unsigned i = 0; i < fds->n; i++)
		if (fds->fd[i] >= 0)
			disposal_close(d, fds->fd[i]);
	*fds = (struct rpc_fds) { 0 };
}

bool rpc_fds_is_stream(const struct rpc_fds *fds, unsigned i)
{
	int domain = 0, type = 0;
	socklen_t len = sizeof(int);

	return i < fds->n && getsockopt(fds->fd[i], SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
	       domain == AF_UNIX && getsockopt(fds->fd[i], SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
	       type == SOCK_STREAM;
}

int rpc_fds_take(struct rpc_fds *fds, unsigned i)
{
	int fd = i < fds->n ? fds->fd[i] : -1;

	if (fd >= 0)
		fds->fd[i] = -1;
	return fd;
}
