/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every benchmark shares: the options of the front-end and its rings, the connection made of
 * them, and what is read off the machine. A failure ends the program with a sentence: exit code 2
 * for a wrong option, 1 for everything that the back-end did or did not do.
 */
#ifndef SLUICE_BENCH_RIG_H
#define SLUICE_BENCH_RIG_H

#include "base/histogram.h"
#include "tests/guest/frontend.h"

struct rig_options {
	bool packed, indirect, event_idx, in_order, sleep, hugepages, json;
	uint32_t queue_size, indirect_segs; /* longest indirect table */
	unsigned queues, time_s, timeout_ms;
	int cpu; /* -1: not pinned */
};

#define RIG_OPTIONS_DEFAULT                                                                  \
	{                                                                                    \
		.indirect = true, .event_idx = true, .queue_size = 256, .indirect_segs = 16, \
		.queues = 1, .time_s = 5, .timeout_ms = 5000, .cpu = -1                      \
	}

/* For getopt_long(): the options that rig_option() knows. */
enum {
	OPT_RING = 256,
	OPT_NO_INDIRECT,
	OPT_NO_EVENT_IDX,
	OPT_IN_ORDER,
	OPT_QUEUE_SIZE,
	OPT_QUEUES,
	OPT_TIME,
	OPT_TIMEOUT,
	OPT_CPU,
	OPT_SLEEP,
	OPT_HUGEPAGES,
	OPT_JSON,
	OPT_HELP,
	OPT_OWN, /* where a benchmark's own begin */
};
#define RIG_LONG_OPTIONS                                                   \
	{ "ring", required_argument, NULL, OPT_RING },                     \
		{ "no-indirect", no_argument, NULL, OPT_NO_INDIRECT },     \
		{ "no-event-idx", no_argument, NULL, OPT_NO_EVENT_IDX },   \
		{ "in-order", no_argument, NULL, OPT_IN_ORDER },           \
		{ "queue-size", required_argument, NULL, OPT_QUEUE_SIZE }, \
		{ "queues", required_argument, NULL, OPT_QUEUES },         \
		{ "time", required_argument, NULL, OPT_TIME },             \
		{ "timeout", required_argument, NULL, OPT_TIMEOUT },       \
		{ "cpu", required_argument, NULL, OPT_CPU },               \
		{ "sleep", no_argument, NULL, OPT_SLEEP },                 \
		{ "hugepages", no_argument, NULL, OPT_HUGEPAGES },         \
		{ "json", no_argument, NULL, OPT_JSON },                   \
	{                                                                  \
		"help", no_argument, NULL, OPT_HELP                        \
	}
extern const char rig_options_help[];

/* Takes one option. @return false if it is none of these. */
bool rig_option(struct rig_options *o, int opt, const char *arg);
/* A number, with K, M or G (powers of 1024) behind it where that is of use. */
uint64_t rig_number(const char *text, const char *option, uint64_t min, uint64_t max);

/* One device of a back-end's, with memory and as many rings as asked for, started. */
struct rig {
	struct frontend frontend;
	struct guest_memory memory;
	const char *path;
	pid_t pid; /* of the back-end, from SO_PEERCRED */
};

/* @n_rings: virtqueues; @device_features: wanted if offered; @memory_bytes: for buffers. */
struct rig *rig_open(const struct rig_options *o, const char *path, unsigned n_rings,
		     uint64_t device_features, uint64_t memory_bytes);
void rig_close(struct rig *r);
/* Ends the program with the front-end's sentence. */
void rig_die(const struct rig *r, const char *doing) COLD __attribute__((noreturn));
/* Now and then while polling: has the back-end hung up, or has nothing happened for too long? */
void rig_check_alive(struct rig *r, uint64_t idle_ns, unsigned timeout_ms);
void rig_calls_off(struct rig *r, unsigned ring);

void rig_pin(int cpu);

/* CPU time of a process, and what the hypervisor took from all CPUs, in seconds; -1: unknown. */
double rig_cpu_seconds(pid_t pid);
double rig_steal_seconds(void);

/* Latencies, in TSC cycles in the histogram, in microseconds in print. */
void rig_print_latency(const struct histogram *h, bool json);

#endif
