/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is wrong with a user's input, all of it: a list of sentences, each naming file, line, key
 * and remedy, so that one run of sluiced tells a user everything there is to mend.
 */
#ifndef SLUICE_DAEMON_PROBLEMS_H
#define SLUICE_DAEMON_PROBLEMS_H

#include "base/compiler.h"

#include <stdbool.h>

/* More than these are counted, not kept: a broken file needs no longer list than a screen. */
#define PROBLEMS_MAX 10

struct problems {
	const char *file; /* borrowed; NULL: the command line, which has no lines */
	unsigned n;	  /* kept in text[] */
	unsigned more;	  /* found beyond these */
	char *text[PROBLEMS_MAX];
};

/* @line 0: the input as a whole. */
void problems_add(struct problems *p, unsigned line, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Nothing further would be kept: a walk over a large input can stop. */
static inline bool problems_full(const struct problems *p)
{
	return p->n == PROBLEMS_MAX && p->more > 0;
}

/* One line each, to the log. */
void problems_log(const struct problems *p);

void problems_free(struct problems *p);

#endif
