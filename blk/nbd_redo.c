/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/nbd_redo.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int nbd_redo_open(struct nbd_redo *r)
{
	/* Takes memory as it is used. */
	void *mem = mmap(NULL, NBD_REDO_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return -errno;
	*r = (struct nbd_redo) { .mem = mem };
	return 0;
}

void nbd_redo_close(struct nbd_redo *r)
{
	if (r->mem)
		munmap(r->mem, NBD_REDO_BYTES);
	r->mem = NULL;
}

static uint64_t bytes_of(enum disk_op op, uint32_t len)
{
	return sizeof(struct nbd_redo_entry) + (op == DISK_WRITE ? len : 0);
}

bool nbd_redo_reserve(struct nbd_redo *r, enum disk_op op, uint32_t len)
{
	if (r->head - r->tail + r->reserved + bytes_of(op, len) > NBD_REDO_BYTES)
		return false;
	r->reserved += bytes_of(op, len);
	return true;
}

void nbd_redo_unreserve(struct nbd_redo *r, enum disk_op op, uint32_t len)
{
	assert(r->reserved >= bytes_of(op, len));
	r->reserved -= bytes_of(op, len);
}

static void put(struct nbd_redo *r, const void *from, size_t len)
{
	uint64_t at = r->head % NBD_REDO_BYTES;
	size_t first = MIN(len, (size_t)(NBD_REDO_BYTES - at));

	memcpy(r->mem + at, from, first);
	memcpy(r->mem, (const char *)from + first, len - first);
	r->head += len;
}

void nbd_redo_add(struct nbd_redo *r, const struct nbd_redo_entry *e, const void *data)
{
	nbd_redo_unreserve(r, (enum disk_op)e->op, e->len);
	put(r, e, sizeof(*e));
	if (e->op == DISK_WRITE)
		put(r, data, e->len);
	if (!e->fua)
		r->owed = r->head;
}

void nbd_redo_forget(struct nbd_redo *r, uint64_t pos)
{
	if (pos <= r->tail)
		return;
	/* What is left is durable by itself, and has nothing older before it any more. */
	r->tail = pos >= r->owed ? r->head : pos;
	/* Back at the start, so that it takes no more memory than it needs. */
	if (r->tail == r->head)
		r->tail = r->head = ALIGN_UP(r->head, NBD_REDO_BYTES);
}

static void get(const struct nbd_redo *r, uint64_t pos, void *to, size_t len)
{
	uint64_t at = pos % NBD_REDO_BYTES;
	size_t first = MIN(len, (size_t)(NBD_REDO_BYTES - at));

	memcpy(to, r->mem + at, first);
	memcpy((char *)to + first, r->mem, len - first);
}

uint64_t nbd_redo_get(const struct nbd_redo *r, uint64_t pos, struct nbd_redo_entry *e, void *data)
{
	get(r, pos, e, sizeof(*e));
	pos += sizeof(*e);
	if (e->op != DISK_WRITE)
		return pos;
	get(r, pos, data, e->len);
	return pos + e->len;
}
