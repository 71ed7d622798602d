/* SPDX-License-Identifier: Apache-2.0 */
/* ring_push_many(): a batch goes back as if each of its chains had been pushed. */
#include "tests/unit/ring_pair.h"

#define ROUNDS 100 /* over the end of the ring many times, at every slot of it */

/* A chain of @n writable segments; its cookie tells the length that it is to come back with. */
static void give(struct pair *p, unsigned n, uint32_t len)
{
	struct driver_seg segs[3];

	for (unsigned i = 0; i < n; i++)
		segs[i] = (struct driver_seg) { .gpa = NEXT_GPA + 256 * i, .len = 256 };
	cr_assert_eq(drv_add(p, segs, 0, n, len), 0);
}

static void take_back(struct pair *p, uint32_t len)
{
	struct driver_used u;

	cr_assert(drv_poll(p, &u), "%s", driver_violation(&p->d));
	cr_assert_eq((uintptr_t)u.cookie, len);
	cr_assert_eq(u.len, len);
}

static void push_many(struct pair *p, unsigned n, const uint32_t *written)
{
	if (PAIR_SPLIT(p))
		ring_push_many(&p->r, RING_SPLIT, p->chains, n, written);
	else
		ring_push_many(&p->r, RING_PACKED, p->chains, n, written);
}

RING_TEST(ring_many, batches_come_back_whole_in_order_and_with_their_lengths)
{
	uint32_t written[4];

	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned n = 1 + round % 4;

		for (unsigned i = 0; i < n; i++) {
			/* One of them unwritten, which a packed ring tells by a flag. */
			written[i] = i == 1 ? 0 : 60 * i + 7;
			give(p, 1 + (round + i) % 3, written[i]);
		}
		drv_publish(p);
		cr_assert_eq(dev_pop(p, 32), n);
		push_many(p, n, written);
		cr_assert_eq(p->r.in_flight, 0);
		/* Nothing is seen before it is published, and then all is. */
		cr_assert_not(driver_ring_has_used(&p->d));
		dev_publish(p);
		dev_call(p);
		for (unsigned i = 0; i < n; i++)
			take_back(p, written[i]);
	}
}

RING_TEST(ring_many, no_lengths_means_that_nothing_was_written)
{
	give(p, 1, 0);
	give(p, 1, 0);
	drv_publish(p);
	cr_assert_eq(dev_pop(p, 32), 2);
	push_many(p, 2, NULL);
	dev_publish(p);
	take_back(p, 0);
	take_back(p, 0);
}

RING_TEST(ring_many, follows_chains_that_were_pushed_singly)
{
	static const uint32_t written[] = { 0, 30 };

	give(p, 2, 10);
	give(p, 2, 20);
	give(p, 1, 30);
	drv_publish(p);
	cr_assert_eq(dev_pop(p, 32), 3);
	dev_push(p, &p->chains[0], 10);
	dev_push(p, &p->chains[1], 20);
	p->chains[0] = p->chains[2];
	push_many(p, 1, &written[1]);
	dev_publish(p);
	take_back(p, 10);
	take_back(p, 20);
	take_back(p, 30);
}

RING_TEST(ring_many, of_no_chain_does_nothing)
{
	push_many(p, 0, NULL);
	dev_publish(p);
	cr_assert_not(dev_call(p));
	pair_cycle(p, 3);
}

/* A batch that fills the whole ring: where it begins is where it ends. */
RING_TEST(ring_many, a_full_ring_is_called_for)
{
	eventfd_t count;

	for (unsigned turn = 0; turn < 3; turn++) {
		for (unsigned i = 0; i < PAIR_SIZE; i++)
			give(p, 1, 0);
		drv_publish(p);
		cr_assert_eq(dev_pop(p, PAIR_SIZE), PAIR_SIZE);
		drv_calls_at(p, PAIR_SIZE);
		push_many(p, PAIR_SIZE, NULL);
		dev_publish(p);
		cr_assert(dev_call(p), "turn %u", turn);
		for (unsigned i = 0; i < PAIR_SIZE; i++)
			take_back(p, 0);
		(void)eventfd_read(p->call_fd, &count);
	}
}
