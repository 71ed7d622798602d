/* SPDX-License-Identifier: Apache-2.0 */
/* Networks and their ports, as the daemon sees them. Control thread throughout. */
#ifndef SLUICE_NET_NET_H
#define SLUICE_NET_NET_H

#include "net/switch.h"
#include "vhost/device.h"

struct error;
struct net_device; /* a guest port: a virtio-net device over vhost-user */
struct dpdk_port;

struct net_device_config {
	const char *name;
	const struct port_rules *rules; /* copied; NULL: none */
	struct vhost_socket socket;	/* taken over, also on failure */
	unsigned queue_pairs;		/* 1 to 127 */
	bool has_mac;
	uint8_t mac[6]; /* told to front-ends that ask (configuration space) */
	uint16_t mtu;	/* 0: not offered */
	uint32_t speed; /* Mbit/s that the link claims, full duplex; 0: it claims none */
};

/* @return 0 and *@out attached to @sw, or -errno with @err. */
int net_device_create(const struct net_device_config *cfg, struct net_switch *sw,
		      struct workers *workers, struct net_device **out, struct error *err);
/* Drains, detaches, frees @d, then calls closed(arg). */
void net_device_close(struct net_device *d, void (*closed)(void *arg), void *arg);
const struct vhost_device *net_device_vhost(const struct net_device *d);
void net_device_on_closed(struct net_device *d, void (*fn)(void *arg), void *arg);
const struct port *net_device_port(const struct net_device *d);
/*
 * At any time, and until it is undone: a port that is down drops what comes, and its guest sees no
 * link. @return whether the front-end is told at once; else it sees when it next asks, if it does.
 */
bool net_device_set_down(struct net_device *d, bool down);
/* At any time: the limits of @rules, see port_set_limits(). A guest that waits goes on by them. */
void net_device_set_limits(struct net_device *d, const struct port_rules *rules);
/* At any time: all of @rules but its limits. What was learned from the port is learned anew. */
void net_device_set_rules(struct net_device *d, const struct port_rules *rules);
const struct net_device_config *net_device_config(const struct net_device *d);

struct dpdk_port_config {
	const char *name;
	const char *device; /* a PCI address, or a vdev string ("net_tap0,iface=sluice0") */
	const struct port_rules *rules; /* copied; NULL: none */
};

/*
 * The first DPDK port starts EAL (without hugepages where there are none); a daemon without one
 * never does. @return 0 and *@out attached to @sw, or -errno with @err.
 */
int dpdk_port_create(const struct dpdk_port_config *cfg, struct net_switch *sw,
		     struct workers *workers, struct dpdk_port **out, struct error *err);
void dpdk_port_close(struct dpdk_port *p); /* detaches, stops, frees */
const struct port *dpdk_port_port(const struct dpdk_port *p);
void dpdk_port_set_down(struct dpdk_port *p, bool down);
void dpdk_port_set_limits(struct dpdk_port *p, const struct port_rules *rules);
void dpdk_port_set_rules(struct dpdk_port *p, const struct port_rules *rules);
const struct dpdk_port_config *dpdk_port_config(const struct dpdk_port *p);
/* Link, driver, offloads: one line for status. */
const char *dpdk_port_how(const struct dpdk_port *p);
/*
 * The Linux capabilities (CAP_*) that running DPDK ports still need after start, as a bit mask; 0
 * without one. The daemon keeps these when it drops root.
 */
uint64_t dpdk_capabilities_needed(void);
/* Stops EAL, if it was started. */
void dpdk_fini(void);

#endif
