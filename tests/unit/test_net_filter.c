/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a driver wants to receive (virtio 1.3 5.1.6.5.1 to .3): receive modes, the table of
 * addresses, VLANs; and what a hostile one says of these.
 */
#include "net/filter.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>

#define F(name) NG_BIT(VIRTIO_NET_F_##name)
#define FILTERS (F(CTRL_VQ) | F(CTRL_RX) | F(CTRL_RX_EXTRA) | F(CTRL_VLAN) | F(CTRL_MAC_ADDR))
#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

enum { RX = 0, MAC = 1, VLAN = 2 };
enum { PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST };

static struct net_guest a, b;
static struct ng_frame got;

static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static const uint8_t group[6] = { 0x33, 0x33, 0, 0, 0, 1 }, group2[6] = { 1, 0, 0x5e, 0, 0, 1 };
static const uint8_t other[6] = { 0x52, 0x54, 0, 0, 9, 1 }, other2[6] = { 0x52, 0x54, 0, 0, 9, 2 };

static void start(const struct ng_options *ob)
{
	struct ng_options oa = { .packed = ob->packed };

	ng_world_start(1);
	ng_start(&a, 0, &oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

/* A command to b's card; its data are where nothing so long is sent. */
static uint8_t command(uint8_t class, uint8_t cmd, const void *data, unsigned len)
{
	uint8_t *p = b.tx[0] + 1000;
	struct driver_seg segs[] = { { b.tx_gpa[0] + 1000, 2 + len }, { b.tx_gpa[0] + 900, 1 } };

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	b.tx[0][900] = 0x77;
	cr_assert_eq(ng_submit_wait(&b, ng_ctrl_index(&b), segs, 1, 1), 1);
	return b.tx[0][900];
}

static void mode(uint8_t cmd, uint8_t on)
{
	cr_assert_eq(command(RX, cmd, &on, 1), VIRTIO_NET_OK);
}

static uint8_t vlan_command(uint8_t cmd, uint16_t vlan)
{
	return command(VLAN, cmd, &vlan, 2);
}

/* Numbers in the command that may be wrong; the bytes of @len are sent. */
static uint8_t table(uint32_t n_uni, const uint8_t *uni, uint32_t n_multi, const uint8_t *multi)
{
	static uint8_t data[60000];
	size_t at = 4 + 6 * (size_t)n_uni;

	memcpy(data, &n_uni, 4);
	memcpy(data + 4, uni, 6 * (size_t)n_uni);
	memcpy(data + at, &n_multi, 4);
	memcpy(data + at + 4, multi, 6 * (size_t)n_multi);
	return command(MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, data,
		       (unsigned)(at + 4 + 6 * (size_t)n_multi));
}

/* Does a frame from a to @to, of @vlan or (0) without a tag, reach b? */
static bool arrives_tagged(const uint8_t *to, unsigned tci)
{
	uint64_t before = ng_stats(&b).tx_packets;
	uint8_t bytes[80] = { 0 };
	bool there;

	memcpy(bytes, to, 6);
	memcpy(bytes + 6, a.mac, 6);
	frame_put16(bytes + 12, tci ? 0x8100 : 0x88b5);
	frame_put16(bytes + 14, tci);
	ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
	ng_sent(&a, 0);
	there = ng_try_receive(&b, 0, &got);
	cr_assert_eq(ng_stats(&b).tx_packets, before + there);
	if (there)
		cr_assert_arr_eq(got.bytes, bytes, sizeof(bytes));
	return there;
}

static bool arrives(const uint8_t *to)
{
	return arrives_tagged(to, 0);
}

static void modes_apart(void)
{
	/* Until a driver says otherwise it gets everything. */
	cr_assert(arrives(other) && arrives(group) && arrives(broadcast) && arrives(b.mac));
	cr_assert(arrives_tagged(other, 5));
	mode(PROMISC, 0);
	cr_assert(!arrives(other) && !arrives(group) && arrives(broadcast) && arrives(b.mac));
	cr_assert_eq(ng_stats(&b).tx_not_for_it, 2);
	mode(ALLMULTI, 1);
	cr_assert(!arrives(other) && arrives(group));
	mode(ALLMULTI, 0);
	mode(ALLUNI, 1);
	cr_assert(arrives(other) && !arrives(group));
	mode(ALLUNI, 0);
	mode(NOBCAST, 1);
	cr_assert(!arrives(broadcast) && arrives(b.mac));
	mode(NOBCAST, 0);
	mode(NOUNI, 1);
	cr_assert(!arrives(b.mac) && arrives(broadcast));
	mode(NOUNI, 0);
	mode(ALLMULTI, 1);
	mode(NOMULTI, 1);
	cr_assert(!arrives(group) && arrives(b.mac) && arrives(broadcast));
	/* "This SHOULD take effect even if one of the other modes … is on." */
	mode(PROMISC, 1);
	cr_assert(arrives(other) && arrives(group) && arrives_tagged(b.mac, 5));
}

Test(net_filter, receive_modes_5_1_6_5_1, .timeout = 60)
{
	struct ng_options o = { .features = FILTERS, .has_mac = true };

	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		modes_apart();
		/* The next driver gets everything again. */
		mode(PROMISC, 0);
		cr_assert(!arrives(other));
		ng_disconnect(&b);
		ng_connect(&b);
		cr_assert(arrives(other));
		stop();
	}
}

Test(net_filter, table_of_addresses_5_1_6_5_2, .timeout = 60)
{
	struct ng_options o = { .features = FILTERS, .has_mac = true };

	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		mode(PROMISC, 0);
		cr_assert_eq(table(1, other, 1, group), VIRTIO_NET_OK);
		cr_assert(arrives(other) && arrives(group) && arrives(b.mac));
		cr_assert(!arrives(other2) && !arrives(group2));
		cr_assert_eq(table(1, other2, 1, group2), VIRTIO_NET_OK);
		cr_assert(arrives(other2) && arrives(group2));
		cr_assert(!arrives(other) && !arrives(group));
		cr_assert_eq(table(0, other, 0, group), VIRTIO_NET_OK);
		cr_assert(!arrives(other2) && !arrives(group2) && arrives(b.mac));
		/* A new address of its own, and not the old one. */
		cr_assert_eq(command(MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6), VIRTIO_NET_OK);
		cr_assert(arrives(other) && !arrives(b.mac));
		stop();
	}
}

/* 5.1.6.5.2: "silently switch to allmulti or promiscuous mode if it is given too many addresses".
 */
Test(net_filter, more_addresses_than_there_is_room_for_let_all_of_the_kind_in, .timeout = 60)
{
	static uint8_t many[6 * 9000];
	struct ng_options o = { .features = FILTERS, .has_mac = true };

	for (unsigned i = 0; i < 9000; i++)
		frame_put32(many + 6 * (size_t)i, 0x0200 + i);
	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		mode(PROMISC, 0);
		cr_assert_eq(table(64, many, 64, many), VIRTIO_NET_OK);
		cr_assert(!arrives(other) && !arrives(group));
		cr_assert(arrives(many + 6 * 63ul));
		cr_assert_eq(table(65, many, 1, group), VIRTIO_NET_OK);
		cr_assert(arrives(other) && arrives(group) && !arrives(group2));
		cr_assert_eq(table(1, other, 65, many), VIRTIO_NET_OK);
		cr_assert(arrives(other) && !arrives(other2) && arrives(group2));
		/* So many that the second list is not looked at. */
		cr_assert_eq(table(4500, many, 1, group), VIRTIO_NET_OK);
		cr_assert(arrives(other) && arrives(group2));
		cr_assert_eq(table(1, other, 4500, many), VIRTIO_NET_OK);
		cr_assert(!arrives(other2) && arrives(group2));
		cr_assert_eq(table(1, other, 1, group), VIRTIO_NET_OK);
		cr_assert(!arrives(other2) && !arrives(group2));
		stop();
	}
}

Test(net_filter, vlans_5_1_6_5_3, .timeout = 60)
{
	struct ng_options o = { .features = FILTERS, .has_mac = true };

	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		mode(PROMISC, 0);
		cr_assert(arrives(b.mac) && !arrives_tagged(b.mac, 5));
		cr_assert_eq(ng_stats(&b).tx_not_its_vlan, 1);
		cr_assert_eq(vlan_command(0, 5), VIRTIO_NET_OK);
		cr_assert_eq(vlan_command(0, 4095), VIRTIO_NET_OK);
		cr_assert(arrives_tagged(b.mac, 5) && !arrives_tagged(b.mac, 6));
		cr_assert(arrives_tagged(b.mac, 0x6005) && !arrives_tagged(b.mac, 69));
		cr_assert(arrives_tagged(b.mac, 4095));
		cr_assert(arrives_tagged(b.mac, 0x6000), "a priority alone");
		cr_assert_not(arrives_tagged(other, 5), "of the VLAN, and for somebody else");
		cr_assert_eq(vlan_command(1, 5), VIRTIO_NET_OK);
		cr_assert_eq(vlan_command(1, 5), VIRTIO_NET_OK);
		cr_assert_not(arrives_tagged(b.mac, 5));
		stop();
	}
	/* Without receive modes: VLANs alone are filtered, from the first one that is added. */
	o.features = F(CTRL_VQ) | F(CTRL_VLAN);
	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		cr_assert(arrives_tagged(b.mac, 5));
		cr_assert_eq(vlan_command(0, 6), VIRTIO_NET_OK);
		cr_assert(!arrives_tagged(b.mac, 5) && arrives_tagged(other, 6));
		cr_assert(arrives(other) && arrives(group));
		stop();
	}
	/* Without CTRL_VLAN tags are none of the filter's business. */
	o.features = F(CTRL_VQ) | F(CTRL_RX);
	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		mode(PROMISC, 0);
		cr_assert(arrives_tagged(b.mac, 5) && !arrives_tagged(other, 5));
		stop();
	}
}

/* A frame's copy for one port is no other port's, and those of a burst keep their order. */
Test(net_filter, with_receive_queues_chosen_by_a_table_too, .timeout = 60)
{
	struct ng_options o = { .features = FILTERS | F(HASH_REPORT), .has_mac = true };

	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		mode(PROMISC, 0);
		cr_assert(!arrives(other) && arrives(b.mac) && !arrives_tagged(b.mac, 5));
		mode(PROMISC, 1);
		cr_assert(arrives(other) && arrives(b.mac));
		stop();
	}
}

/* Where the device has no address to tell, the driver makes one up, and we do not know it. */
Test(net_filter, a_card_without_an_address_lets_all_stations_frames_in, .timeout = 60)
{
	struct ng_options o = { .features = F(CTRL_VQ) | F(CTRL_RX) };

	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		mode(PROMISC, 0);
		cr_assert(arrives(other) && !arrives(group));
		stop();
	}
}

static void refused(uint8_t class, uint8_t cmd, const void *data, unsigned len)
{
	cr_assert_eq(command(class, cmd, data, len), VIRTIO_NET_ERR);
	/* Nothing has changed. */
	cr_assert(arrives(other) && arrives(group) && arrives_tagged(b.mac, 5));
	cr_assert(!arrives(other2) && !arrives(group2) && !arrives_tagged(b.mac, 6));
}

#define REFUSED(class, cmd, ...)                               \
	refused(class, cmd, (const uint8_t[]) { __VA_ARGS__ }, \
		sizeof((const uint8_t[]) { __VA_ARGS__ }))

static void hostile_commands(void)
{
	mode(PROMISC, 0);
	cr_assert_eq(table(1, other, 1, group), VIRTIO_NET_OK);
	cr_assert_eq(vlan_command(0, 5), VIRTIO_NET_OK);
	/* Modes: no value, one that is none, commands that are none. */
	refused(RX, PROMISC, "", 0);
	REFUSED(RX, PROMISC, 2);
	REFUSED(RX, ALLMULTI, 255);
	REFUSED(RX, 6, 1);
	REFUSED(RX, 31, 1);
	REFUSED(RX, 32, 1);
	REFUSED(RX, 255, 1);
	/* VLANs: half a number, one beyond 12 bits, a command that is none. */
	REFUSED(VLAN, 0, 6);
	REFUSED(VLAN, 0, 0, 0x10);
	REFUSED(VLAN, 0, 0xff, 0xff);
	REFUSED(VLAN, 2, 6, 0);
	/* The table: cut anywhere, and with numbers beyond its end. */
	refused(MAC, 0, "", 0);
	REFUSED(MAC, 0, 0, 0, 0);
	REFUSED(MAC, 0, 0, 0, 0, 0);
	REFUSED(MAC, 0, 0, 0, 0, 0, 0, 0, 0);
	REFUSED(MAC, 0, 1, 0, 0, 0, 2, 2, 2, 2, 2);
	REFUSED(MAC, 0, 1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0);
	REFUSED(MAC, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 3, 3, 3, 3);
	REFUSED(MAC, 0, 0xff, 0xff, 0xff, 0xff, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0);
	REFUSED(MAC, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 3, 3, 3, 3, 3, 3);
	/* 6 * n + 4 in 32 bits would be 8 and 4. */
	REFUSED(MAC, 0, 0xab, 0xaa, 0xaa, 0xaa, 0, 0, 0, 0, 0, 0, 0, 0);
	REFUSED(MAC, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0);
}

Test(net_filter, T17_filter_commands, .timeout = 60)
{
	struct ng_options o = { .features = FILTERS, .has_mac = true };
	const uint8_t off = 0;

	FOR_EACH_LAYOUT(o)
	{
		start(&o);
		hostile_commands();
		stop();
	}
	/* Of features that were not negotiated. */
	o.features = F(CTRL_VQ) | F(CTRL_RX);
	start(&o);
	cr_assert_eq(command(RX, ALLUNI, &off, 1), VIRTIO_NET_ERR);
	cr_assert_eq(command(RX, NOBCAST, &off, 1), VIRTIO_NET_ERR);
	cr_assert_eq(vlan_command(0, 5), VIRTIO_NET_ERR);
	stop();
	o.features = F(CTRL_VQ) | F(CTRL_RX_EXTRA) | F(CTRL_VLAN);
	start(&o);
	cr_assert_eq(command(RX, PROMISC, &off, 1), VIRTIO_NET_ERR);
	cr_assert_eq(table(0, other, 0, group), VIRTIO_NET_ERR);
	cr_assert(arrives(other));
	stop();
}
