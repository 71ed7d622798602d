/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/ring/device.h"

#include "base/clock.h"
#include "base/error.h"
#include "vhost/ring.h"
#include "vhost/ring_keep.h"
#include "vhost/ring_track.h"

#include <endian.h>
#include <err.h>
#include <linux/virtio_net.h>
#include <rte_mbuf.h>
#include <rte_memcpy.h>
#include <stdlib.h>
#include <string.h>

/* Of either layout. */
#define INFLIGHT_BYTES \
	(sizeof(struct inflight_packed) + RING_SIZE * sizeof(struct inflight_packed_desc))

struct sluice_device {
	struct row row;
	struct guest_memory memory;
	struct mem_map *map;
	struct driver_ring driver[N_QUEUES];
	struct ring ring[N_QUEUES];
	struct lane lane[N_QUEUES];
	struct rte_mempool *pool;
	void *inflight; /* EXTRA_INFLIGHT, EXTRA_KEPT: the buffer */
	struct ring_log log;
	struct chain chains[RING_SIZE];
	struct iovec segs[RING_SIZE * SEGS_MAX + RING_CHAIN_SEGS_MAX];
};

/* What the row has besides, on the queue of pop and push. */
static void open_extra(struct sluice_device *d, struct ring *r, gpa_t device_gpa)
{
	gpa_t top = d->memory.region[d->memory.n - 1].gpa + d->memory.region[d->memory.n - 1].size;

	if (d->row.extra == EXTRA_LOG) {
		d->log.n_pages = top >> LOG_PAGE_SHIFT;
		d->log.bits = calloc(1, d->log.n_pages / 8 + 1);
		d->log.data = d->log.device_area = true;
		d->log.device_gpa = device_gpa;
		d->log.call_fd = -1;
		r->log = &d->log;
		if (!d->log.bits)
			errx(1, "out of memory");
		return;
	}
	if (d->row.extra != EXTRA_HELD)
		d->inflight = calloc(1, INFLIGHT_BYTES);
	if (d->row.extra != EXTRA_HELD && !d->inflight)
		errx(1, "out of memory");
	if (d->row.extra == EXTRA_KEPT) {
		ring_keep_begin(r, d->inflight);
		return;
	}
	r->track = ring_track_new(r->layout, r->size, d->row.extra == EXTRA_HELD, d->inflight);
	if (!r->track)
		errx(1, "out of memory");
	if (d->inflight)
		ring_track_begin(r);
}

static void open_queue(struct sluice_device *d, unsigned queue)
{
	struct driver_config cfg = lane_ring_config(&d->row);
	struct driver_ring *r = &d->driver[queue];
	uint64_t bytes = driver_ring_bytes(cfg.layout, cfg.size, cfg.indirect_segs);
	struct ring_config ring = { .layout = cfg.layout == DRIVER_SPLIT ? RING_SPLIT : RING_PACKED,
				    .size = cfg.size,
				    .indirect = d->row.indirect,
				    .event_idx = d->row.event_idx,
				    .base = cfg.base,
				    .map = d->map,
				    .name = "bench" };
	const char *why;

	cfg.area = guest_alloc(&d->memory, bytes, 4096, &cfg.area_gpa);
	if (!cfg.area || driver_ring_init(r, &cfg) < 0)
		errx(1, "no memory for a ring");
	/* The device's own view of the rings: its mapping, not the driver's. */
	why = "the ring is not mapped";
	if ((ring.desc = mem_resolve_uva(d->map, guest_uva(&d->memory, driver_desc_area(r)), 1)) &&
	    (ring.driver = mem_resolve_uva(d->map, guest_uva(&d->memory, driver_driver_area(r)),
					   1)) &&
	    (ring.device = mem_resolve_uva(d->map, guest_uva(&d->memory, driver_device_area(r)),
					   1)))
		why = ring_init(&d->ring[queue], &ring);
	if (why)
		errx(1, "%s", why);
	if (queue == QUEUE_OUT && row_is_ours_alone(&d->row))
		open_extra(d, &d->ring[queue],
			   cfg.area_gpa + (uint64_t)((uint8_t *)driver_device_area(r) -
						     (uint8_t *)cfg.area));
	if (lane_open(&d->lane[queue], &d->row, queue == QUEUE_IN, &d->memory, r) < 0)
		errx(1, "no guest memory for buffers");
}

struct sluice_device *sluice_open(const struct row *row, struct rte_mempool *pool)
{
	/* As a guest has it: some memory at 0, the rest above 4 GiB. */
	static const struct guest_range ranges[] = { { 0, 1 << 21 },
						     { UINT64_C(1) << 32, 1 << 24 } };
	struct sluice_device *d = calloc(1, sizeof(*d));
	struct error error = { 0 };

	if (!d)
		errx(1, "out of memory");
	d->row = *row;
	d->pool = pool;
	if (guest_memory_create(&d->memory, ranges, ARRAY_SIZE(ranges), 0) < 0)
		errx(1, "no guest memory");
	for (unsigned i = 0; i < d->memory.n; i++) {
		const struct guest_region *r = &d->memory.region[i];
		struct mem_region_desc desc = {
			.gpa = r->gpa, .size = r->size, .uva = r->uva, .offset = r->offset
		};
		struct mem_map *old = d->map;

		d->map = mem_map_add(NULL, old, &desc, r->fd, &error);
		if (!d->map)
			errx(1, "%s", error.text);
		mem_map_free(old);
	}
	for (unsigned i = 0; i < N_QUEUES; i++)
		open_queue(d, i);
	return d;
}

void sluice_close(struct sluice_device *d)
{
	for (unsigned i = 0; i < N_QUEUES; i++)
		driver_ring_fini(&d->driver[i]);
	ring_track_free(d->ring[QUEUE_OUT].track);
	free(d->inflight);
	free(d->log.bits);
	mem_map_free(d->map);
	guest_memory_destroy(&d->memory);
	free(d);
}

struct lane *sluice_lane(struct sluice_device *d, unsigned queue)
{
	return &d->lane[queue];
}

static void COLD lost(const struct ring *r, unsigned n, unsigned of)
{
	errx(1, "%u of %u chains were popped%s%s", n, of, r->broken ? ": " : "",
	     r->broken ? r->broken : "");
}

HOT void pop_push(struct sluice_device *d, enum ring_layout layout, enum ring_keeping keeping,
		  uint64_t *pop, uint64_t *push)
{
	struct ring *r = &d->ring[QUEUE_OUT];
	unsigned n = d->lane[QUEUE_OUT].n_chains, batch = d->row.batch, done = 0, segs = 0;
	uint64_t start = clock_cycles();

	while (done < n) {
		unsigned got = ring_pop(r, layout, d->chains + done, MIN(batch, n - done),
					d->segs + segs, ARRAY_SIZE(d->segs) - segs);

		if (unlikely(got == 0))
			lost(r, done, n);
		done += got;
		segs += got * d->row.segs;
	}
	*pop = clock_cycles() - start;

	start = clock_cycles();
	for (done = 0; done < n;) {
		unsigned end = MIN(done + batch, n);

		if (keeping == RING_PLAIN)
			ring_push_many(r, layout, d->chains + done, end - done, NULL);
		for (; keeping == RING_KEPT && done < end; done++)
			ring_push_kept(r, d->chains[done].id, d->chains[done].n_slots, 0);
		done = end;
		ring_publish_way(r, layout, keeping);
		ring_call(r, layout);
	}
	*push = clock_cycles() - start;
}

/*
 * As many mbufs as there may be chains, asked for while the chains are popped: they were last
 * touched a ring ago, and lie in L2. rte_pktmbuf_alloc_bulk() would write to each of them at once,
 * and wait for each.
 */
HOT void take_mbufs(struct sluice_device *d, struct rte_mbuf **mbufs, unsigned n)
{
	if (unlikely(rte_mempool_get_bulk(d->pool, (void **)mbufs, n)))
		errx(1, "out of mbufs");
	for (unsigned i = 0; i < n; i++) {
		__builtin_prefetch(mbufs[i], 1);
		__builtin_prefetch((char *)(mbufs[i] + 1) + RTE_PKTMBUF_HEADROOM, 1);
	}
}

/* The frame of @c, behind the header, to @to; by the same copying function as rte_vhost uses. */
HOT void copy_out(const struct chain *c, uint8_t *to)
{
	size_t skip = HDR_BYTES;

	if (likely(c->n_out == 1)) {
		rte_memcpy(to, (uint8_t *)c->segs[0].iov_base + skip, c->out_len - skip);
		return;
	}
	for (unsigned i = 0; i < c->n_out; i++) {
		const struct iovec *v = &c->segs[i];

		if (unlikely(skip >= v->iov_len)) {
			skip -= v->iov_len;
			continue;
		}
		rte_memcpy(to, (uint8_t *)v->iov_base + skip, v->iov_len - skip);
		to += v->iov_len - skip;
		skip = 0;
	}
}

HOT uint64_t dequeue(struct sluice_device *d, enum ring_layout layout, struct rte_mbuf **mbufs)
{
	struct ring *r = &d->ring[QUEUE_OUT];
	unsigned n = d->lane[QUEUE_OUT].n_chains, done = 0;
	uint64_t start = clock_cycles();

	while (done < n) {
		unsigned want = MIN(d->row.batch, n - done), got;

		take_mbufs(d, mbufs + done, want);
		got = ring_pop(r, layout, d->chains, want, d->segs, ARRAY_SIZE(d->segs));
		if (unlikely(got == 0))
			lost(r, done, n);
		if (unlikely(got < want))
			rte_mempool_put_bulk(d->pool, (void **)(mbufs + done + got), want - got);
		for (unsigned i = 0; i < got; i++) {
			const struct chain *c = &d->chains[i];
			struct rte_mbuf *m = mbufs[done + i];
			uint32_t len = c->out_len - HDR_BYTES;

			rte_pktmbuf_reset(m);
			/* Guests may send less than a header, and more than fits an mbuf. */
			if (unlikely(c->out_len < HDR_BYTES || len > rte_pktmbuf_tailroom(m)))
				lost(r, done, n);
			copy_out(c, rte_pktmbuf_mtod(m, uint8_t *));
			m->data_len = (uint16_t)len;
			m->pkt_len = len;
		}
		ring_push_many(r, layout, d->chains, got, NULL);
		ring_publish(r, layout);
		ring_call(r, layout);
		done += got;
	}
	return clock_cycles() - start;
}

/*
 * A header with one buffer and no offloads. Of two constants: a struct put together from its fields
 * would be read back before these small stores are through, and stall.
 */
HOT void write_header(uint8_t *to)
{
	const uint64_t zeros = 0;
	const uint32_t one_buffer = htole32(UINT32_C(1) << 16); /* csum_offset, num_buffers */

	static_assert(offsetof(struct virtio_net_hdr_v1, num_buffers) == 10 && HDR_BYTES == 12,
		      "virtio 1.3, 5.1.6");
	memcpy(to, &zeros, sizeof(zeros));
	memcpy(to + sizeof(zeros), &one_buffer, sizeof(one_buffer));
}

/* A header and @len bytes into the segments of @c, which hold them. */
HOT void copy_in(const struct chain *c, const uint8_t *from, uint32_t len)
{
	const struct iovec *v = c->segs;
	uint8_t *to = v->iov_base;
	size_t room = v->iov_len - HDR_BYTES;

	write_header(to);
	to += HDR_BYTES;
	if (likely(len <= room)) {
		rte_memcpy(to, from, len);
		return;
	}
	while (len) {
		size_t piece;

		if (room == 0) {
			v++;
			to = v->iov_base;
			room = v->iov_len;
		}
		piece = MIN(room, len);
		rte_memcpy(to, from, piece);
		from += piece;
		len -= piece;
		room = 0;
	}
}

HOT uint64_t enqueue(struct sluice_device *d, enum ring_layout layout, struct rte_mbuf **mbufs)
{
	struct ring *r = &d->ring[QUEUE_IN];
	unsigned n = d->lane[QUEUE_IN].n_chains, done = 0;
	uint32_t written[BATCH_MAX];
	uint64_t start = clock_cycles();

	while (done < n) {
		unsigned got = ring_pop(r, layout, d->chains, MIN(d->row.batch, n - done), d->segs,
					ARRAY_SIZE(d->segs));

		if (unlikely(got == 0))
			lost(r, done, n);
		for (unsigned i = 0; i < got; i++) {
			const struct chain *c = &d->chains[i];
			const struct rte_mbuf *m = mbufs[done + i];

			if (unlikely(c->n_in == 0 || c->segs[0].iov_len < HDR_BYTES ||
				     c->in_len < HDR_BYTES + m->pkt_len))
				lost(r, done, n);
			copy_in(c, rte_pktmbuf_mtod(m, const uint8_t *), m->pkt_len);
			written[i] = HDR_BYTES + m->pkt_len;
		}
		ring_push_many(r, layout, d->chains, got, written);
		ring_publish(r, layout);
		ring_call(r, layout);
		done += got;
	}
	return clock_cycles() - start;
}

/* Not inlined, as the library's functions are not. */
#define X(name, layout, keeping)                                                             \
	static __attribute__((noinline)) void pop_push_##name(struct sluice_device *d,       \
							      uint64_t *pop, uint64_t *push) \
	{                                                                                    \
		pop_push(d, layout, keeping, pop, push);                                     \
	}
RING_WAYS(X)
#undef X

#define X(name, layout)                                                           \
	static __attribute__((noinline))                                          \
	uint64_t dequeue_##name(struct sluice_device *d, struct rte_mbuf **mbufs) \
	{                                                                         \
		return dequeue(d, layout, mbufs);                                 \
	}                                                                         \
	static __attribute__((noinline))                                          \
	uint64_t enqueue_##name(struct sluice_device *d, struct rte_mbuf **mbufs) \
	{                                                                         \
		return enqueue(d, layout, mbufs);                                 \
	}
RING_LAYOUTS(X)
#undef X

void sluice_pop_push(struct sluice_device *d, uint64_t *pop, uint64_t *push)
{
#define X(name, layout, keeping) [RING_WAY(layout, keeping)] = pop_push_##name,
	static void (*const fns[N_RING_WAYS])(struct sluice_device * d, uint64_t * pop,
					      uint64_t * push) = { RING_WAYS(X) };
#undef X

	fns[ring_way(&d->ring[QUEUE_OUT])](d, pop, push);
}

uint64_t sluice_dequeue(struct sluice_device *d, struct rte_mbuf **mbufs)
{
	return d->row.layout == DRIVER_SPLIT ? dequeue_split(d, mbufs) : dequeue_packed(d, mbufs);
}

uint64_t sluice_enqueue(struct sluice_device *d, struct rte_mbuf **mbufs)
{
	return d->row.layout == DRIVER_SPLIT ? enqueue_split(d, mbufs) : enqueue_packed(d, mbufs);
}
