/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring that remembers its chains: an in-flight buffer whose every byte is the front-end's, also
 * while we read it, IN_ORDER, or both; with a hostile driver. Recovery begins the ring or refuses;
 * whatever is popped afterwards lies within guest memory, comes back once, and nothing is written
 * but the device's areas and the buffer. We die at any moment, and the next back-end recovers.
 */
#include "tests/fuzz/hooks.h"

#include "base/log.h"
#include "tests/fuzz/guest.h"
#include "tests/fuzz/race.h"
#include "vhost/ring_track.h"

#include <stdlib.h>

#define STEPS_MAX 150
#define POP_MAX 16

static struct {
	struct fuzz_guest g;
	struct ring r;
	bool in_order;
	uint8_t *region; /* NULL: none */
	size_t region_bytes;
	unsigned n_live;
	struct chain live[FG_SIZE_MAX];
	struct iovec segs[POP_MAX * RING_CHAIN_SEGS_MAX];
} b;

static size_t region_size(void)
{
	if (b.g.packed)
		return sizeof(struct inflight_packed) +
		       b.g.size * sizeof(struct inflight_packed_desc);
	return sizeof(struct inflight_split) + b.g.size * sizeof(struct inflight_split_desc);
}

/* A header that is right but for what the input says, and entries that may be. */
static void region_fill(struct input *in)
{
	uint8_t how = in_u8(in);
	unsigned n = in_u8(in);

	memset(b.region, 0, b.region_bytes);
	in_bytes(in, b.region, how & 1 ? 32 : 0);
	if (!(how & 2))
		*(uint16_t *)(b.region + 8) = INFLIGHT_VERSION;
	if (!(how & 4))
		*(uint16_t *)(b.region + 10) = (uint16_t)b.g.size;
	for (unsigned i = 0; i < n && in_left(in); i++) {
		unsigned at = in_u8(in) % b.g.size;

		if (b.g.packed) {
			struct inflight_packed *reg = (void *)b.region;

			reg->desc[at] = (struct inflight_packed_desc) {
				.inflight = how >> 3 & 1,
				.next = in_u8(in),
				.last = in_u8(in),
				.num = in_u8(in) % 8,
				.counter = in_u8(in),
				.id = in_u8(in),
				.flags = in_u8(in) & 7,
				.len = in_u16(in),
				.addr = FG_MAIN_GPA + in_u16(in),
			};
		} else {
			struct inflight_split *reg = (void *)b.region;

			reg->desc[at] = (struct inflight_split_desc) { .inflight = how >> 3 & 1,
								       .next = in_u8(in),
								       .counter = in_u8(in) };
		}
	}
}

/* Recovery reads it while the front-end writes there. */
static void race_region(void)
{
	if (!RACING)
		return;
	for (unsigned n = race_random(3); n > 0; n--) {
		unsigned bytes = 1u << race_random(3);
		size_t at = ALIGN_DOWN((size_t)race_random((uint32_t)b.region_bytes - 4), bytes);

		race_word(b.region + at, bytes, race_random(race_random(2) ? 8 : 1u << 16), NULL);
	}
}

static const char *recover_region(void)
{
	const char *why;

	race_region();
	race_begin();
	why = ring_recover(&b.r);
	race_end();
	return why;
}

/* A new back-end finds the ring and the buffer as they are. @return whether it serves them. */
static bool recover(uint32_t base)
{
	struct ring_config cfg = { .desc = fg_main(&b.g, FG_DESC),
				   .driver = fg_main(&b.g, FG_DRIVER),
				   .device = fg_main(&b.g, FG_DEVICE),
				   .layout = b.g.packed ? RING_PACKED : RING_SPLIT,
				   .size = b.g.size,
				   .indirect = b.g.indirect,
				   .event_idx = b.g.event_idx,
				   .base = base,
				   .map = b.g.map,
				   .name = "fuzz" };

	b.n_live = 0;
	if (ring_init(&b.r, &cfg))
		return false;
	b.r.track = ring_track_new(cfg.layout, cfg.size, b.in_order, b.region);
	FUZZ_CHECK(b.r.track);
	fg_check_writes(&b.g, true);
	hooks_ring(&b.r, &b.g);
	if (b.region && recover_region()) {
		hooks_ring_end(&b.r);
		ring_track_free(b.r.track);
		return false;
	}
	FUZZ_CHECK(b.r.n_again <= b.g.size && b.r.in_flight == b.r.n_again);
	return true;
}

static void pop(unsigned n)
{
	struct chain chains[POP_MAX];
	unsigned got;

	race_begin();
	got = b.g.packed ? hooked_pop(&b.r, RING_PACKED, chains, n, b.segs, ARRAY_SIZE(b.segs))
			 : hooked_pop(&b.r, RING_SPLIT, chains, n, b.segs, ARRAY_SIZE(b.segs));
	race_end();

	FUZZ_CHECK(got <= n && b.n_live + got <= b.g.size);
	for (unsigned i = 0; i < got; i++)
		b.live[b.n_live++] = chains[i];
}

static void push(unsigned i, bool full)
{
	struct chain c = b.live[i];
	uint32_t written = full ? c.in_len : c.in_len / 2;

	b.live[i] = b.live[--b.n_live];
	if (b.g.packed)
		hooked_push(&b.r, RING_PACKED, c.id, c.n_slots, written);
	else
		hooked_push(&b.r, RING_SPLIT, c.id, c.n_slots, written);
}

static void publish(void)
{
	if (b.g.packed) {
		ring_publish(&b.r, RING_PACKED);
		ring_call(&b.r, RING_PACKED);
	} else {
		ring_publish(&b.r, RING_SPLIT);
		ring_call(&b.r, RING_SPLIT);
	}
}

/* @return false when the next back-end does not serve it. */
static bool die(struct input *in)
{
	uint32_t base = in_u8(in) & 1 ? b.g.base : ring_base(&b.r);

	hooks_ring_forget(&b.r);
	ring_track_free(b.r.track);
	return recover(base);
}

static void finish(void)
{
	while (b.n_live)
		push(0, true);
	publish();
	fg_check_writes(&b.g, true);
	hooks_ring_end(&b.r);
	ring_track_free(b.r.track);
}

static void run(struct input *in)
{
	for (unsigned i = 0; i < STEPS_MAX && in_left(in); i++) {
		uint8_t what = in_u8(in);

		switch (what % 8) {
		default:
			fg_step(&b.g, in);
			continue;
		case 3:
			pop(1 + what / 8 % POP_MAX);
			break;
		case 4:
			if (b.n_live)
				push(what / 8 % b.n_live, what & 0x80);
			break;
		case 5:
			publish();
			break;
		case 6:
			if (!b.region)
				break;
			b.region[in_u16(in) % b.region_bytes] = in_u8(in);
			continue;
		case 7:
			if (!die(in))
				return;
			break;
		}
		fg_check_writes(&b.g, b.n_live == 0);
	}
	finish();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	uint8_t how;

	if (!b.g.map) {
		fg_create(&b.g, NULL);
		log_set_level(LOG_LEVEL_ERROR);
	}
	race_reset();
	fg_begin(&b.g, &in);
	how = in_u8(&in);
	b.in_order = how & 1;
	if (how & 2 || !b.in_order) {
		b.region_bytes = region_size();
		b.region = malloc(b.region_bytes);
		FUZZ_CHECK(b.region);
		region_fill(&in);
	}
	b.r.call_fd = b.r.err_fd = -1;
	if (recover(b.g.base))
		run(&in);
	free(b.region);
	b.region = NULL;
	return 0;
}
