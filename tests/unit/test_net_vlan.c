/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Access ports and trunks (IEEE 802.1Q) between guests over real sockets and workers, in both ring
 * layouts: which frames arrive where, and with which tag, and that unfinished checksums and large
 * frames are still right there.
 */
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define UNTAGGED (-1)
#define GUESTS 4

static struct net_guest guest[GUESTS];
static struct port_rules rules[GUESTS];
static struct ng_frame got;
static const uint8_t everyone[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

static struct port_rules access_port(uint16_t vlan)
{
	return (struct port_rules) { .untagged = vlan };
}

static struct port_rules trunk(uint16_t native, uint16_t first, uint16_t last)
{
	struct port_rules r = { .untagged = native };

	for (unsigned v = first; v <= last; v++)
		vlan_set_add(&r.tagged, v);
	return r;
}

static void start(unsigned n, const uint64_t *features, bool packed)
{
	ng_world_start(1);
	for (unsigned i = 0; i < n; i++) {
		struct ng_options o = { .packed = packed,
					.features = features ? features[i] : NG_SENDER,
					.ring_size = 512,
					.rx_buffer = features && features[i] & NG_TSO & ~NG_CSUM
							     ? 65554 + 12
							     : 0,
					.rx_count = 200,
					.rules = &rules[i] };

		ng_start(&guest[i], i, &o);
	}
}

static void stop(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		ng_stop(&guest[i]);
	ng_world_stop();
}

/* @return length; tags first to last, UNTAGGED ends them. */
static unsigned frame(uint8_t *b, const uint8_t *to, const uint8_t *from, const int *tags,
		      unsigned payload)
{
	unsigned at = 12;

	memcpy(b, to, 6);
	memcpy(b + 6, from, 6);
	for (; *tags != UNTAGGED; tags++, at += 4) {
		frame_put16(b + at, 0x8100);
		frame_put16(b + at + 2, (unsigned)*tags);
	}
	frame_put16(b + at, 0x88b5);
	for (unsigned i = 0; i < payload; i++)
		b[at + 2 + i] = (uint8_t)(i * 7 + payload);
	return at + 2 + payload;
}

static void say(unsigned from, const uint8_t *to, const int *tags, unsigned payload)
{
	static uint8_t b[2000];

	ng_send(&guest[from], 0, NULL, b, frame(b, to, guest[from].mac, tags, payload), NULL);
	ng_sent(&guest[from], 0);
}

#define TAGS(...) ((const int[]) { __VA_ARGS__, UNTAGGED })
#define NO_TAG ((const int[]) { UNTAGGED })

/* The frame that guest @from said arrives at @at with @tags, and nothing else does. */
static void expect(unsigned at, unsigned from, const uint8_t *to, const int *tags, unsigned payload)
{
	static uint8_t want[2000];
	unsigned len = frame(want, to, guest[from].mac, tags, payload);

	ng_receive(&guest[at], 0, &got);
	cr_assert_eq(got.len, len, "guest %u got %u bytes, not %u", at, got.len, len);
	cr_assert_arr_eq(got.bytes, want, len);
}

static void expect_nothing(unsigned at)
{
	cr_assert_not(ng_try_receive(&guest[at], 0, &got), "guest %u got %u bytes, type %x", at,
		      got.len, frame_get16(got.bytes + 12));
}

static void expect_silence(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		expect_nothing(i);
}

#define BOTH_LAYOUTS(name)                           \
	static void name(bool packed);               \
	Test(net_vlan, name##_split, .timeout = 60)  \
	{                                            \
		name(false);                         \
	}                                            \
	Test(net_vlan, name##_packed, .timeout = 60) \
	{                                            \
		name(true);                          \
	}                                            \
	static void name(bool packed)

BOTH_LAYOUTS(frames_stay_in_their_vlan)
{
	rules[0] = access_port(10);
	rules[1] = access_port(10);
	rules[2] = access_port(20);
	rules[3] = (struct port_rules) { 0 };
	start(4, NULL, packed);
	say(0, everyone, NO_TAG, 50);
	expect(1, 0, everyone, NO_TAG, 50);
	say(3, everyone, NO_TAG, 60);
	say(2, everyone, NO_TAG, 70);
	/* To an address that lives in another VLAN. */
	say(2, guest[1].mac, NO_TAG, 80);
	expect_silence(4);
	cr_assert_eq(ng_stats(&guest[2]).filtered, 2);
	say(1, guest[0].mac, NO_TAG, 1400);
	expect(0, 1, guest[0].mac, NO_TAG, 1400);
	stop(4);
}

BOTH_LAYOUTS(tag_comes_on_and_off_between_access_port_and_trunk)
{
	static const unsigned sizes[] = { 1, 40, 46, 47, 48, 49, 50, 51, 100, 1500 };

	rules[0] = access_port(10);
	rules[1] = trunk(0, 10, 20);
	rules[2] = access_port(20);
	start(3, NULL, packed);
	for (unsigned i = 0; i < 10; i++) {
		unsigned n = sizes[i];

		say(0, everyone, NO_TAG, n);
		expect(1, 0, everyone, TAGS(10), n);
		say(1, guest[0].mac, TAGS(10), n);
		expect(0, 1, guest[0].mac, NO_TAG, n);
		say(1, everyone, TAGS(20), n);
		expect(2, 1, everyone, NO_TAG, n);
		/* The priority goes through. */
		say(1, guest[0].mac, TAGS(0xa000 | 10), n);
		expect(0, 1, guest[0].mac, NO_TAG, n);
		expect_silence(3);
	}
	stop(3);
}

BOTH_LAYOUTS(priority_goes_from_tag_to_tag)
{
	rules[0] = trunk(0, 10, 10);
	rules[1] = trunk(0, 10, 11);
	rules[2] = access_port(10);
	start(3, NULL, packed);
	say(0, everyone, TAGS(0xf000 | 10), 64);
	expect(1, 0, everyone, TAGS(0xf000 | 10), 64);
	expect(2, 0, everyone, NO_TAG, 64);
	say(2, everyone, TAGS(0x6000), 64);
	expect(0, 2, everyone, TAGS(0x6000 | 10), 64);
	expect(1, 2, everyone, TAGS(0x6000 | 10), 64);
	stop(3);
}

/* One burst of a flood: each gets it as it wants it, and the next one is not told of that. */
BOTH_LAYOUTS(flood_reaches_tagged_and_untagged_alike)
{
	rules[0] = access_port(7);
	rules[1] = trunk(0, 1, 100);
	rules[2] = trunk(7, 10, 20);
	rules[3] = access_port(7);
	start(4, NULL, packed);
	for (unsigned i = 0; i < 4; i++) {
		const int *tags = i == 1 ? TAGS(7) : NO_TAG;

		say(i, everyone, tags, 200 + i);
		for (unsigned k = 0; k < 4; k++)
			if (k != i)
				expect(k, i, everyone, k == 1 ? TAGS(7) : NO_TAG, 200 + i);
	}
	expect_silence(4);
	stop(4);
}

BOTH_LAYOUTS(port_takes_only_its_own_tags)
{
	uint8_t service[100];

	rules[0] = access_port(10);
	rules[1] = access_port(10);
	rules[2] = trunk(0, 10, 11);
	rules[3] = trunk(5, 10, 11);
	start(4, NULL, packed);
	/* 802.1Q 6.9.1: a tag that carries a priority alone is none. */
	say(0, everyone, TAGS(0), 64);
	expect(1, 0, everyone, NO_TAG, 64);
	expect(2, 0, everyone, TAGS(10), 64);
	expect(3, 0, everyone, TAGS(10), 64);
	say(0, everyone, TAGS(10), 64);
	say(0, everyone, TAGS(20), 64);
	/* A provider's. */
	frame(service, everyone, guest[0].mac, TAGS(0), 64);
	frame_put16(service + 12, 0x88a8);
	ng_send(&guest[0], 0, NULL, service, 82, NULL);
	ng_sent(&guest[0], 0);
	say(2, everyone, NO_TAG, 64);
	say(2, everyone, TAGS(0), 64);
	say(2, everyone, TAGS(12), 64);
	say(2, everyone, TAGS(4095), 64);
	say(3, everyone, TAGS(5), 64);
	expect_silence(4);
	cr_assert_eq(ng_stats(&guest[0]).rx_vlan, 3);
	cr_assert_eq(ng_stats(&guest[2]).rx_vlan, 4);
	cr_assert_eq(ng_stats(&guest[3]).rx_vlan, 1);
	cr_assert_eq(ng_stats(&guest[0]).rx_packets, 4);
	stop(4);
}

/* A frame whose own tag comes off must not go by the tag behind it. */
BOTH_LAYOUTS(second_tag_carries_nobody_into_another_vlan)
{
	rules[0] = access_port(10);
	rules[1] = trunk(10, 20, 20);
	rules[2] = trunk(0, 10, 10);
	start(3, NULL, packed);
	say(0, everyone, TAGS(0, 20), 64);
	say(2, everyone, TAGS(10, 20), 64);
	expect_nothing(0);
	expect_nothing(1);
	cr_assert_eq(ng_stats(&guest[1]).tx_vlan, 2);
	/* Behind a tag of its own it is the receiver's affair. */
	expect(2, 0, everyone, TAGS(10, 20), 64);
	stop(3);
}

BOTH_LAYOUTS(one_address_lives_in_two_vlans)
{
	rules[0] = access_port(10);
	rules[1] = access_port(20);
	rules[2] = trunk(0, 10, 20);
	start(3, NULL, packed);
	memcpy(guest[1].mac, guest[0].mac, 6);
	say(0, everyone, NO_TAG, 64);
	say(1, everyone, NO_TAG, 65);
	expect(2, 0, everyone, TAGS(10), 64);
	expect(2, 1, everyone, TAGS(20), 65);
	for (unsigned i = 0; i < 4; i++) {
		say(2, guest[0].mac, TAGS(10), 66);
		expect(0, 2, guest[0].mac, NO_TAG, 66);
		say(2, guest[0].mac, TAGS(20), 67);
		expect(1, 2, guest[0].mac, NO_TAG, 67);
	}
	expect_silence(3);
	stop(3);
}

BOTH_LAYOUTS(frame_too_short_for_its_tag_is_malformed)
{
	rules[0] = trunk(0, 10, 10);
	rules[1] = trunk(0, 10, 10);
	start(2, NULL, packed);
	for (unsigned len = 14; len < 18; len++) {
		uint8_t b[64];

		frame(b, everyone, guest[0].mac, TAGS(10), 0);
		ng_send(&guest[0], 0, NULL, b, len, NULL);
		ng_sent(&guest[0], 0);
	}
	cr_assert_eq(ng_stats(&guest[0]).rx_bad, 4);
	expect_silence(2);
	say(0, everyone, TAGS(10), 0);
	expect(1, 0, everyone, TAGS(10), 0);
	stop(2);
}

/* What the sender wants summed may not begin in the tag that comes off. */
BOTH_LAYOUTS(checksum_that_begins_in_the_tag_is_malformed)
{
	rules[0] = trunk(0, 10, 10);
	rules[1] = access_port(10);
	start(2, NULL, packed);
	for (uint16_t at = 14; at <= 18; at++) {
		struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					    .csum_start = at,
					    .csum_offset = 20 };
		uint8_t b[200];

		ng_send(&guest[0], 0, &h, b, frame(b, everyone, guest[0].mac, TAGS(10), 100), NULL);
		ng_sent(&guest[0], 0);
	}
	cr_assert_eq(ng_stats(&guest[0]).rx_bad, 4);
	ng_receive(&guest[1], 0, &got);
	cr_assert_eq(got.len, 114);
	stop(2);
}

/* A TCP frame of guest 0's, with @tags of them, and the header that goes with it. */
static void tcp(struct tcp_frame *f, struct virtio_net_hdr *h, bool v6, bool tagged, unsigned vlan,
		unsigned payload, unsigned gso)
{
	struct tcp_spec spec = { .v6 = v6,
				 .vlan_tags = tagged,
				 .tcp_options = 12,
				 .flags = 0x18,
				 .seq = 4711,
				 .payload = payload };

	tcp_frame_make(f, &spec, payload * 3 + 1);
	memcpy(f->bytes, guest[1].mac, 6);
	memcpy(f->bytes + 6, guest[0].mac, 6);
	if (tagged)
		frame_put16(f->bytes + 14, vlan);
	*h = (struct virtio_net_hdr) { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .csum_start = (uint16_t)f->l4,
				       .csum_offset = 16 };
	if (gso) {
		h->gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
		h->gso_size = (uint16_t)gso;
	}
}

/* What @f must look like where it has @shift bytes of tag more (or less). */
static void expect_whole(const struct tcp_frame *f, const struct virtio_net_hdr *sent, int shift,
			 unsigned vlan)
{
	unsigned from = 12 + (shift < 0 ? 4 : 0), to = 12 + (shift > 0 ? 4 : 0);

	ng_receive(&guest[1], 0, &got);
	cr_assert_eq(got.len, (unsigned)((int)f->len + shift));
	cr_assert_arr_eq(got.bytes, f->bytes, 12);
	if (shift > 0) {
		cr_assert_eq(frame_get16(got.bytes + 12), 0x8100);
		cr_assert_eq(frame_get16(got.bytes + 14), vlan);
	}
	cr_assert_arr_eq(got.bytes + to, f->bytes + from, f->len - from);
	cr_assert_eq(got.hdr.hdr.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	cr_assert_eq(got.hdr.hdr.csum_start, (int)f->l4 + shift);
	cr_assert_eq(got.hdr.hdr.csum_offset, 16);
	cr_assert_eq(got.hdr.hdr.gso_type, sent->gso_type);
	cr_assert_eq(got.hdr.hdr.gso_size, sent->gso_size);
	cr_assert_eq(got.hdr.hdr.hdr_len, sent->gso_type ? (int)f->payload_at + shift : 0);
}

/* Finished here: in as many frames as it takes, with right checksums behind the tag. */
static void expect_finished(const struct tcp_frame *f, unsigned gso, int shift, unsigned vlan)
{
	unsigned payload = f->len - f->payload_at, at = (unsigned)((int)f->payload_at + shift);

	for (unsigned done = 0; done < payload;) {
		unsigned n = gso && payload - done > gso ? gso : payload - done;

		ng_receive(&guest[1], 0, &got);
		cr_assert_eq(got.len, at + n);
		cr_assert_eq(got.hdr.hdr.flags, 0);
		cr_assert_eq(got.hdr.hdr.gso_type, 0);
		if (shift > 0)
			cr_assert_eq(frame_get16(got.bytes + 14), vlan);
		cr_assert(frame_csum_ok(got.bytes, got.len, (unsigned)((int)f->l3 + shift),
					(unsigned)((int)f->l4 + shift), 6));
		cr_assert_arr_eq(got.bytes + at, f->bytes + f->payload_at + done, n);
		done += n;
	}
}

static void offloads(bool packed, bool to_trunk)
{
	static const struct {
		unsigned payload, gso;
	} kinds[] = { { 500, 0 }, { 5000, 1428 }, { 64000, 1400 } };
	int shift = to_trunk ? 4 : -4;
	static struct tcp_frame f;
	struct virtio_net_hdr h;

	rules[0] = to_trunk ? access_port(10) : trunk(0, 10, 10);
	rules[1] = to_trunk ? trunk(0, 10, 10) : access_port(10);
	for (unsigned takes = 0; takes < 2; takes++) {
		uint64_t features[] = { NG_SENDER, takes ? NG_TSO : 0 };

		start(2, features, packed);
		say(1, everyone, to_trunk ? TAGS(10) : NO_TAG, 64);
		ng_receive(&guest[0], 0, &got);
		for (unsigned i = 0; i < 6; i++) {
			unsigned payload = kinds[i / 2].payload, gso = kinds[i / 2].gso;

			tcp(&f, &h, i & 1, !to_trunk, 10, payload, gso);
			ng_send(&guest[0], 0, &h, f.bytes, f.len, NULL);
			if (takes)
				expect_whole(&f, &h, shift, 10);
			else
				expect_finished(&f, gso, shift, 10);
		}
		expect_silence(2);
		stop(2);
	}
}

BOTH_LAYOUTS(offloads_shift_with_the_tag_that_is_put_on)
{
	offloads(packed, true);
}

BOTH_LAYOUTS(offloads_shift_with_the_tag_that_is_taken_off)
{
	offloads(packed, false);
}

BOTH_LAYOUTS(a_port_without_vlans_reaches_no_trunk_by_tags_of_its_own)
{
	rules[0] = (struct port_rules) { 0 };
	rules[1] = trunk(0, 10, 20);
	rules[2] = trunk(30, 10, 20);
	rules[3] = (struct port_rules) { 0 };
	start(4, NULL, packed);
	say(0, everyone, NO_TAG, 50);
	expect(3, 0, everyone, NO_TAG, 50);
	say(0, everyone, TAGS(10), 60);
	expect(3, 0, everyone, TAGS(10), 60);
	say(0, guest[1].mac, TAGS(20, 10), 70);
	expect(3, 0, guest[1].mac, TAGS(20, 10), 70);
	expect_silence(4);
	stop(4);
}

static void change(unsigned i, struct port_rules to)
{
	net_device_set_rules(guest[i].dev, &to);
}

BOTH_LAYOUTS(a_port_changes_its_vlans_while_it_runs)
{
	rules[0] = access_port(10);
	rules[1] = access_port(10);
	rules[2] = access_port(20);
	rules[3] = trunk(0, 10, 20);
	start(4, NULL, packed);
	for (unsigned i = 0; i < 2; i++) {
		say(1, everyone, NO_TAG, 50);
		expect(0, 1, everyone, NO_TAG, 50);
		expect(3, 1, everyone, TAGS(10), 50);
		say(0, guest[1].mac, NO_TAG, 60);
		expect(1, 0, guest[1].mac, NO_TAG, 60);

		change(1, access_port(20));
		/* Where it was, nobody knows it any more. */
		say(0, guest[1].mac, NO_TAG, 70);
		expect(3, 0, guest[1].mac, TAGS(10), 70);
		say(1, everyone, NO_TAG, 80);
		expect(2, 1, everyone, NO_TAG, 80);
		expect(3, 1, everyone, TAGS(20), 80);
		say(2, guest[1].mac, NO_TAG, 90);
		expect(1, 2, guest[1].mac, NO_TAG, 90);

		/* A trunk now, and in neither without a tag. */
		change(1, trunk(0, 10, 11));
		say(1, everyone, NO_TAG, 50);
		say(2, everyone, NO_TAG, 100);
		expect(3, 2, everyone, TAGS(20), 100);
		say(1, everyone, TAGS(10), 110);
		expect(0, 1, everyone, NO_TAG, 110);
		expect(3, 1, everyone, TAGS(10), 110);
		expect_silence(4);
		cr_assert_eq(ng_stats(&guest[1]).rx_vlan, i + 1);
		change(1, access_port(10));
	}
	/* In none: it meets nobody here, not by a tag of its own either. */
	change(1, (struct port_rules) { 0 });
	say(1, everyone, NO_TAG, 50);
	say(1, everyone, TAGS(10), 50);
	say(0, everyone, NO_TAG, 50);
	expect(3, 0, everyone, TAGS(10), 50);
	expect_silence(4);
	stop(4);
}
