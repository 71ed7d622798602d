/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hit in the IOTLB costs, in TSC cycles a chain: a ring of 256 buffers is popped and pushed,
 * with no IOMMU, and with tables of more and more entries. Nothing of the front-end's is measured,
 * as there are no misses. Like ring-bench one thread plays both sides in turn; docs/benchmarks.md
 * says more.
 */
#include "vhost/iotlb.h"
#include "base/clock.h"
#include "base/error.h"
#include "tests/guest/driver_ring.h"
#include "tests/guest/memory.h"
#include "vhost/ring.h"

#include <err.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE 256
#define BATCH 32
#define PAGE 4096
#define PAGES_MAX 4096
#define IOVA UINT64_C(0x7f0000000000)
#define RUNS_MAX 1000
#define ROUNDS_MAX 100000

static struct {
	unsigned runs, rounds;
	bool json, progress;
} opt = { .runs = 11, .rounds = 400 };

struct row {
	const char *name;
	unsigned pages;	 /* that buffers lie in */
	unsigned whole;	 /* one entry for all of them */
	unsigned wander; /* each round's buffers are others than those of the last one */
};

static const struct row rows[] = {
	{ "no IOMMU", 0, 0, 0 },
	{ "1 entry", PAGES_MAX, 1, 0 },
	{ "64 entries", 64, 0, 0 },
	{ "4096 entries, 256 in use", PAGES_MAX, 0, 0 },
	{ "4096 entries, all in use", PAGES_MAX, 0, 1 },
};

struct bench {
	struct guest_memory memory;
	struct mem_map *map;
	struct iotlb *table;
	struct driver_ring driver;
	struct ring ring;
	unsigned hints[RING_HINTS];
	uint64_t data_gpa;
	unsigned next; /* buffer */
};

/* Pages in no order, so that neighbours among I/O virtual addresses are none in memory. */
static uint64_t page_of(const struct row *row, uint64_t page)
{
	return row->whole || !row->pages ? page : page * 2741 % row->pages;
}

static void map_memory(struct bench *b)
{
	static const struct guest_range range = { 0, 64 << 20 };
	struct error error = { 0 };
	struct mem_region_desc desc;

	if (guest_memory_create(&b->memory, &range, 1, 0) < 0)
		errx(1, "no guest memory");
	desc = (struct mem_region_desc) { .size = range.size, .uva = b->memory.region[0].uva };
	b->map = mem_map_add(NULL, NULL, &desc, b->memory.region[0].fd, &error);
	if (!b->map || !guest_alloc(&b->memory, (uint64_t)PAGES_MAX * PAGE, PAGE, &b->data_gpa))
		errx(1, "guest memory: %s", error.text);
}

static void add_entry(struct bench *b, uint64_t iova, uint64_t gpa, uint64_t size)
{
	const struct iotlb_entry e = { .iova = iova,
				       .size = size,
				       .uva = b->memory.region[0].uva + gpa,
				       .access = IOTLB_READ | IOTLB_WRITE };
	struct error error = { 0 };
	struct iotlb *next = iotlb_with(b->table, b->map, &e, &error);

	if (!next)
		errx(1, "%s", error.text);
	iotlb_free(b->table);
	b->table = next;
}

static void make_table(struct bench *b, const struct row *row)
{
	if (row->whole)
		add_entry(b, IOVA, b->data_gpa, (uint64_t)row->pages * PAGE);
	for (unsigned i = 0; !row->whole && i < row->pages; i++)
		add_entry(b, IOVA + (uint64_t)i * PAGE, b->data_gpa + page_of(row, i) * PAGE, PAGE);
}

static void make_ring(struct bench *b, enum driver_layout layout, bool hints)
{
	struct driver_config cfg = { .layout = layout,
				     .size = SIZE,
				     .base = driver_base_start(layout) };
	struct ring_config ring = { .layout = layout == DRIVER_SPLIT ? RING_SPLIT : RING_PACKED,
				    .size = SIZE,
				    .base = cfg.base,
				    .map = b->map,
				    .name = "bench" };
	const uint8_t *host = b->map->region[0].host;
	const char *why;

	cfg.area = guest_alloc(&b->memory, driver_ring_bytes(layout, SIZE, 0), PAGE, &cfg.area_gpa);
	if (!cfg.area || driver_ring_init(&b->driver, &cfg) < 0)
		errx(1, "no memory for a ring");
	ring.desc = (void *)(host + guest_gpa(&b->memory, driver_desc_area(&b->driver)));
	ring.driver = (void *)(host + guest_gpa(&b->memory, driver_driver_area(&b->driver)));
	ring.device = (void *)(host + guest_gpa(&b->memory, driver_device_area(&b->driver)));
	if (b->table) {
		ring.both = iotlb_both_map(b->table);
		ring.read = iotlb_read_map(b->table);
		ring.write = iotlb_write_map(b->table);
		ring.hints = hints ? b->hints : NULL;
	}
	why = ring_init(&b->ring, &ring);
	if (why)
		errx(1, "%s", why);
}

static void fill(struct bench *b, const struct row *row, enum driver_layout layout)
{
	unsigned pages = row->pages ? row->pages : PAGES_MAX;

	if (!row->wander)
		b->next = 0;
	for (unsigned i = 0; i < SIZE; i++, b->next++) {
		/* Here and there, as a guest's pool hands them out. */
		uint64_t page = (uint64_t)b->next * 1664525 % pages, at = b->next % 2 * 2048;
		struct driver_seg seg = { (b->table ? IOVA : b->data_gpa) + page * PAGE + at,
					  1526 };
		int rc = layout == DRIVER_SPLIT
				 ? driver_add(&b->driver, DRIVER_SPLIT, &seg, 0, 1, b)
				 : driver_add(&b->driver, DRIVER_PACKED, &seg, 0, 1, b);

		if (rc < 0)
			errx(1, "the driver's ring is full");
	}
	if (layout == DRIVER_SPLIT)
		driver_publish(&b->driver, DRIVER_SPLIT);
	else
		driver_publish(&b->driver, DRIVER_PACKED);
}

static void empty(struct bench *b, enum driver_layout layout)
{
	struct driver_used used;

	for (unsigned i = 0; i < SIZE; i++)
		if (!(layout == DRIVER_SPLIT ? driver_poll(&b->driver, DRIVER_SPLIT, &used)
					     : driver_poll(&b->driver, DRIVER_PACKED, &used)))
			errx(1, "chain %u of %u did not come back", i, SIZE);
}

HOT uint64_t pop_push(struct bench *b, enum ring_layout layout)
{
	struct chain chains[BATCH];
	struct iovec segs[BATCH + RING_CHAIN_SEGS_MAX];
	uint64_t start = clock_cycles();

	for (unsigned done = 0, got; done < SIZE; done += got) {
		got = ring_pop(&b->ring, layout, chains, BATCH, segs, ARRAY_SIZE(segs));
		if (unlikely(got == 0))
			errx(1, "%u of %u chains were popped", done, SIZE);
		ring_push_many(&b->ring, layout, chains, got, NULL);
		ring_publish(&b->ring, layout);
	}
	return clock_cycles() - start;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double measure(struct bench *b, const struct row *row, enum driver_layout layout)
{
	static double runs[RUNS_MAX], rounds[ROUNDS_MAX];

	for (unsigned run = 0; run <= opt.runs; run++) { /* the first one warms up */
		for (unsigned i = 0; i < opt.rounds; i++) {
			fill(b, row, layout);
			rounds[i] = (double)(layout == DRIVER_SPLIT ? pop_push(b, RING_SPLIT)
								    : pop_push(b, RING_PACKED)) /
				    SIZE;
			empty(b, layout);
		}
		qsort(rounds, opt.rounds, sizeof(rounds[0]), compare);
		runs[run ? run - 1 : 0] = rounds[opt.rounds / 2];
	}
	qsort(runs, opt.runs, sizeof(runs[0]), compare);
	return runs[opt.runs / 2];
}

static double run_row(const struct row *row, enum driver_layout layout, bool hints)
{
	static struct bench b;
	double cycles;

	memset(&b, 0, sizeof(b));
	map_memory(&b);
	make_table(&b, row);
	make_ring(&b, layout, hints);
	cycles = measure(&b, row, layout);
	driver_ring_fini(&b.driver);
	iotlb_free(b.table);
	mem_map_free(b.map);
	guest_memory_destroy(&b.memory);
	return cycles;
}

static void usage(FILE *to)
{
	fprintf(to, "Usage: iotlb-bench [OPTION]...\n"
		    "What a hit in the IOTLB costs, in TSC cycles a chain.\n\n"
		    "  --runs N       of which the median is told (11)\n"
		    "  --rounds N     rings worked off in a run (400)\n"
		    "  --json         for machines\n"
		    "  --progress     tell on standard error which row is measured; default: on a "
		    "terminal\n"
		    "  --help         this text\n");
}

static unsigned number(const char *text, const char *option, unsigned max)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (end == text || *end || v < 1 || v > max)
		errx(2, "%s %s: not a number from 1 to %u", option, text, max);
	return (unsigned)v;
}

enum { OPT_RUNS = 1, OPT_ROUNDS, OPT_JSON, OPT_PROGRESS, OPT_HELP };
static const struct option longs[] = {
	{ "runs", required_argument, NULL, OPT_RUNS },
	{ "rounds", required_argument, NULL, OPT_ROUNDS },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "progress", no_argument, NULL, OPT_PROGRESS },
	{ "help", no_argument, NULL, OPT_HELP },
	{ 0 },
};

static void parse(int argc, char **argv)
{
	int c;

	opt.progress = isatty(STDERR_FILENO);
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == OPT_RUNS) {
			opt.runs = number(optarg, "--runs", RUNS_MAX);
		} else if (c == OPT_ROUNDS) {
			opt.rounds = number(optarg, "--rounds", ROUNDS_MAX);
		} else if (c == OPT_JSON) {
			opt.json = true;
		} else if (c == OPT_PROGRESS) {
			opt.progress = true;
		} else {
			usage(c == OPT_HELP ? stdout : stderr);
			exit(c == OPT_HELP ? 0 : 2);
		}
	}
	if (optind < argc)
		errx(2, "%s: no arguments are taken, see --help", argv[optind]);
}

int main(int argc, char **argv)
{
	cpu_set_t cpus;

	parse(argc, argv);
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	(void)sched_setaffinity(0, sizeof(cpus), &cpus);
	printf(opt.json ? "{ \"rows\": [" : "%-28s %8s %8s %18s %8s\n",
	       "TSC cycles a chain, pop and push", "split", "packed", "one guess: split", "packed");
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		double cycles[4];

		if (opt.progress)
			fprintf(stderr, "row %u of %zu: %s\n", i + 1, ARRAY_SIZE(rows),
				rows[i].name);
		for (unsigned k = 0; k < 4; k++)
			cycles[k] = run_row(&rows[i], k % 2, k < 2);
		printf(opt.json ? "%s\n  { \"table\": \"%s\", \"split\": %.1f, \"packed\": %.1f, "
				  "\"split_one_guess\": %.1f, \"packed_one_guess\": %.1f }"
				: "%s%-32s %8.1f %8.1f %18.1f %8.1f\n",
		       opt.json && i ? "," : "", rows[i].name, cycles[0], cycles[1], cycles[2],
		       cycles[3]);
		fflush(stdout);
	}
	printf(opt.json ? "\n] }\n" : "");
	return 0;
}
