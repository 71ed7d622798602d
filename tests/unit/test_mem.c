/* SPDX-License-Identifier: Apache-2.0 */
/* The map of guest memory: vhost-user "Memory region description", class T14. */
#include "base/error.h"
#include "tests/guest/memory.h"
#include "tests/unit/often.h"
#include "vhost/mapped_file.h"
#include "vhost/mem.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)

static int file_of(uint64_t bytes)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, bytes), 0);
	return fd;
}

static struct mem_region_desc region_at(uint64_t gpa, uint64_t size)
{
	return (struct mem_region_desc) { .gpa = gpa, .size = size, .uva = GUEST_UVA_BASE + gpa };
}

/* @old and one more; @old is freed, as its owner would. */
static struct mem_map *add(struct mem_map *old, struct mem_region_desc d, int fd)
{
	struct error err = { 0 };
	struct mem_map *map = mem_map_add(NULL, old, &d, fd, &err);

	cr_assert_not_null(map, "%s", err.text);
	mem_map_free(old);
	return map;
}

static void refused(const struct mem_map *old, struct mem_region_desc d, int fd, const char *why)
{
	struct error err = { 0 };

	cr_assert_null(mem_map_add(NULL, old, &d, fd, &err), "accepted: %s", why);
	cr_assert_lt(err.code, 0);
	cr_assert_not_null(strstr(err.text, why), "refused for \"%s\", expected \"%s\"", err.text,
			   why);
}

static unsigned count_entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static unsigned count_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned n = 0;
	int c;

	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static void *resolve(const struct mem_map *map, uint64_t gpa, uint64_t *len)
{
	unsigned hint = 0;

	return mem_resolve(map, gpa, len, &hint);
}

Test(mem, region_is_the_files_memory)
{
	int fd = file_of(MIB);
	struct mem_map *map = add(NULL, region_at(0x1000, MIB), fd);
	uint64_t len = 16;
	char *p = resolve(map, 0x1000 + 100, &len);
	char back[6];

	cr_assert_not_null(p);
	cr_assert_eq(len, 16);
	memcpy(p, "hello", 6);
	cr_assert_eq(pread(fd, back, 6, 100), 6);
	cr_assert_str_eq(back, "hello");
	cr_assert_eq(mem_map_bytes(map), MIB);
	mem_map_free(map);
	close(fd);
}

/* The front-end may name any offset, and its file may outlive our interest in the descriptor. */
Test(mem, offset_need_not_be_a_multiple_of_the_page_size)
{
	int fd = file_of(MIB);
	struct mem_region_desc d = region_at(0x10000, 3 * PAGE);
	struct mem_map *map;
	uint64_t len = 2;

	d.offset = 5 * PAGE + 123;
	cr_assert_eq(pwrite(fd, "xy", 2, d.offset), 2);
	cr_assert_eq(pwrite(fd, "z", 1, d.offset + d.size - 1), 1);
	map = add(NULL, d, fd);
	cr_assert_eq(memcmp(resolve(map, d.gpa, &len), "xy", 2), 0);
	cr_assert_eq(*(char *)resolve(map, d.gpa + d.size - 1, &len), 'z');
	mem_map_free(map);
	close(fd);
}

Test(mem, descriptor_stays_the_callers)
{
	int fd = file_of(MIB);
	unsigned fds = count_entries("/proc/self/fd"), maps = count_mappings();
	struct mem_map *map = add(NULL, region_at(0, MIB), fd);

	mem_map_free(map);
	cr_assert_eq(count_entries("/proc/self/fd"), fds);
	cr_assert_eq(count_mappings(), maps);
	cr_assert_eq(ftruncate(fd, 2 * MIB), 0, "the caller's descriptor was closed");
	close(fd);
}

Test(mem, size_0_is_refused_T14)
{
	int fd = file_of(MIB);
	struct mem_region_desc d = region_at(0, 0);

	refused(NULL, d, fd, "has size 0");
	/* With an odd offset there would even be something to map. */
	d.offset = 100;
	refused(NULL, d, fd, "has size 0");
	close(fd);
}

Test(mem, ranges_that_wrap_are_refused_T14)
{
	int fd = file_of(MIB);
	struct mem_region_desc d;

	d = region_at(UINT64_MAX - PAGE + 1, PAGE + 1);
	d.uva = 0;
	refused(NULL, d, fd, "wraps");
	d = region_at(0, PAGE);
	d.uva = UINT64_MAX - 10;
	refused(NULL, d, fd, "wraps");
	d = region_at(0, PAGE);
	d.offset = UINT64_MAX - 10;
	refused(NULL, d, fd, "wraps");
	d = region_at(0, UINT64_MAX);
	d.uva = 0;
	refused(NULL, d, fd, "wraps");
	d = region_at(0, INT64_MAX - 1);
	d.uva = 0;
	refused(NULL, d, fd, "wraps");
	close(fd);
}

/* Files that hold nothing cost nothing, but addresses, which are everybody's. */
Test(mem, more_than_a_guest_has_is_refused_T14)
{
	const uint64_t half = MEM_BYTES_MAX / 2;
	struct mem_map *maps[5] = { NULL };
	int fd = file_of(MEM_BYTES_MAX);
	struct mem_region_desc d = region_at(half, half);

	refused(NULL, region_at(0, MEM_BYTES_MAX + PAGE), fd, "more than 0x100000000000 bytes");
	/* Four have all that there is for all of them. */
	for (unsigned i = 0; i < 4; i++) {
		maps[i] = add(NULL, region_at(0, half), fd);
		maps[i] = add(maps[i], d, fd);
		refused(maps[i], region_at(MEM_BYTES_MAX, PAGE), fd,
			"more than 0x100000000000 bytes");
	}
	refused(NULL, region_at(0, PAGE), fd, "more than 0x400000000000 bytes");
	/* The table again, as it is: nothing is mapped for that. */
	maps[4] = mem_map_add_shared(NULL, NULL, maps[0], &d, fd, NULL);
	cr_assert_not_null(maps[4]);
	for (unsigned i = 1; i < 4; i++)
		mem_map_free(maps[i]);
	/* They count until they are unmapped, by another thread. */
	d = region_at(0, PAGE);
	for (unsigned i = 0; i < 20000 && mem_account_must_wait(NULL, PAGE); i++)
		usleep(1000);
	mem_map_free(add(NULL, d, fd));
	mem_map_free(maps[0]);
	mem_map_free(maps[4]);
	close(fd);
}

/* A touch beyond the end of the file would be a SIGBUS: CVE-2026-86561. */
Test(mem, file_shorter_than_the_region_is_refused_T14)
{
	int fd = file_of(MIB);
	struct mem_region_desc d = region_at(0, PAGE);

	refused(NULL, region_at(0, MIB + 1), fd, "beyond the end of its file");
	d.offset = MIB - PAGE + 1;
	refused(NULL, d, fd, "beyond the end of its file");
	d.offset = MIB - PAGE;
	mem_map_free(add(NULL, d, fd));
	close(fd);
}

Test(mem, descriptor_that_is_no_memory_is_refused_T14)
{
	int event = eventfd(0, 0), pipe_fds[2];

	cr_assert_eq(pipe(pipe_fds), 0);
	refused(NULL, region_at(0, PAGE), -1, "descriptor");
	refused(NULL, region_at(0, PAGE), pipe_fds[0], "is not a file");
	refused(NULL, region_at(0, PAGE), event, "");
	close(event);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

Test(mem, read_only_descriptor_is_refused_T14)
{
	int fd = file_of(MIB), ro;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY);
	cr_assert_geq(ro, 0);
	refused(NULL, region_at(0, PAGE), ro, "cannot be mapped");
	close(ro);
	close(fd);
}

Test(mem, overlapping_regions_are_refused_T14)
{
	int fd = file_of(MIB);
	struct mem_map *map = add(NULL, region_at(0x10000, 0x10000), fd);
	const struct mem_region_desc bad[] = {
		region_at(0x10000, 0x10000), region_at(0x18000, 0x1000),
		region_at(0x1f000, 0x10000), region_at(0x8000, 0x8001),
		region_at(0, 0x100000),	     region_at(0x1ffff, 1),
	};
	unsigned fds = count_entries("/proc/self/fd"), maps = count_mappings();
	struct mem_region_desc d;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		/* Overlap in guest addresses alone, and in user addresses alone. */
		d = bad[i];
		d.uva += 64 * MIB;
		refused(map, d, fd, "overlaps");
		d = bad[i];
		d.gpa += 64 * MIB;
		refused(map, d, fd, "overlaps");
	}
	/* What was refused left nothing behind. */
	cr_assert_eq(count_entries("/proc/self/fd"), fds);
	cr_assert_eq(count_mappings(), maps);
	/* Neighbours are no overlap. */
	map = add(map, region_at(0x20000, 0x1000), fd);
	map = add(map, region_at(0xf000, 0x1000), fd);
	cr_assert_eq(map->n, 3);
	mem_map_free(map);
	close(fd);
}

Test(mem, old_map_stays_valid_beside_the_new)
{
	int fd = file_of(MIB);
	struct mem_region_desc d = region_at(MIB, PAGE);
	struct mem_map *old = add(NULL, region_at(0, PAGE), fd);
	struct mem_map *both = mem_map_add(NULL, old, &d, fd, NULL);
	uint64_t len = 1;

	cr_assert_not_null(both);
	cr_assert_eq(old->n, 1);
	/* One mapping for the region that is in both: pointers into it live on. */
	cr_assert_eq(resolve(old, 5, &len), resolve(both, 5, &len));
	mem_map_free(old);
	*(char *)resolve(both, 5, &len) = 1;
	mem_map_free(both);
	close(fd);
}

Test(mem, remove_takes_exactly_the_region_that_is_named)
{
	int fd = file_of(MIB);
	unsigned fds = count_entries("/proc/self/fd"), maps = count_mappings();
	struct mem_region_desc d = region_at(MIB, 2 * PAGE), wrong;
	struct mem_map *map = add(add(NULL, region_at(0, PAGE), fd), d, fd), *less;
	struct error err = { 0 };
	uint64_t len = 1;

	/* vhost-user REM_MEM_REG: guest address, user address and size all match. */
	wrong = d;
	wrong.gpa += PAGE;
	cr_assert_null(mem_map_remove(map, &wrong, &err));
	cr_assert_eq(err.code, -ENOENT);
	wrong = d;
	wrong.size -= PAGE;
	cr_assert_null(mem_map_remove(map, &wrong, NULL));
	wrong = d;
	wrong.uva += PAGE;
	cr_assert_null(mem_map_remove(map, &wrong, NULL));
	cr_assert_null(mem_map_remove(NULL, &d, NULL));

	less = mem_map_remove(map, &d, &err);
	cr_assert_not_null(less);
	cr_assert_eq(less->n, 1);
	cr_assert_not_null(resolve(map, MIB, &len), "the old map still has it");
	mem_map_free(map);
	cr_assert_null(resolve(less, MIB, &len));
	cr_assert_not_null(resolve(less, 0, &len));
	d = region_at(0, PAGE);
	map = mem_map_remove(less, &d, &err);
	cr_assert_not_null(map, "the last region can go too");
	cr_assert_eq(map->n, 0);
	cr_assert_null(resolve(map, 0, &len));
	mem_map_free(less);
	mem_map_free(map);
	cr_assert_eq(count_entries("/proc/self/fd"), fds);
	cr_assert_eq(count_mappings(), maps);
	close(fd);
}

/* Guest addresses or user addresses: either is enough. */
Test(mem, what_overlaps_in_one_kind_of_address_overlaps)
{
	int fd = file_of(MIB);
	struct mem_map *map = add(NULL, region_at(0x10000, 0x10000), fd);
	struct mem_region_desc d = region_at(0x18000, PAGE);

	cr_assert(mem_map_overlaps(map, &d));
	d.gpa += MIB;
	cr_assert(mem_map_overlaps(map, &d));
	d = region_at(0x18000, PAGE);
	d.uva += MIB;
	cr_assert(mem_map_overlaps(map, &d));
	d.gpa += MIB;
	cr_assert_not(mem_map_overlaps(map, &d));
	mem_map_free(map);
	close(fd);
}

/* A mapping that another map has already is shared, but not one whose end is gone. */
Test(mem, a_region_that_is_shared_is_still_within_its_file_T14)
{
	int fd = file_of(MIB);
	struct mem_region_desc d = region_at(0, MIB);
	struct mem_map *map = add(NULL, d, fd), *again;
	struct error err = { 0 };

	again = mem_map_add_shared(NULL, NULL, map, &d, fd, &err);
	cr_assert_not_null(again, "%s", err.text);
	cr_assert_eq(again->region[0].host, map->region[0].host);
	cr_assert_eq(ftruncate(fd, MIB - PAGE), 0);
	cr_assert_null(mem_map_add_shared(NULL, NULL, map, &d, fd, &err));
	cr_assert_not_null(strstr(err.text, "beyond the end of its file"), "%s", err.text);
	mem_map_free(again);
	mem_map_free(map);
	close(fd);
}

/* All slots, added in an order that is not that of the addresses, with holes in between. */
Test(mem, slots_509_and_no_more_T14)
{
	int fd = file_of(PAGE);
	struct mem_map *map = NULL;
	unsigned hint = 0;

	for (unsigned i = 0; i < MEM_SLOTS_MAX; i++)
		map = add(map, region_at((uint64_t)(i * 100 % MEM_SLOTS_MAX) * 3 * PAGE, PAGE), fd);
	cr_assert_eq(map->n, 509);
	refused(map, region_at(1u << 30, PAGE), fd, "more than 509");
	for (unsigned i = 1; i < map->n; i++)
		cr_assert_lt(map->region[i - 1].gpa, map->region[i].gpa);
	for (unsigned i = 0; i < MEM_SLOTS_MAX; i++) {
		uint64_t gpa = (uint64_t)(i * 7 % MEM_SLOTS_MAX) * 3 * PAGE, len = 2 * PAGE;
		void *p = mem_resolve(map, gpa + 1, &len, &hint);

		cr_assert_not_null(p);
		cr_assert_eq(len, PAGE - 1);
		len = 1;
		cr_assert_null(mem_resolve(map, gpa + PAGE, &len, &hint), "a hole");
		cr_assert_null(mem_resolve(map, gpa + 3 * PAGE - 1, &len, &hint), "its end");
	}
	mem_map_free(map);
	close(fd);
}

Test(mem, resolve_cuts_at_the_end_of_a_region_T1)
{
	int fd = file_of(MIB);
	struct mem_map *map = add(add(NULL, region_at(PAGE, PAGE), fd), region_at(2 * PAGE, PAGE),
				  fd);
	uint64_t len = 4 * PAGE;
	char *p = resolve(map, PAGE + 10, &len);

	cr_assert_not_null(p);
	cr_assert_eq(len, PAGE - 10);
	len = UINT64_MAX;
	cr_assert_not_null(resolve(map, 3 * PAGE - 1, &len));
	cr_assert_eq(len, 1);
	len = 1;
	cr_assert_null(resolve(map, PAGE - 1, &len));
	cr_assert_null(resolve(map, 3 * PAGE, &len));
	cr_assert_null(resolve(map, UINT64_MAX, &len));
	mem_map_free(map);
	close(fd);
}

/* A worker's hint may be of another map: any number must do. */
Test(mem, any_hint_will_do)
{
	int fd = file_of(MIB);
	struct mem_map *map = add(add(NULL, region_at(PAGE, PAGE), fd), region_at(MIB, PAGE), fd);
	const unsigned hints[] = { 0, 1, 2, 508, UINT32_MAX };

	for (unsigned i = 0; i < ARRAY_SIZE(hints); i++) {
		unsigned hint = hints[i];

		cr_assert_eq(mem_find(map, PAGE, &hint), &map->region[0]);
		hint = hints[i];
		cr_assert_eq(mem_find(map, MIB + 5, &hint), &map->region[1]);
		hint = hints[i];
		cr_assert_null(mem_find(map, 3 * PAGE, &hint));
	}
	mem_map_free(map);
	close(fd);
}

Test(mem, user_addresses_resolve_in_one_piece_or_not_at_all_T9)
{
	int fd = file_of(MIB);
	struct mem_map *map = add(add(NULL, region_at(PAGE, PAGE), fd), region_at(2 * PAGE, PAGE),
				  fd);
	const uint64_t uva = GUEST_UVA_BASE + PAGE;

	cr_assert_eq(mem_resolve_uva(map, uva + 8, PAGE - 8), map->region[0].host + 8);
	cr_assert_null(mem_resolve_uva(map, uva + 8, PAGE - 7), "into the next region");
	cr_assert_null(mem_resolve_uva(map, uva - 1, 1));
	cr_assert_null(mem_resolve_uva(map, uva + 2 * PAGE, 1));
	cr_assert_null(mem_resolve_uva(map, uva, UINT64_MAX));
	cr_assert_null(mem_resolve_uva(map, UINT64_MAX, 16));
	cr_assert_null(mem_resolve_uva(map, PAGE, 1), "a guest address is no user address");
	cr_assert_null(mem_resolve_uva(NULL, uva, 1));
	mem_map_free(map);
	close(fd);
}

/* Regions as QEMU has them: pieces of one file, below and above the hole under 4 GiB. */
Test(mem, one_file_in_two_regions)
{
	const struct guest_range ranges[] = { { 0, 2 * MIB }, { UINT64_C(1) << 32, MIB } };
	struct guest_memory *m = calloc(1, sizeof(*m));
	struct mem_map *map = NULL;
	uint64_t len = 4;

	cr_assert_eq(guest_memory_create(m, ranges, 2, GUEST_MEMORY_ONE_FILE), 0);
	for (unsigned i = 0; i < 2; i++)
		map = add(map,
			  (struct mem_region_desc) { m->region[i].gpa, m->region[i].size,
						     m->region[i].uva, m->region[i].offset },
			  m->region[i].fd);
	memcpy(guest_ptr(m, 16, 4), "low", 4);
	memcpy(guest_ptr(m, (UINT64_C(1) << 32) + 16, 4), "top", 4);
	cr_assert_str_eq(resolve(map, 16, &len), "low");
	cr_assert_str_eq(resolve(map, (UINT64_C(1) << 32) + 16, &len), "top");
	cr_assert_eq(mem_map_bytes(map), 3 * MIB);
	mem_map_free(map);
	guest_memory_destroy(m);
	free(m);
}

/* Hugepages: offset and length are the file's pages, not ours. */
Test(mem, hugepages_map_where_the_machine_has_some)
{
	const struct guest_range range = { 0, 2 * MIB };
	struct guest_memory *m = calloc(1, sizeof(*m));
	struct mem_map *map;
	uint64_t len = 4;
	int rc = guest_memory_create(m, &range, 1, GUEST_MEMORY_HUGE);

	if (rc < 0)
		cr_skip("no hugepages: %s", strerror(-rc));
	map = add(NULL, region_at(0, 2 * MIB), m->region[0].fd);
	memcpy(guest_ptr(m, 100, 4), "big", 4);
	cr_assert_str_eq(resolve(map, 100, &len), "big");
	mem_map_free(map);
	/* A piece of a hugepage that does not begin at its start. */
	map = add(NULL,
		  (struct mem_region_desc) { .gpa = 0, .size = PAGE, .uva = 0, .offset = PAGE },
		  m->region[0].fd);
	memcpy(guest_ptr(m, PAGE + 8, 4), "mid", 4);
	cr_assert_str_eq(resolve(map, 8, &len), "mid");
	mem_map_free(map);
	guest_memory_destroy(m);
	free(m);
}

#define GIB (UINT64_C(1) << 30)

/* A file of one page of 1 GiB; or skips the test. */
static int gigantic_page(uint8_t **host)
{
	int fd = memfd_create("gigantic", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_1GB);

	if (fd < 0 || ftruncate(fd, GIB) < 0)
		cr_skip("no pages of 1 GiB: %s", strerror(errno));
	*host = mmap(NULL, GIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*host == MAP_FAILED)
		cr_skip("no free page of 1 GiB: %s", strerror(errno));
	return fd;
}

/* All of one, and pieces of it, that begin and end anywhere in the page. */
Test(mem, pages_of_1_gib_map_whole_and_in_pieces_where_the_machine_has_some)
{
	const struct mem_region_desc pieces[] = {
		{ .gpa = 0, .size = GIB / 2, .uva = 0, .offset = 0 },
		{ .gpa = 4 * GIB, .size = MIB, .uva = 4 * GIB, .offset = GIB / 2 + PAGE },
		{ .gpa = 8 * GIB, .size = PAGE, .uva = 8 * GIB, .offset = GIB - PAGE },
	};
	struct mem_map *map = NULL;
	struct error err = { 0 };
	uint64_t len = 5;
	uint8_t *host;
	int fd = gigantic_page(&host);

	map = add(NULL, region_at(0, GIB), fd);
	memcpy(host + GIB - 8, "whole", 5);
	cr_assert_arr_eq(resolve(map, GIB - 8, &len), "whole", 5);
	mem_map_free(map);

	map = NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
		memcpy(host + pieces[i].offset + 8, "piece", 5);
		host[pieces[i].offset + 13] = (uint8_t)i;
		map = add(map, pieces[i], fd);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
		const uint8_t *p;

		len = 6;
		p = resolve(map, pieces[i].gpa + 8, &len);
		cr_assert_arr_eq(p, "piece", 5);
		cr_assert_eq(p[5], i);
		len = 1;
		cr_assert_null(resolve(map, pieces[i].gpa + pieces[i].size, &len));
	}
	mem_map_free(map);

	cr_assert_null(mem_map_add(NULL, NULL,
				   &(struct mem_region_desc) { .size = GIB, .offset = PAGE }, fd,
				   &err),
		       "beyond the end of its file");
	munmap(host, GIB);
	close(fd);
}

/* CVE-2019-14818 and its kind: the same again and again leaves nothing behind. */
Test(mem, a_thousand_maps_leave_nothing_behind_T13, .timeout = OFTEN_TIMEOUT)
{
	int fd = file_of(MIB);
	unsigned fds = count_entries("/proc/self/fd"), maps = count_mappings();

	for (unsigned i = 0, n = often(1000); i < n; i++)
		mem_map_free(add(add(NULL, region_at(0, PAGE), fd), region_at(PAGE, PAGE), fd));
	cr_assert_eq(count_entries("/proc/self/fd"), fds);
	cr_assert_eq(count_mappings(), maps);
	close(fd);
}
