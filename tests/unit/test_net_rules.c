/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of ports, with guests over real sockets and workers in both ring layouts: limits both ways,
 * isolation, anti-spoofing.
 */
#include "base/clock.h"
#include "base/error.h"
#include "net/capture.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#define GUESTS 3
#define SECOND UINT64_C(1000000000)

static struct net_guest guest[GUESTS];
static struct port_rules rules[GUESTS];
static struct ng_frame got;
static const uint8_t everyone[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

static void start(bool packed)
{
	ng_world_start(1);
	for (unsigned i = 0; i < GUESTS; i++) {
		struct ng_options o = { .packed = packed,
					.features = NG_SENDER | NG_BIT(VIRTIO_NET_F_STATUS),
					.backend_channel = true,
					.rules = &rules[i] };

		ng_start(&guest[i], i, &o);
	}
}

static void stop(void)
{
	for (unsigned i = 0; i < GUESTS; i++)
		ng_stop(&guest[i]);
	ng_world_stop();
}

static unsigned frame(uint8_t *b, unsigned from, const uint8_t *to, unsigned len)
{
	memset(b, 0, len);
	memcpy(b, to, 6);
	memcpy(b + 6, guest[from].mac, 6);
	frame_put16(b + 12, 0x88b5);
	return len;
}

/* Without waiting for the ones before, as far as the test's buffers go. */
static void say(unsigned from, const uint8_t *to, unsigned len)
{
	static uint8_t b[2000];

	ng_send(&guest[from], 0, NULL, b, frame(b, from, to, len), NULL);
}

static unsigned heard(unsigned at)
{
	unsigned n = 0;

	while (ng_try_receive(&guest[at], 0, &got))
		n++;
	return n;
}

#define BOTH_LAYOUTS(name)                            \
	static void name(bool packed);                \
	Test(net_rules, name##_split, .timeout = 60)  \
	{                                             \
		name(false);                          \
	}                                             \
	Test(net_rules, name##_packed, .timeout = 60) \
	{                                             \
		name(true);                           \
	}                                             \
	static void name(bool packed)

/* Nothing is lost, it takes its time, and the worker sleeps through it. */
static void sender_waits(bool packed, struct port_rate rate, unsigned n, unsigned len,
			 uint64_t least_ns)
{
	const struct worker_stats *w;
	uint64_t from, rounds;

	rules[0].in = rate;
	start(packed);
	w = worker_stats(workers_get(ng_workers, 0));
	from = clock_ns();
	rounds = counter_read(&w->rounds);
	for (unsigned i = 0; i < n; i++) {
		say(0, everyone, len);
		heard(2);
	}
	ng_sent(&guest[0], 0);
	from = clock_ns() - from;
	rounds = counter_read(&w->rounds) - rounds;
	for (unsigned i = 0; i < n; i++)
		ng_receive(&guest[1], 0, &got);
	cr_assert_eq(got.len, len);
	cr_assert_geq(from, least_ns, "%lu ns", from);
	cr_assert_gt(ng_stats(&guest[0]).rx_held, 0);
	cr_assert_eq(ng_stats(&guest[0]).rx_packets, n);
	/* Spinning, it would be millions of rounds a second. */
	cr_assert_lt(rounds, 20000 + from / 100000, "%lu rounds in %lu ns", rounds, from);
	stop();
}

BOTH_LAYOUTS(guest_that_sends_too_many_frames_waits)
{
	sender_waits(packed, (struct port_rate) { .packets = 100, .packets_burst = 10 }, 60, 60,
		     SECOND / 100 * (60 - 10 - 4));
}

BOTH_LAYOUTS(guest_that_sends_too_many_bits_waits)
{
	sender_waits(packed, (struct port_rate) { .bits = 800000, .bits_burst = 80000 }, 60, 1000,
		     SECOND / 100 * (60 - 10 - 4));
}

BOTH_LAYOUTS(guest_that_waits_keeps_nobody_else_waiting)
{
	rules[0].in = (struct port_rate) { .packets = 1, .packets_burst = 1 };
	start(packed);
	say(0, everyone, 60);
	ng_sent(&guest[0], 0);
	say(0, everyone, 60);
	say(0, everyone, 60);
	for (unsigned i = 0; i < 50; i++) {
		say(1, everyone, 100 + i);
		do
			ng_receive(&guest[2], 0, &got);
		while (got.len == 60);
		cr_assert_eq(got.len, 100 + i);
		ng_sent(&guest[1], 0);
		heard(0);
	}
	/* Both of the other's would have taken two seconds; and they are not lost. */
	ng_sent(&guest[0], 0);
	cr_assert_eq(ng_stats(&guest[0]).rx_packets, 3);
	stop();
}

/* A queue may be stopped while its guest waits. */
BOTH_LAYOUTS(guest_that_waits_can_go)
{
	rules[0].in = (struct port_rate) { .packets = 1, .packets_burst = 1 };
	start(packed);
	for (unsigned i = 0; i < 2; i++)
		say(0, everyone, 60);
	ng_disconnect(&guest[0]);
	ng_connect(&guest[0]);
	say(0, everyone, 61);
	ng_sent(&guest[0], 0);
	stop();
}

BOTH_LAYOUTS(frames_too_many_for_a_guest_are_dropped_and_counted)
{
	uint64_t from;
	unsigned n;

	rules[1].out = (struct port_rate) { .packets = 1, .packets_burst = 5 };
	rules[2].out = (struct port_rate) { .bits = 8000, .bits_burst = 40000 };
	start(packed);
	from = clock_ns();
	for (unsigned i = 0; i < 60; i++) {
		say(0, everyone, 1000);
		ng_sent(&guest[0], 0);
	}
	from = clock_ns() - from;
	for (unsigned i = 1; i < 3; i++) {
		n = heard(i);
		cr_assert(n >= 5 && n <= 7 + from / SECOND, "guest %u: %u in %lu ns", i, n, from);
		cr_assert_eq(ng_stats(&guest[i]).tx_limited, 60 - n);
		cr_assert_eq(ng_stats(&guest[i]).tx_packets, n);
	}
	stop();
}

BOTH_LAYOUTS(isolated_ports_reach_the_others_alone)
{
	rules[0].isolated = rules[1].isolated = true;
	start(packed);
	say(0, everyone, 60);
	ng_sent(&guest[0], 0);
	say(1, everyone, 60);
	ng_sent(&guest[1], 0);
	cr_assert_eq(heard(2), 2);
	cr_assert_eq(heard(0) + heard(1), 0);
	/* Also by an address that is known. */
	say(0, guest[1].mac, 60);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(0) + heard(1) + heard(2), 0);
	cr_assert_eq(ng_stats(&guest[0]).rx_isolated, 2);
	say(0, everyone, 60);
	say(2, guest[1].mac, 60);
	ng_sent(&guest[2], 0);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(1), 1);
	cr_assert_eq(heard(2), 1);
	stop();
}

BOTH_LAYOUTS(spoofed_frames_are_dropped_and_counted)
{
	static const uint8_t ip[4] = { 10, 0, 0, 5 };
	uint8_t b[200];

	rules[0].macs = (struct mac_list) { .n = 1, .mac = { { 0x52, 0x54, 0, 0, 0, 1 } } };
	rules[0].ips = (struct ip_list) { .n = 1,
					  .ip = { { .bits = 32, .addr = { 10, 0, 0, 5 } } } };
	rules[0].untagged = rules[1].untagged = rules[2].untagged = 10;
	start(packed);
	for (unsigned i = 0; i < 3; i++) {
		static const unsigned cuts[] = { 1, 20, 30, 7, 0 };
		unsigned at = i == 2 ? 16 : 12;

		frame(b, 0, everyone, 100);
		if (i == 2) { /* behind a tag that is taken off */
			frame_put16(b + 12, 0x8100);
			frame_put16(b + 14, 0);
		}
		frame_put16(b + at, 0x0800);
		b[at + 2] = 0x45;
		memcpy(b + at + 2 + 12, ip, 4);
		ng_send(&guest[0], 0, NULL, b, 100, cuts);
		ng_sent(&guest[0], 0);
		cr_assert_eq(heard(1), 1);
		b[at + 2 + 15]++;
		ng_send(&guest[0], 0, NULL, b, 100, cuts);
		ng_sent(&guest[0], 0);
		b[at + 2 + 15]--;
		b[11]++;
		ng_send(&guest[0], 0, NULL, b, 100, cuts);
		ng_sent(&guest[0], 0);
		cr_assert_eq(heard(1), 0);
		cr_assert_eq(ng_stats(&guest[0]).rx_spoofed_ip, i + 1);
		cr_assert_eq(ng_stats(&guest[0]).rx_spoofed_mac, i + 1);
	}
	stop();
}

/* A neighbour's address, 78 bytes into the frame: further than a plain frame's head goes. */
BOTH_LAYOUTS(neighbour_discovery_is_seen_whole)
{
	uint8_t b[200];

	rules[0].ips = (struct ip_list) {
		.n = 1, .ip = { { .v6 = true, .bits = 128, .addr = { 0xfd, [15] = 5 } } }
	};
	start(packed);
	for (unsigned i = 0; i < 2; i++) {
		frame(b, 0, everyone, 100);
		frame_put16(b + 12, 0x86dd);
		b[14] = 0x60;
		b[19] = 100 - 54;
		b[20] = 58;
		b[22] = 0xfd;
		b[37] = 5;
		b[54] = 136;
		b[62] = 0xfd;
		b[77] = i ? 6 : 5;
		ng_send(&guest[0], 0, NULL, b, 100, NULL);
		ng_sent(&guest[0], 0);
		cr_assert_eq(heard(1), 1 - i);
	}
	cr_assert_eq(ng_stats(&guest[0]).rx_spoofed_ip, 1);
	stop();
}

BOTH_LAYOUTS(port_that_is_down_passes_nothing_and_counts_it)
{
	start(packed);
	cr_assert(ng_link_is_up(&guest[1]));
	say(0, everyone, 60);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(1), 1);
	cr_assert(net_device_set_down(guest[1].dev, true));
	cr_assert(ng_told(&guest[1]));
	cr_assert_not(ng_link_is_up(&guest[1]));
	cr_assert_not(net_device_set_down(guest[1].dev, true), "it is down already");
	say(0, everyone, 60);
	ng_sent(&guest[0], 0);
	say(1, everyone, 60);
	ng_sent(&guest[1], 0);
	cr_assert_eq(heard(1) + heard(0), 0);
	cr_assert_eq(heard(2), 2);
	cr_assert_eq(ng_stats(&guest[1]).rx_port_down, 1);
	cr_assert_eq(ng_stats(&guest[1]).tx_port_down, 1);
	/* Also after its guest has come anew. */
	ng_disconnect(&guest[1]);
	ng_connect(&guest[1]);
	cr_assert_not(ng_link_is_up(&guest[1]));
	cr_assert(net_device_set_down(guest[1].dev, false));
	cr_assert(ng_told(&guest[1]));
	cr_assert(ng_link_is_up(&guest[1]));
	say(0, everyone, 60);
	ng_sent(&guest[0], 0);
	say(1, everyone, 60);
	ng_sent(&guest[1], 0);
	cr_assert_eq(heard(1), 1);
	cr_assert_eq(heard(0), 1);
	stop();
}

static struct port *port_of(unsigned i)
{
	return (struct port *)(uintptr_t)net_device_port(guest[i].dev);
}

/* A frame of guest 0's of @len bytes, with @tag behind the addresses or without. */
static void expect_captured(struct capture *c, bool out, unsigned len, unsigned copied, bool tag)
{
	uint8_t want[2000];
	struct captured p;

	cr_assert(capture_look(c, &p));
	cr_assert_eq(p.out, out);
	cr_assert_eq(p.len, len + (tag ? 4 : 0));
	cr_assert_eq(p.copied, copied);
	frame(want, 0, everyone, len);
	cr_assert_arr_eq(p.bytes, want, 12);
	if (tag)
		cr_assert_eq(frame_get16(p.bytes + 14), 10);
	else
		cr_assert_arr_eq(p.bytes, want, copied);
	capture_next(c);
}

BOTH_LAYOUTS(capture_shows_what_passes_a_port)
{
	struct capture *in, *out, *again;
	uint64_t passed, dropped;
	struct error err = { 0 };
	struct captured p;

	rules[0].untagged = 10;
	rules[2].untagged = 10;
	vlan_set_add(&rules[1].tagged, 10);
	start(packed);
	cr_assert_eq(capture_start(port_of(0), ng_workers, 100, &in, &err), 0, "%s", err.text);
	cr_assert_eq(capture_start(port_of(1), ng_workers, 5000, &out, &err), 0, "%s", err.text);
	cr_assert_eq(capture_start(port_of(1), ng_workers, 5000, &again, &err), -EBUSY);
	cr_assert_not(capture_look(in, &p));
	for (unsigned len = 60; len < 1500; len += 97) {
		say(0, everyone, len);
		ng_sent(&guest[0], 0);
		expect_captured(in, false, len, len < 100 ? len : 100, false);
		expect_captured(out, true, len, len + 4, true);
		heard(1);
		heard(2);
	}
	cr_assert_not(capture_look(in, &p));
	cr_assert_not(capture_look(out, &p));
	capture_counts(in, &passed, &dropped);
	cr_assert_eq(passed, 15);
	cr_assert_eq(dropped, 0);
	capture_free(in);
	/* Once it has ended, what is in it is still there, and nothing more comes. */
	say(0, everyone, 77);
	ng_sent(&guest[0], 0);
	capture_end(out);
	say(0, everyone, 78);
	ng_sent(&guest[0], 0);
	expect_captured(out, true, 77, 81, true);
	cr_assert_not(capture_look(out, &p));
	capture_free(out);
	stop();
}

BOTH_LAYOUTS(capture_that_nobody_takes_holds_nobody_up)
{
	uint64_t passed, dropped, held = 0;
	struct error err = { 0 };
	struct capture *c;
	struct captured p;

	start(packed);
	cr_assert_eq(capture_start(port_of(0), ng_workers, 65535, &c, &err), 0, "%s", err.text);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 900; i++) {
			say(0, everyone, 1400 + i % 100);
			heard(1);
			heard(2);
		}
		ng_sent(&guest[0], 0);
		heard(1);
		/* All that found room is whole, round the end of the ring too. */
		for (held = 0; capture_look(c, &p); held++) {
			cr_assert(p.copied == p.len && p.len >= 1400 && p.len < 1500);
			cr_assert_arr_eq(p.bytes + 6, guest[0].mac, 6);
			capture_next(c);
		}
		cr_assert(held > 600 && held < 900, "%lu", held);
		capture_counts(c, &passed, &dropped);
		cr_assert_eq(passed, (round + 1) * 900);
		cr_assert_geq(dropped, (round + 1) * (900 - 760));
	}
	cr_assert_eq(ng_stats(&guest[0]).rx_packets, 3 * 900);
	/* The port goes first. */
	ng_stop(&guest[0]);
	cr_assert_not(capture_look(c, &p));
	capture_free(c);
	ng_stop(&guest[1]);
	ng_stop(&guest[2]);
	ng_world_stop();
}

/* Limits are changed while the port works: net_device_set_limits(). */
static void limit(unsigned at, struct port_rate in, struct port_rate out, uint64_t broadcast)
{
	struct port_rules r = { .in = in, .out = out, .broadcast = broadcast };

	net_device_set_limits(guest[at].dev, &r);
}

#define NONE ((struct port_rate) { 0 })

/* Each frame would take a quarter of a second, if a poller went on resting by a limit that is gone.
 */
BOTH_LAYOUTS(guest_that_waits_goes_on_when_its_limit_is_lifted)
{
	uint64_t from;

	memset(rules, 0, sizeof(rules));
	start(packed);
	for (unsigned round = 0; round < 2; round++) {
		limit(0, (struct port_rate) { .packets = 1, .packets_burst = 1 }, NONE, 0);
		say(0, everyone, 100);
		ng_sent(&guest[0], 0);
		say(0, everyone, 100); /* has to wait for a second */
		from = clock_ns();
		while (!ng_stats(&guest[0]).rx_held && clock_ns() - from < 5 * SECOND)
			ng_idle(NULL);
		cr_assert_gt(ng_stats(&guest[0]).rx_held, 0);
		from = clock_ns();
		limit(0, NONE, NONE, 0);
		for (unsigned i = 0; i < 60; i++)
			say(0, everyone, 100);
		ng_sent(&guest[0], 0);
		cr_assert_lt(clock_ns() - from, 5 * SECOND);
		cr_assert_eq(heard(1), 62);
	}
	stop();
}

BOTH_LAYOUTS(limits_come_and_go_while_frames_pass)
{
	struct port_rate one = { .packets = 1, .packets_burst = 1 };

	memset(rules, 0, sizeof(rules));
	start(packed);
	/* To guest 1: what is more is dropped, and guest 2 has all of it. */
	limit(1, NONE, one, 0);
	for (unsigned i = 0; i < 20; i++)
		say(0, everyone, 100);
	ng_sent(&guest[0], 0);
	cr_assert_lt(heard(1), 20);
	cr_assert_gt(ng_stats(&guest[1]).tx_limited, 0);
	cr_assert_eq(heard(2), 20);
	limit(1, NONE, NONE, 0);
	for (unsigned i = 0; i < 20; i++)
		say(0, everyone, 100);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(1), 20);
	cr_assert_eq(heard(2), 20);
	/* Floods. */
	limit(0, NONE, NONE, 1);
	for (unsigned i = 0; i < 20; i++)
		say(0, everyone, 100);
	ng_sent(&guest[0], 0);
	cr_assert_lt(heard(1), 20);
	cr_assert_gt(ng_stats(&guest[0]).rx_broadcast, 0);
	/* A port that is down stays so, whatever its limits. */
	heard(2);
	net_device_set_down(guest[1].dev, true);
	limit(0, NONE, NONE, 0);
	limit(1, NONE, one, 0);
	limit(1, NONE, NONE, 0);
	say(0, everyone, 100);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(1), 0);
	cr_assert_eq(heard(2), 1);
	stop();
}

static void change(unsigned i, const struct port_rules *to)
{
	net_device_set_rules(guest[i].dev, to);
}

BOTH_LAYOUTS(what_a_port_lets_in_changes_while_it_runs)
{
	struct port_rules nobody = { .macs = { .n = 1, .mac = { { 2 } } }, .mac_max = 1 };
	struct port_rules apart = { .isolated = true };

	start(packed);
	limit(0, NONE, NONE, 1000);
	for (unsigned i = 0; i < 2; i++) {
		say(0, everyone, 60);
		ng_sent(&guest[0], 0);
		cr_assert_eq(heard(1) + heard(2), 2);
		change(0, &nobody);
		say(0, everyone, 60);
		ng_sent(&guest[0], 0);
		cr_assert_eq(heard(1) + heard(2), 0);
		cr_assert_eq(ng_stats(&guest[0]).rx_spoofed_mac, i + 1);

		change(0, &apart);
		change(1, &apart);
		say(0, everyone, 60);
		ng_sent(&guest[0], 0);
		cr_assert_eq(heard(1), 0);
		cr_assert_eq(heard(2), 1);
		cr_assert_eq(ng_stats(&guest[0]).rx_isolated, i + 1);
		change(0, &(struct port_rules) { 0 });
		change(1, &(struct port_rules) { 0 });
	}
	/* Limits are another matter, and so is a port that is down. */
	cr_assert_eq(port_rules_now(net_device_port(guest[0].dev))->broadcast, 1000);
	net_device_set_down(guest[0].dev, true);
	change(0, &nobody);
	change(0, &(struct port_rules) { 0 });
	say(0, everyone, 60);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(1) + heard(2), 0);
	cr_assert_eq(ng_stats(&guest[0]).rx_port_down, 1);
	stop();
}

BOTH_LAYOUTS(where_addresses_live_changes_while_it_runs)
{
	struct port_rules home = { .fixed = { .n = 1 } };

	start(packed);
	memcpy(home.fixed.mac[0], guest[1].mac, 6);
	/* Guest 2 pretends to be guest 1, and has its frames. */
	memcpy(guest[2].mac, guest[1].mac, 6);
	say(2, everyone, 60);
	ng_sent(&guest[2], 0);
	say(0, guest[1].mac, 60);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(2), 1);
	heard(0);
	heard(1);

	change(1, &home);
	say(2, everyone, 60);
	ng_sent(&guest[2], 0);
	heard(1);
	say(0, guest[1].mac, 60);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(1), 1);
	cr_assert_eq(heard(2), 0);

	/* Anybody's again. */
	change(1, &(struct port_rules) { 0 });
	say(2, everyone, 60);
	ng_sent(&guest[2], 0);
	heard(1);
	say(0, guest[1].mac, 60);
	ng_sent(&guest[0], 0);
	cr_assert_eq(heard(1), 0);
	cr_assert_eq(heard(2), 1);
	stop();
}
