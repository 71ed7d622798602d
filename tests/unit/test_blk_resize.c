/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that grows under its running guest. */
#include "tests/unit/blk_util.h"

#include <errno.h>

#define IMAGE (4 * MIB)

/* The linker puts this in the way of the disk's calls (--wrap): a disk that does not get on. */
struct io_uring_sqe *__real_worker_sqe(struct worker *w);
struct io_uring_sqe *__wrap_worker_sqe(struct worker *w);

static bool disk_is_stuck;

struct io_uring_sqe *__wrap_worker_sqe(struct worker *w)
{
	return __atomic_load_n(&disk_is_stuck, __ATOMIC_SEQ_CST) ? NULL : __real_worker_sqe(w);
}

static void set_stuck(bool stuck)
{
	__atomic_store_n(&disk_is_stuck, stuck, __ATOMIC_SEQ_CST);
}

BLK_TEST(blk_resize, a_grown_file_is_told_and_its_new_sectors_hold_what_is_written)
{
	struct blk_config cfg = { .kind = DISK_FILE, .queues = 2 };
	struct error err = { 0 };
	uint8_t want[4096], *mem;
	uint64_t gpa;
	struct vm vm;

	vm_start(&vm, v, &cfg, IMAGE);
	VM_OK(&vm, frontend_open_backend_channel(&vm.f));
	mem = guest_alloc(&vm.mem, 4096, 4096, &gpa);
	fill(want, sizeof(want), 3);
	memcpy(mem, want, sizeof(want));
	cr_assert_eq(truncate(vm.image, 2 * IMAGE + 100), 0);
	/* Until somebody says so it is as large as it was. */
	cr_assert_eq(vm_do(&vm, 1, VIRTIO_BLK_T_OUT, IMAGE / 512, gpa, 4096), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(blk_device_resize(vm.dev, 0, &err), 0, "%s", err.text);
	cr_assert(vm_told_of_change(&vm));
	cr_assert_eq(vm_told_capacity(&vm), 2 * IMAGE);
	for (unsigned q = 0; q < 2; q++) {
		cr_assert_eq(vm_do(&vm, q, VIRTIO_BLK_T_OUT, IMAGE / 512 + 8 * q, gpa, 4096),
			     VIRTIO_BLK_S_OK);
		cr_assert_eq(vm_do(&vm, q, VIRTIO_BLK_T_OUT, 2 * IMAGE / 512, gpa, 512),
			     VIRTIO_BLK_S_IOERR);
	}
	memset(mem, 0, 4096);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, IMAGE / 512 + 8, gpa, 4096), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(mem, want, sizeof(want));
	vm_stop(&vm);
}

BLK_TEST(blk_resize, an_image_grows_to_the_size_that_is_named)
{
	struct error err = { 0 };
	struct stat st;
	uint64_t gpa;
	struct vm vm;

	vm_start(&vm, v, &(struct blk_config) { .kind = DISK_FILE }, IMAGE);
	guest_alloc(&vm.mem, 4096, 4096, &gpa);
	cr_assert_eq(blk_device_resize(vm.dev, 3 * IMAGE, &err), 0, "%s", err.text);
	cr_assert_eq(stat(vm.image, &st), 0);
	cr_assert_eq(st.st_size, 3 * IMAGE);
	cr_assert_eq(blk_device_capacity(vm.dev), 3 * IMAGE);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 3 * IMAGE / 512 - 8, gpa, 4096),
		     VIRTIO_BLK_S_OK);
	/* The same again is no change, and none is told. */
	cr_assert_eq(blk_device_resize(vm.dev, 3 * IMAGE, &err), 0);
	vm_stop(&vm);
}

static void refused(struct vm *vm, uint64_t size, int code, const char *why)
{
	struct error err = { 0 };
	uint64_t before = blk_device_capacity(vm->dev);

	cr_assert_eq(blk_device_resize(vm->dev, size, &err), code);
	cr_assert(strstr(err.text, why), "%s", err.text);
	cr_assert_eq(blk_device_capacity(vm->dev), before);
}

Test(blk_resize, what_cannot_be_is_refused_with_the_reason_and_changes_nothing, .timeout = 60)
{
	struct blk_config cfg = { .kind = DISK_FILE };
	struct stat st;
	struct vm vm;

	vm_start(&vm, &variant_split, &cfg, IMAGE);
	refused(&vm, IMAGE - 512, -EINVAL, "can only grow");
	refused(&vm, IMAGE + 100, -EINVAL, "no whole number of sectors");
	cr_assert_eq(truncate(vm.image, IMAGE / 2), 0);
	refused(&vm, 0, -ESTALE, "has become shorter");
	cr_assert_eq(stat(vm.image, &st), 0);
	cr_assert_eq(st.st_size, IMAGE / 2);
	vm_stop(&vm);

	cfg.read_only = true;
	vm_start(&vm, &variant_split, &cfg, IMAGE);
	refused(&vm, 2 * IMAGE, -EROFS, "make it larger, and then resize");
	cr_assert_eq(truncate(vm.image, 2 * IMAGE), 0);
	cr_assert_eq(blk_device_resize(vm.dev, 0, &(struct error) { 0 }), 0);
	vm_stop(&vm);

	cfg = (struct blk_config) { .kind = DISK_RAM };
	vm_start(&vm, &variant_split, &cfg, IMAGE);
	refused(&vm, 2 * IMAGE, -EOPNOTSUPP, "a ram disk cannot be resized");
	vm_stop(&vm);
}

/* T20: what is in flight goes on, and so does what comes for the new sectors. */
BLK_TEST(blk_resize, a_disk_grows_with_requests_in_flight)
{
	const unsigned n = 8;
	struct error err = { 0 };
	uint8_t want[4096], *mem;
	uint64_t gpa;
	struct vm vm;

	vm_start(&vm, v, &(struct blk_config) { .kind = DISK_FILE }, IMAGE);
	VM_OK(&vm, frontend_open_backend_channel(&vm.f));
	mem = guest_alloc(&vm.mem, (n + 1) * 4096, 4096, &gpa);
	fill(mem + n * 4096, 4096, 9);
	set_stuck(true);
	for (unsigned i = 0; i < n; i++)
		VM_OK(&vm,
		      guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, 8 * i,
				       &(struct driver_seg) { gpa + i * 4096, 4096 }, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == n));
	cr_assert_eq(blk_device_resize(vm.dev, 2 * IMAGE, &err), 0, "%s", err.text);
	cr_assert(vm_told_of_change(&vm));
	cr_assert_eq(vm_told_capacity(&vm), 2 * IMAGE);
	cr_assert_eq(vm_stats(&vm).in_flight, n);
	VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_OUT, 2 * IMAGE / 512 - 8,
				    &(struct driver_seg) { gpa + n * 4096, 4096 }, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == n + 1), "the new sectors are not there");
	set_stuck(false);
	vm_wait(&vm, 0, n + 1, VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < n; i++) {
		image_read(vm.image, want, 4096, i * 4096);
		cr_assert_arr_eq(mem + i * 4096, want, 4096);
	}
	image_read(vm.image, want, 4096, 2 * IMAGE - 4096);
	cr_assert_arr_eq(mem + n * 4096, want, 4096);
	vm_stop(&vm);
}
