/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that a client of the control socket sends beside its request (SCM_RIGHTS). */
#ifndef SLUICE_DAEMON_RPC_FDS_H
#define SLUICE_DAEMON_RPC_FDS_H

#include <stdbool.h>
#include <sys/types.h>

#define RPC_FDS_MAX 4 /* with one request */

struct disposal;

struct rpc_fds {
	unsigned n;
	int fd[RPC_FDS_MAX]; /* -1: somebody took it */
	bool lost;	     /* there were more, or no room for them here */
};

/*
 * recv() of @size bytes at most; descriptors that come along are added to @fds. @return as recv(),
 * but -errno for an error. @d: closes those that are too many (vhost/disposal.h).
 */
ssize_t rpc_fds_receive(int sock, void *buf, size_t size, struct rpc_fds *fds, struct disposal *d);

/* Closes what is left; whatever takes its time to close does not hold us up. */
void rpc_fds_close(struct rpc_fds *fds, struct disposal *d);

/* Is descriptor @i a unix stream socket? One that is not is better left here, to be closed. */
bool rpc_fds_is_stream(const struct rpc_fds *fds, unsigned i);

/* Takes out descriptor @i. @return it, or -1: there is none. */
int rpc_fds_take(struct rpc_fds *fds, unsigned i);

#endif
