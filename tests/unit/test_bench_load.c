/* SPDX-License-Identifier: Apache-2.0 */
/* Which request sluice-bench blk sends next, and when. */
#include "base/clock.h"
#include "bench/blk.h"

#include <criterion/criterion.h>
#include <math.h>

#define N 100000
#define DISK (UINT64_C(64) << 20)

static struct blk_options o;
static struct blk_run run;
static struct blk_driver d;
static struct crew_member member;
static struct blk_slot s;

static void load(unsigned index)
{
	run = (struct blk_run) { .opt = &o, .disk.bytes = o.size ? o.size : DISK };
	d = (struct blk_driver) { .run = &run, .member = &member };
	blk_load_init(&d, index);
}

static void setup(void)
{
	o = (struct blk_options) { .bs = 4096, .read_percent = 100, .rig.threads = 1 };
}

TestSuite(bench_load, .init = setup);

/* Of N intervals: their mean, in units of what was asked for, and their deviation by the mean. */
static void intervals(double *mean, double *deviation)
{
	double sum = 0, squares = 0, before = 0, wanted;

	wanted = (double)clock_cycles_per_us() * 1e6 * o.rig.threads / (double)o.rate;
	for (unsigned i = 0; i <= N; i++) {
		double gap;

		cr_assert(blk_load_next(&d, &s, i ? UINT64_MAX >> 1 : 1000));
		gap = (double)s.intended - before;
		before = (double)s.intended;
		sum += i ? gap : 0;
		squares += i ? gap * gap : 0;
	}
	*mean = sum / N / wanted;
	*deviation = sqrt(MAX(squares / N - sum / N * (sum / N), 0.0)) / (sum / N);
}

Test(bench_load, constant_arrivals_have_one_interval)
{
	double mean, deviation;

	o.rate = 12345;
	o.rig.threads = 2;
	load(1);
	intervals(&mean, &deviation);
	cr_assert_float_eq(mean, 1, 1e-6);
	cr_assert_lt(deviation, 1e-3);
}

Test(bench_load, poisson_arrivals_deviate_by_their_mean)
{
	double mean, deviation;

	o.rate = 12345;
	o.poisson = true;
	load(0);
	intervals(&mean, &deviation);
	/* Five deviations of the estimates: of the mean 1 / sqrt(N), of the deviation about as
	 * much. */
	cr_assert_float_eq(mean, 1, 0.016);
	cr_assert_float_eq(deviation, 1, 0.03);
}

Test(bench_load, a_request_is_not_sent_before_it_is_due_and_keeps_its_time_when_it_is_late)
{
	uint64_t gap = clock_cycles_per_us() * 100;

	o.rate = 10000;
	load(0);
	cr_assert(blk_load_next(&d, &s, 1000));
	cr_assert_eq(s.intended, 1000);
	cr_assert_not(blk_load_next(&d, &s, 1000));
	cr_assert_not(blk_load_next(&d, &s, 1000 + gap - 1));
	/* Five intervals later: all five are due, each at its own time. */
	for (unsigned i = 1; i <= 5; i++) {
		cr_assert(blk_load_next(&d, &s, 1000 + 5 * gap));
		cr_assert_eq(s.intended, 1000 + i * gap);
	}
	cr_assert_not(blk_load_next(&d, &s, 1000 + 5 * gap));
	/* The next is due at 6 gaps: of the 4 up to 10 gaps none was sent. */
	cr_assert_eq(blk_load_unsent(&d, 1000 + 10 * gap), 4);
	cr_assert_eq(blk_load_unsent(&d, 1000 + 10 * gap), 0);
}

Test(bench_load, what_was_not_sent_is_known_without_counting_it, .timeout = 5)
{
	uint64_t seconds = 100000, second = clock_cycles_per_us() * 1000000;

	o.rate = 1000000000;
	for (unsigned i = 0; i < 2; i++) {
		o.poisson = i;
		load(0);
		cr_assert(blk_load_next(&d, &s, 1000));
		cr_assert_float_eq((double)blk_load_unsent(&d, 1000 + seconds * second),
				   (double)seconds * o.rate, 1e9);
	}
}

Test(bench_load, threads_have_parts_of_the_disk_that_do_not_meet)
{
	uint64_t end = 0;

	o.size = 10 * 4096 + 512;
	o.rig.threads = 3;
	o.random = true;
	for (unsigned t = 0; t < 3; t++) {
		load(t);
		cr_assert_eq(d.load.first_block, end);
		for (unsigned i = 0; i < 1000; i++) {
			cr_assert(blk_load_next(&d, &s, 1));
			cr_assert_geq(s.offset, end * 4096);
			cr_assert_lt(s.offset, (end + d.load.n_blocks) * 4096);
		}
		end += d.load.n_blocks;
	}
	cr_assert_eq(end, 10);
}

Test(bench_load, a_flush_comes_after_so_many_writes)
{
	unsigned writes = 0, flushes = 0;

	o.read_percent = 50;
	o.fsync = 3;
	load(0);
	for (unsigned i = 0; i < 10000; i++) {
		cr_assert(blk_load_next(&d, &s, 1));
		if (s.op == BLK_FLUSH) {
			cr_assert_eq(writes, 3);
			writes = 0;
			flushes++;
			cr_assert_eq(s.len, 0);
		}
		writes += s.op == BLK_WRITE;
	}
	cr_assert_gt(flushes, 1000);
}

Test(bench_load, a_busy_block_is_never_picked)
{
	static uint64_t generation[4];
	static uint8_t busy[4] = { 1, 1, 0, 1 };

	o.size = 4 * 4096;
	for (unsigned i = 0; i < 100; i++) {
		o.random = i % 2;
		load(0);
		d.written = (struct blk_memory) { generation, busy, 4, 0 };
		cr_assert(blk_load_next(&d, &s, 1));
		cr_assert_eq(s.offset, 2 * 4096);
	}
}

Test(bench_load, a_loop_is_behind_when_more_is_unsent_than_the_end_explains)
{
	/* A tenth of a second, or a hundredth of a longer time; and three in any case. */
	cr_assert_not(blk_is_behind(0, 0, 1e-9));
	cr_assert_not(blk_is_behind(3, 10, 1));
	cr_assert(blk_is_behind(5, 10, 1));
	cr_assert_not(blk_is_behind(100, 1000, 1));
	cr_assert(blk_is_behind(104, 1000, 1));
	cr_assert_not(blk_is_behind(1000, 100000, 100));
	cr_assert(blk_is_behind(1004, 100000, 100));
	cr_assert(blk_is_behind(99682862, 100000000, 1));
}
