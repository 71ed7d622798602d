/* SPDX-License-Identifier: Apache-2.0 */
/* A session whose guest is behind an IOMMU, for the tests of vhost-user "IOMMU support". */
#ifndef SLUICE_TESTS_IOMMU_BED_H
#define SLUICE_TESTS_IOMMU_BED_H

#include "tests/guest/frontend_iommu.h"
#include "tests/unit/session_util.h"

static struct bed b;

/* Where I/O virtual addresses begin: beyond all guest memory, so that the two cannot be mixed up.
 */
#define IOVA UINT64_C(0x7f0000000000)
#define PAGE 4096
#define RW (VU_IOTLB_READ | VU_IOTLB_WRITE)
/* Of bed_init's second region: buffers. */
#define OUT_GPA ((8 << 20) + 4096)
#define IN_GPA ((8 << 20) + 8192)

#define PROTOCOL (VU_PF_USUAL | VU_PF_BACKEND_REQ)

static const uint64_t layouts[] = { 0, VU_F_PACKED, VU_F_EVENT_IDX | VU_F_INDIRECT,
				    VU_F_PACKED | VU_F_EVENT_IDX | VU_F_INDIRECT };

#define FOR_EACH_LAYOUT(features)                                               \
	for (unsigned layout_i = 0; layout_i < ARRAY_SIZE(layouts); layout_i++) \
		for (uint64_t features = layouts[layout_i], once = 1; once; once = 0)

static inline void open_iommu(const struct vhost_device_ops *ops, uint64_t features)
{
	bed_init(&b, ops);
	bed_pair(&b);
	bed_negotiate(&b, PROTOCOL, features | VU_F_ACCESS_PLATFORM);
	b.f.iova_base = IOVA;
	OK(&b.f, frontend_open_backend_channel(&b.f));
}

static inline enum virtqueue_state state(unsigned index)
{
	return b.dev.vhost.queues[index].state;
}

/* Waits for a miss. */
static inline struct vu_iotlb next_miss(void)
{
	struct vu_iotlb m = { 0 };
	int rc = 0;

	cr_assert(EVENTUALLY((rc = frontend_poll_miss(&b.f, &m)) != 0), "no miss came");
	OK(&b.f, rc);
	return m;
}

/* Maps the page of a miss to the guest memory that lies IOVA below it. */
static inline void answer(const struct vu_iotlb *m)
{
	uint64_t iova = ALIGN_DOWN(m->iova, PAGE);

	OK(&b.f, frontend_map(&b.f, iova, iova - IOVA, PAGE, RW));
}

/* Steps the loop, and answers misses, until @cond. */
#define SERVE_UNTIL(cond)                                      \
	EVENTUALLY(({                                          \
		struct vu_iotlb serve_m;                       \
		while (frontend_poll_miss(&b.f, &serve_m) > 0) \
			answer(&serve_m);                      \
		(cond);                                        \
	}))

static inline void add_chain(unsigned index, uint64_t out, uint64_t in)
{
	struct driver_ring *r = &b.f.queue[index].ring;
	const struct driver_seg segs[] = { { out, 100 }, { in, 512 } };

	cr_assert_eq(r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, segs, 1, 1, &b)
					       : driver_add(r, DRIVER_PACKED, segs, 1, 1, &b),
		     0);
	frontend_submit(&b.f, index);
}

static inline bool is_back(unsigned index)
{
	struct driver_used used;

	if (!frontend_poll(&b.f, index, &used))
		return false;
	cr_assert_eq(used.len, 512u);
	return true;
}

/* One chain there and back, misses answered. */
static inline void echo(unsigned index)
{
	add_chain(index, IOVA + OUT_GPA, IOVA + IN_GPA);
	cr_assert(SERVE_UNTIL(is_back(index)));
}

static inline void start_ring(unsigned index)
{
	bed_start_queue(&b, index);
	cr_assert(SERVE_UNTIL(state(index) == VIRTQUEUE_RUNNING));
}

static inline unsigned drain_misses(void)
{
	struct vu_iotlb m;
	unsigned n = 0;

	while (frontend_poll_miss(&b.f, &m) > 0)
		n++;
	return n;
}

#endif
