/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <criterion/criterion.h>

/*
 * Limits, timers and what is reported all count in it. Whoever is held up between the two readings
 * has them taken again, so that the machine's noise is not in it.
 */
Test(clock, cycles_are_as_long_as_the_monotonic_clock_says)
{
	double per_us = (double)clock_cycles_per_us(), off = 1;

	for (int i = 0; i < 20 && off > 0.005; i++) {
		const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
		uint64_t ns = clock_ns(), cycles = clock_cycles();

		nanosleep(&pause, NULL);
		cycles = clock_cycles() - cycles;
		ns = clock_ns() - ns;
		off = (double)cycles * 1000 / (double)ns / per_us - 1;
		off = off < 0 ? -off : off;
	}
	/* A whole number of cycles may be half of one off. */
	cr_assert_leq(off, 0.005 + 0.5 / per_us);
}
