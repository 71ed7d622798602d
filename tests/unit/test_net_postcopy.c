/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A card whose guest runs before all of its memory is here. Frames for it are dropped where a page
 * is missing, and counted, whole and once; its own wait in their queue. Nobody else does.
 */
#include "tests/unit/net_guest.h"
#include "tests/unit/postcopy_util.h"

#include <criterion/criterion.h>
#include <string.h>

#define LEN 900u
#define SENT 64u

static struct delivery d;
static struct net_guest arriving, staying, third;

/* Numbered, and with contents that follow from the number. */
static void make_frame(uint8_t *f, const struct net_guest *from, const struct net_guest *to,
		       unsigned number)
{
	memcpy(f, to->mac, 6);
	memcpy(f + 6, from->mac, 6);
	f[12] = 0x88;
	f[13] = 0xb5;
	f[14] = (uint8_t)(number >> 8);
	f[15] = (uint8_t)number;
	for (unsigned i = 16; i < LEN; i++)
		f[i] = (uint8_t)(number * 7 + i);
}

static unsigned check_frame(const struct ng_frame *got, const struct net_guest *from,
			    const struct net_guest *to)
{
	unsigned number = (unsigned)got->bytes[14] << 8 | got->bytes[15];
	uint8_t want[LEN];

	make_frame(want, from, to, number);
	cr_assert_eq(got->len, LEN);
	cr_assert_eq(memcmp(got->bytes, want, LEN), 0, "frame %u came torn", number);
	return number;
}

/* The guest has frames to send, and buffers to receive into, and moves. */
static void arrive(struct net_guest *g)
{
	struct driver_ring *r = &g->fe.queue[1].ring;

	ng_fill(g, 0, g->opt.rx_count);
	for (unsigned i = 0; i < SENT; i++) {
		uint64_t gpa;
		uint8_t *p = ng_alloc(g, 4096, &gpa);
		const struct driver_seg seg = { gpa, g->hdr_len + LEN };
		int rc;

		memset(p, 0, g->hdr_len);
		make_frame(p + g->hdr_len, g, &staying, i);
		rc = r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, &seg, 1, 0, g)
					       : driver_add(r, DRIVER_PACKED, &seg, 1, 0, g);
		cr_assert_eq(rc, 0);
	}
	frontend_submit(&g->fe, 1);
	cr_assert_eq(delivery_begin(&d, &g->fe, &g->mem), 0);
	cr_assert_eq(frontend_postcopy_advise(&d), 0, "%s", g->fe.error);
	cr_assert_eq(frontend_postcopy_listen(&d), 0, "%s", g->fe.error);
	cr_assert_eq(frontend_postcopy_share(&d), 0, "%s", g->fe.error);
}

static void send_to(struct net_guest *to, unsigned number)
{
	uint8_t frame[LEN];

	make_frame(frame, &staying, to, number);
	ng_send(&staying, 0, NULL, frame, LEN, NULL);
	ng_sent(&staying, 0);
}

static void start(bool packed)
{
	struct ng_options o = { .packed = packed, .features = NG_MRG, .rx_count = 200 };

	prepare_pagers();
	ng_world_start(1);
	ng_start(&staying, 1, &o);
	ng_start(&third, 2, &o);
	o.share = arrive;
	o.rx_buffer = 500; /* a frame takes two */
	ng_start(&arriving, 0, &o);
}

static void stop(void)
{
	ng_stop(&arriving);
	delivery_end(&d);
	ng_stop(&staying);
	ng_stop(&third);
	ng_world_stop();
	pager_unprepare();
}

static bool rings_run(void)
{
	const struct vhost_device *v = net_device_vhost(arriving.dev);

	return v->queues[0].state == VIRTQUEUE_RUNNING && v->queues[1].state == VIRTQUEUE_RUNNING;
}

static void frames_go_both_ways(bool packed)
{
	static struct ng_frame got;
	struct waiting w = { .n = 0 };
	unsigned number = 0, next = 0, received = 0;
	struct port_stats s;
	int last = -1;

	start(packed);
	for (unsigned i = 0; i < 200000 && next < SENT; i++) {
		serve_one(&d, &w);
		/* As many as there are buffers for; most come too early. */
		if (rings_run() && number < 90)
			send_to(&arriving, number++);
		while (ng_try_receive(&staying, 0, &got))
			cr_assert_eq(check_frame(&got, &arriving, &staying), next++);
		ng_idle(NULL);
	}
	cr_assert_eq(next, SENT, "%u of the frames came", next);
	for (unsigned i = 0; i < 20000 && ng_stats(&arriving).tx_packets < 5; i++) {
		serve_one(&d, &w);
		send_to(&arriving, number++);
	}
	s = ng_stats(&arriving);
	cr_assert_geq(s.tx_packets, 5u);
	cr_assert_gt(s.tx_no_buffer, 0u);
	cr_assert_eq(s.tx_packets + s.tx_no_buffer + s.tx_down, number);
	cr_assert_eq(delivery_all(&d), 0, "a page was touched that had not arrived");
	cr_assert_eq(frontend_postcopy_end(&d), 0, "%s", arriving.fe.error);
	/* In order, whole, and none of them twice. */
	while (ng_try_receive(&arriving, 0, &got)) {
		int n = (int)check_frame(&got, &staying, &arriving);

		cr_assert_gt(n, last);
		last = n;
		received++;
	}
	cr_assert_eq(received, s.tx_packets);
	send_to(&arriving, 1000);
	ng_receive(&arriving, 0, &got);
	cr_assert_eq(check_frame(&got, &staying, &arriving), 1000u);
	stop();
}

Test(net_postcopy, frames_go_both_ways_while_pages_come_split, .timeout = 60)
{
	frames_go_both_ways(false);
}

Test(net_postcopy, frames_go_both_ways_while_pages_come_packed, .timeout = 60)
{
	frames_go_both_ways(true);
}

/* One worker for all; the receiver's pages never come. */
static void nobody_waits(bool packed)
{
	static struct ng_frame got;
	struct waiting w = { .n = 0 };
	uint8_t frame[LEN];

	start(packed);
	make_frame(frame, &third, &staying, 0);
	ng_send(&third, 0, NULL, frame, LEN, NULL);
	ng_sent(&third, 0); /* so that the switch knows where it is */
	for (unsigned i = 0; i < 20000 && !rings_run(); i++) {
		serve_one(&d, &w);
		ng_idle(NULL);
	}
	cr_assert(rings_run());
	for (unsigned i = 0; i < 300; i++) {
		send_to(&arriving, i);
		send_to(&third, i);
		/* Nobody knows the other one, who cannot send: what is for it goes to all. */
		do
			ng_receive(&third, 0, &got);
		while (memcmp(got.bytes, third.mac, 6) != 0);
		cr_assert_eq(check_frame(&got, &staying, &third), i);
	}
	cr_assert_eq(ng_stats(&arriving).tx_packets, 0u);
	cr_assert_geq(ng_stats(&arriving).tx_no_buffer, 300u);
	stop();
}

Test(net_postcopy, frames_for_a_guest_whose_pages_never_come_hold_up_nobody_split, .timeout = 60)
{
	nobody_waits(false);
}

Test(net_postcopy, frames_for_a_guest_whose_pages_never_come_hold_up_nobody_packed, .timeout = 60)
{
	nobody_waits(true);
}
