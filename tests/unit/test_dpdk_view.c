/* SPDX-License-Identifier: Apache-2.0 */
/* A received frame as a packet, in one buffer and in many, without DPDK running. */
#include "net/dpdk_impl.h"

#include <criterion/criterion.h>

#define PIECES_MAX 40

static uint8_t bytes[PIECES_MAX * 4096];
static struct rte_mbuf mbufs[PIECES_MAX];

/* A chain of buffers of these lengths, with the bytes 0, 1, 2, … in them. */
static const struct rte_mbuf *chain(const uint16_t *lens, unsigned n)
{
	uint32_t total = 0;

	for (unsigned i = 0; i < n; i++) {
		mbufs[i] = (struct rte_mbuf) { .buf_addr = bytes + i * 4096,
					       .data_off = 128,
					       .data_len = lens[i],
					       .next = i + 1 < n ? &mbufs[i + 1] : NULL };
		for (unsigned at = 0; at < lens[i]; at++)
			bytes[i * 4096 + 128 + at] = (uint8_t)(total + at);
		total += lens[i];
	}
	mbufs[0].pkt_len = total;
	mbufs[0].nb_segs = (uint16_t)n;
	return mbufs;
}

static void expect_view(const uint16_t *lens, unsigned n)
{
	struct iovec segs[DPDK_RX_SEGS];
	struct packet pk;
	const struct rte_mbuf *m = chain(lens, n);
	uint32_t at;

	memset(&pk, 0xff, sizeof(pk));
	cr_assert(dpdk_view(&pk, m, segs, PACKET_HEAD_PLAIN));
	cr_assert_eq(pk.len, m->pkt_len);
	cr_assert_eq(pk.head_len, MIN(m->pkt_len, (uint32_t)PACKET_HEAD_PLAIN));
	for (at = 0; at < pk.head_len; at++)
		cr_assert_eq(pk.head[at], (uint8_t)at);
	for (unsigned i = 0; i < pk.n_segs; i++) {
		cr_assert_gt(pk.segs[i].iov_len, 0);
		for (size_t j = 0; j < pk.segs[i].iov_len; j++, at++)
			cr_assert_eq(((uint8_t *)pk.segs[i].iov_base)[j], (uint8_t)at);
	}
	cr_assert_eq(at, pk.len);
	cr_assert(!pk.offload.needs_csum && !pk.offload.csum_valid && pk.offload.gso_type == 0);
	cr_assert_eq(pk.vlan, 0);
}

Test(dpdk_view, head_and_segments_together_are_the_frame)
{
	expect_view((const uint16_t[]) { 14 }, 1);
	expect_view((const uint16_t[]) { 63 }, 1);
	expect_view((const uint16_t[]) { 64 }, 1);
	expect_view((const uint16_t[]) { 65 }, 1);
	expect_view((const uint16_t[]) { 1514 }, 1);
	expect_view((const uint16_t[]) { 2048, 2048, 1 }, 3);
	/* A head that lies in several buffers, some of them empty. */
	expect_view((const uint16_t[]) { 10, 4 }, 2);
	expect_view((const uint16_t[]) { 10, 0, 54, 0, 100 }, 5);
	expect_view((const uint16_t[]) { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 }, 12);
}

Test(dpdk_view, runts_and_frames_in_too_many_buffers_are_refused)
{
	struct iovec segs[DPDK_RX_SEGS + 1];
	uint16_t lens[PIECES_MAX];
	struct packet pk;

	for (unsigned i = 0; i < PIECES_MAX; i++)
		lens[i] = 100;
	segs[DPDK_RX_SEGS].iov_len = 12345;
	cr_assert_not(dpdk_view(&pk, chain((const uint16_t[]) { 13 }, 1), segs, PACKET_HEAD_PLAIN));
	cr_assert(dpdk_view(&pk, chain(lens, DPDK_RX_SEGS), segs, PACKET_HEAD_PLAIN));
	cr_assert_not(dpdk_view(&pk, chain(lens, DPDK_RX_SEGS + 1), segs, PACKET_HEAD_PLAIN));
	cr_assert_eq(segs[DPDK_RX_SEGS].iov_len, 12345);
}

/* A chain whose length promises more than its buffers hold is a driver's fault, and no frame. */
Test(dpdk_view, length_beyond_the_buffers_is_refused)
{
	struct iovec segs[DPDK_RX_SEGS];
	struct packet pk;

	chain((const uint16_t[]) { 20 }, 1);
	mbufs[0].pkt_len = 40;
	cr_assert_not(dpdk_view(&pk, mbufs, segs, PACKET_HEAD_PLAIN));
	chain((const uint16_t[]) { 500 }, 1);
	mbufs[0].pkt_len = 501;
	cr_assert_not(dpdk_view(&pk, mbufs, segs, PACKET_HEAD_PLAIN));
}
