/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon knows of itself, as JSON: the answer of the methods "status" and "version". */
#ifndef SLUICE_DAEMON_STATUS_H
#define SLUICE_DAEMON_STATUS_H

#include "daemon/appliance.h"
#include "daemon/rpc.h"

#include "poll/control.h"

/* How busy each worker has been lately: a sample a second, of counters that it keeps anyway. */
struct status {
	struct appliance *appliance;
	unsigned n_workers;
	struct status_sample {
		uint64_t cycles, busy;
	} * last, *before; /* one for each worker */
	sd_event_source *timer;
};

/* Control thread; the workers run. */
int status_start(struct status *s, struct appliance *a);
void status_stop(struct status *s);

/*
 * Methods of the control socket; their context is a struct status. status: of a network the number
 * of "addresses" that it knows, and for {"macs": NAME} also which, as far as they are not too many.
 */
json_t *status_call(void *ctx, const json_t *params, struct rpc_error *err);
json_t *version_call(void *ctx, const json_t *params, struct rpc_error *err);

/* {"iops": 20000, …}: those that are set. */
json_t *limit_json(const struct blk_limits *l);

#endif
