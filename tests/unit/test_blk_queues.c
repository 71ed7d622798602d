/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As many queues as the protocol can name: SET_VRING_KICK, _CALL and _ERR have 8 bits for the index
 * (vhost-user, "VHOST_USER_SET_VRING_KICK": bits 0-7), so a device has at most 256.
 */
#include "tests/unit/blk_util.h"

#define QUEUES 256

static struct guest_blk blk[QUEUES];

static void all_of_them(const struct variant *v)
{
	static struct vm vm;
	const struct blk_config ram = { .kind = DISK_RAM, .queues = QUEUES };
	struct frontend_queue_options opt = { .size = 8 };
	const struct vhost_device *d;
	uint64_t value;

	vm_create(&vm, v, &ram, 4 * MIB);
	vm.n_queues = 0; /* the helpers' own are fewer */
	vm_connect(&vm);
	d = blk_device_vhost(vm.dev);
	VM_OK(&vm, frontend_u64_get(&vm.f, VU_GET_QUEUE_NUM, &value));
	cr_assert_eq(value, (uint64_t)QUEUES);
	for (unsigned i = 0; i < QUEUES; i++) {
		VM_OK(&vm, frontend_queue_setup(&vm.f, i, &opt));
		VM_OK(&vm, guest_blk_open(&blk[i], &vm.f, i));
		VM_OK(&vm, frontend_queue_start(&vm.f, i));
	}
	for (unsigned i = 0; i < QUEUES; i++) {
		uint64_t gpa = MIB;

		cr_assert_eq(d->queues[i].state, VIRTQUEUE_RUNNING);
		*(uint32_t *)guest_ptr(&vm.mem, gpa, 512) = i;
		cr_assert_eq(VM_OK(&vm, guest_blk_do(&blk[i], VIRTIO_BLK_T_OUT, i, gpa, 512)),
			     VIRTIO_BLK_S_OK);
	}
	/* Each one's own sector, read through the next queue. */
	for (unsigned i = 0; i < QUEUES; i++) {
		uint64_t gpa = MIB;

		cr_assert_eq(VM_OK(&vm, guest_blk_do(&blk[(i + 1) % QUEUES], VIRTIO_BLK_T_IN, i,
						     gpa, 512)),
			     VIRTIO_BLK_S_OK);
		cr_assert_eq(*(uint32_t *)guest_ptr(&vm.mem, gpa, 512), i);
	}
	for (unsigned i = 0; i < QUEUES; i++) {
		VM_OK(&vm, frontend_queue_stop(&vm.f, i, NULL));
		cr_assert_eq(d->queues[i].state, VIRTQUEUE_STOPPED);
		guest_blk_close(&blk[i]);
	}
	vm_stop(&vm);
}

Test(blk_queues, a_device_of_256_queues_runs_split, .timeout = 120)
{
	all_of_them(&variant_split);
}

Test(blk_queues, a_device_of_256_queues_runs_packed, .timeout = 120)
{
	all_of_them(&variant_packed);
}

/* RING_RESET (virtio 1.3 2.6.1): one queue begins anew, described differently, while others run. */
BLK_TEST(blk_queues, one_queue_is_reset_while_others_run)
{
	static struct vm vm;
	const struct blk_config ram = { .kind = DISK_RAM, .queues = 2 };
	const struct vhost_device *d;

	vm_start(&vm, v, &ram, 4 * MIB);
	d = blk_device_vhost(vm.dev);
	for (unsigned i = 0; i < 10; i++) {
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, i, MIB, 512), VIRTIO_BLK_S_OK);
		cr_assert_eq(vm_do(&vm, 1, VIRTIO_BLK_T_IN, i, MIB, 512), VIRTIO_BLK_S_OK);
		VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
		cr_assert_eq(vm_do(&vm, 1, VIRTIO_BLK_T_IN, i, MIB, 512), VIRTIO_BLK_S_OK);
		guest_blk_close(&vm.blk[0]);
		frontend_queue_free(&vm.f, 0);
		vm.queue_size = 16 << i % 4;
		vm_queue_start(&vm, 0, NULL);
		cr_assert_eq(d->queues[0].ring.size, vm.queue_size);
		cr_assert_eq(d->queues[1].state, VIRTQUEUE_RUNNING);
	}
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, MIB, 512), VIRTIO_BLK_S_OK);
	vm_stop(&vm);
}
