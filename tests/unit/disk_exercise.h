/* SPDX-License-Identifier: Apache-2.0 */
/* Random work for a disk, compared with a copy of it. */
#ifndef SLUICE_TESTS_DISK_EXERCISE_H
#define SLUICE_TESTS_DISK_EXERCISE_H

#include "tests/unit/disk_util.h"

#define DISK_SIZE (4 * MIB)

static inline uint8_t *alloc_buffer(size_t len)
{
	uint8_t *p = aligned_alloc(4096, ALIGN_UP(len, 4096));

	cr_assert(p);
	memset(p, 0xee, len);
	return p;
}

/*
 * Random reads and writes, in one to four segments, some at odd addresses and lengths, eight at a
 * time on places of their own; everything is compared with a copy of the disk.
 */
static inline void exercise(struct rig *rig, unsigned rounds, uint64_t place_align)
{
	enum { AT_A_TIME = 8, SLOT = 512 * KIB };
	uint8_t *model = alloc_buffer(DISK_SIZE), *mem = alloc_buffer(AT_A_TIME * SLOT);
	struct disk_request req[AT_A_TIME], *reqs[AT_A_TIME];
	struct iovec iov[AT_A_TIME][4];

	fill(model, DISK_SIZE, 0);
	srand(7);
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < AT_A_TIME; i++) {
			uint64_t offset = i * SLOT +
					  ALIGN_DOWN((uint64_t)rand() % (SLOT / 2), place_align);
			uint64_t len = ALIGN_DOWN((uint64_t)rand() % (SLOT / 2), place_align) +
				       place_align;
			uint8_t *at = mem + i * SLOT + (rand() % 2 ? 0 : rand() % 600);
			unsigned n = 1 + rand() % 4;
			enum disk_op op = rand() % 2 ? DISK_READ : DISK_WRITE;

			request_set(&req[i], op, offset, iov[i], at, len);
			for (unsigned k = 1; k < n; k++) {
				uint64_t head = rand() % 3 ? 512 : 1 + rand() % 511;

				if (iov[i][k - 1].iov_len <= head)
					break;
				iov[i][k].iov_base = (uint8_t *)iov[i][k - 1].iov_base + head;
				iov[i][k].iov_len = iov[i][k - 1].iov_len - head;
				iov[i][k - 1].iov_len = head;
				req[i].n_iov = k + 1;
			}
			if (op == DISK_WRITE) {
				fill(at, len, round * AT_A_TIME + i + 1);
				memcpy(model + offset, at, len);
			} else {
				memset(at, 0xee, len);
			}
			req[i].fua = rand() % 8 == 0;
			reqs[i] = &req[i];
		}
		rig_run(rig, reqs, AT_A_TIME);
		for (unsigned i = 0; i < AT_A_TIME; i++) {
			cr_assert_eq(req[i].result, 0, "round %u: %d", round, req[i].result);
			cr_assert_eq(req[i].moved, req[i].len);
		}
	}
	for (uint64_t offset = 0; offset < DISK_SIZE; offset += SLOT) {
		cr_assert_eq(rig_rw(rig, DISK_READ, offset, mem, SLOT), 0);
		cr_assert_arr_eq(mem, model + offset, SLOT, "at %llu", (unsigned long long)offset);
	}
	free(model);
	free(mem);
}

#endif
