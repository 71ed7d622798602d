/* SPDX-License-Identifier: Apache-2.0 */
/*
 * T5: what the driver wrote is read once. Two ways: a shim under the ring's reads of shared memory,
 * which changes each word as soon as it was read; and a second thread that changes descriptors
 * while the device pops them.
 */
#include <stdbool.h>
#include <stdint.h>

/*
 * The shim. All of the ring's reads of shared memory are __atomic_load_n; it is replaced for this
 * file alone, so the code under test is exactly that of vhost/.
 */
static void shim_read(const void *at, unsigned bytes);

#define __atomic_load_n(ptr, order)                                                \
	({                                                                         \
		const __typeof__(*(ptr)) shim_value = __atomic_load_n(ptr, order); \
		shim_read((const void *)(ptr), sizeof(shim_value));                \
		shim_value;                                                        \
	})

#include "vhost/ring.h"

#undef __atomic_load_n

#include "base/clock.h"
#include "tests/unit/ring_pair.h"

#include <pthread.h>

/* Bytes [from, to) of shared memory are watched; each may be read once. */
static struct {
	bool on;
	uint8_t *from;
	uint64_t bytes;
	uint8_t *seen; /* how often each byte was read */
	unsigned reads;
} shim;

static void shim_read(const void *at, unsigned bytes)
{
	uint8_t *p = (uint8_t *)(uintptr_t)at;

	if (!shim.on || p < shim.from || p >= shim.from + shim.bytes)
		return;
	shim.reads++;
	for (unsigned i = 0; i < bytes; i++) {
		uint64_t k = p + i - shim.from;

		cr_assert_eq(shim.seen[k], 0, "byte %llu of shared memory was read twice",
			     (unsigned long long)k);
		shim.seen[k] = 1;
		p[i] ^= 0xff; /* and whoever looks again sees something else */
	}
}

static void shim_start(void *from, uint64_t bytes)
{
	shim.from = from;
	shim.bytes = bytes;
	shim.seen = calloc(1, bytes);
	shim.reads = 0;
	cr_assert_not_null(shim.seen);
	shim.on = true;
}

static void shim_stop(void)
{
	shim.on = false;
	free(shim.seen);
}

static void assert_segs(const struct pair *p, const struct chain *c, const struct driver_seg *segs,
			unsigned n_out, unsigned n_in)
{
	cr_assert_eq(c->n_out, n_out);
	cr_assert_eq(c->n_in, n_in);
	for (unsigned i = 0; i < n_out + n_in; i++) {
		cr_expect_eq(c->segs[i].iov_base, pair_host(p, segs[i].gpa), "segment %u", i);
		cr_expect_eq(c->segs[i].iov_len, segs[i].len, "segment %u", i);
	}
}

/* Ring and tables both: descriptors, avail ring, indirect descriptors. */
RING_TEST(ring_fetch, every_word_of_the_driver_is_read_once_T5)
{
	struct driver_seg segs[] = {
		{ NEXT_GPA, 8 }, { NEXT_GPA + 100, 9 }, { LATE_GPA, 10 }, { LATE_GPA + 64, 11 }
	};
	uint8_t *ring = driver_desc_area(&p->d);
	bool table = driver_uses_table(&p->d, 4);

	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(drv_add(p, segs, 2, 2, i), 0);
	drv_publish(p);
	/* The avail index alone may be read again and again: how far the device is, is its own
	 * count. */
	if (PAIR_SPLIT(p))
		p->r.avail_seen = p->d.split.avail->idx;
	shim_start(ring, MAIN_BYTES - (ring - p->map->region[MAIN].host));
	cr_assert_eq(dev_pop(p, 3), 3);
	shim_stop();
	/* Two words a descriptor, and the head's place in split's avail ring. */
	cr_assert_eq(shim.reads, 3 * (4 * 2 + (table ? 2 : 0) + (PAIR_SPLIT(p) ? 1 : 0)));
	for (unsigned i = 0; i < 3; i++)
		assert_segs(p, &p->chains[i], segs, 2, 2);
}

/* CVE-2026-93683: the table's length, checked and then fetched again. */
RING_TEST_FOR(RING_INDIRECT_CASES, ring_fetch, table_length_is_read_once_T5)
{
	struct driver_seg segs[] = { { NEXT_GPA, 8 }, { NEXT_GPA + 100, 9 } };
	uint8_t *desc = driver_desc_area(&p->d);

	cr_assert_eq(drv_add(p, segs, 1, 1, 1), 0);
	drv_publish(p);
	if (PAIR_SPLIT(p))
		p->r.avail_seen = p->d.split.avail->idx;
	shim_start(desc, 16);
	cr_assert_eq(dev_pop(p, 1), 1);
	shim_stop();
	cr_assert_eq(shim.reads, 2);
	assert_segs(p, &p->chains[0], segs, 1, 1);
}

/* Chains like those before them are taken in a run, each word of theirs read once too. */
RING_TEST_FOR(RING_DIRECT_CASES, ring_fetch, every_word_of_a_run_is_read_once_T5)
{
	uint8_t *ring = driver_desc_area(&p->d);

	for (unsigned in = 0; in <= 1; in++) {
		struct driver_seg seg = { MAIN_GPA + MAIN_BYTES / 2, 8 };

		pair_ring(p, PAIR_SIZE, driver_base_start(p->kind.layout));
		p->r.run = in ? RING_RUN_IN : RING_RUN_OUT;
		for (unsigned i = 0; i < PAIR_SIZE; i++, seg.gpa += 64, seg.len++)
			cr_assert_eq(drv_add(p, &seg, !in, in, i), 0);
		drv_publish(p);
		if (PAIR_SPLIT(p))
			p->r.avail_seen = p->d.split.avail->idx;
		shim_start(ring, MAIN_BYTES - (ring - p->map->region[MAIN].host));
		cr_assert_eq(dev_pop(p, PAIR_SIZE), PAIR_SIZE);
		shim_stop();
		cr_assert_eq(shim.reads, PAIR_SIZE * (2 + (PAIR_SPLIT(p) ? 1 : 0)));
		for (unsigned i = 0; i < PAIR_SIZE; i++) {
			seg = (struct driver_seg) { MAIN_GPA + MAIN_BYTES / 2 + i * 64, 8 + i };
			assert_segs(p, &p->chains[i], &seg, !in, in);
			cr_assert_eq(p->chains[i].out_len, in ? 0 : seg.len);
			cr_assert_eq(p->chains[i].in_len, in ? seg.len : 0);
		}
	}
}

#define FLIP_ROUNDS 10000

/* The second thread: writes any plausible and implausible value into ring and tables. */
struct flipper {
	struct pair *p;
	uint64_t *ring, *tables; /* their words */
	uint64_t n_ring, n_tables;
	bool stop;
};

static uint64_t flip_state = 88172645463325252ull;

static uint64_t flip_rnd(void)
{
	flip_state ^= flip_state << 13;
	flip_state ^= flip_state >> 7;
	flip_state ^= flip_state << 17;
	return flip_state;
}

/* What a descriptor's first word, the address, may say. */
static uint64_t flip_addr(const struct flipper *f)
{
	const uint64_t places[] = { MAIN_GPA,	NEXT_GPA - 8,	    HOLE_GPA - 8,
				    HOLE_GPA,	LATE_GPA,	    LAST_GPA + 64,
				    UINT64_MAX, f->p->d.tables_gpa, 0 };

	if (flip_rnd() % 2)
		return LATE_GPA + flip_rnd() % 1024;
	return places[flip_rnd() % ARRAY_SIZE(places)] + flip_rnd() % 32;
}

/* And the second: length, flags, and next or id, as the layout has them. */
static uint64_t flip_rest(const struct flipper *f)
{
	const uint32_t lens[] = { 0, 1, 16, 32, 48, 512, 4096, 0x100000, 0x80000000, 0xffffffff };
	uint64_t len = lens[flip_rnd() % ARRAY_SIZE(lens)], flags = flip_rnd() & 7;
	uint64_t index = flip_rnd() % (2 * PAIR_SIZE);

	if (flip_rnd() % 4)
		flags &= ~(VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT);
	if (PAIR_SPLIT(f->p))
		return len | flags << 32 | index << 48;
	flags |= flip_rnd() % 2 ? DRIVER_PACKED_AVAIL : DRIVER_PACKED_USED;
	return len | index << 32 | flags << 48;
}

static void *flip_thread(void *arg)
{
	struct flipper *f = arg;

	while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
		uint64_t i = flip_rnd() % (f->n_ring + f->n_tables);
		uint64_t *word = i < f->n_ring ? &f->ring[i] : &f->tables[i - f->n_ring];

		__atomic_store_n(word, i % 2 ? flip_rest(f) : flip_addr(f), __ATOMIC_RELAXED);
		if (PAIR_SPLIT(f->p) && flip_rnd() % 4 == 0)
			__atomic_store_n(&f->p->d.split.avail->ring[flip_rnd() % PAIR_SIZE],
					 (uint16_t)(flip_rnd() % (PAIR_SIZE + 2)),
					 __ATOMIC_RELAXED);
	}
	return NULL;
}

/* The chain is private: whatever the driver does to it now, it says the same and lies in memory. */
static void assert_chain_sane(struct pair *p, const struct chain *c)
{
	uint64_t out = 0, in = 0;

	cr_assert_lt(c->id, p->r.size);
	cr_assert_leq(c->n_slots, p->r.size);
	cr_assert_leq(c->n_out + c->n_in, RING_CHAIN_SEGS_MAX);
	for (unsigned i = 0; i < c->n_out + c->n_in; i++) {
		const uint8_t *at = c->segs[i].iov_base;
		uint64_t len = c->segs[i].iov_len;
		bool inside = false;

		for (unsigned k = 0; k < p->map->n; k++) {
			const struct mem_region *r = &p->map->region[k];

			inside |= at >= r->host && at < r->host + r->size &&
				  len <= (uint64_t)(r->host + r->size - at);
		}
		cr_assert(inside, "segment %u: %p, %llu bytes", i, at, (unsigned long long)len);
		*(i < c->n_out ? &out : &in) += len;
	}
	cr_assert_eq(out, c->out_len);
	cr_assert_eq(in, c->in_len);
}

/* Makes all of the ring available once more, as it stands. */
static void offer_all(struct pair *p)
{
	if (PAIR_SPLIT(p))
		__atomic_store_n(&p->d.split.avail->idx, (uint16_t)(p->r.avail_idx + PAIR_SIZE),
				 __ATOMIC_RELEASE);
}

static bool has_tables(const struct pair *p)
{
	return p->kind.indirect != DRIVER_DIRECT;
}

RING_TEST(ring_fetch, driver_that_changes_everything_meanwhile_T5)
{
	struct flipper f = { .p = p,
			     .ring = driver_desc_area(&p->d),
			     .n_ring = 2 * PAIR_SIZE,
			     .tables = (uint64_t *)p->d.tables,
			     .n_tables = has_tables(p) ? 2 * 4 * PAIR_SEGS : 0 };
	uint64_t give_up = clock_ns() + 60000000000u, popped = 0, broken = 0;
	pthread_t thread;

	p->may_break = true;
	cr_assert_eq(pthread_create(&thread, NULL, flip_thread, &f), 0);
	/* Until both ways out were taken often; otherwise this test would show nothing. */
	while (popped < FLIP_ROUNDS || broken < FLIP_ROUNDS) {
		unsigned n;

		cr_assert_lt(clock_ns(), give_up, "%llu chains popped, %llu rings broken",
			     (unsigned long long)popped, (unsigned long long)broken);
		offer_all(p);
		n = dev_pop(p, 4);
		for (unsigned i = 0; i < n; i++) {
			assert_chain_sane(p, &p->chains[i]);
			dev_push(p, &p->chains[i], 0);
		}
		cr_assert_leq(p->r.in_flight, p->r.size);
		popped += n;
		broken += p->r.broken != NULL;
		if (p->r.broken)
			pair_device(p, driver_base_start(p->kind.layout));
	}
	__atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
}
