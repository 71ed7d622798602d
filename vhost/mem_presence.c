/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/mem_presence.h"

#include "vhost/mem.h"
#include "vhost/pager.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SMALL_PAGE_SHIFT 12
/* Pages that mem_look() asks for at once: 2 MiB, some ten microseconds. */
#define LOOK_PAGES 512u

/*
 * mincore() says that all is there where the caller could not write the file by its permissions. A
 * memfd has them for everybody. Of hugepages it only knows those that this process has touched.
 */
static bool kernel_tells(const struct pager_file *file)
{
	struct stat st;

	return file->page == 1u << SMALL_PAGE_SHIFT && sysconf(_SC_PAGESIZE) == (long)file->page &&
	       fstat(file->fd, &st) == 0 && (st.st_uid == geteuid() || (st.st_mode & 022) == 022);
}

struct mem_presence *mem_presence_new(void *base, const struct pager_file *file, uint64_t away)
{
	uint64_t n = file->len / file->page;
	struct mem_presence *p = calloc(1, sizeof(*p) + (n + 63) / 64 * sizeof(p->bits[0]));

	if (!p)
		return NULL;
	p->base = base;
	p->away = away;
	p->n_pages = n;
	p->page_shift = (unsigned)__builtin_ctzll(file->page);
	p->kernel_tells = kernel_tells(file);
	return p;
}

/* Pairs: what is known to be there was put there before. */
static bool is_set(const struct mem_presence *p, uint64_t page)
{
	return __atomic_load_n(&p->bits[page / 64], __ATOMIC_ACQUIRE) >> (page % 64) & 1;
}

static void set(struct mem_presence *p, uint64_t page)
{
	__atomic_fetch_or(&p->bits[page / 64], UINT64_C(1) << (page % 64), __ATOMIC_RELEASE);
}

/* NULL: nothing of what @host lies in is missing. */
static struct mem_presence *find(const struct mem_map *map, const void *host)
{
	for (unsigned i = 0; map && i < map->n; i++)
		if ((uintptr_t)host - (uintptr_t)map->region[i].host < map->region[i].size)
			return map->region[i].presence;
	return NULL;
}

static uint64_t page_of(const struct mem_presence *p, const void *host)
{
	return (uint64_t)((const uint8_t *)host - p->base) >> p->page_shift;
}

bool mem_present(const struct mem_map *map, const void *host, uint64_t *len)
{
	const struct mem_presence *p = find(map, host);
	uint64_t first, last;

	if (!p)
		return true;
	first = page_of(p, host);
	last = page_of(p, (const uint8_t *)host + (*len - 1));
	for (uint64_t page = first; page <= last; page++) {
		if (is_set(p, page))
			continue;
		if (page > first)
			*len = (uint64_t)(p->base + (page << p->page_shift) -
					  (const uint8_t *)host);
		return page > first;
	}
	return true;
}

uint64_t mem_absent_page(const struct mem_map *map, const void *host)
{
	const struct mem_presence *p = find(map, host);
	uint64_t page;

	if (!p)
		return 0;
	page = page_of(p, host);
	return is_set(p, page) ? 0 : p->away + (page << p->page_shift);
}

bool mem_arrived(const struct mem_map *map, uint64_t away)
{
	for (unsigned i = 0; map && i < map->n; i++) {
		struct mem_presence *p = map->region[i].presence;
		uint64_t page = p ? (away - p->away) >> p->page_shift : 0;

		if (!p || page >= p->n_pages)
			continue;
		if (is_set(p, page))
			return false;
		set(p, page);
		return true;
	}
	return false;
}

void mem_look(const struct mem_map *map, const void *host)
{
	struct mem_presence *p = find(map, host);
	unsigned char there[LOOK_PAGES];
	uint64_t from, n;

	if (!p || !p->kernel_tells)
		return;
	from = ALIGN_DOWN(page_of(p, host), LOOK_PAGES);
	n = MIN(p->n_pages - from, (uint64_t)LOOK_PAGES);
	if (mincore(p->base + (from << p->page_shift), n << p->page_shift, there) < 0)
		return;
	for (uint64_t i = 0; i < n; i++)
		if (there[i] & 1)
			set(p, from + i);
}

uint64_t mem_region_away(const struct mem_region *r)
{
	return r->presence ? r->presence->away + (uint64_t)(r->host - r->presence->base) : 0;
}
