/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's driver on a card, or a card's on a disk: feature bits mean other things there, and the
 * back-end waits for ever, or breaks its ring. So that is told before anything is driven.
 */
#include "bench/rig.h"

#include <err.h>
#include <linux/virtio_net.h>

#define BIT(n) (UINT64_C(1) << (n))

/*
 * virtio 1.3 5.1.3, 5.2.3: of the bits that cards and disks share none tells which it is (15 is
 * MRG_RXBUF, and LIFETIME). CTRL_RX to CTRL_MAC_ADDR are cards' alone.
 */
#define CARDS_ALONE                                                           \
	(BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_VLAN) |            \
	 BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | \
	 BIT(VIRTIO_NET_F_MQ) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR))
/*
 * Disks have no bit that only they offer in practice. As a card's these would be GSO, of before
 * virtio 1.0, and CTRL_GUEST_OFFLOADS, which goes with CTRL_VQ (5.1.3.1).
 */
#define DISKS_TOGETHER (BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE))

enum rig_kind rig_looks_like(uint64_t features, uint64_t protocol)
{
	bool disk = (features & DISKS_TOGETHER) == DISKS_TOGETHER &&
		    !(features & BIT(VIRTIO_NET_F_CTRL_VQ)) && protocol & VU_PF_CONFIG;
	bool card = features & CARDS_ALONE;

	return disk == card ? RIG_UNKNOWN : disk ? RIG_DISK : RIG_CARD;
}

void rig_check_kind(const struct rig *r, enum rig_kind kind)
{
	const struct frontend *f = &r->frontend;
	enum rig_kind looks = rig_looks_like(f->offered, f->protocol_offered);

	if (kind == RIG_CARD && looks == RIG_DISK)
		errx(1,
		     "%s: the back-end looks like a disk: it offers VIRTIO_BLK_F_SEG_MAX and "
		     "VIRTIO_BLK_F_BLK_SIZE; give a card's socket, or use sluice-bench blk",
		     r->path);
	if (kind == RIG_DISK && looks == RIG_CARD)
		errx(1,
		     "%s: the back-end looks like a network card: it offers features %#llx, which "
		     "disks have not; give a disk's socket, or use sluice-bench net",
		     r->path, (unsigned long long)(f->offered & CARDS_ALONE));
	/* It has no size to tell then (vhost-user "VHOST_USER_GET_CONFIG"); QEMU takes none either.
	 */
	if (kind == RIG_DISK && !(f->protocol & VU_PF_CONFIG))
		errx(1,
		     "%s: the back-end does not offer VHOST_USER_PROTOCOL_F_CONFIG, by which a "
		     "disk "
		     "tells its size; if it is a card, use sluice-bench net",
		     r->path);
}
