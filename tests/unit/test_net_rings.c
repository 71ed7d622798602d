/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a card's rings are like: the largest there are (virtio 1.3 2.7, 2.8.10.1), and those whose
 * chains come back in order (IN_ORDER, 2.7.9 and 2.8.8).
 */
#include "tests/unit/net_sender.h"

#include <criterion/criterion.h>

#define FRAME 60u
#define LARGEST 32768u

static struct net_guest a, b;
static struct ng_frame got;

/* How both drivers lay out their rings, in which order chains come back. */
static const struct ng_options kinds[] = {
	{ 0 },
	{ .packed = true },
	{ .features = VU_F_IN_ORDER, .event_idx = true, .indirect = DRIVER_INDIRECT_ALL },
	{ .packed = true,
	  .features = VU_F_IN_ORDER,
	  .event_idx = true,
	  .indirect = DRIVER_INDIRECT_ALL },
};

static void start(const struct ng_options *o, const struct ng_options *from)
{
	ng_world_start(1);
	ng_start(&a, 0, from);
	ng_start(&b, 1, o);
	cr_assert_eq(b.fe.features & VU_F_IN_ORDER, o->features & VU_F_IN_ORDER);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

/* @n frames, numbered, shown to a card that is not there before all of them are. */
static void send_together(unsigned n, unsigned len, uint8_t *host, uint64_t gpa)
{
	struct driver_ring *r = &a.fe.queue[1].ring;
	unsigned each = a.hdr_len + len;

	cr_assert_eq(frontend_queue_stop(&a.fe, 1, NULL), 0, "%s", a.fe.error);
	for (uintptr_t i = 0; i < n; i++) {
		struct driver_seg seg = { gpa + i * each, each };

		frame_make(host + i * each + a.hdr_len, b.mac, a.mac, len, (uint32_t)i);
		cr_assert_eq(r->layout == DRIVER_SPLIT
				     ? driver_add(r, DRIVER_SPLIT, &seg, 1, 0, (void *)i)
				     : driver_add(r, DRIVER_PACKED, &seg, 1, 0, (void *)i),
			     0);
	}
	frontend_submit(&a.fe, 1);
	cr_assert_eq(frontend_queue_start(&a.fe, 1), 0, "%s", a.fe.error);
	frontend_kick(&a.fe, 1);
}

/* All of them are back, and in order; no batch stands for several (driver_ring.h, in_order). */
static void all_are_back(unsigned n)
{
	struct driver_used used;

	for (uintptr_t i = 0; i < n; i++) {
		cr_assert_eq(frontend_wait_used(&a.fe, 1, &used), 0, "%s", a.fe.error);
		cr_assert_eq((uintptr_t)used.cookie, i);
		cr_assert_eq(used.len, 0);
	}
}

static void all_arrive(unsigned n, unsigned len, unsigned n_buffers)
{
	for (unsigned i = 0; i < n; i++) {
		ng_receive(&b, 0, &got);
		cr_assert_eq(got.len, len);
		cr_assert_eq(frame_get32(got.bytes + 14), i);
		cr_assert_eq(got.n_buffers, n_buffers);
	}
	cr_assert_not(ng_try_receive(&b, 0, &got));
}

/* Each of the two rings is full at once, over its end from the second round on. */
static void largest_ring(const struct ng_options *kind)
{
	struct ng_options o = *kind, from;
	uint64_t gpa;
	uint8_t *host;

	o.ring_size = LARGEST;
	o.table_segs = 1;
	o.rx_buffer = FRAME + 12;
	from = o;
	from.rx_count = 16;
	start(&o, &from);
	host = ng_alloc(&a, LARGEST * (FRAME + 12), &gpa);
	send_together(5, FRAME, host, gpa);
	all_are_back(5);
	all_arrive(5, FRAME, 1);
	for (unsigned round = 0; round < 2; round++) {
		cr_assert_eq(b.fe.queue[0].ring.n_free, 0u);
		send_together(LARGEST, FRAME, host, gpa);
		cr_assert_eq(a.fe.queue[1].ring.n_free, 0u);
		all_are_back(LARGEST);
		all_arrive(LARGEST, FRAME, 1);
	}
	cr_assert_eq(ng_stats(&b).tx_packets, 2 * LARGEST + 5);
	stop();
}

Test(net_rings, the_largest_ring_is_filled_over_its_end_split, .timeout = 60)
{
	largest_ring(&kinds[0]);
}

Test(net_rings, the_largest_ring_is_filled_over_its_end_packed, .timeout = 60)
{
	largest_ring(&kinds[1]);
}

Test(net_rings, the_largest_ring_is_filled_over_its_end_in_order_split, .timeout = 60)
{
	largest_ring(&kinds[2]);
}

Test(net_rings, the_largest_ring_is_filled_over_its_end_in_order_packed, .timeout = 60)
{
	largest_ring(&kinds[3]);
}

/*
 * Frames in three buffers each, some of which end at the ring's end, and whole bursts of them: the
 * driver's ring sees to it that each buffer has a used entry of its own, in order. What found no
 * room had taken buffers, which come back to be taken again.
 */
Test(net_rings, buffers_come_back_in_order_2_7_9_2_8_8, .timeout = 60)
{
	for (unsigned k = 2; k < ARRAY_SIZE(kinds); k++) {
		struct ng_options o = kinds[k];
		uint64_t gpa;
		uint8_t *host;

		o.features |= NG_MRG;
		o.rx_buffer = 100;
		o.ring_size = 64;
		start(&o, &o);
		host = ng_alloc(&a, 64 * 300, &gpa);
		for (unsigned round = 0; round < 40; round++) {
			send_together(21, 250, host, gpa); /* 63 of 64 buffers */
			all_are_back(21);
			all_arrive(21, 250, 3);
		}
		send_together(30, 250, host, gpa);
		all_are_back(30);
		all_arrive(21, 250, 3);
		cr_assert_eq(ng_stats(&b).tx_no_buffer, 9);
		send_together(21, 250, host, gpa);
		all_are_back(21);
		all_arrive(21, 250, 3);
		stop();
	}
}
