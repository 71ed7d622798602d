/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notification coalescing (virtio 1.3 5.1.6.5.9): a driver is called when so many packets are there
 * that it has not been told of, or so long after the first of them.
 *
 * No timer runs for that. Whoever puts packets into the ring, or polls it, looks at the time; and a
 * queue that falls silent is called before its poller parks (poll/worker.h: 100 microseconds by
 * default). So nothing is forgotten, and a driver that asks for longer delays gets them while there
 * is traffic: 5.1.6.5.9: "the device MAY generate notifications more or less frequently".
 */
#ifndef SLUICE_NET_COALESCE_H
#define SLUICE_NET_COALESCE_H

#include "base/clock.h"
#include "vhost/ring.h"

/* What a driver says of a queue; either 0: it is called at once. */
struct coalesce_params {
	uint32_t max_packets, max_usecs;
};

struct coalesce {
	/* The control queue's worker writes them. Atomic, each by itself. */
	uint32_t max_packets, max_usecs;
	/* Under the queue's lock, or its worker's own. */
	uint32_t pending; /* packets published that the driver has not been told of */
	uint32_t looked;  /* of these, those that the last poll saw */
	uint64_t since;	  /* clock_cycles() of the first of them */
};

static inline void coalesce_set(struct coalesce *c, struct coalesce_params p)
{
	__atomic_store_n(&c->max_packets, p.max_packets, __ATOMIC_RELAXED);
	__atomic_store_n(&c->max_usecs, p.max_usecs, __ATOMIC_RELAXED);
}

static inline struct coalesce_params coalesce_get(const struct coalesce *c)
{
	uint32_t packets = __atomic_load_n(&c->max_packets, __ATOMIC_RELAXED);
	uint32_t usecs = __atomic_load_n(&c->max_usecs, __ATOMIC_RELAXED);

	return (struct coalesce_params) { packets, usecs };
}

/* Is there something to be told, by which nobody has to wait any more? */
static inline bool coalesce_due(const struct coalesce *c, const struct ring *r, uint64_t now)
{
	struct coalesce_params p = coalesce_get(c);

	if (p.max_packets == 0 || p.max_usecs == 0 || c->pending >= p.max_packets)
		return true;
	/* A driver that has lent us half of its ring may have little left to go on with. */
	if (r->uncalled >= r->size / 2)
		return true;
	return now - c->since >= (uint64_t)p.max_usecs * clock_cycles_per_us();
}

/* Tells the driver of all that is pending. */
HOT void coalesce_flush(struct coalesce *c, struct ring *r, enum ring_layout layout)
{
	c->pending = c->looked = 0;
	ring_call(r, layout);
}

/* Instead of ring_call(), @n packets after the last one. @return whether some are pending. */
static inline bool coalesce_call(struct coalesce *c, struct ring *r, enum ring_layout layout,
				 uint32_t n)
{
	uint64_t now = clock_cycles();

	if (n == 0 && c->pending == 0)
		return false;
	if (c->pending == 0)
		c->since = now;
	c->pending += n;
	if (!coalesce_due(c, r, now))
		return true;
	coalesce_flush(c, r, layout);
	return false;
}

/*
 * A poll of the queue that found nothing else to do. @return 1 if packets have come since the one
 * before (so that its poller does not park), or the driver was called.
 */
static inline unsigned coalesce_poll(struct coalesce *c, struct ring *r, enum ring_layout layout)
{
	unsigned done = c->pending != c->looked;

	c->looked = c->pending;
	if (c->pending == 0)
		return 0;
	if (!coalesce_due(c, r, clock_cycles()))
		return done;
	coalesce_flush(c, r, layout);
	return 1;
}

#endif
