/* SPDX-License-Identifier: Apache-2.0 */
/* What a block device can that neither files nor io_uring know: its life time, and erasing. */
#ifndef SLUICE_BLK_BLOCK_DEVICE_H
#define SLUICE_BLK_BLOCK_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* JEDEC's figures (eMMC 5.0 and later), as virtio 1.3 5.2.6 hands them on. 0: not known. */
struct disk_lifetime {
	uint16_t pre_eol; /* reserved blocks: 1 normal, 2: 80% used, 3: 90% */
	uint16_t type_a;  /* tenths of the cells' life that have been used; 11: all of it */
	uint16_t type_b;
};

/*
 * Control thread, before the sandbox. What sysfs says of the device in @st, which the kernel read
 * from it when it was found; of a partition, what it says of the whole. @return false: nothing.
 */
bool block_device_lifetime(const struct stat *st, struct disk_lifetime *out);
/* The same of the device whose folder in sysfs is @folder. */
bool block_device_lifetime_at(const char *folder, struct disk_lifetime *out);

/*
 * Erases [@at, @at + @len) and all copies of it that the device has kept; returns when that is
 * done, which may take long. @return 0 or -errno: -EOPNOTSUPP where the device cannot.
 */
int block_device_erase(int fd, uint64_t at, uint64_t len);
/* Can it? Nothing is erased. @fd is open for writing. */
bool block_device_can_erase(int fd);

#endif
