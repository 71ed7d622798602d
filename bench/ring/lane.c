/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/ring/lane.h"

#include <err.h>
#include <stdlib.h>

#define TABLE_SEGS 4

struct driver_config lane_ring_config(const struct row *row)
{
	return (struct driver_config) {
		.layout = row->layout,
		.size = RING_SIZE,
		.indirect = row->indirect ? DRIVER_INDIRECT_ALL : DRIVER_DIRECT,
		.indirect_segs = row->indirect ? TABLE_SEGS : 0,
		.event_idx = row->event_idx,
		.in_order = row->in_order,
		.base = driver_base_start(row->layout),
	};
}

int lane_open(struct lane *l, const struct row *row, bool in, struct guest_memory *m,
	      struct driver_ring *ring)
{
	*l = (struct lane) { .row = *row, .in = in, .memory = m, .ring = ring };
	l->n_chains = row->indirect ? RING_SIZE : RING_SIZE / row->segs;
	if (!guest_alloc(m, (uint64_t)l->n_chains * BUF_STRIDE, 4096, &l->bufs_gpa))
		return -ENOMEM;
	return 0;
}

static void cut(const struct row *row, uint64_t gpa, struct driver_seg *segs)
{
	if (row->segs == 1) {
		segs[0] = (struct driver_seg) { gpa, HDR_BYTES + FRAME_BYTES };
		return;
	}
	segs[0] = (struct driver_seg) { gpa, HDR_BYTES };
	segs[1] = (struct driver_seg) { gpa + HDR_BYTES, FRAME_BYTES / 2 };
	segs[2] = (struct driver_seg) { gpa + HDR_BYTES + FRAME_BYTES / 2, FRAME_BYTES / 2 };
}

static void flush(const void *p, uint64_t len)
{
#if defined(__x86_64__)
	for (uint64_t at = 0; at < len; at += CACHE_LINE)
		__builtin_ia32_clflush((const char *)p + at);
	__builtin_ia32_mfence();
#else
	(void)p;
	(void)len;
#endif
}

void lane_fill(struct lane *l)
{
	struct driver_ring *r = l->ring;
	enum driver_layout layout = l->row.layout;
	unsigned n_out = l->in ? 0 : l->row.segs, n_in = l->in ? l->row.segs : 0;

	if (layout == DRIVER_SPLIT)
		driver_calls_off(r, DRIVER_SPLIT);
	else
		driver_calls_off(r, DRIVER_PACKED);
	for (unsigned i = 0; i < l->n_chains; i++) {
		struct driver_seg segs[SEGS_MAX] = { 0 };
		int rc;

		cut(&l->row, l->bufs_gpa + (uint64_t)i * BUF_STRIDE, segs);
		rc = layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, segs, n_out, n_in, l)
					    : driver_add(r, DRIVER_PACKED, segs, n_out, n_in, l);
		if (rc < 0)
			errx(1, "the driver's ring does not take %u chains", l->n_chains);
	}
	/* A wish for a kick has no meaning here: the device is polled. */
	if (layout == DRIVER_SPLIT)
		driver_publish(r, DRIVER_SPLIT);
	else
		driver_publish(r, DRIVER_PACKED);
	if (l->cold)
		flush(driver_desc_area(r),
		      driver_ring_bytes(layout, RING_SIZE, l->row.indirect ? TABLE_SEGS : 0));
}

void lane_empty(struct lane *l)
{
	struct driver_ring *r = l->ring;
	uint32_t want = l->in ? HDR_BYTES + FRAME_BYTES : 0;

	for (unsigned i = 0; i < l->n_chains; i++) {
		struct driver_used u;
		bool got = l->row.layout == DRIVER_SPLIT ? driver_poll(r, DRIVER_SPLIT, &u)
							 : driver_poll(r, DRIVER_PACKED, &u);

		if (!got)
			errx(1, "chain %u of %u did not come back: %s", i, l->n_chains,
			     driver_violation(r) ? driver_violation(r) : "it is not there");
		/* rte_vhost writes a length on a transmit queue's split ring too, as it may: some
		 * versions the sum of what was read. It is only looked at where data came in. */
		if (l->in && u.len != want)
			errx(1, "a frame of %u bytes came as %u", want, u.len);
	}
}
