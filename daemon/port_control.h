/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator may ask of an open port over the control socket. Control thread. */
#ifndef SLUICE_DAEMON_PORT_CONTROL_H
#define SLUICE_DAEMON_PORT_CONTROL_H

#include "daemon/rpc.h"

struct appliance;
struct port;
struct port_entry;

/* The open port called @name; NULL: there is none. */
struct port_entry *find_port_entry(const struct appliance *a, const char *name);
struct port *find_port(const struct appliance *a, const char *name);

/*
 * "port.down" and "port.up" of {"port": NAME}: rpc_methods' calls, @ctx the struct status. Answer
 * {"up": BOOL, "told": BOOL}: whether the guest can see it.
 */
json_t *port_down_call(void *ctx, const json_t *params, struct rpc_error *err);
json_t *port_up_call(void *ctx, const json_t *params, struct rpc_error *err);

#endif
