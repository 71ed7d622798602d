/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unfinished checksums and large TCP and UDP frames (TSO, USO): checked when they come in, finished
 *or cut on the way where the receiver did not negotiate them. Knows virtio-net's offload fields,
 *but neither rings nor mbufs, so that every kind of port uses it.
 *
 * A port that delivers works on frames:
 *
 *	struct frame f;
 *	frame_of_packet(&f, packet);			one frame, as it is
 *	if (f.offload.needs_csum && !receiver_takes_it)
 *		frame_complete_csum(&f);
 *
 *	struct segmenter s;				or: many small ones
 *	for (segmenter_init(&s, packet); segmenter_next(&s, &f);)
 *		…	each has an unfinished checksum again, to be passed on or completed
 *
 * and copies f.head, then frame_next() by frame_next() the body. Nothing here allocates, and no
 * byte of the sender's memory decides where anything is read or written: lengths and offsets come
 * from what was checked in the private head.
 */
#ifndef SLUICE_NET_OFFLOAD_H
#define SLUICE_NET_OFFLOAD_H

#include "net/packet.h"

#include <linux/virtio_net.h>

#define ETHER_HDR_LEN 14
/* virtio 1.3 5.1.6.3.1: what a receive buffer must hold to take any frame. */
#define FRAME_LEN_MAX 65550
/* virtio 1.3 5.1.6.2: UDP datagrams of gso_size bytes; not in Linux's headers of 6.1. */
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif
/*
 * The smallest segment of TCP that we cut; no TCP sends smaller ones (Linux stops at 48 bytes). It
 * bounds how many frames one frame of a hostile guest turns into. Datagrams may be of any size, and
 * so are bounded by GSO_CUTS_MAX alone.
 */
#define GSO_SIZE_MIN 48
/*
 * Frames that the large ones of one poll are cut into: two of 64 KiB at 536 bytes, the segment size
 * that every IPv4 host takes (RFC 9293 3.7.1), as bytes allow in a poll.
 */
#define GSO_CUTS_MAX 256u

/* What a sender may ask for, from its negotiated features; see packet_set_offload(). */
#define OFFLOAD_CSUM 1u
#define OFFLOAD_TSO4 2u
#define OFFLOAD_TSO6 4u
#define OFFLOAD_ECN 8u
#define OFFLOAD_USO 16u

/*
 * Fills p->offload from @h, host endian and private, after checking it against p->head, of which
 * the first MIN(len, PACKET_HEAD_MAX) bytes are there. A GSO frame's head_len is cut to exactly its
 * headers: the caller lays the segments so that they go on from there.
 * @return NULL, or what is wrong (a constant): the frame is to be dropped.
 * virtio 1.3 5.1.6.2.
 */
const char *packet_set_offload(struct packet *p, const struct virtio_net_hdr *h, unsigned allowed);

/* A frame on its way out: the bytes of head, then body_len bytes from the segments. */
struct frame {
	uint8_t *head; /* the packet's, or the segmenter's */
	uint32_t head_len;
	uint32_t body_len; /* still to come from frame_next() */
	const struct iovec *seg;
	size_t seg_off; /* bytes of *seg that lie behind */
	struct packet_offload offload;
};

static inline uint32_t frame_len(const struct frame *f)
{
	return f->head_len + f->body_len;
}

/* The packet as one frame. @p must outlive it; completing the frame's checksum changes @p's head.
 */
HOT void frame_of_packet(struct frame *f, struct packet *p)
{
	f->head = p->head;
	f->head_len = p->head_len;
	f->body_len = p->len - p->head_len;
	f->seg = p->segs;
	f->seg_off = 0;
	f->offload = p->offload;
}

/* The next piece of the body, at most @max (not 0) bytes; NULL at its end. */
HOT const void *frame_next(struct frame *f, uint32_t max, uint32_t *len)
{
	const uint8_t *at;
	size_t n;

	if (f->body_len == 0)
		return NULL;
	at = (const uint8_t *)f->seg->iov_base + f->seg_off;
	max = MIN(max, f->body_len);
	n = f->seg->iov_len - f->seg_off;
	n = MIN(n, (size_t)max);
	f->body_len -= (uint32_t)n;
	f->seg_off += n;
	if (f->seg_off == f->seg->iov_len) {
		f->seg++;
		f->seg_off = 0;
	}
	*len = (uint32_t)n;
	return at;
}

/*
 * Writes the checksum that offload.needs_csum asks for into the head, and clears the wish. The body
 * is read, but not consumed. If the sender changes the body meanwhile, it has sent a bad checksum.
 */
void frame_complete_csum(struct frame *f);

/*
 * Whether the field of an unfinished checksum is that of TCP, UDP or ICMPv6, right behind an IPv4
 * header or an IPv6 header without extensions. virtio lets a driver name any field of the headers.
 */
bool packet_csum_is_l4(const struct packet *p);

/* The same for a packet that was not cut into frames. Nothing to do where nothing is asked for. */
void packet_complete_csum(struct packet *p);

/* Cuts a GSO packet into frames of at most gso_size bytes of payload. */
struct segmenter {
	const struct packet *p;
	struct frame rest; /* what has not been cut yet */
	uint16_t l3, l4;   /* offsets of the IP and TCP headers */
	uint16_t ip_id;
	uint32_t seq; /* TCP's, as the flags */
	uint8_t tcp_flags;
	bool udp;
	bool first;
	uint16_t left; /* frames that may still be made; see packet_limit_cuts() */
	uint8_t head[PACKET_HEAD_MAX + VLAN_TAG_LEN];
};

/* @p->offload.gso_type is not NONE (and so packet_set_offload() has checked the headers). */
void segmenter_init(struct segmenter *s, struct packet *p);

/*
 * The next frame: with its own headers, and needs_csum set (over the pseudo header). It is
 * valid until the next call. @return false after the last one.
 */
bool segmenter_next(struct segmenter *s, struct frame *f);

/* How many frames segmenter_next() would give without a limit. */
static inline unsigned segmenter_count(const struct packet *p)
{
	return (p->len - p->head_len + p->offload.gso_size - 1) / p->offload.gso_size;
}

/* After the last frame: it was not all, for more were not allowed. TCP will send the rest again,
 * and datagrams get lost. */
static inline bool segmenter_cut_short(const struct segmenter *s)
{
	return s->rest.body_len > 0;
}

/*
 * Takes the frames that @p may have to be cut into from *@left, what the sender's poll may still
 * cost. A receiver that takes large frames gets all of it whatever is left.
 */
static inline void packet_limit_cuts(struct packet *p, unsigned *left)
{
	unsigned n;

	if (likely(p->offload.gso_type == VIRTIO_NET_HDR_GSO_NONE))
		return;
	n = MIN(segmenter_count(p), *left);
	*left -= n;
	p->offload.cuts_max = (uint16_t)MAX(n, 1u);
}

#endif
