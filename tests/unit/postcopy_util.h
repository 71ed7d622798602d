/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of guests whose memory arrives while they run: pagers, and pages in random order. */
#ifndef SLUICE_TESTS_UNIT_POSTCOPY_UTIL_H
#define SLUICE_TESTS_UNIT_POSTCOPY_UTIL_H

#include "base/error.h"
#include "tests/guest/frontend_postcopy.h"
#include "vhost/pager.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Faults that wait to be served, in no order. */
struct waiting {
	uint64_t gpa[64];
	unsigned n;
};

/* First of all: while the test has one thread. */
static inline void prepare_pagers(void)
{
	struct error err = { 0 };

	if (pager_prepare(NULL, &err) < 0 || pager_await(&err) < 0)
		cr_skip_test("%s", err.text);
}

/* The children of @pid; the first one's process id in *@first. */
static inline unsigned count_children(pid_t pid, pid_t *first)
{
	char path[64];
	unsigned n = 0;
	int child;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	f = fopen(path, "re");
	cr_assert_not_null(f);
	while (fscanf(f, "%d", &child) == 1)
		if (n++ == 0 && first)
			*first = child;
	fclose(f);
	return n;
}

static inline unsigned count_pagers(pid_t *first)
{
	pid_t stem = 0;

	cr_assert_eq(count_children(getpid(), &stem), 1u);
	return count_children(stem, first);
}

/* Takes what faults there are, and serves one of them, any one. */
static inline void serve_one(struct delivery *d, struct waiting *w)
{
	uint64_t gpa;
	int rc = 0;

	while (w->n < 64 && (rc = delivery_fault(d, &gpa)) > 0)
		w->gpa[w->n++] = gpa;
	cr_assert_geq(rc, 0, "a fault that is none: %d", rc);
	if (w->n == 0)
		return;
	rc = rand() % (int)w->n;
	gpa = w->gpa[rc];
	w->gpa[rc] = w->gpa[--w->n];
	rc = delivery_page(d, gpa);
	cr_assert_eq(rc, 0, "page %llx: %d", (unsigned long long)gpa, rc);
}

#endif
