/* SPDX-License-Identifier: Apache-2.0 */
/* One front-end that asks without end has its share of the control thread, and no more. */
#include "tests/unit/session_bed.h"

#include <sys/socket.h>

static uint64_t throttled(void)
{
	return counter_read(&b.dev.vhost.stats.throttled);
}

/* Asks as fast as the socket takes it, and steps the loop, for @ms. @return questions. */
static uint64_t ask_for(unsigned ms)
{
	uint64_t end = clock_ns() + ms * UINT64_C(1000000), n = 0;
	char bin[4096];
	struct vu_header h = { VU_GET_FEATURES, VU_VERSION, 0 };

	while (clock_ns() < end) {
		while (send(b.f.sock, &h, sizeof(h), MSG_DONTWAIT) == sizeof(h))
			n++;
		while (recv(b.f.sock, bin, sizeof(bin), MSG_DONTWAIT) > 0)
			;
		control_step(1000);
	}
	return n;
}

/* Its answers are read, and there are no more of them than questions. */
static void drain(void)
{
	char bin[4096];
	ssize_t n;

	cr_assert(EVENTUALLY((n = recv(b.f.sock, bin, sizeof(bin), MSG_DONTWAIT)) < 0 &&
			     !b.dev.vhost.quota.waits &&
			     STAYS(recv(b.f.sock, bin, sizeof(bin), MSG_DONTWAIT) < 0, 50)));
}

static void ask_without_end(bool enforced)
{
	quota_enforce(enforced);
	open_bed(&echo_net_ops);
	ask_for(300); /* what may be had at once */
	if (!enforced) {
		cr_assert_eq(throttled(), 0);
		bed_fini(&b);
		return;
	}
	cr_assert(EVENTUALLY((ask_for(20), throttled() > 0)));
	/* Heard again and again, and made to wait again and again. */
	uint64_t times = throttled(), messages = counter_read(&b.dev.vhost.stats.messages);

	cr_assert(EVENTUALLY((ask_for(20), throttled() > times + 3)));
	cr_assert_gt(counter_read(&b.dev.vhost.stats.messages), messages);
	drain();
	check_alive();
	bed_fini(&b);
	quota_enforce(false);
}

Test(session_quota, questions_without_end_are_answered_now_and_then, .timeout = 30)
{
	ask_without_end(true);
}

Test(session_quota, without_it_they_are_answered_as_they_come, .timeout = 30)
{
	ask_without_end(false);
}

/* It is the device's, so that a new connection does not begin anew; and nobody is turned away. */
Test(session_quota, connections_without_end_wait_in_the_backlog, .timeout = 60)
{
	uint64_t connects;

	quota_enforce(true);
	open_listening(&echo_net_ops);
	bed_start_queue(&b, 0);
	for (unsigned i = 0; i < 20000 && throttled() == 0; i++)
		reconnect();
	cr_assert_gt(throttled(), 0);
	connects = counter_read(&b.dev.vhost.stats.connects);
	frontend_close(&b.f);
	OK(&b.f, frontend_connect(&b.f, b.path));
	bed_negotiate(&b, ~VU_PF_GPA_ADDRESSES, 0);
	cr_assert_eq(counter_read(&b.dev.vhost.stats.connects), connects + 1);
	bed_start_queue(&b, 0);
	bed_echo(&b, 0);
	bed_fini(&b);
	quota_enforce(false);
}

/* The guest's I/O is none of the control thread's: it goes on while its front-end waits. */
Test(session_quota, rings_run_while_the_front_end_waits, .timeout = 30)
{
	quota_enforce(true);
	open_bed(&echo_net_ops);
	bed_start_queue(&b, 0);
	cr_assert(EVENTUALLY((ask_for(20), b.dev.vhost.quota.waits)));
	bed_echo(&b, 0);
	drain();
	bed_fini(&b);
	quota_enforce(false);
}

Test(session_quota, a_device_is_closed_while_its_front_end_waits, .timeout = 30)
{
	quota_enforce(true);
	open_bed(&echo_net_ops);
	bed_start_queue(&b, 0);
	cr_assert(EVENTUALLY((ask_for(20), b.dev.vhost.quota.waits)));
	bed_fini(&b);
	quota_enforce(false);
}
