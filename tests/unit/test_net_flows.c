/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Automatic receive steering (virtio 1.3 5.1.6.5.6): cards with several queue pairs, whose frames
 * come where their guest sends from.
 */
#include "tests/unit/net_flow_bed.h"

static uint8_t control(struct net_guest *g, uint8_t cmd, const void *data, unsigned len)
{
	uint64_t gpa;
	uint8_t *p = ng_alloc(g, 128, &gpa);
	struct driver_seg segs[] = { { gpa, 2 + len }, { gpa + 100, 1 } };

	p[0] = VIRTIO_NET_CTRL_MQ;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	cr_assert_eq(ng_submit_wait(g, ng_ctrl_index(g), segs, 1, 1), 1);
	return p[100];
}

static void use_pairs(unsigned n)
{
	uint8_t data[2] = { (uint8_t)n };

	cr_assert_eq(control(&b, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, data, 2), VIRTIO_NET_OK);
}

Test(net_flows, a_flow_comes_where_the_guest_last_sent_it_from_5_1_6_5_6, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 2);
		for (unsigned flow = 0; flow < 24; flow++) {
			for (unsigned k = 0; k < PAIRS; k++) {
				unsigned pair = (flow + k * 3) % PAIRS;

				answers_by(pair, flow);
				cr_assert_eq(comes_by(k % 2, flow), pair, "flow %u", flow);
			}
		}
		/* Each still where it was last sent from; the first guest's own sending is nothing
		 * to the second one. */
		for (unsigned flow = 0; flow < 24; flow++)
			cr_assert_eq(comes_by(flow % 2, flow), (flow + 9) % PAIRS, "flow %u", flow);
		stop();
	}
}

/* What only comes in is not split over rings, whatever flows there are besides. */
Test(net_flows, an_unknown_flow_comes_by_its_lane, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 2);
		cr_assert_neq(lane_of(0, PAIRS), lane_of(1, PAIRS));
		for (unsigned round = 0; round < 2; round++) {
			for (unsigned flow = 0; flow < 100; flow++)
				cr_assert_eq(comes_by(flow % 2, flow), lane_of(flow % 2, PAIRS));
			for (unsigned flow = 100; flow < 120; flow++)
				answers_by(flow % PAIRS, flow);
			cr_assert(b.dev->flows->used);
		}
		stop();
	}
}

/* Nor what goes to a group, which is no answer to anybody. */
Test(net_flows, a_group_has_no_flow, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		uint8_t keep[6];

		start(&o, 2);
		answers_by(3, 2);
		cr_assert_eq(comes_by(0, 2), 3);
		memcpy(keep, b.mac, 6);
		memset(b.mac, 0xff, 6);
		cr_assert_eq(comes_by(0, 2), lane_of(0, PAIRS));
		memcpy(b.mac, keep, 6);
		cr_assert_eq(comes_by(0, 2), 3);
		stop();
	}
}

/* QEMU starts all queues, and enables those that the guest uses. */
Test(net_flows, lanes_are_shared_out_among_enabled_queues, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 2);
		for (unsigned pair = 2; pair < PAIRS; pair++)
			cr_assert_eq(frontend_queue_enable(&b.fe, 2 * pair, false), 0);
		for (unsigned flow = 0; flow < 20; flow++)
			cr_assert_eq(comes_by(flow % 2, flow), lane_of(flow % 2, 2));
		/* What was sent by one that is disabled now comes by another. */
		answers_by(3, 1);
		cr_assert_lt(comes_by(0, 1), 2);
		cr_assert_eq(frontend_queue_enable(&b.fe, 2 * 3, true), 0);
		cr_assert_eq(comes_by(0, 1), 3);
		stop();
	}
}

static unsigned places_taken(void)
{
	unsigned n = 0;

	for (unsigned i = 0; b.dev->flows && i < FLOWS_MAX; i++)
		n += __atomic_load_n(&b.dev->flows->entry[i], __ATOMIC_RELAXED) != 0;
	return n;
}

/* Then nothing is learned, and nothing looked for. */
Test(net_flows, one_pair_has_no_flows, .timeout = 60)
{
	struct ng_options one = { .features = CTRL, .pairs = 1 };
	struct ng_options four = { .features = MQ | CTRL, .pairs = PAIRS };
	struct ng_options deaf = { .features = MQ, .pairs = PAIRS };
	struct ng_options unasked = { .features = CTRL, .pairs = PAIRS, .run_pairs = 1 };
	struct ng_options *cases[] = { &one, &four, &deaf, &unasked };

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		struct ng_options *o = cases[i / 2];

		o->packed = i % 2;
		ng_world_start(2);
		ng_start(&a, 0, &(struct ng_options) { .features = MQ, .pairs = 2 });
		ng_start(&b, 1, o);
		if (o == &one)
			cr_assert_null(b.dev->flows);
		else
			flows_choose();
		/* One is used, of four, before the driver says more; one is enabled, of four. */
		for (unsigned pair = 1; o == &deaf && pair < PAIRS; pair++)
			cr_assert_eq(frontend_queue_enable(&b.fe, 2 * pair, false), 0);
		for (unsigned flow = 0; flow < 10; flow++) {
			answers_by(o->run_pairs == 1 || o == &one ? 0 : flow % PAIRS, flow);
			cr_assert_eq(comes_by(flow % 2, flow), 0);
		}
		cr_assert_eq(places_taken(), 0);
		stop();
	}
}

/* 5.1.6.5.6.2: once the command is answered nothing comes by the pairs left out. */
Test(net_flows, pairs_that_the_guest_gives_up_get_no_flow, .timeout = 60)
{
	struct ng_options o = { .features = MQ | CTRL, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 2);
		use_pairs(4);
		for (unsigned flow = 0; flow < 20; flow++)
			answers_by(flow % 4, flow);
		for (unsigned flow = 0; flow < 20; flow++)
			cr_assert_eq(comes_by(flow % 2, flow), flow % 4);
		for (unsigned n = PAIRS; n > 0; n--) {
			use_pairs(n);
			for (unsigned flow = 0; flow < 20; flow++) {
				unsigned pair = comes_by(flow % 2, flow);

				cr_assert_eq(pair, flow % 4 < n ? flow % 4 : lane_of(flow % 2, n));
			}
		}
		use_pairs(4);
		for (unsigned flow = 0; flow < 20; flow++)
			cr_assert_eq(comes_by(flow % 2, flow), flow % 4);
		stop();
	}
}

/* One that begins anew has sent nothing. */
Test(net_flows, a_new_driver_has_sent_nothing, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		unsigned home;

		start(&o, 2);
		home = comes_by(0, 1);
		cr_assert_eq(home, lane_of(0, PAIRS));
		answers_by((home + 1) % PAIRS, 1);
		cr_assert_eq(comes_by(0, 1), (home + 1) % PAIRS);
		ng_disconnect(&b);
		ng_connect(&b);
		cr_assert_eq(comes_by(0, 1), home);
		stop();
	}
}

/* 5.1.6.5.5: the last command says which way of steering it is. */
Test(net_flows, a_table_of_rss_counts_for_more, .timeout = 60)
{
	struct ng_options o = { .features = MQ | F(RSS) | F(HASH_REPORT) | CTRL, .pairs = PAIRS };
	const uint8_t rss[] = { 0x3f, 0, 0, 0, 0, 0, 2, 0, 2, 0, 4, 0, 0 };
	const uint8_t hash[] = { 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x6d, 0x5a };

	FOR_EACH_LAYOUT(o)
	{
		unsigned f = 0, home;

		start(&o, 2);
		while (flows[f].v6 || flows[f].fragment || flows[f].proto != IPPROTO_UDP)
			f++;
		use_pairs(4);
		home = comes_by(0, f);
		answers_by((home + 1) % PAIRS, f);
		cr_assert_eq(comes_by(0, f), (home + 1) % PAIRS);
		cr_assert_eq(control(&b, VIRTIO_NET_CTRL_MQ_RSS_CONFIG, rss, sizeof(rss)),
			     VIRTIO_NET_OK);
		flows_forget(b.dev->flows);
		for (unsigned pair = 0; pair < PAIRS; pair++) {
			answers_by(pair, f);
			cr_assert_eq(places_taken(), 0);
			cr_assert_eq(comes_by(pair % 2, f), 2);
			cr_assert_eq(got.hash_report, VIRTIO_NET_HASH_REPORT_UDPv4);
		}
		/* Hashes that are only reported say nothing of the queue. */
		use_pairs(4);
		cr_assert_eq(control(&b, VIRTIO_NET_CTRL_MQ_HASH_CONFIG, hash, sizeof(hash)),
			     VIRTIO_NET_OK);
		for (unsigned pair = 0; pair < PAIRS; pair++) {
			answers_by(pair, f);
			cr_assert_eq(comes_by(pair % 2, f), pair);
			cr_assert_eq(got.hash_report, VIRTIO_NET_HASH_REPORT_UDPv4);
			cr_assert_neq(got.hash_value, 0);
		}
		stop();
	}
}

Test(net_flows, a_guest_that_makes_flows_up_harms_nobody, .timeout = 120)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 2);
		/* The first guest's flows are made up; the second one gets some of them, and none
		 * stands in its table. */
		for (uint32_t i = 0; i < 10000; i++) {
			struct way w = { .proto = IPPROTO_UDP, .host = { i * 77, i }, { 5, 6 } };
			uint8_t bytes[LEN];

			memcpy(bytes, b.mac, 6);
			memcpy(bytes + 6, a.mac, 6);
			frame_fill(bytes, &w, i);
			ng_send(&a, i % 2, NULL, bytes, LEN, NULL);
			for (unsigned pair = 0; pair < PAIRS; pair++)
				while (ng_try_receive(&b, pair, &got))
					;
		}
		ng_sent(&a, 0);
		ng_sent(&a, 1);
		for (unsigned pair = 0; pair < PAIRS; pair++)
			while (ng_try_receive(&b, pair, &got))
				;
		cr_assert_eq(places_taken(), 0);
		for (unsigned flow = 0; flow < 20; flow++) {
			cr_assert_eq(comes_by(flow % 2, flow), lane_of(flow % 2, PAIRS));
			answers_by(flow % PAIRS, flow);
			cr_assert_eq(comes_by(flow % 2, flow), flow % PAIRS);
		}
		stop();
	}
}
