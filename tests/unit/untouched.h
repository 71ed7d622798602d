/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory that was never given to anybody: neither driver nor device has any business there.
 */
#ifndef SLUICE_TESTS_UNTOUCHED_H
#define SLUICE_TESTS_UNTOUCHED_H

#include "tests/guest/memory.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

/*
 * Nothing was written behind what guest_alloc() gave away. Only pages that are there at all are
 * looked at, so that all of a large region costs little, each time.
 */
static inline void check_untouched(const struct guest_memory *m)
{
	static const uint8_t zeros[4096];

	for (unsigned i = 0; i < m->n; i++) {
		const struct guest_region *r = &m->region[i];
		off_t from = (off_t)r->offset, at = from + (off_t)ALIGN_UP(r->used, 4096);

		while ((at = lseek(r->fd, at, SEEK_DATA)) >= 0 && at < from + (off_t)r->size) {
			cr_assert_eq(memcmp(r->host + (at - from), zeros, sizeof(zeros)), 0,
				     "the page at 0x%llx was written, which nobody was given",
				     (unsigned long long)(r->gpa + (uint64_t)(at - from)));
			at += (off_t)sizeof(zeros);
		}
	}
}

#endif
