/* SPDX-License-Identifier: Apache-2.0 */
/* What a port lets in and out, from its configuration, and changed while it runs. Control thread.
 */
#ifndef SLUICE_DAEMON_PORT_RULES_H
#define SLUICE_DAEMON_PORT_RULES_H

#include "daemon/config.h"
#include "daemon/rpc.h"
#include "net/rules.h"

struct port_rules port_rules_of(const struct port_config *p);

/*
 * "port.set" of {"port": NAME, "set": {"vlan": 20, "macs": ["…"], "native": null, …}}: keys of a
 * port's configuration that say whose frames it lets in and out. null takes one away, and those
 * that are not named stay. When it answers, no frame goes by the old ones any more. Without "set"
 * nothing changes. Answers with all such keys that there are.
 */
json_t *port_set_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

#endif
