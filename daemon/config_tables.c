/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of a configuration: sluice.yaml(5) as tables. */
#include "daemon/config.h"

#include "blk/blk.h"
#include "poll/worker.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static const char *const levels[] = { "error", "warn", "info", "debug", NULL };
static_assert(LOG_LEVEL_ERROR == 0 && LOG_LEVEL_DEBUG == 3, "levels[] is indexed by log_level");
static const char *const idles[] = { "adaptive", "poll", NULL };
static_assert(IDLE_ADAPTIVE == 0 && IDLE_POLL == 1, "idles[] is indexed by idle_mode");
static const char *const caches[] = { "none", "writeback", "writethrough", "unsafe", NULL };
static const char *const on_errors[] = { "report", "stop", NULL };
static_assert(DISK_ERROR_STOP == 1, "on_errors[]: by disk_on_error");
static const char *const locks[] = { "open", "run", NULL };
static_assert(DISK_LOCK_OPEN == 0 && DISK_LOCK_RUN == 1, "locks[]: by disk_lock");
static_assert(DISK_CACHE_NONE == 0 && DISK_CACHE_UNSAFE == 3, "caches[]: by disk_cache");

#define SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)
#define NAME_BYTES_MAX 63
#define MTU_MIN 68 /* virtio 1.3 5.1.4.1: mtu is from 68 to 65535 */
#define MTU_MAX 65535
#define SPEED_MAX 0x7fffffff /* virtio 1.3 5.1.4 */
#define SERIAL_MAX 20	     /* virtio 1.3 5.2.6.1: VIRTIO_BLK_T_GET_ID takes 20 bytes */

static const char *name_rule(const void *value)
{
	const char *name = value;

	if (!isalnum((unsigned char)name[0]))
		return "does not start with a letter or digit; names do";
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
			return "is not a name; use letters, digits, \".\", \"_\" and \"-\"";
	return NULL;
}

static const char *mac_rule(const void *value)
{
	const uint8_t *mac = value;

	if (mac[0] & 1)
		return "is a multicast address; a card's has an even first byte";
	for (unsigned i = 0; i < 6; i++)
		if (mac[i])
			return NULL;
	return "is no address; leave the key out to let the VMM choose one";
}

static const char *sectors_rule(const void *value)
{
	const uint64_t *size = value;

	if (*size == 0)
		return "is empty; a disk has at least one sector of 512 bytes";
	if (*size % 512)
		return "is not a multiple of the sector size, 512 bytes";
	if (*size > INT64_MAX)
		return "is more than a disk can have, 8 EiB";
	return NULL;
}

#define NAME(s)                                                                                   \
	{                                                                                         \
		.key = "name", .kind = FIELD_TEXT, .offset = offsetof(s, name), .required = true, \
		.max = NAME_BYTES_MAX, .what = "a name", .rule = name_rule                        \
	}

/* The keys that say where a device meets its front-end; @s has a member socket. */
#define SOCKET_PATH(s)                                                \
	.key = "socket", .option = "socket-path", .kind = FIELD_TEXT, \
	.offset = offsetof(s, socket.path), .max = SOCKET_PATH_MAX,   \
	.what = "the path of a unix socket"
#define SOCKET_CONNECT(s) \
	.key = "connect", .kind = FIELD_BOOL, .offset = offsetof(s, socket.connect)
#define SOCKET_MODE(s) .key = "mode", .kind = FIELD_MODE, .offset = offsetof(s, socket.mode)
#define SOCKET_GROUP(s)                                                          \
	.key = "group", .kind = FIELD_TEXT, .offset = offsetof(s, socket.group), \
	.what = "the name of a group"

#define D(member) .offset = offsetof(struct disk_config, member)
static const struct field disk_fields[] = {
	[DISK_NAME] = NAME(struct disk_config),
	[DISK_SOCKET] = { SOCKET_PATH(struct disk_config), .required = true },
	[DISK_CONNECT] = { SOCKET_CONNECT(struct disk_config) },
	[DISK_MODE] = { SOCKET_MODE(struct disk_config) },
	[DISK_GROUP] = { SOCKET_GROUP(struct disk_config) },
	[DISK_SOURCE_FILE] = { .key = "file",
			       .option = "blk-file",
			       .kind = FIELD_TEXT,
			       D(file),
			       .what = "the path of a raw image or block device" },
	[DISK_SOURCE_NULL] = { .key = "null",
			       .kind = FIELD_SIZE,
			       D(null_size),
			       .rule = sectors_rule },
	[DISK_SOURCE_RAM] = { .key = "ram", .kind = FIELD_SIZE, D(ram_size), .rule = sectors_rule },
	[DISK_SOURCE_NBD] = { .key = "nbd",
			      .kind = FIELD_TEXT,
			      D(nbd),
			      .what = "the URI of an NBD export",
			      .max = 2000 },
	[DISK_CONNECTIONS] = { .key = "connections",
			       .kind = FIELD_NUMBER,
			       D(connections),
			       .min = 1,
			       .max = 16 },
	[DISK_RECONNECT] = { .key = "reconnect",
			     .kind = FIELD_NUMBER,
			     D(reconnect_s),
			     .min = 0,
			     .max = 1000000 },
	[DISK_TIMEOUT] = { .key = "timeout",
			   .kind = FIELD_NUMBER,
			   D(timeout_s),
			   .min = 0,
			   .max = 1000000 },
	[DISK_READ_ONLY] = { .key = "read_only",
			     .option = "read-only",
			     .kind = FIELD_BOOL,
			     D(read_only) },
	[DISK_CACHE] = { .key = "cache", .kind = FIELD_CHOICE, D(cache), .choices = caches },
	[DISK_LOCK] = { .key = "lock", .kind = FIELD_CHOICE, D(lock), .choices = locks },
	[DISK_DISCARDS] = { .key = "discard", .kind = FIELD_BOOL, D(discard) },
	[DISK_QUEUES] = { .key = "queues", .kind = FIELD_NUMBER, D(queues), .min = 1, .max = 256 },
	[DISK_SERIAL] = { .key = "serial", .kind = FIELD_TEXT, D(serial), .max = SERIAL_MAX },
	[DISK_LIMIT] = { .key = "limit", .kind = FIELD_MAP, D(limit), .of = &limit_schema },
	[DISK_ON_ERROR] = { .key = "on_error",
			    .kind = FIELD_CHOICE,
			    D(on_error),
			    .choices = on_errors },
};

static void disk_defaults(void *obj)
{
	struct disk_config *d = obj;

	d->socket.mode = -1;
	d->discard = true;
	d->connections = 1;
	d->reconnect_s = 30;
	d->timeout_s = 30;
	d->queues = 1;
}

const struct schema disk_schema = { sizeof(struct disk_config), ARRAY_SIZE(disk_fields),
				    disk_fields, disk_defaults };

#define R(name)                                                                                  \
	{                                                                                        \
		.key = #name, .kind = FIELD_COUNT, .offset = offsetof(struct rate_config, name), \
		.rule = port_rate_rule                                                           \
	}
static const struct field rate_fields[] = {
	R(bits),
	R(bits_burst),
	R(packets),
	R(packets_burst),
};
static const struct schema rate_schema = { sizeof(struct rate_config), ARRAY_SIZE(rate_fields),
					   rate_fields, NULL };

#define L(member) .offset = offsetof(struct port_limit_config, member)
static const struct field port_limit_fields[] = {
	{ .key = "rx", .kind = FIELD_MAP, L(rx), .of = &rate_schema },
	{ .key = "tx", .kind = FIELD_MAP, L(tx), .of = &rate_schema },
};
static const struct schema port_limit_schema = { sizeof(struct port_limit_config),
						 ARRAY_SIZE(port_limit_fields), port_limit_fields,
						 NULL };

#define F(member) .offset = offsetof(struct flood_limit_config, member)
static const struct field flood_limit_fields[] = {
	{ .key = "broadcast", .kind = FIELD_COUNT, F(broadcast), .rule = port_rate_rule },
	{ .key = "unknown", .kind = FIELD_COUNT, F(unknown), .rule = port_rate_rule },
};
static const struct schema flood_limit_schema = { sizeof(struct flood_limit_config),
						  ARRAY_SIZE(flood_limit_fields),
						  flood_limit_fields, NULL };

#define P(member) .offset = offsetof(struct port_config, member)
static const struct field port_fields[] = {
	[PORT_NAME] = NAME(struct port_config),
	[PORT_SOCKET] = { SOCKET_PATH(struct port_config) },
	[PORT_CONNECT] = { SOCKET_CONNECT(struct port_config) },
	[PORT_MODE] = { SOCKET_MODE(struct port_config) },
	[PORT_GROUP] = { SOCKET_GROUP(struct port_config) },
	[PORT_QUEUES] = { .key = "queues", .kind = FIELD_NUMBER, P(queues), .min = 1, .max = 127 },
	[PORT_MAC] = { .key = "mac", .kind = FIELD_MAC, P(mac), .rule = mac_rule },
	[PORT_MTU] = { .key = "mtu", .kind = FIELD_NUMBER, P(mtu), .min = MTU_MIN, .max = MTU_MAX },
	[PORT_SPEED] = { .key = "speed",
			 .kind = FIELD_NUMBER,
			 P(speed),
			 .min = 1,
			 .max = SPEED_MAX },
	[PORT_DPDK] = { .key = "dpdk",
			.kind = FIELD_TEXT,
			P(dpdk),
			.what = "a PCI address or a DPDK device string" },
	[PORT_VLAN_ACCESS] = { .key = "vlan",
			       .kind = FIELD_NUMBER,
			       P(vlan),
			       .min = 1,
			       .max = VALUE_VLAN_MAX },
	[PORT_TRUNK] = { .key = "trunk", .kind = FIELD_VLANS, P(trunk) },
	[PORT_NATIVE] = { .key = "native",
			  .kind = FIELD_NUMBER,
			  P(native),
			  .min = 1,
			  .max = VALUE_VLAN_MAX },
	[PORT_LIMIT] = { .key = "limit", .kind = FIELD_MAP, P(limit), .of = &port_limit_schema },
	[PORT_IS_ISOLATED] = { .key = "isolated", .kind = FIELD_BOOL, P(isolated) },
	[PORT_MACS] = { .key = "macs", .kind = FIELD_MACS, P(macs) },
	[PORT_IPS] = { .key = "ips", .kind = FIELD_IPS, P(ips) },
	[PORT_STATIC_MACS] = { .key = "static_macs", .kind = FIELD_MACS, P(static_macs) },
	[PORT_MAC_MAX] = { .key = "mac_max",
			   .kind = FIELD_NUMBER,
			   P(mac_max),
			   .min = 1,
			   .max = 1048576 },
	[PORT_FLOOD_LIMIT] = { .key = "flood_limit",
			       .kind = FIELD_MAP,
			       P(flood_limit),
			       .of = &flood_limit_schema },
};

static void port_defaults(void *obj)
{
	struct port_config *p = obj;

	p->socket.mode = -1;
	p->queues = 1;
}

const struct schema port_schema = { sizeof(struct port_config), ARRAY_SIZE(port_fields),
				    port_fields, port_defaults };

#define N(member) .offset = offsetof(struct network_config, member)
static const struct field network_fields[] = {
	[NETWORK_NAME] = NAME(struct network_config),
	[NETWORK_MAC_AGEING] = { .key = "mac_ageing",
				 .kind = FIELD_NUMBER,
				 N(mac_ageing_s),
				 .min = 1,
				 .max = 1000000 },
	[NETWORK_MAC_MAX] = { .key = "mac_max",
			      .kind = FIELD_NUMBER,
			      N(mac_max),
			      .min = 1,
			      .max = 1048576 },
	[NETWORK_PORTS] = { .key = "ports", .kind = FIELD_LIST, N(ports), .of = &port_schema },
};

const struct schema network_schema = { sizeof(struct network_config), ARRAY_SIZE(network_fields),
				       network_fields, NULL };

#define W(member) .offset = offsetof(struct worker_config, member)
static const struct field workers_fields[] = {
	[WORKERS_CPUS] = { .key = "cpus", .option = "cpu", .kind = FIELD_CPUS, W(cpus) },
	[WORKERS_COUNT] = { .key = "count", .kind = FIELD_NUMBER, W(count), .min = 1, .max = 256 },
	[WORKERS_IDLE] = { .key = "idle", .kind = FIELD_CHOICE, W(idle), .choices = idles },
	[WORKERS_IDLE_US] = { .key = "idle_us",
			      .kind = FIELD_NUMBER,
			      W(idle_us),
			      .min = 1,
			      .max = 1000000 },
};

static void workers_defaults(void *obj)
{
	struct worker_config *w = obj;

	w->count = 1;
	w->idle_us = WORKER_IDLE_US_DEFAULT;
}

const struct schema workers_schema = { sizeof(struct worker_config), ARRAY_SIZE(workers_fields),
				       workers_fields, workers_defaults };

#define C(member) .offset = offsetof(struct control_config, member)
static const struct field control_fields[] = {
	[CONTROL_SOCKET] = { .key = "socket",
			     .option = "control",
			     .kind = FIELD_TEXT,
			     C(socket),
			     .max = SOCKET_PATH_MAX,
			     .what = "the path of a unix socket" },
	[CONTROL_MODE] = { .key = "mode", .kind = FIELD_MODE, C(mode) },
	[CONTROL_GROUP] = { .key = "group",
			    .kind = FIELD_TEXT,
			    C(group),
			    .what = "the name of a group" },
};

static void control_defaults(void *obj)
{
	struct control_config *c = obj;

	c->mode = 0660;
}

const struct schema control_schema = { sizeof(struct control_config), ARRAY_SIZE(control_fields),
				       control_fields, control_defaults };

static const struct field log_fields[] = {
	[LOG_CONFIG_LEVEL] = { .key = "level",
			       .kind = FIELD_CHOICE,
			       .offset = offsetof(struct log_config, level),
			       .choices = levels },
};

static void log_defaults(void *obj)
{
	struct log_config *l = obj;

	l->level = LOG_LEVEL_INFO;
}

static const struct schema log_schema = { sizeof(struct log_config), ARRAY_SIZE(log_fields),
					  log_fields, log_defaults };

#define T(member) .offset = offsetof(struct config, member)
static const struct field config_fields[] = {
	[CONFIG_USER] = { .key = "user",
			  .kind = FIELD_TEXT,
			  T(user),
			  .what = "the name of a user" },
	[CONFIG_GROUP] = { .key = "group",
			   .kind = FIELD_TEXT,
			   T(group),
			   .what = "the name of a group" },
	[CONFIG_SANDBOX] = { .key = "sandbox",
			     .option = "no-sandbox",
			     .kind = FIELD_BOOL,
			     T(sandbox) },
	[CONFIG_CONTROL] = { .key = "control",
			     .kind = FIELD_MAP,
			     T(control),
			     .of = &control_schema },
	[CONFIG_LOG] = { .key = "log", .kind = FIELD_MAP, T(log), .of = &log_schema },
	[CONFIG_WORKERS] = { .key = "workers",
			     .kind = FIELD_MAP,
			     T(workers),
			     .of = &workers_schema },
	[CONFIG_NETWORKS] = { .key = "networks",
			      .kind = FIELD_LIST,
			      T(networks),
			      .of = &network_schema },
	[CONFIG_DISKS] = { .key = "disks", .kind = FIELD_LIST, T(disks), .of = &disk_schema },
};

static void config_defaults(void *obj)
{
	struct config *c = obj;

	c->sandbox = true;
}

const struct schema config_schema = { sizeof(struct config), ARRAY_SIZE(config_fields),
				      config_fields, config_defaults };

struct config *config_new(void)
{
	struct config *c = malloc(sizeof(*c));

	if (!c)
		abort();
	schema_init(&config_schema, c, "", 0);
	return c;
}

void config_free(struct config *c)
{
	if (!c)
		return;
	schema_free(&config_schema, c);
	free(c);
}
