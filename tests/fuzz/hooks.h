/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Put before the device sources (blk_poll.c, from_guest.c …) that a fuzzer is built of, so that the
 * fuzzer sees what the device does with its rings:
 *
 *	each read of shared memory is told to hook_read(), which may change the word behind it
 *	each chain popped is checked, and its writable segments become writable
 *	each chain pushed must have been popped and not been pushed yet, and not be overfilled
 *
 * The code under test is that of vhost/, net/ and blk/, compiled once more.
 */
#ifndef SLUICE_TESTS_FUZZ_HOOKS_H
#define SLUICE_TESTS_FUZZ_HOOKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

void hook_read(const void *p, size_t len);

#define __atomic_load_n(ptr, order)                                                \
	({                                                                         \
		const __typeof__(*(ptr)) hook_value = __atomic_load_n(ptr, order); \
		hook_read((const void *)(ptr), sizeof(hook_value));                \
		hook_value;                                                        \
	})
#define memcpy(to, from, len)                                              \
	({                                                                 \
		const void *hook_from = (from);                            \
		size_t hook_len = (len);                                   \
		void *hook_to = __builtin_memcpy(to, hook_from, hook_len); \
		hook_read(hook_from, hook_len);                            \
		hook_to;                                                   \
	})

#include "vhost/ring.h"

struct fuzz_guest;

/* Chains of @r live in @g from now on; none is in flight. */
void hooks_ring(const struct ring *r, struct fuzz_guest *g);
/* They have to come back in the order in which they are popped (virtio 1.3 2.7.9, 2.8.8). */
void hooks_in_order(const struct ring *r);
/* @r ends: every chain must be back. */
void hooks_ring_end(const struct ring *r);
/* @r ends with its back-end: what was in flight stays so. */
void hooks_ring_forget(const struct ring *r);
/* Chains of @r popped and not pushed. */
unsigned hooks_live(const struct ring *r);

void hook_popped(const struct ring *r, const struct chain *c);
void hook_pushed(const struct ring *r, uint16_t id, uint16_t n_slots, uint32_t written);
/* What was pushed: it stands in the ring from @used, @wrap on, but for what waits for its turn. */
void hook_used(const struct ring *r, uint32_t staged, uint16_t used, bool wrap);
void hook_rewound(const struct ring *r, unsigned n);
void hook_broken_popped(const struct ring *r);

HOT unsigned hooked_pop(struct ring *r, enum ring_layout layout, struct chain *chains, unsigned n,
			struct iovec *segs, unsigned n_segs)
{
	bool broken = r->broken;
	unsigned got = ring_pop(r, layout, chains, n, segs, n_segs);

	if (broken && got)
		hook_broken_popped(r);
	for (unsigned i = 0; i < got; i++)
		hook_popped(r, &chains[i]);
	return got;
}

HOT void hooked_push(struct ring *r, enum ring_layout layout, uint16_t id, uint16_t n_slots,
		     uint32_t written)
{
	uint32_t staged = r->staged;
	uint16_t used = r->used_idx;
	bool wrap = r->used_wrap;

	hook_pushed(r, id, n_slots, written);
	ring_push(r, layout, id, n_slots, written);
	hook_used(r, staged, used, wrap);
}

HOT void hooked_push_many(struct ring *r, enum ring_layout layout, const struct chain *chains,
			  unsigned n, const uint32_t *written)
{
	uint32_t staged = r->staged;
	uint16_t used = r->used_idx;
	bool wrap = r->used_wrap;

	for (unsigned i = 0; i < n; i++)
		hook_pushed(r, chains[i].id, chains[i].n_slots, written ? written[i] : 0);
	ring_push_many(r, layout, chains, n, written);
	hook_used(r, staged, used, wrap);
}

HOT void hooked_unpop(struct ring *r, enum ring_layout layout, const struct chain *chains,
		      unsigned n)
{
	hook_rewound(r, n);
	ring_unpop(r, layout, chains, n);
}

#define ring_pop hooked_pop
#define ring_push hooked_push
#define ring_push_many hooked_push_many
#define ring_unpop hooked_unpop

#endif
