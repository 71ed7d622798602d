/* SPDX-License-Identifier: Apache-2.0 */
/* A front-end or guest cannot fill the log, and a log that nobody reads stops no worker. */
#include "tests/unit/hear.h"
#include "tests/unit/session_util.h"

static struct bed b;
static struct heard heard;

Test(guard_log, connecting_again_and_again_does_not_fill_it, .timeout = 60)
{
	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	hear(&heard);
	for (unsigned i = 0; i < 500; i++) {
		bed_connect(&b);
		for (unsigned j = 0; j < 3; j++) /* refused: no such message */
			frontend_send(&b.f, 99, VU_VERSION, NULL, 0, NULL, 0);
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == i + 1));
	}
	cr_assert_eq(counter_read(&b.dev.vhost.stats.messages_refused), 1500u);
	cr_assert_lt(heard_times(&heard, "\n"), 250u);
	bed_fini(&b);
}

/* The worker says nothing itself: the control thread does, and what it says is limited. */
Test(guard_log, rings_that_break_again_and_again_do_not_fill_it, .timeout = 60)
{
	const struct driver_seg bad = { UINT64_C(1) << 40, 8 };
	const uint64_t layouts[] = { 0, VU_F_PACKED };

	for (unsigned l = 0; l < ARRAY_SIZE(layouts); l++) {
		heard.used = 0;
		bed_init(&b, &echo_blk_ops);
		bed_listen(&b);
		bed_connect(&b);
		bed_negotiate(&b, VU_PF_USUAL, layouts[l]);
		hear(&heard);
		for (unsigned i = 0; i < 300; i++) {
			struct frontend_queue_options opt = { .size = 64 };
			struct driver_ring *r = &b.f.queue[0].ring;

			OK(&b.f, frontend_queue_setup(&b.f, 0, &opt));
			OK(&b.f, frontend_queue_start(&b.f, 0));
			cr_assert_eq(r->layout == DRIVER_SPLIT
					     ? driver_add(r, DRIVER_SPLIT, &bad, 1, 0, NULL)
					     : driver_add(r, DRIVER_PACKED, &bad, 1, 0, NULL),
				     0);
			frontend_submit(&b.f, 0);
			cr_assert(EVENTUALLY(b.dev.vhost.queues[0].ring.broken));
			OK(&b.f, frontend_queue_stop(&b.f, 0, NULL));
			frontend_queue_free(&b.f, 0);
			memset(&b.memory.region[0].used, 0, sizeof(b.memory.region[0].used));
		}
		cr_assert_lt(heard_times(&heard, "\n"), 150u);
		cr_assert_not_null(strstr(heard.text,
					  "echo queue 0: broken by its driver: descriptor "
					  "outside guest memory"));
		bed_fini(&b);
		close(heard.in);
	}
}
