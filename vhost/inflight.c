/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/inflight.h"

#include "base/error.h"
#include "vhost/mapped_file.h"
#include "vhost/mem_guard.h"
#include "vhost/shared_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define REGION_ALIGN 64u
/*
 * Front-ends ask for room for the queue size that they were configured with, but a guest on QEMU's
 * virtio-mmio chooses one of up to 1024 whatever that is.
 */
#define ROOM_MIN 1024u
#define BYTES_MAX (UINT64_C(1) << 30) /* 256 queues of 32768 entries take a quarter of it */

/* Behind the regions, on the page where they end or the next. */
struct inflight_tail {
	uint64_t magic;
	uint8_t note;
};
#define TAIL_MAGIC UINT64_C(0x65746f6e63756c73) /* "slucnote" */
#define TAIL_BYTES 4096u

struct inflight {
	struct mapped_file file; /* offsets are multiples of a page */
	struct mem_guard *guard;
	unsigned queues;
	uint64_t stride;	    /* bytes from one queue's region to the next */
	struct inflight_tail *tail; /* NULL: none */
};

static uint64_t region_bytes(enum ring_layout layout, uint64_t size)
{
	uint64_t bytes = layout == RING_PACKED ? sizeof(struct inflight_packed) +
							 size * sizeof(struct inflight_packed_desc)
					       : sizeof(struct inflight_split) +
							 size * sizeof(struct inflight_split_desc);

	return ALIGN_UP(bytes, REGION_ALIGN);
}

int inflight_create(unsigned queues, unsigned queue_size, struct vhost_user_inflight *out,
		    struct error *err)
{
	/* The layout may be negotiated later: room for the larger one. */
	uint64_t stride = region_bytes(RING_PACKED, MAX(queue_size, ROOM_MIN));
	uint64_t bytes = queues * stride, tail_at = ALIGN_UP(bytes, (uint64_t)TAIL_BYTES);
	const struct inflight_tail tail = { .magic = TAIL_MAGIC };
	int fd = memfd_create("sluice-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int rc;

	/* Sealed, since a front-end has no reason to change its size and a reader would fault. */
	if (fd < 0 || ftruncate(fd, (off_t)(tail_at + TAIL_BYTES)) < 0 ||
	    pwrite(fd, &tail, sizeof(tail), (off_t)tail_at) != sizeof(tail) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
		rc = error_set(err, -errno, "an in-flight buffer of %" PRIu64 " bytes: %s", bytes,
			       strerror(errno));
		if (fd >= 0)
			close(fd);
		return rc;
	}
	*out = (struct vhost_user_inflight) { .mmap_size = bytes,
					      .num_queues = (uint16_t)queues,
					      .queue_size = (uint16_t)queue_size };
	return fd;
}

static int check(const struct vhost_user_inflight *d, int fd, unsigned queues_max,
		 struct error *err)
{
	uint64_t file_bytes;
	struct stat st;

	if (d->num_queues == 0 || d->num_queues > queues_max)
		return error_set(err, -EINVAL, "it is for %u queues; the device has %u",
				 d->num_queues, queues_max);
	if (d->queue_size == 0 || d->queue_size > RING_SIZE_MAX)
		return error_set(err, -EINVAL, "it is for queues of %u entries: 1 to %d",
				 d->queue_size, RING_SIZE_MAX);
	if (d->mmap_size > BYTES_MAX ||
	    d->mmap_size < d->num_queues * region_bytes(RING_SPLIT, d->queue_size))
		return error_set(err, -EINVAL,
				 "its %" PRIu64 " bytes are not right for %u queues of %u entries",
				 d->mmap_size, d->num_queues, d->queue_size);
	if (shared_file_check(fd, err) < 0)
		return err->code;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "its descriptor is not a file");
	file_bytes = (uint64_t)st.st_size;
	if (d->mmap_offset % (uint64_t)sysconf(_SC_PAGESIZE) || d->mmap_offset > file_bytes ||
	    d->mmap_size > file_bytes - d->mmap_offset)
		return error_set(err, -EINVAL,
				 "its %" PRIu64 " bytes at %" PRIu64
				 " do not lie on pages within its file of %" PRIu64,
				 d->mmap_size, d->mmap_offset, file_bytes);
	return 0;
}

/* How much of the file is there for us, from @offset on: what was described, or that and a tail. */
static uint64_t mapped_bytes(int fd, const struct vhost_user_inflight *desc, size_t page)
{
	uint64_t bytes = ALIGN_UP(desc->mmap_size, page);
	uint64_t with_tail = ALIGN_UP(ALIGN_UP(desc->mmap_size, (uint64_t)TAIL_BYTES) + TAIL_BYTES,
				      page);
	struct stat st;

	return fstat(fd, &st) == 0 && (uint64_t)st.st_size >= desc->mmap_offset &&
			       (uint64_t)st.st_size - desc->mmap_offset >= with_tail
		       ? with_tail
		       : bytes;
}

/* The file goes on behind what the message describes, and it was us who made it so. */
static void find_tail(struct inflight *f, uint64_t used)
{
	uint64_t at = ALIGN_UP(used, (uint64_t)TAIL_BYTES);
	struct inflight_tail *tail = (struct inflight_tail *)((uint8_t *)f->file.base + at);

	if (f->file.len >= at + TAIL_BYTES &&
	    __atomic_load_n(&tail->magic, __ATOMIC_RELAXED) == TAIL_MAGIC)
		f->tail = tail;
}

struct inflight *inflight_map(struct mem_account *a, const struct vhost_user_inflight *desc, int fd,
			      unsigned queues_max, struct mem_watch *w, struct error *err)
{
	struct inflight *f;
	size_t page;

	if (check(desc, fd, queues_max, err) < 0)
		return NULL;
	page = shared_file_page(fd);
	f = calloc(1, sizeof(*f));
	if (!f) {
		error_set(err, -ENOMEM, "out of memory for an in-flight buffer");
		return NULL;
	}
	f->queues = desc->num_queues;
	f->stride = ALIGN_DOWN(desc->mmap_size / desc->num_queues, REGION_ALIGN);
	if (mapped_file_open(&f->file, a, fd, desc->mmap_offset, mapped_bytes(fd, desc, page), 0,
			     err) < 0) {
		error_prefix(err, "it cannot be mapped");
		inflight_unmap(f);
		return NULL;
	}
	f->guard = mem_guard_add(&(struct mem_guarded) { .base = f->file.base,
							 .len = f->file.len,
							 .page = page,
							 .fd = f->file.fd,
							 .offset = desc->mmap_offset },
				 w);
	if (!f->guard) {
		error_set(err, -ENOMEM, "out of memory for an in-flight buffer");
		inflight_unmap(f);
		return NULL;
	}
	find_tail(f, desc->mmap_size);
	return f;
}

void inflight_unmap(struct inflight *f)
{
	if (!f)
		return;
	mem_guard_remove(f->guard);
	mapped_file_close(&f->file);
	free(f);
}

void *inflight_region(const struct inflight *f, unsigned queue, enum ring_layout layout,
		      uint32_t size)
{
	if (!f || queue >= f->queues || region_bytes(layout, size) > f->stride)
		return NULL;
	return (uint8_t *)f->file.base + queue * f->stride;
}

/* In both layouts the version stands in the same place. */
static_assert(offsetof(struct inflight_split, version) == offsetof(struct inflight_packed, version),
	      "one access does for both");

int inflight_note(const struct inflight *f)
{
	if (f->tail)
		return __atomic_load_n(&f->tail->note, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < f->queues; i++) {
		const struct inflight_split *region = inflight_region(f, i, RING_SPLIT, 1);

		if (__atomic_load_n(&region->version, __ATOMIC_RELAXED))
			return -1;
	}
	return 0;
}

void inflight_leave_note(struct inflight *f, uint8_t note)
{
	if (f && f->tail)
		__atomic_store_n(&f->tail->note, note, __ATOMIC_RELAXED);
}

void inflight_forget(struct inflight *f)
{
	for (unsigned i = 0; f && i < f->queues; i++) {
		struct inflight_split *region = inflight_region(f, i, RING_SPLIT, 1);

		__atomic_store_n(&region->version, 0, __ATOMIC_RELEASE);
	}
}
