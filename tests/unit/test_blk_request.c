/* SPDX-License-Identifier: Apache-2.0 */
/* Requests, from a chain of any shape to the status byte (virtio 1.3 5.2.6, 2.7.4.1). */
#include "blk/request.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#define CAPACITY 65536u

static struct iovec big_array[RING_CHAIN_SEGS_MAX];
static const struct request_limits limits = { .capacity = CAPACITY, .id = "serial-no" };

/* A chain under construction, and the memory that it lies in: all of it distinct. */
struct shape {
	struct chain chain;
	struct iovec segs[RING_CHAIN_SEGS_MAX];
	uint8_t mem[128 * 1024];
	uint32_t used;
};

static void *shape_add(struct shape *s, bool in, uint32_t len)
{
	void *p = s->mem + s->used;

	s->chain.segs = s->segs;
	s->segs[s->chain.n_out + s->chain.n_in] = (struct iovec) { p, len };
	s->used += len;
	if (in) {
		s->chain.n_in++;
		s->chain.in_len += len;
	} else {
		s->chain.n_out++;
		s->chain.out_len += len;
	}
	return p;
}

/* @bytes in segments of @piece each; contiguous, so that the start is a pointer to all of them. */
static void *shape_add_pieces(struct shape *s, bool in, uint32_t bytes, uint32_t piece)
{
	void *start = s->mem + s->used;

	for (; bytes; bytes -= MIN(bytes, piece))
		shape_add(s, in, MIN(bytes, piece));
	return start;
}

static void put_header(void *at, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr hdr = { .type = type, .ioprio = 7, .sector = sector };

	memcpy(at, &hdr, sizeof(hdr));
}

/* A request in the usual three parts. @return the status byte. */
static uint8_t *usual(struct shape *s, uint32_t type, uint64_t sector, bool in, uint32_t data)
{
	memset(s, 0, sizeof(*s));
	put_header(shape_add(s, false, 16), type, sector);
	if (data)
		shape_add(s, in, data);
	return shape_add(s, true, 1);
}

static void expect_done(struct shape *s, const uint8_t *status, uint8_t want, uint32_t written)
{
	struct request r;

	cr_assert_not(request_parse(&r, &s->chain, &limits, big_array));
	cr_assert_eq(request_finish(&r), written);
	cr_assert_eq(*status, want);
}

Test(blk_request, header_status_and_data_in_segments_of_any_size_2_7_4_1)
{
	static const uint32_t pieces[] = { 1, 2, 3, 5, 7, 11, 15, 16, 17, 511, 513, 4096 };
	struct shape *s = malloc(sizeof(*s));

	for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
		/* One byte each would be too many segments for a chain. */
		uint32_t data = pieces[i] < 7 ? 512 : 3 * 1024;
		uint8_t *start, *status;
		struct request r;

		/* Write: header and data run into one another. */
		memset(s, 0, sizeof(*s));
		start = shape_add_pieces(s, false, 16 + data, pieces[i]);
		put_header(start, VIRTIO_BLK_T_OUT, 3);
		status = shape_add(s, true, 1);
		cr_assert(request_parse(&r, &s->chain, &limits, big_array));
		cr_assert_eq(r.kind, REQUEST_WRITE);
		cr_assert_eq(r.io.op, DISK_WRITE);
		cr_assert_eq(r.io.offset, 3 * 512);
		cr_assert_eq(r.io.len, data);
		for (unsigned k = 0, at = 16; k < r.io.n_iov; k++) {
			cr_assert_eq(r.io.iov[k].iov_base, start + at);
			at += r.io.iov[k].iov_len;
			cr_assert(k + 1 < r.io.n_iov || at == 16 + data);
		}
		cr_assert_eq(r.status, status);

		/* Read: data and status run into one another. */
		memset(s, 0, sizeof(*s));
		put_header(shape_add_pieces(s, false, 16, pieces[i]), VIRTIO_BLK_T_IN, 4);
		start = shape_add_pieces(s, true, data + 1, pieces[i]);
		cr_assert(request_parse(&r, &s->chain, &limits, big_array));
		cr_assert_eq(r.io.op, DISK_READ);
		cr_assert_eq(r.io.len, data);
		for (unsigned k = 0, at = 0; k < r.io.n_iov; k++) {
			cr_assert_eq(r.io.iov[k].iov_base, start + at);
			at += r.io.iov[k].iov_len;
			cr_assert(k + 1 < r.io.n_iov || at == data);
		}
		cr_assert_eq(r.status, start + data);
		r.io.result = 0;
		request_from_disk(&r);
		cr_assert_eq(request_finish(&r), data + 1);
		cr_assert_eq(start[data], VIRTIO_BLK_S_OK);
	}
	free(s);
}

Test(blk_request, many_segments_go_to_the_big_array_and_few_stay_in_the_request)
{
	struct shape *s = malloc(sizeof(*s));
	struct request r;

	for (unsigned n = REQUEST_SEGS_SMALL; n <= REQUEST_SEGS_SMALL + 1; n++) {
		memset(s, 0, sizeof(*s));
		put_header(shape_add(s, false, 16), VIRTIO_BLK_T_IN, 0);
		shape_add_pieces(s, true, n * 512, 512);
		shape_add(s, true, 1);
		cr_assert(request_parse(&r, &s->chain, &limits, big_array));
		cr_assert_eq(r.io.n_iov, n);
		cr_assert_eq(r.big, n > REQUEST_SEGS_SMALL ? big_array : NULL);
		cr_assert_eq(r.io.iov, n > REQUEST_SEGS_SMALL ? big_array : r.small);
	}
	free(s);
}

Test(blk_request, the_header_is_read_from_guest_memory_before_the_checks_and_never_again)
{
	struct shape *s = malloc(sizeof(*s));
	struct request r;

	usual(s, VIRTIO_BLK_T_IN, 1, true, 512);
	cr_assert(request_parse(&r, &s->chain, &limits, big_array));
	put_header(s->mem, VIRTIO_BLK_T_OUT, UINT64_MAX);
	cr_assert_eq(r.io.op, DISK_READ);
	cr_assert_eq(r.io.offset, 512);
	r.io.result = 0;
	request_from_disk(&r);
	cr_assert_eq(request_finish(&r), 513);
	free(s);
}

Test(blk_request, data_that_is_no_whole_number_of_sectors_is_an_io_error)
{
	struct shape *s = malloc(sizeof(*s));
	static const uint32_t lens[] = { 1, 511, 513, 1000, 4095 };

	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		expect_done(s, usual(s, VIRTIO_BLK_T_IN, 0, true, lens[i]), VIRTIO_BLK_S_IOERR, 0);
		expect_done(s, usual(s, VIRTIO_BLK_T_OUT, 0, false, lens[i]), VIRTIO_BLK_S_IOERR,
			    1);
	}
	free(s);
}

Test(blk_request, ranges_past_the_capacity_or_around_the_end_of_numbers_are_io_errors)
{
	static const uint64_t sectors[] = {
		CAPACITY / 512,	    CAPACITY / 512 - 1, /* 2 sectors from here */
		CAPACITY / 512 + 1, UINT64_MAX / 512,	UINT64_MAX / 512 + 1, /* times 512 is 0 */
		UINT64_C(1) << 63,  UINT64_MAX,		UINT64_MAX - 1
	};
	struct shape *s = malloc(sizeof(*s));
	struct request r;

	for (unsigned i = 0; i < ARRAY_SIZE(sectors); i++) {
		expect_done(s, usual(s, VIRTIO_BLK_T_IN, sectors[i], true, 1024),
			    VIRTIO_BLK_S_IOERR, 0);
		expect_done(s, usual(s, VIRTIO_BLK_T_OUT, sectors[i], false, 1024),
			    VIRTIO_BLK_S_IOERR, 1);
	}
	usual(s, VIRTIO_BLK_T_IN, CAPACITY / 512 - 2, true, 1024);
	cr_assert(request_parse(&r, &s->chain, &limits, big_array));
	free(s);
}

Test(blk_request, a_read_or_write_of_nothing_succeeds)
{
	struct shape *s = malloc(sizeof(*s));

	expect_done(s, usual(s, VIRTIO_BLK_T_IN, 0, true, 0), VIRTIO_BLK_S_OK, 1);
	expect_done(s, usual(s, VIRTIO_BLK_T_OUT, 0, false, 0), VIRTIO_BLK_S_OK, 1);
	free(s);
}

Test(blk_request, unknown_types_and_types_that_were_not_offered_are_unsupported)
{
	static const uint32_t types[] = { 2,
					  3,
					  5,
					  10,
					  VIRTIO_BLK_T_DISCARD,
					  VIRTIO_BLK_T_WRITE_ZEROES,
					  14,
					  VIRTIO_BLK_T_BARRIER,
					  VIRTIO_BLK_T_BARRIER | 1,
					  15,
					  24,
					  UINT32_MAX };
	struct shape *s = malloc(sizeof(*s));

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		expect_done(s, usual(s, types[i], 0, true, 512), VIRTIO_BLK_S_UNSUPP, 0);
		expect_done(s, usual(s, types[i], 0, false, 16), VIRTIO_BLK_S_UNSUPP, 1);
	}
	free(s);
}

/* A DISCARD or WRITE_ZEROES of @n ranges, all the same. @return the status byte. */
static uint8_t *ranged(struct shape *s, uint32_t type, unsigned n, uint64_t sector,
		       uint32_t num_sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = sector,
							 .num_sectors = num_sectors,
							 .flags = flags };
	uint8_t *status = usual(s, type, 99, false, n * (uint32_t)sizeof(range));

	for (unsigned i = 0; i < n; i++)
		memcpy(s->mem + 16 + i * sizeof(range), &range, sizeof(range));
	return status;
}

static void expect_range(const struct request_limits *l, uint32_t type, unsigned n, uint64_t sector,
			 uint32_t num_sectors, uint32_t flags, uint8_t want)
{
	struct shape *s = malloc(sizeof(*s));
	uint8_t *status = ranged(s, type, n, sector, num_sectors, flags);
	struct request r;

	cr_assert_not(request_parse(&r, &s->chain, l, big_array));
	cr_assert_eq(request_finish(&r), 1);
	cr_assert_eq(*status, want, "type %u, %u ranges, sector %llu, %u sectors, flags %u: %u",
		     type, n, (unsigned long long)sector, num_sectors, flags, *status);
	free(s);
}

static struct request_limits with_ranges(void)
{
	struct request_limits l = limits;

	l.discard_max = CAPACITY / 2;
	l.zero_max = CAPACITY / 4;
	l.zero_unmaps = true;
	return l;
}

Test(blk_request, a_range_is_discarded_or_zeroed_5_2_6)
{
	struct request_limits l = with_ranges();
	struct shape *s = malloc(sizeof(*s));
	struct request r;

	ranged(s, VIRTIO_BLK_T_DISCARD, 1, 8, 16, 0);
	cr_assert(request_parse(&r, &s->chain, &l, big_array));
	cr_assert_eq(r.io.op, DISK_DISCARD);
	cr_assert_eq(r.io.offset, 8 * 512);
	cr_assert_eq(r.io.len, 16 * 512);
	cr_assert_not(r.io.fua);
	for (unsigned flags = 0; flags < 2; flags++) {
		ranged(s, VIRTIO_BLK_T_WRITE_ZEROES, 1, CAPACITY / 512 - 1, 1, flags);
		l.writethrough = true;
		cr_assert(request_parse(&r, &s->chain, &l, big_array));
		cr_assert_eq(r.io.op, DISK_ZERO);
		cr_assert_eq(r.io.unmap, flags);
		cr_assert_eq(r.io.offset, CAPACITY - 512);
		cr_assert(r.io.fua);
	}
	/* Where space is kept, unmapping is a wish that is not granted. */
	l.zero_unmaps = false;
	cr_assert(request_parse(&r, &s->chain, &l, big_array));
	cr_assert_not(r.io.unmap);
	free(s);
}

Test(blk_request, T18_ranges_that_are_not_legal_are_refused_5_2_6_2)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES };
	struct request_limits l = with_ranges(), ro = with_ranges();

	ro.read_only = true;
	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		uint32_t t = types[i], max = i ? CAPACITY / 4 / 512 : CAPACITY / 2 / 512;

		expect_range(&limits, t, 1, 0, 1, 0, VIRTIO_BLK_S_UNSUPP); /* not negotiated */
		expect_range(&ro, t, 1, 0, 1, 0, VIRTIO_BLK_S_IOERR);
		expect_range(&l, t, 0, 0, 1, 0, VIRTIO_BLK_S_IOERR);
		expect_range(&l, t, 2, 0, 1, 0, VIRTIO_BLK_S_IOERR);
		expect_range(&l, t, 1, 0, 1, 2, VIRTIO_BLK_S_UNSUPP);
		expect_range(&l, t, 1, 0, 1, UINT32_MAX, VIRTIO_BLK_S_UNSUPP);
		expect_range(&l, t, 1, 0, max + 1, 0, VIRTIO_BLK_S_IOERR);
		expect_range(&l, t, 1, CAPACITY / 512, 1, 0, VIRTIO_BLK_S_IOERR);
		expect_range(&l, t, 1, CAPACITY / 512 - 1, 2, 0, VIRTIO_BLK_S_IOERR);
		expect_range(&l, t, 1, UINT64_MAX / 512 + 1, 1, 0, VIRTIO_BLK_S_IOERR);
		expect_range(&l, t, 1, UINT64_MAX, UINT32_MAX, 0, VIRTIO_BLK_S_IOERR);
		expect_range(&l, t, 1, 0, 0, 0, VIRTIO_BLK_S_OK);
	}
	expect_range(&l, VIRTIO_BLK_T_DISCARD, 1, 0, 1, 1, VIRTIO_BLK_S_UNSUPP);
}

Test(blk_request, a_range_that_the_disk_cannot_do_is_unsupported_and_a_failed_one_an_error)
{
	static const struct {
		int result;
		uint8_t status;
	} rows[] = { { 0, VIRTIO_BLK_S_OK },
		     { -EOPNOTSUPP, VIRTIO_BLK_S_UNSUPP },
		     { -EIO, VIRTIO_BLK_S_IOERR } };
	struct request_limits l = with_ranges();
	struct shape *s = malloc(sizeof(*s));
	struct request r;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t *status = ranged(s, VIRTIO_BLK_T_DISCARD, 1, 0, 8, 0);

		cr_assert(request_parse(&r, &s->chain, &l, big_array));
		r.io.result = rows[i].result;
		request_from_disk(&r);
		cr_assert_eq(request_finish(&r), 1);
		cr_assert_eq(*status, rows[i].status);
	}
	free(s);
}

Test(blk_request, writing_to_a_read_only_disk_is_an_io_error_and_reading_is_not)
{
	struct request_limits ro = limits;
	struct shape *s = malloc(sizeof(*s));
	struct request r;
	uint8_t *status;

	ro.read_only = true;
	status = usual(s, VIRTIO_BLK_T_OUT, 0, false, 512);
	cr_assert_not(request_parse(&r, &s->chain, &ro, big_array));
	cr_assert_eq(request_finish(&r), 1);
	cr_assert_eq(*status, VIRTIO_BLK_S_IOERR);
	usual(s, VIRTIO_BLK_T_OUT, 0, false, 0);
	cr_assert_not(request_parse(&r, &s->chain, &ro, big_array));
	cr_assert_eq(r.result, VIRTIO_BLK_S_IOERR);
	usual(s, VIRTIO_BLK_T_IN, 0, true, 512);
	cr_assert(request_parse(&r, &s->chain, &ro, big_array));
	free(s);
}

Test(blk_request, without_flush_each_write_is_durable_5_2_6_2)
{
	struct request_limits wt = limits;
	struct shape *s = malloc(sizeof(*s));
	struct request r;

	wt.writethrough = true;
	usual(s, VIRTIO_BLK_T_OUT, 0, false, 512);
	cr_assert(request_parse(&r, &s->chain, &wt, big_array));
	cr_assert(r.io.fua);
	usual(s, VIRTIO_BLK_T_IN, 0, true, 512);
	cr_assert(request_parse(&r, &s->chain, &wt, big_array));
	cr_assert_not(r.io.fua);
	usual(s, VIRTIO_BLK_T_OUT, 0, false, 512);
	cr_assert(request_parse(&r, &s->chain, &limits, big_array));
	cr_assert_not(r.io.fua);
	free(s);
}

Test(blk_request, get_id_fills_20_bytes_with_zeros_behind_the_serial_and_as_much_as_fits_of_less)
{
	static const uint32_t lens[] = { 0, 1, 5, 19, 20, 21, 64 };
	struct shape *s = malloc(sizeof(*s));

	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		uint8_t *status = usual(s, VIRTIO_BLK_T_GET_ID, 9, true, lens[i]);
		uint8_t *data = s->mem + 16;
		uint32_t filled = MIN(lens[i], 20u);

		memset(data, 0xaa, lens[i]);
		/* The status byte counts only when no byte before it was left as it was. */
		expect_done(s, status, VIRTIO_BLK_S_OK, lens[i] > 20 ? 20 : lens[i] + 1);
		cr_assert_arr_eq(data, limits.id, filled);
		for (uint32_t k = filled; k < lens[i]; k++)
			cr_assert_eq(data[k], 0xaa);
	}
	free(s);
}

Test(blk_request, a_chain_without_a_byte_to_write_is_malformed_and_answered_with_nothing)
{
	struct shape *s = calloc(1, sizeof(*s));
	struct request r;

	put_header(shape_add(s, false, 16), VIRTIO_BLK_T_OUT, 0);
	shape_add(s, false, 512);
	/* What should be the status lies in a segment that the device only reads. */
	*(uint8_t *)shape_add(s, false, 1) = 0xaa;
	cr_assert_not(request_parse(&r, &s->chain, &limits, big_array));
	cr_assert(r.malformed);
	cr_assert_eq(request_finish(&r), 0);
	cr_assert_eq(s->mem[16 + 512], 0xaa);
	free(s);
}

Test(blk_request, a_chain_without_a_whole_header_is_malformed)
{
	struct shape *s = malloc(sizeof(*s));
	struct request r;

	for (uint32_t len = 0; len < 16; len++) {
		uint8_t *status;

		memset(s, 0, sizeof(*s));
		if (len)
			shape_add_pieces(s, false, len, 3);
		shape_add(s, true, 512);
		status = shape_add(s, true, 1);
		*status = 0xaa;
		cr_assert_not(request_parse(&r, &s->chain, &limits, big_array));
		cr_assert(r.malformed);
		cr_assert_eq(request_finish(&r), 0);
		cr_assert_eq(*status, VIRTIO_BLK_S_IOERR);
	}
	free(s);
}

Test(blk_request, a_failed_read_claims_no_byte_that_it_may_not_have_written_2_7_8_2)
{
	struct shape *s = malloc(sizeof(*s));
	struct request r;
	uint8_t *status;

	status = usual(s, VIRTIO_BLK_T_IN, 0, true, 4096);
	cr_assert(request_parse(&r, &s->chain, &limits, big_array));
	r.io.result = -5;
	request_from_disk(&r);
	cr_assert_eq(request_finish(&r), 0);
	cr_assert_eq(*status, VIRTIO_BLK_S_IOERR);

	status = usual(s, VIRTIO_BLK_T_OUT, 0, false, 4096);
	cr_assert(request_parse(&r, &s->chain, &limits, big_array));
	r.io.result = -28;
	request_from_disk(&r);
	cr_assert_eq(request_finish(&r), 1);
	cr_assert_eq(*status, VIRTIO_BLK_S_IOERR);
	free(s);
}

Test(blk_request, a_write_with_room_before_the_status_claims_none_of_it)
{
	struct shape *s = calloc(1, sizeof(*s));
	struct request r;

	put_header(shape_add(s, false, 16), VIRTIO_BLK_T_OUT, 0);
	shape_add(s, false, 512);
	shape_add(s, true, 100);
	cr_assert(request_parse(&r, &s->chain, &limits, big_array));
	r.io.result = 0;
	request_from_disk(&r);
	cr_assert_eq(request_finish(&r), 0);
	cr_assert_eq(s->mem[16 + 512 + 99], VIRTIO_BLK_S_OK);
	free(s);
}
