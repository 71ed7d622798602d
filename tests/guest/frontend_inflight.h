/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front-end that keeps a back-end's in-flight buffer over its death (vhost-user "Inflight I/O
 * tracking"), and its rings and memory with it:
 *
 *	frontend_get_inflight(&f, &buf, queues, size);	before the rings start, the first time
 *	frontend_set_inflight(&f, &buf);		before they start, each time
 *	…	the back-end dies
 *	frontend_hang_up(&f);				the rings stay as they are
 *	frontend_connect(&f, path) … frontend_set_inflight(&f, &buf);
 *	frontend_queue_start(&f, i);
 */
#ifndef SLUICE_TESTS_GUEST_FRONTEND_INFLIGHT_H
#define SLUICE_TESTS_GUEST_FRONTEND_INFLIGHT_H

#include "tests/guest/frontend.h"

struct vu_inflight {
	uint64_t mmap_size, mmap_offset;
	uint16_t num_queues, queue_size;
};

struct frontend_inflight {
	struct vu_inflight desc;
	int fd; /* -1: none */
};

/* @return 0; -ENODATA when the back-end has none to give (size 0); or -errno. */
int frontend_get_inflight(struct frontend *f, struct frontend_inflight *b, uint16_t queues,
			  uint16_t queue_size);
int frontend_set_inflight(struct frontend *f, const struct frontend_inflight *b);
void frontend_inflight_close(struct frontend_inflight *b);

/* Closes the connection, as a VMM does that has lost its back-end; rings and eventfds stay. */
void frontend_hang_up(struct frontend *f);

#endif
