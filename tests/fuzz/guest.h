/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does what a fuzzer's bytes say: its memory, one virtqueue in it, and ways to write
 * descriptors, tables and indices that are right, nearly right, or anything at all.
 *
 * Memory lies in heap blocks of its own (ASan sees a step beyond a region) and has a shadow: the
 * guest writes to both, so that after each step of the device the difference is what the device
 * wrote, and every byte of that has to lie where it was allowed to write. What that is, is told by
 * hooks.h: the device-writable segments of the chains that it popped, and its own areas of the
 * ring.
 */
#ifndef SLUICE_TESTS_FUZZ_GUEST_H
#define SLUICE_TESTS_FUZZ_GUEST_H

#include "tests/fuzz/input.h"
#include "vhost/mem.h"

#include <linux/virtio_ring.h>

/*
 * MAIN with the ring, its tables and buffers; NEXT begins where MAIN ends, but elsewhere in our
 * memory; then a hole; LATE; and LAST, which ends with the last address there can be.
 */
enum { FG_MAIN, FG_NEXT, FG_LATE, FG_LAST, FG_REGIONS };
#define FG_MAIN_GPA UINT64_C(0x10800) /* so that each area of a large ring lies on two pages */
#define FG_MAIN_BYTES UINT64_C(0x8000)
#define FG_NEXT_GPA (FG_MAIN_GPA + FG_MAIN_BYTES)
#define FG_NEXT_BYTES UINT64_C(0x2000)
#define FG_LATE_GPA UINT64_C(0x40000)
#define FG_LATE_BYTES UINT64_C(0x1000)
#define FG_LAST_BYTES UINT64_C(0x1000)
#define FG_LAST_GPA (UINT64_MAX - FG_LAST_BYTES)
#define FG_UVA                                                                            \
	UINT64_C(0x700000000000) /* user addresses are this much above, or wrap around it \
				  */

/* Offsets in MAIN. */
#define FG_DESC 0
#define FG_DRIVER 0x1000
#define FG_DEVICE 0x1400
#define FG_TABLES 0x2000
#define FG_BUFFERS 0x3000
#define FG_SIZE_MAX 256

/* The dirty log lies in the middle of a block, so that what is written beside it is found. */
#define FG_LOG_AT 101
#define FG_LOG_BYTES 9 /* 72 pages: all regions but LAST */
#define FG_LOG_BLOCK 4096

struct dirty_log;

struct fuzz_guest {
	bool packed, event_idx, indirect;
	bool legacy; /* no VERSION_1: the short header of virtio-net */
	bool logs;   /* the front-end migrates it */
	bool in_order;
	uint32_t size, base;
	struct mem_map *map; /* its regions' memory is ours */
	uint8_t *shadow[FG_REGIONS];
	uint8_t *writable[FG_REGIONS]; /* bit for each byte: the device may write it */
	bool any_writable;

	uint16_t avail_idx; /* split: next index; packed: next slot */
	bool wrap;
	uint16_t next_desc; /* split: where the next chain's descriptors go */
	uint16_t next_id;
	unsigned next_table;

	/* Words change as the device reads them: this often of 256, by this generator. */
	uint8_t flip_rate;
	uint64_t flip_seed;

	/*
	 * A dirty log, of which the first FG_LOG_BYTES from FG_LOG_AT on are the log; NULL: none.
	 * What the device has changed and not logged yet, as pages: a bit for each of the log's.
	 */
	uint8_t *log;
	struct dirty_log *dirty_log; /* the device's mapping of it */
	uint8_t unlogged[FG_LOG_BYTES];
	bool notes_dirty; /* these are kept, log or not */

	/* For race.h: where the last chain's descriptors were put, in MAIN. */
	unsigned n_put;
	uint16_t put[64];
};

/* Once: allocates; memory that can be shared lies in files, @fds (FG_REGIONS of them, NULL: none).
 */
void fg_create(struct fuzz_guest *g, int *fds);
/* A new life: memory cleared, layout, size, base and flips by the input. */
void fg_begin(struct fuzz_guest *g, struct input *in);

/* The guest does one thing, chosen by the input. */
void fg_step(struct fuzz_guest *g, struct input *in);
/* One writable piece, MAIN + @offset, made available; @index: its descriptor. Split rings. */
void fg_offer(struct fuzz_guest *g, uint16_t index, uint64_t offset, uint32_t len);
/* A chain that is well-formed but for what the input says, made available. */
void fg_chain(struct fuzz_guest *g, struct input *in);

/* MAIN + @offset. */
void fg_write(struct fuzz_guest *g, uint64_t offset, const void *from, size_t len);
static inline void *fg_main(const struct fuzz_guest *g, uint64_t offset)
{
	return g->map->region[FG_MAIN].host + offset;
}

/* Is @p in its memory? @return the region's index or -1, and the offset. */
int fg_find(const struct fuzz_guest *g, const void *p, uint64_t *offset);
/* The device may write there until fg_check_writes(…, true). */
void fg_allow(struct fuzz_guest *g, const void *p, size_t len);
/*
 * Sees that nothing but what was allowed, and the device's areas of the ring, has been written, and
 * takes that over into the shadow. @forget: no chain is in flight, so all allowances end, and what
 * was written is in the dirty log, if there is one.
 */
void fg_check_writes(struct fuzz_guest *g, bool forget);

/* A chain has been written, its bytes at MAIN + @bytes: words of it may be raced for
 * (guest_race.c). */
void fg_race(struct fuzz_guest *g, uint64_t bytes);

/* A word was read by the device: perhaps it changes now. */
void fg_flip(struct fuzz_guest *g, const void *p, size_t len);

#endif
