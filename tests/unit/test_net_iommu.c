/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network cards of guests behind an IOMMU (vhost-user "IOMMU support"): frames go where the IOMMU
 * says, and a receiver is not found unprepared.
 */
#include "tests/guest/frontend_iommu.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"
#include "vhost/iotlb.h"

#include <criterion/criterion.h>

#define PAGE 4096
#define RING 256
#define LEN_MIN 64

static struct net_guest a, b;
static struct ng_frame got;

#define FOR_EACH_LAYOUT(o) \
	for (unsigned v = 0; (o).packed = v & 1, (o).event_idx = v / 2, v < 4; v++)

#define EVENTUALLY(cond)                                                              \
	({                                                                            \
		bool there = false;                                                   \
		for (unsigned tries = 0; !(there = (cond)) && tries < 20000; tries++) \
			ng_idle(NULL);                                                \
		there;                                                                \
	})

static void start(const struct ng_options *oa, const struct ng_options *ob)
{
	ng_world_start(2);
	ng_start(&a, 0, oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

/* A frame whose length and bytes follow from its number. */
static unsigned number_len(uint32_t number)
{
	return LEN_MIN + number * 97 % (1514 - LEN_MIN);
}

static void number_fill(uint8_t *bytes, const struct net_guest *from, const struct net_guest *to,
			uint32_t number)
{
	memcpy(bytes, to->mac, 6);
	memcpy(bytes + 6, from->mac, 6);
	frame_put16(bytes + 12, 0x88b5);
	frame_put32(bytes + 14, number);
	for (unsigned i = 18; i < number_len(number); i++)
		bytes[i] = (uint8_t)(number * 31 + i);
}

static void send_number(struct net_guest *from, const struct net_guest *to, uint32_t number)
{
	uint8_t bytes[1514];

	number_fill(bytes, from, to, number);
	ng_send(from, 0, NULL, bytes, number_len(number), NULL);
}

/* The next frame, whole and unchanged. @return its number. */
static uint32_t check_number(const struct net_guest *from, const struct net_guest *to)
{
	uint8_t bytes[1514];
	uint32_t number = frame_get32(got.bytes + 14);

	number_fill(bytes, from, to, number);
	cr_assert_eq(got.len, number_len(number));
	cr_assert_eq(memcmp(got.bytes, bytes, got.len), 0, "frame %u was changed", number);
	return number;
}

static struct iotlb *table(const struct net_guest *g)
{
	return net_device_vhost(g->dev)->iotlb;
}

/* Are the first @n receive buffers mapped for writing, each whole? */
static bool mapped(const struct net_guest *g, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t at = g->rx[i].segs[0].gpa, left = g->rx[i].segs[0].len;
		unsigned hint = 0;

		while (left) {
			uint64_t piece = left;

			if (!mem_resolve(iotlb_write_map(table(g)), at, &piece, &hint))
				return false;
			at += piece;
			left -= piece;
		}
	}
	return true;
}

static uint64_t lost(const struct net_guest *g)
{
	struct port_stats s = ng_stats(g);

	return s.tx_no_buffer + s.tx_down + s.tx_too_big + s.tx_error;
}

static void invalidate(struct net_guest *g, uint64_t iova, uint64_t size)
{
	cr_assert_eq(frontend_iotlb(&g->fe, VU_IOTLB_INVALIDATE, iova, size, 0, 0), 0, "%s",
		     g->fe.error);
}

/* @n frames, with a pause for none of them. */
static void send_all(uint32_t first, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		send_number(&a, &b, first + i);
		/* Those that are there are taken meanwhile, as a driver does. */
		while (ng_try_receive(&b, 0, &got))
			check_number(&a, &b);
	}
	ng_sent(&a, 0);
	while (ng_try_receive(&b, 0, &got))
		check_number(&a, &b);
}

Test(net_iommu, receive_buffers_are_mapped_before_a_frame_needs_them, .timeout = 60)
{
	struct ng_options oa = { 0 }, ob = { .iommu = true, .ring_size = RING };

	FOR_EACH_LAYOUT(ob)
	{
		start(&oa, &ob);
		cr_assert(EVENTUALLY(mapped(&b, RING)), "nobody asked");
		send_all(0, 3 * RING);
		cr_assert_eq(ng_stats(&b).tx_packets, 3u * RING);
		cr_assert_eq(lost(&b), 0u);
		stop();
	}
}

/* The driver makes them available at any time, and there is no other work that would wake us. */
Test(net_iommu, buffers_that_come_while_all_sleep_are_looked_at, .timeout = 60)
{
	struct ng_options oa = { 0 }, ob = { .iommu = true, .ring_size = RING, .rx_idle = true };

	FOR_EACH_LAYOUT(ob)
	{
		start(&oa, &ob);
		for (unsigned n = 1; n <= 3; n++) {
			for (unsigned w = 0; w < 2; w++)
				cr_assert(EVENTUALLY(worker_n_active(workers_get(ng_workers, w)) ==
						     0));
			/* The same buffers each time. */
			ng_fill(&b, 0, 40);
			cr_assert(EVENTUALLY(mapped(&b, 40)), "round %u: nobody asked", n);
			send_all(0, 40);
			cr_assert_eq(ng_stats(&b).tx_packets, 40u * n);
			cr_assert_eq(lost(&b), 0u);
			invalidate(&b, b.rx[0].segs[0].gpa, UINT64_C(40) * PAGE);
		}
		stop();
	}
}

/* A large ring: as far as we look ahead, and on from there. */
Test(net_iommu, looking_ahead_goes_with_the_frames, .timeout = 60)
{
	struct ng_options oa = { 0 }, ob = { .iommu = true, .ring_size = 1024 };

	FOR_EACH_LAYOUT(ob)
	{
		start(&oa, &ob);
		cr_assert(EVENTUALLY(mapped(&b, RING)));
		cr_assert_not(mapped(&b, 1024), "it has no end");
		for (unsigned i = 0; i < 1000; i += 50) {
			send_all(i, 50);
			cr_assert(EVENTUALLY(mapped(&b, MIN(i + 50 + RING, 1024u))));
		}
		cr_assert_eq(lost(&b), 0u);
		stop();
	}
}

Test(net_iommu, invalidated_buffers_are_asked_for_again, .timeout = 60)
{
	struct ng_options oa = { 0 }, ob = { .iommu = true, .ring_size = RING };

	FOR_EACH_LAYOUT(ob)
	{
		start(&oa, &ob);
		cr_assert(EVENTUALLY(mapped(&b, RING)));
		for (unsigned i = 0; i < RING; i += 51) {
			invalidate(&b, b.rx[i].segs[0].gpa, 1538);
			cr_assert(EVENTUALLY(mapped(&b, RING)), "buffer %u", i);
		}
		/* All of it, and the rings too. */
		invalidate(&b, 0, 0);
		cr_assert(EVENTUALLY(mapped(&b, RING)));
		send_all(0, 3 * RING);
		cr_assert_eq(lost(&b), 0u);
		stop();
	}
}

/* T15: not mapped, or not for writing, is not written to. */
Test(net_iommu, a_frame_is_written_only_where_that_is_allowed, .timeout = 60)
{
	struct ng_options oa = { 0 }, ob = { .iommu = true, .ring_size = RING };

	FOR_EACH_LAYOUT(ob)
	{
		start(&oa, &ob);
		for (unsigned readable = 0; readable < 2; readable++) {
			uint64_t before = lost(&b), delivered = ng_stats(&b).tx_packets;

			cr_assert(EVENTUALLY(mapped(&b, RING)));
			b.deaf = true;
			invalidate(&b, b.rx[0].segs[0].gpa, RING * UINT64_C(2048));
			for (unsigned i = 0; readable && i < RING * UINT64_C(2048) / PAGE; i++) {
				uint64_t gpa = ALIGN_DOWN(b.rx[0].segs[0].gpa, PAGE) - NG_IOVA +
					       i * PAGE;

				cr_assert_eq(frontend_map(&b.fe, NG_IOVA + gpa, gpa, PAGE,
							  VU_IOTLB_READ),
					     0);
			}
			for (unsigned i = 0; i < 10; i++)
				send_number(&a, &b, i);
			ng_sent(&a, 0);
			cr_assert_eq(lost(&b), before + 10);
			cr_assert_eq(ng_stats(&b).tx_packets, delivered);
			/* Each buffer is as the driver left it. */
			for (unsigned i = 0; i < RING; i++)
				for (unsigned k = 0; k < 1538; k++)
					cr_assert_eq(b.rx[i].host[k], 0xee);
			/* The queue only waits. */
			b.deaf = false;
			cr_assert(EVENTUALLY(mapped(&b, RING)));
			cr_assert_null(net_device_vhost(b.dev)->queues[0].ring.broken);
			send_all(0, RING);
			cr_assert_eq(lost(&b), before + 10);
		}
		stop();
	}
}

/* T15: a transmit chain that is not mapped waits, and is not lost. */
Test(net_iommu, a_frame_that_is_not_mapped_yet_is_sent_later, .timeout = 60)
{
	struct ng_options oa = { .iommu = true, .ring_size = 64 }, ob = { 0 };

	FOR_EACH_LAYOUT(oa)
	{
		start(&oa, &ob);
		for (unsigned i = 0; i < 10; i++) {
			send_all(2 * i, 1);
			a.deaf = true;
			invalidate(&a, a.tx_gpa[0], NG_TX_SLOTS * UINT64_C(NG_FRAME_MAX + 64));
			send_number(&a, &b, 2 * i + 1);
			for (unsigned k = 0; k < 50; k++)
				ng_idle(NULL);
			cr_assert_eq(ng_stats(&a).rx_packets, 2 * i + 1);
			a.deaf = false;
			ng_sent(&a, 0);
			ng_receive(&b, 0, &got);
			cr_assert_eq(check_number(&a, &b), 2 * i + 1);
		}
		stop();
	}
}

/* Any page, of buffers or rings or all of them, at any time, at both ends. */
static void disturb(struct net_guest *g, uint32_t random)
{
	const struct vhost_device *d = net_device_vhost(g->dev);
	const struct vring_setup *setup = &d->queues[random / 8 % 2].setup;
	const uint64_t rings[] = { setup->desc, setup->driver, setup->device };

	if (random % 8 == 0)
		invalidate(g, 0, 0);
	else if (random % 8 == 1)
		invalidate(g, rings[random / 16 % 3], 16);
	else if (random % 8 < 4)
		invalidate(g, g->tx_gpa[random / 8 % NG_TX_SLOTS], PAGE);
	else
		invalidate(g, g->rx[random / 8 % RING].segs[0].gpa, random % 3 * PAGE + 1);
}

Test(net_iommu, traffic_goes_on_while_everything_is_invalidated, .timeout = 120)
{
	struct ng_options oa = { .iommu = true, .ring_size = RING },
			  ob = { .iommu = true, .ring_size = RING };

	FOR_EACH_LAYOUT(ob)
	{
		uint32_t random = 1, sent = 0, received = 0, last = 0;

		oa.packed = !ob.packed;
		start(&oa, &ob);
		cr_assert(EVENTUALLY(mapped(&b, RING)));
		while (sent < 1500) {
			random = random * 1103515245 + 12345;
			if (random >> 16 & 1)
				disturb(random >> 17 & 1 ? &a : &b, random >> 18);
			for (unsigned i = 0; i < 5; i++)
				send_number(&a, &b, ++sent);
			while (ng_try_receive(&b, 0, &got)) {
				uint32_t number = check_number(&a, &b);

				cr_assert_gt(number, last, "out of order");
				last = number;
				received++;
			}
		}
		ng_sent(&a, 0);
		while (ng_try_receive(&b, 0, &got))
			received += check_number(&a, &b) > 0;
		/* The sender lost none of them; each is there or counted. */
		cr_assert_eq(ng_stats(&a).rx_packets, sent);
		cr_assert_eq(ng_stats(&b).tx_packets, received);
		cr_assert_eq(received + lost(&b), sent);
		cr_assert_gt(received, sent / 2, "%u of %u", received, sent);
		/* Once it is quiet none is lost. */
		cr_assert(EVENTUALLY(mapped(&b, RING)));
		received = (uint32_t)lost(&b);
		send_all(0, RING);
		cr_assert_eq(lost(&b), received);
		stop();
	}
}
