/* SPDX-License-Identifier: Apache-2.0 */
/* The life of virtio-blk queues and devices while there is I/O: stops, disconnects, broken rings.
 */
#include "tests/unit/blk_util.h"

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

/*
 * Random reads and writes over all queues at @depth, each slot of the disk with one request at a
 * time, compared with a copy.
 */
struct soak {
	uint64_t gpa;
	uint8_t *mem;
	uint64_t sector;
	uint32_t len;
	bool write, busy;
	uint32_t seed;
};

static void soak(struct vm *vm, unsigned depth, unsigned total, uint32_t slot_len)
{
	struct soak *slots = calloc(depth, sizeof(*slots));
	uint8_t *model = malloc(IMAGE);
	unsigned sent = 0, back = 0;

	cr_assert_leq((uint64_t)depth * slot_len, IMAGE);
	fill(model, IMAGE, 0);
	for (unsigned i = 0; i < depth; i++)
		slots[i].mem = guest_alloc(&vm->mem, slot_len + 4096, 4096, &slots[i].gpa);
	srand(11);
	while (back < total) {
		for (unsigned i = 0; i < depth && sent < total; i++) {
			struct soak *s = &slots[i];
			unsigned odd = rand() % 4 ? 0 : 8, n = 1 + rand() % 24, q;
			struct driver_seg segs[25];
			uint32_t at, left;

			if (s->busy)
				continue;
			s->len = (1 + rand() % (slot_len / 1024)) * 512;
			s->sector = (i * (uint64_t)slot_len +
				     ALIGN_DOWN(rand() % (slot_len / 2), 512)) /
				    512;
			s->write = rand() % 2;
			s->seed = rand();
			if (s->write)
				fill(s->mem + odd, s->len, s->seed);
			else
				memset(s->mem + odd, 0xee, s->len);
			s->mem[slot_len + 8] = odd; /* remembered behind the data */
			for (at = odd, left = s->len, q = 0; q < n && left; q++) {
				segs[q].gpa = s->gpa + at;
				segs[q].len = q + 1 == n ? left : MIN(left, 512u);
				at += segs[q].len;
				left -= segs[q].len;
			}
			if (guest_blk_submit(&vm->blk[i % vm->n_queues],
					     s->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
					     s->sector, segs, q, s))
				break;
			s->busy = true;
			sent++;
		}
		for (unsigned q = 0; q < vm->n_queues; q++) {
			struct guest_blk_done done;

			guest_blk_kick(&vm->blk[q]);
			while (VM_OK(vm, guest_blk_poll(&vm->blk[q], &done))) {
				struct soak *s = done.cookie;
				uint8_t *data = s->mem + s->mem[slot_len + 8];

				cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
				if (s->write)
					memcpy(model + s->sector * 512, data, s->len);
				else
					cr_assert_arr_eq(data, model + s->sector * 512, s->len);
				s->busy = false;
				back++;
			}
		}
		control_step(0);
	}
	free(model);
	free(slots);
}

BLK_TEST(blk_life, many_requests_over_two_queues_on_two_workers_read_what_was_written)
{
	struct blk_config cfg = { .kind = DISK_FILE, .queues = 2 };
	const struct virtqueue *vq;
	struct vm vm;

	vm_start(&vm, v, &cfg, IMAGE);
	vq = blk_device_vhost(vm.dev)->queues;
	cr_assert_neq(vq[0].worker, vq[1].worker);
	soak(&vm, 64, 4000, 64 * KIB);
	cr_assert_eq(vm_stats(&vm).reads + vm_stats(&vm).writes, 4000);
	cr_assert_eq(vm_stats(&vm).in_flight, 0);
	vm_stop(&vm);
}

Test(blk_life, more_long_requests_than_there_are_arrays_for_wait_their_turn, .timeout = 60)
{
	enum { N = 400, SEGS = 40 };
	struct driver_seg segs[SEGS];
	uint64_t gpa;
	struct vm vm;
	uint8_t *mem;

	vm_create(&vm, &variant_packed_more, &file_direct, IMAGE);
	vm_connect(&vm);
	vm.queue_size = 1024;
	vm_queue_start(&vm, 0, NULL);
	mem = guest_alloc(&vm.mem, N * SEGS * 512, 4096, &gpa);
	for (unsigned i = 0; i < N; i++) {
		for (unsigned k = 0; k < SEGS; k++)
			segs[k] = (struct driver_seg) { gpa + (i * SEGS + k) * 512, 512 };
		VM_OK(&vm,
		      guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, i * SEGS, segs, SEGS, NULL));
	}
	guest_blk_kick(&vm.blk[0]);
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	uint8_t *want = malloc(IMAGE);
	fill(want, IMAGE, 0);
	cr_assert_arr_eq(mem, want, N * SEGS * 512);
	free(want);
	vm_stop(&vm);
}

/* Submits @n reads of 64 KiB and kicks. */
static void submit_reads(struct vm *vm, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct driver_seg seg = { .len = 64 * KIB };

		cr_assert(guest_alloc(&vm->mem, seg.len, 4096, &seg.gpa));
		VM_OK(vm, guest_blk_submit(&vm->blk[0], VIRTIO_BLK_T_IN, i * 128, &seg, 1, NULL));
	}
	guest_blk_kick(&vm->blk[0]);
}

BLK_TEST(blk_life, a_stop_waits_for_requests_in_flight_and_a_start_goes_on_with_the_rest)
{
	enum { N = 40 };
	struct guest_blk_done done;
	unsigned back = 0;
	uint32_t base;
	struct vm vm;

	for (unsigned delay = 0; delay < 5; delay++) {
		back = 0;
		vm_start(&vm, v, &file_direct, IMAGE);
		submit_reads(&vm, N);
		usleep(delay * 150);
		VM_OK(&vm, frontend_queue_stop(&vm.f, 0, &base));
		cr_assert_eq(vm_stats(&vm).in_flight, 0);
		cr_assert_null(blk_device_vhost(vm.dev)->queues[0].priv);
		while (VM_OK(&vm, guest_blk_poll(&vm.blk[0], &done)))
			back++;
		/* The base counts what was taken, and all of that is back. */
		if (!v->packed)
			cr_assert_eq(base, back);
		cr_assert_eq(vm_stats(&vm).reads, back);
		/* Nothing moves while it stands. */
		usleep(2000);
		cr_assert_not(VM_OK(&vm, guest_blk_poll(&vm.blk[0], &done)));

		VM_OK(&vm, frontend_queue_start(&vm.f, 0));
		frontend_kick(&vm.f, 0);
		vm_wait(&vm, 0, N - back, VIRTIO_BLK_S_OK);
		cr_assert_eq(vm_stats(&vm).reads, N);
		vm_stop(&vm);
	}
}

/* Some time into the stop another request comes; later still the disk gets on. */
static void late_request(void *arg)
{
	struct vm *vm = arg;
	static unsigned steps;

	control_step(200);
	if (++steps == 20) {
		submit_reads(vm, 1);
		frontend_kick(&vm->f, 0);
	}
	if (steps == 100)
		__atomic_store_n(&disk_is_stuck, false, __ATOMIC_SEQ_CST);
}

BLK_TEST(blk_life, a_stopping_queue_waits_for_its_disk_and_takes_nothing_more)
{
	struct guest_blk_done done;
	struct vm vm;

	vm_start(&vm, v, &file_direct, IMAGE);
	__atomic_store_n(&disk_is_stuck, true, __ATOMIC_SEQ_CST);
	submit_reads(&vm, 3);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == 3));
	vm.f.idle = late_request;
	vm.f.idle_arg = &vm;
	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	cr_assert_not(disk_is_stuck, "the stop did not wait");
	cr_assert_eq(vm_stats(&vm).reads, 3);
	for (unsigned i = 0; i < 3; i++)
		cr_assert(VM_OK(&vm, guest_blk_poll(&vm.blk[0], &done)));
	cr_assert_not(VM_OK(&vm, guest_blk_poll(&vm.blk[0], &done)));
	/* The late one is the first of the next life. */
	VM_OK(&vm, frontend_queue_start(&vm.f, 0));
	vm_wait(&vm, 0, 1, VIRTIO_BLK_S_OK);
	vm_stop(&vm);
}

struct busy_guest {
	struct vm *vm;
	struct driver_seg seg;
	unsigned sent, back;
	bool more;
};

/* The guest while its VMM waits for an answer: whatever comes back goes out again. */
static void busy_guest(void *arg)
{
	struct busy_guest *g = arg;
	struct guest_blk *b = &g->vm->blk[0];
	struct guest_blk_done done;

	while (VM_OK(g->vm, guest_blk_poll(b, &done))) {
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
		g->back++;
	}
	while (g->more && guest_blk_submit(b, VIRTIO_BLK_T_IN, 0, &g->seg, 1, NULL) == 0)
		g->sent++;
	guest_blk_kick(b);
	control_step(0);
}

BLK_TEST(blk_life, a_stop_comes_to_an_end_while_the_guest_always_has_more)
{
	struct busy_guest g = { .more = true, .seg = { .len = 16 * KIB } };
	struct vm vm;

	vm_start(&vm, v, &file_direct, IMAGE);
	g.vm = &vm;
	guest_alloc(&vm.mem, g.seg.len, 4096, &g.seg.gpa);
	vm.f.idle = busy_guest;
	vm.f.idle_arg = &g;
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < 50; i++)
			busy_guest(&g);
		VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
		cr_assert_eq(vm_stats(&vm).in_flight, 0);
		VM_OK(&vm, frontend_queue_start(&vm.f, 0));
	}
	g.more = false;
	cr_assert(VM_EVENTUALLY((busy_guest(&g), g.back == g.sent)));
	cr_assert_eq(vm_stats(&vm).reads, g.sent);
	vm_stop(&vm);
}

BLK_TEST(blk_life, a_hang_up_with_requests_in_flight_is_survived_and_the_next_front_end_served)
{
	uint64_t gpa;
	struct vm vm;
	uint8_t *mem;

	vm_start(&vm, v, &file_direct, IMAGE);
	mem = guest_alloc(&vm.mem, 4096, 4096, &gpa);
	fill(mem, 4096, 77);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	for (unsigned round = 0; round < 5; round++) {
		uint32_t base = v->packed ? 3 | 1u << 15 | 3u << 16 | 1u << 31 : 1000 + round;

		submit_reads(&vm, 30);
		vm_disconnect(&vm);
		cr_assert(VM_EVENTUALLY(vhost_device_state(blk_device_vhost(vm.dev)) ==
					VHOST_DEVICE_WAITING));
		cr_assert_eq(vm_stats(&vm).in_flight, 0);
		vm_connect(&vm);
		vm_queue_start(&vm, 0, round % 2 ? &base : NULL);
		memset(mem, 0, 4096);
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);
		uint8_t want[4096];
		fill(want, 4096, 77);
		cr_assert_arr_eq(mem, want, 4096);
	}
	vm_stop(&vm);
}

BLK_TEST(blk_life, a_device_closes_with_requests_in_flight)
{
	struct vm vm;

	vm_start(&vm, v, &file_direct, IMAGE);
	submit_reads(&vm, 40);
	vm_close_device(&vm);
	/* The front-end is told by the hang-up. */
	cr_assert_eq(frontend_wait_hangup(&vm.f), 0);
	vm_stop(&vm);
}

/* Makes the driver's second chain carry the id of its first, while both are outstanding. */
static void submit_one_id_twice(struct vm *vm)
{
	struct driver_ring *r = &vm->f.queue[0].ring;
	uint64_t gpa;

	guest_alloc(&vm->mem, 4096, 4096, &gpa);
	for (unsigned i = 0; i < 2; i++) {
		struct driver_seg seg = { gpa, 4096 };

		VM_OK(vm, guest_blk_submit(&vm->blk[0], VIRTIO_BLK_T_IN, 0, &seg, 1, NULL));
	}
	if (vm->v->packed) {
		unsigned second = vm->v->indirect == DRIVER_DIRECT ? 3 : 1;

		/* The id of a chain stands in its last descriptor; all of ours carry it. */
		for (unsigned i = second; i < 2 * second; i++)
			r->packed.desc[i].id = r->packed.desc[0].id;
	} else {
		r->split.avail->ring[1] = r->split.avail->ring[0];
	}
	guest_blk_kick(&vm->blk[0]);
}

BLK_TEST(blk_life, an_id_that_is_in_use_already_breaks_this_queue_only)
{
	struct blk_config cfg = { .kind = DISK_RAM, .queues = 2 };
	const struct vhost_device *d;
	struct driver_used used;
	uint64_t gpa;
	struct vm vm;

	vm_start(&vm, v, &cfg, IMAGE);
	d = blk_device_vhost(vm.dev);
	submit_one_id_twice(&vm);
	cr_assert(VM_EVENTUALLY(d->queues[0].ring.broken));
	/* The first of the two is answered, the other never. */
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).reads == 1));
	while (frontend_poll(&vm.f, 0, &used))
		;
	guest_alloc(&vm.mem, 4096, 4096, &gpa);
	cr_assert_eq(vm_do(&vm, 1, VIRTIO_BLK_T_OUT, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_do(&vm, 1, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);

	/* And it can be stopped, and made anew by the next front-end. */
	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	vm_disconnect(&vm);
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	vm.n_queues = 1;
	vm_stop(&vm);
}

BLK_TEST(blk_life, an_idle_queue_parks_and_a_kick_brings_it_back)
{
	const struct vhost_device *d;
	uint64_t gpa, parked;
	struct vm vm;

	vm_start(&vm, v, &file_direct, IMAGE);
	d = blk_device_vhost(vm.dev);
	guest_alloc(&vm.mem, 4096, 4096, &gpa);
	for (unsigned round = 0; round < 20; round++) {
		cr_assert(VM_EVENTUALLY(worker_n_active(d->queues[0].worker) == 0));
		parked = vm_stats(&vm).kicks_on;
		cr_assert_gt(parked, 0);
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	}
	cr_assert_geq(vm_stats(&vm).kicks_on, 20);
	vm_stop(&vm);
}

BLK_TEST(blk_life, a_ring_without_a_kick_descriptor_is_polled)
{
	struct driver_seg seg = { .len = 4096 };
	struct guest_blk_done done;
	struct vm vm;

	vm_create(&vm, v, &(struct blk_config) { .kind = DISK_RAM }, IMAGE);
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	VM_OK(&vm, frontend_vring_fd(&vm.f, VU_SET_VRING_KICK, 0, -1));
	guest_alloc(&vm.mem, 4096, 4096, &seg.gpa);
	for (unsigned i = 0; i < 5; i++) {
		usleep(3000);
		VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, 0, &seg, 1, NULL));
		if (v->packed)
			driver_publish(&vm.f.queue[0].ring, DRIVER_PACKED);
		else
			driver_publish(&vm.f.queue[0].ring, DRIVER_SPLIT);
		VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
	}
	vm_stop(&vm);
}

static void hung_up(void *arg)
{
	*(bool *)arg = true;
}

Test(blk_life, a_device_on_a_given_descriptor_tells_when_its_front_end_is_gone)
{
	bool gone = false;
	struct error err = { 0 };
	struct vm vm;
	int fds[2];

	vm_create(&vm, &variant_split, &(struct blk_config) { .kind = DISK_RAM }, IMAGE);
	vm_close_device(&vm);
	vm.closed = false;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	vm.cfg.socket = (struct vhost_socket) { .fd = fds[0], .exit_on_disconnect = true };
	cr_assert_eq(blk_device_create(&vm.cfg, vm.workers, &vm.dev, &err), 0, "%s", err.text);
	blk_device_on_closed(vm.dev, hung_up, &gone);
	frontend_init(&vm.f);
	vm.f.idle = vm_idle;
	frontend_attach(&vm.f, fds[1]);
	VM_OK(&vm, frontend_hello(&vm.f, VU_PF_USUAL));
	cr_assert_not(gone);
	frontend_close(&vm.f);
	cr_assert(VM_EVENTUALLY(gone));
	vm_stop(&vm);
}
