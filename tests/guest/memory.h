/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's memory: regions of memfds at guest-physical addresses, with holes between them where
 * the caller wants that, and a simple allocator. Control plane; -errno on failure.
 */
#ifndef SLUICE_TESTS_GUEST_MEMORY_H
#define SLUICE_TESTS_GUEST_MEMORY_H

#include "base/compiler.h"

#include <stdbool.h>

#define GUEST_REGIONS_MAX 512

/* "User addresses" are gpa + this: not our own pointers, so that nobody can mix them up unnoticed.
 */
#define GUEST_UVA_BASE UINT64_C(0x100000000000)

enum {
	GUEST_MEMORY_HUGE = 1,	   /* hugepages of the default size; -ENOMEM where there are none */
	GUEST_MEMORY_ONE_FILE = 2, /* regions are pieces of one file, as QEMU's RAM is */
	GUEST_MEMORY_SEALED = 4,   /* nobody who has the file can make it shorter */
};

struct guest_region {
	uint64_t gpa, size, uva;
	uint64_t offset; /* in its file */
	int fd;		 /* shared by all with ONE_FILE */
	uint8_t *host;	 /* our mapping */
	uint64_t used;	 /* bytes that guest_alloc() gave away */
};

struct guest_memory {
	unsigned n;
	unsigned flags;
	struct guest_region region[GUEST_REGIONS_MAX];
};

/* What the caller asks for: where, and how many bytes (multiples of the page size). */
struct guest_range {
	uint64_t gpa, size;
};

int guest_memory_create(struct guest_memory *m, const struct guest_range *ranges, unsigned n,
			unsigned flags);
void guest_memory_destroy(struct guest_memory *m);

/*
 * @bytes of zeroed memory, aligned, in the first region with room (or in region @index). Never
 * freed singly. @return NULL when there is none; @gpa (may be NULL) gets its address.
 */
void *guest_alloc(struct guest_memory *m, uint64_t bytes, uint64_t align, uint64_t *gpa);
void *guest_alloc_in(struct guest_memory *m, unsigned index, uint64_t bytes, uint64_t align,
		     uint64_t *gpa);

/* Our pointer to [@gpa, @gpa + @len) in one region, or NULL; and the way back. */
void *guest_ptr(const struct guest_memory *m, uint64_t gpa, uint64_t len);
uint64_t guest_gpa(const struct guest_memory *m, const void *ptr);
uint64_t guest_uva(const struct guest_memory *m, const void *ptr);

#endif
