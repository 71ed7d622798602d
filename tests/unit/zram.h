/* SPDX-License-Identifier: Apache-2.0 */
/* A zram device of the test's own: one that does requests in place, and takes no NOWAIT. */
#ifndef SLUICE_TESTS_ZRAM_H
#define SLUICE_TESTS_ZRAM_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct zram {
	unsigned index;
	char path[64]; /* its node */
};

static inline bool zram_write(const char *path, unsigned value)
{
	FILE *f = fopen(path, "we");
	bool ok = f && fprintf(f, "%u", value) > 0;

	return f && fclose(f) == 0 && ok;
}

/* @bytes large, or the test is skipped. */
static inline void zram_add(struct zram *z, unsigned bytes)
{
	unsigned major = 0, minor = 0;
	char file[64];
	FILE *f = geteuid() ? NULL : fopen("/sys/class/zram-control/hot_add", "re");

	if (!f || fscanf(f, "%u", &z->index) != 1) {
		if (f)
			fclose(f);
		cr_skip_test("no zram devices to be had here, or not root");
	}
	fclose(f);
	snprintf(file, sizeof(file), "/sys/block/zram%u/disksize", z->index);
	cr_assert(zram_write(file, bytes));
	snprintf(file, sizeof(file), "/sys/block/zram%u/dev", z->index);
	f = fopen(file, "re");
	cr_assert(f && fscanf(f, "%u:%u", &major, &minor) == 2);
	fclose(f);
	snprintf(z->path, sizeof(z->path), "/tmp/sluice-test-zram-%d", getpid());
	unlink(z->path);
	cr_assert_eq(mknod(z->path, S_IFBLK | 0600, makedev(major, minor)), 0);
}

static inline void zram_remove(const struct zram *z)
{
	char file[64];

	unlink(z->path);
	snprintf(file, sizeof(file), "/sys/block/zram%u/reset", z->index);
	zram_write(file, 1);
	zram_write("/sys/class/zram-control/hot_remove", z->index);
}

#endif
