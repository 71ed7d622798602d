/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device side of a virtqueue, in both layouts (virtio 1.3, 2.7 and 2.8).
 *
 * A device pops chains, works on their segments, pushes each chain back exactly once, publishes
 * what it pushed and then calls the driver:
 *
 *	n = ring_pop(r, layout, chains, 32, segs, ARRAY_SIZE(segs));
 *	…	ring_push(r, layout, id, n_slots, written);	(any order, any time later)
 *	ring_publish(r, layout);
 *	ring_call(r, layout);
 *
 * The layout is a constant argument: a device writes its poll function once as an always-inline
 * body and names it twice (RING_LAYOUTS), and the compiler folds the layout away.
 *
 * Above this header there are no guest addresses and no layouts, below it no packets, sectors or
 * headers. What the driver wrote is read once into private memory, then checked, then used. A
 * driver that breaks the rules breaks this ring (ring_break) and nothing else.
 */
#ifndef SLUICE_VHOST_RING_H
#define SLUICE_VHOST_RING_H

#include "base/counter.h"
#include "poll/call.h"
#include "vhost/mem.h"

enum ring_layout { RING_SPLIT, RING_PACKED };

enum {
	RING_MISSED =
		1, /* the next chain has an address that cannot be used yet: see ring_miss() */
	RING_ENDING = 2, /* it is about to be stopped, and some of its memory has gone */
};

/* What the last chain was like: of one buffer that the device writes, or reads; or anything else.
 */
enum { RING_RUN_NONE, RING_RUN_IN, RING_RUN_OUT };

/* For each layout, X(name, layout): generates the two instances of a device's poll function. */
#define RING_LAYOUTS(X) X(split, RING_SPLIT) X(packed, RING_PACKED)

/*
 * A chain may hold at most this many segments, direct or indirect, after ranges that span regions
 * were split: as many as readv(2) takes. A longer one breaks the ring; so do as many zero-length
 * descriptors, which take no segment but time.
 */
#define RING_CHAIN_SEGS_MAX 1024
/*
 * One ring_pop() ends with the chain that brings what it took to so many bytes, each descriptor
 * counted as RING_DESC_WEIGHT of them: so that no driver, with the longest chains or with 1024
 * empty descriptors in each, keeps a worker from its other queues for long. 32 blocks of 4 KiB, two
 * of the largest frames.
 */
#define RING_POP_WEIGHT (128u << 10)
#define RING_DESC_WEIGHT 64u
#define RING_HINTS 512
#define RING_SIZE_MAX 32768 /* virtio 1.3, 2.7 and 2.8: queue size */

/* What all everyday chains of one direction have in common: written at once. */
struct chain_counts {
	uint16_t n_slots, n_empty, n_out, n_in;
};

/*
 * One chain of buffers that the driver made available: first the segments that the device reads
 * ("out"), then those that it writes ("in"), as host memory. Zero-length segments are left out.
 */
struct chain {
	union {
		struct chain_counts n;
		struct {
			uint16_t n_slots; /* packed: ring slots that it takes; split: 1 */
			uint16_t n_empty; /* zero-length descriptors: no segments, but read */
			uint16_t n_out, n_in;
		};
	};
	uint16_t id;	  /* split: index of the head descriptor; packed: the buffer id */
	uint32_t out_len; /* bytes, the sum over the segments */
	uint32_t in_len;
	struct iovec *segs; /* n_out + n_in, within the caller's array; may change in its content */
};

struct ring_stats {
	counter_t popped;	/* chains taken */
	counter_t pushed;	/* chains given back */
	counter_t calls;	/* eventfd writes to the driver */
	counter_t calls_spared; /* publishes after which the driver wanted no call */
	counter_t calls_failed; /* the eventfd was full: the driver has unread calls anyway (or it
				 * blocked, and the ring is broken) */
	counter_t kicks_on;	/* times that the driver was asked for kicks (parking) */
	counter_t again;	/* of popped: were in flight when the back-end before us died */
};

/*
 * Tells the control thread that a driver broke its ring. A worker that wrote the line itself would
 * wait for whoever reads the log.
 */
struct ring_alarm {
	struct call call;
	bool posted; /* atomic; cleared when the call runs */
};

struct ring;
struct inflight_packed;

/* How a ring is made; everything is checked before it gets here. */
struct ring_config {
	enum ring_layout layout;
	uint32_t size;
	void *desc, *driver, *device; /* host memory: descriptor area, driver area, device area */
	bool indirect, event_idx;     /* negotiated features */
	/* SET_VRING_BASE's word: split: avail index; packed: avail slot and wrap, used slot and
	 * wrap. */
	uint32_t base;
	/*
	 * Chains are given back in the order in which they are taken, and all of them before a
	 * stop: what a split ring's used index has not come to is still to be taken, whatever @base
	 * says.
	 */
	bool base_is_used;
	const struct mem_map *map;
	/* Behind an IOMMU: what addresses are resolved through (iotlb.h). NULL: @map. */
	const struct mem_map *both, *read, *write;
	unsigned *hints; /* behind an IOMMU: RING_HINTS of them; borrowed. NULL: one does */
	bool iommu;
	/* Some of guest memory may not have arrived (postcopy.h). Then @both is an empty map. */
	bool partial;
	/* Called on the worker when the ring stalls; see ring_miss(), ring_wait(). */
	void (*missed)(struct ring *r);
	const char *name;	   /* for the one log line of ring_break(); borrowed */
	uint64_t *call_blocked_ns; /* see struct vhost_device; borrowed. NULL: none */
	struct ring_alarm *alarm;  /* borrowed. NULL: nobody is told */
	struct ring_log *log;	   /* ring_log.h; borrowed. NULL: nothing is logged */
};

struct ring {
	/* Where it is. */
	union {
		struct {
			const struct vring_desc *desc;
			const struct vring_avail *avail;
			struct vring_used *used;
		} split;
		struct {
			struct vring_packed_desc *desc;
			const struct vring_packed_desc_event *driver;
			struct vring_packed_desc_event *device;
		} packed;
	};
	const struct mem_map *map;
	/*
	 * What the driver's addresses are resolved through: both to be read and to be written; to
	 * be read [0], to be written [1]. All the same as map but behind an IOMMU.
	 */
	const struct mem_map *both, *through[2];
	uint32_t size;
	enum ring_layout layout;
	bool indirect, event_idx;
	bool iommu, partial; /* as in ring_config */

	/* What the device has taken: the next entry to look at. Packed: slot and wrap counter. */
	uint16_t avail_idx;
	bool avail_wrap;
	uint16_t avail_seen; /* split: avail->idx as last read */

	/* What the device has given back; used_idx runs ahead of what the driver sees until
	 * publish. */
	uint16_t used_idx;
	bool used_wrap;
	uint16_t staged_slot;  /* packed: slot of the first staged descriptor … */
	uint16_t staged_flags; /* … and its flags, held back */
	uint32_t staged;       /* chains pushed, not yet published */
	uint32_t staged_slots; /* packed: their slots */
	uint32_t uncalled; /* entries (packed: slots) published since the last decision to call */
	bool called_before;
	bool kicks_wanted;    /* the driver is asked to kick */
	struct ring_log *log; /* the dirty log; NULL: none. Borrowed */

	uint8_t run;	    /* RING_RUN_*: a guess at what the next chains are like */
	uint8_t unread;	    /* bytes that chains begin with and the device does not look at */
	uint32_t in_flight; /* chains popped and not pushed: never more than size */
	unsigned map_hint;
	unsigned *hints; /* guesses at where a page is mapped, by its number; see ring_hint() */
	struct ring_track *track; /* see ring_track.h; NULL: neither of its features. Borrowed */
	struct inflight_packed *kept; /* see ring_keep.h; NULL: it is not. Borrowed */
	uint64_t staged_half;	      /* of a ring that is kept: the first staged descriptor's */
	uint32_t n_again;	      /* chains to be popped again, before new ones */
	const char *broken;	      /* why; NULL: in order */
	uint8_t stalled;	      /* RING_*: nothing is popped for now */
	bool miss_told;		      /* missed() was called, and nobody has looked since */
	bool miss_write;
	gpa_t miss;	    /* the address … */
	const void *absent; /* … or where it leads to that has not arrived; NULL: nowhere */
	void (*missed)(struct ring *r);
	int call_fd; /* -1: the driver polls. Borrowed from the virtqueue */
	int err_fd;  /* -1: none */
	const char *name;
	uint64_t *call_blocked_ns;
	struct ring_alarm *alarm;
	struct ring_stats stats;
};

/*
 * Control thread, no worker uses @r. Starts at cfg->base, kicks unwanted; call_fd and err_fd are
 * -1. Stats are kept. @return NULL, or why it cannot be: a size that the layout does not have, a
 * base beyond the ring (virtio 1.3, 2.7 and 2.8; vhost-user "Vring descriptor indices for packed
 * virtqueues").
 */
const char *ring_init(struct ring *r, const struct ring_config *cfg);

/* Control thread, after the last poll. The word for GET_VRING_BASE. */
uint32_t ring_base(const struct ring *r);

/*
 * The driver broke a rule: nothing is popped any more, the front-end is told through err_fd, one
 * line is logged with @why (a constant), by the control thread. Sticky until the ring is made anew.
 * Worker thread.
 */
void ring_break(struct ring *r, const char *why) COLD;

/*
 * Worker thread. An address of the driver's is not mapped: that breaks the ring with @why, unless
 * there is an IOMMU. Then the chain is left where it is, and nothing is popped until ring_go_on():
 * missed() is told, so that the front-end is asked. @write: it is for writing.
 */
void ring_miss(struct ring *r, gpa_t addr, bool write, const char *why) COLD;

/* Tells missed() that there is something to ask for, if it has not been told yet. */
void ring_want(struct ring *r);
/* Worker thread. The same where the memory at @host has not arrived: the ring always waits. */
void ring_wait(struct ring *r, const void *host) COLD;

/* On the worker, or under the queue's lock. More may be mapped now: the chain is tried again. */
static inline void ring_go_on(struct ring *r)
{
	r->stalled &= (uint8_t)~RING_MISSED;
}

/* Bytes of the three areas, for checking what SET_VRING_ADDR says before ring_init(). */
uint64_t ring_desc_bytes(enum ring_layout layout, uint32_t size);
uint64_t ring_driver_bytes(enum ring_layout layout, uint32_t size, bool event_idx);
uint64_t ring_device_bytes(enum ring_layout layout, uint32_t size, bool event_idx);

/*
 * Worker thread. Writes to an eventfd of the front-end's, unless the front-end has held up a worker
 * with one. @return false when that failed.
 */
bool ring_signal(struct ring *r, int fd) COLD;

#include "vhost/ring_body.h" /* the primitives of both layouts, and what is built on them */

/*
 * The API that ring_body.h defines. All run on the queue's worker (or under its lock, where several
 * workers share a queue).
 *
 * unsigned ring_pop(struct ring *r, enum ring_layout layout, struct chain *chains, unsigned n,
 *		     struct iovec *segs, unsigned n_segs);
 *	Up to @n chains, their segments laid into @segs one after the other. Stops early where @segs
 *	might not hold a further chain: n_segs >= RING_CHAIN_SEGS_MAX lets every legal one
 *	through.
 *	Stops early, too, after RING_POP_WEIGHT.
 *	@return how many; 0 also when the ring is broken. Never more than size are in flight.
 *
 * bool ring_unfinished(const struct ring *r);
 *	Is there a chain left that was in flight before, in another process? A ring that is to stop
 *	has to pop these still; ring_pop() gives no new ones before they are all out.
 *
 * bool ring_has_work(struct ring *r, enum ring_layout layout);
 *	Is there a chain to pop? One read of shared memory at most.
 *
 * void ring_unpop(struct ring *r, enum ring_layout layout, const struct chain *chains, unsigned n);
 *	Puts the last @n chains popped back, as if never popped: @chains are all of them, in their
 *	order, and none was pushed. Not for rings with a ring_track.
 *
 * void ring_push_ahead(const struct ring *r, enum ring_layout layout, unsigned n);
 *	A hint: @n chains are pushed soon, so that what is written then is fetched meanwhile.
 *
 * void ring_push(struct ring *r, enum ring_layout layout, uint16_t id, uint16_t n_slots,
 *		  uint32_t written);
 *	Gives a chain back; the driver sees it after ring_publish(). @written: bytes of "in"
 *	segments, written from their start on (virtio 1.3 2.7.8.2); never more than in_len.
 *
 * void ring_push_many(struct ring *r, enum ring_layout layout, const struct chain *chains,
 *		       unsigned n, const uint32_t *written);
 *	The same for @n chains. @written: for each; NULL: nothing was.
 *
 * void ring_publish(struct ring *r, enum ring_layout layout);
 *	Shows all that was pushed, in one step. Nothing if nothing was.
 *
 * void ring_call(struct ring *r, enum ring_layout layout);
 *	Notifies the driver if it wants that for what was published since the last call: at most
 *	one eventfd write.
 *
 * bool ring_kicks_on(struct ring *r, enum ring_layout layout);
 *	Asks the driver for kicks, then looks once more: true when there is nothing to do, and a
 *	kick will come when there is; false when work is there, and kicks are off again.
 *
 * void ring_kicks_off(struct ring *r, enum ring_layout layout);
 */

#endif
