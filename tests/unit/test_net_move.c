/* SPDX-License-Identifier: Apache-2.0 */
/* Queues of a network card that move from worker to worker while frames go through them. */
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>

#define LEN 100
#define WORKERS 3

static struct net_guest a, b;
static struct ng_frame got;

static void start(const struct ng_options *oa, const struct ng_options *ob)
{
	ng_world_start(WORKERS);
	ng_start(&a, 0, oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

static struct virtqueue *queue(const struct net_guest *g, unsigned index)
{
	return &net_device_vhost(g->dev)->queues[index];
}

static void send_number(struct net_guest *from, const struct net_guest *to, uint32_t number)
{
	uint8_t bytes[LEN] = { 0 };

	memcpy(bytes, to->mac, 6);
	memcpy(bytes + 6, from->mac, 6);
	frame_put16(bytes + 12, 0x88b5);
	frame_put32(bytes + 14, number);
	ng_send(from, 0, NULL, bytes, sizeof(bytes), NULL);
}

#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

/*
 * The receiver has a queue for each worker; all of the flow comes through one of them, in order, on
 * whatever worker its sender is.
 */
Test(net_move, a_flow_is_never_reordered, .timeout = 60)
{
	struct ng_options oa = { .ring_size = 64 }, ob = { .features = NG_BIT(VIRTIO_NET_F_MQ),
							   .pairs = WORKERS,
							   .ring_size = 256 };

	FOR_EACH_LAYOUT(oa)
	{
		uint32_t sent = 0, received = 0;
		unsigned home = WORKERS;

		ob.packed = oa.packed;
		start(&oa, &ob);
		while (received < 600) {
			for (unsigned i = 0; i < 5; i++)
				send_number(&a, &b, sent++);
			cr_assert(vhost_queue_move(queue(&a, 1),
						   workers_get(ng_workers, sent / 5 % WORKERS)));
			ng_sent(&a, 0);
			for (unsigned pair = 0; pair < WORKERS; pair++)
				while (ng_try_receive(&b, pair, &got)) {
					home = home == WORKERS ? pair : home;
					cr_assert_eq(pair, home, "frame %u", received);
					cr_assert_eq(frame_get32(got.bytes + 14), received++);
				}
		}
		stop();
	}
}

/* Parked, its kicks are on: nothing is missed by the one worker or forgotten by the other. */
Test(net_move, a_queue_that_sleeps_moves_and_wakes_up_there, .timeout = 60)
{
	struct ng_options o = { 0 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &o);
		for (uint32_t i = 0; i < 30; i++) {
			struct worker *to = workers_get(ng_workers, i % WORKERS);
			struct virtqueue *vq = queue(&a, 1);

			for (unsigned k = 0; worker_n_active(vq->worker) && k < 10000; k++)
				ng_idle(NULL);
			cr_assert(vhost_queue_move(vq, to));
			cr_assert_eq(vq->worker, to);
			send_number(&a, &b, i);
			ng_receive(&b, 0, &got);
			cr_assert_eq(frame_get32(got.bytes + 14), i);
			ng_sent(&a, 0);
		}
		stop();
	}
}

/* Whoever has a frame for a receive queue fills it; the core's changes to it go by its worker. */
Test(net_move, receive_and_control_queues, .timeout = 60)
{
	struct ng_options o = { .features = NG_BIT(VIRTIO_NET_F_CTRL_VQ) };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &o);
		for (uint32_t i = 0; i < 30; i++) {
			cr_assert(vhost_queue_move(queue(&b, 0),
						   workers_get(ng_workers, i % WORKERS)));
			cr_assert(vhost_queue_move(queue(&b, ng_ctrl_index(&b)),
						   workers_get(ng_workers, (i + 1) % WORKERS)));
			send_number(&a, &b, i);
			ng_receive(&b, 0, &got);
			cr_assert_eq(frame_get32(got.bytes + 14), i);
			cr_assert_eq(frontend_queue_enable(&b.fe, 0, false), 0, "%s", b.fe.error);
			cr_assert_eq(frontend_queue_enable(&b.fe, 0, true), 0, "%s", b.fe.error);
			ng_sent(&a, 0);
		}
		stop();
	}
}

/* A queue that is sent somewhere before it runs starts there, and again after a reconnect. */
Test(net_move, where_a_queue_was_sent_it_stays, .timeout = 60)
{
	struct ng_options o = { 0 };

	start(&o, &o);
	for (unsigned i = 0; i < WORKERS; i++) {
		struct worker *to = workers_get(ng_workers, i);

		cr_assert(vhost_queue_move(queue(&a, 1), to));
		ng_disconnect(&a);
		ng_connect(&a);
		cr_assert_eq(queue(&a, 1)->worker, to);
		send_number(&a, &b, i);
		ng_receive(&b, 0, &got);
		ng_sent(&a, 0);
	}
	stop();
}
