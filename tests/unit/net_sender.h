/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that sends frames to another without end, on a thread of its own. */
#ifndef SLUICE_TESTS_NET_SENDER_H
#define SLUICE_TESTS_NET_SENDER_H

#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"

#include <criterion/criterion.h>
#include <pthread.h>

static inline void frame_make(uint8_t *out, const uint8_t *to, const uint8_t *from, unsigned len,
			      uint32_t number)
{
	memcpy(out, to, 6);
	memcpy(out + 6, from, 6);
	memset(out + 12, 0x42, len - 12);
	frame_put16(out + 12, 0x88b5);
	frame_put32(out + 14, number);
}

struct sender {
	struct net_guest *g;
	unsigned queue;
	uint64_t gpa;
	uint64_t sent;
	bool quit;
	pthread_t thread;
};

#define SENDER_BATCH 16

static inline void *send_for_ever(void *arg)
{
	struct sender *s = arg;
	struct driver_ring *r = &s->g->fe.queue[s->queue].ring;
	struct driver_used used;

	while (!__atomic_load_n(&s->quit, __ATOMIC_RELAXED)) {
		for (unsigned i = 0; i < SENDER_BATCH; i++) {
			struct driver_seg seg = { s->gpa, 112 };

			cr_assert_eq(r->layout == DRIVER_SPLIT
					     ? driver_add(r, DRIVER_SPLIT, &seg, 1, 0, s)
					     : driver_add(r, DRIVER_PACKED, &seg, 1, 0, s),
				     0);
		}
		frontend_submit(&s->g->fe, s->queue);
		for (unsigned i = 0; i < SENDER_BATCH;) {
			if (frontend_poll(&s->g->fe, s->queue, &used))
				i++;
			else
				cr_assert_null(driver_violation(r), "%s", driver_violation(r));
		}
		__atomic_fetch_add(&s->sent, SENDER_BATCH, __ATOMIC_RELAXED);
	}
	return NULL;
}

static inline void sender_start(struct sender *s, struct net_guest *g, unsigned pair,
				const struct net_guest *to)
{
	uint8_t *p;

	s->g = g;
	s->queue = 2 * pair + 1;
	s->sent = 0;
	s->quit = false;
	p = ng_alloc(g, 112, &s->gpa);
	frame_make(p + 12, to->mac, g->mac, 100, 1);
	cr_assert_eq(pthread_create(&s->thread, NULL, send_for_ever, s), 0);
	while (!__atomic_load_n(&s->sent, __ATOMIC_RELAXED))
		ng_idle(NULL);
}

static inline void sender_stop(struct sender *s)
{
	__atomic_store_n(&s->quit, true, __ATOMIC_RELAXED);
	pthread_join(s->thread, NULL);
}

#endif
