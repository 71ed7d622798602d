/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest port's life: rings disabled, stopped and started anew while others send, guests that come
 * and go, queue pairs, the configuration space, and what the control thread asks of it.
 */
#include "base/error.h"
#include "tests/unit/net_sender.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>

static struct net_guest a, b;
static struct ng_frame got;

static void send_frame(struct net_guest *from, unsigned pair, const struct net_guest *to,
		       uint32_t number)
{
	uint8_t bytes[100];

	frame_make(bytes, to->mac, from->mac, sizeof(bytes), number);
	ng_send(from, pair, NULL, bytes, sizeof(bytes), NULL);
	ng_sent(from, pair);
}

static void expect_frame(struct net_guest *to, unsigned pair, uint32_t number)
{
	ng_receive(to, pair, &got);
	cr_assert_eq(got.len, 100);
	cr_assert_eq(frame_get32(got.bytes + 14), number);
}

static void expect_nothing(struct net_guest *to)
{
	for (unsigned pair = 0; pair < to->opt.run_pairs; pair++)
		cr_assert_not(ng_try_receive(to, pair, &got));
}

static void start(const struct ng_options *oa, const struct ng_options *ob, unsigned workers)
{
	ng_world_start(workers);
	ng_start(&a, 0, oa);
	ng_start(&b, 1, ob);
}

static void stop(void)
{
	ng_stop(&a);
	ng_stop(&b);
	ng_world_stop();
}

#define FOR_EACH_LAYOUT(o) for (unsigned v = 0; (o).packed = v, v < 2; v++)

/* vhost-user "Ring states": protocol.md 4.7. */
Test(net_life, disabled_transmit_ring_is_consumed_and_dropped, .timeout = 60)
{
	struct ng_options o = { 0 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &o, 1);
		send_frame(&a, 0, &b, 1);
		expect_frame(&b, 0, 1);
		cr_assert_eq(frontend_queue_enable(&a.fe, 1, false), 0, "%s", a.fe.error);
		for (unsigned i = 0; i < 300; i++)
			send_frame(&a, 0, &b, 2);
		expect_nothing(&b);
		cr_assert_eq(ng_stats(&a).rx_packets, 1);
		cr_assert_eq(frontend_queue_enable(&a.fe, 1, true), 0, "%s", a.fe.error);
		send_frame(&a, 0, &b, 3);
		expect_frame(&b, 0, 3);
		stop();
	}
}

Test(net_life, disabled_receive_ring_gets_nothing, .timeout = 60)
{
	struct ng_options o = { 0 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &o, 1);
		cr_assert_eq(frontend_queue_enable(&b.fe, 0, false), 0, "%s", b.fe.error);
		for (unsigned i = 0; i < 10; i++)
			send_frame(&a, 0, &b, 1);
		expect_nothing(&b);
		cr_assert_eq(ng_stats(&b).tx_down, 10);
		cr_assert_eq(frontend_queue_enable(&b.fe, 0, true), 0, "%s", b.fe.error);
		send_frame(&a, 0, &b, 2);
		expect_frame(&b, 0, 2);
		stop();
	}
}

Test(net_life, receiver_without_buffers_loses_frames_and_holds_nobody_up, .timeout = 60)
{
	struct ng_options oa = { 0 }, ob = { .rx_idle = true, .rx_count = 3 };

	FOR_EACH_LAYOUT(ob)
	{
		start(&oa, &ob, 1);
		for (unsigned i = 0; i < 100; i++)
			send_frame(&a, 0, &b, 1);
		cr_assert_eq(ng_stats(&b).tx_no_buffer, 100);
		expect_nothing(&b);
		ng_fill(&b, 0, 3);
		for (unsigned i = 0; i < 5; i++)
			send_frame(&a, 0, &b, 10 + i);
		for (unsigned i = 0; i < 3; i++)
			expect_frame(&b, 0, 10 + i);
		expect_nothing(&b);
		cr_assert_eq(ng_stats(&b).tx_no_buffer, 102);
		/* virtio 1.3 2.7.10: no kick is asked for where none is of use. */
		cr_assert_eq(b.fe.queue[0].kicks, 0);
		stop();
	}
}

Test(net_life, frames_to_a_port_without_guest_are_counted_as_down, .timeout = 60)
{
	struct ng_options o = { 0 };

	ng_world_start(1);
	ng_create(&b, 1, &o);
	ng_start(&a, 0, &o);
	send_frame(&a, 0, &b, 1);
	cr_assert_eq(ng_stats(&b).tx_down, 1);
	ng_connect(&b);
	send_frame(&a, 0, &b, 2);
	expect_frame(&b, 0, 2);
	stop();
}

Test(net_life, guest_comes_back_with_other_rings_and_features, .timeout = 60)
{
	struct ng_options o = { 0 };

	start(&o, &o, 2);
	for (unsigned i = 0; i < 8; i++) {
		send_frame(&a, 0, &b, i);
		expect_frame(&b, 0, i);
		send_frame(&b, 0, &a, i);
		expect_frame(&a, 0, i);
		ng_disconnect(&b);
		send_frame(&a, 0, &b, 99);
		b.opt.packed = i & 1;
		b.opt.event_idx = i & 2;
		b.opt.features = i & 1 ? NG_MRG | NG_TSO : NG_SENDER;
		ng_connect(&b);
	}
	cr_assert_eq(ng_stats(&b).tx_down, 8);
	stop();
}

/* A stopped ring goes on where it was: protocol.md 4.8c. */
Test(net_life, rings_stop_and_resume_from_their_base, .timeout = 60)
{
	struct ng_options o = { 0 };
	uint32_t base;

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &o, 1);
		for (unsigned i = 0; i < 20; i++) {
			send_frame(&a, 0, &b, i);
			expect_frame(&b, 0, i);
			cr_assert_eq(frontend_queue_stop(&b.fe, 0, &base), 0, "%s", b.fe.error);
			send_frame(&a, 0, &b, 77);
			expect_nothing(&b);
			cr_assert_eq(frontend_state_set(&b.fe, VU_SET_VRING_BASE, 0, base), 0);
			cr_assert_eq(frontend_vring_fd(&b.fe, VU_SET_VRING_KICK, 0,
						       b.fe.queue[0].kick_fd),
				     0, "%s", b.fe.error);
			cr_assert_eq(frontend_queue_stop(&a.fe, 1, &base), 0, "%s", a.fe.error);
			cr_assert_eq(frontend_state_set(&a.fe, VU_SET_VRING_BASE, 1, base), 0);
			cr_assert_eq(frontend_vring_fd(&a.fe, VU_SET_VRING_KICK, 1,
						       a.fe.queue[1].kick_fd),
				     0, "%s", a.fe.error);
		}
		cr_assert_eq(ng_stats(&b).tx_down, 20);
		stop();
	}
}

#define MQ (NG_BIT(VIRTIO_NET_F_MQ))
#define CTRL (NG_BIT(VIRTIO_NET_F_CTRL_VQ))

static uint8_t use_pairs(struct net_guest *g, unsigned n)
{
	uint64_t gpa;
	uint8_t *p = ng_alloc(g, 64, &gpa);
	struct driver_seg segs[] = { { gpa, 4 }, { gpa + 32, 1 } };

	p[0] = VIRTIO_NET_CTRL_MQ;
	p[1] = VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
	p[2] = (uint8_t)n;
	p[32] = 0x77;
	cr_assert_eq(ng_submit_wait(g, ng_ctrl_index(g), segs, 1, 1), 1);
	return p[32];
}

/* The front-end keeps the control queue to itself, and enables what the guest uses (QEMU). */
Test(net_life, pairs_by_enabled_rings_each_worker_with_its_own, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = 2 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &o, 2);
		for (uint32_t i = 0; i < 50; i++) {
			send_frame(&a, 0, &b, i);
			send_frame(&a, 1, &b, 1000 + i);
		}
		for (uint32_t i = 0; i < 50; i++) {
			expect_frame(&b, 0, i);
			expect_frame(&b, 1, 1000 + i);
		}
		cr_assert_eq(frontend_queue_enable(&b.fe, 2, false), 0);
		for (uint32_t i = 0; i < 20; i++) {
			send_frame(&a, 0, &b, i);
			send_frame(&a, 1, &b, i);
			expect_frame(&b, 0, i);
			expect_frame(&b, 0, i);
		}
		/* Nobody says that it is the first pairs that are enabled. */
		cr_assert_eq(frontend_queue_enable(&b.fe, 2, true), 0);
		cr_assert_eq(frontend_queue_enable(&b.fe, 0, false), 0);
		send_frame(&a, 0, &b, 5);
		send_frame(&a, 1, &b, 6);
		expect_frame(&b, 1, 5);
		expect_frame(&b, 1, 6);
		stop();
	}
}

/* By whichever pair. */
static void expect_somewhere(struct net_guest *to, uint32_t number)
{
	for (unsigned i = 0; i < 200000; i++) {
		if (ng_try_receive(to, i % to->opt.run_pairs, &got)) {
			cr_assert_eq(frame_get32(got.bytes + 14), number);
			return;
		}
		ng_idle(NULL);
	}
	cr_assert_fail("frame %u has not come", number);
}

/*
 * As many as SET_VRING_KICK can name, whose index has 8 bits: 254 queues, and the control queue
 * behind them, by which the driver asks for all of them.
 */
Test(net_life, a_card_of_127_pairs_sends_by_each, .timeout = 120)
{
	struct ng_options o = { .features = MQ | CTRL, .pairs = 127, .ring_size = 8 };

	o.rx_count = 4;
	FOR_EACH_LAYOUT(o)
	{
		start(&o, &o, 2);
		cr_assert_eq(ng_ctrl_index(&b), 254);
		send_frame(&a, 126, &b, 1);
		expect_frame(&b, 0, 1);
		cr_assert_eq(use_pairs(&b, 128), VIRTIO_NET_ERR);
		cr_assert_eq(use_pairs(&b, 127), VIRTIO_NET_OK);
		send_frame(&a, 1, &b, 2);
		expect_frame(&b, 1, 2); /* not by the first pair: it was obeyed */
		for (unsigned pair = 0; pair < o.pairs; pair++) {
			send_frame(&a, pair, &b, pair);
			expect_somewhere(&b, pair);
		}
		for (unsigned q = 0; q < 255; q++)
			cr_assert_eq(net_device_vhost(b.dev)->queues[q].state, VIRTQUEUE_RUNNING);
		stop();
	}
}

/*
 * One queue begins anew, described differently, while frames come in and go out by the others. This
 * needs no feature: RING_RESET is the driver's, and QEMU does not pass it on.
 */
Test(net_life, one_queue_begins_anew_while_frames_go_by_the_others, .timeout = 60)
{
	struct ng_options o = { .features = MQ, .pairs = 2 };

	FOR_EACH_LAYOUT(o)
	{
		const struct vhost_device *d;

		start(&o, &o, 2);
		d = net_device_vhost(b.dev);
		for (uint32_t i = 0; i < 20; i++) {
			struct frontend_queue_options qo = { .size = 16u << i % 4 };
			unsigned q = 2 + i % 2;

			cr_assert_eq(frontend_queue_stop(&b.fe, q, NULL), 0, "%s", b.fe.error);
			cr_assert_eq(d->queues[q].state, VIRTQUEUE_STOPPED);
			for (unsigned k = 0; k < 5; k++) {
				send_frame(&a, 0, &b, k);
				expect_somewhere(&b, k);
				send_frame(&b, 0, &a, k);
				expect_somewhere(&a, k);
			}
			frontend_queue_free(&b.fe, q);
			cr_assert_eq(frontend_queue_setup(&b.fe, q, &qo), 0, "%s", b.fe.error);
			cr_assert_eq(frontend_queue_start(&b.fe, q), 0, "%s", b.fe.error);
			cr_assert_eq(d->queues[q].ring.size, qo.size);
			if (q == 2)
				ng_fill(&b, 1, qo.size);
			send_frame(&b, 1, &a, 100 + i);
			expect_somewhere(&a, 100 + i);
			send_frame(&a, 1, &b, 200 + i);
			expect_somewhere(&b, 200 + i);
		}
		stop();
	}
}

/* The front-end hands the control queue over: behind the last pair (crosvm, QEMU's generic device).
 */
Test(net_life, pairs_by_control_queue_5_1_6_5_5, .timeout = 60)
{
	struct ng_options o = { .features = MQ | CTRL, .pairs = 3 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &o, 2);
		/* One pair until the driver asks for more. */
		send_frame(&a, 0, &b, 1);
		send_frame(&a, 1, &b, 2);
		expect_frame(&b, 0, 1);
		expect_frame(&b, 0, 2);
		cr_assert_eq(use_pairs(&b, 2), VIRTIO_NET_OK);
		for (uint32_t i = 0; i < 20; i++) {
			send_frame(&a, 0, &b, i);
			send_frame(&a, 1, &b, 100 + i);
		}
		for (unsigned pair = 0, n; pair < 2; pair++) {
			for (n = 0; ng_try_receive(&b, pair, &got); n++)
				cr_assert_eq(frame_get32(got.bytes + 14) % 100, n);
			cr_assert_eq(n, 20);
		}
		cr_assert_eq(use_pairs(&b, 4), VIRTIO_NET_ERR);
		cr_assert_eq(use_pairs(&b, 1), VIRTIO_NET_OK);
		send_frame(&a, 1, &b, 7);
		expect_frame(&b, 0, 7);
		expect_nothing(&b);
		stop();
	}
}

/* Two pairs offered, MQ not taken: queue 2 is the control queue. Taken: it is a receive queue. */
Test(net_life, control_queue_is_queue_2_without_mq_5_1_2, .timeout = 60)
{
	struct ng_options o = { .features = CTRL, .pairs = 2, .run_pairs = 1 };
	struct ng_options plain = { 0 };

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &plain, 1);
		cr_assert_eq(ng_ctrl_index(&a), 2);
		cr_assert_eq(use_pairs(&a, 1), VIRTIO_NET_ERR); /* no MQ, but an answer */
		send_frame(&a, 0, &b, 1);
		expect_frame(&b, 0, 1);
		send_frame(&b, 0, &a, 2);
		expect_frame(&a, 0, 2);
		stop();
	}
}

Test(net_life, queue_behind_the_pairs_is_refused_without_ctrl_vq, .timeout = 60)
{
	struct frontend_queue_options qo = { .size = 64 };
	struct ng_options o = { 0 };
	int rc;

	start(&o, &o, 1);
	cr_assert_eq(frontend_queue_setup(&a.fe, 2, &qo), 0);
	rc = frontend_queue_start(&a.fe, 2);
	cr_assert_eq(rc, -EREMOTEIO, "%d %s", rc, a.fe.error);
	send_frame(&a, 0, &b, 1);
	expect_frame(&b, 0, 1);
	stop();
}

Test(net_life, queue_num_and_configuration_space, .timeout = 60)
{
	struct ng_options o = { .pairs = 3, .has_mac = true, .mtu = 9000, .features = MQ };
	struct ng_options plain = { 0 };
	struct virtio_net_config c;
	uint64_t n, bits;

	start(&o, &plain, 1);
	cr_assert_eq(frontend_u64_get(&a.fe, VU_GET_QUEUE_NUM, &n), 0, "%s", a.fe.error);
	cr_assert_eq(n, 3);
	cr_assert_eq(frontend_get_config(&a.fe, 0, &c, sizeof(c)), 0, "%s", a.fe.error);
	cr_assert_arr_eq(c.mac, a.mac, 6);
	cr_assert_eq(c.status, VIRTIO_NET_S_LINK_UP);
	cr_assert_eq(c.max_virtqueue_pairs, 3);
	cr_assert_eq(c.mtu, 9000);
	bits = NG_BIT(VIRTIO_NET_F_MAC) | NG_BIT(VIRTIO_NET_F_MTU) | MQ;
	cr_assert_eq(a.fe.offered & bits, bits);
	cr_assert_eq(b.fe.offered & bits, 0);
	bits = NG_BIT(VIRTIO_NET_F_GUEST_UFO) | NG_BIT(VIRTIO_NET_F_HOST_UFO) |
	       NG_BIT(VIRTIO_F_RING_RESET);
	cr_assert_eq(a.fe.offered & bits, 0);
	cr_assert_eq(frontend_u64_set(&a.fe, VU_NET_SET_MTU, 1400), 0, "%s", a.fe.error);
	cr_assert_eq(frontend_get_config(&a.fe, 10, &c.mtu, 2), 0);
	cr_assert_eq(c.mtu, 1400);
	cr_assert_lt(frontend_u64_set(&a.fe, VU_NET_SET_MTU, 67), 0);
	cr_assert_lt(frontend_u64_set(&a.fe, VU_NET_SET_MTU, 65536), 0);
	/* 5.1.4.2.1: read-only since 1.0; the migration source may set what it had. */
	cr_assert_lt(frontend_set_config(&a.fe, 0, "\2\4\6\10\12\14", 6, 0), 0);
	cr_assert_eq(frontend_set_config(&a.fe, 0, "\2\4\6\10\12\14", 6, 1), 0, "%s", a.fe.error);
	cr_assert_eq(frontend_get_config(&a.fe, 0, &c, 6), 0);
	cr_assert_arr_eq(c.mac, "\2\4\6\10\12\14", 6);
	/* The next guest finds the port as it was configured. */
	ng_disconnect(&a);
	ng_connect(&a);
	cr_assert_eq(frontend_get_config(&a.fe, 0, &c, 6), 0);
	cr_assert_arr_eq(c.mac, a.mac, 6);
	stop();
}

/* 5.1.4: one that is not configured is not offered, and not the standstill that zero would be. */
Test(net_life, speed_and_duplex_as_configured_else_unknown_5_1_4, .timeout = 60)
{
	struct ng_options o = { .speed = 0x7fffffff, .features = NG_BIT(63) }, plain = { 0 };
	struct virtio_net_config c;

	FOR_EACH_LAYOUT(o)
	{
		start(&o, &plain, 1);
		cr_assert(a.fe.offered & NG_BIT(VIRTIO_NET_F_SPEED_DUPLEX));
		cr_assert_eq(frontend_get_config(&a.fe, 0, &c, sizeof(c)), 0, "%s", a.fe.error);
		cr_assert_eq(c.speed, 0x7fffffff);
		cr_assert_eq(c.duplex, 1);
		cr_assert_not(b.fe.offered & NG_BIT(VIRTIO_NET_F_SPEED_DUPLEX));
		cr_assert_eq(frontend_get_config(&b.fe, 0, &c, sizeof(c)), 0, "%s", b.fe.error);
		cr_assert_eq(c.speed, UINT32_MAX);
		cr_assert_eq(c.duplex, 0xff);
		send_frame(&a, 0, &b, 1);
		expect_frame(&b, 0, 1);
		stop();
	}
}

Test(net_life, legacy_driver_sets_its_address_in_the_configuration_space, .timeout = 60)
{
	struct ng_options o = { .legacy = true }, plain = { 0 };
	uint8_t mac[6];

	start(&o, &plain, 1);
	cr_assert_eq(frontend_set_config(&a.fe, 2, "\7\11", 2, 0), 0, "%s", a.fe.error);
	cr_assert_eq(frontend_get_config(&a.fe, 0, mac, 6), 0);
	cr_assert_arr_eq(mac, "\0\0\7\11\0\0", 6);
	cr_assert_lt(frontend_set_config(&a.fe, 4, "\1\2\3\4", 4, 0), 0);
	cr_assert_lt(frontend_set_config(&a.fe, 10, "\1\2", 2, 0), 0);
	stop();
}

Test(net_life, rarp_tells_the_switch_and_everybody_where_the_guest_is, .timeout = 60)
{
	static const uint8_t mac[8] = { 0x52, 0x54, 0, 9, 9, 9 };
	static const uint8_t head[] = { 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3 };
	struct ng_options o = { 0 };
	uint64_t word;
	uint8_t bytes[60];

	start(&o, &o, 2);
	memcpy(&word, mac, 8);
	cr_assert_eq(frontend_u64_set(&a.fe, VU_SEND_RARP, word), 0, "%s", a.fe.error);
	ng_receive(&b, 0, &got);
	cr_assert_eq(got.len, 60);
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(got.bytes[i], 0xff);
	cr_assert_arr_eq(got.bytes + 6, mac, 6);
	cr_assert_arr_eq(got.bytes + 12, head, sizeof(head));
	cr_assert_arr_eq(got.bytes + 22, mac, 6);
	cr_assert_arr_eq(got.bytes + 32, mac, 6);
	/* Learned: what b sends there reaches a, and a alone could have it. */
	frame_make(bytes, mac, b.mac, sizeof(bytes), 5);
	ng_send(&b, 0, NULL, bytes, sizeof(bytes), NULL);
	ng_receive(&a, 0, &got);
	cr_assert_arr_eq(got.bytes, bytes, sizeof(bytes));
	word = 0xffffffffffff;
	cr_assert_lt(frontend_u64_set(&a.fe, VU_SEND_RARP, word), 0);
	stop();
}

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void refused(struct net_device_config cfg, const char *word)
{
	struct net_device *d = NULL;
	struct error err = { 0 };

	cfg.socket = (struct vhost_socket) { .path = strdup("/tmp/sluice-test-net-refused"),
					     .fd = -1,
					     .mode = -1 };
	cr_assert_lt(net_device_create(&cfg, ng_switch, ng_workers, &d, &err), 0);
	cr_assert(strstr(err.text, "web") && strstr(err.text, word), "%s", err.text);
	cr_assert_null(d);
}

Test(net_life, bad_configurations_are_refused_with_a_sentence, .timeout = 60)
{
	struct net_device_config good = { .name = "web", .queue_pairs = 1 }, c;
	struct error err = { 0 };
	struct net_device *d = NULL;
	unsigned fds;

	ng_world_start(1);
	fds = open_fds();
	refused((c = good, c.queue_pairs = 0, c), "queue pairs");
	refused((c = good, c.queue_pairs = 128, c), "queue pairs");
	refused((c = good, c.has_mac = true, c), "MAC");
	refused((c = good, c.has_mac = true, c.mac[0] = 1, c), "MAC");
	refused((c = good, c.mtu = 67, c), "MTU");
	refused((c = good, c.speed = 0x80000000, c), "speed");
	c = good;
	c.socket = (struct vhost_socket) { .path = strdup("/nonexistent/x"), .fd = -1, .mode = -1 };
	cr_assert_lt(net_device_create(&c, ng_switch, ng_workers, &d, &err), 0);
	cr_assert(strstr(err.text, "/nonexistent"), "%s", err.text);
	/* A thread closes what may be of any kind. */
	for (unsigned i = 0; i < 3000 && open_fds() != fds; i++)
		usleep(10000);
	cr_assert_eq(open_fds(), fds);
	ng_world_stop(); /* asserts that no port is left in the switch */
}

static unsigned drain(struct net_guest *g)
{
	unsigned n = 0;

	for (unsigned pair = 0; pair < g->opt.run_pairs; pair++)
		for (unsigned i = 0; i < 500 && ng_try_receive(g, pair, &got); i++, n++)
			cr_assert_eq(got.len, 100);
	return n;
}

/*
 * Two workers deliver to one guest while its rings are disabled, stopped and started, its pairs
 * change, and it goes away and comes back. The driver's ring sees to it that nothing is written
 * that should not be; every frame is accounted for.
 */
Test(net_life, receiver_changes_while_two_workers_deliver, .timeout = 120)
{
	struct ng_options oa = { .features = MQ, .pairs = 2 };
	struct ng_options ob = { .features = MQ | CTRL | NG_MRG, .pairs = 2, .rx_buffer = 80 };
	struct port_stats s;
	uint64_t received = 0;

	FOR_EACH_LAYOUT(ob)
	{
		struct sender senders[2];
		uint64_t frames = 0;
		uint32_t base;

		oa.packed = !ob.packed;
		start(&oa, &ob, 2);
		sender_start(&senders[0], &a, 0, &b);
		sender_start(&senders[1], &a, 1, &b);
		for (unsigned i = 0; i < 300; i++) {
			unsigned queue = i & 2;

			switch (i % 4) {
			case 0:
				frontend_queue_enable(&b.fe, queue, false);
				drain(&b);
				cr_assert_not(
					frontend_poll(&b.fe, queue, &(struct driver_used) { 0 }));
				frontend_queue_enable(&b.fe, queue, true);
				break;
			case 1:
				cr_assert_eq(frontend_queue_stop(&b.fe, queue, &base), 0);
				drain(&b);
				cr_assert_not(driver_ring_has_used(&b.fe.queue[queue].ring));
				frontend_state_set(&b.fe, VU_SET_VRING_BASE, queue, base);
				frontend_vring_fd(&b.fe, VU_SET_VRING_KICK, queue,
						  b.fe.queue[queue].kick_fd);
				break;
			case 2:
				cr_assert_eq(use_pairs(&b, 1 + (i / 4) % 2), VIRTIO_NET_OK);
				break;
			case 3:
				if (i % 20 == 3) {
					ng_disconnect(&b);
					ng_connect(&b);
				}
				break;
			}
			received += drain(&b);
		}
		sender_stop(&senders[0]);
		sender_stop(&senders[1]);
		frames = senders[0].sent + senders[1].sent;
		s = ng_stats(&a);
		cr_assert_eq(s.rx_packets, frames);
		s = ng_stats(&b);
		cr_assert_eq(s.tx_packets + s.tx_no_buffer + s.tx_down, frames,
			     "%lu delivered, %lu without buffer, %lu down, %lu sent", s.tx_packets,
			     s.tx_no_buffer, s.tx_down, frames);
		cr_assert_gt(s.tx_packets, 0);
		stop();
	}
	cr_assert_gt(received, 0);
}

Test(net_life, port_is_closed_while_frames_come_in, .timeout = 60)
{
	struct ng_options o = { 0 };

	for (unsigned i = 0; i < 20; i++) {
		struct sender s;

		o.packed = i & 1;
		start(&o, &o, 2);
		sender_start(&s, &a, 0, &b);
		for (unsigned k = 0; k < 20; k++)
			drain(&b);
		ng_stop(&b);
		sender_stop(&s);
		ng_stop(&a);
		ng_world_stop();
	}
}
