/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes, reads and flushes without end, and knows of each block which generation of it was
 * acknowledged last: every read, and in the end every block, must show exactly that one. Several
 * processes on each CPU, each with a share of the disk to itself and one request at a time, so
 * that there is never any doubt, and the device has always several.
 *
 * Ten times a second it says how far it is; `least` is the count of the process that has done
 * the least: while it rises, no request hangs. A line on standard input ends it. The digest is one
 * of all blocks' generations; churn_check() finds the same in the image.
 */
#include "sector.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define BLOCK 4096u
#define BLOCK_SECTORS (BLOCK / SECTOR)
#define BLOCKS_MAX 8u /* of a request */
#define HOT 16u	      /* blocks of a share that are written over and over */
#define PER_CPU 8
#define WRITERS_MAX (PER_CPU * CPUS_MAX)
#define REPORT_MS 100

/* In memory that all processes share; each writes its own. */
struct tally {
	uint64_t writes, reads, flushes, digest;
};
static struct shared {
	bool stop;
	struct tally of[WRITERS_MAX];
} * shared;

struct share {
	const struct disk *d;
	struct tally *tally;
	uint64_t first, n; /* blocks */
	uint64_t *acked;   /* generation of each; 0: never written */
	uint64_t generation, x;
	uint8_t *buf;
};

static uint64_t rnd(struct share *s, uint64_t below)
{
	s->x = mix(s->x);
	return (s->x >> 11) % below;
}

/* A block's share in the sum of all. */
static uint64_t digest_of(uint64_t block, uint64_t generation)
{
	return generation ? mix(mix(block) ^ generation) : 0;
}

/* Does @buf hold @generation of @block? Says so if not. */
static int check_block(const struct disk *d, uint64_t block, uint64_t generation,
		       const uint8_t *buf)
{
	uint64_t want[SECTOR / 8] = { 0 }, got[SECTOR / 8];

	for (unsigned i = 0; i < BLOCK_SECTORS; i++) {
		uint64_t sector = block * BLOCK_SECTORS + i;

		if (generation)
			sector_make(d, sector, generation, want);
		memcpy(got, buf + i * SECTOR, SECTOR);
		if (memcmp(got, want, SECTOR) == 0)
			continue;
		printf("SLUICE error=%s: sector %llu holds generation %llu of sector %llu, or part "
		       "of it; generation %llu was acknowledged\n",
		       d->path, (unsigned long long)sector, (unsigned long long)got[2],
		       (unsigned long long)got[0], (unsigned long long)generation);
		return 1;
	}
	return 0;
}

static int write_blocks(struct share *s, uint64_t at, unsigned n, uint8_t *buf)
{
	uint64_t block = s->first + at, words[SECTOR / 8];
	uint64_t generation = s->generation + 1;

	for (unsigned i = 0; i < n * BLOCK_SECTORS; i++) {
		sector_make(s->d, block * BLOCK_SECTORS + i, generation + i / BLOCK_SECTORS, words);
		memcpy(buf + i * SECTOR, words, SECTOR);
	}
	if (pwrite(s->d->fd, buf, n * BLOCK, (off_t)(block * BLOCK)) != (ssize_t)(n * BLOCK))
		return fail(s->d, "write", block * BLOCK_SECTORS);
	for (unsigned i = 0; i < n; i++)
		s->acked[at + i] = ++s->generation;
	__atomic_fetch_add(&s->tally->writes, 1, __ATOMIC_RELAXED);
	return 0;
}

static int read_blocks(struct share *s, uint64_t at, unsigned n, uint8_t *buf)
{
	uint64_t block = s->first + at;

	memset(buf, 0xa5, n * BLOCK);
	if (pread(s->d->fd, buf, n * BLOCK, (off_t)(block * BLOCK)) != (ssize_t)(n * BLOCK))
		return fail(s->d, "read", block * BLOCK_SECTORS);
	for (unsigned i = 0; i < n; i++)
		if (check_block(s->d, block + i, s->acked[at + i], buf + i * BLOCK))
			return 1;
	__atomic_fetch_add(&s->tally->reads, 1, __ATOMIC_RELAXED);
	return 0;
}

static int flush(struct share *s)
{
	if (fdatasync(s->d->fd))
		return fail(s->d, "flush", 0);
	__atomic_fetch_add(&s->tally->flushes, 1, __ATOMIC_RELAXED);
	return 0;
}

static int one_request(struct share *s)
{
	unsigned n = 1 + (unsigned)rnd(s, BLOCKS_MAX), kind = (unsigned)rnd(s, 100);
	uint64_t at = rnd(s, rnd(s, 2) ? HOT : s->n - BLOCKS_MAX + 1);
	uint8_t *buf = s->buf + rnd(s, 8) * SECTOR;

	/* Flushes take longest, and so are in flight the most. */
	if (kind < 50)
		return write_blocks(s, at, n, buf);
	if (kind < 80)
		return read_blocks(s, at, n, buf);
	return flush(s);
}

static int churn_share(struct share *s)
{
	s->acked = calloc(s->n, sizeof(*s->acked));
	if (!s->acked || posix_memalign((void **)&s->buf, BLOCK, (BLOCKS_MAX + 1) * BLOCK))
		return fail(s->d, "memory", 0);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED))
		if (one_request(s))
			return 1;
	if (flush(s))
		return 1;
	for (uint64_t i = 0; i < s->n; i++) {
		if (read_blocks(s, i, 1, s->buf))
			return 1;
		s->tally->digest += digest_of(s->first + i, s->acked[i]);
	}
	return 0;
}

static struct tally add_up(int n, uint64_t *least)
{
	struct tally sum = { 0 };

	*least = UINT64_MAX;
	for (int i = 0; i < n; i++) {
		const struct tally *t = &shared->of[i];
		uint64_t writes = __atomic_load_n(&t->writes, __ATOMIC_RELAXED);
		uint64_t reads = __atomic_load_n(&t->reads, __ATOMIC_RELAXED);
		uint64_t flushes = __atomic_load_n(&t->flushes, __ATOMIC_RELAXED);

		sum.writes += writes;
		sum.reads += reads;
		sum.flushes += flushes;
		sum.digest += t->digest;
		if (writes + reads + flushes < *least)
			*least = writes + reads + flushes;
	}
	return sum;
}

static void report(int n)
{
	uint64_t least;
	struct tally sum = add_up(n, &least);

	printf("SLUICE writes=%llu reads=%llu flushes=%llu least=%llu\n",
	       (unsigned long long)sum.writes, (unsigned long long)sum.reads,
	       (unsigned long long)sum.flushes, (unsigned long long)least);
	fflush(stdout);
}

/* Until we are told to, or one of them has failed: it has said why. @return how many failed */
static int supervise(int n)
{
	int failed = 0, status, left = n;
	bool waiting = false;

	while (left) {
		pid_t pid = waitpid(-1, &status, waiting ? 0 : WNOHANG);

		if (pid > 0) {
			left--;
			failed += !WIFEXITED(status) || WEXITSTATUS(status);
			waiting = true;
		} else if (pid == 0) {
			report(n);
			waiting = told_to_stop(REPORT_MS);
		}
		if (waiting)
			__atomic_store_n(&shared->stop, true, __ATOMIC_RELAXED);
	}
	return failed;
}

int churn(const struct disk *d)
{
	int cpus = n_cpus(), n = cpus * PER_CPU;
	uint64_t blocks = d->sectors / BLOCK_SECTORS / (unsigned)n, least;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED || blocks < HOT + BLOCKS_MAX)
		return fail(d, "memory, or a disk too small", 0);
	fflush(stdout);
	for (int i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return fail(d, "fork", 0);
		if (pid == 0) {
			struct share s = { .d = d,
					   .tally = &shared->of[i],
					   .first = (unsigned)i * blocks,
					   .n = blocks,
					   .x = d->seed + (unsigned)i };
			int status;

			pin_to(i % cpus);
			status = churn_share(&s);
			fflush(stdout);
			_exit(status);
		}
	}
	if (supervise(n))
		return 1;
	report(n);
	printf("SLUICE blocks=%llu digest=%016llx\n", (unsigned long long)blocks * (unsigned)n,
	       (unsigned long long)add_up(n, &least).digest);
	return 0;
}

int churn_check(const struct disk *d)
{
	uint64_t digest = 0, block, words[SECTOR / 8];
	uint8_t *buf;

	if (posix_memalign((void **)&buf, BLOCK, BLOCK))
		return fail(d, "memory", 0);
	for (block = 0; block < d->sectors / BLOCK_SECTORS; block++) {
		if (pread(d->fd, buf, BLOCK, (off_t)(block * BLOCK)) != BLOCK)
			return fail(d, "read", block * BLOCK_SECTORS);
		memcpy(words, buf, SECTOR);
		if (check_block(d, block, words[2], buf))
			return 1;
		digest += digest_of(block, words[2]);
	}
	free(buf);
	printf("SLUICE blocks=%llu digest=%016llx\n", (unsigned long long)block,
	       (unsigned long long)digest);
	return 0;
}
