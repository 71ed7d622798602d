/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of the dirty log, and rings that run meanwhile. vhost-user "Migration"; T11. */
#include "tests/guest/frontend_log.h"
#include "tests/unit/often.h"
#include "tests/unit/session_util.h"

#include <errno.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static struct bed b;

static const uint64_t layouts[] = { 0, VU_F_PACKED, VU_F_EVENT_IDX | VU_F_INDIRECT,
				    VU_F_PACKED | VU_F_EVENT_IDX | VU_F_INDIRECT };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

#define MEMORY_END (UINT64_C(4) << 30)

static void open_bed(const struct vhost_device_ops *ops, uint64_t features)
{
	bed_init(&b, ops);
	bed_pair(&b);
	bed_negotiate(&b, VU_PF_USUAL, features);
}

static uint64_t device_area_gpa(unsigned index)
{
	return guest_gpa(&b.memory, driver_device_area(&b.f.queue[index].ring));
}

/* With an offset that is no page's, too: it counts once (CVE-2026-86563). */
Test(session_log, a_ring_logs_where_it_writes_from_the_offset_on)
{
	static const uint64_t offsets[] = { 0, 4096, 8, 5000, 3 * 4096 + 1 };

	FOR_EACH_LAYOUT(features)
	{
		for (unsigned i = 0; i < ARRAY_SIZE(offsets); i++) {
			struct frontend_log log;

			cr_assert_eq(frontend_log_create(&log, MEMORY_END, offsets[i]), 0);
			open_bed(&echo_net_ops, features);
			bed_start_queue(&b, 0);
			bed_echo(&b, 0);
			cr_assert_eq(frontend_log_count(&log), 0u);
			OK(&b.f, frontend_log_start(&b.f, &log, 1));
			bed_echo(&b, 0);
			cr_assert(frontend_log_has(&log, device_area_gpa(0)));
			for (uint64_t at = 0; at < offsets[i]; at++)
				cr_assert_eq(log.map[at], 0, "byte %lu before the log", at);
			/* Off again: nothing more. */
			OK(&b.f, frontend_log_stop(&b.f, 1));
			frontend_log_clear(&log);
			bed_echo(&b, 0);
			OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
			cr_assert_eq(frontend_log_count(&log), 0u);
			bed_fini(&b);
			frontend_log_destroy(&log);
		}
	}
}

/*
 * A log on hugetlbfs: no page of it may be there to be had, and it is mapped, unmapped and replaced
 * in its own pages alone.
 */
Test(session_log, a_log_of_huge_pages_costs_its_device_at_most, .timeout = 60)
{
	struct frontend_log log = { .size = MEMORY_END / 4096 / 8 };
	unsigned mappings;

	log.fd = memfd_create("huge-log", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	if (log.fd < 0 || ftruncate(log.fd, 2 << 20) < 0)
		cr_skip_test("no huge pages of 2 MiB: %s", strerror(errno));
	FOR_EACH_LAYOUT(features)
	{
		open_bed(&echo_net_ops, features);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		mappings = count_mappings();
		for (unsigned i = 0; i < 20; i++) {
			log.offset = i * 4096;
			OK(&b.f, frontend_log_share(&b.f, &log));
			cr_assert_eq(count_mappings(), mappings + 1);
		}
		/* It goes on, or is hung up on; the process lives. */
		frontend_log_all(&b.f, true);
		frontend_log_ring(&b.f, 0, true);
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == 1));
		bed_fini(&b);
	}
	close(log.fd);
}

/* A ring that starts while logging is on logs from its first write. */
Test(session_log, a_ring_that_starts_later_logs_too)
{
	struct frontend_log log;

	FOR_EACH_LAYOUT(features)
	{
		cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
		open_bed(&echo_blk_ops, features);
		OK(&b.f, frontend_log_share(&b.f, &log));
		OK(&b.f, frontend_log_all(&b.f, true));
		bed_start_queue(&b, 1);
		bed_echo(&b, 1);
		/* The descriptors of a packed ring, and nothing of a split one: no flag yet. */
		cr_assert_eq(frontend_log_count(&log) != 0, !!(features & VU_F_PACKED));
		OK(&b.f, frontend_queue_stop(&b.f, 1, NULL));
		OK(&b.f, frontend_log_ring(&b.f, 1, true));
		OK(&b.f, frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 1, b.f.queue[1].kick_fd));
		bed_echo(&b, 1);
		cr_assert(frontend_log_has(&log, device_area_gpa(1)));
		bed_fini(&b);
		frontend_log_destroy(&log);
	}
}

/* The used ring's place in the log is what the front-end says, and not where the ring is. */
Test(session_log, a_ring_logs_where_the_front_end_says_that_it_is)
{
	FOR_EACH_LAYOUT(features)
	{
		const uint64_t place = (UINT64_C(3) << 30) + 8192;
		struct frontend_log log;
		struct vu_addr addr;

		cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
		open_bed(&echo_net_ops, features);
		bed_start_queue(&b, 0);
		OK(&b.f, frontend_log_start(&b.f, &log, 1));
		frontend_log_clear(&log);
		addr = (struct vu_addr) {
			.flags = VU_VRING_F_LOG,
			.desc = guest_uva(&b.memory, driver_desc_area(&b.f.queue[0].ring)),
			.avail = guest_uva(&b.memory, driver_driver_area(&b.f.queue[0].ring)),
			.used = guest_uva(&b.memory, driver_device_area(&b.f.queue[0].ring)),
			.log = place
		};
		OK(&b.f, frontend_set(&b.f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
		/* Twice: asleep, a worker says that it wants kicks, and that is written there. */
		bed_echo(&b, 0);
		bed_echo(&b, 0);
		cr_assert(EVENTUALLY(frontend_log_has(&log, place)));
		bed_fini(&b);
		frontend_log_destroy(&log);
	}
}

/* A log without memory, before there was any and when it has gone, behind an IOMMU or not. */
Test(session_log, a_log_may_come_before_memory_and_outlive_it)
{
	for (unsigned i = 0; i < 2; i++) {
		const uint64_t iommu = i ? VU_F_ACCESS_PLATFORM : 0;
		struct vu_addr addr = { .flags = VU_VRING_F_LOG };
		struct frontend_log log;

		cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
		bed_init(&b, &echo_net_ops);
		bed_pair(&b);
		OK(&b.f, frontend_hello(&b.f, VU_PF_USUAL | VU_PF_BACKEND_REQ));
		OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1 | ECHO_FEATURES | iommu));
		OK(&b.f, frontend_set(&b.f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
		OK(&b.f, frontend_log_share(&b.f, &log));
		OK(&b.f, frontend_log_all(&b.f, true));
		OK(&b.f, frontend_share_memory(&b.f, &b.memory));
		for (unsigned k = 0; k < b.memory.n; k++)
			OK(&b.f, frontend_remove_mem_reg(&b.f, &b.memory.region[k]));
		OK(&b.f, frontend_log_share(&b.f, &log));
		bed_fini(&b);
		frontend_log_destroy(&log);
	}
}

/* T11; CVE-2020-10722. A front-end that was refused would believe in a log: it is hung up on. */
Test(session_log, a_log_that_cannot_be_is_refused)
{
	static const struct vu_log bad[] = {
		{ 0, 0 },
		{ 0, 5 },				  /* where a mapping would have a length */
		{ 4097, 0 },				  /* longer than its file */
		{ 4096, 1 },				  /* by its offset */
		{ 1, 4096 },				  /* beginning where it ends */
		{ UINT64_MAX, 0 },			  /* … */
		{ UINT64_MAX - 4095, 4096 },		  /* the sum wraps to 0 */
		{ 4096, UINT64_MAX - 4095 },		  /* likewise */
		{ UINT64_MAX, 1 },			  /* likewise */
		{ 1, UINT64_MAX },			  /* likewise */
		{ UINT64_C(1) << 63, UINT64_C(1) << 63 }, /* likewise */
		{ (UINT64_C(1) << 32) + 4096, 0 },	  /* would pass in 32 bits */
	};
	const uint64_t huge_bytes = UINT64_C(1) << 39;
	unsigned fds = settled_fds(), maps;
	int file = memfd_create("log", 0), huge = memfd_create("huge", 0), pipes[2];
	uint64_t reply;

	cr_assert_eq(pipe(pipes), 0);
	cr_assert_eq(ftruncate(file, 4096), 0);
	bed_init(&b, &echo_net_ops);
	bed_listen(&b);
	maps = count_mappings();
	cr_assert_eq(ftruncate(huge, (off_t)huge_bytes), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad) + 3; i++) {
		struct vu_log msg = i < ARRAY_SIZE(bad) ? bad[i] : (struct vu_log) { 4096, 0 };
		int fd = file;

		bed_connect(&b);
		if (i >= ARRAY_SIZE(bad))
			fd = i == ARRAY_SIZE(bad) ? pipes[0] : b.f.sock;
		if (i == ARRAY_SIZE(bad) + 2) { /* it could be mapped, but is too long */
			fd = huge;
			msg.size = huge_bytes;
		}
		bed_negotiate(&b, VU_PF_USUAL, 0);
		OK(&b.f,
		   frontend_send(&b.f, VU_SET_LOG_BASE, VU_VERSION, &msg, sizeof(msg), &fd, 1));
		cr_assert_eq(frontend_recv_reply(&b.f, VU_SET_LOG_BASE, &reply, 8, NULL, NULL),
			     -ECONNRESET, "log %u was taken", i);
		cr_assert_null(b.dev.vhost.log);
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == b.dev.connected));
	}
	cr_assert(EVENTUALLY(count_mappings() <= maps));
	bed_fini(&b);
	close(file);
	close(huge);
	close(pipes[0]);
	close(pipes[1]);
	cr_assert(fds_become(fds));
}

/* A log that is shorter than guest memory is taken; what lies beyond it is not told. */
Test(session_log, a_log_that_is_too_short_is_not_overrun)
{
	struct frontend_log log;

	FOR_EACH_LAYOUT(features)
	{
		cr_assert_eq(frontend_log_create(&log, 8 * 4096, 4095), 0);
		open_bed(&echo_net_ops, features);
		bed_start_queue(&b, 0);
		OK(&b.f, frontend_log_start(&b.f, &log, 1));
		for (unsigned i = 0; i < 10; i++)
			bed_echo(&b, 0);
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		cr_assert_eq(log.size, 1u);
		bed_fini(&b);
		frontend_log_destroy(&log);
	}
}

/* T11: QEMU makes a larger log when memory is plugged in during a migration. */
Test(session_log, a_log_is_replaced_while_rings_run)
{
	struct frontend_log log[2];
	unsigned maps = 0;

	FOR_EACH_LAYOUT(features)
	{
		for (unsigned i = 0; i < 2; i++)
			cr_assert_eq(frontend_log_create(&log[i], MEMORY_END << i, 0), 0);
		open_bed(&echo_net_ops, features);
		bed_start_queue(&b, 0);
		OK(&b.f, frontend_log_start(&b.f, &log[0], 1));
		for (unsigned i = 0; i < 100; i++) {
			struct frontend_log *now = &log[i % 2], *before = &log[(i + 1) % 2];

			bed_submit(&b, 0);
			OK(&b.f, frontend_log_share(&b.f, now));
			/* From the answer on the old one is not touched. */
			frontend_log_clear(before);
			OK(&b.f, frontend_wait_used(&b.f, 0, &(struct driver_used) { 0 }));
			bed_echo(&b, 0);
			cr_assert_eq(frontend_log_count(before), 0u);
			cr_assert(frontend_log_has(now, device_area_gpa(0)));
			frontend_log_clear(now);
			if (i == 10)
				maps = count_mappings();
		}
		cr_assert(EVENTUALLY(count_mappings() <= maps));
		cr_assert_eq(b.dev.queue[0].starts, 1u);
		bed_fini(&b);
		for (unsigned i = 0; i < 2; i++)
			frontend_log_destroy(&log[i]);
	}
}

/* protocol.md 8b: rust's vhost-user-backend disabled the rings when logging was switched. */
Test(session_log, switching_logging_stops_no_ring, .timeout = 60)
{
	static const struct vhost_device_ops *const kinds[] = { &echo_net_ops, &echo_blk_ops };
	struct frontend_log log;

	for (unsigned k = 0; k < 2; k++) {
		FOR_EACH_LAYOUT(features)
		{
			unsigned told;

			cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
			open_bed(kinds[k], features);
			for (unsigned i = 0; i < 2; i++)
				bed_start_queue(&b, i);
			told = b.dev.set_features;
			for (unsigned i = 0; i < 20; i++) {
				OK(&b.f, frontend_log_start(&b.f, &log, 2));
				bed_echo(&b, i % 2);
				OK(&b.f, frontend_log_stop(&b.f, 2));
				bed_echo(&b, i % 2);
			}
			for (unsigned i = 0; i < 2; i++) {
				cr_assert_eq(b.dev.queue[i].starts, 1u);
				cr_assert_eq(b.dev.queue[i].stops, 0u);
				cr_assert(b.dev.vhost.queues[i].setup.enabled);
			}
			cr_assert_eq(b.dev.set_features, told, "the device kind was bothered");
			/* Any other feature does stop them, for a moment. */
			OK(&b.f, frontend_set_features(&b.f, b.f.features & ~UINT64_C(1)));
			cr_assert_eq(b.dev.queue[0].starts, 2u);
			cr_assert_eq(b.dev.set_features, told + 1);
			cr_assert_eq(b.dev.features & VU_F_LOG_ALL, 0u);
			bed_echo(&b, 0);
			bed_fini(&b);
			frontend_log_destroy(&log);
		}
	}
}

/* Thousands of times, with chains in flight: no descriptor and no mapping stays behind. */
Test(session_log, switching_logging_thousands_of_times_leaves_nothing_behind,
     .timeout = OFTEN_TIMEOUT)
{
	unsigned fds, maps, out = 0, n = often(2000);
	struct frontend_log log;
	struct driver_used used;
	int event = eventfd(0, 0);

	open_bed(&echo_net_ops, VU_F_PACKED | VU_F_EVENT_IDX);
	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	for (unsigned i = 0; i < ECHO_QUEUES; i++)
		bed_start_queue(&b, i);
	OK(&b.f, frontend_log_start(&b.f, &log, ECHO_QUEUES));
	OK(&b.f, frontend_set(&b.f, VU_SET_LOG_FD, NULL, 0, &event, 1));
	bed_echo(&b, 0);
	fds = settled_fds();
	maps = count_mappings();
	for (unsigned i = 0; i < n; i++) {
		for (; out < 8; out++)
			bed_submit(&b, 0);
		OK(&b.f, frontend_log_all(&b.f, i % 2));
		OK(&b.f, frontend_log_ring(&b.f, i % ECHO_QUEUES, i % 3));
		OK(&b.f, frontend_log_share(&b.f, &log));
		OK(&b.f, frontend_set(&b.f, VU_SET_LOG_FD, NULL, 0, &event, i % 5 != 0));
		while (frontend_poll(&b.f, 0, &used))
			out--;
	}
	for (; out; out--)
		OK(&b.f, frontend_wait_used(&b.f, 0, &used));
	OK(&b.f, frontend_set(&b.f, VU_SET_LOG_FD, NULL, 0, &event, 1));
	cr_assert(fds_become(fds));
	cr_assert_leq(count_mappings(), maps + 2);
	bed_fini(&b);
	frontend_log_destroy(&log);
	close(event);
}

Test(session_log, a_log_does_not_outlive_its_connection)
{
	struct frontend_log log;
	unsigned fds = settled_fds(), starts;
	int event = eventfd(0, 0);

	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	bed_init(&b, &echo_net_ops);
	bed_listen(&b);
	for (unsigned i = 0; i < 20; i++) {
		bed_connect(&b);
		bed_negotiate(&b, VU_PF_USUAL, 0);
		bed_start_queue(&b, 0);
		OK(&b.f, frontend_log_start(&b.f, &log, 1));
		OK(&b.f, frontend_set(&b.f, VU_SET_LOG_FD, NULL, 0, &event, 1));
		bed_submit(&b, 0);
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == b.dev.connected));
		cr_assert_null(b.dev.vhost.log);
		cr_assert_eq(b.dev.vhost.log_fd, -1);
	}
	/* The next one has none until it says so. */
	bed_connect(&b);
	bed_negotiate(&b, VU_PF_USUAL, 0);
	starts = b.dev.queue[0].starts;
	bed_start_queue(&b, 0);
	frontend_log_clear(&log);
	bed_echo(&b, 0);
	cr_assert_eq(b.dev.queue[0].starts, starts + 1);
	cr_assert_eq(frontend_log_count(&log), 0u);
	bed_fini(&b);
	frontend_log_destroy(&log);
	close(event);
	cr_assert(fds_become(fds));
}

Test(session_log, the_log_descriptor_is_an_eventfd_and_is_signalled)
{
	int event = eventfd(0, EFD_NONBLOCK), pipes[2];
	struct frontend_log log;
	eventfd_t count;

	cr_assert_eq(pipe(pipes), 0);
	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	open_bed(&echo_net_ops, 0);
	bed_start_queue(&b, 0);
	cr_assert_eq(frontend_set(&b.f, VU_SET_LOG_FD, NULL, 0, &pipes[1], 1), -EREMOTEIO);
	OK(&b.f, frontend_set(&b.f, VU_SET_LOG_FD, NULL, 0, &event, 1));
	bed_echo(&b, 0);
	cr_assert_eq(eventfd_read(event, &count), -1, "signalled without a log");
	OK(&b.f, frontend_log_start(&b.f, &log, 1));
	bed_echo(&b, 0);
	cr_assert_eq(eventfd_read(event, &count), 0);
	bed_fini(&b);
	frontend_log_destroy(&log);
	close(event);
	close(pipes[0]);
	close(pipes[1]);
}

/* Its owner cuts it short: that costs the connection. */
Test(session_log, a_log_that_shrinks_under_us_ends_the_connection)
{
	FOR_EACH_LAYOUT(features)
	{
		struct frontend_log log;

		cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
		open_bed(&echo_net_ops, features);
		bed_start_queue(&b, 0);
		OK(&b.f, frontend_log_start(&b.f, &log, 1));
		bed_echo(&b, 0);
		cr_assert_eq(ftruncate(log.fd, 0), 0);
		bed_submit(&b, 0);
		cr_assert(EVENTUALLY(b.dev.disconnected == 1));
		cr_assert_eq(counter_read(&b.dev.vhost.stats.memory_lost), 1u);
		bed_fini(&b);
		frontend_log_destroy(&log);
	}
}
