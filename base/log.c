/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

#define STALL_MS 50

static enum log_level max_level = LOG_LEVEL_INFO;
static uint64_t lost; /* lines that could not be written */

static const struct {
	const char *name;
	int priority; /* syslog(3) severity, for the journal's "<n>" prefix */
} levels[] = {
	[LOG_LEVEL_ERROR] = { "error", 3 },
	[LOG_LEVEL_WARN] = { "warn", 4 },
	[LOG_LEVEL_INFO] = { "info", 6 },
	[LOG_LEVEL_DEBUG] = { "debug", 7 },
};

void log_set_level(enum log_level level)
{
	__atomic_store_n(&max_level, level, __ATOMIC_RELAXED);
}

int log_level_parse(const char *name, enum log_level *level)
{
	for (unsigned i = 0; i < ARRAY_SIZE(levels); i++) {
		if (strcmp(name, levels[i].name) == 0) {
			*level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

bool log_enabled(enum log_level level)
{
	return level <= __atomic_load_n(&max_level, __ATOMIC_RELAXED);
}

/*
 * Does standard error take a line now? A reader (the journal, a pipe) that has stalled is given a
 * moment, once, and none until it reads again: it must not stop us. A pipe that can be written to
 * takes PIPE_BUF bytes, which is more than a line.
 */
static bool can_write(void)
{
	static bool stalled;
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
	bool ready = poll(&p, 1, 0) != 0;

	if (!ready && !__atomic_load_n(&stalled, __ATOMIC_RELAXED))
		ready = poll(&p, 1, STALL_MS) != 0;
	__atomic_store_n(&stalled, !ready, __ATOMIC_RELAXED);
	return ready;
}

static void put(const char *line, size_t len)
{
	/* A socket (the journal's) may have room for less than a line; then it must not block. */
	ssize_t rc = send(STDERR_FILENO, line, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (rc < 0 && errno == ENOTSOCK)
		rc = write(STDERR_FILENO, line, len);
	if (rc < 0)
		__atomic_add_fetch(&lost, 1, __ATOMIC_RELAXED);
}

static void say_lost(void)
{
	uint64_t n = __atomic_exchange_n(&lost, 0, __ATOMIC_RELAXED);
	char line[100];

	if (n)
		put(line,
		    (size_t)snprintf(line, sizeof(line),
				     "sluice warn: %llu lines were lost: nobody read the log\n",
				     (unsigned long long)n));
}

void log_print(enum log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	int used, n;
	va_list ap;

	if (!log_enabled(level))
		return;
	if (getenv("JOURNAL_STREAM"))
		used = snprintf(line, sizeof(line), "<%d>", levels[level].priority);
	else
		used = snprintf(line, sizeof(line), "sluice %s: ", levels[level].name);

	va_start(ap, fmt);
	n = vsnprintf(line + used, sizeof(line) - (size_t)used - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	size_t len = (size_t)used + MIN((size_t)n, sizeof(line) - (size_t)used - 2);

	/* Names and messages may hold what a front-end sent: keep a terminal and the journal safe.
	 */
	for (size_t i = (size_t)used; i < len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';
	if (!can_write()) {
		__atomic_add_fetch(&lost, 1, __ATOMIC_RELAXED);
		return;
	}
	say_lost();
	put(line, len);
}
