/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-user "In-band notifications", and GPA_ADDRESSES. */
#include "tests/unit/session_util.h"
#include "vhost/session.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static struct bed b;

#define PROTOCOL (VU_PF_USUAL | VU_PF_BACKEND_REQ | VU_PF_INBAND_NOTIFICATIONS)

static const uint64_t layouts[] = { 0, VU_F_PACKED };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

static void open_inband(const struct vhost_device_ops *ops, uint64_t features)
{
	bed_init(&b, ops);
	bed_pair(&b);
	bed_negotiate(&b, PROTOCOL, features);
	OK(&b.f, frontend_open_backend_channel(&b.f));
}

/* A ring without a single eventfd of the front-end's. */
static void start_inband(unsigned index)
{
	bed_start_queue(&b, index);
	OK(&b.f, frontend_queue_stop(&b.f, index, NULL));
	OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_CALL, index, -1));
	OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_ERR, index, -1));
	OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, index, -1));
	cr_assert_eq(b.dev.vhost.queues[index].state, VIRTQUEUE_RUNNING);
}

static void kick(unsigned index)
{
	OK(&b.f, frontend_state_set(&b.f, VU_VRING_KICK, index, 0));
}

static void add_chain(unsigned index, uint64_t out)
{
	struct driver_ring *r = &b.f.queue[index].ring;
	const struct driver_seg segs[] = { { out, 100 }, { (8 << 20) + 8192, 512 } };

	if (r->layout == DRIVER_SPLIT) {
		cr_assert_eq(driver_add(r, DRIVER_SPLIT, segs, 1, 1, &b), 0);
		(void)driver_publish(r, DRIVER_SPLIT);
	} else {
		cr_assert_eq(driver_add(r, DRIVER_PACKED, segs, 1, 1, &b), 0);
		(void)driver_publish(r, DRIVER_PACKED);
	}
}

struct note {
	struct vu_header h;
	struct vu_state state;
} __attribute__((packed));

/* The next message of the channel, if there is one. */
static bool note(struct note *n)
{
	ssize_t got = recv(b.f.backend_sock, n, sizeof(*n), MSG_DONTWAIT);

	if (got < 0 && errno == EAGAIN)
		return false;
	cr_assert_eq(got, (ssize_t)sizeof(*n));
	cr_assert_eq(n->h.size, 8u);
	cr_assert_eq(n->h.flags, VU_VERSION | VU_NEED_REPLY);
	return true;
}

static void answer(uint32_t request)
{
	const struct {
		struct vu_header h;
		uint64_t value;
	} __attribute__((packed)) ack = { { request, VU_VERSION | VU_REPLY, 8 }, 0 };

	cr_assert_eq(send(b.f.backend_sock, &ack, sizeof(ack), MSG_NOSIGNAL), (ssize_t)sizeof(ack));
}

Test(session_inband, kicks_and_calls_are_messages)
{
	FOR_EACH_LAYOUT(features)
	{
		open_inband(&echo_blk_ops, features);
		start_inband(0);
		for (unsigned i = 0; i < 50; i++) {
			struct driver_used used;
			struct note n;

			/* It sleeps, so that nothing but the message wakes it. */
			cr_assert(EVENTUALLY(b.dev.vhost.queues[0].ring.kicks_wanted));
			add_chain(0, (8 << 20) + 4096);
			kick(0);
			cr_assert(EVENTUALLY(note(&n)));
			cr_assert_eq(n.h.request, (uint32_t)VU_BACKEND_VRING_CALL);
			cr_assert_eq(n.state.index, 0u);
			answer(n.h.request);
			cr_assert(frontend_poll(&b.f, 0, &used));
		}
		bed_fini(&b);
	}
}

/*
 * While a call is not answered, others are kept, as one, and other queues' are not lost. The
 * queues' workers tell in any order.
 */
Test(session_inband, one_notification_is_on_its_way_at_a_time)
{
	struct driver_used used;
	struct note n;
	uint32_t first;

	open_inband(&echo_blk_ops, 0);
	start_inband(0);
	start_inband(1);
	add_chain(0, (8 << 20) + 4096);
	kick(0);
	cr_assert(EVENTUALLY(frontend_poll(&b.f, 0, &used)));
	cr_assert(EVENTUALLY(note(&n)));
	cr_assert_eq(n.state.index, 0u);
	for (unsigned i = 1; i <= 20; i++) {
		add_chain(i % 2, (8 << 20) + 4096);
		kick(i % 2);
		cr_assert(EVENTUALLY(frontend_poll(&b.f, i % 2, &used)));
	}
	cr_assert(STAYS(!note(&n), 20));
	answer(VU_BACKEND_VRING_CALL);
	cr_assert(EVENTUALLY(note(&n)));
	first = n.state.index;
	answer(VU_BACKEND_VRING_CALL);
	cr_assert(EVENTUALLY(note(&n)));
	cr_assert(first <= 1 && n.state.index == 1 - first, "each queue is told of once");
	answer(VU_BACKEND_VRING_CALL);
	cr_assert(STAYS(!note(&n), 20));
	bed_fini(&b);
}

Test(session_inband, a_broken_ring_is_told_as_vring_err)
{
	FOR_EACH_LAYOUT(features)
	{
		struct note n;

		open_inband(&echo_blk_ops, features);
		start_inband(0);
		add_chain(0, UINT64_C(1) << 40);
		kick(0);
		cr_assert(EVENTUALLY(note(&n)));
		cr_assert_eq(n.h.request, (uint32_t)VU_BACKEND_VRING_ERR);
		cr_assert_eq(n.state.index, 0u);
		bed_fini(&b);
	}
}

/* vhost-user "Ring states": "or receiving the in-band message VHOST_USER_VRING_KICK". */
Test(session_inband, a_kick_message_starts_a_ring)
{
	struct vu_addr addr = { .desc = GUEST_UVA_BASE,
				.avail = GUEST_UVA_BASE + 4096,
				.used = GUEST_UVA_BASE + 8192 };

	open_inband(&echo_net_ops, 0);
	OK(&b.f, frontend_state_set(&b.f, VU_SET_VRING_NUM, 0, 64));
	OK(&b.f, frontend_set(&b.f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
	kick(0);
	cr_assert_eq(b.dev.vhost.queues[0].state, VIRTQUEUE_RUNNING);
	cr_assert_eq(frontend_state_set(&b.f, VU_VRING_KICK, ECHO_QUEUES, 0), -EREMOTEIO);
	bed_fini(&b);
}

/* "the back-end should close the connection as a response to … without the other two" */
Test(session_inband, without_acks_and_channel_the_connection_ends)
{
	static const uint64_t lacking[] = { VU_PF_REPLY_ACK, VU_PF_BACKEND_REQ };

	for (unsigned i = 0; i < ARRAY_SIZE(lacking); i++) {
		bed_init(&b, &echo_blk_ops);
		bed_pair(&b);
		OK(&b.f, frontend_u64_set(&b.f, VU_SET_PROTOCOL_FEATURES, PROTOCOL & ~lacking[i]));
		OK(&b.f, frontend_wait_hangup(&b.f));
		bed_fini(&b);
	}
}

/* Whatever comes back on the channel costs the channel at most. */
Test(session_inband, an_answer_that_is_none_closes_the_channel_only)
{
	static const struct vu_header bad[] = {
		{ VU_BACKEND_VRING_CALL, VU_VERSION, 8 },
		{ VU_BACKEND_VRING_CALL, VU_VERSION | VU_REPLY, 9 },
		{ VU_BACKEND_VRING_CALL, VU_VERSION | VU_REPLY, 0xffffffff },
		{ 0xdeadbeef, 0xdeadbeef, 0xdeadbeef },
	};

	open_inband(&echo_blk_ops, 0);
	start_inband(0);
	for (unsigned i = 0; i <= ARRAY_SIZE(bad); i++) {
		struct driver_used used;
		uint64_t features;
		char byte;

		if (i < ARRAY_SIZE(bad))
			cr_assert_eq(send(b.f.backend_sock, &bad[i], sizeof(bad[i]), 0), 12);
		else
			shutdown(b.f.backend_sock, SHUT_RDWR);
		cr_assert(
			EVENTUALLY(recv(b.f.backend_sock, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0));
		cr_assert(EVENTUALLY(!backend_is_open(b.dev.vhost.session)));
		OK(&b.f, frontend_u64_get(&b.f, VU_GET_FEATURES, &features));
		add_chain(0, (8 << 20) + 4096);
		kick(0);
		cr_assert(EVENTUALLY(frontend_poll(&b.f, 0, &used)));
		OK(&b.f, frontend_open_backend_channel(&b.f));
		/* What could not be told is told through the new one. */
		struct note n;
		cr_assert(EVENTUALLY(note(&n)));
		answer(n.h.request);
	}
	bed_fini(&b);
}

/* Its last answer of a round is one to which we have something to say, and nobody is there. */
Test(session_inband, a_channel_that_ends_while_it_is_read_ends_once)
{
	struct driver_used used;
	struct note n;

	open_inband(&echo_blk_ops, 0);
	start_inband(0);
	add_chain(0, (8 << 20) + 4096);
	kick(0);
	cr_assert(EVENTUALLY(note(&n)));
	cr_assert(EVENTUALLY(frontend_poll(&b.f, 0, &used)));
	add_chain(0, (8 << 20) + 4096);
	kick(0);
	cr_assert(EVENTUALLY(b.dev.vhost.queues[0].inband[INBAND_CALL].due));
	/* It is full, so that it is watched for room too. */
	while (!b.dev.vhost.session->config_changed)
		vhost_device_config_changed(&b.dev.vhost);
	while (recv(b.f.backend_sock, &n, sizeof(n), MSG_DONTWAIT) > 0)
		;
	for (unsigned i = 0; i < 15; i++)
		answer(0);
	answer(VU_BACKEND_VRING_CALL);
	cr_assert_eq(shutdown(b.f.backend_sock, SHUT_RD), 0);
	cr_assert(EVENTUALLY(!backend_is_open(b.dev.vhost.session)));
	bed_start_queue(&b, 1);
	bed_echo(&b, 1);
	bed_fini(&b);
}

/* vhost-user "Suspended device state": a stopped ring says nothing. */
Test(session_inband, nothing_is_said_of_a_ring_that_stopped)
{
	FOR_EACH_LAYOUT(features)
	{
		struct driver_used used;
		struct note n;

		open_inband(&echo_blk_ops, features);
		start_inband(0);
		add_chain(0, (8 << 20) + 4096);
		kick(0);
		cr_assert(EVENTUALLY(note(&n)));
		/* Not answered yet; a second call is due. */
		cr_assert(frontend_poll(&b.f, 0, &used));
		add_chain(0, (8 << 20) + 4096);
		kick(0);
		cr_assert(EVENTUALLY(frontend_poll(&b.f, 0, &used)));
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		answer(n.h.request);
		cr_assert(STAYS(!note(&n), 20));
		/* When it goes on, so does that call. */
		OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, -1));
		cr_assert(EVENTUALLY(note(&n)));
		bed_fini(&b);
	}
}

/*
 * vhost-user "Suspended device state": once the last ring has stopped nothing is written to guest
 * memory, nobody is signalled and nothing is told, whatever the driver and the front-end do.
 */
Test(session_inband, a_suspended_device_writes_and_says_nothing)
{
	FOR_EACH_LAYOUT(features)
	{
		static uint8_t *copy[2];
		eventfd_t count;
		struct note n;

		bed_init(&b, &echo_blk_ops);
		bed_pair(&b);
		bed_negotiate(&b, VU_PF_USUAL | VU_PF_BACKEND_REQ, features);
		OK(&b.f, frontend_open_backend_channel(&b.f));
		for (unsigned q = 0; q < 2; q++) {
			bed_start_queue(&b, q);
			bed_echo(&b, q);
		}
		for (unsigned q = 0; q < 2; q++)
			OK(&b.f, frontend_queue_stop(&b.f, q, NULL));
		for (unsigned q = 0; q < 2; q++) {
			(void)eventfd_read(b.f.queue[q].call_fd, &count);
			bed_submit(&b, q);
		}
		for (unsigned i = 0; i < 2; i++) {
			const struct guest_region *r = &b.memory.region[i];

			copy[i] = malloc(r->size);
			memcpy(copy[i], r->host, r->size);
		}
		vhost_device_config_changed(&b.dev.vhost);
		for (unsigned q = 0; q < 2; q++) {
			OK(&b.f, frontend_queue_enable(&b.f, q, false));
			OK(&b.f, frontend_queue_enable(&b.f, q, true));
			OK(&b.f,
			   frontend_vring_fd(&b.f, VU_SET_VRING_CALL, q, b.f.queue[q].call_fd));
		}
		OK(&b.f, frontend_set_features(&b.f, b.f.features));
		cr_assert(STAYS(!note(&n), 20));
		for (unsigned q = 0; q < 2; q++)
			cr_assert_lt(eventfd_read(b.f.queue[q].call_fd, &count), 0);
		for (unsigned i = 0; i < 2; i++) {
			const struct guest_region *r = &b.memory.region[i];

			cr_assert_eq(memcmp(copy[i], r->host, r->size), 0, "region %u", i);
			free(copy[i]);
		}
		bed_fini(&b);
	}
}

/* GPA_ADDRESSES: guest addresses stand where user addresses stood, in rings and in regions. */
Test(session_inband, rings_may_be_named_by_guest_addresses)
{
	FOR_EACH_LAYOUT(features)
	{
		bed_init(&b, &echo_blk_ops);
		bed_pair(&b);
		bed_negotiate(&b, VU_PF_USUAL | VU_PF_GPA_ADDRESSES, features);
		bed_start_queue(&b, 0);
		cr_assert_lt(b.dev.vhost.queues[0].setup.desc, GUEST_UVA_BASE);
		bed_echo(&b, 0);
		OK(&b.f, frontend_remove_mem_reg(&b.f, &b.memory.region[1]));
		OK(&b.f, frontend_add_mem_reg(&b.f, &b.memory.region[1]));
		bed_echo(&b, 0);
		bed_fini(&b);
	}
}

/* Whatever stands in the region's user address then is not looked at. */
Test(session_inband, with_guest_addresses_a_regions_user_address_means_nothing)
{
	struct vu_mem_reg reg[2];

	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	OK(&b.f, frontend_hello(&b.f, VU_PF_USUAL | VU_PF_GPA_ADDRESSES));
	OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1));
	b.f.memory = &b.memory;
	for (unsigned i = 0; i < 2; i++) {
		const struct guest_region *r = &b.memory.region[i];

		/* The same for both, which would overlap. */
		reg[i] = (struct vu_mem_reg) { .region = { r->gpa, r->size, 77, r->offset } };
		OK(&b.f, frontend_set(&b.f, VU_ADD_MEM_REG, &reg[i], sizeof(reg[i]), &r->fd, 1));
	}
	bed_start_queue(&b, 0);
	bed_echo(&b, 0);
	bed_fini(&b);
}
