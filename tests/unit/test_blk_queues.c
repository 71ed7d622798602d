/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As many queues as the protocol can name: SET_VRING_KICK, _CALL and _ERR have 8 bits for the index
 * (vhost-user, "VHOST_USER_SET_VRING_KICK": bits 0-7), so a device has at most 256. And the largest
 * queue there is (virtio 1.3 2.7, 2.8.10.1).
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

#define LARGEST 32768u

/* The linker puts this in the way of the disk's calls (--wrap): a disk that does not get on. */
struct io_uring_sqe *__real_worker_sqe(struct worker *w);
struct io_uring_sqe *__wrap_worker_sqe(struct worker *w);

static bool disk_is_stuck;

struct io_uring_sqe *__wrap_worker_sqe(struct worker *w)
{
	return __atomic_load_n(&disk_is_stuck, __ATOMIC_SEQ_CST) ? NULL : __real_worker_sqe(w);
}

/* A flush, which waits for the disk, and behind it as many requests as make the ring full. */
static unsigned fill_ring(struct vm *vm, uint64_t gpa)
{
	const struct driver_seg id = { .gpa = gpa, .len = VIRTIO_BLK_ID_BYTES };
	unsigned n = 1;

	VM_OK(vm, guest_blk_submit(&vm->blk[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL));
	while (!guest_blk_submit(&vm->blk[0], VIRTIO_BLK_T_GET_ID, 0, &id, 1, (void *)(uintptr_t)n))
		n++;
	cr_assert_eq(vm->f.queue[0].ring.n_free, 0u, "%u requests leave room", n);
	return n;
}

/* The next of those that are back. @return its number. */
static uintptr_t next_done(struct vm *vm)
{
	struct guest_blk_done done;

	VM_OK(vm, guest_blk_wait(&vm->blk[0], &done));
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	return (uintptr_t)done.cookie;
}

/* All behind the first are done at once, and with IN_ORDER they wait for it (2.7.9, 2.8.8). */
static void largest_ring(const struct variant *v, bool in_order)
{
	static struct vm vm;
	static const uint32_t near_end[] = { 0xfff8, 0xfff8fff8 };
	const struct blk_config file = { .kind = DISK_FILE, .cache = DISK_CACHE_WRITEBACK };
	uint64_t gpa;

	vm_create(&vm, v, &file, MIB);
	vm.features_on = in_order ? VU_F_IN_ORDER : 0;
	vm.queue_size = LARGEST;
	vm.table_segs = 3;
	vm_connect(&vm);
	vm_queue_start(&vm, 0, &near_end[v->packed]);
	cr_assert_not_null(guest_alloc(&vm.mem, VIRTIO_BLK_ID_BYTES, 64, &gpa));
	for (unsigned round = 0; round < 2; round++) {
		unsigned n = fill_ring(&vm, gpa);

		__atomic_store_n(&disk_is_stuck, true, __ATOMIC_SEQ_CST);
		guest_blk_kick(&vm.blk[0]);
		if (in_order) {
			cr_assert(VM_EVENTUALLY(
				blk_device_vhost(vm.dev)->queues[0].ring.in_flight == n));
			usleep(1000);
			cr_assert_eq(VM_OK(&vm, guest_blk_poll(&vm.blk[0],
							       &(struct guest_blk_done) { 0 })),
				     0);
		}
		for (unsigned i = 1; i < n && !in_order; i++)
			cr_assert_eq(next_done(&vm), i);
		__atomic_store_n(&disk_is_stuck, false, __ATOMIC_SEQ_CST);
		cr_assert_eq(next_done(&vm), 0u);
		for (unsigned i = 1; i < n && in_order; i++)
			cr_assert_eq(next_done(&vm), i);
	}
	vm_stop(&vm);
}

BLK_TEST(blk_queues, the_largest_ring_is_filled_over_its_end)
{
	largest_ring(v, false);
}

BLK_TEST(blk_queues, the_largest_ring_is_filled_over_its_end_in_order)
{
	largest_ring(v, true);
}
