/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The receiving half of sluice-bench's network card against a device that is played by hand: each
 * rule of virtio 1.3 5.1.6.4 that it checks, broken once, and what it has to let pass.
 */
#include "bench/net_card.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdlib.h>

#define SIZE 8u
#define BYTES 256u /* of a receive buffer */
#define F(name) (UINT64_C(1) << VIRTIO_NET_F_##name)
#define NEEDS_CSUM VIRTIO_NET_HDR_F_NEEDS_CSUM

/* A card whose buffers the device has, and where the device writes next. */
static struct bed {
	struct rig rig;
	struct card card;
	struct card_buf bufs[SIZE];
	struct card_frame frame;
	uint8_t host[SIZE][BYTES];
	void *area;
	uint16_t at;
} bed;

/* The card makes no rig here. */
struct rig *rig_open(const struct rig_options *o, enum rig_kind kind, const char *path,
		     unsigned n_rings, uint64_t device_features, uint64_t memory_bytes)
{
	(void)o, (void)kind, (void)path, (void)n_rings, (void)device_features, (void)memory_bytes;
	abort();
}

void rig_close(struct rig *r)
{
	(void)r;
	abort();
}

void *rig_alloc(struct rig *r, uint64_t bytes, uint64_t align, uint64_t *gpa)
{
	(void)r, (void)bytes, (void)align, (void)gpa;
	abort();
}

void rig_check_error(const struct rig *r, unsigned queue)
{
	(void)r, (void)queue;
	abort();
}

void rig_calls_off(struct rig *r, unsigned ring)
{
	(void)r, (void)ring;
	abort();
}

void rig_check_called(struct rig *r, unsigned ring, bool called, int n_called, unsigned patience_ms)
{
	(void)r, (void)ring, (void)called, (void)n_called, (void)patience_ms;
	abort();
}

static void bed_open(enum driver_layout layout, uint64_t features)
{
	struct driver_config cfg = { .layout = layout,
				     .size = SIZE,
				     .base = driver_base_start(layout),
				     .area_gpa = 0x1000 };
	struct driver_ring *rx = &bed.rig.frontend.queue[CARD_RX].ring;

	frontend_init(&bed.rig.frontend);
	bed.area = aligned_alloc(64, ALIGN_UP(driver_ring_bytes(layout, SIZE, 0), 64));
	cr_assert_not_null(bed.area);
	cfg.area = bed.area;
	cr_assert_eq(driver_ring_init(rx, &cfg), 0);
	bed.rig.path = "a.sock";
	bed.rig.frontend.features = VU_F_VERSION_1 | features;
	bed.card = (struct card) { .rig = &bed.rig,
				   .n_pairs = 1,
				   .rx = rx,
				   .tx = &bed.rig.frontend.queue[CARD_TX].ring,
				   .rx_bytes = BYTES,
				   .mergeable = features & F(MRG_RXBUF) };
	for (unsigned i = 0; i < SIZE; i++) {
		bed.bufs[i] = (struct card_buf) { .gpa = 0x10000 + i * 0x1000,
						  .host = bed.host[i] };
		card_give(&bed.card, &bed.bufs[i]);
	}
	driver_publish(rx, layout);
	bed.at = 0;
}

static void bed_close(void)
{
	driver_ring_fini(bed.card.rx);
	free(bed.area);
}

/* The device: the next buffer is used, with @len bytes, and this header in it; NULL: none. */
static void use(const struct virtio_net_hdr_v1 *h, uint32_t len)
{
	struct driver_ring *r = bed.card.rx;

	memset(bed.host[bed.at], 0xab, BYTES);
	if (h)
		memcpy(bed.host[bed.at], h, sizeof(*h));
	if (r->layout == DRIVER_SPLIT) {
		r->split.used->ring[bed.at] = (struct vring_used_elem) { bed.at, len };
		r->split.used->idx = ++bed.at;
		return;
	}
	r->packed.desc[bed.at].id = bed.at;
	r->packed.desc[bed.at].len = len;
	r->packed.desc[bed.at].flags = (uint16_t)(DRIVER_PACKED_AVAIL | DRIVER_PACKED_USED |
						  (len ? VRING_DESC_F_WRITE : 0));
	bed.at++;
}

static void expect_frame(unsigned n, uint32_t bytes)
{
	cr_assert(card_receive(&bed.card, &bed.frame), "%s", driver_violation(bed.card.rx));
	cr_assert_eq(bed.frame.n, n);
	cr_assert_eq(bed.frame.bytes, bytes);
	cr_assert_null(driver_violation(bed.card.rx));
}

static void expect_wrong(const char *words)
{
	const char *told;

	cr_assert_not(card_receive(&bed.card, &bed.frame), "%s: it was taken", words);
	told = driver_violation(bed.card.rx);
	cr_assert_not_null(told, "%s: nothing was found wrong", words);
	cr_assert(strstr(told, words), "%s", told);
	cr_assert_not(card_receive(&bed.card, &bed.frame));
	bed_close();
}

#define LAYOUT_TEST(name)                            \
	static void name(enum driver_layout layout); \
	Test(bench_card, name##_split)               \
	{                                            \
		name(DRIVER_SPLIT);                  \
	}                                            \
	Test(bench_card, name##_packed)              \
	{                                            \
		name(DRIVER_PACKED);                 \
	}                                            \
	static void name(enum driver_layout layout)

LAYOUT_TEST(a_frame_in_one_buffer_is_taken)
{
	const struct virtio_net_hdr_v1 h = { .num_buffers = 1 };

	for (unsigned i = 0; i < 2; i++) {
		bed_open(layout, i ? F(MRG_RXBUF) : 0);
		use(&h, 72);
		expect_frame(1, 72);
		use(&h, NET_HDR_BYTES);
		expect_frame(1, NET_HDR_BYTES);
		cr_assert_not(card_receive(&bed.card, &bed.frame));
		cr_assert_null(driver_violation(bed.card.rx));
		bed_close();
	}
}

LAYOUT_TEST(less_than_a_header_is_a_fault)
{
	bed_open(layout, F(MRG_RXBUF));
	use(NULL, NET_HDR_BYTES - 1);
	expect_wrong("11 bytes came: less than a header");
	bed_open(layout, 0);
	use(NULL, 0);
	expect_wrong("0 bytes came: less than a header");
}

LAYOUT_TEST(several_buffers_take_mergeable_ones)
{
	const struct virtio_net_hdr_v1 h = { .num_buffers = 2 };

	bed_open(layout, 0);
	use(&h, BYTES);
	use(NULL, 100);
	expect_wrong("a frame in 2 buffers without VIRTIO_NET_F_MRG_RXBUF");
}

LAYOUT_TEST(more_buffers_than_the_largest_frame_takes_are_a_fault)
{
	const struct virtio_net_hdr_v1 h = { .num_buffers = CARD_RX_BUFS_MAX + 1 };

	bed_open(layout, F(MRG_RXBUF));
	use(&h, BYTES);
	expect_wrong("a frame in 258 buffers");
}

LAYOUT_TEST(a_number_of_0_is_counted_and_taken_as_1)
{
	const struct virtio_net_hdr_v1 h = { .num_buffers = 0 };

	bed_open(layout, F(MRG_RXBUF));
	use(&h, 72);
	expect_frame(1, 72);
	cr_assert_eq(bed.card.no_count, 1u);
	bed_close();
}

LAYOUT_TEST(a_frame_in_several_buffers_is_put_together)
{
	const struct virtio_net_hdr_v1 h = { .num_buffers = 3 };

	bed_open(layout, F(MRG_RXBUF));
	use(&h, BYTES);
	use(NULL, BYTES);
	use(NULL, 1);
	expect_frame(3, 2 * BYTES + 1);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(bed.frame.buf[i], &bed.bufs[i]);
		cr_assert_eq(bed.frame.len[i], i < 2 ? BYTES : 1);
	}
	bed_close();
}

LAYOUT_TEST(all_buffers_of_a_frame_but_the_last_are_full)
{
	const struct virtio_net_hdr_v1 h = { .num_buffers = 3 };

	bed_open(layout, F(MRG_RXBUF));
	use(&h, BYTES);
	use(NULL, BYTES - 1);
	use(NULL, 1);
	expect_wrong("buffer 2 of 3 has 255 of 256 bytes");
}

LAYOUT_TEST(all_buffers_of_a_frame_come_together)
{
	const struct virtio_net_hdr_v1 h = { .num_buffers = 3 };

	bed_open(layout, F(MRG_RXBUF));
	use(&h, BYTES);
	use(NULL, BYTES);
	expect_wrong("a frame of 3 buffers came in 2");
}

LAYOUT_TEST(a_fault_of_the_ring_is_told_rather_than_what_follows_from_it)
{
	const struct virtio_net_hdr_v1 h = { .num_buffers = 2 };

	bed_open(layout, F(MRG_RXBUF));
	use(&h, BYTES);
	use(NULL, BYTES + 1);
	expect_wrong("length 257 of 256 writable bytes");
}

/* What was negotiated, and a header that it allows or not. */
static const struct {
	uint64_t features;
	uint8_t flags, gso;
	uint16_t mss;
	const char *wrong; /* NULL: it may come */
} offloads[] = {
	{ 0, VIRTIO_NET_HDR_F_DATA_VALID, 0, 0, NULL },
	{ F(GUEST_CSUM), NEEDS_CSUM, 0, 0, NULL },
	{ F(GUEST_CSUM) | F(GUEST_TSO4), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 1448, NULL },
	{ F(GUEST_CSUM) | F(GUEST_TSO6), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6, 1448, NULL },
	{ F(GUEST_CSUM) | F(GUEST_UFO), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP, 1448, NULL },
	{ F(GUEST_CSUM) | F(GUEST_TSO4) | F(GUEST_ECN), NEEDS_CSUM,
	  VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 1448, NULL },
	{ 0, NEEDS_CSUM, 0, 0, "without its checksum (flags 0x1)" },
	{ F(GUEST_TSO4), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 1448, "without its checksum" },
	{ F(GUEST_CSUM), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 1448, "of type 1, which was not" },
	{ F(GUEST_CSUM) | F(GUEST_TSO4), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6, 1448, "of type 4" },
	{ F(GUEST_CSUM) | F(GUEST_TSO6), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 1448, "of type 1" },
	{ F(GUEST_CSUM) | F(GUEST_TSO4), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP, 1448, "of type 3" },
	{ F(GUEST_CSUM) | F(GUEST_TSO4), NEEDS_CSUM, 5, 1448, "of type 5" },
	{ F(GUEST_CSUM) | F(GUEST_TSO4), NEEDS_CSUM, 2, 1448, "of type 2" },
	{ 0, 0, VIRTIO_NET_HDR_GSO_TCPV4, 1448, "of type 1" },
	{ F(GUEST_CSUM) | F(GUEST_TSO4), NEEDS_CSUM,
	  VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 1448, "no VIRTIO_NET_F_GUEST_ECN" },
	{ 0, 0, VIRTIO_NET_HDR_GSO_ECN, 0, "no VIRTIO_NET_F_GUEST_ECN" },
	{ F(GUEST_CSUM) | F(GUEST_TSO4), VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_GSO_TCPV4,
	  1448, "with flags 0x2" },
	{ F(GUEST_CSUM) | F(GUEST_TSO4), NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 0,
	  "pieces of 0 bytes" },
};

LAYOUT_TEST(a_header_asks_for_no_more_than_was_negotiated)
{
	for (unsigned i = 0; i < ARRAY_SIZE(offloads); i++) {
		const struct virtio_net_hdr_v1 h = { .flags = offloads[i].flags,
						     .gso_type = offloads[i].gso,
						     .gso_size = offloads[i].mss,
						     .num_buffers = 1 };

		bed_open(layout, offloads[i].features);
		use(&h, 200);
		if (offloads[i].wrong) {
			expect_wrong(offloads[i].wrong);
			continue;
		}
		expect_frame(1, 200);
		bed_close();
	}
}

static void redirect(void)
{
	cr_redirect_stderr();
}

Test(bench_card, a_broken_rule_ends_the_program_with_a_sentence, .init = redirect, .exit_code = 1)
{
	bed_open(DRIVER_SPLIT, 0);
	use(NULL, 3);
	cr_assert_not(card_receive(&bed.card, &bed.frame));
	card_check(&bed.card);
}
