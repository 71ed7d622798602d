/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that is worked one machine instruction at a time, by the processor's trap flag, so that a
 * test sees what it would leave behind if it were killed at any of them.
 */
#ifndef SLUICE_TESTS_UNIT_RING_STEP_H
#define SLUICE_TESTS_UNIT_RING_STEP_H

#include <criterion/criterion.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __x86_64__
#include <x86intrin.h>
#endif

static uint8_t *area, *last; /* what outlives us; and as it was before */
static size_t area_len;
static unsigned looks;

/* In a child: the test has failed. */
#define EXPECT(cond, ...)                                      \
	do {                                                   \
		if (!(cond)) {                                 \
			fprintf(stderr, "kill: " __VA_ARGS__); \
			fputc('\n', stderr);                   \
			_exit(1);                              \
		}                                              \
	} while (0)

static void check_child(pid_t pid, const char *what)
{
	int status;

	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		  "%s, killed at look %u: the next one ended with %x", what, looks, status);
}

static unsigned long steps;
static void (*on_change)(unsigned n);
static unsigned n_chains;

static void on_trap(int sig)
{
	(void)sig;
	steps++;
	if (memcmp(last, area, area_len) == 0)
		return;
	memcpy(last, area, area_len);
	looks++;
	on_change(n_chains);
}

/* Runs @fn, and calls @change after each instruction of it that has changed what is shared. */
static void step(void (*fn)(void), void (*change)(unsigned n), unsigned n)
{
#ifdef __x86_64__
	/* A look may step as well, in a process of its own. */
	struct sigaction sa = { .sa_handler = on_trap, .sa_flags = SA_NODEFER };
	const unsigned long long trap = 1 << 8;

	memcpy(last, area, area_len);
	steps = 0;
	on_change = change;
	n_chains = n;
	sigaction(SIGTRAP, &sa, NULL);
	__writeeflags(__readeflags() | trap);
	fn();
	__writeeflags(__readeflags() & ~trap);
	if (steps < 100)
		abort();
#else
	(void)fn, (void)change, (void)n;
	cr_skip_test("only x86 processors step here");
#endif
}

#endif
