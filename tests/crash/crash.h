/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The crash programs: crash.c is a VMM and a guest with a disk, crash_net.c two of them with a card
 * each; daemon.c starts and kills sluiced.
 */
#ifndef SLUICE_TESTS_CRASH_H
#define SLUICE_TESTS_CRASH_H

#include "base/clock.h"

#include <stdbool.h>
#include <stdint.h>

struct crash_options {
	const char *sluiced, *folder;
	bool packed, in_order, buffered, mergeable, nbd;
	unsigned size, queues, rounds, blocks, seed;
};
extern struct crash_options opt;

extern char image[200], sock[200], daemon_log[200];
extern uint64_t n_kills, n_ends; /* of daemons: by SIGKILL, by SIGTERM */
extern uint64_t last_progress;	 /* when a request was last answered, or a daemon started */

/* Says what did not hold, and ends. */
void crash_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
#define FAIL crash_fail

/* Nothing has happened for long, though we were there to see it: a frozen process hangs nowhere. */
bool hangs(void);

#define DAEMON_ARGS_MAX 20
/* The program's own: the arguments of sluiced, into @argv, which is all NULL. */
void daemon_arguments(const char **argv);

void daemon_init(void);
void daemon_start(void);
/* It will be killed then, whatever it does; 0: not any more. */
void daemon_kill_in_us(unsigned us);
/* SIGTERM, now. */
void daemon_stop(void);
/* Has it ended? As it should have: by our hand, or well when it was asked to stop. */
bool daemon_gone(void);
/*
 * What the daemons said of it: requests done again, and waits for the lock of the one before. What
 * a sanitizer said of them is the end of it.
 */
void daemon_count_log(uint64_t *again, uint64_t *waits);

#endif
