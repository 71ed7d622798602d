/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk in the daemon's memory, gone with it. One piece of memory for all queues; requests that
 * overlap in time and place mix as they would on any disk.
 */
#include "base/error.h"
#include "blk/disk_instant.h"
#include "blk/iov.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096u

struct ram_disk {
	struct disk disk;
	uint8_t *mem; /* info.size bytes */
};

static void ram_close(struct disk *d)
{
	struct ram_disk *ram = container_of(d, struct ram_disk, disk);

	if (ram->mem)
		munmap(ram->mem, d->info.size);
	free(ram);
}

static int ram_open(const struct blk_config *cfg, struct disk **out, struct error *err)
{
	struct ram_disk *ram = calloc(1, sizeof(*ram));
	void *mem;
	int rc;

	if (!ram)
		return -ENOMEM;
	ram->disk.ops = disk_kinds[DISK_RAM];
	rc = instant_info(cfg, &ram->disk.info, err);
	if (rc)
		goto fail;
	/* Only what the guest writes takes memory. */
	mem = mmap(NULL, cfg->size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED) {
		rc = error_set(
			err, -errno,
			"disk %s: cannot map %llu bytes of memory: %m; choose a smaller size",
			cfg->name, (unsigned long long)cfg->size);
		goto fail;
	}
	ram->mem = mem;
	snprintf(ram->disk.info.how, sizeof(ram->disk.info.how), "ram: %llu MiB of memory",
		 (unsigned long long)cfg->size >> 20);
	*out = &ram->disk;
	return 0;
fail:
	ram_close(&ram->disk);
	return rc;
}

/* Whole pages go back to the kernel, which gives zeroed ones when they are touched again. */
static void clear(uint8_t *at, size_t len)
{
	size_t before = -(uintptr_t)at & (PAGE - 1);
	size_t whole = len > before ? ALIGN_DOWN(len - before, (size_t)PAGE) : 0;

	if (whole == 0 || madvise(at + before, whole, MADV_DONTNEED)) {
		memset(at, 0, len);
		return;
	}
	memset(at, 0, before);
	memset(at + before + whole, 0, len - before - whole);
}

static void ram_move(struct disk *d, struct disk_request *r, size_t len)
{
	struct ram_disk *ram = container_of(d, struct ram_disk, disk);
	uint8_t *at = ram->mem + r->offset + r->moved;

	/* The caller checked the range against info.size. */
	assert(r->offset + r->len <= ram->disk.info.size);
	switch (r->op) {
	case DISK_READ:
		iov_scatter(r->iov, r->n_iov, at, len);
		break;
	case DISK_WRITE:
		iov_gather(r->iov, r->n_iov, at, len);
		break;
	case DISK_DISCARD:
	case DISK_SECURE_ERASE: /* not offered */
	case DISK_ZERO:
		clear(at, len);
		break;
	case DISK_FLUSH:
		break;
	}
}

static unsigned ram_reap(struct disk_queue *dq, struct disk_request **done, unsigned max)
{
	return instant_reap(dq, done, max, ram_move);
}

const struct disk_ops disk_ram = {
	.name = "ram",
	.open = ram_open,
	.close = ram_close,
	.queue_open = instant_queue_open,
	.queue_close = instant_queue_close,
	.submit = instant_submit,
	.reap = ram_reap,
	.pending = instant_pending,
};
