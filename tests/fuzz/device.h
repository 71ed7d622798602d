/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues of real devices on simulated workers, started without a front-end's messages: what the
 * front-end would have said is put where its handlers would have put it.
 */
#ifndef SLUICE_TESTS_FUZZ_DEVICE_H
#define SLUICE_TESTS_FUZZ_DEVICE_H

#include "tests/fuzz/guest.h"
#include "vhost/device.h"

/* One end of a connection; the other stays open and silent. */
struct vhost_socket fuzz_socket(void);
/* Until each device has its session. */
void fuzz_sessions_wait(struct vhost_device *const *d, unsigned n);

/*
 * Starts @vq with the ring of @g; @features besides those of the ring. @return 0 or -errno: then it
 * does not run.
 */
int fuzz_queue_start(struct vhost_device *d, struct virtqueue *vq, struct fuzz_guest *g,
		     uint64_t features);
/* Stops it; it must have stopped after a few rounds, with no chain in flight unless it is
 * broken. */
void fuzz_queue_stop(struct workers *ws, struct virtqueue *vq);

#endif
