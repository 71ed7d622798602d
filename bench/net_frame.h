/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames of sluice-bench net: Ethernet, IPv4, UDP (or TCP, where they are to be cut), and
 * behind that a stamp by which the receiver knows each of them. Of every flow addresses and ports
 * differ. And the receiver's memory of what came of a flow.
 */
#ifndef SLUICE_BENCH_NET_FRAME_H
#define SLUICE_BENCH_NET_FRAME_H

#include "base/compiler.h"

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <string.h>

#define NET_HDR_BYTES 12 /* with VIRTIO_F_VERSION_1, always (virtio 1.3 5.1.6.1) */
#define FRAME_MIN 60
#define FRAME_USUAL 1514
#define FRAME_JUMBO 9014
#define FRAME_TSO_MAX (14 + 65535) /* as much as an IPv4 header can tell */
#define FLOWS_MAX 65536

#define ETHER_BYTES 14
#define UDP_HEAD 42 /* Ethernet, IPv4, UDP */
#define TCP_HEAD 54 /* Ethernet, IPv4, TCP */

/* What a frame carries behind its headers. */
struct stamp {
	uint64_t serial; /* in its flow, from 0 on */
	uint64_t cycles; /* when it was sent, or should have been */
	uint16_t check;	 /* of the above, the flow and the frame's length */
} __attribute__((packed));

static_assert(UDP_HEAD + sizeof(struct stamp) == FRAME_MIN, "fits into the smallest frame");

/* The sender's side of a flow. */
struct flow {
	uint8_t head[TCP_HEAD];
	uint64_t serial; /* of the next frame */
};

/* @direction: 0 or 1; what one direction has as source, ports too, the other has as destination. */
void flow_init(struct flow *f, unsigned id, unsigned direction, bool tcp);

/* Virtio-net header and headers of a frame of @size bytes to @buf. @mss: 0: not to be cut. */
void frame_write_head(const struct flow *f, uint32_t size, uint16_t mss, uint8_t *buf);

/* A broadcast frame of FRAME_MIN bytes, from where the flow's frames go to; for switches that
 * learn. */
void frame_write_hello(const struct flow *f, uint8_t *buf);
/* Is it one of those, of any flow? @frame: ETHER_BYTES of it. */
bool frame_is_hello(const uint8_t *frame);

HOT uint16_t stamp_check(const struct stamp *s, uint32_t flow, uint32_t size)
{
	uint64_t v = (s->serial ^ (uint64_t)flow << 40 ^ (uint64_t)size << 20) *
			     UINT64_C(0x9e3779b97f4a7c15) +
		     s->cycles;

	v = (v ^ v >> 32) * UINT64_C(0xd6e8feb86659fd93);
	return v >> 48;
}

/*
 * The bytes behind the stamp, where they are looked at: no two frames of a flow have the same.
 * @offset: from the stamp's end on. frame_differs(): @return the first offset that is wrong, -1:
 * none is.
 */
void frame_fill(uint8_t *bytes, uint32_t len, uint32_t offset, uint64_t serial, uint32_t flow);
int64_t frame_differs(const uint8_t *bytes, uint32_t len, uint32_t offset, uint64_t serial,
		      uint32_t flow);

/* How far behind a frame may come and still be told from one that came twice. */
#define ORDER_WINDOW 1024u

/* The receiver's side of a flow. */
struct flow_order {
	uint64_t next;			  /* one more than the highest serial that came */
	uint64_t seen[ORDER_WINDOW / 64]; /* of the last ORDER_WINDOW before it, by serial */
};

enum flow_news { FLOW_IN_ORDER, FLOW_REORDERED, FLOW_DUPLICATED };

/* A frame came. What is missing is not known before the end: sent less received. */
HOT enum flow_news flow_came(struct flow_order *o, uint64_t serial)
{
	uint64_t *word = &o->seen[serial % ORDER_WINDOW / 64], bit = UINT64_C(1) << serial % 64;

	if (likely(serial >= o->next)) {
		if (unlikely(serial - o->next >= ORDER_WINDOW))
			memset(o->seen, 0, sizeof(o->seen));
		else
			for (uint64_t i = o->next; i < serial; i++)
				o->seen[i % ORDER_WINDOW / 64] &= ~(UINT64_C(1) << i % 64);
		*word |= bit;
		o->next = serial + 1;
		return FLOW_IN_ORDER;
	}
	if (o->next - serial > ORDER_WINDOW) /* a copy or not: nobody knows any more */
		return FLOW_REORDERED;
	if (*word & bit)
		return FLOW_DUPLICATED;
	*word |= bit;
	return FLOW_REORDERED;
}

#endif
