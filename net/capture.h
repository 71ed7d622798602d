/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A copy of what passes a port, for somebody who wants to see it. Workers copy the beginnings of
 * frames into a ring each, which one reader, the control thread, empties: no lock, and nobody ever
 * waits. What finds no room is counted. A port nobody looks at pays nothing (port.rules_on).
 */
#ifndef SLUICE_NET_CAPTURE_H
#define SLUICE_NET_CAPTURE_H

#include "net/packet.h"

struct capture;
struct error;
struct port;
struct workers;

#define CAPTURE_SNAP_MAX 65554u /* the largest frame, with a tag */

struct captured {
	uint64_t time_ns; /* since the epoch */
	uint32_t len;	  /* of the frame */
	uint32_t copied;  /* bytes of it that are here */
	bool out;	  /* it went out of the switch to the port; else it came in */
	const uint8_t *bytes;
};

/*
 * Control thread. What comes in is copied as it came, before any rule; what goes out as the port
 * gets it. One a port. @return 0 and *@out, or -errno with @err.
 */
int capture_start(struct port *p, struct workers *ws, uint32_t snap_bytes, struct capture **out,
		  struct error *err);
/* Control thread. No worker adds to it any more; what is in it can still be taken. */
void capture_end(struct capture *c);
/* Control thread. Has it ended, by capture_end() or since its port has gone? */
bool capture_ended(const struct capture *c);
void capture_free(struct capture *c);
/* Control thread, while the port is being detached. */
void capture_port_gone(struct port *p);

/* Control thread. The oldest of a worker's, or false: there is none. Valid until capture_next(). */
bool capture_look(struct capture *c, struct captured *out);
void capture_next(struct capture *c);
/* What passed, and what of it found no room. */
void capture_counts(const struct capture *c, uint64_t *passed, uint64_t *dropped);

/* Worker thread. */
void capture_packets(struct port *p, struct packet *const *packets, unsigned n, bool out);

#endif
