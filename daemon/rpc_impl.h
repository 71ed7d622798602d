/* SPDX-License-Identifier: Apache-2.0 */
/* What rpc.c, which moves bytes, and rpc_answer.c, which knows their meaning, share. */
#ifndef SLUICE_DAEMON_RPC_IMPL_H
#define SLUICE_DAEMON_RPC_IMPL_H

#include "daemon/rpc.h"

struct rpc_client;

struct rpc_reply {
	json_t *id;		   /* NULL: a notification */
	struct rpc_client *client; /* who waits; NULL: nobody, yet or any more */
	bool outlives; /* the method has returned; before that an answer is kept here: */
	bool finished;
	char *text;
};

/*
 * As rpc_answer(), with all that @r brings (its params and id are set here). Where @r->later is set
 * afterwards, the answer comes by client_answered().
 */
char *rpc_dispatch(const struct rpc_config *cfg, const char *line, size_t len,
		   struct rpc_request *r);

/* What @c waited for; NULL: nothing to say. */
void client_answered(struct rpc_client *c, char *text);

#endif
