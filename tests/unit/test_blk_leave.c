/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET_VRING_BASE that does not wait (vhost-user GET_VRING_BASE_INFLIGHT): what is not done stays in
 * the in-flight buffer, is never done here any more, and is done once by who has the buffer next.
 */
#include "blk/disk_file.h"
#include "blk/queue.h"
#include "tests/guest/frontend_inflight.h"
#include "tests/unit/blk_util.h"
#include "vhost/inflight.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define IMAGE (4 * MIB)
#define LEN 4096u
#define N 16u
#define LEAVES (VU_PF_INFLIGHT_SHMFD | VU_PF_GET_VRING_BASE_INFLIGHT)

/* The linker puts this in the way of the disk's calls (--wrap): a disk that does not get on. */
struct io_uring_sqe *__real_worker_sqe(struct worker *w);
struct io_uring_sqe *__wrap_worker_sqe(struct worker *w);

static bool disk_is_stuck;
static struct file_queue *not_cancelled; /* whose requests the kernel cannot cancel */
static int cancellation_over = -1;	 /* eventfd: what would be its cancellation comes back */

struct io_uring_sqe *__wrap_worker_sqe(struct worker *w)
{
	static struct io_uring_sqe scratch;
	struct file_queue *q = __atomic_load_n(&not_cancelled, __ATOMIC_SEQ_CST);
	struct io_uring_sqe *sqe;

	if (__atomic_load_n(&disk_is_stuck, __ATOMIC_SEQ_CST))
		return NULL;
	sqe = __real_worker_sqe(w);
	if (!q)
		return sqe;
	/* What would be a cancellation does nothing, and comes back when the test says so: a time
	 * would be over before a test is that gets no CPU. */
	q->cancel_op.owner = q->base.poller;
	io_uring_prep_poll_add(sqe, cancellation_over, POLLIN);
	io_uring_sqe_set_data(sqe, &q->cancel_op);
	return &scratch;
}

static void set_stuck(bool stuck)
{
	__atomic_store_n(&disk_is_stuck, stuck, __ATOMIC_SEQ_CST);
}

static struct vm vm;
static struct frontend_inflight buf;
static uint8_t *mem, *image;
static uint64_t gpa;
static int image_fd[2], saved[2], fifo;

/* The descriptors that the disk has the image open by. */
static void find_image(void)
{
	struct stat want, st;

	cr_assert_eq(stat(vm.image, &want), 0);
	image_fd[0] = image_fd[1] = -1;
	for (int fd = 0, n = 0; fd < 256 && n < 2; fd++)
		if (fstat(fd, &st) == 0 && st.st_ino == want.st_ino && st.st_dev == want.st_dev)
			image_fd[n++] = fd;
	cr_assert_geq(image_fd[0], 0);
}

/* In the place of the image stands a FIFO: @full, and no write to it ends; else no read. */
static void disk_hangs(bool full)
{
	uint8_t page[4096] = { 0 };
	int nonblock;

	cr_assert_eq(mkfifo("leave.fifo", 0600), 0);
	fifo = open("leave.fifo", O_RDWR);
	nonblock = open("leave.fifo", O_RDWR | O_NONBLOCK);
	while (full && write(nonblock, page, sizeof(page)) > 0)
		;
	close(nonblock);
	unlink("leave.fifo");
	for (unsigned i = 0; i < 2 && image_fd[i] >= 0; i++) {
		saved[i] = dup(image_fd[i]);
		dup2(fifo, image_fd[i]);
	}
	close(fifo);
}

static void disk_works(void)
{
	for (unsigned i = 0; i < 2 && image_fd[i] >= 0; i++) {
		dup2(saved[i], image_fd[i]);
		close(saved[i]);
	}
}

enum { NO_BUFFER = 1, IN_ORDER = 2, LARGEST = 4 };

static void start_with(const struct variant *v, const struct blk_config *cfg, uint64_t protocol,
		       unsigned how)
{
	/* Of SET_VRING_BASE, split and packed: half of N requests before the ring's end. */
	static const uint32_t near_end[] = { 0x7ff8, 0xfff8fff8 };
	int fd;

	vm_create(&vm, v, cfg, IMAGE);
	vm.features_on = how & IN_ORDER ? VU_F_IN_ORDER : 0;
	if (how & LARGEST)
		vm.queue_size = 32768;
	if (vm.image[0]) {
		find_image();
		fd = open(vm.image, O_RDONLY);
		image = mmap(NULL, IMAGE, PROT_READ, MAP_SHARED, fd, 0);
		close(fd);
	}
	vm.protocol = protocol;
	vm_connect(&vm);
	buf.fd = -1;
	if (!(how & NO_BUFFER) && (protocol & VU_PF_INFLIGHT_SHMFD)) {
		VM_OK(&vm, frontend_get_inflight(&vm.f, &buf, 1, (uint16_t)vm.queue_size));
		VM_OK(&vm, frontend_set_inflight(&vm.f, &buf));
	}
	vm_queue_start(&vm, 0, how & LARGEST ? &near_end[v->packed] : NULL);
	mem = guest_alloc(&vm.mem, N * LEN, 4096, &gpa);
}

static void start(const struct variant *v, const struct blk_config *cfg, uint64_t protocol)
{
	start_with(v, cfg, protocol, 0);
}

static void stop(void)
{
	if (vm.image[0])
		munmap(image, IMAGE);
	frontend_inflight_close(&buf);
	vm_stop(&vm);
}

/* @n requests, each of its own place. */
static void submit(uint32_t type, unsigned n, uint32_t seed)
{
	for (unsigned i = 0; i < n; i++) {
		struct driver_seg seg = { .gpa = gpa + i * LEN, .len = LEN };

		if (type == VIRTIO_BLK_T_OUT) {
			fill(mem + i * LEN, LEN, seed + i);
		} else if (type != VIRTIO_BLK_T_IN) {
			struct virtio_blk_discard_write_zeroes *range = (void *)(mem + i * LEN);

			*range = (struct virtio_blk_discard_write_zeroes) { i * 8, 8, 0 };
			seg.len = sizeof(*range);
		}
		VM_OK(&vm,
		      guest_blk_submit(&vm.blk[0], type, i * 8, &seg, type != VIRTIO_BLK_T_FLUSH,
				       (void *)(uintptr_t)(i + 1)));
	}
	guest_blk_kick(&vm.blk[0]);
}

/* Chains that the buffer says are in flight. */
static unsigned marked(void)
{
	uint8_t *p = mmap(NULL, buf.desc.mmap_size, PROT_READ, MAP_SHARED, buf.fd, 0);
	const struct inflight_split *s = (void *)p;
	const struct inflight_packed *k = (void *)p;
	unsigned n = 0;

	for (unsigned i = 0; i < vm.queue_size; i++)
		n += vm.v->packed ? k->desc[i].inflight : s->desc[i].inflight;
	munmap(p, buf.desc.mmap_size);
	return n;
}

static uint64_t again(void)
{
	return blk_device_vhost(vm.dev)->queues[0].ring.stats.again;
}

static bool at_disk(unsigned n)
{
	return VM_EVENTUALLY(vm_stats(&vm).in_flight == n);
}

/* The back-end ends, and the next one gets buffer and rings. */
static void next_device(void)
{
	struct error err = { 0 };

	frontend_hang_up(&vm.f);
	vm_close_device(&vm);
	vm.closed = false;
	vm.cfg.socket = (struct vhost_socket) { .path = strdup(vm.socket), .fd = -1, .mode = -1 };
	cr_assert_eq(blk_device_create(&vm.cfg, vm.workers, &vm.dev, &err), 0, "%s", err.text);
	vm_connect_again(&vm);
	VM_OK(&vm, frontend_set_inflight(&vm.f, &buf));
	VM_OK(&vm, frontend_queue_start(&vm.f, 0));
}

/* Stops, with @left of the @n requests in flight, and has the next device do these, once each. */
static void left_and_done_again(unsigned n, unsigned left)
{
	struct guest_blk_done done;
	uint64_t seen = 0;

	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	cr_assert_eq(marked(), left, "%s: %u of %u are in flight", vm.v->name, marked(), left);
	cr_assert_eq(vm_stats(&vm).in_flight, 0);
	set_stuck(false);
	next_device();
	for (unsigned i = 0; i < n; i++) {
		uint64_t bit;

		VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK, "%s: %u", vm.v->name, done.status);
		bit = UINT64_C(1) << ((uintptr_t)done.cookie - 1);
		cr_assert_not(seen & bit, "completed twice");
		seen |= bit;
	}
	cr_assert_eq(again(), left);
	cr_assert(at_disk(0));
	cr_assert_eq(VM_OK(&vm, guest_blk_poll(&vm.blk[0], &done)), 0);
	cr_assert_eq(marked(), 0);
}

static void check_image(unsigned n, uint32_t seed)
{
	uint8_t want[LEN];

	for (unsigned i = 0; i < n; i++) {
		fill(want, LEN, seed + i);
		cr_assert_arr_eq(image + i * LEN, want, LEN, "write %u", i);
	}
}

static const struct blk_config buffered = { .kind = DISK_FILE, .cache = DISK_CACHE_WRITEBACK };

BLK_TEST(blk_leave, what_the_kernel_has_is_cancelled_and_left)
{
	for (unsigned write = 0; write < 2; write++) {
		start(v, &buffered, LEAVES);
		disk_hangs(write);
		submit(write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, N, 5);
		cr_assert(at_disk(N));
		usleep(20000);
		/* The image is back before anybody could do something to it. */
		VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
		cr_assert_eq(marked(), N);
		disk_works();
		left_and_done_again(N, N);
		if (write)
			check_image(N, 5);
		stop();
	}
}

BLK_TEST(blk_leave, what_waits_to_be_sent_is_left)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD,
					  VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_FLUSH };

	for (unsigned t = 0; t < ARRAY_SIZE(types); t++) {
		start(v, &(struct blk_config) { .kind = DISK_FILE }, LEAVES);
		set_stuck(true);
		submit(types[t], N, 7);
		cr_assert(at_disk(N));
		left_and_done_again(N, N);
		if (types[t] == VIRTIO_BLK_T_OUT)
			check_image(N, 7);
		stop();
	}
}

BLK_TEST(blk_leave, what_limits_hold_is_left)
{
	struct blk_config cfg = { .kind = DISK_RAM };

	cfg.limits.ops[BLK_LIMIT_ALL].rate = 1;
	start(v, &cfg, LEAVES);
	submit(VIRTIO_BLK_T_IN, N, 0);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now > 0));
	usleep(20000);
	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	cr_assert_gt(marked(), N / 2, "%u", marked());
	vm.cfg.limits = (struct blk_limits) { 0 };
	left_and_done_again(N, marked());
	stop();
}

/* virtio 1.3 2.7, 2.8.10.1: the largest size there is, over its end. */
static void largest_ring(const struct variant *v)
{
	start_with(v, &buffered, LEAVES, LARGEST);
	set_stuck(true);
	submit(VIRTIO_BLK_T_OUT, N, 11);
	cr_assert(at_disk(N));
	left_and_done_again(N, N);
	check_image(N, 11);
	for (unsigned i = 0; i < 4; i++) {
		submit(VIRTIO_BLK_T_IN, N, 0);
		vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	}
	stop();
}

/* Direct: the tables of so many chains would be more than the guest's memory. */
Test(blk_leave, the_largest_ring_is_left_and_done_again_split, .timeout = 60)
{
	largest_ring(&variant_split);
}

Test(blk_leave, the_largest_ring_is_left_and_done_again_packed, .timeout = 60)
{
	largest_ring(&variant_packed);
}

/* A flush of a FIFO fails. Past the page cache, for else it is not tried again. */
BLK_TEST(blk_leave, what_waits_for_the_disk_to_work_is_left)
{
	struct blk_config cfg = buffered;

	cfg.cache = DISK_CACHE_NONE;
	cfg.on_error = DISK_ERROR_STOP;
	start(v, &cfg, LEAVES);
	disk_hangs(false);
	VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0, (void *)1));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == 1));
	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	cr_assert_eq(vm_stats(&vm).waiting, 0);
	disk_works();
	left_and_done_again(1, 1);
	stop();
}

/* The stop asks for a queue that is still stopped; the first answer is what counts. */
static bool is_answered(void)
{
	struct pollfd p = { .fd = vm.f.sock, .events = POLLIN };

	for (unsigned i = 0; i < 100; i++) {
		control_step(200);
		if (poll(&p, 1, 0) > 0)
			return true;
		usleep(500);
	}
	return false;
}

BLK_TEST(blk_leave, without_feature_or_buffer_it_drains)
{
	static const struct {
		uint64_t protocol;
		unsigned how;
	} ways[] = { { VU_PF_INFLIGHT_SHMFD, 0 },
		     { 0, 0 },
		     { LEAVES, NO_BUFFER },
		     { LEAVES, NO_BUFFER | IN_ORDER } };

	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		struct {
			uint32_t index, num;
		} s = { 0, 0 };

		start_with(v, &(struct blk_config) { .kind = DISK_FILE }, ways[i].protocol,
			   ways[i].how);
		set_stuck(true);
		submit(VIRTIO_BLK_T_OUT, N, 9);
		cr_assert(at_disk(N));
		VM_OK(&vm,
		      frontend_send(&vm.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
		cr_assert_not(is_answered(), "it did not wait");
		set_stuck(false);
		VM_OK(&vm,
		      frontend_recv_reply(&vm.f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL));
		vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
		check_image(N, 9);
		stop();
	}
}

/* Lets @n requests of a disk that hangs come to their end. */
static void let_on(int pipe, unsigned n, bool write_to_disk)
{
	static uint8_t page[LEN];

	for (unsigned i = 0; i < n; i++) {
		for (size_t at = 0; at < LEN;) {
			ssize_t bytes = write_to_disk ? read(pipe, page, LEN - at)
						      : write(pipe, image + at, LEN - at);

			cr_assert_gt(bytes, 0);
			at += (size_t)bytes;
		}
	}
}

/* Nor is the queue over before the cancellation itself has come back: it is the worker's memory. */
BLK_TEST(blk_leave, what_cannot_be_cancelled_is_waited_for_and_used)
{
	for (unsigned write = 0; write < 2; write++) {
		struct {
			uint32_t index, num;
		} s = { 0, 0 };
		const struct blk_queue *q;
		int pipe;

		start(v, &buffered, LEAVES);
		disk_hangs(write);
		submit(write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, N, 0);
		cr_assert(at_disk(N));
		usleep(20000);
		q = blk_device_vhost(vm.dev)->queues[0].priv;
		cancellation_over = eventfd(0, EFD_CLOEXEC);
		__atomic_store_n(&not_cancelled,
				 container_of(q->disk_queue, struct file_queue, base),
				 __ATOMIC_SEQ_CST);
		pipe = dup(image_fd[0]);
		VM_OK(&vm,
		      frontend_send(&vm.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
		cr_assert_not(is_answered(), "it did not wait");
		/* What filled the pipe first, and then what the requests wrote. */
		let_on(pipe, N + (write ? 16 : 0), write);
		cr_assert(VM_EVENTUALLY((write ? vm_stats(&vm).writes : vm_stats(&vm).reads) == N));
		cr_assert_not(is_answered(), "it did not wait for the cancellation");
		cr_assert_eq(eventfd_write(cancellation_over, 1), 0);
		VM_OK(&vm,
		      frontend_recv_reply(&vm.f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL));
		__atomic_store_n(&not_cancelled, NULL, __ATOMIC_SEQ_CST);
		close(cancellation_over);
		close(pipe);
		disk_works();
		cr_assert_eq(marked(), 0);
		vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
		stop();
	}
}

/* What limits hold comes along with a queue that moves, and is left from there. */
BLK_TEST(blk_leave, a_stop_during_a_move_leaves_too)
{
	struct blk_config cfg = { .kind = DISK_RAM };

	cfg.limits.ops[BLK_LIMIT_ALL].rate = 1;
	for (unsigned round = 0; round < 10; round++) {
		struct virtqueue *vq;

		start(v, &cfg, LEAVES);
		vq = &blk_device_vhost(vm.dev)->queues[0];
		submit(VIRTIO_BLK_T_IN, N, 0);
		cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now > 0));
		usleep(1000);
		vhost_queue_move(vq, vq->worker == workers_get(vm.workers, 0)
					     ? workers_get(vm.workers, 1)
					     : workers_get(vm.workers, 0));
		VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
		cr_assert_gt(marked(), N / 2, "%u", marked());
		vm.cfg.limits = (struct blk_limits) { 0 };
		left_and_done_again(N, marked());
		stop();
	}
}

/* What another host writes there, once it has been told that we are out. */
static void overwrite(void)
{
	uint8_t page[LEN];
	int fd = open(vm.image, O_WRONLY | O_DSYNC);

	memset(page, 0xa5, sizeof(page));
	for (unsigned i = 0; i < N; i++)
		cr_assert_eq(pwrite(fd, page, LEN, i * LEN), LEN);
	close(fd);
}

static bool is_overwritten(uint32_t places)
{
	uint8_t page[LEN], want[LEN];
	int fd = open(vm.image, O_RDONLY);
	bool same = true;

	memset(want, 0xa5, sizeof(want));
	for (unsigned i = 0; i < N; i++)
		if (places >> i & 1)
			same &= pread(fd, page, LEN, i * LEN) == LEN &&
				memcmp(page, want, LEN) == 0;
	close(fd);
	return same;
}

/* In the same connection, too; whatever the moment, each request is used or left, and never both.
 */
static void used_or_left(const struct variant *v, unsigned how)
{
	uint64_t left = 0, used = 0;

	start_with(v, &(struct blk_config) { .kind = DISK_FILE }, LEAVES, how);
	for (unsigned round = 0; round < 60; round++) {
		struct guest_blk_done done;
		uint64_t seen = 0, used_before, before = again();
		unsigned n, early = 0, i;

		submit(VIRTIO_BLK_T_OUT, N, round * 100);
		usleep(round % 20 * 10);
		VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
		n = marked();
		while (VM_OK(&vm, guest_blk_poll(&vm.blk[0], &done))) {
			seen |= UINT64_C(1) << ((uintptr_t)done.cookie - 1);
			early++;
		}
		/* What the worker had not come to stays in the ring. */
		cr_assert_leq(early + n, N, "%u used, %u left", early, n);
		overwrite();
		usleep(500);
		cr_assert(is_overwritten((1u << N) - 1), "written after the answer");
		VM_OK(&vm, frontend_queue_start(&vm.f, 0));
		used_before = seen;
		for (i = early; i < N; i++) {
			uint64_t bit;

			VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
			cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
			bit = UINT64_C(1) << ((uintptr_t)done.cookie - 1);
			cr_assert_not(seen & bit, "completed twice");
			seen |= bit;
		}
		cr_assert_eq(again() - before, n);
		cr_assert(is_overwritten((uint32_t)used_before), "done again, and was used");
		left += n;
		used += early;
	}
	printf("%s: %lu left, %lu used\n", v->name, left, used);
	stop();
}

BLK_TEST(blk_leave, requests_that_complete_meanwhile_are_used_or_left)
{
	used_or_left(v, 0);
}

/* What the disk has done behind one that is left was not used, and is left, too. */
BLK_TEST(blk_leave, in_order_requests_are_used_or_left)
{
	used_or_left(v, IN_ORDER);
}
