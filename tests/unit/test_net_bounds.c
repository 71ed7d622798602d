/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one guest's poll may cost the worker that others share (T22): how often large frames are
 * cut, and into how many buffers a frame is spread. Over both layouts, with and without indirect
 * tables.
 */
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>

static struct net_guest a, b;
static struct ng_frame got;

static void start(const struct ng_options *oa, const struct ng_options *ob)
{
	ng_world_start(1);
	ng_start(&a, 0, oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

static bool variant(struct ng_options *o, unsigned v)
{
	o->packed = v & 1;
	o->indirect = v & 2 ? DRIVER_INDIRECT_ALL : DRIVER_DIRECT;
	return v < 4;
}

#define FOR_EACH_VARIANT(o) for (unsigned v = 0; variant(&(o), v); v++)

/* A plain frame of @len bytes from @from to @to. */
static void send_plain(struct net_guest *from, struct net_guest *to, unsigned len)
{
	static uint8_t bytes[1514];

	memcpy(bytes, to->mac, 6);
	memcpy(bytes + 6, from->mac, 6);
	frame_put16(bytes + 12, 0x88b5);
	ng_send(from, 0, NULL, bytes, len, NULL);
	ng_sent(from, 0);
}

/* A frame of 60,000 bytes, to be cut at 48, from a to @mac. */
static void send_large(const uint8_t *mac)
{
	const struct tcp_spec spec = { .payload = 60000 };
	const struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					  .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
					  .gso_size = 48,
					  .csum_start = 34,
					  .csum_offset = 16 };
	static struct tcp_frame f;

	tcp_frame_make(&f, &spec, 1);
	memcpy(f.bytes, mac, 6);
	memcpy(f.bytes + 6, a.mac, 6);
	ng_send(&a, 0, &h, f.bytes, f.len, NULL);
	ng_sent(&a, 0);
}

/* So that the switch knows where b is. */
static void introduce(void)
{
	send_plain(&b, &a, 60);
	ng_receive(&a, 0, &got);
}

/* It would be the sender's worker that takes a hundred chains for each frame. */
Test(net_bounds, T22_mergeable_buffers_too_small_for_a_frame, .timeout = 60)
{
	struct ng_options oa = { 0 };
	struct ng_options ob = { .features = NG_MRG, .rx_buffer = 16, .ring_size = 1024 };

	FOR_EACH_VARIANT(ob)
	{
		start(&oa, &ob);
		send_plain(&a, &b, 1514);
		cr_assert_eq(ng_stats(&b).tx_too_big, 1);
		send_plain(&a, &b, 60);
		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, 60);
		stop();
	}
}

static unsigned receive_all(struct net_guest *g)
{
	unsigned n = 0;

	while (ng_try_receive(g, 0, &got))
		n++;
	return n;
}

/* T7: also when they go to all. */
Test(net_bounds, T22_a_poll_cuts_large_frames_into_so_many, .timeout = 60)
{
	static const uint8_t everyone[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct ng_options oa = { .features = NG_SENDER };
	struct ng_options ob = { .ring_size = 2048, .rx_buffer = 128 };

	FOR_EACH_VARIANT(ob)
	{
		start(&oa, &ob);
		introduce();
		send_large(b.mac);
		cr_assert_eq(receive_all(&b), 256);
		cr_assert_eq(ng_stats(&b).tx_cut_short, 1);
		send_large(everyone);
		cr_assert_eq(receive_all(&b), 256 / 2 + 1, "two ports share them");
		cr_assert_eq(ng_stats(&b).tx_cut_short, 2);
		stop();
	}
}

/* Who takes large frames gets them whole, however small the segments that they are meant for. */
Test(net_bounds, T22_a_frame_that_is_not_cut_has_no_limit, .timeout = 60)
{
	struct ng_options oa = { .features = NG_SENDER }, ob = { .features = NG_TSO | NG_MRG };

	FOR_EACH_VARIANT(ob)
	{
		start(&oa, &ob);
		introduce();
		send_large(b.mac);
		ng_receive(&b, 0, &got);
		cr_assert_gt(got.len, 60000);
		cr_assert_eq(ng_stats(&b).tx_cut_short, 0);
		stop();
	}
}
