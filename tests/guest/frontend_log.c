/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/frontend_log.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int frontend_log_create(struct frontend_log *l, uint64_t end, uint64_t offset)
{
	uint64_t pages = (end + VU_LOG_PAGE - 1) / VU_LOG_PAGE;

	*l = (struct frontend_log) { .size = (pages + 7) / 8, .offset = offset };
	l->fd = memfd_create("dirty-log", MFD_CLOEXEC);
	if (l->fd < 0 || ftruncate(l->fd, (off_t)(offset + l->size)) < 0)
		return -errno;
	l->map = mmap(NULL, offset + l->size, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
	if (l->map == MAP_FAILED)
		return -errno;
	l->bits = l->map + offset;
	return 0;
}

void frontend_log_destroy(struct frontend_log *l)
{
	munmap(l->map, l->offset + l->size);
	close(l->fd);
}

int frontend_log_share(struct frontend *f, const struct frontend_log *l)
{
	struct vu_log msg = { .size = l->size, .offset = l->offset };
	uint64_t reply;
	int rc = frontend_send(f, VU_SET_LOG_BASE, VU_VERSION, &msg, sizeof(msg), &l->fd, 1);

	if (rc == 0)
		rc = frontend_recv_reply(f, VU_SET_LOG_BASE, &reply, sizeof(reply), NULL, NULL);
	return rc < 0 ? rc : 0;
}

int frontend_log_all(struct frontend *f, bool on)
{
	uint64_t rest = f->features & ~VU_F_LOG_ALL;

	return frontend_set_features(f, rest | (on ? VU_F_LOG_ALL : 0));
}

int frontend_log_ring(struct frontend *f, unsigned index, bool on)
{
	const struct driver_ring *r = &f->queue[index].ring;
	struct vu_addr addr = { .index = index,
				.flags = on ? VU_VRING_F_LOG : 0,
				.desc = guest_uva(f->memory, driver_desc_area(r)),
				.avail = guest_uva(f->memory, driver_driver_area(r)),
				.used = guest_uva(f->memory, driver_device_area(r)),
				.log = guest_gpa(f->memory, driver_device_area(r)) };

	return frontend_set(f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
}

static int switch_rings(struct frontend *f, unsigned n, bool on)
{
	int rc = frontend_log_all(f, on);

	for (unsigned i = 0; rc == 0 && i < n; i++)
		rc = frontend_log_ring(f, i, on);
	return rc;
}

int frontend_log_start(struct frontend *f, const struct frontend_log *l, unsigned n)
{
	int rc = frontend_log_share(f, l);

	return rc < 0 ? rc : switch_rings(f, n, true);
}

int frontend_log_stop(struct frontend *f, unsigned n)
{
	return switch_rings(f, n, false);
}

bool frontend_log_has(const struct frontend_log *l, uint64_t gpa)
{
	uint64_t page = gpa / VU_LOG_PAGE;

	return page / 8 < l->size &&
	       __atomic_load_n(&l->bits[page / 8], __ATOMIC_ACQUIRE) & 1u << page % 8;
}

uint8_t frontend_log_take(struct frontend_log *l, uint64_t page)
{
	return __atomic_exchange_n(&l->bits[page / 8], 0, __ATOMIC_ACQ_REL);
}

uint64_t frontend_log_count(const struct frontend_log *l)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < l->size; i++)
		n += (unsigned)__builtin_popcount(__atomic_load_n(&l->bits[i], __ATOMIC_RELAXED));
	return n;
}

void frontend_log_clear(struct frontend_log *l)
{
	memset(l->bits, 0, l->size);
}
