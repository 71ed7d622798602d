/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of ours that files which hold nothing take up, while the thread that unmaps such things
 * has not come to them (T14): they count until it has, for the device and for all. Here it is kept
 * from coming to them at all, as by a file of many GiB that it would have to free first.
 */
#include "tests/unit/session_util.h"
#include "vhost/disposal.h"
#include "vhost/mapped_file.h"
#include "vhost/mem.h"
#include "vhost/session.h"

#include <dirent.h>
#include <errno.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)
/* What a device may have mapped, in use and on its way out: a guest, and what comes with it. */
#define DEVICE_MAX (17 * TIB)
#define HIGH (32 * TIB) /* a guest address above all that is there */

static struct bed b, other; /* two devices on one worker */
static int hollow;	    /* a file of 16 TiB */

static struct {
	struct errand errand;
	int pipe[2];
} held;

static void wait_for_byte(struct errand *e)
{
	char byte;

	(void)e;
	(void)!read(held.pipe[0], &byte, 1);
}

static unsigned threads; /* but for the one that unmaps */

static unsigned count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* From now on nothing is unmapped that is not at once. */
static void hold(void)
{
	held.errand.run = wait_for_byte;
	cr_assert_eq(pipe2(held.pipe, O_CLOEXEC), 0);
	cr_assert(disposal_run(disposal_of_memory, &held.errand));
}

static void let_go(void)
{
	cr_assert_eq(write(held.pipe[1], "x", 1), 1);
}

static void negotiate(void)
{
	bed_negotiate(&b, VU_PF_USUAL | VU_PF_INFLIGHT_SHMFD, 0);
}

static void open_both(void)
{
	hollow = memfd_create("hollow", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(hollow, (off_t)(16 * TIB)), 0);
	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	bed_connect(&b);
	negotiate();
	bed_start_queue(&b, 0);
	bed_echo(&b, 0);
	bed_beside(&other, &b, 0);
	threads = count_threads();
	hold();
}

static void close_both(void)
{
	bed_beside_fini(&other);
	bed_fini(&b);
	close(hollow);
	close(held.pipe[0]);
	close(held.pipe[1]);
}

/* Bytes of address space. */
static uint64_t taken(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	unsigned long pages;

	cr_assert_eq(fscanf(f, "%lu", &pages), 1);
	fclose(f);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static struct vu_mem_reg region_of(uint64_t bytes)
{
	return (struct vu_mem_reg) { .region = { .gpa = HIGH, .size = bytes, .uva = 2 * HIGH } };
}

static int add(struct bed *bed, uint64_t bytes)
{
	const struct vu_mem_reg r = region_of(bytes);

	return frontend_set(&bed->f, VU_ADD_MEM_REG, &r, sizeof(r), &hollow, 1);
}

static int take_away(struct bed *bed, uint64_t bytes)
{
	const struct vu_mem_reg r = region_of(bytes);

	return frontend_set(&bed->f, VU_REM_MEM_REG, &r, sizeof(r), NULL, 0);
}

static void add_and_take_away(struct bed *bed, uint64_t bytes)
{
	OK(&bed->f, add(bed, bytes));
	OK(&bed->f, take_away(bed, bytes));
}

static void add_without_waiting(struct bed *bed, uint64_t bytes)
{
	const struct vu_mem_reg r = region_of(bytes);

	OK(&bed->f, frontend_send(&bed->f, VU_ADD_MEM_REG, VU_VERSION | VU_NEED_REPLY, &r,
				  sizeof(r), &hollow, 1));
}

static void acked(struct bed *bed, uint32_t request)
{
	uint64_t ack = 1;

	OK(&bed->f, frontend_recv_reply(&bed->f, request, &ack, sizeof(ack), NULL, NULL));
	cr_assert_eq(ack, 0u);
}

static bool waits(const struct bed *bed)
{
	const struct vhost_session *s = bed->dev.vhost.session;

	return s && s->message_waits;
}

/* The front-end's next message waits, and everybody's rings and the neighbour's memory do not. */
static void it_waits_and_nobody_else(void)
{
	STAYS(true, 50);
	OK(&other.f, add(&other, 8 * TIB));
	OK(&other.f, take_away(&other, 8 * TIB));
	cr_assert(waits(&b));
	cr_assert(STAYS(waits(&b), 50));
	bed_echo(&b, 0);
	bed_echo(&other, 0);
}

/* A front-end that maps and drops the widest there is, without end. */
Test(guard_space, memory_counts_until_it_is_unmapped_T14, .timeout = 60)
{
	uint64_t before;

	open_both();
	before = taken();
	add_and_take_away(&b, 8 * TIB);
	add_and_take_away(&b, 8 * TIB);
	for (unsigned i = 0; i < 20; i++) {
		const struct vu_mem_reg r = region_of(8 * TIB);

		OK(&b.f,
		   frontend_send(&b.f, VU_ADD_MEM_REG, VU_VERSION, &r, sizeof(r), &hollow, 1));
		OK(&b.f, frontend_send(&b.f, VU_REM_MEM_REG, VU_VERSION, &r, sizeof(r), NULL, 0));
	}
	it_waits_and_nobody_else();
	cr_assert_leq(taken(), before + DEVICE_MAX + 8 * TIB);
	let_go();
	/* Nothing was refused, or done too early. */
	add_and_take_away(&b, 8 * TIB);
	cr_assert_eq(counter_read(&b.dev.vhost.stats.messages_refused), 0u);
	bed_echo(&b, 0);
	/* The neighbour's 8 TiB may be on their way out, too. */
	cr_assert_leq(taken(), before + DEVICE_MAX + 8 * TIB);
	close_both();
}

/* The next connection has no more than the one before it left. */
Test(guard_space, a_new_connection_does_not_begin_anew_T14, .timeout = 60)
{
	uint64_t before;
	unsigned n;

	open_both();
	before = taken();
	for (n = 0; n < 12; n++) {
		if (n)
			bed_start_queue(&b, 0);
		add_without_waiting(&b, 8 * TIB);
		if (n < 2)
			acked(&b, VU_ADD_MEM_REG);
		else
			cr_assert(EVENTUALLY(waits(&b)), "connection %u", n);
		if (n == 11)
			break;
		frontend_close(&b.f);
		/* One that waits is noticed to have gone, too. */
		cr_assert(EVENTUALLY(b.dev.disconnected == b.dev.connected));
		bed_connect(&b);
		negotiate();
	}
	it_waits_and_nobody_else();
	cr_assert_leq(taken(), before + DEVICE_MAX + 8 * TIB);
	let_go();
	acked(&b, VU_ADD_MEM_REG);
	bed_echo(&b, 0);
	close_both();
}

/*
 * As QEMU does while a guest boots: the table over and over, with a piece that is another one each
 * time; and a front-end that restarts. Not held up, however long it takes to unmap that.
 */
Test(guard_space, a_guest_of_1_tib_is_told_of_as_often_as_one_likes, .timeout = 60)
{
	struct vu_mem_table t = { .n = 4 };
	int fds[4];

	open_both();
	for (unsigned i = 0; i < 2; i++) {
		const struct guest_region *r = &b.memory.region[i];

		t.region[i] = (struct vu_region) { r->gpa, r->size, r->uva, r->offset };
		fds[i] = r->fd;
	}
	t.region[2] = (struct vu_region) { HIGH, TIB, 2 * HIGH, 0 };
	fds[2] = fds[3] = hollow;
	for (unsigned n = 0; n < 10; n++) {
		for (unsigned i = 0; i < 40; i++) {
			uint64_t size = (2 + i % 2) * GIB;

			t.region[3] = (struct vu_region) { GIB, size, 2 * HIGH - 8 * GIB, 0 };
			OK(&b.f, frontend_set(&b.f, VU_SET_MEM_TABLE, &t, sizeof(t), fds, 4));
			OK(&b.f, frontend_set(&b.f, VU_SET_MEM_TABLE, &t, sizeof(t), fds, 4));
			if (n && i == 0)
				bed_start_queue(&b, 0);
			bed_echo(&b, 0);
		}
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == b.dev.connected));
		bed_connect(&b);
		negotiate();
	}
	cr_assert_eq(counter_read(&b.dev.vhost.stats.messages_refused), 0u);
	let_go();
	close_both();
}

/* To wait would not help: nothing of it is on its way out. */
Test(guard_space, what_is_too_much_by_itself_is_refused_T14, .timeout = 60)
{
	struct vu_mem_table t = { .n = 1, .region = { { HIGH, 10 * TIB, 2 * HIGH, 0 } } };

	open_both();
	bed_echo(&b, 0);
	for (unsigned i = 0; i < 3; i++) {
		t.region[0].offset = 0;
		OK(&b.f, frontend_set(&b.f, VU_SET_MEM_TABLE, &t, 8 + 32, &hollow, 1));
		/* Ten more, while the first ten are in use. */
		t.region[0].offset = 4 * TIB;
		cr_assert_eq(frontend_set(&b.f, VU_SET_MEM_TABLE, &t, 8 + 32, &hollow, 1),
			     -EREMOTEIO);
		cr_assert_eq(b.dev.vhost.map->n, 1u);
	}
	bed_echo(&other, 0);
	let_go();
	close_both();
}

Test(guard_space, logs_count_until_they_are_unmapped_T14, .timeout = 60)
{
	const uint64_t log[2] = { 256 * GIB, 0 };
	uint64_t zero;
	unsigned n;

	open_both();
	add_and_take_away(&b, 8 * TIB);
	for (n = 0; n < 40; n++) {
		OK(&b.f,
		   frontend_send(&b.f, VU_SET_LOG_BASE, VU_VERSION, log, sizeof(log), &hollow, 1));
		STAYS(!waits(&b) && b.f.sock >= 0, 2);
		if (waits(&b))
			break;
		OK(&b.f, frontend_recv_reply(&b.f, VU_SET_LOG_BASE, &zero, 8, NULL, NULL));
	}
	/* Of the 9 TiB that are left, the memory and what lies at the ends of a log take a bit. */
	cr_assert_eq(n, 35u);
	it_waits_and_nobody_else();
	let_go();
	OK(&b.f, frontend_recv_reply(&b.f, VU_SET_LOG_BASE, &zero, 8, NULL, NULL));
	bed_echo(&b, 0);
	close_both();
}

Test(guard_space, in_flight_buffers_count_until_they_are_unmapped_T14, .timeout = 60)
{
	const uint64_t inflight[3] = { GIB, 0, 1 | 64 << 16 };
	unsigned n;

	open_both();
	add_and_take_away(&b, 15 * TIB);
	add_and_take_away(&b, 2 * TIB - 16 * GIB);
	for (n = 0; n < 20; n++) {
		OK(&b.f, frontend_send(&b.f, VU_SET_INFLIGHT_FD, VU_VERSION | VU_NEED_REPLY,
				       inflight, sizeof(inflight), &hollow, 1));
		STAYS(!waits(&b) || b.dev.vhost.session->n_stopping, 10);
		if (waits(&b))
			break;
		acked(&b, VU_SET_INFLIGHT_FD);
	}
	cr_assert_eq(n, 14u);
	cr_assert(STAYS(waits(&b), 50));
	bed_echo(&other, 0); /* its own rings rest: they were stopped for the message */
	let_go();
	acked(&b, VU_SET_INFLIGHT_FD);
	bed_echo(&b, 0);
	close_both();
}

/* Each has a descriptor and a mapping, of which a process has only so many. */
Test(guard_space, only_so_many_small_pieces_wait_to_be_unmapped_T13, .timeout = 60)
{
	const uint64_t small = 64 << 20;
	struct rlimit limit;

	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_max < 2048)
		cr_skip_test("fewer than 2048 descriptors here");
	limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)4096);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	open_both();
	for (unsigned i = 0; i < 1024; i++)
		add_and_take_away(&b, small);
	add_without_waiting(&b, small);
	it_waits_and_nobody_else();
	let_go();
	acked(&b, VU_ADD_MEM_REG);
	OK(&b.f, take_away(&b, small));
	add_and_take_away(&b, small);
	close_both();
}

/* Of accounts that are freed before it is, too, as of a device that is removed. */
Test(guard_space, what_all_devices_had_counts_until_it_is_unmapped_T14, .timeout = 60)
{
	const struct mem_region_desc d = { .size = 16 * TIB };
	struct mem_account *account[4];
	struct error err = { 0 };
	struct mem_map *map[4];

	open_both();
	for (unsigned i = 0; i < 4; i++) {
		account[i] = mem_account_new();
		map[i] = mem_map_add(account[i], NULL, &d, hollow, &err);
		if (i == 2)
			OK(&other.f, add(&other, 8 * TIB));
		if (i < 3)
			cr_assert_not_null(map[i]);
	}
	cr_assert_null(map[3]);
	cr_assert_not_null(strstr(err.text, "all devices together"), "%s", err.text);
	cr_assert_eq(add(&b, 9 * TIB), -EREMOTEIO); /* to wait would not help */
	for (unsigned i = 0; i < 4; i++) {
		mem_map_free(map[i]);
		mem_account_free(account[i]);
	}
	add_without_waiting(&b, 9 * TIB);
	cr_assert(EVENTUALLY(waits(&b)));
	cr_assert(STAYS(waits(&b), 50));
	bed_echo(&b, 0);
	let_go();
	acked(&b, VU_ADD_MEM_REG);
	close_both();
}

Test(guard_space, a_device_can_go_while_its_front_end_waits, .timeout = 60)
{
	uint64_t before;

	open_both();
	before = taken();
	add_and_take_away(&other, 15 * TIB);
	add_without_waiting(&other, 15 * TIB);
	cr_assert(EVENTUALLY(waits(&other)));
	vhost_device_close(&other.dev.vhost, NULL);
	cr_assert(EVENTUALLY(other.dev.disconnected == 1));
	bed_beside_fini(&other);
	bed_beside(&other, &b, 0);
	bed_echo(&b, 0);
	let_go();
	cr_assert(EVENTUALLY(taken() < before + TIB));
	add_and_take_away(&other, 15 * TIB);
	close_both();
}

static unsigned no_threads; /* so many cannot be made */

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	if (no_threads) {
		no_threads--;
		return EAGAIN;
	}
	return __real_pthread_create(t, attr, fn, arg);
}

/* Nobody else may come with something to unmap, and with that a thread. */
Test(guard_space, who_waits_for_a_thread_that_could_not_be_made_has_it_made_again, .timeout = 60)
{
	open_both();
	let_go();
	OK(&b.f, add(&b, 15 * TIB));
	cr_assert(EVENTUALLY(count_threads() == threads));
	no_threads = 5;
	OK(&b.f, take_away(&b, 15 * TIB));
	add_without_waiting(&b, 15 * TIB);
	cr_assert(EVENTUALLY(waits(&b)));
	acked(&b, VU_ADD_MEM_REG);
	cr_assert_eq(no_threads, 0u);
	close_both();
}
