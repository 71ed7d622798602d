/* SPDX-License-Identifier: Apache-2.0 */
#include "net/capture.h"

#include "base/error.h"
#include "net/offload.h"
#include "net/port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <urcu/urcu-qsbr.h>

#define RING_BYTES (1u << 20) /* a power of two, of each worker */
#define RECORD_ALIGN 8u
/* In place of a record's size: the rest of the ring up to its end is empty. */
#define RECORD_SKIP UINT32_MAX

struct record {
	uint32_t size; /* of all of it, aligned */
	uint32_t len, copied;
	uint32_t out;
	uint64_t time_ns;
	uint8_t bytes[];
};
static_assert(sizeof(struct record) % RECORD_ALIGN == 0, "records follow each other aligned");

/* NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): a line for each thread */
struct ring {
	uint64_t head; /* the worker's: bytes ever written. Atomic */
	counter_t passed, dropped;
	uint64_t tail CACHE_ALIGNED; /* the reader's: bytes ever taken. Atomic */
	uint8_t *bytes;
} CACHE_ALIGNED;

struct capture {
	struct port *port; /* NULL: it has ended */
	unsigned n, at;	   /* rings, and the one that was looked at last */
	uint32_t snap_bytes;
	struct ring rings[];
};

static struct record *record_at(const struct ring *r, uint64_t at)
{
	return (struct record *)(void *)(r->bytes + (at & (RING_BYTES - 1)));
}

/* Room for a record of @need bytes in one piece; *@head: where it ends. NULL: there is none. */
static struct record *reserve(struct ring *r, uint32_t need, uint64_t *head)
{
	uint64_t at = r->head;
	uint32_t left = RING_BYTES - (uint32_t)(at & (RING_BYTES - 1));
	uint32_t skip = left < need ? left : 0;

	/* Pairs with the release in capture_next(): it has been read, then it is written over. */
	if (at + skip + need - __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE) > RING_BYTES)
		return NULL;
	if (skip)
		record_at(r, at)->size = RECORD_SKIP;
	*head = at + skip + need;
	return record_at(r, at + skip);
}

static void add(const struct capture *c, struct ring *r, struct packet *p, bool out, uint64_t now)
{
	uint32_t copy = MIN(p->len, c->snap_bytes), n, at;
	uint32_t need = (uint32_t)ALIGN_UP(sizeof(struct record) + copy, (size_t)RECORD_ALIGN);
	struct record *rec;
	const void *piece;
	struct frame f;
	uint64_t head;

	counter_add(&r->passed, 1);
	rec = reserve(r, need, &head);
	if (!rec) {
		counter_add(&r->dropped, 1);
		return;
	}
	*rec = (struct record) { need, p->len, copy, out, now };
	frame_of_packet(&f, p);
	at = MIN(copy, f.head_len);
	memcpy(rec->bytes, f.head, at);
	for (; at < copy && (piece = frame_next(&f, copy - at, &n)); at += n)
		memcpy(rec->bytes + at, piece, n);
	/* Pairs with the acquire in capture_look(): the record, then that it is there. */
	__atomic_store_n(&r->head, head, __ATOMIC_RELEASE);
}

void capture_packets(struct port *p, struct packet *const *packets, unsigned n, bool out)
{
	/* Pairs with the release in capture_start(). Ours until the end of the round. */
	struct capture *c = __atomic_load_n(&p->capture, __ATOMIC_ACQUIRE);
	struct timespec ts;

	if (!c)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	for (unsigned i = 0; i < n; i++)
		add(c, &c->rings[worker_index(worker_current())], packets[i], out,
		    (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec);
}

int capture_start(struct port *p, struct workers *ws, uint32_t snap_bytes, struct capture **out,
		  struct error *err)
{
	unsigned n = workers_count(ws);
	struct capture *c;

	if (p->capture)
		return error_set(err, -EBUSY,
				 "port %s is being captured already: end that one first", p->name);
	c = aligned_alloc(CACHE_LINE, sizeof(*c) + n * sizeof(c->rings[0]));
	if (!c)
		return error_set(err, -ENOMEM, "port %s: out of memory", p->name);
	memset(c, 0, sizeof(*c) + n * sizeof(c->rings[0]));
	c->n = n;
	c->snap_bytes = MIN(snap_bytes, CAPTURE_SNAP_MAX);
	for (unsigned i = 0; i < n; i++) {
		c->rings[i].bytes = aligned_alloc(CACHE_LINE, RING_BYTES);
		if (!c->rings[i].bytes) {
			capture_free(c);
			return error_set(err, -ENOMEM, "port %s: out of memory", p->name);
		}
	}
	c->port = p;
	/* Pairs with the acquire in capture_packets(): all of it, then that it is there. */
	__atomic_store_n(&p->capture, c, __ATOMIC_RELEASE);
	__atomic_or_fetch(&p->rules_on, PORT_CAPTURE, __ATOMIC_RELAXED);
	*out = c;
	return 0;
}

void capture_end(struct capture *c)
{
	struct port *p = c->port;

	if (!p)
		return;
	__atomic_and_fetch(&p->rules_on, ~PORT_CAPTURE, __ATOMIC_RELAXED);
	__atomic_store_n(&p->capture, NULL, __ATOMIC_RELAXED);
	c->port = NULL;
	/* After a round of each worker none has it any more. */
	urcu_qsbr_synchronize_rcu();
}

bool capture_ended(const struct capture *c)
{
	return !c->port;
}

void capture_port_gone(struct port *p)
{
	if (p->capture)
		capture_end(p->capture);
}

void capture_free(struct capture *c)
{
	if (!c)
		return;
	capture_end(c);
	for (unsigned i = 0; i < c->n; i++)
		free(c->rings[i].bytes);
	free(c);
}

/* Each worker's are in order; between workers there is none. */
bool capture_look(struct capture *c, struct captured *out)
{
	for (unsigned i = 0; i < c->n; i++) {
		struct ring *r = &c->rings[(c->at + i) % c->n];
		const struct record *rec;

		/* Pairs with the release in add(). */
		if (r->tail == __atomic_load_n(&r->head, __ATOMIC_ACQUIRE))
			continue;
		c->at = (c->at + i) % c->n;
		rec = record_at(r, r->tail);
		if (rec->size == RECORD_SKIP)
			rec = (const struct record *)(void *)r->bytes;
		*out = (struct captured) { rec->time_ns, rec->len, rec->copied, rec->out,
					   rec->bytes };
		return true;
	}
	return false;
}

void capture_next(struct capture *c)
{
	struct ring *r = &c->rings[c->at];
	const struct record *rec = record_at(r, r->tail);
	uint64_t tail = r->tail;

	if (rec->size == RECORD_SKIP) {
		tail = ALIGN_UP(tail + 1, (uint64_t)RING_BYTES);
		rec = record_at(r, tail);
	}
	/* Pairs with the acquire in reserve(). */
	__atomic_store_n(&r->tail, tail + rec->size, __ATOMIC_RELEASE);
	c->at = (c->at + 1) % c->n; /* the workers take turns */
}

void capture_counts(const struct capture *c, uint64_t *passed, uint64_t *dropped)
{
	*passed = *dropped = 0;
	for (unsigned i = 0; i < c->n; i++) {
		*passed += counter_read(&c->rings[i].passed);
		*dropped += counter_read(&c->rings[i].dropped);
	}
}
