/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker's io_uring may be asked to do. seccomp does not see the operations of a ring, which
 * could open files and sockets too; so a ring is made disabled, told what it may do (reading,
 * writing, waiting), and only then enabled. The kernel holds to that for the life of the ring.
 */
#ifndef SLUICE_POLL_RING_LIMITS_H
#define SLUICE_POLL_RING_LIMITS_H

#include <liburing.h>

/*
 * On the ring's own thread. @ring was made with IORING_SETUP_R_DISABLED; it is enabled when this
 * returns. @return 0 or -errno.
 */
int ring_limit_and_enable(struct io_uring *ring);

#endif
