/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/pager.h"

#include "base/error.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The stem answers in a millisecond, and so does a pager; nobody else has a hand in it by then. */
#define HELLO_MS 2000
/*
 * Where pagers map: far from what a process has by itself, and each with room to the next, so that
 * no address lies in two of them. We choose, so that the front-end can be told without asking.
 */
#define MAP_FIRST UINT64_C(0x200000000000)
#define MAP_END UINT64_C(0x500000000000)
#define MAP_GAP (UINT64_C(1) << 30)

struct pager {
	int socket, uffd;
	int process; /* pidfd */
	uint64_t next;
};

static int stem_socket = -1;
static pid_t stem;

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* @return 0 or -errno, also what the other side says. */
static int wait_hello(int socket, int *fds, unsigned n)
{
	struct pollfd p = { .fd = socket, .events = POLLIN };
	struct pager_message m;
	int rc = poll(&p, 1, HELLO_MS);

	if (rc == 0)
		return -ETIMEDOUT;
	rc = pager_receive(socket, &m, fds, n, MSG_DONTWAIT);
	if (rc <= 0)
		return rc ? rc : -EPIPE;
	return m.kind == PAGER_HELLO ? m.error : -EPROTO;
}

int pager_prepare(const struct pager_confinement *c, struct error *err)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "its process gets no socket: %s", strerror(errno));
	stem = fork();
	if (stem == 0)
		pager_stem_main(pair[1], c);
	rc = stem < 0 ? -errno : 0;
	close(pair[1]);
	stem_socket = pair[0];
	if (rc == 0)
		return 0;
	pager_unprepare();
	return error_set(err, rc, "its process cannot be started: %s", strerror(-rc));
}

int pager_await(struct error *err)
{
	int rc = wait_hello(stem_socket, NULL, 0);

	if (rc == 0)
		return 0;
	error_set(err, rc,
		  "its process cannot have a userfaultfd: %s; it takes Linux 5.11, and a container "
		  "or service whose seccomp filter allows that call",
		  strerror(-rc));
	pager_unprepare();
	return rc;
}

bool pager_possible(void)
{
	return stem_socket >= 0;
}

void pager_unprepare(void)
{
	close_fd(stem_socket);
	stem_socket = -1;
	if (stem > 0)
		waitpid(stem, NULL, 0);
	stem = 0;
}

struct pager *pager_start(struct error *err)
{
	const struct pager_message start = { .kind = PAGER_HELLO };
	struct pager *p = calloc(1, sizeof(*p));
	int pair[2], fds[2] = { -1, -1 }, rc;

	if (!p || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		error_set(err, p ? -errno : -ENOMEM, "no memory or no descriptor for a pager");
		free(p);
		return NULL;
	}
	p->socket = pair[0];
	rc = pager_send(stem_socket, &start, &pair[1], 1, MSG_DONTWAIT);
	close(pair[1]);
	if (rc == 0)
		rc = wait_hello(p->socket, fds, 2);
	p->uffd = fds[0];
	p->process = fds[1];
	p->next = MAP_FIRST;
	if (rc == 0 && p->uffd >= 0 && p->process >= 0)
		return p;
	error_set(err, rc ? rc : -EPROTO, "its pager did not start: %s",
		  strerror(rc ? -rc : EPROTO));
	pager_stop(p);
	return NULL;
}

void pager_stop(struct pager *p)
{
	if (!p)
		return;
	/* First: closing the last userfaultfd takes a lock of the pager's address space. */
	if (p->process >= 0)
		syscall(SYS_pidfd_send_signal, p->process, SIGKILL, NULL, 0);
	close_fd(p->process);
	close_fd(p->socket);
	close_fd(p->uffd);
	free(p);
}

int pager_userfaultfd(const struct pager *p)
{
	return p->uffd;
}

int pager_fd(const struct pager *p)
{
	return p->socket;
}

uint64_t pager_map(struct pager *p, const struct pager_file *file, struct error *err)
{
	const struct pager_message m = {
		.kind = PAGER_MAP, .addr = p->next, .len = file->len, .offset = file->offset
	};
	int rc;

	/* MAP_GAP is a multiple of every page size. */
	if (file->len > MAP_END - MAP_FIRST ||
	    ALIGN_UP(file->len, MAP_GAP) + MAP_GAP > MAP_END - p->next) {
		error_set(err, -ENOSPC, "its pager has no room for 0x%llx bytes more",
			  (unsigned long long)file->len);
		return 0;
	}
	rc = pager_send(p->socket, &m, &file->fd, 1, MSG_DONTWAIT);
	if (rc < 0) {
		error_set(err, rc, "its pager does not take it: %s", strerror(-rc));
		return 0;
	}
	p->next += ALIGN_UP(file->len, MAP_GAP) + MAP_GAP;
	return m.addr;
}

int pager_touch(struct pager *p, uint64_t addr)
{
	const struct pager_message m = { .kind = PAGER_TOUCH, .addr = addr };

	/* A pager that is no more is noticed by pager_read(). */
	return pager_send(p->socket, &m, NULL, 0, MSG_DONTWAIT) == -EAGAIN ? -EAGAIN : 0;
}

int pager_read(struct pager *p, uint64_t *addr)
{
	struct pager_message m;
	int rc = pager_receive(p->socket, &m, NULL, 0, MSG_DONTWAIT);

	if (rc == -EAGAIN)
		return 0;
	if (rc <= 0 || m.kind != PAGER_ARRIVED)
		return -EPIPE;
	*addr = m.addr;
	return 1;
}
