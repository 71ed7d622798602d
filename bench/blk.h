/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench blk: what its parts share. blk_options.c: the command line. blk_trace.c: traces.
 * blk_load.c: which request comes next, and when. blk_drive.c: a thread that drives its queues.
 * blk_verify.h: what is written, and what is wrong with what is read. blk.c: the run, and its
 * report.
 */
#ifndef SLUICE_BENCH_BLK_H
#define SLUICE_BENCH_BLK_H

#include "bench/blk_verify.h"
#include "bench/crew.h"
#include "tests/guest/blk.h"

#define SECTOR 512u
#define BLK_BYTES_MAX (16u << 20) /* of a request */

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_WRITE_ZEROES, BLK_OPS };
extern const char *const blk_op_names[BLK_OPS];

/* A request of a trace. */
struct blk_request {
	uint64_t at_us; /* from the trace's beginning */
	uint64_t offset;
	uint32_t len;
	enum blk_op op;
};

struct blk_trace {
	struct blk_request *request;
	uint64_t n, end; /* end: the first byte behind all of them */
	uint32_t longest;
	unsigned ops; /* a bit for each that occurs */
};

struct blk_options {
	struct rig_options rig;
	const char *rw, *arrival, *trace_path;
	bool random, verify, poisson, trace_fast;
	enum blk_op op; /* of all requests; BLK_READ: reads and writes, as read_percent says */
	unsigned mix, read_percent, fsync, depth;
	uint32_t bs;
	unsigned rate; /* requests a second, of all threads; 0: a closed loop */
	uint64_t size; /* of the disk that is used; 0: all */
	unsigned ops;  /* a bit for each that may occur */
	struct blk_trace trace;
};

/* Fills @o, or ends the program. @return the socket. */
const char *blk_parse(int argc, char **argv, struct blk_options *o);
/* Ends the program with @code if the ring does not hold so many requests, with or without tables.
 */
void blk_check_depth(const struct blk_options *o, bool indirect, int code);
/* Reads sluice-bench's own format, fio's iolog or blkparse's output; or ends the program. */
void blk_trace_read(struct blk_trace *t, const char *path);

/* What the device said of itself. */
struct blk_disk {
	uint64_t bytes;
	uint32_t size_max; /* bytes of one segment */
};

struct blk_slot {
	uint64_t intended, sent; /* cycles */
	uint64_t offset;
	uint32_t len;
	enum blk_op op;
	bool busy, read_back;
	unsigned queue; /* of the driver's */
	uint64_t generation;
	uint64_t gpa, range_gpa;
	uint8_t *host;
	struct virtio_blk_discard_write_zeroes *range;
};

struct blk_queue {
	struct guest_blk blk;
	struct blk_slot **idle;
	unsigned n_idle;
};

struct blk_figures {
	struct histogram latency[BLK_OPS];
	uint64_t done, bytes; /* within the time: what still was under way then is no rate */
	uint64_t errors, verified, unsent;
};

/* Which request comes next, and when. */
struct blk_load {
	uint64_t first_block, n_blocks; /* the thread's part of the disk */
	uint64_t next_block, random;
	uint64_t next_trace; /* index */
	double next_at, gap; /* cycles: of an open loop */
	unsigned writes;     /* since the last flush */
	bool over;	     /* no request is left */
};

/* One thread, with queues and slots of its own. */
struct blk_driver {
	const struct blk_run *run;
	struct crew_member *member;
	struct blk_queue *queues;
	struct blk_slot *slots;
	unsigned n_queues, n_slots, next_queue, in_flight;
	bool open, stopping, sweeping; /* open: the loop; sweeping: after the run, with --verify */
	struct blk_load load;
	struct blk_memory written; /* with --verify */
	struct blk_figures figures;
	uint64_t done; /* since the start */
};

struct blk_run {
	const struct blk_options *opt;
	struct rig *rig;
	struct blk_disk disk;
	uint64_t run_id;
	struct blk_driver *drivers;
	struct crew crew;
};

bool blk_is_open_loop(const struct blk_options *o);
void blk_load_init(struct blk_driver *d, unsigned index);
/*
 * The next request, into @s (op, offset, len, intended), if it is due at @now. @return false when
 * it is not, or there is none (load.over).
 */
bool blk_load_next(struct blk_driver *d, struct blk_slot *s, uint64_t now);
/* The measurement is over: how many requests were due before @until and were not sent? */
uint64_t blk_load_unsent(struct blk_driver *d, uint64_t until);
/* Is that more than a driver is late by chance at the end of the time? */
bool blk_is_behind(uint64_t unsent, uint64_t due, double seconds);

/* Makes queues and buffers, in the main thread. */
void blk_driver_open(struct blk_driver *d, const struct blk_run *b, unsigned index);
void blk_driver_close(struct blk_driver *d);
/* The crew's body. */
void blk_drive(struct crew_member *m);

#endif
