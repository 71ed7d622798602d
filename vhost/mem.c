/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/mem.h"

#include "base/error.h"
#include "vhost/mapped_file.h"
#include "vhost/mem_guard.h"
#include "vhost/mem_presence.h"
#include "vhost/pager.h"
#include "vhost/shared_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct mem_mapping {
	struct mapped_file file;
	uint64_t offset; /* of the region in the file */
	struct mem_guard *guard;
	struct mem_presence *presence; /* NULL: all of it is there */
	unsigned refs;
};

const struct mem_map mem_map_none = { .n = 0 };

static void mapping_put(struct mem_mapping *m)
{
	if (--m->refs > 0)
		return;
	mem_guard_remove(m->guard);
	free(m->presence);
	mapped_file_close(&m->file);
	free(m);
}

static int check_file(const struct mem_region_desc *d, int fd, struct error *err)
{
	struct stat st;

	if (shared_file_check(fd, err) < 0)
		return error_prefix(err, "memory region at 0x%" PRIx64, d->gpa);
	if (fstat(fd, &st) < 0)
		return error_set(err, -errno, "the descriptor of a memory region: %s",
				 strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode))
		return error_set(err, -EINVAL,
				 "a memory region comes with a descriptor that is neither a file "
				 "nor a memory device");
	/* A touch beyond the end of the file would be a SIGBUS. */
	if (S_ISREG(st.st_mode) && d->offset + d->size > (uint64_t)st.st_size)
		return error_set(err, -EINVAL,
				 "memory region at 0x%" PRIx64 ": offset 0x%" PRIx64
				 " + size 0x%" PRIx64 " lies beyond the end of its file (0x%" PRIx64
				 ")",
				 d->gpa, d->offset, d->size, (uint64_t)st.st_size);
	return 0;
}

/* @return the mapping, with one reference, and in *@host where the region starts; NULL with @err.
 */
static struct mem_mapping *mapping_create(struct mem_account *a, const struct mem_region_desc *d,
					  int fd, uint8_t **host, struct error *err)
{
	uint64_t page, lead;
	struct mem_mapping *m;

	if (check_file(d, fd, err) < 0)
		return NULL;
	m = malloc(sizeof(*m));
	if (!m) {
		error_set(err, -ENOMEM, "out of memory for a memory region");
		return NULL;
	}
	page = shared_file_page(fd);
	lead = d->offset & (page - 1);
	*m = (struct mem_mapping) { .offset = d->offset, .refs = 1 };
	if (mapped_file_open(&m->file, a, fd, d->offset - lead, ALIGN_UP(lead + d->size, page),
			     MAP_NORESERVE, err) < 0) {
		error_prefix(err,
			     "memory region at 0x%" PRIx64 ", size 0x%" PRIx64 " cannot be mapped",
			     d->gpa, d->size);
		mapping_put(m);
		return NULL;
	}
	m->guard = mem_guard_add(&(struct mem_guarded) { .base = m->file.base,
							 .len = m->file.len,
							 .page = page,
							 .fd = m->file.fd,
							 .offset = d->offset - lead },
				 NULL);
	if (!m->guard) {
		error_set(err, -ENOMEM, "out of memory for a memory region");
		mapping_put(m);
		return NULL;
	}
	/* A core dump of ours must not hold guests' memory. */
	madvise(m->file.base, m->file.len, MADV_DONTDUMP);
	*host = (uint8_t *)m->file.base + lead;
	return m;
}

static bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

static int check_region(const struct mem_map *old, const struct mem_region_desc *d,
			struct error *err)
{
	if (d->size == 0)
		return error_set(err, -EINVAL, "memory region at 0x%" PRIx64 " has size 0", d->gpa);
	/* The rounding to pages (1 GiB ones at most) must not wrap either. */
	if (d->size > UINT64_MAX - d->gpa || d->size > UINT64_MAX - d->uva ||
	    d->size > INT64_MAX - (UINT64_C(2) << 30) || d->offset > INT64_MAX - d->size)
		return error_set(err, -EINVAL,
				 "memory region at 0x%" PRIx64 ", user address 0x%" PRIx64
				 ", offset 0x%" PRIx64 ": size 0x%" PRIx64 " wraps around",
				 d->gpa, d->uva, d->offset, d->size);
	/* Sparse files cost nothing, and would use up the addresses of everybody. */
	if (d->size > MEM_BYTES_MAX - MIN(mem_map_bytes(old), MEM_BYTES_MAX))
		return error_set(err, -ENOMEM,
				 "memory region at 0x%" PRIx64 ", size 0x%" PRIx64
				 ": with it a guest would have more than 0x%" PRIx64 " bytes",
				 d->gpa, d->size, MEM_BYTES_MAX);
	if (!old)
		return 0;
	if (old->n >= MEM_SLOTS_MAX)
		return error_set(err, -ENOSPC, "more than %d memory regions", MEM_SLOTS_MAX);
	for (unsigned i = 0; i < old->n; i++) {
		const struct mem_region *r = &old->region[i];

		if (ranges_overlap(d->gpa, d->size, r->gpa, r->size) ||
		    ranges_overlap(d->uva, d->size, r->uva, r->size))
			return error_set(err, -EINVAL,
					 "memory region at 0x%" PRIx64 ", size 0x%" PRIx64
					 " overlaps the one at 0x%" PRIx64 ", size 0x%" PRIx64,
					 d->gpa, d->size, r->gpa, r->size);
	}
	return 0;
}

/* A copy of @old with room for @n regions. The copied regions are referenced by the caller. */
static struct mem_map *map_alloc(unsigned n, struct error *err)
{
	struct mem_map *map = calloc(1, sizeof(*map) + n * sizeof(map->region[0]));

	if (!map)
		error_set(err, -ENOMEM, "out of memory for a map of %u memory regions", n);
	return map;
}

static void map_append(struct mem_map *map, const struct mem_region *r)
{
	map->region[map->n++] = *r;
	r->mapping->refs++;
}

static const struct mem_region *find_same(const struct mem_map *map,
					  const struct mem_region_desc *desc, int fd)
{
	struct stat ours, theirs;

	for (unsigned i = 0; map && i < map->n; i++) {
		const struct mem_region *r = &map->region[i];

		if (r->gpa == desc->gpa && r->size == desc->size && r->uva == desc->uva &&
		    r->mapping->offset == desc->offset && shared_file_check(fd, NULL) == 0 &&
		    fstat(r->mapping->file.fd, &ours) == 0 && fstat(fd, &theirs) == 0 &&
		    ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino)
			return r;
	}
	return NULL;
}

/* The region with a reference to its mapping: @donor's, or a new one. @return false with @err. */
static bool region_make(struct mem_region *r, struct mem_account *a, const struct mem_map *donor,
			const struct mem_region_desc *desc, int fd, struct error *err)
{
	const struct mem_region *same = find_same(donor, desc, fd);

	if (same) {
		/* The file may have become shorter since. */
		if (check_file(desc, fd, err) < 0)
			return false;
		*r = *same;
		r->mapping->refs++;
		return true;
	}
	*r = (struct mem_region) { .gpa = desc->gpa, .size = desc->size, .uva = desc->uva };
	r->mapping = mapping_create(a, desc, fd, &r->host, err);
	return r->mapping != NULL;
}

struct mem_map *mem_map_add_shared(struct mem_account *a, const struct mem_map *old,
				   const struct mem_map *donor, const struct mem_region_desc *desc,
				   int fd, struct error *err)
{
	unsigned n = old ? old->n : 0, i = 0;
	struct mem_region added = { 0 };
	struct mem_map *map;

	if (check_region(old, desc, err) < 0)
		return NULL;
	map = map_alloc(n + 1, err);
	if (!map)
		return NULL;
	if (!region_make(&added, a, donor, desc, fd, err)) {
		free(map);
		return NULL;
	}
	for (; i < n && old->region[i].gpa < added.gpa; i++)
		map_append(map, &old->region[i]);
	map_append(map, &added);
	for (; i < n; i++)
		map_append(map, &old->region[i]);
	mapping_put(added.mapping); /* the map's own reference stays */
	return map;
}

struct mem_map *mem_map_add(struct mem_account *a, const struct mem_map *old,
			    const struct mem_region_desc *desc, int fd, struct error *err)
{
	return mem_map_add_shared(a, old, NULL, desc, fd, err);
}

struct mem_map *mem_map_remove(const struct mem_map *old, const struct mem_region_desc *desc,
			       struct error *err)
{
	struct mem_map *map;
	unsigned found = 0;

	for (; old && found < old->n; found++) {
		const struct mem_region *r = &old->region[found];

		if (r->gpa == desc->gpa && r->size == desc->size && r->uva == desc->uva)
			break;
	}
	if (!old || found == old->n) {
		error_set(err, -ENOENT,
			  "no memory region at 0x%" PRIx64 ", size 0x%" PRIx64
			  ", user address 0x%" PRIx64,
			  desc->gpa, desc->size, desc->uva);
		return NULL;
	}
	map = map_alloc(old->n, err);
	for (unsigned i = 0; map && i < old->n; i++)
		if (i != found)
			map_append(map, &old->region[i]);
	return map;
}

bool mem_map_has(const struct mem_map *map, const struct mem_region_desc *desc, int fd)
{
	return find_same(map, desc, fd) != NULL;
}

uint64_t mem_bytes_to_map(const struct mem_map *donor, const struct mem_region_desc *desc, int fd)
{
	uint64_t page;

	/* Those will be refused. */
	if (desc->size > MEM_BYTES_MAX || shared_file_check(fd, NULL) < 0)
		return 0;
	if (find_same(donor, desc, fd))
		return 0;
	page = shared_file_page(fd);
	return ALIGN_UP((desc->offset & (page - 1)) + desc->size, page);
}

bool mem_map_keeps(const struct mem_map *map, const struct mem_region *r)
{
	for (unsigned i = 0; map && i < map->n; i++)
		if (map->region[i].mapping == r->mapping)
			return true;
	return false;
}

bool mem_map_overlaps(const struct mem_map *map, const struct mem_region_desc *desc)
{
	for (unsigned i = 0; map && i < map->n; i++) {
		const struct mem_region *r = &map->region[i];

		if (ranges_overlap(desc->gpa, desc->size, r->gpa, r->size) ||
		    ranges_overlap(desc->uva, desc->size, r->uva, r->size))
			return true;
	}
	return false;
}

void mem_map_watch(const struct mem_map *map, struct mem_watch *w)
{
	for (unsigned i = 0; map && i < map->n; i++)
		mem_guard_watch(map->region[i].mapping->guard, w);
}

void mem_map_free(struct mem_map *map)
{
	if (!map)
		return;
	for (unsigned i = 0; i < map->n; i++)
		mapping_put(map->region[i].mapping);
	free(map);
}

uint64_t mem_map_bytes(const struct mem_map *map)
{
	uint64_t sum = 0;

	for (unsigned i = 0; map && i < map->n; i++)
		sum += map->region[i].size;
	return sum;
}

void *mem_resolve_uva(const struct mem_map *map, uva_t uva, uint64_t len)
{
	for (unsigned i = 0; map && i < map->n; i++) {
		const struct mem_region *r = &map->region[i];

		if (uva >= r->uva && uva - r->uva < r->size)
			return len <= r->size - (uva - r->uva) ? r->host + (uva - r->uva) : NULL;
	}
	return NULL;
}

void mem_region_file(const struct mem_region *r, struct pager_file *out)
{
	const struct mem_mapping *m = r->mapping;
	uint64_t lead = (uint64_t)(r->host - (const uint8_t *)m->file.base);

	*out = (struct pager_file) { .fd = m->file.fd,
				     .offset = m->offset - lead,
				     .len = m->file.len,
				     .page = shared_file_page(m->file.fd) };
}

int mem_region_absent(struct mem_region *r, uint64_t away)
{
	struct pager_file file;

	mem_region_file(r, &file);
	r->mapping->presence = mem_presence_new(r->mapping->file.base, &file, away);
	r->presence = r->mapping->presence;
	return r->presence ? 0 : -ENOMEM;
}
