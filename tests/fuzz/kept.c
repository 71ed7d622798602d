/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/kept.h"

#include "tests/fuzz/race.h"
#include "vhost/inflight.h"

/* virtio 1.3 2.8.1: a place in the ring says one of them, seen from the turn that it is in. */
enum says { AVAILABLE, USED, NEITHER };

struct place {
	uint16_t slot;
	bool wrap;
};

static struct {
	/* What recovery should come to. */
	bool begins, refuses;
	struct place place;
	struct vring_packed_desc ring[FG_SIZE_MAX];

	/* What the dead one has done, while nobody but it wrote to the buffer. */
	bool honest; /* … since it began or recovered */
	bool dead;   /* … until it died; where, is known: */
	struct place at;
	/* The ring as it was before the batch that was not shown, if that can be foretold. */
	bool staged, known;
	struct place first;
	uint32_t slots;
	struct vring_packed_desc before[FG_SIZE_MAX];
} k;

static enum says says(bool wrap, uint16_t flags)
{
	bool avail = flags >> VRING_PACKED_DESC_F_AVAIL & 1;
	bool used = flags >> VRING_PACKED_DESC_F_USED & 1;

	if (avail == used)
		return used == wrap ? USED : NEITHER;
	return avail == wrap ? AVAILABLE : NEITHER;
}

static struct place after(struct place p, uint32_t size)
{
	if (++p.slot == size)
		p = (struct place) { 0, !p.wrap };
	return p;
}

static bool same(struct place a, struct place b)
{
	return a.slot == b.slot && a.wrap == b.wrap;
}

static bool foretold(const struct fuzz_guest *g)
{
	return !RACING && !g->flip_rate;
}

void kept_begin(void)
{
	k.honest = k.dead = k.staged = false;
}

/* Behind @p, where chains are to be taken yet, nothing says "used": so an honest driver has it. */
static bool is_clean(const struct fuzz_guest *g, struct place p)
{
	const struct vring_packed_desc *ring = fg_main(g, FG_DESC);

	for (uint32_t i = 1; i < g->size; i++) {
		p = after(p, g->size);
		if (says(p.wrap, ring[p.slot].flags) == USED)
			return false;
	}
	return true;
}

void kept_push(const struct fuzz_guest *g, const struct ring *r)
{
	const struct vring_packed_desc *ring = fg_main(g, FG_DESC);

	if (r->staged == 0) {
		k.staged = true;
		k.first = (struct place) { r->used_idx, r->used_wrap };
		k.known = is_clean(g, k.first);
		memcpy(k.before, ring, g->size * sizeof(*ring));
	} else if (r->staged_slots >= g->size ||
		   says(r->used_wrap, ring[r->used_idx].flags) != AVAILABLE) {
		k.known = false; /* only a driver that takes back what it gave gets here */
	}
}

void kept_published(void)
{
	k.staged = false;
}

void kept_guest_wrote(void)
{
	k.known = false;
}

void kept_region_wrote(void)
{
	k.honest = false;
}

void kept_die(const struct ring *r)
{
	k.dead = true;
	k.at = k.staged ? k.first : (struct place) { r->used_idx, r->used_wrap };
}

/* The batch that the buffer says was under way: was it shown? */
static struct place place_of(const struct inflight_packed *reg)
{
	struct place new = { reg->used_idx, reg->used_wrap_counter };
	struct place old = { reg->old_used_idx, reg->old_used_wrap_counter };

	return says(old.wrap, k.ring[old.slot].flags) == AVAILABLE ? old : new;
}

static bool any_in_flight(const struct fuzz_guest *g, const void *region)
{
	const struct inflight_packed *packed = region;
	const struct inflight_split *split = region;

	for (uint32_t i = 0; i < g->size; i++)
		if (g->packed ? packed->desc[i].inflight : split->desc[i].inflight)
			return true;
	return false;
}

static bool refuses(const struct fuzz_guest *g, const void *region)
{
	const struct inflight_packed *reg = region; /* both layouts begin alike */

	if (reg->version != 1 || reg->desc_num != g->size || any_in_flight(g, region))
		return true;
	return g->packed && (reg->used_idx >= g->size || reg->old_used_idx >= g->size ||
			     reg->free_head > g->size || reg->old_free_head > g->size);
}

void kept_expect(const struct fuzz_guest *g, const void *region)
{
	const struct inflight_packed *reg = region;
	struct place p;

	memcpy(k.ring, fg_main(g, FG_DESC), g->size * sizeof(k.ring[0]));
	k.begins = reg->version == 0;
	k.refuses = !k.begins && refuses(g, region);
	if (k.begins || k.refuses || !g->packed)
		return;
	k.place = p = place_of(reg);
	for (uint32_t i = 1; i < g->size; i++) {
		const struct inflight_packed_desc *covered;
		struct vring_packed_desc *d;

		p = after(p, g->size);
		d = &k.ring[p.slot];
		covered = &reg->desc[p.slot];
		if (says(p.wrap, d->flags) != USED || says(p.wrap, covered->flags) != AVAILABLE)
			continue;
		d->id = covered->id;
		d->flags = covered->flags;
		d->len = covered->len;
	}
}

static void check_region(const struct fuzz_guest *g, const struct ring *r, const void *region)
{
	const struct inflight_packed *reg = region;

	FUZZ_CHECK(reg->version == 1 && reg->desc_num == g->size);
	FUZZ_CHECK(!any_in_flight(g, region));
	if (!g->packed)
		return;
	FUZZ_CHECK(reg->used_idx == r->used_idx && reg->old_used_idx == r->used_idx);
	FUZZ_CHECK(reg->used_wrap_counter == r->used_wrap &&
		   reg->old_used_wrap_counter == r->used_wrap);
	FUZZ_CHECK(reg->free_head == reg->old_free_head);
}

/* Nobody but back-ends wrote to the buffer: the next one goes on where the dead one was. */
static void check_honest(const struct fuzz_guest *g, struct place p)
{
	FUZZ_CHECK(same(p, k.at), "the dead back-end was at %u, and the next one is at %u",
		   k.at.slot, p.slot);
	if (k.staged && k.known)
		FUZZ_CHECK(memcmp(fg_main(g, FG_DESC), k.before, g->size * sizeof(k.before[0])) ==
				   0,
			   "a batch that was not shown is not undone");
}

void kept_check(const struct fuzz_guest *g, const struct ring *r, const void *region,
		const char *why)
{
	struct place p = { r->used_idx, r->used_wrap };

	if (!why) {
		FUZZ_CHECK(r->kept == (g->packed ? region : NULL));
		FUZZ_CHECK(r->in_flight == 0 && r->n_again == 0);
		FUZZ_CHECK(!g->packed || (r->used_idx < g->size && r->avail_idx < g->size));
	}
	if (foretold(g)) {
		FUZZ_CHECK(!why == !k.refuses, "%s", why ? why : "it should have been refused");
		if (g->packed) /* a split ring's is read only */
			FUZZ_CHECK(memcmp(fg_main(g, FG_DESC), k.ring,
					  g->size * sizeof(k.ring[0])) == 0);
		if (!why)
			check_region(g, r, region);
		if (!why && !k.begins && g->packed) {
			FUZZ_CHECK(same(p, k.place));
			FUZZ_CHECK(r->avail_idx == p.slot && r->avail_wrap == p.wrap);
			if (k.honest && k.dead)
				check_honest(g, p);
		}
	}
	k.honest = !why;
	k.dead = k.staged = false;
}
