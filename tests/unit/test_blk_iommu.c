/* SPDX-License-Identifier: Apache-2.0 */
/* A disk of a guest behind an IOMMU: data goes to where the IOMMU says, page by page. */
#include "tests/guest/frontend_iommu.h"
#include "tests/unit/blk_util.h"

#define IOVA UINT64_C(0x7f0000000000) /* + guest address: rings, headers, status bytes */
#define DATA UINT64_C(0x600000000000) /* pages that lie elsewhere, in another order */
#define PAGES 64
#define PAGE 4096
#define RW (VU_IOTLB_READ | VU_IOTLB_WRITE)

static struct vm vm;

/* Where page @i of the data is: neither in order nor neighbours. */
static uint64_t data_gpa(unsigned i)
{
	return 8 * MIB + (uint64_t)(i * 37 % PAGES) * 2 * PAGE;
}

static void serve(void)
{
	struct vu_iotlb m;

	while (VM_OK(&vm, frontend_poll_miss(&vm.f, &m)) > 0) {
		uint64_t iova = ALIGN_DOWN(m.iova, PAGE);
		uint64_t gpa = iova >= IOVA ? iova - IOVA : data_gpa((iova - DATA) / PAGE);

		/* Of data, no more than was asked for. */
		VM_OK(&vm, frontend_map(&vm.f, iova, gpa, PAGE, iova >= IOVA ? RW : m.access));
	}
}

/* One request, misses answered. Nothing else wakes the queue: it has no other work. */
static void transfer(uint32_t type, uint64_t sector, uint64_t iova, uint32_t len)
{
	const struct driver_seg seg = { iova, len };
	struct guest_blk_done done;

	VM_OK(&vm, guest_blk_submit(&vm.blk[0], type, sector, &seg, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY((serve(), VM_OK(&vm, guest_blk_poll(&vm.blk[0], &done)) == 1)));
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
}

static void start(const struct variant *v)
{
	const struct blk_config ram = { .kind = DISK_RAM };
	struct frontend_queue_options opt = { .size = 64,
					      .indirect = v->indirect,
					      .indirect_segs = 128 };

	vm_create(&vm, v, &ram, 4 * MIB);
	frontend_init(&vm.f);
	vm.f.idle = vm_idle;
	vm.f.iova_base = IOVA;
	VM_OK(&vm, frontend_connect(&vm.f, vm.socket));
	VM_OK(&vm, frontend_hello(&vm.f, VU_PF_USUAL | VU_PF_BACKEND_REQ));
	VM_OK(&vm, frontend_set_features(
			   &vm.f, VU_F_VERSION_1 | VU_F_ACCESS_PLATFORM | 0xffffff |
					  (v->packed ? VU_F_PACKED : 0) |
					  (v->event_idx ? VU_F_EVENT_IDX : 0) |
					  (v->indirect != DRIVER_DIRECT ? VU_F_INDIRECT : 0)));
	VM_OK(&vm, frontend_open_backend_channel(&vm.f));
	VM_OK(&vm, frontend_share_memory(&vm.f, &vm.mem));
	/* Guest memory below 16 MiB is the data's. */
	(void)guest_alloc(&vm.mem, 16 * MIB, PAGE, NULL);
	VM_OK(&vm, frontend_queue_setup(&vm.f, 0, &opt));
	VM_OK(&vm, guest_blk_open(&vm.blk[0], &vm.f, 0));
	for (unsigned i = 0; i < vm.blk[0].n_free; i++)
		vm.blk[0].slots[vm.blk[0].free[i]].gpa += IOVA;
	VM_OK(&vm, frontend_queue_start(&vm.f, 0));
	cr_assert(VM_EVENTUALLY(
		(serve(), blk_device_vhost(vm.dev)->queues[0].state == VIRTQUEUE_RUNNING)));
}

BLK_TEST(blk_iommu, data_is_where_the_iommu_says)
{
	start(v);
	for (unsigned i = 0; i < PAGES; i++)
		memset(guest_ptr(&vm.mem, data_gpa(i), PAGE), 'a' + i % 26, PAGE);
	/* Unaligned, over many pages: each piece of it has a place of its own. */
	transfer(VIRTIO_BLK_T_OUT, 0, DATA + 512, (PAGES - 1) * PAGE);
	for (unsigned i = 0; i < PAGES; i++)
		memset(guest_ptr(&vm.mem, data_gpa(i), PAGE), 0, PAGE);
	/* What was mapped for reading only is asked for again, for writing. */
	transfer(VIRTIO_BLK_T_IN, 0, DATA + 512, (PAGES - 1) * PAGE);
	for (unsigned i = 0; i < PAGES; i++) {
		const uint8_t *p = guest_ptr(&vm.mem, data_gpa(i), PAGE);

		for (unsigned k = 0; k < PAGE; k++) {
			bool there = (i > 0 || k >= 512) && (i < PAGES - 1 || k < 512);

			cr_assert_eq(p[k], there ? 'a' + i % 26 : 0, "page %u, byte %u", i, k);
		}
	}
	/* A guest that moves its pages sees them moved. */
	VM_OK(&vm, frontend_iotlb(&vm.f, VU_IOTLB_INVALIDATE, 0, 0, 0, 0));
	cr_assert(VM_EVENTUALLY(
		(serve(), blk_device_vhost(vm.dev)->queues[0].state == VIRTQUEUE_RUNNING)));
	VM_OK(&vm, frontend_map(&vm.f, DATA, 7 * MIB, PAGE, RW));
	transfer(VIRTIO_BLK_T_IN, 7, DATA, 512);
	cr_assert_eq(*(const uint8_t *)guest_ptr(&vm.mem, 7 * MIB, 1), 'b');
	vm_stop(&vm);
}
