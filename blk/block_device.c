/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/block_device.h"

#include "base/compiler.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

/* "0x01 0x02", as drivers/mmc/core/mmc.c prints it. @return how many numbers there are, up to 2. */
static int read_numbers(const char *folder, const char *name, unsigned numbers[2])
{
	char path[256];
	FILE *file;
	int n;

	snprintf(path, sizeof(path), "%s/device/%s", folder, name);
	file = fopen(path, "re");
	if (!file)
		return 0;
	n = fscanf(file, "%x %x", &numbers[0], &numbers[1]);
	fclose(file);
	return MAX(n, 0);
}

bool block_device_lifetime_at(const char *folder, struct disk_lifetime *out)
{
	unsigned life[2] = { 0, 0 }, eol[2] = { 0, 0 };

	*out = (struct disk_lifetime) { 0 };
	if (read_numbers(folder, "life_time", life) != 2 ||
	    read_numbers(folder, "pre_eol_info", eol) < 1)
		return false;
	if (life[0] > UINT16_MAX || life[1] > UINT16_MAX || eol[0] > UINT16_MAX)
		return false;
	/* Cards of before eMMC 5.0 have the files, and nothing in them. */
	if (!life[0] && !life[1] && !eol[0])
		return false;
	out->pre_eol = (uint16_t)eol[0];
	out->type_a = (uint16_t)life[0];
	out->type_b = (uint16_t)life[1];
	return true;
}

bool block_device_lifetime(const struct stat *st, struct disk_lifetime *out)
{
	static const char *const up[] = { "", "/.." };
	char folder[64];

	for (unsigned i = 0; i < ARRAY_SIZE(up); i++) {
		snprintf(folder, sizeof(folder), "/sys/dev/block/%u:%u%s", major(st->st_rdev),
			 minor(st->st_rdev), up[i]);
		if (block_device_lifetime_at(folder, out))
			return true;
	}
	return false;
}

int block_device_erase(int fd, uint64_t at, uint64_t len)
{
	uint64_t range[2] = { at, len };

	return ioctl(fd, BLKSECDISCARD, range) ? -errno : 0;
}

/*
 * The kernel looks first whether the device can (block/ioctl.c, Linux 5.19), and then finds that no
 * range begins at byte 1.
 */
bool block_device_can_erase(int fd)
{
	return block_device_erase(fd, 1, 512) == -EINVAL;
}
