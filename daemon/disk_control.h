/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator may ask of an open disk over the control socket. Control thread. */
#ifndef SLUICE_DAEMON_DISK_CONTROL_H
#define SLUICE_DAEMON_DISK_CONTROL_H

#include "daemon/rpc.h"

/*
 * "disk.resize" of {"disk": NAME, "size": BYTES or "20G"}; without "size": as large as its file has
 * become. An rpc_method's call, @ctx the struct status. Answers {"capacity": BYTES, "grown":
 * BYTES}.
 */
json_t *disk_resize_call(void *ctx, const json_t *params, struct rpc_error *err);

/*
 * "disk.limit" of {"disk": NAME, "limit": {"iops": "20k", …}}: the keys of a configuration's limit,
 * as numbers or text; 0 takes one away, and those that are not named stay. Without "limit" nothing
 * changes. Answers with all limits there are, as numbers.
 */
json_t *disk_limit_call(void *ctx, const json_t *params, struct rpc_error *err);

/* "disk.retry" of {"disk": NAME}: what waits for the disk to work tries now. {"waiting": n}. */
json_t *disk_retry_call(void *ctx, const json_t *params, struct rpc_error *err);

#endif
