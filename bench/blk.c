/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench blk: a closed loop of requests against a vhost-user-blk back-end. Each request's
 * slot sends the next one as soon as the last is back, so the depth is constant; latency runs from
 * the moment before the request is added to the ring to the moment that the driver finds it used.
 */
#include "bench/bench.h"

#include "base/clock.h"
#include "tests/guest/blk.h"

#include <err.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512
#define COMMON_OPTIONS                                                                     \
	"ring no-indirect no-event-idx in-order queue-size queues time timeout cpu sleep " \
	"hugepages "                                                                       \
	"regions listen json"
#define CHECK_EVERY_NS 50000000

struct blk_options {
	struct rig_options rig;
	bool random, verify;
	const char *rw;
	uint32_t bs;
	unsigned mix, read_percent;
	unsigned depth;
};

enum slot_state { SLOT_RUN, SLOT_READ_BACK };

struct slot {
	uint64_t start; /* cycles */
	uint64_t block;
	uint64_t gpa;
	uint8_t *host;
	uint64_t generation;
	enum slot_state state;
	bool write;
	unsigned queue;
};

struct blk_run {
	const struct blk_options *opt;
	struct rig *rig;
	struct guest_blk *queues;
	struct slot *slots;
	uint64_t n_blocks, next_block, generation, random;
	uint8_t *busy; /* with --verify: blocks that a slot works on */
	struct histogram latency;
	uint64_t errors, verified, reads;
	bool stopping;
	unsigned running;
};

static uint64_t next_random(uint64_t *s)
{
	/* xorshift64* */
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * UINT64_C(2685821657736338717);
}

static uint64_t pick(struct blk_run *b)
{
	uint64_t block;

	do {
		if (b->opt->random)
			block = next_random(&b->random) % b->n_blocks;
		else
			block = b->next_block++ % b->n_blocks;
	} while (b->busy && b->busy[block]);
	return block;
}

/* Of a mix the dice decide, so that no pattern of the ring's meets one of ours. */
static bool pick_write(struct blk_run *b)
{
	unsigned reads = b->opt->read_percent;

	if (reads == 0 || reads == 100)
		return reads == 0;
	return (next_random(&b->random) >> 32) % 100 >= reads;
}

/* Each sector says where it belongs and which write it is of, in every word. */
static uint64_t word_of(const struct slot *s, const struct blk_options *o, uint32_t at)
{
	uint64_t where = s->block * o->bs + at;

	return (where ^ s->generation << 40) * UINT64_C(0x9e3779b97f4a7c15) + where;
}

static void fill(struct slot *s, const struct blk_options *o)
{
	for (uint32_t at = 0; at < o->bs; at += 8) {
		uint64_t v = word_of(s, o, at);

		memcpy(s->host + at, &v, 8);
	}
}

static void compare(const struct blk_run *b, const struct slot *s)
{
	for (uint32_t at = 0; at < b->opt->bs; at += 8) {
		uint64_t want = word_of(s, b->opt, at), got;

		memcpy(&got, s->host + at, 8);
		if (got != want)
			errx(1,
			     "%s: byte %llu of the disk reads %#llx, but %#llx was written (write "
			     "number %llu)",
			     b->rig->path, (unsigned long long)s->block * b->opt->bs + at,
			     (unsigned long long)got, (unsigned long long)want,
			     (unsigned long long)s->generation);
	}
}

static void submit(struct blk_run *b, struct slot *s)
{
	struct driver_seg data = { .gpa = s->gpa, .len = b->opt->bs };

	if (s->state == SLOT_RUN) {
		s->block = pick(b);
		s->write = pick_write(b);
		if (b->opt->verify) {
			b->busy[s->block] = 1;
			s->generation = ++b->generation;
			fill(s, b->opt);
		}
	} else {
		s->write = false;
		memset(s->host, 0xdb, b->opt->bs);
	}
	s->start = clock_cycles();
	if (guest_blk_submit(&b->queues[s->queue], s->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
			     s->block * (b->opt->bs / SECTOR), &data, 1, s) < 0)
		errx(1, "%s: ring %u is full; a larger --queue-size or a smaller --depth helps",
		     b->rig->path, s->queue);
}

/*
 * One request is back: counted, and its slot sent on its way again. One that failed is no work
 * done, however fast it failed, and what a failed write left on the disk is nobody's to say.
 */
static void done(struct blk_run *b, const struct guest_blk_done *d, uint64_t now)
{
	struct slot *s = d->cookie;
	bool ok = d->status == VIRTIO_BLK_S_OK;

	if (!ok && b->errors++ == 0)
		warnx("%s: the first request that failed: status %u at byte %llu", b->rig->path,
		      d->status, (unsigned long long)s->block * b->opt->bs);
	if (ok && s->state == SLOT_RUN) {
		histogram_add(&b->latency, now - s->start);
		b->reads += !s->write;
	}
	if (ok && s->state == SLOT_READ_BACK) {
		compare(b, s);
		b->verified++;
	}
	if (b->opt->verify && ok && s->state == SLOT_RUN) {
		s->state = SLOT_READ_BACK;
	} else {
		if (b->busy)
			b->busy[s->block] = 0;
		s->state = SLOT_RUN;
	}
	if (b->stopping && s->state == SLOT_RUN)
		b->running--;
	else
		submit(b, s);
}

/* What queue @i has done. @return how many. */
static unsigned reap(struct blk_run *b, unsigned i)
{
	struct guest_blk_done d;
	unsigned n = 0;
	int rc;

	while ((rc = guest_blk_poll(&b->queues[i], &d)) > 0) {
		done(b, &d, clock_cycles());
		n++;
	}
	if (rc < 0)
		rig_die(b->rig, "the ring");
	return n;
}

/* With --sleep: there is one queue, and the next request is waited for as a guest does. */
static unsigned sleep_for_one(struct blk_run *b)
{
	struct guest_blk_done d;

	if (guest_blk_wait(&b->queues[0], &d) < 0)
		rig_die(b->rig, "waiting for a request");
	done(b, &d, clock_cycles());
	return 1 + reap(b, 0);
}

static void loop(struct blk_run *b)
{
	uint64_t per_us = clock_cycles_per_us(), start = clock_cycles(), now;
	uint64_t end = start + b->opt->rig.time_s * 1000000 * per_us;
	uint64_t last_work = start, next_check = start;

	while (b->running) {
		unsigned n = 0;

		if (b->opt->rig.sleep)
			n = sleep_for_one(b);
		else
			for (unsigned i = 0; i < b->opt->rig.queues; i++)
				n += reap(b, i);
		for (unsigned i = 0; i < b->opt->rig.queues; i++)
			guest_blk_kick(&b->queues[i]);
		now = clock_cycles();
		if (n)
			last_work = now;
		if (now >= end)
			b->stopping = true;
		if (now >= next_check) {
			rig_check_alive(b->rig, (now - last_work) * 1000 / per_us,
					b->opt->rig.timeout_ms);
			next_check = now + CHECK_EVERY_NS / 1000 * per_us;
		}
	}
}

static uint64_t capacity_of(struct rig *r)
{
	uint64_t sectors;

	if (frontend_get_config(&r->frontend, offsetof(struct virtio_blk_config, capacity),
				&sectors, sizeof(sectors)) < 0)
		rig_die(r, "reading the disk's capacity");
	return sectors * SECTOR;
}

static void prepare(struct blk_run *b)
{
	const struct blk_options *o = b->opt;
	unsigned n = o->depth * o->rig.queues;

	b->n_blocks = capacity_of(b->rig) / o->bs;
	if (b->n_blocks < (o->verify ? 2 : 1) * (uint64_t)n)
		errx(1, "%s: the disk has room for %llu blocks of %u bytes only", b->rig->path,
		     (unsigned long long)b->n_blocks, o->bs);
	b->random = clock_ns() | 1;
	b->queues = calloc(o->rig.queues, sizeof(*b->queues));
	b->slots = calloc(n, sizeof(*b->slots));
	b->busy = o->verify ? calloc(b->n_blocks, 1) : NULL;
	if (!b->queues || !b->slots || (o->verify && !b->busy))
		errx(1, "out of memory");
	for (unsigned i = 0; i < o->rig.queues; i++)
		if (guest_blk_open(&b->queues[i], &b->rig->frontend, i) < 0)
			rig_die(b->rig, "making requests");
	for (unsigned i = 0; i < n; i++) {
		struct slot *s = &b->slots[i];

		s->queue = i % o->rig.queues;
		s->host = rig_alloc(b->rig, o->bs, 4096, &s->gpa);
		if (!s->host)
			errx(1, "no guest memory for buffers");
		memset(s->host, 0x5a, o->bs);
		submit(b, s);
		b->running++;
	}
	for (unsigned i = 0; i < o->rig.queues; i++)
		guest_blk_kick(&b->queues[i]);
}

static void report(const struct blk_run *b, double seconds, double cpu, double steal)
{
	const struct blk_options *o = b->opt;
	double n = (double)b->latency.n;

	if (o->rig.json)
		printf("{ \"kind\": \"blk\", \"rw\": \"%s\", \"reads\": %llu, \"bs\": %u, "
		       "\"depth\": %u, "
		       "\"queues\": "
		       "%u, \"ring\": \"%s\", \"seconds\": %.3f, \"requests\": %llu, \"iops\": "
		       "%.0f, \"mib_s\": %.1f, \"errors\": %llu, \"verified\": %llu, "
		       "\"backend_cpu_s\": %.2f, \"backend_cpu_s_per_million\": %.3f, "
		       "\"steal_s\": %.2f",
		       o->rw, (unsigned long long)b->reads, o->bs, o->depth, o->rig.queues,
		       o->rig.packed ? "packed" : "split", seconds,
		       (unsigned long long)b->latency.n, n / seconds,
		       n * o->bs / seconds / (1 << 20), (unsigned long long)b->errors,
		       (unsigned long long)b->verified, cpu, n ? cpu / n * 1e6 : 0, steal);
	else
		printf("%s, %u bytes, depth %u, %u queue%s, %s ring\n"
		       "requests       %llu in %.2f s, %llu reads, %llu failed\n"
		       "rate           %.0f a second, %.1f MiB/s\n",
		       o->rw, o->bs, o->depth, o->rig.queues, o->rig.queues > 1 ? "s" : "",
		       o->rig.packed ? "packed" : "split", (unsigned long long)b->latency.n,
		       seconds, (unsigned long long)b->reads, (unsigned long long)b->errors,
		       n / seconds, n * o->bs / seconds / (1 << 20));
	rig_print_latency(&b->latency, o->rig.json);
	if (o->rig.json) {
		printf(" }\n");
		return;
	}
	if (o->verify)
		printf("verified       %llu writes, read back and compared\n",
		       (unsigned long long)b->verified);
	if (cpu >= 0)
		printf("back-end CPU   %.2f s, %.3f s per million requests\n", cpu,
		       n ? cpu / n * 1e6 : 0);
	printf("steal          %.2f s\n", steal);
}

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: sluice-bench blk SOCKET [OPTION]...\n"
		"Drives a vhost-user-blk back-end, as VMM and guest driver in one.\n\n"
		"  --rw WHAT         read, write, randread (default), randwrite; a mix: readwrite, "
		"randrw\n"
		"  --mix PERCENT     of a mix that is reads (50)\n"
		"  --bs BYTES        of a request, a multiple of 512 (4K)\n"
		"  --depth N         requests in flight on each queue (32)\n"
		"  --verify          read back each write and compare\n");
	rig_print_options(to, COMMON_OPTIONS);
}

static void use_rw(struct blk_options *o)
{
	static const char *const words[] = { "read",	 "write",     "readwrite",
					     "randread", "randwrite", "randrw" };
	const unsigned reads[] = { 100, 0, o->mix };

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(o->rw, words[i]) == 0) {
			o->read_percent = reads[i % 3];
			o->random = i >= 3;
			return;
		}
	errx(2, "--rw %s: say read, write, readwrite, randread, randwrite or randrw", o->rw);
}

static const char *parse(int argc, char **argv, struct blk_options *o)
{
	const struct rig_option own[] = {
		{ "rw", RIG_TEXT, &o->rw, 0, 0 },
		{ "bs", RIG_NUMBER, &o->bs, SECTOR, 16 << 20 },
		{ "mix", RIG_NUMBER, &o->mix, 0, 100 },
		{ "depth", RIG_NUMBER, &o->depth, 1, 32768 },
		{ "verify", RIG_FLAG, &o->verify, 0, 0 },
	};
	int at = rig_parse(argc, argv, &o->rig,
			   &(struct rig_command) { own, ARRAY_SIZE(own), COMMON_OPTIONS, usage });

	use_rw(o);
	if (at + 1 != argc)
		errx(2, "blk takes one socket; see sluice-bench blk --help");
	if (o->bs % SECTOR)
		errx(2, "--bs %u: not a multiple of 512", o->bs);
	if (o->verify && o->read_percent > 0)
		errx(2, "--verify compares what it wrote; use --rw write or randwrite");
	if (o->rig.sleep && o->rig.queues > 1)
		errx(2, "--sleep waits on one queue; leave --queues out");
	/* Without a table a request takes three descriptors: header, data, status. */
	if (o->depth * (o->rig.indirect ? 1 : 3) > o->rig.queue_size)
		errx(2, "--depth %u: a ring of %u holds %u requests%s", o->depth, o->rig.queue_size,
		     o->rig.queue_size / (o->rig.indirect ? 1 : 3),
		     o->rig.indirect ? "" : " of three descriptors");
	return argv[at];
}

int bench_blk(int argc, char **argv)
{
	static struct blk_options o = {
		.rig = RIG_OPTIONS_DEFAULT, .rw = "randread", .bs = 4096, .mix = 50, .depth = 32
	};
	static struct blk_run b;
	double cpu, steal;
	uint64_t start;

	b.opt = &o;
	const char *path = parse(argc, argv, &o);

	rig_pin(o.rig.cpu);
	clock_cycles_per_us();
	b.rig = rig_open(&o.rig, path, o.rig.queues,
			 o.rig.queues > 1 ? UINT64_C(1) << VIRTIO_BLK_F_MQ : 0,
			 (uint64_t)o.rig.queues * o.depth * ALIGN_UP(o.bs, 4096));
	cpu = rig_cpu_seconds(b.rig->pid);
	steal = rig_steal_seconds();
	start = clock_ns();
	prepare(&b);
	loop(&b);
	report(&b, (double)(clock_ns() - start) / 1e9, rig_spent(cpu, rig_cpu_seconds(b.rig->pid)),
	       rig_spent(steal, rig_steal_seconds()));
	for (unsigned i = 0; i < o.rig.queues; i++)
		guest_blk_close(&b.queues[i]);
	rig_close(b.rig);
	free(b.queues);
	free(b.slots);
	free(b.busy);
	return b.errors ? 1 : 0;
}
