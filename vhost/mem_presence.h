/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a mapping have arrived (postcopy.h). For vhost/mem.c and mem_presence.c; others
 * ask through mem.h. A page never goes again, so that a bit that was seen set stays true.
 */
#ifndef SLUICE_VHOST_MEM_PRESENCE_H
#define SLUICE_VHOST_MEM_PRESENCE_H

#include "base/compiler.h"

#include <stdbool.h>

struct pager_file;

struct mem_presence {
	uint8_t *base; /* of the mapping here */
	uint64_t away; /* and in the pager */
	uint64_t n_pages;
	unsigned page_shift;
	bool kernel_tells; /* mincore() answers for its file */
	uint64_t bits[];   /* set: arrived. Atomic; the control thread sets them */
};

struct mem_presence *mem_presence_new(void *base, const struct pager_file *file, uint64_t away);

#endif
