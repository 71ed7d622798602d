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

static bool hash_of(const struct way *w, uint64_t *hash)
{
	struct iovec rest;
	struct packet p = packet_of(w, 64, &rest);
	uint64_t apart;
	bool ok = flows_hash(table, &p, hash);

	/* Wherever the bytes lie. */
	p = packet_of(w, 15, &rest);
	cr_assert_eq(flows_hash(table, &p, &apart), ok);
	cr_assert(!ok || apart == *hash);
	return ok;
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
	uint64_t there, back_again, other;

	for (unsigned i = 0; i < 2 * 3 * 3 * 3; i++) {
		struct way w = { .v6 = i & 1,
				 .proto = protos[i / 2 % 3],
				 .fragment = i / 6 % 3,
				 .tags = i / 18,
				 .host = { 0x0a000001, 0x0a000002 },
				 .port = { 4000, 80 } };
		bool ports = w.proto != IPPROTO_ICMP && !w.fragment;
		struct way b = back(w);

		cr_assert(hash_of(&w, &there));
		cr_assert(hash_of(&b, &back_again));
		cr_assert_eq(there, back_again, "case %u", i);
		/* Another port, and ports that are exchanged: of what has any. */
		for (unsigned k = 0; k < 2; k++) {
			b = w;
			b.port[k] = 99;
			cr_assert(hash_of(&b, &other));
			cr_assert_eq(other != there, ports, "case %u", i);
		}
		b.port[0] = w.port[1];
		b.port[1] = w.port[0];
		cr_assert(hash_of(&b, &other));
		cr_assert_eq(other != there, ports, "case %u", i);
		for (unsigned k = 0; k < 2; k++) {
			b = w;
			b.host[k]++;
			cr_assert(hash_of(&b, &other));
			cr_assert_neq(other, there, "case %u", i);
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
		uint64_t first, later;

		cr_assert(hash_of(&w, &first));
		w.fragment = 2;
		cr_assert(hash_of(&w, &later));
		cr_assert_eq(first, later);
	}
}

Test(flows, what_is_not_ip_or_too_short_has_no_flow)
{
	struct way w = { .proto = IPPROTO_TCP, .host = { 1, 2 }, .port = { 3, 4 } };
	struct iovec rest;
	struct packet p = packet_of(&w, 64, &rest);
	uint64_t hash;

	cr_assert(flows_hash(table, &p, &hash));
	p.head[13] = 0x06; /* ARP */
	cr_assert_not(flows_hash(table, &p, &hash));
	p.head[13] = 0;
	p.head[14] = 0x65;
	cr_assert_not(flows_hash(table, &p, &hash));
	p.head[14] = 0x45;
	p.len = p.head_len = 33;
	p.n_segs = 0;
	cr_assert_not(flows_hash(table, &p, &hash));
}

/* Two flows of one place: the lower bits of the hash are the place's. */
#define ONE ((UINT64_C(0x11111111) << 32) + 5)
#define OTHER ((UINT64_C(0x22222222) << 32) + 5 + FLOWS_MAX)

static uint64_t later(double units)
{
	return (uint64_t)((100 + units) * (double)(UINT64_C(1) << table->age_shift));
}

Test(flows, the_last_pair_that_it_was_sent_by_counts)
{
	cr_assert_eq(flows_pair(table, ONE, later(0)), FLOW_PAIR_NONE);
	for (unsigned pair = 0; pair < 127; pair++) {
		flows_sent(table, ONE, pair, later(0));
		cr_assert_eq(flows_pair(table, ONE, later(0)), pair);
		cr_assert_eq(flows_pair(table, OTHER, later(0)), FLOW_PAIR_NONE);
	}
	flows_forget(table);
	cr_assert_eq(flows_pair(table, ONE, later(0)), FLOW_PAIR_NONE);
	/* Of no tag: not what nobody has sent. */
	cr_assert_eq(flows_pair(table, 5, later(0)), FLOW_PAIR_NONE);
	cr_assert_eq(flows_pair(table, 5, later(1000)), FLOW_PAIR_NONE);
	flows_sent(table, 5, 0, later(0));
	cr_assert_eq(flows_pair(table, 5, later(0)), 0);
}

Test(flows, who_meets_another_waits_until_that_is_silent)
{
	flows_sent(table, ONE, 1, later(0));
	for (double t = 0; t < FLOWS_STALE; t += 0.3) {
		flows_sent(table, OTHER, 2, later(t));
		cr_assert_eq(flows_pair(table, OTHER, later(t)), FLOW_PAIR_NONE, "%f", t);
	}
	flows_sent(table, OTHER, 2, later(FLOWS_STALE));
	cr_assert_eq(flows_pair(table, OTHER, later(FLOWS_STALE)), 2);
	cr_assert_eq(flows_pair(table, ONE, later(FLOWS_STALE)), FLOW_PAIR_NONE);
}

/* Whichever way it goes, and however long. */
Test(flows, a_flow_that_goes_on_keeps_its_place)
{
	double t = 0;

	flows_sent(table, ONE, 1, later(t));
	for (; t < 1000; t += 0.7) {
		flows_sent(table, ONE, 1, later(t));
		flows_sent(table, OTHER, 2, later(t));
		cr_assert_eq(table->entry[5] & 0xffff, 2, "%f", t);
	}
	for (; t < 2000; t += 0.7) {
		cr_assert_eq(flows_pair(table, ONE, later(t)), 1, "%f", t);
		flows_sent(table, OTHER, 2, later(t));
	}
	cr_assert_eq(flows_pair(table, ONE, later(t)), 1);
}

/* Workers share the table's lines: what goes on as it did writes none of them. */
Test(flows, a_flow_that_goes_on_is_not_written_for_each_frame)
{
	uint64_t was;

	flows_sent(table, ONE, 1, later(0));
	was = table->entry[5];
	for (double t = 0; t < FLOWS_STALE / 2; t += 0.1) {
		flows_sent(table, ONE, 1, later(t));
		cr_assert_eq(flows_pair(table, ONE, later(t)), 1);
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
	was = table->entry[5];
	flows_sent(table, OTHER, 2, later(-0.1));
	flows_sent(table, ONE, 1, later(-0.1));
	cr_assert_eq(flows_pair(table, ONE, later(-0.1)), 1);
	cr_assert_eq(table->entry[5], was);
	flows_sent(table, ONE, 1, later(0x10000 - 100.5));
	flows_sent(table, OTHER, 2, later(0x10000 - 99.5));
	cr_assert_eq(flows_pair(table, ONE, later(0x10000 - 99.5)), 1);
}

/* A guest that makes flows up fills a table that is its own, and of one size. */
Test(flows, a_million_flows_take_no_place_from_one_that_goes_on)
{
	struct way w = { .proto = IPPROTO_UDP, .host = { 1, 2 }, .port = { 3, 4 } };
	unsigned places = 0;
	struct iovec rest;
	struct packet p = packet_of(&w, 64, &rest);
	uint64_t hash, now = later(0);

	flows_sent(table, ONE, 1, now);
	for (uint32_t i = 0; i < 1000000; i++) {
		frame_put32(p.head + 26, i);
		cr_assert(flows_hash(table, &p, &hash));
		now += (UINT64_C(1) << table->age_shift) / 1000;
		flows_sent(table, hash, 2, now);
		if (i % 1000 == 0)
			cr_assert_eq(flows_pair(table, ONE, now), 1, "after %u", i);
	}
	for (unsigned i = 0; i < FLOWS_MAX; i++)
		places += table->entry[i] != 0;
	cr_assert_eq(places, FLOWS_MAX);
}
