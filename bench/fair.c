/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench fair: one hostile guest among others, all with a disk on the same worker. What do
 * the others keep of their throughput?
 *
 * One thread drives all guests in turn, so that the hostile one's driver cannot take a CPU away
 * from the others': it gets one step a round. What its steps take of the thread is told, for an
 * attack that costs the driver much slows the others down without any fault of the back-end's.
 *
 * Short windows alternate: in the calm ones the hostile guest works like any other, in the others
 * it attacks. It connects anew for each, outside of the measured time.
 */
#include "bench/bench.h"

#include "base/clock.h"
#include "tests/guest/blk.h"

#include <err.h>
#include <getopt.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#define RING 64u
#define DEPTH 8u
#define BS 4096u
#define CHAIN_SEGS 1024u
#define HOSTILE_PERCENT 3u /* of the thread's time, at most, for the attack's own steps */
#define SETTLE_US 20000	   /* after a connection, before a window */

struct guest {
	struct rig *rig;
	struct guest_blk blk;
	struct driver_seg data[DEPTH];
	struct driver_seg *segs; /* of the hostile one's chains */
	uint64_t done, sector, n_sectors;
};

struct fair_options {
	struct rig_options rig;
	unsigned pairs, window_ms, silent_s;
	const char *attack;
};

struct attack {
	const char *name, *what;
	void (*start)(struct guest *g);
	void (*step)(struct guest *g);
};

static void submit(struct guest *g, struct driver_seg *data)
{
	g->sector = (g->sector + 7 * BS / 512) % (g->n_sectors - BS / 512);
	if (guest_blk_submit(&g->blk, VIRTIO_BLK_T_IN, g->sector, data, 1, data) < 0)
		errx(1, "%s: the ring is full", g->rig->path);
}

static void work_start(struct guest *g)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		if (!guest_alloc(&g->rig->memory, BS, 4096, &g->data[i].gpa))
			errx(1, "no guest memory");
		g->data[i].len = BS;
		submit(g, &g->data[i]);
	}
	guest_blk_kick(&g->blk);
}

static void work_step(struct guest *g)
{
	struct guest_blk_done d;
	unsigned n = 0;
	int rc;

	while ((rc = guest_blk_poll(&g->blk, &d)) > 0) {
		submit(g, d.cookie);
		n++;
	}
	if (rc < 0)
		rig_die(g->rig, "the ring");
	g->done += n;
	if (n)
		guest_blk_kick(&g->blk);
}

/* Kicks for nothing: the device's notification work. */
static void kicks_step(struct guest *g)
{
	for (unsigned i = 0; i < 4; i++)
		eventfd_write(g->rig->frontend.queue[0].kick_fd, 1);
}

static void nothing(struct guest *g)
{
	(void)g;
}

/* Chains of as many descriptors as are legal, given again as soon as they are back. */
static void chains_start(struct guest *g, uint32_t seg_len)
{
	struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_IN };
	uint64_t header, status, data;
	void *host = guest_alloc(&g->rig->memory, sizeof(h), 64, &header);

	if (!host || !guest_alloc(&g->rig->memory, 64, 64, &status) ||
	    !guest_alloc(&g->rig->memory, 65536, 4096, &data))
		errx(1, "no guest memory");
	memcpy(host, &h, sizeof(h));
	g->segs = calloc(CHAIN_SEGS, sizeof(*g->segs));
	if (!g->segs)
		errx(1, "out of memory");
	g->segs[0] = (struct driver_seg) { header, sizeof(h) };
	for (unsigned i = 1; i + 1 < CHAIN_SEGS; i++)
		g->segs[i] = (struct driver_seg) { data, seg_len };
	g->segs[CHAIN_SEGS - 1] = (struct driver_seg) { status, 1 };
}

static void zero_start(struct guest *g)
{
	chains_start(g, 0);
}

static void long_start(struct guest *g)
{
	chains_start(g, 512);
}

static void chains_step(struct guest *g)
{
	struct guest_blk_done d;
	int rc;

	while ((rc = guest_blk_poll(&g->blk, &d)) > 0)
		;
	if (rc < 0)
		rig_die(g->rig, "the hostile ring");
	/* One a round: to write a table of 1024 entries takes the driver long enough. */
	if (guest_blk_submit_raw(&g->blk, g->segs, 1, CHAIN_SEGS - 1, NULL) == 0)
		guest_blk_kick(&g->blk);
}

/* Works, wants a call for each request, and never reads one. */
static void calls_step(struct guest *g)
{
	struct driver_ring *r = &g->rig->frontend.queue[0].ring;

	work_step(g);
	if (r->layout == DRIVER_SPLIT)
		driver_calls_on(r, DRIVER_SPLIT);
	else
		driver_calls_on(r, DRIVER_PACKED);
}

/* Questions without end; the answers are thrown away as they come. */
static void messages_step(struct guest *g)
{
	char bin[4096];

	if (frontend_send(&g->rig->frontend, VU_GET_FEATURES, VU_VERSION, NULL, 0, NULL, 0) < 0)
		rig_die(g->rig, "a storm of messages");
	while (recv(g->rig->frontend.sock, bin, sizeof(bin), MSG_DONTWAIT) > 0)
		;
}

static const struct attack calm = { "calm", "", work_start, work_step };
static const struct attack attacks[] = {
	{ "kicks", "kicks for nothing", nothing, kicks_step },
	{ "zero", "chains of 1022 zero-length descriptors", zero_start, chains_step },
	{ "long", "reads into 1022 segments of 512 bytes", long_start, chains_step },
	{ "calls", "calls wanted and never read", work_start, calls_step },
	{ "messages", "questions without end", nothing, messages_step },
};

static void guest_open(struct guest *g, const struct rig_options *o, const char *path)
{
	uint64_t memory = DEPTH * BS + (2 << 20) + (uint64_t)RING * o->indirect_segs * 16;

	*g = (struct guest) { .rig = rig_open(o, path, 1, 0, memory) };
	if (guest_blk_open(&g->blk, &g->rig->frontend, 0) < 0 ||
	    frontend_get_config(&g->rig->frontend, offsetof(struct virtio_blk_config, capacity),
				&g->n_sectors, sizeof(g->n_sectors)) < 0)
		rig_die(g->rig, "setting up");
	if (g->n_sectors * 512 < (1 << 20))
		errx(1, "%s: a disk of less than 1 MiB", path);
}

static void guest_close(struct guest *g)
{
	guest_blk_close(&g->blk);
	rig_close(g->rig);
	free(g->segs);
}

struct window {
	double per_second; /* of all the well-behaved */
	double hostile_share;
};

/* All guests in turn for @us; then what that came to. */
static struct window run(struct guest *others, unsigned n, struct guest *hostile,
			 const struct attack *a, uint64_t us)
{
	uint64_t start = clock_cycles(), end = start + us * clock_cycles_per_us(), now = start;
	uint64_t before = 0, after = 0, in_hostile = 0;

	for (unsigned i = 0; i < n; i++)
		before += others[i].done;
	while (now < end) {
		uint64_t t;

		for (unsigned i = 0; i < n; i++)
			work_step(&others[i]);
		t = clock_cycles();
		now = t;
		if (a != &calm && in_hostile * 100 > (t - start) * HOSTILE_PERCENT)
			continue;
		a->step(hostile);
		now = clock_cycles();
		in_hostile += now - t;
	}
	for (unsigned i = 0; i < n; i++)
		after += others[i].done;
	return (struct window) {
		.per_second = (double)(after - before) * 1e6 * (double)clock_cycles_per_us() /
			      (double)(now - start),
		.hostile_share = (double)in_hostile / (double)(now - start),
	};
}

static struct window window(const struct fair_options *o, struct guest *others, unsigned n,
			    const char *path, const struct attack *a)
{
	struct rig_options hostile_options = o->rig;
	struct guest hostile;
	struct window w;

	hostile_options.indirect_segs = CHAIN_SEGS;
	guest_open(&hostile, &hostile_options, path);
	a->start(&hostile);
	run(others, n, &hostile, a, SETTLE_US);
	w = run(others, n, &hostile, a, (uint64_t)o->window_ms * 1000);
	guest_close(&hostile);
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

static void measure(const struct fair_options *o, struct guest *others, unsigned n,
		    const char *path, const struct attack *a, bool first)
{
	double calm_rate[1000], attack_rate[1000], ratio[1000], share[1000];

	for (unsigned i = 0; i < o->pairs; i++) {
		struct window c = window(o, others, n, path, &calm);
		struct window w = window(o, others, n, path, a);

		if (c.per_second <= 0)
			errx(1, "nothing was done in a calm window of %u ms: use a longer --window",
			     o->window_ms);
		calm_rate[i] = c.per_second;
		attack_rate[i] = w.per_second;
		/* Of a pair: what the machine does else hits both about alike. */
		ratio[i] = w.per_second / c.per_second;
		share[i] = w.hostile_share;
	}
	if (o->rig.json)
		printf("%s\n  { \"attack\": \"%s\", \"calm\": %.0f, \"attacked\": %.0f, \"ratio\": "
		       "%.3f, \"hostile_share\": %.3f }",
		       first ? "" : ",", a->name, median(calm_rate, o->pairs),
		       median(attack_rate, o->pairs), median(ratio, o->pairs),
		       median(share, o->pairs));
	else
		printf("%-10s %10.0f %10.0f %7.3f %9.0f%%   %s\n", a->name,
		       median(calm_rate, o->pairs), median(attack_rate, o->pairs),
		       median(ratio, o->pairs), 100 * median(share, o->pairs), a->what);
}

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: sluice-bench fair SOCKET SOCKET... [OPTION]...\n"
		"The disk on the first socket is a hostile guest's; those on the others read.\n\n"
		"  --attack NAME     one of them only:\n");
	for (unsigned i = 0; i < ARRAY_SIZE(attacks); i++)
		fprintf(to, "                      %-10s %s\n", attacks[i].name, attacks[i].what);
	fprintf(to,
		"  --pairs N         of windows, calm and attacked (9)\n"
		"  --silent SECONDS  attach all of them, say so, ask for nothing, and leave\n"
		"  --window MS       length of a window (200)\n"
		"  --ring LAYOUT, --timeout MS, --cpu N, --json, --help  as sluice-bench blk\n");
}

static unsigned parse(int argc, char **argv, struct fair_options *o)
{
	enum { ATTACK = OPT_OWN, PAIRS, WINDOW, SILENT };
	static const struct option longs[] = { { "attack", required_argument, NULL, ATTACK },
					       { "pairs", required_argument, NULL, PAIRS },
					       { "window", required_argument, NULL, WINDOW },
					       { "silent", required_argument, NULL, SILENT },
					       { "ring", required_argument, NULL, OPT_RING },
					       { "timeout", required_argument, NULL, OPT_TIMEOUT },
					       { "cpu", required_argument, NULL, OPT_CPU },
					       { "json", no_argument, NULL, OPT_JSON },
					       { "help", no_argument, NULL, OPT_HELP },
					       { 0 } };
	bool known = false;
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (rig_option(&o->rig, c, optarg))
			continue;
		switch (c) {
		case ATTACK:
			o->attack = optarg;
			break;
		case PAIRS:
			o->pairs = (unsigned)rig_number(optarg, "--pairs", 1, 1000);
			break;
		case WINDOW:
			o->window_ms = (unsigned)rig_number(optarg, "--window", 1, 60000);
			break;
		case SILENT:
			o->silent_s = (unsigned)rig_number(optarg, "--silent", 1, 86400);
			break;
		case OPT_HELP:
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(attacks); i++)
		known |= !o->attack || strcmp(o->attack, attacks[i].name) == 0;
	if (!known)
		errx(2, "--attack %s: no such attack; see sluice-bench fair --help", o->attack);
	if (argc - optind < 2)
		errx(2, "fair takes two sockets or more; see sluice-bench fair --help");
	return (unsigned)optind;
}

/* What silent guests cost the back-end is for others to measure. */
static int stay_silent(const struct fair_options *o, char **paths, unsigned n)
{
	struct guest *guests = calloc(n, sizeof(*guests));

	if (!guests)
		errx(1, "out of memory");
	for (unsigned i = 0; i < n; i++)
		guest_open(&guests[i], &o->rig, paths[i]);
	printf("%u guests are attached\n", n);
	nanosleep(&(struct timespec) { .tv_sec = o->silent_s }, NULL);
	for (unsigned i = 0; i < n; i++)
		guest_close(&guests[i]);
	free(guests);
	return 0;
}

int bench_fair(int argc, char **argv)
{
	struct fair_options o = { .rig = RIG_OPTIONS_DEFAULT, .pairs = 9, .window_ms = 200 };
	unsigned at, n;
	struct guest *others;
	bool first = true;

	o.rig.queue_size = RING;
	at = parse(argc, argv, &o);
	if (o.silent_s)
		return stay_silent(&o, argv + at, (unsigned)argc - at);
	n = (unsigned)argc - at - 1;
	others = calloc(n, sizeof(*others));
	if (!others)
		errx(1, "out of memory");
	rig_pin(o.rig.cpu);
	clock_cycles_per_us();
	for (unsigned i = 0; i < n; i++) {
		guest_open(&others[i], &o.rig, argv[at + 1 + i]);
		work_start(&others[i]);
	}
	if (o.rig.json)
		printf("{ \"kind\": \"fair\", \"guests\": %u, \"pairs\": %u, \"window_ms\": %u, "
		       "\"rows\": [",
		       n + 1, o.pairs, o.window_ms);
	else
		printf("%u guests, one of them hostile; requests a second of the other %u\n"
		       "%-10s %10s %10s %7s %10s\n",
		       n + 1, n, "attack", "calm", "attacked", "ratio", "its driver");
	for (unsigned i = 0; i < ARRAY_SIZE(attacks); i++) {
		if (o.attack && strcmp(o.attack, attacks[i].name) != 0)
			continue;
		measure(&o, others, n, argv[at], &attacks[i], first);
		first = false;
	}
	if (o.rig.json)
		printf("\n] }\n");
	for (unsigned i = 0; i < n; i++)
		guest_close(&others[i]);
	free(others);
	return 0;
}
