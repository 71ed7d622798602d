/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/iotlb.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static iova_t last_of(const struct iotlb_entry *e)
{
	return e->iova + (e->size - 1);
}

/* The part of @e within [@first, @last]; false: there is none. */
static bool cut(const struct iotlb_entry *e, iova_t first, iova_t last, struct iotlb_entry *part)
{
	iova_t from = MAX(e->iova, first), to = MIN(last_of(e), last);

	if (from > to)
		return false;
	*part = (struct iotlb_entry) { .iova = from,
				       .size = to - from + 1,
				       .uva = e->uva + (from - e->iova),
				       .access = e->access };
	return true;
}

static uint8_t *host_of(const struct mem_map *memory, const struct iotlb_entry *e)
{
	return mem_resolve_uva(memory, e->uva, e->size);
}

static struct iotlb *table_alloc(unsigned n, struct error *err)
{
	struct iotlb *t = calloc(1, sizeof(*t) + n * sizeof(t->entry[0]));

	if (!t)
		error_set(err, -ENOMEM, "out of memory for an IOTLB of %u entries", n);
	return t;
}

/* All of @old that lies within [@first, @last]. */
static void copy(struct iotlb *t, const struct iotlb *old, iova_t first, iova_t last)
{
	for (unsigned i = 0; old && i < old->n; i++)
		t->n += cut(&old->entry[i], first, last, &t->entry[t->n]);
}

/* The map of entries with @access; neighbours within one region become one. */
static struct mem_map *map_make(const struct iotlb *t, const struct mem_map *memory, uint8_t access)
{
	struct mem_map *map = calloc(1, sizeof(*map) + t->n * sizeof(map->region[0]));
	struct mem_region *r = NULL;

	for (unsigned i = 0; map && i < t->n; i++) {
		const struct iotlb_entry *e = &t->entry[i];
		uint8_t *host = host_of(memory, e);

		if ((e->access & access) != access || !host)
			continue;
		/*
		 * One piece of host memory is not enough: regions may be mapped side by side, and
		 * the dirty log takes a segment to lie in one of them.
		 */
		if (r && r->gpa + r->size == e->iova && r->uva + r->size == e->uva &&
		    mem_resolve_uva(memory, r->uva, r->size + e->size)) {
			r->size += e->size;
			continue;
		}
		r = &map->region[map->n++];
		*r = (struct mem_region) {
			.gpa = e->iova, .size = e->size, .host = host, .uva = e->uva
		};
	}
	return map;
}

/* @t's maps. @return it, or NULL with @err, and then it is freed. */
static struct iotlb *finish(struct iotlb *t, const struct mem_map *memory, struct error *err)
{
	if (!t)
		return NULL;
	t->read = map_make(t, memory, IOTLB_READ);
	t->write = map_make(t, memory, IOTLB_WRITE);
	t->both = map_make(t, memory, IOTLB_READ | IOTLB_WRITE);
	if (t->read && t->write && t->both)
		return t;
	error_set(err, -ENOMEM, "out of memory for an IOTLB of %u entries", t->n);
	iotlb_free(t);
	return NULL;
}

/* Appends @e in as many entries as it touches regions. @return false: some of it is in none. */
static bool append(struct iotlb *t, const struct mem_map *memory, const struct iotlb_entry *e)
{
	uint64_t done = 0;

	while (done < e->size) {
		const struct mem_region *in = NULL;
		uint64_t piece;

		for (unsigned i = 0; memory && i < memory->n && !in; i++)
			if (e->uva + done - memory->region[i].uva < memory->region[i].size)
				in = &memory->region[i];
		if (!in)
			return false;
		piece = MIN(e->size - done, in->size - (e->uva + done - in->uva));
		t->entry[t->n++] = (struct iotlb_entry) { .iova = e->iova + done,
							  .size = piece,
							  .uva = e->uva + done,
							  .access = e->access };
		done += piece;
	}
	return true;
}

struct iotlb *iotlb_with(const struct iotlb *old, const struct mem_map *memory,
			 const struct iotlb_entry *e, struct error *err)
{
	unsigned regions = memory ? memory->n : 0;
	bool anew = old && old->n + regions + 2 > IOTLB_ENTRIES_MAX;
	struct iotlb *t;

	if (e->size == 0 || e->size > UINT64_MAX - e->iova || e->size > UINT64_MAX - e->uva) {
		error_set(err, -EINVAL,
			  "0x%" PRIx64 " bytes at 0x%" PRIx64 ", user address 0x%" PRIx64
			  ": empty, or they wrap around",
			  e->size, e->iova, e->uva);
		return NULL;
	}
	if (anew)
		old = NULL;
	t = table_alloc((old ? 2 * old->n : 0) + regions + 2, err);
	if (!t)
		return NULL;
	t->anew = anew;
	if (e->iova > 0)
		copy(t, old, 0, e->iova - 1);
	if (!append(t, memory, e)) {
		error_set(err, -EFAULT,
			  "0x%" PRIx64 " bytes at user address 0x%" PRIx64
			  " do not lie within the memory regions",
			  e->size, e->uva);
		free(t);
		return NULL;
	}
	copy(t, old, e->iova + e->size, UINT64_MAX);
	return finish(t, memory, err);
}

struct iotlb *iotlb_without(const struct iotlb *old, const struct mem_map *memory, iova_t first,
			    iova_t last, struct error *err)
{
	struct iotlb *t = table_alloc(old ? 2 * old->n : 0, err);

	if (!t)
		return NULL;
	if (first > 0)
		copy(t, old, 0, first - 1);
	if (last < UINT64_MAX)
		copy(t, old, last + 1, UINT64_MAX);
	t->anew = t->n > IOTLB_ENTRIES_MAX;
	if (t->anew)
		t->n = 0;
	return finish(t, memory, err);
}

struct iotlb *iotlb_moved(const struct iotlb *old, const struct mem_map *memory, struct error *err)
{
	struct iotlb *t = table_alloc(old ? old->n : 0, err);

	for (unsigned i = 0; t && old && i < old->n; i++)
		if (host_of(memory, &old->entry[i]))
			t->entry[t->n++] = old->entry[i];
	return finish(t, memory, err);
}

void iotlb_free(struct iotlb *t)
{
	if (!t)
		return;
	free(t->read);
	free(t->write);
	free(t->both);
	free(t);
}

const struct mem_map *iotlb_read_map(const struct iotlb *t)
{
	return t ? t->read : &mem_map_none;
}

const struct mem_map *iotlb_write_map(const struct iotlb *t)
{
	return t ? t->write : &mem_map_none;
}

const struct mem_map *iotlb_both_map(const struct iotlb *t)
{
	return t ? t->both : &mem_map_none;
}

/* The first entry that does not end before @at. */
static unsigned find(const struct iotlb *t, iova_t at)
{
	unsigned lo = 0, hi = t ? t->n : 0;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (last_of(&t->entry[mid]) < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Does @t lead from all of @e to where @e does, with all of its access? */
static bool has(const struct iotlb *t, const struct iotlb_entry *e)
{
	iova_t at = e->iova;

	for (unsigned i = find(t, at); t && i < t->n; i++) {
		const struct iotlb_entry *o = &t->entry[i];

		if (at < o->iova || o->uva - o->iova != e->uva - e->iova ||
		    (e->access & ~o->access))
			return false;
		if (last_of(o) >= last_of(e))
			return true;
		at = last_of(o) + 1;
	}
	return false;
}

unsigned iotlb_gone(const struct iotlb *old, const struct iotlb *next, const struct mem_map *memory,
		    iova_t first, iova_t last, struct iovec *gone, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = find(old, first); old && i < old->n && n <= max; i++) {
		struct iotlb_entry part;
		uint8_t *host;

		if (!cut(&old->entry[i], first, last, &part))
			break;
		if (has(next, &part))
			continue;
		host = host_of(memory, &part);
		if (!host)
			continue; /* its region has gone before it */
		if (n < max)
			gone[n] = (struct iovec) { .iov_base = host, .iov_len = part.size };
		n++;
	}
	return n;
}
