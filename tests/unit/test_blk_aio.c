/* SPDX-License-Identifier: Apache-2.0 */
/* A whole device on a disk that does requests in place, through Linux AIO. */
#include "tests/guest/frontend_inflight.h"
#include "tests/unit/blk_util.h"
#include "tests/unit/zram.h"

#define N 40u
#define BLOCK (16 * KIB)
#define LONG (512 * KIB)

static struct vm vm;

static void submit(uint32_t type, uint64_t gpa)
{
	for (unsigned i = 0; i < N; i++) {
		struct driver_seg seg = { gpa + i * BLOCK, BLOCK };

		VM_OK(&vm, guest_blk_submit(&vm.blk[0], type, i * BLOCK / 512, &seg, 1, NULL));
	}
	guest_blk_kick(&vm.blk[0]);
}

BLK_TEST(blk_aio, what_is_written_is_read_back_and_it_ends_with_requests_under_way)
{
	struct blk_config cfg = { .kind = DISK_FILE };
	uint64_t from, to;
	struct zram z;

	zram_add(&z, N * BLOCK);
	cfg.file = z.path;
	vm_start(&vm, v, &cfg, 0);
	fill(guest_alloc(&vm.mem, N * BLOCK, 4096, &from), N * BLOCK, 3);
	memset(guest_alloc(&vm.mem, N * BLOCK, 4096, &to), 0xee, N * BLOCK);
	submit(VIRTIO_BLK_T_OUT, from);
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	submit(VIRTIO_BLK_T_IN, to);
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(guest_ptr(&vm.mem, from, N * BLOCK), guest_ptr(&vm.mem, to, N * BLOCK),
			 N * BLOCK);
	cr_assert(strstr(blk_device_how(vm.dev), "Linux AIO"), "%s", blk_device_how(vm.dev));
	/* Ends with requests in the ring, staged or under way. */
	submit(VIRTIO_BLK_T_OUT, to);
	vm_stop(&vm);
	zram_remove(&z);
}

/*
 * vhost-user GET_VRING_BASE_INFLIGHT: what is staged then is sent, and used; the rest is left. Each
 * request takes several submissions, and between two the next is staged.
 */
BLK_TEST(blk_aio, a_queue_that_leaves_has_nothing_staged)
{
	struct blk_config cfg = { .kind = DISK_FILE };
	struct frontend_inflight buf = { .fd = -1 };
	uint64_t from;
	struct zram z;

	zram_add(&z, N * LONG);
	cfg.file = z.path;
	vm_create(&vm, v, &cfg, 0);
	vm.protocol = VU_PF_INFLIGHT_SHMFD | VU_PF_GET_VRING_BASE_INFLIGHT;
	vm_connect(&vm);
	VM_OK(&vm, frontend_get_inflight(&vm.f, &buf, 1, (uint16_t)vm.queue_size));
	VM_OK(&vm, frontend_set_inflight(&vm.f, &buf));
	vm_queue_start(&vm, 0, NULL);
	fill(guest_alloc(&vm.mem, N * BLOCK, 4096, &from), N * BLOCK, 3);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < N; i++) {
			struct driver_seg seg = { from, LONG };

			VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_OUT, i * LONG / 512,
						    &seg, 1, NULL));
		}
		guest_blk_kick(&vm.blk[0]);
		VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
		VM_OK(&vm, frontend_queue_start(&vm.f, 0));
		vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	}
	frontend_inflight_close(&buf);
	vm_stop(&vm);
	zram_remove(&z);
}
