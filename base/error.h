/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sentence for the person who caused an error: it names the thing, the value and the remedy.
 * Control-plane functions that act on a user's input take a struct error and return -errno; the
 * caller that understands it prints it, once.
 */
#ifndef SLUICE_BASE_ERROR_H
#define SLUICE_BASE_ERROR_H

#include "base/compiler.h"

struct error {
	int code; /* negative errno, or 0 */
	char text[480];
};

/* Fills @err (may be NULL) and returns @code, a negative errno, so that callers `return
 * error_set(…)`. */
int error_set(struct error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "context: " in front of the text that is already there. Returns err->code. */
int error_prefix(struct error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
