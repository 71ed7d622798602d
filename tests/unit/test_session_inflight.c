/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET_INFLIGHT_FD and SET_INFLIGHT_FD (vhost-user "Inflight I/O tracking"), and IN_ORDER, as a
 * front-end sees them: class T12, and the leaks of CVE-2020-10726 and CVE-2022-0669.
 */
#include "tests/guest/frontend_inflight.h"
#include "tests/unit/often.h"
#include "tests/unit/session_util.h"
#include "vhost/mem_guard.h"
#include "vhost/ring_track.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* The linker puts this in its way (--wrap): no memory for a guard, which says nothing of errno. */
struct mem_guard *__real_mem_guard_add(const struct mem_guarded *m, struct mem_watch *w);
struct mem_guard *__wrap_mem_guard_add(const struct mem_guarded *m, struct mem_watch *w);

static bool no_guards;

struct mem_guard *__wrap_mem_guard_add(const struct mem_guarded *m, struct mem_watch *w)
{
	if (!no_guards)
		return __real_mem_guard_add(m, w);
	errno = 0;
	return NULL;
}

#define PROTOCOL (VU_PF_USUAL | VU_PF_INFLIGHT_SHMFD)

static struct bed b;

static const uint64_t layouts[] = { 0, VU_F_PACKED, VU_F_INDIRECT, VU_F_PACKED | VU_F_INDIRECT };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

static void open_bed(uint64_t features)
{
	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	bed_negotiate(&b, PROTOCOL, features);
}

/* A front-end's own buffer, unsealed, of which all bytes are @fill. */
static struct frontend_inflight own_buffer(uint64_t file_bytes, int fill)
{
	struct frontend_inflight buf = {
		.desc = { .mmap_size = file_bytes, .num_queues = ECHO_QUEUES, .queue_size = 64 }
	};
	uint8_t *p;

	buf.fd = memfd_create("own", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(buf.fd, (off_t)file_bytes), 0);
	p = mmap(NULL, file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, buf.fd, 0);
	memset(p, fill, file_bytes);
	munmap(p, file_bytes);
	return buf;
}

Test(session_inflight, a_buffer_is_given_that_nobody_can_shrink)
{
	struct frontend_inflight buf;
	int seals;

	open_bed(0);
	OK(&b.f, frontend_get_inflight(&b.f, &buf, ECHO_QUEUES, 128));
	seals = fcntl(buf.fd, F_GET_SEALS);
	cr_assert(seals & F_SEAL_SHRINK);
	cr_assert_eq(buf.desc.num_queues, ECHO_QUEUES);
	cr_assert_eq(buf.desc.queue_size, 128);
	cr_assert_eq(buf.desc.mmap_offset, 0u);
	cr_assert_leq(buf.desc.mmap_size, (uint64_t)lseek(buf.fd, 0, SEEK_END));
	/* For either layout, and for a guest that chooses a larger ring than it was offered. */
	cr_assert_geq(buf.desc.mmap_size, ECHO_QUEUES * (32 + 32 * UINT64_C(1024)));
	OK(&b.f, frontend_set_inflight(&b.f, &buf));
	frontend_inflight_close(&buf);
	bed_fini(&b);
}

Test(session_inflight, a_buffer_for_queues_that_cannot_be_is_not_given)
{
	static const uint16_t bad[][2] = {
		{ 0, 128 },	    { ECHO_QUEUES + 1, 128 }, { 65535, 128 },
		{ ECHO_QUEUES, 0 }, { ECHO_QUEUES, 32769 },   { 65535, 65535 }
	};
	FOR_EACH_LAYOUT(features)
	{
		struct frontend_inflight buf;
		unsigned fds;

		open_bed(features);
		fds = settled_fds();
		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
			cr_assert_eq(frontend_get_inflight(&b.f, &buf, bad[i][0], bad[i][1]),
				     -ENODATA, "%u queues of %u: %s", bad[i][0], bad[i][1],
				     b.f.error);
		cr_assert(fds_become(fds));
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		bed_fini(&b);
	}
}

Test(session_inflight, a_buffer_that_cannot_be_is_refused_T12)
{
	const uint64_t page = 4096, bytes = 32768;
	const struct vu_inflight bad[] = {
		{ bytes, 0, 0, 64 },
		{ bytes, 0, ECHO_QUEUES + 1, 64 },
		{ bytes, 0, 65535, 64 },
		{ bytes, 0, ECHO_QUEUES, 0 },
		{ bytes, 0, ECHO_QUEUES, 32769 },
		{ bytes, 0, ECHO_QUEUES, 65535 },
		{ 0, 0, ECHO_QUEUES, 64 },
		{ ECHO_QUEUES * (16 + 16 * 64) - 1, 0, ECHO_QUEUES, 64 },
		{ bytes + 1, 0, ECHO_QUEUES, 64 },
		{ bytes, page, ECHO_QUEUES, 64 },
		{ bytes / 2, 2 * bytes, ECHO_QUEUES, 64 }, /* begins behind the end */
		{ bytes / 2, 1, ECHO_QUEUES, 64 },
		{ bytes / 2, UINT64_MAX - page + 1, ECHO_QUEUES, 64 },
		{ UINT64_MAX, 0, ECHO_QUEUES, 64 },
		{ UINT64_MAX - page + 1, page, ECHO_QUEUES, 64 },
		{ UINT64_C(1) << 40, 0, ECHO_QUEUES, 64 },
	};
	const struct vu_inflight large[] = {
		{ 16 << 20, 0, ECHO_QUEUES, 32769 },
		{ 16 << 20, 0, ECHO_QUEUES, 65535 },
		{ (UINT64_C(1) << 30) + 1, 0, ECHO_QUEUES, 64 },
		{ UINT64_C(1) << 39, 0, ECHO_QUEUES, 64 },
	};
	FOR_EACH_LAYOUT(features)
	{
		struct frontend_inflight buf;
		unsigned fds, mappings;
		int event = eventfd(0, 0);

		open_bed(features);
		buf = own_buffer(bytes, 0);
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		fds = settled_fds();
		mappings = count_mappings();
		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
			cr_assert_eq(frontend_set(&b.f, VU_SET_INFLIGHT_FD, &bad[i], sizeof(bad[i]),
						  &buf.fd, 1),
				     -EREMOTEIO, "row %u", i);
			bed_echo(&b, 0);
		}
		/* However long the file is. */
		cr_assert_eq(ftruncate(buf.fd, INT64_C(1) << 40), 0);
		for (unsigned i = 0; i < ARRAY_SIZE(large); i++)
			cr_assert_eq(frontend_set(&b.f, VU_SET_INFLIGHT_FD, &large[i],
						  sizeof(large[i]), &buf.fd, 1),
				     -EREMOTEIO, "large row %u", i);
		cr_assert_eq(frontend_set(&b.f, VU_SET_INFLIGHT_FD, &buf.desc, sizeof(buf.desc),
					  &event, 1),
			     -EREMOTEIO, "an eventfd is no file");
		cr_assert_eq(frontend_set(&b.f, VU_SET_INFLIGHT_FD, &buf.desc, sizeof(buf.desc),
					  NULL, 0),
			     -EREMOTEIO, "no descriptor");
		bed_echo(&b, 0);
		cr_assert(fds_become(fds));
		cr_assert_eq(count_mappings(), mappings);
		close(event);
		frontend_inflight_close(&buf);
		bed_fini(&b);
	}
}

/* Acknowledged it would be a buffer that the front-end relies on, and nobody writes to. */
Test(session_inflight, a_buffer_for_which_there_is_no_memory_is_refused)
{
	struct frontend_inflight buf;
	unsigned fds, mappings;

	open_bed(0);
	OK(&b.f, frontend_get_inflight(&b.f, &buf, ECHO_QUEUES, 128));
	fds = settled_fds();
	mappings = count_mappings();
	no_guards = true;
	cr_assert_eq(frontend_set_inflight(&b.f, &buf), -EREMOTEIO);
	no_guards = false;
	cr_assert(fds_become(fds));
	cr_assert_eq(count_mappings(), mappings);
	OK(&b.f, frontend_set_inflight(&b.f, &buf));
	frontend_inflight_close(&buf);
	bed_fini(&b);
}

/* CVE-2020-10726, CVE-2022-0669; while a ring runs, which begins anew in each. */
Test(session_inflight, asking_and_telling_again_and_again_leaks_nothing_T13,
     .timeout = OFTEN_TIMEOUT)
{
	unsigned fds = 0, mappings = 0, n = often(500), each = n / 100000 ? 1 : 5;

	open_bed(0);
	bed_start_queue(&b, 0);
	for (unsigned i = 0; i < n; i++) {
		struct frontend_inflight buf;

		OK(&b.f, frontend_get_inflight(&b.f, &buf, ECHO_QUEUES, 64));
		if (i % each == 0) {
			OK(&b.f, frontend_set_inflight(&b.f, &buf));
			bed_echo(&b, 0);
		}
		frontend_inflight_close(&buf);
		if (i == 5) {
			fds = settled_fds();
			mappings = count_mappings();
		}
	}
	cr_assert(fds_become(fds));
	cr_assert_leq(count_mappings(), mappings + 1);
	bed_fini(&b);
}

/* CVE-2026-86565: a ring that is larger than the buffer has room for is served, but not there. */
Test(session_inflight, a_size_told_after_the_buffer_does_not_reach_beyond_it_T12)
{
	FOR_EACH_LAYOUT(features)
	{
		/* Entries take 32 bytes of a packed ring's, 16 of a split one's. */
		const uint32_t too_large[] = { 256, features & VU_F_PACKED ? 4 : 8 };
		struct frontend_inflight buf;
		uint8_t *p;

		open_bed(features);
		buf = own_buffer(8192, 0xa5);
		buf.desc.mmap_size = ECHO_QUEUES * 128; /* 16 + 4 * 16, on cache lines */
		buf.desc.queue_size = 4;
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		for (unsigned q = 0; q < ARRAY_SIZE(too_large); q++) {
			const struct frontend_queue_options opt = {
				.size = too_large[q], .indirect = DRIVER_INDIRECT_LONG
			};

			OK(&b.f, frontend_queue_setup(&b.f, q, &opt));
			OK(&b.f, frontend_queue_start(&b.f, q));
			for (unsigned i = 0; i < 130; i++)
				bed_echo(&b, q);
		}
		p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, buf.fd, 0);
		for (unsigned i = 0; i < 8192; i++)
			cr_assert_eq(p[i], 0xa5, "byte %u was written", i);
		munmap(p, 8192);
		frontend_inflight_close(&buf);
		bed_fini(&b);
	}
}

/* A buffer may be for fewer queues than there are. */
Test(session_inflight, a_queue_that_the_buffer_does_not_have_is_not_written_down_T12)
{
	FOR_EACH_LAYOUT(features)
	{
		const struct frontend_queue_options opt = { .size = 4,
							    .indirect = DRIVER_INDIRECT_LONG };
		/* 32 + 4 * 32 or 16 + 4 * 16, on cache lines. */
		const uint64_t room = features & VU_F_PACKED ? 192 : 128;
		struct frontend_inflight buf;
		uint8_t *p;

		open_bed(features);
		buf = own_buffer(8192, 0xa5);
		buf.desc = (struct vu_inflight) { .mmap_size = room,
						  .num_queues = 1,
						  .queue_size = 4 };
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		for (unsigned q = 1; q < ECHO_QUEUES; q++) {
			OK(&b.f, frontend_queue_setup(&b.f, q, &opt));
			OK(&b.f, frontend_queue_start(&b.f, q));
			bed_echo(&b, q);
		}
		p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, buf.fd, 0);
		for (unsigned i = 0; i < 8192; i++)
			cr_assert_eq(p[i], 0xa5, "byte %u was written", i);
		munmap(p, 8192);
		frontend_inflight_close(&buf);
		bed_fini(&b);
	}
}

/* Its descriptor is copied, and where that cannot be, there is no buffer. */
Test(session_inflight, a_buffer_that_cannot_be_kept_is_refused_T13)
{
	struct frontend_inflight buf;

	open_bed(0);
	bed_start_queue(&b, 0);
	buf = own_buffer(32768, 0);
	leave_descriptors(1); /* as it comes along */
	cr_assert_eq(frontend_set_inflight(&b.f, &buf), -EREMOTEIO);
	bed_echo(&b, 0);
	frontend_inflight_close(&buf); /* makes room for the copy */
	bed_fini(&b);
}

Test(session_inflight, a_region_that_says_nonsense_stops_its_queue_alone_T12)
{
	FOR_EACH_LAYOUT(features)
	{
		struct frontend_inflight buf;
		const struct frontend_queue_options opt = { .size = 64 };
		struct inflight_split *region;

		open_bed(features);
		OK(&b.f, frontend_get_inflight(&b.f, &buf, ECHO_QUEUES, 64));
		region = mmap(NULL, buf.desc.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, buf.fd,
			      0);
		memset(region, 0xff, 32 + 32 * 64);
		region->version = 1;
		region->desc_num = 64;
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		OK(&b.f, frontend_queue_setup(&b.f, 0, &opt));
		cr_assert_eq(frontend_queue_start(&b.f, 0), -EREMOTEIO);
		bed_start_queue(&b, 1);
		bed_echo(&b, 1);
		/* A new one, and it starts. */
		memset(region, 0, 32 + 32 * 64);
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		bed_echo(&b, 0);
		munmap(region, buf.desc.mmap_size);
		frontend_inflight_close(&buf);
		bed_fini(&b);
	}
}

Test(session_inflight, a_shrunk_buffer_costs_the_connection_and_no_more_T14)
{
	FOR_EACH_LAYOUT(features)
	{
		struct frontend_inflight buf;

		bed_init(&b, &echo_blk_ops);
		bed_listen(&b);
		bed_connect(&b);
		bed_negotiate(&b, PROTOCOL, features);
		buf = own_buffer(32768, 0);
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		cr_assert_eq(ftruncate(buf.fd, 0), 0);
		bed_submit(&b, 0);
		cr_assert(EVENTUALLY(b.dev.disconnected == 1));
		frontend_inflight_close(&buf);
		frontend_close(&b.f);
		bed_connect(&b);
		bed_negotiate(&b, PROTOCOL, features);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		bed_fini(&b);
	}
}

/* Mapped, unmapped and replaced in pages of its own, whether or not any are to be had. */
Test(session_inflight, a_buffer_of_huge_pages_costs_its_device_at_most, .timeout = 60)
{
	struct frontend_inflight buf = {
		.desc = { .mmap_size = 32768, .num_queues = ECHO_QUEUES, .queue_size = 64 }
	};
	unsigned mappings;

	buf.fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	if (buf.fd < 0 || ftruncate(buf.fd, 2 << 20) < 0)
		cr_skip_test("no huge pages of 2 MiB: %s", strerror(errno));
	for (unsigned i = 0; i < 2; i++) {
		open_bed(i ? VU_F_PACKED : 0);
		mappings = count_mappings();
		for (unsigned n = 0; n < 20 && frontend_set_inflight(&b.f, &buf) == 0; n++)
			cr_assert_leq(count_mappings(), mappings + 2);
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == 1));
		bed_fini(&b);
	}
	frontend_inflight_close(&buf);
}

Test(session_inflight, a_reset_forgets_what_was_in_flight)
{
	FOR_EACH_LAYOUT(features)
	{
		struct frontend_inflight buf;
		/* The version stands in the same place in both. */
		struct inflight_split *region;

		open_bed(features);
		OK(&b.f, frontend_get_inflight(&b.f, &buf, ECHO_QUEUES, 64));
		region = mmap(NULL, buf.desc.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, buf.fd,
			      0);
		OK(&b.f, frontend_set_inflight(&b.f, &buf));
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		cr_assert_eq(region->version, 1);
		OK(&b.f, frontend_set(&b.f, VU_RESET_DEVICE, NULL, 0, NULL, 0));
		cr_assert_eq(region->version, 0);
		OK(&b.f, frontend_set_features(&b.f, VU_F_VERSION_1 | ECHO_FEATURES | features));
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		munmap(region, buf.desc.mmap_size);
		frontend_inflight_close(&buf);
		bed_fini(&b);
	}
}

/* What costs a test for each chain is not there where nobody asked for it. */
Test(session_inflight, a_ring_that_needs_no_memory_of_its_chains_has_none)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		open_bed(packed ? VU_F_PACKED : 0);
		bed_start_queue(&b, 0);
		bed_echo(&b, 0);
		cr_assert_null(b.dev.vhost.queues[0].ring.track);
		bed_fini(&b);
	}
}

/* T9: the table of IN_ORDER follows the ring, not what it was when something else was agreed on. */
Test(session_inflight, the_table_of_in_order_has_the_size_of_the_ring)
{
	static const uint32_t sizes[] = { 8, 256, 16 };

	for (unsigned packed = 0; packed < 2; packed++) {
		open_bed(VU_F_IN_ORDER | (packed ? VU_F_PACKED : 0));
		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
			const struct frontend_queue_options opt = { .size = sizes[i] };

			OK(&b.f, frontend_queue_setup(&b.f, 0, &opt));
			OK(&b.f, frontend_queue_start(&b.f, 0));
			cr_assert_not_null(b.dev.vhost.queues[0].track);
			cr_assert_eq(b.dev.vhost.queues[0].track->size, sizes[i]);
			bed_echo(&b, 0);
			OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		}
		bed_fini(&b);
	}
}
