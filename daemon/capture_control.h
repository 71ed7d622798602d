/* SPDX-License-Identifier: Apache-2.0 */
/* Captures of ports, streamed to who asked for them. Control thread. */
#ifndef SLUICE_DAEMON_CAPTURE_CONTROL_H
#define SLUICE_DAEMON_CAPTURE_CONTROL_H

#include "daemon/rpc.h"

/*
 * "port.capture" of {"port": NAME, "snap": BYTES}, without "snap" whole frames, and beside it one
 * end of a pair of unix stream sockets: pcapng goes there, until the other end is shut down for
 * writing (what is there is still sent then) or closed. An rpc_method's serve(), @ctx the struct
 * status.
 */
json_t *port_capture_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

/* Before the ports are closed: ends them all. */
void captures_end(void);

#endif
