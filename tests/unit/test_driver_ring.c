/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's end against a device that is played by hand: each rule that it checks (virtio 1.3,
 * 2.7 and 2.8), broken once. What it lets pass sluice-bench would count as work done.
 */
#include "tests/guest/driver_ring.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 8u
#define IN_BYTES 100u
#define PF_USED (DRIVER_PACKED_AVAIL | DRIVER_PACKED_USED)

/* A ring, and where the device writes next. */
struct bed {
	struct driver_ring d;
	void *area;
	uint16_t at;
	bool wrap;
};

static void bed_open(struct bed *b, struct driver_config cfg)
{
	cfg.size = SIZE;
	cfg.base = driver_base_start(cfg.layout);
	b->area = aligned_alloc(64, ALIGN_UP(driver_ring_bytes(cfg.layout, SIZE, 0), 64));
	cr_assert_not_null(b->area);
	cfg.area = b->area;
	cfg.area_gpa = 0x1000;
	b->at = 0;
	b->wrap = true;
	cr_assert_eq(driver_ring_init(&b->d, &cfg), 0);
}

static void bed_close(struct bed *b)
{
	driver_ring_fini(&b->d);
	free(b->area);
}

/* A chain with @n_out descriptors to read, and @n_in of IN_BYTES to write. */
static void add(struct bed *b, unsigned n_out, unsigned n_in, uintptr_t cookie)
{
	struct driver_seg segs[SIZE];

	for (unsigned i = 0; i < n_out + n_in; i++)
		segs[i] = (struct driver_seg) { 0x10000 + i * 0x1000, IN_BYTES };
	cr_assert_eq(driver_add(&b->d, b->d.layout, segs, n_out, n_in, (void *)cookie), 0);
}

static void send(struct bed *b, unsigned n_out, unsigned n_in, uintptr_t cookie)
{
	add(b, n_out, n_in, cookie);
	driver_publish(&b->d, b->d.layout);
}

/* The device: one used entry, and on by @skip: split, chains; packed, descriptors. */
static void use_as(struct bed *b, uint16_t id, uint32_t len, unsigned skip, uint16_t flags)
{
	if (b->d.layout == DRIVER_SPLIT) {
		b->d.split.used->ring[b->at % SIZE] = (struct vring_used_elem) { id, len };
		b->at += skip;
		b->d.split.used->idx = b->at;
		return;
	}
	b->d.packed.desc[b->at].id = id;
	b->d.packed.desc[b->at].len = len;
	b->d.packed.desc[b->at].flags = flags | (b->wrap ? PF_USED : 0);
	b->at += skip;
	if (b->at >= SIZE) {
		b->at -= SIZE;
		b->wrap = !b->wrap;
	}
}

static void use(struct bed *b, uint16_t id, uint32_t len)
{
	use_as(b, id, len, 1, len ? VRING_DESC_F_WRITE : 0);
}

static bool poll(struct bed *b, struct driver_used *u)
{
	return driver_poll(&b->d, b->d.layout, u);
}

static void expect_back(struct bed *b, uintptr_t cookie, uint32_t len)
{
	struct driver_used u;

	cr_assert(poll(b, &u), "chain %lu: %s", (unsigned long)cookie, b->d.violation);
	cr_assert_eq((uintptr_t)u.cookie, cookie);
	cr_assert_eq(u.len, len, "chain %lu: %u bytes", (unsigned long)cookie, u.len);
}

static void expect_nothing(struct bed *b)
{
	struct driver_used u;

	cr_assert_not(poll(b, &u));
	cr_assert_null(driver_violation(&b->d), "%s", driver_violation(&b->d));
}

/* The next poll finds this wrong, and the ring stands still from then on. */
static void expect_wrong(struct bed *b, const char *words)
{
	struct driver_used u;

	cr_assert_not(poll(b, &u), "chain %u came back", u.id);
	cr_assert_not_null(driver_violation(&b->d), "nothing was found wrong");
	cr_assert(strstr(driver_violation(&b->d), words), "%s", driver_violation(&b->d));
	cr_assert_not(poll(b, &u));
	bed_close(b);
}

#define LAYOUT_TEST(name)                                           \
	static void name(struct bed *b, enum driver_layout layout); \
	Test(driver_ring, name##_split)                             \
	{                                                           \
		name(&(struct bed) { .at = 0 }, DRIVER_SPLIT);      \
	}                                                           \
	Test(driver_ring, name##_packed)                            \
	{                                                           \
		name(&(struct bed) { .at = 0 }, DRIVER_PACKED);     \
	}                                                           \
	static void name(struct bed *b, enum driver_layout layout)

LAYOUT_TEST(chains_may_come_back_in_any_order)
{
	bed_open(b, (struct driver_config) { .layout = layout });
	for (unsigned round = 0; round < 3 * SIZE; round++) {
		send(b, 1, 0, 10);
		send(b, 0, 1, 20);
		use(b, layout == DRIVER_SPLIT ? 1 : b->d.slots[0].cookie == (void *)10, IN_BYTES);
		use(b, layout == DRIVER_SPLIT ? 0 : b->d.slots[0].cookie != (void *)10, 0);
		expect_back(b, 20, IN_BYTES);
		expect_back(b, 10, 0);
		expect_nothing(b);
	}
	bed_close(b);
}

LAYOUT_TEST(more_bytes_than_were_writable_are_a_fault_2_7_8)
{
	bed_open(b, (struct driver_config) { .layout = layout });
	send(b, 1, 2, 0);
	use(b, 0, 2 * IN_BYTES + 1);
	expect_wrong(b, "length 201 of 200 writable bytes");
}

LAYOUT_TEST(an_id_beyond_the_ring_is_a_fault)
{
	bed_open(b, (struct driver_config) { .layout = layout });
	send(b, 0, 1, 0);
	use(b, SIZE, 1);
	expect_wrong(b, "used id 8 is not outstanding");
}

LAYOUT_TEST(an_id_that_nobody_made_available_is_a_fault)
{
	bed_open(b, (struct driver_config) { .layout = layout });
	send(b, 0, 1, 0);
	use(b, 3, 1);
	expect_wrong(b, "used id 3 is not outstanding");
}

LAYOUT_TEST(a_chain_that_comes_back_twice_is_a_fault)
{
	bed_open(b, (struct driver_config) { .layout = layout });
	send(b, 0, 1, 0);
	send(b, 0, 1, 1);
	use(b, 0, 1);
	use(b, 0, 1);
	expect_back(b, 0, 1);
	expect_wrong(b, "used id 0 is not outstanding");
}

LAYOUT_TEST(a_chain_that_was_not_shown_yet_is_not_the_devices)
{
	bed_open(b, (struct driver_config) { .layout = layout });
	send(b, 0, 1, 0);
	add(b, 0, 1, 1);
	use(b, 1, 1);
	expect_wrong(b, "used id 1 was not made available yet");
}

LAYOUT_TEST(used_without_anything_outstanding_is_a_fault)
{
	bed_open(b, (struct driver_config) { .layout = layout });
	send(b, 0, 1, 0);
	use(b, 0, 1);
	expect_back(b, 0, 1);
	use(b, 0, 1);
	expect_wrong(b, layout == DRIVER_SPLIT ? "used->idx went from 1 to 2 with 0 chains"
					       : "descriptor 1 was used, but no chain");
}

LAYOUT_TEST(in_order_is_in_order_2_7_9_2_8_8)
{
	bed_open(b, (struct driver_config) { .layout = layout, .in_order = true });
	send(b, 0, 1, 0);
	send(b, 0, 1, 1);
	use(b, 1, 1);
	expect_wrong(b, "used id 1 is chain 1, out of order: 0 is due");
}

/* Batches of all sizes, of chains of one and of two descriptors, several times round the ring. */
LAYOUT_TEST(one_used_entry_may_stand_for_a_batch_2_7_9_2_8_8)
{
	bed_open(b, (struct driver_config) {
			    .layout = layout, .in_order = true, .takes_batches = true });
	for (uintptr_t round = 0, n = 1; round < 40; round++, n = round % 4 + 1) {
		unsigned slots = 0;
		uint16_t last = 0;

		for (uintptr_t i = 0; i < n; i++) {
			send(b, round & 1, 1, round * 10 + i);
			slots += (round & 1) + 1;
			for (uint16_t id = 0; id < SIZE; id++)
				if (b->d.slots[id].busy &&
				    b->d.slots[id].cookie == (void *)(round * 10 + i))
					last = id;
		}
		use_as(b, last, 7, layout == DRIVER_SPLIT ? n : slots, VRING_DESC_F_WRITE);
		for (uintptr_t i = 0; i < n; i++) {
			cr_assert(driver_has_used(&b->d, layout));
			expect_back(b, round * 10 + i, i + 1 < n ? IN_BYTES : 7);
		}
		cr_assert_not(driver_has_used(&b->d, layout));
		expect_nothing(b);
	}
	bed_close(b);
}

LAYOUT_TEST(what_a_batch_gave_back_is_not_outstanding)
{
	bed_open(b, (struct driver_config) {
			    .layout = layout, .in_order = true, .takes_batches = true });
	for (unsigned i = 0; i < 4; i++)
		send(b, 0, 1, i);
	use_as(b, 2, 1, 3, VRING_DESC_F_WRITE);
	use(b, 1, 1);
	expect_back(b, 0, IN_BYTES);
	expect_back(b, 1, IN_BYTES);
	expect_back(b, 2, 1);
	expect_wrong(b, "used id 1 is not outstanding");
}

LAYOUT_TEST(the_first_fault_is_the_one_that_is_told)
{
	struct driver_used u;

	bed_open(b, (struct driver_config) { .layout = layout });
	send(b, 0, 1, 0);
	use(b, 5, 1);
	cr_assert_not(poll(b, &u));
	driver_violated(&b->d, "another");
	expect_wrong(b, "used id 5");
}

Test(driver_ring, a_batch_that_used_idx_does_not_show_is_a_fault_2_7_9)
{
	struct bed b;

	bed_open(&b, (struct driver_config) {
			     .layout = DRIVER_SPLIT, .in_order = true, .takes_batches = true });
	send(&b, 0, 1, 0);
	send(&b, 0, 1, 1);
	use(&b, 1, 1);
	expect_wrong(&b, "ends a batch of 2, but used->idx shows 1");
}

Test(driver_ring, an_index_that_jumps_or_goes_back_is_a_fault_2_7_8)
{
	for (int by = -1; by < 3; by += 3) {
		struct bed b;

		bed_open(&b, (struct driver_config) { .layout = DRIVER_SPLIT });
		send(&b, 0, 1, 0);
		b.d.split.used->idx = (uint16_t)by;
		expect_wrong(&b, "used->idx went from 0 to");
	}
}

Test(driver_ring, used_flags_other_than_no_notify_are_a_fault_2_7_10)
{
	struct bed b;

	bed_open(&b, (struct driver_config) { .layout = DRIVER_SPLIT });
	b.d.split.used->flags = VRING_USED_F_NO_NOTIFY;
	send(&b, 0, 1, 0);
	expect_nothing(&b);
	b.d.split.used->flags = 2;
	send(&b, 0, 1, 1);
	expect_wrong(&b, "used->flags is 0x2");
}

Test(driver_ring, with_event_idx_used_flags_are_0_2_7_10_2)
{
	struct bed b;

	bed_open(&b, (struct driver_config) { .layout = DRIVER_SPLIT, .event_idx = true });
	b.d.split.used->flags = VRING_USED_F_NO_NOTIFY;
	send(&b, 0, 1, 0);
	expect_wrong(&b, "although EVENT_IDX is negotiated");
}

/* 2.8.14: what the device may say about the kicks that it wants. */
Test(driver_ring, an_event_of_the_device_that_means_nothing_is_a_fault_2_8_14)
{
	static const struct {
		bool event_idx;
		uint16_t flags, off;
		const char *words;
	} wrong[] = {
		{ true, 3, 0, "device event flags are 0x3" },
		{ true, 0xfffe, 0, "device event flags are 0xfffe" },
		{ true, VRING_PACKED_EVENT_FLAG_DESC, SIZE, "descriptor 8, queue size 8" },
		{ false, VRING_PACKED_EVENT_FLAG_DESC, 0, "EVENT_IDX off" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct bed b;

		bed_open(&b, (struct driver_config) { .layout = DRIVER_PACKED,
						      .event_idx = wrong[i].event_idx });
		b.d.packed.device->off_wrap = wrong[i].off;
		b.d.packed.device->flags = wrong[i].flags;
		send(&b, 0, 1, 0);
		expect_wrong(&b, wrong[i].words);
	}
}

Test(driver_ring, what_was_only_readable_was_not_written_2_8_4)
{
	struct bed b;

	bed_open(&b, (struct driver_config) { .layout = DRIVER_PACKED });
	send(&b, 1, 0, 0);
	use_as(&b, 0, 0, 1, VRING_DESC_F_WRITE);
	expect_wrong(&b, "marked as written, but was not writable");
}

Test(driver_ring, a_length_without_the_write_flag_is_a_fault_or_ignored_2_8_4)
{
	struct bed b;

	bed_open(&b, (struct driver_config) { .layout = DRIVER_PACKED });
	send(&b, 0, 1, 0);
	use_as(&b, 0, 5, 1, 0);
	expect_wrong(&b, "length 5 without the write flag");
	bed_open(&b,
		 (struct driver_config) { .layout = DRIVER_PACKED, .ignores_reserved_len = true });
	send(&b, 0, 1, 0);
	use_as(&b, 0, 5, 1, 0);
	expect_back(&b, 0, 0);
	bed_close(&b);
}

/* 2.8.1: a descriptor whose marks are of the round before is not used. */
Test(driver_ring, marks_of_the_other_round_are_no_used_descriptor_2_8_1)
{
	struct bed b;

	bed_open(&b, (struct driver_config) { .layout = DRIVER_PACKED });
	send(&b, 0, 1, 0);
	for (unsigned i = 0; i < 3; i++) {
		static const uint16_t marks[] = { 0, DRIVER_PACKED_AVAIL, DRIVER_PACKED_USED };

		b.d.packed.desc[0].flags = marks[i] | VRING_DESC_F_WRITE;
		expect_nothing(&b);
	}
	bed_close(&b);
}
