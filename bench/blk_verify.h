/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What --verify writes, and what it finds wrong. Each sector names the run, its place on the disk
 * and the write that it is of, and has a CRC-32C over all of it. So what comes back is known to be:
 * right; damaged; of an earlier write (stale), of some sectors only (torn); written for another
 * place.
 */
#ifndef SLUICE_BENCH_BLK_VERIFY_H
#define SLUICE_BENCH_BLK_VERIFY_H

#include "base/compiler.h"

#include <stdbool.h>

#define BLK_UNKNOWN UINT64_C(0) /* never written in this run, or by a write that failed */
#define BLK_ZEROES UINT64_MAX	/* WRITE_ZEROES has been there */

/* The stamp in front of each sector. */
struct blk_stamp {
	uint64_t run, offset, generation;
	uint32_t crc; /* CRC-32C of the sector, this word taken as 0 */
	uint32_t reserved;
};

/* What each block of a part of the disk should hold, and which are being worked on. */
struct blk_memory {
	uint64_t *generation; /* of the last write, or BLK_UNKNOWN, BLK_ZEROES */
	uint8_t *busy;
	uint64_t n_blocks, last; /* last: generation given out */
};

uint32_t blk_crc32c(uint32_t crc, const void *data, uint32_t len);
/* @len bytes at @offset, multiples of 512, for write number @generation of run @run. */
void blk_fill(uint8_t *data, uint64_t run, uint64_t offset, uint32_t len, uint64_t generation);
/*
 * Is @data what write @generation put at @offset (or zeroes)? @return true; false and a sentence in
 * @why that starts with what the bytes are.
 */
bool blk_check(const uint8_t *data, uint64_t run, uint64_t offset, uint32_t len,
	       uint64_t generation, char *why, unsigned why_bytes);

#endif
