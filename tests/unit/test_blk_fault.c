/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks that fail or do not answer. The disk's operations are the ram disk's with a layer of the
 * test's behind them (--wrap), so that any request can fail with any error, when
 * and for as long as the test says; and a file system without space, for real.
 */
#include "blk/queue.h"
#include "tests/unit/blk_util.h"

#include <errno.h>
#include <sys/mount.h>

#define IMAGE (4 * MIB)
#define BAD_SECTOR 64u

static struct vm vm;
static uint64_t gpa;

/* The linker puts these in the way of the ram disk's (--wrap). */
unsigned __real_instant_reap(struct disk_queue *dq, struct disk_request **done, unsigned max,
			     void *move);
unsigned __wrap_instant_reap(struct disk_queue *dq, struct disk_request **done, unsigned max,
			     void *move);

static int fail_with;	     /* errno, of requests that touch BAD_SECTOR; 0: none */
static unsigned n_failures;  /* atomic */
static int flush_error;	     /* likewise, of flushes */
static bool silent;	     /* nothing is answered */
static bool one_step;	     /* then it is, after one reap more */
static unsigned most_reaped; /* of all reaps the one with the most requests */

unsigned __wrap_instant_reap(struct disk_queue *dq, struct disk_request **done, unsigned max,
			     void *move)
{
	unsigned n;
	int error;

	if (__atomic_load_n(&silent, __ATOMIC_SEQ_CST))
		return 0;
	if (__atomic_load_n(&one_step, __ATOMIC_SEQ_CST) && dq->disk->ops->pending(dq)) {
		__atomic_store_n(&silent, true, __ATOMIC_SEQ_CST);
		__atomic_store_n(&one_step, false, __ATOMIC_SEQ_CST);
	}
	n = __real_instant_reap(dq, done, max, move);
	if (n > __atomic_load_n(&most_reaped, __ATOMIC_SEQ_CST))
		__atomic_store_n(&most_reaped, n, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < n; i++) {
		bool flush = done[i]->op == DISK_FLUSH;

		error = __atomic_load_n(flush ? &flush_error : &fail_with, __ATOMIC_SEQ_CST);
		if (!error || done[i]->offset != BAD_SECTOR * 512)
			continue;
		done[i]->result = -error;
		__atomic_fetch_add(&n_failures, 1, __ATOMIC_SEQ_CST);
	}
	return n;
}

static void set_error(int error)
{
	__atomic_store_n(&fail_with, error, __ATOMIC_SEQ_CST);
}

static unsigned failures(void)
{
	return __atomic_load_n(&n_failures, __ATOMIC_SEQ_CST);
}

static void start(const struct variant *v, enum disk_on_error on_error, unsigned queues)
{
	struct blk_config cfg = { .kind = DISK_RAM, .on_error = on_error, .queues = queues };

	vm_start(&vm, v, &cfg, IMAGE);
	guest_alloc(&vm.mem, 64 * KIB, 4096, &gpa);
}

static void submit(unsigned q, uint32_t type, uint64_t sector, uint32_t bytes)
{
	struct driver_seg seg = { gpa, bytes };

	VM_OK(&vm, guest_blk_submit(&vm.blk[q], type, sector, &seg, 1, NULL));
	guest_blk_kick(&vm.blk[q]);
}

BLK_TEST(blk_fault, reported_it_is_an_error_at_once_and_status_says_what_and_where)
{
	start(v, DISK_ERROR_REPORT, 1);
	cr_assert_eq(vm_stats(&vm).fault_error, 0);
	set_error(ENOSPC);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, BAD_SECTOR, gpa, 4096), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_stats(&vm).fault_error, ENOSPC);
	cr_assert_eq(vm_stats(&vm).fault_sector, BAD_SECTOR);
	cr_assert_str_eq(vm_stats(&vm).fault_kind, "write");
	cr_assert_eq(vm_stats(&vm).waiting, 0);
	cr_assert_eq(vm_stats(&vm).errors, 1);
	set_error(EIO);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, BAD_SECTOR, gpa, 4096), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_stats(&vm).fault_error, EIO);
	cr_assert_str_eq(vm_stats(&vm).fault_kind, "read");
	vm_stop(&vm);
}

/* Else a guest with 32 in flight waits while the worker works, and the worker while the guest does.
 */
BLK_TEST(blk_fault, of_a_disk_that_the_worker_does_itself_few_requests_are_shown_at_a_time)
{
	struct driver_seg seg;

	start(v, DISK_ERROR_REPORT, 1);
	seg = (struct driver_seg) { gpa, 512 };
	for (unsigned i = 0; i < 32; i++)
		VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, i, &seg, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
	vm_wait(&vm, 0, 32, VIRTIO_BLK_S_OK);
	cr_assert_eq(__atomic_load_n(&most_reaped, __ATOMIC_SEQ_CST), 8);
	vm_stop(&vm);
}

BLK_TEST(blk_fault, stopped_the_guest_waits_and_goes_on_by_itself_when_the_disk_does)
{
	struct guest_blk_done done;
	uint8_t *mem;
	unsigned n;

	start(v, DISK_ERROR_STOP, 1);
	mem = guest_ptr(&vm.mem, gpa, 64 * KIB);
	fill(mem, 64 * KIB, 5);
	set_error(ENOSPC);
	submit(0, VIRTIO_BLK_T_OUT, BAD_SECTOR, 64 * KIB);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	/* Tried again, and not all the time. */
	n = failures();
	cr_assert(VM_EVENTUALLY(failures() > n));
	cr_assert_leq(failures(), n + 2);
	cr_assert_eq(vm_stats(&vm).fault_sector, BAD_SECTOR);
	cr_assert_geq(vm_stats(&vm).waiting_ns, 500000000u);
	cr_assert_eq(vm_stats(&vm).slow, 0, "it is not the disk that has it");
	cr_assert_eq(guest_blk_poll(&vm.blk[0], &done), 0);
	set_error(0);
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_stats(&vm).waiting, 0);
	cr_assert_eq(vm_stats(&vm).errors, 0);
	cr_assert_eq(vm_stats(&vm).write_bytes, 64 * KIB);
	memset(mem, 0, 64 * KIB);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, BAD_SECTOR, gpa, 64 * KIB), VIRTIO_BLK_S_OK);
	uint8_t want[64 * KIB];
	fill(want, sizeof(want), 5);
	cr_assert_arr_eq(mem, want, sizeof(want));
	vm_stop(&vm);
}

BLK_TEST(blk_fault, an_operator_has_all_of_them_tried_at_once_and_others_go_on_meanwhile)
{
	start(v, DISK_ERROR_STOP, 2);
	set_error(EIO);
	for (unsigned i = 0; i < 8; i++) {
		submit(0, VIRTIO_BLK_T_OUT, BAD_SECTOR, 4096);
		submit(1, VIRTIO_BLK_T_IN, BAD_SECTOR, 4096);
	}
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 16));
	for (unsigned i = 0; i < 20; i++) {
		submit(0, VIRTIO_BLK_T_OUT, 0, 4096);
		vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	}
	cr_assert_eq(vm_stats(&vm).waiting, 16);
	set_error(0);
	cr_assert_eq(blk_device_retry(vm.dev), 16);
	vm_wait(&vm, 0, 8, VIRTIO_BLK_S_OK);
	vm_wait(&vm, 1, 8, VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_stats(&vm).waiting, 0);
	vm_stop(&vm);
}

BLK_TEST(blk_fault, an_operator_need_not_wait_for_the_next_second)
{
	uint64_t begin;

	start(v, DISK_ERROR_STOP, 1);
	set_error(EIO);
	submit(0, VIRTIO_BLK_T_OUT, BAD_SECTOR, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	begin = clock_ns();
	for (unsigned i = 0; i < 20; i++) {
		unsigned n = failures();

		blk_device_retry(vm.dev);
		cr_assert(VM_EVENTUALLY(failures() > n));
	}
	cr_assert_leq(clock_ns() - begin, UINT64_C(10000000000));
	set_error(0);
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	vm_stop(&vm);
}

BLK_TEST(blk_fault, a_ring_that_stops_tries_once_more_and_then_reports)
{
	struct vu_state s = { 0 };

	start(v, DISK_ERROR_STOP, 1);
	for (unsigned round = 0; round < 2; round++) {
		set_error(EIO);
		for (unsigned i = 0; i < 4; i++)
			submit(0, VIRTIO_BLK_T_OUT, BAD_SECTOR, 4096);
		cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 4));
		if (round == 1)
			set_error(0);
		VM_OK(&vm,
		      frontend_send(&vm.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
		VM_OK(&vm,
		      frontend_recv_reply(&vm.f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL));
		vm_wait(&vm, 0, 4, round ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
		cr_assert_eq(vm_stats(&vm).waiting, 0);
		cr_assert_eq(vm_stats(&vm).in_flight, 0);
		vm.f.queue[0].base = s.num;
		s = (struct vu_state) { 0 };
		VM_OK(&vm, frontend_queue_start(&vm.f, 0));
	}
	set_error(EIO);
	submit(0, VIRTIO_BLK_T_OUT, BAD_SECTOR, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	vm_close_device(&vm);
	vm_stop(&vm);
}

BLK_TEST(blk_fault, what_waits_moves_with_its_queue)
{
	struct virtqueue *vq;
	struct worker *to;

	start(v, DISK_ERROR_STOP, 1);
	vq = &blk_device_vhost(vm.dev)->queues[0];
	set_error(EIO);
	for (unsigned i = 0; i < 4; i++)
		submit(0, VIRTIO_BLK_T_OUT, BAD_SECTOR, 4096);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 4));
		to = workers_get(vm.workers, 1 - worker_index(vq->worker));
		vhost_queue_move(vq, to);
		cr_assert(VM_EVENTUALLY(vq->worker == to));
	}
	cr_assert_eq(vm_stats(&vm).errors, 0);
	set_error(0);
	blk_device_retry(vm.dev);
	vm_wait(&vm, 0, 4, VIRTIO_BLK_S_OK);
	vm_stop(&vm);
}

/* Where the device has it. */
static void *in_device(uint64_t at)
{
	uint64_t len = 1;
	unsigned hint = 0;

	return mem_resolve(blk_device_vhost(vm.dev)->map, at, &len, &hint);
}

/* All of it was moved, and then the disk failed: it will all be needed again. */
BLK_TEST(blk_fault, the_memory_of_what_waits_is_in_use)
{
	struct virtqueue *vq;

	start(v, DISK_ERROR_STOP, 1);
	vq = &blk_device_vhost(vm.dev)->queues[0];
	set_error(EIO);
	submit(0, VIRTIO_BLK_T_OUT, BAD_SECTOR, 8192);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	cr_assert(vq->device->ops->queue_uses(vq, in_device(gpa), 4096));
	cr_assert(vq->device->ops->queue_uses(vq, in_device(gpa + 4096), 4096));
	cr_assert_not(vq->device->ops->queue_uses(vq, in_device(gpa + 8192), 4096));
	set_error(0);
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	vm_stop(&vm);
}

/* Memory of a guest's that goes while a request uses it; its first segment lies there. */
static struct guest_memory more;
static const struct guest_range more_range = { UINT64_C(1) << 36, MIB };

static bool answered(void)
{
	char byte;

	return recv(vm.f.sock, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 1;
}

static void set_flag(bool *flag, bool to)
{
	__atomic_store_n(flag, to, __ATOMIC_SEQ_CST);
}

/* What CONFIG_WCE does on a disk that has a cache, which the ram disk has not. */
static void write_through(struct virtqueue *vq, bool on)
{
	struct blk_queue *q = vq->priv;
	struct request_limits limits = q->limits;

	limits.writethrough = on;
	blk_queue_update(vq, &limits);
}

/* A write of which the disk has passed the first segment, and half of the second. */
static struct virtqueue *write_half(const struct variant *v)
{
	struct driver_seg segs[] = { { more_range.gpa, MIB / 2 }, { 2 * MIB, MIB } };

	start(v, DISK_ERROR_STOP, 1);
	cr_assert_eq(guest_memory_create(&more, &more_range, 1, 0), 0);
	VM_OK(&vm, frontend_add_mem_reg(&vm.f, &more.region[0]));
	write_through(&blk_device_vhost(vm.dev)->queues[0], false);
	fill(guest_ptr(&more, more_range.gpa, MIB), MIB, 7);
	set_flag(&one_step, true);
	VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_OUT, BAD_SECTOR, segs, 2, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(__atomic_load_n(&silent, __ATOMIC_SEQ_CST)));
	return &blk_device_vhost(vm.dev)->queues[0];
}

static bool uses(struct virtqueue *vq, uint64_t at)
{
	return vq->device->ops->queue_uses(vq, in_device(at), 4096);
}

/* The first segment's region goes; that is answered when the disk has answered, and not before. */
static void take_away(struct virtqueue *vq, uint8_t status)
{
	struct vu_mem_reg msg = { .region = { more_range.gpa, MIB, more.region[0].uva,
					      more.region[0].offset } };
	uint64_t ack = 1;

	VM_OK(&vm, frontend_send(&vm.f, VU_REM_MEM_REG, VU_VERSION | VU_NEED_REPLY, &msg,
				 sizeof(msg), NULL, 0));
	cr_assert(VM_EVENTUALLY(vq->state == VIRTQUEUE_STOPPING || answered()));
	for (unsigned i = 0; i < 50; i++)
		control_step(200);
	cr_expect_not(answered(), "it is unmapped, and the disk may fail yet");
	set_flag(&silent, false);
	VM_OK(&vm, frontend_recv_reply(&vm.f, VU_REM_MEM_REG, &ack, 8, NULL, NULL));
	cr_assert_eq(ack, 0u);
	vm_wait(&vm, 0, 1, status);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	guest_memory_destroy(&more);
	vm_stop(&vm);
}

/* What the disk has passed is needed again, when it fails what is left. */
BLK_TEST(blk_fault, the_memory_of_what_may_be_tried_again_is_in_use)
{
	struct virtqueue *vq = write_half(v);

	cr_expect(uses(vq, more_range.gpa));
	cr_expect(uses(vq, more_range.gpa + MIB / 2 - 4096));
	cr_expect_not(uses(vq, more_range.gpa + MIB / 2));
	cr_expect(uses(vq, 2 * MIB), "passed, of a segment that is not");
	cr_expect(uses(vq, 2 * MIB + MIB / 2 - 4096));
	cr_expect(uses(vq, 2 * MIB + MIB / 2));
	cr_expect(uses(vq, 3 * MIB - 4096));
	cr_expect_not(uses(vq, 3 * MIB));
	set_error(EIO);
	take_away(vq, VIRTIO_BLK_S_IOERR);
}

/* A retry that begins, and then stands half done. */
BLK_TEST(blk_fault, the_memory_of_what_is_being_tried_again_is_in_use)
{
	struct virtqueue *vq = write_half(v);

	set_error(EIO);
	set_flag(&silent, false);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	cr_expect(uses(vq, more_range.gpa));
	set_flag(&one_step, true);
	blk_device_retry(vm.dev);
	cr_assert(VM_EVENTUALLY(__atomic_load_n(&silent, __ATOMIC_SEQ_CST)));
	cr_expect(uses(vq, more_range.gpa));
	set_error(0);
	take_away(vq, VIRTIO_BLK_S_OK);
}

/* All is written; the flush that makes it durable may fail, and then all is written anew. */
BLK_TEST(blk_fault, the_memory_of_what_is_flushed_is_in_use)
{
	struct virtqueue *vq = write_half(v);

	write_through(vq, true);
	set_flag(&one_step, true);
	set_flag(&silent, false);
	cr_assert(VM_EVENTUALLY(__atomic_load_n(&silent, __ATOMIC_SEQ_CST)));
	cr_expect(uses(vq, more_range.gpa));
	cr_expect(uses(vq, 2 * MIB));
	cr_expect(uses(vq, 3 * MIB - 4096));
	cr_expect_not(uses(vq, 3 * MIB));
	__atomic_store_n(&flush_error, EIO, __ATOMIC_SEQ_CST);
	take_away(vq, VIRTIO_BLK_S_IOERR);
}

BLK_TEST(blk_fault, with_limits_as_well)
{
	struct blk_config cfg = { .kind = DISK_RAM,
				  .on_error = DISK_ERROR_STOP,
				  .limits.ops[BLK_LIMIT_ALL].rate = 1000 };

	vm_start(&vm, v, &cfg, IMAGE);
	guest_alloc(&vm.mem, 64 * KIB, 4096, &gpa);
	set_error(EIO);
	for (unsigned i = 0; i < 8; i++)
		submit(0, VIRTIO_BLK_T_OUT, BAD_SECTOR, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 8));
	for (unsigned i = 0; i < 100; i++) {
		submit(0, VIRTIO_BLK_T_OUT, 0, 4096);
		vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	}
	set_error(0);
	vm_wait(&vm, 0, 8, VIRTIO_BLK_S_OK);
	vm_stop(&vm);
}

BLK_TEST(blk_fault, a_request_without_an_answer_is_told_of_after_a_while)
{
	start(v, DISK_ERROR_REPORT, 1);
	__atomic_store_n(&silent, true, __ATOMIC_SEQ_CST);
	submit(0, VIRTIO_BLK_T_IN, BAD_SECTOR, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == 1));
	cr_assert_eq(vm_stats(&vm).slow, 0);
	for (unsigned i = 0; i < 120 && vm_stats(&vm).slow == 0; i++)
		control_step(100000);
	cr_assert_eq(vm_stats(&vm).slow, 1);
	cr_assert_eq(vm_stats(&vm).slowest_sector, BAD_SECTOR);
	cr_assert_geq(vm_stats(&vm).slowest_ns, BLK_SLOW_S * UINT64_C(1000000000));
	cr_assert_str_eq(vm_stats(&vm).slowest, "read");
	__atomic_store_n(&silent, false, __ATOMIC_SEQ_CST);
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_stats(&vm).slow, 0);
	vm_stop(&vm);
}

/* A file system without space (its guest waits), and then with some. */
BLK_TEST(blk_fault, a_full_file_system_for_real)
{
	struct blk_config cfg = { .kind = DISK_FILE,
				  .cache = DISK_CACHE_WRITEBACK,
				  .on_error = DISK_ERROR_STOP };
	char folder[] = "test-full-XXXXXX";
	int fd;

	cr_assert(mkdtemp(folder));
	if (mount("tmpfs", folder, "tmpfs", 0, "size=1M")) {
		rmdir(folder);
		cr_skip_test("no right to mount a tmpfs");
	}
	cr_assert_eq(chdir(folder), 0);
	/* A sparse image that promises more than there is. */
	fd = open("sparse.raw", O_CREAT | O_RDWR, 0600);
	cr_assert_eq(ftruncate(fd, IMAGE), 0);
	close(fd);
	fd = open("ballast", O_CREAT | O_RDWR, 0600);
	cr_assert_eq(posix_fallocate(fd, 0, 900 * KIB), 0);
	close(fd);
	cfg.file = "sparse.raw";
	vm_start(&vm, v, &cfg, 0);
	guest_alloc(&vm.mem, 256 * KIB, 4096, &gpa);
	submit(0, VIRTIO_BLK_T_OUT, 0, 256 * KIB);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	cr_assert_eq(vm_stats(&vm).fault_error, ENOSPC);
	unlink("ballast");
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	vm_stop(&vm);
	unlink("sparse.raw");
	cr_assert_eq(chdir(".."), 0);
	umount2(folder, MNT_DETACH);
	rmdir(folder);
}
