/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One virtio-blk request (virtio 1.3 5.2.6), from the chain it came in to the status byte it ends
 * with. What it looks like in guest memory is of no matter (2.7.4.1: any framing): the header is
 * the first 16 bytes that the device reads, the status byte the last one that it writes, data is
 * the rest.
 */
#ifndef SLUICE_BLK_REQUEST_H
#define SLUICE_BLK_REQUEST_H

#include "blk/disk.h"
#include "vhost/ring.h"

#define BLK_SECTOR 512
/* Of virtio 1.3 5.2.3 and 5.2.6, not in Linux's header. */
#define BLK_F_LIFETIME 15
#define BLK_T_GET_LIFETIME 10
#define BLK_LIFETIME_BYTES 6
#define BLK_ID_BYTES 20 /* virtio 1.3 5.2.6: VIRTIO_BLK_T_GET_ID */

/* Data segments that stand in the request itself; longer ones take an array from the queue's pool.
 */
#define REQUEST_SEGS_SMALL 16

/* What is counted; the outcome decides under which name. */
enum request_kind {
	REQUEST_READ,
	REQUEST_WRITE,
	REQUEST_FLUSH,
	REQUEST_DISCARD,
	REQUEST_ZERO,
	REQUEST_SECURE_ERASE,
	REQUEST_GET_ID,
	REQUEST_GET_LIFETIME,
	REQUEST_OTHER
};

struct request {
	struct disk_request io;
	uint8_t *status;   /* guest memory; NULL: the chain has no room for one */
	struct iovec *big; /* from the queue's pool, RING_CHAIN_SEGS_MAX long; NULL: none */
	uint32_t in_len;   /* bytes that the device may write, the status byte among them */
	uint32_t filled;   /* of these, written from the start on, the status byte apart */
	enum request_kind kind;
	uint64_t issued;    /* clock_cycles() when it went to the disk; 0: it is held back */
	uint64_t range_len; /* bytes, of a range without data, as it was asked for */
	uint8_t result;	    /* VIRTIO_BLK_S_* */
	bool malformed;
	bool busy;	      /* popped, not pushed */
	uint16_t id, n_slots; /* the chain's */
	struct iovec small[REQUEST_SEGS_SMALL];
} CACHE_ALIGNED;

static inline struct iovec *request_segs(struct request *r)
{
	return r->big ? r->big : r->small;
}

/*
 * All of the data of @r in guest memory, also what the disk has passed; 0: it is of a kind that has
 * none. Of the segment that the disk is in @cut is what it has passed.
 */
unsigned request_data(const struct request *r, const struct iovec **segs, struct iovec *cut) COLD;

/* What a request is checked against; fixed while a queue runs. */
struct request_limits {
	uint64_t capacity;		/* bytes */
	uint64_t discard_max, zero_max; /* bytes of one request; 0: not negotiated */
	bool zero_unmaps;		/* may a WRITE_ZEROES give space back? */
	uint64_t erase_max;		/* bytes of one request; 0: not negotiated */
	uint32_t erase_align;		/* bytes */
	bool has_lifetime;		/* negotiated */
	struct disk_lifetime lifetime;
	bool read_only;
	bool writethrough; /* the guest does not flush: each write is durable when it completes */
	bool no_flush;	   /* flushes are answered and not done */
	char id[BLK_ID_BYTES]; /* GET_ID's answer, padded with zeros */
};

/*
 * Makes @r of @c, whose segments it may change. Reads the header from guest memory, once.
 * @big: an array that @r takes (sets r->big to it) if @c has more data segments than it holds.
 * @return true: r->io is for the disk; false: it is done (refused, or answered at once).
 * Worker thread.
 */
bool request_parse(struct request *r, const struct chain *c, const struct request_limits *limits,
		   struct iovec *big);

/* Worker thread. The disk has answered r->io: its result becomes the request's. */
void request_from_disk(struct request *r);

/*
 * Worker thread. Writes the status byte. @return the length to push the chain with: how many bytes
 * were written from the start of its device-writable part (virtio 1.3 2.7.8.2), never one more.
 */
uint32_t request_finish(struct request *r);

/* Worker thread, after request_finish(), where the ring has a dirty log: what @r wrote goes there.
 */
void request_log(const struct request *r, struct ring *ring) COLD;

#endif
