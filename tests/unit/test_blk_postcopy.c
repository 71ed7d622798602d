/* SPDX-License-Identifier: Apache-2.0 */
/* A disk whose guest runs before all of its memory is here: what is read and written is right. */
#include "tests/unit/blk_util.h"
#include "tests/unit/postcopy_util.h"

#define IMAGE (16 * MIB)
#define N 48u
#define SECTORS 24u /* of a request: three pages */

static struct vm vm;
static struct delivery d;

static uint64_t data_of(unsigned i)
{
	/* Half of them in each of the two regions; no two share a page. */
	return (i % 2 ? UINT64_C(1) << 32 : 0) + 8 * MIB + (i * 29 % N) * 5 * 4096 + 512;
}

/* Reads and writes in turn, in the ring before the guest moves. */
static void post(unsigned i)
{
	/* In pieces that begin and end within pages. */
	const struct driver_seg segs[] = { { data_of(i), 512 * 9 },
					   { data_of(i) + (512 * 9), 512 * (SECTORS - 9) } };

	VM_OK(&vm, guest_blk_submit(&vm.blk[0], i % 4 < 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
				    (uint64_t)i * SECTORS, segs, 2, (void *)(uintptr_t)i));
}

static void connect_and_post(const struct variant *v)
{
	struct frontend_queue_options opt = { .size = 256,
					      .indirect = v->indirect,
					      .indirect_segs = 8 };
	uint64_t features = VU_F_PROTOCOL | VU_F_VERSION_1 | 0xffffff;

	features |= v->packed ? VU_F_PACKED : 0;
	features |= v->event_idx ? VU_F_EVENT_IDX : 0;
	features |= v->indirect != DRIVER_DIRECT ? VU_F_INDIRECT : 0;
	frontend_init(&vm.f);
	vm.f.idle = vm_idle;
	VM_OK(&vm, frontend_connect(&vm.f, vm.socket));
	VM_OK(&vm, frontend_hello(&vm.f, VU_PF_USUAL | VU_PF_PAGEFAULT));
	VM_OK(&vm, frontend_set_features(&vm.f, features));
	vm.f.memory = &vm.mem;
	VM_OK(&vm, frontend_queue_setup(&vm.f, 0, &opt));
	VM_OK(&vm, guest_blk_open(&vm.blk[0], &vm.f, 0));
	for (unsigned i = 0; i < N; i++) {
		memset(guest_ptr(&vm.mem, data_of(i), SECTORS * 512), (int)(i + 1), SECTORS * 512);
		post(i);
	}
	guest_blk_kick(&vm.blk[0]);
}

static bool is_all(const uint8_t *p, uint8_t value, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != value)
			return false;
	return true;
}

/* What is in flight when the last page comes has been read from where it lies, not from holes. */
static void check(void)
{
	static uint8_t block[SECTORS * 512];
	int fd = open(vm.image, O_RDONLY);

	for (unsigned i = 0; i < N; i++) {
		const uint8_t *at = guest_ptr(&vm.mem, data_of(i), SECTORS * 512);

		cr_assert_eq(pread(fd, block, sizeof(block), (off_t)i * SECTORS * 512),
			     (ssize_t)sizeof(block));
		if (i % 4 < 2)
			cr_assert(is_all(block, (uint8_t)(i + 1), sizeof(block)), "write %u", i);
		else
			cr_assert(is_all(at, (uint8_t)(200 - i), sizeof(block)), "read %u", i);
		/* What lies beside it in the first and the last page is the guest's own. */
		cr_assert(is_all(at - 512, 0, 512) && is_all(at + sizeof(block), 0, 512));
	}
	close(fd);
}

static void fill_image(void)
{
	static uint8_t block[SECTORS * 512];
	int fd = open(vm.image, O_WRONLY);

	for (unsigned i = 0; i < N; i++) {
		memset(block, (int)(200 - i), sizeof(block));
		cr_assert_eq(pwrite(fd, block, sizeof(block), (off_t)i * SECTORS * 512),
			     (ssize_t)sizeof(block));
	}
	close(fd);
}

BLK_TEST(blk_postcopy, requests_wait_for_their_pages)
{
	const struct blk_config cfg = { .kind = DISK_FILE, .cache = DISK_CACHE_WRITEBACK };
	struct guest_blk_done done;
	struct waiting w = { .n = 0 };
	const struct virtqueue *vq;
	unsigned back = 0;

	prepare_pagers();
	vm_create(&vm, v, &cfg, IMAGE);
	fill_image();
	vq = &blk_device_vhost(vm.dev)->queues[0];
	connect_and_post(v);
	cr_assert_eq(delivery_begin(&d, &vm.f, &vm.mem), 0);
	VM_OK(&vm, frontend_postcopy_advise(&d));
	VM_OK(&vm, frontend_postcopy_listen(&d));
	VM_OK(&vm, frontend_postcopy_share(&d));
	VM_OK(&vm, frontend_queue_start(&vm.f, 0));
	cr_assert(VM_EVENTUALLY(({
			  serve_one(&d, &w);
			  /* Its status lies in the page of its header: the driver may look once it
			   * is here. */
			  while (vq->state == VIRTQUEUE_RUNNING &&
				 guest_blk_poll(&vm.blk[0], &done)) {
				  cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
				  back++;
			  }
			  back == N;
		  })),
		  "%u requests came back", back);
	cr_assert_eq(delivery_all(&d), 0, "a page was touched that had not arrived");
	VM_OK(&vm, frontend_postcopy_end(&d));
	check();
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, data_of(0), 4096), VIRTIO_BLK_S_OK);
	vm_disconnect(&vm);
	delivery_end(&d);
	vm_stop(&vm);
	pager_unprepare();
}
