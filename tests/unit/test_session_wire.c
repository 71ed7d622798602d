/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes and descriptors of the socket: how messages may come, and replies go. */
#include "tests/guest/frontend_inflight.h"
#include "tests/unit/often.h"
#include "tests/unit/session_bed.h"
#include "vhost/protocol.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATTERN 0xa7

Test(session_wire, a_header_that_is_none_ends_the_connection)
{
	static const struct vu_header bad[] = {
		{ VU_GET_FEATURES, 0, 0 },
		{ VU_GET_FEATURES, 2, 0 },
		{ VU_GET_FEATURES, 3, 0 },
		{ VU_GET_FEATURES, VU_VERSION | VU_REPLY, 0 },
		{ VU_SET_FEATURES, VU_VERSION, VHOST_USER_PAYLOAD_MAX + 1 },
		{ 77, VU_VERSION, 0x7fffffff },
		{ VU_SET_FEATURES, VU_VERSION, 0xffffffff },
		{ 0xdeadbeef, 0xdeadbeef, 0xdeadbeef },
	};
	unsigned fds = settled_fds();

	open_listening(&echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		OK(&b.f, frontend_send_raw(&b.f, &bad[i], sizeof(bad[i]), NULL, 0));
		OK(&b.f, frontend_wait_hangup(&b.f));
		reconnect();
	}
	cr_assert_geq(counter_read(&b.dev.vhost.stats.messages_refused), ARRAY_SIZE(bad));
	bed_fini(&b);
	cr_assert(comes_to_fds(fds));
}

Test(session_wire, a_message_may_come_byte_by_byte)
{
	struct __attribute__((packed)) {
		struct vu_header h;
		uint64_t value;
	} m = { { VU_SET_FEATURES, VU_VERSION | VU_NEED_REPLY, 8 }, VU_F_VERSION_1 };
	uint64_t ack = 1;

	open_bed(&echo_blk_ops);
	for (size_t i = 0; i < sizeof(m); i++) {
		OK(&b.f, frontend_send_raw(&b.f, (uint8_t *)&m + i, 1, NULL, 0));
		control_step(1000);
	}
	OK(&b.f, frontend_recv_reply(&b.f, VU_SET_FEATURES, &ack, sizeof(ack), NULL, NULL));
	cr_assert_eq(ack, 0u);
	cr_assert_eq(b.dev.vhost.features, VU_F_VERSION_1);
	bed_fini(&b);
}

Test(session_wire, several_messages_may_come_at_once)
{
	uint8_t bytes[100 * sizeof(struct vu_header)];
	const struct vu_header h = { VU_GET_FEATURES, VU_VERSION, 0 };
	uint64_t features;

	open_bed(&echo_blk_ops);
	for (unsigned i = 0; i < 100; i++)
		memcpy(bytes + i * sizeof(h), &h, sizeof(h));
	OK(&b.f, frontend_send_raw(&b.f, bytes, sizeof(bytes), NULL, 0));
	for (unsigned i = 0; i < 100; i++)
		OK(&b.f, frontend_recv_reply(&b.f, VU_GET_FEATURES, &features, 8, NULL, NULL));
	bed_fini(&b);
}

Test(session_wire, hanging_up_in_the_middle_of_a_message_harms_nobody)
{
	struct __attribute__((packed)) {
		struct vu_header h;
		uint64_t value;
	} m = { { VU_SET_VRING_CALL, VU_VERSION, 8 }, 0 };
	unsigned fds = settled_fds();
	int fd = eventfd(0, 0);

	open_listening(&echo_blk_ops);
	for (size_t n = 1; n < sizeof(m); n++) {
		OK(&b.f, frontend_send_raw(&b.f, &m, n, &fd, 1));
		control_step(1000);
		reconnect();
		check_alive();
	}
	bed_fini(&b);
	close(fd);
	cr_assert(comes_to_fds(fds));
}

/* A front-end that stops in mid-message holds up nothing but itself. */
Test(session_wire, the_rings_run_while_half_a_message_is_there)
{
	const struct vu_header h = { VU_GET_FEATURES, VU_VERSION, 0 };
	uint64_t features;

	open_bed(&echo_blk_ops);
	bed_start_queue(&b, 0);
	OK(&b.f, frontend_send_raw(&b.f, &h, 5, NULL, 0));
	for (unsigned i = 0; i < 100; i++)
		bed_echo(&b, 0);
	OK(&b.f, frontend_send_raw(&b.f, (const uint8_t *)&h + 5, sizeof(h) - 5, NULL, 0));
	OK(&b.f, frontend_recv_reply(&b.f, VU_GET_FEATURES, &features, 8, NULL, NULL));
	bed_fini(&b);
}

Test(session_wire, descriptors_in_the_middle_of_a_message_end_the_connection)
{
	struct __attribute__((packed)) {
		struct vu_header h;
		uint64_t value;
	} m = { { VU_SET_VRING_CALL, VU_VERSION, 8 }, 0 };
	const size_t at[] = { 1, 11, 12, 15 };
	unsigned fds = settled_fds();
	int fd = eventfd(0, 0);

	open_listening(&echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		OK(&b.f, frontend_send_raw(&b.f, &m, at[i], NULL, 0));
		/* Or the kernel hands both pieces over as one. */
		control_step(1000);
		OK(&b.f, frontend_send_raw(&b.f, (uint8_t *)&m + at[i], sizeof(m) - at[i], &fd, 1));
		OK(&b.f, frontend_wait_hangup(&b.f));
		reconnect();
	}
	bed_fini(&b);
	close(fd);
	cr_assert(comes_to_fds(fds));
}

/* A front-end that asks and asks and never reads the answers. */
Test(session_wire, replies_that_nobody_reads_end_the_connection, .timeout = 60)
{
	const struct vu_header h = { VU_GET_FEATURES, VU_VERSION, 0 };
	unsigned n = 0;

	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	b.f.timeout_ms = 2000;
	while (n < 1000000 && b.dev.disconnected == 0) {
		if (send(b.f.sock, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			control_step(1000);
		n++;
	}
	cr_assert_eq(b.dev.disconnected, 1u, "after %u messages", n);
	cr_assert_gt(n, 1000u);
	bed_fini(&b);
}

/* Replies that come back in time are all there, also those that had to wait. */
Test(session_wire, replies_wait_for_a_slow_reader)
{
	const struct vu_header h = { VU_GET_FEATURES, VU_VERSION, 0 };
	unsigned sent = 0, more = 0;
	int small = 2048;

	open_bed(&echo_blk_ops);
	cr_assert_eq(setsockopt(b.f.sock, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	for (; sent < 2000; sent++) {
		OK(&b.f, frontend_send_raw(&b.f, &h, sizeof(h), NULL, 0));
		control_step(0);
	}
	for (; more < sent; more++) {
		uint64_t features;

		OK(&b.f, frontend_recv_reply(&b.f, VU_GET_FEATURES, &features, 8, NULL, NULL));
		cr_assert_eq(features, b.f.offered);
	}
	check_alive();
	bed_fini(&b);
}

Test(session_wire, ten_thousand_of_the_same_leave_nothing_behind, .timeout = OFTEN_TIMEOUT)
{
	struct vu_state state = { .index = 1, .num = 64 };
	struct vu_config c = { .size = 24 };
	struct vu_mem_reg reg = { .region = { UINT64_C(1) << 40, 4096, UINT64_C(1) << 40, 0 } };
	struct vu_mem_table t = { .n = 1, .region = { { 0, 4 << 20, GUEST_UVA_BASE, 0 } } };
	uint64_t kick = 1, call = 0;
	unsigned fds, rss, n = often(10000), each = n / 100000 ? 1 : 10;
	int event, memory, pair[2];

	open_bed(&echo_net_ops);
	event = eventfd(0, 0);
	memory = memfd_create("region", 0);
	cr_assert_eq(ftruncate(memory, 4096), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	bed_start_queue(&b, 0);
	fds = settled_fds();
	/* A channel that is replaced is shut down, and with it the new one, which is the same. */
	cr_assert_eq(outcome(VU_SET_BACKEND_REQ_FD, NULL, 0, &pair[0], 1), 0);
	cr_assert_eq(outcome(VU_SET_BACKEND_REQ_FD, NULL, 0, &pair[0], 1), 0);
	cr_assert(EVENTUALLY(count_fds() == fds));
	cr_assert_eq(outcome(VU_SET_LOG_FD, NULL, 0, &event, 1), 0);
	cr_assert_eq(outcome(VU_SET_VRING_KICK, &kick, 8, &event, 1), 1); /* not described */
	cr_assert_eq(outcome(VU_SET_MEM_TABLE, &t, 40, &b.memory.region[0].fd, 1), 0);
	fds = settled_fds();
	rss = rss_kib();
	for (unsigned i = 0; i < n; i++) {
		cr_assert_eq(outcome(VU_SET_VRING_NUM, &state, sizeof(state), NULL, 0), 1);
		cr_assert_eq(outcome(VU_SET_VRING_KICK, &kick, 8, &event, 1), 1);
		cr_assert_eq(outcome(VU_SET_VRING_CALL, &call, 8, &event, 1), 0);
		cr_assert_eq(outcome(VU_SET_VRING_ERR, &call, 8, &event, 1), 0);
		cr_assert_eq(outcome(VU_SET_BACKEND_REQ_FD, NULL, 0, &pair[0], 1), 0);
		cr_assert_eq(outcome(VU_GET_CONFIG, &c, 36, NULL, 0), 0);
		cr_assert_eq(outcome(VU_SET_LOG_FD, NULL, 0, &memory, 1), 1);
		cr_assert_eq(outcome(VU_SET_LOG_FD, NULL, 0, &event, 1), 0);
		if (i % each)
			continue;
		cr_assert_eq(outcome(VU_ADD_MEM_REG, &reg, sizeof(reg), &memory, 1), 0);
		cr_assert_eq(outcome(VU_ADD_MEM_REG, &reg, sizeof(reg), &memory, 1), 0);
		cr_assert_eq(outcome(VU_REM_MEM_REG, &reg, sizeof(reg), NULL, 0), 0);
		cr_assert_eq(outcome(VU_SET_MEM_TABLE, &t, 40, &b.memory.region[0].fd, 1), 0);
	}
	cr_assert(EVENTUALLY(count_fds() == fds), "from %u to %u", fds, count_fds());
	cr_assert_lt(rss_kib(), rss + 4096, "from %u to %u KiB", rss, rss_kib());
	bed_fini(&b);
}

/* A message full of a pattern, which nobody answers; none of it may be found in what comes later.
 */
static void leave_pattern(void)
{
	uint8_t noise[2000];

	memset(noise, PATTERN, sizeof(noise));
	OK(&b.f, frontend_send(&b.f, 99, VU_VERSION, noise, sizeof(noise), NULL, 0));
}

static void check_clean(const uint8_t *bytes, int n, uint32_t request)
{
	for (int k = 0; k < n; k++)
		cr_assert_neq(bytes[k], PATTERN, "byte %d of what was said to %u", k, request);
}

/* T10, CVE-2018-1118, CVE-2024-0340: an answer holds what was put into it. */
Test(session_wire, every_byte_of_a_reply_was_set_T10)
{
	const struct vu_inflight inflight = { .num_queues = ECHO_QUEUES, .queue_size = 64 };
	const struct vu_config config = { .size = 200 };
	const struct {
		uint32_t request, size;
		const void *question; /* NULL: all zero */
		int answer;
		uint32_t flags;
	} asked[] = {
		{ VU_GET_FEATURES, 0, NULL, 8, 0 },
		{ VU_GET_PROTOCOL_FEATURES, 0, NULL, 8, 0 },
		{ VU_GET_QUEUE_NUM, 0, NULL, 8, 0 },
		{ VU_GET_VRING_BASE, 8, NULL, 8, 0 },
		{ VU_GET_CONFIG, 12 + 200, &config, 12 + 200, 0 },
		{ VU_GET_CONFIG, 12, NULL, 0, 0 }, /* of no bytes: an error */
		{ VU_GET_MAX_MEM_SLOTS, 0, NULL, 8, 0 },
		{ VU_GET_STATUS, 0, NULL, 8, 0 },
		{ VU_GET_INFLIGHT_FD, sizeof(inflight), &inflight, sizeof(inflight), 0 },
		{ VU_GET_INFLIGHT_FD, sizeof(inflight), NULL, sizeof(inflight), 0 },
		{ VU_SET_OWNER, 0, NULL, 8, VU_NEED_REPLY },
		{ VU_RESET_DEVICE, 0, NULL, 8, VU_NEED_REPLY },
		{ VU_SET_LOG_FD, 0, NULL, 8, VU_NEED_REPLY },
		{ VU_SET_VRING_NUM, 8, NULL, 8, VU_NEED_REPLY }, /* refused */
	};
	static const uint8_t zeros[VU_PAYLOAD_MAX];
	uint8_t reply[VU_PAYLOAD_MAX];

	open_bed(&echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(asked); i++) {
		int fds[VU_FDS_MAX], n;
		unsigned n_fds = VU_FDS_MAX;

		leave_pattern();
		OK(&b.f, frontend_send(&b.f, asked[i].request, VU_VERSION | asked[i].flags,
				       asked[i].question ? asked[i].question : zeros, asked[i].size,
				       NULL, 0));
		n = frontend_recv_reply(&b.f, asked[i].request, reply, sizeof(reply), fds, &n_fds);
		cr_assert_eq(n, asked[i].answer, "row %u: %d bytes, %s", i, n, b.f.error);
		check_clean(reply, n, asked[i].request);
		while (n_fds)
			close(fds[--n_fds]);
	}
	bed_fini(&b);
}
