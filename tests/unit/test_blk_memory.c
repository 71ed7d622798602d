/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory that comes and goes while a disk is at work. */
#include "blk/queue.h"
#include "tests/unit/blk_util.h"

#include <sys/mman.h>
#include <sys/socket.h>

#define IMAGE (16 * MIB)

static const struct blk_config file_direct = { .kind = DISK_FILE };

/* The linker puts this in the way of the disk's calls (--wrap): a disk that does not get on. */
struct io_uring_sqe *__real_worker_sqe(struct worker *w);
struct io_uring_sqe *__wrap_worker_sqe(struct worker *w);

static bool disk_is_stuck;

struct io_uring_sqe *__wrap_worker_sqe(struct worker *w)
{
	return __atomic_load_n(&disk_is_stuck, __ATOMIC_SEQ_CST) ? NULL : __real_worker_sqe(w);
}

static struct guest_memory more;

static bool answered(struct vm *vm)
{
	char byte;

	return recv(vm->f.sock, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 1;
}

/*
 * T14, T20. Of three regions the disk is reading into one: that one is unmapped when it has done
 * so, the others at once and without a rest of the queue.
 */
BLK_TEST(blk_memory, only_the_memory_of_requests_in_flight_is_waited_for)
{
	static struct vm vm;
	const struct guest_range ranges[] = { { UINT64_C(1) << 36, MIB },
					      { UINT64_C(1) << 37, MIB } };
	const struct virtqueue *vq;
	struct driver_seg segs[40];
	struct vu_mem_reg msg;
	uint64_t ack = 1;

	vm_start(&vm, v, &file_direct, IMAGE);
	vq = &blk_device_vhost(vm.dev)->queues[0];
	cr_assert_eq(guest_memory_create(&more, ranges, 2, 0), 0);
	VM_OK(&vm, frontend_add_mem_reg(&vm.f, &more.region[0]));
	VM_OK(&vm, frontend_add_mem_reg(&vm.f, &more.region[1]));
	__atomic_store_n(&disk_is_stuck, true, __ATOMIC_SEQ_CST);
	/* A short one elsewhere, and a long one whose last piece lies in the region. */
	segs[0] = (struct driver_seg) { MIB, 4096 };
	VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, 0, segs, 1, NULL));
	for (unsigned i = 0; i < ARRAY_SIZE(segs); i++)
		segs[i] = (struct driver_seg) { 2 * MIB + i * 4096, 4096 };
	segs[39].gpa = ranges[1].gpa + MIB - 4096;
	VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, 8, segs, 40, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == 2));

	VM_OK(&vm, frontend_remove_mem_reg(&vm.f, &more.region[0]));
	cr_assert_eq(vq->state, VIRTQUEUE_RUNNING);
	VM_OK(&vm, frontend_add_mem_reg(&vm.f, &more.region[0]));
	cr_assert_eq(vm_stats(&vm).in_flight, 2u);

	msg = (struct vu_mem_reg) { .region = { ranges[1].gpa, MIB, more.region[1].uva,
						more.region[1].offset } };
	VM_OK(&vm, frontend_send(&vm.f, VU_REM_MEM_REG, VU_VERSION | VU_NEED_REPLY, &msg,
				 sizeof(msg), NULL, 0));
	cr_assert(VM_EVENTUALLY(vq->state == VIRTQUEUE_STOPPING));
	for (unsigned i = 0; i < 50; i++)
		control_step(200);
	cr_assert_not(answered(&vm));
	__atomic_store_n(&disk_is_stuck, false, __ATOMIC_SEQ_CST);
	VM_OK(&vm, frontend_recv_reply(&vm.f, VU_REM_MEM_REG, &ack, 8, NULL, NULL));
	cr_assert_eq(ack, 0u);
	vm_wait(&vm, 0, 2, VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, MIB, 4096), VIRTIO_BLK_S_OK);
	guest_memory_destroy(&more);
	vm_stop(&vm);
}

/* The same for the status byte: it may be all that a request has there. */
BLK_TEST(blk_memory, the_status_byte_counts_too)
{
	static struct vm vm;
	const struct guest_range range = { UINT64_C(1) << 36, MIB };
	struct driver_seg segs[] = { { MIB, 16 }, { range.gpa + 100, 1 } };
	const struct virtqueue *vq;
	struct vu_mem_reg msg;
	struct virtio_blk_outhdr *hdr;
	uint64_t ack = 1;

	vm_start(&vm, v, &file_direct, IMAGE);
	vq = &blk_device_vhost(vm.dev)->queues[0];
	cr_assert_eq(guest_memory_create(&more, &range, 1, 0), 0);
	VM_OK(&vm, frontend_add_mem_reg(&vm.f, &more.region[0]));
	hdr = guest_ptr(&vm.mem, MIB, sizeof(*hdr));
	*hdr = (struct virtio_blk_outhdr) { .type = VIRTIO_BLK_T_FLUSH };
	__atomic_store_n(&disk_is_stuck, true, __ATOMIC_SEQ_CST);
	VM_OK(&vm, guest_blk_submit_raw(&vm.blk[0], segs, 1, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == 1));
	msg = (struct vu_mem_reg) { .region = { range.gpa, MIB, more.region[0].uva,
						more.region[0].offset } };
	VM_OK(&vm, frontend_send(&vm.f, VU_REM_MEM_REG, VU_VERSION | VU_NEED_REPLY, &msg,
				 sizeof(msg), NULL, 0));
	cr_assert(VM_EVENTUALLY(vq->state == VIRTQUEUE_STOPPING));
	__atomic_store_n(&disk_is_stuck, false, __ATOMIC_SEQ_CST);
	VM_OK(&vm, frontend_recv_reply(&vm.f, VU_REM_MEM_REG, &ack, 8, NULL, NULL));
	cr_assert_eq(ack, 0u);
	guest_memory_destroy(&more);
	vm_stop(&vm);
}

/* Pages of a queue's requests that are there: one that was only looked at counts, too. */
static unsigned pages_of_requests(const struct vm *vm, unsigned *of)
{
	const struct blk_queue *q = blk_device_vhost(vm->dev)->queues[0].priv;
	size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = q->size * sizeof(*q->requests);
	unsigned char there[64];
	unsigned n = 0;

	*of = (unsigned)(ALIGN_UP(bytes, page) / page);
	cr_assert_leq(*of, ARRAY_SIZE(there));
	cr_assert_eq(mincore(q->requests, bytes, there), 0);
	for (unsigned i = 0; i < *of; i++)
		n += there[i] & 1;
	return n;
}

/*
 * A ring is made for more than a guest ever has in flight, and only what it has takes memory: not
 * those that are looked through for the oldest one, or for one that uses memory that goes.
 */
BLK_TEST(blk_memory, requests_that_never_were_take_no_memory)
{
	static struct vm vm;
	const struct guest_range range = { UINT64_C(1) << 36, MIB };
	const struct driver_seg data = { MIB, 4096 };
	unsigned before, of;

	vm_start(&vm, v, &file_direct, IMAGE);
	before = pages_of_requests(&vm, &of);
	cr_assert_eq(before, 0, "%u of %u pages without a request", before, of);
	cr_assert_eq(guest_memory_create(&more, &range, 1, 0), 0);
	VM_OK(&vm, frontend_add_mem_reg(&vm.f, &more.region[0]));
	__atomic_store_n(&disk_is_stuck, true, __ATOMIC_SEQ_CST);
	VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, 0, &data, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == 1));
	cr_assert_eq(vm_stats(&vm).slow, 0u);
	cr_assert_eq(pages_of_requests(&vm, &of), 1, "it was looked for the oldest one");
	VM_OK(&vm, frontend_remove_mem_reg(&vm.f, &more.region[0]));
	cr_assert_eq(pages_of_requests(&vm, &of), 1, "it was looked who uses the memory");
	__atomic_store_n(&disk_is_stuck, false, __ATOMIC_SEQ_CST);
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	guest_memory_destroy(&more);
	vm_stop(&vm);
}
