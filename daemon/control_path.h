/* SPDX-License-Identifier: Apache-2.0 */
/* Where the control socket is when nobody says so: the daemon and the command line must agree. */
#ifndef SLUICE_DAEMON_CONTROL_PATH_H
#define SLUICE_DAEMON_CONTROL_PATH_H

#include "base/compiler.h"

#define RUN_DIR "/run/sluice"
#define CONTROL_PATH_SYSTEM RUN_DIR "/control.sock"
#define CONTROL_PATH_BYTES 108

/*
 * root: CONTROL_PATH_SYSTEM. Others: sluice/control.sock in $XDG_RUNTIME_DIR, else in a folder of
 * their own under /tmp.
 */
void control_path_default(char out[CONTROL_PATH_BYTES]);

#endif
