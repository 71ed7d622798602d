/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination of a postcopy migration, as a VMM does it: the guest's memory is taken away, and
 * then delivered page by page, in whatever order, through the kernel as QEMU does (UFFDIO_COPY: a
 * page appears in one step, with all of its contents).
 */
#ifndef SLUICE_TESTS_GUEST_FRONTEND_POSTCOPY_H
#define SLUICE_TESTS_GUEST_FRONTEND_POSTCOPY_H

#include "tests/guest/frontend.h"

#define VU_PF_PAGEFAULT (UINT64_C(1) << 8)

struct delivery {
	struct frontend *f;
	struct guest_memory *memory;
	int faults; /* the back-end's userfaultfd; -1: none */
	int own;    /* of the mappings through which is delivered */
	uint64_t page;
	uint8_t *copy[GUEST_REGIONS_MAX], *way_in[GUEST_REGIONS_MAX];
	bool *delivered[GUEST_REGIONS_MAX]; /* by page */
	uint64_t away[GUEST_REGIONS_MAX];   /* where the back-end has the region */
	uint64_t asked;			    /* faults that came */
};

/*
 * Keeps a copy of all of @m, and takes it away: nobody may touch it but what has been delivered.
 * @return 0 or -errno.
 */
int delivery_begin(struct delivery *d, struct frontend *f, struct guest_memory *m);
void delivery_end(struct delivery *d);

/* POSTCOPY_ADVISE: d->faults. LISTEN, and END with its answer. */
int frontend_postcopy_advise(struct delivery *d);
int frontend_postcopy_listen(struct delivery *d);
int frontend_postcopy_end(struct delivery *d);
/* All of the memory, by the message that suits; and that faults are served from now on. */
int frontend_postcopy_share(struct delivery *d);
/* The same without the last. */
int frontend_postcopy_share_only(struct delivery *d);
int frontend_postcopy_go_ahead(struct delivery *d, uint32_t request);

/* The page that the back-end has touched next. @return 1 and *@gpa; 0: none for now; -errno. */
int delivery_fault(struct delivery *d, uint64_t *gpa);
/*
 * Delivers the page of @gpa, unless it has been, and wakes the back-end. @return 0; -EEXIST:
 * somebody has touched it before, and has seen zeros; -errno.
 */
int delivery_page(struct delivery *d, uint64_t gpa);
int delivery_all(struct delivery *d);
bool delivery_was(const struct delivery *d, uint64_t gpa);

#endif
