/* SPDX-License-Identifier: Apache-2.0 */
/* What sysfs says of an eMMC card's life time, in a folder that looks like one of sysfs's. */
#include "blk/block_device.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/sluice-test-sysfs-XXXXXX";

static void put(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/device/%s", folder, name);
	unlink(path);
	if (!text)
		return;
	f = fopen(path, "we");
	cr_assert(f);
	fputs(text, f);
	fclose(f);
}

/* With both files removed again. */
static bool told(const char *life_time, const char *pre_eol, struct disk_lifetime *l)
{
	bool is;

	put("life_time", life_time);
	put("pre_eol_info", pre_eol);
	is = block_device_lifetime_at(folder, l);
	put("life_time", NULL);
	put("pre_eol_info", NULL);
	return is;
}

Test(block_device, the_lifetime_is_that_of_the_card_or_none)
{
	struct disk_lifetime l;
	char device[128];

	cr_assert(mkdtemp(folder));
	snprintf(device, sizeof(device), "%s/device", folder);
	cr_assert_not(block_device_lifetime_at(folder, &l));
	cr_assert_eq(mkdir(device, 0700), 0);
	cr_assert(told("0x01 0x0b\n", "0x03\n", &l));
	cr_assert_eq(l.pre_eol, 3);
	cr_assert_eq(l.type_a, 1);
	cr_assert_eq(l.type_b, 11);
	cr_assert(told("0x00 0x00\n", "0x01\n", &l));
	/* Not there, old, or not what it is taken for. */
	cr_assert_not(told(NULL, "0x01\n", &l));
	cr_assert_not(told("0x01 0x01\n", NULL, &l));
	cr_assert_not(told("0x00 0x00\n", "0x00\n", &l));
	cr_assert_not(told("0x01\n", "0x01\n", &l));
	cr_assert_not(told("", "", &l));
	cr_assert_not(told("0x10000 0x01\n", "0x01\n", &l));
	cr_assert_eq(l.type_a, 0);
	rmdir(device);
	rmdir(folder);
}

/* Of files the kernel says ENOTTY, of devices EOPNOTSUPP; neither can. */
Test(block_device, what_cannot_erase_is_not_taken_for_one_that_can)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_not(block_device_can_erase(fd));
	cr_assert_lt(block_device_erase(fd, 0, 4096), 0);
	close(fd);
}
