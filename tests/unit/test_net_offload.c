/* SPDX-License-Identifier: Apache-2.0 */
/* net/offload.c against known vectors and a slow reference. */
#include "net/offload.h"
#include "tests/unit/net_frames.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define ALLOW_ALL (OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6 | OFFLOAD_ECN | OFFLOAD_USO)
#define SEGS_MAX 700

/*
 * A packet over @bytes, the rest behind the head in pieces of random size, each (and the packet,
 * whose head comes last) in heap memory of its own so that a sanitizer sees a step outside.
 */
struct laid {
	struct packet *p;
	struct iovec segs[SEGS_MAX];
	unsigned n;
};

static void lay(struct laid *l, const uint8_t *bytes, unsigned len, unsigned head_len,
		uint32_t *rnd)
{
	l->p = aligned_alloc(_Alignof(struct packet), sizeof(*l->p));
	memset(l->p, 0x66, sizeof(*l->p)); /* what lies behind a short head is not part of it */
	l->p->len = len;
	l->p->head_len = (uint16_t)head_len;
	memcpy(l->p->head, bytes, head_len);
	l->n = 0;
	for (unsigned at = head_len; at < len;) {
		unsigned n = 1 + frame_random(rnd) % (frame_random(rnd) % 4 ? 40 : 30000);

		if (n > len - at || l->n == SEGS_MAX - 1)
			n = len - at;
		l->segs[l->n].iov_base = malloc(n);
		memcpy(l->segs[l->n].iov_base, bytes + at, n);
		l->segs[l->n++].iov_len = n;
		at += n;
	}
	l->p->segs = l->segs;
	l->p->n_segs = (uint16_t)l->n;
}

static void unlay(struct laid *l)
{
	for (unsigned i = 0; i < l->n; i++)
		free(l->segs[i].iov_base);
	free(l->p);
	l->n = 0;
}

static unsigned flatten(struct frame f, uint8_t *out, uint32_t *rnd)
{
	unsigned at = f.head_len;
	const void *piece;
	uint32_t n;

	memcpy(out, f.head, f.head_len);
	while ((piece = frame_next(&f, 1 + frame_random(rnd) % 3000, &n))) {
		memcpy(out + at, piece, n);
		at += n;
	}
	return at;
}

static struct virtio_net_hdr gso_hdr(const struct tcp_frame *f, bool v6, unsigned gso_size)
{
	return (struct virtio_net_hdr) {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
		.gso_size = (uint16_t)gso_size,
		.csum_start = (uint16_t)f->l4,
		.csum_offset = 16,
	};
}

Test(offload, checksum_of_rfc_1071_example)
{
	/* 3: the sum of these is ddf2 */
	static const uint8_t data[] = { 0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7 };
	uint8_t bytes[24] = { 0 };
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 14 };
	static struct laid l;
	uint32_t rnd = 7;

	memcpy(bytes + 16, data, 8);
	lay(&l, bytes, sizeof(bytes), sizeof(bytes), &rnd);
	cr_assert_null(packet_set_offload(l.p, &h, OFFLOAD_CSUM));
	packet_complete_csum(l.p);
	cr_assert_eq(frame_get16(l.p->head + 14), 0x220d);
	cr_assert_not(l.p->offload.needs_csum);
}

Test(offload, checksum_of_any_split_equals_the_reference)
{
	static uint8_t bytes[FRAME_BUF], out[FRAME_BUF];
	static struct laid l;
	uint32_t rnd = 12345;

	for (unsigned round = 0; round < 4000; round++) {
		unsigned len = 60 + frame_random(&rnd) % (round % 20 ? 1600 : 65000), start, off;
		unsigned head = len < PACKET_HEAD_MAX ? len : PACKET_HEAD_MAX, want, got;
		struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM };
		struct frame f;

		start = 14 + frame_random(&rnd) % (head - 16);
		off = frame_random(&rnd) % (head - start - 1);
		for (unsigned i = 0; i < len; i++)
			bytes[i] = round % 7 ? (uint8_t)frame_random(&rnd) : 0xff;
		h.csum_start = (uint16_t)start;
		h.csum_offset = (uint16_t)off;
		lay(&l, bytes, len, head, &rnd);
		cr_assert_null(packet_set_offload(l.p, &h, OFFLOAD_CSUM));
		packet_complete_csum(l.p);
		frame_of_packet(&f, l.p);
		cr_assert_eq(flatten(f, out, &rnd), len);
		want = ~ref_sum(0, bytes + start, len - start) & 0xffff;
		/* An odd offset puts the field across two words; sums are stored in wire order. */
		got = frame_get16(out + start + off);
		cr_assert_eq(got, want ? want : 0xffff, "round %u: %04x, not %04x", round, got,
			     want);
		frame_put16(out + start + off, frame_get16(bytes + start + off));
		cr_assert_arr_eq(out, bytes, len);
		unlay(&l);
	}
}

Test(offload, a_frame_that_is_finished_stays_as_it_is)
{
	struct virtio_net_hdr h = { .csum_start = 20, .csum_offset = 6 };
	uint8_t bytes[64];
	static struct laid l;
	uint32_t rnd = 3;

	memset(bytes, 0x5a, sizeof(bytes));
	lay(&l, bytes, sizeof(bytes), 48, &rnd);
	cr_assert_null(packet_set_offload(l.p, &h, ALLOW_ALL));
	packet_complete_csum(l.p);
	cr_assert_arr_eq(l.p->head, bytes, 48);
	unlay(&l);
}

Test(offload, checksum_zero_is_sent_as_ffff)
{
	uint8_t bytes[64] = { 0 };
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .csum_start = 34,
				    .csum_offset = 6 };
	static struct laid l;
	uint32_t rnd = 3;

	bytes[34] = bytes[35] = 0xff; /* everything sums to ffff, whose complement is zero */
	lay(&l, bytes, sizeof(bytes), sizeof(bytes), &rnd);
	cr_assert_null(packet_set_offload(l.p, &h, OFFLOAD_CSUM));
	packet_complete_csum(l.p);
	cr_assert_eq(frame_get16(l.p->head + 40), 0xffff);
}

/* Everything that a segment must be, by @spec and its place. */
static void check_segment(const uint8_t *b, unsigned len, const struct tcp_spec *spec,
			  const struct tcp_frame *whole, unsigned done, unsigned index)
{
	unsigned payload = len - whole->payload_at;
	bool last = done + payload == spec->payload;
	uint8_t flags = spec->flags;

	if (index > 0)
		flags &= 0x7f;
	if (!last)
		flags &= 0xf6;
	cr_assert(frame_csum_ok(b, len, whole->l3, whole->l4, 6));
	cr_assert_arr_eq(b, whole->bytes, whole->l3);
	if (spec->v6) {
		cr_assert_eq(frame_get16(b + whole->l3 + 4), len - whole->l3 - 40);
		cr_assert_arr_eq(b + whole->l3 + 6, whole->bytes + whole->l3 + 6,
				 34 + spec->ip_options);
	} else {
		cr_assert_eq(frame_get16(b + whole->l3 + 2), len - whole->l3);
		cr_assert_eq(frame_get16(b + whole->l3 + 4), (spec->ip_id + index) & 0xffff);
		cr_assert_arr_eq(b + whole->l3 + 12, whole->bytes + whole->l3 + 12,
				 8 + spec->ip_options);
	}
	cr_assert_eq(frame_get32(b + whole->l4 + 4), spec->seq + done);
	cr_assert_eq(b[whole->l4 + 13], flags);
	cr_assert_arr_eq(b + whole->l4 + 18, whole->bytes + whole->l4 + 18, 2 + spec->tcp_options);
	cr_assert_arr_eq(b + whole->payload_at, whole->bytes + whole->payload_at + done, payload);
}

static void segment_and_check(const struct tcp_spec *spec, unsigned gso_size, uint32_t *rnd)
{
	static struct tcp_frame whole;
	static uint8_t out[FRAME_BUF];
	static struct laid l;
	struct virtio_net_hdr h;
	unsigned done = 0, index = 0;
	struct segmenter s;
	struct frame f;

	tcp_frame_make(&whole, spec, frame_random(rnd));
	h = gso_hdr(&whole, spec->v6, gso_size);
	lay(&l, whole.bytes, whole.len, whole.payload_at, rnd);
	cr_assert_null(packet_set_offload(l.p, &h, ALLOW_ALL));
	cr_assert_eq(l.p->head_len, whole.payload_at);
	cr_assert_eq(l.p->offload.hdr_len, whole.payload_at);
	cr_assert_neq(l.p->offload.gso_type, VIRTIO_NET_HDR_GSO_NONE);
	for (segmenter_init(&s, l.p); segmenter_next(&s, &f); index++) {
		unsigned len = frame_len(&f);

		cr_assert(f.offload.needs_csum);
		cr_assert_eq(f.offload.csum_start, whole.l4);
		frame_complete_csum(&f);
		cr_assert_eq(flatten(f, out, rnd), len);
		check_segment(out, len, spec, &whole, done, index);
		done += len - whole.payload_at;
		cr_assert_eq(len - whole.payload_at < gso_size,
			     done == spec->payload && spec->payload % gso_size != 0);
	}
	cr_assert_eq(done, spec->payload);
	cr_assert_eq(index, segmenter_count(l.p));
	unlay(&l);
}

Test(offload, segments_are_whole_tcp_frames_with_right_headers)
{
	uint32_t rnd = 99;

	for (unsigned round = 0; round < 1500; round++) {
		unsigned gso = GSO_SIZE_MIN + frame_random(&rnd) % (round % 5 ? 1500 : 9000);
		struct tcp_spec spec = {
			.v6 = round & 1,
			.vlan_tags = frame_random(&rnd) % 3,
			.ip_options = frame_random(&rnd) % 4 * 8,
			.tcp_options = frame_random(&rnd) % 11 * 4,
			.flags = (uint8_t)frame_random(&rnd),
			.seq = frame_random(&rnd),
			.ip_id = (uint16_t)frame_random(&rnd),
			.payload = gso + 1 + frame_random(&rnd) % (round % 9 ? 9000 : 56000),
		};

		segment_and_check(&spec, gso, &rnd);
	}
}

Test(offload, sequence_and_id_wrap_within_one_frame)
{
	struct tcp_spec spec = { .seq = 0xfffffff0u, .ip_id = 0xffff, .payload = 5000 };
	uint32_t rnd = 5;

	segment_and_check(&spec, 100, &rnd);
}

Test(offload, gso_frame_of_one_segment_is_an_ordinary_frame)
{
	struct tcp_spec spec = { .payload = 1000 };
	static struct tcp_frame whole;
	static struct laid l;
	struct virtio_net_hdr h;
	uint32_t rnd = 5;

	tcp_frame_make(&whole, &spec, 1);
	h = gso_hdr(&whole, false, 1000);
	lay(&l, whole.bytes, whole.len, PACKET_HEAD_MAX, &rnd);
	cr_assert_null(packet_set_offload(l.p, &h, ALLOW_ALL));
	cr_assert_eq(l.p->offload.gso_type, VIRTIO_NET_HDR_GSO_NONE);
	cr_assert(l.p->offload.needs_csum);
	unlay(&l);
}

/* Changes one thing about a good 3000-byte TSO frame; the guard must refuse it. */
struct bad_case {
	const char *what;
	void (*spoil)(struct tcp_frame *f, struct virtio_net_hdr *h, unsigned *allowed);
	bool v6;
	unsigned ip_options, tcp_options; /* added to the headers, to make them too long */
	const char *why;		  /* where another check would refuse it by chance */
};

#define BAD(name, ...)                                                                           \
	static void bad_##name(struct tcp_frame *f, struct virtio_net_hdr *h, unsigned *allowed) \
	{                                                                                        \
		(void)f, (void)h, (void)allowed;                                                 \
		__VA_ARGS__;                                                                     \
	}

BAD(gso_size_0, h->gso_size = 0)
BAD(gso_size_1, h->gso_size = 1)
BAD(gso_size_47, h->gso_size = GSO_SIZE_MIN - 1)
BAD(gso_type_udp, h->gso_type = VIRTIO_NET_HDR_GSO_UDP)
BAD(gso_type_unknown, h->gso_type = 6)
BAD(gso_type_uso, h->gso_type = VIRTIO_NET_HDR_GSO_UDP_L4)
BAD(gso_type_2, h->gso_type = 2)
BAD(gso_type_other_family, h->gso_type ^= VIRTIO_NET_HDR_GSO_TCPV4 ^ VIRTIO_NET_HDR_GSO_TCPV6)
BAD(ecn_without_tso, h->gso_type = VIRTIO_NET_HDR_GSO_ECN)
BAD(gso_without_csum, h->flags = 0)
BAD(csum_not_negotiated, *allowed &= ~OFFLOAD_CSUM)
BAD(tso_not_negotiated, *allowed &= ~(OFFLOAD_TSO4 | OFFLOAD_TSO6))
BAD(ecn_not_negotiated, h->gso_type |= VIRTIO_NET_HDR_GSO_ECN; *allowed &= ~OFFLOAD_ECN)
BAD(csum_start_0, h->csum_start = 0)
BAD(csum_start_13, h->csum_start = 13)
BAD(csum_start_13_without_gso, h->gso_type = 0; h->csum_start = 13)
BAD(csum_start_ffff, h->csum_start = 0xffff)
BAD(csum_start_past_copied, h->csum_start = PACKET_HEAD_MAX - 17)
BAD(csum_offset_ffff, h->csum_offset = 0xffff)
BAD(csum_both_ffff, h->csum_start = h->csum_offset = 0xffff)
BAD(csum_start_not_tcp, h->csum_start++)
BAD(csum_offset_udp, h->csum_offset = 6)
BAD(not_ip, frame_put16(f->bytes + 12, 0x0806))
BAD(ip_version, f->bytes[f->l3] ^= 0x50)
BAD(ihl_small, f->bytes[f->l3] = 0x44)
BAD(ihl_past_tcp, f->bytes[f->l3] = 0x4f)
BAD(fragment, frame_put16(f->bytes + f->l3 + 6, 0x2000))
BAD(fragment_offset, frame_put16(f->bytes + f->l3 + 6, 1))
BAD(udp, f->bytes[f->l3 + 9] = 17)
BAD(udp6, f->bytes[f->l3 + 6] = 17)
BAD(fragment6, f->bytes[f->l3 + 6] = 44)
BAD(routing6, f->bytes[f->l3 + 6] = 43)
BAD(options6_too_long, f->bytes[f->l3 + 6] = 60; f->bytes[f->l3 + 41] = 255)
BAD(options6_loop, f->bytes[f->l3 + 6] = 0;
    for (unsigned i = 0; i < 150; i++) f->bytes[f->l3 + 40 + i] = 0)
BAD(doff_small, f->bytes[f->l4 + 12] = 0x40)
BAD(only_vlan_tags, for (unsigned i = 12; i < 400; i += 4) frame_put16(f->bytes + i, 0x8100))
/* A header of 16 bytes, and all else as if that were right. */
BAD(ihl_small_alone, f->bytes[f->l3] = 0x44; h->csum_start = f->l3 + 16;
    f->bytes[f->l3 + 28] = 0x50)
/* So many tags that of the IP header two bytes are left in what was copied. */
BAD(ipv4_past_copied, for (unsigned i = 12; i < 188; i += 4) frame_put16(f->bytes + i, 0x8100);
    frame_put16(f->bytes + 188, 0x0800); f->bytes[190] = 0x45)
BAD(ipv6_past_copied, for (unsigned i = 12; i < 188; i += 4) frame_put16(f->bytes + i, 0x8100);
    frame_put16(f->bytes + 188, 0x86dd); f->bytes[190] = 0x60)
BAD(nothing, )
BAD(csum_start_early, h->csum_start = 54)
BAD(no_payload, f->len = f->payload_at)
BAD(cut_in_tcp, f->len = f->l4 + 19)
BAD(cut_in_tcp_options, f->bytes[f->l4 + 12] = 0xf0; f->len = f->l4 + 40)
BAD(cut_in_ip, f->len = f->l3 + 8)
BAD(cut_in_vlan, frame_put16(f->bytes + 12, 0x8100); f->len = 15)
BAD(only_ethernet, f->len = 14)

static const struct bad_case bad_cases[] = {
/* clang-format off */
#define ROW(name) { .what = #name, .spoil = bad_##name }
#define ROW6(name) { .what = #name, .spoil = bad_##name, .v6 = true }
#define ROW_WHY(name, text) { .what = #name, .spoil = bad_##name, .why = (text) }
#define LONG6(ip, tcp)                                                       \
	{ .what = "headers of " #ip " and " #tcp, .spoil = bad_nothing, .v6 = true, \
	  .ip_options = (ip), .tcp_options = (tcp) }
	/* clang-format on */
	/* Headers beyond PACKET_HEAD_MAX, by TCP's options, by TCP, by IPv6's options. */
	/* The same where the checksum's place alone does not give it away. */
	{ .what = "TCP header across the end of the head",
	  .spoil = bad_csum_start_early,
	  .v6 = true,
	  .ip_options = 128 },
	{ .what = "TCP header behind the end of the head",
	  .spoil = bad_csum_start_early,
	  .v6 = true,
	  .ip_options = 144 },
	LONG6(112, 8),
	LONG6(112, 40),
	LONG6(120, 0),
	LONG6(128, 0),
	LONG6(136, 0),
	LONG6(144, 0),
	LONG6(512, 0),
	ROW(gso_size_0),
	ROW(gso_size_1),
	ROW(gso_size_47),
	ROW(gso_type_udp),
	ROW(gso_type_unknown),
	ROW(gso_type_uso),
	ROW(gso_type_2),
	ROW(gso_type_other_family),
	ROW6(gso_type_other_family),
	ROW(ecn_without_tso),
	ROW(gso_without_csum),
	ROW(csum_not_negotiated),
	ROW(tso_not_negotiated),
	ROW6(tso_not_negotiated),
	ROW(ecn_not_negotiated),
	ROW(csum_start_0),
	ROW(csum_start_13),
	ROW(csum_start_13_without_gso),
	ROW(csum_start_ffff),
	ROW(csum_start_past_copied),
	ROW(csum_offset_ffff),
	ROW(csum_both_ffff),
	ROW(csum_start_not_tcp),
	ROW(csum_offset_udp),
	ROW(not_ip),
	ROW(ip_version),
	ROW6(ip_version),
	ROW(ihl_small),
	ROW(ihl_past_tcp),
	ROW(fragment),
	ROW(fragment_offset),
	ROW_WHY(udp, "GSO type and protocol disagree"),
	ROW6(udp6),
	ROW6(fragment6),
	ROW6(routing6),
	ROW6(options6_too_long),
	ROW6(options6_loop),
	ROW(doff_small),
	ROW6(doff_small),
	ROW(only_vlan_tags),
	ROW(ihl_small_alone),
	ROW(ipv4_past_copied),
	ROW6(ipv6_past_copied),
	ROW(no_payload),
	ROW(cut_in_tcp),
	ROW6(cut_in_tcp),
	ROW(cut_in_tcp_options),
	ROW(cut_in_ip),
	ROW6(cut_in_ip),
	ROW(cut_in_vlan),
	ROW(only_ethernet),
};

Test(offload, T7_hostile_offload_fields_are_refused)
{
	static struct tcp_frame f;
	static struct laid l;
	uint32_t rnd = 77;

	for (unsigned i = 0; i < sizeof(bad_cases) / sizeof(bad_cases[0]); i++) {
		const struct bad_case *c = &bad_cases[i];
		struct tcp_spec spec = { .v6 = c->v6, .payload = 3000 };
		unsigned allowed = ALLOW_ALL, head;
		struct virtio_net_hdr h;
		const char *why;

		for (int spoil = 0; spoil < 2; spoil++) {
			if (spoil) {
				spec.ip_options = c->ip_options;
				spec.tcp_options = c->tcp_options;
			}
			tcp_frame_make(&f, &spec, 1);
			h = gso_hdr(&f, c->v6, 1460);
			if (spoil)
				c->spoil(&f, &h, &allowed);
			head = f.len < PACKET_HEAD_MAX ? f.len : PACKET_HEAD_MAX;
			lay(&l, f.bytes, f.len, head, &rnd);
			why = packet_set_offload(l.p, &h, allowed);
			unlay(&l);
			if (spoil)
				cr_assert_not_null(why, "%s was accepted", c->what);
			if (spoil && c->why)
				cr_assert_str_eq(why, c->why);
			if (!spoil)
				cr_assert_null(why, "%s: the good frame: %s", c->what, why);
		}
	}
}

Test(offload, T7_random_headers_never_reach_outside)
{
	static struct tcp_frame f;
	static uint8_t out[FRAME_BUF];
	static struct laid l;
	uint32_t rnd = 31337;
	unsigned accepted = 0;

	for (unsigned round = 0; round < 200000; round++) {
		struct tcp_spec spec = { .v6 = round & 1, .payload = frame_random(&rnd) % 500 };
		struct virtio_net_hdr h;
		struct packet checked;
		struct segmenter s;
		struct frame seg;
		unsigned total = 0, head;

		tcp_frame_make(&f, &spec, frame_random(&rnd));
		h = gso_hdr(&f, spec.v6, GSO_SIZE_MIN + frame_random(&rnd) % 400);
		for (unsigned n = frame_random(&rnd) % 3; n > 0; n--)
			f.bytes[12 + frame_random(&rnd) % 60] = (uint8_t)frame_random(&rnd);
		for (unsigned n = frame_random(&rnd) % 2; n > 0; n--)
			((uint8_t *)&h)[frame_random(&rnd) % sizeof(h)] = (uint8_t)frame_random(
				&rnd);
		if (frame_random(&rnd) % 8 == 0)
			f.len = 14 + frame_random(&rnd) % (f.len - 14);
		head = f.len < PACKET_HEAD_MAX ? f.len : PACKET_HEAD_MAX;
		lay(&l, f.bytes, f.len, head, &rnd);
		if (packet_set_offload(l.p, &h, ALLOW_ALL)) {
			unlay(&l);
			continue;
		}
		accepted++;
		if (l.p->offload.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
			unlay(&l);
			continue;
		}
		checked = *l.p;
		unlay(&l);
		lay(&l, f.bytes, f.len, checked.head_len, &rnd);
		l.p->offload = checked.offload;
		for (segmenter_init(&s, l.p); segmenter_next(&s, &seg);) {
			frame_complete_csum(&seg);
			total += flatten(seg, out, &rnd) - seg.head_len;
		}
		cr_assert_eq(total, l.p->len - l.p->head_len);
		unlay(&l);
	}
	cr_assert_gt(accepted, 20000);
}
