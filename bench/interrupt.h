/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGINT and SIGTERM. While something is measured the first of them asks for an end: what there is
 * by then is told. Before that, and the second time, they end the program at once.
 *
 *	interrupt_catch();			at the start
 *	interrupt_defer();			from here on there is something to tell
 *	while (… && !interrupted())
 *	return interrupt_exit_code(code);
 */
#ifndef SLUICE_BENCH_INTERRUPT_H
#define SLUICE_BENCH_INTERRUPT_H

#include <signal.h>
#include <stdbool.h>

/* A signal that the program was started without (nohup, a shell's background) stays ignored. */
void interrupt_catch(void);
/* A socket to unlink if the program ends meanwhile; NULL: none any more. */
void interrupt_unlinks(const char *path);
void interrupt_defer(void);

extern volatile sig_atomic_t interrupt_signal; /* 0: none came */

static inline bool interrupted(void)
{
	return __atomic_load_n(&interrupt_signal, __ATOMIC_RELAXED) != 0;
}

/* "SIGINT"; of the one that came. */
const char *interrupt_name(void);
/* 128 + the signal, as a shell tells it, with a sentence; @code if none came. */
int interrupt_exit_code(int code);
/* In a report: a line of text if one came, or the field "cut_short" of an object. */
void interrupt_report(bool json);
/* Ends the program if one came before there was anything to tell. */
void interrupt_leave_if_early(bool early);

#endif
