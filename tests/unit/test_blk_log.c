/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log of a disk is complete: whatever page of guest memory changed has its bit, or its
 * contents are lost when the guest migrates. vhost-user "Migration".
 */
#include "tests/guest/frontend_log.h"
#include "tests/unit/blk_util.h"
#include "tests/unit/untouched.h"

#include <pthread.h>

#define IMAGE (8 * MIB)
#define MEMORY_END ((UINT64_C(1) << 32) + VM_MEMORY / 2)
#define POOL (4 * MIB)

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

static void image_fill(struct vm *vm)
{
	uint8_t block[4096];
	int fd;

	if (vm->cfg.kind != DISK_FILE) {
		uint64_t gpa;
		uint8_t *data = guest_alloc_in(&vm->mem, 0, MIB, 4096, &gpa);

		for (unsigned k = 0; k < MIB; k++)
			data[k] = (uint8_t)(1 + k % 255);
		for (unsigned i = 0; i < IMAGE / MIB; i++)
			vm_do(vm, 0, VIRTIO_BLK_T_OUT, i * (MIB / 512), gpa, MIB);
		return;
	}
	fd = open(vm->image, O_RDWR);
	for (unsigned i = 0; i < IMAGE / sizeof(block); i++) {
		for (unsigned k = 0; k < sizeof(block); k++)
			block[k] = (uint8_t)(1 + (i * 31 + k) % 255);
		cr_assert_eq(pwrite(fd, block, sizeof(block), i * (off_t)sizeof(block)), 4096);
	}
	close(fd);
}

/* Guest memory as it was, as far as the driver makes use of it. */
struct shadow {
	uint8_t *copy[2];
};

static void shadow_take(struct shadow *s, const struct vm *vm)
{
	for (unsigned i = 0; i < vm->mem.n; i++) {
		if (!s->copy[i])
			s->copy[i] = malloc(vm->mem.region[i].size);
		memcpy(s->copy[i], vm->mem.region[i].host, ALIGN_UP(vm->mem.region[i].used, 4096));
	}
}

/* What the driver alone writes, and only when it shows what it added: available ring, suppression.
 */
static bool drivers_own(const struct vm *vm, const uint8_t *page)
{
	const uint8_t *area = driver_driver_area(&vm->f.queue[0].ring);
	const uint8_t *device = driver_device_area(&vm->f.queue[0].ring);

	return area + 4096 > page && area < page + 4096 && (device < page || device >= page + 4096);
}

static unsigned shadow_check(const struct shadow *s, const struct vm *vm,
			     const struct frontend_log *log)
{
	unsigned changed = 0;

	check_untouched(&vm->mem);
	for (unsigned i = 0; i < vm->mem.n; i++) {
		const struct guest_region *r = &vm->mem.region[i];

		for (uint64_t at = 0; at < r->used; at += 4096) {
			if (memcmp(s->copy[i] + at, r->host + at, 4096) == 0 ||
			    drivers_own(vm, r->host + at))
				continue;
			changed++;
			cr_assert(frontend_log_has(log, r->gpa + at),
				  "%s: the page at 0x%llx changed unlogged", vm->v->name,
				  (unsigned long long)(r->gpa + at));
		}
	}
	return changed;
}

static struct driver_seg random_data(struct vm *vm, const uint64_t *pool, unsigned *seed,
				     uint32_t len, bool odd)
{
	uint64_t at = (uint64_t)rand_r(seed) % (POOL - len);

	(void)vm;
	return (struct driver_seg) { pool[rand_r(seed) % 2] + (odd ? at : ALIGN_DOWN(at, 512)),
				     len };
}

/* A request of any kind, right or wrong, of any size and place, in pieces. */
static void submit_random(struct vm *vm, const uint64_t *pool, unsigned *seed)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN,
					  VIRTIO_BLK_T_IN,
					  VIRTIO_BLK_T_IN,
					  VIRTIO_BLK_T_OUT,
					  VIRTIO_BLK_T_FLUSH,
					  VIRTIO_BLK_T_GET_ID,
					  77 };
	uint32_t type = types[(unsigned)rand_r(seed) % ARRAY_SIZE(types)];
	unsigned n = 1 + (unsigned)rand_r(seed) % 6, kind = (unsigned)rand_r(seed) % 16;
	bool odd = kind == 3;
	uint32_t unit = kind == 1 ? 600000 : kind == 2 ? 100 : 16384;
	struct driver_seg segs[7];
	uint64_t sector = (uint64_t)rand_r(seed) % (IMAGE / 512);

	for (unsigned i = 0; i < n; i++) {
		uint32_t len = 1 + (uint32_t)rand_r(seed) % unit;

		segs[i] = random_data(vm, pool, seed, odd ? len : ALIGN_UP(len, 512u), odd);
	}
	if (type == VIRTIO_BLK_T_FLUSH)
		n = 0;
	if (kind == 4) { /* a header too short: there is a status byte, and no more */
		segs[0].len = 7;
		segs[1] = random_data(vm, pool, seed, 64, true);
		VM_OK(vm, guest_blk_submit_raw(&vm->blk[0], segs, 1, 1, NULL));
		return;
	}
	if (type == 77) { /* answered UNSUPP at the last byte */
		segs[0].len = 16;
		memcpy(guest_ptr(&vm->mem, segs[0].gpa, 4), &type, sizeof(type));
		segs[1] = random_data(vm, pool, seed, 5000, true);
		VM_OK(vm, guest_blk_submit_raw(&vm->blk[0], segs, 1, 1, NULL));
		return;
	}
	VM_OK(vm, guest_blk_submit(&vm->blk[0], type, sector, segs, n, NULL));
}

static void complete(const struct variant *v, const struct blk_config *cfg, unsigned seed,
		     unsigned rounds)
{
	unsigned changed = 0, reads = 0, surplus = 0;
	struct frontend_log log;
	struct shadow s = { 0 };
	uint64_t pool[2];
	struct vm vm;

	vm_start(&vm, v, cfg, IMAGE);
	image_fill(&vm);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_not_null(guest_alloc_in(&vm.mem, i, POOL, 4096, &pool[i]));
	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	VM_OK(&vm, frontend_log_start(&vm.f, &log, 1));
	for (unsigned round = 0; round < rounds; round++) {
		unsigned n = 1 + (unsigned)rand_r(&seed) % 8, before;
		struct guest_blk_done done;

		frontend_log_clear(&log);
		for (unsigned i = 0; i < n; i++)
			submit_random(&vm, pool, &seed);
		/* What the driver wrote so far is not the device's business. */
		shadow_take(&s, &vm);
		guest_blk_kick(&vm.blk[0]);
		for (unsigned i = 0; i < n; i++)
			VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
		before = shadow_check(&s, &vm, &log);
		changed += before;
		reads += before > 3;
		surplus += (unsigned)frontend_log_count(&log) - before;
	}
	cr_assert_gt(reads, rounds / 8, "hardly anything was read");
	printf("%s: %u pages changed, all logged; %u more were logged\n", v->name, changed,
	       surplus);
	for (unsigned i = 0; i < 2; i++)
		free(s.copy[i]);
	vm_stop(&vm);
	frontend_log_destroy(&log);
}

BLK_TEST(blk_log, every_page_that_a_disk_of_memory_writes_has_its_bit)
{
	complete(v, &(struct blk_config) { .kind = DISK_RAM }, 3, 40);
}

/* O_DIRECT: also by way of bounce buffers, and in several steps. */
BLK_TEST(blk_log, every_page_that_a_direct_disk_writes_has_its_bit)
{
	complete(v, &(struct blk_config) { .kind = DISK_FILE }, 4, 40);
}

BLK_TEST(blk_log, every_page_that_a_buffered_disk_writes_has_its_bit)
{
	complete(v, &(struct blk_config) { .kind = DISK_FILE, .cache = DISK_CACHE_WRITEBACK }, 5,
		 40);
}

/* A file that ends early: some of the read arrives, and then it fails. */
BLK_TEST(blk_log, what_a_failed_read_has_written_has_its_bits)
{
	struct frontend_log log;
	struct shadow s = { 0 };
	uint64_t pool;
	struct vm vm;
	int status;

	vm_start(&vm, v, &(struct blk_config) { .kind = DISK_FILE, .cache = DISK_CACHE_WRITEBACK },
		 IMAGE);
	image_fill(&vm);
	cr_assert_eq(truncate(vm.image, IMAGE / 2), 0);
	cr_assert_not_null(guest_alloc_in(&vm.mem, 0, 4 * MIB, 4096, &pool));
	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	VM_OK(&vm, frontend_log_start(&vm.f, &log, 1));
	shadow_take(&s, &vm);
	/* Half of it is there; the segment that the file ends in is cut. */
	status = vm_do(&vm, 0, VIRTIO_BLK_T_IN, (IMAGE / 2 - 9000 / 512 * 512) / 512, pool + 100,
		       65536);
	cr_assert_eq(status, VIRTIO_BLK_S_IOERR);
	cr_assert_neq(memcmp(guest_ptr(&vm.mem, pool + 100, 4096), s.copy[0] + pool + 100, 4096), 0,
		      "nothing arrived; the test is none");
	for (uint64_t at = pool; at < pool + 65536; at += 4096)
		if (memcmp(guest_ptr(&vm.mem, at, 4096), s.copy[0] + at, 4096))
			cr_assert(frontend_log_has(&log, at));
	free(s.copy[0]);
	free(s.copy[1]);
	vm_stop(&vm);
	frontend_log_destroy(&log);
}

/*
 * A front-end that migrates: takes bits and copies their pages, while the disk works. At the end,
 * with the queue stopped, the copy is the guest's memory. Found so: bits set before the page was
 * written, or after the driver was told.
 */
struct migration {
	struct frontend_log *log;
	const struct vm *vm;
	uint64_t from, to; /* data pages, which the device alone writes */
	uint8_t *copy;
	bool stop; /* atomic */
	uint64_t pages;
};

static void copy_dirty(struct migration *m)
{
	for (uint64_t page = m->from / 4096; page < m->to / 4096; page += 8) {
		uint8_t bits = frontend_log_take(m->log, page);

		for (unsigned i = 0; bits; i++, bits >>= 1) {
			uint64_t at = (page + i) * 4096;

			if (!(bits & 1))
				continue;
			memcpy(m->copy + (at - m->from), guest_ptr(&m->vm->mem, at, 4096), 4096);
			m->pages++;
		}
	}
}

static void *migrate(void *arg)
{
	struct migration *m = arg;

	while (!__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE))
		copy_dirty(m);
	return NULL;
}

BLK_TEST(blk_log, a_copy_made_while_the_disk_works_is_true_at_its_end)
{
	struct frontend_log log;
	struct migration m = { .log = &log };
	unsigned seed = 7, out = 0;
	pthread_t thread;
	struct vm vm;

	vm_start(&vm, v, &(struct blk_config) { .kind = DISK_FILE, .cache = DISK_CACHE_WRITEBACK },
		 IMAGE);
	image_fill(&vm);
	cr_assert_not_null(guest_alloc_in(&vm.mem, 0, 64 * 4096, 8 * 4096, &m.from));
	m.to = m.from + 64 * 4096;
	m.vm = &vm;
	m.copy = calloc(64, 4096);
	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	cr_assert_eq(pthread_create(&thread, NULL, migrate, &m), 0);
	for (unsigned i = 0; i < 3000; i++) {
		struct driver_seg seg = { m.from + (uint64_t)rand_r(&seed) % 62 * 4096 +
						  (uint64_t)rand_r(&seed) % 8 * 512,
					  4096 };
		uint64_t sector = (uint64_t)rand_r(&seed) % (IMAGE / 512 - 8);
		struct guest_blk_done done;

		/* Logging begins under load, as it does when a guest migrates. */
		if (i == 50)
			VM_OK(&vm, frontend_log_start(&vm.f, &log, 1));
		if (i == 60)
			memcpy(m.copy, guest_ptr(&vm.mem, m.from, 64 * 4096), 64 * 4096);
		VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, sector, &seg, 1, NULL));
		guest_blk_kick(&vm.blk[0]);
		if (++out < 16)
			continue;
		VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
		out--;
	}
	/* With requests in flight: GET_VRING_BASE waits for them, and for their bits. */
	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	__atomic_store_n(&m.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	copy_dirty(&m);
	cr_assert_gt(m.pages, 100);
	for (unsigned i = 0; i < 64; i++)
		cr_assert_eq(memcmp(m.copy + i * 4096, guest_ptr(&vm.mem, m.from + i * 4096, 4096),
				    4096),
			     0, "%s: page %u is not what it was at the end", v->name, i);
	free(m.copy);
	vm_stop(&vm);
	frontend_log_destroy(&log);
}

/* T20: a migration begins with requests in flight, whose data come when it has begun. */
BLK_TEST(blk_log, a_log_begins_with_requests_in_flight)
{
	const unsigned n = 8;
	struct frontend_log log;
	uint64_t gpa;
	struct vm vm;

	vm_start(&vm, v, &(struct blk_config) { .kind = DISK_FILE }, IMAGE);
	cr_assert_not_null(guest_alloc(&vm.mem, n * 4096, 4096, &gpa));
	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	set_stuck(true);
	for (unsigned i = 0; i < n; i++)
		VM_OK(&vm,
		      guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_IN, 8 * i,
				       &(struct driver_seg) { gpa + i * 4096, 4096 }, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).in_flight == n));
	VM_OK(&vm, frontend_log_start(&vm.f, &log, 1));
	cr_assert_eq(vm_stats(&vm).in_flight, n, "who logs has waited for them");
	frontend_log_clear(&log);
	set_stuck(false);
	vm_wait(&vm, 0, n, VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < n; i++)
		cr_assert(frontend_log_has(&log, gpa + i * 4096), "%s: page %u", v->name, i);
	for (unsigned i = 0; i < vm.queue_size; i++)
		if (vm.blk[0].slots[i].data_in)
			cr_assert(frontend_log_has(&log, vm.blk[0].slots[i].gpa), "a status byte");
	vm_stop(&vm);
	frontend_log_destroy(&log);
}
