/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of the daemon: SIGTERM and SIGINT drain and close everything. A second signal, or ten
 * seconds, end it at once, whatever hangs, with a line that names what did.
 */
#ifndef SLUICE_DAEMON_SHUTDOWN_H
#define SLUICE_DAEMON_SHUTDOWN_H

#include "daemon/appliance.h"

/* Before the first thread is made, which inherits it: our signals come through the control loop. */
void shutdown_block_signals(void);

/* Control thread. Watches for the signals from now on. */
int shutdown_watch(struct appliance *a);

/* Begins the end, as a signal does; control_run() returns @code when all is closed. */
void shutdown_begin(struct appliance *a, int code);

/* The devices are closed; the rest of main() still has the deadline. */
void shutdown_end(void);

#endif
