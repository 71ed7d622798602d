/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings of a guest whose memory arrives while it runs: vhost-user "Postcopy". The front-end is the
 * destination's VMM: all of the guest's memory has been taken away, and comes page by page.
 */
#include "tests/guest/frontend_iommu.h"
#include "tests/unit/postcopy_util.h"
#include "tests/unit/session_bed.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define PAGE 4096u
#define CHAINS 20u
#define BUFFERS (8u << 20) /* bed_init's second region */
#define PROTOCOL (VU_PF_USUAL | VU_PF_BACKEND_REQ | VU_PF_PAGEFAULT)
#define IOVA UINT64_C(0x7f0000000000)

/* As EVENTUALLY(), for what takes a hundred faults and more. */
#define SOON(cond)                                                      \
	({                                                              \
		uint64_t soon_end = clock_ns() + UINT64_C(20000000000); \
		bool soon_ok;                                           \
		while (!(soon_ok = (cond)) && clock_ns() < soon_end)    \
			control_step(200);                              \
		soon_ok;                                                \
	})

static struct delivery d;
static unsigned fds_before;

static const uint64_t layouts[] = { 0, VU_F_PACKED, VU_F_EVENT_IDX | VU_F_INDIRECT,
				    VU_F_PACKED | VU_F_EVENT_IDX | VU_F_INDIRECT };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

/* A queue with chains in it, whose buffers lie all over the memory, each across two pages. */
static void fill_queue(unsigned index, uint64_t base)
{
	struct frontend_queue_options opt = { .size = 64, .indirect = DRIVER_INDIRECT_LONG };
	struct driver_ring *r = &b.f.queue[index].ring;

	OK(&b.f, frontend_queue_setup(&b.f, index, &opt));
	for (unsigned i = 0; i < CHAINS; i++) {
		uint64_t at = base + BUFFERS + (i * 37 % 100) * 3 * PAGE;
		const struct driver_seg segs[] = { { at + PAGE - 50, 100 },
						   { at + 3 * PAGE - 500, 512 } };
		int rc = r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, segs, 1, 1, &b)
						   : driver_add(r, DRIVER_PACKED, segs, 1, 1, &b);

		cr_assert_eq(rc, 0);
	}
	frontend_submit(&b.f, index);
}

/* Connected, @n queues described and filled; the memory has gone, and nothing is shared yet. */
static void arrive(const struct vhost_device_ops *ops, uint64_t protocol, uint64_t features,
		   unsigned n)
{
	prepare_pagers();
	bed_init(&b, ops);
	fds_before = settled_fds();
	bed_pair(&b);
	OK(&b.f, frontend_hello(&b.f, protocol));
	cr_assert(b.f.protocol & VU_PF_PAGEFAULT);
	OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1 | ECHO_FEATURES | features));
	b.f.memory = &b.memory;
	b.f.iova_base = IOVA;
	for (unsigned i = 0; i < n; i++)
		fill_queue(i, features & VU_F_ACCESS_PLATFORM ? IOVA : 0);
	cr_assert_eq(delivery_begin(&d, &b.f, &b.memory), 0);
}

static void leave(void)
{
	frontend_close(&b.f);
	delivery_end(&d);
	cr_assert(SOON(b.dev.disconnected == b.dev.connected));
	bed_fini(&b);
	pager_unprepare();
}

static void share(void)
{
	OK(&b.f, frontend_postcopy_advise(&d));
	OK(&b.f, frontend_postcopy_listen(&d));
	OK(&b.f, frontend_postcopy_share(&d));
}

static enum virtqueue_state state(unsigned index)
{
	return b.dev.vhost.queues[index].state;
}

/* The used ring may be looked at once it has arrived, and then the queue runs. */
static unsigned take_used(unsigned index)
{
	struct driver_used used;
	unsigned n = 0;

	while (state(index) == VIRTQUEUE_RUNNING && frontend_poll(&b.f, index, &used)) {
		cr_assert_eq(used.len, 512u);
		n++;
	}
	cr_assert_null(driver_violation(&b.f.queue[index].ring), "%s",
		       b.f.queue[index].ring.violation);
	return n;
}

static void go_there_and_back(uint64_t protocol, uint64_t features)
{
	struct waiting w = { .n = 0 };
	unsigned back[2] = { 0 };

	arrive(&echo_blk_ops, protocol, features, 2);
	share();
	OK(&b.f, frontend_queue_start(&b.f, 0));
	OK(&b.f, frontend_queue_start(&b.f, 1));
	cr_assert_eq(state(0), VIRTQUEUE_STOPPED, "its areas have not arrived");
	cr_assert(SOON((serve_one(&d, &w), state(0) == VIRTQUEUE_RUNNING)));
	/* Told again, as a table it replaces what the ring uses. */
	OK(&b.f, frontend_postcopy_share(&d));
	cr_assert(SOON((serve_one(&d, &w), back[0] += take_used(0), back[1] += take_used(1),
			back[0] == CHAINS && back[1] == CHAINS)),
		  "%u and %u chains came back; %llu pages were asked for", back[0], back[1],
		  (unsigned long long)d.asked);
	cr_assert_gt(counter_read(&b.dev.vhost.stats.pages_awaited), CHAINS);

	/* Nobody has touched what had not arrived, and what arrived is as it was. */
	cr_assert_eq(delivery_all(&d), 0);
	for (unsigned page = 400; page < 512; page++)
		cr_assert_eq(memcmp(b.memory.region[1].host + page * PAGE, d.copy[1] + page * PAGE,
				    PAGE),
			     0);
	OK(&b.f, frontend_postcopy_end(&d));
	cr_assert_null(b.dev.vhost.postcopy);
	cr_assert(SOON(count_pagers(NULL) == 0));
	for (unsigned i = 0; i < 10; i++)
		bed_echo(&b, i % 2);
	leave();
}

Test(session_postcopy, rings_wait_for_their_pages_and_go_on, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	go_there_and_back(PROTOCOL, features);
}

/* "SET_MEM_TABLE": the older form. */
Test(session_postcopy, memory_comes_in_a_table_too, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	go_there_and_back(PROTOCOL & ~VU_PF_CONFIGURE_MEM_SLOTS, features);
}

/* Some are delivered without having been asked for, as QEMU does. Nothing asks for these again. */
Test(session_postcopy, pages_that_are_here_are_not_asked_for)
{
	FOR_EACH_LAYOUT(features)
	{
		unsigned back = 0;

		arrive(&echo_blk_ops, PROTOCOL, features, 1);
		cr_assert_eq(delivery_all(&d), 0);
		share();
		OK(&b.f, frontend_queue_start(&b.f, 0));
		cr_assert(SOON((back += take_used(0)) == CHAINS));
		cr_assert_eq(delivery_fault(&d, &(uint64_t) { 0 }), 0);
		cr_assert_eq(counter_read(&b.dev.vhost.stats.pages_awaited), 0u);
		leave();
	}
}

/* "the back-end must not … until the front-end has acknowledged": it could not serve a fault yet.
 */
Test(session_postcopy, nothing_is_touched_before_the_front_end_says_so)
{
	struct waiting w = { .n = 0 };
	unsigned back = 0;

	arrive(&echo_blk_ops, PROTOCOL, 0, 1);
	OK(&b.f, frontend_postcopy_advise(&d));
	OK(&b.f, frontend_postcopy_listen(&d));
	OK(&b.f, frontend_postcopy_share_only(&d));
	OK(&b.f, frontend_queue_start(&b.f, 0));
	cr_assert(STAYS(delivery_fault(&d, &(uint64_t) { 0 }) == 0, 50));
	OK(&b.f, frontend_postcopy_go_ahead(&d, VU_ADD_MEM_REG));
	cr_assert(SOON((serve_one(&d, &w), (back += take_used(0)) == CHAINS)));
	leave();
}

/* A second device on the same worker. */
static struct echo_device neighbour;
static struct frontend other;
static struct guest_memory others_memory;

static void neighbour_start(void)
{
	const struct guest_range range = { 0, 4 << 20 };
	struct frontend_queue_options opt = { .size = 64 };
	struct vhost_socket s = { .fd = -1, .mode = -1 };
	struct error err = { 0 };
	int pair[2];

	memset(&neighbour, 0, sizeof(neighbour));
	cr_assert_eq(vhost_device_init(&neighbour.vhost, &echo_blk_ops, "neighbour", ECHO_QUEUES,
				       b.workers, &err),
		     0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	s.fd = pair[0];
	cr_assert_eq(vhost_device_serve(&neighbour.vhost, &s, &err), 0, "%s", err.text);
	frontend_init(&other);
	other.timeout_ms = 5000;
	other.idle = bed_step;
	frontend_attach(&other, pair[1]);
	cr_assert_eq(guest_memory_create(&others_memory, &range, 1, 0), 0);
	OK(&other, frontend_hello(&other, VU_PF_USUAL));
	OK(&other, frontend_set_features(&other, VU_F_VERSION_1));
	OK(&other, frontend_share_memory(&other, &others_memory));
	OK(&other, frontend_queue_setup(&other, 0, &opt));
	OK(&other, frontend_queue_start(&other, 0));
}

static void neighbour_works(void)
{
	const struct driver_seg segs[] = { { 2 << 20, 100 }, { (2 << 20) + PAGE, 512 } };

	for (unsigned i = 0; i < 200; i++) {
		struct driver_used used;

		cr_assert_eq(driver_add(&other.queue[0].ring, DRIVER_SPLIT, segs, 1, 1, &b), 0);
		frontend_submit(&other, 0);
		OK(&other, frontend_wait_used(&other, 0, &used));
	}
}

static void neighbour_closed(struct vhost_device *v)
{
	container_of(v, struct echo_device, vhost)->closed++;
}

static void neighbour_stop(void)
{
	frontend_close(&other);
	vhost_device_close(&neighbour.vhost, neighbour_closed);
	cr_assert(SOON(neighbour.closed == 1));
	vhost_device_fini(&neighbour.vhost);
	guest_memory_destroy(&others_memory);
}

/* A ring that runs waits for a page, and so does one that has not started. */
static void stall(uint64_t features)
{
	struct waiting w = { .n = 0 };

	arrive(&echo_blk_ops, PROTOCOL, features, 2);
	neighbour_start();
	share();
	OK(&b.f, frontend_queue_start(&b.f, 0));
	cr_assert(SOON((serve_one(&d, &w), state(0) == VIRTQUEUE_RUNNING)));
	cr_assert(SOON((serve_one(&d, &w), take_used(0) > 0)));
	OK(&b.f, frontend_queue_start(&b.f, 1));
	/* From here on nothing comes any more. */
	cr_assert(SOON(b.dev.vhost.queues[0].absent && b.dev.vhost.queues[1].absent));
}

Test(session_postcopy, a_page_that_never_comes_stalls_its_own_device_alone, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		uint32_t base;

		stall(features);
		neighbour_works();
		check_alive();
		OK(&b.f, frontend_queue_stop(&b.f, 0, &base));
		cr_assert_eq(state(0), VIRTQUEUE_STOPPED);
		neighbour_works();
		neighbour_stop();
		leave();
	}
}

/* The pager hangs in its page all the while. */
Test(session_postcopy, front_end_and_device_go_away_while_pages_are_missing, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		stall(features);
		cr_assert_eq(count_pagers(NULL), 1u);
		if (layout_i % 2)
			vhost_device_close(&b.dev.vhost, neighbour_closed);
		else
			frontend_close(&b.f);
		cr_assert(SOON(b.dev.disconnected == 1));
		cr_assert(SOON(count_pagers(NULL) == 0));
		neighbour_works();
		neighbour_stop();
		frontend_close(&b.f);
		delivery_end(&d);
		/* One more: the loop's own timer. */
		cr_assert(SOON(count_fds() <= fds_before + 1), "%u descriptors, and %u before",
			  count_fds(), fds_before);
		if (layout_i % 2) {
			vhost_device_fini(&b.dev.vhost);
			guest_memory_destroy(&b.memory);
			workers_stop(b.workers);
			control_fini();
		} else {
			bed_fini(&b);
		}
		pager_unprepare();
	}
}

/* END says that all is here. Whatever is not is zero, and that is the front-end's own guest. */
Test(session_postcopy, an_end_that_comes_too_early_holds_up_nobody)
{
	unsigned back = 0;

	stall(0);
	OK(&b.f, frontend_postcopy_end(&d));
	neighbour_works();
	/* Zeroed rings and buffers have no work, or are broken. */
	cr_assert(STAYS((back += take_used(0), true), 20));
	neighbour_stop();
	leave();
}

/*
 * Whoever has a userfaultfd may register all of the address space that it is of, and with that make
 * any thread there wait at any page.
 */
Test(session_postcopy, the_userfaultfd_is_not_of_our_address_space)
{
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	volatile char *ours;

	arrive(&echo_blk_ops, PROTOCOL, 0, 0);
	OK(&b.f, frontend_postcopy_advise(&d));
	ours = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r.range.start = (uintptr_t)ours;
	r.range.len = (uint64_t)16 * PAGE;
	(void)ioctl(d.faults, UFFDIO_REGISTER, &r);
	alarm(5);
	cr_assert_eq(ours[0], 0); /* else this waits for ever */
	alarm(0);
	munmap((void *)ours, 16 * PAGE);
	leave();
}

Test(session_postcopy, a_pager_that_ends_costs_its_connection)
{
	pid_t pager = 0;

	stall(0);
	cr_assert_eq(count_pagers(&pager), 1u);
	kill(pager, SIGKILL);
	cr_assert(SOON(b.dev.disconnected == 1));
	neighbour_works();
	neighbour_stop();
	leave();
}

Test(session_postcopy, messages_in_the_wrong_order_are_refused)
{
	/* LISTEN without ADVISE. */
	arrive(&echo_blk_ops, PROTOCOL, 0, 1);
	cr_assert_eq(outcome(VU_POSTCOPY_LISTEN, NULL, 0, NULL, 0), 1);
	check_alive();
	/* LISTEN when memory is in use already. */
	OK(&b.f, frontend_postcopy_advise(&d));
	cr_assert_eq(count_pagers(NULL), 1u);
	cr_assert_eq(delivery_all(&d), 0);
	OK(&b.f, frontend_share_memory(&b.f, &b.memory));
	cr_assert(SOON(count_pagers(NULL) == 0), "the guest came whole");
	OK(&b.f, frontend_postcopy_advise(&d));
	cr_assert_eq(outcome(VU_POSTCOPY_LISTEN, NULL, 0, NULL, 0), 1);
	OK(&b.f, frontend_queue_start(&b.f, 0));
	cr_assert(SOON(take_used(0)));
	leave();

	/* END without ADVISE: its answer could only be a lie. */
	arrive(&echo_blk_ops, PROTOCOL, 0, 0);
	cr_assert_eq(outcome(VU_POSTCOPY_END, NULL, 0, NULL, 0), -ECONNRESET);
	leave();

	/* Memory that is refused: QEMU waits for an answer with addresses, so there is none. */
	arrive(&echo_blk_ops, PROTOCOL, 0, 0);
	OK(&b.f, frontend_postcopy_advise(&d));
	OK(&b.f, frontend_postcopy_listen(&d));
	b.memory.region[0].size *= 2;
	cr_assert_eq(frontend_postcopy_share(&d), -ECONNRESET);
	b.memory.region[0].size /= 2;
	leave();
}

/* Of full length, and so no "go ahead", which is an empty one too. */
Test(session_postcopy, a_table_without_regions_is_no_harm)
{
	uint8_t empty[8 + 8 * 32] = { 0 };
	unsigned n_fds = 0;

	arrive(&echo_blk_ops, PROTOCOL, 0, 0);
	OK(&b.f, frontend_postcopy_advise(&d));
	OK(&b.f, frontend_postcopy_listen(&d));
	OK(&b.f, frontend_send(&b.f, VU_SET_MEM_TABLE, VU_VERSION, empty, sizeof(empty), NULL, 0));
	cr_assert_eq(
		frontend_recv_reply(&b.f, VU_SET_MEM_TABLE, empty, sizeof(empty), NULL, &n_fds),
		sizeof(empty));
	check_alive();
	leave();
}

/* QEMU says everything once for each pair of a card's queues. */
Test(session_postcopy, everything_may_be_said_once_a_queue_pair)
{
	struct waiting w = { .n = 0 };
	unsigned back = 0;

	arrive(&echo_net_ops, PROTOCOL, 0, 1);
	OK(&b.f, frontend_postcopy_advise(&d));
	OK(&b.f, frontend_postcopy_advise(&d));
	OK(&b.f, frontend_postcopy_listen(&d));
	OK(&b.f, frontend_postcopy_listen(&d));
	OK(&b.f, frontend_postcopy_share(&d));
	OK(&b.f, frontend_postcopy_share(&d));
	OK(&b.f, frontend_queue_start(&b.f, 0));
	cr_assert(SOON((serve_one(&d, &w), (back += take_used(0)) == CHAINS)));
	cr_assert_eq(delivery_all(&d), 0);
	OK(&b.f, frontend_postcopy_end(&d));
	OK(&b.f, frontend_postcopy_end(&d));
	bed_echo(&b, 0);
	leave();
}

/* What is mapped by the IOMMU need not have arrived. */
Test(session_postcopy, behind_an_iommu_both_are_waited_for)
{
	FOR_EACH_LAYOUT(features)
	{
		struct waiting w = { .n = 0 };
		struct vu_iotlb miss;
		unsigned back = 0;

		arrive(&echo_blk_ops, PROTOCOL, features | VU_F_ACCESS_PLATFORM, 1);
		OK(&b.f, frontend_open_backend_channel(&b.f));
		share();
		OK(&b.f, frontend_queue_start(&b.f, 0));
		cr_assert(SOON(({
			while (frontend_poll_miss(&b.f, &miss) > 0) {
				uint64_t at = ALIGN_DOWN(miss.iova, PAGE);

				OK(&b.f, frontend_map(&b.f, at, at - IOVA, PAGE, 3));
			}
			serve_one(&d, &w);
			(back += take_used(0)) == CHAINS;
		})));
		cr_assert_eq(delivery_all(&d), 0);
		leave();
	}
}
