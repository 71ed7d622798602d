/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VLANs (IEEE 802.1Q). Within the switch a frame of a VLAN has no tag: packet.vlan says whose it
 * is. The tag is taken off in the packet's private head when it comes in, and put on there for a
 * port that wants it, before the frame is copied out. So there is one copy of a frame as ever, and
 * nobody but the switch knows of tags.
 */
#ifndef SLUICE_NET_VLAN_H
#define SLUICE_NET_VLAN_H

#include "net/packet.h"

#include <string.h>

#define VLAN_TPID 0x8100	 /* a customer's tag: the only one that is taken off or put on */
#define VLAN_TPID_SERVICE 0x88a8 /* a provider's, IEEE 802.1ad */
#define VLAN_ID_MAX 4094	 /* 0: a tag that only carries a priority; 4095 is reserved */
#define VLAN_ID_MASK 0x0fff
#define VLAN_TYPE_AT                                                                \
	12 /* of the ethertype in a frame without a tag, and of the tag in one with \
	    */

struct vlan_set {
	uint64_t bits[(VLAN_ID_MASK + 1) / 64];
};

static inline void vlan_set_add(struct vlan_set *s, unsigned vlan)
{
	s->bits[vlan / 64] |= UINT64_C(1) << vlan % 64;
}

static inline bool vlan_set_has(const struct vlan_set *s, unsigned vlan)
{
	return s->bits[vlan / 64] >> vlan % 64 & 1;
}

static inline uint16_t vlan_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/* Is there a tag of either kind where the ethertype stands? The head has 14 bytes at least. */
static inline bool packet_has_tag(const struct packet *p)
{
	uint16_t type = vlan_be16(p->head + VLAN_TYPE_AT);

	return type == VLAN_TPID || type == VLAN_TPID_SERVICE;
}

/*
 * Puts a tag on; head[] has the room. The offsets of unfinished checksums and of large frames go by
 * the head, and so shift with it.
 */
static inline void packet_tag_push(struct packet *p, uint16_t tci)
{
	uint8_t *at = p->head + VLAN_TYPE_AT;

	assert(p->head_len <= PACKET_HEAD_MAX);
	memmove(at + VLAN_TAG_LEN, at, (size_t)p->head_len - VLAN_TYPE_AT);
	at[0] = VLAN_TPID >> 8;
	at[1] = VLAN_TPID & 0xff;
	at[2] = (uint8_t)(tci >> 8);
	at[3] = (uint8_t)tci;
	p->head_len += VLAN_TAG_LEN;
	p->len += VLAN_TAG_LEN;
	p->offload.csum_start += VLAN_TAG_LEN;
	p->offload.hdr_len += VLAN_TAG_LEN;
}

/*
 * Takes it off again, or off a frame that came with one: it lies in the head with what follows it,
 * and no checksum starts before its end.
 */
static inline void packet_tag_pop(struct packet *p)
{
	uint8_t *at = p->head + VLAN_TYPE_AT;

	assert(p->head_len >= VLAN_TYPE_AT + VLAN_TAG_LEN + 2);
	memmove(at, at + VLAN_TAG_LEN, (size_t)p->head_len - VLAN_TYPE_AT - VLAN_TAG_LEN);
	p->head_len -= VLAN_TAG_LEN;
	p->len -= VLAN_TAG_LEN;
	p->offload.csum_start -= VLAN_TAG_LEN;
	p->offload.hdr_len -= VLAN_TAG_LEN;
}

#endif
