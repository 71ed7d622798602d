/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest may rely on being durable is, whatever it changes its mind about meanwhile; and what
 * a disk on an NBD server does for a guest ends with that guest.
 */
#include "base/error.h"
#include "blk/device_impl.h"
#include "blk/disk_file.h"
#include "blk/disk_nbd.h"
#include "tests/guest/frontend_log.h"
#include "tests/unit/blk_util.h"
#include "tests/unit/hear.h"
#include "tests/unit/nbd_liar.h"

#include <errno.h>

#define IMAGE (4 * MIB)
#define WCE offsetof(struct virtio_blk_config, wce)

static struct vm vm;
static struct liar liar;
static uint8_t *mem;
static uint64_t gpa;

TestSuite(blk_durable, .timeout = 120);

static void start(const struct variant *v, const struct blk_config *cfg)
{
	vm_start(&vm, v, cfg, IMAGE);
	mem = guest_alloc(&vm.mem, 64 * KIB, 4096, &gpa);
	cr_assert_not_null(mem);
}

static void submit(uint32_t type, uint64_t sector, uint32_t len)
{
	const struct driver_seg seg = { gpa, len };

	VM_OK(&vm, guest_blk_submit(&vm.blk[0], type, sector, &seg, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
}

static void start_with_limit(const struct variant *v)
{
	const struct blk_config cfg = { .kind = DISK_FILE,
					.cache = DISK_CACHE_WRITEBACK,
					.limits.ops[BLK_LIMIT_ALL].rate = 2 };

	start(v, &cfg);
	write_back(vm.image);
	if (dirty_pages(vm.image) < 0)
		cr_skip_test("the kernel has no cachestat()");
}

static void start_on_liar(const struct variant *v, uint32_t flags)
{
	struct blk_config cfg = { .kind = DISK_NBD, .reconnect_s = 60 };

	liar_start(&liar, LIAR_MEMORY, flags);
	cfg.nbd = liar.at.uri;
	start(v, &cfg);
}

static void stop_on_liar(void)
{
	vm_stop(&vm);
	liar_stop(&liar);
}

static void say(uint8_t wce)
{
	VM_OK(&vm, frontend_set_config(&vm.f, WCE, &wce, 1, 0));
}

static void write_page(uint32_t seed)
{
	fill(mem, 4096, seed);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096), VIRTIO_BLK_S_OK);
}

static bool flushes_came(uint32_t n)
{
	return VM_EVENTUALLY(LIAR_GET(&liar, commands[3]) >= n);
}

/* A driver that knows of no flush takes over, and relies on all that is there. */
BLK_TEST(blk_durable, what_was_written_back_becomes_durable_when_a_driver_comes_that_cannot_flush)
{
	const uint64_t flush = UINT64_C(1) << VIRTIO_BLK_F_FLUSH;

	start_on_liar(v, LIAR_FLUSH | LIAR_FUA);
	write_page(1);
	cr_assert_eq(LIAR_GET(&liar, commands[3]), 0);
	VM_OK(&vm, frontend_set_features(&vm.f, vm.f.features & ~flush));
	cr_assert(flushes_came(1));
	stop_on_liar();
}

/* The flush of the first time is under way still, and does not cover what came since. */
BLK_TEST(blk_durable, a_guest_that_goes_back_and_forth_has_all_of_it_flushed)
{
	start_on_liar(v, LIAR_FLUSH | LIAR_FUA);
	write_page(1);
	LIAR_SET(&liar, answers, 0);
	say(0);
	cr_assert(flushes_came(1));
	LIAR_SET(&liar, answers, UINT32_MAX);
	say(1);
	write_page(2);
	say(0);
	LIAR_SET(&liar, hang_up, 1);
	cr_assert(flushes_came(3), "%u flushes", LIAR_GET(&liar, commands[3]));
	stop_on_liar();
}

/* They wait for their turn while the guest changes, and complete when it relies on that. */
BLK_TEST(blk_durable, what_is_in_flight_when_the_guest_changes_is_durable_when_it_completes)
{
	bool held = false;

	start_with_limit(v);
	for (unsigned i = 0; i < 5 && !held; i++) {
		say(1);
		for (unsigned j = 0; j < 6; j++)
			submit(VIRTIO_BLK_T_OUT, j * 128, 64 * KIB);
		cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now > 0));
		say(0);
		held = vm_stats(&vm).held_now > 0;
		vm_wait(&vm, 0, 6, VIRTIO_BLK_S_OK);
		cr_assert(!held || dirty_pages(vm.image) == 0);
	}
	cr_assert(held);
	cr_assert_geq(vm_stats(&vm).writes, 6);
	cr_assert_eq(vm_stats(&vm).flushes, 0);
	vm_stop(&vm);
}

/* From now on the disk's descriptor is of another file. @return what brings the disk's back. */
static int swap_file(const char *path)
{
	int fd = container_of(vm.dev->disk, struct file_disk, disk)->fd;
	int kept = dup(fd), other = open(path, O_RDWR | O_CLOEXEC);

	cr_assert_geq(kept, 0);
	cr_assert_geq(other, 0);
	cr_assert_eq(dup2(other, fd), fd);
	close(other);
	return kept;
}

static void swap_back(int kept)
{
	int fd = container_of(vm.dev->disk, struct file_disk, disk)->fd;

	cr_assert_eq(dup2(kept, fd), fd);
	close(kept);
}

/* Takes what is written, and can flush nothing. */
#define NO_FLUSH "/dev/null"
/* Writes to addresses that nobody has fail with EIO. */
#define NO_WRITE "/proc/self/mem"

static void start_cached(const struct variant *v, enum disk_on_error on_error)
{
	const struct blk_config cfg = { .kind = DISK_FILE,
					.cache = DISK_CACHE_WRITEBACK,
					.on_error = on_error };

	start(v, &cfg);
}

static uint8_t flush(void)
{
	return (uint8_t)vm_do(&vm, 0, VIRTIO_BLK_T_FLUSH, 0, gpa, 0);
}

/* The kernel tells it once, and the next fdatasync() is content. */
BLK_TEST(blk_durable, a_flush_of_cached_data_that_fails_is_not_tried_again_and_none_succeeds_after)
{
	static const enum disk_on_error rows[] = { DISK_ERROR_REPORT, DISK_ERROR_STOP };

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		int kept;

		start_cached(v, rows[i]);
		write_page(1);
		cr_assert_eq(flush(), VIRTIO_BLK_S_OK);
		cr_assert_eq(vm_stats(&vm).lost_error, 0);
		kept = swap_file(NO_FLUSH);
		cr_assert_eq(flush(), VIRTIO_BLK_S_IOERR);
		swap_back(kept);
		cr_assert_eq(vm_stats(&vm).lost_error, EINVAL);
		cr_assert_eq(flush(), VIRTIO_BLK_S_IOERR);
		cr_assert_eq(vm_stats(&vm).fault_error, EINVAL);
		write_page(2);
		/* What is to be durable by itself is no better off. */
		say(0);
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096), VIRTIO_BLK_S_IOERR);
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);
		cr_assert_eq(vm_stats(&vm).waiting, 0);
		vm_stop(&vm);
	}
}

static void replaced(void *arg)
{
	*(bool *)arg = true;
}

/* One line when it happens, however often it is felt, and one when it is over. */
BLK_TEST(blk_durable, what_was_lost_is_told_once_in_the_log_and_so_is_the_end_of_it)
{
	static const char lost[] = "a flush or durable write of ", over[] = "is closed, which had";
	static struct heard heard;
	char other[64], *line;
	struct error err = { 0 };
	bool done = false;
	int kept;

	hear(&heard);
	start_cached(v, DISK_ERROR_REPORT);
	kept = swap_file(NO_FLUSH);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(flush(), VIRTIO_BLK_S_IOERR);
	swap_back(kept);
	cr_assert(VM_EVENTUALLY(heard_times(&heard, lost) > 0));
	cr_assert_eq(flush(), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(heard_times(&heard, lost), 1u);
	line = strstr(heard.text, "disk disk-under-test: ");
	cr_assert_not_null(line);
	cr_assert_not_null(strstr(line, vm.image));
	cr_assert_not_null(strstr(line, "Invalid argument"));
	cr_assert_not_null(strstr(line, "sluice disk replace"));
	cr_assert_eq(heard_times(&heard, over), 0u);

	vm_disconnect(&vm);
	cr_assert(VM_EVENTUALLY(!vm.dev->vhost.session));
	image_create(other, IMAGE);
	cr_assert_eq(blk_device_replace(vm.dev, other, NULL, replaced, &done, &err), 0, "%s",
		     err.text);
	cr_assert(VM_EVENTUALLY(done));
	cr_assert_eq(heard_times(&heard, over), 1u);
	cr_assert_eq(vm_stats(&vm).lost_error, 0);
	vm_close_device(&vm);
	cr_assert_eq(heard_times(&heard, over), 1u);
	cr_assert_eq(heard_times(&heard, lost), 1u);
	unlink(other);
	vm_stop_closed(&vm);
}

/* It may have been told of another's page, which stood in the cache with its own. */
BLK_TEST(blk_durable, a_write_through_the_cache_that_fails_with_eio_leaves_nothing_durable)
{
	int kept;

	start_cached(v, DISK_ERROR_STOP);
	say(0);
	write_page(1);
	kept = swap_file(NO_WRITE);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096), VIRTIO_BLK_S_IOERR);
	swap_back(kept);
	cr_assert_eq(vm_stats(&vm).lost_error, EIO);
	cr_assert_eq(flush(), VIRTIO_BLK_S_IOERR);
	vm_stop(&vm);
}

/* No page holds anything: the guest may wait for it. */
BLK_TEST(blk_durable, a_flush_past_the_cache_that_fails_is_tried_again)
{
	const struct blk_config cfg = { .kind = DISK_FILE, .on_error = DISK_ERROR_STOP };
	int kept;

	start(v, &cfg);
	write_page(1);
	kept = swap_file(NO_FLUSH);
	submit(VIRTIO_BLK_T_FLUSH, 0, 0);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	swap_back(kept);
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_stats(&vm).lost_error, 0);
	vm_stop(&vm);
}

/* Zeros are written, as where nothing else can be done. */
static void write_zeros_only(void)
{
	struct blk_queue *q = vm.dev->vhost.queues[0].priv;
	struct file_queue *f = container_of(q->disk_queue, struct file_queue, base);

	for (unsigned way = 0; way < RANGE_WRITE; way++)
		f->no_way[way] = true;
}

/* Its zeros went where nothing stays. */
BLK_TEST(blk_durable, a_range_whose_flush_fails_is_done_again_whole)
{
	const struct blk_config cfg = { .kind = DISK_FILE, .on_error = DISK_ERROR_STOP };
	static uint8_t zero[4096];
	int kept;

	start(v, &cfg);
	say(0);
	write_page(1);
	write_zeros_only();
	memset(mem, 0, 16);
	mem[8] = sizeof(zero) / 512;
	kept = swap_file(NO_FLUSH);
	submit(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	cr_assert_eq(vm_stats(&vm).fault_error, EINVAL, "not of the flush");
	swap_back(kept);
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(mem, zero, sizeof(zero));
	vm_stop(&vm);
}

/* What another host has written meanwhile. */
static uint8_t theirs[4096];

/* The server has it, and its connections break. @return true: we are connected anew, and in @state.
 */
static bool another_host_writes(enum nbd_state state)
{
	struct nbd_disk *d = container_of(vm.dev->disk, struct nbd_disk, disk);

	LIAR_SET(&liar, error, 0);
	fill(theirs, sizeof(theirs), 99);
	memcpy(liar.memory, theirs, sizeof(theirs));
	LIAR_SET(&liar, hang_up, 1);
	return VM_EVENTUALLY(LIAR_GET(&liar, connections) == 2 &&
			     __atomic_load_n(&d->state, __ATOMIC_RELAXED) == state);
}

static void guest_goes(void)
{
	vm_disconnect(&vm);
	cr_assert(VM_EVENTUALLY(vhost_device_state(blk_device_vhost(vm.dev)) ==
				VHOST_DEVICE_WAITING));
	cr_assert(flushes_came(1));
}

static uint64_t logged(void)
{
	const struct nbd_redo *r = &container_of(vm.dev->disk, struct nbd_disk, disk)->redo;

	return __atomic_load_n(&r->head, __ATOMIC_RELAXED) -
	       __atomic_load_n(&r->tail, __ATOMIC_RELAXED);
}

BLK_TEST(blk_durable, a_guest_that_goes_leaves_nothing_that_would_be_written_again)
{
	start_on_liar(v, LIAR_FLUSH);
	write_page(1);
	guest_goes();
	cr_assert(VM_EVENTUALLY(logged() == 0));
	cr_assert(another_host_writes(NBD_UP));
	cr_assert_arr_eq(liar.memory, theirs, sizeof(theirs));
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	stop_on_liar();
}

BLK_TEST(blk_durable, nothing_is_written_again_while_no_guest_runs)
{
	static uint8_t ours[4096];

	start_on_liar(v, LIAR_FLUSH);
	write_page(1);
	memcpy(ours, mem, sizeof(ours));
	LIAR_SET(&liar, error, 5);
	guest_goes();
	cr_assert(VM_EVENTUALLY(!vm.dev->settling));
	cr_assert(another_host_writes(NBD_REDO));
	usleep(300000); /* a few looks of a thread that would */
	cr_assert_arr_eq(liar.memory, theirs, sizeof(theirs));
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(mem, ours, sizeof(ours));
	stop_on_liar();
}

BLK_TEST(blk_durable, a_guest_that_migrates_takes_its_writes_along_whatever_the_flush_says)
{
	struct frontend_log log;

	start_on_liar(v, LIAR_FLUSH);
	cr_assert_eq(frontend_log_create(&log, (UINT64_C(1) << 32) + VM_MEMORY / 2, 0), 0);
	write_page(1);
	VM_OK(&vm, frontend_log_start(&vm.f, &log, 1));
	LIAR_SET(&liar, error, 5);
	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	cr_assert(another_host_writes(NBD_UP));
	cr_assert_arr_eq(liar.memory, theirs, sizeof(theirs));
	cr_assert_eq(logged(), 0);
	stop_on_liar();
	frontend_log_destroy(&log);
}
