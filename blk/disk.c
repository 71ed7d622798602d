/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/disk.h"

const struct disk_ops *const disk_kinds[] = {
	[DISK_FILE] = &disk_file,
	[DISK_NULL] = &disk_null,
	[DISK_RAM] = &disk_ram,
	[DISK_NBD] = &disk_nbd,
};
