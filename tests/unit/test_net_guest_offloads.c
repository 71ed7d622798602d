/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Offloads that a driver switches off and on again over a control queue that is ours (virtio 1.3
 * 5.1.6.5.8): what comes for it is whole or cut, and its checksums are finished, as it said last.
 */
#include "base/error.h"
#include "net/virtio_net.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"
#include "vhost/state_blob.h"

#include <criterion/criterion.h>
#include <endian.h>

#define F(name) NG_BIT(VIRTIO_NET_F_##name)
#define USO (NG_BIT(54) | NG_BIT(55))
#define SWITCHED (F(CTRL_VQ) | F(CTRL_GUEST_OFFLOADS))
#define ALL (NG_TSO | USO)
#define GSO 1000
#define PAYLOAD 3500
#define PAIRS 2
#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

static struct net_guest a, b;
static struct ng_frame got;
static struct tcp_frame f;

/* What a sends: large frames of each kind, and one whose checksum alone is not finished. */
enum kind { TCP4, TCP4_ECN, TCP6, TCP6_ECN, UDP4, UDP6, SMALL, N_KINDS };

/* Which of the offloads, beside GUEST_CSUM, let it come as it is. */
static const uint64_t needs[N_KINDS] = {
	[TCP4] = F(GUEST_TSO4), [TCP4_ECN] = F(GUEST_TSO4) | F(GUEST_ECN),
	[TCP6] = F(GUEST_TSO6), [TCP6_ECN] = F(GUEST_TSO6) | F(GUEST_ECN),
	[UDP4] = NG_BIT(54),	[UDP6] = NG_BIT(55),
};

static unsigned proto_of(enum kind k)
{
	return k == UDP4 || k == UDP6 ? 17 : 6;
}

static void start(const struct ng_options *ob, unsigned workers)
{
	struct ng_options oa = { .packed = !ob->packed, .features = NG_SENDER | NG_BIT(56) };

	ng_world_start(workers);
	ng_start(&a, 0, &oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

/* A command to b's card, of whose bytes each piece has @piece. */
static uint8_t command(uint8_t class, uint8_t cmd, const void *data, unsigned len, unsigned piece)
{
	uint64_t gpa = b.tx_gpa[0] + 1000; /* nothing so long is sent */
	uint8_t *p = b.tx[0] + 1000;
	struct driver_seg segs[64];
	unsigned n = 0;

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	for (unsigned at = 0; at < 2 + len; at += piece, n++)
		segs[n] = (struct driver_seg) { gpa + at, MIN(2 + len - at, piece) };
	segs[n] = (struct driver_seg) { gpa - 100, 1 };
	p[-100] = 0x77;
	cr_assert_eq(ng_submit_wait(&b, ng_ctrl_index(&b), segs, n, 1), 1);
	return p[-100];
}

static uint8_t set(uint64_t offloads)
{
	uint64_t data = htole64(offloads);

	return command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &data,
		       sizeof(data), 64);
}

/* RSS: all of it comes by this pair. */
static void steer(unsigned pair)
{
	const uint8_t data[] = { 0, 0, 0, 0, 0, 0, (uint8_t)pair, 0, (uint8_t)pair, 0, 1, 0, 0 };

	cr_assert_eq(
		command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG, data, sizeof(data), 64),
		VIRTIO_NET_OK);
}

static struct virtio_net_hdr say(enum kind k)
{
	bool v6 = k == TCP6 || k == TCP6_ECN || k == UDP6, ecn = k == TCP4_ECN || k == TCP6_ECN;
	struct tcp_spec spec = { .v6 = v6,
				 .flags = ecn ? 0x98 : 0x18,
				 .payload = k == SMALL ? 500 : PAYLOAD };
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_offset = 16 };

	if (proto_of(k) == 17)
		udp_frame_make(&f, v6, 7, PAYLOAD, 1 + k);
	else
		tcp_frame_make(&f, &spec, 1 + k);
	h.csum_start = (uint16_t)f.l4;
	if (k != SMALL) {
		h.gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
		h.gso_type |= ecn ? VIRTIO_NET_HDR_GSO_ECN : 0;
		h.gso_size = GSO;
	}
	if (proto_of(k) == 17) {
		h.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
		h.csum_offset = 6;
	}
	memcpy(f.bytes, b.mac, 6);
	memcpy(f.bytes + 6, a.mac, 6);
	ng_send(&a, 0, &h, f.bytes, f.len, NULL);
	return h;
}

/* The frame in @got is of bytes @from to @from + @n of the payload, and its checksum is right. */
static void see_piece(enum kind k, unsigned from, unsigned n, bool csum)
{
	cr_assert_eq(got.len, f.payload_at + n, "kind %d: %u bytes", k, got.len);
	cr_assert_arr_eq(got.bytes + f.payload_at, f.bytes + f.payload_at + from, n);
	cr_assert_eq(got.hdr.hdr.flags, csum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0, "kind %d", k);
	if (csum)
		cr_assert_eq(frame_get16(got.bytes + f.l4 + (proto_of(k) == 6 ? 16 : 6)),
			     ref_pseudo(got.bytes + f.l3, proto_of(k), got.len - f.l4));
	else
		cr_assert(frame_csum_ok(got.bytes, got.len, f.l3, f.l4, proto_of(k)));
}

/* @on: what the driver has on. A frame of kind @k comes by @pair in the shape that this allows. */
static void expect(enum kind k, unsigned pair, uint64_t on)
{
	bool csum = on & F(GUEST_CSUM), whole = csum && (on & needs[k]) == needs[k];
	struct virtio_net_hdr h = say(k);
	unsigned payload = f.len - f.payload_at;
	unsigned step = whole || k == SMALL ? payload : GSO;

	for (unsigned done = 0; done < payload; done += step) {
		ng_receive(&b, pair, &got);
		cr_assert_eq(got.hdr.hdr.gso_type, whole ? h.gso_type : 0, "kind %d, %#llx on", k,
			     (unsigned long long)on);
		see_piece(k, done, MIN(step, payload - done), csum);
	}
	cr_assert_not(ng_try_receive(&b, pair, &got));
	ng_sent(&a, 0);
}

static void expect_all(unsigned pair, uint64_t on)
{
	for (enum kind k = 0; k < N_KINDS; k++)
		expect(k, pair, on);
}

/* 5.1.6.5.8: what is not set is off; without GUEST_CSUM nothing else is (5.1.3.1). */
Test(net_guest_offloads, what_the_driver_has_on_comes_as_it_is_5_1_6_5_8, .timeout = 120)
{
	static const unsigned bits[] = { 1, 7, 8, 9, 54, 55 };
	struct ng_options o = { .features = SWITCHED | F(RSS) | ALL | NG_MRG,
				.pairs = PAIRS,
				.ring_size = 512 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 1);
		expect_all(0, ALL); /* "upon feature negotiation" it is enabled */
		for (unsigned mask = 0; mask < 64; mask++) {
			uint64_t on = 0;

			for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
				on |= mask >> i & 1 ? NG_BIT(bits[i]) : 0;
			cr_assert_eq(set(on), VIRTIO_NET_OK);
			for (unsigned pair = 0; pair < PAIRS; pair++) {
				steer(pair);
				expect_all(pair, on);
			}
		}
		stop();
	}
}

/* One buffer each, without merging, and one pair: queue 2 is the control queue. */
Test(net_guest_offloads, off_and_on_again_with_buffers_that_are_not_merged, .timeout = 60)
{
	struct ng_options o = { .features = SWITCHED | ALL, .ring_size = 512, .rx_buffer = 4000 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 1);
		for (unsigned i = 0; i < 10; i++) {
			expect_all(0, ALL);
			cr_assert_eq(set(NG_CSUM), VIRTIO_NET_OK);
			expect_all(0, NG_CSUM);
			cr_assert_eq(set(0), VIRTIO_NET_OK);
			expect_all(0, 0);
			cr_assert_eq(set(ALL), VIRTIO_NET_OK);
		}
		stop();
	}
}

static void refused(uint8_t cmd, const void *data, unsigned len)
{
	cr_assert_eq(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, cmd, data, len, 64), VIRTIO_NET_ERR,
		     "command %u of %u bytes", cmd, len);
}

/* "A driver MUST NOT enable an offload for which the appropriate feature has not been negotiated."
 */
static void hostile_commands(uint64_t negotiated)
{
	uint8_t data[400] = { 0 };
	uint64_t on = htole64(NG_CSUM);

	for (unsigned bit = 0; bit < 64; bit++) {
		if (ALL & negotiated & NG_BIT(bit))
			continue;
		cr_assert_eq(set(NG_BIT(bit)), VIRTIO_NET_ERR, "bit %u", bit);
		cr_assert_eq(set(NG_CSUM | NG_BIT(bit)), VIRTIO_NET_ERR, "bit %u", bit);
	}
	cr_assert_eq(set(UINT64_MAX), VIRTIO_NET_ERR);
	for (unsigned len = 0; len < 8; len++) {
		/* What is not there is not made up of the last command, which was right. */
		cr_assert_eq(set(negotiated), VIRTIO_NET_OK);
		refused(VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, data, len);
	}
	for (unsigned cmd = 1; cmd < 256; cmd++)
		refused((uint8_t)cmd, &on, 8);
	/* Nothing of that has changed anything. */
	expect_all(0, negotiated);
	/* What follows the value is nobody's: like with other commands, it does no harm. */
	memset(data, 0xff, sizeof(data));
	memcpy(data, &on, 8);
	cr_assert_eq(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
			     data, sizeof(data), 64),
		     VIRTIO_NET_OK);
	expect_all(0, NG_CSUM);
}

Test(net_guest_offloads, T17_offload_commands, .timeout = 60)
{
	struct ng_options o = { .ring_size = 512 };
	uint64_t on = htole64(NG_CSUM);

	FOR_EACH_LAYOUT(o)
	{
		o.features = SWITCHED | ALL | NG_MRG;
		start(&o, 1);
		hostile_commands(ALL);
		stop();
		o.features = SWITCHED | NG_CSUM | F(GUEST_TSO6) | NG_MRG;
		start(&o, 1);
		hostile_commands(NG_CSUM | F(GUEST_TSO6));
		stop();
		/* Not negotiated. */
		o.features = F(CTRL_VQ) | ALL | NG_MRG;
		start(&o, 1);
		cr_assert_eq(set(NG_CSUM), VIRTIO_NET_ERR);
		refused(VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &on, 8);
		expect_all(0, ALL);
		stop();
	}
}

/* 2.6.4: a device makes no assumption of where descriptors end. */
Test(net_guest_offloads, the_command_may_be_in_any_pieces, .timeout = 60)
{
	struct ng_options o = { .features = SWITCHED | ALL | NG_MRG, .ring_size = 512 };

	for (unsigned indirect = 0; indirect < 2; indirect++) {
		o.indirect = indirect ? DRIVER_INDIRECT_ALL : DRIVER_DIRECT;
		FOR_EACH_LAYOUT(o)
		{
			start(&o, 1);
			for (unsigned piece = 1; piece <= 10; piece++) {
				uint64_t on = ALL & ~(piece % 2 ? F(GUEST_TSO4) : NG_BIT(55));
				uint64_t data = htole64(on);

				cr_assert_eq(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS,
						     VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &data, 8,
						     piece),
					     VIRTIO_NET_OK);
				expect_all(0, on);
			}
			stop();
		}
	}
}

static void restart_queue(unsigned queue)
{
	uint32_t base;

	cr_assert_eq(frontend_queue_stop(&b.fe, queue, &base), 0, "%s", b.fe.error);
	cr_assert_eq(frontend_state_set(&b.fe, VU_SET_VRING_BASE, queue, base), 0);
	cr_assert_eq(frontend_vring_fd(&b.fe, VU_SET_VRING_KICK, queue, b.fe.queue[queue].kick_fd),
		     0, "%s", b.fe.error);
}

/* A queue that stops and goes on is the same driver's; who comes with other features is not. */
Test(net_guest_offloads, they_last_as_long_as_the_driver, .timeout = 60)
{
	struct ng_options o = { .features = SWITCHED | ALL | NG_MRG, .ring_size = 512 };
	uint64_t on = ALL & ~F(GUEST_TSO4);

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 1);
		cr_assert_eq(set(on), VIRTIO_NET_OK);
		restart_queue(0);
		expect_all(0, on);
		restart_queue(2);
		expect_all(0, on);
		/* The log is switched on: no other driver. */
		cr_assert_eq(frontend_set_features(&b.fe, b.fe.features | NG_BIT(26)), 0, "%s",
			     b.fe.error);
		restart_queue(0);
		expect_all(0, on);
		ng_disconnect(&b);
		ng_connect(&b);
		expect_all(0, ALL);
		cr_assert_eq(set(0), VIRTIO_NET_OK);
		cr_assert_eq(frontend_queue_stop(&b.fe, 0, NULL), 0);
		cr_assert_eq(frontend_set_features(&b.fe, b.fe.features & ~USO), 0, "%s",
			     b.fe.error);
		restart_queue(0);
		expect_all(0, NG_TSO);
		stop();
	}
}

/* Another back-end goes on with what the driver has said to this one (STATE_NET_OFFLOADS). */
Test(net_guest_offloads, they_go_along_with_the_guest, .timeout = 60)
{
	struct ng_options o = { .features = SWITCHED | ALL | NG_MRG, .ring_size = 512 };
	uint64_t on = NG_CSUM | F(GUEST_TSO6) | NG_BIT(54);
	struct state_blob plain, state;
	struct error err;

	FOR_EACH_LAYOUT(o)
	{
		struct vhost_device *d;

		start(&o, 1);
		d = (struct vhost_device *)net_device_vhost(b.dev);
		d->ops->save_state(d, &plain);
		cr_assert_eq(set(on), VIRTIO_NET_OK);
		d->ops->save_state(d, &state);
		ng_disconnect(&b);
		ng_connect(&b);
		cr_assert_eq(d->ops->load_state(d, &state, &err), 0);
		expect_all(0, on);
		restart_queue(0);
		expect_all(0, on);
		/* Of a driver that has switched nothing off, or of a back-end that knows of none.
		 */
		cr_assert_eq(d->ops->load_state(d, &plain, &err), 0);
		cr_assert_not(state_has(&plain, STATE_NET_OFFLOADS));
		expect_all(0, ALL);
		stop();
	}
}

/* A state with @off, of so many bytes. @return whether a card takes it. */
static bool loads(struct vhost_device *d, uint64_t off, unsigned len)
{
	const uint8_t mac[6] = { 2 }, pairs[2] = { 1 };
	const uint64_t field[2] = { htole64(off) };
	struct state_blob s;
	struct error err = { 0 };
	int rc;

	state_begin(&s, 1);
	state_put(&s, STATE_NET_MAC, mac, sizeof(mac));
	state_put(&s, STATE_NET_PAIRS, pairs, sizeof(pairs));
	state_put(&s, STATE_NET_OFFLOADS, field, len);
	rc = d->ops->load_state(d, &s, &err);
	cr_assert(rc == 0 || strstr(err.text, "offloads"), "%s", err.text);
	return rc == 0;
}

Test(net_guest_offloads, T21_a_state_of_offloads_that_there_are_not, .timeout = 60)
{
	struct ng_options o = { .features = SWITCHED | ALL | NG_MRG, .ring_size = 512 };
	uint64_t on = ALL & ~F(GUEST_TSO6);
	struct vhost_device *d;

	start(&o, 1);
	d = (struct vhost_device *)net_device_vhost(b.dev);
	cr_assert(loads(d, F(GUEST_TSO6), 8));
	expect_all(0, on);
	for (unsigned bit = 0; bit < 64; bit++)
		if (!(ALL & NG_BIT(bit)))
			cr_assert_not(loads(d, NG_CSUM | NG_BIT(bit), 8), "bit %u", bit);
	for (unsigned len = 0; len < 12; len++)
		if (len != 8)
			cr_assert_not(loads(d, NG_CSUM, len), "%u bytes", len);
	expect_all(0, on); /* nothing of that was taken */
	cr_assert(loads(d, ALL, 8));
	expect_all(0, 0);
	cr_assert(loads(d, 0, 8));
	expect_all(0, ALL);
	stop();
}

/* Frames come, from another worker, all the while: each is whole, or each of its pieces is there.
 */
static void any_shape(enum kind k)
{
	for (unsigned done = 0, n; done < PAYLOAD; done += n) {
		ng_receive(&b, 0, &got);
		n = MIN(PAYLOAD - done, got.hdr.hdr.gso_type ? PAYLOAD : (unsigned)GSO);
		see_piece(k, done, n, got.hdr.hdr.flags);
	}
}

Test(net_guest_offloads, switched_while_frames_come, .timeout = 120)
{
	struct ng_options o = { .features = SWITCHED | ALL | NG_MRG, .ring_size = 512 };
	static const uint64_t on[] = { 0, ALL, NG_CSUM, NG_TSO };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 2);
		vhost_queue_move(&net_device_vhost(a.dev)->queues[1], workers_get(ng_workers, 0));
		vhost_queue_move(&net_device_vhost(b.dev)->queues[2], workers_get(ng_workers, 1));
		for (unsigned i = 0; i < 400; i++) {
			say(TCP4);
			say(TCP4);
			cr_assert_eq(set(on[i % 4]), VIRTIO_NET_OK);
			say(TCP4);
			any_shape(TCP4);
			any_shape(TCP4);
			any_shape(TCP4);
			ng_sent(&a, 0);
			expect(TCP4, 0, on[i % 4]);
		}
		stop();
	}
}
