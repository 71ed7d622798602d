/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network guest's memory is cut short while frames go in and out of it (T14): its own connection
 * ends, whoever's worker touched the memory; two other guests go on talking.
 */
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096u

static struct net_guest bad, a, b;
static struct ng_frame got;

static bool variant(struct ng_options *o, unsigned v)
{
	o->packed = v & 1;
	o->indirect = v & 2 ? DRIVER_INDIRECT_ALL : DRIVER_DIRECT;
	return v < 4;
}

#define FOR_EACH_VARIANT(o) for (unsigned v = 0; variant(&(o), v); v++)

static void start(const struct ng_options *o)
{
	ng_world_start(1);
	ng_start(&bad, 0, o);
	ng_start(&a, 1, o);
	ng_start(&b, 2, o);
}

static void stop(void)
{
	ng_stop(&bad);
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

static void frame_make(uint8_t *out, const uint8_t *to, const uint8_t *from, unsigned len)
{
	memcpy(out, to, 6);
	memcpy(out + 6, from, 6);
	for (unsigned i = 12; i < len; i++)
		out[i] = (uint8_t)(i * 7);
	frame_put16(out + 12, 0x88b5);
}

static void exchange(struct net_guest *from, struct net_guest *to)
{
	static uint8_t bytes[1000];

	frame_make(bytes, to->mac, from->mac, sizeof(bytes));
	ng_send(from, 0, NULL, bytes, sizeof(bytes), NULL);
	ng_receive(to, 0, &got);
	cr_assert_eq(got.len, sizeof(bytes));
	cr_assert_arr_eq(got.bytes, bytes, sizeof(bytes));
	ng_sent(from, 0);
}

/* All pages from that of @host on are gone. */
static void cut(struct net_guest *g, const uint8_t *host)
{
	uint64_t at = (uint64_t)(host - g->mem.region[0].host);

	cr_assert_eq(ftruncate(g->mem.region[0].fd, (off_t)ALIGN_DOWN(at, PAGE)), 0);
}

static void bad_is_hung_up_on(void)
{
	cr_assert_eq(frontend_wait_hangup(&bad.fe), 0, "%s", bad.fe.error);
	cr_assert_eq(counter_read(&net_device_vhost(bad.dev)->stats.memory_lost), 1u);
	/* What came for a guest that is gone was flooded. */
	while (ng_try_receive(&a, 0, &got) || ng_try_receive(&b, 0, &got))
		;
	for (unsigned i = 0; i < 10; i++) {
		exchange(&a, &b);
		exchange(&b, &a);
	}
}

Test(guard_net, a_receiver_whose_buffers_vanish, .timeout = 60)
{
	struct ng_options o = { 0 };

	FOR_EACH_VARIANT(o)
	{
		static uint8_t bytes[1400];
		uint8_t *lowest;

		start(&o);
		exchange(&a, &bad); /* the switch knows where it is */
		exchange(&bad, &a);
		lowest = bad.rx[0].host;
		for (unsigned i = 1; i < bad.n_rx; i++)
			lowest = MIN(lowest, bad.rx[i].host);
		cut(&bad, lowest + PAGE);
		frame_make(bytes, bad.mac, a.mac, sizeof(bytes));
		for (unsigned i = 0; i < 50; i++) {
			ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
			ng_sent(&a, 0);
		}
		bad_is_hung_up_on();
		stop();
	}
}

Test(guard_net, a_sender_whose_frame_vanishes, .timeout = 60)
{
	struct ng_options o = { 0 };

	FOR_EACH_VARIANT(o)
	{
		struct driver_ring *r = &bad.fe.queue[1].ring;
		struct driver_seg seg = { .len = 12 + 2000 };
		uint8_t *frame;

		start(&o);
		frame = ng_alloc(&bad, 3 * PAGE, &seg.gpa);
		frame_make(frame + 12, b.mac, bad.mac, 2000);
		cut(&bad, frame + PAGE);
		/* It begins where there is nothing any more. */
		seg.gpa += 2 * PAGE;
		cr_assert_eq(r->layout == DRIVER_SPLIT
				     ? driver_add(r, DRIVER_SPLIT, &seg, 1, 0, NULL)
				     : driver_add(r, DRIVER_PACKED, &seg, 1, 0, NULL),
			     0);
		frontend_submit(&bad.fe, 1);
		bad_is_hung_up_on();
		stop();
	}
}
