/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/guest.h"
#include "tests/fuzz/race.h"
#include "vhost/ring.h"

/* After ring.h: its inline functions are not to be hooked here. */
#include "tests/fuzz/hooks.h"

#define RINGS_MAX 8
#define LIVE_MAX 4096

static struct {
	const struct ring *ring;
	struct fuzz_guest *guest;
	unsigned n;
	struct {
		uint16_t id, n_slots;
		uint32_t in_len;
	} live[LIVE_MAX];
	/* As they were popped, and are not used yet; kept where they have to come back so. */
	bool in_order;
	unsigned n_order;
	struct {
		uint16_t id, n_slots;
	} order[LIVE_MAX];
} rings[RINGS_MAX];

static unsigned slot_of(const struct ring *r)
{
	for (unsigned i = 0; i < RINGS_MAX; i++)
		if (rings[i].ring == r)
			return i;
	FUZZ_CHECK(false, "a ring that nobody started");
}

void hooks_ring(const struct ring *r, struct fuzz_guest *g)
{
	unsigned i = slot_of(NULL);

	rings[i].ring = r;
	rings[i].guest = g;
	rings[i].n = 0;
	rings[i].in_order = false;
	rings[i].n_order = 0;
}

void hooks_in_order(const struct ring *r)
{
	rings[slot_of(r)].in_order = true;
}

void hooks_ring_end(const struct ring *r)
{
	unsigned i = slot_of(r);

	FUZZ_CHECK(rings[i].n == 0, "%u chains were never pushed", rings[i].n);
	rings[i].ring = NULL;
}

void hooks_ring_forget(const struct ring *r)
{
	rings[slot_of(r)].ring = NULL;
}

unsigned hooks_live(const struct ring *r)
{
	return rings[slot_of(r)].n;
}

void hook_read(const void *p, size_t len)
{
	if (len == 0)
		return;
	race_read();
	for (unsigned i = 0; i < RINGS_MAX; i++)
		if (rings[i].ring)
			fg_flip(rings[i].guest, p, len);
}

static void check_segs(struct fuzz_guest *g, const struct iovec *segs, unsigned n, uint32_t bytes)
{
	uint64_t sum = 0, at;

	for (unsigned i = 0; i < n; i++) {
		int r = fg_find(g, segs[i].iov_base, &at);

		FUZZ_CHECK(segs[i].iov_len > 0);
		FUZZ_CHECK(r >= 0 && segs[i].iov_len <= g->map->region[r].size - at,
			   "segment %u, %zu bytes, lies outside memory", i, segs[i].iov_len);
		sum += segs[i].iov_len;
	}
	FUZZ_CHECK(sum == bytes, "%llu bytes in segments, %u in all", (unsigned long long)sum,
		   bytes);
}

void hook_popped(const struct ring *r, const struct chain *c)
{
	unsigned s = slot_of(r);
	struct fuzz_guest *g = rings[s].guest;

	FUZZ_CHECK(c->id < r->size);
	FUZZ_CHECK(c->n_slots >= 1 && c->n_slots <= r->size);
	FUZZ_CHECK(c->n_out + c->n_in <= RING_CHAIN_SEGS_MAX);
	FUZZ_CHECK(rings[s].n < r->size, "more chains in flight than the queue has entries");
	check_segs(g, c->segs, c->n_out, c->out_len);
	check_segs(g, c->segs + c->n_out, c->n_in, c->in_len);
	for (unsigned i = 0; i < c->n_in; i++)
		fg_allow(g, c->segs[c->n_out + i].iov_base, c->segs[c->n_out + i].iov_len);
	rings[s].live[rings[s].n].id = c->id;
	rings[s].live[rings[s].n].n_slots = c->n_slots;
	rings[s].live[rings[s].n].in_len = c->in_len;
	rings[s].n++;
	if (!rings[s].in_order)
		return;
	rings[s].order[rings[s].n_order].id = c->id;
	rings[s].order[rings[s].n_order].n_slots = c->n_slots;
	rings[s].n_order++;
}

/* A driver may use one id twice; then the chain that just holds it is meant. */
void hook_pushed(const struct ring *r, uint16_t id, uint16_t n_slots, uint32_t written)
{
	unsigned s = slot_of(r), n = rings[s].n, found = n;
	bool known = false;

	for (unsigned i = 0; i < n; i++) {
		if (rings[s].live[i].id != id || rings[s].live[i].n_slots != n_slots)
			continue;
		known = true;
		if (written <= rings[s].live[i].in_len &&
		    (found == n || rings[s].live[i].in_len < rings[s].live[found].in_len))
			found = i;
	}
	FUZZ_CHECK(known, "chain %u was pushed and is not in flight", id);
	FUZZ_CHECK(found < n, "chain %u was pushed with %u bytes, more than it has room", id,
		   written);
	memmove(&rings[s].live[found], &rings[s].live[found + 1],
		(n - found - 1) * sizeof(rings[s].live[0]));
	rings[s].n--;
}

void hook_rewound(const struct ring *r, unsigned n)
{
	unsigned s = slot_of(r);

	FUZZ_CHECK(n <= rings[s].n);
	rings[s].n -= n;
	if (rings[s].in_order)
		rings[s].n_order -= n;
}

void hook_used(const struct ring *r, uint32_t staged, uint16_t used, bool wrap)
{
	unsigned s = slot_of(r), n = r->staged - staged;
	uint32_t slots = 0;

	if (!rings[s].in_order)
		return;
	FUZZ_CHECK(n <= rings[s].n_order);
	for (unsigned i = 0; i < n; i++)
		slots += rings[s].order[i].n_slots;
	for (unsigned i = 0; i < n; i++) {
		uint16_t id = rings[s].order[i].id;

		if (r->layout == RING_SPLIT) {
			FUZZ_CHECK(r->split.used->ring[used++ % r->size].id == id,
				   "chain %u is not used in its turn", id);
			continue;
		}
		/* In a race the driver may have written there again; or twice, in a turn. */
		if (!RACING && slots <= r->size)
			FUZZ_CHECK(r->packed.desc[used].id == id,
				   "chain %u is not used in its turn", id);
		packed_advance(r, &used, &wrap, rings[s].order[i].n_slots);
	}
	rings[s].n_order -= n;
	memmove(&rings[s].order[0], &rings[s].order[n],
		rings[s].n_order * sizeof(rings[s].order[0]));
}

void hook_broken_popped(const struct ring *r)
{
	FUZZ_CHECK(false, "%s: a broken ring gave chains away", r->name ? r->name : "ring");
}
