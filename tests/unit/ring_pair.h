/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring with both its ends: the driver of tests/guest and the device of vhost/, in one process,
 * over plain heap memory (so that ASan sees a step beyond a region).
 *
 * RING_TEST(name) { … p … } is one test for each layout, with and without INDIRECT, with and
 * without EVENT_IDX. At its end the driver must not have found the device at fault, and the ring
 * must be in order, unless the test set p->may_break.
 */
#ifndef SLUICE_TESTS_UNIT_RING_PAIR_H
#define SLUICE_TESTS_UNIT_RING_PAIR_H

#include "base/log.h"
#include "tests/guest/driver_ring.h"
#include "vhost/ring.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAIR_SIZE 16 /* of the ring, where a test does not say otherwise */
#define PAIR_SEGS 32 /* longest indirect table of the honest driver */

/*
 * Guest memory: MAIN with the ring and buffers; NEXT begins where MAIN ends, but elsewhere in our
 * memory; then a hole; LATE; and LAST, which ends with the last address there can be. HUGE is 6 GiB
 * of address space that must not be touched.
 */
enum { MAIN, NEXT, LATE, HUGE, LAST, N_REGIONS };
#define MAIN_GPA UINT64_C(0x100000)
#define MAIN_BYTES (UINT64_C(4) << 20)
#define NEXT_GPA (MAIN_GPA + MAIN_BYTES)
#define NEXT_BYTES UINT64_C(0x10000)
#define HOLE_GPA (NEXT_GPA + NEXT_BYTES)
#define LATE_GPA (HOLE_GPA + 0x10000)
#define LATE_BYTES UINT64_C(0x10000)
#define HUGE_GPA (UINT64_C(1) << 40)
#define HUGE_BYTES (UINT64_C(6) << 30)
#define LAST_BYTES UINT64_C(0x1000)
#define LAST_GPA (UINT64_MAX - LAST_BYTES)

struct ring_kind {
	enum driver_layout layout;
	enum driver_indirect indirect;
	bool event_idx;
};

struct pair {
	struct ring_kind kind;
	struct driver_ring d;
	struct ring r;
	struct mem_map *map;
	uint64_t brk; /* gpa: MAIN from here on is free */
	int call_fd, err_fd;
	bool may_break;
	bool base_is_used;   /* see struct ring_config */
	uint32_t table_segs; /* longest table of the driver's; 0: PAIR_SEGS */
	struct chain chains[256];
	struct iovec segs[4 * RING_CHAIN_SEGS_MAX];
};

static inline void *pair_host(const struct pair *p, uint64_t gpa)
{
	uint64_t len = 1;
	unsigned hint = 0;

	return mem_resolve(p->map, gpa, &len, &hint);
}

/* Zeroed buffer in MAIN. */
static inline uint64_t pair_alloc(struct pair *p, uint64_t bytes)
{
	uint64_t gpa = ALIGN_UP(p->brk, 64);

	p->brk = gpa + bytes;
	cr_assert_leq(p->brk, NEXT_GPA, "the test asks for more memory than there is");
	return gpa;
}

static inline void *region_alloc(uint64_t bytes)
{
	void *host = aligned_alloc(4096, bytes);

	cr_assert_not_null(host);
	memset(host, 0, bytes);
	return host;
}

static inline void pair_map(struct pair *p)
{
	struct mem_map *m = calloc(1, sizeof(*m) + N_REGIONS * sizeof(m->region[0]));

	cr_assert_not_null(m);
	m->n = N_REGIONS;
	m->region[MAIN] = (struct mem_region) { .gpa = MAIN_GPA, .size = MAIN_BYTES };
	m->region[NEXT] = (struct mem_region) { .gpa = NEXT_GPA, .size = NEXT_BYTES };
	m->region[LATE] = (struct mem_region) { .gpa = LATE_GPA, .size = LATE_BYTES };
	m->region[HUGE] = (struct mem_region) { .gpa = HUGE_GPA, .size = HUGE_BYTES };
	m->region[LAST] = (struct mem_region) { .gpa = LAST_GPA, .size = LAST_BYTES };
	for (unsigned i = 0; i < N_REGIONS; i++)
		m->region[i].host = i == HUGE ? mmap(NULL, HUGE_BYTES, PROT_NONE,
						     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
						     -1, 0)
					      : region_alloc(m->region[i].size);
	cr_assert_neq(m->region[HUGE].host, MAP_FAILED);
	p->map = m;
}

/* Puts the device's end at @base. */
static inline void pair_device(struct pair *p, uint32_t base)
{
	struct ring_config cfg = {
		.layout = p->kind.layout == DRIVER_SPLIT ? RING_SPLIT : RING_PACKED,
		.size = p->d.size,
		.desc = driver_desc_area(&p->d),
		.driver = driver_driver_area(&p->d),
		.device = driver_device_area(&p->d),
		.indirect = p->kind.indirect != DRIVER_DIRECT,
		.event_idx = p->kind.event_idx,
		.base = base,
		.base_is_used = p->base_is_used,
		.map = p->map,
		.name = "test",
	};
	const char *why = ring_init(&p->r, &cfg);

	cr_assert_null(why, "%s", why);
	p->r.call_fd = p->call_fd;
	p->r.err_fd = p->err_fd;
}

/* Both ends anew, with a ring of @size at @base. */
static inline void pair_ring(struct pair *p, uint32_t size, uint32_t base)
{
	uint32_t longest = p->table_segs ? p->table_segs : PAIR_SEGS;
	uint32_t segs = p->kind.indirect == DRIVER_DIRECT ? 0 : longest;
	struct driver_config cfg = {
		.layout = p->kind.layout,
		.size = size,
		.indirect = p->kind.indirect,
		.indirect_segs = segs,
		.event_idx = p->kind.event_idx,
		.base = base,
	};

	driver_ring_fini(&p->d);
	p->brk = MAIN_GPA;
	cfg.area_gpa = pair_alloc(p, driver_ring_bytes(cfg.layout, size, segs));
	cfg.area = pair_host(p, cfg.area_gpa);
	cr_assert_eq(driver_ring_init(&p->d, &cfg), 0);
	memset(&p->r, 0, sizeof(p->r));
	pair_device(p, base);
}

static inline struct pair *pair_open(struct ring_kind kind)
{
	struct pair *p = calloc(1, sizeof(*p));

	cr_assert_not_null(p);
	log_set_level(LOG_LEVEL_ERROR); /* not a line for each ring that is to break */
	p->kind = kind;
	p->call_fd = eventfd(0, EFD_NONBLOCK);
	p->err_fd = eventfd(0, EFD_NONBLOCK);
	pair_map(p);
	pair_ring(p, PAIR_SIZE, driver_base_start(kind.layout));
	return p;
}

static inline void pair_close(struct pair *p)
{
	cr_expect_null(driver_violation(&p->d), "the device broke a rule: %s",
		       driver_violation(&p->d));
	if (!p->may_break)
		cr_expect_null(p->r.broken, "the ring broke: %s", p->r.broken);
	driver_ring_fini(&p->d);
	for (unsigned i = 0; i < N_REGIONS; i++)
		if (i == HUGE)
			munmap(p->map->region[i].host, HUGE_BYTES);
		else
			free(p->map->region[i].host);
	free(p->map);
	close(p->call_fd);
	close(p->err_fd);
	free(p);
}

/* The functions under test, by the layout of the pair. */
#define PAIR_SPLIT(p) ((p)->kind.layout == DRIVER_SPLIT)

static inline unsigned dev_pop_into(struct pair *p, unsigned n, unsigned n_segs)
{
	return PAIR_SPLIT(p) ? ring_pop(&p->r, RING_SPLIT, p->chains, n, p->segs, n_segs)
			     : ring_pop(&p->r, RING_PACKED, p->chains, n, p->segs, n_segs);
}

static inline unsigned dev_pop(struct pair *p, unsigned n)
{
	return dev_pop_into(p, n, ARRAY_SIZE(p->segs));
}

static inline void dev_push(struct pair *p, const struct chain *c, uint32_t written)
{
	if (PAIR_SPLIT(p))
		ring_push(&p->r, RING_SPLIT, c->id, c->n_slots, written);
	else
		ring_push(&p->r, RING_PACKED, c->id, c->n_slots, written);
}

static inline void dev_publish(struct pair *p)
{
	if (PAIR_SPLIT(p))
		ring_publish(&p->r, RING_SPLIT);
	else
		ring_publish(&p->r, RING_PACKED);
}

/* @return whether an eventfd write came out of it. */
static inline bool dev_call(struct pair *p)
{
	eventfd_t count;

	if (PAIR_SPLIT(p))
		ring_call(&p->r, RING_SPLIT);
	else
		ring_call(&p->r, RING_PACKED);
	return eventfd_read(p->call_fd, &count) == 0;
}

static inline bool dev_has_work(struct pair *p)
{
	return PAIR_SPLIT(p) ? ring_has_work(&p->r, RING_SPLIT) : ring_has_work(&p->r, RING_PACKED);
}

static inline bool dev_kicks_on(struct pair *p)
{
	return PAIR_SPLIT(p) ? ring_kicks_on(&p->r, RING_SPLIT) : ring_kicks_on(&p->r, RING_PACKED);
}

static inline void dev_kicks_off(struct pair *p)
{
	if (PAIR_SPLIT(p))
		ring_kicks_off(&p->r, RING_SPLIT);
	else
		ring_kicks_off(&p->r, RING_PACKED);
}

static inline int drv_add(struct pair *p, const struct driver_seg *segs, unsigned n_out,
			  unsigned n_in, uintptr_t cookie)
{
	return PAIR_SPLIT(p) ? driver_add(&p->d, DRIVER_SPLIT, segs, n_out, n_in, (void *)cookie)
			     : driver_add(&p->d, DRIVER_PACKED, segs, n_out, n_in, (void *)cookie);
}

static inline bool drv_publish(struct pair *p)
{
	return PAIR_SPLIT(p) ? driver_publish(&p->d, DRIVER_SPLIT)
			     : driver_publish(&p->d, DRIVER_PACKED);
}

static inline bool drv_poll(struct pair *p, struct driver_used *u)
{
	return PAIR_SPLIT(p) ? driver_poll(&p->d, DRIVER_SPLIT, u)
			     : driver_poll(&p->d, DRIVER_PACKED, u);
}

static inline bool drv_calls_at(struct pair *p, unsigned n)
{
	return PAIR_SPLIT(p) ? driver_calls_at(&p->d, DRIVER_SPLIT, n)
			     : driver_calls_at(&p->d, DRIVER_PACKED, n);
}

static inline void drv_calls_off(struct pair *p)
{
	if (PAIR_SPLIT(p))
		driver_calls_off(&p->d, DRIVER_SPLIT);
	else
		driver_calls_off(&p->d, DRIVER_PACKED);
}

/* One chain of a single out segment of 64 bytes, published. @return whether a kick is wanted. */
static inline bool drv_send_one(struct pair *p, uintptr_t cookie)
{
	struct driver_seg seg = { .gpa = NEXT_GPA, .len = 64 };

	cr_assert_eq(drv_add(p, &seg, 1, 0, cookie), 0);
	return drv_publish(p);
}

/* @n such chains from the driver to the device and back, one at a time, without notifications. */
static inline void pair_cycle(struct pair *p, unsigned n)
{
	while (n--) {
		struct driver_used u;

		drv_send_one(p, n);
		cr_assert_eq(dev_pop(p, 1), 1);
		dev_push(p, &p->chains[0], 0);
		dev_publish(p);
		cr_assert(drv_poll(p, &u), "%s", driver_violation(&p->d));
		cr_assert_eq((uintptr_t)u.cookie, n);
	}
}

/* The test's body sees p; each case is a test of its own, in its own process. */
#define RING_CASE(suite, name, tag, ...)                                        \
	Test(suite, name##_##tag)                                               \
	{                                                                       \
		struct pair *p = pair_open((struct ring_kind) { __VA_ARGS__ }); \
		suite##_##name(p);                                              \
		pair_close(p);                                                  \
	}

#define RING_SPLIT_PLAIN(s, n) RING_CASE(s, n, split, DRIVER_SPLIT, DRIVER_DIRECT, false)
#define RING_SPLIT_EVENT(s, n) RING_CASE(s, n, split_event, DRIVER_SPLIT, DRIVER_DIRECT, true)
#define RING_SPLIT_TABLE(s, n) \
	RING_CASE(s, n, split_indirect, DRIVER_SPLIT, DRIVER_INDIRECT_LONG, false)
#define RING_SPLIT_BOTH(s, n) \
	RING_CASE(s, n, split_indirect_event, DRIVER_SPLIT, DRIVER_INDIRECT_ALL, true)
#define RING_PACKED_PLAIN(s, n) RING_CASE(s, n, packed, DRIVER_PACKED, DRIVER_DIRECT, false)
#define RING_PACKED_EVENT(s, n) RING_CASE(s, n, packed_event, DRIVER_PACKED, DRIVER_DIRECT, true)
#define RING_PACKED_TABLE(s, n) \
	RING_CASE(s, n, packed_indirect, DRIVER_PACKED, DRIVER_INDIRECT_LONG, false)
#define RING_PACKED_BOTH(s, n) \
	RING_CASE(s, n, packed_indirect_event, DRIVER_PACKED, DRIVER_INDIRECT_ALL, true)

#define RING_SPLIT_CASES(s, n) \
	RING_SPLIT_PLAIN(s, n) \
	RING_SPLIT_EVENT(s, n) RING_SPLIT_TABLE(s, n) RING_SPLIT_BOTH(s, n)
#define RING_PACKED_CASES(s, n) \
	RING_PACKED_PLAIN(s, n) \
	RING_PACKED_EVENT(s, n) RING_PACKED_TABLE(s, n) RING_PACKED_BOTH(s, n)
#define RING_ALL_CASES(s, n) RING_SPLIT_CASES(s, n) RING_PACKED_CASES(s, n)
/* With and without INDIRECT. */
#define RING_INDIRECT_CASES(s, n) \
	RING_SPLIT_TABLE(s, n)    \
	RING_SPLIT_BOTH(s, n) RING_PACKED_TABLE(s, n) RING_PACKED_BOTH(s, n)
#define RING_DIRECT_CASES(s, n) \
	RING_SPLIT_PLAIN(s, n)  \
	RING_SPLIT_EVENT(s, n) RING_PACKED_PLAIN(s, n) RING_PACKED_EVENT(s, n)
#define RING_SPLIT_INDIRECT_CASES(s, n) RING_SPLIT_TABLE(s, n) RING_SPLIT_BOTH(s, n)
/* With and without EVENT_IDX. */
#define RING_EVENT_CASES(s, n) \
	RING_SPLIT_EVENT(s, n) \
	RING_SPLIT_BOTH(s, n) RING_PACKED_EVENT(s, n) RING_PACKED_BOTH(s, n)
#define RING_NO_EVENT_CASES(s, n) \
	RING_SPLIT_PLAIN(s, n)    \
	RING_SPLIT_TABLE(s, n) RING_PACKED_PLAIN(s, n) RING_PACKED_TABLE(s, n)
#define RING_SPLIT_EVENT_CASES(s, n) RING_SPLIT_EVENT(s, n) RING_SPLIT_BOTH(s, n)

/* A test for those cases that its clause speaks of. */
#define RING_TEST_FOR(CASES, suite, name)           \
	static void suite##_##name(struct pair *p); \
	CASES(suite, name)                          \
	static void suite##_##name(struct pair *p)

#define RING_TEST(suite, name) RING_TEST_FOR(RING_ALL_CASES, suite, name)

#endif
