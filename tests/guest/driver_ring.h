/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DRIVER side of a virtqueue, in both layouts (virtio 1.3, 2.7 and 2.8): what a guest's kernel
 * does, for unit tests, fuzzers and sluice-bench. Shares no code with vhost/ring*.h, so that the
 * one checks the other.
 *
 *	driver_add(r, layout, segs, n_out, n_in, cookie);	(any number)
 *	if (driver_publish(r, layout))
 *		write the kick eventfd
 *	while (driver_poll(r, layout, &used))
 *		used.cookie is back, with used.len bytes written
 *
 * It believes nothing: whatever the device writes is checked against the specification. The first
 * thing that the device does wrong is put into driver_violation(), and the ring then stands still:
 * driver_poll() returns nothing more.
 *
 * One thread at a time. The layout is a constant argument, as in vhost/ring.h.
 */
#ifndef SLUICE_TESTS_GUEST_DRIVER_RING_H
#define SLUICE_TESTS_GUEST_DRIVER_RING_H

#include "base/compiler.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>

enum driver_layout { DRIVER_SPLIT, DRIVER_PACKED };

/* For each layout, X(name, layout). */
#define DRIVER_LAYOUTS(X) X(split, DRIVER_SPLIT) X(packed, DRIVER_PACKED)

/* One piece of a buffer, as a guest-physical address. */
struct driver_seg {
	uint64_t gpa;
	uint32_t len;
};

enum driver_indirect {
	DRIVER_DIRECT,	      /* never: each segment takes a descriptor of the ring */
	DRIVER_INDIRECT_LONG, /* chains of more than one segment go through a table, as Linux does
			       */
	DRIVER_INDIRECT_ALL,  /* all do */
};

struct driver_config {
	enum driver_layout layout;
	uint32_t size;		       /* split: a power of 2 */
	enum driver_indirect indirect; /* not DIRECT: VIRTIO_F_INDIRECT_DESC was negotiated */
	uint32_t indirect_segs;	       /* longest indirect table; longer chains are direct */
	bool event_idx;		       /* VIRTIO_F_EVENT_IDX was negotiated */
	/* For peers that leave a length where virtio 1.3 2.8.4 has none: it is ignored, as Linux
	 * does. */
	bool ignores_reserved_len;
	/*
	 * VIRTIO_F_IN_ORDER was negotiated: chains have to come back in the order in which they
	 * were made available. One used entry for a whole batch is the device's choice (virtio 1.3
	 * 2.7.9 and 2.8.8): ours makes none, so that it is a fault unless the driver takes batches.
	 */
	bool in_order, takes_batches;
	/* driver_ring_bytes() of guest memory, aligned to 64, for the ring and its tables. */
	void *area;
	uint64_t area_gpa;
	/*
	 * Where to begin, as SET_VRING_BASE has it. split: avail index, also the used index;
	 * packed: avail slot, wrap (bit 15), used slot (16 to 30), wrap (31); both must be the same
	 * place. A new ring starts at driver_base_start().
	 */
	uint32_t base;
};

/* What the driver knows of a chain that it gave away: private, so that no device can change it. */
struct driver_slot {
	void *cookie;
	uint64_t in_len;  /* bytes that the device may write */
	uint32_t serial;  /* of the chain, counted from the ring's beginning */
	uint16_t n_slots; /* descriptors of the ring that it takes */
	uint16_t tail;	  /* split: its last descriptor */
	bool busy;
};

struct driver_used {
	void *cookie;
	uint32_t len; /* bytes written, as the device says; never more than was writable */
	uint16_t id;
};

struct driver_ring {
	union {
		struct {
			struct vring_desc *desc;
			struct vring_avail *avail;
			struct vring_used *used;
		} split;
		struct {
			struct vring_packed_desc *desc;
			struct vring_packed_desc_event *driver;
			struct vring_packed_desc_event *device;
		} packed;
	};
	enum driver_layout layout;
	enum driver_indirect indirect;
	bool event_idx, in_order, takes_batches, ignores_reserved_len;
	uint32_t size;
	uint32_t indirect_segs;
	uint8_t *tables; /* indirect tables, one for each id */
	uint64_t tables_gpa;

	struct driver_slot *slots; /* by id */
	uint16_t *next;		   /* free ids; split: also the chains, as private truth */
	uint16_t free_head;
	uint16_t free_tail; /* split, IN_ORDER: descriptors are used in ring order */
	uint32_t n_free;    /* free descriptors of the ring */

	uint16_t *order; /* IN_ORDER: ids as they were made available, a ring of @size */
	uint32_t order_in, order_out;
	uint32_t batch; /* chains that the used entry read last still stands for, with its own */
	uint32_t batch_len;

	uint16_t avail_idx;    /* split: next index; packed: next slot */
	uint16_t avail_public; /* split: avail->idx as the device sees it; packed: first staged slot
				*/
	bool avail_wrap;
	uint16_t staged_flags;	   /* packed: flags of the first staged slot, held back */
	uint32_t staged_slots;	   /* packed: slots since the last publish */
	uint32_t added, published; /* chains */
	uint16_t used_idx;	   /* split: next index; packed: next slot */
	bool used_wrap;
	uint16_t used_seen;   /* split: used->idx as last read */
	uint32_t outstanding; /* chains published and not back yet */
	uint32_t returned;    /* chains that came back */

	bool broken;
	char violation[160];
};

/* The base of a new ring: 0, or for packed both wrap counters at 1 (virtio 1.3 2.8.1). */
HOT uint32_t driver_base_start(enum driver_layout layout)
{
	return layout == DRIVER_SPLIT ? 0 : 1u << 15 | 1u << 31;
}

uint64_t driver_ring_bytes(enum driver_layout layout, uint32_t size, uint32_t indirect_segs);

/* Zeroes the area and starts with calls wanted. @return 0, -EINVAL or -ENOMEM. */
int driver_ring_init(struct driver_ring *r, const struct driver_config *cfg);
/* Frees the private memory. A zeroed ring is fine. */
void driver_ring_fini(struct driver_ring *r);
/* As below, of the layout that the ring has, where the time that a branch takes does not matter. */
bool driver_ring_has_used(const struct driver_ring *r);
bool driver_ring_calls_on(struct driver_ring *r);

/* The first rule that the device broke, in words; NULL: none. */
const char *driver_violation(const struct driver_ring *r);
void driver_violated(struct driver_ring *r, const char *fmt, ...) PRINTF_LIKE(2, 3) COLD;

/* The three areas, in the driver's memory. */
void *driver_desc_area(const struct driver_ring *r);
void *driver_driver_area(const struct driver_ring *r);
void *driver_device_area(const struct driver_ring *r);

#include "tests/guest/driver_ring_packed.h"
#include "tests/guest/driver_ring_split.h"

/* Does a chain of @n segments go through an indirect table? */
HOT bool driver_uses_table(const struct driver_ring *r, unsigned n)
{
	if (r->indirect == DRIVER_DIRECT || n > r->indirect_segs)
		return false;
	return r->indirect == DRIVER_INDIRECT_ALL || n > 1;
}

/*
 * Adds a chain: @n_out segments that the device reads, then @n_in that it writes; at least one in
 * all. The device sees it after driver_publish(). @return 0, or -ENOSPC when the ring is too full.
 */
HOT int driver_add(struct driver_ring *r, enum driver_layout layout, const struct driver_seg *segs,
		   unsigned n_out, unsigned n_in, void *cookie)
{
	bool table = driver_uses_table(r, n_out + n_in);
	unsigned n_slots = table ? 1 : n_out + n_in;
	struct driver_slot *s;
	uint64_t in_len = 0;
	uint16_t id;

	if (unlikely(n_slots == 0 || n_slots > r->n_free))
		return -ENOSPC;
	for (unsigned i = n_out; i < n_out + n_in; i++)
		in_len += segs[i].len;
	if (layout == DRIVER_SPLIT)
		id = driver_split_add(r, segs, n_out, n_in, table);
	else
		id = driver_packed_add(r, segs, n_out, n_in, table);
	s = &r->slots[id];
	s->cookie = cookie;
	s->in_len = in_len;
	s->serial = r->added++;
	s->n_slots = n_slots;
	s->busy = true;
	r->n_free -= n_slots;
	if (unlikely(r->takes_batches)) {
		r->order[r->order_in] = id;
		r->order_in = r->order_in + 1 < r->size ? r->order_in + 1 : 0;
	}
	return 0;
}

/* Shows the device all that was added. @return true when the device asks for a kick now. */
HOT bool driver_publish(struct driver_ring *r, enum driver_layout layout)
{
	if (unlikely(r->published == r->added))
		return false;
	r->outstanding += r->added - r->published;
	r->published = r->added;
	return layout == DRIVER_SPLIT ? driver_split_publish(r) : driver_packed_publish(r);
}

HOT bool driver_next_used(struct driver_ring *r, enum driver_layout layout, uint32_t *id,
			  uint32_t *len)
{
	return layout == DRIVER_SPLIT ? driver_split_used(r, id, len)
				      : driver_packed_used(r, id, len);
}

/*
 * One used entry, at the place of the first of a batch, may stand for all chains up to its own;
 * those before it count as used completely (virtio 1.3 2.7.9, 2.8.8).
 */
HOT bool driver_next_of_batch(struct driver_ring *r, enum driver_layout layout, uint32_t *id,
			      uint32_t *len)
{
	if (r->batch == 0) {
		const struct driver_slot *last;

		if (!driver_next_used(r, layout, id, &r->batch_len))
			return false;
		*len = r->batch_len;
		last = &r->slots[MIN(*id, r->size - 1)];
		if (*id >= r->size || !last->busy || (int32_t)(r->published - last->serial) <= 0)
			return true; /* driver_poll() says what is wrong */
		r->batch = last->serial - r->returned + 1;
		if (layout == DRIVER_SPLIT && r->batch > (uint16_t)(r->used_seen - r->used_idx)) {
			driver_violated(r, "used id %u ends a batch of %u, but used->idx shows %u",
					*id, r->batch, (uint16_t)(r->used_seen - r->used_idx));
			return false;
		}
	}
	*id = r->order[r->order_out];
	r->order_out = r->order_out + 1 < r->size ? r->order_out + 1 : 0;
	*len = --r->batch ? (uint32_t)r->slots[*id].in_len : r->batch_len;
	return true;
}

/* One chain that is back. @return false when there is none, or after a violation. */
HOT bool driver_poll(struct driver_ring *r, enum driver_layout layout, struct driver_used *used)
{
	struct driver_slot *s;
	uint32_t id, len;

	if (unlikely(r->broken))
		return false;
	if (!(unlikely(r->takes_batches) ? driver_next_of_batch(r, layout, &id, &len)
					 : driver_next_used(r, layout, &id, &len)))
		return false;
	if (unlikely(id >= r->size || !r->slots[id].busy)) {
		driver_violated(r, "used id %u is not outstanding (queue size %u)", id, r->size);
		return false;
	}
	s = &r->slots[id];
	if (unlikely((int32_t)(r->published - s->serial) <= 0)) {
		driver_violated(r, "used id %u was not made available yet", id);
		return false;
	}
	if (unlikely(r->in_order && s->serial != r->returned)) {
		driver_violated(r, "used id %u is chain %u, out of order: %u is due", id, s->serial,
				r->returned);
		return false;
	}
	if (unlikely(len > s->in_len)) {
		/* virtio 1.3 2.7.8: len is what was written, so never more than was writable. */
		driver_violated(r, "used id %u: length %u of %llu writable bytes", id, len,
				(unsigned long long)s->in_len);
		return false;
	}
	used->cookie = s->cookie;
	used->len = len;
	used->id = id;
	if (layout == DRIVER_SPLIT)
		driver_split_release(r, id, s);
	else
		driver_packed_release(r, id, s);
	s->busy = false;
	r->n_free += s->n_slots;
	r->outstanding--;
	r->returned++;
	return true;
}

/* Is there something for driver_poll()? */
HOT bool driver_has_used(const struct driver_ring *r, enum driver_layout layout)
{
	return r->batch ||
	       (layout == DRIVER_SPLIT ? driver_split_has_used(r) : driver_packed_has_used(r));
}

/* Asks for a call at the next used chain. @return false when one is there already: poll again. */
HOT bool driver_calls_on(struct driver_ring *r, enum driver_layout layout)
{
	if (layout == DRIVER_SPLIT)
		driver_split_calls_at(r, 1);
	else
		driver_packed_calls_at(r, 1);
	/* Our wish, then the look: pairs with the device's used index (or flags), then our wish. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return !driver_has_used(r, layout);
}

/*
 * With EVENT_IDX: asks for a call when the @n-th from here is used. split: chain; packed: slot of
 * the ring (so chain as well where each takes one). Without: the same as driver_calls_on().
 */
HOT bool driver_calls_at(struct driver_ring *r, enum driver_layout layout, unsigned n)
{
	if (layout == DRIVER_SPLIT)
		driver_split_calls_at(r, n);
	else
		driver_packed_calls_at(r, n);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return !driver_has_used(r, layout);
}

HOT void driver_calls_off(struct driver_ring *r, enum driver_layout layout)
{
	if (layout == DRIVER_SPLIT)
		driver_split_calls_off(r);
	else
		driver_packed_calls_off(r);
}

/* Where the ring stands when nothing is outstanding, as SET_VRING_BASE has it. */
HOT uint32_t driver_base(const struct driver_ring *r)
{
	if (r->layout == DRIVER_SPLIT)
		return r->avail_idx;
	return r->avail_idx | (uint32_t)r->avail_wrap << 15 | (uint32_t)r->used_idx << 16 |
	       (uint32_t)r->used_wrap << 31;
}

#endif
