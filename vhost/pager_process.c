/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What runs in the stem and in the pagers. They use nothing of the process that they came from: no
 * log, no control loop, no descriptor but their socket.
 */
#include "vhost/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY /* Linux 5.11 */
#define UFFD_USER_MODE_ONLY 1
#endif

#define FDS_MAX 2
#define STEM_FD 0 /* the only descriptor that it has */

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
};

int pager_send(int socket, const struct pager_message *m, const int *fds, unsigned n, int flags)
{
	union control control = { 0 };
	struct iovec iov = { .iov_base = (void *)m, .iov_len = sizeof(*m) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t rc;

	if (n) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * n);
	}
	do
		rc = sendmsg(socket, &msg, flags | MSG_NOSIGNAL);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

static void take_fds(struct msghdr *msg, int *fds, unsigned n)
{
	int came[FDS_MAX];

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(came, CMSG_DATA(c), count * sizeof(int));
		for (unsigned i = 0; i < count; i++) {
			if (i < n)
				fds[i] = came[i];
			else
				close(came[i]);
		}
	}
}

int pager_receive(int socket, struct pager_message *m, int *fds, unsigned n, int flags)
{
	union control control;
	struct iovec iov = { .iov_base = m, .iov_len = sizeof(*m) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t rc;

	/* Without room for them the kernel takes none over. */
	if (n) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
	}
	for (unsigned i = 0; i < n; i++)
		fds[i] = -1;
	do
		rc = recvmsg(socket, &msg, flags | MSG_CMSG_CLOEXEC);
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	if (n)
		take_fds(&msg, fds, n);
	if (rc == 0)
		return 0;
	return rc == sizeof(*m) ? 1 : -EPROTO;
}

/* Faults of this process alone are all that is to be reported, and for that nobody needs rights. */
static int make_userfaultfd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0 && errno == EINVAL)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, UFFDIO_API, &api) < 0 || !(api.features & UFFD_FEATURE_MISSING_SHMEM)) {
		close(fd);
		return -EOPNOTSUPP;
	}
	return fd;
}

/* Read-only: a page is touched by reading it. */
static bool map(int uffd, const struct pager_message *m, int fd)
{
	struct uffdio_register r = { .range = { .start = m->addr, .len = m->len },
				     .mode = UFFDIO_REGISTER_MODE_MISSING };
	/* The address is ours to choose. NOLINTNEXTLINE(performance-no-int-to-ptr) */
	void *want = (void *)(uintptr_t)m->addr;
	void *at = mmap(want, m->len, PROT_READ, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
			fd, (off_t)m->offset);

	close(fd);
	return at == want && ioctl(uffd, UFFDIO_REGISTER, &r) == 0;
}

static void touch(uint64_t addr)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	(void)*(volatile const uint8_t *)(uintptr_t)addr;
}

/* Ends when it cannot go on; the other side sees the end of the socket. */
static void serve(int socket, int uffd)
{
	struct pager_message m;
	int fd;

	while (pager_receive(socket, &m, &fd, 1, 0) == 1) {
		if (m.kind == PAGER_MAP && fd >= 0) {
			if (!map(uffd, &m, fd))
				return;
		} else if (m.kind == PAGER_TOUCH) {
			touch(m.addr); /* here it sleeps */
			m.kind = PAGER_ARRIVED;
			if (pager_send(socket, &m, NULL, 0, 0) < 0)
				return;
		} else {
			return;
		}
	}
}

static __attribute__((noreturn)) void pager_main(int socket, const struct pager_confinement *c)
{
	struct pager_message hello = { .kind = PAGER_HELLO };
	int fds[2];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "sluice-pager");
	fds[0] = make_userfaultfd();
	fds[1] = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (fds[0] < 0 || fds[1] < 0)
		hello.error = fds[0] < 0 ? fds[0] : -errno;
	if (c && c->pager && c->pager(c->arg) != 0)
		_exit(1);
	if (pager_send(socket, &hello, fds, hello.error ? 0 : 2, 0) == 0 && !hello.error) {
		close(fds[1]);
		serve(socket, fds[0]);
	}
	_exit(0);
}

/* Everything that the process before it had open, whatever it was, is closed. */
static int keep_only(int socket)
{
	if (dup2(socket, STEM_FD) < 0)
		return -errno;
	return close_range(STEM_FD + 1, ~0U, 0) < 0 ? -errno : 0;
}

void pager_stem_main(int socket, const struct pager_confinement *c)
{
	struct pager_message m = { .kind = PAGER_HELLO };
	sigset_t all;
	int fd;

	/* It ends with its parent, and not by a signal to all: devices may be in the midst of it.
	 */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGCHLD, SIG_IGN);
	prctl(PR_SET_NAME, "sluice-stem");
	m.error = keep_only(socket);
	if (m.error == 0 && c && c->stem && c->stem(c->arg) != 0)
		m.error = -EPERM;
	if (m.error == 0) {
		fd = make_userfaultfd();
		m.error = MIN(fd, 0);
		if (fd >= 0)
			close(fd);
	}
	pager_send(STEM_FD, &m, NULL, 0, 0);
	while (m.error == 0 && pager_receive(STEM_FD, &m, &fd, 1, 0) == 1) {
		if (fd >= 0 && fork() == 0) {
			close(STEM_FD);
			pager_main(fd, c);
		}
		if (fd >= 0)
			close(fd);
	}
	_exit(0);
}
