/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/request.h"

#include "blk/iov.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>

static_assert(sizeof(struct virtio_blk_outhdr) == 16, "virtio 1.3 5.2.6: type, reserved, sector");
static_assert(VIRTIO_BLK_ID_BYTES == BLK_ID_BYTES, "the two have the same source");
static_assert(sizeof(struct virtio_blk_discard_write_zeroes) == 16,
	      "virtio 1.3 5.2.6: sector, num_sectors, flags");

/* The answer is known without the disk; the device wrote the first @filled bytes of data. */
static bool done(struct request *r, uint8_t result, uint32_t filled)
{
	r->result = result;
	r->filled = filled;
	return false;
}

/*
 * Neither header nor status byte can be counted on. Where there is a byte that would be the status,
 * the driver learns of it there; else an empty used entry is all that it gets.
 */
static bool malformed(struct request *r)
{
	r->malformed = true;
	r->kind = REQUEST_OTHER;
	return done(r, VIRTIO_BLK_S_IOERR, 0);
}

/* Takes the last byte of the device-writable segments: the status. @return it. */
static uint8_t *take_status(struct iovec *in, unsigned *n_in)
{
	struct iovec *last = &in[*n_in - 1];

	last->iov_len--;
	if (last->iov_len == 0)
		(*n_in)--;
	return (uint8_t *)last->iov_base + last->iov_len;
}

/* The data segments become the request's own: the chain's array is used for the next chain. */
static void keep_data(struct request *r, const struct iovec *iov, unsigned n, struct iovec *big)
{
	if (n > REQUEST_SEGS_SMALL)
		r->big = big;
	r->io.iov = r->big ? r->big : r->small;
	r->io.n_iov = n;
	r->io.cut = 0;
	memcpy(r->io.iov, iov, n * sizeof(*iov));
}

/* Reads and writes: virtio 1.3 5.2.6.2, "beyond capacity" and whole sectors. */
static bool parse_rw(struct request *r, uint64_t sector, uint64_t len,
		     const struct request_limits *limits)
{
	bool is_write = r->kind == REQUEST_WRITE;

	if (is_write && limits->read_only)
		return done(r, VIRTIO_BLK_S_IOERR, 0);
	if (len % BLK_SECTOR)
		return done(r, VIRTIO_BLK_S_IOERR, 0);
	/* In this order nothing wraps, whatever the sector says. */
	if (sector > limits->capacity / BLK_SECTOR || len > limits->capacity - sector * BLK_SECTOR)
		return done(r, VIRTIO_BLK_S_IOERR, 0);
	if (len == 0)
		return done(r, VIRTIO_BLK_S_OK, 0);

	r->io.op = is_write ? DISK_WRITE : DISK_READ;
	r->io.fua = is_write && limits->writethrough;
	r->io.offset = sector * BLK_SECTOR;
	r->io.len = len;
	return true;
}

/*
 * Is it where erasing can be done exactly? What a disk rounds is no harm to a DISCARD, but an
 * erasure that leaves something would be a lie. The disk's end need not be a multiple of anything.
 */
static bool erase_is_aligned(uint64_t at, uint64_t bytes, const struct request_limits *limits)
{
	return at % limits->erase_align == 0 &&
	       (bytes % limits->erase_align == 0 || at + bytes == limits->capacity);
}

/* Bytes of one range; 0: not negotiated. */
static uint64_t range_max(enum request_kind kind, const struct request_limits *limits)
{
	if (kind == REQUEST_ZERO)
		return limits->zero_max;
	return kind == REQUEST_DISCARD ? limits->discard_max : limits->erase_max;
}

/*
 * DISCARD, WRITE_ZEROES and SECURE_ERASE: virtio 1.3 5.2.6. One range a request, as the
 * configuration space says (max_discard_seg and the like): @data holds @len bytes of it.
 */
static bool parse_range(struct request *r, const struct iovec *data, unsigned n, uint64_t len,
			const struct request_limits *limits)
{
	bool is_zero = r->kind == REQUEST_ZERO;
	uint64_t max = range_max(r->kind, limits);
	struct virtio_blk_discard_write_zeroes range;
	uint64_t sector, bytes;
	uint32_t flags;

	r->io.n_iov = 0;
	r->range_len = 0;
	if (max == 0)
		return done(r, VIRTIO_BLK_S_UNSUPP, 0);
	if (limits->read_only || len != sizeof(range) ||
	    iov_gather(data, n, &range, sizeof(range)) != sizeof(range))
		return done(r, VIRTIO_BLK_S_IOERR, 0);
	flags = le32toh(range.flags);
	sector = le64toh(range.sector);
	bytes = (uint64_t)le32toh(range.num_sectors) * BLK_SECTOR;

	/* 5.2.6.2: unknown flags, and "unmap" where everything is unmapped, are unsupported. */
	if (flags & ~(is_zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
		return done(r, VIRTIO_BLK_S_UNSUPP, 0);
	/* In this order nothing wraps, whatever the sector says. */
	if (sector > limits->capacity / BLK_SECTOR ||
	    bytes > limits->capacity - sector * BLK_SECTOR || bytes > max)
		return done(r, VIRTIO_BLK_S_IOERR, 0);
	if (r->kind == REQUEST_SECURE_ERASE &&
	    !erase_is_aligned(sector * BLK_SECTOR, bytes, limits))
		return done(r, VIRTIO_BLK_S_IOERR, 0);
	if (bytes == 0)
		return done(r, VIRTIO_BLK_S_OK, 0);

	r->io.op = is_zero			? DISK_ZERO
		   : r->kind == REQUEST_DISCARD ? DISK_DISCARD
						: DISK_SECURE_ERASE;
	r->io.fua = limits->writethrough;
	r->io.unmap = limits->zero_unmaps && flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	r->io.offset = sector * BLK_SECTOR;
	r->io.len = r->range_len = bytes;
	return true;
}

/* A buffer of another size than 20 bytes is the driver's fault, but a harmless one: fill what fits.
 */
static bool answer_get_id(struct request *r, const struct iovec *in, unsigned n_in,
			  const struct request_limits *limits)
{
	return done(r, VIRTIO_BLK_S_OK,
		    (uint32_t)iov_scatter(in, n_in, limits->id, sizeof(limits->id)));
}

/* A buffer that does not hold all of it gets none: half an answer looks like a whole one. */
static bool answer_get_lifetime(struct request *r, const struct iovec *in, unsigned n_in,
				const struct request_limits *limits)
{
	const struct disk_lifetime *l = &limits->lifetime;
	const uint16_t answer[] = { htole16(l->pre_eol), htole16(l->type_a), htole16(l->type_b) };

	static_assert(sizeof(answer) == BLK_LIFETIME_BYTES, "virtio 1.3 5.2.6");
	if (!limits->has_lifetime)
		return done(r, VIRTIO_BLK_S_UNSUPP, 0);
	if (r->in_len - 1 < sizeof(answer))
		return done(r, VIRTIO_BLK_S_IOERR, 0);
	return done(r, VIRTIO_BLK_S_OK, (uint32_t)iov_scatter(in, n_in, answer, sizeof(answer)));
}

bool request_parse(struct request *r, const struct chain *c, const struct request_limits *limits,
		   struct iovec *big)
{
	struct iovec *out = c->segs, *in = c->segs + c->n_out;
	unsigned n_out = c->n_out, n_in = c->n_in;
	struct virtio_blk_outhdr hdr;

	r->id = c->id;
	r->n_slots = c->n_slots;
	r->status = NULL;
	r->big = NULL;
	r->in_len = c->in_len;
	r->malformed = false;
	r->io.bounced = false;

	if (c->in_len == 0)
		return malformed(r);
	r->status = take_status(in, &n_in);
	if (iov_gather(out, n_out, &hdr, sizeof(hdr)) != sizeof(hdr))
		return malformed(r);
	iov_advance(&out, &n_out, sizeof(hdr));

	switch (le32toh(hdr.type)) {
	case VIRTIO_BLK_T_IN:
		r->kind = REQUEST_READ;
		keep_data(r, in, n_in, big);
		return parse_rw(r, le64toh(hdr.sector), c->in_len - 1, limits);
	case VIRTIO_BLK_T_OUT:
		r->kind = REQUEST_WRITE;
		keep_data(r, out, n_out, big);
		return parse_rw(r, le64toh(hdr.sector), c->out_len - sizeof(hdr), limits);
	case VIRTIO_BLK_T_FLUSH:
		r->kind = REQUEST_FLUSH;
		if (limits->no_flush)
			return done(r, VIRTIO_BLK_S_OK, 0);
		r->io.op = DISK_FLUSH;
		r->io.fua = false;
		r->io.offset = r->io.len = 0;
		r->io.n_iov = 0;
		return true;
	case VIRTIO_BLK_T_DISCARD:
		r->kind = REQUEST_DISCARD;
		return parse_range(r, out, n_out, c->out_len - sizeof(hdr), limits);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		r->kind = REQUEST_ZERO;
		return parse_range(r, out, n_out, c->out_len - sizeof(hdr), limits);
	case VIRTIO_BLK_T_SECURE_ERASE:
		r->kind = REQUEST_SECURE_ERASE;
		return parse_range(r, out, n_out, c->out_len - sizeof(hdr), limits);
	case BLK_T_GET_LIFETIME:
		r->kind = REQUEST_GET_LIFETIME;
		keep_data(r, in, n_in, big);
		return answer_get_lifetime(r, in, n_in, limits);
	case VIRTIO_BLK_T_GET_ID:
		r->kind = REQUEST_GET_ID;
		keep_data(r, in, n_in, big);
		return answer_get_id(r, in, n_in, limits);
	default:
		r->kind = REQUEST_OTHER;
		return done(r, VIRTIO_BLK_S_UNSUPP, 0);
	}
}

void request_from_disk(struct request *r)
{
	if (r->io.result == -EOPNOTSUPP && (r->kind == REQUEST_DISCARD || r->kind == REQUEST_ZERO ||
					    r->kind == REQUEST_SECURE_ERASE)) {
		/* The disk's file can do nothing of the kind. */
		done(r, VIRTIO_BLK_S_UNSUPP, 0);
		return;
	}
	if (r->io.result) {
		/* Some of a failed read may have arrived; none of it is vouched for. */
		done(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	done(r, VIRTIO_BLK_S_OK, r->kind == REQUEST_READ ? (uint32_t)r->io.len : 0);
}

uint32_t request_finish(struct request *r)
{
	if (!r->status)
		return 0;
	*r->status = r->result;
	/* The status byte is the last one: it counts only when nothing before it was left out. */
	return r->filled == r->in_len - 1 ? r->in_len : r->filled;
}

unsigned request_data(const struct request *r, const struct iovec **segs, struct iovec *cut)
{
	bool has_data = r->kind == REQUEST_READ || r->kind == REQUEST_WRITE ||
			r->kind == REQUEST_GET_ID || r->kind == REQUEST_GET_LIFETIME;

	*segs = r->big ? r->big : r->small;
	*cut = (struct iovec) { 0 };
	if (!has_data)
		return 0; /* io.iov is what the chain with this id before had */
	if (r->io.n_iov && r->io.cut)
		*cut = (struct iovec) { (char *)r->io.iov->iov_base - r->io.cut, r->io.cut };
	return (unsigned)(r->io.iov - *segs) + r->io.n_iov;
}

void request_log(const struct request *r, struct ring *ring)
{
	const struct iovec *segs;
	struct iovec cut;
	unsigned n = request_data(r, &segs, &cut);

	if (r->kind != REQUEST_WRITE) {
		/* All of it, also when the read failed: some of it may have arrived. */
		ring_log_iov(ring, segs, n, UINT64_MAX);
		if (cut.iov_len)
			ring_log_write(ring, cut.iov_base, cut.iov_len);
	}
	if (r->status)
		ring_log_write(ring, r->status, 1);
}
