/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port that goes down and up a thousand times with frames in between: none is delivered that
 * should not be, each that is not is counted, and the guest is told.
 */
#include "tests/unit/net_sender.h"

#include <sys/socket.h>

#define FLAPS 1000

static struct net_guest a, b;
static struct ng_frame got;

static void start(bool packed, unsigned workers)
{
	struct ng_options o = { .packed = packed,
				.features = NG_BIT(VIRTIO_NET_F_STATUS),
				.backend_channel = true };

	ng_world_start(workers);
	ng_start(&a, 0, &o);
	ng_start(&b, 1, &o);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

#define BOTH_LAYOUTS(name)                            \
	static void name(bool packed);                \
	Test(net_flap, name##_split, .timeout = 120)  \
	{                                             \
		name(false);                          \
	}                                             \
	Test(net_flap, name##_packed, .timeout = 120) \
	{                                             \
		name(true);                           \
	}                                             \
	static void name(bool packed)

static void send_frame(struct net_guest *from, const struct net_guest *to, uint32_t number)
{
	uint8_t bytes[100];

	frame_make(bytes, to->mac, from->mac, sizeof(bytes), number);
	ng_send(from, 0, NULL, bytes, sizeof(bytes), NULL);
	ng_sent(from, 0);
}

static void expect_frame(struct net_guest *to, uint32_t number)
{
	ng_receive(to, 0, &got);
	cr_assert_eq(got.len, 100);
	cr_assert_eq(frame_get32(got.bytes + 14), number);
}

/* Of b, whose port flaps: what both have to say of @up and @down frames to it, and from it. */
static void expect_counts(uint64_t to_up, uint64_t to_down, uint64_t from_up, uint64_t from_down)
{
	struct port_stats sa = ng_stats(&a), sb = ng_stats(&b), none = { 0 };

	cr_assert_eq(sa.rx_packets, to_up + to_down);
	cr_assert_eq(sb.tx_packets, to_up);
	cr_assert_eq(sb.tx_port_down, to_down);
	cr_assert_eq(sb.rx_packets, from_up + from_down);
	cr_assert_eq(sb.rx_port_down, from_down);
	cr_assert_eq(sa.tx_packets, from_up);
	sa.rx_packets = sa.rx_bytes = sa.tx_packets = sa.tx_bytes = 0;
	sb.rx_packets = sb.rx_bytes = sb.tx_packets = sb.tx_bytes = 0;
	sb.rx_port_down = sb.tx_port_down = 0;
	cr_assert_arr_eq(&sa, &none, sizeof(none), "for another reason");
	cr_assert_arr_eq(&sb, &none, sizeof(none), "for another reason");
}

BOTH_LAYOUTS(a_thousand_flaps_lose_what_they_count_and_no_more)
{
	start(packed, 2);
	for (uint32_t i = 0; i < FLAPS; i++) {
		send_frame(&a, &b, i);
		expect_frame(&b, i);
		send_frame(&b, &a, i);
		expect_frame(&a, i);
		cr_assert(net_device_set_down(b.dev, true));
		cr_assert(ng_told(&b) && !ng_link_is_up(&b));
		send_frame(&a, &b, FLAPS + i);
		send_frame(&a, &b, FLAPS + i);
		send_frame(&b, &a, FLAPS + i);
		cr_assert(net_device_set_down(b.dev, false));
		cr_assert(ng_told(&b) && ng_link_is_up(&b));
	}
	cr_assert_not(ng_try_receive(&a, 0, &got) || ng_try_receive(&b, 0, &got));
	cr_assert(ng_link_is_up(&a));
	expect_counts(FLAPS, 2 * FLAPS, FLAPS, FLAPS);
	stop();
}

static unsigned drain(struct net_guest *g)
{
	unsigned n = 0;

	for (; ng_try_receive(g, 0, &got); n++)
		cr_assert_eq(got.len, 100);
	return n;
}

/* Two workers, and each has the other's frames to deliver when the port goes down and up. */
BOTH_LAYOUTS(flaps_under_traffic_both_ways_account_for_each_frame)
{
	struct port_stats sa, sb;
	struct sender from_a, from_b;
	uint64_t received = 0;

	start(packed, 2);
	sender_start(&from_a, &a, 0, &b);
	sender_start(&from_b, &b, 0, &a);
	for (unsigned i = 0; i < FLAPS; i++) {
		uint64_t before = ng_stats(&b).tx_port_down;

		net_device_set_down(b.dev, true);
		/* Now and then for as long as it takes that somebody notices. */
		while (i % 50 == 0 && ng_stats(&b).tx_port_down == before)
			ng_idle(NULL);
		net_device_set_down(b.dev, false);
		received += drain(&b);
	}
	sender_stop(&from_a);
	sender_stop(&from_b);
	received += drain(&b);
	sa = ng_stats(&a);
	sb = ng_stats(&b);
	cr_assert_eq(sa.rx_packets, from_a.sent);
	cr_assert_eq(sb.tx_packets + sb.tx_port_down + sb.tx_no_buffer, from_a.sent);
	cr_assert_eq(sb.tx_packets, received);
	cr_assert_eq(sb.rx_packets, from_b.sent);
	cr_assert_eq(sb.rx_port_down + sa.tx_packets + sa.tx_no_buffer, from_b.sent);
	cr_assert_gt(received, 0);
	cr_assert_geq(sb.tx_port_down, FLAPS / 50);
	stop();
}

/* What is there to read, all of it; the control thread does nothing meanwhile. */
static unsigned read_all(struct net_guest *g)
{
	struct vu_header h;
	unsigned n = 0;

	while (recv(g->fe.backend_sock, &h, sizeof(h), MSG_DONTWAIT) == sizeof(h)) {
		cr_assert_eq(h.request, VU_BACKEND_CONFIG_CHANGE);
		n++;
	}
	return n;
}

/* Who reads nothing is told no more than fits, and once more when there is room again. */
BOTH_LAYOUTS(a_front_end_that_reads_nothing_for_a_thousand_flaps_is_told_of_the_last)
{
	unsigned n;

	start(packed, 1);
	for (unsigned i = 0; i < FLAPS; i++) {
		cr_assert(net_device_set_down(b.dev, true));
		cr_assert(net_device_set_down(b.dev, false));
	}
	cr_assert(net_device_set_down(b.dev, true));
	n = read_all(&b);
	cr_assert_gt(n, 0);
	cr_assert_lt(n, 2 * FLAPS, "it was to be more than fits");
	cr_assert(ng_told(&b));
	for (unsigned i = 0; i < 20; i++)
		ng_idle(NULL);
	cr_assert_eq(read_all(&b), 0);
	cr_assert_not(ng_link_is_up(&b));
	/* The channel is as good as before. */
	cr_assert(net_device_set_down(b.dev, false));
	cr_assert(ng_told(&b) && ng_link_is_up(&b));
	send_frame(&a, &b, 1);
	expect_frame(&b, 1);
	stop();
}
