/* SPDX-License-Identifier: Apache-2.0 */
/* DISCARD and WRITE_ZEROES of a virtio-blk device, as a front-end and its guest see them. */
#include "tests/unit/blk_util.h"

#define IMAGE (16 * MIB)
#define DISK_FEATURES ((1u << VIRTIO_BLK_F_DISCARD) | (1u << VIRTIO_BLK_F_WRITE_ZEROES))

struct range_memory {
	struct virtio_blk_discard_write_zeroes *range;
	uint64_t gpa;
};

static struct range_memory range_memory(struct vm *vm)
{
	struct range_memory m;

	m.range = guest_alloc(&vm->mem, sizeof(*m.range), 16, &m.gpa);
	return m;
}

static int ask(struct vm *vm, const struct range_memory *m, uint32_t type, uint64_t sector,
	       uint32_t n, uint32_t flags)
{
	*m->range = (struct virtio_blk_discard_write_zeroes) { sector, n, flags };
	return vm_do(vm, 0, type, 77, m->gpa, sizeof(*m->range));
}

static void ranges(const struct variant *v, const struct blk_config *cfg)
{
	uint8_t *back, *want = malloc(IMAGE);
	struct range_memory m;
	uint64_t gpa;
	struct blk_stats s;
	struct vm vm;

	vm_start(&vm, v, cfg, IMAGE);
	m = range_memory(&vm);
	back = guest_alloc(&vm.mem, IMAGE, 4096, &gpa);
	fill(back, IMAGE, 1);
	memcpy(want, back, IMAGE);
	for (unsigned i = 0; i < IMAGE / MIB; i++)
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, i * MIB / 512, gpa + i * MIB, MIB),
			     VIRTIO_BLK_S_OK);
	cr_assert_eq(ask(&vm, &m, VIRTIO_BLK_T_WRITE_ZEROES, 3, 4097, 0), VIRTIO_BLK_S_OK);
	memset(want + 3 * 512, 0, 4097 * 512);
	cr_assert_eq(ask(&vm, &m, VIRTIO_BLK_T_WRITE_ZEROES, 8192, 2048,
			 VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
		     VIRTIO_BLK_S_OK);
	memset(want + 8192 * 512, 0, 2048 * 512);
	cr_assert_eq(ask(&vm, &m, VIRTIO_BLK_T_DISCARD, 16384, 8192, 0), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < IMAGE / MIB; i++)
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, i * MIB / 512, gpa + i * MIB, MIB),
			     VIRTIO_BLK_S_OK);
	/* What was discarded may read as anything. */
	cr_assert_arr_eq(back, want, 16384 * 512);
	cr_assert_arr_eq(back + 24576 * 512, want + 24576 * 512, IMAGE - 24576 * 512);

	cr_assert_eq(ask(&vm, &m, VIRTIO_BLK_T_DISCARD, IMAGE / 512, 1, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(ask(&vm, &m, VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
	s = vm_stats(&vm);
	cr_assert_eq(s.discards, 1);
	cr_assert_eq(s.zeroes, 2);
	cr_assert_eq(s.discarded_bytes, 8192 * 512);
	cr_assert_eq(s.zeroed_bytes, (4097 + 2048) * 512);
	cr_assert_eq(s.errors, 1);
	cr_assert_eq(s.unsupported, 1);
	vm_stop(&vm);
	free(want);
}

BLK_TEST(blk_range, ranges_of_a_file_are_zeroed_and_discarded)
{
	ranges(v, &(struct blk_config) { .kind = DISK_FILE });
}

BLK_TEST(blk_range, ranges_of_a_ram_disk_are_zeroed_and_discarded)
{
	ranges(v, &(struct blk_config) { .kind = DISK_RAM });
}

static struct virtio_blk_config config_of(struct vm *vm)
{
	struct virtio_blk_config c;

	VM_OK(vm, frontend_get_config(&vm->f, 0, &c, sizeof(c)));
	return c;
}

Test(blk_range, what_is_offered_is_what_the_disk_can_do_5_2_4, .timeout = 60)
{
	struct blk_config cfg = { .kind = DISK_FILE };
	struct virtio_blk_config c;
	struct vm vm;

	vm_start(&vm, &variant_split, &cfg, IMAGE);
	cr_assert_eq(vm.f.offered & DISK_FEATURES, DISK_FEATURES);
	c = config_of(&vm);
	cr_assert_gt(c.max_discard_sectors, 0);
	cr_assert_eq(c.max_discard_seg, 1);
	cr_assert_eq(c.discard_sector_alignment % 8, 0);
	cr_assert_gt(c.max_write_zeroes_sectors, 0);
	cr_assert_eq(c.max_write_zeroes_seg, 1);
	cr_assert_eq(c.write_zeroes_may_unmap, 1);
	vm_stop(&vm);

	cfg.keep_space = true;
	vm_start(&vm, &variant_split, &cfg, IMAGE);
	cr_assert_eq(vm.f.offered & DISK_FEATURES, 1u << VIRTIO_BLK_F_WRITE_ZEROES);
	cr_assert_eq(config_of(&vm).max_discard_seg, 0);
	cr_assert_eq(config_of(&vm).write_zeroes_may_unmap, 0);
	vm_stop(&vm);

	cfg.read_only = true;
	vm_start(&vm, &variant_split, &cfg, IMAGE);
	cr_assert_eq(vm.f.offered & DISK_FEATURES, 0);
	vm_stop(&vm);
}

BLK_TEST(blk_range, what_was_not_negotiated_is_unsupported_T10)
{
	struct blk_config cfg = { .kind = DISK_RAM };
	struct range_memory m;
	struct vm vm;

	vm_create(&vm, v, &cfg, IMAGE);
	vm.features_off = DISK_FEATURES;
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	m = range_memory(&vm);
	cr_assert_eq(ask(&vm, &m, VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(ask(&vm, &m, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	vm_stop(&vm);
}
