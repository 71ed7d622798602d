/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A packet is a borrowed view of one Ethernet frame: it lies in the sender's buffers (a guest's
 * memory, or DPDK mbufs) and is valid until the poll that made it ends. Nobody keeps one.
 *
 * The first bytes of a frame, all that anybody looks at or changes (Ethernet, VLAN, IP and TCP/UDP
 * headers), are copied once into head[]; what is delivered is head[] and then the segments. So what
 * was checked is what arrives, whatever the sending guest writes meanwhile.
 */
#ifndef SLUICE_NET_PACKET_H
#define SLUICE_NET_PACKET_H

#include "base/compiler.h"

#include <stdbool.h>
#include <sys/uio.h>

struct port;

/* Enough for the checks and the rewriting of Ethernet, two VLAN tags, IPv6 and TCP with options. */
#define PACKET_HEAD_MAX 188
/* What a frame without offloads needs: Ethernet, VLAN, and a cache line in all. */
#define PACKET_HEAD_PLAIN 64
/* A tag may be put on in the head (net/vlan.h): together a struct packet of 256 bytes. */
#define VLAN_TAG_LEN 4

/* The offload part of struct virtio_net_hdr, host endian, checked against the frame. */
struct packet_offload {
	bool needs_csum;  /* the checksum at csum_start + csum_offset is to be completed */
	bool csum_valid;  /* the sender vouches for the checksums */
	uint8_t gso_type; /* VIRTIO_NET_HDR_GSO_*, ECN bit apart */
	bool ecn;
	bool v6;	     /* with a gso_type: IPv6 */
	uint16_t hdr_len;    /* bytes of headers, computed here, not taken from the sender */
	uint16_t gso_size;   /* payload bytes of a segment */
	uint16_t cuts_max;   /* into so many frames at most; 0: any. See packet_limit_cuts() */
	uint16_t csum_start; /* bytes from the start of the frame */
	uint16_t csum_offset;
};

struct packet {
	struct port *from;
	struct port *to;	  /* set by the switch; NULL: flood or drop, see switch_route() */
	uint32_t len;		  /* bytes of the frame: head_len and the segments' */
	uint16_t head_len;	  /* bytes in head[]; at least 14. GSO: exactly its headers */
	uint16_t n_segs;	  /* segments after the head */
	const struct iovec *segs; /* borrowed; only valid host memory, but its bytes may change */
	struct packet_offload offload;
	uint16_t vlan; /* the VLAN it belongs to in the switch, 1 to 4094; 0: none */
	uint16_t tci;  /* with a VLAN: priority and DEI, where they stand in a tag */
	uint16_t lane; /* what has one lane stays in order, all the way: see net_deliver() */
	/* The receiver's, where it has hashes (net/steer.c): VIRTIO_NET_HASH_REPORT_*. */
	uint16_t hash_report;
	uint32_t hash;
	uint8_t head[PACKET_HEAD_MAX + VLAN_TAG_LEN] __attribute__((aligned(16)));
};
/* Four cache lines, and an index of a burst is a shift. */
static_assert(sizeof(struct packet) == 256, "a packet has grown");

/* Of frames of what length the lines are fetched ahead, and how many bytes of one. */
#define PACKET_AHEAD_MIN 128u
#define PACKET_AHEAD_MAX 1536u

/*
 * A hint, where @p is copied soon: its lines come while another is copied. A copy goes too fast
 * over a frame for the CPU's own prefetcher to be of much use. @return false: it is too short for
 * that.
 */
HOT bool packet_ahead(const struct packet *p)
{
	const uint8_t *from;
	size_t len;

	if (p->len <= PACKET_AHEAD_MIN || !p->n_segs)
		return false;
	from = p->segs[0].iov_base;
	len = MIN(p->segs[0].iov_len, (size_t)PACKET_AHEAD_MAX);
	for (size_t i = 0; i < len; i += CACHE_LINE)
		__builtin_prefetch(from + i);
	return true;
}

#endif
