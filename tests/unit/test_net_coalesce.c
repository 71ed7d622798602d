/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notification coalescing (virtio 1.3 5.1.6.5.9): its commands, when a driver is called, and that
 * no call is forgotten by a worker that goes to sleep.
 */
#include "base/clock.h"
#include "net/coalesce.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>

#define F(name) NG_BIT(VIRTIO_NET_F_##name)
#define COALESCES (F(CTRL_VQ) | F(NOTF_COAL) | NG_BIT(52))
#define SECOND UINT64_C(1000000000)

enum { TX_SET, RX_SET, VQ_SET, VQ_GET };

static struct net_guest a, b;
static struct ng_frame got;

/* 5.1.6.5.9.2: which of packets and time comes first; either of them 0: at once. */
Test(coalesce, call_is_due_by_packets_or_by_time)
{
	struct ring r = { .size = 256, .uncalled = 3 };
	uint64_t us = clock_cycles_per_us();
	struct coalesce c = { .pending = 3, .since = 1000 };

	cr_assert(coalesce_due(&c, &r, 1000));
	coalesce_set(&c, (struct coalesce_params) { 4, 0 });
	cr_assert(coalesce_due(&c, &r, 1000));
	coalesce_set(&c, (struct coalesce_params) { 0, 4 });
	cr_assert(coalesce_due(&c, &r, 1000));
	coalesce_set(&c, (struct coalesce_params) { 4, 10 });
	cr_assert_not(coalesce_due(&c, &r, 1000 + 10 * us - 1));
	cr_assert(coalesce_due(&c, &r, 1000 + 10 * us));
	coalesce_set(&c, (struct coalesce_params) { 3, 10 });
	cr_assert(coalesce_due(&c, &r, 1000));
	coalesce_set(&c, (struct coalesce_params) { UINT32_MAX, UINT32_MAX });
	cr_assert_not(coalesce_due(&c, &r, 1000 + 1000 * us));
	r.uncalled = 128; /* half of the ring */
	cr_assert(coalesce_due(&c, &r, 1000));
}

static void start(const struct ng_options *ob, unsigned workers)
{
	struct ng_options oa = *ob;

	ng_world_start(workers);
	ng_start(&a, 0, &oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

/* @return the answer; what was asked for in @reply. */
static uint8_t control(struct net_guest *g, uint8_t cmd, const void *data, unsigned len,
		       uint32_t reply[2])
{
	uint64_t gpa = g->tx_gpa[NG_TX_SLOTS - 1] + NG_FRAME_MAX / 2; /* nothing so long is sent */
	uint8_t *p = g->tx[NG_TX_SLOTS - 1] + NG_FRAME_MAX / 2;
	unsigned room = reply ? 9 : 1;
	/* The answer in two pieces. */
	struct driver_seg segs[] = { { gpa, 2 + len },
				     { gpa + 100, room / 2 + 1 },
				     { gpa + 200, room } };

	p[0] = 6;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	memset(p + 100, 0x77, 200);
	if (!reply) {
		cr_assert_eq(ng_submit_wait(g, ng_ctrl_index(g), segs, 1, 1), 1);
		cr_assert_eq(p[101], 0x77);
		return p[100];
	}
	cr_assert_eq(ng_submit_wait(g, ng_ctrl_index(g), segs, 1, 2), 9);
	memcpy(p + 105, p + 200, 4);
	cr_assert_eq(p[204], 0x77);
	memcpy(reply, p + 100, 8);
	return p[108];
}

static uint8_t set(struct net_guest *g, uint8_t cmd, uint32_t packets, uint32_t usecs)
{
	const uint32_t data[2] = { packets, usecs };

	return control(g, cmd, data, sizeof(data), NULL);
}

static uint8_t set_queue(struct net_guest *g, unsigned queue, uint32_t packets, uint32_t usecs)
{
	const uint32_t data[3] = { queue | 0xabcd0000, packets, usecs }; /* reserved: ignored */

	return control(g, VQ_SET, data, sizeof(data), NULL);
}

static void expect(struct net_guest *g, unsigned queue, uint32_t packets, uint32_t usecs)
{
	const uint32_t data = queue;
	uint32_t reply[2];

	cr_assert_eq(control(g, VQ_GET, &data, 4, reply), VIRTIO_NET_OK);
	cr_assert_eq(reply[0], packets, "queue %u: %u", queue, reply[0]);
	cr_assert_eq(reply[1], usecs);
}

Test(net_coalesce, last_command_counts_5_1_6_5_9, .timeout = 60)
{
	struct ng_options o = { .features = COALESCES | F(MQ), .pairs = 2 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 1);
		for (unsigned q = 0; q < 4; q++)
			expect(&b, q, 0, 0);
		cr_assert_eq(set(&b, RX_SET, 5, 50), VIRTIO_NET_OK);
		expect(&b, 1, 0, 0);
		expect(&b, 2, 5, 50);
		cr_assert_eq(set_queue(&b, 0, 6, 60), VIRTIO_NET_OK);
		expect(&b, 0, 6, 60);
		expect(&b, 2, 5, 50);
		cr_assert_eq(set_queue(&b, 1, 7, 70), VIRTIO_NET_OK);
		expect(&b, 3, 0, 0);
		cr_assert_eq(set(&b, TX_SET, 8, 80), VIRTIO_NET_OK);
		expect(&b, 1, 8, 80);
		expect(&b, 3, 8, 80);
		expect(&b, 0, 6, 60);
		/* A new driver finds nothing of that. */
		ng_disconnect(&b);
		ng_connect(&b);
		for (unsigned q = 0; q < 4; q++)
			expect(&b, q, 0, 0);
		stop();
	}
}

Test(net_coalesce, T17_coalescing_commands, .timeout = 60)
{
	struct ng_options o = { .features = COALESCES | F(MQ), .pairs = 2 };
	uint32_t data[4] = { 0 }, reply[2];

	FOR_EACH_LAYOUT(o)
	{
		start(&o, 1);
		for (unsigned n = 0; n < 8; n++) {
			cr_assert_eq(control(&b, TX_SET, data, n, NULL), VIRTIO_NET_ERR);
			cr_assert_eq(control(&b, RX_SET, data, n, NULL), VIRTIO_NET_ERR);
		}
		for (unsigned n = 0; n < 12; n++)
			cr_assert_eq(control(&b, VQ_SET, data, n, NULL), VIRTIO_NET_ERR);
		for (unsigned n = 0; n < 4; n++)
			cr_assert_eq(control(&b, VQ_GET, data, n, reply), VIRTIO_NET_ERR);
		/* No room for what is asked for. */
		cr_assert_eq(control(&b, VQ_GET, data, 4, NULL), VIRTIO_NET_ERR);
		/* The control queue, none at all. */
		for (unsigned i = 0; i < 3; i++) {
			data[0] = i == 0 ? 4 : i == 1 ? 5 : 0xffff;
			cr_assert_eq(control(&b, VQ_SET, data, 12, NULL), VIRTIO_NET_ERR);
			cr_assert_eq(control(&b, VQ_GET, data, 4, reply), VIRTIO_NET_ERR);
		}
		data[0] = 0;
		cr_assert_eq(control(&b, 4, data, 12, NULL), VIRTIO_NET_ERR);
		cr_assert_eq(frontend_queue_enable(&b.fe, 2, false), 0);
		cr_assert_eq(set_queue(&b, 2, 1, 1), VIRTIO_NET_ERR);
		stop();
		/* Not negotiated. */
		o.features &= ~(F(NOTF_COAL) | NG_BIT(52));
		start(&o, 1);
		for (uint8_t cmd = 0; cmd < 4; cmd++)
			cr_assert_eq(control(&b, cmd, data, 12, NULL), VIRTIO_NET_ERR);
		stop();
		o.features |= COALESCES;
	}
}

static uint64_t calls(const struct net_guest *g, unsigned queue)
{
	return counter_read(&net_device_vhost(g->dev)->queues[queue].ring.stats.calls);
}

static void say(void)
{
	uint8_t bytes[100] = { 0 };

	memset(bytes, 0xff, 6);
	memcpy(bytes + 6, a.mac, 6);
	frame_put16(bytes + 12, 0x88b5);
	ng_send(&a, 0, NULL, bytes, sizeof(bytes), NULL);
}

/*
 * The driver of the receiving queue sleeps until it is called, which is asked for by packets that
 * do not come and a time that is far away: who is silent is not waited for.
 */
Test(net_coalesce, call_comes_when_the_queue_falls_silent, .timeout = 120)
{
	struct ng_options o = { .features = COALESCES };

	for (unsigned workers = 1; workers <= 2; workers++)
		FOR_EACH_LAYOUT(o)
		{
			start(&o, workers);
			cr_assert_eq(set(&b, RX_SET, 100, 60000000), VIRTIO_NET_OK);
			cr_assert_eq(set(&a, TX_SET, 100, 60000000), VIRTIO_NET_OK);
			for (unsigned i = 0; i < 30; i++) {
				uint64_t rx = calls(&b, 0), tx = calls(&a, 1), from = clock_ns();

				say();
				while ((calls(&b, 0) == rx || calls(&a, 1) == tx) &&
				       clock_ns() - from < 20 * SECOND)
					ng_idle(NULL);
				cr_assert_gt(calls(&b, 0), rx, "frame %u", i);
				cr_assert_gt(calls(&a, 1), tx);
				ng_sent(&a, 0);
				ng_receive(&b, 0, &got);
			}
			stop();
		}
}

/* Until the device has it; its driver is not told. */
static void say_and_wait(void)
{
	uint64_t before = counter_read(&net_device_vhost(a.dev)->queues[1].ring.stats.pushed);

	say();
	for (uint64_t from = clock_ns(); clock_ns() - from < 20 * SECOND; ng_idle(NULL))
		if (counter_read(&net_device_vhost(a.dev)->queues[1].ring.stats.pushed) > before)
			return;
	cr_assert(false, "nothing was sent");
}

/* A call comes after what it tells of is used. */
static void expect_calls(const struct net_guest *g, unsigned queue, uint64_t n)
{
	for (uint64_t from = clock_ns(); calls(g, queue) < n && clock_ns() - from < 20 * SECOND;)
		ng_idle(NULL);
	cr_assert_eq(calls(g, queue), n);
}

/* Workers that never sleep: calls come by number alone. */
Test(net_coalesce, receiver_is_called_once_for_so_many_packets, .timeout = 120)
{
	struct ng_options o = { .features = COALESCES };

	ng_never_parks = true;
	FOR_EACH_LAYOUT(o)
	{
		uint64_t before;

		start(&o, 1);
		cr_assert_eq(set(&b, RX_SET, 8, 3600000000), VIRTIO_NET_OK);
		say(); /* so that the ring has been called once, see ring_call() */
		ng_sent(&a, 0);
		cr_assert_eq(set(&b, RX_SET, 1, 3600000000), VIRTIO_NET_OK); /* 5.1.6.5.9.3 */
		cr_assert_eq(set(&b, RX_SET, 8, 3600000000), VIRTIO_NET_OK);
		before = calls(&b, 0);
		cr_assert_geq(before, 1);
		for (unsigned i = 0; i < 80; i++) {
			say();
			ng_sent(&a, 0);
			cr_assert_eq(calls(&b, 0) - before, (i + 1) / 8, "after %u", i + 1);
		}
		/* What is pending is told when the queue stops. */
		say();
		ng_sent(&a, 0);
		before = calls(&b, 0);
		cr_assert_eq(frontend_queue_stop(&b.fe, 0, NULL), 0);
		cr_assert_eq(calls(&b, 0), before + 1);
		/* And the transmit queue's: its driver is called for every second one. */
		cr_assert_eq(set(&a, TX_SET, 2, 3600000000), VIRTIO_NET_OK);
		before = calls(&a, 1);
		for (unsigned i = 0; i < 20; i++) {
			say_and_wait();
			cr_assert_eq(calls(&a, 1) - before, i);
			say();
			ng_sent(&a, 0);
			expect_calls(&a, 1, before + i + 1);
		}
		say_and_wait();
		cr_assert_eq(calls(&a, 1), before + 20);
		cr_assert_eq(frontend_queue_stop(&a.fe, 1, NULL), 0);
		cr_assert_eq(calls(&a, 1), before + 21);
		stop();
	}
	ng_never_parks = false;
}

/* Queues that move between workers while their pollers sleep and are woken. */
Test(net_coalesce, no_call_is_lost_while_queues_move, .timeout = 120)
{
	struct ng_options o = { .features = COALESCES };

	FOR_EACH_LAYOUT(o)
	{
		struct vhost_device *d;

		start(&o, 2);
		d = (struct vhost_device *)(uintptr_t)net_device_vhost(b.dev);
		cr_assert_eq(set(&b, RX_SET, 3, 60000000), VIRTIO_NET_OK);
		for (unsigned i = 0; i < 60; i++) {
			uint64_t rx = calls(&b, 0), from = clock_ns();

			say();
			if (i % 3)
				vhost_queue_move(&d->queues[0], workers_get(ng_workers, i % 2));
			while (calls(&b, 0) == rx && clock_ns() - from < 20 * SECOND)
				ng_idle(NULL);
			cr_assert_gt(calls(&b, 0), rx, "frame %u", i);
			ng_sent(&a, 0);
			ng_receive(&b, 0, &got);
		}
		stop();
	}
}
