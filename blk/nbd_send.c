/* SPDX-License-Identifier: Apache-2.0 */
/* One step of a request, as a command of NBD, and what its answer means. The disk's thread. */
#include "blk/disk_nbd.h"
#include "blk/nbd_lib.h"

#include <errno.h>

static bool is_write(const struct nbd_slot *s)
{
	return s->op == DISK_WRITE || s->op == DISK_DISCARD || s->op == DISK_ZERO;
}

/* Off its connection's list of what has no answer. */
static void answer(struct nbd_slot *s, int result)
{
	struct nbd_conn *c = s->conn;

	TAILQ_REMOVE(&c->in_flight, s, link);
	TAILQ_INSERT_TAIL(&c->answered, s, link);
	c->n_in_flight--;
	s->conn = NULL;
	s->result = result;
}

/*
 * By libnbd, within one of its calls: no other may be made here. A connection that breaks answers
 * all that is in flight with ENOTCONN, which no server can say; that is no answer.
 */
static int on_answer(void *user, int *error)
{
	struct nbd_slot *s = user;

	if (*error == ESHUTDOWN)
		s->conn->ends = true;
	else if (*error != ENOTCONN)
		answer(s, -*error);
	return 1;
}

static int64_t send_command(struct nbd_handle *h, struct nbd_slot *s, uint32_t fua)
{
	const nbd_completion_callback then = { .callback = on_answer, .user_data = s };

	if (s->flushes)
		return libnbd.aio_flush(h, then, 0);
	switch (s->op) {
	case DISK_READ:
		return libnbd.aio_pread(h, s->buf, s->len, s->offset, then, 0);
	case DISK_WRITE:
		return libnbd.aio_pwrite(h, s->buf, s->len, s->offset, then, fua);
	case DISK_DISCARD:
		return libnbd.aio_trim(h, s->len, s->offset, then, fua);
	case DISK_ZERO:
		return libnbd.aio_zero(h, s->len, s->offset, then,
				       fua | (s->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
	case DISK_SECURE_ERASE: /* is not offered */
	case DISK_FLUSH:
		break;
	}
	return libnbd.aio_flush(h, then, 0);
}

int nbd_slot_send(struct nbd_conn *c, struct nbd_slot *s)
{
	struct nbd_disk *d = c->disk;
	bool fua = s->fua && d->facts.fua;

	if (is_write(s) && d->redo.mem && s != &d->own && !s->reserved) {
		s->reserved = nbd_redo_reserve(&d->redo, s->op, s->len);
		if (!s->reserved)
			return -ENOSPC;
	}
	s->conn = c;
	s->redo_at = d->redo.head;
	s->sent_ns = d->now_ns;
	TAILQ_INSERT_TAIL(&c->in_flight, s, link);
	c->n_in_flight++;
	/* Not sent and not dead: libnbd knows that the server would refuse it. */
	if (send_command(c->h, s, fua ? LIBNBD_CMD_FLAG_FUA : 0) < 0 && s->conn &&
	    libnbd.aio_is_dead(c->h) <= 0 && libnbd.aio_is_closed(c->h) <= 0)
		answer(s, libnbd.get_errno() ? -libnbd.get_errno() : -EIO);
	return 0;
}

void nbd_slot_drop(struct nbd_disk *d, struct nbd_slot *s)
{
	if (s->reserved)
		nbd_redo_unreserve(&d->redo, s->op, s->len);
	s->reserved = s->flushes = false;
}

/*
 * A write was answered: it stays in the log until a flush has covered it. One with FUA has to stand
 * there only behind others, which may be older ones to the same place.
 */
static void keep_for_redo(struct nbd_disk *d, struct nbd_slot *s)
{
	const struct nbd_redo_entry e = { .offset = s->offset,
					  .len = s->len,
					  .op = (uint8_t)s->op,
					  .unmap = s->unmap,
					  .fua = s->fua && d->facts.fua };

	if (!s->result && (!e.fua || nbd_redo_owes(&d->redo))) {
		nbd_redo_add(&d->redo, &e, s->buf);
		s->reserved = false;
	} else {
		nbd_slot_drop(d, s);
	}
}

bool nbd_slot_answered(struct nbd_disk *d, struct nbd_slot *s)
{
	if (s == &d->own && d->state == NBD_REDO)
		return true;
	if ((s->op == DISK_FLUSH || s->flushes) && d->redo.mem && !s->result)
		nbd_redo_forget(&d->redo, s->redo_at);
	if (!is_write(s) || s->flushes) {
		s->flushes = false;
		return true;
	}
	if (s->reserved)
		keep_for_redo(d, s);
	/* Written through, and the server has no FUA: it is told to flush. */
	s->flushes = s->fua && !d->facts.fua && d->facts.flush && !s->result;
	if (s->flushes)
		TAILQ_INSERT_HEAD(&d->waiting, s, link);
	return !s->flushes;
}
