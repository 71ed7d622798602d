/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a card's ring goes on when the back-end before this one has died: no buffer of the guest's
 * may be lost, whatever the front-end knows of the place.
 */
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <sys/mman.h>

static struct net_guest a, b;
static struct ng_frame got;

static unsigned frame_len = 100;

static void send_frame(struct net_guest *from, const struct net_guest *to, uint32_t number)
{
	uint8_t bytes[1500] = { 0 };

	memcpy(bytes, to->mac, 6);
	memcpy(bytes + 6, from->mac, 6);
	frame_put16(bytes + 12, 0x88b5);
	frame_put32(bytes + 14, number);
	ng_send(from, 0, NULL, bytes, frame_len, NULL);
}

static void expect_frame(struct net_guest *to, uint32_t number)
{
	ng_receive(to, 0, &got);
	cr_assert_eq(got.len, frame_len);
	cr_assert_eq(frame_get32(got.bytes + 14), number);
}

static void start(const struct ng_options *oa, const struct ng_options *ob)
{
	ng_world_start(1);
	ng_start(&a, 0, oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

/* What the driver has made available: what cloud-hypervisor tells that has no base from us. */
static uint32_t driver_index(struct net_guest *g, unsigned queue)
{
	return ((const uint16_t *)driver_driver_area(&g->fe.queue[queue].ring))[1];
}

static void go_on(struct net_guest *g, unsigned queue, uint32_t base)
{
	cr_assert_eq(frontend_state_set(&g->fe, VU_SET_VRING_BASE, queue, base), 0);
	cr_assert_eq(
		frontend_vring_fd(&g->fe, VU_SET_VRING_KICK, queue, g->fe.queue[queue].kick_fd), 0,
		"%s", g->fe.error);
}

Test(net_place, a_base_ahead_of_the_used_index_loses_no_buffer, .timeout = 60)
{
	const struct ng_options o = { 0 };
	uint32_t base;

	start(&o, &o);
	for (unsigned i = 0; i < 20; i++) {
		send_frame(&a, &b, i);
		expect_frame(&b, i);
		ng_sent(&a, 0);
		cr_assert_eq(frontend_queue_stop(&b.fe, 0, &base), 0, "%s", b.fe.error);
		cr_assert_neq(base, driver_index(&b, 0));
		go_on(&b, 0, driver_index(&b, 0));

		cr_assert_eq(frontend_queue_stop(&a.fe, 1, &base), 0, "%s", a.fe.error);
		send_frame(&a, &b, 100 + i);
		cr_assert_neq(base, driver_index(&a, 1));
		go_on(&a, 1, driver_index(&a, 1));
		expect_frame(&b, 100 + i);
	}
	stop();
}

/* What a VMM does whose back-end has gone: it has kept memory, rings and buffer, and no place. */
static void come_back(struct net_guest *g, bool honest)
{
	uint64_t protocol = g->fe.protocol, features = g->fe.features;

	frontend_hang_up(&g->fe);
	for (unsigned i = 0;
	     vhost_device_state(net_device_vhost(g->dev)) != VHOST_DEVICE_WAITING && i < 10000; i++)
		ng_idle(NULL);
	cr_assert_eq(frontend_connect(&g->fe, g->path), 0, "%s", g->fe.error);
	cr_assert_eq(frontend_hello(&g->fe, protocol), 0, "%s", g->fe.error);
	cr_assert_eq(frontend_set_features(&g->fe, features), 0, "%s", g->fe.error);
	cr_assert_eq(frontend_share_memory(&g->fe, &g->mem), 0, "%s", g->fe.error);
	cr_assert_eq(frontend_set_inflight(&g->fe, g->opt.inflight), 0, "%s", g->fe.error);
	for (unsigned q = 0; q < 2; q++)
		cr_assert(frontend_queue_start(&g->fe, q) == 0 || !honest, "%s", g->fe.error);
}

static struct frontend_inflight kept_a, kept_b;

/* Each frame for b takes several buffers of its. */
static void start_kept(bool packed, bool event_idx)
{
	struct ng_options oa = { .packed = packed, .event_idx = event_idx, .inflight = &kept_a };
	struct ng_options ob = { .packed = packed,
				 .event_idx = event_idx,
				 .inflight = &kept_b,
				 .features = NG_MRG,
				 .ring_size = 64,
				 .rx_buffer = 300 };

	frame_len = 1000;
	start(&oa, &ob);
	cr_assert(a.fe.protocol & VU_PF_INFLIGHT_SHMFD);
}

static void stop_kept(void)
{
	stop();
	frontend_inflight_close(&kept_a);
	frontend_inflight_close(&kept_b);
}

/* INFLIGHT_SHMFD of a card: a packed ring's place is known from nowhere else. */
Test(net_place, rings_go_on_by_the_in_flight_buffer, .timeout = 120)
{
	for (unsigned v = 0; v < 4; v++) {
		start_kept(v & 1, v & 2);
		for (unsigned i = 0; i < 100; i++) {
			send_frame(&a, &b, i);
			if (i % 3 == 1) {
				come_back(&a, true);
			} else if (i % 3 == 2) {
				ng_sent(&a, 0); /* a port that is down loses what comes */
				come_back(&b, true);
			}
			expect_frame(&b, i);
			cr_assert_eq(got.n_buffers, 4);
			ng_sent(&a, 0);
			if (i % 3 == 0)
				come_back(&b, true);
		}
		cr_assert_eq(ng_stats(&b).tx_no_buffer, 0);
		stop_kept();
	}
}

/* The front-end that sets a place of its own, for a driver that begins anew, is believed. */
Test(net_place, a_place_that_is_set_counts_more_than_the_buffer, .timeout = 60)
{
	uint32_t base;

	start_kept(true, false);
	for (unsigned i = 0; i < 20; i++) {
		send_frame(&a, &b, i);
		expect_frame(&b, i);
		ng_sent(&a, 0);
		cr_assert_eq(frontend_queue_stop(&b.fe, 0, &base), 0, "%s", b.fe.error);
		go_on(&b, 0, base ^ (i & 1 ? 0x80008000u : 0));
		if (i & 1) { /* where the driver is not: nothing is there for the device */
			send_frame(&a, &b, 77);
			ng_sent(&a, 0);
			cr_assert_eq(ng_stats(&b).tx_no_buffer, i / 2 + 1);
			cr_assert_eq(frontend_queue_stop(&b.fe, 0, NULL), 0, "%s", b.fe.error);
			go_on(&b, 0, base);
		}
	}
	stop_kept();
}

/* T12: what stands in the buffer is its owner's, who may not be honest, at any time. */
Test(net_place, a_malicious_buffer_harms_its_own_card_alone_T12, .timeout = 120)
{
	struct ng_options honest = { .packed = true };
	struct net_guest c;
	uint8_t *bytes;
	size_t len;
	uint32_t x = 1;

	for (unsigned v = 0; v < 2; v++) {
		start_kept(v, false);
		ng_start(&c, 2, &honest);
		len = kept_b.desc.mmap_size;
		bytes = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, kept_b.fd, 0);
		cr_assert_neq((void *)bytes, MAP_FAILED);
		for (unsigned i = 0; i < 150; i++) {
			for (unsigned k = 0; k < 2000; k++) {
				x = x * 1664525 + 1013904223;
				/* Mostly where it says something, which is at a queue's start. */
				bytes[k % 2 ? (x >> 8) % len
					    : (x >> 28 & 1) * (len / 2) + (x >> 8) % 32] =
					(uint8_t)(i % 2 ? x >> 24 : x >> 24 & 1);
			}
			if (i % 3 == 0)
				bytes[8] = 1, bytes[10] = 64; /* a version and a size that pass */
			send_frame(&a, &b, i);
			ng_sent(&a, 0);
			come_back(&b, false);
			send_frame(&a, &b, i);
			send_frame(&a, &c, 1000 + i);
			ng_sent(&a, 0);
			/* Frames to b are flooded, for the switch does not know it. */
			do
				ng_receive(&c, 0, &got);
			while (frame_get32(got.bytes + 14) != 1000 + i);
		}
		munmap(bytes, len);
		ng_stop(&c);
		stop_kept();
	}
}
