/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hostile driver does to a virtio-net device: header shapes (T6), offload fields (T7), the
 * control queue (T17). Each over both layouts, with and without indirect tables; after each, a good
 * guest still gets its frames.
 */
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>

static struct net_guest a, b;
static struct ng_frame got;
static uint64_t scratch_gpa;
static uint8_t *scratch; /* 64 KiB of a's */

#define SCRATCH 70000
#define CTRL_FEATURES (NG_BIT(VIRTIO_NET_F_CTRL_VQ) | NG_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR))

static unsigned frame_make(uint8_t *out, const uint8_t *to, const uint8_t *from, unsigned len)
{
	memcpy(out, to, 6);
	memcpy(out + 6, from, 6);
	for (unsigned i = 12; i < len; i++)
		out[i] = (uint8_t)(i * 7);
	frame_put16(out + 12, 0x88b5);
	return len;
}

static void start(const struct ng_options *oa, const struct ng_options *ob)
{
	ng_world_start(1);
	ng_start(&a, 0, oa);
	ng_start(&b, 1, ob);
	scratch = ng_alloc(&a, SCRATCH, &scratch_gpa);
	memset(scratch, 0, SCRATCH);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

/* From @from to @to, and it arrives. */
static void good_frame(struct net_guest *from, struct net_guest *to)
{
	static uint8_t bytes[200];

	frame_make(bytes, to->mac, from->mac, sizeof(bytes));
	ng_send(from, 0, NULL, bytes, sizeof(bytes), NULL);
	ng_receive(to, 0, &got);
	cr_assert_eq(got.len, sizeof(bytes));
	cr_assert_arr_eq(got.bytes, bytes, sizeof(bytes));
	ng_sent(from, 0);
}

static bool variant(struct ng_options *o, unsigned v)
{
	o->packed = v & 1;
	o->indirect = v & 2 ? DRIVER_INDIRECT_ALL : DRIVER_DIRECT;
	return v < 4;
}

/* Runs for each layout, without tables and with. */
#define FOR_EACH_VARIANT(o) for (unsigned v = 0; variant(&(o), v); v++)

/* Transmit chains: @n_out readable bytes in pieces of @piece, then @n_in writable ones. */
static void send_bytes(unsigned n_out, unsigned piece, unsigned n_in)
{
	struct driver_seg segs[256];
	unsigned n = 0, at = 0;

	for (; at < n_out; at += piece, n++)
		segs[n] = (struct driver_seg) { scratch_gpa + at,
						n_out - at < piece ? n_out - at : piece };
	segs[n] = (struct driver_seg) { scratch_gpa + 66000, n_in };
	cr_assert_eq(ng_submit_wait(&a, 1, segs, n, n_in ? 1 : 0), 0);
}

static void refused(unsigned n_out, unsigned piece, unsigned n_in)
{
	uint64_t bad = ng_stats(&a).rx_bad, good = ng_stats(&a).rx_packets;

	send_bytes(n_out, piece, n_in);
	cr_assert_eq(ng_stats(&a).rx_bad, bad + 1, "%u bytes were accepted", n_out);
	cr_assert_eq(ng_stats(&a).rx_packets, good);
	cr_assert_not(ng_try_receive(&b, 0, &got));
}

static void transmit_shapes(void)
{
	static const unsigned runts[] = { 1, 2, 9, 10, 11, 12, 13, 25 };

	frame_make(scratch + 12, b.mac, a.mac, 2000);
	for (unsigned i = 0; i < sizeof(runts) / sizeof(runts[0]); i++) {
		refused(runts[i], 4096, 0);
		refused(runts[i], 1, 0);
		refused(runts[i], 4096, 30);
	}
	refused(0, 1, 30); /* nothing to read at all */
	refused(12 + 65551, 4096, 0);
	refused(12 + 66000, 4096, 0);
	for (unsigned piece = 1; piece <= 15; piece++) {
		send_bytes(12 + 14 + piece, piece, 0);
		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, 14 + piece);
		cr_assert_arr_eq(got.bytes, scratch + 12, got.len);
	}
	/* A writable segment behind a good frame does no harm, and is not written. */
	memset(scratch + 66000, 0x5a, 30);
	send_bytes(12 + 60, 72, 30);
	ng_receive(&b, 0, &got);
	cr_assert_eq(got.len, 60);
	for (unsigned i = 0; i < 30; i++)
		cr_assert_eq(scratch[66000 + i], 0x5a);
	good_frame(&a, &b);
}

Test(net_hostile, T6_transmit_header_shapes, .timeout = 60)
{
	struct ng_options oa = { .features = NG_SENDER }, ob = { 0 };

	FOR_EACH_VARIANT(oa)
	{
		start(&oa, &ob);
		transmit_shapes();
		stop();
	}
}

Test(net_hostile, T6_largest_frame_passes, .timeout = 60)
{
	struct ng_options oa = { 0 }, ob = { .features = NG_MRG };
	static uint8_t bytes[65550];

	FOR_EACH_VARIANT(oa)
	{
		start(&oa, &ob);
		frame_make(bytes, b.mac, a.mac, sizeof(bytes));
		ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, sizeof(bytes));
		cr_assert_arr_eq(got.bytes, bytes, sizeof(bytes));
		cr_assert_eq(got.n_buffers, (65550 + 12 + 1537) / 1538);
		stop();
	}
}

static bool signalled(struct net_guest *g, unsigned queue)
{
	struct pollfd p = { .fd = g->fe.queue[queue].err_fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void add_chain(struct net_guest *g, unsigned queue, const struct driver_seg *segs,
		      unsigned n_out, unsigned n_in)
{
	struct driver_ring *r = &g->fe.queue[queue].ring;

	cr_assert_eq(r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, segs, n_out, n_in, g)
					       : driver_add(r, DRIVER_PACKED, segs, n_out, n_in, g),
		     0);
	frontend_submit(&g->fe, queue);
}

/* @segs on b's receive queue break it; the sender and everything else go on. */
static void receive_breaks(const struct ng_options *ob, const struct driver_seg *lens,
			   unsigned n_out, unsigned n_in)
{
	struct ng_options oa = { 0 };
	static uint8_t bytes[100];
	struct driver_seg segs[4];
	uint64_t gpa, error;

	start(&oa, ob);
	ng_alloc(&b, 4096, &gpa);
	for (unsigned i = 0; i < n_out + n_in; i++)
		segs[i] = (struct driver_seg) { gpa + 512 * i, lens[i].len };
	add_chain(&b, 0, segs, n_out, n_in);
	frame_make(bytes, b.mac, a.mac, sizeof(bytes));
	error = ng_stats(&b).tx_error;
	ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
	ng_sent(&a, 0);
	cr_assert_eq(ng_stats(&b).tx_error, error + 1);
	cr_assert(signalled(&b, 0));
	cr_assert_not(ng_try_receive(&b, 0, &got));
	good_frame(&b, &a); /* its other queue is whole */
	stop();
}

Test(net_hostile, T6_receive_buffer_shorter_than_header_breaks_the_queue, .timeout = 60)
{
	const uint64_t hash = NG_BIT(VIRTIO_NET_F_CTRL_VQ) | NG_BIT(VIRTIO_NET_F_HASH_REPORT);
	const struct {
		uint64_t features;
		unsigned len;
	} rows[] = { { 0, 1 },	     { 0, 11 },	   { NG_MRG, 1 },
		     { NG_MRG, 11 }, { hash, 12 }, { hash | NG_MRG, 19 } };

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct ng_options ob = { .rx_idle = true, .features = rows[i].features };
		struct driver_seg seg = { .len = rows[i].len };

		FOR_EACH_VARIANT(ob)
		receive_breaks(&ob, &seg, 0, 1);
	}
}

Test(net_hostile, T6_readable_segment_in_a_receive_chain_breaks_the_queue, .timeout = 60)
{
	static const struct driver_seg segs[] = { { .len = 12 }, { .len = 400 } };
	struct ng_options ob = { .rx_idle = true };

	FOR_EACH_VARIANT(ob)
	{
		receive_breaks(&ob, segs, 1, 1);
		receive_breaks(&ob, segs, 2, 0);
	}
}

/* The header alone fits: with MRG_RXBUF the frame goes on in the next one, without it does not fit.
 */
Test(net_hostile, T6_buffer_of_exactly_the_header, .timeout = 60)
{
	struct ng_options oa = { 0 };

	for (unsigned mrg = 0; mrg < 2; mrg++) {
		struct ng_options ob = { .features = mrg ? NG_MRG : 0,
					 .rx_buffer = 12,
					 .ring_size = 64 };
		static uint8_t bytes[60];

		FOR_EACH_VARIANT(ob)
		{
			start(&oa, &ob);
			frame_make(bytes, b.mac, a.mac, sizeof(bytes));
			ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
			ng_sent(&a, 0);
			if (mrg) {
				ng_receive(&b, 0, &got);
				cr_assert_eq(got.n_buffers, 6);
				cr_assert_eq(got.len, 60);
				cr_assert_arr_eq(got.bytes, bytes, 60);
			} else {
				cr_assert_not(ng_try_receive(&b, 0, &got));
				cr_assert_eq(ng_stats(&b).tx_too_big, 1);
			}
			stop();
		}
	}
}

/* T22: frames for which there are not enough mergeable buffers leave the buffers where they are. */
Test(net_hostile, T6_too_few_mergeable_buffers_are_given_back, .timeout = 60)
{
	struct ng_options oa = { 0 };
	struct ng_options ob = { .features = NG_MRG, .rx_buffer = 500, .rx_count = 4 };
	static uint8_t bytes[3000];

	FOR_EACH_VARIANT(ob)
	{
		start(&oa, &ob);
		frame_make(bytes, b.mac, a.mac, sizeof(bytes));
		for (unsigned i = 0; i < 1000; i++) {
			ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
			ng_sent(&a, 0);
		}
		cr_assert_eq(ng_stats(&b).tx_no_buffer, 1000);
		cr_assert_not(ng_try_receive(&b, 0, &got));
		for (unsigned i = 0; i < 10; i++)
			good_frame(&a, &b);
		stop();
	}
}

/* More chains than a frame may be spread over: dropped, not written beyond our own arrays. */
/* All of a round's frames may be delivered in one burst. */
Test(net_hostile, T6_small_frames_land_where_a_large_one_found_too_little, .timeout = 60)
{
	struct ng_options oa = { 0 };
	struct ng_options ob = { .features = NG_MRG, .rx_buffer = 200, .rx_count = 40 };
	static uint8_t large[10000], small[100];

	FOR_EACH_VARIANT(ob)
	{
		start(&oa, &ob);
		frame_make(large, b.mac, a.mac, sizeof(large));
		frame_make(small, b.mac, a.mac, sizeof(small));
		for (unsigned round = 0; round < 100; round++) {
			for (unsigned i = 0; i < 4; i++) {
				ng_send(&a, 0, NULL, large, sizeof(large), NULL);
				small[60] = (uint8_t)(round + i);
				ng_send(&a, 0, NULL, small, 61 + i, NULL);
			}
			ng_sent(&a, 0);
			for (unsigned i = 0; i < 4; i++) {
				ng_receive(&b, 0, &got);
				cr_assert_eq(got.len, 61 + i);
				cr_assert_eq(got.bytes[60], (uint8_t)(round + i));
				cr_assert_arr_eq(got.bytes, small, 60);
			}
		}
		cr_assert_eq(ng_stats(&b).tx_no_buffer, 400);
		cr_assert_eq(ng_stats(&b).tx_packets, 400);
		good_frame(&a, &b);
		stop();
	}
}

Test(net_hostile, T6_very_many_tiny_buffers, .timeout = 60)
{
	struct ng_options oa = { 0 };
	struct ng_options ob = {
		.features = NG_MRG, .rx_buffer = 12, .ring_size = 8192, .rx_count = 8000
	};
	struct ng_options pieces = {
		.features = NG_MRG, .rx_buffer = 64, .rx_pieces = 64, .ring_size = 8192
	};
	static uint8_t bytes[60000];

	FOR_EACH_VARIANT(ob)
	{
		start(&oa, &ob);
		frame_make(bytes, b.mac, a.mac, sizeof(bytes));
		ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
		ng_sent(&a, 0);
		cr_assert_eq(ng_stats(&b).tx_too_big, 1);
		good_frame(&a, &b);
		stop();
	}
	/* A few chains too many, and not too many segments. */
	ob.rx_buffer = 200;
	ob.rx_count = 400;
	FOR_EACH_VARIANT(ob)
	{
		start(&oa, &ob);
		frame_make(bytes, b.mac, a.mac, sizeof(bytes));
		ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
		ng_sent(&a, 0);
		cr_assert_eq(ng_stats(&b).tx_too_big, 1);
		good_frame(&a, &b);
		stop();
	}
	FOR_EACH_VARIANT(pieces)
	{
		start(&oa, &pieces);
		frame_make(bytes, b.mac, a.mac, sizeof(bytes));
		ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
		ng_sent(&a, 0);
		cr_assert_eq(ng_stats(&b).tx_too_big, 1);
		good_frame(&a, &b);
		stop();
	}
}

static void offload_refused(const struct virtio_net_hdr *h, const uint8_t *bytes, unsigned len)
{
	uint64_t bad = ng_stats(&a).rx_bad;

	ng_send(&a, 0, h, bytes, len, NULL);
	ng_sent(&a, 0);
	cr_assert_eq(ng_stats(&a).rx_bad, bad + 1,
		     "flags %x gso %x size %u start %u offset %u was accepted", h->flags,
		     h->gso_type, h->gso_size, h->csum_start, h->csum_offset);
	cr_assert_not(ng_try_receive(&b, 0, &got));
}

/* The fields themselves are test_net_offload.c's; this is that the device obeys. */
Test(net_hostile, T7_offload_fields, .timeout = 60)
{
	struct tcp_spec spec = { .payload = 3000 };
	struct ng_options oa = { .features = NG_SENDER }, ob = { 0 };
	static struct tcp_frame f;
	struct virtio_net_hdr good = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .gso_size = 1400,
				       .csum_start = 34,
				       .csum_offset = 16 };

	tcp_frame_make(&f, &spec, 3);
	FOR_EACH_VARIANT(oa)
	{
		struct virtio_net_hdr h;

		start(&oa, &ob);
		memcpy(f.bytes, b.mac, 6);
		memcpy(f.bytes + 6, a.mac, 6);
		offload_refused((h = good, h.gso_size = 0, &h), f.bytes, f.len);
		offload_refused((h = good, h.gso_size = 1, &h), f.bytes, f.len);
		offload_refused((h = good, h.gso_type = 3, &h), f.bytes, f.len);
		offload_refused((h = good, h.gso_type = 0x80, &h), f.bytes, f.len);
		offload_refused((h = good, h.gso_type = 0x7f, &h), f.bytes, f.len);
		offload_refused((h = good, h.flags = 0, &h), f.bytes, f.len);
		offload_refused((h = good, h.csum_start = 0xffff, &h), f.bytes, f.len);
		offload_refused((h = good, h.csum_offset = 0xffff, &h), f.bytes, f.len);
		offload_refused((h = good, h.csum_start = 60000, &h), f.bytes, f.len);
		offload_refused((h = good, h.gso_type = 0, h.csum_start = 60, &h), f.bytes, 61);
		offload_refused(&good, f.bytes, 14);
		offload_refused(&good, f.bytes, 40);
		offload_refused(&good, f.bytes, 54);
		/* gso_size beyond the frame, and any hdr_len: an ordinary frame, with a checksum.
		 */
		h = good;
		h.gso_size = 0xffff;
		h.hdr_len = 0xffff;
		ng_send(&a, 0, &h, f.bytes, 1000, NULL);
		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, 1000);
		cr_assert_eq(got.hdr.hdr.gso_type, 0);
		good_frame(&a, &b);
		stop();
	}
}

/*
 * virtio 1.3 5.1.6.2.2: fields that belong to a feature which was not negotiated are not used. With
 * no offload at all nothing of the header is.
 */
static void offload_ignored(const struct virtio_net_hdr *h, const uint8_t *bytes, unsigned len)
{
	ng_send(&a, 0, h, bytes, len, NULL);
	ng_sent(&a, 0);
	ng_receive(&b, 0, &got);
	cr_assert_eq(got.len, len);
	cr_assert_arr_eq(got.bytes, bytes, len);
	cr_assert_eq(got.hdr.hdr.flags, 0);
	cr_assert_eq(got.hdr.hdr.gso_type, VIRTIO_NET_HDR_GSO_NONE);
	cr_assert_eq(ng_stats(&a).rx_bad, 0);
}

Test(net_hostile, T10_offloads_that_were_not_negotiated, .timeout = 60)
{
	struct tcp_spec spec = { .payload = 1200 };
	struct ng_options oa = { 0 }, ob = { 0 };
	static struct tcp_frame f;
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .csum_start = 34,
				    .csum_offset = 16 };

	tcp_frame_make(&f, &spec, 3);
	FOR_EACH_VARIANT(oa)
	{
		oa.features = 0;
		h.gso_type = 0;
		start(&oa, &ob);
		offload_ignored(&h, f.bytes, 1000);
		stop();
		/* TSO without CSUM does not exist (virtio 1.3 5.1.3.1). */
		h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
		h.gso_size = 1000;
		oa.features = NG_BIT(VIRTIO_NET_F_HOST_TSO4);
		start(&oa, &ob);
		offload_ignored(&h, f.bytes, f.len);
		stop();
		oa.features = NG_BIT(VIRTIO_NET_F_CSUM);
		start(&oa, &ob);
		offload_refused(&h, f.bytes, f.len);
		stop();
	}
}

/* A command of @len bytes in pieces of @piece. @return the answer. */
static uint8_t command(const void *bytes, unsigned len, unsigned piece)
{
	struct driver_seg segs[64];
	unsigned n = 0;

	memcpy(scratch, bytes, len);
	for (unsigned at = 0; at < len; at += piece, n++)
		segs[n] = (struct driver_seg) { scratch_gpa + at,
						len - at < piece ? len - at : piece };
	segs[n] = (struct driver_seg) { scratch_gpa + 4096, 1 };
	scratch[4096] = 0x77;
	cr_assert_eq(ng_submit_wait(&a, ng_ctrl_index(&a), segs, n, 1), 1);
	return scratch[4096];
}

#define COMMAND(...) \
	command((const uint8_t[]) { __VA_ARGS__ }, sizeof((const uint8_t[]) { __VA_ARGS__ }), 4096)

static void ctrl_commands(void)
{
	static const uint8_t addr[] = { 1, 1, 2, 4, 6, 8, 10, 12 };
	uint8_t config[24];

	/* Short, unknown, of features not negotiated. */
	cr_assert_eq(command("", 0, 1), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(4), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(4, 0), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(4, 0, 1), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(4, 1, 1, 0), VIRTIO_NET_ERR);	 /* RSS */
	cr_assert_eq(COMMAND(4, 2, 1, 0), VIRTIO_NET_ERR);	 /* hash report */
	cr_assert_eq(COMMAND(0, 0, 1), VIRTIO_NET_ERR);		 /* receive modes */
	cr_assert_eq(COMMAND(2, 0, 0xff, 0xff), VIRTIO_NET_ERR); /* VLAN 65535 */
	cr_assert_eq(COMMAND(5, 0, 1, 0, 0, 0, 0, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(6, 0, 1, 0, 0, 0, 0, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(99, 99, 1), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(255, 255), VIRTIO_NET_ERR);
	/* MAC table with a count that would overflow; there is no table. */
	cr_assert_eq(COMMAND(1, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6), VIRTIO_NET_ERR);
	/* One whose bytes would do for an address. */
	cr_assert_eq(COMMAND(1, 0, 2, 0, 0, 0, 2, 4), VIRTIO_NET_ERR);
	/* VQ_PAIRS_SET 0, beyond the maximum, 65535. */
	cr_assert_eq(COMMAND(4, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(4, 0, 3, 0), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(4, 0, 0xff, 0xff), VIRTIO_NET_ERR);
	/* MAC_ADDR_SET: short, a group address, zero, a good one, in any pieces. */
	cr_assert_eq(COMMAND(1, 1, 2, 4, 6, 8, 10), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(1, 1, 3, 4, 6, 8, 10, 12), VIRTIO_NET_ERR);
	cr_assert_eq(COMMAND(1, 1, 0, 0, 0, 0, 0, 0), VIRTIO_NET_ERR);
	for (unsigned piece = 1; piece <= 8; piece++)
		cr_assert_eq(command(addr, sizeof(addr), piece), VIRTIO_NET_OK);
	cr_assert_eq(frontend_get_config(&a.fe, 0, config, 12), 0, "%s", a.fe.error);
	cr_assert_arr_eq(config, addr + 2, 6);
	/* Far longer than anything that is understood. */
	memset(scratch, 1, SCRATCH);
	cr_assert_eq(command(scratch, 4000, 100), VIRTIO_NET_ERR);
	good_frame(&a, &b);
}

Test(net_hostile, T17_control_commands, .timeout = 60)
{
	struct ng_options ob = { 0 };

	for (unsigned mq = 0; mq < 2; mq++) {
		struct ng_options oa = { .features = CTRL_FEATURES |
						     (mq ? NG_BIT(VIRTIO_NET_F_MQ) : 0),
					 .pairs = mq ? 2 : 1 };

		FOR_EACH_VARIANT(oa)
		{
			start(&oa, &ob);
			ctrl_commands();
			/* MQ: both are there, where it was negotiated. */
			cr_assert_eq(COMMAND(4, 0, 2, 0), mq ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
			cr_assert_eq(COMMAND(4, 0, 1, 0), mq ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
			cr_assert_eq(COMMAND(3, 0), VIRTIO_NET_ERR); /* ANNOUNCE: not negotiated */
			stop();
			oa.features &= ~NG_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR);
			start(&oa, &ob);
			cr_assert_eq(COMMAND(1, 1, 2, 4, 6, 8, 10, 12), VIRTIO_NET_ERR);
			stop();
			oa.features |= NG_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR);
		}
	}
}

Test(net_hostile, T17_answer_goes_into_the_first_writable_byte_alone, .timeout = 60)
{
	struct ng_options oa = { .features = CTRL_FEATURES | NG_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) };
	struct ng_options ob = { 0 };

	FOR_EACH_VARIANT(oa)
	{
		struct driver_seg segs[] = { { 0, 2 }, { 0, 100 } };

		start(&oa, &ob);
		segs[0].gpa = scratch_gpa;
		segs[1].gpa = scratch_gpa + 100;
		memset(scratch, 0x77, 300);
		scratch[0] = VIRTIO_NET_CTRL_ANNOUNCE;
		scratch[1] = VIRTIO_NET_CTRL_ANNOUNCE_ACK;
		cr_assert_eq(ng_submit_wait(&a, 2, segs, 1, 1), 1);
		cr_assert_eq(scratch[100], VIRTIO_NET_OK);
		for (unsigned i = 101; i < 300; i++)
			cr_assert_eq(scratch[i], 0x77);
		stop();
	}
}

Test(net_hostile, T17_command_without_answer_buffer_breaks_the_control_queue_alone, .timeout = 60)
{
	struct ng_options oa = { .features = CTRL_FEATURES }, ob = { 0 };

	FOR_EACH_VARIANT(oa)
	{
		struct driver_seg seg = { 0, 2 };

		start(&oa, &ob);
		seg.gpa = scratch_gpa;
		add_chain(&a, 2, &seg, 1, 0);
		for (unsigned i = 0; !signalled(&a, 2) && i < 10000; i++)
			ng_idle(NULL);
		cr_assert(signalled(&a, 2));
		good_frame(&a, &b);
		good_frame(&b, &a);
		stop();
	}
}

/*
 * Receive buffers that are nearly all descriptors without bytes: whoever sends would have to read
 * thousands of them for each frame. A sender looks at so many and drops the frame.
 */
static void wasteful_buffers(bool packed)
{
	struct ng_options oa = { .packed = packed };
	struct ng_options ob = { .features = NG_MRG,
				 .packed = packed,
				 .indirect = DRIVER_INDIRECT_ALL,
				 .rx_idle = true };
	static uint8_t bytes[1400];
	struct driver_seg segs[64] = { 0 };
	struct driver_ring *r;

	start(&oa, &ob);
	r = &b.fe.queue[0].ring;
	ng_alloc(&b, 16, &segs[63].gpa);
	segs[63].len = 16;
	for (unsigned i = 0; i < 200; i++)
		cr_assert_eq(packed ? driver_add(r, DRIVER_PACKED, segs, 0, 64, NULL)
				    : driver_add(r, DRIVER_SPLIT, segs, 0, 64, NULL),
			     0);
	frontend_submit(&b.fe, 0);
	frame_make(bytes, b.mac, a.mac, sizeof(bytes));
	ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
	ng_sent(&a, 0);
	cr_assert_eq(ng_stats(&b).tx_too_big, 1);
	cr_assert_eq(ng_stats(&b).tx_packets, 0);
	/* What fits into few of them arrives. */
	ng_send(&a, 0, NULL, bytes, 64, NULL);
	ng_sent(&a, 0);
	cr_assert_eq(ng_stats(&b).tx_packets, 1);
	stop();
}

Test(net_hostile, receive_buffers_that_are_mostly_empty_descriptors_hold_up_nobody_split)
{
	wasteful_buffers(false);
}

Test(net_hostile, receive_buffers_that_are_mostly_empty_descriptors_hold_up_nobody_packed)
{
	wasteful_buffers(true);
}
