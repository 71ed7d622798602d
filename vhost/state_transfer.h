/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device state over a pipe or socket of the front-end's. Control thread, which never waits for it:
 * what reads and writes is another one (vhost/aside.h).
 */
#ifndef SLUICE_VHOST_STATE_TRANSFER_H
#define SLUICE_VHOST_STATE_TRANSFER_H

#include <stdbool.h>

struct error;
struct vhost_device;
struct state_transfer;

/* vhost-user "Device state transfer parameters". */
enum { STATE_SAVE = 0, STATE_LOAD = 1 };

/* Can this kernel read and write a pipe without waiting, whatever the pipe's owner does? */
bool state_transfer_possible(void);

/*
 * Begins to write @d's state to @fd, or to read it from there; takes @fd, also on failure. No queue
 * runs. @return NULL with @err: @fd is neither pipe nor unix socket, or goes the other way.
 */
struct state_transfer *state_transfer_begin(struct vhost_device *d, int fd, bool load,
					    struct error *err);
typedef void state_transfer_fn(void *arg);
/*
 * Before state_transfer_outcome(): the other end may have written, read or closed since we looked.
 * @return true: we have looked; false: we look, and then @settled is called, once, and after it
 * this returns true. It may free @t.
 */
bool state_transfer_settle(struct state_transfer *t, state_transfer_fn *settled, void *arg);
/*
 * How did it end? A state that was read is applied by now. @return 0, -EINPROGRESS when the other
 * end has not read, or not closed; -errno with @err.
 */
int state_transfer_outcome(struct state_transfer *t, struct error *err);
/* Ends it, wherever it stands. NULL is fine. */
void state_transfer_free(struct state_transfer *t);

#endif
