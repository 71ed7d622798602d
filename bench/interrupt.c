/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/interrupt.h"

#include <err.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

volatile sig_atomic_t interrupt_signal;

static volatile sig_atomic_t deferred;
static const char *volatile to_unlink;

static void caught(int sig)
{
	const char *path = to_unlink;
	int saved = errno;

	if (!deferred) {
		if (path)
			unlink(path);
		_exit(128 + sig);
	}
	/* Driver threads look at it. */
	__atomic_store_n(&interrupt_signal, sig, __ATOMIC_RELAXED);
	/* Whoever does not want to wait for what is under way says it twice, with either. */
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	errno = saved;
}

void interrupt_catch(void)
{
	static const int signals[] = { SIGINT, SIGTERM };
	struct sigaction new = { .sa_handler = caught, .sa_flags = SA_RESTART }, old;

	/* One at a time: the second finds what the first has set. */
	sigemptyset(&new.sa_mask);
	sigaddset(&new.sa_mask, SIGINT);
	sigaddset(&new.sa_mask, SIGTERM);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(signals[i], &new, NULL);
}

void interrupt_unlinks(const char *path)
{
	to_unlink = path;
}

void interrupt_defer(void)
{
	deferred = 1;
}

const char *interrupt_name(void)
{
	return interrupt_signal == SIGTERM ? "SIGTERM" : "SIGINT";
}

int interrupt_exit_code(int code)
{
	if (!interrupted())
		return code;
	warnx("%s: the figures are of what was done by then", interrupt_name());
	return 128 + interrupt_signal;
}

void interrupt_report(bool json)
{
	if (json)
		printf(", \"cut_short\": %s", interrupted() ? "true" : "false");
	else if (interrupted())
		printf("cut short      by %s\n", interrupt_name());
}

void interrupt_leave_if_early(bool early)
{
	if (!early || !interrupted())
		return;
	errx(128 + interrupt_signal, "%s came before anything was measured", interrupt_name());
}
