/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One running virtqueue of a virtio-blk device, between device.c and queue.c, which make and end it
 * on the control thread, and blk_poll.c, which works it on its worker.
 *
 *	queue_start ──► poll … poll ──► queue_stop: drain_call on the worker: no more pops
 *	                                     │ the last request is pushed and published
 *	                                     ▼
 *	                  drained_call on the control thread: off the worker, freed,
 *	                  vhost_queue_stopped(); or, for a move, on to the next worker
 */
#ifndef SLUICE_BLK_QUEUE_H
#define SLUICE_BLK_QUEUE_H

#include "blk/limit.h"
#include "blk/request.h"
#include "poll/worker.h"
#include "vhost/device.h"

/* Chains popped in one poll at most (see disk_info.burst), and completions reaped. */
#define BLK_POLL_BUDGET 32
/* Room for a batch of ordinary chains while one of the longest would still fit. */
#define BLK_POLL_SEGS (2 * RING_CHAIN_SEGS_MAX)
/* Requests of more than REQUEST_SEGS_SMALL segments that a queue has at a time; further ones wait.
 */
#define BLK_QUEUE_BIG_MAX 128

/* What the disk failed last, and what waits for it to work again; see fault.c. */
struct blk_fault {
	int error;     /* errno; 0: it never failed */
	uint32_t kind; /* enum request_kind */
	uint64_t sector, last_ns;
	uint64_t since_ns; /* the first of those that wait */
	uint32_t waiting;
};

/* Written by the queue's worker; lives as long as the device. */
struct blk_queue_stats {
	counter_t ok[REQUEST_OTHER + 1]; /* by enum request_kind */
	counter_t read_bytes, write_bytes, discarded_bytes, zeroed_bytes, erased_bytes;
	counter_t errors, unsupported, malformed;
	counter_t in_flight;
	counter_t bounced;
	counter_t held, held_now, throttled_ns;
	struct blk_fault fault;
} CACHE_ALIGNED;

/* What the disk's limits keep a queue from sending to the disk; see throttle.c. Reads, writes. */
struct throttle {
	bool active;	     /* there are limits, or what they have held */
	struct limit *limit; /* the disk's, which its queues share; NULL: none (any more) */
	struct limit_view view;
	struct disk_request_list list[2];
	uint64_t start_ns[2]; /* of the first one; 0: it has not taken its share yet */
	uint32_t n[2];
	uint64_t since_ns; /* some are held; counted up to here */
};

struct blk_queue {
	struct poller poller;
	struct poller_ops ops; /* one of blk_poller_ops, without arm where there are no kicks */
	struct ring *ring;
	struct disk *disk;
	struct disk_queue *disk_queue;
	struct request *requests; /* by chain id */
	uint32_t size;
	uint32_t n_used;   /* of @requests: those from here on have never been popped */
	uint32_t n_busy;   /* requests popped and not pushed */
	bool draining;	   /* no more pops, but of what was in flight before */
	bool ending;	   /* and nothing is held back any more: the ring itself ends */
	bool leaving;	   /* or: what is not done stays in the in-flight buffer, as it is */
	uint32_t n_left;   /* requests that the disk gave back undone, for that */
	uint32_t leave_at; /* of @requests: those before it were cancelled */
	bool drained;	   /* drained_call is on its way; the ring is not ours any more */
	struct request_limits limits;
	struct blk_queue_stats *stats;
	struct throttle throttle;

	/* Requests that the disk failed and that the guest waits for. */
	struct {
		bool keep; /* on_error: stop */
		struct disk_request_list list;
		uint32_t n;
		struct request *trying; /* one that tries for all of them */
		uint64_t next_ns;	/* when one will */
	} failed;

	/* A stack of free segment arrays for big requests. */
	struct iovec **big_free;
	unsigned n_big_free;

	struct chain chains[BLK_POLL_BUDGET];
	struct iovec *segs; /* BLK_POLL_SEGS, for the chains of one pop */

	/* The control thread's. */
	struct virtqueue *vq;
	void *mem; /* @requests, @segs, and the arrays of @big_free */
	size_t mem_bytes;
	struct call drain_call, drained_call;
	bool stopping;		/* queue_stop came */
	struct worker *move_to; /* it drains to go on there; NULL: it stays */
};

/* Requests popped that are neither the disk's nor pushed. */
HOT uint32_t blk_queue_held(const struct blk_queue *q)
{
	return q->throttle.n[0] + q->throttle.n[1] + q->failed.n + q->n_left;
}

/*
 * Worker thread, throttle.c; for a queue with limits, once a poll each, in this order: begin sends
 * what may go by now, and returns how many; pass says whether @r, just popped, may go, or keeps it;
 * end says for how long the poller may rest.
 */
unsigned throttle_begin(struct blk_queue *q);
bool throttle_pass(struct blk_queue *q, struct request *r);
void throttle_end(struct blk_queue *q);
/* Is there a point in popping? Not if whatever came would wait. */
HOT bool throttle_is_shut(const struct blk_queue *q)
{
	return q->throttle.n[0] && q->throttle.n[1];
}
/*
 * Worker thread, fault.c. keep: the disk failed @r; true: it is kept, to be done again. over: what
 * had been tried again worked. retry: those that may try again; how many do.
 */
bool fault_keep(struct blk_queue *q, struct request *r) COLD;
void fault_over(struct blk_queue *q) COLD;
unsigned fault_retry(struct blk_queue *q) COLD;
void fault_retry_now(struct blk_queue *q);
void throttle_set(struct blk_queue *q, struct limit *limit);

/* "read", "write"; enum request_kind. */
const char *blk_kind_name(unsigned kind);

/* By enum ring_layout. */
extern const struct poller_ops blk_poller_ops[];

/*
 * Calls for q->drain_call, the worker's halves: of queue_stop, before which all that is held goes
 * its way, or which leaves what is not done in the in-flight buffer; of queue_move, where that
 * comes along.
 */
void blk_queue_drain(struct call *c);
void blk_queue_leave(struct call *c);
void blk_queue_pause(struct call *c);

/*
 * Control thread. Memory for q->size requests, and the disk's queue. @return 0 or -errno;
 * blk_queue_free() frees also what is half built.
 */
int blk_queue_alloc(struct blk_queue *q);
void blk_queue_free(struct blk_queue *q);

/* See struct vhost_device_ops. */
void blk_queue_stop(struct vhost_device *d, struct virtqueue *vq);
void blk_queue_move(struct vhost_device *d, struct virtqueue *vq, struct worker *to);
/* Control thread, what requests are checked against from now on. */
void blk_queue_update(struct virtqueue *vq, const struct request_limits *limits);
/* Control thread: requests that wait for the disk to work try again now. */
void blk_queue_retry(struct virtqueue *vq);
/*
 * Control thread. Adds what is in flight at the disk for over @ns to @s: how many, and which one is
 * the oldest.
 */
void blk_queue_slow(struct virtqueue *vq, uint64_t ns, struct blk_stats *s);
/*
 * Control thread. NULL: none; when it returns the queue does not use the one before any more.
 * @share: see struct poller.
 */
void blk_queue_limit(struct virtqueue *vq, struct limit *limit, uint32_t share);
bool blk_queue_uses(struct virtqueue *vq, const void *host, uint64_t len);

#endif
