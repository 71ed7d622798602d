/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the ring layer costs, in TSC cycles a descriptor, beside DPDK's rte_vhost on the same
 * machine. docs/benchmarks.md says what each column contains.
 *
 * One thread plays both sides in turn: it fills a ring of 256 as the driver, stops being the
 * driver, works the ring off as the device within the clock, and takes everything back as the
 * driver. So nothing depends on how two threads happen to meet, and what the device finds in its
 * caches is the same each time: ring and buffers as the same core has just written them (--cache
 * warm), or the ring flushed to memory (--cache cold), of which the lines that come from another
 * core are a milder case.
 */
#include "bench/ring/device.h"

#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { POP, PUSH, DEQUEUE, RTE_DEQUEUE, ENQUEUE, RTE_ENQUEUE, N_COLUMNS };

struct options {
	unsigned cpu, runs, rounds;
	bool json, cold, check, best, progress;
	const char *only;
};

#define ROW(l, n, k, ...) { .layout = l, .batch = n, .segs = k, __VA_ARGS__ },
#define LAYOUT_ROWS(l)                                       \
	ROW(l, 1, 1)                                         \
	ROW(l, 32, 1)                                        \
	ROW(l, 1, 3)                                         \
	ROW(l, 32, 3)                                        \
	ROW(l, 1, 1, .event_idx = true)                      \
	ROW(l, 32, 1, .event_idx = true)                     \
	ROW(l, 1, 3, .indirect = true)                       \
	ROW(l, 32, 3, .indirect = true)                      \
	ROW(l, 32, 1, .indirect = true, .event_idx = true)   \
	ROW(l, 1, 1, .in_order = true)                       \
	ROW(l, 32, 1, .in_order = true)                      \
	ROW(l, 32, 1, .in_order = true, .extra = EXTRA_HELD) \
	ROW(l, 32, 1, .extra = EXTRA_INFLIGHT)               \
	ROW(l, 32, 1, .extra = EXTRA_KEPT)                   \
	ROW(l, 32, 1, .extra = EXTRA_LOG)

static const struct row rows[] = { LAYOUT_ROWS(DRIVER_SPLIT) LAYOUT_ROWS(DRIVER_PACKED) };

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

static double least(const double *v, unsigned n)
{
	double min = v[0];

	for (unsigned i = 1; i < n; i++)
		min = MIN(min, v[i]);
	return min;
}

struct bench {
	struct options opt;
	struct rte_mempool *pool;
	struct rte_mbuf *mbufs[RING_SIZE];
	struct sluice_device *ours;
	struct dpdk_device *theirs;
	double *samples[2]; /* rounds of one run */
	double *runs[N_COLUMNS];
};

static double per_desc(const struct lane *l, uint64_t cycles)
{
	return (double)cycles / (l->n_chains * l->row.segs);
}

static void run_pop_push(struct bench *b, unsigned run)
{
	struct lane *l = sluice_lane(b->ours, QUEUE_OUT);

	for (unsigned i = 0; i < b->opt.rounds; i++) {
		uint64_t pop, push;

		lane_fill(l);
		sluice_pop_push(b->ours, &pop, &push);
		lane_empty(l);
		b->samples[0][i] = per_desc(l, pop);
		b->samples[1][i] = per_desc(l, push);
	}
	b->runs[POP][run] = median(b->samples[0], b->opt.rounds);
	b->runs[PUSH][run] = median(b->samples[1], b->opt.rounds);
}

static double run_dequeue(struct bench *b, bool ours)
{
	struct lane *l = ours ? sluice_lane(b->ours, QUEUE_OUT) : dpdk_lane(b->theirs, QUEUE_OUT);

	for (unsigned i = 0; i < b->opt.rounds; i++) {
		uint64_t cycles;

		lane_fill(l);
		cycles = ours ? sluice_dequeue(b->ours, b->mbufs)
			      : dpdk_dequeue(b->theirs, b->mbufs);
		lane_empty(l);
		mbufs_free(b->mbufs, l->n_chains);
		b->samples[0][i] = per_desc(l, cycles);
	}
	return median(b->samples[0], b->opt.rounds);
}

static double run_enqueue(struct bench *b, bool ours)
{
	struct lane *l = ours ? sluice_lane(b->ours, QUEUE_IN) : dpdk_lane(b->theirs, QUEUE_IN);

	mbufs_make(b->pool, b->mbufs, l->n_chains);
	for (unsigned i = 0; i < b->opt.rounds; i++) {
		uint64_t cycles;

		lane_fill(l);
		cycles = ours ? sluice_enqueue(b->ours, b->mbufs)
			      : dpdk_enqueue(b->theirs, b->mbufs);
		lane_empty(l);
		b->samples[0][i] = per_desc(l, cycles);
	}
	mbufs_free(b->mbufs, l->n_chains);
	return median(b->samples[0], b->opt.rounds);
}

static void run_row(struct bench *b, const struct row *row, double results[N_COLUMNS])
{
	b->ours = sluice_open(row, b->pool);
	b->theirs = dpdk_open(row, b->pool);
	for (unsigned i = 0; i < N_QUEUES; i++) {
		sluice_lane(b->ours, i)->cold = b->opt.cold;
		dpdk_lane(b->theirs, i)->cold = b->opt.cold;
	}
	/* Run 0 warms up and is overwritten. */
	for (unsigned i = 0; i <= b->opt.runs; i++) {
		unsigned run = i ? i - 1 : 0;

		run_pop_push(b, run);
		if (row_is_ours_alone(row))
			continue;
		b->runs[DEQUEUE][run] = run_dequeue(b, true);
		b->runs[RTE_DEQUEUE][run] = run_dequeue(b, false);
		b->runs[ENQUEUE][run] = run_enqueue(b, true);
		b->runs[RTE_ENQUEUE][run] = run_enqueue(b, false);
	}
	for (unsigned c = 0; c < N_COLUMNS; c++)
		results[c] = b->opt.best ? least(b->runs[c], b->opt.runs)
					 : median(b->runs[c], b->opt.runs);
	sluice_close(b->ours);
	dpdk_close(b->theirs);
}

static const char *row_name(const struct row *r, char *name, size_t n)
{
	static const char *const extra[] = { [EXTRA_NONE] = "",
					     [EXTRA_HELD] = ", held",
					     [EXTRA_INFLIGHT] = ", inflight",
					     [EXTRA_KEPT] = ", kept",
					     [EXTRA_LOG] = ", log" };

	snprintf(name, n, "%s, batch %u, chain %u%s%s%s%s",
		 r->layout == DRIVER_SPLIT ? "split" : "packed", r->batch, r->segs,
		 r->indirect ? ", indirect" : "", r->event_idx ? ", event_idx" : "",
		 r->in_order ? ", in_order" : "", extra[r->extra]);
	return name;
}

static void print_head(const struct options *o)
{
	if (o->json)
		printf("{ \"unit\": \"TSC cycles per descriptor\", \"cache\": \"%s\", "
		       "\"ring_size\": %d, \"runs\": %u, \"rounds\": %u, \"rows\": [",
		       o->cold ? "cold" : "warm", RING_SIZE, o->runs, o->rounds);
	else
		printf("%-44s %6s %6s | %8s %9s %6s | %8s %9s %6s\n", "TSC cycles per descriptor",
		       "pop", "push", "dequeue", "rte_vhost", "ratio", "enqueue", "rte_vhost",
		       "ratio");
}

static void print_row(const struct options *o, const struct row *r, const double v[N_COLUMNS],
		      bool first)
{
	char name[80];

	row_name(r, name, sizeof(name));
	if (!o->json && row_is_ours_alone(r)) {
		printf("%-44s %6.1f %6.1f |\n", name, v[POP], v[PUSH]);
		return;
	}
	if (!o->json) {
		printf("%-44s %6.1f %6.1f | %8.1f %9.1f %6.2f | %8.1f %9.1f %6.2f\n", name, v[POP],
		       v[PUSH], v[DEQUEUE], v[RTE_DEQUEUE], v[RTE_DEQUEUE] / v[DEQUEUE], v[ENQUEUE],
		       v[RTE_ENQUEUE], v[RTE_ENQUEUE] / v[ENQUEUE]);
		return;
	}
	printf("%s\n  { \"name\": \"%s\", \"pop\": %.2f, \"push\": %.2f", first ? "" : ",", name,
	       v[POP], v[PUSH]);
	if (!row_is_ours_alone(r))
		printf(", \"dequeue\": %.2f, \"rte_dequeue\": %.2f, \"enqueue\": %.2f, "
		       "\"rte_enqueue\": %.2f",
		       v[DEQUEUE], v[RTE_DEQUEUE], v[ENQUEUE], v[RTE_ENQUEUE]);
	printf(" }");
}

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: ring-bench [OPTION]...\n"
		"The ring layer's cost in TSC cycles per descriptor, beside DPDK's rte_vhost.\n\n"
		"  --cpu N        pin to this CPU (0)\n"
		"  --runs N       alternating runs, of which the median is told (11)\n"
		"  --rounds N     rings worked off in a run (400)\n"
		"  --cache WHAT   warm: as the same core left it; cold: the ring flushed (warm)\n"
		"  --only TEXT    rows whose name contains TEXT\n"
		"  --best         the least disturbed run instead of the median\n"
		"  --check        exit 1 if rte_vhost needs fewer cycles in any row\n"
		"  --json         for machines\n"
		"  --progress     tell on standard error which row is measured; default: on a "
		"terminal\n"
		"  --help         this text\n");
}

static unsigned number(const char *text, const char *option, unsigned min, unsigned max)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (end == text || *end || v < min || v > max)
		errx(2, "%s %s: not a number from %u to %u", option, text, min, max);
	return (unsigned)v;
}

enum { CPU = 1, RUNS, ROUNDS, CACHE, ONLY, BEST, CHECK, JSON, PROGRESS, HELP };
static const struct option longs[] = {
	{ "cpu", required_argument, NULL, CPU },
	{ "runs", required_argument, NULL, RUNS },
	{ "rounds", required_argument, NULL, ROUNDS },
	{ "cache", required_argument, NULL, CACHE },
	{ "only", required_argument, NULL, ONLY },
	{ "best", no_argument, NULL, BEST },
	{ "check", no_argument, NULL, CHECK },
	{ "json", no_argument, NULL, JSON },
	{ "progress", no_argument, NULL, PROGRESS },
	{ "help", no_argument, NULL, HELP },
	{ 0 },
};

static struct options parse(int argc, char **argv)
{
	struct options o = {
		.runs = 11, .rounds = 400, .only = "", .progress = isatty(STDERR_FILENO)
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case CPU:
			o.cpu = number(optarg, "--cpu", 0, 4095);
			break;
		case RUNS:
			o.runs = number(optarg, "--runs", 1, 10000);
			break;
		case ROUNDS:
			o.rounds = number(optarg, "--rounds", 1, 1000000);
			break;
		case CACHE:
			o.cold = strcmp(optarg, "cold") == 0;
			if (!o.cold && strcmp(optarg, "warm") != 0)
				errx(2, "--cache %s: say warm or cold", optarg);
			break;
		case ONLY:
			o.only = optarg;
			break;
		case BEST:
			o.best = true;
			break;
		case CHECK:
			o.check = true;
			break;
		case JSON:
			o.json = true;
			break;
		case PROGRESS:
			o.progress = true;
			break;
		case HELP:
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (optind < argc)
		errx(2, "%s: no arguments are taken, see --help", argv[optind]);
	return o;
}

int main(int argc, char **argv)
{
	static struct bench b;
	unsigned n_shown = 0, n_behind = 0;

	b.opt = parse(argc, argv);
	b.pool = dpdk_start(b.opt.cpu);
	for (unsigned i = 0; i < ARRAY_SIZE(b.samples); i++)
		if (!(b.samples[i] = calloc(b.opt.rounds, sizeof(double))))
			errx(1, "out of memory");
	for (unsigned i = 0; i < N_COLUMNS; i++)
		if (!(b.runs[i] = calloc(b.opt.runs, sizeof(double))))
			errx(1, "out of memory");
	print_head(&b.opt);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		double v[N_COLUMNS];
		char name[80];

		if (!strstr(row_name(&rows[i], name, sizeof(name)), b.opt.only))
			continue;
		if (b.opt.progress)
			fprintf(stderr, "row %u of %zu: %s\n", i + 1, ARRAY_SIZE(rows), name);
		run_row(&b, &rows[i], v);
		print_row(&b.opt, &rows[i], v, n_shown++ == 0);
		fflush(stdout);
		if (row_is_ours_alone(&rows[i]))
			continue;
		n_behind += v[DEQUEUE] > v[RTE_DEQUEUE] || v[ENQUEUE] > v[RTE_ENQUEUE];
	}
	if (b.opt.json)
		printf("\n] }\n");
	for (unsigned i = 0; i < ARRAY_SIZE(b.samples); i++)
		free(b.samples[i]);
	for (unsigned i = 0; i < N_COLUMNS; i++)
		free(b.runs[i]);
	if (n_shown == 0)
		errx(2, "--only %s: no row has such a name", b.opt.only);
	return b.opt.check && n_behind ? 1 : 0;
}
