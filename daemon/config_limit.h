/* SPDX-License-Identifier: Apache-2.0 */
/* What a disk may do a second, as a configuration and an operator say it. */
#ifndef SLUICE_DAEMON_CONFIG_LIMIT_H
#define SLUICE_DAEMON_CONFIG_LIMIT_H

#include "blk/blk.h"
#include "daemon/schema.h"

struct limit_config {
	struct object at;
	struct blk_limits limits;
};

extern const struct schema limit_schema;

/* A rule of port fields: what they may be a second at most. */
const char *port_rate_rule(const void *value);

/* The rules that take more than one key. */
void limit_check(const struct limit_config *l, struct problems *p);

/* Calls fn(key, value, arg) for each that is set. */
void limit_for_each(const struct blk_limits *l,
		    void (*fn)(const char *key, uint64_t value, void *arg), void *arg);

#endif
