/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration that would make a daemon serve what this one serves now. */
#ifndef SLUICE_DAEMON_CONFIG_SHOW_H
#define SLUICE_DAEMON_CONFIG_SHOW_H

#include "daemon/rpc.h"

struct port_entry;

/*
 * "config", without parameters: sluice.yaml(5) as an object, with the keys that were given, what
 * was added and without what was removed. An rpc_method's call, @ctx the struct status.
 */
json_t *config_show_call(void *ctx, const json_t *params, struct rpc_error *err);

/* The part of @p in it. */
json_t *config_show_port(const struct port_entry *p);

#endif
