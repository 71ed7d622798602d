/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-bench blk: the command line. */
#include "bench/blk.h"

#include <err.h>
#include <stdio.h>
#include <string.h>

#define BS_USUAL 4096u
#define MIX_USUAL 50u
#define NOT_SAID UINT32_MAX

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: sluice-bench blk SOCKET [OPTION]...\n"
		"Drives a vhost-user-blk back-end, as VMM and guest driver in one.\n\n"
		"  --rw WHAT         read, write, randread (default), randwrite; a mix: readwrite, "
		"randrw;\n"
		"                    flush, discard, randdiscard, writezeroes, randwritezeroes\n"
		"  --mix PERCENT     of a mix that is reads (50)\n"
		"  --bs BYTES        of a request, a multiple of 512 (4K)\n"
		"  --size BYTES      of the disk that is used, from its beginning (all)\n"
		"  --depth N         requests in flight on each queue, at most (32)\n"
		"  --fsync N         a flush after so many writes, of each thread\n"
		"  --rate N          start so many requests a second, whether those before are\n"
		"                    done or not; latency runs from when each was due\n"
		"  --arrival WHAT    of --rate: constant (default) or poisson\n"
		"  --trace FILE      the requests of a file, each at its time\n"
		"  --trace-fast      the same, each as soon as there is room\n"
		"  --verify          sectors with CRC, place and write number, all looked at\n");
	rig_print_options(to, NULL, 5);
}

static void use_rw(struct blk_options *o)
{
	static const char *const words[] = { "read",	 "write",     "readwrite",
					     "randread", "randwrite", "randrw" };
	static const struct {
		const char *word;
		enum blk_op op;
		bool random;
	} others[] = { { "flush", BLK_FLUSH, false },
		       { "discard", BLK_DISCARD, false },
		       { "randdiscard", BLK_DISCARD, true },
		       { "writezeroes", BLK_WRITE_ZEROES, false },
		       { "randwritezeroes", BLK_WRITE_ZEROES, true } };
	const unsigned reads[] = { 100, 0, o->mix };

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(o->rw, words[i]) == 0) {
			o->read_percent = reads[i % 3];
			o->random = i >= 3;
			o->ops = (o->read_percent > 0 ? 1u << BLK_READ : 0) |
				 (o->read_percent < 100 ? 1u << BLK_WRITE : 0);
			return;
		}
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		if (strcmp(o->rw, others[i].word) == 0) {
			o->op = others[i].op;
			o->random = others[i].random;
			o->ops = 1u << o->op;
			return;
		}
	errx(2,
	     "--rw %s: say read, write, readwrite, randread, randwrite, randrw, flush, discard, "
	     "randdiscard, writezeroes or randwritezeroes",
	     o->rw);
}

void blk_check_depth(const struct blk_options *o, bool indirect, int code)
{
	/* Without a table a request takes three descriptors: header, data, status. */
	unsigned each = indirect ? 1 : 3;

	if (o->depth * each > o->rig.queue_size)
		errx(code, "--depth %u: a ring of %u holds %u requests%s", o->depth,
		     o->rig.queue_size, o->rig.queue_size / each,
		     each == 1 ? "" : " of three descriptors");
}

static void use_trace(struct blk_options *o, bool load_said)
{
	if (load_said || o->rate || o->fsync || o->verify || o->rig.warmup_s)
		errx(2, "--trace says what is done and when: leave --rw, --bs, --mix, --rate, "
			"--fsync, --verify and --warmup out");
	blk_trace_read(&o->trace, o->trace_path);
	o->ops = o->trace.ops;
	o->rw = "trace";
	o->bs = MAX(o->trace.longest, SECTOR);
}

static void check(struct blk_options *o)
{
	if (o->bs % SECTOR)
		errx(2, "--bs %u: not a multiple of 512", o->bs);
	if (o->verify && !(o->ops & (1u << BLK_WRITE | 1u << BLK_WRITE_ZEROES)))
		errx(2, "--verify compares what it wrote; use --rw write, randwrite, a mix of them "
			"or writezeroes");
	if (o->fsync && !(o->ops & 1u << BLK_WRITE))
		errx(2, "--fsync %u: --rw %s has no writes", o->fsync, o->rw);
	if (o->fsync)
		o->ops |= 1u << BLK_FLUSH;
	if (strcmp(o->arrival, "poisson") == 0)
		o->poisson = true;
	else if (strcmp(o->arrival, "constant") != 0)
		errx(2, "--arrival %s: say constant or poisson", o->arrival);
	if (o->poisson && !o->rate)
		errx(2, "--arrival poisson needs --rate");
	blk_check_depth(o, o->rig.indirect, 2);
}

const char *blk_parse(int argc, char **argv, struct blk_options *o)
{
	const char *rw = NULL;
	unsigned bs = 0, mix = NOT_SAID;
	const struct rig_option own[] = {
		{ "rw", RIG_TEXT, &rw, 0, 0 },
		{ "bs", RIG_NUMBER, &bs, SECTOR, BLK_BYTES_MAX },
		{ "size", RIG_BIG_NUMBER, &o->size, SECTOR, UINT64_C(1) << 62 },
		{ "mix", RIG_NUMBER, &mix, 0, 100 },
		{ "depth", RIG_NUMBER, &o->depth, 1, 32768 },
		{ "fsync", RIG_NUMBER, &o->fsync, 1, 1u << 30 },
		{ "rate", RIG_RATE, &o->rate, 1, 1000000000 },
		{ "arrival", RIG_TEXT, &o->arrival, 0, 0 },
		{ "trace", RIG_TEXT, &o->trace_path, 0, 0 },
		{ "trace-fast", RIG_FLAG, &o->trace_fast, 0, 0 },
		{ "verify", RIG_FLAG, &o->verify, 0, 0 },
	};
	int at;

	o->rig.time_s = 0;
	at = rig_parse(argc, argv, &o->rig,
		       &(struct rig_command) { own, ARRAY_SIZE(own), NULL, usage });
	if (at + 1 != argc)
		errx(2, "blk takes one socket; see sluice-bench blk --help");
	o->rw = rw ? rw : "randread";
	o->bs = bs ? bs : BS_USUAL;
	o->mix = mix != NOT_SAID ? mix : MIX_USUAL;
	if (o->trace_path)
		use_trace(o, rw || bs || mix != NOT_SAID);
	else
		use_rw(o);
	if (mix != NOT_SAID && strcmp(o->rw, "readwrite") != 0 && strcmp(o->rw, "randrw") != 0)
		errx(2, "--mix %u: --rw %s is no mix; use readwrite or randrw", mix, o->rw);
	if (bs && o->op == BLK_FLUSH)
		errx(2, "--bs %u: a flush has no bytes", bs);
	if (o->trace_fast && !o->trace_path)
		errx(2, "--trace-fast needs --trace FILE");
	/* A trace without --time runs to its end. */
	if (!o->rig.time_s && !o->trace_path)
		o->rig.time_s = 5;
	check(o);
	return argv[at];
}
