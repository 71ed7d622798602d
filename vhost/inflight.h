/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-flight buffer (vhost-user "Inflight I/O tracking"): memory that the front-end keeps for us
 * over our death, in which each queue has a region that says which chains were popped and not given
 * back. Here are its two layouts, which the text makes normative, and the buffer as a whole; what
 * is written there while a ring runs stands in ring_track.c, what is made of it after a crash in
 * ring_recover.c.
 *
 * The front-end can write to it at any time. Nothing is read from it but on recovery, once, into
 * private memory.
 */
#ifndef SLUICE_VHOST_INFLIGHT_H
#define SLUICE_VHOST_INFLIGHT_H

#include "vhost/protocol.h"
#include "vhost/ring.h"

struct error;
struct mem_watch;

#define INFLIGHT_VERSION 1 /* 0: not initialised */

struct inflight_split_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next; /* the entry used before this one, within the last batch */
	uint64_t counter;
};

/* Entries stand at the index of the chain's head descriptor. */
struct inflight_split {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct inflight_split_desc desc[];
};

struct inflight_packed_desc {
	uint8_t inflight;
	uint8_t padding;
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id;
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};

/* A chain takes as many entries as it has descriptors in the ring, off a list of free ones. */
struct inflight_packed {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	uint16_t used_idx;
	uint16_t old_used_idx;
	uint8_t used_wrap_counter;
	uint8_t old_used_wrap_counter;
	uint8_t padding[7];
	struct inflight_packed_desc desc[];
};

static_assert(sizeof(struct inflight_split_desc) == 16, "wire");
static_assert(sizeof(struct inflight_split) == 16, "wire");
static_assert(sizeof(struct inflight_packed_desc) == 32, "wire");
static_assert(sizeof(struct inflight_packed) == 32, "wire");

/* A buffer that the front-end gave us. */
struct inflight;

/*
 * Control thread. A new, zeroed file for @queues queues of up to @queue_size entries, of either
 * layout; nothing of it is kept. @return its descriptor and *@out for the front-end, or -errno with
 * @err.
 */
int inflight_create(unsigned queues, unsigned queue_size, struct vhost_user_inflight *out,
		    struct error *err);

/* No buffer takes more of our addresses: 1 GiB, and a huge page of that size for its end. */
#define INFLIGHT_BYTES_MAX (UINT64_C(2) << 30)

/*
 * Control thread. Maps what SET_INFLIGHT_FD brought, for @a (mapped_file.h); @fd is borrowed. @w is
 * told when its file shrinks. @return NULL with @err when it contradicts itself.
 */
struct inflight *inflight_map(struct mem_account *a, const struct vhost_user_inflight *desc, int fd,
			      unsigned queues_max, struct mem_watch *w, struct error *err);
/* No ring uses it any more. NULL is fine. */
void inflight_unmap(struct inflight *f);

/*
 * A byte that the device kind keeps there, over our death: it lies on a page of its own behind what
 * the message describes, where those who do not know it (an older Sluice, in both directions) see
 * nothing of it. 0: none was left yet. @return -1: there is no such page, and the buffer is in use,
 * so that what should stand there is not known.
 */
int inflight_note(const struct inflight *f);
void inflight_leave_note(struct inflight *f, uint8_t note);

/* The region of a queue; NULL where the buffer has none that holds @size entries (or is NULL). */
void *inflight_region(const struct inflight *f, unsigned queue, enum ring_layout layout,
		      uint32_t size);

/* Control thread, no ring runs: nothing is in flight any more, and what comes begins anew. */
void inflight_forget(struct inflight *f);

#endif
