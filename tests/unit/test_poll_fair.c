/* SPDX-License-Identifier: Apache-2.0 */
/* Pollers that always have work share a worker's time, not its rounds (T22). */
#include "tests/unit/poll_util.h"

#include <sched.h>

#define LIGHT 8
#define LIGHT_US 1
#define HEAVY_US 200

struct spinner {
	struct poller poller;
	uint64_t held_up_us; /* that the next poll shares its CPU for; and no other */
	uint64_t us;	     /* that one poll takes */
	uint64_t once_us;    /* that the next one takes longer; and no other */
	uint64_t then;	     /* the first light one's polls, after that one; 0: not yet */
	uint64_t passed;     /* how many of them there were until the next one, and 1 */
	bool idle;	     /* it has no work */
	unsigned every;	     /* it has work in one poll of so many; 0: in each */
	uint64_t polls, worked;
};

static void *rival(void *arg)
{
	const struct spinner *s = arg;

	while (LOAD(s->held_up_us))
		cpu_relax();
	return NULL;
}

/* The kernel takes turns between the worker and another thread that is bound to its CPU. */
static void lose_cpu(struct spinner *s)
{
	uint64_t end = clock_cycles() + s->held_up_us * clock_cycles_per_us();
	cpu_set_t before, here;
	pthread_t thread;

	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	cr_assert_eq(sched_setaffinity(0, sizeof(here), &here), 0);
	cr_assert_eq(pthread_create(&thread, NULL, rival, s), 0); /* bound as we are */
	while (clock_cycles() < end)
		cpu_relax();
	STORE(s->held_up_us, 0);
	cr_assert_eq(pthread_join(thread, NULL), 0);
	cr_assert_eq(sched_setaffinity(0, sizeof(before), &before), 0);
}

static struct spinner heavy, light[LIGHT];

static unsigned spin(struct poller *p)
{
	struct spinner *s = container_of(p, struct spinner, poller);

	STORE(s->polls, s->polls + 1);
	if (LOAD(s->idle) || (s->every && s->polls % s->every))
		return 0;
	STORE(s->worked, s->worked + 1);
	if (LOAD(s->held_up_us))
		lose_cpu(s);
	if (s->then) {
		STORE(s->passed, LOAD(light[0].polls) - s->then + 1);
		s->then = 0;
	}
	for (uint64_t end = clock_cycles() + (s->us + LOAD(s->once_us)) * clock_cycles_per_us();
	     clock_cycles() < end;)
		cpu_relax();
	if (LOAD(s->once_us))
		s->then = LOAD(light[0].polls);
	STORE(s->once_us, 0);
	return 1;
}

static const struct poller_ops ops = { .poll = spin };
static struct workers *ws;

static void start(bool light_idle)
{
	ws = start_workers(1, 100);
	heavy = (struct spinner) { .poller = { .ops = &ops, .event_fd = -1 }, .us = HEAVY_US };
	for (unsigned i = 0; i < LIGHT; i++) {
		light[i] = (struct spinner) { .poller = { .ops = &ops, .event_fd = -1 },
					      .us = LIGHT_US,
					      .idle = light_idle };
		worker_add(workers_get(ws, 0), &light[i].poller);
	}
	worker_add(workers_get(ws, 0), &heavy.poller);
}

static void stop(void)
{
	worker_remove(&heavy.poller);
	for (unsigned i = 0; i < LIGHT; i++)
		worker_remove(&light[i].poller);
	workers_stop(ws);
}

/* While the heavy one is polled another 100 times: the fewest and the most polls of a light one. */
static void next_hundred(uint64_t *least, uint64_t *most)
{
	uint64_t before[LIGHT], heavy_before = LOAD(heavy.polls);

	for (unsigned i = 0; i < LIGHT; i++)
		before[i] = LOAD(light[i].polls);
	cr_assert(EVENTUALLY(LOAD(heavy.polls) > heavy_before + 100, 100));
	*least = UINT64_MAX;
	*most = 0;
	for (unsigned i = 0; i < LIGHT; i++) {
		uint64_t n = LOAD(light[i].polls) - before[i];

		*least = MIN(*least, n);
		*most = MAX(*most, n);
	}
}

Test(poll_fair, who_takes_long_is_passed_over_until_others_have_had_as_much)
{
	uint64_t least, most;
	bool equal = false;

	start(false);
	/* A light one off whose CPU the kernel puts another process takes long, too: not always. */
	for (unsigned i = 0; i < 200 && !equal; i++) {
		next_hundred(&least, &most);
		/*
		 * 200 of them for each of its own is equal time; rounds would make it one. And
		 * among equals nobody is passed over for long.
		 */
		equal = least > 30 * 100u && most - least < most / 2;
	}
	cr_assert(equal, "%lu to %lu polls of light ones for 100 of the heavy one's", least, most);
	stop();
}

/* A worker that loses its CPU in the middle of a poll: the guest had little of that time. */
Test(poll_fair, who_was_held_up_is_not_passed_over_for_as_long)
{
	uint64_t held, before, passed;

	start(false);
	cr_assert(EVENTUALLY(LOAD(heavy.polls) > 10, 100));
	STORE(heavy.us, LIGHT_US);
	STORE(heavy.held_up_us, 50000);
	cr_assert(EVENTUALLY(LOAD(heavy.held_up_us) == 0, 100));
	held = LOAD(heavy.polls);
	before = LOAD(light[0].polls);
	cr_assert(EVENTUALLY(LOAD(heavy.polls) > held + 1, 1000));
	passed = LOAD(light[0].polls) - before;
	/* Some hundreds, for the most that a poll counts; 50,000 for what the clock said. */
	cr_assert_lt(passed, 10000);
	stop();
}

/*
 * Of 265 pollers of 4 us each one takes 10 ms, once. It owes them 2,500 rounds, which are 2.6 s,
 * and waits for some 240 of them; for 60, if the kernel took the CPU meanwhile.
 */
Test(poll_fair, one_long_poll_is_paid_for_and_not_for_ever)
{
	static struct spinner many[256];
	uint64_t most = 0;

	start(false);
	STORE(heavy.us, 4);
	for (unsigned i = 0; i < LIGHT; i++)
		STORE(light[i].us, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		many[i] = (struct spinner) { .poller = { .ops = &ops, .event_fd = -1 }, .us = 4 };
		worker_add(workers_get(ws, 0), &many[i].poller);
	}
	cr_assert(EVENTUALLY(LOAD(many[255].polls) > 10, 1000));
	/* As above: a round in which a light one was held up pays for more. */
	for (unsigned i = 0; i < 8; i++) {
		STORE(heavy.passed, 0);
		STORE(heavy.once_us, 10000);
		cr_assert(EVENTUALLY(LOAD(heavy.passed) > 0, 20000));
		cr_assert_lt(heavy.passed, 1000);
		most = MAX(most, heavy.passed);
	}
	cr_assert_gt(most, 20);
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		worker_remove(&many[i].poller);
	stop();
}

/* Time that nobody else wants is not wasted. */
Test(poll_fair, who_takes_long_has_all_of_an_idle_worker)
{
	uint64_t rounds, polls;

	start(true);
	cr_assert(EVENTUALLY(LOAD(heavy.polls) > 10, 100));
	polls = LOAD(heavy.polls);
	rounds = counter_read(&worker_stats(workers_get(ws, 0))->rounds);
	cr_assert(EVENTUALLY(LOAD(heavy.polls) > polls + 500, 100));
	rounds = counter_read(&worker_stats(workers_get(ws, 0))->rounds) - rounds;
	cr_assert_lt(rounds, 2 * (LOAD(heavy.polls) - polls) + 10);
	stop();
}

Test(poll_fair, a_debt_is_forgotten_when_the_others_fall_idle)
{
	uint64_t polls;

	start(false);
	cr_assert(EVENTUALLY(LOAD(heavy.polls) > 20, 100));
	for (unsigned i = 0; i < LIGHT; i++)
		STORE(light[i].idle, true);
	polls = LOAD(heavy.polls);
	cr_assert(EVENTUALLY(LOAD(heavy.polls) > polls + 200, 100));
	stop();
}

/* A guest can see when it was polled, and have its next chain ready one round later. */
Test(poll_fair, who_has_work_in_every_other_round_pays_all_the_same)
{
	uint64_t before[LIGHT], worked, least = 0, heavy_worked = 0;
	bool pays = false;

	start(false);
	STORE(heavy.every, 2);
	/* As above: a light one may be held up by another process. */
	for (unsigned n = 0; n < 200 && !pays; n++) {
		worked = LOAD(heavy.worked);
		for (unsigned i = 0; i < LIGHT; i++)
			before[i] = LOAD(light[i].polls);
		cr_assert(EVENTUALLY(LOAD(heavy.worked) > worked + 100, 100));
		heavy_worked = LOAD(heavy.worked) - worked;
		least = UINT64_MAX;
		for (unsigned i = 0; i < LIGHT; i++)
			least = MIN(least, LOAD(light[i].polls) - before[i]);
		/* Equal time is 200 for one; without a debt it would be two. */
		pays = least > 30 * heavy_worked;
	}
	cr_assert(pays, "%lu for %lu", least, heavy_worked);
	stop();
}

/* A moment in which nobody else has work pays for as much as it is long, and no more. */
Test(poll_fair, a_moment_without_work_of_others_does_not_forgive_a_debt)
{
	uint64_t from, took = 0, worked = 0;
	bool pays = false;

	start(false);
	for (unsigned i = 0; i < LIGHT; i++)
		STORE(light[i].every, 4);
	cr_assert(EVENTUALLY(LOAD(heavy.worked) > 10, 100));
	/* As above: the light ones may be held up by another process. */
	for (unsigned n = 0; n < 20 && !pays; n++) {
		from = clock_cycles();
		worked = LOAD(heavy.worked);
		cr_assert(EVENTUALLY(LOAD(heavy.worked) > worked + 500, 100));
		took = clock_cycles() - from;
		worked = LOAD(heavy.worked) - worked;
		/* It would have 19 of 20 parts of the time; a half is what it may have. */
		pays = worked * HEAVY_US * clock_cycles_per_us() < took / 4 * 3;
	}
	cr_assert(pays, "%lu polls in %lu us", worked, took / clock_cycles_per_us());
	stop();
}

#define BIG_SHARE 800

static void share_as_usual(void *arg)
{
	poller_set_share(&((struct spinner *)arg)->poller, 0);
}

static void share_small(void *arg)
{
	poller_set_share(&((struct spinner *)arg)->poller, 10);
}

/* It waits for 250 ms of theirs, which are 310 rounds, and not for ten times as many. */
Test(poll_fair, one_long_poll_of_a_small_share_is_paid_for_as_soon)
{
	start(false);
	STORE(heavy.us, LIGHT_US);
	for (unsigned i = 0; i < LIGHT; i++)
		STORE(light[i].us, 100);
	worker_call_wait(workers_get(ws, 0), share_small, &heavy);
	for (unsigned i = 0; i < 8; i++) {
		STORE(heavy.passed, 0);
		STORE(heavy.once_us, 20000);
		cr_assert(EVENTUALLY(LOAD(heavy.passed) > 0, 20000));
		cr_assert_lt(heavy.passed, 1000);
	}
	stop();
}

static void share_least(void *arg)
{
	poller_set_share(&((struct spinner *)arg)->poller, 1);
}

/*
 * Work counted, not time: of two that do the same in each poll, and always have more, one is polled
 * as many times as often as its share is larger. What the kernel takes of the CPU falls on either.
 */
Test(poll_fair, time_is_had_in_proportion_to_shares_and_they_change_while_it_runs)
{
	struct spinner *a = &light[0], *b = &light[1];
	uint64_t before_a, before_b;
	double ratio = 0;

	ws = start_workers(1, 100);
	for (unsigned i = 0; i < 2; i++) {
		light[i] = (struct spinner) {
			.poller = { .ops = &ops, .event_fd = -1, .share = i ? 0 : BIG_SHARE },
			.us = 50,
		};
		worker_add(workers_get(ws, 0), &light[i].poller);
	}
	cr_assert_eq(b->poller.share, POLLER_SHARE);
	for (unsigned i = 0; i < 40 && (ratio < 6 || ratio > 10); i++) {
		before_a = LOAD(a->polls);
		before_b = LOAD(b->polls);
		cr_assert(EVENTUALLY(LOAD(b->polls) > before_b + 300, 100));
		ratio = (double)(LOAD(a->polls) - before_a) / (double)(LOAD(b->polls) - before_b);
	}
	cr_assert(ratio > 6 && ratio < 10, "%f", ratio);
	worker_call_wait(workers_get(ws, 0), share_as_usual, a);
	for (unsigned i = 0; i < 40 && (ratio < 0.7 || ratio > 1.4); i++) {
		before_a = LOAD(a->polls);
		before_b = LOAD(b->polls);
		cr_assert(EVENTUALLY(LOAD(b->polls) > before_b + 300, 100));
		ratio = (double)(LOAD(a->polls) - before_a) / (double)(LOAD(b->polls) - before_b);
	}
	cr_assert(ratio > 0.7 && ratio < 1.4, "%f", ratio);
	/* The least share of a worker that nobody else wants is all of it. */
	STORE(a->idle, true);
	worker_call_wait(workers_get(ws, 0), share_least, b);
	before_b = LOAD(b->polls);
	before_a = counter_read(&worker_stats(workers_get(ws, 0))->rounds);
	cr_assert(EVENTUALLY(LOAD(b->polls) > before_b + 500, 100));
	before_a = counter_read(&worker_stats(workers_get(ws, 0))->rounds) - before_a;
	cr_assert_lt(before_a, 3 * (LOAD(b->polls) - before_b));
	worker_remove(&a->poller);
	worker_remove(&b->poller);
	workers_stop(ws);
}
