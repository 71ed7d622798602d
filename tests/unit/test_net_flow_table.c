/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a guest's flows (virtio 1.3 5.1.6.5.6), without a guest and at times of our own. */
#include "net/flows.h"
#include "tests/unit/net_flow_frames.h"

#include <criterion/criterion.h>
#include <netinet/in.h>

static struct packet packet_of(const struct way *w, unsigned head, struct iovec *rest)
{
	static uint8_t bytes[LEN];
	struct packet p = { .len = LEN, .head_len = (uint16_t)head, .segs = rest, .n_segs = 1 };

	frame_fill(bytes, w, 0);
	memcpy(p.head, bytes, head);
	*rest = (struct iovec) { bytes + head, LEN - head };
	return p;
}

static struct flows *table;

static uint64_t hash_of(const struct way *w)
{
	struct iovec rest;
	struct packet p = packet_of(w, 64, &rest);
	uint64_t hash = flows_hash(table, &p);

	/* Wherever the bytes lie. */
	p = packet_of(w, 15, &rest);
	cr_assert_eq(flows_hash(table, &p), hash);
	return hash;
}

static void table_new(void)
{
	table = flows_new();
	cr_assert_not_null(table);
}

static void table_free(void)
{
	free(table);
}

TestSuite(flows, .init = table_new, .fini = table_free);

Test(flows, both_directions_of_a_flow_are_one_flow)
{
	const uint8_t protos[] = { IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP };

	for (unsigned i = 0; i < 2 * 3 * 3 * 3; i++) {
		struct way w = { .v6 = i & 1,
				 .proto = protos[i / 2 % 3],
				 .fragment = i / 6 % 3,
				 .tags = i / 18,
				 .host = { 0x0a000001, 0x0a000002 },
				 .port = { 4000, 80 } };
		bool ports = w.proto != IPPROTO_ICMP && !w.fragment;
		struct way b = back(w);
		uint64_t there = hash_of(&w);

		cr_assert_neq(there, 0);
		cr_assert_eq(hash_of(&b), there, "case %u", i);
		/* Another port, and ports that are exchanged: of what has any. */
		for (unsigned k = 0; k < 2; k++) {
			b = w;
			b.port[k] = 99;
			cr_assert_eq(hash_of(&b) != there, ports, "case %u", i);
		}
		b.port[0] = w.port[1];
		b.port[1] = w.port[0];
		cr_assert_eq(hash_of(&b) != there, ports, "case %u", i);
		for (unsigned k = 0; k < 2; k++) {
			b = w;
			b.host[k]++;
			cr_assert_neq(hash_of(&b), there, "case %u", i);
		}
	}
}

/* A datagram's fragments go one way, though only the first has ports. */
Test(flows, fragments_of_a_datagram_are_one_flow)
{
	for (unsigned v6 = 0; v6 < 2; v6++) {
		struct way w = {
			.v6 = v6, .proto = IPPROTO_UDP, .fragment = 1, .host = { 1, 2 }, { 3, 4 }
		};
		uint64_t first = hash_of(&w);

		w.fragment = 2;
		cr_assert_eq(hash_of(&w), first);
	}
}

Test(flows, what_is_not_ip_or_too_short_has_no_flow)
{
	struct way w = { .proto = IPPROTO_TCP, .host = { 1, 2 }, .port = { 3, 4 } };
	struct iovec rest;
	struct packet p = packet_of(&w, 64, &rest);

	cr_assert_neq(flows_hash(table, &p), 0);
	p.head[13] = 0x06; /* ARP */
	cr_assert_eq(flows_hash(table, &p), 0);
	p.head[13] = 0;
	p.head[14] = 0x65;
	cr_assert_eq(flows_hash(table, &p), 0);
	p.head[14] = 0x45;
	p.len = p.head_len = 33;
	p.n_segs = 0;
	cr_assert_eq(flows_hash(table, &p), 0);
	w.v6 = true;
	p = packet_of(&w, 64, &rest);
	p.head[14] = 0x45;
	cr_assert_eq(flows_hash(table, &p), 0);
}

/* Nobody can tell which flows meet, or whose a hash is: another card has other ones. */
Test(flows, each_card_has_hashes_of_its_own)
{
	struct way w = { .proto = IPPROTO_TCP, .host = { 1, 2 }, .port = { 3, 4 } };
	struct flows *other = flows_new();
	struct iovec rest;
	struct packet p = packet_of(&w, 64, &rest);

	cr_assert_neq(flows_hash(table, &p), flows_hash(other, &p));
	free(other);
}

/* Many flows of one server are spread over the table. */
Test(flows, flows_that_differ_little_are_spread)
{
	struct way w = { .proto = IPPROTO_TCP,
			 .host = { 0x0a000001, 0x0a000002 },
			 .port = { 0, 80 } };
	static unsigned met[FLOWS_MAX];
	unsigned most = 0;

	for (unsigned i = 0; i < 4 * FLOWS_MAX; i++) {
		unsigned *m = met;

		w.port[0] = (uint16_t)(40000 + i);
		m += flow_index(hash_of(&w));
		most = MAX(most, ++*m);
	}
	/* 4 on average; by chance 30 somewhere once in a thousand million. */
	cr_assert_lt(most, 30);
}

/* Two flows of one place: the lower bits of the hash are the place's. */
#define ONE ((UINT64_C(0x111111) << 40) + FLOW_IS + 5)
#define OTHER ((UINT64_C(0x222222) << 40) + FLOW_IS + 5 + FLOWS_MAX)

static uint8_t later(double units)
{
	return (uint8_t)(int)(100 + units);
}

#define NONE 1000

/* Where it is wanted. */
static unsigned wanted(uint64_t hash, uint8_t age)
{
	uint64_t flow = flows_find(table, hash, age);

	return flow ? flow_wanted(flow) : NONE;
}

static void settle(uint64_t hash, uint8_t age)
{
	cr_assert(flows_settle(table, hash, flows_find(table, hash, age), age));
}

Test(flows, the_last_pair_that_it_was_sent_by_counts)
{
	cr_assert_eq(wanted(ONE, later(0)), NONE);
	for (unsigned pair = 0; pair < FLOW_BY_LANE; pair++) {
		flows_sent(table, ONE, pair, later(0));
		cr_assert_eq(wanted(ONE, later(0)), pair);
		cr_assert_eq(wanted(OTHER, later(0)), NONE);
	}
	cr_assert(table->used);
	flows_forget(table);
	cr_assert_not(table->used);
	cr_assert_eq(wanted(ONE, later(0)), NONE);
	/* Of no tag: not what nobody has sent. */
	cr_assert_eq(wanted(FLOW_IS + 5, later(0)), NONE);
	cr_assert_eq(wanted(FLOW_IS + 5, later(50)), NONE);
	flows_sent(table, FLOW_IS + 5, 0, later(0));
	cr_assert_eq(wanted(FLOW_IS + 5, later(0)), 0);
}

/* What that takes is in test_net_flows.c. */
Test(flows, it_goes_where_it_went_until_that_is_settled)
{
	uint64_t flow;

	flows_sent(table, ONE, 3, later(0));
	flow = flows_find(table, ONE, later(0));
	cr_assert_eq(flow_goes(flow), FLOW_BY_LANE);
	cr_assert_not(flow_settled(flow));
	cr_assert(flows_settle(table, ONE, flow, later(0)));
	cr_assert_eq(flow_goes(flows_find(table, ONE, later(0))), 3);
	flows_sent(table, ONE, 4, later(0));
	flow = flows_find(table, ONE, later(0));
	cr_assert_eq(flow_goes(flow), 3);
	cr_assert_eq(flow_wanted(flow), 4);
	/* Sent by yet another: what was seen is no more. */
	flows_sent(table, ONE, 5, later(0));
	cr_assert_not(flows_settle(table, ONE, flow, later(0)));
	cr_assert_eq(flow_goes(flows_find(table, ONE, later(0))), 3);
	/* Back again: there is nothing to wait for. */
	flows_sent(table, ONE, 3, later(0));
	cr_assert(flow_settled(flows_find(table, ONE, later(0))));
}

Test(flows, the_place_of_the_last_frame_is_of_this_move_only)
{
	uint64_t flow;

	flows_sent(table, ONE, 3, later(0));
	flows_stayed(table, ONE, 0xabcd, later(0));
	flows_stayed(table, ONE, 0x1234, later(0));
	flow = flows_find(table, ONE, later(0));
	cr_assert(flow & FLOW_PLACED);
	cr_assert_eq((uint16_t)flow, 0x1234);
	flows_sent(table, ONE, 4, later(0));
	cr_assert(flows_find(table, ONE, later(0)) & FLOW_PLACED);
	settle(ONE, later(0));
	cr_assert_not(flows_find(table, ONE, later(0)) & FLOW_PLACED);
	/* Nothing is asked of one that goes where it is wanted. */
	flows_stayed(table, ONE, 7, later(0));
	cr_assert_not(flows_find(table, ONE, later(0)) & FLOW_PLACED);
	/* To 5, back to 4, and to 5 again: in between frames came of which there is no place. */
	flows_sent(table, ONE, 5, later(0));
	flows_stayed(table, ONE, 7, later(0));
	flows_sent(table, ONE, 4, later(0));
	flows_sent(table, ONE, 5, later(0));
	cr_assert_not(flows_find(table, ONE, later(0)) & FLOW_PLACED);
	/* Somebody else's place is not written. */
	flows_stayed(table, OTHER, 9, later(0));
	cr_assert_not(flows_find(table, ONE, later(0)) & FLOW_PLACED);
}

/* How long nothing has come of it is what counts, whatever is sent. */
Test(flows, one_that_is_to_move_has_the_age_of_its_last_frame)
{
	flows_sent(table, ONE, 3, later(0));
	flows_stayed(table, ONE, 1, later(1));
	for (double t = 1; t <= 1 + FLOWS_STALE; t += 0.5) {
		bool recent = flow_written_within(flows_find(table, ONE, later(t)), later(t),
						  FLOWS_STALE);

		cr_assert_eq(recent, t < 1 + FLOWS_STALE, "%f", t);
		flows_sent(table, ONE, 3 + (unsigned)t % 2, later(t));
	}
}

Test(flows, who_meets_another_waits_until_that_is_silent)
{
	flows_sent(table, ONE, 1, later(0));
	for (double t = 0; t < FLOWS_STALE; t += 0.3) {
		flows_sent(table, OTHER, 2, later(t));
		cr_assert_eq(wanted(OTHER, later(t)), NONE, "%f", t);
	}
	flows_sent(table, OTHER, 2, later(FLOWS_STALE));
	cr_assert_eq(wanted(OTHER, later(FLOWS_STALE)), 2);
	cr_assert_eq(wanted(ONE, later(FLOWS_STALE)), NONE);
}

/* Whichever way it goes, and however long. */
Test(flows, a_flow_that_goes_on_keeps_its_place)
{
	double t = 0;

	flows_sent(table, ONE, 1, later(t));
	settle(ONE, later(t));
	for (; t < 1000; t += 0.7) {
		flows_sent(table, ONE, 1, later(t));
		flows_sent(table, OTHER, 2, later(t));
		cr_assert_eq(flow_wanted(table->entry[5]), 1, "%f", t);
	}
	for (; t < 2000; t += 0.7) {
		cr_assert_eq(wanted(ONE, later(t)), 1, "%f", t);
		flows_sent(table, OTHER, 2, later(t));
	}
	cr_assert_eq(wanted(ONE, later(t)), 1);
}

/* Workers share the table's lines: what goes on as it did writes none of them. */
Test(flows, a_flow_that_goes_on_is_not_written_for_each_frame)
{
	uint64_t was;

	flows_sent(table, ONE, 1, later(0));
	settle(ONE, later(0));
	was = table->entry[5];
	for (double t = 0; t < FLOWS_STALE / 2; t += 0.1) {
		flows_sent(table, ONE, 1, later(t));
		cr_assert_eq(wanted(ONE, later(t)), 1);
		cr_assert_eq(table->entry[5], was, "%f", t);
	}
	flows_sent(table, ONE, 1, later(FLOWS_STALE));
	cr_assert_neq(table->entry[5], was);
}

/* Time as workers read it may differ a little, and its count goes round. */
Test(flows, another_workers_clock_may_be_behind)
{
	uint64_t was;

	flows_sent(table, ONE, 1, later(0));
	settle(ONE, later(0));
	was = table->entry[5];
	flows_sent(table, OTHER, 2, later(-1));
	flows_sent(table, ONE, 1, later(-1));
	cr_assert_eq(wanted(ONE, later(-1)), 1);
	cr_assert_eq(table->entry[5], was);
	flows_sent(table, ONE, 1, later(255 - 100));
	flows_sent(table, OTHER, 2, later(257 - 100));
	cr_assert_eq(wanted(ONE, later(257 - 100)), 1);
}

/* A guest that makes flows up fills a table that is its own, and of one size. */
Test(flows, a_million_flows_take_no_place_from_one_that_goes_on)
{
	struct way w = { .proto = IPPROTO_UDP, .host = { 1, 2 }, .port = { 3, 4 } };
	unsigned places = 0;
	struct iovec rest;
	struct packet p = packet_of(&w, 64, &rest);

	flows_sent(table, ONE, 1, later(0));
	settle(ONE, later(0));
	for (uint32_t i = 0; i < 1000000; i++) {
		uint8_t now = later(i / 1000);
		uint64_t hash;

		frame_put32(p.head + 26, i);
		hash = flows_hash(table, &p);
		cr_assert_neq(hash, 0);
		flows_sent(table, hash, 2, now);
		if (i % 1000 == 0)
			cr_assert_eq(wanted(ONE, now), 1, "after %u", i);
	}
	for (unsigned i = 0; i < FLOWS_MAX; i++)
		places += table->entry[i] != 0;
	cr_assert_eq(places, FLOWS_MAX);
}
