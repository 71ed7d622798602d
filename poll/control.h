/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control thread's loop: libsystemd's sd-event, and a door through which workers reach it.
 * Everything that opens, allocates, logs or waits happens here. A handler may take a moment, but
 * must not wait for a front-end, for I/O of a guest or for another handler: such work is split
 * into steps.
 */
#ifndef SLUICE_POLL_CONTROL_H
#define SLUICE_POLL_CONTROL_H

#include "poll/call.h"

#include <stdbool.h>
#include <systemd/sd-event.h>

/* Creates the loop of the calling thread, which becomes the control thread. @return 0 or -errno. */
int control_init(void);

/* Control thread. The loop to add sources to (sd_event_add_io, _time, _signal, _defer). */
sd_event *control_event(void);

/* Any thread, without blocking: @c runs on the control thread, soon. */
void control_call(struct call *c);

/* Control thread. Runs handlers until control_exit(). @return the exit code given there, or -errno.
 */
int control_run(void);
void control_exit(int code);

/* Control thread. One round of the loop, waiting up to @timeout_us (tests). @return 0 or -errno. */
int control_step(uint64_t timeout_us);

/* Frees the loop. Every source must have been released by its owner. */
void control_fini(void);

/* True on the thread that called control_init(). For assertions. */
bool control_is_current(void);

#endif
