/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of either layout and a driver that writes what it likes, also while the device reads. What
 * must hold: segments lie within guest memory, no chain comes back that was not taken, nothing but
 * the device's areas is written, and what stands there is what was pushed.
 */
#include "tests/fuzz/hooks.h"

#include "base/log.h"
#include "tests/fuzz/guest.h"
#include "tests/fuzz/race.h"

#include <stdlib.h>
#include <sys/eventfd.h>

#define STEPS_MAX 200
#define POP_MAX 32

struct bench {
	struct fuzz_guest g;
	struct ring r;
	unsigned n_live;
	struct chain live[FG_SIZE_MAX];
	struct chain chains[POP_MAX];
	struct iovec segs[POP_MAX * RING_CHAIN_SEGS_MAX];
	uint16_t used_idx; /* where the next used entry has to stand */
	bool used_wrap;
	unsigned staged;
	uint16_t first_slot, first_flags;
};

static struct bench *b;

static unsigned pop(unsigned n, unsigned n_segs)
{
	unsigned got;

	race_begin();
	got = b->g.packed ? hooked_pop(&b->r, RING_PACKED, b->chains, n, b->segs, n_segs)
			  : hooked_pop(&b->r, RING_SPLIT, b->chains, n, b->segs, n_segs);
	race_end();
	return got;
}

static void step_pop(struct input *in)
{
	uint8_t how = in_u8(in);
	unsigned n = 1 + how % POP_MAX;
	unsigned n_segs = how & 0x80 ? RING_CHAIN_SEGS_MAX : ARRAY_SIZE(b->segs);
	unsigned got = pop(n, n_segs);

	FUZZ_CHECK(got <= n);
	for (unsigned i = 0; i < got; i++)
		b->live[b->n_live++] = b->chains[i];
	FUZZ_CHECK(b->n_live == b->r.in_flight && b->n_live <= b->r.size);
}

static void step_unpop(struct input *in)
{
	unsigned got = pop(1 + in_u8(in) % POP_MAX, ARRAY_SIZE(b->segs)), keep = in_u8(in);

	FUZZ_CHECK(got <= POP_MAX);
	keep = MIN(keep, got);
	for (unsigned i = 0; i < keep; i++)
		b->live[b->n_live++] = b->chains[i];
	hooked_unpop(&b->r, b->r.layout, b->chains + keep, got - keep);
	FUZZ_CHECK(b->n_live == b->r.in_flight);
}

static void check_split(uint16_t id, uint32_t written)
{
	const struct vring_used *used = fg_main(&b->g, FG_DEVICE);
	const struct vring_used_elem *e = &used->ring[b->used_idx % b->r.size];

	FUZZ_CHECK(e->id == id && e->len == written);
	b->used_idx++;
}

static void check_packed(uint16_t id, uint16_t n_slots, uint32_t written)
{
	const struct vring_packed_desc *ring = fg_main(&b->g, FG_DESC), *d = &ring[b->used_idx];
	uint16_t flags = (b->used_wrap
				  ? 1u << VRING_PACKED_DESC_F_AVAIL | 1u << VRING_PACKED_DESC_F_USED
				  : 0) |
			 (written ? VRING_DESC_F_WRITE : 0);

	(void)d; /* in a race the driver may have written there again */
	if (!RACING)
		FUZZ_CHECK(d->id == id && d->len == written);
	if (b->staged == 0) {
		b->first_slot = b->used_idx;
		b->first_flags = flags;
	} else if (!RACING) {
		FUZZ_CHECK(d->flags == flags);
	}
	for (unsigned i = 0; i < n_slots; i++)
		if (++b->used_idx == b->r.size) {
			b->used_idx = 0;
			b->used_wrap = !b->used_wrap;
		}
}

static void step_push(struct input *in)
{
	unsigned n = in_u8(in) % 8;

	for (; n > 0 && b->n_live > 0; n--) {
		uint8_t how = in_u8(in);
		unsigned i = how % b->n_live;
		struct chain c = b->live[i];
		uint32_t written = how & 0x80 ? c.in_len : MIN(c.in_len, (uint32_t)in_u8(in));

		b->live[i] = b->live[--b->n_live];
		if (b->g.packed) {
			hooked_push(&b->r, RING_PACKED, c.id, c.n_slots, written);
			check_packed(c.id, c.n_slots, written);
		} else {
			hooked_push(&b->r, RING_SPLIT, c.id, c.n_slots, written);
			check_split(c.id, written);
		}
		b->staged++;
	}
}

static void step_publish(void)
{
	const struct vring_used *used = fg_main(&b->g, FG_DEVICE);
	const struct vring_packed_desc *ring = fg_main(&b->g, FG_DESC);
	unsigned staged = b->staged;

	(void)ring; /* in a race */
	b->staged = 0;
	race_begin();
	if (b->g.packed) {
		ring_publish(&b->r, RING_PACKED);
		if (staged && !RACING)
			FUZZ_CHECK(ring[b->first_slot].flags == b->first_flags);
		ring_call(&b->r, RING_PACKED);
	} else {
		ring_publish(&b->r, RING_SPLIT);
		if (staged)
			FUZZ_CHECK(used->idx == b->used_idx);
		ring_call(&b->r, RING_SPLIT);
	}
	race_end();
}

static void step_kicks(struct input *in)
{
	bool on = in_u8(in) & 1;

	race_begin();
	if (b->g.packed && on)
		ring_kicks_on(&b->r, RING_PACKED);
	else if (b->g.packed)
		ring_kicks_off(&b->r, RING_PACKED);
	else if (on)
		ring_kicks_on(&b->r, RING_SPLIT);
	else
		ring_kicks_off(&b->r, RING_SPLIT);
	race_end();
}

static bool begin(struct input *in)
{
	struct fuzz_guest *g = &b->g;
	int call_fd = b->r.call_fd, err_fd = b->r.err_fd;
	struct ring_config cfg = { .desc = fg_main(g, FG_DESC),
				   .driver = fg_main(g, FG_DRIVER),
				   .device = fg_main(g, FG_DEVICE),
				   .map = g->map,
				   .name = "fuzz" };

	race_reset();
	fg_begin(g, in);
	cfg.layout = g->packed ? RING_PACKED : RING_SPLIT;
	cfg.size = g->size;
	cfg.indirect = g->indirect;
	cfg.event_idx = g->event_idx;
	cfg.base = g->base;
	if (in_u8(in) == 0xff)
		cfg.base = in_u32(in);
	b->n_live = b->staged = 0;
	if (ring_init(&b->r, &cfg))
		return false;
	b->r.call_fd = call_fd;
	b->r.err_fd = err_fd;
	b->used_idx = b->r.used_idx;
	b->used_wrap = b->r.used_wrap;
	fg_check_writes(g, true);
	hooks_ring(&b->r, g);
	return true;
}

/* What is still out goes back, so that each life ends with an empty ring. */
static void end(void)
{
	static const uint8_t all[] = { 7, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80 };

	while (b->n_live) {
		struct input in = { all, all + sizeof(all) };

		step_push(&in);
	}
	step_publish();
	fg_check_writes(&b->g, true);
	FUZZ_CHECK(b->r.in_flight == 0);
	hooks_ring_end(&b->r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	if (!b) {
		b = calloc(1, sizeof(*b));
		assert(b);
		fg_create(&b->g, NULL);
		log_set_level(LOG_LEVEL_ERROR);
		b->r.call_fd = eventfd(0, EFD_NONBLOCK);
		b->r.err_fd = eventfd(0, EFD_NONBLOCK);
	}
	if (!begin(&in))
		return 0;
	for (unsigned i = 0; i < STEPS_MAX && in_left(&in); i++) {
		switch (in_u8(&in) % 8) {
		default:
			fg_step(&b->g, &in);
			continue;
		case 3:
			step_pop(&in);
			break;
		case 4:
			step_push(&in);
			break;
		case 5:
			step_publish();
			break;
		case 6:
			step_kicks(&in);
			break;
		case 7:
			step_unpop(&in);
			break;
		}
		fg_check_writes(&b->g, b->n_live == 0);
	}
	end();
	return 0;
}
