/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log as a front-end keeps it while it migrates a guest (vhost-user "Migration"): a
 * bitmap in shared memory, one bit for each 4096 bytes of guest memory from address 0 on.
 */
#ifndef SLUICE_TESTS_GUEST_FRONTEND_LOG_H
#define SLUICE_TESTS_GUEST_FRONTEND_LOG_H

#include "tests/guest/frontend.h"

#define VU_LOG_PAGE 4096
#define VU_VRING_F_LOG 1u

struct vu_log {
	uint64_t size, offset;
};

struct frontend_log {
	int fd;
	uint64_t size, offset; /* bytes of the bitmap, and where it begins in its file */
	uint8_t *map;	       /* the file, offset + size bytes */
	uint8_t *bits;
};

/* A bitmap for addresses below @end, at @offset of a file of its own. Says nothing yet. */
int frontend_log_create(struct frontend_log *l, uint64_t end, uint64_t offset);
void frontend_log_destroy(struct frontend_log *l);

/* SET_LOG_BASE and its answer. */
int frontend_log_share(struct frontend *f, const struct frontend_log *l);
/* SET_FEATURES with LOG_ALL or without it; all else as it is. */
int frontend_log_all(struct frontend *f, bool on);
/* SET_VRING_ADDR again, with the log flag or without it. */
int frontend_log_ring(struct frontend *f, unsigned index, bool on);
/* All of the above, for queues 0 to @n - 1 that are set up: as QEMU begins a migration, or ends it.
 */
int frontend_log_start(struct frontend *f, const struct frontend_log *l, unsigned n);
int frontend_log_stop(struct frontend *f, unsigned n);

bool frontend_log_has(const struct frontend_log *l, uint64_t gpa);
/* Takes the bits of eight pages, the first of which is @page (a multiple of 8). */
uint8_t frontend_log_take(struct frontend_log *l, uint64_t page);
uint64_t frontend_log_count(const struct frontend_log *l);
void frontend_log_clear(struct frontend_log *l);

#endif
