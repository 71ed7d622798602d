/* SPDX-License-Identifier: Apache-2.0 */
/* One front-end that asks without end has its share of the control thread, and no more. */
#include "tests/unit/session_bed.h"

#include <sys/socket.h>
#include <sys/un.h>

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

/* Without a session of its own, that is: one front-end has it, and others come without end. */
Test(session_quota, front_ends_that_are_turned_away_count, .timeout = 60)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	quota_enforce(true);
	open_listening(&echo_net_ops);
	strcpy(sun.sun_path, b.path);
	cr_assert(EVENTUALLY(({
		for (unsigned i = 0; i < 100; i++) {
			int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

			(void)!connect(fd, (struct sockaddr *)&sun, sizeof(sun));
			control_step(0);
			close(fd);
		}
		throttled() > 0;
	})));
	check_alive();
	bed_fini(&b);
	quota_enforce(false);
}

/* Answers to nothing, through the channel that is ours to ask by. */
Test(session_quota, answers_without_end_are_heard_now_and_then, .timeout = 60)
{
	const struct {
		struct vu_header h;
		uint64_t value;
	} __attribute__((packed)) ack = { { VU_BACKEND_VRING_CALL, VU_VERSION | VU_REPLY, 8 }, 0 };

	quota_enforce(true);
	open_bed(&echo_net_ops);
	OK(&b.f, frontend_open_backend_channel(&b.f));
	cr_assert(EVENTUALLY(({
		for (unsigned i = 0; i < 50; i++)
			(void)!send(b.f.backend_sock, &ack, sizeof(ack), MSG_DONTWAIT);
		throttled() > 3;
	})));
	check_alive();
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

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* CPU time of this thread's. */
static void burn(unsigned ms)
{
	uint64_t end = cpu_ns() + ms * UINT64_C(1000000);

	while (cpu_ns() < end)
		;
}

/* As while its CPU is another's: how long may that take, and be nobody's fault? */
static int interrupted_set_mtu(struct vhost_device *d, uint16_t mtu)
{
	(void)d;
	(void)mtu;
	usleep(20000);
	return 0;
}

static int slow_set_mtu(struct vhost_device *d, uint16_t mtu)
{
	(void)d;
	(void)mtu;
	burn(20);
	return 0;
}

/* Asks for it once more, unless it is made to wait. @return nanoseconds that it owes. */
static uint64_t ask_slowly(unsigned times)
{
	struct {
		struct vu_header h;
		uint64_t mtu;
	} __attribute__((packed)) m = { { VU_NET_SET_MTU, VU_VERSION, 8 }, 1500 };
	const struct quota *q = &b.dev.vhost.quota;

	for (unsigned i = 0; !q->waits && i < times; i++)
		cr_assert_eq(send(b.f.sock, &m, sizeof(m), 0), (ssize_t)sizeof(m));
	control_step(1000);
	return q->waits ? q->had_ns - UINT64_C(1000) * QUOTA_BURST_US : 0;
}

/* What took long once is forgiven, but for 10 ms; what takes long again and again is not. */
Test(session_quota, long_work_is_paid_for_the_second_time, .timeout = 60)
{
	struct vhost_device_ops ops = echo_net_ops;
	uint64_t owes;

	ops.set_mtu = slow_set_mtu;
	quota_enforce(true);
	open_bed(&ops);
	cr_assert(EVENTUALLY((owes = ask_slowly(6)) > 0));
	cr_assert_leq(owes, UINT64_C(10000000));
	cr_assert(EVENTUALLY(ask_slowly(1) > UINT64_C(12000000)));
	bed_fini(&b);
	quota_enforce(false);
}

/* 400 ms and more of waiting, for at most 40 that count. */
Test(session_quota, time_in_which_the_thread_did_not_run_is_not_paid_for, .timeout = 60)
{
	struct vhost_device_ops ops = echo_net_ops;
	uint64_t mtu = 1500, end;

	ops.set_mtu = interrupted_set_mtu;
	quota_enforce(true);
	open_bed(&ops);
	end = clock_ns() + UINT64_C(400000000);
	for (unsigned i = 0; i < 20 || clock_ns() < end; i++)
		OK(&b.f, frontend_u64_set(&b.f, VU_NET_SET_MTU, mtu));
	cr_assert_eq(throttled(), 0u);
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
