/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log as a ring sees it: while a front-end migrates its guest it wants to know each page
 * that we write to (vhost-user "Migration"). A ring without a log (ring->log NULL) pays one
 * predictable test for each publish, and a device one for each request; all else is out of line.
 *
 * The order that nothing is lost by: memory is written, then its page's bit is set, then what was
 * written is shown to the driver. Each bit is set by an atomic OR with release semantics, which
 * pairs with the front-end's atomic exchange of the bitmap's words: it reads a page only after it
 * has taken the bit, so whoever takes the bit sees what was written before it was set.
 *
 * A device that writes to guest memory other than the ring calls ring_log_iov() or
 * ring_log_write() after it has written and before ring_publish():
 *
 *	if (unlikely(r->log))
 *		ring_log_iov(r, segs, n, written);
 */
#ifndef SLUICE_VHOST_RING_LOG_H
#define SLUICE_VHOST_RING_LOG_H

#include "base/counter.h"
#include "vhost/mem.h"

struct ring; /* ring.h, which includes this */

/* vhost-user "Migration": VHOST_LOG_PAGE, whatever the guest's or the host's pages are. */
#define LOG_PAGE_SHIFT 12

/* Where one ring logs; in its virtqueue, changed on the queue's worker only. */
struct ring_log {
	uint8_t *bits;	  /* one for each page from guest address 0 on */
	uint64_t n_pages; /* that the log has bits for; what lies beyond is counted, not logged */
	bool data;	  /* VHOST_F_LOG_ALL: buffers, and the packed ring's descriptors */
	bool device_area; /* VHOST_VRING_F_LOG: used ring, event suppression */
	gpa_t device_gpa; /* where the device area is */
	int call_fd;	  /* SET_LOG_FD: signalled after bits were set; -1: none. Borrowed */
	bool call_due;	  /* bits were set since it was */
	unsigned hint;	  /* a guess at the region that the next address lies in */
	counter_t missed; /* pages beyond the log's end */
};

/* Worker thread. The device wrote the first @len bytes of the segments. */
void ring_log_iov(struct ring *r, const struct iovec *iov, unsigned n, uint64_t len) COLD;
/* Worker thread. The device wrote @len bytes at @host, which lies in guest memory. */
void ring_log_write(struct ring *r, const void *host, uint64_t len) COLD;

/* For ring_body.h: what was staged, before it is published; what publishing wrote, after. */
void ring_log_staged(struct ring *r) COLD;
void ring_log_published(struct ring *r) COLD;
/* For ring_body.h: the words that ask for kicks were written. */
void ring_log_kicks(struct ring *r) COLD;
/* The same by the control thread: the front-end is not signalled before a worker does that. */
void ring_log_event_words(struct ring *r) COLD;

/*
 * Where @host lies in guest memory. @return false when it lies in none of the regions of @map (and
 * @hint, a guess at the index, updated, is of no use).
 */
bool mem_find_host(const struct mem_map *map, const void *host, unsigned *hint, gpa_t *gpa);

#endif
