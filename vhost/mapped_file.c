/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/mapped_file.h"

#include "base/error.h"
#include "vhost/disposal.h"
#include "vhost/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of a device. */
#define ACCOUNT_MAX (MEM_BYTES_MAX + (UINT64_C(1) << 40))
/* Of all devices. Half of what a process has: what is left does for stacks and all else. */
#define ALL_MAX (UINT64_C(64) << 40)
/* Pieces of one device that wait to be unmapped: each has a descriptor and a mapping. */
#define LEAVING_MAX 1024

struct mem_account {
	uint64_t used;	    /* bytes that somebody may use; the control thread's */
	uint64_t leaving;   /* bytes that are to be unmapped; atomic */
	unsigned n_leaving; /* pieces of those; atomic */
	unsigned refs;	    /* atomic: the device's, and one for each piece */
};

static struct mem_account all; /* never freed */

static void put(struct mem_account *a)
{
	if (__atomic_sub_fetch(&a->refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(a);
}

struct mem_account *mem_account_new(void)
{
	struct mem_account *a = calloc(1, sizeof(*a));

	if (a)
		a->refs = 1;
	return a;
}

void mem_account_free(struct mem_account *a)
{
	if (a)
		put(a);
}

static uint64_t leaving(const struct mem_account *a)
{
	return __atomic_load_n(&a->leaving, __ATOMIC_ACQUIRE);
}

static bool fits(const struct mem_account *a, uint64_t max, uint64_t bytes)
{
	uint64_t had = a->used + leaving(a);

	return had <= max && bytes <= max - had;
}

static bool will_fit(const struct mem_account *a, uint64_t max, uint64_t bytes)
{
	return a->used <= max && bytes <= max - a->used;
}

bool mem_account_must_wait(const struct mem_account *a, uint64_t bytes)
{
	if ((a && !will_fit(a, ACCOUNT_MAX, bytes)) || !will_fit(&all, ALL_MAX, bytes))
		return false;
	return (a && !fits(a, ACCOUNT_MAX, bytes)) || !fits(&all, ALL_MAX, bytes) ||
	       (a && __atomic_load_n(&a->n_leaving, __ATOMIC_ACQUIRE) >= LEAVING_MAX);
}

static int check_room(const struct mem_account *a, size_t len, struct error *err)
{
	if (a && !fits(a, ACCOUNT_MAX, len))
		return error_set(err, -ENOMEM,
				 "the device would have mapped more than 0x%" PRIx64
				 " bytes, with what it had and is not unmapped yet",
				 ACCOUNT_MAX);
	if (!fits(&all, ALL_MAX, len))
		return error_set(err, -ENOMEM,
				 "all devices together would have mapped more than 0x%" PRIx64
				 " bytes",
				 ALL_MAX);
	return 0;
}

int mapped_file_open(struct mapped_file *m, struct mem_account *a, int fd, uint64_t offset,
		     size_t len, int flags, struct error *err)
{
	int rc = check_room(a, len, err);

	*m = MAPPED_FILE_NONE;
	if (rc < 0)
		return rc;
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (fd >= 0)
		m->base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd,
			       (off_t)offset);
	if (m->base == MAP_FAILED) {
		rc = error_set(err, -errno, "%s", strerror(errno));
		if (fd >= 0)
			close(fd);
		return rc;
	}
	m->account = a;
	m->len = len;
	m->fd = fd;
	all.used += len;
	if (a) {
		a->used += len;
		__atomic_add_fetch(&a->refs, 1, __ATOMIC_RELAXED);
	}
	return 0;
}

static void leave(struct mem_account *a, size_t len)
{
	a->used -= len;
	__atomic_add_fetch(&a->leaving, len, __ATOMIC_RELAXED);
	__atomic_add_fetch(&a->n_leaving, 1, __ATOMIC_RELAXED);
}

/* Release: who then sees that there is room finds it. */
static void left(struct mem_account *a, size_t len)
{
	__atomic_sub_fetch(&a->leaving, len, __ATOMIC_RELEASE);
	__atomic_sub_fetch(&a->n_leaving, 1, __ATOMIC_RELEASE);
}

/* Any thread. */
static void unmapped(void *arg, size_t len)
{
	struct mem_account *a = arg;

	left(&all, len);
	if (!a)
		return;
	left(a, len);
	put(a);
}

void mapped_file_close(struct mapped_file *m)
{
	if (m->base == MAP_FAILED)
		return;
	leave(&all, m->len);
	if (m->account)
		leave(m->account, m->len);
	/* Not by the device's: a descriptor that lingers there would keep the addresses. */
	disposal_unmap(disposal_of_memory, m->base, m->len, m->fd, unmapped, m->account);
	*m = MAPPED_FILE_NONE;
}
