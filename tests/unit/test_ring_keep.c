/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A card's back-end killed at any instruction (vhost-user "Inflight I/O tracking"; ring_keep.h).
 * Whenever an instruction has changed shared memory, the driver looks at what it was shown: whole
 * batches, for a batch may be a frame in several buffers (virtio 1.3 5.1.6.4). Another process goes
 * on from there, and each chain must come back once, in order, and be what the driver made it.
 */
#include "tests/unit/ring_pair.h"
#include "tests/unit/ring_step.h"
#include "vhost/ring_keep.h"
#include "vhost/ring_track.h"

#include <stdio.h>

#define SIZE 16
#define BASE_SLOT 5 /* so that every run goes round the ring's end */
#define N_CHAINS 8
#define N_ALL 60

static struct pair *both;
static void *region;
static unsigned kills;
static unsigned *kills_in_recovery; /* shared */

/* What the driver gave away: cookie n is of n % 3 + 1 segments, the first of 64 + n bytes. */
static bool add(unsigned n)
{
	const struct driver_seg segs[] = { { NEXT_GPA, 64 + n },
					   { NEXT_GPA + 4096, 32 },
					   { NEXT_GPA + 8192, 32 } };

	return drv_add(both, segs, 1, n % 3, n) == 0;
}

static unsigned add_all(unsigned from, unsigned to)
{
	while (from < to && add(from))
		from++;
	drv_publish(both);
	return from;
}

static const char *device_anew(void)
{
	memset(&both->r, 0, sizeof(both->r));
	pair_device(both, driver_base_start(both->kind.layout)); /* a place that is wrong by now */
	return ring_keep_recover(&both->r, region);
}

static void push(const struct chain *c)
{
	if (PAIR_SPLIT(both))
		ring_push_way(&both->r, RING_SPLIT, RING_PLAIN, c, c->in_len);
	else
		ring_push_way(&both->r, RING_PACKED, RING_KEPT, c, c->in_len);
}

static void publish(void)
{
	if (PAIR_SPLIT(both))
		ring_publish_way(&both->r, RING_SPLIT, RING_PLAIN);
	else
		ring_publish_way(&both->r, RING_PACKED, RING_KEPT);
}

/* What a receive queue does with the buffers that it had no frame for. */
static void unpop(const struct chain *c, unsigned n)
{
	if (PAIR_SPLIT(both))
		ring_unpop(&both->r, RING_SPLIT, c, n);
	else
		ring_unpop(&both->r, RING_PACKED, c, n);
}

static unsigned give(unsigned n, unsigned keep)
{
	unsigned got = dev_pop(both, n + keep), i;

	for (i = 0; i < n && i < got; i++)
		push(&both->chains[i]);
	if (got > i)
		unpop(&both->chains[i], got - i);
	return i;
}

/* How many the driver may have seen, by the batches below. */
static const unsigned whole[] = { 0, 3, 4, 7, 8 };

/* The child. */
static void work(void)
{
	give(3, 2);
	publish();
	give(1, 0);
	publish();
	give(2, 0);
	give(1, 1); /* two pops and one batch */
	publish();
	give(1, 3);
	publish();
}

static unsigned seen;

static void reap(void)
{
	struct driver_used u;

	while (drv_poll(both, &u)) {
		EXPECT((uintptr_t)u.cookie == seen, "chain %u came back and not %u",
		       (unsigned)(uintptr_t)u.cookie, seen);
		seen++;
	}
	EXPECT(!driver_violation(&both->d), "%s", driver_violation(&both->d));
}

static void check_chains(unsigned got, unsigned first)
{
	for (unsigned i = 0; i < got; i++) {
		const struct chain *c = &both->chains[i];

		EXPECT(c->segs[0].iov_len == 64 + first + i, "chain of %zu bytes and not %u",
		       c->segs[0].iov_len, 64 + first + i);
		EXPECT(c->n_in == (first + i) % 3, "chain %u has %u", first + i, c->n_in);
	}
}

/* In a process of its own: goes on, and works until the driver has all its chains back. */
static void recover_and_finish(unsigned n, bool driver_goes_on)
{
	const char *why;
	unsigned is_whole = 0;

	if (driver_goes_on) {
		/* Meanwhile the driver takes what it was shown, and uses the places again. */
		reap();
		for (unsigned i = 0; i < ARRAY_SIZE(whole); i++)
			is_whole |= seen == whole[i];
		EXPECT(is_whole, "%u chains are back, which is a part of a batch", seen);
		n = add_all(n, 30);
	}
	/* The next ones die as well, with a batch that is not shown, and having shown a shorter. */
	for (unsigned life = 0; life < 5; life++) {
		unsigned shown = seen, got;

		why = device_anew();
		EXPECT(!why, "life %u: %s", life, why);
		reap();
		EXPECT(life == 0 || seen == shown, "%u chains came back by recovery", seen - shown);
		got = dev_pop(both, 32);
		check_chains(got, seen);
		unpop(both->chains, got);
		give(1, 0);
		publish();
		reap();
		n = add_all(n, 40);
		give(4, 1);
	}
	why = device_anew();
	EXPECT(!why, "%s", why);
	for (unsigned rounds = 0; rounds < 100; rounds++) {
		unsigned got = dev_pop(both, 32);

		check_chains(got, seen);
		for (unsigned i = 0; i < got; i++)
			push(&both->chains[i]);
		publish();
		reap();
		n = add_all(n, N_ALL);
	}
	EXPECT(!both->r.broken, "broken: %s", both->r.broken);
	EXPECT(n == N_ALL && seen == N_ALL, "%u chains, %u came back", n, seen);
}

static void check_here(unsigned n)
{
	for (int goes_on = 0; goes_on < 2; goes_on++) {
		pid_t pid = fork();

		if (pid == 0) {
			recover_and_finish(n, goes_on);
			_exit(0);
		}
		check_child(pid, goes_on ? "driver goes on" : "driver stands still");
	}
}

static void recover(void)
{
	if (device_anew())
		_exit(1);
}

static void look_in_recovery(unsigned n)
{
	++*kills_in_recovery;
	check_here(n);
}

static void look(unsigned n)
{
	pid_t pid;

	kills++;
	check_here(n);
	/* The recovery is killed as well, in memory of its own. */
	pid = fork();
	if (pid == 0) {
		last = malloc(area_len);
		step(recover, look_in_recovery, n);
		_exit(0);
	}
	check_child(pid, "recovery");
}

static void set_up(struct pair *pair)
{
	struct mem_region *main_region = &pair->map->region[MAIN];
	uint32_t base = PAIR_SPLIT(pair) ? 65530
					 : BASE_SLOT | 1u << 15 | BASE_SLOT << 16 | 1u << 31;

	both = pair;
	free(main_region->host); /* 4 MiB less to fork */
	main_region->host = mmap(NULL, MAIN_BYTES, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	kills_in_recovery = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
				 0);
	cr_assert_neq(main_region->host, MAP_FAILED);
	cr_assert_neq((void *)kills_in_recovery, MAP_FAILED);
	pair_ring(both, SIZE, base);
	both->d.in_order = true;
	region = pair_host(both, pair_alloc(both, 32 + 32 * SIZE));
	area = main_region->host;
	area_len = ALIGN_UP(both->brk - MAIN_GPA, 4096);
	last = malloc(area_len);
	cr_assert_null(ring_keep_recover(&both->r, region)); /* not initialised: begins here */
	cr_assert_eq(ring_base(&both->r), base);
	both->base_is_used = true;
}

static void tear_down(void)
{
	struct mem_region *main_region = &both->map->region[MAIN];

	free(last);
	munmap(main_region->host, MAIN_BYTES);
	main_region->host = region_alloc(MAIN_BYTES);
	both->base_is_used = false;
	pair_ring(both, PAIR_SIZE, driver_base_start(both->kind.layout));
}

/* Forks are dear: no more cases than differ here. */
#define CASES(s, n)            \
	RING_SPLIT_PLAIN(s, n) \
	RING_PACKED_PLAIN(s, n) RING_PACKED_TABLE(s, n)

RING_TEST_FOR(CASES, ring_keep, killed_at_any_instruction_no_buffer_is_lost)
{
	unsigned n;

	set_up(p);
	n = add_all(0, N_CHAINS);
	cr_assert_eq(n, N_CHAINS);
	step(work, look, n);
	cr_assert_geq(kills, PAIR_SPLIT(p) ? 10u : 20u);
	if (!PAIR_SPLIT(p))
		cr_assert_geq(*kills_in_recovery, 20u);
	if (getenv("SLUICE_TEST_LOG"))
		fprintf(stderr, "%u kills, %u in recovery\n", kills, *kills_in_recovery);
	tear_down();
}

/* The buffer is the front-end's, which may be malicious: T12. */
RING_TEST_FOR(CASES, ring_keep, a_buffer_that_contradicts_itself_is_refused_T12)
{
	struct inflight_split *split;
	struct inflight_packed *packed;

	set_up(p);
	split = region;
	packed = region;
	split->version = 2;
	cr_assert_not_null(device_anew());
	split->version = INFLIGHT_VERSION;
	split->desc_num = SIZE / 2;
	cr_assert_not_null(device_anew());
	split->desc_num = SIZE;
	cr_assert_null(device_anew());
	/* Left by a back-end that gives back in another order than it takes: not ours to go on. */
	if (PAIR_SPLIT(p))
		split->desc[SIZE - 1].inflight = 1;
	else
		packed->desc[SIZE - 1].inflight = 1;
	cr_assert_not_null(device_anew());
	if (!PAIR_SPLIT(p)) {
		packed->desc[SIZE - 1].inflight = 0;
		cr_assert_null(device_anew());
		packed->used_idx = SIZE;
		cr_assert_not_null(device_anew());
		packed->used_idx = packed->old_used_idx;
		packed->old_used_idx = UINT16_MAX;
		cr_assert_not_null(device_anew());
		packed->old_used_idx = packed->used_idx;
		packed->free_head = SIZE + 1;
		cr_assert_not_null(device_anew());
	}
	p->may_break = true;
	tear_down();
}

/* What was covered is gone: no descriptor of the front-end's making becomes available for it. */
RING_TEST_FOR(CASES, ring_keep, a_covered_descriptor_that_is_not_one_is_not_put_back_T12)
{
	struct inflight_packed *packed;

	set_up(p);
	packed = region;
	add_all(0, N_CHAINS);
	cr_assert_eq(give(3, 0), 3u); /* not shown */
	for (unsigned i = 0; !PAIR_SPLIT(p) && i < SIZE; i++) {
		packed->desc[i].id = packed->desc[i].flags = 0;
		packed->desc[i].len = 0;
	}
	cr_assert_null(device_anew());
	/* Split: nothing was covered. Packed: the first one waits outside the ring; no more. */
	cr_assert_eq(dev_pop(both, 32), PAIR_SPLIT(p) ? (unsigned)N_CHAINS : 1u);
	p->may_break = true;
	tear_down();
}
