/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that are wrong: each is refused by itself, costs its sender at most the connection, and
 * leaves nothing behind. */
#include "tests/unit/often.h"
#include "tests/unit/session_bed.h"
#include "vhost/protocol.h"
#include "vhost/session.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* One row of messages.def, as far as these tests go by it. */
struct row {
	uint32_t number, least, most;
	unsigned fds_min, fds_max;
	bool reply, served;
	const char *name;
};

enum {
#define PAYLOAD(kind, least, most) LEAST_##kind = (least), MOST_##kind = (most),
	VHOST_USER_PAYLOADS(PAYLOAD)
#undef PAYLOAD
};

#define MESSAGE(n, message, kind, min, max, answer, gate, quiet, handler) \
	{ n, LEAST_##kind, MOST_##kind, min, max, answer != ACK, #handler[0] == 'h', #message },
static const struct row rows[] = {
#include "vhost/messages.def"
};

/* Every message with every size but its own. */
Test(session_messages, a_payload_of_another_size_is_refused, .timeout = 120)
{
	static const uint32_t sizes[] = { 0,  1,   4,	7,	 8,
					  9,  12,  39,	40,	 41,
					  72, 264, 265, 4 + 256, VHOST_USER_PAYLOAD_MAX };
	static const uint8_t zeros[VHOST_USER_PAYLOAD_MAX];
	unsigned fds = settled_fds(), n = 0;

	open_listening(&echo_net_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		int event = eventfd(0, 0);

		for (unsigned j = 0; j < ARRAY_SIZE(sizes); j++) {
			const struct row *r = &rows[i];
			int rc;

			if (r->served && sizes[j] >= r->least && sizes[j] <= r->most)
				continue;
			rc = outcome(r->number, zeros, sizes[j], &event, r->fds_min);
			cr_assert_eq(rc, r->reply ? -ECONNRESET : 1, "%s with %u bytes: %d",
				     r->name, sizes[j], rc);
			n++;
			if (rc < 0)
				reconnect();
			else
				check_alive();
		}
		close(event);
	}
	cr_assert_gt(n, 400u);
	bed_fini(&b);
	cr_assert(fds_become(fds));
}

/* T13: 0, 1, 8, 9 and 253 descriptors with each message, known or not. */
Test(session_messages, surplus_descriptors_are_refused_and_closed, .timeout = 120)
{
	static const unsigned counts[] = { 0, 1, 2, 8, 9, 32, 33, 253 };
	static uint8_t payload[VHOST_USER_PAYLOAD_MAX];
	unsigned before = settled_fds(), base;
	int fds[253], event = eventfd(0, 0);

	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = event;
	open_listening(&echo_net_ops);
	for (uint32_t number = 0; number < 60; number++) {
		const struct row *r = NULL;

		for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
			if (rows[i].number == number)
				r = &rows[i];
		for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
			unsigned n = counts[i];
			bool right = r && r->served && n >= r->fds_min && n <= r->fds_max;
			int rc;

			reconnect();
			base = settled_fds();
			memset(payload, 0, sizeof(payload));
			if (number == VU_SET_PROTOCOL_FEATURES)
				memcpy(payload, &b.f.protocol, 8); /* acks go on */
			rc = outcome(number, payload, r ? r->least : 0, fds, n);
			if (!right) {
				cr_assert_eq(rc, r && r->reply ? -ECONNRESET : 1,
					     "message %u with %u descriptors: %d", number, n, rc);
				/* The connection's own is gone if it hung up. */
				cr_assert_leq(count_fds(), base, "message %u, %u descriptors",
					      number, n);
			}
		}
	}
	bed_fini(&b);
	close(event);
	cr_assert(fds_become(before));
}

/*
 * Each message as it should be, or nearly, and with a descriptor too many. Those that cost the
 * connection make for as many new ones. The first few are let off, as what is made once stays.
 */
Test(session_messages, every_message_again_and_again_leaves_nothing_behind_T13,
     .timeout = OFTEN_TIMEOUT)
{
	static uint8_t payload[VHOST_USER_PAYLOAD_MAX];
	unsigned before = settled_fds(), n = often(30), first = 6;
	int event = eventfd(0, 0), fds[9];

	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = event;
	open_listening(&echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *r = &rows[i];
		unsigned base = 0, mappings = 0;
		size_t heap = 0;

		reconnect();
		memset(payload, 0, sizeof(payload));
		if (r->number == VU_SET_PROTOCOL_FEATURES)
			memcpy(payload, &b.f.protocol, 8); /* acks go on */
		for (unsigned k = 0; k < first + n; k++) {
			unsigned surplus = k % 2 * (r->fds_max - r->fds_min + 1);

			if (k == first) {
				reconnect();
				base = settled_fds();
				mappings = count_mappings();
				heap = heap_bytes();
			}
			if (outcome(r->number, payload, r->least, fds, r->fds_min + surplus) < 0)
				reconnect();
		}
		reconnect();
		cr_assert(EVENTUALLY(count_fds() <= base), "%s: from %u to %u", r->name, base,
			  count_fds());
		cr_assert(EVENTUALLY(count_mappings() <= mappings), "%s: from %u to %u", r->name,
			  mappings, count_mappings());
		cr_assert(EVENTUALLY(heap_bytes() < heap + 2048), "%s: from %zu to %zu bytes",
			  r->name, heap, heap_bytes());
	}
	bed_fini(&b);
	close(event);
	cr_assert(fds_become(before));
}

/* T8 */
Test(session_messages, a_queue_that_is_not_there_is_refused_in_every_message)
{
	static const uint32_t states[] = { VU_SET_VRING_NUM, VU_SET_VRING_BASE,
					   VU_SET_VRING_ENABLE };
	static const uint32_t events[] = { VU_SET_VRING_KICK, VU_SET_VRING_CALL, VU_SET_VRING_ERR };
	static const uint32_t indexes[] = {
		ECHO_QUEUES, 255, 256, 0x10000, 0x7fffffff, 0xffffffff
	};
	int fd = eventfd(0, 0);
	unsigned fds;

	open_listening(&echo_net_ops);
	fds = settled_fds();
	for (unsigned i = 0; i < ARRAY_SIZE(indexes); i++) {
		struct vu_state state = { indexes[i], 1 };
		struct vu_addr addr = { .index = indexes[i] };

		for (unsigned j = 0; j < ARRAY_SIZE(states); j++)
			cr_assert_eq(outcome(states[j], &state, sizeof(state), NULL, 0), 1);
		cr_assert_eq(outcome(VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 1);
		cr_assert_eq(outcome(VU_GET_VRING_BASE, &state, sizeof(state), NULL, 0),
			     -ECONNRESET);
		reconnect();
	}
	for (unsigned j = 0; j < ARRAY_SIZE(events); j++) {
		static const uint64_t values[] = {
			ECHO_QUEUES, 255, 1 << 9, 1u << 31, UINT64_C(1) << 32, UINT64_C(1) << 63
		};

		for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
			uint64_t no_fd = values[i] | VU_NO_FD;

			cr_assert_eq(outcome(events[j], &values[i], 8, &fd, 1), 1);
			cr_assert_eq(outcome(events[j], &no_fd, 8, NULL, 0), 1);
		}
	}
	check_alive();
	cr_assert(fds_become(fds));
	bed_fini(&b);
	close(fd);
}

Test(session_messages, a_descriptor_and_the_bit_that_denies_it_must_agree)
{
	static const uint32_t events[] = { VU_SET_VRING_KICK, VU_SET_VRING_CALL, VU_SET_VRING_ERR };
	uint64_t with = 0, without = VU_NO_FD;
	int fd = eventfd(0, 0);
	unsigned fds;

	open_bed(&echo_net_ops);
	fds = settled_fds();
	for (unsigned j = 0; j < ARRAY_SIZE(events); j++) {
		cr_assert_eq(outcome(events[j], &with, 8, NULL, 0), 1);
		cr_assert_eq(outcome(events[j], &without, 8, &fd, 1), 1);
	}
	cr_assert(fds_become(fds));
	cr_assert_not(b.dev.vhost.queues[0].setup.started);
	bed_fini(&b);
	close(fd);
}

Test(session_messages, what_is_no_eventfd_is_refused_as_one)
{
	static const uint32_t events[] = { VU_SET_VRING_KICK, VU_SET_VRING_CALL, VU_SET_VRING_ERR };
	int fds[4] = { memfd_create("not", 0), socket(AF_UNIX, SOCK_STREAM, 0) };
	uint64_t value = 0;
	int pipes[2];

	open_bed(&echo_blk_ops);
	for (unsigned j = 0; j < ARRAY_SIZE(events); j++) {
		cr_assert_eq(outcome(events[j], &value, 8, &fds[0], 1), 1);
		cr_assert_eq(outcome(events[j], &value, 8, &fds[1], 1), 1);
	}
	/* A pipe can be full, and then who writes to it sleeps. */
	cr_assert_eq(pipe(pipes), 0);
	for (unsigned j = 0; j < ARRAY_SIZE(events); j++)
		for (unsigned k = 0; k < 2; k++)
			cr_assert_eq(outcome(events[j], &value, 8, &pipes[k], 1), 1);
	cr_assert_eq(outcome(VU_SET_BACKEND_REQ_FD, NULL, 0, &fds[0], 1), 1);
	bed_fini(&b);
}

/* A stream between processes: of another socket, a message of ours may come out cut or not at all.
 */
Test(session_messages, the_back_end_channel_is_a_local_stream_or_refused)
{
	static const struct {
		int domain, type;
	} other[] = { { AF_INET, SOCK_STREAM },
		      { AF_UNIX, SOCK_DGRAM },
		      { AF_UNIX, SOCK_SEQPACKET } };

	open_bed(&echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(other); i++) {
		int fd = socket(other[i].domain, other[i].type, 0);

		cr_assert_geq(fd, 0);
		cr_assert_eq(outcome(VU_SET_BACKEND_REQ_FD, NULL, 0, &fd, 1), 1, "row %u", i);
		close(fd);
	}
	OK(&b.f, frontend_open_backend_channel(&b.f));
	bed_fini(&b);
}

/* Numbers of descriptors stay behind where a message had some, and may be those of our own files.
 */
Test(session_messages, a_message_without_its_descriptor_does_not_find_an_older_one)
{
	struct vu_mem_reg reg = { .region = { 1 << 30, 4096, UINT64_C(1) << 40, 0 } };
	int fd = memfd_create("memory", 0), own[8];

	open_bed(&echo_blk_ops);
	cr_assert_eq(ftruncate(fd, 4096), 0);
	cr_assert_eq(outcome(VU_SET_LOG_FD, NULL, 0, &fd, 1), 1, "no eventfd: it is closed");
	for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
		own[i] = dup(fd);
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &reg, sizeof(reg), NULL, 0), 1);
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &reg, sizeof(reg), &fd, 1), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
		close(own[i]);
	close(fd);
	bed_fini(&b);
}

/* T13: the kernel drops what it has no room for, and the message does not mean what it says. */
Test(session_messages, a_message_that_lost_its_descriptors_is_refused)
{
	const struct guest_region *r;
	struct vu_mem_reg reg;

	open_bed(&echo_blk_ops);
	r = &b.memory.region[1];
	reg = (struct vu_mem_reg) { .region = { r->gpa, r->size, r->uva, r->offset } };
	leave_descriptors(0);
	cr_assert_eq(outcome(VU_REM_MEM_REG, &reg, sizeof(reg), &r->fd, 1), 1);
	cr_assert_eq(b.dev.vhost.map->n, 2u);
	cr_assert_eq(outcome(VU_REM_MEM_REG, &reg, sizeof(reg), NULL, 0), 0);
	cr_assert_eq(b.dev.vhost.map->n, 1u);
	bed_fini(&b);
}

/* In-band notifications need an eventfd of our own each, regions and buffers a copy to keep. */
Test(session_messages, what_needs_a_descriptor_is_refused_when_there_is_none)
{
	static const uint32_t events[] = { VU_SET_VRING_KICK, VU_SET_VRING_CALL, VU_SET_VRING_ERR };
	struct vu_state state = { 1, 0 };
	uint64_t no_fd = VU_NO_FD;

	open_bed(&echo_blk_ops);
	OK(&b.f, frontend_open_backend_channel(&b.f));
	bed_start_queue(&b, 0);
	leave_descriptors(0);
	for (unsigned i = 0; i < ARRAY_SIZE(events); i++)
		cr_assert_eq(outcome(events[i], &no_fd, 8, NULL, 0), 1);
	cr_assert_eq(outcome(VU_VRING_KICK, &state, sizeof(state), NULL, 0), 1);
	cr_assert_not(b.dev.vhost.queues[1].setup.started);
	bed_echo(&b, 0);
	bed_fini(&b);
}

Test(session_messages, unknown_messages_are_refused_or_ignored)
{
	static const uint32_t numbers[] = { 0, 45, 99, 0x7fffffff, 0xffffffff };
	uint64_t value = 5;

	open_bed(&echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		cr_assert_str_eq(message_name(numbers[i]), "unknown message");
		cr_assert_eq(outcome(numbers[i], &value, 8, NULL, 0), 1);
		OK(&b.f, frontend_send(&b.f, numbers[i], VU_VERSION, &value, 8, NULL, 0));
		check_alive();
	}
	bed_fini(&b);
}

/* need_reply means nothing before REPLY_ACK is negotiated. */
Test(session_messages, there_are_no_acks_without_reply_ack)
{
	uint64_t value = VU_F_VERSION_1;

	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	OK(&b.f,
	   frontend_send(&b.f, VU_SET_FEATURES, VU_VERSION | VU_NEED_REPLY, &value, 8, NULL, 0));
	value = ~UINT64_C(0);
	OK(&b.f,
	   frontend_send(&b.f, VU_SET_FEATURES, VU_VERSION | VU_NEED_REPLY, &value, 8, NULL, 0));
	check_alive(); /* the first answer is that to GET_FEATURES */
	cr_assert_eq(b.dev.vhost.features, VU_F_VERSION_1);
	bed_fini(&b);
}

/* T10 */
Test(session_messages, features_that_were_not_offered_are_refused)
{
	uint64_t before;

	open_bed(&echo_blk_ops);
	before = b.dev.vhost.features;
	for (unsigned bit = 0; bit < 64; bit++) {
		uint64_t value = before | UINT64_C(1) << bit;

		if (b.f.offered & UINT64_C(1) << bit)
			continue;
		cr_assert_eq(outcome(VU_SET_FEATURES, &value, 8, NULL, 0), 1, "bit %u", bit);
		cr_assert_eq(b.dev.vhost.features, before);
	}
	before = VU_F_PACKED; /* needs VERSION_1 */
	cr_assert_eq(outcome(VU_SET_FEATURES, &before, 8, NULL, 0), 1);
	for (unsigned bit = 0; bit < 64; bit++) {
		uint64_t value = VU_PF_REPLY_ACK | UINT64_C(1) << bit;

		if (!(b.f.protocol_offered & UINT64_C(1) << bit))
			cr_assert_eq(outcome(VU_SET_PROTOCOL_FEATURES, &value, 8, NULL, 0), 1,
				     "bit %u", bit);
	}
	cr_assert_eq(b.dev.vhost.protocol_features, b.f.protocol);
	bed_fini(&b);
}

Test(session_messages, what_is_offered_follows_the_device)
{
	open_bed(&echo_blk_ops);
	cr_assert_eq(b.f.offered, ECHO_FEATURES | VU_F_LOG_ALL | VU_F_INDIRECT | VU_F_EVENT_IDX |
					  VU_F_PROTOCOL | VU_F_VERSION_1 | VU_F_ACCESS_PLATFORM |
					  VU_F_PACKED | VU_F_IN_ORDER);
	cr_assert_eq(b.f.protocol_offered,
		     VU_PF_MQ | VU_PF_LOG_SHMFD | VU_PF_REPLY_ACK | VU_PF_BACKEND_REQ |
			     VU_PF_CONFIG | VU_PF_RESET_DEVICE | VU_PF_CONFIGURE_MEM_SLOTS |
			     VU_PF_INBAND_NOTIFICATIONS | VU_PF_INFLIGHT_SHMFD |
			     VU_PF_GET_VRING_BASE_INFLIGHT | VU_PF_GPA_ADDRESSES | VU_PF_STATUS);
	bed_fini(&b);
	open_bed(&echo_net_ops);
	cr_assert(b.f.protocol_offered & VU_PF_RARP);
	cr_assert(b.f.protocol_offered & VU_PF_NET_MTU);
	bed_fini(&b);
}

/* vhost-user "GET_VRING_BASE_INFLIGHT": what is left stands in the buffer of the other. */
Test(session_messages, leaving_requests_in_flight_needs_the_in_flight_buffer)
{
	const uint64_t without = VU_PF_USUAL | VU_PF_GET_VRING_BASE_INFLIGHT;
	const uint64_t both = without | VU_PF_INFLIGHT_SHMFD;
	uint64_t before;

	open_bed(&echo_blk_ops);
	before = b.dev.vhost.protocol_features;
	cr_assert_eq(outcome(VU_SET_PROTOCOL_FEATURES, &without, sizeof(without), NULL, 0), 1);
	cr_assert_eq(b.dev.vhost.protocol_features, before);
	check_alive();
	cr_assert_eq(outcome(VU_SET_PROTOCOL_FEATURES, &both, sizeof(both), NULL, 0), 0);
	cr_assert_eq(b.dev.vhost.protocol_features, both);
	bed_fini(&b);
}

Test(session_messages, numbers_are_told)
{
	uint64_t value;

	open_bed(&echo_net_ops);
	b.dev.vhost.queue_num = 2;
	OK(&b.f, frontend_u64_get(&b.f, VU_GET_QUEUE_NUM, &value));
	cr_assert_eq(value, 2u);
	OK(&b.f, frontend_u64_get(&b.f, VU_GET_MAX_MEM_SLOTS, &value));
	cr_assert_eq(value, 509u);
	OK(&b.f, frontend_set(&b.f, VU_RESET_OWNER, NULL, 0, NULL, 0));
	bed_fini(&b);
}

Test(session_messages, mtu_and_rarp_reach_the_device)
{
	const uint8_t mac[8] = { 2, 3, 4, 5, 6, 7 };
	uint64_t value;

	open_bed(&echo_net_ops);
	OK(&b.f, frontend_u64_set(&b.f, VU_NET_SET_MTU, 9000));
	cr_assert_eq(b.dev.mtu, 9000u);
	cr_assert_eq(frontend_u64_set(&b.f, VU_NET_SET_MTU, 67), -EREMOTEIO);
	cr_assert_eq(frontend_u64_set(&b.f, VU_NET_SET_MTU, 0x10000 + 1500), -EREMOTEIO);
	cr_assert_eq(b.dev.mtu, 9000u);
	memcpy(&value, mac, 8);
	OK(&b.f, frontend_u64_set(&b.f, VU_SEND_RARP, value));
	cr_assert_eq(b.dev.rarp, 1u);
	cr_assert_arr_eq(b.dev.mac, mac, 6);
	bed_fini(&b);
}

/* T19 */
Test(session_messages, configuration_space_is_read_and_written_within_its_bounds)
{
	static const struct {
		uint32_t offset, size;
	} outside[] = {
		{ 0, 0 },	   { 256, 1 },	      { 255, 2 },	  { 1, 256 },
		{ 0xffffffff, 1 }, { 0xffffffff, 0 }, { 0xfffffff0, 32 }, { 0x80000000, 4 }
	};
	uint8_t data[VU_CONFIG_MAX + 1], more[4] = { 9, 8, 7, 6 };
	struct vu_config c;
	int rc;

	open_bed(&echo_blk_ops);
	for (unsigned i = 0; i < ECHO_CONFIG_SIZE; i++)
		b.dev.config[i] = (uint8_t)(i + 1);
	memset(data, 0xaa, sizeof(data));
	OK(&b.f, frontend_get_config(&b.f, 4, data, 8));
	cr_assert_arr_eq(data, b.dev.config + 4, 8);
	/* SPDK's initiator asks for all that there can be. */
	OK(&b.f, frontend_get_config(&b.f, 0, data, 256));
	cr_assert_arr_eq(data, b.dev.config, ECHO_CONFIG_SIZE);
	for (unsigned i = ECHO_CONFIG_SIZE; i < 256; i++)
		cr_assert_eq(data[i], 0);
	OK(&b.f, frontend_get_config(&b.f, 200, data, 56));
	cr_assert_eq(data[0], 0);

	for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
		uint32_t size = 12 + MIN(outside[i].size, 256u);

		c = (struct vu_config) { .offset = outside[i].offset, .size = outside[i].size };
		OK(&b.f, frontend_send(&b.f, VU_GET_CONFIG, VU_VERSION, &c, size, NULL, 0));
		rc = frontend_recv_reply(&b.f, VU_GET_CONFIG, &c, sizeof(c), NULL, NULL);
		cr_assert_eq(rc, 0, "%u at %u", outside[i].size, outside[i].offset);
		c = (struct vu_config) { .offset = outside[i].offset, .size = outside[i].size };
		cr_assert_eq(outcome(VU_SET_CONFIG, &c, size, NULL, 0), 1);
	}
	/* Payload size unlike the size it names. */
	c = (struct vu_config) { .offset = 8, .size = 8 };
	OK(&b.f, frontend_send(&b.f, VU_GET_CONFIG, VU_VERSION, &c, 12 + 4, NULL, 0));
	cr_assert_eq(frontend_recv_reply(&b.f, VU_GET_CONFIG, &c, sizeof(c), NULL, NULL), 0);
	cr_assert_eq(outcome(VU_SET_CONFIG, &c, 12 + 9, NULL, 0), 1);

	OK(&b.f, frontend_set_config(&b.f, 8, more, 4, 0));
	cr_assert_arr_eq(b.dev.config + 8, more, 4);
	cr_assert_not(b.dev.set_config_migration);
	cr_assert_eq(frontend_set_config(&b.f, 0, more, 4, 0), -EREMOTEIO);
	OK(&b.f, frontend_set_config(&b.f, 0, more, 4, 1));
	cr_assert(b.dev.set_config_migration);
	cr_assert_eq(frontend_set_config(&b.f, 8, more, 4, 2), -EREMOTEIO);
	cr_assert_eq(frontend_set_config(&b.f, ECHO_CONFIG_SIZE - 2, more, 4, 0), -EREMOTEIO);
	bed_fini(&b);
}

Test(session_messages, a_device_without_writable_configuration_refuses_a_write)
{
	struct vhost_device_ops ops = echo_blk_ops;
	uint32_t value = 1;

	ops.set_config = NULL;
	open_bed(&ops);
	cr_assert_eq(frontend_set_config(&b.f, 8, &value, 4, 0), -EREMOTEIO);
	check_alive();
	bed_fini(&b);
}
