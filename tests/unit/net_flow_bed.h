/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two cards for the tests of automatic receive steering: one of two pairs that sends flows, and one
 * of several, which answers them.
 */
#ifndef SLUICE_TESTS_NET_FLOW_BED_H
#define SLUICE_TESTS_NET_FLOW_BED_H

#include "net/virtio_net.h"
#include "tests/unit/net_flow_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <unistd.h>

#define PAIRS 4

#define F(name) NG_BIT(VIRTIO_NET_F_##name)
#define MQ F(MQ)
#define CTRL F(CTRL_VQ)
#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

static struct net_guest a, b;
static struct ng_frame got;

static inline struct way flow_of(unsigned n)
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

static inline void flows_choose(void)
{
	const struct flows *table = b.dev->flows;
	bool taken[FLOWS_MAX] = { false };
	unsigned n = 0;

	for (unsigned i = 0; n < N_FLOWS; i++) {
		struct packet p = { .len = LEN, .head_len = LEN };
		uint64_t hash;

		flows[n] = flow_of(i);
		frame_fill(p.head, &flows[n], 0);
		hash = flows_hash(table, &p);
		cr_assert_neq(hash, 0);
		if (!taken[flow_index(hash)])
			n++;
		taken[flow_index(hash)] = true;
	}
}

/* From the first guest to the second one, or back. */
static inline void send_flow(struct net_guest *from, unsigned pair, unsigned flow, uint32_t number)
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

static inline uint32_t number_of(const struct ng_frame *f)
{
	return frame_get32(f->bytes + LEN - 4);
}

/* @return the pair of the second guest that a frame of it comes by. */
static inline unsigned comes_by(unsigned from_pair, unsigned flow)
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

/* The second guest sends a flow, by a queue that has not just been looked at. */
static inline void answers_by(unsigned pair, unsigned flow)
{
	unsigned i = 0;

	usleep(2 * FLOWS_LOOK_US);
	send_flow(&b, pair, flow, 0);
	for (; !ng_try_receive(&a, i % a.opt.run_pairs, &got); i++)
		ng_idle(NULL);
}

static inline void start(const struct ng_options *ob, unsigned workers)
{
	struct ng_options oa = { .features = MQ, .pairs = 2, .packed = !ob->packed };

	ng_world_start(workers);
	ng_start(&a, 0, &oa);
	ng_start(&b, 1, ob);
	/* Time stands still for the table: only silent() makes anything old. */
	a.dev->flows->age_shift = b.dev->flows->age_shift = 63;
	flows_choose();
}

/* For long enough, all of the second guest's flows, both ways. */
static inline void silent(void)
{
	const uint64_t age = UINT64_C(0xff) << FLOW_AGE_SHIFT;

	for (unsigned i = 0; i < FLOWS_MAX; i++) {
		uint64_t *e = &b.dev->flows->entry[i], flow = __atomic_load_n(e, __ATOMIC_RELAXED);
		uint64_t old = flow - ((uint64_t)FLOWS_STALE << FLOW_AGE_SHIFT);

		if (flow)
			__atomic_store_n(e, (flow & ~age) | (old & age), __ATOMIC_RELAXED);
	}
}

static inline void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

/* Where frames come of a flow that the second guest has not sent. */
static inline unsigned lane_of(unsigned from_pair, unsigned open)
{
	return a.dev->queues[2 * from_pair + 1].lane % open;
}

#endif
