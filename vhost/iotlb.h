/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device IOTLB: what the front-end has told of the guest's IOMMU (vhost-user "IOMMU support"),
 * where ACCESS_PLATFORM was negotiated. Like a memory map it is immutable and replaced as a whole.
 * Rings do not know it: it comes with two maps whose "guest addresses" are I/O virtual ones, one of
 * what may be read and one of what may be written, and a ring resolves addresses through these as
 * it does through guest memory without an IOMMU.
 *
 * It is a cache, and may forget: what is missing is asked for.
 */
#ifndef SLUICE_VHOST_IOTLB_H
#define SLUICE_VHOST_IOTLB_H

#include "vhost/mem.h"

/* An I/O virtual address: what the guest's driver calls an address behind an IOMMU. */
typedef gpa_t iova_t;

enum { IOTLB_READ = 1, IOTLB_WRITE = 2 }; /* as on the wire */

struct iotlb_entry {
	iova_t iova;
	uint64_t size; /* bytes */
	uva_t uva;
	uint8_t access; /* IOTLB_* */
};

struct iotlb {
	struct mem_map *read, *write, *both; /* regions refer to guest memory and own nothing */
	unsigned n;
	bool anew; /* the one before it was full: all that is not in here was forgotten */
	struct iotlb_entry entry[]; /* sorted by iova, no two overlap */
};

/*
 * With one entry more the table starts anew, with that one alone or with none. A chain has 1024
 * segments and its indirect table 128 pages, so that each finds its place, page by page.
 */
#define IOTLB_ENTRIES_MAX 8192

/*
 * Control thread. @old (NULL: empty) with @e in it, in the place of what overlaps it. Refuses what
 * does not lie within @memory. No access at all is the same as iotlb_without(). @return NULL with
 * @err; @old stays its owner's.
 */
struct iotlb *iotlb_with(const struct iotlb *old, const struct mem_map *memory,
			 const struct iotlb_entry *e, struct error *err);

/*
 * Control thread. @old without [@first, @last]. What lies on both sides of that becomes two
 * entries: so this, too, may find the table full.
 */
struct iotlb *iotlb_without(const struct iotlb *old, const struct mem_map *memory, iova_t first,
			    iova_t last, struct error *err);

/* Control thread. @old for other guest memory: entries that do not lie within it are left out. */
struct iotlb *iotlb_moved(const struct iotlb *old, const struct mem_map *memory, struct error *err);

/* Control thread, when no ring refers to it. NULL is fine. */
void iotlb_free(struct iotlb *t);

/* The maps of @t, or of an empty table where it is NULL. */
const struct mem_map *iotlb_read_map(const struct iotlb *t);
const struct mem_map *iotlb_write_map(const struct iotlb *t);
const struct mem_map *iotlb_both_map(const struct iotlb *t);

/*
 * Control thread. The host memory that @old leads to within [@first, @last] and that @next does not
 * lead to from the same addresses, with the same access: into @gone, at most @max pieces. @return
 * how many pieces there are; more than @max: too many to name.
 */
unsigned iotlb_gone(const struct iotlb *old, const struct iotlb *next, const struct mem_map *memory,
		    iova_t first, iova_t last, struct iovec *gone, unsigned max);

#endif
