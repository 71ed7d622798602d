/* SPDX-License-Identifier: Apache-2.0 */
/* DISCARD and ZERO: what is read afterwards, whose space comes back, and by which way. */
#include "tests/unit/disk_util.h"

#include "blk/disk_file.h"
#include "poll/worker.h"

#include <errno.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>

#define DISK_SIZE (8 * MIB)

/* The last submission entry that anybody took. */
static struct io_uring_sqe *last_sqe;
struct io_uring_sqe *__real_worker_sqe(struct worker *w);
struct io_uring_sqe *__wrap_worker_sqe(struct worker *w);

struct io_uring_sqe *__wrap_worker_sqe(struct worker *w)
{
	return last_sqe = __real_worker_sqe(w);
}

static int range(struct rig *rig, enum disk_op op, uint64_t offset, uint64_t len, bool unmap)
{
	struct disk_request r;
	struct iovec iov;

	request_set(&r, op, offset, &iov, NULL, len);
	r.n_iov = 0;
	r.unmap = unmap;
	return rig_run1(rig, &r);
}

static uint8_t *buffer(void)
{
	uint8_t *mem = aligned_alloc(4096, DISK_SIZE);

	cr_assert(mem);
	return mem;
}

/* As if the kernel had said that it cannot. */
static void without(struct rig *rig, enum range_way way)
{
	container_of(rig->queue, struct file_queue, base)->no_way[way] = true;
}

/* Ranges of every place and size, among writes: a model says what is read. */
static void exercise(struct rig *rig, unsigned rounds)
{
	uint8_t *model = buffer(), *mem = buffer();
	uint32_t x = 4711;

	fill(model, DISK_SIZE, 1);
	memcpy(mem, model, DISK_SIZE);
	cr_assert_eq(rig_rw(rig, DISK_WRITE, 0, mem, DISK_SIZE), 0);
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t at, len;
		bool unmap;

		x = x * 1664525u + 1013904223u;
		at = (x >> 8) % (DISK_SIZE / 512) * 512;
		x = x * 1664525u + 1013904223u;
		len = (x >> 8) % (x & 1 ? 40 : 4000) * 512 + 512;
		len = MIN(len, DISK_SIZE - at);
		unmap = x & 2;
		if (x & 4) {
			cr_assert_eq(range(rig, DISK_ZERO, at, len, unmap), 0);
			memset(model + at, 0, len);
		} else {
			len = MIN(len, (uint64_t)64 * KIB);
			fill(model + at, len, i);
			memcpy(mem, model + at, len);
			cr_assert_eq(rig_rw(rig, DISK_WRITE, at, mem, len), 0);
		}
	}
	cr_assert_eq(rig_rw(rig, DISK_READ, 0, mem, DISK_SIZE), 0);
	cr_assert_arr_eq(mem, model, DISK_SIZE);
	free(mem);
	free(model);
}

static uint64_t allocated(const char *path)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static bool has_holes(const char *path)
{
	int fd = open(path, O_RDWR);
	int rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);

	close(fd);
	return rc == 0;
}

static void each_way(enum disk_cache cache)
{
	struct blk_config cfg = { .name = "d", .cache = cache };
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	exercise(&rig, 100);
	without(&rig, RANGE_PUNCH);
	exercise(&rig, 100);
	without(&rig, RANGE_ZERO);
	exercise(&rig, 50);
	rig_close(&rig);
	unlink(path);
}

Test(disk_range, zeroed_ranges_of_a_direct_file_read_as_zeros_by_each_way, .timeout = 120)
{
	each_way(DISK_CACHE_NONE);
}

Test(disk_range, zeroed_ranges_of_a_buffered_file_read_as_zeros_by_each_way, .timeout = 120)
{
	each_way(DISK_CACHE_WRITEBACK);
}

/* tmpfs punches holes, and knows no zeroed range that stays allocated: the kernel says so itself.
 */
Test(disk_range, what_the_kernel_refuses_is_done_the_next_way, .timeout = 60)
{
	struct blk_config cfg = { .name = "d", .cache = DISK_CACHE_WRITEBACK };
	char path[64];
	struct rig rig;

	snprintf(path, sizeof(path), "/dev/shm/sluice-test-%d", getpid());
	if (close(open(path, O_CREAT | O_RDWR, 0600)) || truncate(path, DISK_SIZE)) {
		unlink(path);
		cr_skip_test("there is no /dev/shm");
	}
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(range(&rig, DISK_ZERO, 0, MIB, false), 0);
	cr_assert_eq(last_sqe->opcode, IORING_OP_WRITEV);
	exercise(&rig, 100);
	rig_close(&rig);
	unlink(path);
}

Test(disk_range, zeroed_ranges_of_a_ram_disk_read_as_zeros, .timeout = 60)
{
	struct blk_config cfg = { .name = "d", .kind = DISK_RAM, .size = DISK_SIZE };
	struct rig rig;

	rig_open(&rig, &cfg, 0);
	exercise(&rig, 300);
	cr_assert_eq(range(&rig, DISK_DISCARD, 0, DISK_SIZE, false), 0);
	rig_close(&rig);
}

Test(disk_range, a_null_disk_takes_any_range)
{
	struct blk_config cfg = { .name = "d", .kind = DISK_NULL, .size = DISK_SIZE };
	struct rig rig;

	rig_open(&rig, &cfg, 0);
	cr_assert_eq(range(&rig, DISK_DISCARD, 512, DISK_SIZE - 512, false), 0);
	cr_assert_eq(range(&rig, DISK_ZERO, 512, DISK_SIZE - 512, true), 0);
	rig_close(&rig);
}

Test(disk_range, the_space_of_a_file_comes_back_and_that_of_zeros_to_be_kept_does_not)
{
	struct blk_config cfg = { .name = "d" };
	uint64_t before, kept;
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	if (!has_holes(path)) {
		unlink(path);
		cr_skip_test("the file system here has no holes");
	}
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	before = allocated(path);
	cr_assert_eq(range(&rig, DISK_ZERO, MIB, MIB, false), 0);
	kept = allocated(path);
	cr_assert_geq(kept + 64 * KIB, before);
	cr_assert_eq(range(&rig, DISK_ZERO, 2 * MIB, MIB, true), 0);
	cr_assert_leq(allocated(path), kept - MIB + 64 * KIB);
	cr_assert_eq(range(&rig, DISK_DISCARD, 4 * MIB, 4 * MIB, false), 0);
	cr_assert_leq(allocated(path), kept - 5 * MIB + 64 * KIB);
	cr_assert_eq(rig.disk->info.size, DISK_SIZE);
	rig_close(&rig);
	unlink(path);
}

Test(disk_range, where_space_is_kept_no_discard_is_offered)
{
	struct blk_config cfg = { .name = "d", .keep_space = true };
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig.disk->info.discard_max, 0);
	cr_assert_gt(rig.disk->info.zero_max, 0);
	cr_assert_not(rig.disk->info.zero_unmaps);
	rig_close(&rig);
	cfg.read_only = true;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig.disk->info.discard_max + rig.disk->info.zero_max, 0);
	rig_close(&rig);
	unlink(path);
}

Test(disk_range, a_discard_that_nobody_can_do_is_not_supported)
{
	struct blk_config cfg = { .name = "d" };
	uint8_t *mem = buffer(), *was = buffer();
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	without(&rig, RANGE_PUNCH);
	cr_assert_eq(range(&rig, DISK_DISCARD, 0, DISK_SIZE, false), -EOPNOTSUPP);
	fill(was, DISK_SIZE, 0);
	image_read(path, mem, DISK_SIZE, 0);
	cr_assert_arr_eq(mem, was, DISK_SIZE);
	rig_close(&rig);
	unlink(path);
	free(mem);
	free(was);
}

Test(disk_range, a_range_that_must_be_durable_ends_with_an_fdatasync_5_2_6_2)
{
	static const enum disk_op ops[] = { DISK_DISCARD, DISK_ZERO };
	struct blk_config cfg = { .name = "d" };
	struct iovec iov;
	char path[64];
	struct rig rig;

	image_create(path, DISK_SIZE);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(ops); i++) {
		struct disk_request r;

		request_set(&r, ops[i / 2], 0, &iov, NULL, MIB);
		r.n_iov = 0;
		r.fua = i % 2;
		cr_assert_eq(rig_run1(&rig, &r), 0);
		cr_assert_eq(last_sqe->opcode, r.fua ? IORING_OP_FSYNC : IORING_OP_FALLOCATE);
	}
	rig_close(&rig);
	unlink(path);
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

/* The device's blocks are larger than the guest's sectors. */
static void on_a_device(struct rig *rig)
{
	uint8_t *mem = buffer(), *model = buffer();

	exercise(rig, 100);
	fill(model, 16 * KIB, 9);
	memcpy(mem, model, 16 * KIB);
	cr_assert_eq(rig_rw(rig, DISK_WRITE, 0, mem, 16 * KIB), 0);
	/* Of a discard, what is not a whole block stays. */
	cr_assert_eq(range(rig, DISK_DISCARD, 512, 1024, false), 0);
	cr_assert_eq(range(rig, DISK_DISCARD, 4096 + 512, 4096 + 3 * KIB, false), 0);
	cr_assert_eq(rig_rw(rig, DISK_READ, 0, mem, 16 * KIB), 0);
	cr_assert_arr_eq(mem, model, 8 * KIB);
	cr_assert_arr_eq(mem + 12 * KIB, model + 12 * KIB, 4 * KIB);
	/* Of zeros, everything counts. */
	cr_assert_eq(range(rig, DISK_ZERO, 512, 10 * KIB, true), 0);
	memset(model + 512, 0, 10 * KIB);
	cr_assert_eq(rig_rw(rig, DISK_READ, 0, mem, 16 * KIB), 0);
	cr_assert_arr_eq(mem, model, 8 * KIB);
	free(mem);
	free(model);
}

Test(disk_range, a_device_of_4096_byte_blocks_gives_whole_ones_back_and_zeroes_parts,
     .timeout = 120)
{
	struct blk_config cfg = { .name = "d" };
	char path[64], loop[64], out[64];
	uint64_t before;
	struct rig rig;

	image_create(path, DISK_SIZE);
	if (geteuid() != 0 ||
	    !command(loop, sizeof(loop), "losetup -f --show -b 4096 %s 2>/dev/null", path)) {
		unlink(path);
		cr_skip_test("no loop devices, or not root");
	}
	cfg.file = loop;
	rig_open(&rig, &cfg, 0);
	on_a_device(&rig);
	without(&rig, RANGE_DISCARD); /* as on Linux before 6.12 */
	on_a_device(&rig);
	if (has_holes(path)) {
		uint8_t *mem = buffer();

		fill(mem, DISK_SIZE, 3);
		cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, mem, DISK_SIZE), 0);
		cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
		before = allocated(path);
		cr_assert_gt(rig.disk->info.discard_max, 0);
		cr_assert_eq(range(&rig, DISK_DISCARD, 0, 4 * MIB, false), 0);
		cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
		cr_assert_leq(allocated(path), before - 4 * MIB + 64 * KIB);
		free(mem);
	}
	rig_close(&rig);
	command(out, sizeof(out), "losetup -d %s", loop);
	unlink(path);
}
