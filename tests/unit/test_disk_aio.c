/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks that go by Linux AIO. Where a test says nothing else, the device is a file in which each
 * submission waits for what it submitted (--wrap), as one does that works on the caller's CPU.
 */
#include "blk/disk_file.h"
#include "tests/unit/disk_exercise.h"
#include "tests/unit/zram.h"

#include <errno.h>

long __real_aio_sys_submit(aio_context_t ctx, long n, struct iocb **list);
long __wrap_aio_sys_submit(aio_context_t ctx, long n, struct iocb **list);

static enum { IN_PLACE, SLEEPS, BUSY, LATER, REFUSES, TAKES_ONE } device;
static unsigned n_calls, n_sent;

/* The kernel's ring, fs/aio.c. */
struct ring_head {
	unsigned id, nr, head, tail;
};

static void wait_for_done(aio_context_t ctx, long n)
{
	struct ring_head *r = (struct ring_head *)(uintptr_t)ctx;

	while ((__atomic_load_n(&r->tail, __ATOMIC_ACQUIRE) + r->nr - r->head) % r->nr < n)
		;
}

long __wrap_aio_sys_submit(aio_context_t ctx, long n, struct iocb **list)
{
	uint64_t start = clock_ns();
	long rc;

	__atomic_fetch_add(&n_calls, 1, __ATOMIC_SEQ_CST);
	if (device == REFUSES)
		return -EAGAIN;
	rc = __real_aio_sys_submit(ctx, device == TAKES_ONE ? 1 : n, list);
	__atomic_fetch_add(&n_sent, rc, __ATOMIC_SEQ_CST);
	if (device != LATER)
		wait_for_done(ctx, rc);
	if (device == SLEEPS)
		usleep(20000);
	while (device == BUSY && clock_ns() - start < 2000000)
		;
	return rc;
}

static char path[64];

/* A disk in a file, whose queue goes by AIO as if it were a device that suits. */
static void start(struct rig *rig)
{
	struct blk_config cfg = { .name = "d" };
	struct file_disk *f;
	int fd;

	image_create(path, DISK_SIZE);
	/* Else the first direct request sleeps until that has been done. */
	fd = open(path, O_RDWR);
	cr_assert_eq(fsync(fd), 0);
	close(fd);
	cfg.file = path;
	rig_open(rig, &cfg, 0);
	f = container_of(rig->disk, struct file_disk, disk);
	cr_assert_not(f->aio, "a file is not asked");
	if (!f->direct)
		cr_skip_test("the build folder's file system has no O_DIRECT");
	worker_remove(&rig->poller);
	rig->disk->ops->queue_close(rig->queue);
	f->aio = true;
	cr_assert_eq(rig->disk->ops->queue_open(rig->disk, &rig->poller, &rig->queue), 0);
	worker_add(rig->worker, &rig->poller);
}

static void stop(struct rig *rig)
{
	rig_close(rig);
	unlink(path);
}

static void read_times(struct rig *rig, unsigned n)
{
	uint8_t *mem = alloc_buffer(4096), *want = alloc_buffer(4096);

	image_read(path, want, 4096, 0);
	for (unsigned i = 0; i < n; i++) {
		memset(mem, 0xee, 4096);
		cr_assert_eq(rig_rw(rig, DISK_READ, 0, mem, 4096), 0);
		cr_assert_arr_eq(mem, want, 4096);
	}
	free(mem);
	free(want);
}

Test(disk_aio, a_disk_holds_what_was_written, .timeout = 60)
{
	struct rig rig;

	start(&rig);
	exercise(&rig, 100, 512);
	/* How many depends on the file system: it may sleep over a write. */
	cr_assert_gt(n_sent, 0);
	stop(&rig);
}

Test(disk_aio, what_it_does_not_take_goes_by_io_uring, .timeout = 60)
{
	struct rig rig;

	start(&rig);
	device = REFUSES;
	exercise(&rig, 20, 512);
	cr_assert_eq(n_sent, 0);
	cr_assert_gt(n_calls, 0);
	stop(&rig);
}

Test(disk_aio, what_it_takes_only_a_part_of_goes_by_io_uring_for_the_rest, .timeout = 60)
{
	struct rig rig;

	start(&rig);
	device = TAKES_ONE;
	exercise(&rig, 20, 512);
	cr_assert_gt(n_sent, 0);
	stop(&rig);
}

Test(disk_aio, once_it_has_slept_in_a_submission_the_worker_does_not_submit_so_for_long,
     .timeout = 60)
{
	struct rig rig;

	start(&rig);
	device = SLEEPS;
	read_times(&rig, 100);
	cr_assert_eq(n_calls, 1);
	stop(&rig);
}

/* Others had the worker's CPU: not the device's fault. */
Test(disk_aio, a_submission_that_took_long_without_sleeping_changes_nothing, .timeout = 60)
{
	struct rig rig;

	start(&rig);
	device = BUSY;
	read_times(&rig, 20);
	cr_assert_geq(n_calls, 19);
	stop(&rig);
}

Test(disk_aio, a_device_that_is_not_done_on_return_goes_by_io_uring, .timeout = 60)
{
	struct rig rig;

	start(&rig);
	device = LATER;
	read_times(&rig, 200);
	cr_assert_lt(n_calls, 100);
	stop(&rig);
}

Test(disk_aio, a_write_that_must_be_durable_says_so)
{
	struct iovec iov[2] = { { NULL, 512 }, { NULL, 512 } };
	struct aio a = { 0 };

	aio_stage(&a, true, true, 3, iov, 2, 512, NULL);
	cr_assert_eq(a.staged[0].aio_rw_flags, RWF_DSYNC);
	cr_assert_eq(a.staged[0].aio_lio_opcode, IOCB_CMD_PWRITEV);
	aio_stage(&a, true, false, 3, iov, 1, 512, NULL);
	cr_assert_eq(a.staged[1].aio_rw_flags, 0);
	cr_assert_eq(a.staged[1].aio_lio_opcode, IOCB_CMD_PWRITE);
}

Test(disk_aio, no_round_brings_more_than_128_KiB_of_a_device_that_works_in_place_T22, .timeout = 60)
{
	uint8_t *mem = alloc_buffer(DISK_SIZE), *want = alloc_buffer(DISK_SIZE);
	struct rig rig;

	start(&rig);
	image_read(path, want, DISK_SIZE, 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, mem, DISK_SIZE), 0);
	cr_assert_arr_eq(mem, want, DISK_SIZE);
	cr_assert_geq(n_calls, 32);
	stop(&rig);
	free(mem);
	free(want);
}

Test(disk_aio, a_zram_device_is_found_to_suit, .timeout = 60)
{
	struct blk_config cfg = { .name = "d" };
	uint8_t *mem = alloc_buffer(DISK_SIZE);
	struct zram z;
	struct rig rig;

	zram_add(&z, DISK_SIZE);
	cfg.file = z.path;
	rig_open(&rig, &cfg, 0);
	cr_assert(strstr(rig.disk->info.how, "Linux AIO"), "%s", rig.disk->info.how);
	fill(mem, DISK_SIZE, 0);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, mem, DISK_SIZE), 0);
	exercise(&rig, 50, 4096);
	cr_assert_gt(n_sent, 50);
	rig_close(&rig);
	zram_remove(&z);
	free(mem);
}
