/* SPDX-License-Identifier: Apache-2.0 */
/* What the front-end says of a ring before it starts; virtio 1.3 2.7 and 2.8. */
#include "tests/unit/session_bed.h"
#include "vhost/protocol.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* T9 */
Test(session_describe, a_ring_that_is_wrongly_described_does_not_start)
{
	const uint64_t uva = GUEST_UVA_BASE;
	const struct {
		const char *what;
		uint64_t features;
		uint32_t num, base;
		uint64_t desc, avail, used;
		int wanted;
	} rings[] = {
		{ "fine", 0, 64, 0, 0, 4096, 8192, VIRTQUEUE_RUNNING },
		{ "split, no power of two", 0, 100, 0, 0, 4096, 8192, VIRTQUEUE_STOPPED },
		{ "packed, any size", VU_F_PACKED, 100, 0x80008000, 0, 4096, 8192,
		  VIRTQUEUE_RUNNING },
		{ "descriptors unaligned", 0, 64, 0, 8, 4096, 8192, VIRTQUEUE_STOPPED },
		{ "avail unaligned", 0, 64, 0, 0, 4097, 8192, VIRTQUEUE_STOPPED },
		{ "used unaligned", 0, 64, 0, 0, 4096, 8194, VIRTQUEUE_STOPPED },
		{ "packed, driver area unaligned", VU_F_PACKED, 64, 0x80008000, 0, 4098, 8192,
		  VIRTQUEUE_STOPPED },
		{ "packed, descriptors unaligned", VU_F_PACKED, 64, 0x80008000, 8, 4096, 8192,
		  VIRTQUEUE_STOPPED },
		{ "packed, device area unaligned", VU_F_PACKED, 64, 0x80008000, 0, 4096, 8194,
		  VIRTQUEUE_STOPPED },
		{ "packed, nowhere", VU_F_PACKED, 64, 0x80008000, UINT64_C(1) << 40, 4096, 8192,
		  VIRTQUEUE_STOPPED },
		{ "packed, at the end of a region", VU_F_PACKED, 64, 0x80008000, (4 << 20) - 512,
		  4096, 8192, VIRTQUEUE_STOPPED },
		{ "packed, up to the end of a region", VU_F_PACKED, 64, 0x80008000,
		  (4 << 20) - 1024, 4096, 8192, VIRTQUEUE_RUNNING },
		{ "packed, driver area beyond the end", VU_F_PACKED, 64, 0x80008000, 0, 4 << 20,
		  8192, VIRTQUEUE_STOPPED },
		{ "packed, device area beyond the end", VU_F_PACKED, 64, 0x80008000, 0, 4096,
		  4 << 20, VIRTQUEUE_STOPPED },
		{ "packed, wraps", VU_F_PACKED, 64, 0x80008000, UINT64_MAX - uva - 15, 4096, 8192,
		  VIRTQUEUE_STOPPED },
		{ "split, avail at 2", 0, 64, 0, 0, 4098, 8192, VIRTQUEUE_RUNNING },
		{ "nowhere", 0, 64, 0, UINT64_C(1) << 40, 4096, 8192, VIRTQUEUE_STOPPED },
		{ "at the end of a region", 0, 64, 0, (4 << 20) - 512, 4096, 8192,
		  VIRTQUEUE_STOPPED },
		{ "used beyond the end", 0, 64, 0, 0, 4096, (4 << 20) - 100, VIRTQUEUE_STOPPED },
		{ "wraps", 0, 64, 0, UINT64_MAX - uva - 15, 4096, 8192, VIRTQUEUE_STOPPED },
		{ "split base beyond 65535", 0, 64, 0x10000, 0, 4096, 8192, VIRTQUEUE_STOPPED },
		{ "split base beyond size", 0, 64, 0xffff, 0, 4096, 8192, VIRTQUEUE_RUNNING },
		{ "packed base beyond size", VU_F_PACKED, 64, 64, 0, 4096, 8192,
		  VIRTQUEUE_STOPPED },
		{ "packed used base beyond size", VU_F_PACKED, 64, 64 << 16, 0, 4096, 8192,
		  VIRTQUEUE_STOPPED },
		{ "32768 entries in too little memory", 0, 32768, 0, (4 << 20) - 4096, 4096, 8192,
		  VIRTQUEUE_STOPPED },
	};
	int fd = eventfd(0, 0);

	for (unsigned i = 0; i < ARRAY_SIZE(rings); i++) {
		struct vu_addr addr = { .desc = uva + rings[i].desc,
					.avail = uva + rings[i].avail,
					.used = uva + rings[i].used };
		struct virtqueue *vq = &b.dev.vhost.queues[0];
		int rc;

		bed_init(&b, &echo_net_ops);
		vq = &b.dev.vhost.queues[0];
		bed_pair(&b);
		bed_negotiate(&b, VU_PF_USUAL, rings[i].features);
		OK(&b.f, frontend_state_set(&b.f, VU_SET_VRING_NUM, 0, rings[i].num));
		OK(&b.f, frontend_set(&b.f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
		OK(&b.f, frontend_state_set(&b.f, VU_SET_VRING_BASE, 0, rings[i].base));
		rc = frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, fd);
		cr_assert_eq(vq->state, rings[i].wanted, "%s", rings[i].what);
		cr_assert_eq(rc, rings[i].wanted == VIRTQUEUE_RUNNING ? 0 : -EREMOTEIO, "%s",
			     rings[i].what);
		check_alive();
		bed_fini(&b);
	}
	close(fd);
}

Test(session_describe, a_ring_kicked_too_early_starts_once_it_is_described)
{
	struct vu_addr addr = { .desc = GUEST_UVA_BASE,
				.avail = GUEST_UVA_BASE + 4096,
				.used = GUEST_UVA_BASE + 8192 };
	int fd = eventfd(0, 0);

	open_bed(&echo_net_ops);
	cr_assert_eq(frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, fd), -EREMOTEIO);
	cr_assert_eq(frontend_state_set(&b.f, VU_SET_VRING_NUM, 0, 64), -EREMOTEIO);
	OK(&b.f, frontend_set(&b.f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
	cr_assert_eq(b.dev.vhost.queues[0].state, VIRTQUEUE_RUNNING);
	bed_fini(&b);
	close(fd);
}

Test(session_describe, a_running_ring_is_not_described_anew)
{
	static const uint32_t nums[] = { 0, 32769, 0xffffffff };
	struct vu_addr addr;

	open_bed(&echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(nums); i++)
		cr_assert_eq(frontend_state_set(&b.f, VU_SET_VRING_NUM, 0, nums[i]), -EREMOTEIO);
	bed_start_queue(&b, 0);
	cr_assert_eq(frontend_state_set(&b.f, VU_SET_VRING_NUM, 0, 128), -EREMOTEIO);
	OK(&b.f, frontend_state_set(&b.f, VU_SET_VRING_NUM, 0, 64));
	cr_assert_eq(frontend_state_set(&b.f, VU_SET_VRING_BASE, 0, 3), -EREMOTEIO);
	addr = (struct vu_addr) { .desc = b.dev.vhost.queues[0].setup.desc,
				  .avail = b.dev.vhost.queues[0].setup.driver,
				  .used = b.dev.vhost.queues[0].setup.device };
	OK(&b.f, frontend_set(&b.f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
	addr.desc += 4096;
	cr_assert_eq(frontend_set(&b.f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0),
		     -EREMOTEIO);
	cr_assert_eq(frontend_state_set(&b.f, VU_SET_VRING_ENABLE, 0, 2), -EREMOTEIO);
	cr_assert_eq(b.dev.queue[0].starts, 1u);
	bed_echo(&b, 0);
	bed_fini(&b);
}
