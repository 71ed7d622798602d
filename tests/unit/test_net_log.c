/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log of a network card is complete: frames into receive buffers, the header with its
 * num_buffers, answers on the control queue, and the rings. vhost-user "Migration".
 */
#include "tests/guest/frontend_log.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/net_guest.h"
#include "tests/unit/untouched.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>

#define MEMORY_END (UINT64_C(0x100000) + (UINT64_C(96) << 20))

static struct net_guest a, b;
static struct ng_frame got;

/* A guest, its log, and its memory as it was. */
struct side {
	struct net_guest *g;
	struct frontend_log log;
	uint8_t *copy;
};

static void side_open(struct side *s, struct net_guest *g, unsigned n_queues)
{
	s->g = g;
	s->copy = malloc(g->mem.region[0].size);
	cr_assert_eq(frontend_log_create(&s->log, MEMORY_END, 0), 0);
	cr_assert_eq(frontend_log_start(&g->fe, &s->log, n_queues), 0, "%s", g->fe.error);
}

static void side_close(struct side *s)
{
	free(s->copy);
	frontend_log_destroy(&s->log);
}

static void shadow_take(struct side *s)
{
	const struct guest_region *r = &s->g->mem.region[0];

	memcpy(s->copy, r->host, r->used);
}

/* What the driver alone writes, and also while it waits: available ring, suppression. */
static void leave_out_drivers_own(struct side *s)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct driver_ring *ring = &s->g->fe.queue[i].ring;
		uint8_t *area = driver_driver_area(ring);
		unsigned len = ring->layout == DRIVER_SPLIT ? 6 + 2 * ring->size : 4;

		memcpy(s->copy + (area - s->g->mem.region[0].host), area, len);
	}
}

/* @return pages that changed; each must have its bit. */
static unsigned shadow_check(struct side *s)
{
	const struct guest_region *r = &s->g->mem.region[0];
	unsigned changed = 0;

	check_untouched(&s->g->mem);
	leave_out_drivers_own(s);
	for (uint64_t at = 0; at < r->used; at += VU_LOG_PAGE) {
		uint64_t n = MIN(r->used - at, (uint64_t)VU_LOG_PAGE);

		if (memcmp(s->copy + at, r->host + at, n) == 0)
			continue;
		changed++;
		cr_assert(frontend_log_has(&s->log, r->gpa + at),
			  "the page at 0x%llx changed unlogged", (unsigned long long)(r->gpa + at));
	}
	return changed;
}

/*
 * The sender's frames are given back: by a used ring, or by the descriptors themselves, of which
 * there is one page each. Apart from suppression nothing else is the device's to write.
 */
static void check_sender(struct side *s)
{
	const struct driver_ring *ring = &s->g->fe.queue[1].ring;
	const void *area = ring->layout == DRIVER_SPLIT ? driver_device_area(ring)
							: driver_desc_area(ring);

	shadow_check(s);
	cr_assert(frontend_log_has(&s->log, guest_gpa(&s->g->mem, area)),
		  "what gives back the sender's frames is not logged");
	cr_assert_leq(frontend_log_count(&s->log), 4);
}

static void send_plain(unsigned len, uint8_t value)
{
	static uint8_t bytes[1514];

	memset(bytes, value, sizeof(bytes));
	memcpy(bytes, b.mac, 6);
	memcpy(bytes + 6, a.mac, 6);
	frame_put16(bytes + 12, 0x88b5);
	ng_send(&a, 0, NULL, bytes, len, NULL);
}

static void send_large(uint32_t *rnd)
{
	static struct tcp_frame f;
	struct tcp_spec spec = { .tcp_options = 12,
				 .flags = 0x18,
				 .seq = frame_random(rnd),
				 .payload = 1500 + frame_random(rnd) % 40000 };
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				    .gso_size = 1428,
				    .csum_offset = 16 };

	tcp_frame_make(&f, &spec, frame_random(rnd));
	memcpy(f.bytes, b.mac, 6);
	memcpy(f.bytes + 6, a.mac, 6);
	h.csum_start = (uint16_t)f.l4;
	ng_send(&a, 0, &h, f.bytes, f.len, NULL);
}

static void command(const struct frontend_log *log)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 0, 0, 0x77 };
	uint64_t out, in;
	uint8_t *p = guest_alloc(&b.mem, 64, VU_LOG_PAGE, &out);
	uint8_t *answer = guest_alloc(&b.mem, 64, VU_LOG_PAGE, &in);
	struct driver_seg segs[] = { { out, 8 }, { in, 1 } };

	p[0] = VIRTIO_NET_CTRL_MAC;
	p[1] = VIRTIO_NET_CTRL_MAC_ADDR_SET;
	memcpy(p + 2, mac, 6);
	*answer = 0x77;
	cr_assert_eq(ng_submit_wait(&b, ng_ctrl_index(&b), segs, 1, 1), 1);
	cr_assert_eq(*answer, VIRTIO_NET_OK);
	cr_assert(frontend_log_has(log, in), "the answer to a command is not logged");
	cr_assert_not(frontend_log_has(log, out), "what was only read is logged");
}

/* @large: the receiver takes TSO frames as they are, over several buffers where they merge. */
static void complete(struct ng_options o, bool large)
{
	struct ng_options sender = { .features = NG_SENDER };
	struct side from, to;
	uint32_t rnd = 11;
	unsigned changed = 0;
	uint64_t surplus = 0;

	ng_world_start(2);
	o.features |= NG_BIT(VIRTIO_NET_F_CTRL_VQ) | NG_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR);
	o.has_mac = true;
	ng_start(&a, 0, &sender);
	ng_start(&b, 1, &o);
	side_open(&from, &a, 2);
	side_open(&to, &b, 3);
	for (unsigned round = 0; round < 40; round++) {
		unsigned n = 1 + frame_random(&rnd) % 2, now;

		frontend_log_clear(&from.log);
		frontend_log_clear(&to.log);
		shadow_take(&to);
		for (unsigned i = 0; i < n; i++) {
			if (large && frame_random(&rnd) % 2)
				send_large(&rnd);
			else
				send_plain(60 + frame_random(&rnd) % 1454,
					   (uint8_t)(round * 3 + i + 1));
		}
		shadow_take(&from); /* what the driver has written is not the device's business */
		ng_sent(&a, 0);	    /* delivered */
		check_sender(&from);
		now = shadow_check(&to);
		cr_assert_gt(now, 0);
		changed += now;
		surplus += frontend_log_count(&to.log) - now;
		while (ng_try_receive(&b, 0, &got))
			;
	}
	command(&to.log);
	printf("%u pages changed, all logged; %lu more were logged\n", changed, surplus);
	cr_assert_eq(ng_stats(&b).tx_too_big + ng_stats(&b).tx_no_buffer, 0);
	ng_stop(&a);
	ng_stop(&b);
	side_close(&from);
	side_close(&to);
	ng_world_stop();
}

static const struct {
	bool packed, event_idx;
	enum driver_indirect indirect;
} layouts[] = { { false, false, DRIVER_DIRECT },
		{ false, true, DRIVER_INDIRECT_LONG },
		{ true, false, DRIVER_DIRECT },
		{ true, true, DRIVER_INDIRECT_ALL } };

#define FOR_EACH_LAYOUT(o)                                                                        \
	for (unsigned layout_i = 0;                                                               \
	     layout_i < 4 &&                                                                      \
	     ((o).packed = layouts[layout_i].packed, (o).event_idx = layouts[layout_i].event_idx, \
	     (o).indirect = layouts[layout_i].indirect, true);                                    \
	     layout_i++)

Test(net_log, every_page_that_a_card_writes_has_its_bit, .timeout = 60)
{
	struct ng_options o = { .features = 0 };

	FOR_EACH_LAYOUT(o)
	complete(o, false);
}

Test(net_log, every_page_of_a_frame_over_several_buffers_has_its_bit, .timeout = 60)
{
	struct ng_options o = { .features = NG_TSO | NG_MRG, .rx_pieces = 2, .ring_size = 512 };

	FOR_EACH_LAYOUT(o)
	complete(o, true);
}

Test(net_log, every_page_of_a_large_frame_has_its_bit, .timeout = 60)
{
	struct ng_options o = {
		.features = NG_TSO, .rx_buffer = 66000, .rx_pieces = 20, .rx_count = 12
	};

	FOR_EACH_LAYOUT(o)
	complete(o, true);
}

Test(net_log, every_page_has_its_bit_with_a_legacy_header, .timeout = 60)
{
	struct ng_options o = { .legacy = true };

	complete(o, false);
}

/* Nobody listens, or not any more: what is not written is not logged. */
Test(net_log, a_frame_without_a_buffer_logs_nothing, .timeout = 60)
{
	struct ng_options o = { .rx_idle = true }, sender = { 0 };
	struct frontend_log log;

	FOR_EACH_LAYOUT(o)
	{
		ng_world_start(1);
		ng_start(&a, 0, &sender);
		ng_start(&b, 1, &o);
		cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
		cr_assert_eq(frontend_log_start(&b.fe, &log, 2), 0, "%s", b.fe.error);
		frontend_log_clear(&log);
		send_plain(1000, 1);
		ng_sent(&a, 0);
		cr_assert_eq(ng_stats(&b).tx_no_buffer, 1);
		cr_assert_leq(frontend_log_count(&log), 2, "more than the rings' own words");
		ng_stop(&a);
		ng_stop(&b);
		frontend_log_destroy(&log);
		ng_world_stop();
	}
}

/*
 * A front-end that migrates its guest: takes bits and copies their pages, while frames arrive. When
 * the queue has stopped, the copy is the guest's memory. Found so: bits set before the page was
 * written, or after the driver was told.
 */
struct migration {
	struct frontend_log *log;
	uint64_t from, to; /* of receive buffers, which the device alone writes meanwhile */
	uint8_t *copy;
	bool stop; /* atomic */
	uint64_t pages;
};

static void copy_dirty(struct migration *m)
{
	for (uint64_t page = m->from / VU_LOG_PAGE; page < m->to / VU_LOG_PAGE; page += 8) {
		uint8_t bits = frontend_log_take(m->log, page);

		for (unsigned i = 0; bits; i++, bits >>= 1) {
			uint64_t at = (page + i) * VU_LOG_PAGE;

			if (!(bits & 1))
				continue;
			memcpy(m->copy + (at - m->from), guest_ptr(&b.mem, at, VU_LOG_PAGE),
			       VU_LOG_PAGE);
			m->pages++;
		}
	}
}

static void *migrate(void *arg)
{
	struct migration *m = arg;

	while (!__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE)) {
		copy_dirty(m);
		usleep(20);
	}
	return NULL;
}

static void copy_while_frames_arrive(const struct ng_options *o)
{
	const uint64_t unit = 8 * VU_LOG_PAGE;
	struct ng_options sender = { 0 };
	const struct driver_seg *last;
	struct frontend_log log;
	struct migration m = { .log = &log };
	uint32_t rnd = 5;
	pthread_t thread;

	ng_world_start(1);
	ng_start(&a, 0, &sender);
	ng_start(&b, 1, o);
	ng_fill(&b, 0, b.opt.rx_count);
	last = &b.rx[b.opt.rx_count - 1].segs[0];
	m.from = ALIGN_DOWN(b.rx[0].segs[0].gpa, unit);
	m.to = ALIGN_UP(last->gpa + last->len, unit);
	m.copy = malloc(m.to - m.from);
	memcpy(m.copy, guest_ptr(&b.mem, m.from, m.to - m.from), m.to - m.from);
	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	cr_assert_eq(pthread_create(&thread, NULL, migrate, &m), 0);
	for (unsigned i = 0; i < 900; i++) {
		/* Logging begins under load, as it does when a guest migrates. */
		if (i == 50)
			cr_assert_eq(frontend_log_start(&b.fe, &log, 2), 0, "%s", b.fe.error);
		if (i == 60)
			memcpy(m.copy, guest_ptr(&b.mem, m.from, m.to - m.from), m.to - m.from);
		send_plain(60 + frame_random(&rnd) % 1454, (uint8_t)(1 + i % 255));
	}
	/* With frames on their way. */
	cr_assert_eq(frontend_queue_stop(&b.fe, 0, NULL), 0, "%s", b.fe.error);
	__atomic_store_n(&m.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	copy_dirty(&m);
	cr_assert_gt(m.pages, 100);
	for (uint64_t at = m.from; at < m.to; at += VU_LOG_PAGE)
		cr_assert_eq(memcmp(m.copy + (at - m.from), guest_ptr(&b.mem, at, VU_LOG_PAGE),
				    VU_LOG_PAGE),
			     0, "the page at 0x%llx is not what it was at the end",
			     (unsigned long long)at);
	free(m.copy);
	ng_stop(&a);
	ng_stop(&b);
	frontend_log_destroy(&log);
	ng_world_stop();
}

Test(net_log, a_copy_made_while_frames_arrive_is_true_at_its_end, .timeout = 60)
{
	struct ng_options o = { .rx_idle = true, .ring_size = 1024 };

	FOR_EACH_LAYOUT(o)
	copy_while_frames_arrive(&o);
}
