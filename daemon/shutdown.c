/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/shutdown.h"

#include "daemon/capture_control.h"
#include "poll/control.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define DEADLINE_S 10

static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
static sd_event_source *sources[ARRAY_SIZE(signals)];
static int exit_code;
static bool begun;
/* For the handler, which only reads; its last byte stays NUL while it is written anew. */
static char still_open[512];

void shutdown_block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(&set, signals[i]);
	/* The deadline belongs to the thread that unblocks it again: the control thread. */
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void say(const char *text)
{
	ssize_t rc = write(STDERR_FILENO, text, strlen(text));

	(void)rc; /* Nobody to tell. */
}

/*
 * A plain handler and not the loop's: what hangs may be the control thread itself, in a call that
 * waits for a worker.
 */
static void give_up(int sig)
{
	say(sig == SIGALRM ? "sluice error: not finished after 10 s, giving up"
			   : "sluice error: a second signal, giving up");
	if (still_open[0]) {
		say("; still open: ");
		say(still_open);
	}
	say("\n");
	_exit(1);
}

static void note_open(struct appliance *a)
{
	appliance_list_open(a, still_open, sizeof(still_open) - 1);
}

static void arm_deadline(struct appliance *a)
{
	const struct sigaction act = { .sa_handler = give_up };
	static const int deadly[] = { SIGTERM, SIGINT, SIGALRM };
	sigset_t set;

	note_open(a);
	a->progress = note_open;
	sigemptyset(&set);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sources[i] = sd_event_source_disable_unref(sources[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(deadly); i++) {
		sigaction(deadly[i], &act, NULL);
		sigaddset(&set, deadly[i]);
	}
	alarm(DEADLINE_S);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void all_closed(struct appliance *a)
{
	(void)a;
	control_exit(exit_code);
}

void shutdown_begin(struct appliance *a, int code)
{
	if (begun)
		return;
	begun = true;
	exit_code = code;
	sd_notify(0, "STOPPING=1\nSTATUS=Closing devices");
	arm_deadline(a);
	captures_end();
	appliance_close(a, all_closed);
}

void shutdown_end(void)
{
	alarm(0);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sources[i] = sd_event_source_disable_unref(sources[i]);
}

static int signalled(sd_event_source *s, const struct signalfd_siginfo *si, void *arg)
{
	(void)s;
	if (si->ssi_signo == SIGHUP) {
		log_warn("SIGHUP: reloading the configuration is not supported; restart sluiced");
		return 0;
	}
	log_info("%s: closing all devices", strsignal((int)si->ssi_signo));
	shutdown_begin(arg, 0);
	return 0;
}

int shutdown_watch(struct appliance *a)
{
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
		int rc = sd_event_add_signal(control_event(), &sources[i], signals[i], signalled,
					     a);

		if (rc < 0)
			return rc;
	}
	return 0;
}
