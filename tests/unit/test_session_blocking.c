/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front-end that tries to hold up a worker through a descriptor that it shares with us: it owns
 * the open file too, so it may clear O_NONBLOCK and fill the counter at any time.
 */
#include "tests/guest/frontend_log.h"
#include "tests/unit/session_util.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

static struct bed b, other; /* two devices on one worker */

static const uint64_t layouts[] = { 0, VU_F_PACKED, VU_F_EVENT_IDX | VU_F_INDIRECT,
				    VU_F_PACKED | VU_F_EVENT_IDX | VU_F_INDIRECT };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

/* Both connected; all queues of the hostile one run, and the first of the other. */
static void open_both(uint64_t features)
{
	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	bed_negotiate(&b, VU_PF_USUAL, features);
	for (unsigned i = 0; i < ECHO_QUEUES; i++)
		bed_start_queue(&b, i);
	bed_beside(&other, &b, features);
}

static void close_both(void)
{
	bed_beside_fini(&other);
	bed_fini(&b);
}

/* From now on, who writes to @fd sleeps. */
static void make_blocking(int fd)
{
	cr_assert_eq(eventfd_write(fd, 1), 0);
	cr_assert_eq(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
	(void)eventfd_read(fd, &(eventfd_t) { 0 });
	cr_assert_eq(eventfd_write(fd, UINT64_MAX - 1), 0);
	cr_assert_eq(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
}

static const struct ring *ring(unsigned index)
{
	return &b.dev.vhost.queues[index].ring;
}

static bool broken(unsigned index)
{
	return __atomic_load_n(&ring(index)->broken, __ATOMIC_RELAXED) != NULL;
}

static uint64_t calls_failed(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < ECHO_QUEUES; i++)
		n += counter_read(&ring(i)->stats.calls_failed);
	return n;
}

static uint64_t interrupts(void)
{
	return counter_read(&worker_stats(workers_get(b.workers, 0))->interrupts);
}

Test(session_blocking, a_call_descriptor_that_blocks_breaks_its_own_ring_only, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		open_both(features);
		make_blocking(b.f.queue[0].call_fd);
		bed_submit(&b, 0);
		/* The control thread waits for the worker in this one. */
		bed_start_queue(&other, 1);
		for (unsigned i = 0; i < 100; i++)
			bed_echo(&other, i % 2);
		cr_assert(EVENTUALLY(broken(0)));
		cr_assert_str_eq(ring(0)->broken, "its call descriptor blocks");
		cr_assert_eq(calls_failed(), 1u);
		cr_assert_geq(interrupts(), 1u);
		close_both();
	}
}

Test(session_blocking, an_err_descriptor_that_blocks_holds_nobody_up, .timeout = 60)
{
	const struct driver_seg bad = { UINT64_C(1) << 40, 8 };

	FOR_EACH_LAYOUT(features)
	{
		struct driver_ring *r = &b.f.queue[0].ring;

		open_both(features);
		make_blocking(b.f.queue[0].err_fd);
		cr_assert_eq(r->layout == DRIVER_SPLIT
				     ? driver_add(r, DRIVER_SPLIT, &bad, 1, 0, NULL)
				     : driver_add(r, DRIVER_PACKED, &bad, 1, 0, NULL),
			     0);
		frontend_submit(&b.f, 0);
		for (unsigned i = 0; i < 100; i++)
			bed_echo(&other, 0);
		cr_assert(EVENTUALLY(broken(0)));
		cr_assert_geq(interrupts(), 1u);
		close_both();
	}
}

/* A device with many queues must not hold up the worker once for each. */
Test(session_blocking, all_call_descriptors_of_a_device_together_block_once, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		open_both(features);
		for (unsigned i = 0; i < ECHO_QUEUES; i++)
			make_blocking(b.f.queue[i].call_fd);
		for (unsigned i = 0; i < ECHO_QUEUES; i++)
			bed_submit(&b, i);
		bed_echo(&other, 0);
		for (unsigned i = 0; i < ECHO_QUEUES; i++)
			cr_assert(EVENTUALLY(broken(i)), "queue %u", i);
		cr_assert_eq(calls_failed(), 1u);
		bed_echo(&other, 0);
		close_both();
	}
}

/* Nor again and again, by starting the queue anew. */
Test(session_blocking, a_device_that_blocked_a_worker_starts_no_queue_for_a_while, .timeout = 60)
{
	open_both(0);
	make_blocking(b.f.queue[0].call_fd);
	bed_submit(&b, 0);
	cr_assert(EVENTUALLY(broken(0)));
	OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
	cr_assert_eq(frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd),
		     -EREMOTEIO);
	cr_assert_eq(b.dev.vhost.queues[0].state, VIRTQUEUE_STOPPED);
	bed_echo(&other, 0);
	OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
	/* Later. */
	b.dev.vhost.call_blocked_ns -= UINT64_C(11000000000);
	frontend_queue_free(&b.f, 0);
	bed_start_queue(&b, 0);
	bed_echo(&b, 0);
	close_both();
}

/*
 * Where a ring goes on, and where its call descriptor changes, the guest is called without a cause:
 * it is the worker who does it, since nobody watches over the control thread.
 */
Test(session_blocking, the_call_at_the_start_of_a_ring_does_not_block_the_control_thread,
     .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		open_both(features);
		bed_echo(&b, 0);
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		make_blocking(b.f.queue[0].call_fd);
		OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd));
		cr_assert(EVENTUALLY(broken(0)));
		for (unsigned i = 0; i < 20; i++)
			bed_echo(&other, 0);
		close_both();
	}
}

/* A ring that starts writes to its event words, and a log may have to hear of that. */
Test(session_blocking, the_log_descriptor_does_not_block_the_control_thread, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		int event = eventfd(0, EFD_CLOEXEC);
		struct frontend_log log;

		open_both(features);
		cr_assert_eq(frontend_log_create(&log, 16 << 20, 0), 0);
		OK(&b.f, frontend_log_start(&b.f, &log, ECHO_QUEUES));
		OK(&b.f, frontend_set(&b.f, VU_SET_LOG_FD, NULL, 0, &event, 1));
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		make_blocking(event);
		OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd));
		for (unsigned i = 0; i < 20; i++)
			bed_echo(&other, 0);
		close_both();
		frontend_log_destroy(&log);
		close(event);
	}
}

/* Before anybody takes the flag away. */
Test(session_blocking, descriptors_that_a_worker_writes_to_are_made_non_blocking)
{
	static const uint32_t written[] = { VU_SET_VRING_CALL, VU_SET_VRING_ERR };

	open_both(0);
	for (unsigned i = 0; i < ARRAY_SIZE(written); i++) {
		int fd = eventfd(0, EFD_CLOEXEC);

		cr_assert_not(fcntl(fd, F_GETFL) & O_NONBLOCK);
		OK(&b.f, frontend_vring_fd(&b.f, written[i], 0, fd));
		cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
		close(fd);
	}
	close_both();
}

Test(session_blocking, a_new_call_descriptor_is_signalled_at_once)
{
	eventfd_t n = 0;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	open_both(0);
	OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_CALL, 0, fd));
	cr_assert_eq(eventfd_read(fd, &n), 0);
	cr_assert_eq(n, 1u);
	close_both();
	close(fd);
}

/* A full counter alone is no offence: the driver has calls to read. */
Test(session_blocking, a_full_counter_that_does_not_block_breaks_nothing)
{
	eventfd_t n;

	open_both(0);
	make_blocking(b.f.queue[0].call_fd);
	cr_assert_eq(fcntl(b.f.queue[0].call_fd, F_SETFL, O_RDWR | O_NONBLOCK), 0);
	bed_submit(&b, 0);
	cr_assert(EVENTUALLY(calls_failed() == 1));
	cr_assert_eq(eventfd_read(b.f.queue[0].call_fd, &n), 0);
	for (unsigned i = 0; i < 20; i++)
		bed_echo(&other, 0);
	cr_assert_not(broken(0));
	cr_assert_eq(interrupts(), 0u);
	close_both();
}

/* In a sandbox nothing may tell us that it is an eventfd but what fstat() says. */
Test(session_blocking, what_is_no_eventfd_is_refused_without_proc_too)
{
	static const uint32_t events[] = { VU_SET_VRING_KICK, VU_SET_VRING_CALL, VU_SET_VRING_ERR };
	char root[] = "/tmp/sluice-test-XXXXXX";
	int pipes[2], fd = eventfd(0, EFD_CLOEXEC), back = open("/", O_RDONLY | O_CLOEXEC);
	struct stat st;

	open_both(0);
	cr_assert_eq(pipe(pipes), 0);
	cr_assert_not_null(mkdtemp(root));
	if (chroot(root) < 0) {
		rmdir(root);
		cr_skip_test("chroot() needs root");
	}
	cr_assert_lt(stat("/proc/self/fd", &st), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(events); i++) {
		OK(&b.f, frontend_vring_fd(&b.f, events[i], 0, fd));
		for (unsigned j = 0; j < 2; j++)
			cr_assert_eq(frontend_vring_fd(&b.f, events[i], 0, pipes[j]), -EREMOTEIO);
	}
	cr_assert_eq(fchdir(back), 0);
	cr_assert_eq(chroot("."), 0);
	rmdir(root);
	close_both();
}
