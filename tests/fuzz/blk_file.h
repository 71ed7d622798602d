/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk in a file, for the blk target: its image is in memory, it goes by Linux AIO as on a device
 * that does requests in place, and by an io_uring that is acted out. What the input decides is how
 * badly that goes: submissions that are refused or cut short, completions that are late, short, or
 * errors.
 */
#ifndef SLUICE_TESTS_FUZZ_BLK_FILE_H
#define SLUICE_TESTS_FUZZ_BLK_FILE_H

#include "blk/blk.h"
#include "tests/fuzz/input.h"

/* The path of an image of @bytes, all zero. */
const char *blk_file_image(uint64_t bytes);
/* From now on @b's queues go by AIO, @direct: with all that O_DIRECT asks of addresses. */
void blk_file_set(struct blk_device *b, bool direct);
/* How badly it goes until the next one; 0: not at all. */
void blk_file_begin(uint32_t trouble);
/* All goes well from now on, and what is late comes. */
void blk_file_end(void);

#endif
