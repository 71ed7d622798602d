/* SPDX-License-Identifier: Apache-2.0 */
/* Time: the TSC where the CPU has one that never stops, CLOCK_MONOTONIC elsewhere. */
#ifndef SLUICE_BASE_CLOCK_H
#define SLUICE_BASE_CLOCK_H

#include "base/compiler.h"

#include <time.h>

/* Nanoseconds since boot. Any thread; about 20 ns, so once a round, not once a request. */
HOT uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Cycles, for cheap intervals on one thread; compare only with clock_cycles_per_us(). */
HOT uint64_t clock_cycles(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t v;
	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
	return v;
#else
	return clock_ns();
#endif
}

/* Measured once, at the first call (takes 0.1 ms then, 20 ms where the clocks are slow to read).
 * Any thread. */
uint64_t clock_cycles_per_us(void);

HOT void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
