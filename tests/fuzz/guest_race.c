/* SPDX-License-Identifier: Apache-2.0 */
/* Which words of a chain change while the device reads it, and to what. */
#include "tests/fuzz/guest.h"
#include "tests/fuzz/race.h"

#include <stddef.h>

#if defined(__SANITIZE_THREAD__)
#define TSAN true
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN true
#endif
#endif
#ifndef TSAN
#define TSAN false
#endif

/* The word of @bytes at MAIN + @at, which is aligned in every ring and table that there is. */
static void race_main(struct fuzz_guest *g, uint64_t at, unsigned bytes, uint64_t other)
{
	at = ALIGN_DOWN(at, bytes);
	if (at < FG_MAIN_BYTES)
		race_word(fg_main(g, at), bytes, other, g->shadow[FG_MAIN] + at);
}

static gpa_t other_address(void)
{
	switch (race_random(6)) {
	case 0:
		return FG_NEXT_GPA - race_random(64); /* across two regions */
	case 1:
		return FG_NEXT_GPA + FG_NEXT_BYTES - race_random(64); /* into the hole */
	case 2:
		return FG_LATE_GPA + race_random(FG_LATE_BYTES);
	case 3:
		return UINT64_MAX - race_random(64);
	case 4:
		return FG_MAIN_GPA + race_random(FG_MAIN_BYTES);
	default:
		return 0;
	}
}

static uint32_t other_length(void)
{
	static const uint32_t lengths[] = { 0,	   1,	     15,	16,
					    48,	   512,	     4096,	FG_MAIN_BYTES,
					    65536, 1u << 31, UINT32_MAX };

	return lengths[race_random(ARRAY_SIZE(lengths))];
}

/* An index, a buffer id: within the ring, or not. */
static uint16_t other_index(const struct fuzz_guest *g)
{
	static const uint16_t out[] = { 0x7fff, 0x8000, 0xffff };
	uint32_t how = race_random(6);

	return how < ARRAY_SIZE(out) ? out[how] : (uint16_t)race_random(g->size + 2);
}

static void race_desc(struct fuzz_guest *g, uint64_t at)
{
	/* Both layouts: addr, len, and two words of which one is flags. */
	unsigned flags = g->packed ? offsetof(struct vring_packed_desc, flags)
				   : offsetof(struct vring_desc, flags);
	unsigned link = g->packed ? offsetof(struct vring_packed_desc, id)
				  : offsetof(struct vring_desc, next);
	uint16_t was;

	switch (race_random(8)) {
	case 0:
	case 1:
		race_main(g, at, 8, other_address());
		break;
	case 2:
	case 3:
	case 4:
		race_main(g, at + offsetof(struct vring_desc, len), 4, other_length());
		break;
	case 5:
	case 6:
		memcpy(&was, fg_main(g, at + flags), sizeof(was));
		race_main(g, at + flags, 2, was ^ (1u + race_random(7)));
		break;
	default:
		race_main(g, at + link, 2, other_index(g));
	}
}

/* The index, or the last entry made available. */
static void race_avail(struct fuzz_guest *g)
{
	uint64_t last = (uint16_t)(g->avail_idx - 1) % g->size * 2u;

	if (g->packed)
		race_main(g, FG_DRIVER + race_random(2) * 2u, 2, race_random(1 << 16));
	else if (race_random(2))
		race_main(g, FG_DRIVER + offsetof(struct vring_avail, idx), 2,
			  (uint16_t)(g->avail_idx + 1 + race_random(2) * g->size));
	else
		race_main(g, FG_DRIVER + offsetof(struct vring_avail, ring) + last, 2,
			  other_index(g));
}

void fg_race(struct fuzz_guest *g, uint64_t bytes)
{
	static const uint8_t widths[] = { 1, 2, 4, 8 };

	if (!RACING || g->n_put == 0)
		return;
	for (unsigned n = race_random(4); n > 0; n--) {
		uint32_t what = race_random(8);

		if (what == 0)
			race_avail(g);
		else if (what <= 2 && !TSAN) /* what is copied there needs no atomic accesses */
			race_main(g, bytes + race_random(24), widths[race_random(4)],
				  race_random(2) ? race_random(8) : UINT64_MAX >> race_random(64));
		else
			race_desc(g, g->put[what & 1 ? 0 : race_random(g->n_put)]);
	}
}
