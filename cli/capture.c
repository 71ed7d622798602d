/* SPDX-License-Identifier: Apache-2.0 */
/* sluice capture: what passes a port, as pcapng, to a file or a program. */
#include "base/error.h"
#include "cli/clean.h"
#include "cli/client.h"
#include "cli/command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int from_daemon = -1;
static volatile sig_atomic_t stopped;

/* Ends it: sluiced sends what it has, and hangs up. */
static void stop(int sig)
{
	(void)sig;
	stopped = 1;
	shutdown(from_daemon, SHUT_WR);
}

static int write_all(int fd, const char *at, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* @return an exit code. */
static int ended(const char *port)
{
	if (stopped)
		return EXIT_GOOD;
	complain("sluiced has ended the capture of %s: the port was removed, or sluiced ended",
		 port);
	return EXIT_FAILED;
}

/* @return an exit code. */
static int copy(int to, const char *file, const char *port)
{
	static char bytes[1 << 16];

	for (;;) {
		ssize_t n = read(from_daemon, bytes, sizeof(bytes));
		int rc;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ended(port);
		rc = write_all(to, bytes, (size_t)n);
		if (rc == -EPIPE)
			return EXIT_GOOD; /* the program that looked at it has seen enough */
		if (rc < 0) {
			complain("%s: %s", file, strerror(-rc));
			return EXIT_FAILED;
		}
	}
}

/* Once sluiced has agreed: what was captured before stays when there is nothing to put in its
 * place.
 */
static int open_output(const char *file)
{
	if (strcmp(file, "-") == 0)
		return STDOUT_FILENO;
	return open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static int ask(const struct arguments *a, int end)
{
	json_t *params = json_pack("{s:s}", "port", a->words[1]), *answer;
	struct error err = { 0 };

	if (a->snap)
		json_object_set_new(params, "snap", json_integer(a->snap));
	answer = client_call_with_fds(a->socket, "port.capture", params, &end, 1, &err);
	if (!answer)
		return call_failed(&err);
	json_decref(answer);
	return EXIT_GOOD;
}

int capture_command(const struct arguments *a)
{
	const struct sigaction on_signal = { .sa_handler = stop, .sa_flags = SA_RESTART };
	int ends[2], to, rc;

	if (a->n != 2 || !a->write) {
		fputs("sluice: it is: capture PORT -w FILE, or -w - into another program\n",
		      stderr);
		return usage_error();
	}
	if (strcmp(a->write, "-") == 0 && isatty(STDOUT_FILENO)) {
		complain("a terminal takes no packets; pipe it into tcpdump -r - or wireshark -k "
			 "-i -");
		return EXIT_FAILED;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		complain("%s", strerror(errno));
		return EXIT_FAILED;
	}
	from_daemon = ends[0];
	signal(SIGPIPE, SIG_IGN);
	rc = ask(a, ends[1]);
	close(ends[1]);
	if (rc != EXIT_GOOD)
		return rc;
	sigaction(SIGINT, &on_signal, NULL);
	sigaction(SIGTERM, &on_signal, NULL);
	to = open_output(a->write);
	if (to < 0) {
		complain("%s: %s", a->write, strerror(errno));
		return EXIT_FAILED;
	}
	return copy(to, a->write, a->words[1]);
}
