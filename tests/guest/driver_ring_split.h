/* SPDX-License-Identifier: Apache-2.0 */
/* The split layout (virtio 1.3, 2.7) as the driver sees it. Included by driver_ring.h alone. */
#ifndef SLUICE_TESTS_GUEST_DRIVER_RING_SPLIT_H
#define SLUICE_TESTS_GUEST_DRIVER_RING_SPLIT_H

#define DRIVER_SPLIT_AHEAD 32u /* entries of the available ring: a cache line */

/* EVENT_IDX puts each side's wish behind the last entry of the ring that it writes. */
HOT uint16_t *driver_split_used_event(const struct driver_ring *r)
{
	return &r->split.avail->ring[r->size];
}

HOT uint16_t *driver_split_avail_event(const struct driver_ring *r)
{
	return (uint16_t *)&r->split.used->ring[r->size];
}

HOT void driver_split_fill_table(struct driver_ring *r, uint16_t id, const struct driver_seg *segs,
				 unsigned n_out, unsigned n)
{
	uint64_t offset = (uint64_t)id * r->indirect_segs * sizeof(struct vring_desc);
	struct vring_desc *table = (struct vring_desc *)(r->tables + offset);

	for (unsigned i = 0; i < n; i++) {
		table[i].addr = segs[i].gpa;
		table[i].len = segs[i].len;
		table[i].flags = (i >= n_out ? VRING_DESC_F_WRITE : 0) |
				 (i + 1 < n ? VRING_DESC_F_NEXT : 0);
		table[i].next = i + 1 < n ? i + 1 : 0;
	}
	r->split.desc[id] = (struct vring_desc) { .addr = r->tables_gpa + offset,
						  .len = n * sizeof(struct vring_desc),
						  .flags = VRING_DESC_F_INDIRECT };
}

/* @return the head, which is the chain's id. The caller made sure that there is room. */
HOT uint16_t driver_split_add(struct driver_ring *r, const struct driver_seg *segs, unsigned n_out,
			      unsigned n_in, bool table)
{
	unsigned n = n_out + n_in;
	uint16_t head = r->free_head, i = head, last = head;

	if (table) {
		driver_split_fill_table(r, head, segs, n_out, n);
		i = r->next[head];
	} else {
		for (unsigned k = 0; k < n; k++) {
			last = i;
			i = r->next[i];
			r->split.desc[last] = (struct vring_desc) {
				.addr = segs[k].gpa,
				.len = segs[k].len,
				.flags = (k >= n_out ? VRING_DESC_F_WRITE : 0) |
					 (k + 1 < n ? VRING_DESC_F_NEXT : 0),
				.next = k + 1 < n ? i : 0,
			};
		}
	}
	r->free_head = i;
	r->slots[head].tail = last;
	r->split.avail->ring[r->avail_idx++ & (r->size - 1)] = head;
	prefetch_write(&r->split.avail->ring[(r->avail_idx + DRIVER_SPLIT_AHEAD) & (r->size - 1)]);
	return head;
}

HOT bool driver_split_publish(struct driver_ring *r)
{
	uint16_t old = r->avail_public, flags;

	r->avail_public = r->avail_idx;
	/* Pairs with the device's read of avail->idx: descriptors and entries, then the index. */
	__atomic_store_n(&r->split.avail->idx, r->avail_idx, __ATOMIC_RELEASE);
	/* virtio 1.3 2.7.13.4.1: the index, then the look at the device's wish. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	flags = __atomic_load_n(&r->split.used->flags, __ATOMIC_RELAXED);
	if (unlikely(flags & ~VRING_USED_F_NO_NOTIFY))
		driver_violated(r, "used->flags is %#x", flags);
	if (!r->event_idx)
		return !(flags & VRING_USED_F_NO_NOTIFY);
	if (unlikely(flags)) /* virtio 1.3 2.7.10.2 */
		driver_violated(r, "used->flags is %#x although EVENT_IDX is negotiated", flags);
	return vring_need_event(__atomic_load_n(driver_split_avail_event(r), __ATOMIC_RELAXED),
				r->avail_idx, old);
}

HOT bool driver_split_has_used(const struct driver_ring *r)
{
	return __atomic_load_n(&r->split.used->idx, __ATOMIC_ACQUIRE) != r->used_idx;
}

HOT bool driver_split_used(struct driver_ring *r, uint32_t *id, uint32_t *len)
{
	const struct vring_used_elem *e;

	if (r->used_idx == r->used_seen) {
		/* Pairs with the device's publishing store: the entries, then the index. */
		uint16_t idx = __atomic_load_n(&r->split.used->idx, __ATOMIC_ACQUIRE);

		if (unlikely((uint16_t)(idx - r->used_idx) > r->outstanding)) {
			driver_violated(r,
					"used->idx went from %u to %u with %u chains outstanding",
					r->used_idx, idx, r->outstanding);
			return false;
		}
		r->used_seen = idx;
		if (idx == r->used_idx)
			return false;
	}
	e = &r->split.used->ring[r->used_idx & (r->size - 1)];
	*id = e->id;
	*len = e->len;
	return true;
}

HOT void driver_split_release(struct driver_ring *r, uint16_t id, const struct driver_slot *s)
{
	if (r->in_order && r->n_free) {
		/* virtio 1.3 2.7.5: in ring order, so the longest free ones first. */
		r->next[r->free_tail] = id;
	} else {
		r->next[s->tail] = r->free_head;
		r->free_head = id;
	}
	r->free_tail = s->tail;
	r->used_idx++;
	/* The device read it last, and it is the next to be written: stores do not wait for it
	 * then. */
	prefetch_write(&r->split.desc[id]);
}

HOT void driver_split_calls_at(struct driver_ring *r, unsigned n)
{
	if (r->event_idx)
		__atomic_store_n(driver_split_used_event(r), (uint16_t)(r->used_idx + n - 1),
				 __ATOMIC_RELAXED);
	else
		__atomic_store_n(&r->split.avail->flags, 0, __ATOMIC_RELAXED);
}

HOT void driver_split_calls_off(struct driver_ring *r)
{
	/* With EVENT_IDX flags stay 0 (2.7.7.1); an index just passed comes round in 65536 chains.
	 */
	if (r->event_idx)
		__atomic_store_n(driver_split_used_event(r), (uint16_t)(r->used_idx - 1),
				 __ATOMIC_RELAXED);
	else
		__atomic_store_n(&r->split.avail->flags, VRING_AVAIL_F_NO_INTERRUPT,
				 __ATOMIC_RELAXED);
}

#endif
