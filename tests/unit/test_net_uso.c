/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large UDP frames (USO, virtio 1.3 5.1.6.2: VIRTIO_NET_HDR_GSO_UDP_L4): whole to who takes them,
 * cut into datagrams for others, and refused where they do not add up.
 */
#include "net/offload.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>

#define GUEST_USO4 NG_BIT(54)
#define GUEST_USO6 NG_BIT(55)
#define HOST_USO NG_BIT(56)
#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

static struct net_guest a, b;
static struct ng_frame got;
static struct tcp_frame f;
static unsigned payload_len;

static void udp_make(bool v6, unsigned payload, uint32_t seed)
{
	payload_len = payload;
	udp_frame_make(&f, v6, 0xfffe, payload, seed);
}

static struct virtio_net_hdr uso_hdr(unsigned gso_size)
{
	return (struct virtio_net_hdr) { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					 .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4,
					 .gso_size = (uint16_t)gso_size,
					 .csum_start = (uint16_t)f.l4,
					 .csum_offset = 6 };
}

static void start(bool packed, uint64_t sends, uint64_t takes)
{
	struct ng_options oa = { .packed = packed, .features = NG_SENDER | sends };
	struct ng_options ob = { .packed = packed, .features = NG_MRG | takes, .ring_size = 512 };

	ng_world_start(1);
	ng_start(&a, 0, &oa);
	ng_start(&b, 1, &ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

static void send_frame(const struct virtio_net_hdr *h)
{
	memcpy(f.bytes, b.mac, 6);
	memcpy(f.bytes + 6, a.mac, 6);
	ng_send(&a, 0, h, f.bytes, f.len, NULL);
}

static void expect_whole(unsigned gso_size)
{
	ng_receive(&b, 0, &got);
	cr_assert_eq(got.len, f.len);
	cr_assert_arr_eq(got.bytes, f.bytes, f.len);
	cr_assert_eq(got.hdr.hdr.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	cr_assert_eq(got.hdr.hdr.gso_type, VIRTIO_NET_HDR_GSO_UDP_L4);
	cr_assert_eq(got.hdr.hdr.gso_size, gso_size);
	cr_assert_eq(got.hdr.hdr.hdr_len, f.payload_at);
	cr_assert_eq(got.hdr.hdr.csum_start, f.l4);
	cr_assert_eq(got.hdr.hdr.csum_offset, 6);
}

/* One datagram after the other, of gso_size bytes but the last one, with all that is in each. */
static void expect_datagrams(unsigned gso_size, bool csum)
{
	bool v6 = f.bytes[f.l3] >> 4 == 6;

	for (unsigned done = 0, i = 0; done < payload_len; i++) {
		unsigned n = payload_len - done < gso_size ? payload_len - done : gso_size;

		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, f.payload_at + n, "datagram %u of %u bytes", i, got.len);
		cr_assert_eq(got.hdr.hdr.gso_type, 0);
		cr_assert_eq(got.hdr.hdr.flags, csum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0);
		if (csum)
			cr_assert_eq(frame_get16(got.bytes + f.l4 + 6),
				     ref_pseudo(got.bytes + f.l3, 17, got.len - f.l4));
		else
			cr_assert(frame_csum_ok(got.bytes, got.len, f.l3, f.l4, 17));
		cr_assert_arr_eq(got.bytes, f.bytes, f.l3);
		cr_assert_eq(frame_get16(got.bytes + f.l3 + (v6 ? 4 : 2)),
			     got.len - (v6 ? f.l4 : f.l3));
		if (!v6)
			cr_assert_eq(frame_get16(got.bytes + f.l3 + 4), (0xfffe + i) & 0xffff);
		cr_assert_arr_eq(got.bytes + f.l4, f.bytes + f.l4, 4); /* ports */
		cr_assert_eq(frame_get16(got.bytes + f.l4 + 4), n + 8);
		cr_assert_arr_eq(got.bytes + f.payload_at, f.bytes + f.payload_at + done, n);
		done += n;
	}
	cr_assert_not(ng_try_receive(&b, 0, &got));
}

/* Each family has a feature of its own, and both need GUEST_CSUM (5.1.3.1). */
Test(net_uso, large_datagrams_arrive_whole_or_cut_as_was_negotiated, .timeout = 120)
{
	static const uint64_t takes[] = { NG_CSUM | GUEST_USO4 | GUEST_USO6,
					  NG_CSUM | GUEST_USO4,
					  NG_CSUM | GUEST_USO6,
					  NG_TSO,
					  GUEST_USO4 | GUEST_USO6,
					  0 };
	static const unsigned sizes[] = { 1400, 100, 1 };

	for (unsigned t = 0; t < 2 * 6; t++) {
		uint64_t has = takes[t / 2];

		start(t % 2, HOST_USO, has);
		for (unsigned i = 0; i < 2 * 3; i++) {
			bool v6 = i % 2, csum = has & NG_CSUM;
			unsigned gso = sizes[i / 2];
			struct virtio_net_hdr h;

			udp_make(v6, gso * 30 + gso / 2 + 1, i + 1);
			h = uso_hdr(gso);
			send_frame(&h);
			if (csum && has & (v6 ? GUEST_USO6 : GUEST_USO4))
				expect_whole(gso);
			else
				expect_datagrams(gso, csum);
		}
		ng_sent(&a, 0);
		cr_assert_eq(ng_stats(&a).rx_bad, 0);
		stop();
	}
}

/* As for TCP: what one poll may cost is bounded, whatever the size of the datagrams (T22). */
Test(net_uso, T22_a_frame_of_tiny_datagrams_is_cut_into_so_many, .timeout = 60)
{
	struct ng_options o = { 0 };

	FOR_EACH_LAYOUT(o)
	{
		struct virtio_net_hdr h;

		start(o.packed, HOST_USO, 0);
		udp_make(false, 30000, 1);
		h = uso_hdr(1);
		send_frame(&h);
		ng_sent(&a, 0);
		cr_assert_leq(ng_stats(&b).tx_packets, GSO_CUTS_MAX);
		cr_assert_gt(ng_stats(&b).tx_packets, 0);
		cr_assert_eq(ng_stats(&b).tx_cut_short + ng_stats(&b).tx_no_buffer, 1);
		stop();
	}
}

static void refused(const struct virtio_net_hdr *h)
{
	uint64_t bad = ng_stats(&a).rx_bad;

	send_frame(h);
	ng_sent(&a, 0);
	cr_assert_eq(ng_stats(&a).rx_bad, bad + 1);
	cr_assert_not(ng_try_receive(&b, 0, &got));
}

static void hostile_fields(bool v6)
{
	struct virtio_net_hdr good, h;

	udp_make(v6, 3000, 1);
	good = uso_hdr(1400);
	refused((h = good, h.gso_size = 0, &h));
	refused((h = good, h.flags = 0, &h));
	refused((h = good, h.gso_type |= VIRTIO_NET_HDR_GSO_ECN, &h));
	refused((h = good, h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, &h));
	refused((h = good, h.gso_type = VIRTIO_NET_HDR_GSO_UDP, &h));
	refused((h = good, h.gso_type = 6, &h));
	refused((h = good, h.csum_offset = 16, &h));
	refused((h = good, h.csum_start++, &h));
	refused((h = good, h.csum_start = 0, &h));
	refused((h = good, h.csum_start = 0xffff, h.csum_offset = 0xffff, &h));
	/* TCP in it, a fragment, no IP, headers that end with the frame or beyond it. */
	f.bytes[f.l3 + (v6 ? 6 : 9)] = 6;
	refused(&good);
	udp_make(v6, 3000, 1);
	if (v6)
		f.bytes[f.l3 + 6] = 44;
	else
		frame_put16(f.bytes + f.l3 + 6, 0x2000);
	refused(&good);
	udp_make(v6, 3000, 1);
	frame_put16(f.bytes + 12, 0x0806);
	refused(&good);
	udp_make(v6, 3000, 1);
	for (f.len = f.l4; f.len < f.payload_at;)
		refused((f.len++, &good));
}

Test(net_uso, T7_hostile_large_datagrams_are_refused, .timeout = 60)
{
	struct ng_options o = { 0 };
	struct virtio_net_hdr h;

	FOR_EACH_LAYOUT(o)
	{
		start(o.packed, HOST_USO, NG_CSUM | GUEST_USO4 | GUEST_USO6);
		hostile_fields(false);
		hostile_fields(true);
		/* One that needs no cutting is an ordinary frame. */
		udp_make(false, 1400, 3);
		h = uso_hdr(1400);
		send_frame(&h);
		ng_receive(&b, 0, &got);
		cr_assert_eq(got.hdr.hdr.gso_type, 0);
		cr_assert_eq(got.len, f.len);
		ng_sent(&a, 0);
		stop();
		/* Not negotiated. */
		start(o.packed, 0, NG_CSUM | GUEST_USO4 | GUEST_USO6);
		udp_make(false, 3000, 3);
		h = uso_hdr(1400);
		refused(&h);
		stop();
	}
}
