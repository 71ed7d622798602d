/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Networks and ports that come and go while others run. Methods of the control socket (serve(), see
 * rpc.h).
 */
#ifndef SLUICE_DAEMON_NETWORK_CHANGE_H
#define SLUICE_DAEMON_NETWORK_CHANGE_H

#include "daemon/rpc.h"

/* "network.add" of a network's keys in sluice.yaml(5), without ports. Answers {"name"}. */
json_t *network_add_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

/* "network.remove" of {"network": NAME}, which has no ports. Answers {"name"}. */
json_t *network_remove_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

/*
 * "port.add" of {"network": NAME, "port": {…}}, a port's keys in sluice.yaml(5); a guest's. Beside
 * it comes a socket that is bound to "socket" and does not listen yet (none with "connect").
 * Answers
 * {"name"}.
 */
json_t *port_add_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

/* "port.remove" of {"port": NAME, "force": BOOL}: as "disk.remove". */
json_t *port_remove_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

#endif
