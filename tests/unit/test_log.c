/* SPDX-License-Identifier: Apache-2.0 */
/* The log keeps nobody waiting, and nobody fills it. */
#include "base/log_limit.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Standard error is this descriptor from now on. */
static void to(int fd)
{
	cr_assert_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
}

static unsigned lines(const char *text, const char *with)
{
	unsigned n = 0;

	for (const char *p = text; (p = strstr(p, with)); p++)
		n++;
	return n;
}

static char text[1 << 20];

static void take(int fd)
{
	size_t used = 0;
	ssize_t n;

	while ((n = read(fd, text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)n;
	text[used] = 0;
}

/* A reader that has stopped reading: what does not fit is lost, is counted, and is said. */
static void stalled(int out, int in)
{
	char line[1000];

	fcntl(in, F_SETFL, O_NONBLOCK);
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = 0;
	to(out);
	for (unsigned i = 0; i < 1000; i++)
		log_info("%s", line);
	take(in);
	cr_assert_gt(lines(text, "sluice info:"), 0u);
	cr_assert_lt(lines(text, "sluice info:"), 1000u);
	log_info("read again");
	take(in);
	cr_assert_eq(lines(text, "lines were lost: nobody read the log"), 1u);
	cr_assert_eq(lines(text, "read again"), 1u);
}

Test(log, does_not_wait_for_a_pipe_that_nobody_reads, .timeout = 20)
{
	int fds[2];

	cr_assert_eq(pipe(fds), 0);
	stalled(fds[1], fds[0]);
}

/* As the journal's are. */
Test(log, does_not_wait_for_a_socket_that_nobody_reads, .timeout = 20)
{
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	stalled(fds[0], fds[1]);
}

Test(log, a_flood_of_lines_is_limited_and_counted)
{
	struct log_limit flood = { 0 }, other = { 0 };
	int fds[2];

	cr_assert_eq(pipe(fds), 0);
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	to(fds[1]);
	for (unsigned i = 0; i < 10000; i++) {
		log_limited(&flood, "flood", LOG_LEVEL_INFO, "flood: line %u", i);
		log_limited(&flood, "flood", LOG_LEVEL_DEBUG, "flood: not printed anyway");
	}
	log_limited(&other, "other", LOG_LEVEL_INFO, "other: once");
	take(fds[0]);
	cr_assert_geq(lines(text, "flood: line"), (unsigned)LOG_LIMIT_BURST);
	cr_assert_lt(lines(text, "flood: line"), 1000u);
	cr_assert_eq(lines(text, "other: once"), 1u);
	/* A second later. */
	flood.since_ns -= UINT64_C(3000000000);
	log_limited(&flood, "flood", LOG_LEVEL_INFO, "flood: after");
	log_limited(&flood, "flood", LOG_LEVEL_INFO, "flood: and again");
	take(fds[0]);
	cr_assert_eq(lines(text, "lines about it were left out"), 1u);
	cr_assert_eq(lines(text, "flood: after"), 1u);
	cr_assert_eq(lines(text, "flood: and again"), 1u);
}
