/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's second processor: a thread that writes words of shared memory over and over while the
 * device works, some right and some wrong, so that what is read twice is two things. In the targets
 * race_*, which are the others compiled with FUZZ_RACE; elsewhere all of it is nothing.
 *
 * Which words, and what is written to them, is chosen at random, after what the input made the
 * guest write: inputs mean the same to a target and to its race, and one run of an input is not
 * like the next. What was found is found again by running its input often (-runs=100000).
 *
 * Words change in windows only, race_begin() to race_end(), in which nobody but the device runs.
 * They are left as they were, mostly, and are what they are to the guest's shadow, too.
 */
#ifndef SLUICE_TESTS_FUZZ_RACE_H
#define SLUICE_TESTS_FUZZ_RACE_H

#include "base/compiler.h"

#include <stdbool.h>

struct fuzz_guest;

#ifdef FUZZ_RACE
#define RACING true

/* A new life: no word changes. */
void race_reset(void);
/* A random number below @n. */
uint32_t race_random(uint32_t n);
/*
 * The word of 1, 2, 4 or 8 bytes at @p, which is aligned, changes to @other and back from now on.
 * @shadow: where the guest remembers it; NULL: nowhere. The last few words that were told count.
 */
void race_word(void *p, unsigned bytes, uint64_t other, void *shadow);
void race_begin(void);
void race_end(void);
/* The device has read something: in a window, it may take its time now. */
void race_read(void);

#else
#define RACING false

static inline void race_reset(void)
{
}

static inline uint32_t race_random(uint32_t n)
{
	(void)n;
	return 0;
}

static inline void race_word(void *p, unsigned bytes, uint64_t other, void *shadow)
{
	(void)p;
	(void)bytes;
	(void)other;
	(void)shadow;
}

static inline void race_begin(void)
{
}

static inline void race_end(void)
{
}

static inline void race_read(void)
{
}
#endif

#endif
