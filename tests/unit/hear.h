/* SPDX-License-Identifier: Apache-2.0 */
/* What the log says from now on. */
#ifndef SLUICE_TESTS_HEAR_H
#define SLUICE_TESTS_HEAR_H

#include "base/log.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct heard {
	int in;
	size_t used;
	char text[1 << 20];
};

static inline void hear(struct heard *h)
{
	int fds[2];

	cr_assert_eq(pipe(fds), 0);
	cr_assert_eq(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
	close(fds[1]);
	h->in = fds[0];
	fcntl(h->in, F_SETFL, O_NONBLOCK);
	fcntl(h->in, F_SETPIPE_SZ, 1 << 20);
	log_set_level(LOG_LEVEL_INFO);
}

/* How often does @what stand in all that was said? */
static inline unsigned heard_times(struct heard *h, const char *what)
{
	unsigned n = 0;
	ssize_t got;

	while ((got = read(h->in, h->text + h->used, sizeof(h->text) - 1 - h->used)) > 0)
		h->used += (size_t)got;
	h->text[h->used] = 0;
	for (const char *p = h->text; (p = strstr(p, what)); p++)
		n++;
	return n;
}

#endif
