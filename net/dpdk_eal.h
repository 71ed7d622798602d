/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK's environment (EAL), as much of it as one daemon needs: started with the first DPDK port,
 * never without one. Control thread throughout. Only net/dpdk*.c know DPDK.
 */
#ifndef SLUICE_NET_DPDK_EAL_H
#define SLUICE_NET_DPDK_EAL_H

#include <stddef.h>

struct error;
struct rte_device;
struct workers;

/*
 * A DPDK port begins: starts EAL if it was not, and makes the workers threads that DPDK knows while
 * there is a port. Each successful call is paid back with eal_put(). @return 0 or -errno with @err.
 */
int eal_get(struct workers *workers, struct error *err);
void eal_put(void);
/* Stops EAL. It cannot be started again in this process. */
void eal_fini(void);

/*
 * Probes @device, a PCI address or a vdev string. @return 0 and its (first) port and device, or
 * -errno with @err, which repeats what DPDK had to say.
 */
int eal_probe(const char *device, unsigned short *port_id, struct rte_device **dev,
	      struct error *err);
/* Undoes eal_probe(); the port is stopped. */
void eal_remove(unsigned short port_id, struct rte_device *dev);

/*
 * What DPDK logs as an error in between is kept for eal_said() instead of becoming a warning of
 * ours: the caller is about to explain the failure itself, or has another way.
 */
void eal_listen(void);
void eal_unlisten(void);
/* The first error since eal_listen(), or "it gave no reason". */
const char *eal_said(void);

#endif
