/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/frontend_postcopy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int watch(struct delivery *d, unsigned i)
{
	const struct guest_region *r = &d->memory->region[i];
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	d->way_in[i] = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
			    (off_t)r->offset);
	if (d->way_in[i] == MAP_FAILED) {
		d->way_in[i] = NULL;
		return -errno;
	}
	reg.range.start = (uintptr_t)d->way_in[i];
	reg.range.len = r->size;
	return ioctl(d->own, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

int delivery_begin(struct delivery *d, struct frontend *f, struct guest_memory *m)
{
	struct uffdio_api api = { .api = UFFD_API };
	int rc = 0;

	memset(d, 0, sizeof(*d));
	d->f = f;
	d->memory = f->memory = m;
	d->faults = -1;
	d->page = m->flags & GUEST_MEMORY_HUGE ? 2 << 20 : 4096;
	d->own = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1); /* user mode only */
	if (d->own < 0 || ioctl(d->own, UFFDIO_API, &api) < 0)
		return -errno;
	for (unsigned i = 0; rc == 0 && i < m->n; i++) {
		const struct guest_region *r = &m->region[i];

		d->copy[i] = malloc(r->size);
		d->delivered[i] = calloc(r->size / d->page, sizeof(bool));
		if (!d->copy[i] || !d->delivered[i])
			return -ENOMEM;
		memcpy(d->copy[i], r->host, r->size);
		if (fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->offset,
			      (off_t)r->size) < 0)
			return -errno;
		rc = watch(d, i);
	}
	return rc;
}

void delivery_end(struct delivery *d)
{
	for (unsigned i = 0; i < d->memory->n; i++) {
		if (d->way_in[i])
			munmap(d->way_in[i], d->memory->region[i].size);
		free(d->copy[i]);
		free(d->delivered[i]);
	}
	if (d->faults >= 0)
		close(d->faults);
	close(d->own);
}

int frontend_postcopy_advise(struct delivery *d)
{
	unsigned n = 1;
	int fd = -1, rc;

	rc = frontend_send(d->f, VU_POSTCOPY_ADVISE, VU_VERSION, NULL, 0, NULL, 0);
	if (rc == 0)
		rc = frontend_recv_reply(d->f, VU_POSTCOPY_ADVISE, NULL, 0, &fd, &n);
	if (rc < 0)
		return rc;
	if (rc != 0 || n != 1)
		return frontend_fail(d->f, -EPROTO, "POSTCOPY_ADVISE: %d bytes, %u descriptors", rc,
				     n);
	if (d->faults >= 0)
		close(d->faults);
	d->faults = fd;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return 0;
}

int frontend_postcopy_listen(struct delivery *d)
{
	return frontend_set(d->f, VU_POSTCOPY_LISTEN, NULL, 0, NULL, 0);
}

int frontend_postcopy_end(struct delivery *d)
{
	uint64_t answer;
	int rc = frontend_u64_get(d->f, VU_POSTCOPY_END, &answer);

	if (rc == 0 && answer)
		return frontend_fail(d->f, -EREMOTEIO, "POSTCOPY_END was answered %llu",
				     (unsigned long long)answer);
	return rc;
}

int frontend_postcopy_go_ahead(struct delivery *d, uint32_t request)
{
	const uint64_t ok = 0;

	return frontend_send(d->f, request, VU_VERSION, &ok, sizeof(ok), NULL, 0);
}

static struct vu_region wire(const struct guest_region *r)
{
	return (struct vu_region) {
		.gpa = r->gpa, .size = r->size, .uva = r->uva, .offset = r->offset
	};
}

/* What the back-end answers: the same, but for the address. */
static int take_answer(struct delivery *d, unsigned i, const struct vu_region *answer)
{
	const struct guest_region *r = &d->memory->region[i];

	if (answer->gpa != r->gpa || answer->size != r->size || answer->offset != r->offset ||
	    answer->uva == r->uva || answer->uva == 0)
		return frontend_fail(d->f, -EPROTO, "region %u is answered otherwise", i);
	d->away[i] = answer->uva;
	return 0;
}

static int share_table(struct delivery *d)
{
	struct vu_mem_table table = { .n = d->memory->n }, answer = { .n = 0 };
	uint32_t size = 8 + d->memory->n * sizeof(struct vu_region);
	int fds[VU_FDS_MAX], rc;

	for (unsigned i = 0; i < d->memory->n; i++) {
		table.region[i] = wire(&d->memory->region[i]);
		fds[i] = d->memory->region[i].fd;
	}
	rc = frontend_send(d->f, VU_SET_MEM_TABLE, VU_VERSION, &table, size, fds, d->memory->n);
	if (rc == 0)
		rc = frontend_recv_reply(d->f, VU_SET_MEM_TABLE, &answer, sizeof(answer), NULL,
					 NULL);
	if (rc < 0)
		return rc;
	if (rc != (int)size || answer.n != table.n)
		return frontend_fail(d->f, -EPROTO, "SET_MEM_TABLE: answered %d bytes, %u regions",
				     rc, answer.n);
	for (unsigned i = 0; rc >= 0 && i < d->memory->n; i++)
		rc = take_answer(d, i, &answer.region[i]);
	return rc;
}

static int share_one(struct delivery *d, unsigned i)
{
	struct vu_mem_reg reg = { .region = wire(&d->memory->region[i]) };
	int rc = frontend_send(d->f, VU_ADD_MEM_REG, VU_VERSION, &reg, sizeof(reg),
			       &d->memory->region[i].fd, 1);

	if (rc == 0)
		rc = frontend_recv_reply(d->f, VU_ADD_MEM_REG, &reg, sizeof(reg), NULL, NULL);
	if (rc < 0)
		return rc;
	if (rc != sizeof(reg))
		return frontend_fail(d->f, -EPROTO, "ADD_MEM_REG: answered %d bytes", rc);
	return take_answer(d, i, &reg.region);
}

int frontend_postcopy_share_only(struct delivery *d)
{
	int rc = 0;

	if (!(d->f->protocol & VU_PF_CONFIGURE_MEM_SLOTS))
		return share_table(d);
	for (unsigned i = 0; rc == 0 && i < d->memory->n; i++)
		rc = share_one(d, i);
	return rc;
}

int frontend_postcopy_share(struct delivery *d)
{
	bool slots = d->f->protocol & VU_PF_CONFIGURE_MEM_SLOTS;
	int rc = frontend_postcopy_share_only(d);

	return rc < 0 ? rc
		      : frontend_postcopy_go_ahead(d, slots ? VU_ADD_MEM_REG : VU_SET_MEM_TABLE);
}

int delivery_fault(struct delivery *d, uint64_t *gpa)
{
	struct uffd_msg m;
	ssize_t n = read(d->faults, &m, sizeof(m));

	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (n != sizeof(m) || m.event != UFFD_EVENT_PAGEFAULT)
		return -EPROTO;
	d->asked++;
	for (unsigned i = 0; i < d->memory->n; i++) {
		uint64_t offset = m.arg.pagefault.address - d->away[i];

		if (!d->away[i] || offset >= d->memory->region[i].size)
			continue;
		*gpa = d->memory->region[i].gpa + ALIGN_DOWN(offset, d->page);
		return 1;
	}
	return -EFAULT;
}

static int find(const struct delivery *d, uint64_t gpa, uint64_t *offset)
{
	for (unsigned i = 0; i < d->memory->n; i++) {
		*offset = ALIGN_DOWN(gpa, d->page) - d->memory->region[i].gpa;
		if (*offset < d->memory->region[i].size)
			return (int)i;
	}
	return -EFAULT;
}

int delivery_page(struct delivery *d, uint64_t gpa)
{
	struct uffdio_range range = { .len = d->page };
	struct uffdio_copy copy = { .len = d->page };
	uint64_t offset;
	int i = find(d, gpa, &offset);

	if (i < 0)
		return i;
	if (d->delivered[i][offset / d->page])
		return 0;
	d->delivered[i][offset / d->page] = true;
	copy.dst = (uintptr_t)d->way_in[i] + offset;
	copy.src = (uintptr_t)d->copy[i] + offset;
	if (ioctl(d->own, UFFDIO_COPY, &copy) < 0)
		return -errno;
	range.start = d->away[i] + offset;
	if (d->away[i] && ioctl(d->faults, UFFDIO_WAKE, &range) < 0)
		return -errno;
	return 0;
}

bool delivery_was(const struct delivery *d, uint64_t gpa)
{
	uint64_t offset;
	int i = find(d, gpa, &offset);

	return i >= 0 && d->delivered[i][offset / d->page];
}

int delivery_all(struct delivery *d)
{
	for (unsigned i = 0; i < d->memory->n; i++)
		for (uint64_t at = 0; at < d->memory->region[i].size; at += d->page) {
			int rc = delivery_page(d, d->memory->region[i].gpa + at);

			if (rc < 0)
				return rc;
		}
	return 0;
}
