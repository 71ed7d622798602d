/* SPDX-License-Identifier: Apache-2.0 */
/* Large files and mappings of a front-end's are freed by another thread than the control thread. */
#include "base/clock.h"
#include "vhost/disposal.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/* The linker puts these in the way (--wrap): which bytes were freed by which thread. */
int __real_close(int fd);
int __wrap_close(int fd);
int __real_munmap(void *base, size_t len);
int __wrap_munmap(void *base, size_t len);

static uint64_t here, elsewhere;
static pid_t control;

static void note(uint64_t bytes)
{
	__atomic_fetch_add(gettid() == control ? &here : &elsewhere, bytes, __ATOMIC_SEQ_CST);
}

int __wrap_close(int fd)
{
	struct stat st;

	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		note((uint64_t)st.st_blocks * 512);
	return __real_close(fd);
}

int __wrap_munmap(void *base, size_t len)
{
	if (len >= MIB)
		note(len);
	return __real_munmap(base, len);
}

static int file_of(uint64_t bytes)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
	cr_assert_eq(posix_fallocate(fd, 0, (off_t)bytes), 0);
	return fd;
}

static void *mapping_of(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	return p;
}

static void expect(uint64_t bytes_here, uint64_t bytes_elsewhere)
{
	uint64_t end = clock_ns() + UINT64_C(10000000000);

	while (__atomic_load_n(&elsewhere, __ATOMIC_SEQ_CST) < bytes_elsewhere && clock_ns() < end)
		usleep(1000);
	cr_assert_eq(here, bytes_here, "%llu MiB", (unsigned long long)(here / MIB));
	cr_assert_eq(elsewhere, bytes_elsewhere);
}

Test(disposal, a_large_file_is_closed_elsewhere_and_a_small_one_at_once, .timeout = 30)
{
	struct disposal *d = disposal_new();

	control = gettid();
	disposal_close(d, file_of(MIB));
	expect(MIB, 0);
	disposal_close(d, file_of(64 * MIB));
	expect(MIB, 64 * MIB);
	disposal_free(d);
}

Test(disposal, a_large_mapping_is_unmapped_elsewhere, .timeout = 30)
{
	struct disposal *d = disposal_new();

	control = gettid();
	disposal_unmap(d, mapping_of(64 * MIB), 64 * MIB, -1);
	expect(0, 64 * MIB);
	disposal_free(d);
}

/* None of them is large, and together they are: 509 regions may go with one connection. */
Test(disposal, many_small_mappings_at_once_are_unmapped_elsewhere, .timeout = 30)
{
	struct disposal *d = disposal_new();
	void *p[64];

	control = gettid();
	for (unsigned i = 0; i < 64; i++)
		p[i] = mapping_of(4 * MIB);
	for (unsigned i = 0; i < 64; i++)
		disposal_unmap(d, p[i], 4 * MIB, -1);
	for (unsigned i = 0;
	     i < 10000 && __atomic_load_n(&elsewhere, __ATOMIC_SEQ_CST) + here < 256 * MIB; i++)
		usleep(1000);
	cr_assert_eq(here + elsewhere, 256 * MIB);
	/* 32 MiB in a tenth of a second; and these calls may take a few of those. */
	cr_assert_leq(here, 128 * MIB);
	disposal_free(d);
}
