/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a card's ring goes on when the back-end before this one has died: no buffer of the guest's
 * may be lost, whatever the front-end knows of the place.
 */
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>

static struct net_guest a, b;
static struct ng_frame got;

static void send_frame(struct net_guest *from, const struct net_guest *to, uint32_t number)
{
	uint8_t bytes[100] = { 0 };

	memcpy(bytes, to->mac, 6);
	memcpy(bytes + 6, from->mac, 6);
	frame_put16(bytes + 12, 0x88b5);
	frame_put32(bytes + 14, number);
	ng_send(from, 0, NULL, bytes, sizeof(bytes), NULL);
}

static void expect_frame(struct net_guest *to, uint32_t number)
{
	ng_receive(to, 0, &got);
	cr_assert_eq(got.len, 100);
	cr_assert_eq(frame_get32(got.bytes + 14), number);
}

static void start(const struct ng_options *o)
{
	ng_world_start(1);
	ng_start(&a, 0, o);
	ng_start(&b, 1, o);
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

	start(&o);
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
