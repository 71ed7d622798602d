/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration as plain structs: what a file, or the options of a single device, asked for.
 * Every default is filled in; nothing has been opened yet.
 */
#ifndef SLUICE_DAEMON_CONFIG_H
#define SLUICE_DAEMON_CONFIG_H

#include "base/log.h"
#include "daemon/config_limit.h"
#include "daemon/schema.h"

#define CONFIG_FILE_DEFAULT "/etc/sluice/sluice.yaml"
#define CONFIG_FILE_MAX (1u << 20) /* bytes */

enum { LOG_CONFIG_LEVEL };
struct log_config {
	struct object at;
	int level; /* enum log_level */
};

enum { CONTROL_SOCKET, CONTROL_MODE, CONTROL_GROUP };
struct control_config {
	struct object at;
	char *socket; /* NULL: the default of the user that runs it */
	int mode;
	char *group;
};

enum { WORKERS_CPUS, WORKERS_COUNT, WORKERS_IDLE, WORKERS_IDLE_US };
struct worker_config {
	struct object at;
	struct cpu_list cpus;
	uint32_t count;
	int idle; /* enum idle_mode */
	uint32_t idle_us;
};

/* Where a device meets its front-end; the same keys in disks and in ports. */
struct socket_config {
	char *path;
	bool connect;
	int mode; /* -1: by umask */
	char *group;
};

enum {
	DISK_NAME,
	DISK_SOCKET,
	DISK_CONNECT,
	DISK_MODE,
	DISK_GROUP,
	DISK_SOURCE_FILE,
	DISK_SOURCE_NULL,
	DISK_SOURCE_RAM,
	DISK_SOURCE_NBD,
	DISK_CONNECTIONS,
	DISK_RECONNECT,
	DISK_TIMEOUT,
	DISK_READ_ONLY,
	DISK_CACHE,
	DISK_LOCK,
	DISK_DISCARDS,
	DISK_QUEUES,
	DISK_SERIAL,
	DISK_LIMIT,
	DISK_ON_ERROR,
};
struct disk_config {
	struct object at;
	char *name;
	struct socket_config socket;
	char *file, *nbd;			      /* one of these four */
	uint64_t null_size, ram_size;		      /* bytes */
	uint32_t connections, reconnect_s, timeout_s; /* of nbd */
	bool read_only;
	int cache; /* enum disk_cache */
	int lock;  /* enum disk_lock */
	bool discard;
	uint32_t queues;
	char *serial;
	struct limit_config limit;
	int on_error; /* enum disk_on_error */
};

enum {
	PORT_NAME,
	PORT_SOCKET,
	PORT_CONNECT,
	PORT_MODE,
	PORT_GROUP,
	PORT_QUEUES,
	PORT_MAC,
	PORT_MTU,
	PORT_SPEED,
	PORT_DPDK,
	PORT_VLAN_ACCESS,
	PORT_TRUNK,
	PORT_NATIVE,
	PORT_LIMIT,
	PORT_IS_ISOLATED,
	PORT_MACS,
	PORT_IPS,
	PORT_STATIC_MACS,
	PORT_MAC_MAX,
	PORT_FLOOD_LIMIT,
};
/* A second; 0: no limit. Bursts 0: the default. */
struct rate_config {
	struct object at;
	uint64_t bits, bits_burst, packets, packets_burst;
};

/* Named as the guest sees it. */
struct port_limit_config {
	struct object at;
	struct rate_config rx, tx;
};

struct flood_limit_config {
	struct object at;
	uint64_t broadcast, unknown; /* packets a second; 0: no limit */
};

struct port_config {
	struct object at;
	char *name;
	struct socket_config socket; /* a guest port, or … */
	char *dpdk;		     /* … an ethdev: the other is NULL */
	uint32_t queues;	     /* pairs */
	uint8_t mac[6];		     /* given: schema_given(p, PORT_MAC) */
	uint32_t mtu;		     /* 0: not offered */
	uint32_t speed;		     /* Mbit/s; 0: not told */
	uint32_t vlan;		     /* of an access port; 0: it is none */
	struct vlan_list trunk;
	uint32_t native; /* of a trunk; 0: it takes no frames without a tag */
	struct port_limit_config limit;
	bool isolated;
	struct value_macs macs, static_macs;
	struct value_ips ips;
	uint32_t mac_max; /* 0: as the network's table goes */
	struct flood_limit_config flood_limit;
};

enum { NETWORK_NAME, NETWORK_MAC_AGEING, NETWORK_MAC_MAX, NETWORK_PORTS };
struct network_config {
	struct object at;
	char *name;
	uint32_t mac_ageing_s, mac_max; /* 0: the switch's own default */
	struct object_list ports;	/* struct port_config */
};

enum {
	CONFIG_USER,
	CONFIG_GROUP,
	CONFIG_SANDBOX,
	CONFIG_CONTROL,
	CONFIG_LOG,
	CONFIG_WORKERS,
	CONFIG_NETWORKS,
	CONFIG_DISKS,
};
struct config {
	struct object at;
	char *user, *group; /* NULL: the default */
	bool sandbox;
	struct control_config control;
	struct log_config log;
	struct worker_config workers;
	struct object_list networks; /* struct network_config */
	struct object_list disks;    /* struct disk_config */
};

extern const struct schema config_schema, disk_schema, port_schema, network_schema, workers_schema,
	control_schema;

static inline struct disk_config *config_disk(const struct config *c, unsigned i)
{
	return (struct disk_config *)c->disks.items + i;
}

static inline struct network_config *config_network(const struct config *c, unsigned i)
{
	return (struct network_config *)c->networks.items + i;
}

static inline struct port_config *config_port(const struct network_config *n, unsigned i)
{
	return (struct port_config *)n->ports.items + i;
}

/*
 * Reads and checks @file. @return the configuration, or NULL with every problem found in @p (whose
 * file is @file from then on).
 */
struct config *config_load(const char *file, struct problems *p);

/* The same for a text in memory; @p->file is what the caller set. */
struct config *config_parse(const char *yaml, size_t len, struct problems *p);

/* The rules that take more than one key: of one object, and between objects. */
void config_check(const struct config *c, struct problems *p);

/*
 * Of one object, where we are in the sandbox and cannot look for groups: who made the socket file
 * has seen to them.
 */
void config_check_disk(const struct disk_config *d, struct problems *p);
void config_check_port(const struct port_config *port, struct problems *p);

/* An empty one with all the defaults. */
struct config *config_new(void);
void config_free(struct config *c);

#endif
