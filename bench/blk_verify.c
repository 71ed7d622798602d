/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/blk_verify.h"

#include <stdio.h>
#include <string.h>

#define SECTOR 512u
#define CRC_POLYNOMIAL 0x82f63b78u /* Castagnoli, reflected */

static_assert(sizeof(struct blk_stamp) == 32, "the stamp and 60 words fill a sector");

static uint32_t crc_plain(uint32_t crc, const uint8_t *p, uint32_t len)
{
	while (len--) {
		crc ^= *p++;
		for (unsigned k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? CRC_POLYNOMIAL : 0);
	}
	return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_fast(uint32_t crc, const uint8_t *p,
							   uint32_t len)
{
	uint64_t c = crc;

	for (; len >= 8; len -= 8, p += 8) {
		uint64_t v;

		memcpy(&v, p, 8);
		c = __builtin_ia32_crc32di(c, v);
	}
	while (len--)
		c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
	return (uint32_t)c;
}
#endif

uint32_t blk_crc32c(uint32_t crc, const void *data, uint32_t len)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_fast(~crc, data, len);
#endif
	return ~crc_plain(~crc, data, len);
}

static uint32_t crc_of(const uint8_t *sector)
{
	struct blk_stamp s;
	uint32_t crc;

	memcpy(&s, sector, sizeof(s));
	s.crc = 0;
	crc = blk_crc32c(0, &s, sizeof(s));
	return blk_crc32c(crc, sector + sizeof(s), SECTOR - sizeof(s));
}

void blk_fill(uint8_t *data, uint64_t run, uint64_t offset, uint32_t len, uint64_t generation)
{
	for (uint32_t at = 0; at < len; at += SECTOR) {
		struct blk_stamp s = { .run = run,
				       .offset = offset + at,
				       .generation = generation };
		uint64_t word = run ^ (offset + at) ^ generation << 40;

		for (uint32_t k = sizeof(s); k < SECTOR; k += 8) {
			word = word * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
			memcpy(data + at + k, &word, 8);
		}
		memcpy(data + at, &s, sizeof(s));
		s.crc = crc_of(data + at);
		memcpy(data + at, &s, sizeof(s));
	}
}

static bool check_zeroes(const uint8_t *data, uint64_t offset, uint32_t len, char *why,
			 unsigned why_bytes)
{
	for (uint32_t at = 0; at < len; at++)
		if (data[at]) {
			snprintf(why, why_bytes,
				 "not zeroed: byte %llu is %#x after a WRITE_ZEROES that was done",
				 (unsigned long long)offset + at, data[at]);
			return false;
		}
	return true;
}

static bool is_zero(const struct blk_stamp *s)
{
	return s->run == 0 && s->offset == 0 && s->generation == 0 && s->crc == 0;
}

/* What is wrong with the sector at @offset; the others of its request decide between two words. */
static void tell(const struct blk_stamp *s, bool crc_ok, bool some_are_right, uint64_t run,
		 uint64_t offset, uint64_t generation, char *why, unsigned n)
{
	unsigned long long at = offset, got = s->generation, want = generation;

	if (is_zero(s))
		snprintf(why, n,
			 "lost: the sector at byte %llu is zeroed, though write %llu was done", at,
			 want);
	else if (!crc_ok)
		snprintf(why, n, "damaged: the sector at byte %llu fails its CRC", at);
	else if (s->run != run)
		snprintf(why, n,
			 "stale: the sector at byte %llu is of an earlier run, though write %llu "
			 "was done",
			 at, want);
	else if (s->offset != offset)
		snprintf(why, n,
			 "misplaced: the sector at byte %llu is that of byte %llu, of write %llu",
			 at, (unsigned long long)s->offset, got);
	else if (s->generation > generation)
		snprintf(why, n, "the sector at byte %llu is of write %llu, but %llu was the last",
			 at, got, want);
	else
		snprintf(why, n,
			 "%s: the sector at byte %llu is of write %llu, though %llu was done",
			 some_are_right ? "torn" : "stale", at, got, want);
}

static bool is_right(const uint8_t *sector, const struct blk_stamp *s, uint64_t run,
		     uint64_t offset, uint64_t generation)
{
	return s->run == run && s->offset == offset && s->generation == generation &&
	       s->crc == crc_of(sector);
}

bool blk_check(const uint8_t *data, uint64_t run, uint64_t offset, uint32_t len,
	       uint64_t generation, char *why, unsigned why_bytes)
{
	uint32_t right = 0, wrong_at = 0;
	struct blk_stamp s;

	if (generation == BLK_UNKNOWN)
		return true;
	if (generation == BLK_ZEROES)
		return check_zeroes(data, offset, len, why, why_bytes);
	for (uint32_t at = 0; at < len; at += SECTOR) {
		memcpy(&s, data + at, sizeof(s));
		if (is_right(data + at, &s, run, offset + at, generation))
			right++;
		else
			wrong_at = at;
	}
	if (right == len / SECTOR)
		return true;
	memcpy(&s, data + wrong_at, sizeof(s));
	tell(&s, s.crc == crc_of(data + wrong_at), right > 0, run, offset + wrong_at, generation,
	     why, why_bytes);
	return false;
}
