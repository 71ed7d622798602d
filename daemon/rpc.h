/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: JSON-RPC 2.0 over a unix stream socket, one JSON text a line in both
 * directions. Control thread.
 *
 * Who may connect is a matter of the socket file's mode. Whoever may still can do no harm: requests
 * are bounded, one is answered a round, a client that does not read is not read from, and the
 * client that has been silent longest makes room for a new one. Descriptors come along with a
 * request for those methods that take them, and are closed wherever none does.
 */
#ifndef SLUICE_DAEMON_RPC_H
#define SLUICE_DAEMON_RPC_H

#include "base/compiler.h"
#include "daemon/rpc_fds.h"

#include <jansson.h>
#include <sys/socket.h>
#include <sys/types.h>

struct error;
struct rpc_server;

#define RPC_CLIENTS_MAX 16
#define RPC_REQUEST_MAX (64u << 10) /* bytes of a line */

/* JSON-RPC 2.0 "Error object" codes. */
#define RPC_PARSE_ERROR -32700
#define RPC_INVALID_REQUEST -32600
#define RPC_METHOD_NOT_FOUND -32601
#define RPC_INVALID_PARAMS -32602
#define RPC_INTERNAL_ERROR -32603

struct rpc_error {
	int code;
	char text[480];
};

struct rpc_reply; /* that somebody waits for */

struct rpc_request {
	const json_t *params; /* NULL: none; borrowed, until the method returns */
	struct rpc_fds *fds;  /* what came along; what the method does not take is closed */
	struct ucred peer;    /* who connected; pid 0: not known */
	const json_t *id;     /* rpc.c's own, as is what follows */
	struct rpc_reply *later;
};

struct rpc_method {
	const char *name;
	/*
	 * @params: the request's, NULL where it has none; borrowed. @return the result, a new
	 * reference, or NULL with @err filled.
	 */
	json_t *(*call)(void *ctx, const json_t *params, struct rpc_error *err);
	/* Instead of call(): takes descriptors, or answers later, by rpc_later(). */
	json_t *(*serve)(void *ctx, struct rpc_request *r, struct rpc_error *err);
	bool takes_fds;
};

/*
 * For serve(): the answer is rpc_finish()'s, what serve() returns does not matter. The client waits
 * until then, and may be gone by then. @return NULL: no memory, and nothing has changed.
 */
struct rpc_reply *rpc_later(struct rpc_request *r);

/* Once, maybe from within serve(). Takes over @result; NULL: @err says why. Frees @reply. */
void rpc_finish(struct rpc_reply *reply, json_t *result, const struct rpc_error *err);

/* For a method: RPC_INVALID_PARAMS with a sentence. @return NULL. */
PRINTF_LIKE(2, 3) json_t *rpc_refuse(struct rpc_error *err, const char *fmt, ...);

struct rpc_config {
	const char *path;
	mode_t mode;
	const struct rpc_method *methods; /* ends in a NULL name; borrowed, as is all else here */
	void *ctx;
	/* How long descriptors may wait for the rest of their line. 0: 10 s. */
	uint64_t fds_wait_us;
};

/* A socket that a live process listens on is refused; a stale one is replaced. 0 or -errno. */
int rpc_server_start(const struct rpc_config *cfg, struct rpc_server **out, struct error *err);

/* Hangs up, removes the socket file. NULL is fine. */
void rpc_server_stop(struct rpc_server *s);

/*
 * The reply to one line of @len bytes as text, malloc'ed, newline included; NULL for a
 * notification, and for what is answered later. On its own for tests.
 */
char *rpc_answer(const struct rpc_config *cfg, const char *line, size_t len);

#endif
