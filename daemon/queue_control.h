/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator may ask of a running queue over the control socket. Control thread. */
#ifndef SLUICE_DAEMON_QUEUE_CONTROL_H
#define SLUICE_DAEMON_QUEUE_CONTROL_H

#include "daemon/rpc.h"

/*
 * "queue.move" of {"device": NAME, "queue": INDEX, "worker": INDEX}: an rpc_method's call, @ctx the
 * struct status. Answers {"moved": true}, or false where requests in flight finish first.
 */
json_t *queue_move_call(void *ctx, const json_t *params, struct rpc_error *err);

#endif
