/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Automatic receive steering (virtio 1.3 5.1.6.5.6) reorders nothing: "Order" in net/steer.c. The
 * frames of a flow are taken in the order in which they were sent, whichever ring is looked at
 * first.
 */
#include "tests/unit/net_flow_bed.h"

#include <pthread.h>

/* What the second guest finds in one ring: all of one flow, in order. */
static void take_from(unsigned pair, uint32_t first, uint32_t last)
{
	for (uint32_t n = first; n <= last; n++) {
		ng_receive(&b, pair, &got);
		cr_assert_eq(number_of(&got), n);
	}
}

static void nothing_elsewhere(unsigned pair)
{
	for (unsigned i = 0; i < b.opt.run_pairs; i++)
		cr_assert(i == pair || !ng_try_receive(&b, i, &got), "pair %u", i);
}

static void send_many(unsigned from_pair, unsigned flow, uint32_t first, uint32_t last)
{
	for (uint32_t n = first; n <= last; n++)
		send_flow(&a, from_pair, flow, n);
	ng_sent(&a, from_pair);
}

/* A driver empties its rings in no order: so the old one has to be empty first. */
Test(net_flow_order, a_flow_moves_when_the_driver_has_taken_what_came, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		unsigned at;

		start(&o, 2);
		at = lane_of(0, PAIRS);
		/* Of a flow that was unknown, then of one that is sent by yet another pair. */
		for (uint32_t k = 0; k < 3 * PAIRS; k++) {
			unsigned to = (at + 1) % PAIRS;

			send_many(0, 5, 1, 3);
			answers_by(to, 5);
			send_many(0, 5, 4, 6);
			nothing_elsewhere(at);
			take_from(at, 1, 5);
			/* There is still the sixth one. */
			send_many(0, 5, 7, 7);
			nothing_elsewhere(at);
			take_from(at, 6, 7);
			send_many(0, 5, 8, 9);
			take_from(to, 8, 9);
			nothing_elsewhere(to);
			at = to;
		}
		stop();
	}
}

/* Others' frames in the old ring do not keep it there. */
Test(net_flow_order, a_flow_moves_though_others_keep_its_ring_busy, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		unsigned at, to;

		start(&o, 2);
		at = lane_of(0, PAIRS);
		to = (at + 1) % PAIRS;
		send_many(0, 8, 1, 5);
		send_many(0, 5, 6, 6);
		answers_by(to, 5);
		/* All that is in the ring counts, for nobody knows which is the last of the flow.
		 */
		send_many(0, 5, 7, 7);
		send_many(0, 8, 8, 12);
		nothing_elsewhere(at);
		take_from(at, 1, 7);
		send_many(0, 5, 13, 13);
		take_from(to, 13, 13);
		take_from(at, 8, 12);
		stop();
	}
}

/* Such a driver shows what it has taken only when others use its buffers up, or by silence. */
Test(net_flow_order, a_flow_moves_where_the_ring_is_never_full, .timeout = 120)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS, .rx_count = 200 };
	const unsigned others[] = { 56, 255, 256, 300, 511 };

	FOR_EACH_LAYOUT(o)
	{
		unsigned at;

		start(&o, 2);
		at = lane_of(0, PAIRS);
		/* As many as there are entries without a buffer; and more than go once around. */
		for (unsigned k = 0; k < ARRAY_SIZE(others); k++) {
			answers_by((at + 1) % PAIRS, 5);
			send_many(0, 5, 1, 1);
			take_from(at, 1, 1);
			for (uint32_t n = 0; n < others[k]; n++) {
				send_many(0, 8 + at, n, n);
				take_from(at, n, n);
			}
			send_many(0, 5, 2, 2);
			at = (at + 1) % PAIRS;
			take_from(at, 2, 2);
			/* So that the others come by that, too. */
			answers_by(at, 8 + at);
			silent();
		}
		answers_by((at + 1) % PAIRS, 5);
		send_many(0, 5, 3, 3);
		take_from(at, 3, 3);
		silent();
		send_many(0, 5, 4, 4);
		take_from((at + 1) % PAIRS, 4, 4);
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
	unsigned by[PAIRS], back;
	uint32_t random;
};

static unsigned chance(struct order *o, unsigned n)
{
	o->random = o->random * 1664525 + 1013904223;
	return (o->random >> 16) % n;
}

/* @some: from some of the rings, now and then; else from all, until they are empty. */
static void take_in_order(struct order *o, bool some)
{
	for (unsigned pair = 0; pair < PAIRS; pair++)
		while ((!some || chance(o, 4)) && ng_try_receive(&b, pair, &got)) {
			unsigned flow = number_of(&got) >> 16;

			cr_assert_lt(flow, FLOWS);
			cr_assert_eq(number_of(&got) & 0xffff, ++o->seen[flow], "flow %u", flow);
			o->by[pair]++;
		}
	for (unsigned pair = 0; pair < a.opt.run_pairs; pair++)
		while (ng_try_receive(&a, pair, &got))
			o->back++;
}

/*
 * Some flows only come in, some are answered, and some by now this, now that pair; the guest looks
 * at its rings as it likes; all queues move between workers meanwhile.
 */
Test(net_flow_order, a_flow_stays_in_order_while_queues_move, .timeout = 240)
{
	struct ng_options opt = { .features = MQ, .pairs = PAIRS, .ring_size = 1024 };

	FOR_EACH_LAYOUT(opt)
	{
		struct order o = { .random = 1 };
		unsigned answers = 0;

		start(&opt, WORKERS);
		for (unsigned round = 0; round < 200; round++) {
			/* By turns: a guest here has few buffers, and its pairs share them. */
			for (unsigned i = 0, n = (1 + chance(&o, 4)) * FLOWS; i < n; i++) {
				unsigned flow = i % FLOWS;

				send_flow(&a, flow % 2, flow, flow << 16 | ++o.sent[flow]);
			}
			for (unsigned flow = 0; flow < FLOWS; flow++) {
				if (flow % 3 == 0 || chance(&o, 3))
					continue;
				send_flow(&b, flow % 3 == 1 ? 3 : chance(&o, PAIRS), flow, 0);
				answers++;
			}
			if (round % 2)
				move_all(round);
			take_in_order(&o, round % 8 != 0);
		}
		for (unsigned pair = 0; pair < PAIRS; pair++) {
			ng_sent(&a, pair % 2);
			ng_sent(&b, pair);
		}
		take_in_order(&o, false);
		for (unsigned flow = 0; flow < FLOWS; flow++)
			cr_assert_eq(o.seen[flow], o.sent[flow]);
		cr_assert_eq(o.back, answers);
		/* And the answers were not for nothing. */
		for (unsigned pair = 0; pair < PAIRS; pair++)
			cr_assert_neq(o.by[pair], 0, "pair %u", pair);
		stop();
	}
}

/* A worker of the second guest's that has much to say of where it wants a flow. */
static void *change_mind(void *arg)
{
	struct packet p = { .len = LEN, .head_len = LEN };
	uint64_t hash;

	frame_fill(p.head, &flows[5], 0);
	hash = flows_hash(b.dev->flows, &p);
	for (unsigned pair = 0; !__atomic_load_n((bool *)arg, __ATOMIC_RELAXED); pair++)
		flows_sent(b.dev->flows, hash, pair % PAIRS, 0);
	return NULL;
}

/* Also where it changes between two frames of a burst. Both are there when the worker wakes. */
Test(net_flow_order, a_flow_stays_in_order_whatever_its_guest_wants, .timeout = 240)
{
	struct ng_options o = { .features = MQ, .pairs = PAIRS };

	FOR_EACH_LAYOUT(o)
	{
		unsigned by[PAIRS] = { 0 };
		bool over = false;
		pthread_t thread;

		start(&o, 1);
		cr_assert_eq(pthread_create(&thread, NULL, change_mind, &over), 0);
		for (uint32_t n = 0, seen = 0; n < 4000; n += 2) {
			usleep(200);
			send_flow(&a, 0, 5, n);
			send_flow(&a, 0, 5, n + 1);
			for (unsigned i = 0; seen < n + 2; i++) {
				unsigned pair = n & 2 ? i % PAIRS : PAIRS - 1 - i % PAIRS;

				if (!ng_try_receive(&b, pair, &got))
					continue;
				cr_assert_eq(number_of(&got), seen++);
				by[pair]++;
			}
		}
		__atomic_store_n(&over, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		for (unsigned pair = 0; pair < PAIRS; pair++)
			cr_assert_neq(by[pair], 0, "pair %u", pair);
		stop();
	}
}
