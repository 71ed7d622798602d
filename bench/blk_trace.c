/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traces: one request a line, in one of three formats that tell themselves apart.
 *
 *	1500 write 4096 8192		ours: microseconds, what, byte, bytes; # begins a remark
 *	/dev/sda write 4096 8192	fio's iolog, "fio version 2 iolog" (and 3) in its first line
 *	8,0 1 5 0.0015 697 D WS 8 + 16 [x]	blkparse's output: what was issued (D) counts
 */
#include "bench/blk.h"

#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 512
#define WORDS_MAX 12
/* So that it can be told in cycles of any machine. Of blkparse it is seconds since the epoch, or
 * since the beginning. */
#define TIME_MAX_US (UINT64_C(50) * 366 * 86400 * 1000000)

enum format { FORMAT_OWN, FORMAT_FIO_2, FORMAT_FIO_3, FORMAT_BLKPARSE };

struct reader {
	struct blk_trace *trace;
	const char *path;
	uint64_t line, room;
	enum format format;
	char file[LINE_BYTES]; /* fio: the only one */
	uint64_t waited_us;    /* fio 2 */
};

const char *const blk_op_names[BLK_OPS] = { "read", "write", "flush", "discard", "writezeroes" };

/* @word: NULL for none. It may be of any file: no terminal is to obey it. */
static void __attribute__((noreturn))
bad(const struct reader *r, const char *what, const char *word)
{
	char plain[40];
	unsigned n = 0;

	for (; word && word[n] && n < sizeof(plain) - 1; n++)
		plain[n] = word[n] >= ' ' && word[n] <= '~' ? word[n] : '?';
	plain[n] = '\0';
	errx(2, "%s: line %llu: %s%s%s", r->path, (unsigned long long)r->line, what,
	     word ? ": " : "", plain);
}

/* In units of @unit. What the product does not hold is no number either. */
static uint64_t number(const struct reader *r, const char *word, const char *what, uint64_t unit)
{
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(word ? word : "", &end, 10);
	if (!word || !isdigit((unsigned char)*word) || *end)
		bad(r, what, word ? word : "missing");
	if (errno == ERANGE || v > UINT64_MAX / unit)
		bad(r, "a number that is too large", word);
	return v * unit;
}

static void add(struct reader *r, uint64_t at_us, enum blk_op op, uint64_t offset, uint64_t len)
{
	struct blk_trace *t = r->trace;

	if (op == BLK_FLUSH)
		offset = len = 0;
	else if (len == 0 || len % SECTOR || offset % SECTOR)
		bad(r, "offset and length must be multiples of 512, and no length 0", NULL);
	else if (len > BLK_BYTES_MAX)
		bad(r, "a request of more than 16 MiB", NULL);
	else if (offset > UINT64_MAX - len)
		bad(r, "an offset beyond all disks", NULL);
	if (at_us > TIME_MAX_US)
		bad(r, "its time is more than 50 years from 0; say microseconds", NULL);
	if (t->n && at_us < t->request[t->n - 1].at_us)
		bad(r, "its time is before that of the line above; sort the trace", NULL);
	if (t->n == r->room) {
		r->room = MAX(r->room * 2, UINT64_C(1024));
		t->request = reallocarray(t->request, r->room, sizeof(*t->request));
		if (!t->request)
			errx(1, "%s: out of memory at line %llu", r->path,
			     (unsigned long long)r->line);
	}
	t->request[t->n++] = (struct blk_request) {
		.at_us = at_us, .offset = offset, .len = (uint32_t)len, .op = op
	};
	t->end = MAX(t->end, offset + len);
	t->longest = MAX(t->longest, (uint32_t)len);
	t->ops |= 1u << op;
}

static void own_line(struct reader *r, char **word)
{
	uint64_t at_us = number(r, word[0], "no time in microseconds", 1);

	for (unsigned op = 0; op < BLK_OPS; op++)
		if (word[1] && strcmp(word[1], blk_op_names[op]) == 0) {
			bool flush = op == BLK_FLUSH;

			add(r, at_us, op, flush ? 0 : number(r, word[2], "no offset", 1),
			    flush ? 0 : number(r, word[3], "no length", 1));
			return;
		}
	bad(r, "not read, write, flush, discard or writezeroes", word[1] ? word[1] : "nothing");
}

/* fio(1), "TRACE FILE FORMAT": file, action, offset, length; version 3 has milliseconds before. */
static void fio_line(struct reader *r, char **word)
{
	static const struct {
		const char *name;
		enum blk_op op;
	} actions[] = { { "read", BLK_READ },
			{ "write", BLK_WRITE },
			{ "sync", BLK_FLUSH },
			{ "datasync", BLK_FLUSH },
			{ "trim", BLK_DISCARD } };
	uint64_t at_us = r->waited_us;

	if (r->format == FORMAT_FIO_3)
		at_us = number(r, *word++, "no time in milliseconds", 1000);
	if (!word[0] || !word[1])
		bad(r, "no file and action", NULL);
	if (!r->file[0])
		snprintf(r->file, sizeof(r->file), "%s", word[0]);
	if (strcmp(r->file, word[0]) != 0)
		bad(r, "a second file, but there is one disk", word[0]);
	if (strcmp(word[1], "add") == 0 || strcmp(word[1], "open") == 0 ||
	    strcmp(word[1], "close") == 0)
		return;
	if (strcmp(word[1], "wait") == 0) {
		r->waited_us += number(r, word[2], "no time in microseconds", 1);
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(actions); i++)
		if (strcmp(word[1], actions[i].name) == 0) {
			bool flush = actions[i].op == BLK_FLUSH;

			add(r, at_us, actions[i].op, flush ? 0 : number(r, word[2], "no offset", 1),
			    flush ? 0 : number(r, word[3], "no length", 1));
			return;
		}
	bad(r, "no action that a disk knows", word[1]);
}

/* blkparse(1), "Default output": device, CPU, serial, seconds, process, action, RWBS, from + n. */
static void blkparse_line(struct reader *r, char **word, unsigned n)
{
	unsigned long long s, ns;
	const char *rwbs = n > 6 ? word[6] : "";
	enum blk_op op;

	if (n < 7 || !strchr(word[0], ',') || strcmp(word[5], "D") != 0)
		return; /* other events, and the summary at the end */
	if (sscanf(word[3], "%12llu.%9llu", &s, &ns) != 2)
		bad(r, "no time in seconds", word[3]);
	if (strchr(rwbs, 'D'))
		op = BLK_DISCARD;
	else if (strchr(rwbs, 'R'))
		op = BLK_READ;
	else if (strchr(rwbs, 'W'))
		op = BLK_WRITE;
	else if (strchr(rwbs, 'F'))
		op = BLK_FLUSH;
	else
		return;
	if (n < 10 || strcmp(word[8], "+") != 0)
		op = BLK_FLUSH; /* a flush of its own has no place */
	add(r, s * 1000000 + ns / 1000, op,
	    op == BLK_FLUSH ? 0 : number(r, word[7], "no sector", SECTOR),
	    op == BLK_FLUSH ? 0 : number(r, word[9], "no length", SECTOR));
}

static enum format format_of(const struct reader *r, const char *line)
{
	unsigned major, minor, version;

	if (sscanf(line, "fio version %u iolog", &version) == 1) {
		if (version != 2 && version != 3)
			bad(r, "version 2 and 3 of fio's iolog are known", NULL);
		return version == 2 ? FORMAT_FIO_2 : FORMAT_FIO_3;
	}
	return sscanf(line, " %u,%u ", &major, &minor) == 2 ? FORMAT_BLKPARSE : FORMAT_OWN;
}

static void read_line(struct reader *r, char *line)
{
	char *word[WORDS_MAX + 1] = { NULL }, *rest;
	unsigned n = 0;

	if (r->line == 1) {
		r->format = format_of(r, line);
		if (r->format == FORMAT_FIO_2 || r->format == FORMAT_FIO_3)
			return;
	}
	if (r->format == FORMAT_OWN)
		line[strcspn(line, "#")] = '\0';
	for (char *w = strtok_r(line, " \t\r\n", &rest); w && n < WORDS_MAX;
	     w = strtok_r(NULL, " \t\r\n", &rest))
		word[n++] = w;
	if (n == 0)
		return;
	if (r->format == FORMAT_OWN)
		own_line(r, word);
	else if (r->format == FORMAT_BLKPARSE)
		blkparse_line(r, word, n);
	else
		fio_line(r, word);
}

void blk_trace_read(struct blk_trace *t, const char *path)
{
	struct reader r = { .trace = t, .path = path };
	char line[LINE_BYTES];
	uint64_t first;
	FILE *f = fopen(path, "re");

	if (!f)
		err(2, "--trace %s", path);
	while (fgets(line, sizeof(line), f)) {
		r.line++;
		if (!strchr(line, '\n') && !feof(f))
			bad(&r, "a line of more than 510 characters; is this a trace?", NULL);
		read_line(&r, line);
	}
	if (ferror(f))
		err(2, "--trace %s", path);
	fclose(f);
	if (t->n == 0)
		errx(2, "--trace %s: no requests in it", path);
	/* A trace begins with its first request. */
	first = t->request[0].at_us;
	for (uint64_t i = 0; i < t->n; i++)
		t->request[i].at_us -= first;
}
