/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: an immutable map of regions, replaced as a whole. The control thread builds maps;
 * workers only resolve addresses through the map that their queue has. A map is replaced under
 * running queues (vhost/memory_change.c); what it no longer holds stays mapped until no ring, and
 * no request in flight, lies in it. So a mapping outlives every pointer into it.
 */
#ifndef SLUICE_VHOST_MEM_H
#define SLUICE_VHOST_MEM_H

#include "base/compiler.h"

#include <stdbool.h>
#include <sys/uio.h>

struct error;
struct mem_account;
struct mem_watch;

/* An address in the guest's physical memory. */
typedef uint64_t gpa_t;
/* An address in the front-end's own address space ("user address"): rings are named by these. */
typedef uint64_t uva_t;

/* vhost-user "Memory region description": what the front-end says of one region. */
struct mem_region_desc {
	gpa_t gpa;
	uint64_t size; /* bytes */
	uva_t uva;
	uint64_t offset; /* of the region in its file, bytes */
};

/* One mapping of a file of the front-end's; shared by the maps that hold it (reference count). */
struct mem_mapping;

/* Which pages of a mapping have arrived, of a guest that is on its way here; see postcopy.h. */
struct mem_presence;

struct mem_region {
	gpa_t gpa;
	uint64_t size;
	uint8_t *host; /* the region's first byte in our address space */
	uva_t uva;
	struct mem_mapping *mapping;
	struct mem_presence *presence; /* the mapping's; NULL: all is there */
};

struct mem_map {
	unsigned n;
	struct mem_region region[]; /* sorted by gpa, no two overlap */
};

/* Without a region. */
extern const struct mem_map mem_map_none;

/* As many regions as QEMU's own limit with KVM; GET_MAX_MEM_SLOTS answers this. */
#define MEM_SLOTS_MAX 509
/*
 * And so many bytes: more than a guest has, and few enough that a front-end with large files that
 * hold nothing leaves addresses for others.
 */
#define MEM_BYTES_MAX (UINT64_C(16) << 40)

/*
 * Control thread. A new map: @old's regions (NULL: none) and one more, from @fd (borrowed; the map
 * keeps its own). Refuses sizes of 0, wraps, overlaps with another region in guest or user
 * addresses, a file shorter than the region, too many regions, and more than @a has room for (NULL:
 * nobody's; mapped_file.h).
 * @return the map, or NULL with @err filled; @old stays valid and has to be freed by its owner.
 * vhost-user "Memory region description", "Single memory region description".
 */
struct mem_map *mem_map_add(struct mem_account *a, const struct mem_map *old,
			    const struct mem_region_desc *desc, int fd, struct error *err);

/* Control thread. @old without the region that has @desc's gpa, uva and size; NULL if there is
 * none. */
struct mem_map *mem_map_remove(const struct mem_map *old, const struct mem_region_desc *desc,
			       struct error *err);

/*
 * Control thread. As mem_map_add(), but where @donor (NULL: none) has this very region already, its
 * mapping is shared instead of being made anew: host addresses in it stay what they are.
 */
struct mem_map *mem_map_add_shared(struct mem_account *a, const struct mem_map *old,
				   const struct mem_map *donor, const struct mem_region_desc *desc,
				   int fd, struct error *err);
/* Control thread. Bytes that this would map; 0 where it shares, and where it will be refused. */
uint64_t mem_bytes_to_map(const struct mem_map *donor, const struct mem_region_desc *desc, int fd);

/*
 * Control thread. Is this very region, the same piece of the same file, in @map (NULL: no) already?
 * And: does a region of @map overlap it, in guest or user addresses?
 */
bool mem_map_has(const struct mem_map *map, const struct mem_region_desc *desc, int fd);
bool mem_map_overlaps(const struct mem_map *map, const struct mem_region_desc *desc);

/*
 * Control thread, before workers use what is new in @map. From now on @w is told when a file of
 * these regions loses pages under us; see vhost/mem_guard.h.
 */
void mem_map_watch(const struct mem_map *map, struct mem_watch *w);

/* Any thread. Is the mapping of @r, by itself or with others, in @map (NULL: no) too? */
bool mem_map_keeps(const struct mem_map *map, const struct mem_region *r);

/* Control thread. Unmaps what no other map holds. NULL is fine. */
void mem_map_free(struct mem_map *map);

/* Bytes of guest memory in the map. Any thread. */
uint64_t mem_map_bytes(const struct mem_map *map);

/* The region that holds @gpa, or NULL. @hint is a guess at its index, updated; per caller. */
HOT const struct mem_region *mem_find(const struct mem_map *map, gpa_t gpa, unsigned *hint)
{
	const struct mem_region *r;
	unsigned lo, hi;

	if (likely(*hint < map->n)) {
		r = &map->region[*hint];
		if (likely(gpa - r->gpa < r->size)) /* unsigned: below gpa wraps to a huge number */
			return r;
	}
	for (lo = 0, hi = map->n; lo < hi;) {
		unsigned mid = lo + (hi - lo) / 2;

		r = &map->region[mid];
		if (gpa < r->gpa) {
			hi = mid;
		} else if (gpa - r->gpa >= r->size) {
			lo = mid + 1;
		} else {
			*hint = mid;
			return r;
		}
	}
	return NULL;
}

/**
 * Resolve the start of [@gpa, @gpa + *@len) to host memory.
 * @len: in: bytes wanted, at least 1; out: bytes that are there in one piece, from 1 to what was
 *       wanted. A range that spans regions takes several calls.
 * @return pointer valid while @map is; NULL if the first byte is not mapped.
 * Worker thread. vhost-user "Memory region description".
 */
HOT void *mem_resolve(const struct mem_map *map, gpa_t gpa, uint64_t *len, unsigned *hint)
{
	const struct mem_region *r = mem_find(map, gpa, hint);

	if (unlikely(!r))
		return NULL;
	*len = MIN(*len, r->size - (gpa - r->gpa));
	return r->host + (gpa - r->gpa);
}

/*
 * Control thread. [@uva, @uva + @len) as one piece of host memory, for the rings themselves; NULL
 * if any byte is unmapped or the range spans regions.
 */
void *mem_resolve_uva(const struct mem_map *map, uva_t uva, uint64_t len);

/*
 * Control thread, before anybody uses the map. The file of @r, in whole pages, as it is mapped; and
 * that none of it has arrived: it lies at @away in the address space of who waits for it (pager.h).
 */
struct pager_file;
void mem_region_file(const struct mem_region *r, struct pager_file *out);
int mem_region_absent(struct mem_region *r, uint64_t away);
/* What @r is called there: the address of its first byte. */
uint64_t mem_region_away(const struct mem_region *r);

/*
 * Any thread. Of [@host, @host + *@len), within one region of @map: how much has arrived, from its
 * start on, in *@len. @return false: not even the first byte.
 */
bool mem_present(const struct mem_map *map, const void *host, uint64_t *len);

/* Control thread. The page of @host, by its name there; 0: it has arrived, or is in no region. */
uint64_t mem_absent_page(const struct mem_map *map, const void *host);
/* Control thread. The page at @away has arrived. @return false: there is none, or it had. */
bool mem_arrived(const struct mem_map *map, uint64_t away);
/*
 * Control thread. Asks the kernel which pages around @host have arrived, where it tells: no touch,
 * and no waiting.
 */
void mem_look(const struct mem_map *map, const void *host);

#endif
