/* SPDX-License-Identifier: Apache-2.0 */
/* An nbdkit of the test's own, on a unix socket in the build folder. */
#ifndef SLUICE_TESTS_NBD_UTIL_H
#define SLUICE_TESTS_NBD_UTIL_H

#include "tests/unit/disk_util.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

struct nbd_server {
	pid_t pid;
	char socket[64], uri[128];
};

#define NBDKIT "/usr/bin/nbdkit"
#define NBD_SKIP_WITHOUT_NBDKIT()                               \
	do                                                      \
		if (access(NBDKIT, X_OK)) {                     \
			cr_skip("there is no " NBDKIT " here"); \
			return;                                 \
		}                                               \
	while (0)

static inline void nbd_server_init(struct nbd_server *s)
{
	memset(s, 0, sizeof(*s));
	snprintf(s->socket, sizeof(s->socket), "test-nbd-%d.sock", getpid());
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->socket);
	unlink(s->socket);
}

/* Its socket is there before that is so. */
static inline bool nbd_server_listens(const struct nbd_server *s)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), rc;

	memcpy(to.sun_path, s->socket, sizeof(s->socket));
	rc = connect(fd, (struct sockaddr *)&to, sizeof(to));
	close(fd);
	return rc == 0;
}

/* @args: what follows "nbdkit -f -U SOCKET", NULL-terminated. Returns once it listens. */
static inline void nbd_server_start(struct nbd_server *s, const char *const *args)
{
	const char *argv[32] = { NBDKIT, "-f", "-U", s->socket };
	unsigned n = 4;

	while (*args && n < ARRAY_SIZE(argv) - 1)
		argv[n++] = *args++;
	unlink(s->socket);
	s->pid = fork();
	cr_assert_geq(s->pid, 0);
	if (s->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execv(argv[0], (char **)argv);
		_exit(127);
	}
	for (unsigned i = 0; i < 4000 && !nbd_server_listens(s); i++) {
		cr_assert_eq(waitpid(s->pid, NULL, WNOHANG), 0, "nbdkit has ended");
		usleep(5000);
	}
	cr_assert(nbd_server_listens(s), "nbdkit does not listen");
}

/* @return what waitpid() says. */
static inline int nbd_server_stop(struct nbd_server *s, int sig)
{
	int status = 0;

	if (s->pid <= 0)
		return 0;
	kill(s->pid, sig);
	cr_assert_eq(waitpid(s->pid, &status, 0), s->pid);
	s->pid = 0;
	unlink(s->socket);
	return status;
}

#define NBD_ARGS(...)             \
	(const char *const[])     \
	{                         \
		__VA_ARGS__, NULL \
	}

#endif
