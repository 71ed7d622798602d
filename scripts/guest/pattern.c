/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pattern: fills a disk with sectors that know where they belong, and checks them. Runs inside the
 * test guests (statically linked), and on the host against the image that the guest wrote.
 *
 *	pattern fill DISK SEED		write every sector, from one process for each CPU
 *	pattern check DISK SEED		read every sector back and compare
 *	pattern journal DISK SEED		write block after block, each flushed and then
 *					reported, until the disk is full or a line is read
 *	pattern journal-check DISK SEED COUNT	the first COUNT blocks of a journal
 *	pattern churn DISK SEED			write, read and flush at random until a line is
 *					read, and check all the while; see churn.c
 *	pattern churn-check DISK SEED		the disk that churn leaves
 *
 * The requests have all sizes from one sector up, in no order, at any 512-byte alignment in memory
 * and on the disk, past the page cache where that can be had.
 */
#include "sector.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define REQUEST_MAX (256u * 1024)
#define JOURNAL_BLOCK 4096u

int fail(const struct disk *d, const char *what, uint64_t sector)
{
	printf("SLUICE error=%s: %s at sector %llu: %s\n", d->path, what,
	       (unsigned long long)sector, strerror(errno));
	return 1;
}

static int mismatch(const struct disk *d, uint64_t sector, const uint64_t *got)
{
	if (got[1] == d->seed && got[0] < d->sectors)
		printf("SLUICE error=%s: sector %llu holds what belongs to sector %llu, or part of "
		       "it\n",
		       d->path, (unsigned long long)sector, (unsigned long long)got[0]);
	else
		printf("SLUICE error=%s: sector %llu holds something else, beginning with "
		       "%016llx\n",
		       d->path, (unsigned long long)sector, (unsigned long long)got[0]);
	return 1;
}

static int write_range(const struct disk *d, uint64_t first, unsigned n, uint8_t *buf)
{
	uint64_t words[SECTOR / 8];

	for (unsigned i = 0; i < n; i++) {
		sector_make(d, first + i, 0, words);
		memcpy(buf + i * SECTOR, words, SECTOR);
	}
	if (pwrite(d->fd, buf, n * SECTOR, (off_t)(first * SECTOR)) != (ssize_t)(n * SECTOR))
		return fail(d, "write", first);
	return 0;
}

static int check_range(const struct disk *d, uint64_t first, unsigned n, uint8_t *buf)
{
	uint64_t want[SECTOR / 8], got[SECTOR / 8];

	memset(buf, 0xa5, n * SECTOR);
	if (pread(d->fd, buf, n * SECTOR, (off_t)(first * SECTOR)) != (ssize_t)(n * SECTOR))
		return fail(d, "read", first);
	for (unsigned i = 0; i < n; i++) {
		sector_make(d, first + i, 0, want);
		memcpy(got, buf + i * SECTOR, SECTOR);
		if (memcmp(got, want, SECTOR))
			return mismatch(d, first + i, got);
	}
	return 0;
}

/*
 * One process's share: every second extent from the front, then the others from the back, each cut
 * into requests whose size and place in memory change all the time.
 */
static int walk_share(const struct disk *d, uint64_t first, uint64_t last, bool write)
{
	const uint64_t extent = 4 * REQUEST_MAX / SECTOR;
	uint64_t n_extents = (last - first + extent - 1) / extent, x = mix(first);
	uint8_t *buf;

	if (posix_memalign((void **)&buf, 4096, REQUEST_MAX + 4096))
		return fail(d, "memory", 0);
	for (uint64_t i = 0; i < n_extents; i++) {
		uint64_t k = i < (n_extents + 1) / 2 ? 2 * i : 2 * (n_extents - 1 - i) + 1;
		uint64_t at = first + k * extent;
		uint64_t end = at + extent < last ? at + extent : last;

		while (at < end) {
			uint8_t *p = buf + (x >> 32) % 8 * SECTOR;
			uint64_t n;

			x = mix(x);
			n = 1 + (x >> 8) % (x & 1 ? 8 : REQUEST_MAX / SECTOR);
			n = n < end - at ? n : end - at;
			if (write ? write_range(d, at, (unsigned)n, p)
				  : check_range(d, at, (unsigned)n, p))
				return 1;
			at += n;
		}
	}
	free(buf);
	return 0;
}

static int walk(const struct disk *d, bool write)
{
	int n = n_cpus();
	uint64_t share = d->sectors / (unsigned)n;
	int failures = 0, status;

	fflush(stdout);
	for (int i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return fail(d, "fork", 0);
		if (pid == 0) {
			pin_to(i);
			status = walk_share(d, (unsigned)i * share,
					    i == n - 1 ? d->sectors : (unsigned)(i + 1) * share,
					    write);
			fflush(stdout);
			_exit(status);
		}
	}
	while (wait(&status) > 0)
		failures += !WIFEXITED(status) || WEXITSTATUS(status);
	if (write && fsync(d->fd))
		return fail(d, "flush", 0);
	if (!failures)
		printf("SLUICE sectors=%llu\n", (unsigned long long)d->sectors);
	return failures > 0;
}

bool told_to_stop(int wait_ms)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
	char c = 0;

	if (poll(&in, 1, wait_ms) != 1)
		return false;
	while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
		;
	return c == '\n';
}

/* One block after the other, each on stable storage before it is reported. */
static int journal(const struct disk *d)
{
	const unsigned n = JOURNAL_BLOCK / SECTOR;
	uint8_t *buf;

	if (posix_memalign((void **)&buf, 4096, JOURNAL_BLOCK))
		return fail(d, "memory", 0);
	for (uint64_t i = 0; (i + 1) * n <= d->sectors && !told_to_stop(0); i++) {
		if (write_range(d, i * n, n, buf))
			return 1;
		if (fdatasync(d->fd))
			return fail(d, "flush", i * n);
		printf("SLUICE flushed=%llu\n", (unsigned long long)i + 1);
		fflush(stdout);
	}
	return 0;
}

static int journal_check(const struct disk *d, uint64_t count)
{
	const unsigned n = JOURNAL_BLOCK / SECTOR;
	uint8_t *buf;

	if (posix_memalign((void **)&buf, 4096, JOURNAL_BLOCK))
		return fail(d, "memory", 0);
	for (uint64_t i = 0; i < count; i++) {
		if (check_range(d, i * n, n, buf))
			return 1;
	}
	free(buf);
	printf("SLUICE blocks=%llu\n", (unsigned long long)count);
	return 0;
}

static int disk_open(struct disk *d, const char *path, const char *seed, int mode)
{
	struct stat st;
	uint64_t bytes;

	d->path = path;
	d->seed = mix(strtoull(seed, NULL, 0));
	d->fd = open(path, mode | O_DIRECT);
	if (d->fd < 0 && errno == EINVAL) /* a file system without O_DIRECT */
		d->fd = open(path, mode);
	if (d->fd < 0)
		return fail(d, "open", 0);
	if (fstat(d->fd, &st))
		return fail(d, "stat", 0);
	bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(d->fd, BLKGETSIZE64, &bytes))
		return fail(d, "size", 0);
	d->sectors = bytes / SECTOR;
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc >= 4 ? argv[1] : "";
	bool writes = !strcmp(what, "fill") || !strcmp(what, "journal") || !strcmp(what, "churn");
	struct disk d;

	if (argc < 4) {
		fprintf(stderr, "Usage: pattern fill|check|journal|churn|churn-check DISK SEED\n"
				"       pattern journal-check DISK SEED COUNT\n");
		return 2;
	}
	if (disk_open(&d, argv[2], argv[3], writes ? O_RDWR : O_RDONLY))
		return 1;
	if (!strcmp(what, "fill"))
		return walk(&d, true);
	if (!strcmp(what, "check"))
		return walk(&d, false);
	if (!strcmp(what, "journal"))
		return journal(&d);
	if (!strcmp(what, "churn"))
		return churn(&d);
	if (!strcmp(what, "churn-check"))
		return churn_check(&d);
	if (!strcmp(what, "journal-check") && argc == 5)
		return journal_check(&d, strtoull(argv[4], NULL, 0));
	fprintf(stderr, "pattern: %s: unknown\n", what);
	return 2;
}
