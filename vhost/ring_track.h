/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring's own memory of its chains, for the two features that need one:
 *
 *	IN_ORDER (virtio 1.3 2.7.9, 2.8.8), for devices that complete chains in another order than
 *	they popped them: what is pushed early is held here until its turn has come.
 *
 *	The in-flight buffer (vhost-user "Inflight I/O tracking"): what is popped is written down
 *	there, what is given back is crossed out, in steps after each of which we may die.
 *
 * Rings without either have r->track NULL, which is the one test that it costs them.
 */
#ifndef SLUICE_VHOST_RING_TRACK_H
#define SLUICE_VHOST_RING_TRACK_H

#include "vhost/inflight.h"

enum track_state {
	TRACK_FREE,	 /* the driver's */
	TRACK_IN_FLIGHT, /* popped */
	TRACK_DONE,	 /* pushed; held for its turn, or not published yet */
};

/* By chain id. */
struct track_chain {
	uint32_t written;
	uint16_t n_slots;
	uint16_t first, last; /* packed, in-flight buffer: its entries */
	uint8_t state;	      /* enum track_state */
};

struct ring_track {
	enum ring_layout layout;
	uint32_t size; /* of the ring, and of every array here */
	struct track_chain *chain;
	uint32_t busy; /* chains that are not TRACK_FREE */

	/* IN_ORDER: ids in the order in which they were popped. */
	bool in_order;
	uint16_t *order;
	uint32_t order_at, order_n;

	/* The in-flight buffer; region NULL: none. Only written to, but for recovery. */
	union {
		void *region;
		struct inflight_split *split;
		struct inflight_packed *packed;
	};
	uint64_t counter; /* of the next chain */
	uint16_t *batch;  /* ids pushed and not published */
	uint32_t n_batch;
	uint16_t used_idx; /* as the buffer has it */
	bool used_wrap;
	uint16_t last_batch_head; /* split */
	uint16_t *next;		  /* packed: free entries */
	uint16_t free_head;
	uint32_t n_free;

	/* In flight when the back-end before us died: popped again before anything new. */
	uint16_t *again; /* ids, r->n_again of them from again_at on */
	uint32_t again_at;
	struct track_desc *again_desc; /* packed: by entry */
};

/* Of a chain that is popped again; the ring may have been written over since. */
struct track_desc {
	gpa_t addr;
	uint32_t len;
	uint16_t flags, id;
	uint16_t next; /* entry */
};

/* Control thread. @region NULL: no in-flight buffer. @return NULL: out of memory. */
struct ring_track *ring_track_new(enum ring_layout layout, uint32_t size, bool in_order,
				  void *region);
void ring_track_free(struct ring_track *t); /* NULL is fine */

/* Control thread. What a region says that was never used, or is not to count: nothing in flight. */
void inflight_begin(void *region, const struct ring *r);
/* @return NULL, or why what a back-end wrote to @region is not for a ring of @size. */
const char *inflight_check(const void *region, uint32_t size);

/* Where a packed ring stood and which entries were free, before the last batch or after it. */
struct ring_place {
	uint16_t free_head, used_idx;
	bool wrap;
};
/* Control thread: from what the back-end before us has left. @return false: it is nonsense. */
bool ring_place_find(const struct ring *r, const struct inflight_packed *reg, struct ring_place *p);
void ring_place_settle(struct inflight_packed *reg, const struct ring_place *p);

/*
 * Control thread. @t was of a ring that stopped; does it serve @r, newly made, as it is: nothing in
 * flight, the same place, size, features and region?
 */
bool ring_track_serves(const struct ring_track *t, const struct ring *r, bool in_order,
		       const void *region);

/* Control thread; r->track has a region. Initialises it at the place where @r is. */
void ring_track_begin(struct ring *r);
/*
 * Control thread; r->track has a region, of which we know nothing. If a back-end wrote it, @r goes
 * on where that one died: its place comes from there, and r->n_again chains are popped again.
 * @return NULL, or why not: it contradicts itself.
 */
const char *ring_recover(struct ring *r);

#endif
