/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that a running daemon serves: disks, networks and their ports, and the workers under them.
 * Control thread throughout.
 *
 * A device that cannot be opened stays in its list with the reason, so that status shows it, and
 * takes nothing away from the others.
 */
#ifndef SLUICE_DAEMON_APPLIANCE_H
#define SLUICE_DAEMON_APPLIANCE_H

#include "base/image_file.h"
#include "blk/blk.h"
#include "daemon/config.h"
#include "daemon/confine.h"
#include "net/net.h"

#include <sys/queue.h>

struct identity;

struct disk_entry {
	TAILQ_ENTRY(disk_entry) link;
	struct appliance *appliance;
	const struct disk_config *config; /* borrowed from the configuration, or @own */
	struct disk_config *own;	  /* of a disk that was added later */
	struct blk_device *device;	  /* NULL: not open */
	char *failure;			  /* why not; owned */
	void (*removed)(void *arg);	  /* NULL: it stays */
	void *removed_arg;
};

/* What somebody else has opened for a device, because we may not; -1: we open it by its path. */
struct device_files {
	int socket;
	struct image_file image;
};

struct port_entry {
	TAILQ_ENTRY(port_entry) link;
	struct appliance *appliance;
	struct network_entry *network;
	const struct port_config *config; /* borrowed from the configuration, or @own */
	struct port_config *own;	  /* of a port that was added later */
	struct port_config *changed;	  /* @config with the rules of port.set; NULL: never */
	struct net_device *guest;	  /* one of these two, or none: not open */
	struct dpdk_port *dpdk;
	char *failure;
	void (*removed)(void *arg); /* NULL: it stays */
	void *removed_arg;
};

/* What @p goes by now. */
static inline const struct port_config *port_config_now(const struct port_entry *p)
{
	return p->changed ? p->changed : p->config;
}

struct network_entry {
	TAILQ_ENTRY(network_entry) link;
	const struct network_config *config; /* as a port's */
	struct network_config *own;
	struct net_switch *sw; /* NULL: not made */
	TAILQ_HEAD(port_list, port_entry) ports;
};

struct appliance {
	const struct config *config; /* borrowed */
	const char *config_file;     /* NULL: from the command line */
	const struct identity *identity;
	struct workers *workers;
	TAILQ_HEAD(disk_list, disk_entry) disks;
	TAILQ_HEAD(network_list, network_entry) networks;
	struct confinement confinement; /* the sandbox; all zero before it is entered */
	unsigned n_open, n_failed;	/* devices */
	uint64_t started_ns;		/* clock_ns() */
	unsigned closing; /* closed() calls to come, and one for appliance_close() itself */
	void (*closed)(struct appliance *a);
	void (*progress)(
		struct appliance *a); /* something has been closed; NULL: does not matter */
	/* The front-end of a device with an fd of its own has gone; NULL: does not matter. */
	void (*hung_up)(struct appliance *a);
};

/* @return 0, or -errno with @err: the workers could not be started. Then nothing is left to close.
 */
int appliance_start(struct appliance *a, struct error *err);

/*
 * Opens every device, logs each that fails. @fd: the socket of the one device that has no path, or
 * -1; taken over.
 */
void appliance_open(struct appliance *a, int fd);

/*
 * The same for one more disk, while others run. Takes over @files, and @config (from malloc, filled
 * by disk_schema) if it succeeds. @return 0 or -errno with @err.
 */
int appliance_add_disk(struct appliance *a, struct disk_config *config, struct device_files *files,
		       struct error *err);

/*
 * Lets what is in flight finish, closes the device, forgets @e and calls removed(arg); maybe from
 * within. Once. Others run on.
 */
void appliance_remove_disk(struct disk_entry *e, void (*removed)(void *arg), void *arg);

/* As with disks. A port of a guest; @config is filled by port_schema. */
int appliance_add_port(struct network_entry *n, struct appliance *a, struct port_config *config,
		       struct device_files *files, struct error *err);
void appliance_remove_port(struct port_entry *e, void (*removed)(void *arg), void *arg);

/* A network without ports; @config is filled by network_schema. It is removed without any, too. */
int appliance_add_network(struct appliance *a, struct network_config *config, struct error *err);
void appliance_remove_network(struct appliance *a, struct network_entry *n);

struct network_entry *appliance_find_network(const struct appliance *a, const char *name);
struct port_entry *appliance_find_port(const struct appliance *a, const char *name);
struct disk_entry *appliance_find_disk(const struct appliance *a, const char *name);

/* @return "disk web-root", a device that has this name or this socket's path; else NULL. */
const char *appliance_taken(const struct appliance *a, const char *name, const char *socket,
			    char out[80]);

/* Drains and closes every device, stops the workers, frees the lists, then calls closed(). */
void appliance_close(struct appliance *a, void (*closed)(struct appliance *a));

/* "disk web-root, port web" of the devices that are still open; "workers" when only these are. */
void appliance_list_open(const struct appliance *a, char *out, size_t size);

#endif
