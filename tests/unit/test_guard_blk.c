/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's guest memory is cut short under its I/O (T14): what the worker itself copies ends the
 * connection, what the kernel is asked to do comes back as an error; a neighbour on the same
 * workers reads and writes all the while, and its data is right.
 */
#include "tests/unit/blk_util.h"

#include <unistd.h>

#define IMAGE (16 * MIB)
#define LEN 65536u

static struct vm vm, other;
static uint8_t *data, *other_data;
static uint64_t gpa, other_gpa;

/* As vm_start(), on the workers of @vm. */
static void start_other(const struct variant *v)
{
	struct error err = { 0 };

	other = (struct vm) { .v = v, .workers = vm.workers, .n_queues = 1, .queue_size = 128 };
	other.cfg = (struct blk_config) {
		.name = "neighbour", .kind = DISK_RAM, .size = IMAGE, .queues = 1
	};
	snprintf(other.socket, sizeof(other.socket), "test-%d-other.sock", getpid());
	other.cfg.socket = (struct vhost_socket) { .path = strdup(other.socket),
						   .fd = -1,
						   .mode = -1 };
	cr_assert_eq(blk_device_create(&other.cfg, other.workers, &other.dev, &err), 0, "%s",
		     err.text);
	cr_assert_eq(guest_memory_create(&other.mem,
					 (struct guest_range[]) { { 0, VM_MEMORY / 2 } }, 1, 0),
		     0);
	vm_connect(&other);
	vm_queue_start(&other, 0, NULL);
	other_data = guest_alloc(&other.mem, LEN, 4096, &other_gpa);
}

static void start(const struct variant *v, const struct blk_config *cfg)
{
	vm_start(&vm, v, cfg, IMAGE);
	start_other(v);
	/* Rings, headers and status bytes lie in the first region, data in the second. */
	data = guest_alloc_in(&vm.mem, 1, LEN, 4096, &gpa);
	fill(data, LEN, 1);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, LEN), VIRTIO_BLK_S_OK);
}

static void stop(void)
{
	vm_disconnect(&other);
	vm_close_device(&other);
	guest_memory_destroy(&other.mem);
	vm_stop(&vm);
}

static void neighbour_is_well(unsigned times)
{
	static uint8_t want[LEN];

	for (unsigned i = 0; i < times; i++) {
		fill(want, LEN, 100 + i);
		memcpy(other_data, want, LEN);
		cr_assert_eq(vm_do(&other, 0, VIRTIO_BLK_T_OUT, i * 8, other_gpa, LEN),
			     VIRTIO_BLK_S_OK);
		memset(other_data, 0, LEN);
		cr_assert_eq(vm_do(&other, 0, VIRTIO_BLK_T_IN, i * 8, other_gpa, LEN),
			     VIRTIO_BLK_S_OK);
		cr_assert_arr_eq(other_data, want, LEN);
	}
}

static uint64_t lost(void)
{
	return counter_read(&blk_device_vhost(vm.dev)->stats.memory_lost);
}

BLK_TEST(guard_blk, what_a_worker_copies_into_lost_memory_ends_the_connection)
{
	struct blk_config ram = { .kind = DISK_RAM };
	struct driver_seg seg;

	start(v, &ram);
	seg = (struct driver_seg) { gpa, LEN };
	cr_assert_eq(ftruncate(vm.mem.region[1].fd, 0), 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(guest_blk_submit(&vm.blk[0],
					      i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0, &seg,
					      1, NULL),
			     0);
	guest_blk_kick(&vm.blk[0]);
	neighbour_is_well(20);
	cr_assert(VM_EVENTUALLY(lost() == 1));
	VM_OK(&vm, frontend_wait_hangup(&vm.f));
	neighbour_is_well(5);
	stop();
}

BLK_TEST(guard_blk, what_the_kernel_does_with_lost_memory_is_an_error)
{
	struct blk_config file = { .kind = DISK_FILE };
	uint64_t good_gpa;
	uint8_t *good;

	start(v, &file);
	good = guest_alloc(&vm.mem, LEN, 4096, &good_gpa);
	cr_assert_eq(ftruncate(vm.mem.region[1].fd, 0), 0);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(vm_do(&vm, 0, i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0, gpa, LEN),
			     VIRTIO_BLK_S_IOERR);
		neighbour_is_well(2);
	}
	cr_assert_eq(lost(), 0u);
	/* The disk is as it was, and the rest of the memory too. */
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, good_gpa, LEN), VIRTIO_BLK_S_OK);
	{
		static uint8_t want[LEN];

		fill(want, LEN, 1);
		cr_assert_arr_eq(good, want, LEN);
	}
	stop();
}
