/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an NBD server has acknowledged and may still lose: every write since the last flush that
 * succeeded, in the order of its answers. A server that comes back after it has died gets all of
 * this again, before anything else, so that a guest's flush can be believed: it covers what the
 * guest was told is done. A write that was durable when it was answered (FUA) needs no such thing
 * itself, but stands in the log behind those that do: done again alone, an older write to the same
 * place would undo it.
 *
 * A ring of bytes. Positions only grow. The disk's thread alone.
 */
#ifndef SLUICE_BLK_NBD_REDO_H
#define SLUICE_BLK_NBD_REDO_H

#include "blk/disk.h"

#define NBD_REDO_BYTES (UINT64_C(64) << 20)

struct nbd_redo {
	uint8_t *mem; /* NULL: writes are durable when they are answered */
	uint64_t tail, head;
	uint64_t owed;	   /* what follows the last entry that a flush has still to cover */
	uint64_t reserved; /* for writes that have no answer yet */
};

struct nbd_redo_entry {
	uint64_t offset;
	uint32_t len;
	uint8_t op; /* enum disk_op: WRITE, whose data follows, DISCARD, ZERO */
	uint8_t unmap;
	uint8_t fua; /* durable when it was answered: here for its place in the order */
	uint8_t pad;
};
static_assert(sizeof(struct nbd_redo_entry) == 16, "as it stands in the ring");

int nbd_redo_open(struct nbd_redo *r);
void nbd_redo_close(struct nbd_redo *r);

/* Room for the entry of such an operation. @return false: not before a flush has made it. */
bool nbd_redo_reserve(struct nbd_redo *r, enum disk_op op, uint32_t len);
void nbd_redo_unreserve(struct nbd_redo *r, enum disk_op op, uint32_t len);
/* Into what is reserved. */
void nbd_redo_add(struct nbd_redo *r, const struct nbd_redo_entry *e, const void *data);
/* Would doing the log again undo a write that is durable, and so is not in it? */
static inline bool nbd_redo_owes(const struct nbd_redo *r)
{
	return r->owed > r->tail;
}
/* All before @pos is durable. */
void nbd_redo_forget(struct nbd_redo *r, uint64_t pos);
/* The entry at @pos, its data in @data. @return where the next one is. */
uint64_t nbd_redo_get(const struct nbd_redo *r, uint64_t pos, struct nbd_redo_entry *e, void *data);

/* Should a flush make room? */
static inline bool nbd_redo_is_full(const struct nbd_redo *r)
{
	return r->head - r->tail + r->reserved > NBD_REDO_BYTES / 2;
}

#endif
