/* SPDX-License-Identifier: Apache-2.0 */
/* Rings of a guest behind an IOMMU: vhost-user "IOMMU support", virtio 1.3 6.1 ACCESS_PLATFORM. */
#include "base/clock.h"
#include "poll/worker.h"
#include "tests/unit/iommu_bed.h"
#include "vhost/iotlb.h"
#include "vhost/session.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

Test(session_iommu, access_platform_needs_the_channel_and_acks)
{
	static const uint64_t lacking[] = { VU_PF_USUAL,
					    (VU_PF_USUAL & ~VU_PF_REPLY_ACK) | VU_PF_BACKEND_REQ };

	for (unsigned i = 0; i < ARRAY_SIZE(lacking); i++) {
		uint64_t refused;

		bed_init(&b, &echo_blk_ops);
		bed_pair(&b);
		OK(&b.f, frontend_hello(&b.f, lacking[i]));
		refused = counter_read(&b.dev.vhost.stats.messages_refused);
		(void)frontend_set_features(&b.f, VU_F_VERSION_1 | VU_F_ACCESS_PLATFORM);
		cr_assert(EVENTUALLY(counter_read(&b.dev.vhost.stats.messages_refused) > refused));
		cr_assert_eq(b.dev.vhost.features, 0u);
		bed_fini(&b);
	}
}

/* "A ring address is an IOVA if VIRTIO_F_IOMMU_PLATFORM has been negotiated." */
Test(session_iommu, a_ring_starts_when_its_own_addresses_are_mapped)
{
	FOR_EACH_LAYOUT(features)
	{
		bool packed = features & VU_F_PACKED;
		struct vu_iotlb m[2];

		open_iommu(&echo_blk_ops, features);
		bed_start_queue(&b, 0);
		cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
		/* All of it is asked for, with what is done there; a page once for the same. */
		m[0] = next_miss();
		cr_assert_eq(m[0].iova, b.dev.vhost.queues[0].setup.desc);
		cr_assert_eq(m[0].access, packed ? RW : VU_IOTLB_READ);
		if (!packed) {
			m[1] = next_miss();
			cr_assert_eq(m[1].iova, b.dev.vhost.queues[0].setup.device);
			cr_assert_eq(m[1].access, VU_IOTLB_WRITE);
		}
		/* Not twice: other messages do not make it ask again at once. */
		OK(&b.f, frontend_state_set(&b.f, VU_SET_VRING_ENABLE, 1, 1));
		cr_assert_eq(drain_misses(), 0u);
		for (unsigned i = 0; i < (packed ? 1 : 2); i++)
			answer(&m[i]);
		cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING));
		for (unsigned i = 0; i < 100; i++)
			echo(0);
		cr_assert_eq(b.dev.queue[0].starts, 1u);
		bed_fini(&b);
	}
}

Test(session_iommu, a_ring_that_is_no_one_piece_of_memory_is_refused)
{
	struct vu_iotlb m;

	open_iommu(&echo_blk_ops, 0);
	bed_start_queue(&b, 0);
	m = next_miss();
	/* 1 KiB of descriptors: its two halves in different places. */
	OK(&b.f, frontend_map(&b.f, m.iova, 0, 512, RW));
	OK(&b.f, frontend_map(&b.f, m.iova + 512, 8 << 20, 512, RW));
	cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
	cr_assert(b.dev.vhost.queues[0].setup.failed);
	/* The right place makes it good. */
	answer(&m);
	cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING));
	bed_fini(&b);
}

Test(session_iommu, a_ring_that_wraps_around_is_refused)
{
	struct vu_addr addr = { .desc = UINT64_MAX - 511, .avail = IOVA, .used = IOVA + PAGE };
	int fd = eventfd(0, 0);

	open_iommu(&echo_net_ops, 0);
	OK(&b.f, frontend_map(&b.f, IOVA, 0, 2 * PAGE, RW));
	OK(&b.f, frontend_state_set(&b.f, VU_SET_VRING_NUM, 0, 64));
	OK(&b.f, frontend_set(&b.f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
	cr_assert_eq(frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, fd), -EREMOTEIO);
	cr_assert_eq(drain_misses(), 0u);
	bed_fini(&b);
	close(fd);
}

/* Descriptors of a split ring are only read, and here they have a page to themselves. */
Test(session_iommu, a_ring_needs_no_more_access_than_it_uses)
{
	const struct frontend_queue_options opt = { .size = 256 };
	struct vu_iotlb first;

	open_iommu(&echo_net_ops, 0);
	OK(&b.f, frontend_queue_setup(&b.f, 0, &opt));
	OK(&b.f, frontend_queue_start(&b.f, 0));
	first = next_miss();
	cr_assert_eq(first.access, VU_IOTLB_READ);
	cr_assert_eq(first.iova % PAGE, 0u);
	OK(&b.f, frontend_map(&b.f, first.iova, first.iova - IOVA, PAGE, VU_IOTLB_READ));
	while (state(0) != VIRTQUEUE_RUNNING) {
		struct vu_iotlb m = next_miss();

		cr_assert_neq(m.iova, first.iova, "asked for with access %u", m.access);
		answer(&m);
	}
	echo(0);
	bed_fini(&b);
}

/* T15: the ring that misses waits, without turning the worker's wheels; all else goes on. */
Test(session_iommu, a_miss_that_nobody_answers_holds_up_that_ring_only)
{
	FOR_EACH_LAYOUT(features)
	{
		struct vu_iotlb m;

		open_iommu(&echo_blk_ops, features);
		start_ring(0);
		start_ring(1);
		echo(1);
		add_chain(0, IOVA + (9 << 20), IOVA + IN_GPA);
		m = next_miss();
		cr_assert_eq(m.iova, IOVA + (9 << 20));
		cr_assert_eq(m.access, VU_IOTLB_READ);
		cr_assert(EVENTUALLY(b.dev.vhost.queues[0].ring.in_flight == 0));
		for (unsigned i = 0; i < 100; i++) {
			add_chain(1, IOVA + OUT_GPA, IOVA + IN_GPA);
			cr_assert(EVENTUALLY(is_back(1)));
		}
		cr_assert_null(b.dev.vhost.queues[0].ring.broken);
		/* Nobody polls for an answer: the worker sleeps. */
		cr_assert(EVENTUALLY(worker_n_active(workers_get(b.workers, 0)) == 0));
		/* It can be stopped, and goes on from there. */
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		OK(&b.f, frontend_queue_start(&b.f, 0));
		cr_assert(SERVE_UNTIL(is_back(0)));
		/* And disconnected. */
		add_chain(0, IOVA + (9 << 20) + 4 * PAGE, IOVA + IN_GPA);
		m = next_miss();
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == 1));
		bed_fini(&b);
	}
}

/* As many messages as it takes until the front-end is made to wait; nobody answers them. */
static bool asks_too_much(void)
{
	const struct vu_header h = { VU_SET_OWNER, VU_VERSION, 0 };

	for (unsigned i = 0; i < 1000 && !b.dev.vhost.quota.waits; i++) {
		(void)!send(b.f.sock, &h, sizeof(h), MSG_DONTWAIT);
		control_step(0);
	}
	return b.dev.vhost.quota.waits;
}

/* T15: each makes the control thread wait for the worker, though there is nothing new to ask. */
Test(session_iommu, kicks_on_what_is_not_mapped_are_paid_for, .timeout = 60)
{
	const struct quota *q = &b.dev.vhost.quota;
	struct vu_iotlb m;
	uint64_t at_ns;

	quota_enforce(true);
	open_iommu(&echo_blk_ops, 0);
	start_ring(0);
	add_chain(0, IOVA + (9 << 20), IOVA + IN_GPA);
	m = next_miss();
	at_ns = q->at_ns;
	cr_assert(EVENTUALLY((eventfd_write(b.f.queue[0].kick_fd, 1), q->at_ns != at_ns)));
	/* A device that has had its share has none for them. */
	cr_assert(EVENTUALLY(({
		if (asks_too_much())
			eventfd_write(b.f.queue[0].kick_fd, 1);
		b.dev.vhost.queues[0].miss_waits;
	})));
	/* It is seen to again, and nothing is lost. */
	cr_assert(EVENTUALLY(!b.dev.vhost.queues[0].miss_waits));
	answer(&m);
	cr_assert(SERVE_UNTIL(is_back(0)));
	echo(0);
	bed_fini(&b);
	quota_enforce(false);
}

/* Kicks until its worker says that the ring lacks something; nothing of that is run here. */
static bool misses(unsigned index)
{
	const bool *told = &b.dev.vhost.queues[index].ring.miss_told;

	for (unsigned i = 0; i < 200000 && !__atomic_load_n(told, __ATOMIC_RELAXED); i++) {
		eventfd_write(b.f.queue[index].kick_fd, 1);
		usleep(100);
	}
	return __atomic_load_n(told, __ATOMIC_RELAXED);
}

/*
 * What waited for the quota is seen to while the worker's own call is under way, and then the ring
 * misses again: two calls in one place would make the control thread go round them for ever.
 */
Test(session_iommu, a_ring_that_misses_again_before_its_call_has_run_calls_once_T15, .timeout = 30)
{
	FOR_EACH_LAYOUT(features)
	{
		const struct call *c;
		struct vu_iotlb m;

		open_iommu(&echo_blk_ops, features);
		start_ring(0);
		c = &b.dev.vhost.queues[0].miss_call;
		add_chain(0, IOVA + (9 << 20), IOVA + IN_GPA);
		cr_assert(misses(0));
		b.dev.vhost.queues[0].miss_waits = true;
		queues_missed_again(&b.dev.vhost);
		cr_assert_not(b.dev.vhost.queues[0].miss_waits);
		cr_assert(misses(0));
		cr_assert_neq(c->next, c);
		m = next_miss();
		answer(&m);
		cr_assert(SERVE_UNTIL(is_back(0)));
		for (unsigned i = 0; i < 100; i++)
			echo(0);
		bed_fini(&b);
	}
}

/* While it is not answered, the same is not asked over and over. */
Test(session_iommu, a_miss_is_asked_once)
{
	FOR_EACH_LAYOUT(features)
	{
		uint64_t before, start;

		open_iommu(&echo_blk_ops, features);
		start_ring(0);
		echo(0);
		start = clock_ns();
		before = counter_read(&b.dev.vhost.stats.iotlb_misses);
		add_chain(0, IOVA + (9 << 20), IOVA + IN_GPA);
		next_miss();
		/* Other answers make it look again. */
		for (unsigned i = 0; i < 20; i++)
			OK(&b.f, frontend_map(&b.f, IOVA + (3 << 20), 3 << 20, PAGE, RW));
		/* Once, and again each 100 ms if somebody makes us look. */
		cr_assert_leq(counter_read(&b.dev.vhost.stats.iotlb_misses),
			      before + 2 + (clock_ns() - start) / 100000000);
		cr_assert_eq(b.dev.queue[0].n_held, 0u);
		OK(&b.f, frontend_map(&b.f, IOVA + (9 << 20), 9 << 20, PAGE, RW));
		cr_assert(SERVE_UNTIL(is_back(0)));
		bed_fini(&b);
	}
}

/* Not page by page, each when the one before it is there: a front-end takes its time. */
Test(session_iommu, all_that_waiting_chains_need_is_asked_for_at_once)
{
	enum { PAGES = 8, CHAINS = 3 };
	const uint64_t data = IOVA + (9 << 20);

	FOR_EACH_LAYOUT(features)
	{
		struct driver_ring *r;
		unsigned seen[CHAINS * 2 * PAGES] = { 0 }, n = 0;
		struct vu_iotlb m;

		open_iommu(&echo_blk_ops, features);
		start_ring(0);
		echo(0);
		r = &b.f.queue[0].ring;
		for (unsigned i = 0; i < CHAINS; i++) {
			const struct driver_seg segs[] = {
				{ data + UINT64_C(2) * i * PAGES * PAGE, PAGES * PAGE },
				{ data + (UINT64_C(2) * i + 1) * PAGES * PAGE + 1,
				  PAGES * PAGE - 1 }
			};

			cr_assert_eq(r->layout == DRIVER_SPLIT
					     ? driver_add(r, DRIVER_SPLIT, segs, 1, 1, &b)
					     : driver_add(r, DRIVER_PACKED, segs, 1, 1, &b),
				     0);
		}
		frontend_submit(&b.f, 0);
		/* Indirect tables have to be there first. No page of data is. */
		while (n < ARRAY_SIZE(seen)) {
			m = next_miss();
			if (m.iova < data) {
				answer(&m);
				continue;
			}
			cr_assert_eq(m.access, (m.iova - data) / PAGE / PAGES % 2 ? VU_IOTLB_WRITE
										  : VU_IOTLB_READ);
			cr_assert_lt((m.iova - data) / PAGE, ARRAY_SIZE(seen));
			cr_assert_eq(seen[(m.iova - data) / PAGE]++, 0u, "asked twice");
			n++;
		}
		for (unsigned i = 0; i < n; i++)
			OK(&b.f, frontend_map(&b.f, data + UINT64_C(1) * i * PAGE,
					      (9 << 20) + UINT64_C(1) * i * PAGE, PAGE, RW));
		for (unsigned i = 0; i < CHAINS; i++) {
			struct driver_used used;

			cr_assert(EVENTUALLY(frontend_poll(&b.f, 0, &used)));
		}
		bed_fini(&b);
	}
}

/* T15. Reading does not allow writing, nor the other way round. */
Test(session_iommu, access_is_what_the_update_allows)
{
	FOR_EACH_LAYOUT(features)
	{
		struct vu_iotlb m;

		open_iommu(&echo_blk_ops, features);
		start_ring(0);
		echo(0);
		OK(&b.f, frontend_map(&b.f, IOVA + OUT_GPA, OUT_GPA, PAGE, VU_IOTLB_WRITE));
		add_chain(0, IOVA + OUT_GPA, IOVA + IN_GPA);
		m = next_miss();
		cr_assert_eq(m.iova, IOVA + OUT_GPA);
		cr_assert_eq(m.access, VU_IOTLB_READ);
		OK(&b.f, frontend_map(&b.f, IOVA + OUT_GPA, OUT_GPA, PAGE, VU_IOTLB_READ));
		cr_assert(EVENTUALLY(is_back(0)));
		OK(&b.f, frontend_map(&b.f, IOVA + IN_GPA, IN_GPA, PAGE, VU_IOTLB_READ));
		add_chain(0, IOVA + OUT_GPA, IOVA + IN_GPA);
		m = next_miss();
		cr_assert_eq(m.iova, IOVA + IN_GPA);
		cr_assert_eq(m.access, VU_IOTLB_WRITE);
		OK(&b.f, frontend_map(&b.f, IOVA + IN_GPA, IN_GPA, PAGE, VU_IOTLB_WRITE));
		cr_assert(EVENTUALLY(is_back(0)));
		/* No access at all is none. */
		OK(&b.f, frontend_map(&b.f, IOVA + IN_GPA, IN_GPA, PAGE, 0));
		add_chain(0, IOVA + OUT_GPA, IOVA + IN_GPA);
		m = next_miss();
		cr_assert_eq(m.iova, IOVA + IN_GPA);
		bed_fini(&b);
	}
}

/* T15: "Addresses and size must be within vhost memory regions." */
Test(session_iommu, an_iotlb_message_that_cannot_be_is_refused)
{
	const uint64_t uva = GUEST_UVA_BASE, top = UINT64_MAX;
	const struct {
		uint8_t type, access;
		uint64_t iova, size, uva;
	} bad[] = {
		{ VU_IOTLB_UPDATE, RW, IOVA, PAGE, 0 },
		{ VU_IOTLB_UPDATE, RW, IOVA, PAGE, uva - 1 },
		{ VU_IOTLB_UPDATE, RW, IOVA, PAGE, uva + (4 << 20) - PAGE + 1 }, /* into a hole */
		{ VU_IOTLB_UPDATE, RW, IOVA, 16 << 20, uva },
		{ VU_IOTLB_UPDATE, RW, IOVA, 0, uva },
		{ VU_IOTLB_UPDATE, RW, IOVA, top, uva },
		{ VU_IOTLB_UPDATE, RW, top - 10, PAGE, uva },
		{ VU_IOTLB_UPDATE, RW, IOVA, PAGE, top - 10 },
		{ VU_IOTLB_UPDATE, 4, IOVA, PAGE, uva },
		{ VU_IOTLB_UPDATE, 0xff, IOVA, PAGE, uva },
		{ VU_IOTLB_MISS, RW, IOVA, PAGE, uva },
		{ VU_IOTLB_FAIL, RW, IOVA, PAGE, uva },
		{ 0, RW, IOVA, PAGE, uva },
		{ 5, RW, IOVA, PAGE, uva },
	};

	open_iommu(&echo_blk_ops, VU_F_PACKED);
	start_ring(0);
	echo(0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		unsigned n = b.dev.vhost.iotlb->n;

		cr_assert_eq(frontend_iotlb(&b.f, bad[i].type, bad[i].iova, bad[i].size, bad[i].uva,
					    bad[i].access),
			     -EREMOTEIO, "message %u", i);
		cr_assert_eq(b.dev.vhost.iotlb->n, n);
	}
	/* Nothing changed: no new miss. */
	add_chain(0, IOVA + OUT_GPA, IOVA + IN_GPA);
	cr_assert(EVENTUALLY(is_back(0)));
	bed_fini(&b);

	/* Where there is no IOMMU there is no message of it. */
	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	bed_negotiate(&b, PROTOCOL, 0);
	cr_assert_eq(frontend_iotlb(&b.f, VU_IOTLB_UPDATE, IOVA, PAGE, uva, RW), -EREMOTEIO);
	bed_fini(&b);
}

/* A front-end that asks for nothing to be forgotten cannot make us remember everything. */
Test(session_iommu, a_channel_that_is_full_holds_up_nobody)
{
	struct vu_iotlb m;

	open_iommu(&echo_net_ops, 0);
	start_ring(0);
	start_ring(1);
	echo(1);
	/* Fill it: every round asks for all areas anew, and nobody reads. */
	for (unsigned i = 0; i < 2000; i++)
		OK(&b.f, frontend_iotlb(&b.f, VU_IOTLB_INVALIDATE, 0, 0, 0, 0));
	cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
	/* All that got through is lost. What could not be said is said now that there is room. */
	cr_assert_gt(drain_misses(), 100u);
	m = next_miss();
	answer(&m);
	cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING && state(1) == VIRTQUEUE_RUNNING));
	echo(0);
	echo(1);
	bed_fini(&b);
}
