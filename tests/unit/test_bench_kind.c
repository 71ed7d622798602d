/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-bench: is it a disk or a card? By what back-ends offer; in doubt nobody is accused. */
#include "bench/rig.h"

#include <criterion/criterion.h>
#include <linux/virtio_net.h>

#define RING (VU_F_VERSION_1 | VU_F_INDIRECT | VU_F_EVENT_IDX | VU_F_PROTOCOL)

static uint64_t bits(const int *bit)
{
	uint64_t sum = RING;

	for (; *bit >= 0; bit++)
		sum |= UINT64_C(1) << *bit;
	return sum;
}
#define BITS(...) bits((const int[]) { __VA_ARGS__, -1 })

Test(bench_kind, disks_that_others_make_are_disks)
{
	/* cloud-hypervisor, vhost_user_block. */
	uint64_t cloud = BITS(VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH,
			      VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_CONFIG_WCE);
	/* SPDK, SPDK_VHOST_BLK_FEATURES_BASE and what a bdev adds to it. */
	uint64_t spdk = BITS(VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE,
			     VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_FLUSH,
			     VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_F_RO);
	/* All that virtio 1.3 5.2.3 knows. */
	uint64_t all = BITS(1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16);

	cr_assert_eq(rig_looks_like(cloud, VU_PF_CONFIG), RIG_DISK);
	cr_assert_eq(rig_looks_like(spdk, VU_PF_CONFIG | VU_PF_INFLIGHT_SHMFD), RIG_DISK);
	cr_assert_eq(rig_looks_like(all, VU_PF_CONFIG), RIG_DISK);
}

Test(bench_kind, cards_that_others_make_are_cards)
{
	/* DPDK, VIRTIO_NET_SUPPORTED_FEATURES and VHOST_USER_NET_SUPPORTED_FEATURES. */
	uint64_t dpdk = BITS(VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_CTRL_RX,
			     VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU,
			     VIRTIO_NET_F_GSO, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM,
			     VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
			     VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6);

	cr_assert_eq(rig_looks_like(dpdk, VU_PF_MQ), RIG_CARD);
	cr_assert_eq(rig_looks_like(dpdk, VU_PF_MQ | VU_PF_CONFIG), RIG_CARD);
	/* With offloads that the guest may switch, of before and after virtio 1.0. */
	cr_assert_eq(rig_looks_like(dpdk | BITS(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS), VU_PF_CONFIG),
		     RIG_CARD);
}

Test(bench_kind, in_doubt_nobody_is_accused)
{
	/* Nothing; MRG_RXBUF or LIFETIME, FLUSH or GUEST_ECN. */
	cr_assert_eq(rig_looks_like(RING, 0), RIG_UNKNOWN);
	cr_assert_eq(rig_looks_like(RING, VU_PF_CONFIG), RIG_UNKNOWN);
	cr_assert_eq(rig_looks_like(BITS(15), VU_PF_CONFIG), RIG_UNKNOWN);
	cr_assert_eq(rig_looks_like(BITS(1, 9), VU_PF_CONFIG), RIG_UNKNOWN);
	/* A card of before virtio 1.0 without a control queue, one with switched offloads. */
	cr_assert_eq(rig_looks_like(BITS(0, 1, 5, VIRTIO_NET_F_GSO, 7, 9, 10, 11, 13, 14, 15, 16),
				    VU_PF_CONFIG),
		     RIG_UNKNOWN);
	cr_assert_eq(rig_looks_like(BITS(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_GSO,
					 VIRTIO_NET_F_CTRL_VQ),
				    VU_PF_CONFIG),
		     RIG_UNKNOWN);
	/* A disk of the time before VHOST_USER_GET_CONFIG, if it is one. */
	cr_assert_eq(rig_looks_like(BITS(VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE), 0),
		     RIG_UNKNOWN);
	/* Signs of both. */
	cr_assert_eq(
		rig_looks_like(BITS(VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_NET_F_MQ),
			       VU_PF_CONFIG),
		RIG_UNKNOWN);
	/* SCSI's T10_PI is a card's MTU; a GPU's and others' first bits. */
	cr_assert_eq(rig_looks_like(BITS(0, 1, 2, 3), VU_PF_CONFIG), RIG_UNKNOWN);
	cr_assert_eq(rig_looks_like(BITS(0, 1, 2, 3, 4), VU_PF_CONFIG), RIG_UNKNOWN);
}
