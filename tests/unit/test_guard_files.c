/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that keep whoever touches or closes them waiting (T13, T14): a file behind which a
 * silent FUSE server stands, a TCP socket that lingers. A neighbour is served all the time by the
 * same control thread, which is the test's own: were it held up, the test would run out of time.
 */
#include "tests/unit/fuse_silent.h"
#include "tests/unit/lingering.h"
#include "tests/unit/session_util.h"
#include "vhost/disposal.h"
#include "vhost/shared_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

static struct bed b, other; /* two devices on one worker */

static void open_both(void)
{
	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	bed_connect(&b);
	bed_negotiate(&b, VU_PF_USUAL | VU_PF_BACKEND_REQ | VU_PF_INFLIGHT_SHMFD, 0);
	bed_start_queue(&b, 0);
	bed_beside(&other, &b, 0);
}

static void close_both(void)
{
	bed_beside_fini(&other);
	bed_fini(&b);
}

/* Each message that may carry a descriptor, and some that may not, with @fd: all are refused. */
static void refused_everywhere(int fd)
{
	const struct vu_mem_reg region = {
		.region = { .gpa = UINT64_C(1) << 32, .size = 4096, .uva = UINT64_C(1) << 45 }
	};
	struct vu_mem_table table = { .n = 1 };
	const uint64_t log[2] = { 4096, 0 };
	const uint64_t inflight[3] = { 65536, 0, 1 | 64 << 16 };

	table.region[0] = region.region;
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(frontend_set(&b.f, VU_ADD_MEM_REG, &region, sizeof(region), &fd, 1),
			     -EREMOTEIO);
		cr_assert_eq(frontend_set(&b.f, VU_SET_MEM_TABLE, &table, 8 + sizeof(region.region),
					  &fd, 1),
			     -EREMOTEIO);
		cr_assert_eq(frontend_set(&b.f, VU_SET_LOG_FD, NULL, 0, &fd, 1), -EREMOTEIO);
		cr_assert_eq(frontend_set(&b.f, VU_SET_BACKEND_REQ_FD, NULL, 0, &fd, 1),
			     -EREMOTEIO);
		cr_assert_eq(
			frontend_set(&b.f, VU_SET_INFLIGHT_FD, inflight, sizeof(inflight), &fd, 1),
			-EREMOTEIO);
		cr_assert_eq(frontend_vring_fd(&b.f, VU_SET_VRING_KICK, 1, fd), -EREMOTEIO);
		cr_assert_eq(frontend_vring_fd(&b.f, VU_SET_VRING_CALL, 1, fd), -EREMOTEIO);
		cr_assert_eq(frontend_vring_fd(&b.f, VU_SET_VRING_ERR, 1, fd), -EREMOTEIO);
		cr_assert_eq(frontend_set(&b.f, VU_SET_OWNER, NULL, 0, &fd, 1), -EREMOTEIO);
		bed_echo(&b, 0);
		bed_echo(&other, 0);
	}
	/* A reply of its own cannot say no. */
	frontend_send(&b.f, VU_SET_LOG_BASE, VU_VERSION, log, sizeof(log), &fd, 1);
	OK(&b.f, frontend_wait_hangup(&b.f));
	bed_echo(&other, 0);
}

Test(guard_files, a_silent_fuse_server_keeps_nobody_waiting, .timeout = 30)
{
	struct fuse_silent fuse;
	unsigned before = settled_fds();

	if (fuse_silent_open(&fuse) < 0)
		cr_skip_test("no FUSE here");
	open_both();
	refused_everywhere(fuse.fd);
	fuse_silent_close(&fuse);
	close_both();
	cr_assert(EVENTUALLY(count_fds() <= before));
}

/* Also where /proc/self/fd does not tell what is what. */
Test(guard_files, what_kind_a_file_is_is_known_without_asking_it, .timeout = 30)
{
	struct fuse_silent fuse;
	struct error err = { 0 };
	int fd;

	if (fuse_silent_open(&fuse) < 0)
		cr_skip_test("no FUSE here");
	cr_assert_eq(shared_file_check(fuse.fd, &err), -EINVAL);
	cr_assert_not_null(strstr(err.text, "lies on fuse"), "%s", err.text);
	cr_assert_not_null(strstr(err.text, "memory-backend-memfd"), "%s", err.text);
	cr_assert_not(shared_file_closes_at_once(fuse.fd));
	cr_assert_not(shared_file_is_eventfd(fuse.fd));
	fuse_silent_close(&fuse);

	fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	cr_assert_eq(shared_file_check(fd, &err), -EINVAL);
	close(fd);
	fd = eventfd(0, EFD_CLOEXEC);
	cr_assert_eq(shared_file_check(fd, &err), -EINVAL);
	cr_assert(shared_file_is_eventfd(fd) && shared_file_closes_at_once(fd));
	close(fd);
	/* It has the same inode, and closing it lets go of all that it watches. */
	fd = epoll_create1(EPOLL_CLOEXEC);
	cr_assert_not(shared_file_closes_at_once(fd));
	close(fd);
	fd = memfd_create("m", MFD_CLOEXEC);
	cr_assert_eq(shared_file_check(fd, &err), 0);
	cr_assert(shared_file_closes_at_once(fd));
	/* Its length is no matter, what is in it is: that has to be freed. */
	cr_assert_eq(ftruncate(fd, (off_t)1 << 40), 0);
	cr_assert(shared_file_closes_at_once(fd));
	cr_assert_eq(fallocate(fd, 0, (off_t)1 << 30, 4 << 20), 0);
	cr_assert_not(shared_file_closes_at_once(fd));
	close(fd);
	fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		cr_assert_eq(shared_file_check(fd, &err), 0, "%s", err.text);
	close(fd);
}

Test(guard_files, files_on_local_disks_are_taken)
{
	struct error err = { 0 };
	struct statfs fs;
	int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 || fstatfs(fd, &fs) < 0 || fs.f_type != EXT4_SUPER_MAGIC)
		cr_skip_test("/var/tmp is not on ext4");
	cr_assert_eq(shared_file_check(fd, &err), 0, "%s", err.text);
	close(fd);
}

Test(guard_files, a_socket_that_lingers_is_closed_behind_our_backs, .timeout = 30)
{
	unsigned before = settled_fds();
	struct lingering l;

	lingering_open(&l);
	open_both();
	refused_everywhere(l.fd);
	/* Ours is the last reference: the one that waits. */
	frontend_close(&b.f);
	bed_connect(&b);
	bed_negotiate(&b, VU_PF_USUAL, 0);
	frontend_send(&b.f, VU_SET_OWNER, VU_VERSION, NULL, 0, &l.fd, 1);
	close(l.fd);
	for (unsigned i = 0; i < 20; i++)
		bed_echo(&other, 0);
	lingering_close(&l);
	close_both();
	cr_assert(EVENTUALLY(count_fds() <= before));
}

/* The kernel drops what came with MSG_OOB when the bytes behind it are read, and closes its files.
 */
Test(guard_files, descriptors_out_of_band_hold_nobody_up, .timeout = 30)
{
	struct lingering l;

	lingering_open(&l);
	open_both();
	if (send_fd(b.f.sock, "o", 1, MSG_OOB, l.fd) == -EOPNOTSUPP)
		cr_skip_test("unix sockets send nothing out of band here");
	close(l.fd);
	for (unsigned i = 0; i < 20; i++)
		bed_echo(&other, 0);
	/* It is part of a header like any other byte, and that of a message that cannot be. */
	OK(&b.f,
	   frontend_send_raw(&b.f, "\377\377\377\377\377\377\377\377\377\377\377", 11, NULL, 0));
	OK(&b.f, frontend_wait_hangup(&b.f));
	lingering_close(&l);
	close_both();
}

/* In a socket that is closed before all of it was read there may be descriptors too. */
static void closed_unread(int flags)
{
	const struct vu_header bad = { .request = VU_SET_OWNER, .flags = 3 }; /* no such version */
	struct lingering l;

	lingering_open(&l);
	open_both();
	OK(&b.f, frontend_send_raw(&b.f, &bad, sizeof(bad), NULL, 0));
	if (send_fd(b.f.sock, "u", 1, flags, l.fd) == -EOPNOTSUPP)
		cr_skip_test("unix sockets send nothing out of band here");
	close(l.fd);
	OK(&b.f, frontend_wait_hangup(&b.f));
	for (unsigned i = 0; i < 20; i++)
		bed_echo(&other, 0);
	lingering_close(&l);
	close_both();
}

Test(guard_files, descriptors_in_a_socket_that_is_closed_unread_hold_nobody_up, .timeout = 30)
{
	closed_unread(0);
}

Test(guard_files, nor_do_those_that_were_sent_out_of_band, .timeout = 30)
{
	closed_unread(MSG_OOB);
}

/* Nor those of a front-end that was turned away, whose socket nobody ever read. */
Test(guard_files, nor_do_those_of_a_second_front_end, .timeout = 30)
{
	struct frontend second;
	struct lingering l;

	lingering_open(&l);
	open_both();
	frontend_init(&second);
	second.timeout_ms = 5000;
	second.idle = bed_step;
	OK(&second, frontend_connect(&second, b.path));
	if (send_fd(second.sock, "s", 1, MSG_OOB, l.fd) == -EOPNOTSUPP)
		cr_skip_test("unix sockets send nothing out of band here");
	close(l.fd);
	OK(&second, frontend_wait_hangup(&second));
	for (unsigned i = 0; i < 20; i++)
		bed_echo(&other, 0);
	frontend_close(&second);
	lingering_close(&l);
	close_both();
}

Test(guard_files, all_that_one_message_can_carry_are_taken_and_closed)
{
	unsigned before;
	int fds[253];

	open_both();
	before = settled_fds();
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = i % 2 ? eventfd(0, EFD_CLOEXEC) : memfd_create("f", MFD_CLOEXEC);
	for (unsigned n = 1; n <= 253; n = n == 128 ? 253 : n * 2)
		for (unsigned i = 0; i < 4; i++)
			cr_assert_eq(frontend_set(&b.f, VU_SET_OWNER, NULL, 0, fds, n), -EREMOTEIO,
				     "%u descriptors", n);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	cr_assert(fds_become(before));
	bed_echo(&b, 0);
	close_both();
}

/* Keeps a device's thread until something comes through its pipe. */
struct held {
	struct errand errand;
	int pipe[2];
};

static void wait_for_byte(struct errand *e)
{
	struct held *h = container_of(e, struct held, errand);
	char byte;

	(void)!read(h->pipe[0], &byte, 1);
}

static int memory_file(off_t bytes)
{
	int fd = memfd_create("m", MFD_CLOEXEC);

	cr_assert_eq(fallocate(fd, 0, 0, bytes), 0);
	return fd;
}

static void *page_of(int fd)
{
	void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

	cr_assert_neq(page, MAP_FAILED);
	return page;
}

/* Ours may be the last reference to a file with a guest in it, also where we mapped a page of it.
 */
Test(guard_files, files_with_much_memory_are_freed_behind_our_backs, .timeout = 30)
{
	struct disposal *d = disposal_new();
	struct held h = { .errand.run = wait_for_byte };
	const size_t wide = 64 << 20; /* of a file that holds nothing */
	int large[2], small[2], hollow = memfd_create("hollow", MFD_CLOEXEC);
	unsigned char there;
	void *base;

	cr_assert_eq(ftruncate(hollow, (off_t)wide), 0);
	base = mmap(NULL, wide, PROT_READ, MAP_SHARED, hollow, 0);
	cr_assert_neq(base, MAP_FAILED);
	cr_assert_eq(pipe2(h.pipe, O_CLOEXEC), 0);
	cr_assert(disposal_run(d, &h.errand));
	for (unsigned i = 0; i < 2; i++) {
		large[i] = memory_file(4 << 20);
		small[i] = memory_file(4096);
	}
	disposal_close(d, large[0]);
	disposal_unmap(d, page_of(large[1]), 4096, large[1], NULL, NULL);
	disposal_close(d, small[0]);
	disposal_unmap(d, page_of(small[1]), 4096, small[1], NULL, NULL);
	disposal_unmap(d, base, wide, hollow, NULL, NULL);
	cr_assert_eq(mincore(base, 4096, &there), 0, "it was unmapped here");
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_geq(fcntl(large[i], F_GETFD), 0, "large %u", i);
		cr_assert_lt(fcntl(small[i], F_GETFD), 0, "small %u", i);
	}
	cr_assert_eq(write(h.pipe[1], "x", 1), 1);
	for (unsigned i = 0; i < 20000 && fcntl(hollow, F_GETFD) >= 0; i++)
		usleep(1000);
	cr_assert_lt(fcntl(large[0], F_GETFD), 0);
	cr_assert_lt(fcntl(large[1], F_GETFD), 0);
	cr_assert_lt(fcntl(hollow, F_GETFD), 0);
	disposal_free(d);
	close(h.pipe[0]);
	close(h.pipe[1]);
}

/* Which threads unmap something. */
static unsigned unmapped_here, unmapped_elsewhere; /* atomic */
static size_t longest, in_all; /* bytes that were unmapped elsewhere, at once and in all; atomic */

int __real_munmap(void *base, size_t len);
int __wrap_munmap(void *base, size_t len);

int __wrap_munmap(void *base, size_t len)
{
	__atomic_fetch_add(gettid() == getpid() ? &unmapped_here : &unmapped_elsewhere, 1,
			   __ATOMIC_RELAXED);
	if (gettid() != getpid())
		__atomic_fetch_add(&in_all, len, __ATOMIC_RELAXED);
	if (gettid() != getpid() && len > __atomic_load_n(&longest, __ATOMIC_RELAXED))
		__atomic_store_n(&longest, len, __ATOMIC_RELAXED);
	return __real_munmap(base, len);
}

static void unmapped_by_the_thread(off_t there)
{
	const size_t len = (128 << 20) + 12288;
	int fd = memfd_create("wide", MFD_CLOEXEC);
	void *base;

	longest = in_all = 0;
	cr_assert_eq(ftruncate(fd, (off_t)len), 0);
	cr_assert_eq(fallocate(fd, 0, 0, there), 0);
	base = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	cr_assert_neq(base, MAP_FAILED);
	disposal_unmap(disposal_of_memory, base, len, fd, NULL, NULL);
	for (unsigned i = 0; i < 20000 && fcntl(fd, F_GETFD) >= 0; i++)
		usleep(1000);
	cr_assert_lt(fcntl(fd, F_GETFD), 0);
	cr_assert_eq(__atomic_load_n(&in_all, __ATOMIC_RELAXED), len);
}

/*
 * While munmap() frees what was touched, at some 100 ms a GiB, nobody else in the process maps
 * anything: the control thread would wait for all of a large guest.
 */
Test(guard_files, large_memory_is_unmapped_in_pieces_T13, .timeout = 30)
{
	unmapped_by_the_thread(72 << 20);
	cr_assert_leq(__atomic_load_n(&longest, __ATOMIC_RELAXED), (size_t)64 << 20);
	/* With nothing in it it goes at once. */
	unmapped_by_the_thread(4096);
	cr_assert_gt(__atomic_load_n(&longest, __ATOMIC_RELAXED), (size_t)128 << 20);
}

static bool unmapped(unsigned here, unsigned elsewhere)
{
	return unmapped_here == here &&
	       EVENTUALLY(__atomic_load_n(&unmapped_elsewhere, __ATOMIC_RELAXED) == elsewhere);
}

/* Nor is what a front-end gives us beside the guest's memory, of whose files it describes a part.
 */
Test(guard_files, nor_are_a_log_and_a_buffer_in_large_files_freed_on_the_control_thread_T13,
     .timeout = 30)
{
	const uint64_t log[2] = { 4096, 4096 };
	const uint64_t inflight[3] = { 65536, 0, 1 | 64 << 16 };
	uint64_t zero;

	open_both();
	unmapped_elsewhere = 0;
	for (unsigned i = 0; i < 4; i++) {
		int fd = memory_file(i % 2 ? 64 << 10 : 4 << 20);

		unmapped_here = 0;
		OK(&b.f,
		   frontend_send(&b.f, VU_SET_LOG_BASE, VU_VERSION, log, sizeof(log), &fd, 1));
		OK(&b.f, frontend_recv_reply(&b.f, VU_SET_LOG_BASE, &zero, 8, NULL, NULL));
		cr_assert(unmapped(i == 2, (i + 1) / 2), "log %u", i);
		close(fd);
	}
	unmapped_elsewhere = 0;
	for (unsigned i = 0; i < 4; i++) {
		int fd = memory_file(i % 2 ? 64 << 10 : 4 << 20);

		unmapped_here = 0;
		OK(&b.f,
		   frontend_set(&b.f, VU_SET_INFLIGHT_FD, inflight, sizeof(inflight), &fd, 1));
		cr_assert(unmapped(i == 2, (i + 1) / 2), "in-flight buffer %u", i);
		close(fd);
	}
	close_both();
}

/* A front-end cannot pile up what cannot be closed, neither in one connection nor in many. */
Test(guard_files, a_device_whose_descriptors_do_not_close_takes_no_more, .timeout = 60)
{
	struct lingering l;
	int fds[250];

	lingering_open(&l);
	open_both();
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = i ? dup(b.memory.region[0].fd) : l.fd;
	/* Behind the one that lingers, pipes wait for their turn. */
	frontend_send(&b.f, VU_SET_OWNER, VU_VERSION, NULL, 0, &l.fd, 1);
	close(l.fd);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i += 2) {
		if (i)
			close(fds[i]);
		close(fds[i + 1]);
		cr_assert_eq(pipe2(&fds[i], O_CLOEXEC), 0);
	}
	for (unsigned i = 0; i < 6; i++) {
		frontend_send(&b.f, VU_SET_OWNER, VU_VERSION, NULL, 0, fds, ARRAY_SIZE(fds));
		bed_echo(&other, 0);
	}
	OK(&b.f, frontend_wait_hangup(&b.f));
	frontend_close(&b.f);
	OK(&b.f, frontend_connect(&b.f, b.path));
	cr_assert(STAYS(b.dev.connected == 1, 100));
	bed_echo(&other, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	lingering_close(&l);
	/* And when they are closed it is listened to again. */
	cr_assert(EVENTUALLY(b.dev.connected == 2));
	close_both();
}
