/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that runs before all of its memory is here (vhost-user "Postcopy"). Control thread.
 *
 *	POSTCOPY_ADVISE		a pager is started; the front-end gets its userfaultfd
 *	POSTCOPY_LISTEN		memory that is shared from now on has not arrived
 *	SET_MEM_TABLE, ADD_MEM_REG	the pager maps it too; the answer says where
 *	"go ahead"		the front-end serves the pager's faults from now on
 *	POSTCOPY_END		all has arrived: as if nothing had been
 *
 * In between rings see only what is known to have arrived (mem_present()):
 *
 *	a worker finds a page missing ──► ring_wait(): the ring stalls
 *	      │ a call to the control thread
 *	      ▼
 *	postcopy_wait(): does the kernel say that it is here by now? Else the pager touches it
 *	      ·  the front-end is told of the fault, fetches the page, and wakes the pager
 *	      ▼
 *	the pager says so ──► the page counts as present, and the ring tries again
 *
 * A ring whose own areas have not arrived does not start, and is tried again. Nothing in this
 * process touches a missing page, and nothing here could sleep on one: it would find zeros, and the
 * front-end its page taken.
 */
#ifndef SLUICE_VHOST_POSTCOPY_H
#define SLUICE_VHOST_POSTCOPY_H

#include "vhost/session.h"

/* Do rings have to look whether pages are present? */
bool postcopy_on(const struct vhost_device *d);
/* No queue runs, or all of its memory is here. */
void postcopy_forget(struct vhost_device *d);

/* Some of [@host, @host + @len) has not arrived: @vq starts when it has. */
bool postcopy_wait_area(struct virtqueue *vq, const void *host, uint64_t len);
/* @vq's ring waits for what is at @host. */
void postcopy_wait(struct virtqueue *vq, const void *host);

/* Memory is about to be shared. */
void postcopy_memory(struct vhost_session *s);
/* The regions of @map that are new. @return 0 or -errno with @err. */
int postcopy_take(struct vhost_session *s, struct mem_map *map, struct error *err);
/* Fills in what the front-end is answered of a region: where the pager has it. */
void postcopy_answer(const struct mem_map *map, struct vhost_user_region *r);

/*
 * The front-end's answer to our answers: the number of the message that had them, and a zero (QEMU
 * and libvhost-user; of ADD_MEM_REG the text says nothing).
 */
bool postcopy_is_go_ahead(const struct vhost_session *s, const struct message *m);
int postcopy_go_ahead(struct vhost_session *s);
/* Does this message have a reply of its own, now? */
bool postcopy_is_answered(const struct vhost_session *s, const struct message *m);

#endif
