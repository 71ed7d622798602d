/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int open_file(uint64_t bytes, unsigned flags)
{
	bool sealed = flags & GUEST_MEMORY_SEALED;
	int fd = memfd_create("guest", MFD_CLOEXEC | (sealed ? MFD_ALLOW_SEALING : 0) |
					       (flags & GUEST_MEMORY_HUGE ? MFD_HUGETLB : 0));
	int rc;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, bytes) < 0 ||
	    (sealed && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

static int map_region(struct guest_region *r)
{
	void *p = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, r->offset);

	if (p == MAP_FAILED)
		return -errno;
	r->host = p;
	return 0;
}

int guest_memory_create(struct guest_memory *m, const struct guest_range *ranges, unsigned n,
			unsigned flags)
{
	uint64_t total = 0, offset = 0;
	int rc = 0, shared = -1;

	memset(m, 0, sizeof(*m));
	m->flags = flags;
	if (n == 0 || n > GUEST_REGIONS_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < n; i++)
		total += ranges[i].size;
	if (flags & GUEST_MEMORY_ONE_FILE) {
		shared = open_file(total, flags);
		if (shared < 0)
			return shared;
	}
	for (unsigned i = 0; i < n; i++) {
		struct guest_region *r = &m->region[i];

		r->gpa = ranges[i].gpa;
		r->size = ranges[i].size;
		r->uva = GUEST_UVA_BASE + r->gpa;
		r->fd = shared >= 0 ? shared : open_file(r->size, flags);
		if (r->fd < 0) {
			rc = r->fd;
			break;
		}
		r->offset = shared >= 0 ? offset : 0;
		offset += r->size;
		m->n++;
		rc = map_region(r);
		if (rc < 0)
			break;
	}
	if (rc < 0)
		guest_memory_destroy(m);
	return rc;
}

void guest_memory_destroy(struct guest_memory *m)
{
	for (unsigned i = 0; i < m->n; i++) {
		struct guest_region *r = &m->region[i];

		if (r->host)
			munmap(r->host, r->size);
		if (!(m->flags & GUEST_MEMORY_ONE_FILE) || i == 0)
			close(r->fd);
	}
	m->n = 0;
}

void *guest_alloc_in(struct guest_memory *m, unsigned index, uint64_t bytes, uint64_t align,
		     uint64_t *gpa)
{
	struct guest_region *r = &m->region[index];
	uint64_t start = ALIGN_UP(r->gpa + r->used, align) - r->gpa;

	if (index >= m->n || start > r->size || r->size - start < bytes)
		return NULL;
	r->used = start + bytes;
	if (gpa)
		*gpa = r->gpa + start;
	return r->host + start;
}

void *guest_alloc(struct guest_memory *m, uint64_t bytes, uint64_t align, uint64_t *gpa)
{
	for (unsigned i = 0; i < m->n; i++) {
		void *p = guest_alloc_in(m, i, bytes, align, gpa);

		if (p)
			return p;
	}
	return NULL;
}

void *guest_ptr(const struct guest_memory *m, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->n; i++) {
		const struct guest_region *r = &m->region[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size && len <= r->size - (gpa - r->gpa))
			return r->host + (gpa - r->gpa);
	}
	return NULL;
}

static const struct guest_region *region_of(const struct guest_memory *m, const uint8_t *p)
{
	for (unsigned i = 0; i < m->n; i++)
		if (p >= m->region[i].host && p < m->region[i].host + m->region[i].size)
			return &m->region[i];
	assert(!"pointer outside guest memory");
	return NULL;
}

uint64_t guest_gpa(const struct guest_memory *m, const void *ptr)
{
	const struct guest_region *r = region_of(m, ptr);

	return r->gpa + ((const uint8_t *)ptr - r->host);
}

uint64_t guest_uva(const struct guest_memory *m, const void *ptr)
{
	const struct guest_region *r = region_of(m, ptr);

	return r->uva + ((const uint8_t *)ptr - r->host);
}
