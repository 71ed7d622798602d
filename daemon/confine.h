/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's way into its sandbox (daemon/sandbox.h), and what became of it. */
#ifndef SLUICE_DAEMON_CONFINE_H
#define SLUICE_DAEMON_CONFINE_H

#include "base/compiler.h"

struct appliance;

struct confinement {
	const char *seccomp; /* "tight", "tcp", "tls", "dpdk", "off" */
	int landlock;	     /* the kernel's version; 0: it does not hold us */
	char why[256];	     /* what is off, and why; empty: all is on that can be */
};

/*
 * Control thread. All is set up and open; the workers run. What the kernel does not have is left
 * out and said: a daemon that serves without a sandbox is better than none. @control_path: of the
 * control socket, may be empty.
 */
void confine(const struct appliance *a, const char *control_path, struct confinement *out);

/*
 * Control thread, while it is the only one and nothing is open. The processes that wait for pages
 * of guests (vhost/pager.h): as the user that we become, and in filters of their own. await: before
 * the first front-end is answered, they are ready or there is no postcopy.
 */
void prepare_postcopy(struct appliance *a);
void await_postcopy(void);

#endif
