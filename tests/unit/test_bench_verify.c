/* SPDX-License-Identifier: Apache-2.0 */
/* What sluice-bench blk --verify writes, and what it says of what comes back. */
#include "bench/blk_verify.h"

#include <criterion/criterion.h>
#include <string.h>

#define RUN 77
#define PLACE 8192
#define BYTES 4096u
#define SECTOR 512u

static uint8_t data[BYTES], other[BYTES];
static char why[200];

static bool is_right(uint64_t generation)
{
	why[0] = '\0';
	return blk_check(data, RUN, PLACE, BYTES, generation, why, sizeof(why));
}

static void expect(uint64_t generation, const char *says)
{
	cr_assert(!is_right(generation));
	cr_assert(strstr(why, says), "\"%s\" lacks \"%s\"", why, says);
}

Test(bench_verify, crc32c_is_castagnoli)
{
	/* RFC 3720 B.4: 32 bytes of zeros, of ones, and rising; and the usual check word. */
	memset(data, 0, 32);
	cr_assert_eq(blk_crc32c(0, data, 32), 0x8a9136aa);
	memset(data, 0xff, 32);
	cr_assert_eq(blk_crc32c(0, data, 32), 0x62a8ab43);
	for (unsigned i = 0; i < 32; i++)
		data[i] = i;
	cr_assert_eq(blk_crc32c(0, data, 32), 0x46dd794e);
	cr_assert_eq(blk_crc32c(0, "123456789", 9), 0xe3069283);
	cr_assert_eq(blk_crc32c(blk_crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

Test(bench_verify, what_was_written_is_right_and_the_unknown_is_let_pass)
{
	blk_fill(data, RUN, PLACE, BYTES, 5);
	cr_assert(is_right(5));
	memset(data, 0xdb, BYTES);
	cr_assert(is_right(BLK_UNKNOWN));
	expect(5, "damaged");
}

Test(bench_verify, each_bit_counts)
{
	for (unsigned bit = 0; bit < BYTES * 8; bit += 7) {
		blk_fill(data, RUN, PLACE, BYTES, 5);
		data[bit / 8] ^= 1u << bit % 8;
		expect(5, "damaged: the sector at byte");
	}
}

Test(bench_verify, an_older_write_is_stale_and_one_of_some_sectors_is_torn)
{
	blk_fill(data, RUN, PLACE, BYTES, 4);
	expect(5, "stale: the sector at byte 11776 is of write 4, though 5 was done");
	for (unsigned sector = 0; sector < BYTES / SECTOR; sector++) {
		blk_fill(data, RUN, PLACE, BYTES, 5);
		blk_fill(data + sector * SECTOR, RUN, PLACE + sector * SECTOR, SECTOR, 4);
		expect(5, "torn: the sector at byte");
	}
}

Test(bench_verify, another_place_another_run_and_the_future_are_told_apart)
{
	blk_fill(data, RUN, PLACE + BYTES, BYTES, 5);
	expect(5, "misplaced: the sector at byte 11776 is that of byte 15872, of write 5");
	/* Two sectors of one write that changed places. */
	blk_fill(data, RUN, PLACE, BYTES, 5);
	memcpy(other, data, SECTOR);
	memcpy(data, data + SECTOR, SECTOR);
	memcpy(data + SECTOR, other, SECTOR);
	expect(5, "misplaced");
	blk_fill(data, RUN + 1, PLACE, BYTES, 5);
	expect(5, "stale: the sector at byte 11776 is of an earlier run");
	blk_fill(data, RUN, PLACE, BYTES, 6);
	expect(5, "is of write 6, but 5 was the last");
}

Test(bench_verify, zeroed_is_zero_in_every_byte)
{
	memset(data, 0, BYTES);
	cr_assert(is_right(BLK_ZEROES));
	expect(5, "lost: the sector at byte 11776 is zeroed, though write 5 was done");
	for (unsigned at = 0; at < BYTES; at += 511) {
		memset(data, 0, BYTES);
		data[at] = 1;
		expect(BLK_ZEROES, "not zeroed");
	}
}
