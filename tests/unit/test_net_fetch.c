/* SPDX-License-Identifier: Apache-2.0 */
/*
 * T5 in virtio-net: header and head of a frame are read once. The code under test is from_guest.c,
 * compiled here with a memcpy() that changes each byte of the guest's as soon as it was copied.
 */
#include <stddef.h>
#include <string.h>

static void *shim_copy(void *to, const void *from, size_t len);

#define memcpy(to, from, len) shim_copy(to, from, len)
#include "net/from_guest.c"
#undef memcpy

#include <criterion/criterion.h>
#include <linux/virtio_net.h>

#define FRAME_BYTES 300

/* What the guest has written, and whether it has been read. */
static struct {
	uint8_t mem[VNET_HDR_LEN + FRAME_BYTES];
	uint8_t seen[VNET_HDR_LEN + FRAME_BYTES];
	unsigned reads;
} guest;

static void *shim_copy(void *to, const void *from, size_t len)
{
	uint8_t *p = (uint8_t *)(uintptr_t)from;

	__builtin_memcpy(to, from, len);
	if (p < guest.mem || p >= guest.mem + sizeof(guest.mem))
		return to;
	guest.reads++;
	for (size_t i = 0; i < len; i++) {
		size_t at = (size_t)(p - guest.mem) + i;

		/* Header and frame may be fetched apart, but no byte twice. */
		cr_assert_eq(guest.seen[at], 0, "byte %zu of the guest's was read twice", at);
		guest.seen[at] = 1;
		guest.mem[at] ^= 0xff;
	}
	return to;
}

/* A TCP frame with a header that asks for all that there is. */
static void write_frame(bool v6)
{
	struct virtio_net_hdr_mrg_rxbuf h = {
		.hdr = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
			 .gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
			 .gso_size = 100,
			 .csum_start = v6 ? 54 : 34,
			 .csum_offset = 16 },
	};
	uint8_t *frame = guest.mem + sizeof(h);

	memset(&guest, 0, sizeof(guest));
	for (unsigned i = 0; i < FRAME_BYTES; i++)
		frame[i] = (uint8_t)(i * 3);
	memcpy(guest.mem, &h, sizeof(h));
	frame[12] = v6 ? 0x86 : 0x08;
	frame[13] = v6 ? 0xdd : 0x00;
	frame[14] = v6 ? 0x60 : 0x45;
	frame[20] = v6 ? 6 : 0;
	frame[21] = 0;
	if (!v6)
		frame[23] = 6;
	frame[h.hdr.csum_start + 12] = 5 << 4;
}

/* The chain's segments are of @piece bytes each. */
static void check(bool v6, uint32_t piece)
{
	struct net_queue q = { .hdr_len = VNET_HDR_LEN,
			       .sender_offloads = OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6 };
	struct iovec segs[sizeof(guest.mem)];
	struct chain c = { .segs = segs, .out_len = sizeof(guest.mem) };
	uint8_t written[FRAME_BYTES];
	struct packet p;

	write_frame(v6);
	memcpy(written, guest.mem + VNET_HDR_LEN, FRAME_BYTES);
	for (uint32_t at = 0; at < c.out_len; at += piece) {
		segs[c.n_out].iov_base = guest.mem + at;
		segs[c.n_out++].iov_len = MIN(piece, c.out_len - at);
	}
	cr_assert(packet_from_chain(&q, &c, &p, PACKET_HEAD_PLAIN), "pieces of %u", piece);
	cr_assert_gt(guest.reads, 1);
	cr_assert_eq(p.len, FRAME_BYTES);
	cr_assert_eq(p.offload.gso_size, 100);
	cr_assert_eq(p.offload.csum_start, v6 ? 54 : 34);
	cr_assert_eq(p.offload.csum_offset, 16);
	cr_assert_eq(p.head_len, (v6 ? 54 : 34) + 20);
	cr_assert_eq(memcmp(p.head, written, p.head_len), 0);
}

Test(net_fetch, header_and_frame_head_are_read_once_T5)
{
	static const uint32_t pieces[] = { 1, 7, 12, 13, 26, 66, 100, sizeof(guest.mem) };

	for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
		check(false, pieces[i]);
		check(true, pieces[i]);
	}
}
