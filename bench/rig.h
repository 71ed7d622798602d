/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every benchmark shares: the options of the front-end and its rings, the connection made of
 * them, and what is read off the machine. A failure ends the program with a sentence: exit code 2
 * for a wrong option, 1 for everything that the back-end did or did not do.
 */
#ifndef SLUICE_BENCH_RIG_H
#define SLUICE_BENCH_RIG_H

#include "base/histogram.h"
#include "tests/guest/blk.h"

#include <stdio.h>
#include <sys/queue.h>

#define RIG_THREADS_MAX 64u

struct rig_options {
	bool packed, indirect, event_idx, in_order, sleep, hugepages, listen, progress, json;
	uint32_t queue_size, indirect_segs; /* longest indirect table */
	unsigned queues, threads;	    /* threads <= queues */
	unsigned time_s, warmup_s, timeout_ms;
	unsigned regions;
	unsigned cpu; /* RIG_NO_CPU: not pinned; else the first of @cpus */
	unsigned n_cpus, cpus[RIG_THREADS_MAX]; /* one for each thread, or none */
	const char *only; /* names of the options that the command has; NULL: all */
	char **sockets;	  /* the arguments */
	unsigned n_sockets;
};

#define RIG_NO_CPU UINT32_MAX

#define RIG_OPTIONS_DEFAULT                                                                  \
	{                                                                                    \
		.indirect = true, .event_idx = true, .queue_size = 256, .indirect_segs = 16, \
		.time_s = 5, .timeout_ms = 5000, .regions = 2, .cpu = RIG_NO_CPU             \
	}

/* One option, with the place that it is written to. */
struct rig_option {
	const char *name; /* without the dashes */
	enum { RIG_FLAG, RIG_NO_FLAG, RIG_NUMBER, RIG_RATE, RIG_BIG_NUMBER, RIG_TEXT } kind;
	/* bool (to true, to false), unsigned (twice), uint64_t, const char * */
	void *to;
	uint64_t min, max; /* of a number */
};

/* What a benchmark's command line may hold. */
struct rig_command {
	const struct rig_option *own;
	unsigned n_own;
	const char *only; /* names of the common options that it has; NULL: all */
	void (*usage)(FILE *to);
};

/* Parses, or ends the program (--help, a wrong option). @return the index of the first argument
 * that is no option. */
int rig_parse(int argc, char **argv, struct rig_options *o, const struct rig_command *command);
/* The common options of that command, a line each, for usage(). @time_s: the default of --time. */
void rig_print_options(FILE *to, const char *only, unsigned time_s);

/* Has the command that option? */
bool rig_has_option(const struct rig_options *o, const char *name);

/* A number, with K, M or G behind it where that is of use: powers of 1024, or of 1000 (@thousand).
 */
uint64_t rig_number(const char *text, const char *option, uint64_t thousand, uint64_t min,
		    uint64_t max);

/* What was seen of a queue's kicks, by rig_watch.c alone. */
struct rig_kick {
	uint64_t turns;
	unsigned looks;
};

/* One device of a back-end's, with memory and as many rings as asked for, started. */
struct rig {
	struct frontend frontend;
	struct guest_memory memory;
	const char *path;
	pid_t pid;	      /* of the back-end */
	unsigned next_region; /* of rig_alloc() */
	unsigned n_rings;
	LIST_ENTRY(rig) link;
	struct rig_kick kick[FRONTEND_QUEUES_MAX];
	/* Times that something was there and no call, since the last one: of rig_check_called(). */
	unsigned uncalled[FRONTEND_QUEUES_MAX];
};

enum rig_kind { RIG_UNKNOWN, RIG_DISK, RIG_CARD };

/* What it is for sure, by the features that it offers, of virtio and of vhost-user. */
enum rig_kind rig_looks_like(uint64_t features, uint64_t protocol);
/* Ends the program when a back-end of the other kind is there, or a disk that cannot be read. */
void rig_check_kind(const struct rig *r, enum rig_kind kind);

/* @n_rings: virtqueues; @device_features: wanted if offered; @memory_bytes: for buffers. */
struct rig *rig_open(const struct rig_options *o, enum rig_kind kind, const char *path,
		     unsigned n_rings, uint64_t device_features, uint64_t memory_bytes);
void rig_close(struct rig *r);
/* From here on a kick that takes longer than that ends the program, whatever thread it holds. */
void rig_watch(struct rig *r, unsigned timeout_ms);
void rig_unwatch(struct rig *r);

/* What a disk says of itself. The first @bytes of it are known; its capacity always is. */
struct rig_disk {
	struct virtio_blk_config config;
	uint32_t bytes;
};

/* Or ends the program. */
void rig_read_disk(struct rig *r, struct rig_disk *d);
/* Ends the program unless the first @end bytes of the configuration are known, with @name. */
void rig_disk_knows(const struct rig *r, const struct rig_disk *d, size_t end, const char *name);
#define RIG_DISK_KNOWS(r, d, field)                                               \
	rig_disk_knows(r, d,                                                      \
		       offsetof(struct virtio_blk_config, field) +                \
			       sizeof(((struct virtio_blk_config *)NULL)->field), \
		       #field)

/*
 * @bytes for a buffer, from each region in turn, so that the back-end has to look for it. @return
 * NULL when there is none.
 */
void *rig_alloc(struct rig *r, uint64_t bytes, uint64_t align, uint64_t *gpa);
/* Ends the program with the front-end's sentence. */
void rig_die(const struct rig *r, const char *doing) COLD __attribute__((noreturn));
/* Now and then while polling: has the back-end hung up, or has nothing happened for too long? */
void rig_check_alive(struct rig *r, uint64_t idle_ns, unsigned timeout_ms);
/* Has it signalled the err eventfd of that queue? Then this ends the program. */
void rig_check_error(const struct rig *r, unsigned queue);
void rig_calls_off(struct rig *r, unsigned ring);
/*
 * After a sleep in which any ring might have called, @n_called did, and this one, which was asked
 * to, was @called or not. If it was not, and something was used, the call is on its way, or lost:
 * where that cannot be chance, waits for it, as a guest does that has nothing else to wake up for,
 * but no longer than @patience_ms: then this ends the program.
 */
void rig_check_called(struct rig *r, unsigned ring, bool called, int n_called,
		      unsigned patience_ms);

void rig_pin(unsigned cpu);
/* Says so if a thread of the back-end's that works may run on no CPU but one of the driver's. */
void rig_warn_of_shared_cpu(const struct rig *r, const struct rig_options *o);

/* CPU time of a process, and what the hypervisor took from all CPUs, in seconds; -1: unknown. */
double rig_cpu_seconds(pid_t pid);
/* Of all processes behind @rigs, each counted once. */
double rig_cpu_seconds_of(struct rig *const *rigs, unsigned n);
double rig_steal_seconds(void);
/* What was spent between two of either; -1: unknown, for one is, or the process has ended. */
double rig_spent(double before, double after);

/* A line of text; below 0: not known. */
void rig_print_steal(double seconds);

/* Latencies, in TSC cycles in the histogram, in microseconds in print: the numbers alone (JSON: an
 * object; of none: "-", null), and with their name in front. */
void rig_print_histogram(const struct histogram *h, bool json);
void rig_print_latency(const struct histogram *h, bool json);
/* A line of text without its end: the ring, and how it is driven. */
void rig_print_ring(const struct driver_ring *r, const struct rig_options *o);

#endif
