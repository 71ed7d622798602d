/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <pthread.h>

static uint64_t cycles_per_us;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void measure(void)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	uint64_t ns = clock_ns(), cycles = clock_cycles();

	nanosleep(&pause, NULL);
	cycles = clock_cycles() - cycles;
	ns = clock_ns() - ns;
	cycles_per_us = MAX(cycles * 1000 / ns, (uint64_t)1);
}

uint64_t clock_cycles_per_us(void)
{
	pthread_once(&once, measure);
	return cycles_per_us;
}
