/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many times a test does the same over and over to see that nothing is left behind (T13): as
 * many as take seconds; with SLUICE_TEST_ALL in the environment 100000. Those go with the program
 * by itself, as `meson test` does not wait so long.
 */
#ifndef SLUICE_TESTS_UNIT_OFTEN_H
#define SLUICE_TESTS_UNIT_OFTEN_H

#include <malloc.h>
#include <stdlib.h>

#define OFTEN_TIMEOUT 3600 /* seconds, for all of them */

static inline unsigned often(unsigned usual)
{
	return getenv("SLUICE_TEST_ALL") ? 100000 : usual;
}

/* Sanitizers have a heap of their own, of which mallinfo2() knows nothing, and keep what was freed.
 */
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

/* What is allocated: unlike the resident set it does not waver by more than the allocator's caches.
 */
static inline size_t heap_bytes(void)
{
	struct mallinfo2 m;

	if (__sanitizer_get_current_allocated_bytes)
		return __sanitizer_get_current_allocated_bytes();
	m = mallinfo2();
	return m.uordblks + m.hblkhd;
}

#endif
