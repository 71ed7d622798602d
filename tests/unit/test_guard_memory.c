/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that a front-end shares loses its pages under us (T14): its device is hung up on, and
 * nobody else notices. First the guard alone, then the rings of a device in both layouts.
 */
#include "tests/unit/session_util.h"
#include "vhost/mem_guard.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u

static unsigned told;

static void count_told(void *arg)
{
	cr_assert_eq(arg, &told);
	cr_assert(control_is_current());
	told++;
}

/* A file of @n pages, each filled with its number, mapped and guarded. */
struct piece {
	int fd;
	uint8_t *base;
	size_t page, len;
	struct mem_guard *guard;
};

static void piece_open(struct piece *p, unsigned flags, size_t page, unsigned n,
		       struct mem_watch *w)
{
	p->fd = memfd_create("piece", MFD_CLOEXEC | flags);
	p->page = page;
	p->len = n * page;
	cr_assert_geq(p->fd, 0);
	cr_assert_eq(ftruncate(p->fd, (off_t)p->len), 0);
	p->base = mmap(NULL, p->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, p->fd, 0);
	cr_assert_neq(p->base, MAP_FAILED);
	p->guard = mem_guard_add(
		&(struct mem_guarded) { .base = p->base, .len = p->len, .page = page, .fd = p->fd },
		w);
	cr_assert_not_null(p->guard);
}

static void piece_close(struct piece *p)
{
	mem_guard_remove(p->guard);
	munmap(p->base, p->len);
	close(p->fd);
}

static uint8_t peek(const struct piece *p, unsigned page)
{
	return __atomic_load_n(p->base + page * p->page, __ATOMIC_RELAXED);
}

static void poke(const struct piece *p, unsigned page, uint8_t value)
{
	__atomic_store_n(p->base + page * p->page, value, __ATOMIC_RELAXED);
}

Test(guard_memory, what_a_file_lost_reads_as_zero_and_the_rest_stays)
{
	struct mem_watch *w;
	struct piece p, neighbour;

	cr_assert_eq(control_init(), 0);
	w = mem_watch_new(count_told, &told);
	piece_open(&p, 0, PAGE, 8, w);
	piece_open(&neighbour, 0, PAGE, 8, NULL);
	for (unsigned i = 0; i < 8; i++) {
		poke(&p, i, (uint8_t)(i + 1));
		poke(&neighbour, i, (uint8_t)(i + 1));
	}
	/* The page that the end lies in is still there. */
	cr_assert_eq(ftruncate(p.fd, 3 * PAGE + 1), 0);
	cr_assert_not(mem_watch_lost(w));
	cr_assert_eq(peek(&p, 6), 0u);
	cr_assert(mem_watch_lost(w));
	for (unsigned i = 0; i < 8; i++) {
		cr_assert_eq(peek(&p, i), i < 4 ? i + 1 : 0u, "page %u", i);
		cr_assert_eq(peek(&neighbour, i), i + 1);
	}
	poke(&p, 7, 0x77); /* ours from now on */
	cr_assert_eq(peek(&p, 7), 0x77);
	cr_assert_eq(ftruncate(p.fd, 0), 0);
	cr_assert_eq(peek(&p, 0), 0u);
	/* Once for all of it. */
	cr_assert_eq(told, 0u);
	control_step(0);
	cr_assert_eq(told, 1u);
	control_step(0);
	cr_assert_eq(told, 1u);
	piece_close(&p);
	piece_close(&neighbour);
	/* A new connection begins without the old one's losses, and can have its own. */
	mem_watch_reset(w);
	cr_assert_not(mem_watch_lost(w));
	piece_open(&p, 0, PAGE, 2, w);
	cr_assert_eq(ftruncate(p.fd, 0), 0);
	poke(&p, 1, 1);
	control_step(0);
	cr_assert_eq(told, 2u);
	piece_close(&p);
	mem_watch_free(w);
	control_fini();
}

/* The device may be gone before the control thread gets to hear of it. */
Test(guard_memory, a_watch_that_was_freed_is_told_nothing)
{
	struct mem_watch *w;
	struct piece p;

	cr_assert_eq(control_init(), 0);
	w = mem_watch_new(count_told, &told);
	piece_open(&p, 0, PAGE, 2, w);
	cr_assert_eq(ftruncate(p.fd, 0), 0);
	cr_assert_eq(peek(&p, 0), 0u);
	piece_close(&p);
	mem_watch_free(w);
	control_step(0);
	cr_assert_eq(told, 0u);
	control_fini();
}

/*
 * A sparse file on hugetlbfs, and no hugepages left: the file is long enough, and yet there are no
 * pages. Each that is touched splits the mapping, and there must be an end to that.
 */
Test(guard_memory, pages_that_cannot_be_had_do_not_use_up_our_mappings)
{
	size_t huge = 2 << 20;
	struct piece p;
	unsigned maps = 0;
	char line[256];
	FILE *f;

	cr_assert_eq(control_init(), 0);
	p.fd = memfd_create("probe", MFD_CLOEXEC | MFD_HUGETLB);
	if (p.fd < 0)
		cr_skip_test("no hugetlbfs");
	close(p.fd);
	f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
	if (f && fgets(line, sizeof(line), f) && atoi(line) > 0)
		cr_skip_test("there are free hugepages");
	if (f)
		fclose(f);
	piece_open(&p, MFD_HUGETLB, huge, 200, NULL);
	for (unsigned i = 0; i < 200; i += 2)
		cr_assert_eq(peek(&p, i), 0u);
	f = fopen("/proc/self/maps", "re");
	while (fgets(line, sizeof(line), f)) {
		uintptr_t at = strtoul(line, NULL, 16);

		maps += at >= (uintptr_t)p.base && at < (uintptr_t)p.base + p.len;
	}
	fclose(f);
	cr_assert_leq(maps, 2 * 16 + 1);
	piece_close(&p);
	control_fini();
}

/* Others' faults are not ours to hide. */
Test(guard_memory, a_fault_in_what_is_not_guarded_ends_the_process)
{
	struct piece p;
	int status;
	pid_t pid;

	piece_open(&p, 0, PAGE, 2, NULL);
	mem_guard_remove(p.guard);
	cr_assert_eq(ftruncate(p.fd, 0), 0);
	pid = fork();
	if (pid == 0) {
		peek(&p, 1);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	pid = fork();
	if (pid == 0) {
		raise(SIGBUS);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

/* Devices. */

static struct bed b, other; /* two devices on one worker */

static const uint64_t layouts[] = { 0, VU_F_PACKED, VU_F_EVENT_IDX | VU_F_INDIRECT,
				    VU_F_PACKED | VU_F_EVENT_IDX | VU_F_INDIRECT };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

static const struct guest_range ranges[] = { { 0, 4 << 20 }, { 8 << 20, 2 << 20 } };

static void start_hostile(uint64_t features)
{
	bed_connect(&b);
	bed_negotiate(&b, VU_PF_USUAL, features);
	bed_start_queue(&b, 0);
	/* Large, so that its areas lie in pages of their own. */
	OK(&b.f, frontend_queue_setup(&b.f, 1,
				      &(struct frontend_queue_options) {
					      .size = 1024, .indirect = DRIVER_INDIRECT_LONG }));
	OK(&b.f, frontend_queue_start(&b.f, 1));
	bed_echo(&b, 0);
}

static void open_both(uint64_t features)
{
	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	start_hostile(features);
	bed_beside(&other, &b, features);
}

static void close_both(void)
{
	bed_beside_fini(&other);
	bed_fini(&b);
}

/* It was hung up on, and everything starts again with new memory. */
static void comes_back(uint64_t features, unsigned times)
{
	OK(&b.f, frontend_wait_hangup(&b.f));
	cr_assert(EVENTUALLY(b.dev.disconnected == times));
	cr_assert_eq(counter_read(&b.dev.vhost.stats.memory_lost), times);
	bed_echo(&other, 0);
	frontend_close(&b.f);
	guest_memory_destroy(&b.memory);
	cr_assert_eq(guest_memory_create(&b.memory, ranges, ARRAY_SIZE(ranges), 0), 0);
	start_hostile(features);
	bed_echo(&b, 1);
	bed_echo(&other, 0);
}

static void cut(unsigned region, uint64_t to)
{
	cr_assert_eq(ftruncate(b.memory.region[region].fd, (off_t)to), 0);
}

static uint64_t ring_offset(const void *host)
{
	return (uint64_t)((const uint8_t *)host - b.memory.region[0].host);
}

/* The worker finds the rings gone, while it polls and when it is woken. */
Test(guard_memory, rings_that_vanish_cost_their_device_alone, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		open_both(features);
		cut(0, 0);
		frontend_kick(&b.f, 0);
		comes_back(features, 1);
		/* Parked, and only then. */
		cr_assert(EVENTUALLY(worker_n_active(workers_get(b.workers, 0)) == 0));
		cut(0, 0);
		frontend_kick(&b.f, 1);
		comes_back(features, 2);
		close_both();
	}
}

/* Each of the three areas by itself: from the last one in the file to the first. */
Test(guard_memory, each_area_of_a_ring_may_vanish_alone, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		open_both(features);
		for (unsigned area = 0; area < 3; area++) {
			const struct driver_ring *r = &b.f.queue[1].ring;
			const void *at = area == 0   ? driver_desc_area(r)
					 : area == 1 ? driver_driver_area(r)
						     : driver_device_area(r);

			bed_submit(&b, 1); /* the device has something to do there */
			cut(0, ALIGN_DOWN(ring_offset(at), PAGE));
			frontend_kick(&b.f, 1);
			frontend_kick(&b.f, 0);
			comes_back(features, area + 1);
		}
		close_both();
	}
}

/* On the control thread: a ring is started over memory that is not there any more. */
Test(guard_memory, a_ring_started_over_lost_memory_is_no_harm, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		open_both(features);
		OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
		OK(&b.f, frontend_queue_stop(&b.f, 1, NULL));
		cut(0, 0);
		(void)frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 0, b.f.queue[0].kick_fd);
		comes_back(features, 1);
		close_both();
	}
}

/* With chains in flight: they are given back into memory of ours, and the queue drains. */
Test(guard_memory, memory_that_vanishes_under_chains_in_flight_lets_them_end, .timeout = 60)
{
	FOR_EACH_LAYOUT(features)
	{
		open_both(features);
		__atomic_store_n(&b.dev.hold, true, __ATOMIC_RELEASE);
		for (unsigned i = 0; i < 8; i++)
			bed_submit(&b, i % 2);
		cr_assert(EVENTUALLY(counter_read(&b.dev.vhost.queues[0].ring.stats.popped) == 5));
		cut(0, 0);
		cut(1, 0);
		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		comes_back(features, 1);
		close_both();
	}
}
