/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many times a test does the same over and over to see that nothing is left behind (T13): as
 * many as take seconds; with SLUICE_TEST_ALL in the environment 100000. Those go with the program
 * by itself, as `meson test` does not wait so long.
 */
#ifndef SLUICE_TESTS_UNIT_OFTEN_H
#define SLUICE_TESTS_UNIT_OFTEN_H

#include <stdlib.h>

#define OFTEN_TIMEOUT 3600 /* seconds, for all of them */

static inline unsigned often(unsigned usual)
{
	return getenv("SLUICE_TEST_ALL") ? 100000 : usual;
}

#endif
