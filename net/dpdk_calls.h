/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sluiced and the module with its DPDK ports (sluice-dpdk.so) know of one another. In the
 * module net.h's calls are those of dpdk_port.c; in sluiced they are those of dpdk_load.c, which
 * loads the module for the first DPDK port and passes each call on.
 */
#ifndef SLUICE_NET_DPDK_CALLS_H
#define SLUICE_NET_DPDK_CALLS_H

#include "net/net.h"

#define DPDK_MODULE "sluice-dpdk.so"
/* Of the struct below. */
#define DPDK_MODULE_CALLS "sluice_dpdk_calls"

/* calls.port_create is dpdk_port_create(), and so on. */
#define DPDK_CALLS(X)          \
	X(port_create)         \
	X(port_close)          \
	X(port_port)           \
	X(port_set_down)       \
	X(port_set_limits)     \
	X(port_set_rules)      \
	X(port_config)         \
	X(port_how)            \
	X(capabilities_needed) \
	X(fini)

struct dpdk_calls {
	const char *version; /* SLUICE_VERSION: both know the same structures */
#define X(call) __typeof__(dpdk_##call) *call;
	DPDK_CALLS(X)
#undef X
};

#endif
