/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the floors of the benchmarks (floor_net.c, floor_blk.c) have in common: as much of
 * vhost-user as sluice-bench speaks, and both layouts of a ring whose chains take one descriptor
 * each.
 *
 * NOT for a back-end that a guest is given to: it believes every index, address and length that it
 * reads, so that any guest can write to all of the process's memory.
 */
#ifndef SLUICE_BENCH_RING_FLOOR_DEVICE_H
#define SLUICE_BENCH_RING_FLOOR_DEVICE_H

#include "tests/guest/frontend.h"

#include <linux/virtio_ring.h>

#define FLOOR_RINGS_MAX 128u /* as many as sluice-bench drives */

struct floor_ring {
	uint32_t size;
	uint32_t at, used; /* where it goes on: split: free-running; packed: 0 to size - 1 */
	bool wrap, used_wrap, started;
	void *desc, *avail, *device; /* virtio 1.3 2.7, 2.8: descriptor, driver, device area */
};

struct floor_device {
	uint64_t features, protocol; /* that are offered; set before floor_accept() */
	uint8_t config[VU_CONFIG_MAX];
	int sock;
	uint8_t *base; /* of guest address 0 */
	bool packed;
	unsigned n_rings; /* the last one that was started, and those before it */
	struct floor_ring ring[FLOOR_RINGS_MAX];
	uint32_t n_regions;
	struct vu_region region[VU_FDS_MAX];
};

/* The one descriptor of a chain. */
struct floor_buffer {
	void *at;
	uint32_t len;
	uint16_t id;
};

/* What goes wrong in any of these ends the program with a sentence. */
/* @return a socket that listens at @path. */
int floor_listen(const char *path);
void floor_accept(struct floor_device *d, int listener);
/* @return false when the front-end is gone. @wait: until there is something to obey. */
bool floor_obey(struct floor_device *d, bool wait);

/* Up to @n chains of one descriptor each. @return how many. */
HOT unsigned floor_pop(const struct floor_device *d, struct floor_ring *r, bool packed,
		       struct floor_buffer *b, unsigned n)
{
	unsigned got = 0;

	if (packed) {
		const struct vring_packed_desc *desc = r->desc;

		for (; got < n; got++) {
			uint16_t flags = __atomic_load_n(&desc[r->at].flags, __ATOMIC_ACQUIRE);

			/* virtio 1.3 2.8.1 */
			if (!!(flags & 1 << VRING_PACKED_DESC_F_AVAIL) != r->wrap ||
			    !!(flags & 1 << VRING_PACKED_DESC_F_USED) == r->wrap)
				break;
			b[got] = (struct floor_buffer) { d->base + desc[r->at].addr,
							 desc[r->at].len, desc[r->at].id };
			if (++r->at == r->size) {
				r->at = 0;
				r->wrap = !r->wrap;
			}
		}
	} else {
		const struct vring_desc *desc = r->desc;
		const struct vring_avail *avail = r->avail;
		uint16_t idx = __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE);

		for (; got < n && (uint16_t)r->at != idx; got++, r->at++) {
			uint16_t id = avail->ring[r->at & (r->size - 1)];

			b[got] = (struct floor_buffer) { d->base + desc[id].addr, desc[id].len,
							 id };
		}
	}
	return got;
}

/* Gives @n back, seen by the driver all at once. @written: with the buffers' lengths. */
HOT void floor_push(struct floor_ring *r, bool packed, const struct floor_buffer *b, unsigned n,
		    bool written)
{
	if (!n)
		return;
	if (packed) {
		struct vring_packed_desc *desc = r->desc;
		uint32_t first = r->used;
		uint16_t first_flags = 0;

		for (unsigned i = 0; i < n; i++) {
			uint16_t flags =
				(uint16_t)((r->used_wrap ? 1u << VRING_PACKED_DESC_F_AVAIL |
								   1u << VRING_PACKED_DESC_F_USED
							 : 0) |
					   (written ? VRING_DESC_F_WRITE : 0));

			desc[r->used].id = b[i].id;
			desc[r->used].len = written ? b[i].len : 0;
			if (i == 0)
				first_flags = flags;
			else
				__atomic_store_n(&desc[r->used].flags, flags, __ATOMIC_RELEASE);
			if (++r->used == r->size) {
				r->used = 0;
				r->used_wrap = !r->used_wrap;
			}
		}
		__atomic_store_n(&desc[first].flags, first_flags, __ATOMIC_RELEASE);
	} else {
		struct vring_used *used = r->device;

		for (unsigned i = 0; i < n; i++, r->used++)
			used->ring[r->used & (r->size - 1)] = (struct vring_used_elem) {
				b[i].id, written ? b[i].len : 0
			};
		__atomic_store_n(&used->idx, (uint16_t)r->used, __ATOMIC_RELEASE);
	}
}

#endif
