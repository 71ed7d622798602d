/* SPDX-License-Identifier: Apache-2.0 */
/* The packed layout (virtio 1.3, 2.8) as the driver sees it. Included by driver_ring.h alone. */
#ifndef SLUICE_TESTS_GUEST_DRIVER_RING_PACKED_H
#define SLUICE_TESTS_GUEST_DRIVER_RING_PACKED_H

#define DRIVER_PACKED_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define DRIVER_PACKED_USED (1u << VRING_PACKED_DESC_F_USED)
#define DRIVER_PACKED_WRAP (1u << VRING_PACKED_EVENT_F_WRAP_CTR)
#define DRIVER_PACKED_AHEAD 8u /* slots: two cache lines */

/* What marks a descriptor as available in a round with this wrap counter (virtio 1.3 2.8.1). */
HOT uint16_t driver_packed_mark(bool wrap)
{
	return wrap ? DRIVER_PACKED_AVAIL : DRIVER_PACKED_USED;
}

/* Writes one descriptor of the ring; the first of a batch stays invisible until it is published. */
HOT void driver_packed_put(struct driver_ring *r, uint64_t addr, uint32_t len, uint16_t id,
			   uint16_t flags)
{
	struct vring_packed_desc *d = &r->packed.desc[r->avail_idx];

	flags |= driver_packed_mark(r->avail_wrap);
	d->addr = addr;
	d->len = len;
	d->id = id;
	if (r->staged_slots++ == 0)
		r->staged_flags = flags;
	else
		__atomic_store_n(&d->flags, flags, __ATOMIC_RELAXED);
	if (++r->avail_idx == r->size) {
		r->avail_idx = 0;
		r->avail_wrap = !r->avail_wrap;
	}
}

HOT void driver_packed_fill_table(struct driver_ring *r, uint16_t id, const struct driver_seg *segs,
				  unsigned n_out, unsigned n)
{
	uint64_t offset = (uint64_t)id * r->indirect_segs * sizeof(struct vring_packed_desc);
	struct vring_packed_desc *table = (struct vring_packed_desc *)(r->tables + offset);

	/* virtio 1.3 2.8.8: WRITE is the only flag there, the id means nothing. */
	for (unsigned i = 0; i < n; i++) {
		table[i].addr = segs[i].gpa;
		table[i].len = segs[i].len;
		table[i].id = 0;
		table[i].flags = i >= n_out ? VRING_DESC_F_WRITE : 0;
	}
	driver_packed_put(r, r->tables_gpa + offset, n * sizeof(*table), id, VRING_DESC_F_INDIRECT);
}

/* @return the chain's buffer id. The caller made sure that there is room. */
HOT uint16_t driver_packed_add(struct driver_ring *r, const struct driver_seg *segs, unsigned n_out,
			       unsigned n_in, bool table)
{
	unsigned n = n_out + n_in;
	uint16_t id = r->free_head;

	r->free_head = r->next[id];
	if (table)
		driver_packed_fill_table(r, id, segs, n_out, n);
	else
		for (unsigned k = 0; k < n; k++)
			driver_packed_put(r, segs[k].gpa, segs[k].len, id,
					  (k >= n_out ? VRING_DESC_F_WRITE : 0) |
						  (k + 1 < n ? VRING_DESC_F_NEXT : 0));
	return id;
}

/* The device's wish for kicks, checked. */
HOT bool driver_packed_wants_kick(struct driver_ring *r, uint32_t n_slots)
{
	uint16_t flags = __atomic_load_n(&r->packed.device->flags, __ATOMIC_ACQUIRE);
	uint16_t off_wrap = __atomic_load_n(&r->packed.device->off_wrap, __ATOMIC_RELAXED);
	uint16_t event = off_wrap & ~DRIVER_PACKED_WRAP;

	if (unlikely(flags > VRING_PACKED_EVENT_FLAG_DESC))
		driver_violated(r, "device event flags are %#x", flags);
	if (flags != VRING_PACKED_EVENT_FLAG_DESC)
		return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
	if (unlikely(!r->event_idx || event >= r->size))
		driver_violated(r, "device event is for descriptor %u, queue size %u, EVENT_IDX %s",
				event, r->size, r->event_idx ? "on" : "off");
	/* In a round with the other wrap counter, the place lies one ring size back. */
	if (!!(off_wrap & DRIVER_PACKED_WRAP) != r->avail_wrap)
		event -= r->size;
	return vring_need_event(event, r->avail_idx, (uint16_t)(r->avail_idx - n_slots));
}

HOT bool driver_packed_publish(struct driver_ring *r)
{
	uint32_t n_slots = r->staged_slots;

	/* Pairs with the device's read of the flags: whole batch, then its first descriptor's
	 * flags. */
	__atomic_store_n(&r->packed.desc[r->avail_public].flags, r->staged_flags, __ATOMIC_RELEASE);
	r->avail_public = r->avail_idx;
	r->staged_slots = 0;
	/* virtio 1.3 2.8.21.3: the flags, then the look at the device's wish. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return driver_packed_wants_kick(r, n_slots);
}

HOT bool driver_packed_flags_used(const struct driver_ring *r, uint16_t flags)
{
	bool avail = flags & DRIVER_PACKED_AVAIL, used = flags & DRIVER_PACKED_USED;

	return avail == used && used == r->used_wrap;
}

HOT bool driver_packed_has_used(const struct driver_ring *r)
{
	return driver_packed_flags_used(
		r, __atomic_load_n(&r->packed.desc[r->used_idx].flags, __ATOMIC_ACQUIRE));
}

HOT bool driver_packed_used(struct driver_ring *r, uint32_t *id, uint32_t *len)
{
	const struct vring_packed_desc *d = &r->packed.desc[r->used_idx];
	/* Pairs with the device's publishing store: id and length, then the flags. */
	uint16_t flags = __atomic_load_n(&d->flags, __ATOMIC_ACQUIRE);

	if (!driver_packed_flags_used(r, flags))
		return false;
	if (unlikely(r->outstanding == 0)) {
		driver_violated(r, "descriptor %u was used, but no chain is outstanding",
				r->used_idx);
		return false;
	}
	*id = d->id;
	*len = d->len;
	/* virtio 1.3 2.8.4: WRITE says whether anything was written, and whether len counts. */
	if (flags & VRING_DESC_F_WRITE) {
		if (unlikely(*id < r->size && r->slots[*id].busy && r->slots[*id].in_len == 0)) {
			driver_violated(r, "used id %u: marked as written, but was not writable",
					*id);
			return false;
		}
	} else if (unlikely(*len)) {
		if (r->ignores_reserved_len) {
			*len = 0;
			return true;
		}
		/* Reserved by the text, but Linux takes it as it stands. */
		driver_violated(r, "used id %u: length %u without the write flag", *id, *len);
		return false;
	}
	return true;
}

HOT void driver_packed_release(struct driver_ring *r, uint16_t id, const struct driver_slot *s)
{
	uint32_t slot = r->used_idx + s->n_slots;

	r->next[id] = r->free_head;
	r->free_head = id;
	if (slot >= r->size) {
		slot -= r->size;
		r->used_wrap = !r->used_wrap;
	}
	r->used_idx = slot;
	/*
	 * Where the next used one stands, and how far on, is read from this one: without a hint
	 * each line of them would be waited for. To write, for there the next buffers are made
	 * available.
	 */
	if (likely(slot + DRIVER_PACKED_AHEAD < r->size))
		prefetch_write(&r->packed.desc[slot + DRIVER_PACKED_AHEAD]);
}

HOT void driver_packed_calls_at(struct driver_ring *r, unsigned n)
{
	struct vring_packed_desc_event *e = r->packed.driver;
	uint32_t slot = r->used_idx + n - 1;
	bool wrap = r->used_wrap;

	if (!r->event_idx) {
		__atomic_store_n(&e->flags, VRING_PACKED_EVENT_FLAG_ENABLE, __ATOMIC_RELAXED);
		return;
	}
	if (slot >= r->size) {
		slot -= r->size;
		wrap = !wrap;
	}
	__atomic_store_n(&e->off_wrap, slot | (wrap ? DRIVER_PACKED_WRAP : 0), __ATOMIC_RELAXED);
	/* Pairs with the device's read of the flags: the place, then that it counts. */
	__atomic_store_n(&e->flags, VRING_PACKED_EVENT_FLAG_DESC, __ATOMIC_RELEASE);
}

HOT void driver_packed_calls_off(struct driver_ring *r)
{
	__atomic_store_n(&r->packed.driver->flags, VRING_PACKED_EVENT_FLAG_DISABLE,
			 __ATOMIC_RELAXED);
}

#endif
