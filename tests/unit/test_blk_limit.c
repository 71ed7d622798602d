/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of a disk: the clocks, by a time that the test makes; and queues that wait for them. */
#include "blk/limit.h"
#include "blk/queue.h"
#include "tests/unit/blk_util.h"

#define S UINT64_C(1000000000)
#define MS UINT64_C(1000000)
#define IMAGE (32 * MIB)

/* The clocks alone. */

static struct limit limit;
static uint64_t now = 1000 * S;

static void limits(struct blk_limits l)
{
	limit_init(&limit, &l, now);
}

static uint64_t take(bool is_write, uint64_t bytes)
{
	struct limit_view v;
	uint64_t wait;

	limit_begin(&limit, &v, now);
	wait = limit_take(&limit, &v, is_write, bytes);
	limit_end(&limit, &v);
	return wait;
}

/* Requests of @bytes, one after the other, each as soon as it may be. @return how many start. */
static uint64_t run(uint64_t ns, bool is_write, uint64_t bytes)
{
	uint64_t end = now + ns, n = 0;

	while (now < end) {
		uint64_t wait = take(is_write, bytes);

		now += wait;
		n++;
	}
	return n;
}

#define WITHIN(value, want, percent)                                   \
	cr_assert((value) >= (want) * (100 - (percent)) / 100 &&       \
			  (value) <= (want) * (100 + (percent)) / 100, \
		  "%.0f, and %.0f are wanted", (double)(value), (double)(want))

Test(blk_limit, ten_seconds_hold_ten_times_the_rate)
{
	static const uint64_t rates[] = { 10, 777, 20000, 333333, 2000000 };

	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
		limits((struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = rates[i] });
		WITHIN(run(10 * S, false, 4096), 10 * rates[i], 2);
	}
	for (uint64_t bytes = 512; bytes <= 16 * MIB; bytes *= 8) {
		limits((struct blk_limits) { .bytes[BLK_LIMIT_ALL].rate = 200 * MIB });
		WITHIN(run(10 * S, true, bytes) * bytes, 2000 * (uint64_t)MIB, 2);
	}
}

Test(blk_limit, what_is_late_is_made_up_for_and_what_is_idle_is_not)
{
	uint64_t n = 0;

	limits((struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = 10000 });
	for (unsigned i = 0; i < 1000; i++, now += 10 * MS)
		while (take(true, 512) == 0)
			n++;
	/* The one that was refused each time has taken its share all the same. */
	WITHIN(n + 1000, 100000, 2);
	now += 3600 * S;
	for (n = 0; take(true, 512) == 0;)
		n++;
	cr_assert_leq(n, 501);
}

Test(blk_limit, one_that_is_larger_than_a_second_goes_at_once_and_the_next_one_waits)
{
	limits((struct blk_limits) { .bytes[BLK_LIMIT_ALL].rate = MIB });
	cr_assert_eq(take(true, 16 * MIB), 0);
	WITHIN(take(true, 512), 16 * S, 1);
	/* No debt is for ever, whoever makes it. */
	for (unsigned i = 0; i < 1000; i++)
		take(true, UINT32_MAX);
	cr_assert_leq(take(true, 512), 86400 * S);
	now += 86401 * S;
	cr_assert_eq(take(true, 512), 0);
}

/* Within one poll as well, however many it takes. */
Test(blk_limit, one_poll_gets_no_more_than_may_be_saved_up_and_owes_no_more_than_a_day)
{
	struct limit_view v;
	unsigned n = 0;

	limits((struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = 100 });
	now += 3600 * S;
	limit_begin(&limit, &v, now);
	while (limit_take(&limit, &v, false, 512) == 0)
		n++;
	cr_assert_leq(n, 6);
	limits((struct blk_limits) { .bytes[BLK_LIMIT_ALL].rate = 1 });
	limit_begin(&limit, &v, now);
	for (unsigned i = 0; i < 20000; i++)
		cr_assert_leq(limit_take(&limit, &v, true, UINT32_MAX), 86400 * S);
}

Test(blk_limit, reads_and_writes_and_both_have_limits_of_their_own)
{
	limits((struct blk_limits) { .ops[BLK_LIMIT_READ].rate = 1000,
				     .bytes[BLK_LIMIT_WRITE].rate = MIB,
				     .ops[BLK_LIMIT_ALL].rate = 1500 });
	WITHIN(run(10 * S, false, MIB), 10000, 2);
	WITHIN(run(10 * S, true, 16384), 640, 2);
	limits((struct blk_limits) { .ops[BLK_LIMIT_READ].rate = 1000,
				     .ops[BLK_LIMIT_ALL].rate = 1500 });
	WITHIN(run(10 * S, true, 512), 15000, 2);
}

Test(blk_limit, a_burst_lasts_as_long_as_it_says_and_comes_back_after_a_rest)
{
	limits((struct blk_limits) { .ops[BLK_LIMIT_ALL] = { .rate = 1000, .max = 5000 },
				     .burst_s = 4 });
	for (unsigned i = 0; i < 2; i++) {
		WITHIN(run(4 * S, false, 4096), 20000, 2);
		WITHIN(run(10 * S, false, 4096), 10000, 2);
		now += 16 * S; /* (5000 - 1000) * 4 / 1000 */
	}
}

Test(blk_limit, workers_that_take_at_the_same_moment_get_no_more_in_the_end)
{
	struct limit_view a, b;
	uint64_t n = 0;

	limits((struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = 10000 });
	for (unsigned i = 0; i < 10000; i++, now += MS) {
		limit_begin(&limit, &a, now);
		limit_begin(&limit, &b, now);
		for (unsigned k = 0; k < 8; k++) {
			n += limit_take(&limit, &a, false, 1) == 0;
			n += limit_take(&limit, &b, false, 1) == 0;
		}
		limit_end(&limit, &a);
		limit_end(&limit, &b);
	}
	/* All that was asked for was taken, so that only a part of it went at once. */
	cr_assert_leq(n, 101000);
}

/* Devices. */

static struct vm vm;

static unsigned completed(unsigned q, unsigned *failed)
{
	struct guest_blk_done done;
	unsigned n = 0;

	while (guest_blk_poll(&vm.blk[q], &done) > 0) {
		*failed += done.status != VIRTIO_BLK_S_OK;
		n++;
	}
	return n;
}

static void submit(unsigned q, uint32_t type, unsigned n, uint32_t bytes)
{
	struct driver_seg seg = { MIB, bytes };

	for (unsigned i = 0; i < n; i++)
		VM_OK(&vm, guest_blk_submit(&vm.blk[q], type, 0, &seg, 1, NULL));
	guest_blk_kick(&vm.blk[q]);
}

static void limited_by(const struct variant *v, struct blk_limits l, unsigned queues)
{
	struct blk_config cfg = { .kind = DISK_RAM, .queues = queues, .limits = l };

	vm_start(&vm, v, &cfg, IMAGE);
}

/* What a queue may not start now it may still finish when it is told to stop. */
BLK_TEST(blk_limit, a_ring_that_stops_waits_for_no_limit_and_what_it_had_is_done)
{
	struct vu_state s = { 0 };
	unsigned failed = 0;

	limited_by(v, (struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = 1 }, 1);
	submit(0, VIRTIO_BLK_T_OUT, 8, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).writes >= 1 && vm_stats(&vm).held_now >= 6));
	VM_OK(&vm, frontend_send(&vm.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
	VM_OK(&vm, frontend_recv_reply(&vm.f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL));
	cr_assert_eq(completed(0, &failed), 8);
	cr_assert_eq(failed, 0);
	cr_assert_eq(vm_stats(&vm).held_now, 0);
	vm.f.queue[0].base = s.num;
	VM_OK(&vm, frontend_queue_start(&vm.f, 0));
	/* It is in debt now. */
	submit(0, VIRTIO_BLK_T_OUT, 1, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now == 1));
	vm_stop(&vm);
}

BLK_TEST(blk_limit, what_is_held_moves_with_its_queue_and_a_stop_on_the_way_sends_it)
{
	struct virtqueue *vq;
	struct worker *to;
	struct vu_state s = { 0 };
	unsigned failed = 0;

	limited_by(v, (struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = 1 }, 1);
	vq = &blk_device_vhost(vm.dev)->queues[0];
	submit(0, VIRTIO_BLK_T_OUT, 8, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now >= 6));
	for (unsigned i = 0; i < 3; i++) {
		to = workers_get(vm.workers, 1 - worker_index(vq->worker));
		vhost_queue_move(vq, to);
		cr_assert(VM_EVENTUALLY(vq->worker == to));
		cr_assert_geq(vm_stats(&vm).held_now, 4);
	}
	to = workers_get(vm.workers, 1 - worker_index(vq->worker));
	vhost_queue_move(vq, to);
	VM_OK(&vm, frontend_send(&vm.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
	VM_OK(&vm, frontend_recv_reply(&vm.f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL));
	cr_assert_eq(completed(0, &failed), 8);
	cr_assert_eq(failed, 0);
	vm_stop(&vm);
}

BLK_TEST(blk_limit, a_guest_that_goes_or_a_device_that_closes_waits_for_no_limit)
{
	limited_by(v, (struct blk_limits) { .bytes[BLK_LIMIT_ALL].rate = 1024 }, 1);
	submit(0, VIRTIO_BLK_T_IN, 4, MIB);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now >= 3));
	vm_disconnect(&vm);
	cr_assert(VM_EVENTUALLY(vhost_device_state(blk_device_vhost(vm.dev)) ==
				VHOST_DEVICE_WAITING));
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	submit(0, VIRTIO_BLK_T_IN, 4, MIB);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now == 4));
	vm_close_device(&vm);
	vm_stop(&vm);
}

BLK_TEST(blk_limit, where_reads_wait_writes_go_on_and_flushes_are_free)
{
	unsigned failed = 0;

	limited_by(v, (struct blk_limits) { .ops[BLK_LIMIT_READ].rate = 1 }, 1);
	submit(0, VIRTIO_BLK_T_IN, 8, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now >= 6));
	completed(0, &failed);
	for (unsigned i = 0; i < 50; i++) {
		submit(0, VIRTIO_BLK_T_OUT, 1, 4096);
		cr_assert(VM_EVENTUALLY(vm_stats(&vm).writes == i + 1));
		completed(0, &failed);
	}
	VM_OK(&vm, guest_blk_submit(&vm.blk[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL));
	guest_blk_kick(&vm.blk[0]);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).flushes == 1));
	cr_assert_geq(vm_stats(&vm).held_now, 4);
	cr_assert_eq(failed, 0);
	vm_stop(&vm);
}

BLK_TEST(blk_limit, changed_while_requests_wait_it_holds_from_now_on)
{
	struct blk_limits l = { .ops[BLK_LIMIT_ALL].rate = 1 };
	struct error err = { 0 };
	unsigned failed = 0, n = 0;

	limited_by(v, l, 2);
	for (unsigned i = 0; i < 2; i++)
		submit(i, VIRTIO_BLK_T_OUT, 16, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now >= 28));
	cr_assert_eq(blk_device_limit(vm.dev, &(struct blk_limits) { 0 }, &err), 0);
	cr_assert(VM_EVENTUALLY((n += completed(0, &failed) + completed(1, &failed)) == 32));
	cr_assert_eq(failed, 0);
	cr_assert_eq(vm_stats(&vm).held_now, 0);
	/* And back again, where there was none. */
	cr_assert_eq(blk_device_limit(vm.dev, &l, &err), 0);
	submit(0, VIRTIO_BLK_T_OUT, 16, 4096);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now >= 14));
	cr_assert_eq(blk_device_config(vm.dev)->limits.ops[BLK_LIMIT_ALL].rate, 1);
	vm_stop(&vm);
}

/* Queues of one disk take turns, on one worker and on two. */
BLK_TEST(blk_limit, no_queue_gets_all_there_is)
{
	struct virtqueue *queues;
	unsigned n[3] = { 0 }, failed = 0;

	limited_by(v, (struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = 2000 }, 3);
	queues = blk_device_vhost(vm.dev)->queues;
	vhost_queue_move(&queues[0], workers_get(vm.workers, 0));
	vhost_queue_move(&queues[1], workers_get(vm.workers, 0));
	vhost_queue_move(&queues[2], workers_get(vm.workers, 1));
	for (unsigned i = 0; i < 3; i++)
		submit(i, VIRTIO_BLK_T_OUT, 16, 512);
	while (n[0] + n[1] + n[2] < 1000) {
		for (unsigned i = 0; i < 3; i++) {
			unsigned done = completed(i, &failed);

			n[i] += done;
			submit(i, VIRTIO_BLK_T_OUT, done, 512);
		}
		control_step(200);
	}
	for (unsigned i = 0; i < 3; i++)
		cr_assert_geq(n[i], 200, "queue %u: %u of 1000", i, n[i]);
	cr_assert_eq(failed, 0);
	vm_stop(&vm);
}

BLK_TEST(blk_limit, a_worker_whose_queues_all_wait_sleeps)
{
	const struct worker_stats *s;
	uint64_t rounds;

	limited_by(v, (struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = 1 }, 1);
	submit(0, VIRTIO_BLK_T_OUT, 8, 512);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).held_now >= 6));
	s = worker_stats(blk_device_vhost(vm.dev)->queues[0].worker);
	cr_assert(VM_EVENTUALLY(worker_n_active(blk_device_vhost(vm.dev)->queues[0].worker) == 0));
	rounds = counter_read(&s->rounds);
	usleep(500000);
	/* A polling worker makes a million. */
	cr_assert_leq(counter_read(&s->rounds) - rounds, 100);
	vm_stop(&vm);
}

BLK_TEST(blk_limit, between_turns_a_worker_does_not_spin)
{
	const struct worker_stats *s;
	unsigned n = 0, failed = 0;
	uint64_t rounds = 0;

	limited_by(v, (struct blk_limits) { .ops[BLK_LIMIT_ALL].rate = 2000 }, 1);
	s = worker_stats(blk_device_vhost(vm.dev)->queues[0].worker);
	submit(0, VIRTIO_BLK_T_OUT, 16, 512);
	while (n < 1000) {
		unsigned done = completed(0, &failed);

		/* What was saved up for it goes by without a turn. */
		if (n < 200 && n + done >= 200)
			rounds = counter_read(&s->rounds);
		n += done;
		submit(0, VIRTIO_BLK_T_OUT, done, 512);
		usleep(100);
	}
	/* Some for each time that it wakes; who spins for idle_us before each sleep makes 200. */
	cr_assert_leq(counter_read(&s->rounds) - rounds, 20 * 800);
	cr_assert_eq(failed, 0);
	vm_stop(&vm);
}

static uint32_t share_of(unsigned i)
{
	return ((const struct blk_queue *)blk_device_vhost(vm.dev)->queues[i].priv)->poller.share;
}

/* What it means is poll/'s, test_poll_fair.c. */
BLK_TEST(blk_limit, a_disk_has_its_share_by_configuration_by_command_and_after_a_move)
{
	struct virtqueue *queues;
	struct error err = { 0 };

	limited_by(v, (struct blk_limits) { .share = 300 }, 2);
	queues = blk_device_vhost(vm.dev)->queues;
	cr_assert_eq(share_of(0), 300);
	cr_assert_eq(share_of(1), 300);
	cr_assert_eq(blk_device_limit(vm.dev, &(struct blk_limits) { .share = 7 }, &err), 0);
	cr_assert_eq(share_of(1), 7);
	vhost_queue_move(&queues[1],
			 workers_get(vm.workers, queues[1].worker == workers_get(vm.workers, 0)));
	submit(1, VIRTIO_BLK_T_OUT, 1, 512);
	vm_wait(&vm, 1, 1, VIRTIO_BLK_S_OK);
	cr_assert_eq(share_of(1), 7);
	cr_assert_eq(blk_device_limit(vm.dev, &(struct blk_limits) { 0 }, &err), 0);
	cr_assert_eq(share_of(0), POLLER_SHARE);
	vm_stop(&vm);
}
