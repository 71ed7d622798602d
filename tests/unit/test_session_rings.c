/* SPDX-License-Identifier: Apache-2.0 */
/* A session's rings: how they start, stop, rest and go on. vhost-user "Ring states". */
#include "tests/unit/session_util.h"

#include "vhost/session.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct bed b;

static const uint64_t layouts[] = { 0, VU_F_PACKED, VU_F_EVENT_IDX | VU_F_INDIRECT,
				    VU_F_PACKED | VU_F_EVENT_IDX | VU_F_INDIRECT };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

static void open_bed(const struct vhost_device_ops *ops, uint64_t protocol, uint64_t features)
{
	bed_init(&b, ops);
	bed_pair(&b);
	bed_negotiate(&b, protocol, features);
}

static enum virtqueue_state state(unsigned index)
{
	return b.dev.vhost.queues[index].state;
}

Test(session_rings, chains_go_there_and_back_in_both_layouts)
{
	unsigned fds = settled_fds();

	FOR_EACH_LAYOUT(features)
	{
		open_bed(&echo_blk_ops, VU_PF_USUAL, features);
		cr_assert_eq(b.dev.features,
			     ECHO_FEATURES | VU_F_VERSION_1 | VU_F_PROTOCOL | features);
		for (unsigned i = 0; i < ECHO_QUEUES; i++)
			bed_start_queue(&b, i);
		cr_assert_eq(vhost_device_state(&b.dev.vhost), VHOST_DEVICE_RUNNING);
		for (unsigned i = 0; i < 400; i++)
			bed_echo(&b, i % ECHO_QUEUES);
		bed_fini(&b);
		cr_assert_eq(b.dev.disconnected, 1u);
	}
	cr_assert(fds_become(fds));
}

Test(session_rings, a_ring_goes_on_from_its_base_after_get_vring_base)
{
	FOR_EACH_LAYOUT(features)
	{
		uint32_t base = 0;

		open_bed(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 1);
		for (unsigned i = 0; i < 5; i++)
			bed_echo(&b, 1);
		OK(&b.f, frontend_queue_stop(&b.f, 1, &base));
		cr_assert_eq(state(1), VIRTQUEUE_STOPPED);
		if (!(features & VU_F_PACKED))
			cr_assert_eq(base, 5u);
		/* Only a kick: size, addresses and base are as they were. */
		OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 1, b.f.queue[1].kick_fd));
		cr_assert_eq(state(1), VIRTQUEUE_RUNNING);
		for (unsigned i = 0; i < 100; i++)
			bed_echo(&b, 1);
		bed_fini(&b);
	}
}

/* DPDK's virtio-user fills in the half of what was taken alone. */
Test(session_rings, a_packed_base_may_lack_its_upper_half)
{
	struct frontend_queue_options opt = { .size = 64 };

	open_bed(&echo_blk_ops, VU_PF_USUAL, VU_F_PACKED);
	OK(&b.f, frontend_queue_setup(&b.f, 0, &opt));
	OK(&b.f, frontend_queue_start(&b.f, 0));
	OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
	OK(&b.f, frontend_state_set(&b.f, VU_SET_VRING_BASE, 0, 0x8000));
	OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd));
	for (unsigned i = 0; i < 100; i++)
		bed_echo(&b, 0);
	bed_fini(&b);
}

/* The message starts the ring, not the first signal of its eventfd. */
Test(session_rings, a_ring_starts_on_set_vring_kick_itself)
{
	FOR_EACH_LAYOUT(features)
	{
		struct driver_used used;
		uint64_t count;

		open_bed(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		bed_submit(&b, 0);
		/* Take the kick away again: nobody will have heard it. */
		(void)!read(b.f.queue[0].kick_fd, &count, sizeof(count));
		OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd));
		OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		bed_fini(&b);
	}
}

Test(session_rings, without_protocol_features_rings_are_enabled_at_once)
{
	FOR_EACH_LAYOUT(features)
	{
		bed_init(&b, &echo_blk_ops);
		bed_pair(&b);
		OK(&b.f, frontend_u64_get(&b.f, VU_GET_FEATURES, &b.f.offered));
		OK(&b.f, frontend_set(&b.f, VU_SET_OWNER, NULL, 0, NULL, 0));
		OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1 | features));
		OK(&b.f, frontend_share_memory(&b.f, &b.memory));
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		bed_fini(&b);
	}
}

Test(session_rings, a_disabled_ring_of_blk_stands_still)
{
	FOR_EACH_LAYOUT(features)
	{
		struct driver_used used;

		open_bed(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		OK(&b.f, frontend_queue_enable(&b.f, 0, false));
		cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
		bed_submit(&b, 0);
		cr_assert(STAYS(!frontend_poll(&b.f, 0, &used), 50));
		OK(&b.f, frontend_queue_enable(&b.f, 0, true));
		OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		bed_fini(&b);
	}
}

Test(session_rings, a_disabled_ring_of_net_runs_and_knows_it)
{
	open_bed(&echo_net_ops, VU_PF_USUAL, 0);
	/* QEMU enables the first pair before anything else. */
	OK(&b.f, frontend_queue_enable(&b.f, 2, true));
	bed_start_queue(&b, 2);
	cr_assert(b.dev.vhost.queues[2].enabled);
	OK(&b.f, frontend_queue_enable(&b.f, 2, false));
	cr_assert_not(b.dev.vhost.queues[2].enabled);
	cr_assert_eq(state(2), VIRTQUEUE_RUNNING);
	cr_assert_eq(b.dev.queue[2].starts, 1u);
	bed_echo(&b, 2);
	bed_fini(&b);
}

/* A front-end that says so twice must not cost the guest a pause. */
Test(session_rings, enabling_a_ring_that_runs_does_not_stop_it)
{
	open_bed(&echo_blk_ops, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	bed_echo(&b, 0);
	OK(&b.f, frontend_queue_enable(&b.f, 0, true));
	bed_echo(&b, 0);
	cr_assert_eq(b.dev.queue[0].stops, 0u);
	cr_assert_eq(b.dev.queue[0].starts, 1u);
	bed_fini(&b);
}

/* Ring @i by SET_VRING_KICK and what goes before it, without SET_VRING_ENABLE. */
static void start_without_enable(unsigned i)
{
	struct frontend_queue_options opt = { .size = 64 };

	OK(&b.f, frontend_queue_setup(&b.f, i, &opt));
	b.f.features &= ~VU_F_PROTOCOL;
	OK(&b.f, frontend_queue_start(&b.f, i));
	b.f.features |= VU_F_PROTOCOL;
}

/*
 * vhost-user "Multiple queue support": "vhost-user-net has historically automatically enabled the
 * first queue pair". It is the front-end that does so: QEMU's card says SET_VRING_ENABLE of pair 0
 * when it is made, before it has set any features or shared any memory; a guest that starts it much
 * later finds it enabled. Other pairs wait for their own.
 */
Test(session_rings, queue_pair_0_enabled_before_anything_else_is_enabled_when_it_starts)
{
	FOR_EACH_LAYOUT(features)
	{
		bed_init(&b, &echo_net_ops);
		bed_pair(&b);
		OK(&b.f, frontend_hello(&b.f, VU_PF_USUAL));
		OK(&b.f, frontend_queue_enable(&b.f, 0, true));
		OK(&b.f, frontend_queue_enable(&b.f, 1, true));
		OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1 | VU_F_PROTOCOL | features));
		OK(&b.f, frontend_share_memory(&b.f, &b.memory));
		for (unsigned i = 0; i < ECHO_QUEUES; i++) {
			start_without_enable(i);
			cr_assert_eq(b.dev.vhost.queues[i].enabled, i < 2, "queue %u", i);
		}
		/* Nor is it forgotten when the guest's driver is taken away and comes back. */
		for (unsigned i = 0; i < 2; i++) {
			bed_echo(&b, i);
			OK(&b.f, frontend_queue_stop(&b.f, i, NULL));
			start_without_enable(i);
			cr_assert(b.dev.vhost.queues[i].enabled, "queue %u", i);
			bed_echo(&b, i);
		}
		bed_fini(&b);
	}
}

/* As DPDK's library has it: where PROTOCOL_FEATURES was negotiated a ring is what it is told. */
Test(session_rings, no_queue_pair_is_enabled_by_itself)
{
	open_bed(&echo_net_ops, VU_PF_USUAL, 0);
	start_without_enable(0);
	cr_assert_not(b.dev.vhost.queues[0].enabled);
	OK(&b.f, frontend_queue_enable(&b.f, 0, true));
	cr_assert(b.dev.vhost.queues[0].enabled);
	bed_fini(&b);
}

Test(session_rings, get_vring_base_waits_for_what_is_in_flight)
{
	FOR_EACH_LAYOUT(features)
	{
		struct vu_state s = { .index = 3 };
		struct driver_used used;

		open_bed(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 3);
		b.dev.hold = true;
		bed_submit(&b, 3);
		bed_submit(&b, 3);
		cr_assert(
			EVENTUALLY(__atomic_load_n(&b.dev.queue[3].n_held, __ATOMIC_ACQUIRE) == 2));
		OK(&b.f,
		   frontend_send(&b.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
		cr_assert(EVENTUALLY(state(3) == VIRTQUEUE_STOPPING));
		/* The next message waits too. */
		OK(&b.f, frontend_send(&b.f, VU_GET_FEATURES, VU_VERSION, NULL, 0, NULL, 0));
		cr_assert(STAYS(recv(b.f.sock, &s, 1, MSG_DONTWAIT | MSG_PEEK) < 0, 50));
		cr_assert_eq(state(3), VIRTQUEUE_STOPPING);

		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		OK(&b.f, frontend_recv_reply(&b.f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL));
		/* What was popped is back by then: nothing more is written afterwards. */
		cr_assert(frontend_poll(&b.f, 3, &used));
		cr_assert(frontend_poll(&b.f, 3, &used));
		cr_assert_eq(state(3), VIRTQUEUE_STOPPED);
		if (!(features & VU_F_PACKED))
			cr_assert_eq(s.num, 2u);
		OK(&b.f, frontend_recv_reply(&b.f, VU_GET_FEATURES, &b.f.offered, 8, NULL, NULL));
		bed_fini(&b);
	}
}

Test(session_rings, other_sessions_go_on_while_one_waits)
{
	static struct bed other;
	uint64_t features;
	int pair[2];
	struct vhost_socket s = { .fd = -1, .mode = -1 };
	struct error err = { 0 };
	static struct echo_device dev;
	struct vu_state get = { .index = 0 };

	open_bed(&echo_blk_ops, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	b.dev.hold = true;
	bed_submit(&b, 0);
	cr_assert(EVENTUALLY(__atomic_load_n(&b.dev.queue[0].n_held, __ATOMIC_ACQUIRE) == 1));
	OK(&b.f, frontend_send(&b.f, VU_GET_VRING_BASE, VU_VERSION, &get, sizeof(get), NULL, 0));
	cr_assert(EVENTUALLY(state(0) == VIRTQUEUE_STOPPING));

	cr_assert_eq(vhost_device_init(&dev.vhost, &echo_net_ops, "other", 2, b.workers, &err), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	s.fd = pair[0];
	cr_assert_eq(vhost_device_serve(&dev.vhost, &s, &err), 0);
	frontend_init(&other.f);
	other.f.idle = bed_step;
	frontend_attach(&other.f, pair[1]);
	OK(&other.f, frontend_u64_get(&other.f, VU_GET_FEATURES, &features));
	cr_assert_eq(state(0), VIRTQUEUE_STOPPING);

	frontend_close(&other.f);
	cr_assert(EVENTUALLY(dev.disconnected == 1));
	vhost_device_close(&dev.vhost, NULL);
	vhost_device_fini(&dev.vhost);
	__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
	bed_fini(&b);
}

/* A message that needs a ring to be quiet stops that one: the others' requests are not waited for.
 */
Test(session_rings, stopping_one_ring_interrupts_no_other)
{
	FOR_EACH_LAYOUT(features)
	{
		struct driver_used used;

		open_bed(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 0);
		bed_start_queue(&b, 1);
		__atomic_store_n(&b.dev.hold, true, __ATOMIC_RELEASE);
		bed_submit(&b, 1);
		cr_assert(
			EVENTUALLY(__atomic_load_n(&b.dev.queue[1].n_held, __ATOMIC_ACQUIRE) == 1));
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd));
		OK(&b.f, frontend_queue_enable(&b.f, 0, false));
		OK(&b.f, frontend_queue_enable(&b.f, 0, true));
		cr_assert_eq(b.dev.queue[0].starts, 3u);
		cr_assert_eq(b.dev.queue[1].starts, 1u);
		cr_assert_eq(state(1), VIRTQUEUE_RUNNING);
		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		OK(&b.f, frontend_wait_used(&b.f, 1, &used));
		bed_echo(&b, 0);
		bed_fini(&b);
	}
}

/* QEMU says the same features again for each queue pair. */
Test(session_rings, the_same_features_again_stop_nothing)
{
	open_bed(&echo_net_ops, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1 | ECHO_FEATURES));
	cr_assert_eq(b.dev.queue[0].starts, 1u);
	cr_assert_eq(b.dev.set_features, 1u);
	cr_assert(b.dev.vhost.queues[0].enabled);
	bed_fini(&b);
}

Test(session_rings, call_and_err_descriptors_change_under_a_running_ring)
{
	FOR_EACH_LAYOUT(features)
	{
		unsigned fds;

		open_bed(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		fds = settled_fds();
		for (unsigned i = 0; i < 50; i++) {
			OK(&b.f,
			   frontend_vring_fd(&b.f, VU_SET_VRING_CALL, 0, b.f.queue[0].call_fd));
			OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_ERR, 0, b.f.queue[0].err_fd));
			bed_echo(&b, 0);
		}
		cr_assert(fds_become(fds));
		/* No call: the driver polls. */
		OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_CALL, 0, -1));
		bed_submit(&b, 0);
		struct driver_used used;
		cr_assert(EVENTUALLY(frontend_poll(&b.f, 0, &used)));
		cr_assert_eq(b.dev.queue[0].starts, 1u);
		bed_fini(&b);
	}
}

Test(session_rings, reset_device_stops_rings_and_keeps_the_connection)
{
	FOR_EACH_LAYOUT(features)
	{
		open_bed(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		OK(&b.f, frontend_set(&b.f, VU_RESET_DEVICE, NULL, 0, NULL, 0));
		cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
		cr_assert_eq(b.dev.reset, 1u);
		cr_assert_eq(b.dev.vhost.features, 0u);
		cr_assert_not_null(b.dev.vhost.map);
		cr_assert_not(b.dev.vhost.queues[0].setup.enabled);
		OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1 | features));
		frontend_queue_free(&b.f, 0);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		bed_fini(&b);
	}
}

/* With requests in flight; the channel, of which the text says nothing, is kept with the rest. */
Test(session_rings, reset_device_waits_for_requests_and_keeps_the_channel)
{
	FOR_EACH_LAYOUT(features)
	{
		struct driver_used used;
		struct vu_header h;
		uint64_t ack = 1;

		open_bed(&echo_blk_ops, VU_PF_USUAL | VU_PF_BACKEND_REQ, features);
		OK(&b.f, frontend_open_backend_channel(&b.f));
		bed_start_queue(&b, 0);
		__atomic_store_n(&b.dev.hold, true, __ATOMIC_RELEASE);
		bed_submit(&b, 0);
		cr_assert(
			EVENTUALLY(__atomic_load_n(&b.dev.queue[0].n_held, __ATOMIC_ACQUIRE) == 1));
		OK(&b.f, frontend_send(&b.f, VU_RESET_DEVICE, VU_VERSION | VU_NEED_REPLY, NULL, 0,
				       NULL, 0));
		cr_assert(EVENTUALLY(state(0) == VIRTQUEUE_STOPPING));
		cr_assert(STAYS(b.dev.reset == 0 && state(0) == VIRTQUEUE_STOPPING, 20));
		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		OK(&b.f, frontend_recv_reply(&b.f, VU_RESET_DEVICE, &ack, 8, NULL, NULL));
		cr_assert_eq(ack, 0u);
		cr_assert_eq(b.dev.reset, 1u);
		cr_assert(frontend_poll(&b.f, 0, &used), "it is back before the answer");

		OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1 | features));
		frontend_queue_free(&b.f, 0);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		cr_assert(vhost_device_config_changed(&b.dev.vhost));
		OK(&b.f, frontend_backend_message(&b.f, &h));
		cr_assert_eq(h.request, VU_BACKEND_CONFIG_CHANGE);
		bed_fini(&b);
	}
}

Test(session_rings, status_zero_stops_rings)
{
	uint64_t status;

	open_bed(&echo_net_ops, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	OK(&b.f, frontend_u64_set(&b.f, VU_SET_STATUS, 15));
	OK(&b.f, frontend_u64_get(&b.f, VU_GET_STATUS, &status));
	cr_assert_eq(status, 15u);
	cr_assert_eq(state(0), VIRTQUEUE_RUNNING);
	OK(&b.f, frontend_u64_set(&b.f, VU_SET_STATUS, 0));
	cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
	cr_assert_eq(b.dev.reset, 1u);
	/* A net front-end enables pairs when it starts, and may do so only once. */
	cr_assert(b.dev.vhost.queues[0].setup.enabled);
	cr_assert_eq(frontend_u64_set(&b.f, VU_SET_STATUS, 256), -EREMOTEIO);
	bed_fini(&b);
}

/* A ring that its driver broke stays so over a change of memory and of features, until it is
 * started again. */
Test(session_rings, a_broken_ring_stays_broken_until_it_is_kicked_anew)
{
	FOR_EACH_LAYOUT(features)
	{
		struct driver_ring *r = &b.f.queue[0].ring;
		const struct driver_seg bad = { UINT64_C(1) << 40, 8 };
		struct driver_used used;
		uint64_t count;

		open_bed(&echo_blk_ops, VU_PF_USUAL & ~VU_PF_CONFIGURE_MEM_SLOTS, features);
		bed_start_queue(&b, 0);
		bed_start_queue(&b, 1);
		bed_echo(&b, 0);
		cr_assert_eq(r->layout == DRIVER_SPLIT
				     ? driver_add(r, DRIVER_SPLIT, &bad, 1, 0, NULL)
				     : driver_add(r, DRIVER_PACKED, &bad, 1, 0, NULL),
			     0);
		frontend_submit(&b.f, 0);
		cr_assert_eq(frontend_wait_used(&b.f, 0, &used), -EREMOTEIO);
		cr_assert_eq(read(b.f.queue[0].err_fd, &count, sizeof(count)), 8);
		OK(&b.f, frontend_set_mem_table(&b.f, &b.memory));
		cr_assert_not_null(b.dev.vhost.queues[0].ring.broken);
		/* Rings stop for this one, and only the other one starts again. */
		OK(&b.f, frontend_set_features(&b.f, b.f.features & ~UINT64_C(1)));
		cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
		cr_assert_eq(counter_read(&b.dev.vhost.stats.queues_broken), 1u);
		bed_echo(&b, 1);
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		frontend_queue_free(&b.f, 0);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		bed_fini(&b);
	}
}

/* vhost-user "Suspended device state": no message while no ring runs. */
Test(session_rings, a_changed_configuration_is_told_once_a_ring_runs)
{
	struct vu_header h;

	open_bed(&echo_blk_ops, VU_PF_USUAL | VU_PF_BACKEND_REQ, 0);
	OK(&b.f, frontend_open_backend_channel(&b.f));
	vhost_device_config_changed(&b.dev.vhost);
	cr_assert_lt(recv(b.f.backend_sock, &h, sizeof(h), MSG_DONTWAIT), 0);
	bed_start_queue(&b, 0);
	OK(&b.f, frontend_backend_message(&b.f, &h));
	cr_assert_eq(h.request, VU_BACKEND_CONFIG_CHANGE);
	vhost_device_config_changed(&b.dev.vhost);
	OK(&b.f, frontend_backend_message(&b.f, &h));
	cr_assert_eq(h.request, VU_BACKEND_CONFIG_CHANGE);
	cr_assert_lt(recv(b.f.backend_sock, &h, sizeof(h), MSG_DONTWAIT), 0);
	bed_fini(&b);
}

/* To whom it could not be told reads it when it connects: the caller is told so. */
Test(session_rings, a_changed_configuration_is_told_only_where_there_is_a_way_to)
{
	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	cr_assert_not(vhost_device_config_changed(&b.dev.vhost));
	bed_fini(&b);
	open_bed(&echo_blk_ops, VU_PF_USUAL | VU_PF_BACKEND_REQ, 0);
	cr_assert_not(vhost_device_config_changed(&b.dev.vhost));
	cr_assert_not(b.dev.vhost.session->config_changed);
	OK(&b.f, frontend_open_backend_channel(&b.f));
	cr_assert(vhost_device_config_changed(&b.dev.vhost));
	bed_fini(&b);
	open_bed(&echo_blk_ops, (VU_PF_USUAL & ~VU_PF_CONFIG) | VU_PF_BACKEND_REQ, 0);
	OK(&b.f, frontend_open_backend_channel(&b.f));
	cr_assert_not(vhost_device_config_changed(&b.dev.vhost));
	bed_fini(&b);
}

/* As the log has them: names where they are the core's, numbers where they are the device kind's.
 */
Test(session_rings, features_are_named_and_the_text_ends_within_its_buffer)
{
	char text[64];

	device_features_text(UINT64_C(1) << 34 | UINT64_C(1) << 28 | 1 << 5, text, sizeof(text));
	cr_assert_str_eq(text, "5 INDIRECT_DESC RING_PACKED");
	device_features_text(0, text, sizeof(text));
	cr_assert_str_eq(text, "");
	memset(text, 'x', sizeof(text));
	device_features_text(UINT64_MAX, text, 8);
	cr_assert_str_eq(text, "0 1 2 3");
	cr_assert_eq(text[8], 'x');
}

/* As many as an index on the wire can name. */
Test(session_rings, a_device_has_one_queue_at_least_and_256_at_most)
{
	const unsigned numbers[] = { 0, 257, 1, 256 };

	bed_init(&b, &echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct vhost_device d = { 0 };
		struct error err = { 0 };
		int rc = vhost_device_init(&d, &echo_blk_ops, "many", numbers[i], b.workers, &err);

		cr_assert_eq(rc, i < 2 ? -EINVAL : 0, "%u: %s", numbers[i], err.text);
		if (rc == 0)
			vhost_device_fini(&d);
		else
			cr_assert_not_null(strstr(err.text, "1 to 256"), "%s", err.text);
	}
	bed_fini(&b);
}

Test(session_rings, a_device_that_cannot_start_a_queue_says_so)
{
	struct frontend_queue_options opt = { .size = 64 };

	open_bed(&echo_blk_ops, VU_PF_USUAL, 0);
	OK(&b.f, frontend_queue_setup(&b.f, 0, &opt));
	b.dev.start_error = -ENOMEM;
	cr_assert_eq(frontend_queue_start(&b.f, 0), -EREMOTEIO);
	cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
	b.dev.start_error = 0;
	OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd));
	bed_echo(&b, 0);
	bed_fini(&b);
}
