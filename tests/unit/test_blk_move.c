/* SPDX-License-Identifier: Apache-2.0 */
/* Queues of a disk that move from worker to worker while their guest's requests are in flight. */
#include "tests/unit/blk_util.h"

#define IMAGE (4 * MIB)
#define N 4
#define READ_AT (2 * MIB)

static const struct blk_config file_direct = { .kind = DISK_FILE };

/* The linker puts this in the way of the disk's calls (--wrap): a disk that does not get on. */
struct io_uring_sqe *__real_worker_sqe(struct worker *w);
struct io_uring_sqe *__wrap_worker_sqe(struct worker *w);

static bool disk_is_stuck;

struct io_uring_sqe *__wrap_worker_sqe(struct worker *w)
{
	return __atomic_load_n(&disk_is_stuck, __ATOMIC_SEQ_CST) ? NULL : __real_worker_sqe(w);
}

static struct vm vm;
static struct virtqueue *vq;

static void start(const struct variant *v)
{
	vm_start(&vm, v, &file_direct, IMAGE);
	vq = &blk_device_vhost(vm.dev)->queues[0];
}

static struct worker *other(void)
{
	return workers_get(vm.workers, 1 - worker_index(vq->worker));
}

/* N writes more, each to a place of its own; @first of them all. */
static void submit(unsigned first)
{
	struct driver_seg seg;

	for (unsigned i = first; i < first + N; i++) {
		seg = (struct driver_seg) { MIB + i * 4096, 4096 };
		memset(guest_ptr(&vm.mem, seg.gpa, 4096), (int)i + 1, 4096);
		VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_OUT, i * 8, &seg, 1, NULL));
	}
	guest_blk_kick(&vm.blk[0]);
}

static void submit_stuck(unsigned first)
{
	__atomic_store_n(&disk_is_stuck, true, __ATOMIC_SEQ_CST);
	submit(first);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == N));
}

static void unstick(void)
{
	__atomic_store_n(&disk_is_stuck, false, __ATOMIC_SEQ_CST);
}

static void nothing(void *arg)
{
	(void)arg;
}

/* Begins to move it away, and has its worker know of that. */
static struct worker *begin_move(void)
{
	struct worker *to = other();

	cr_assert_not(vhost_queue_move(vq, to));
	worker_call_wait(vq->worker, nothing, NULL);
	return to;
}

static void steps(unsigned n)
{
	while (n--)
		control_step(200);
}

static void check_written(unsigned n)
{
	const uint8_t *p = guest_ptr(&vm.mem, READ_AT, 4096);

	for (unsigned i = 0; i < n; i++) {
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, i * 8, READ_AT, 4096), VIRTIO_BLK_S_OK);
		cr_assert_eq(p[0], i + 1);
		cr_assert_eq(p[4095], i + 1);
	}
}

BLK_TEST(blk_move, requests_in_flight_finish_where_they_began_and_the_rest_follows)
{
	struct worker *from, *to;

	start(v);
	from = vq->worker;
	submit_stuck(0);
	to = begin_move();
	submit(N);
	steps(50);
	cr_assert_eq(vq->worker, from);
	cr_assert_eq(vm_stats(&vm).in_flight, N, "it drains, and takes nothing more");
	unstick();
	cr_assert(VM_EVENTUALLY(vq->worker == to));
	vm_wait(&vm, 0, 2 * N, VIRTIO_BLK_S_OK);
	cr_assert_eq(vq->state, VIRTQUEUE_RUNNING);
	cr_assert_eq(worker_n_pollers(from), 0u);
	cr_assert_eq(worker_n_pollers(to), 1u);
	check_written(2 * N);
	vm_stop(&vm);
}

BLK_TEST(blk_move, a_queue_that_sleeps_moves_and_wakes_up_there)
{
	struct worker *to;

	start(v);
	for (unsigned i = 0; i < 20; i++) {
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, MIB, 4096), VIRTIO_BLK_S_OK);
		cr_assert(VM_EVENTUALLY(worker_n_active(vq->worker) == 0));
		to = other();
		vhost_queue_move(vq, to);
		cr_assert(VM_EVENTUALLY(vq->worker == to));
		cr_assert(VM_EVENTUALLY(worker_n_active(to) == 0));
	}
	cr_assert(vhost_queue_move(vq, vq->worker), "it is there already");
	vm_stop(&vm);
}

/* The last word counts, even if that is the place where it began. */
BLK_TEST(blk_move, another_move_before_the_first_is_done)
{
	struct worker *from;

	start(v);
	from = vq->worker;
	submit_stuck(0);
	begin_move();
	vhost_queue_move(vq, from);
	steps(20);
	unstick();
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	submit(N);
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	cr_assert_eq(vq->worker, from);
	check_written(2 * N);
	vm_stop(&vm);
}

BLK_TEST(blk_move, a_stop_in_the_middle_and_a_start_at_the_new_place)
{
	struct vu_state s = { 0 };
	struct worker *to;

	start(v);
	submit_stuck(0);
	to = begin_move();
	submit(N);
	VM_OK(&vm, frontend_send(&vm.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
	cr_assert(VM_EVENTUALLY(vq->state == VIRTQUEUE_STOPPING));
	steps(20);
	cr_assert_eq(vm_stats(&vm).in_flight, N);
	unstick();
	VM_OK(&vm, frontend_recv_reply(&vm.f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL));
	vm.f.queue[0].base = s.num;
	cr_assert_eq(vq->state, VIRTQUEUE_STOPPED);
	VM_OK(&vm, frontend_queue_start(&vm.f, 0));
	cr_assert_eq(vq->worker, to);
	vm_wait(&vm, 0, 2 * N, VIRTIO_BLK_S_OK);
	check_written(2 * N);
	vm_stop(&vm);
}

static void hold_on(struct call *c);
static struct call hold_call = { .fn = hold_on };
static bool hold;

static void hold_on(struct call *c)
{
	(void)c;
	while (__atomic_load_n(&hold, __ATOMIC_SEQ_CST))
		usleep(100);
}

/* One call carries both wishes to the worker. */
BLK_TEST(blk_move, a_stop_before_the_worker_has_heard_of_the_move)
{
	struct vu_state s = { 0 };
	struct worker *from, *to;

	start(v);
	from = vq->worker;
	to = other();
	submit_stuck(0);
	__atomic_store_n(&hold, true, __ATOMIC_SEQ_CST);
	worker_call(from, &hold_call);
	cr_assert_not(vhost_queue_move(vq, to));
	VM_OK(&vm, frontend_send(&vm.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
	cr_assert(VM_EVENTUALLY(vq->state == VIRTQUEUE_STOPPING));
	__atomic_store_n(&hold, false, __ATOMIC_SEQ_CST);
	unstick();
	VM_OK(&vm, frontend_recv_reply(&vm.f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL));
	vm.f.queue[0].base = s.num;
	VM_OK(&vm, frontend_queue_start(&vm.f, 0));
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	check_written(N);
	cr_assert_eq(vq->worker, to);
	vm_stop(&vm);
}

BLK_TEST(blk_move, a_hang_up_in_the_middle)
{
	struct worker *to;

	start(v);
	submit_stuck(0);
	to = begin_move();
	vm_disconnect(&vm);
	steps(20);
	cr_assert_eq(vq->state, VIRTQUEUE_STOPPING);
	unstick();
	cr_assert(VM_EVENTUALLY(vq->state == VIRTQUEUE_STOPPED));
	/* Stopped, it is moved by a word. */
	cr_assert(vhost_queue_move(vq, workers_get(vm.workers, 0)));
	cr_assert(vhost_queue_move(vq, to));
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	cr_assert_eq(vq->worker, to, "it stays where it was sent");
	check_written(N);
	vm_stop(&vm);
}

BLK_TEST(blk_move, the_device_closes_in_the_middle)
{
	start(v);
	submit_stuck(0);
	begin_move();
	blk_device_close(vm.dev, vm_closed, &vm);
	steps(20);
	cr_assert_not(vm.closed);
	unstick();
	cr_assert(VM_EVENTUALLY(vm.closed));
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	vm_stop(&vm);
}
