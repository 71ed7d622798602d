/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/soak/soak.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "poll/control.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUESTS 4
#define LEAKS_EVERY 1000
/* Generous: a process that is frozen for a while, or slow under a sanitizer, is not to be taken for
 * one that hangs, and a hang lasts for ever.
 */
#define PATIENCE_NS (SOAK_PATIENCE_MS * UINT64_C(1000000))

struct workers *soak_workers;
unsigned soak_n_workers = 3;

static struct {
	unsigned seed, seconds;
	uint64_t rounds, least;
	const char *only; /* one event */
} options = { .seconds = 10, .rounds = UINT64_MAX };

static bool told_to_stop; /* atomic: any thread may get the signal */
static uint64_t round_now;
static const char *event_now = "start";

/* Each kind of event, and how often it met I/O. */
static void print_events(FILE *to)
{
	fprintf(to, "%8s  %18s  %9s  event\n", "times", "with I/O in flight", "in flight");
	for (unsigned i = 0; i < soak_n_events; i++) {
		const struct event *e = &soak_events[i];
		double n = (double)e->count;

		fprintf(to, "%8llu  %18llu  %9.1f  %s\n", (unsigned long long)e->count,
			(unsigned long long)e->loaded, n > 0 ? (double)e->in_flight / n : 0,
			e->name);
	}
}

void soak_fail(const char *fmt, ...)
{
	va_list args;

	fflush(stdout);
	print_events(stderr);
	fprintf(stderr, "soak: FAILED (seed %u, round %llu, %s): ", options.seed,
		(unsigned long long)round_now, event_now);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	abort();
}

/* xorshift32; its state is never 0. */
unsigned soak_random(unsigned *state, unsigned n)
{
	unsigned x = *state ? *state : 1;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	*state = x;
	return (unsigned)((uint64_t)x * n >> 32);
}

void soak_step(void)
{
	control_step(200);
}

void soak_wait(const uint64_t *what, uint64_t least, const struct guest *g, const char *why)
{
	uint64_t end = clock_ns() + PATIENCE_NS;

	while (__atomic_load_n(what, __ATOMIC_RELAXED) < least) {
		if (clock_ns() > end)
			soak_fail("%s: %s", g->name, why);
		soak_step();
	}
}

static void all_new(struct guest *g[GUESTS])
{
	g[0] = disk_guest_new("disk-ram", false, options.seed + 1);
	g[1] = disk_guest_new("disk-file", true, options.seed + 2);
	net_guests_new(g + 2, options.seed + 3);
}

static void all_free(struct guest *g[GUESTS])
{
	for (unsigned i = 0; i < GUESTS; i++)
		g[i]->ops->remove(g[i]);
	for (unsigned i = 0; i < GUESTS; i++)
		guest_wait_closed(g[i]);
	disk_guest_free(g[0]);
	disk_guest_free(g[1]);
	net_guests_free(g + 2);
}

static void all_begin(struct guest *g[GUESTS])
{
	for (unsigned i = 0; i < GUESTS; i++) {
		guest_hello(g[i]);
		guest_begin(g[i]);
	}
}

static void all_progress(struct guest *g[GUESTS])
{
	for (unsigned i = 0; i < GUESTS; i++)
		guest_check_progress(g[i]);
}

/* One thing to one guest, just after that has asked its device for something. */
static bool happen(struct event *e, struct guest *to, unsigned *rng)
{
	unsigned in_flight;

	event_now = e->name;
	in_flight = guest_load(to);
	if (!e->run(to))
		return false;
	e->count++;
	e->loaded += in_flight > 0;
	e->in_flight += in_flight;
	/* Often the next thing comes before anything has settled. */
	if (chance(rng, 30))
		guest_check_progress(to);
	return true;
}

static void one_round(struct guest *g[GUESTS], unsigned *rng)
{
	struct event *e;

	do
		e = &soak_events[soak_random(rng, soak_n_events)];
	while (options.only && strcmp(options.only, e->name) != 0);
	/* It does not apply to every guest, always; if to none of these, then something else. */
	for (unsigned i = 0; i < 2 * GUESTS; i++)
		if (happen(e, g[soak_random(rng, GUESTS)], rng))
			return;
}

static void on_signal(int sig)
{
	(void)sig;
	__atomic_store_n(&told_to_stop, true, __ATOMIC_RELAXED);
}

static bool go_on(uint64_t end)
{
	return !__atomic_load_n(&told_to_stop, __ATOMIC_RELAXED) && round_now < options.rounds &&
	       clock_ns() < end;
}

static void soak(void)
{
	uint64_t end = clock_ns() + options.seconds * UINT64_C(1000000000);
	unsigned rng = options.seed;
	struct guest *g[GUESTS];
	struct leaks before;

	/* Once in vain: whatever is made at first use and kept is there by then. */
	all_new(g);
	all_begin(g);
	all_progress(g);
	all_free(g);
	before = leaks_now();

	while (go_on(end)) {
		all_new(g);
		all_begin(g);
		do
			one_round(g, &rng);
		while (++round_now % LEAKS_EVERY && go_on(end));
		event_now = "all at once";
		all_progress(g);
		all_free(g);
		event_now = "leaks";
		leaks_check(&before);
	}
	printf("soak: %u descriptors, %u mappings, as before the first round\n", before.fds,
	       before.maps);
}

static void usage(void)
{
	printf("usage: soak [--seconds N] [--rounds N] [--seed N] [--workers N] [--only EVENT]\n"
	       "            [--least N]: fails unless each event has happened so often\n"
	       "Events:\n");
	for (unsigned i = 0; i < soak_n_events; i++)
		printf("  %s\n", soak_events[i].name);
	exit(0);
}

static void parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "seconds", required_argument, NULL, 't' },
		{ "rounds", required_argument, NULL, 'n' },
		{ "seed", required_argument, NULL, 's' },
		{ "workers", required_argument, NULL, 'w' },
		{ "only", required_argument, NULL, 'o' },
		{ "least", required_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	options.seed = (unsigned)clock_ns();
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 't')
			options.seconds = (unsigned)atoi(optarg);
		else if (c == 'n')
			options.rounds = strtoull(optarg, NULL, 0);
		else if (c == 's')
			options.seed = (unsigned)strtoul(optarg, NULL, 0);
		else if (c == 'w')
			soak_n_workers = (unsigned)atoi(optarg);
		else if (c == 'o')
			options.only = optarg;
		else if (c == 'l')
			options.least = strtoull(optarg, NULL, 0);
		else
			usage();
	}
	options.seed = options.seed ? options.seed : 1;
}

/* A soak that seldom met I/O would prove little. */
static void check_load(void)
{
	for (unsigned i = 0; i < soak_n_events; i++) {
		const struct event *e = &soak_events[i];

		event_now = e->name;
		if (e->count >= 100 && e->loaded < e->count / 2)
			soak_fail("it seldom met a request in flight");
	}
}

/* @return false when some kinds happened more seldom than was asked for; they are told. */
static bool often_enough(void)
{
	bool ok = true;

	for (unsigned i = 0; i < soak_n_events; i++) {
		const struct event *e = &soak_events[i];

		if (e->count >= options.least ||
		    (options.only && strcmp(options.only, e->name) != 0))
			continue;
		fprintf(stderr, "soak: %s happened %llu times only, of %llu that were to be\n",
			e->name, (unsigned long long)e->count, (unsigned long long)options.least);
		ok = false;
	}
	return ok;
}

int main(int argc, char **argv)
{
	/* They are to give way to each other, and sleep, often: cores are fewer than threads here.
	 */
	struct workers_config cfg = { .idle = IDLE_ADAPTIVE, .idle_us = 10 };
	struct error err = { 0 };

	parse(argc, argv);
	printf("soak: seed %u\n", options.seed);
	fflush(stdout);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	log_set_level(LOG_LEVEL_ERROR);
	cfg.n = soak_n_workers;
	if (control_init() < 0)
		soak_fail("no control loop");
	if (workers_start(&cfg, &soak_workers, &err) < 0)
		soak_fail("%s", err.text);
	soak();
	workers_stop(soak_workers);
	control_fini();

	check_load();
	print_events(stdout);
	printf("soak: %llu rounds, nothing lost, no leak\n", (unsigned long long)round_now);
	return often_enough() ? 0 : 1;
}
