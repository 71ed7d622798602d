/* SPDX-License-Identifier: Apache-2.0 */
/* I/O of disks on a real worker: contents, alignment, what waits, and what fails. */
#include "blk/disk_file.h"
#include "tests/unit/disk_exercise.h"

#include <errno.h>
#include <sys/wait.h>

/* The linker puts this in the way of the disk's calls (--wrap): a ring that takes no more at times.
 */
struct io_uring_sqe *__real_worker_sqe(struct worker *w);
struct io_uring_sqe *__wrap_worker_sqe(struct worker *w);

static unsigned sqe_calls;
static bool (*sqe_refused)(unsigned call); /* NULL: none is */

struct io_uring_sqe *__wrap_worker_sqe(struct worker *w)
{
	if (sqe_refused && sqe_refused(sqe_calls++))
		return NULL;
	return __real_worker_sqe(w);
}

static bool two_of_three(unsigned call)
{
	return call % 3 != 2;
}

static bool first_hundred(unsigned call)
{
	return call < 100;
}

static void exercise_file(enum disk_cache cache, unsigned ring_entries)
{
	struct blk_config cfg = { .name = "d", .cache = cache };
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, ring_entries);
	exercise(&rig, 150, 512);
	rig_close(&rig);
	unlink(path);
}

Test(disk_io, a_direct_file_holds_what_was_written_at_any_memory_address, .timeout = 60)
{
	exercise_file(DISK_CACHE_NONE, 0);
}

Test(disk_io, a_buffered_file_holds_what_was_written, .timeout = 60)
{
	exercise_file(DISK_CACHE_WRITEBACK, 0);
}

Test(disk_io, a_ring_with_few_entries_makes_requests_wait_and_loses_none, .timeout = 60)
{
	exercise_file(DISK_CACHE_NONE, 2);
}

Test(disk_io, requests_that_the_ring_refuses_wait_and_none_is_lost, .timeout = 60)
{
	sqe_refused = two_of_three;
	exercise_file(DISK_CACHE_NONE, 0);
	cr_assert_gt(sqe_calls, 150 * 8 * 2);
}

Test(disk_io, a_poller_whose_requests_all_wait_for_the_ring_does_not_park, .timeout = 30)
{
	struct blk_config cfg = { .name = "d" };
	uint8_t *mem = alloc_buffer(4096);
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	sqe_refused = first_hundred;
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, mem, 4096), 0);
	sqe_calls = 0;
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	rig_close(&rig);
	unlink(path);
	free(mem);
}

Test(disk_io, ram_holds_what_was_written, .timeout = 60)
{
	struct blk_config cfg = { .name = "d", .kind = DISK_RAM, .size = DISK_SIZE };
	uint8_t *mem = alloc_buffer(DISK_SIZE);
	struct rig rig;

	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, mem, DISK_SIZE), 0);
	for (unsigned i = 0; i < DISK_SIZE; i++)
		cr_assert_eq(mem[i], 0);
	fill(mem, DISK_SIZE, 0);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, mem, DISK_SIZE), 0);
	exercise(&rig, 150, 512);
	rig_close(&rig);
	free(mem);
}

Test(disk_io, null_overwrites_every_byte_that_it_says_it_has_read)
{
	struct blk_config cfg = { .name = "d", .kind = DISK_NULL, .size = DISK_SIZE };
	uint8_t mem[1024];
	struct rig rig;

	rig_open(&rig, &cfg, 0);
	memset(mem, 0xaa, sizeof(mem));
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 512, mem, sizeof(mem)), 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 512, mem, sizeof(mem)), 0);
	for (unsigned i = 0; i < sizeof(mem); i++)
		cr_assert_eq(mem[i], 0);
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	rig_close(&rig);
}

static bool is_direct(const struct rig *rig)
{
	return container_of(rig->disk, struct file_disk, disk)->direct;
}

Test(disk_io, misaligned_memory_takes_bounce_buffers_and_waits_when_there_are_none, .timeout = 60)
{
	enum { N = 50, LEN = 300 * KIB }; /* more than there are buffers, longer than one is */
	struct blk_config cfg = { .name = "d" };
	struct disk_request req[N], *reqs[N];
	uint8_t *mem, *got;
	struct iovec iov[N];
	char path[64];
	struct rig rig;

	image_create(path, N * LEN);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	if (!is_direct(&rig))
		cr_skip_test("the build folder's file system has no O_DIRECT");
	mem = alloc_buffer(N * LEN + 4096);
	got = alloc_buffer(N * LEN);
	for (unsigned i = 0; i < N; i++) {
		request_set(&req[i], DISK_WRITE, i * LEN, &iov[i], mem + i * LEN + 3, LEN);
		fill(mem + i * LEN + 3, LEN, i + 1);
		reqs[i] = &req[i];
	}
	rig_run(&rig, reqs, N);
	image_read(path, got, N * LEN, 0);
	for (unsigned i = 0; i < N; i++) {
		cr_assert_eq(req[i].result, 0);
		cr_assert(req[i].bounced);
	}
	cr_assert_arr_eq(got, mem + 3, N * LEN);

	for (unsigned i = 0; i < N; i++)
		request_set(&req[i], DISK_READ, i * LEN, &iov[i], mem + i * LEN + 5, LEN);
	rig_run(&rig, reqs, N);
	for (unsigned i = 0; i < N; i++)
		cr_assert_eq(req[i].result, 0);
	cr_assert_arr_eq(got, mem + 5, N * LEN);
	rig_close(&rig);
	unlink(path);
	free(mem);
	free(got);
}

Test(disk_io, aligned_memory_needs_no_bounce_buffer)
{
	struct blk_config cfg = { .name = "d" };
	uint8_t *mem = alloc_buffer(4096);
	struct disk_request r;
	struct iovec iov;
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	request_set(&r, DISK_READ, 4096, &iov, mem, 4096);
	cr_assert_eq(rig_run1(&rig, &r), 0);
	cr_assert_not(r.bounced);
	rig_close(&rig);
	unlink(path);
	free(mem);
}

struct sqe_seen {
	struct rig *rig;
	struct disk_request r;
	struct iovec iov;
	unsigned opcode, rw_flags, fsync_flags;
};

/* On the worker, between submission to the ring and the kernel's taking it. */
static void submit_and_look(void *arg)
{
	struct sqe_seen *seen = arg;
	struct io_uring *ring = worker_ring(seen->rig->worker);
	const struct io_uring_sqe *sqe;

	seen->rig->disk->ops->submit(seen->rig->queue, &seen->r);
	sqe = &ring->sq.sqes[(ring->sq.sqe_tail - 1) & *ring->sq.kring_mask];
	seen->opcode = sqe->opcode;
	seen->rw_flags = (unsigned)sqe->rw_flags;
	seen->fsync_flags = sqe->fsync_flags;
	poller_wake(&seen->rig->poller);
}

static void look(struct sqe_seen *seen)
{
	uint64_t end = clock_ns() + UINT64_C(10000000000);

	__atomic_store_n(&seen->rig->n_done, 0, __ATOMIC_SEQ_CST);
	worker_call_wait(seen->rig->worker, submit_and_look, seen);
	while (!__atomic_load_n(&seen->rig->n_done, __ATOMIC_SEQ_CST) && clock_ns() < end)
		usleep(50);
	cr_assert_eq(seen->rig->n_done, 1);
	cr_assert_eq(seen->r.result, 0);
}

Test(disk_io, a_write_that_must_be_durable_asks_the_kernel_for_it_and_a_flush_is_an_fdatasync)
{
	struct blk_config cfg = { .name = "d" };
	uint8_t *mem = alloc_buffer(4096);
	struct sqe_seen seen = { 0 };
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	seen.rig = &rig;
	request_set(&seen.r, DISK_WRITE, 0, &seen.iov, mem, 4096);
	look(&seen);
	cr_assert_eq(seen.opcode, IORING_OP_WRITE);
	cr_assert_eq(seen.rw_flags, 0);
	request_set(&seen.r, DISK_WRITE, 0, &seen.iov, mem, 4096);
	seen.r.fua = true;
	look(&seen);
	cr_assert_eq(seen.rw_flags, RWF_DSYNC);
	request_set(&seen.r, DISK_FLUSH, 0, &seen.iov, NULL, 0);
	look(&seen);
	cr_assert_eq(seen.opcode, IORING_OP_FSYNC);
	cr_assert_eq(seen.fsync_flags, IORING_FSYNC_DATASYNC);
	rig_close(&rig);
	unlink(path);
	free(mem);
}

static void truncated(enum disk_cache cache)
{
	struct blk_config cfg = { .name = "d", .cache = cache };
	uint8_t *mem = alloc_buffer(DISK_SIZE);
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(truncate(path, MIB + 100), 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, mem, MIB), 0);
	/* Begins in what is there, ends in what is not. */
	cr_assert_eq(rig_rw(&rig, DISK_READ, MIB - 4096, mem, 64 * KIB), -EIO);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 2 * MIB, mem, 4096), -EIO);
	rig_close(&rig);
	unlink(path);
	free(mem);
}

Test(disk_io, a_read_past_the_end_of_a_file_that_shrank_fails, .timeout = 30)
{
	truncated(DISK_CACHE_NONE);
	truncated(DISK_CACHE_WRITEBACK);
}

Test(disk_io, a_write_to_a_file_opened_for_reading_fails)
{
	struct blk_config cfg = { .name = "d", .read_only = true };
	uint8_t *mem = alloc_buffer(4096);
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, mem, 4096), -EBADF);
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	rig_close(&rig);
	unlink(path);
	free(mem);
}

/* Runs a command and takes the first line it says. @return whether it went well. */
static bool command(char *line, size_t size, const char *fmt, const char *arg)
{
	char cmd[256];
	FILE *p;

	snprintf(cmd, sizeof(cmd), fmt, arg);
	p = popen(cmd, "r");
	if (!p)
		return false;
	line[0] = 0;
	if (fgets(line, (int)size, p))
		line[strcspn(line, "\n")] = 0;
	return pclose(p) == 0;
}

Test(disk_io, a_device_of_4096_byte_sectors_serves_requests_of_512, .timeout = 60)
{
	struct blk_config cfg = { .name = "d" };
	uint8_t *mem = alloc_buffer(DISK_SIZE), *model = alloc_buffer(DISK_SIZE);
	char path[64], loop[64], out[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	if (geteuid() != 0 ||
	    !command(loop, sizeof(loop), "losetup -f --show -b 4096 %s 2>/dev/null", path)) {
		unlink(path);
		cr_skip_test("no loop devices, or not root");
	}
	cfg.file = loop;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig.disk->info.align_io, 4096);
	cr_assert_eq(rig.disk->info.block_size, 512);
	cr_assert_eq(rig.disk->info.physical_size, 4096);
	cr_assert(strstr(rig.disk->info.how, "4096 (smaller: buffered)"), "%s", rig.disk->info.how);
	exercise(&rig, 100, 512);

	/* A sector, then the page that it lies in, then a sector again: each sees the last. */
	fill(model, 4096, 1);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 512, model + 512, 512), 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, mem, 4096), 0);
	cr_assert_arr_eq(mem + 512, model + 512, 512);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, model, 4096), 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 1024, mem, 512), 0);
	cr_assert_arr_eq(mem, model + 1024, 512);
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	image_read(path, mem, 4096, 0);
	cr_assert_arr_eq(mem, model, 4096);
	rig_close(&rig);
	command(out, sizeof(out), "losetup -d %s", loop);
	unlink(path);
	free(mem);
	free(model);
}

Test(disk_io, a_file_on_tmpfs_works_whether_or_not_it_has_o_direct, .timeout = 60)
{
	struct blk_config cfg = { .name = "d" };
	char path[64] = "/dev/shm/sluice-test-XXXXXX";
	uint8_t *mem = alloc_buffer(DISK_SIZE);
	int fd = mkstemp(path);
	struct rig rig;

	if (fd < 0)
		cr_skip_test("no tmpfs at /dev/shm");
	fill(mem, DISK_SIZE, 0);
	cr_assert_eq(write(fd, mem, DISK_SIZE), (ssize_t)DISK_SIZE);
	close(fd);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	if (!is_direct(&rig))
		cr_assert(strstr(rig.disk->info.how, "O_DIRECT is not to be had"), "%s",
			  rig.disk->info.how);
	exercise(&rig, 30, 512);
	rig_close(&rig);
	unlink(path);
	free(mem);
}

/* T22: one request for the whole disk must not keep the worker from its other guests. */
static void in_slices(enum disk_kind kind)
{
	struct blk_config cfg = { .name = "disk", .kind = kind, .size = DISK_SIZE };
	uint8_t *mem = alloc_buffer(DISK_SIZE);
	struct poller poller = { .event_fd = -1 };
	struct disk_request r, *done;
	struct error err = { 0 };
	struct disk_queue *q;
	struct disk *disk;
	struct iovec iov;
	unsigned reaps = 1;

	cr_assert_eq(disk_kinds[kind]->open(&cfg, &disk, &err), 0, "%s", err.text);
	cr_assert_eq(disk->ops->queue_open(disk, &poller, &q), 0);
	request_set(&r, DISK_READ, 0, &iov, mem, DISK_SIZE);
	disk->ops->submit(q, &r);
	while (disk->ops->reap(q, &done, 1) == 0) {
		cr_assert(disk->ops->pending(q));
		reaps++;
	}
	cr_assert_geq(reaps, 4);
	cr_assert_eq(r.result, 0);
	cr_assert_not(disk->ops->pending(q));
	for (unsigned i = 0; i < DISK_SIZE; i++)
		cr_assert_eq(mem[i], 0);
	disk->ops->queue_close(q);
	disk->ops->close(disk);
	free(mem);
}

Test(disk_io, ram_does_a_huge_request_in_slices_T22)
{
	in_slices(DISK_RAM);
}

Test(disk_io, null_does_a_huge_request_in_slices_T22)
{
	in_slices(DISK_NULL);
}

#define HUGE_REQUEST (5 * MIB + 512)

static void submit_three(void *arg)
{
	struct rig *rig = arg;

	for (unsigned i = 0; i < 3; i++)
		rig->disk->ops->submit(rig->queue, rig->batch[i]);
	/* Not all of them at once: some wait for the next round. */
	cr_assert(rig->disk->ops->pending(rig->queue));
	poller_wake(&rig->poller);
}

static void huge_requests(enum disk_cache cache)
{
	struct blk_config cfg = { .name = "disk", .kind = DISK_FILE, .cache = cache };
	uint8_t *mem = alloc_buffer(3 * 8 * MIB), *back = alloc_buffer(HUGE_REQUEST);
	struct disk_request req[3], *reqs[3];
	uint64_t end = clock_ns() + UINT64_C(20000000000);
	struct iovec iov[3][3];
	struct rig rig;
	char path[64];

	image_create(path, 16 * MIB);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	for (unsigned i = 0; i < 3; i++) {
		/* One segment; three, of which the second is huge; and at an odd address. */
		uint8_t *at = mem + i * 8 * MIB + (i == 2 ? 8 : 0);

		reqs[i] = &req[i];
		request_set(&req[i], DISK_WRITE, i * HUGE_REQUEST, iov[i], at, HUGE_REQUEST);
		fill(at, HUGE_REQUEST, i + 5);
		req[i].result = 1;
		if (i != 1)
			continue;
		iov[i][0] = (struct iovec) { at, 2 * MIB };
		iov[i][1] = (struct iovec) { at + 2 * MIB, 3 * MIB };
		iov[i][2] = (struct iovec) { at + 5 * MIB, 512 };
		req[i].n_iov = 3;
	}
	rig.batch = reqs;
	worker_call_wait(rig.worker, submit_three, &rig);
	while (__atomic_load_n(&rig.n_done, __ATOMIC_SEQ_CST) < 3 && clock_ns() < end)
		usleep(50);
	cr_assert_eq(rig.n_done, 3);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(req[i].result, 0);
		image_read(path, back, HUGE_REQUEST, i * HUGE_REQUEST);
		cr_assert_arr_eq(back, mem + i * 8 * MIB + (i == 2 ? 8 : 0), HUGE_REQUEST);
	}
	rig_close(&rig);
	unlink(path);
	free(mem);
	free(back);
}

Test(disk_io, a_file_does_huge_requests_in_steps_T22, .timeout = 60)
{
	huge_requests(DISK_CACHE_NONE);
	huge_requests(DISK_CACHE_WRITEBACK);
}
