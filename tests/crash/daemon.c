/* SPDX-License-Identifier: Apache-2.0 */
/* The sluiced that is killed: its start, its end, and what it said. */
#include "tests/crash/crash.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define HANG_NS UINT64_C(300000000000) /* a slow machine is not to be taken for one that hangs */

char image[200], sock[200], daemon_log[200];
uint64_t n_kills, n_ends, last_progress;
static volatile sig_atomic_t victim; /* pid; 0: none */
static bool stopping;

void crash_fail(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "crash: FAILED: ");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, " (seed %u, after %llu kills)\n", opt.seed, (unsigned long long)n_kills);
	if (victim)
		kill(victim, SIGKILL);
	exit(1);
}

bool hangs(void)
{
	static uint64_t looked;
	uint64_t now = clock_ns();

	if (looked && now - looked > UINT64_C(1000000000))
		last_progress += now - looked;
	looked = now;
	return now > last_progress && now - last_progress > HANG_NS;
}

void daemon_kill_in_us(unsigned us)
{
	struct itimerval t = { .it_value = { us / 1000000, us % 1000000 } };

	setitimer(ITIMER_REAL, &t, NULL);
}

static void on_alarm(int sig)
{
	(void)sig;
	if (victim)
		kill(victim, SIGKILL);
	else
		daemon_kill_in_us(1000); /* its number is not known yet */
}

void daemon_start(void)
{
	pid_t pid = fork();

	if (pid < 0)
		FAIL("fork: %s", strerror(errno));
	if (pid == 0) {
		const char *argv[DAEMON_ARGS_MAX] = { opt.sluiced };
		int fd = open(daemon_log, O_WRONLY | O_APPEND | O_CREAT, 0600);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fd, 1);
		dup2(fd, 2);
		daemon_arguments(argv + 1);
		execv(opt.sluiced, (char **)argv);
		_exit(127);
	}
	victim = pid;
}

bool daemon_gone(void)
{
	int status;
	pid_t pid = victim;

	if (!pid)
		return true;
	if (waitpid(pid, &status, WNOHANG) != pid)
		return false;
	victim = 0;
	daemon_kill_in_us(0);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		n_kills++;
	else if (stopping && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		n_ends++;
	else
		FAIL("sluiced ended by itself, with status %#x; see %s", status, daemon_log);
	stopping = false;
	return true;
}

void daemon_stop(void)
{
	stopping = true;
	kill(victim, SIGTERM);
}

void daemon_count_log(uint64_t *again, uint64_t *waits)
{
	FILE *log = fopen(daemon_log, "r");
	char line[500];

	*again = *waits = 0;
	while (log && fgets(line, sizeof(line), log)) {
		char *at = strstr(line, " requests were in flight");

		if (at) {
			while (at > line && at[-1] != ' ')
				at--;
			*again += strtoull(at, NULL, 10);
		}
		if (strstr(line, "Sanitizer") || strstr(line, "runtime error"))
			FAIL("%s: %s", daemon_log, line);
		*waits += strstr(line, "its lock was held") != NULL;
	}
	if (log)
		fclose(log);
}

void daemon_init(void)
{
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };

	sigaction(SIGALRM, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}
