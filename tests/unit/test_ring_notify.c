/* SPDX-License-Identifier: Apache-2.0 */
/* When each side tells the other (virtio 1.3, 2.7.7, 2.7.10, 2.8.10). */
#include "base/clock.h"
#include "tests/unit/ring_pair.h"

#include <poll.h>
#include <pthread.h>

/* The device gives back @n chains that it had popped, from p->chains[@first] on. */
static void give(struct pair *p, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		dev_push(p, &p->chains[i], 0);
	dev_publish(p);
}

static void settle(struct pair *p)
{
	struct driver_used u;

	while (drv_poll(p, &u))
		;
	cr_assert_eq(p->d.outstanding, 0);
}

/* After a start the driver's wish may be older than the ring: one call too many, never one too few.
 */
RING_TEST(ring_notify, first_publish_after_start_always_calls)
{
	drv_calls_off(p);
	drv_send_one(p, 0);
	cr_assert_eq(dev_pop(p, 1), 1);
	give(p, 0, 1);
	cr_assert(dev_call(p));
	settle(p);
}

RING_TEST(ring_notify, nothing_published_calls_nobody)
{
	pair_cycle(p, 1);
	dev_call(p);
	drv_calls_at(p, 1);
	cr_assert_not(dev_call(p));
	drv_send_one(p, 0);
	cr_assert_eq(dev_pop(p, 1), 1);
	dev_push(p, &p->chains[0], 0);
	cr_assert_not(dev_call(p), "pushed is not published");
	dev_publish(p);
	cr_assert(dev_call(p));
	cr_assert_not(dev_call(p), "the same chain twice");
	settle(p);
}

RING_TEST(ring_notify, driver_that_wants_no_calls_gets_none_2_7_7_1)
{
	pair_cycle(p, 1);
	dev_call(p);
	drv_calls_off(p);
	for (unsigned i = 0; i < 3 * PAIR_SIZE; i++) {
		pair_cycle(p, 1);
		cr_assert_not(dev_call(p));
	}
	cr_assert_eq(counter_read(&p->r.stats.calls), 1);
	cr_assert_eq(counter_read(&p->r.stats.calls_spared), 3 * PAIR_SIZE);
	/* Off, then on again: the next one calls. */
	cr_assert(drv_calls_at(p, 1));
	pair_cycle(p, 1);
	cr_assert(dev_call(p));
}

RING_TEST(ring_notify, without_a_call_eventfd_nothing_happens)
{
	p->r.call_fd = -1;
	pair_cycle(p, 3);
	cr_assert_not(dev_call(p));
	cr_assert_eq(counter_read(&p->r.stats.calls), 0);
}

RING_TEST(ring_notify, full_call_eventfd_does_not_block)
{
	cr_assert_eq(eventfd_write(p->call_fd, UINT64_MAX - 1), 0);
	pair_cycle(p, 1);
	dev_call(p);
	cr_assert_eq(counter_read(&p->r.stats.calls), 0);
	cr_assert_eq(counter_read(&p->r.stats.calls_failed), 1);
}

/* Starts @used entries after the ring's beginning, the first call behind us. */
static void start_at(struct pair *p, uint32_t size, uint32_t used)
{
	uint32_t base = used;

	if (!PAIR_SPLIT(p)) {
		uint32_t slot = used % size, wrap = used / size % 2 == 0;

		base = slot | wrap << 15 | slot << 16 | wrap << 31;
	}
	pair_ring(p, size, base);
	pair_cycle(p, 1);
	dev_call(p);
}

/*
 * With EVENT_IDX the device calls if and only if the entry that the driver named is among those
 * published: every batch size against every place, at every place of the ring.
 */
RING_TEST_FOR(RING_EVENT_CASES, ring_notify, event_is_exact_for_every_batch_2_7_7_2)
{
	const uint32_t size = 8;

	for (uint32_t at = 0; at < 2 * size + 2; at++) {
		/* split: also across the wrap of the 16-bit index */
		uint32_t begin = PAIR_SPLIT(p) ? (uint16_t)(65536 - size + at) : at;

		for (unsigned n = 1; n <= size; n++) {
			for (int event = -(int)size + 1; event <= (int)size; event++) {
				bool wanted = event >= 0 && event < (int)n;

				start_at(p, size, begin);
				drv_calls_at(p, 1 + event);
				if (event < 0 && !PAIR_SPLIT(p)) {
					/* A place behind; driver_calls_at() only looks ahead. */
					uint32_t pos = (p->d.used_wrap ? 2 * size : size) +
						       p->d.used_idx + event;

					p->d.packed.driver->off_wrap = pos % size |
								       (pos / size % 2 == 0) << 15;
				}
				for (unsigned i = 0; i < n; i++)
					drv_send_one(p, i);
				cr_assert_eq(dev_pop(p, n), n);
				give(p, 0, n);
				cr_assert_eq(dev_call(p), wanted,
					     "at %u: %u entries, event %d after the first", begin,
					     n, event);
				settle(p);
			}
		}
	}
}

/* What was published between two decisions counts as one batch. */
RING_TEST_FOR(RING_EVENT_CASES, ring_notify, several_publishes_before_a_call_count_together)
{
	start_at(p, 8, 5);
	for (unsigned i = 0; i < 6; i++)
		drv_send_one(p, i);
	drv_calls_at(p, 2);
	cr_assert_eq(dev_pop(p, 6), 6);
	for (unsigned i = 0; i < 6; i++)
		give(p, i, 1);
	cr_assert(dev_call(p), "the second of six was asked for");
	settle(p);
}

/* 2.7.7.2: with EVENT_IDX the device must not look at the lower bit of flags. */
RING_TEST_FOR(RING_SPLIT_EVENT_CASES, ring_notify, flags_are_ignored_with_event_idx_2_7_7_2)
{
	pair_cycle(p, 1);
	dev_call(p);
	drv_calls_at(p, 1);
	p->d.split.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	pair_cycle(p, 1);
	cr_assert(dev_call(p));
}

/* 2.7.7.2: and without it not at used_event; 2.8.10: nor at a descriptor event. */
RING_TEST_FOR(RING_NO_EVENT_CASES, ring_notify, event_place_is_ignored_without_event_idx_2_7_7_2)
{
	pair_cycle(p, 1);
	dev_call(p);
	drv_calls_at(p, 1);
	if (PAIR_SPLIT(p))
		*driver_split_used_event(&p->d) = p->d.used_idx + 100;
	else
		p->d.packed.driver->off_wrap = p->d.used_idx;
	pair_cycle(p, 1);
	cr_assert(dev_call(p));
}

/* Kicks: a device that polls spares the driver all of them. */
RING_TEST(ring_notify, kicks_are_off_after_start_2_7_10)
{
	struct driver_used u;
	unsigned kicks = 0;

	for (unsigned i = 0; i < 2 * PAIR_SIZE; i++) {
		kicks += drv_send_one(p, i);
		cr_assert_eq(dev_pop(p, 1), 1);
		give(p, 0, 1);
		cr_assert(drv_poll(p, &u));
	}
	/* split with EVENT_IDX has no "off", but a place that lies behind: 0 at the very start. */
	cr_assert_leq(kicks, p->kind.event_idx && PAIR_SPLIT(p) ? 1 : 0);
	cr_assert_eq(counter_read(&p->r.stats.kicks_on), 0);
}

RING_TEST(ring_notify, first_chain_after_kicks_on_kicks_2_7_10)
{
	/* All around the ring, and past the wrap of split's index for those who start there. */
	for (unsigned i = 0; i < 3 * PAIR_SIZE; i++) {
		bool kick;

		cr_assert(dev_kicks_on(p));
		kick = drv_send_one(p, i);
		cr_assert(kick, "chain %u", i);
		kick = drv_send_one(p, i);
		cr_assert_eq(kick, !p->kind.event_idx, "one kick is asked for, and no more");
		dev_kicks_off(p);
		cr_assert_not(drv_send_one(p, i));
		cr_assert_eq(dev_pop(p, 3), 3);
		give(p, 0, 3);
		settle(p);
	}
}

RING_TEST(ring_notify, kick_is_asked_for_across_the_16_bit_wrap_2_7_10)
{
	start_at(p, 8, PAIR_SPLIT(p) ? 65530 : 13);
	for (unsigned i = 0; i < 20; i++) {
		cr_assert(dev_kicks_on(p));
		cr_assert(drv_send_one(p, i), "chain %u", i);
		dev_kicks_off(p);
		cr_assert_eq(dev_pop(p, 1), 1);
		give(p, 0, 1);
		settle(p);
	}
}

/* A batch whose middle passes the place that the device named. */
RING_TEST(ring_notify, batch_that_passes_the_avail_event_kicks_2_7_10)
{
	for (unsigned round = 0; round < 2 * PAIR_SIZE; round++) {
		struct driver_seg seg = { .gpa = NEXT_GPA, .len = 64 };

		cr_assert(dev_kicks_on(p));
		for (unsigned i = 0; i < 5; i++)
			cr_assert_eq(drv_add(p, &seg, 1, 0, i), 0);
		cr_assert(drv_publish(p));
		dev_kicks_off(p);
		cr_assert_eq(dev_pop(p, 5), 5);
		give(p, 0, 5);
		settle(p);
	}
}

/* The chain that came before the device said that it would sleep is seen by its second look. */
RING_TEST(ring_notify, kicks_on_looks_once_more)
{
	for (unsigned i = 0; i < 2 * PAIR_SIZE; i++) {
		drv_send_one(p, 0);
		cr_assert_not(dev_kicks_on(p), "there is work: no sleep");
		cr_assert_not(p->r.kicks_wanted);
		cr_assert_not(drv_send_one(p, 1), "kicks are off again");
		cr_assert_eq(dev_pop(p, 8), 2);
		give(p, 0, 2);
		settle(p);
		cr_assert(dev_kicks_on(p));
		dev_kicks_off(p);
	}
}

/*
 * Both ends sleep whenever they may, each on a thread of its own: if either forgets to wake the
 * other even once, this does not come to its end.
 */
#define WAKE_CHAINS 20000

struct waker {
	struct pair *p;
	int kick_fd;
	bool failed;
};

static bool sleep_on(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	eventfd_t count;

	if (poll(&pfd, 1, 10000) != 1)
		return false;
	return eventfd_read(fd, &count) == 0;
}

static void *device_thread(void *arg)
{
	struct waker *w = arg;
	struct pair *p = w->p;

	for (unsigned done = 0; done < WAKE_CHAINS;) {
		unsigned n = dev_pop(p, 4);

		for (unsigned i = 0; i < n; i++)
			dev_push(p, &p->chains[i], 0);
		dev_publish(p);
		if (PAIR_SPLIT(p))
			ring_call(&p->r, RING_SPLIT);
		else
			ring_call(&p->r, RING_PACKED);
		done += n;
		if (n || !dev_kicks_on(p))
			continue;
		if (!sleep_on(w->kick_fd)) {
			w->failed = true;
			return NULL;
		}
		dev_kicks_off(p);
	}
	return NULL;
}

static void driver_thread(struct waker *w)
{
	struct pair *p = w->p;
	unsigned sent = 0, back = 0;

	while (back < WAKE_CHAINS) {
		struct driver_seg seg = { .gpa = NEXT_GPA, .len = 64 };
		struct driver_used u;
		bool any = false;

		for (unsigned i = 0; i <= sent % 3 && sent < WAKE_CHAINS; i++)
			if (drv_add(p, &seg, 1, 0, sent) == 0)
				sent++;
		if (drv_publish(p))
			eventfd_write(w->kick_fd, 1);
		while (drv_poll(p, &u)) {
			any = true;
			back++;
		}
		if (any || back == WAKE_CHAINS || !drv_calls_at(p, 1))
			continue;
		cr_assert(sleep_on(p->call_fd), "no call: %u sent, %u back", sent, back);
		drv_calls_off(p);
	}
}

RING_TEST(ring_notify, no_wake_up_is_lost)
{
	struct waker w = { .p = p, .kick_fd = eventfd(0, EFD_NONBLOCK) };
	pthread_t thread;

	pair_ring(p, 8, PAIR_SPLIT(p) ? 60000 : driver_base_start(p->kind.layout));
	cr_assert_eq(pthread_create(&thread, NULL, device_thread, &w), 0);
	driver_thread(&w);
	pthread_join(thread, NULL);
	cr_assert_not(w.failed, "no kick came to the device");
	close(w.kick_fd);
}
