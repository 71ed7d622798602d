/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A back-end killed at any instruction (vhost-user "Inflight I/O tracking"). The ring is worked one
 * machine instruction at a time, by the processor's trap flag. Whenever an instruction has changed
 * shared memory, a copy of what would be left behind if this were the last one is recovered by
 * another process, and the driver must get each of its chains back exactly once; the same for a
 * recovery that is killed.
 */
#include "tests/unit/ring_pair.h"
#include "tests/unit/ring_step.h"
#include "vhost/ring_track.h"

#include <stdio.h>

#define SIZE 8
#define N_CHAINS 7
#define BASE_SLOT 5 /* so that every run goes round the ring's end */

static struct pair *both;
static bool in_order;
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

static void device_anew(void)
{
	memset(&both->r, 0, sizeof(both->r));
	pair_device(both, driver_base_start(both->kind.layout)); /* a place that is wrong by now */
	both->r.track = ring_track_new(both->r.layout, SIZE, in_order, region);
}

static unsigned cookie_of(const struct chain *c)
{
	return (unsigned)c->segs[0].iov_len - 64;
}

/* The child: takes what there is, gives back in an order of its own, and all over again. */
static void work(void)
{
	struct chain *c = both->chains;
	unsigned n = dev_pop(both, 3);

	n += PAIR_SPLIT(both) ? ring_pop(&both->r, RING_SPLIT, c + n, 1, both->segs + 2000, 2000)
			      : ring_pop(&both->r, RING_PACKED, c + n, 1, both->segs + 2000, 2000);
	if (n > 2) {
		dev_push(both, &c[2], c[2].in_len);
		dev_push(both, &c[0], c[0].in_len);
		dev_publish(both);
		dev_push(both, &c[1], c[1].in_len);
	}
	if (n > 3)
		dev_push(both, &c[3], c[3].in_len);
	n = PAIR_SPLIT(both) ? ring_pop(&both->r, RING_SPLIT, c + 4, 4, both->segs, 2000)
			     : ring_pop(&both->r, RING_PACKED, c + 4, 4, both->segs, 2000);
	dev_publish(both);
	for (unsigned i = n; i-- > 0;)
		dev_push(both, &c[4 + i], c[4 + i].in_len);
	dev_publish(both);
}

static uint64_t seen; /* cookies that came back, a bit each */

static void reap(void)
{
	struct driver_used u;

	while (drv_poll(both, &u)) {
		EXPECT(!(seen >> (uintptr_t)u.cookie & 1), "chain %u came back twice",
		       (unsigned)(uintptr_t)u.cookie);
		seen |= UINT64_C(1) << (uintptr_t)u.cookie;
	}
	EXPECT(!driver_violation(&both->d), "%s", driver_violation(&both->d));
}

/* @return how many: those that were in flight before, and then all new ones. */
static unsigned pop_all(void)
{
	unsigned got = dev_pop(both, 32), more;

	/* In pieces, since the first call gives only what was in flight. */
	do {
		struct chain *c = both->chains + got;
		struct iovec *segs = both->segs + 32 * got;

		more = PAIR_SPLIT(both) ? ring_pop(&both->r, RING_SPLIT, c, 32, segs, 1024)
					: ring_pop(&both->r, RING_PACKED, c, 32, segs, 1024);
		got += more;
	} while (more);
	return got;
}

/* In a process of its own: recover, and work until the driver has all @n chains back. */
static void recover_and_finish(unsigned n, bool driver_goes_on)
{
	unsigned last_cookie = 0;
	const char *why;

	if (driver_goes_on) {
		/* Meanwhile the driver takes what it was shown, and uses the places again. */
		reap();
		n = add_all(n, 30);
	}
	/* The next ones die as well, having done a little: what they leave has to be as good. */
	for (unsigned life = 0; life < 4; life++) {
		unsigned got;

		device_anew();
		why = ring_recover(&both->r);
		EXPECT(!why, "life %u: %s", life, why);
		if (life == 3)
			break;
		got = pop_all();
		for (unsigned i = 0; i < got / 2 + 1 && i < got; i++)
			dev_push(both, &both->chains[i], both->chains[i].in_len);
		dev_publish(both);
		reap();
		n = add_all(n, 36);
		pop_all();
	}
	for (unsigned rounds = 0; rounds < 100; rounds++) {
		bool again = ring_unfinished(&both->r);
		unsigned got = dev_pop(both, 32);

		for (unsigned i = 0; i < got; i++) {
			unsigned cookie = cookie_of(&both->chains[i]);

			EXPECT(cookie < n && !(seen >> cookie & 1), "chain %u again", cookie);
			EXPECT(i == 0 || cookie > last_cookie, "%u after %u%s", cookie, last_cookie,
			       again ? ", again" : "");
			EXPECT(both->chains[i].n_in == (cookie % 3), "chain %u has %u", cookie,
			       both->chains[i].n_in);
			last_cookie = cookie;
		}
		for (unsigned i = got; i-- > 0;)
			dev_push(both, &both->chains[i], both->chains[i].in_len);
		dev_publish(both);
		reap();
		n = add_all(n, 40);
	}
	EXPECT(!both->r.broken, "broken: %s", both->r.broken);
	EXPECT(n == 40 && seen == (UINT64_C(1) << 40) - 1, "%u chains, %llx came back", n,
	       (unsigned long long)seen);
}

static void check_here(unsigned n)
{
	/* In recovery one of the two will do: there are many looks. */
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
	device_anew();
	if (ring_recover(&both->r))
		_exit(1);
}

static void look_in_recovery(unsigned n)
{
	++*kills_in_recovery;
	check_here(n);
}

static void look(unsigned n)
{
	kills++;
	check_here(n);
	/* Each eighth: the recovery is killed as well, in memory of its own. */
	if (looks % 8 == 0) {
		pid_t pid = fork();

		if (pid == 0) {
			last = malloc(area_len);
			step(recover, look_in_recovery, n);
			_exit(0);
		}
		check_child(pid, "recovery");
	}
}

static void run(struct pair *pair, bool ordered)
{
	struct mem_region *main_region = &pair->map->region[MAIN];
	uint32_t base = PAIR_SPLIT(pair) ? 65530
					 : BASE_SLOT | 1u << 15 | BASE_SLOT << 16 | 1u << 31;
	unsigned n;

	both = pair;
	in_order = ordered;
	free(main_region->host); /* 4 MiB less to fork */
	main_region->host = mmap(NULL, MAIN_BYTES, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	kills_in_recovery = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
				 0);
	cr_assert_neq(main_region->host, MAP_FAILED);
	cr_assert_neq((void *)kills_in_recovery, MAP_FAILED);
	pair_ring(both, SIZE, base);
	both->d.in_order = ordered;
	region = pair_host(both, pair_alloc(both, 32 + 32 * SIZE));
	area = main_region->host;
	area_len = ALIGN_UP(both->brk - MAIN_GPA, 4096);
	last = malloc(area_len);
	pair_device(both, base);
	both->r.track = ring_track_new(both->r.layout, SIZE, in_order, region);
	cr_assert_null(ring_recover(&both->r)); /* not initialised: begins here */
	cr_assert_eq(both->r.n_again, 0u);

	n = add_all(0, N_CHAINS);
	cr_assert_geq(n, 3u);
	step(work, look, n);
	cr_assert_geq(kills, 20u);
	cr_assert_geq(*kills_in_recovery, 1u);
	if (getenv("SLUICE_TEST_LOG"))
		fprintf(stderr, "%u kills, %u in recovery\n", kills, *kills_in_recovery);

	free(last);
	ring_track_free(both->r.track);
	munmap(main_region->host, MAIN_BYTES);
	main_region->host = region_alloc(MAIN_BYTES);
	pair_ring(both, PAIR_SIZE, driver_base_start(both->kind.layout));
}

/* Forks are dear: no more cases than differ here. */
#define CASES(s, n) RING_SPLIT_PLAIN(s, n) RING_PACKED_PLAIN(s, n)
#define CASES_IN_ORDER(s, n) RING_SPLIT_TABLE(s, n) RING_PACKED_TABLE(s, n)

RING_TEST_FOR(CASES, ring_kill, at_any_instruction)
{
	run(p, false);
}

RING_TEST_FOR(CASES_IN_ORDER, ring_kill, at_any_instruction_in_order)
{
	run(p, true);
}
