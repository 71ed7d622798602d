/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory runs out, at any allocation that a message of a front-end's comes to: the message is
 * refused, everything is as it was before, and nothing is left behind. T13.
 */
#include "tests/guest/frontend_inflight.h"
#include "tests/guest/frontend_iommu.h"
#include "tests/unit/session_util.h"
#include "vhost/disposal.h"
#include "vhost/iotlb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXTRA_GPA (UINT64_C(1) << 30)
#define EXTRA UINT64_C(65536)

static struct bed b;
static int extra_fd;
static uint64_t extra;	 /* which of them */
static unsigned fail_in; /* the allocation that fails, 1: the next one; 0: none */

void *__real_calloc(size_t n, size_t size);
void *__real_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);

static bool fails(void)
{
	if (fail_in == 0 || --fail_in > 0)
		return false;
	errno = ENOMEM;
	return true;
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

static const uint64_t layouts[] = { 0, VU_F_PACKED };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

static void open_bed(uint64_t features)
{
	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	bed_negotiate(&b, VU_PF_USUAL | VU_PF_INFLIGHT_SHMFD | VU_PF_BACKEND_REQ, features);
	bed_start_queue(&b, 0);
	bed_echo(&b, 0);
}

/* With its first allocation failing, then its second, …, until it has enough. */
static void with_too_little(const char *what, int (*message)(void), void (*check)(void))
{
	unsigned fds = settled_fds(), n = 1;

	for (;; n++) {
		int rc;

		fail_in = n;
		rc = message();
		if (fail_in) {
			fail_in = 0;
			cr_assert_eq(rc, 0, "%s: %s", what, b.f.error);
			break;
		}
		cr_assert_eq(rc, -EREMOTEIO, "%s: allocation %u failed, and it was accepted", what,
			     n);
		cr_assert(fds_become(fds), "%s: allocation %u failed, and a descriptor stays", what,
			  n);
		check();
	}
	cr_assert_gt(n, 1u, "%s allocates nothing", what);
}

static void echoes(void)
{
	bed_echo(&b, 0);
}

static struct vu_mem_reg extra_region(void)
{
	return (struct vu_mem_reg) { .region = { EXTRA_GPA + extra * EXTRA, EXTRA,
						 (UINT64_C(1) << 40) + extra * EXTRA, 0 } };
}

static int add_region(void)
{
	struct vu_mem_reg reg = extra_region();

	return frontend_set(&b.f, VU_ADD_MEM_REG, &reg, sizeof(reg), &extra_fd, 1);
}

static int remove_region(void)
{
	struct vu_mem_reg reg = extra_region();

	return frontend_set(&b.f, VU_REM_MEM_REG, &reg, sizeof(reg), NULL, 0);
}

static int set_table(void)
{
	return frontend_set_mem_table(&b.f, &b.memory);
}

static struct frontend_inflight inflight;

static int set_inflight(void)
{
	return frontend_set_inflight(&b.f, &inflight);
}

static void has_none(void)
{
	cr_assert_null(b.dev.vhost.inflight);
}

static void has_one(void)
{
	cr_assert_not_null(b.dev.vhost.inflight);
}

static int open_channel(void)
{
	return frontend_open_backend_channel(&b.f);
}

Test(session_short, every_message_that_finds_no_memory_changes_nothing)
{
	FOR_EACH_LAYOUT(features)
	{
		open_bed(features);
		extra_fd = memfd_create("extra", MFD_CLOEXEC);
		cr_assert_eq(ftruncate(extra_fd, EXTRA), 0);
		with_too_little("SET_MEM_TABLE", set_table, echoes);
		/* So many that the table of mappings has to grow on the way. */
		for (extra = 0; extra < 140; extra++)
			with_too_little("ADD_MEM_REG", add_region, echoes);
		extra = 0;
		with_too_little("REM_MEM_REG", remove_region, echoes);
		with_too_little("SET_BACKEND_REQ_FD", open_channel, echoes);
		/* Rings that run would need memory of their own for it. */
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		OK(&b.f, frontend_get_inflight(&b.f, &inflight, ECHO_QUEUES, 64));
		with_too_little("SET_INFLIGHT_FD", set_inflight, has_none);
		with_too_little("SET_INFLIGHT_FD", set_inflight, has_one);
		frontend_inflight_close(&inflight);
		close(extra_fd);
		bed_fini(&b);
	}
}

#define IOVA UINT64_C(0x7f0000000000)
#define RW (VU_IOTLB_READ | VU_IOTLB_WRITE)

static unsigned n_entries;

static int map_page(void)
{
	return frontend_map(&b.f, IOVA + 65536, 8 << 20, 4096, RW);
}

static int unmap_pages(void)
{
	return frontend_iotlb(&b.f, VU_IOTLB_INVALIDATE, IOVA + 4096, 4096, 0, 0);
}

static int remove_mapped_region(void)
{
	return frontend_remove_mem_reg(&b.f, &b.memory.region[1]);
}

static void entries_stay(void)
{
	cr_assert_eq(b.dev.vhost.iotlb->n, n_entries);
}

static void translates_on(const char *what, int (*message)(void), unsigned entries)
{
	n_entries = b.dev.vhost.iotlb->n;
	with_too_little(what, message, entries_stay);
	cr_assert_eq(b.dev.vhost.iotlb->n, entries);
}

Test(session_short, translations_that_find_no_memory_change_nothing)
{
	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	bed_negotiate(&b, VU_PF_USUAL | VU_PF_BACKEND_REQ, VU_F_ACCESS_PLATFORM);
	OK(&b.f, frontend_open_backend_channel(&b.f));
	OK(&b.f, frontend_map(&b.f, IOVA, 8 << 20, 16384, RW));
	translates_on("update", map_page, 2);
	translates_on("invalidate", unmap_pages, 3);
	translates_on("REM_MEM_REG", remove_mapped_region, 0);
	bed_fini(&b);
}

/* What a ring remembers of its chains is made when it starts. */
Test(session_short, a_ring_that_finds_no_memory_does_not_start)
{
	FOR_EACH_LAYOUT(features)
	{
		unsigned n = 1;
		int rc;

		open_bed(features | VU_F_IN_ORDER);
		for (;; n++) {
			const struct frontend_queue_options opt = { .size = n % 2 ? 32 : 64 };

			/* Of another size, so that what is there does not serve again. */
			OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
			frontend_queue_free(&b.f, 0);
			OK(&b.f, frontend_queue_setup(&b.f, 0, &opt));
			fail_in = n;
			rc = frontend_queue_start(&b.f, 0);
			if (fail_in)
				break;
			cr_assert_neq(rc, 0, "allocation %u failed, and it started", n);
			cr_assert_eq(b.dev.vhost.queues[0].state, VIRTQUEUE_STOPPED);
		}
		fail_in = 0;
		OK(&b.f, rc);
		cr_assert_gt(n, 3u);
		bed_echo(&b, 0);
		bed_fini(&b);
	}
}

/* What is to be let go of is, then on the spot. */
Test(session_short, what_finds_no_memory_to_be_closed_later_is_closed_now)
{
	const size_t large = 64 << 20;
	void *base = mmap(NULL, large, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			  0);
	struct disposal *d = disposal_new();
	unsigned char there;
	int fds[2];

	cr_assert_neq(base, MAP_FAILED);
	cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
	fail_in = 1;
	disposal_close(d, fds[0]);
	cr_assert_eq(fail_in, 0u);
	cr_assert_eq(fcntl(fds[0], F_GETFD), -1);
	fail_in = 1;
	disposal_unmap(d, base, large, fds[1], NULL, NULL);
	cr_assert_eq(fail_in, 0u);
	cr_assert_eq(fcntl(fds[1], F_GETFD), -1);
	cr_assert(mincore(base, 4096, &there) == -1 && errno == ENOMEM, "it is still mapped");
	disposal_free(d);
	fail_in = 1;
	cr_assert_null(disposal_new());
	disposal_free(NULL);
}

Test(session_short, a_connection_that_finds_no_memory_is_turned_away)
{
	unsigned fds, n = 1;

	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	fds = settled_fds();
	for (;; n++) {
		uint64_t features;

		OK(&b.f, frontend_connect(&b.f, b.path));
		fail_in = n;
		if (frontend_u64_get(&b.f, VU_GET_FEATURES, &features) == 0 && fail_in)
			break;
		cr_assert_eq(fail_in, 0u, "%s", b.f.error);
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(count_fds() == fds));
	}
	fail_in = 0;
	cr_assert_gt(n, 1u);
	bed_negotiate(&b, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	bed_echo(&b, 0);
	bed_fini(&b);
}
