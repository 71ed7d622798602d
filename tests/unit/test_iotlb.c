/* SPDX-License-Identifier: Apache-2.0 */
/* The table of translations by itself, against a model that has one entry a page. */
#include "base/error.h"
#include "vhost/iotlb.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define PAGES 64
#define BASE (UINT64_C(1) << 44)
#define UVA (UINT64_C(5) << 32)

/* Two regions that follow each other in user addresses, and not for us. */
static struct mem_map *memory(void)
{
	struct error err = { 0 };
	struct mem_map *one = NULL, *map = NULL;

	for (unsigned i = 0; i < 2; i++) {
		struct mem_region_desc d = { .gpa = i << 30,
					     .size = PAGES / 2 * PAGE,
					     .uva = UVA + i * (PAGES / 2) * PAGE };
		int fd = memfd_create("iotlb", 0);

		cr_assert_eq(ftruncate(fd, (off_t)d.size), 0);
		map = mem_map_add(NULL, one, &d, fd, &err);
		cr_assert_not_null(map, "%s", err.text);
		mem_map_free(one);
		one = map;
		close(fd);
	}
	return map;
}

struct model {
	uint64_t uva; /* 0: none */
	uint8_t access;
};

static void check(const struct iotlb *t, const struct mem_map *mem, const struct model *m)
{
	for (unsigned i = 0; i < PAGES; i++) {
		for (unsigned k = 0; k < 2; k++) {
			const struct mem_map *map = k ? iotlb_write_map(t) : iotlb_read_map(t);
			uint8_t bit = k ? IOTLB_WRITE : IOTLB_READ;
			uint64_t len = PAGE;
			unsigned hint = 0;
			void *got = mem_resolve(map, BASE + i * PAGE, &len, &hint), *want = NULL;

			if (m[i].access & bit)
				want = mem_resolve_uva(mem, m[i].uva, PAGE);
			cr_assert_eq(got, want, "page %u, access %u", i, bit);
			if (got)
				cr_assert_eq(len, PAGE, "a page is in one piece");
		}
	}
	for (unsigned i = 1; t && i < t->n; i++)
		cr_assert_leq(t->entry[i - 1].iova + t->entry[i - 1].size, t->entry[i].iova);
}

Test(iotlb, updates_and_invalidations_do_what_the_model_does)
{
	struct mem_map *mem = memory();
	struct model model[PAGES] = { 0 };
	struct iotlb *t = NULL;

	srand(7);
	for (unsigned round = 0; round < 4000; round++) {
		unsigned first = rand() % PAGES, n = 1 + rand() % (PAGES - first);
		unsigned from = rand() % (PAGES - n + 1);
		struct iotlb_entry e = { .iova = BASE + first * PAGE,
					 .size = n * PAGE,
					 .uva = UVA + from * PAGE,
					 .access = (uint8_t)(1 + rand() % 3) };
		struct error err = { 0 };
		struct iotlb *next;
		bool add = rand() % 3;

		if (n > 6 && rand() % 4)
			continue; /* small ones make more of a mess */
		next = add ? iotlb_with(t, mem, &e, &err)
			   : iotlb_without(t, mem, e.iova, e.iova + e.size - 1, &err);
		cr_assert_not_null(next, "%s", err.text);
		iotlb_free(t);
		t = next;
		for (unsigned i = 0; i < n; i++)
			model[first + i] = (struct model) { add ? e.uva + i * PAGE : 0,
							    add ? e.access : 0 };
		check(t, mem, model);
	}
	iotlb_free(t);
	mem_map_free(mem);
}

Test(iotlb, what_has_gone_is_named)
{
	struct mem_map *mem = memory();
	struct error err = { 0 };
	struct iotlb_entry e = { .iova = BASE, .size = 4 * PAGE, .uva = UVA, .access = 3 };
	struct iotlb *t = iotlb_with(NULL, mem, &e, &err), *next;
	struct iovec gone[4];

	/* The same again: nothing. */
	next = iotlb_with(t, mem, &e, &err);
	cr_assert_eq(iotlb_gone(t, next, mem, 0, UINT64_MAX, gone, 4), 0u);
	iotlb_free(next);
	/* Less access: all of it. */
	e.access = IOTLB_READ;
	next = iotlb_with(t, mem, &e, &err);
	cr_assert_eq(iotlb_gone(t, next, mem, e.iova, e.iova + e.size - 1, gone, 4), 1u);
	cr_assert_eq(gone[0].iov_len, 4 * PAGE);
	iotlb_free(next);
	/* A page in the middle. */
	next = iotlb_without(t, mem, BASE + PAGE, BASE + 2 * PAGE - 1, &err);
	cr_assert_eq(next->n, 2u);
	cr_assert_eq(iotlb_gone(t, next, mem, BASE + PAGE, BASE + 2 * PAGE - 1, gone, 4), 1u);
	cr_assert_eq(gone[0].iov_base, mem->region[0].host + PAGE);
	cr_assert_eq(gone[0].iov_len, PAGE);
	iotlb_free(t);
	/* More pieces than there is room to name. */
	t = next;
	for (unsigned i = 0; i < 10; i++) {
		e = (struct iotlb_entry) { BASE + (10 + 2 * i) * PAGE, PAGE, UVA, 3 };
		next = iotlb_with(t, mem, &e, &err);
		iotlb_free(t);
		t = next;
	}
	cr_assert_gt(iotlb_gone(t, NULL, mem, 0, UINT64_MAX, gone, 4), 4u);
	iotlb_free(t);
	mem_map_free(mem);
}

/* T15: a front-end cannot make us hold more than so many; what it sent last is always there. */
Test(iotlb, a_full_table_starts_anew)
{
	struct mem_map *mem = memory();
	struct error err = { 0 };
	struct iotlb *t = NULL, *next;
	unsigned most = 0;

	for (unsigned i = 0; i < IOTLB_ENTRIES_MAX + 100; i++) {
		struct iotlb_entry e = { BASE + i * 2 * PAGE, PAGE, UVA, 3 };
		uint64_t len = PAGE;
		unsigned hint = 0;

		next = iotlb_with(t, mem, &e, &err);
		cr_assert_not_null(next);
		iotlb_free(t);
		t = next;
		most = MAX(most, t->n);
		cr_assert_not_null(mem_resolve(iotlb_read_map(t), e.iova, &len, &hint));
	}
	cr_assert_leq(most, (unsigned)IOTLB_ENTRIES_MAX);
	cr_assert_gt(most, (unsigned)IOTLB_ENTRIES_MAX - 10);
	cr_assert_lt(t->n, 200u);
	iotlb_free(t);
	mem_map_free(mem);
}

/* T15: nor by taking out a byte here and there, which makes two of one. */
Test(iotlb, a_table_full_of_holes_starts_anew)
{
	struct mem_map *mem = memory();
	struct error err = { 0 };
	struct iotlb_entry e = { BASE, PAGES / 2 * PAGE, UVA, 3 };
	struct iotlb *t = iotlb_with(NULL, mem, &e, &err), *next;
	unsigned most = 0, anew = 0;

	cr_assert_not_null(t);
	for (unsigned i = 0; i < IOTLB_ENTRIES_MAX + 100; i++) {
		iova_t hole = BASE + 1 + 2 * i;

		next = iotlb_without(t, mem, hole, hole, &err);
		cr_assert_not_null(next);
		cr_assert_eq(next->anew, t->n == IOTLB_ENTRIES_MAX);
		anew += next->anew;
		iotlb_free(t);
		t = next;
		most = MAX(most, t->n);
	}
	cr_assert_eq(anew, 1u);
	cr_assert_eq(most, (unsigned)IOTLB_ENTRIES_MAX);
	iotlb_free(t);
	mem_map_free(mem);
}

/* A buffer over many pages is one segment where its pages lie side by side. */
Test(iotlb, neighbours_within_a_region_are_one_piece)
{
	static uint8_t host[4 * PAGE];
	struct mem_map *mem = calloc(1, sizeof(*mem) + sizeof(mem->region[0]));
	struct iotlb *t = NULL;
	uint64_t len = 4 * PAGE;
	unsigned hint = 0;

	mem->region[mem->n++] = (struct mem_region) {
		.gpa = 0, .size = sizeof(host), .host = host, .uva = UVA
	};
	for (unsigned i = 0; i < 4; i++) {
		struct iotlb_entry e = { .iova = BASE + i * PAGE,
					 .size = PAGE,
					 .uva = UVA + i * PAGE,
					 .access = IOTLB_READ | IOTLB_WRITE };
		struct error err = { 0 };
		struct iotlb *next = iotlb_with(t, mem, &e, &err);

		cr_assert_not_null(next, "%s", err.text);
		iotlb_free(t);
		t = next;
	}
	cr_assert_eq(mem_resolve(iotlb_both_map(t), BASE, &len, &hint), host);
	cr_assert_eq(len, 4 * PAGE);
	iotlb_free(t);
	free(mem);
}

/*
 * Two regions may be mapped side by side here, and lie far apart in the guest: the dirty log finds
 * a segment's guest address by where it begins.
 */
Test(iotlb, a_piece_never_spans_two_regions)
{
	static uint8_t host[2 * 4096];
	struct mem_map *mem = calloc(1, sizeof(*mem) + 2 * sizeof(mem->region[0]));
	struct iotlb *t = NULL;

	for (unsigned i = 0; i < 2; i++)
		mem->region[mem->n++] = (struct mem_region) { .gpa = (uint64_t)i << 30,
							      .size = PAGE,
							      .host = host + i * PAGE,
							      .uva = UVA + i * PAGE };
	for (unsigned i = 0; i < 2; i++) {
		struct iotlb_entry e = { .iova = BASE + i * PAGE,
					 .size = PAGE,
					 .uva = UVA + i * PAGE,
					 .access = IOTLB_READ | IOTLB_WRITE };
		struct error err = { 0 };
		struct iotlb *next = iotlb_with(t, mem, &e, &err);

		cr_assert_not_null(next, "%s", err.text);
		iotlb_free(t);
		t = next;
	}
	for (unsigned i = 0; i < 2; i++) {
		uint64_t len = 2 * PAGE - i * PAGE;
		unsigned hint = 0;

		cr_assert_eq(mem_resolve(iotlb_write_map(t), BASE + i * PAGE, &len, &hint),
			     host + i * PAGE);
		cr_assert_eq(len, PAGE);
	}
	iotlb_free(t);
	free(mem);
}
