/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SECURE_ERASE and GET_LIFETIME: virtio 1.3 5.2.6. Devices that can are rare, so what the kernel is
 * asked is answered here, for a zram device.
 */
#include "blk/disk_file.h"
#include "blk/queue.h"
#include "tests/guest/frontend_inflight.h"
#include "tests/unit/blk_util.h"
#include "tests/unit/zram.h"

#include <errno.h>
#include <semaphore.h>

#define DISK (64 * MIB)
#define ALIGN 8 /* sectors: zram's granularity is a page */
#define SECURE_ERASE (UINT64_C(1) << VIRTIO_BLK_F_SECURE_ERASE)
#define LIFETIME (UINT64_C(1) << BLK_F_LIFETIME)

static bool can_erase = true, has_lifetime = true;
static int erase_result;
static unsigned n_erased; /* calls; atomic */
static uint64_t erased_at, erased_end;
#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
static struct file_queue *opens_when_it_ends;
static sem_t *gate; /* each waits here; NULL: none does. Atomic */

bool __wrap_block_device_can_erase(int fd);
bool __wrap_block_device_lifetime(const struct stat *st, struct disk_lifetime *out);
int __wrap_block_device_erase(int fd, uint64_t at, uint64_t len);

bool __wrap_block_device_can_erase(int fd)
{
	(void)fd;
	return can_erase;
}

bool __wrap_block_device_lifetime(const struct stat *st, struct disk_lifetime *out)
{
	cr_assert(S_ISBLK(st->st_mode));
	*out = (struct disk_lifetime) { 1, 2, 0x103 };
	return has_lifetime;
}

/* In steps, one after the other. */
int __wrap_block_device_erase(int fd, uint64_t at, uint64_t len)
{
	sem_t *closed = LOAD(gate);

	(void)fd;
	cr_expect_null(worker_current(), "a worker waits for a device");
	if (at != erased_end)
		erased_at = at;
	erased_end = at + len;
	__atomic_fetch_add(&n_erased, 1, __ATOMIC_SEQ_CST);
	while (closed && sem_trywait(closed) &&
	       !(LOAD(opens_when_it_ends) && LOAD(opens_when_it_ends->eraser.cancel)))
		usleep(100);
	return erase_result;
}

struct bed {
	struct vm vm;
	struct zram zram;
	struct virtio_blk_discard_write_zeroes *range;
	uint64_t range_gpa;
};

static void bed_start(struct bed *b, const struct variant *v, struct blk_config cfg, uint64_t off)
{
	zram_add(&b->zram, DISK);
	cfg.kind = DISK_FILE;
	cfg.file = b->zram.path;
	n_erased = 0;
	erased_at = erased_end = UINT64_MAX;
	vm_create(&b->vm, v, &cfg, 0);
	b->vm.features_off = off;
	vm_connect(&b->vm);
	vm_queue_start(&b->vm, 0, NULL);
	b->range = guest_alloc(&b->vm.mem, sizeof(*b->range) * 16, 16, &b->range_gpa);
}

static void bed_stop(struct bed *b)
{
	vm_stop(&b->vm);
	zram_remove(&b->zram);
}

static int erase(struct bed *b, uint64_t sector, uint32_t n, uint32_t flags)
{
	*b->range = (struct virtio_blk_discard_write_zeroes) { sector, n, flags };
	return vm_do(&b->vm, 0, VIRTIO_BLK_T_SECURE_ERASE, 77, b->range_gpa, sizeof(*b->range));
}

BLK_TEST(blk_erase, what_is_erased_is_what_was_asked_and_no_worker_waits_for_it)
{
	struct virtio_blk_config c;
	struct bed b;

	bed_start(&b, v, (struct blk_config) { 0 }, 0);
	VM_OK(&b.vm, frontend_get_config(&b.vm.f, 0, &c, sizeof(c)));
	cr_assert_geq(c.max_secure_erase_sectors, DISK / 512);
	cr_assert_eq(c.max_secure_erase_seg, 1);
	cr_assert_eq(c.secure_erase_sector_alignment, ALIGN);
	cr_assert_eq(erase(&b, ALIGN, DISK / 512 - ALIGN, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(erased_at, ALIGN * 512);
	cr_assert_eq(erased_end, DISK);
	cr_assert_gt(n_erased, 1); /* in steps */
	cr_assert_eq(erase(&b, 0, 0, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_stats(&b.vm).erases, 2);
	cr_assert_eq(vm_stats(&b.vm).erased_bytes, DISK - ALIGN * 512);
	bed_stop(&b);
}

/* 5.2.6.2; and no erasure that would leave something of what it was to erase. */
BLK_TEST(blk_erase, ranges_that_are_not_legal_are_refused_5_2_6_2)
{
	struct bed b;
	bed_start(&b, v, (struct blk_config) { 0 }, 0);
	cr_assert_eq(erase(&b, 0, ALIGN, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(erase(&b, 0, ALIGN, 1u << 31), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(erase(&b, 1, ALIGN, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(erase(&b, 0, ALIGN - 1, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(erase(&b, DISK / 512, ALIGN, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(erase(&b, DISK / 512 - ALIGN, 2 * ALIGN, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(erase(&b, UINT64_MAX / 512 + 1, ALIGN, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(erase(&b, UINT64_MAX - ALIGN + 1, ALIGN, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(erase(&b, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	/* max_secure_erase_seg is one; and parts of one are none. */
	*b.range = b.range[1] = (struct virtio_blk_discard_write_zeroes) { 0, ALIGN, 0 };
	for (uint32_t len = 0; len < 33; len += 8) {
		int got = vm_do(&b.vm, 0, VIRTIO_BLK_T_SECURE_ERASE, 0, b.range_gpa, len);
		cr_assert_eq(got, len == 16 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR, "%u bytes: %d",
			     len, got);
	}
	cr_assert_eq(n_erased, 1);
	bed_stop(&b);
}

BLK_TEST(blk_erase, a_device_that_fails_or_cannot_after_all_is_told_of)
{
	struct bed b;

	bed_start(&b, v, (struct blk_config) { 0 }, 0);
	erase_result = -EIO;
	cr_assert_eq(erase(&b, 0, ALIGN, 0), VIRTIO_BLK_S_IOERR);
	erase_result = -EOPNOTSUPP;
	cr_assert_eq(erase(&b, 0, ALIGN, 0), VIRTIO_BLK_S_UNSUPP);
	erase_result = -EAGAIN;
	cr_assert_eq(erase(&b, 0, ALIGN, 0), VIRTIO_BLK_S_IOERR);
	erase_result = 0;
	cr_assert_eq(erase(&b, 0, ALIGN, 0), VIRTIO_BLK_S_OK);
	bed_stop(&b);
}

/* Writes @n erasures of one unit each into the ring. */
static void submit_erasures(struct bed *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct driver_seg seg = { b->range_gpa + i * sizeof(*b->range), sizeof(*b->range) };

		b->range[i] = (struct virtio_blk_discard_write_zeroes) { i * ALIGN * 2, ALIGN, 0 };
		VM_OK(&b->vm,
		      guest_blk_submit(&b->vm.blk[0], VIRTIO_BLK_T_SECURE_ERASE, 0, &seg, 1, NULL));
	}
	guest_blk_kick(&b->vm.blk[0]);
}

BLK_TEST(blk_erase, others_are_served_while_one_is_erased_and_all_have_their_turn)
{
	struct guest_blk_done done;
	uint64_t gpa;
	struct bed b;
	sem_t sem;

	sem_init(&sem, 0, 0);
	gate = &sem;
	bed_start(&b, v, (struct blk_config) { 0 }, 0);
	guest_alloc(&b.vm.mem, 4096, 4096, &gpa);
	submit_erasures(&b, 16);
	cr_assert(VM_EVENTUALLY(LOAD(n_erased) == 1));
	/* It comes back first. */
	cr_assert_eq(vm_do(&b.vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	cr_assert_eq(n_erased, 1);
	for (unsigned i = 0; i < 16; i++) {
		sem_post(&sem);
		VM_OK(&b.vm, guest_blk_wait(&b.vm.blk[0], &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	}
	cr_assert_eq(n_erased, 16);
	bed_stop(&b);
}

static const struct blk_queue *queue_of(const struct bed *b)
{
	return blk_device_vhost(b->vm.dev)->queues[0].priv;
}

/* vhost-user GET_VRING_BASE_INFLIGHT: what has not begun is left, and done by who comes next. */
BLK_TEST(blk_erase, a_queue_that_leaves_ends_with_what_is_under_way)
{
	struct frontend_inflight buf = { .fd = -1 };
	struct bed b;
	sem_t sem;

	sem_init(&sem, 0, 0);
	gate = &sem;
	zram_add(&b.zram, DISK);
	n_erased = 0;
	vm_create(&b.vm, v, &(struct blk_config) { .kind = DISK_FILE, .file = b.zram.path }, 0);
	b.vm.protocol = VU_PF_INFLIGHT_SHMFD | VU_PF_GET_VRING_BASE_INFLIGHT;
	vm_connect(&b.vm);
	VM_OK(&b.vm, frontend_get_inflight(&b.vm.f, &buf, 1, (uint16_t)b.vm.queue_size));
	VM_OK(&b.vm, frontend_set_inflight(&b.vm.f, &buf));
	vm_queue_start(&b.vm, 0, NULL);
	b.range = guest_alloc(&b.vm.mem, sizeof(*b.range) * 16, 16, &b.range_gpa);
	submit_erasures(&b, 4);
	cr_assert(VM_EVENTUALLY(LOAD(n_erased) == 1));
	opens_when_it_ends = container_of(queue_of(&b)->disk_queue, struct file_queue, base);
	VM_OK(&b.vm, frontend_queue_stop(&b.vm.f, 0, NULL));
	cr_assert_eq(n_erased, 1);
	gate = NULL;
	opens_when_it_ends = NULL;
	VM_OK(&b.vm, frontend_queue_start(&b.vm.f, 0));
	vm_wait(&b.vm, 0, 4, VIRTIO_BLK_S_OK);
	frontend_inflight_close(&buf);
	bed_stop(&b);
}

static uint64_t offered(struct blk_config cfg)
{
	uint64_t bits;
	struct bed b;

	bed_start(&b, &variant_split, cfg, 0);
	bits = b.vm.f.offered & (SECURE_ERASE | LIFETIME);
	bed_stop(&b);
	return bits;
}

Test(blk_erase, what_is_offered_is_what_the_device_can_do_5_2_3, .timeout = 60)
{
	cr_assert_eq(offered((struct blk_config) { 0 }), SECURE_ERASE | LIFETIME);
	cr_assert_eq(offered((struct blk_config) { .read_only = true }), LIFETIME);
	cr_assert_eq(offered((struct blk_config) { .keep_space = true }), LIFETIME);
	can_erase = false;
	cr_assert_eq(offered((struct blk_config) { 0 }), LIFETIME);
	has_lifetime = false;
	cr_assert_eq(offered((struct blk_config) { 0 }), 0);
}

BLK_TEST(blk_erase, what_was_not_negotiated_is_unsupported_T10)
{
	uint64_t gpa;
	struct bed b;

	bed_start(&b, v, (struct blk_config) { 0 }, SECURE_ERASE | LIFETIME);
	guest_alloc(&b.vm.mem, 64, 64, &gpa);
	cr_assert_eq(erase(&b, 0, ALIGN, 0), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(vm_do(&b.vm, 0, BLK_T_GET_LIFETIME, 0, gpa, 6), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(n_erased, 0);
	bed_stop(&b);
}

BLK_TEST(blk_erase, the_lifetime_is_told_whole_or_not_at_all_5_2_6)
{
	static const uint8_t want[] = { 1, 0, 2, 0, 3, 1 };
	uint8_t *answer;
	uint64_t gpa;
	struct bed b;

	bed_start(&b, v, (struct blk_config) { 0 }, 0);
	answer = guest_alloc(&b.vm.mem, 64, 64, &gpa);
	memset(answer, 0xaa, 64);
	cr_assert_eq(vm_do(&b.vm, 0, BLK_T_GET_LIFETIME, 9, gpa, 5), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(answer[0], 0xaa);
	cr_assert_eq(vm_do(&b.vm, 0, BLK_T_GET_LIFETIME, 9, gpa, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&b.vm, 0, BLK_T_GET_LIFETIME, 9, gpa, 10), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(answer, want, 6);
	cr_assert_eq(answer[6], 0xaa);
	cr_assert_eq(vm_stats(&b.vm).get_lifetimes, 1);
	bed_stop(&b);
}
