/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Automatic receive steering (virtio 1.3 5.1.6.5.6): cards with several queue pairs, whose frames
 * come where their guest sends from.
 */
#include "net/virtio_net.h"
#include "tests/unit/net_flow_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <netinet/in.h>

#define PAIRS 4

#define F(name) NG_BIT(VIRTIO_NET_F_##name)
#define MQ F(MQ)
#define CTRL F(CTRL_VQ)
#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

static struct net_guest a, b;
static struct ng_frame got;

static struct way flow_of(unsigned n)
{
	return (struct way) { .v6 = n & 1,
			      .proto = n & 2 ? IPPROTO_UDP : IPPROTO_TCP,
			      .fragment = n % 7 == 3,
			      .host = { 0x0a000001 + (n % 7 == 3 ? n << 8 : 0), 0x0a000002 },
			      .port = { (uint16_t)(1000 + n), 443 } };
}

/*
 * Flows that do not meet in the second guest's table: where they stand nobody can foretell, and who
 * meets another is not followed.
 */
#define N_FLOWS 200

static struct way flows[N_FLOWS];

static void flows_choose(void)
{
	const struct flows *table = b.dev->flows;
	bool taken[FLOWS_MAX] = { false };
	unsigned n = 0;

	for (unsigned i = 0; n < N_FLOWS; i++) {
		struct packet p = { .len = LEN, .head_len = LEN };
		uint64_t hash;

		flows[n] = flow_of(i);
		frame_fill(p.head, &flows[n], 0);
		cr_assert(flows_hash(table, &p, &hash));
		if (!taken[hash % FLOWS_MAX])
			n++;
		taken[hash % FLOWS_MAX] = true;
	}
}

/* From the first guest to the second one, or back. */
static void send_flow(struct net_guest *from, unsigned pair, unsigned flow, uint32_t number)
{
	const struct net_guest *to = from == &a ? &b : &a;
	struct way w = flows[flow];
	uint8_t bytes[LEN];

	if (from == &b)
		w = back(w);
	memcpy(bytes, to->mac, 6);
	memcpy(bytes + 6, from->mac, 6);
	frame_fill(bytes, &w, number);
	ng_send(from, pair, NULL, bytes, LEN, NULL);
}

static uint32_t number_of(const struct ng_frame *f)
{
	return frame_get32(f->bytes + LEN - 4);
}

/* @return the pair of the second guest that a frame of it comes by. */
static unsigned comes_by(unsigned from_pair, unsigned flow)
{
	static uint32_t number;

	send_flow(&a, from_pair, flow, ++number);
	for (unsigned i = 0; i < 200000; i++) {
		if (ng_try_receive(&b, i % b.opt.run_pairs, &got)) {
			cr_assert_eq(number_of(&got), number);
			return i % b.opt.run_pairs;
		}
		ng_idle(NULL);
	}
	cr_assert_fail("flow %u has not come", flow);
	return PAIRS;
}

/* The second guest sends a flow. */
static void answers_by(unsigned pair, unsigned flow)
{
	unsigned i = 0;

	send_flow(&b, pair, flow, 0);
	for (; !ng_try_receive(&a, i % a.opt.run_pairs, &got); i++)
		ng_idle(NULL);
}

static void start(const struct ng_options *ob, unsigned workers)
{
	struct ng_options oa = { .features = MQ, .pairs = 2, .packed = !ob->packed };

	ng_world_start(workers);
	ng_start(&a, 0, &oa);
	ng_start(&b, 1, ob);
	flows_choose();
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

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

Test(net_flows, an_unknown_flow_comes_by_one_queue_whoever_brings_it, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		unsigned by[PAIRS] = { 0 };

		start(&o, 2);
		for (unsigned flow = 0; flow < 100; flow++) {
			unsigned pair = comes_by(0, flow);

			by[pair]++;
			for (unsigned k = 0; k < 4; k++)
				cr_assert_eq(comes_by(k % 2, flow), pair);
		}
		/* By chance none of a hundred: once in a million million. */
		for (unsigned pair = 0; pair < PAIRS; pair++)
			cr_assert_neq(by[pair], 0);
		stop();
	}
}

/* QEMU starts all queues, and enables those that the guest uses. */
Test(net_flows, unknown_flows_are_shared_out_among_enabled_queues, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		unsigned by[PAIRS] = { 0 };

		start(&o, 2);
		for (unsigned pair = 2; pair < PAIRS; pair++)
			cr_assert_eq(frontend_queue_enable(&b.fe, 2 * pair, false), 0);
		for (unsigned flow = 0; flow < 200; flow++)
			by[comes_by(flow % 2, flow)]++;
		/* Halves: less than 60 of 200 come by one once in a hundred million. */
		cr_assert_gt(by[0], 60);
		cr_assert_gt(by[1], 60);
		cr_assert_eq(by[0] + by[1], 200);
		/* What was sent by one that is disabled now comes by another. */
		answers_by(3, 1);
		cr_assert_lt(comes_by(0, 1), 2);
		cr_assert_eq(frontend_queue_enable(&b.fe, 2 * 3, true), 0);
		cr_assert_eq(comes_by(0, 1), 3);
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
		for (unsigned n = PAIRS; n > 0; n--) {
			use_pairs(n);
			for (unsigned flow = 0; flow < 20; flow++) {
				unsigned pair = comes_by(flow % 2, flow);

				cr_assert_lt(pair, n);
				if (flow % 4 < n)
					cr_assert_eq(pair, flow % 4);
				cr_assert_eq(comes_by((flow + 1) % 2, flow), pair);
			}
		}
		use_pairs(4);
		for (unsigned flow = 0; flow < 20; flow++)
			cr_assert_eq(comes_by(flow % 2, flow), flow % 4);
		stop();
	}
}

/* One that begins anew has sent nothing; its flows are found where a hash that stays has them. */
Test(net_flows, a_new_driver_has_sent_nothing, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		unsigned home;

		start(&o, 2);
		home = comes_by(0, 1);
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
		for (unsigned pair = 0; pair < PAIRS; pair++) {
			answers_by(pair, f);
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

#define WORKERS 3
#define FLOWS 6

/* Every queue, of the one who sends and of the one who receives, now here, now there. */
static void move_all(unsigned round)
{
	const struct vhost_device *da = net_device_vhost(a.dev), *db = net_device_vhost(b.dev);

	for (unsigned q = 0; q < 4; q++)
		cr_assert(vhost_queue_move(&da->queues[q],
					   workers_get(ng_workers, (round + q) % WORKERS)));
	for (unsigned q = 0; q < 2 * PAIRS; q++)
		cr_assert(vhost_queue_move(&db->queues[q],
					   workers_get(ng_workers, (round + q / 2) % WORKERS)));
}

struct order {
	uint32_t sent[FLOWS], seen[FLOWS];
	unsigned home[FLOWS], back;
};

static void take_in_order(struct order *o)
{
	for (unsigned pair = 0; pair < PAIRS; pair++)
		while (ng_try_receive(&b, pair, &got)) {
			unsigned flow = number_of(&got) >> 16;

			cr_assert_lt(flow, FLOWS);
			cr_assert_eq(pair, o->home[flow], "flow %u", flow);
			cr_assert_eq(number_of(&got) & 0xffff, ++o->seen[flow]);
		}
	for (unsigned pair = 0; pair < a.opt.run_pairs; pair++)
		while (ng_try_receive(&a, pair, &got))
			o->back++;
}

/* Half of the flows are answered, the others only come in. */
Test(net_flows, a_flow_stays_in_order_while_queues_move, .timeout = 120)
{
	struct ng_options opt = { .features = MQ, .pairs = PAIRS, .ring_size = 1024 };

	FOR_EACH_LAYOUT(opt)
	{
		struct order o = { .back = 0 };

		start(&opt, WORKERS);
		for (unsigned flow = 0; flow < FLOWS; flow++) {
			o.home[flow] = comes_by(0, flow);
			if (flow % 2)
				answers_by(o.home[flow] = (o.home[flow] + 1) % PAIRS, flow);
		}
		for (unsigned round = 0; round < 150; round++) {
			for (unsigned flow = 0; flow < FLOWS; flow++) {
				send_flow(&a, flow % 2, flow, flow << 16 | ++o.sent[flow]);
				if (flow % 2 && round % 3 == 0)
					send_flow(&b, o.home[flow], flow, 0);
			}
			move_all(round);
			take_in_order(&o);
		}
		for (unsigned pair = 0; pair < PAIRS; pair++) {
			ng_sent(&a, pair % 2);
			ng_sent(&b, pair);
		}
		take_in_order(&o);
		for (unsigned flow = 0; flow < FLOWS; flow++)
			cr_assert_eq(o.seen[flow], o.sent[flow]);
		cr_assert_eq(o.back, 50 * FLOWS / 2);
		stop();
	}
}

Test(net_flows, a_guest_that_makes_flows_up_harms_nobody, .timeout = 120)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		unsigned home[20];

		start(&o, 2);
		for (unsigned flow = 0; flow < 20; flow++)
			home[flow] = comes_by(0, flow);
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
		for (unsigned flow = 0; flow < 20; flow++) {
			unsigned pair = (home[flow] + 1) % PAIRS;

			cr_assert_eq(comes_by(flow % 2, flow), home[flow]);
			answers_by(pair, flow);
			cr_assert_eq(comes_by(flow % 2, flow), pair);
		}
		stop();
	}
}
