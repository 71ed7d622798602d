/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of drivers that break the rules share. Every malformed chain is offered in the
 * ring itself, and in an indirect table where that is negotiated.
 */
#ifndef SLUICE_TESTS_RING_RAW_H
#define SLUICE_TESTS_RING_RAW_H

#include "tests/unit/ring_pair.h"

#define NEXT_F VRING_DESC_F_NEXT
#define WRITE_F VRING_DESC_F_WRITE
#define INDIRECT_F VRING_DESC_F_INDIRECT

struct raw {
	uint64_t gpa;
	uint32_t len;
	uint16_t flags;
	int next; /* split: index, where NEXT is set; 0: the following one */
};

static inline bool has_indirect(const struct pair *p)
{
	return p->kind.indirect != DRIVER_DIRECT;
}

/* Both layouts: gpa, len; split: flags, next; packed: id, flags. */
static inline void put_desc(struct pair *p, void *at, const struct raw *raw, unsigned i,
			    uint16_t mark)
{
	if (PAIR_SPLIT(p))
		*(struct vring_desc *)at = (struct vring_desc) { raw->gpa, raw->len, raw->flags,
								 raw->next ? raw->next
									   : (int)i + 1 };
	else
		*(struct vring_packed_desc *)at = (struct vring_packed_desc) { raw->gpa, raw->len,
									       0,
									       raw->flags | mark };
}

/* An indirect table in MAIN. @return its gpa. */
static inline uint64_t put_table(struct pair *p, const struct raw *raws, unsigned n)
{
	uint64_t gpa = pair_alloc(p, 16 * n);

	for (unsigned i = 0; i < n; i++)
		put_desc(p, (uint8_t *)pair_host(p, gpa) + 16 * i, &raws[i], i, 0);
	return gpa;
}

/* Makes the chain of @raws available, behind the driver's back; its head (or id) is 0. */
static inline void offer(struct pair *p, const struct raw *raws, unsigned n)
{
	struct driver_ring *d = &p->d;
	uint16_t slot = d->avail_idx;
	bool wrap = d->avail_wrap;

	if (PAIR_SPLIT(p)) {
		for (unsigned i = 0; i < n; i++)
			put_desc(p, &d->split.desc[i], &raws[i], i, 0);
		d->split.avail->ring[slot & (d->size - 1)] = 0;
		d->split.avail->idx = slot + 1;
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		put_desc(p, &d->packed.desc[slot], &raws[i], i, driver_packed_mark(wrap));
		if (++slot == d->size) {
			slot = 0;
			wrap = !wrap;
		}
	}
}

static inline void assert_broken(struct pair *p, const char *why)
{
	eventfd_t count = 0;
	uint16_t used = PAIR_SPLIT(p) ? p->d.split.used->idx : 0;

	p->may_break = true;
	cr_assert_eq(dev_pop(p, 8), 0, "a malformed chain was popped");
	cr_assert_not_null(p->r.broken, "the ring did not break (expected: %s)", why);
	cr_assert_not_null(strstr(p->r.broken, why), "broke for \"%s\", expected \"%s\"",
			   p->r.broken, why);
	cr_assert_eq(eventfd_read(p->err_fd, &count), 0, "err was not signalled");
	/* Sticky, told once, and deaf to everything. */
	cr_assert_eq(dev_pop(p, 8), 0);
	cr_assert_not(dev_has_work(p));
	cr_assert(dev_kicks_on(p));
	cr_assert_eq(eventfd_read(p->err_fd, &count), -1, "err was signalled twice");
	cr_assert_eq(p->r.in_flight, 0);
	cr_assert_eq(PAIR_SPLIT(p) ? p->d.split.used->idx : 0, used);
}

/* The same ring, made anew. */
static inline void mend(struct pair *p)
{
	pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
}

/* The chain breaks the ring, given in the ring or through a table. */
static inline void breaks(struct pair *p, const struct raw *raws, unsigned n, const char *why)
{
	mend(p);
	offer(p, raws, n);
	assert_broken(p, why);
	if (has_indirect(p)) {
		struct raw table = { .len = 16 * n, .flags = INDIRECT_F };

		mend(p);
		table.gpa = put_table(p, raws, n);
		offer(p, &table, 1);
		assert_broken(p, why);
	}
	mend(p);
}

#define BREAKS(p, why, ...)                                           \
	do {                                                          \
		const struct raw breaks_raws[] = { __VA_ARGS__ };     \
		breaks(p, breaks_raws, ARRAY_SIZE(breaks_raws), why); \
	} while (0)

#define OUTSIDE "outside guest memory"

#endif
