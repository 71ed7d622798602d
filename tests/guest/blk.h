/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio-blk driver on one queue of a front-end (virtio 1.3, 5.2.6): requests go out as a header,
 * data and a status byte, and what comes back is checked.
 */
#ifndef SLUICE_TESTS_GUEST_BLK_H
#define SLUICE_TESTS_GUEST_BLK_H

#include "tests/guest/frontend.h"

#include <linux/virtio_blk.h>

#define GUEST_BLK_T_GET_LIFETIME 10 /* virtio 1.3 5.2.6; not in Linux's header */

#define GUEST_BLK_DATA_SEGS_MAX 254 /* data segments of one request */

struct guest_blk_slot {
	uint64_t gpa; /* header (16 bytes), then the status byte */
	uint8_t *host;
	void *cookie;
	uint64_t data_in; /* bytes of data that the device may write */
	uint32_t type;
	bool raw; /* of guest_blk_submit_raw(): nothing to check */
};

struct guest_blk {
	struct frontend *f; /* borrowed */
	unsigned queue;
	unsigned n_free;
	uint16_t *free;
	struct guest_blk_slot *slots;
};

struct guest_blk_done {
	void *cookie;
	uint8_t status;	   /* VIRTIO_BLK_S_* */
	uint32_t used_len; /* as the device said */
};

/*
 * The disk's configuration, as far as the back-end tells it: zeros follow. @return bytes, or
 * -errno.
 */
int guest_blk_read_config(struct frontend *f, struct virtio_blk_config *c);

/* The queue is set up. @return 0 or -ENOMEM. */
int guest_blk_open(struct guest_blk *b, struct frontend *f, unsigned queue);
void guest_blk_close(struct guest_blk *b);

/*
 * Adds a request: VIRTIO_BLK_T_IN, _GET_ID and _GET_LIFETIME write to @data, the others read it.
 * @return 0, or -ENOSPC when ring or slots are full. Nothing is seen before guest_blk_kick().
 */
int guest_blk_submit(struct guest_blk *b, uint32_t type, uint64_t sector,
		     const struct driver_seg *data, unsigned n_data, void *cookie);
/* A chain of the caller's own making. */
int guest_blk_submit_raw(struct guest_blk *b, const struct driver_seg *segs, unsigned n_out,
			 unsigned n_in, void *cookie);
/* Publishes, and kicks where the device wants it. */
void guest_blk_kick(struct guest_blk *b);

/*
 * A finished request. @return 1; 0 when there is none; -EPROTO when the device broke a rule: no
 * status written, or a length that does not fit (f->error).
 */
int guest_blk_poll(struct guest_blk *b, struct guest_blk_done *done);
/* The same, sleeping until there is one. @return 1 or -errno. */
int guest_blk_wait(struct guest_blk *b, struct guest_blk_done *done);

/* One request and its answer, while nothing else is in flight. @return status or -errno. */
int guest_blk_do(struct guest_blk *b, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len);

#endif
