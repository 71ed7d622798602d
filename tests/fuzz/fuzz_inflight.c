/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring that remembers its chains: an in-flight buffer whose every byte is the front-end's, also
 * while we read it, IN_ORDER, or both; with a hostile driver. Recovery begins the ring or refuses;
 * whatever is popped afterwards lies within guest memory, comes back once, and nothing is written
 * but the device's areas and the buffer. We die at any moment, and the next back-end recovers.
 *
 * Or a card's ring, of which the buffer keeps the place alone (ring_keep.h). Then recovery comes to
 * what a second reading of the buffer comes to (kept.h), and a batch that was not shown is undone.
 */
#include "tests/fuzz/hooks.h"

#include "base/log.h"
#include "tests/fuzz/guest.h"
#include "tests/fuzz/kept.h"
#include "tests/fuzz/race.h"
#include "vhost/ring_keep.h"
#include "vhost/ring_track.h"

#include <stdlib.h>

#define STEPS_MAX 150
#define POP_MAX 16

static struct {
	struct fuzz_guest g;
	struct ring r;
	struct ring_log log;
	bool in_order;
	bool keeps;	 /* a card's: ring_keep.h */
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

/* An entry of a card's: packed, what is covered by a batch; otherwise nothing that counts. */
static void region_cover(struct input *in, unsigned at, uint8_t how)
{
	struct inflight_packed *packed = (void *)b.region;
	struct inflight_split *split = (void *)b.region;
	uint8_t flags;

	if (!b.g.packed) {
		split->desc[at].inflight = how >> 3 & 1;
		return;
	}
	flags = in_u8(in);
	packed->desc[at] = (struct inflight_packed_desc) {
		.inflight = how >> 3 & 1,
		.id = in_u8(in),
		.flags = (uint16_t)((flags & 7) | (flags >> 3 & 1) << VRING_PACKED_DESC_F_AVAIL |
				    (flags >> 4 & 1) << VRING_PACKED_DESC_F_USED),
		.len = in_u16(in),
	};
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

		if (b.keeps) {
			region_cover(in, at, how);
		} else if (b.g.packed) {
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

	if (b.keeps)
		kept_expect(&b.g, b.region);
	race_region();
	race_begin();
	why = b.keeps ? ring_keep_recover(&b.r, b.region) : ring_recover(&b.r);
	race_end();
	if (b.keeps)
		kept_check(&b.g, &b.r, b.region, why);
	return why;
}

/* Where the front-end wants to know what is written, if it migrates its guest. */
static struct ring_log *ring_log(void)
{
	if (!b.g.logs)
		return NULL;
	b.log = (struct ring_log) { .bits = b.g.log + FG_LOG_AT,
				    .n_pages = FG_LOG_BYTES * 8,
				    .data = true,
				    .device_area = true,
				    .device_gpa = FG_MAIN_GPA + FG_DEVICE,
				    .call_fd = -1 };
	return &b.log;
}

/* All that was written is shown, and so logged, where no chain is out or staged. */
static void check_writes(void)
{
	fg_check_writes(&b.g, b.n_live == 0 && b.r.staged == 0);
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
				   .base_is_used = b.keeps,
				   .map = b.g.map,
				   .log = ring_log(),
				   .name = "fuzz" };

	b.n_live = 0;
	if (ring_init(&b.r, &cfg))
		return false;
	if (!b.keeps) {
		b.r.track = ring_track_new(cfg.layout, cfg.size, b.in_order, b.region);
		FUZZ_CHECK(b.r.track);
	}
	fg_check_writes(&b.g, true);
	hooks_ring(&b.r, &b.g);
	if (!b.region)
		hooks_in_order(&b.r);
	if (b.region && recover_region()) {
		fg_check_writes(&b.g, true);
		hooks_ring_end(&b.r);
		ring_track_free(b.r.track);
		return false;
	}
	fg_check_writes(&b.g, true);
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

	b.n_live--;
	if (b.keeps) /* in order: @i is 0 */
		memmove(&b.live[0], &b.live[1], b.n_live * sizeof(b.live[0]));
	else
		b.live[i] = b.live[b.n_live];
	if (b.r.kept) {
		kept_push(&b.g, &b.r);
		hook_pushed(&b.r, c.id, c.n_slots, written);
		ring_push_kept(&b.r, c.id, c.n_slots, written);
		return;
	}
	if (b.g.packed)
		hooked_push(&b.r, RING_PACKED, c.id, c.n_slots, written);
	else
		hooked_push(&b.r, RING_SPLIT, c.id, c.n_slots, written);
}

/* A card gives none back but in order, and puts back what it has no use for. */
static void step_push(uint8_t what)
{
	if (b.n_live == 0)
		return;
	if (!b.keeps) {
		push(what / 8 % b.n_live, what & 0x80);
	} else if (what & 0x40) {
		hooked_unpop(&b.r, b.r.layout, b.live, b.n_live);
		b.n_live = 0;
	} else {
		push(0, what & 0x80);
	}
}

static void publish(void)
{
	if (b.r.kept) {
		ring_publish_kept(&b.r);
		kept_published();
		ring_call(&b.r, RING_PACKED);
	} else if (b.g.packed) {
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
	uint8_t how = in_u8(in);
	uint32_t base = how & 1 ? b.g.base : ring_base(&b.r);

	hooks_ring_forget(&b.r);
	ring_track_free(b.r.track);
	kept_die(&b.r);
	/* What it wrote and did not log, nobody logs any more. */
	fg_check_writes(&b.g, false);
	memset(b.g.unlogged, 0, sizeof(b.g.unlogged));
	return recover(base);
}

/* A ring that stopped and is started anew, though it ran elsewhere meanwhile (queue_track.c). */
static void start_anew(void)
{
	if (b.n_live == 0 && b.r.staged == 0 && b.keeps)
		ring_keep_begin(&b.r, b.region);
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
			kept_guest_wrote();
			fg_step(&b.g, in);
			continue;
		case 3:
			pop(1 + what / 8 % POP_MAX);
			break;
		case 4:
			step_push(what);
			break;
		case 5:
			publish();
			if (what & 0x80)
				start_anew();
			break;
		case 6:
			if (!b.region)
				break;
			kept_region_wrote();
			b.region[in_u16(in) % b.region_bytes] = in_u8(in);
			continue;
		case 7:
			if (!die(in))
				return;
			break;
		}
		check_writes();
	}
	finish();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	uint8_t how;

	if (!b.g.map) {
		fg_create(&b.g, NULL);
		b.g.log = calloc(1, FG_LOG_BLOCK);
		FUZZ_CHECK(b.g.log);
		log_set_level(LOG_LEVEL_ERROR);
	}
	race_reset();
	fg_begin(&b.g, &in);
	how = in_u8(&in);
	b.in_order = how & 1;
	b.keeps = how & 4;
	kept_begin();
	if (how & 2 || !b.in_order || b.keeps) {
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
