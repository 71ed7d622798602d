/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench fair: one hostile guest among others, all with a disk or all with a card on the same
 * worker. What do the others keep of their throughput?
 *
 * One thread drives all guests in turn, so that the hostile one's driver cannot take a CPU away
 * from the others': it gets one step a round. What its steps take of the thread is told, for an
 * attack that costs the driver much slows the others down without any fault of the back-end's.
 *
 * Short windows alternate: in the calm ones the hostile guest works like any other, in the others
 * it attacks. It connects anew for each, outside of the measured time.
 */
#include "bench/fair.h"
#include "bench/bench.h"
#include "bench/interrupt.h"

#include "base/clock.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HOSTILE_PERCENT 3u /* of the thread's time, at most, for the attack's own steps */
#define SETTLE_US 50000	   /* after a connection, before a window: an attack is to last */
#define SIEGE_US 500000	   /* before the first one of them, for what a back-end bears at first */
#define PAIRS_MAX 1000
/* With --precision no more than so many times --pairs. */
#define LONGER_MAX 5

struct fair_options {
	struct rig_options rig;
	unsigned pairs, precision, window_ms, silent_s;
	bool net;
	const char *attack;
	const struct fair_kind *kind;
	char **paths;
	unsigned n; /* guests in all */
};

/* Those who behave. */
struct crowd {
	struct fair_guest **guest;
	unsigned n;
};

void fair_nothing(struct fair_hostile *h)
{
	(void)h;
}

struct window {
	double per_second; /* of all the well-behaved */
	double hostile_share;
};

static uint64_t done(const struct crowd *c)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < c->n; i++)
		sum += c->guest[i]->done;
	return sum;
}

/* A back-end that has died leaves the others without work too, and that is no attack's doing. */
static void check_alive(const struct crowd *c)
{
	for (unsigned i = 0; i < c->n; i++)
		rig_check_alive(c->guest[i]->rig, 0, 0);
}

/* All guests in turn for @us; then what that came to. @a: NULL for a calm window. */
static struct window run(const struct fair_kind *k, const struct crowd *c, struct fair_hostile *h,
			 const struct fair_attack *a, uint64_t us)
{
	uint64_t start = clock_cycles(), end = start + us * clock_cycles_per_us(), now = start;
	uint64_t before = done(c), in_hostile = 0;

	while (now < end && !interrupted()) {
		uint64_t t;

		for (unsigned i = 0; i < c->n; i++)
			k->work_step(c->guest[i]);
		t = clock_cycles();
		now = t;
		if (a && in_hostile * 100 > (t - start) * HOSTILE_PERCENT)
			continue;
		for (unsigned i = 0; !a && i < h->n; i++)
			k->work_step(h->guest[i]);
		if (a) {
			a->step(h);
			h->steps++;
		}
		now = clock_cycles();
		in_hostile += now - t;
	}
	check_alive(c);
	return (struct window) {
		.per_second = (double)(done(c) - before) * 1e6 * (double)clock_cycles_per_us() /
			      (double)(now - start),
		.hostile_share = (double)in_hostile / (double)(now - start),
	};
}

static struct window window(const struct fair_options *o, const struct crowd *c,
			    const struct fair_attack *attack, bool calm, uint64_t settle_us)
{
	const struct fair_kind *k = o->kind;
	struct fair_hostile h = { .n = k->n_hostile };
	const struct fair_attack *a = calm ? NULL : attack;
	struct window w;

	for (unsigned i = 0; i < h.n; i++)
		h.guest[i] = k->open(&o->rig, o->paths[i], i, o->n, a);
	for (unsigned i = 0; calm && i < h.n; i++)
		k->work_start(h.guest[i]);
	if (a)
		a->start(&h);
	run(k, c, &h, a, settle_us);
	w = run(k, c, &h, a, (uint64_t)o->window_ms * 1000);
	if (a && a->stop)
		a->stop(&h);
	for (unsigned i = 0; i < h.n; i++)
		k->close(h.guest[i]);
	return w;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), compare);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/*
 * Between which of the @n sorted values the median of what they are samples of lies, with some 95
 * %: ranks n / 2 -+ 0.98 * sqrt(n), whatever its shape; of fewer than eight the least and the most.
 */
static void bounds(const double *v, unsigned n, double *low, double *high)
{
	unsigned k = 0;

	/* k + 1 <= n / 2 - 0.98 * sqrt(n), squared. */
	while (k + 1 < n / 2.0 && (n / 2.0 - k - 1) * (n / 2.0 - k - 1) >= 0.96 * n)
		k++;
	*low = v[k];
	*high = v[n - 1 - k];
}

/* Is the ratio known as well as was asked for, or not to be known any better? */
static bool is_enough(const struct fair_options *o, const double *ratio, unsigned n)
{
	double sorted[PAIRS_MAX], low, high;

	if (n < o->pairs)
		return false;
	if (!o->precision || n >= o->pairs * LONGER_MAX || n >= PAIRS_MAX)
		return true;
	memcpy(sorted, ratio, n * sizeof(*ratio));
	qsort(sorted, n, sizeof(*sorted), compare);
	bounds(sorted, n, &low, &high);
	return (high - low) * 50 <= o->precision;
}

/* @return whether there is a row. */
static bool measure(const struct fair_options *o, const struct crowd *crowd,
		    const struct fair_attack *a, bool first)
{
	double calm_rate[PAIRS_MAX], attack_rate[PAIRS_MAX], ratio[PAIRS_MAX], share[PAIRS_MAX];
	double middle, low, high;
	unsigned n = 0;

	if (o->kind->prepare)
		o->kind->prepare(a);
	for (; !is_enough(o, ratio, n); n++) {
		struct window c = window(o, crowd, a, true, SETTLE_US);
		struct window w = window(o, crowd, a, false, n ? SETTLE_US : SIEGE_US);

		if (interrupted()) /* a part of a window is none */
			break;
		if (c.per_second <= 0)
			errx(1, "nothing was done in a calm window of %u ms: use a longer --window",
			     o->window_ms);
		calm_rate[n] = c.per_second;
		attack_rate[n] = w.per_second;
		/* Of a pair: what the machine does else hits both about alike. */
		ratio[n] = w.per_second / c.per_second;
		share[n] = w.hostile_share;
	}
	if (!n)
		return false;
	middle = median(ratio, n); /* and sorts them */
	bounds(ratio, n, &low, &high);
	if (o->rig.json)
		printf("%s\n  { \"attack\": \"%s\", \"what\": \"%s\", \"pairs\": %u, \"calm\": "
		       "%.0f, "
		       "\"attacked\": %.0f, \"ratio\": %.3f, \"low\": %.3f, \"high\": %.3f, "
		       "\"hostile_share\": %.3f }",
		       first ? "" : ",", a->name, a->what, n, median(calm_rate, n),
		       median(attack_rate, n), middle, low, high, median(share, n));
	else
		printf("%-10s %10.0f %10.0f %7.3f %6.3f %6.3f %5u %9.0f%%   %s\n", a->name,
		       median(calm_rate, n), median(attack_rate, n), middle, low, high, n,
		       100 * median(share, n), a->what);
	return true;
}

static void usage_attacks(FILE *to, const struct fair_kind *k)
{
	fprintf(to, "\nAttacks of a guest among %s:\n", k->name);
	for (unsigned i = 0; i < k->n_attacks; i++)
		fprintf(to, "  %-10s %s\n", k->attacks[i].name, k->attacks[i].what);
}

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: sluice-bench fair SOCKET SOCKET... [OPTION]...\n"
		"The disk on the first socket is a hostile guest's; those on the others read.\n"
		"With --net the sockets are cards of one network: the first is a hostile\n"
		"guest's, the second its accomplice's, and the others send to each other.\n\n"
		"  --net             cards instead of disks\n"
		"  --attack NAME[,NAME...]  these only\n"
		"  --pairs N         of windows, calm and attacked (9)\n"
		"  --precision P     up to 5 times as many, until a ratio is known to P percent\n"
		"  --window MS       length of a window (200)\n"
		"  --silent SECONDS  attach all of them, say so, ask for nothing, and leave\n"
		"  --ring LAYOUT, --timeout MS, --cpu N, --json, --help  as sluice-bench blk\n");
	usage_attacks(to, &fair_blk);
	usage_attacks(to, &fair_net);
}

/* Is @name one of the comma-separated @list? NULL: all are. */
static bool listed(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = list; at; at = strchr(at, ','), at += !!at)
		if (strncmp(at, name, len) == 0 && (at[len] == ',' || !at[len]))
			return true;
	return !list;
}

static void check_attacks(const struct fair_options *o)
{
	unsigned wanted = 0, known = 0;

	for (const char *at = o->attack; at; at = strchr(at, ','), at += !!at)
		wanted++;
	for (unsigned i = 0; o->attack && i < o->kind->n_attacks; i++)
		known += listed(o->attack, o->kind->attacks[i].name);
	if (known != wanted)
		errx(2, "--attack %s: no such attack; see sluice-bench fair --help", o->attack);
}

static void parse(int argc, char **argv, struct fair_options *o)
{
	const struct rig_option own[] = {
		{ "net", RIG_FLAG, &o->net, 0, 0 },
		{ "attack", RIG_TEXT, &o->attack, 0, 0 },
		{ "pairs", RIG_NUMBER, &o->pairs, 1, PAIRS_MAX },
		{ "precision", RIG_NUMBER, &o->precision, 1, 100 },
		{ "window", RIG_NUMBER, &o->window_ms, 1, 60000 },
		{ "silent", RIG_NUMBER, &o->silent_s, 1, 86400 },
	};
	const struct rig_command command = { own, ARRAY_SIZE(own), "ring timeout cpu json", usage };
	unsigned at = (unsigned)rig_parse(argc, argv, &o->rig, &command);

	o->kind = o->net ? &fair_net : &fair_blk;
	o->paths = argv + at;
	o->n = (unsigned)argc - at;
	check_attacks(o);
	if (o->n < o->kind->guests_min)
		errx(2, "fair takes %u sockets or more of %s; see sluice-bench fair --help",
		     o->kind->guests_min, o->kind->name);
}

/* What silent guests cost the back-end is for others to measure. */
static void stay_silent(const struct fair_options *o)
{
	struct fair_guest **guest = calloc(o->n, sizeof(struct fair_guest *));

	if (!guest)
		errx(1, "out of memory");
	for (unsigned i = 0; i < o->n; i++)
		guest[i] = o->kind->open(&o->rig, o->paths[i], i, o->n, NULL);
	printf("%u guests are attached\n", o->n);
	nanosleep(&(struct timespec) { .tv_sec = o->silent_s }, NULL);
	for (unsigned i = 0; i < o->n; i++)
		o->kind->close(guest[i]);
	free(guest);
}

static void attack_all(const struct fair_options *o, const struct crowd *c)
{
	const struct fair_kind *k = o->kind;
	bool first = true;

	if (o->rig.json)
		printf("{ \"kind\": \"fair\", \"of\": \"%s\", \"ring\": \"%s\", \"guests\": %u, "
		       "\"pairs\": %u, \"window_ms\": %u, \"rows\": [",
		       k->name, o->rig.packed ? "packed" : "split", o->n, o->pairs, o->window_ms);
	else
		printf("%u guests with %s, %s; %s a second of %u well-behaved ones\n"
		       "%-10s %10s %10s %7s %6s %6s %5s %10s\n",
		       o->n, k->name, o->rig.packed ? "packed rings" : "split rings", k->unit, c->n,
		       "attack", "calm", "attacked", "ratio", "low", "high", "pairs", "its driver");
	for (unsigned i = 0; i < k->n_attacks && !interrupted(); i++)
		if (listed(o->attack, k->attacks[i].name))
			first &= !measure(o, c, &k->attacks[i], first);
	if (o->rig.json)
		printf("\n]");
	interrupt_report(o->rig.json);
	if (o->rig.json)
		printf(" }\n");
}

int bench_fair(int argc, char **argv)
{
	struct fair_options o = { .rig = RIG_OPTIONS_DEFAULT, .pairs = 9, .window_ms = 200 };
	struct crowd c;

	parse(argc, argv, &o);
	if (o.silent_s) {
		stay_silent(&o);
		return 0;
	}
	c.n = o.n - o.kind->n_hostile;
	c.guest = calloc(c.n, sizeof(struct fair_guest *));
	if (!c.guest)
		errx(1, "out of memory");
	rig_pin(o.rig.cpu);
	clock_cycles_per_us();
	for (unsigned i = 0; i < c.n; i++) {
		unsigned index = o.kind->n_hostile + i;

		c.guest[i] = o.kind->open(&o.rig, o.paths[index], index, o.n, NULL);
		o.kind->work_start(c.guest[i]);
	}
	interrupt_defer();
	attack_all(&o, &c);
	for (unsigned i = 0; i < c.n; i++)
		o.kind->close(c.guest[i]);
	free(c.guest);
	return interrupt_exit_code(0);
}
