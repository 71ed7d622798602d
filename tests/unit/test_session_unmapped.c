/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translations that end while rings run: invalidated, replaced, removed with their memory, lost in
 * a crash (vhost-user "IOMMU support").
 */
#include "tests/guest/frontend_inflight.h"
#include "tests/unit/iommu_bed.h"
#include "vhost/iotlb.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

/*
 * T15, CVE-2026-86567: rings that an invalidation takes away are not touched any more, and go on
 * where they were once they are mapped again; elsewhere, if the guest has moved them.
 */
Test(session_unmapped, an_invalidated_ring_rests_until_it_is_mapped_again)
{
	FOR_EACH_LAYOUT(features)
	{
		open_iommu(&echo_blk_ops, features);
		start_ring(0);
		start_ring(1);
		for (unsigned round = 0; round < 10; round++) {
			const uint64_t areas[] = { b.dev.vhost.queues[0].setup.desc,
						   b.dev.vhost.queues[0].setup.driver,
						   b.dev.vhost.queues[0].setup.device };

			echo(0);
			echo(1);
			OK(&b.f, frontend_iotlb(&b.f, VU_IOTLB_INVALIDATE,
						ALIGN_DOWN(areas[round % 3], PAGE), PAGE, 0, 0));
			cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
			/* The other one lies elsewhere, and has its own. */
			cr_assert_eq(state(1), VIRTQUEUE_RUNNING);
			cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING));
		}
		echo(0);
		cr_assert_eq(b.dev.queue[1].starts, 1u);
		bed_fini(&b);
	}
}

/* An update in the place of another is an invalidation of that one. */
Test(session_unmapped, a_ring_that_an_update_moves_is_found_at_its_new_place)
{
	FOR_EACH_LAYOUT(features)
	{
		const uint64_t new_gpa = 3 << 20;
		const struct ring *r;
		const void *old_place;
		uint64_t iova, gpa;

		open_iommu(&echo_blk_ops, features);
		r = &b.dev.vhost.queues[0].ring;
		start_ring(0);
		echo(0);
		old_place = r->split.desc;
		iova = b.dev.vhost.queues[0].setup.desc;
		gpa = iova - IOVA;
		/* The same mapping again changes nothing. */
		OK(&b.f, frontend_map(&b.f, iova, gpa, PAGE, RW));
		cr_assert_eq(b.dev.queue[0].starts, 1u);
		/* All of this small ring lies in one page. */
		memcpy(guest_ptr(&b.memory, new_gpa, PAGE), guest_ptr(&b.memory, gpa, PAGE), PAGE);
		OK(&b.f, frontend_map(&b.f, iova, new_gpa, PAGE, RW));
		cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING));
		cr_assert_eq(b.dev.queue[0].starts, 2u);
		cr_assert_eq((const uint8_t *)r->split.desc,
			     b.dev.vhost.map->region[0].host + new_gpa);
		OK(&b.f, frontend_map(&b.f, iova, gpa, PAGE, RW));
		cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING));
		cr_assert_eq(r->split.desc, old_place);
		echo(0);
		bed_fini(&b);
	}
}

Test(session_unmapped, everything_can_be_invalidated_at_once)
{
	static const uint64_t sizes[] = { 0, UINT64_MAX };

	FOR_EACH_LAYOUT(features)
	{
		open_iommu(&echo_net_ops, features);
		start_ring(0);
		start_ring(1);
		for (unsigned i = 0; i < 20; i++) {
			echo(i % 2);
			OK(&b.f, frontend_iotlb(&b.f, VU_IOTLB_INVALIDATE, 0,
						sizes[i % ARRAY_SIZE(sizes)], 0, 0));
			cr_assert_eq(b.dev.vhost.iotlb->n, 0u);
			cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
			cr_assert_eq(state(1), VIRTQUEUE_STOPPED);
			cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING &&
					      state(1) == VIRTQUEUE_RUNNING));
		}
		bed_fini(&b);
	}
}

/* What wraps around means: to the end. */
Test(session_unmapped, an_invalidation_that_wraps_leaves_nothing_behind_its_start_T15)
{
	static const uint64_t sizes[] = { UINT64_MAX, UINT64_MAX - IOVA, UINT64_MAX - IOVA + 1 };

	open_iommu(&echo_blk_ops, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (unsigned page = 0; page < 3; page++)
			OK(&b.f, frontend_map(&b.f, IOVA + 2 * page * PAGE, 0, PAGE, RW));
		cr_assert_eq(b.dev.vhost.iotlb->n, 3u);
		OK(&b.f, frontend_iotlb(&b.f, VU_IOTLB_INVALIDATE, IOVA + PAGE, sizes[i], 0, 0));
		cr_assert_eq(b.dev.vhost.iotlb->n, 1u);
	}
	bed_fini(&b);
}

/* An acknowledged invalidation means that nothing is read or written there any more. */
Test(session_unmapped, an_invalidation_waits_for_requests_in_flight)
{
	FOR_EACH_LAYOUT(features)
	{
		struct vu_iotlb inv = { .iova = IOVA + IN_GPA,
					.size = PAGE,
					.type = VU_IOTLB_INVALIDATE };
		uint64_t ack = 1;
		char byte;

		open_iommu(&echo_blk_ops, features);
		start_ring(0);
		echo(0);
		__atomic_store_n(&b.dev.hold, true, __ATOMIC_RELEASE);
		add_chain(0, IOVA + OUT_GPA, IOVA + IN_GPA);
		cr_assert(EVENTUALLY(__atomic_load_n(&b.dev.queue[0].n_held, __ATOMIC_ACQUIRE)));
		/* What nobody has is answered at once. */
		OK(&b.f, frontend_iotlb(&b.f, VU_IOTLB_INVALIDATE, IOVA + (100 << 20), PAGE, 0, 0));
		cr_assert_eq(state(0), VIRTQUEUE_RUNNING);
		OK(&b.f, frontend_send(&b.f, VU_IOTLB_MSG, VU_VERSION | VU_NEED_REPLY, &inv,
				       sizeof(inv), NULL, 0));
		cr_assert(EVENTUALLY(state(0) == VIRTQUEUE_STOPPING));
		cr_assert(STAYS(recv(b.f.sock, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0, 20));
		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		OK(&b.f, frontend_recv_reply(&b.f, VU_IOTLB_MSG, &ack, 8, NULL, NULL));
		cr_assert_eq(ack, 0u);
		cr_assert(is_back(0), "it was given back before");
		echo(0);
		bed_fini(&b);
	}
}

/* T14, T15: memory that goes away takes its translations along. */
Test(session_unmapped, memory_that_is_removed_is_not_mapped_any_more)
{
	FOR_EACH_LAYOUT(features)
	{
		struct vu_iotlb m;

		open_iommu(&echo_blk_ops, features);
		start_ring(0);
		echo(0);
		OK(&b.f, frontend_remove_mem_reg(&b.f, &b.memory.region[1]));
		cr_assert_eq(state(0), VIRTQUEUE_RUNNING);
		add_chain(0, IOVA + OUT_GPA, IOVA + IN_GPA);
		m = next_miss();
		cr_assert_eq(m.iova, IOVA + OUT_GPA);
		OK(&b.f, frontend_add_mem_reg(&b.f, &b.memory.region[1]));
		answer(&m);
		cr_assert(SERVE_UNTIL(is_back(0)));
		/* The ring's own. */
		OK(&b.f, frontend_remove_mem_reg(&b.f, &b.memory.region[0]));
		cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
		OK(&b.f, frontend_add_mem_reg(&b.f, &b.memory.region[0]));
		cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING));
		echo(0);
		bed_fini(&b);
	}
}

/* Features without it, or a reset, forget the table. */
Test(session_unmapped, translations_end_with_the_feature)
{
	open_iommu(&echo_blk_ops, 0);
	start_ring(0);
	echo(0);
	cr_assert_not_null(b.dev.vhost.iotlb);
	OK(&b.f, frontend_set(&b.f, VU_RESET_DEVICE, NULL, 0, NULL, 0));
	cr_assert_null(b.dev.vhost.iotlb);
	OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1));
	frontend_queue_free(&b.f, 0);
	bed_start_queue(&b, 0);
	cr_assert_eq(state(0), VIRTQUEUE_RUNNING);
	bed_echo(&b, 0);
	bed_fini(&b);
}

/*
 * A back-end dies with requests in flight; the next one knows of them, but not where their memory
 * is, when the front-end starts the ring once more. (The death is played: memory and buffer become
 * again what they were at that moment.)
 */
Test(session_unmapped, what_was_in_flight_at_a_crash_outlives_a_stop_before_it_is_mapped)
{
	FOR_EACH_LAYOUT(features)
	{
		struct ring *r;
		struct frontend_inflight buf;
		uint8_t *region, *buf_then, *memory, *memory_then;
		size_t size;

		bed_init(&b, &echo_blk_ops);
		bed_listen(&b);
		bed_connect(&b);
		bed_negotiate(&b, PROTOCOL | VU_PF_INFLIGHT_SHMFD, features | VU_F_ACCESS_PLATFORM);
		b.f.iova_base = IOVA;
		OK(&b.f, frontend_open_backend_channel(&b.f));
		OK(&b.f, frontend_get_inflight(&b.f, &buf, ECHO_QUEUES, 64));
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		start_ring(0);
		echo(0);

		r = &b.dev.vhost.queues[0].ring;
		b.dev.hold = true;
		for (unsigned i = 0; i < 3; i++)
			add_chain(0, IOVA + OUT_GPA, IOVA + IN_GPA);
		cr_assert(SERVE_UNTIL(__atomic_load_n(&r->in_flight, __ATOMIC_ACQUIRE) == 3));
		memory = b.memory.region[0].host;
		size = buf.desc.mmap_size;
		region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, buf.fd, 0);
		memory_then = malloc(b.memory.region[0].size);
		buf_then = malloc(size);
		memcpy(memory_then, memory, b.memory.region[0].size);
		memcpy(buf_then, region, size);
		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		frontend_hang_up(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == 1));
		memcpy(memory, memory_then, b.memory.region[0].size);
		memcpy(region, buf_then, size);

		bed_connect(&b);
		bed_negotiate(&b, PROTOCOL | VU_PF_INFLIGHT_SHMFD, features | VU_F_ACCESS_PLATFORM);
		OK(&b.f, frontend_open_backend_channel(&b.f));
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		OK(&b.f, frontend_queue_start(&b.f, 0));
		cr_assert(SERVE_UNTIL(state(0) == VIRTQUEUE_RUNNING));
		cr_assert(EVENTUALLY(__atomic_load_n(&r->stalled, __ATOMIC_ACQUIRE) & RING_MISSED));
		cr_assert_eq(r->n_again, 3u);
		for (unsigned i = 0; i < 3; i++) {
			OK(&b.f,
			   frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd));
			cr_assert_eq(state(0), VIRTQUEUE_RUNNING);
			cr_assert_eq(r->n_again, 3u, "start %u", i);
		}
		for (unsigned i = 0; i < 3; i++)
			cr_assert(SERVE_UNTIL(is_back(0)), "request %u is lost", i);
		echo(0);
		munmap(region, size);
		free(memory_then);
		free(buf_then);
		frontend_inflight_close(&buf);
		bed_fini(&b);
	}
}
