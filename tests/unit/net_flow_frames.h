/* SPDX-License-Identifier: Apache-2.0 */
/* Flows of frames, of IPv4 and IPv6, TCP and UDP, whole and in fragments. For tests of net/flows.h.
 */
#ifndef SLUICE_TESTS_NET_FLOW_FRAMES_H
#define SLUICE_TESTS_NET_FLOW_FRAMES_H

#include "tests/unit/net_frames.h"

#define LEN 100

/* A flow of frames; the other way round: they swap. */
struct way {
	bool v6;
	uint8_t proto;
	unsigned fragment; /* 1: the first one, 2: a later one */
	unsigned tags;
	uint32_t host[2];
	uint16_t port[2];
};

static inline struct way back(struct way w)
{
	struct way b = w;

	b.host[0] = w.host[1];
	b.host[1] = w.host[0];
	b.port[0] = w.port[1];
	b.port[1] = w.port[0];
	return b;
}

/* From the EtherType on, of LEN bytes in all; @number at the end. */
static inline void frame_fill(uint8_t bytes[LEN], const struct way *w, uint32_t number)
{
	uint8_t *at = bytes + 12, *ip;

	memset(at, 0, LEN - 12);
	for (unsigned i = 0; i < w->tags; i++, at += 4)
		frame_put32(at, 0x81000000u + 5 + i);
	frame_put16(at, w->v6 ? 0x86dd : 0x0800);
	ip = at + 2;
	if (w->v6) {
		ip[0] = 0x60;
		ip[6] = w->fragment ? 44 : w->proto;
		for (unsigned i = 0; i < 2; i++) {
			ip[8 + 16 * i] = 0xfd;
			frame_put32(ip + 20 + 16 * i, w->host[i]);
		}
		at = ip + 40;
		if (w->fragment) {
			at[0] = w->proto;
			frame_put16(at + 2, w->fragment == 1 ? 1 : 8 << 3);
			at += 8;
		}
	} else {
		ip[0] = 0x45;
		ip[9] = w->proto;
		if (w->fragment)
			frame_put16(ip + 6, w->fragment == 1 ? 0x2000 : 8);
		frame_put32(ip + 12, w->host[0]);
		frame_put32(ip + 16, w->host[1]);
		at = ip + 20;
	}
	/* Of a later fragment it is whatever comes next. */
	frame_put16(at, w->fragment == 2 ? (number & 0xffff) : w->port[0]);
	frame_put16(at + 2, w->fragment == 2 ? 77 : w->port[1]);
	frame_put32(bytes + LEN - 4, number);
}

#endif
