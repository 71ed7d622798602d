/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of the benchmarks. */
#include "bench/rig.h"

#include <assert.h>
#include <err.h>
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name, *arg, *text;
} help[] = {
	{ "ring", "LAYOUT", "split (default) or packed" },
	{ "no-indirect", "", "without VIRTIO_F_INDIRECT_DESC" },
	{ "no-event-idx", "", "without VIRTIO_F_EVENT_IDX" },
	{ "in-order", "", "with VIRTIO_F_IN_ORDER" },
	{ "queue-size", "N", "of each ring (256)" },
	{ "queues", "N", "queues, of cards pairs of them (1, or one for each driver thread)" },
	{ "threads", "N", "driver threads, each with queues of its own (1)" },
	{ "time", "SECONDS", "to measure" },
	{ "warmup", "SECONDS", "of the same load before it is measured (0)" },
	{ "timeout", "MS", "without any progress until the back-end is given up (5000)" },
	{ "cpu", "N", "pin the driver to this CPU" },
	{ "cpus", "LIST", "pin a driver thread to each of these, as 0,2-3" },
	{ "sleep", "", "sleep until called, as a guest does; default: poll" },
	{ "hugepages", "", "for the guest's memory; default: 4 KiB pages" },
	{ "regions", "N", "of which the guest's memory consists (2)" },
	{ "listen", "", "make the socket, and wait for the back-end to connect" },
	{ "progress", "", "tell each second what was done; default: on a terminal" },
	{ "json", "", "for machines" },
	{ "help", "", "this text" },
};

/* Is @name one of the words of @list? */
static bool is_in(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = list; (at = strstr(at, name)); at += len)
		if ((at == list || at[-1] == ' ') && (at[len] == ' ' || !at[len]))
			return true;
	return false;
}

bool rig_has_option(const struct rig_options *o, const char *name)
{
	return !o->only || is_in(o->only, name);
}

void rig_print_options(FILE *to, const char *only, unsigned time_s)
{
	for (unsigned i = 0; i < ARRAY_SIZE(help); i++) {
		char left[32];

		if (only && strcmp(help[i].name, "help") != 0 && !is_in(only, help[i].name))
			continue;
		snprintf(left, sizeof(left), "--%s %s", help[i].name, help[i].arg);
		fprintf(to, "  %-17s %s", left, help[i].text);
		if (strcmp(help[i].name, "time") == 0)
			fprintf(to, " (%u)", time_s);
		fputc('\n', to);
	}
}

uint64_t rig_number(const char *text, const char *option, uint64_t thousand, uint64_t min,
		    uint64_t max)
{
	static const char suffixes[] = "KMGkmg";
	char *end;
	uint64_t v = strtoull(text, &end, 10), unit = 1;
	bool ok = end != text && *text != '-';

	if (ok && *end) {
		const char *s = strchr(suffixes, *end);

		ok = s && end[1] == '\0';
		for (unsigned i = 0; ok && i <= (unsigned)(s - suffixes) % 3; i++)
			unit *= thousand;
	}
	if (!ok || v > max / unit || v * unit < min)
		errx(2, "%s %s: not a number from %llu to %llu", option, text,
		     (unsigned long long)min, (unsigned long long)max);
	return v * unit;
}

static void set_option(const struct rig_option *opt, const char *arg)
{
	char name[40];

	switch (opt->kind) {
	case RIG_FLAG:
	case RIG_NO_FLAG:
		*(bool *)opt->to = opt->kind == RIG_FLAG;
		break;
	case RIG_NUMBER:
	case RIG_RATE:
		snprintf(name, sizeof(name), "--%s", opt->name);
		*(unsigned *)opt->to = (unsigned)rig_number(
			arg, name, opt->kind == RIG_RATE ? 1000 : 1024, opt->min, opt->max);
		break;
	case RIG_BIG_NUMBER:
		snprintf(name, sizeof(name), "--%s", opt->name);
		*(uint64_t *)opt->to = rig_number(arg, name, 1024, opt->min, opt->max);
		break;
	case RIG_TEXT:
		*(const char **)opt->to = arg;
		break;
	}
}

/* "0,2-3" */
static void parse_cpus(struct rig_options *o, const char *list)
{
	const char *at = list;

	for (;;) {
		char *end;
		unsigned long first = strtoul(at, &end, 10), last = first;
		bool ok = end != at && *at != '-';

		if (ok && *end == '-') {
			at = end + 1;
			last = strtoul(at, &end, 10);
			ok = end != at && *at != '-';
		}
		if (!ok || last < first || last >= CPU_SETSIZE || (*end && *end != ','))
			errx(2, "--cpus %s: say CPUs as 0,2-3", list);
		for (unsigned long cpu = first; cpu <= last; cpu++) {
			if (o->n_cpus == RIG_THREADS_MAX)
				errx(2, "--cpus %s: more than %u threads", list, RIG_THREADS_MAX);
			o->cpus[o->n_cpus++] = (unsigned)cpu;
		}
		if (!*end)
			return;
		at = end + 1;
	}
}

/* What was left open, and what does not go together. @queues: 0 when not said. */
static void settle(struct rig_options *o, const char *ring, const char *cpus, unsigned queues)
{
	o->packed = strcmp(ring, "packed") == 0;
	if (!o->packed && strcmp(ring, "split") != 0)
		errx(2, "--ring %s: say split or packed", ring);
	if (!o->packed && !IS_POWER_OF_2(o->queue_size))
		errx(2, "--queue-size %u: a split ring's is a power of 2", o->queue_size);
	if (cpus && o->cpu != RIG_NO_CPU)
		errx(2, "--cpu and --cpus: say one of them");
	if (cpus)
		parse_cpus(o, cpus);
	else if (o->cpu != RIG_NO_CPU)
		o->cpus[o->n_cpus++] = o->cpu;
	if (!o->threads)
		o->threads = MAX(o->n_cpus, 1u);
	if (o->n_cpus && o->n_cpus != o->threads)
		errx(2, "--threads %u on %u CPUs: say as many of the one as of the other",
		     o->threads, o->n_cpus);
	if (o->n_cpus)
		o->cpu = o->cpus[0];
	o->queues = queues ? queues : o->threads;
	if (o->queues < o->threads)
		errx(2, "--threads %u: each has a queue of its own, so --queues %u are too few",
		     o->threads, o->queues);
}

/*
 * getopt_long() takes --time for --timeout where there is no --time: an option is one that is
 * written out. No value of ours begins with two dashes.
 */
static void check_names(int argc, char **argv, const struct option *longs)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		size_t len = strcspn(argv[i], "=");
		const struct option *o = longs;

		if (strncmp(argv[i], "--", 2) != 0)
			continue;
		while (o->name &&
		       (strlen(o->name) != len - 2 || strncmp(o->name, argv[i] + 2, len - 2) != 0))
			o++;
		if (!o->name)
			errx(2, "%.*s: %s has no such option; see sluice-bench %s --help", (int)len,
			     argv[i], argv[0], argv[0]);
	}
}

#define OPTIONS_MAX 48
#define OPT_HELP 1000
#define OPT_FIRST 1001

/* What getopt_long() could not make sense of, in one sentence. check_names() knows all names. */
static void refuse_option(const char *command, const struct option *longs, bool wants_value)
{
	if (optopt < OPT_HELP)
		errx(2, "-%c: %s has no such option; see sluice-bench %s --help", optopt, command,
		     command);
	while (longs->val != optopt)
		longs++;
	errx(2, "--%s %s; see sluice-bench %s --help", longs->name,
	     wants_value ? "needs a value" : "takes no value", command);
}

int rig_parse(int argc, char **argv, struct rig_options *o, const struct rig_command *command)
{
	const char *ring = "split", *cpus = NULL;
	unsigned queues = 0;
	const struct rig_option common[] = {
		{ "ring", RIG_TEXT, &ring, 0, 0 },
		{ "no-indirect", RIG_NO_FLAG, &o->indirect, 0, 0 },
		{ "no-event-idx", RIG_NO_FLAG, &o->event_idx, 0, 0 },
		{ "in-order", RIG_FLAG, &o->in_order, 0, 0 },
		{ "queue-size", RIG_NUMBER, &o->queue_size, 2, 32768 },
		{ "queues", RIG_NUMBER, &queues, 1, 128 },
		{ "threads", RIG_NUMBER, &o->threads, 1, RIG_THREADS_MAX },
		{ "time", RIG_NUMBER, &o->time_s, 1, 86400 },
		{ "warmup", RIG_NUMBER, &o->warmup_s, 0, 86400 },
		{ "timeout", RIG_NUMBER, &o->timeout_ms, 10, 3600000 },
		{ "cpu", RIG_NUMBER, &o->cpu, 0, CPU_SETSIZE - 1 },
		{ "cpus", RIG_TEXT, &cpus, 0, 0 },
		{ "sleep", RIG_FLAG, &o->sleep, 0, 0 },
		{ "hugepages", RIG_FLAG, &o->hugepages, 0, 0 },
		{ "regions", RIG_NUMBER, &o->regions, 1, GUEST_REGIONS_MAX },
		{ "listen", RIG_FLAG, &o->listen, 0, 0 },
		{ "progress", RIG_FLAG, &o->progress, 0, 0 },
		{ "json", RIG_FLAG, &o->json, 0, 0 },
	};
	const struct rig_option *known[OPTIONS_MAX];
	struct option longs[OPTIONS_MAX + 2] = { { "help", no_argument, NULL, OPT_HELP } };
	unsigned n = 0;
	int c;

	assert(ARRAY_SIZE(common) + command->n_own <= OPTIONS_MAX);
	for (unsigned i = 0; i < ARRAY_SIZE(common); i++)
		if (!command->only || is_in(command->only, common[i].name))
			known[n++] = &common[i];
	for (unsigned i = 0; i < command->n_own; i++)
		known[n++] = &command->own[i];
	for (unsigned i = 0; i < n; i++)
		longs[1 + i] = (struct option) { known[i]->name, known[i]->kind >= RIG_NUMBER, NULL,
						 OPT_FIRST + (int)i };
	check_names(argc, argv, longs);
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (c == OPT_HELP) {
			command->usage(stdout);
			if (fflush(stdout) != 0 || ferror(stdout))
				errx(1, "cannot write all of the help");
			exit(0);
		}
		if (c >= OPT_FIRST)
			set_option(known[c - OPT_FIRST], optarg);
		else
			refuse_option(argv[0], longs, c == ':');
	}
	settle(o, ring, cpus, queues);
	o->only = command->only;
	o->sockets = argv + optind;
	o->n_sockets = (unsigned)(argc - optind);
	return optind;
}
