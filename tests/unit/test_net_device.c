/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two guests exchange frames over real sockets and workers, in every combination of ring layout,
 * indirect tables, EVENT_IDX, mergeable buffers and receiver offloads. What arrives is judged by
 * tests/unit/net_frames.h.
 */
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <stdio.h>

static struct net_guest a, b;
static struct ng_frame got;
static uint32_t rnd = 4711;

/* A plain frame from one guest to another: addresses, a type that nobody knows, random bytes. */
static unsigned make_plain(uint8_t *out, const uint8_t *to, const uint8_t *from, unsigned len)
{
	memcpy(out, to, 6);
	memcpy(out + 6, from, 6);
	frame_put16(out + 12, 0x88b5);
	for (unsigned i = 14; i < len; i++)
		out[i] = (uint8_t)frame_random(&rnd);
	return len;
}

/* So that the switch knows where @g lives, and what follows is not flooded. */
static void introduce(struct net_guest *g, struct net_guest *other)
{
	static const uint8_t everyone[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	uint8_t bytes[60];

	make_plain(bytes, everyone, g->mac, sizeof(bytes));
	ng_send(g, 0, NULL, bytes, sizeof(bytes), NULL);
	ng_sent(g, 0);
	ng_receive(other, 0, &got);
	cr_assert_eq(got.len, sizeof(bytes));
	cr_assert_arr_eq(got.bytes, bytes, sizeof(bytes));
}

static void start_pair(const struct ng_options *oa, const struct ng_options *ob, unsigned workers)
{
	ng_world_start(workers);
	ng_start(&a, 0, oa);
	ng_start(&b, 1, ob);
	introduce(&a, &b);
	introduce(&b, &a);
}

static void stop_pair(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

/* Random ways to cut a transmit chain, among them T6's byte by byte. */
static const unsigned *random_cuts(void)
{
	static unsigned cuts[20];
	unsigned n = 0;

	switch (frame_random(&rnd) % 5) {
	case 0:
		return NULL;
	case 1:
		break; /* header and frame in one */
	case 2:	       /* the header byte by byte */
		for (; n < 13; n++)
			cuts[n] = 1;
		break;
	case 3:
		for (; n < 10; n++)
			cuts[n] = 1 + frame_random(&rnd) % 30;
		break;
	default:
		cuts[n++] = 5;
		cuts[n++] = 8;
		cuts[n++] = 3 + frame_random(&rnd) % 100;
	}
	cuts[n++] = NG_FRAME_MAX;
	cuts[n] = 0;
	return cuts;
}

static void expect_same(const uint8_t *bytes, unsigned len)
{
	ng_receive(&b, 0, &got);
	cr_assert_eq(got.len, len);
	cr_assert_arr_eq(got.bytes, bytes, len);
	cr_assert_eq(got.hdr.hdr.flags, 0);
	cr_assert_eq(got.hdr.hdr.gso_type, 0);
	cr_assert_eq(got.hdr.hdr.gso_size, 0);
	cr_assert_eq(got.hdr.hdr.csum_start, 0);
	cr_assert_eq(got.hdr.num_buffers, b.hdr_len == 12 ? got.n_buffers : 0);
}

static void plain_frames(void)
{
	static uint8_t bytes[2000];

	for (unsigned i = 0; i < 60; i++) {
		unsigned len = i < 8 ? 14 + i : 14 + frame_random(&rnd) % 1501;

		make_plain(bytes, b.mac, a.mac, len);
		ng_send(&a, 0, NULL, bytes, len, random_cuts());
		expect_same(bytes, len);
	}
	ng_sent(&a, 0);
}

/* One TCP segment whose checksum the sender left unfinished. */
static void unfinished_checksums(bool receiver_csum)
{
	static struct tcp_frame f;

	for (unsigned i = 0; i < 20; i++) {
		struct tcp_spec spec = { .v6 = i & 1,
					 .vlan_tags = i / 2 % 2,
					 .payload = frame_random(&rnd) % 1400 };
		struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					    .csum_offset = 16 };

		tcp_frame_make(&f, &spec, frame_random(&rnd));
		memcpy(f.bytes, b.mac, 6);
		memcpy(f.bytes + 6, a.mac, 6);
		h.csum_start = (uint16_t)f.l4;
		ng_send(&a, 0, &h, f.bytes, f.len, random_cuts());
		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, f.len);
		if (receiver_csum) {
			cr_assert_eq(got.hdr.hdr.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
			cr_assert_eq(got.hdr.hdr.csum_start, f.l4);
			cr_assert_eq(got.hdr.hdr.csum_offset, 16);
			cr_assert_arr_eq(got.bytes, f.bytes, f.len);
		} else {
			cr_assert_eq(got.hdr.hdr.flags, 0);
			cr_assert(frame_csum_ok(got.bytes, got.len, f.l3, f.l4, 6));
			memcpy(got.bytes + f.l4 + 16, f.bytes + f.l4 + 16, 2);
			cr_assert_arr_eq(got.bytes, f.bytes, f.len);
		}
	}
	ng_sent(&a, 0);
}

/* The segments of @f arrive one by one, in order, and hold all of its payload. */
static void expect_segments(const struct tcp_frame *f, const struct tcp_spec *spec,
			    unsigned gso_size, bool receiver_csum)
{
	unsigned done = 0, index = 0;

	for (; done < spec->payload; index++) {
		unsigned n = spec->payload - done < gso_size ? spec->payload - done : gso_size;

		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, f->payload_at + n, "segment %u of %u bytes", index, got.len);
		cr_assert_eq(got.hdr.hdr.gso_type, 0);
		if (receiver_csum) {
			cr_assert_eq(got.hdr.hdr.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
			cr_assert_eq(got.hdr.hdr.csum_start, f->l4);
			cr_assert_eq(frame_get16(got.bytes + f->l4 + 16),
				     ref_pseudo(got.bytes + f->l3, 6, got.len - f->l4));
		} else {
			cr_assert_eq(got.hdr.hdr.flags, 0);
			cr_assert(frame_csum_ok(got.bytes, got.len, f->l3, f->l4, 6));
		}
		cr_assert_eq(frame_get32(got.bytes + f->l4 + 4), spec->seq + done);
		cr_assert_arr_eq(got.bytes, f->bytes, 12);
		cr_assert_arr_eq(got.bytes + f->payload_at, f->bytes + f->payload_at + done, n);
		done += n;
	}
}

static void large_frames(bool receiver_csum, bool receiver_tso, bool receiver_big)
{
	static struct tcp_frame f;

	for (unsigned i = 0; i < 8; i++) {
		unsigned gso = i % 3 ? 1428 : 536 + frame_random(&rnd) % 800;
		struct tcp_spec spec = { .v6 = i & 1,
					 .tcp_options = 12,
					 .flags = 0x18,
					 .seq = frame_random(&rnd),
					 .payload = i < 2 ? 65535 - 40 - 12 - 20
							  : gso + 1 + frame_random(&rnd) % 50000 };
		struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					    .gso_type = spec.v6 ? VIRTIO_NET_HDR_GSO_TCPV6
								: VIRTIO_NET_HDR_GSO_TCPV4,
					    .gso_size = (uint16_t)gso,
					    .hdr_len = (uint16_t)(i * 1000), /* not trusted */
					    .csum_offset = 16 };

		tcp_frame_make(&f, &spec, frame_random(&rnd));
		memcpy(f.bytes, b.mac, 6);
		memcpy(f.bytes + 6, a.mac, 6);
		h.csum_start = (uint16_t)f.l4;
		ng_send(&a, 0, &h, f.bytes, f.len, random_cuts());
		if (!receiver_tso) {
			expect_segments(&f, &spec, gso, receiver_csum);
			continue;
		}
		cr_assert(receiver_big);
		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, f.len);
		cr_assert_arr_eq(got.bytes, f.bytes, f.len);
		cr_assert_eq(got.hdr.hdr.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
		cr_assert_eq(got.hdr.hdr.gso_type, h.gso_type);
		cr_assert_eq(got.hdr.hdr.gso_size, gso);
		cr_assert_eq(got.hdr.hdr.csum_start, f.l4);
		cr_assert_eq(got.hdr.hdr.csum_offset, 16);
		cr_assert_eq(got.hdr.hdr.hdr_len, f.payload_at);
	}
	ng_sent(&a, 0);
}

struct combination {
	bool packed, event_idx, mergeable;
	enum driver_indirect indirect;
	unsigned offloads; /* 0: none, 1: GUEST_CSUM, 2: TSO */
	unsigned rx_pieces;
};

static void exchange(const struct combination *c)
{
	bool tso = c->offloads == 2, csum = c->offloads >= 1;
	struct ng_options oa = { .packed = c->packed,
				 .event_idx = c->event_idx,
				 .indirect = c->indirect,
				 .features = NG_SENDER | (c->mergeable ? NG_MRG : 0) };
	struct ng_options ob = oa;
	struct port_stats sa, sb;

	ob.packed = !c->packed ^ (c->rx_pieces & 1); /* layouts meet each other and themselves */
	ob.features |= tso ? NG_TSO : csum ? NG_CSUM : 0;
	ob.rx_pieces = c->rx_pieces;
	/* Room for all segments of the largest frame at once. */
	ob.ring_size = 8192;
	ob.rx_count = 400;
	if (c->mergeable)
		ob.rx_buffer = 700 + frame_random(&rnd) % 4000;
	else if (tso)
		ob.rx_buffer = 65550 + 12;
	start_pair(&oa, &ob, 1);
	plain_frames();
	unfinished_checksums(csum);
	large_frames(csum, tso, true);
	cr_assert_not(ng_try_receive(&b, 0, &got));
	sa = ng_stats(&a);
	sb = ng_stats(&b);
	cr_assert_eq(sa.rx_packets, 1 + 60 + 20 + 8);
	cr_assert_eq(sa.rx_bad, 0);
	cr_assert_eq(sb.tx_no_buffer + sb.tx_too_big + sb.tx_down + sb.tx_error, 0);
	if (tso) {
		cr_assert_eq(sb.tx_packets, sa.rx_packets);
		cr_assert_eq(sb.tx_bytes, sa.rx_bytes);
	}
	stop_pair();
}

static void exchange_all(bool packed, bool mergeable)
{
	for (unsigned i = 0; i < 3 * 2 * 3; i++) {
		struct combination c = {
			.packed = packed,
			.mergeable = mergeable,
			.indirect = (enum driver_indirect)(i % 3),
			.event_idx = i / 3 % 2,
			.offloads = i / 6,
			.rx_pieces = 1 + i % 3 * 6,
		};

		exchange(&c);
	}
}

Test(net_device, frames_of_all_kinds_split_one_buffer_each, .timeout = 120)
{
	exchange_all(false, false);
}

Test(net_device, frames_of_all_kinds_split_mergeable, .timeout = 120)
{
	exchange_all(false, true);
}

Test(net_device, frames_of_all_kinds_packed_one_buffer_each, .timeout = 120)
{
	exchange_all(true, false);
}

Test(net_device, frames_of_all_kinds_packed_mergeable, .timeout = 120)
{
	exchange_all(true, true);
}

/* virtio 1.3 5.1.6: without VERSION_1 and MRG_RXBUF the header has 10 bytes. */
Test(net_device, legacy_header_has_no_num_buffers_5_1_6, .timeout = 60)
{
	struct ng_options old = { .legacy = true, .features = NG_SENDER };
	struct ng_options new = { .features = NG_SENDER };

	for (unsigned i = 0; i < 3; i++) {
		start_pair(i != 1 ? &old : &new, i != 0 ? &old : &new, 1);
		plain_frames();
		unfinished_checksums(false);
		stop_pair();
	}
}

Test(net_device, legacy_with_mergeable_buffers_has_num_buffers_5_1_6, .timeout = 60)
{
	struct ng_options old = { .legacy = true,
				  .features = NG_SENDER | NG_MRG,
				  .rx_buffer = 300 };

	start_pair(&old, &old, 1);
	plain_frames();
	stop_pair();
}

/* GUEST_TSO without GUEST_ECN: only frames with ECN are cut. */
Test(net_device, ecn_frames_are_cut_for_a_receiver_without_ecn, .timeout = 60)
{
	struct ng_options oa = { .features = NG_SENDER };
	struct ng_options ob = { .features = (NG_TSO & ~NG_BIT(VIRTIO_NET_F_GUEST_ECN)) | NG_MRG };
	struct tcp_spec spec = { .flags = 0x98, .payload = 5000 };
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN,
				    .gso_size = 1448,
				    .csum_start = 34,
				    .csum_offset = 16 };
	static struct tcp_frame f;

	start_pair(&oa, &ob, 1);
	tcp_frame_make(&f, &spec, 1);
	memcpy(f.bytes, b.mac, 6);
	memcpy(f.bytes + 6, a.mac, 6);
	ng_send(&a, 0, &h, f.bytes, f.len, NULL);
	expect_segments(&f, &spec, 1448, true);
	h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	ng_send(&a, 0, &h, f.bytes, f.len, NULL);
	ng_receive(&b, 0, &got);
	cr_assert_eq(got.len, f.len);
	cr_assert_eq(got.hdr.hdr.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	stop_pair();
}

/* virtio 1.3 5.1.3.1: GUEST_TSO4 requires GUEST_CSUM. */
Test(net_device, tso_without_csum_at_the_receiver_is_no_tso_5_1_3_1, .timeout = 60)
{
	struct ng_options oa = { .features = NG_SENDER };
	struct ng_options ob = { .features = (NG_TSO & ~NG_CSUM) | NG_MRG };
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .gso_size = 1400,
				    .csum_offset = 16 };
	static struct tcp_frame f;

	start_pair(&oa, &ob, 1);
	for (unsigned i = 0; i < 2; i++) {
		struct tcp_spec spec = { .v6 = i, .payload = 5000 };

		tcp_frame_make(&f, &spec, 1);
		memcpy(f.bytes, b.mac, 6);
		memcpy(f.bytes + 6, a.mac, 6);
		h.gso_type = i ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
		h.csum_start = (uint16_t)f.l4;
		ng_send(&a, 0, &h, f.bytes, f.len, NULL);
		expect_segments(&f, &spec, 1400, false);
	}
	stop_pair();
}

Test(net_device, flood_reaches_receivers_with_and_without_offloads, .timeout = 60)
{
	static const uint8_t everyone[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct ng_options oa = { .features = NG_SENDER };
	struct ng_options with = { .features = NG_TSO | NG_MRG };
	struct ng_options without = { .packed = true };
	struct tcp_spec spec = { .payload = 4000 };
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				    .gso_size = 1000,
				    .csum_start = 34,
				    .csum_offset = 16 };
	static struct net_guest c;
	static struct tcp_frame f;

	/* A receiver that has the checksum finished, or frames cut, before and after one that does
	 * not. */
	ng_world_start(1);
	ng_start(&b, 0, &without);
	ng_start(&a, 1, &oa);
	ng_start(&c, 2, &with);
	tcp_frame_make(&f, &spec, 1);
	memcpy(f.bytes, everyone, 6);
	memcpy(f.bytes + 6, a.mac, 6);
	ng_send(&a, 0, &h, f.bytes, f.len, NULL);
	expect_segments(&f, &spec, 1000, false);
	ng_receive(&c, 0, &got);
	cr_assert_eq(got.len, f.len);
	cr_assert_arr_eq(got.bytes, f.bytes, f.len);
	spec.payload = 500;
	tcp_frame_make(&f, &spec, 1);
	memcpy(f.bytes, everyone, 6);
	h.gso_type = 0;
	ng_send(&a, 0, &h, f.bytes, f.len, NULL);
	ng_receive(&b, 0, &got);
	cr_assert(frame_csum_ok(got.bytes, got.len, f.l3, f.l4, 6));
	ng_receive(&c, 0, &got);
	cr_assert(got.hdr.hdr.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM ||
		  frame_csum_ok(got.bytes, got.len, f.l3, f.l4, 6));
	ng_stop(&c);
	stop_pair();
}
