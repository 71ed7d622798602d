/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory, told and changed: SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG. */
#include "tests/unit/session_bed.h"
#include "vhost/protocol.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint64_t layouts[] = { 0, VU_F_PACKED, VU_F_EVENT_IDX | VU_F_INDIRECT,
				    VU_F_PACKED | VU_F_EVENT_IDX | VU_F_INDIRECT };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

/* T14: a table that is refused leaves the old one and its rings. */
Test(session_memory, a_bad_memory_table_changes_nothing)
{
	struct vu_mem_table t;
	struct vu_mem_reg r = { .region = { UINT64_C(1) << 40, 4096, UINT64_C(1) << 40, 0 } };
	int fds[9], fd = memfd_create("small", 0);
	const uint64_t big = UINT64_C(1) << 63;
	unsigned before;

	cr_assert_eq(ftruncate(fd, 8192), 0);
	for (unsigned i = 0; i < 9; i++)
		fds[i] = fd;
	open_bed(&echo_blk_ops);
	bed_start_queue(&b, 0);
	before = settled_fds();
	const struct {
		uint32_t n, n_fds;
		struct vu_region r[2];
	} bad[] = {
		{ 9, 8, { { 0 } } },
		{ 0xffffffff, 8, { { 0 } } },
		{ 2, 1, { { 0, 4096, 0, 0 }, { 8192, 4096, 8192, 0 } } },
		{ 1, 2, { { 0, 4096, 0, 0 } } },
		{ 1, 1, { { 0, 0, 0, 0 } } },
		{ 1, 1, { { 0, 12288, 0, 0 } } },   /* longer than its file */
		{ 1, 1, { { 0, 8192, 0, 4096 } } }, /* with its offset */
		{ 1, 1, { { 0, 4096, 0, big } } },
		{ 1, 1, { { big, big + 4096, 0, 0 } } }, /* wraps */
		{ 1, 1, { { 0, 4096, UINT64_MAX - 100, 0 } } },
		{ 2, 2, { { 0, 8192, 0, 0 }, { 4096, 4096, 1 << 20, 0 } } }, /* overlap */
		{ 2, 2, { { 0, 8192, 0, 0 }, { 1 << 20, 4096, 4096, 0 } } },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(&t, 0, sizeof(t));
		t.n = bad[i].n;
		memcpy(t.region, bad[i].r, sizeof(bad[i].r));
		cr_assert_eq(
			outcome(VU_SET_MEM_TABLE, &t, 8 + 32 * MIN(t.n, 8u), fds, bad[i].n_fds), 1,
			"table %u", i);
		bed_echo(&b, 0);
	}
	/* A size between two counts of regions. */
	t = (struct vu_mem_table) { .n = 1, .region = { { 0, 4096, 0, 0 } } };
	cr_assert_eq(outcome(VU_SET_MEM_TABLE, &t, 8 + 40, fds, 1), 1);
	r.region.size = 0;
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &r, sizeof(r), fds, 1), 1);
	r.region.size = 1 << 20;
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &r, sizeof(r), fds, 1), 1);
	r.region = (struct vu_region) { 0, 4096, 0, 0 };
	cr_assert_eq(outcome(VU_REM_MEM_REG, &r, sizeof(r), NULL, 0), 1);
	cr_assert_eq(outcome(VU_REM_MEM_REG, &r, sizeof(r), fds, 1), 1);
	bed_echo(&b, 0);
	cr_assert(fds_become(before));
	bed_fini(&b);
	close(fd);
}

/* T13 */
/* QEMU 7.2 sends these once for each pair of a network card's queues. */
Test(session_memory, a_region_is_added_or_removed_again_without_harm_but_never_another_in_its_place)
{
	struct vu_mem_reg reg = { .region = { UINT64_C(1) << 40, 8192, UINT64_C(1) << 40, 4096 } };
	struct vu_mem_reg part = reg;
	int memory, other;
	unsigned n;

	open_bed(&echo_net_ops);
	bed_start_queue(&b, 0);
	memory = memfd_create("region", 0);
	other = memfd_create("other", 0);
	cr_assert_eq(ftruncate(memory, 65536), 0);
	cr_assert_eq(ftruncate(other, 65536), 0);
	n = b.dev.vhost.map->n;
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &reg, sizeof(reg), &memory, 1), 0);
	cr_assert_eq(b.dev.vhost.map->n, n + 1);
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &reg, sizeof(reg), &memory, 1), 0);
	cr_assert_eq(b.dev.vhost.map->n, n + 1);
	bed_echo(&b, 0);

	/* Another file, another piece of the same one, another size: not the same region. */
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &reg, sizeof(reg), &other, 1), 1);
	part.region.offset = 0;
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &part, sizeof(part), &memory, 1), 1);
	part = reg;
	part.region.size = 4096;
	cr_assert_eq(outcome(VU_ADD_MEM_REG, &part, sizeof(part), &memory, 1), 1);
	cr_assert_eq(outcome(VU_REM_MEM_REG, &part, sizeof(part), NULL, 0), 1);
	cr_assert_eq(b.dev.vhost.map->n, n + 1);

	cr_assert_eq(outcome(VU_REM_MEM_REG, &reg, sizeof(reg), NULL, 0), 0);
	cr_assert_eq(b.dev.vhost.map->n, n);
	cr_assert_eq(outcome(VU_REM_MEM_REG, &reg, sizeof(reg), NULL, 0), 0);
	cr_assert_eq(b.dev.vhost.map->n, n);
	bed_echo(&b, 0);
	bed_fini(&b);
	close(memory);
	close(other);
}

static void open_layout(const struct vhost_device_ops *ops, uint64_t protocol, uint64_t features)
{
	bed_init(&b, ops);
	bed_pair(&b);
	bed_negotiate(&b, protocol, features);
}

static enum virtqueue_state state(unsigned index)
{
	return b.dev.vhost.queues[index].state;
}

static unsigned held(unsigned index)
{
	return __atomic_load_n(&b.dev.queue[index].n_held, __ATOMIC_ACQUIRE);
}

/* Is there anything mapped at @p? */
static bool mapped(const void *p)
{
	return msync((void *)ALIGN_DOWN((uintptr_t)p, 4096), 4096, MS_ASYNC) == 0;
}

/* One chain there and back, of @out and @in guest memory. */
static void echo_at(unsigned index, uint64_t out, uint64_t in)
{
	struct driver_ring *r = &b.f.queue[index].ring;
	const struct driver_seg segs[] = { { out, 100 }, { in, 512 } };
	struct driver_used used;

	cr_assert_eq(r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, segs, 1, 1, NULL)
					       : driver_add(r, DRIVER_PACKED, segs, 1, 1, NULL),
		     0);
	frontend_submit(&b.f, index);
	OK(&b.f, frontend_wait_used(&b.f, index, &used));
}

/* What is there already stays mapped where it is: nothing stops. */
Test(session_memory, the_same_table_again_stops_nothing)
{
	FOR_EACH_LAYOUT(features)
	{
		const uint8_t *host;

		open_layout(&echo_blk_ops, VU_PF_USUAL & ~VU_PF_CONFIGURE_MEM_SLOTS, features);
		bed_start_queue(&b, 0);
		bed_start_queue(&b, 1);
		host = b.dev.vhost.map->region[0].host;
		for (unsigned i = 0; i < 20; i++) {
			struct driver_used used;

			bed_echo(&b, i % 2);
			bed_submit(&b, 0);
			OK(&b.f, frontend_set_mem_table(&b.f, &b.memory));
			OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		}
		cr_assert_eq(b.dev.vhost.map->region[0].host, host);
		cr_assert_eq(b.dev.queue[0].starts, 1u);
		cr_assert_eq(b.dev.queue[1].starts, 1u);
		bed_fini(&b);
	}
}

/* Features do need quiet rings: they stop, and go on where they stood. */
Test(session_memory, features_change_under_running_rings)
{
	FOR_EACH_LAYOUT(features)
	{
		const uint64_t all = ECHO_FEATURES | VU_F_VERSION_1 | features;

		open_layout(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 0);
		for (unsigned i = 0; i < 20; i++) {
			unsigned starts = b.dev.queue[0].starts;
			struct driver_used used;

			bed_submit(&b, 0);
			OK(&b.f, frontend_set_features(&b.f, i % 2 ? all : all & ~UINT64_C(1)));
			cr_assert_eq(b.dev.queue[0].starts, starts + 1);
			OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		}
		bed_fini(&b);
	}
}

/* T14. With requests in flight too: nobody waits for them. */
Test(session_memory, adding_memory_interrupts_no_ring)
{
	FOR_EACH_LAYOUT(features)
	{
		static struct guest_memory more;
		const struct guest_range range = { 64 << 20, 1 << 20 };
		struct driver_used used;

		open_layout(&echo_blk_ops, VU_PF_USUAL, features);
		cr_assert_eq(guest_memory_create(&more, &range, 1, 0), 0);
		bed_start_queue(&b, 0);
		bed_start_queue(&b, 1);
		__atomic_store_n(&b.dev.hold, true, __ATOMIC_RELEASE);
		bed_submit(&b, 0);
		cr_assert(EVENTUALLY(held(0) == 1));
		OK(&b.f, frontend_add_mem_reg(&b.f, &more.region[0]));
		cr_assert_eq(held(0), 1u);
		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		for (unsigned i = 0; i < 100; i++) {
			/* At once in use, in a chain that has a piece of the old memory too. */
			echo_at(i % 2, range.gpa + 4096 * (i % 200), (8 << 20) + 4096);
			OK(&b.f, frontend_remove_mem_reg(&b.f, &more.region[0]));
			bed_submit(&b, 0);
			OK(&b.f, frontend_add_mem_reg(&b.f, &more.region[0]));
			OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		}
		cr_assert_eq(b.dev.queue[0].starts, 1u);
		cr_assert_eq(b.dev.queue[1].starts, 1u);
		guest_memory_destroy(&more);
		bed_fini(&b);
	}
}

/* T20, T14: nothing is unmapped while a request in flight may use it; other queues go on. */
Test(session_memory, removing_memory_waits_for_requests_in_flight)
{
	FOR_EACH_LAYOUT(features)
	{
		const struct guest_region *r = &b.memory.region[1];
		struct vu_mem_reg msg;
		struct driver_used used;
		const void *host;
		uint64_t ack = 1;

		open_layout(&echo_blk_ops, VU_PF_USUAL, features);
		bed_start_queue(&b, 0);
		bed_start_queue(&b, 1);
		host = b.dev.vhost.map->region[1].host;
		__atomic_store_n(&b.dev.hold, true, __ATOMIC_RELEASE);
		bed_submit(&b, 0);
		cr_assert(EVENTUALLY(held(0) == 1));
		msg = (struct vu_mem_reg) { .region = { r->gpa, r->size, r->uva, r->offset } };
		OK(&b.f, frontend_send(&b.f, VU_REM_MEM_REG, VU_VERSION | VU_NEED_REPLY, &msg,
				       sizeof(msg), NULL, 0));
		cr_assert(EVENTUALLY(state(0) == VIRTQUEUE_STOPPING));
		cr_assert_eq(state(1), VIRTQUEUE_RUNNING, "it has nothing in flight");
		cr_assert(STAYS(mapped(host) && state(0) == VIRTQUEUE_STOPPING, 30));

		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		OK(&b.f, frontend_recv_reply(&b.f, VU_REM_MEM_REG, &ack, 8, NULL, NULL));
		cr_assert_eq(ack, 0u);
		cr_assert_not(mapped(host));
		OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		cr_assert_eq(b.dev.queue[0].starts, 2u);
		cr_assert_eq(b.dev.queue[1].starts, 1u);
		/* And no chain leads there any more. */
		echo_at(1, 4 << 10, 8 << 10);
		bed_submit(&b, 1);
		cr_assert_eq(frontend_wait_used(&b.f, 1, &used), -EREMOTEIO);
		cr_assert_not_null(b.dev.vhost.queues[1].ring.broken);
		bed_fini(&b);
	}
}

/* T20: the connection ends while a removal waits. */
Test(session_memory, a_hang_up_while_a_removal_waits)
{
	const struct guest_region *r = &b.memory.region[1];
	struct vu_mem_reg msg;

	open_layout(&echo_blk_ops, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	__atomic_store_n(&b.dev.hold, true, __ATOMIC_RELEASE);
	bed_submit(&b, 0);
	cr_assert(EVENTUALLY(held(0) == 1));
	msg = (struct vu_mem_reg) { .region = { r->gpa, r->size, r->uva, r->offset } };
	OK(&b.f, frontend_send(&b.f, VU_REM_MEM_REG, VU_VERSION, &msg, sizeof(msg), NULL, 0));
	cr_assert(EVENTUALLY(state(0) == VIRTQUEUE_STOPPING));
	frontend_close(&b.f);
	cr_assert(STAYS(b.dev.disconnected == 0, 20));
	__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
	cr_assert(EVENTUALLY(b.dev.disconnected == 1));
	bed_fini(&b);
}

/* T14: the rings' own region: they rest until it is back, and nobody is blamed. */
Test(session_memory, a_ring_rests_while_its_own_memory_is_away)
{
	FOR_EACH_LAYOUT(features)
	{
		static struct guest_memory more;
		const struct guest_range range = { 64 << 20, 1 << 20 };
		typeof(more.region[0]) part;
		struct driver_used used;
		const void *host;

		open_layout(&echo_blk_ops, VU_PF_USUAL, features);
		cr_assert_eq(guest_memory_create(&more, &range, 1, 0), 0);
		bed_start_queue(&b, 0);
		OK(&b.f, frontend_add_mem_reg(&b.f, &more.region[0]));
		bed_echo(&b, 0);
		part = more.region[0];
		part.size /= 2;
		cr_assert_eq(frontend_remove_mem_reg(&b.f, &part), -EREMOTEIO);
		bed_echo(&b, 0);
		OK(&b.f, frontend_remove_mem_reg(&b.f, &more.region[0]));
		bed_echo(&b, 0);
		host = b.dev.vhost.map->region[0].host;
		OK(&b.f, frontend_remove_mem_reg(&b.f, &b.memory.region[0]));
		cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
		cr_assert_not(mapped(host));
		bed_submit(&b, 0);
		OK(&b.f, frontend_add_mem_reg(&b.f, &b.memory.region[0]));
		OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		cr_assert_eq(b.dev.queue[0].starts, 2u);
		guest_memory_destroy(&more);
		bed_fini(&b);
	}
}

/*
 * T14: all memory goes at once, rings and buffers: until it has stopped a queue works with what it
 * had, so that no chain of its is found to lead nowhere.
 */
Test(session_memory, a_queue_keeps_the_old_memory_until_it_has_stopped)
{
	FOR_EACH_LAYOUT(features)
	{
		const struct vu_mem_table none = { 0 };
		struct driver_used used;
		uint64_t ack = 1;

		open_layout(&echo_blk_ops, VU_PF_USUAL & ~VU_PF_CONFIGURE_MEM_SLOTS, features);
		bed_start_queue(&b, 0);
		__atomic_store_n(&b.dev.hold, true, __ATOMIC_RELEASE);
		bed_submit(&b, 0);
		cr_assert(EVENTUALLY(held(0) == 1));
		OK(&b.f, frontend_send(&b.f, VU_SET_MEM_TABLE, VU_VERSION | VU_NEED_REPLY, &none, 8,
				       NULL, 0));
		cr_assert(EVENTUALLY(state(0) == VIRTQUEUE_STOPPING));
		cr_assert_null(b.dev.vhost.map);
		cr_assert_not_null(b.dev.vhost.queues[0].ring.map);
		cr_assert_eq(b.dev.vhost.queues[0].ring.map->n, b.memory.n);
		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		OK(&b.f, frontend_recv_reply(&b.f, VU_SET_MEM_TABLE, &ack, 8, NULL, NULL));
		cr_assert_eq(ack, 0u);
		OK(&b.f, frontend_set_mem_table(&b.f, &b.memory));
		OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		/* And in the middle of things. */
		for (unsigned i = 0; i < 200; i++) {
			bed_submit(&b, 0);
			OK(&b.f, frontend_set(&b.f, VU_SET_MEM_TABLE, &none, 8, NULL, 0));
			OK(&b.f, frontend_set_mem_table(&b.f, &b.memory));
			OK(&b.f, frontend_wait_used(&b.f, 0, &used));
		}
		bed_fini(&b);
	}
}

/* GET_MAX_MEM_SLOTS answers 509, and 509 there may be; with the rings running all the while. */
static void fill_slots(const struct vhost_device_ops *ops, uint64_t features)
{
	enum { SLOTS = 509 - 2 };
	struct vu_mem_reg reg;
	int fd = memfd_create("slots", 0);

	cr_assert_eq(ftruncate(fd, (SLOTS + 2) * 4096), 0);
	open_layout(ops, VU_PF_USUAL, features);
	bed_start_queue(&b, 0);
	for (unsigned i = 0; i <= SLOTS; i++) {
		/* Guest addresses with holes, downwards; offsets that no huge page begins at. */
		uint64_t at = (UINT64_C(1) << 40) - i * 8192;

		reg = (struct vu_mem_reg) { .region = { at, 4096, at, 4096 * (i + 1) } };
		cr_assert_eq(outcome(VU_ADD_MEM_REG, &reg, sizeof(reg), &fd, 1), i == SLOTS);
		if (i < SLOTS && i % 50 == 0)
			echo_at(0, at, at + 2000);
	}
	cr_assert_eq(b.dev.vhost.map->n, 509u);
	for (unsigned i = 0; i < SLOTS; i++) {
		uint64_t at = (UINT64_C(1) << 40) - i * 8192;

		reg = (struct vu_mem_reg) { .region = { at, 4096, at, 4096 * (i + 1) } };
		cr_assert_eq(outcome(VU_REM_MEM_REG, &reg, sizeof(reg), NULL, 0), 0);
	}
	cr_assert_eq(b.dev.vhost.map->n, 2u);
	cr_assert_eq(b.dev.queue[0].starts, 1u);
	bed_echo(&b, 0);
	bed_fini(&b);
	close(fd);
}

Test(session_memory, all_509_slots_can_be_filled_under_running_rings)
{
	FOR_EACH_LAYOUT(features)
	{
		fill_slots(&echo_blk_ops, features);
		fill_slots(&echo_net_ops, features);
	}
}
