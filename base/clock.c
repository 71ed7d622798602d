/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <pthread.h>

#define TRIES 5u	/* for a reading that nothing came between */
#define PRECISION 2000u /* the readings' uncertainty is at most this part of the time between */
#define AT_LEAST_NS 100000u
#define AT_MOST_NS 20000000u

static uint64_t cycles_per_us;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Both clocks at one moment: @cycles is off by less than @width. */
struct reading {
	uint64_t ns, cycles, width;
};

/* Of some tries the one that took least: an interrupt, or the loss of the CPU, makes one long. */
static struct reading read_both(void)
{
	struct reading best = { .width = UINT64_MAX };

	for (unsigned i = 0; i < TRIES; i++) {
		uint64_t before = clock_cycles(), ns = clock_ns(), width = clock_cycles() - before;

		if (width < best.width)
			best = (struct reading) { ns, before + width / 2, width };
	}
	best.width++; /* a counter that is slow stands still meanwhile */
	return best;
}

/*
 * As short as the clocks allow: where CLOCK_MONOTONIC is the kernel's reading of the same counter,
 * which needs no system call, 0.1 ms; where it is another timer, up to 20 ms.
 */
static void measure(void)
{
	const struct reading first = read_both();
	uint64_t ns, cycles;
	struct reading last;

	do {
		cpu_relax();
		last = read_both();
		ns = last.ns - first.ns;
		cycles = last.cycles - first.cycles;
	} while (ns < AT_LEAST_NS ||
		 (ns < AT_MOST_NS && cycles / PRECISION < first.width + last.width));
	/* To the nearest: the counter of an ARM may have but 24 of them. */
	cycles_per_us = MAX((cycles * 1000 + ns / 2) / ns, (uint64_t)1);
}

uint64_t clock_cycles_per_us(void)
{
	pthread_once(&once, measure);
	return cycles_per_us;
}
