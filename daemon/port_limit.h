/* SPDX-License-Identifier: Apache-2.0 */
/* The limits of a port, changed while it runs. Control thread. */
#ifndef SLUICE_DAEMON_PORT_LIMIT_H
#define SLUICE_DAEMON_PORT_LIMIT_H

#include "daemon/rpc.h"

struct port_rules;

/*
 * "port.limit" of {"port": NAME, "limit": {"rx.bits": "2G", "unknown": 100, …}}: the keys of a
 * configuration's limit and flood_limit, as numbers or text; 0 takes one away, and those that are
 * not named stay. Without "limit" nothing changes. Answers with all limits there are, as numbers.
 */
json_t *port_limit_call(void *ctx, const json_t *params, struct rpc_error *err);

/* Puts the limits of @r under "limit" and "flood_limit" of a port's configuration, as far as there
 * are any. */
void port_limits_show(json_t *port, const struct port_rules *r);

#endif
