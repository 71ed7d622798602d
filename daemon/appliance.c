/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/appliance.h"

#include "base/clock.h"
#include "base/error.h"
#include "daemon/port_rules.h"
#include "daemon/privilege.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *must_calloc(size_t size)
{
	void *p = calloc(1, size);

	if (!p)
		abort();
	return p;
}

static char *dup_or_null(const char *s)
{
	char *copy = s ? strdup(s) : NULL;

	if (s && !copy)
		abort();
	return copy;
}

int appliance_start(struct appliance *a, struct error *err)
{
	const struct worker_config *w = &a->config->workers;
	const struct workers_config cfg = {
		.cpus = w->cpus.n ? w->cpus.cpus : NULL,
		.n = w->cpus.n ? w->cpus.n : w->count,
		.idle = (enum idle_mode)w->idle,
		.idle_us = w->idle_us,
	};

	TAILQ_INIT(&a->disks);
	TAILQ_INIT(&a->networks);
	a->started_ns = clock_ns();
	return workers_start(&cfg, &a->workers, err);
}

/* The socket of one device, in the form that the device takes over. */
static struct vhost_socket make_socket(const struct socket_config *s, int fd)
{
	return (struct vhost_socket) {
		.path = dup_or_null(s->path),
		.fd = fd,
		.connect = s->connect,
		.mode = s->mode,
		.group = dup_or_null(s->group),
		.exit_on_disconnect = !s->path,
	};
}

static void count_result(struct appliance *a, const char *kind, const char *name, int rc,
			 const struct error *err, char **failure)
{
	const char *why = err->text[0] ? err->text : strerror(-rc);
	size_t len = strlen(name);

	if (rc == 0) {
		a->n_open++;
		return;
	}
	/* Parts below put the device's kind or name first; here they stand there already. */
	if (strncmp(why, kind, strlen(kind)) == 0 && why[strlen(kind)] == ' ' &&
	    strncmp(why + strlen(kind) + 1, name, len) == 0 && why[strlen(kind) + 1 + len] == ':')
		why += strlen(kind) + 1;
	if (strncmp(why, name, len) == 0 && strncmp(why + len, ": ", 2) == 0)
		why += len + 2;
	a->n_failed++;
	*failure = dup_or_null(why);
	log_error("%s %s: %s", kind, name, why);
}

static void hung_up(void *arg)
{
	struct appliance *a = arg;

	if (a->hung_up)
		a->hung_up(a);
}

static int open_disk(struct disk_entry *e, struct device_files *files, struct error *err)
{
	const struct disk_config *d = e->config;
	struct appliance *a = e->appliance;
	struct blk_config cfg = {
		.name = d->name,
		.socket = make_socket(&d->socket, files->socket),
		.kind = d->file	       ? DISK_FILE
			: d->nbd       ? DISK_NBD
			: d->null_size ? DISK_NULL
				       : DISK_RAM,
		.file = d->file,
		.image = files->image.fd >= 0 ? &files->image : NULL,
		.size = d->null_size ? d->null_size : d->ram_size,
		.nbd = d->nbd,
		.connections = d->connections,
		.reconnect_s = d->reconnect_s,
		.timeout_s = d->timeout_s,
		.cache = (enum disk_cache)d->cache,
		.lock = (enum disk_lock)d->lock,
		.read_only = d->read_only,
		.keep_space = !d->discard,
		.queues = d->queues,
		.serial = d->serial,
		.limits = d->limit.limits,
		.on_error = (enum disk_on_error)d->on_error,
	};
	int rc = blk_device_create(&cfg, a->workers, &e->device, err);

	if (rc)
		return rc;
	/* Who bound it for us has seen to that. */
	if (d->socket.path && !d->socket.connect && files->socket < 0)
		privilege_give(d->socket.path, d->socket.group, a->identity);
	blk_device_on_closed(e->device, hung_up, a);
	return 0;
}

static struct disk_entry *new_disk(struct appliance *a, const struct disk_config *d)
{
	struct disk_entry *e = must_calloc(sizeof(*e));

	e->appliance = a;
	e->config = d;
	TAILQ_INSERT_TAIL(&a->disks, e, link);
	return e;
}

static void free_disk(struct disk_entry *e)
{
	TAILQ_REMOVE(&e->appliance->disks, e, link);
	if (e->own)
		schema_free(&disk_schema, e->own);
	free(e->own);
	free(e->failure);
	free(e);
}

int appliance_add_disk(struct appliance *a, struct disk_config *config, struct device_files *files,
		       struct error *err)
{
	struct disk_entry *e = new_disk(a, config);
	int rc = open_disk(e, files, err);

	if (rc) {
		free_disk(e);
		return rc;
	}
	e->own = config;
	a->n_open++;
	return 0;
}

static int open_guest_port(struct network_entry *n, struct port_entry *e, int sock,
			   struct error *err)
{
	const struct port_config *p = e->config;
	const struct port_rules rules = port_rules_of(p);
	struct net_device_config cfg = {
		.name = p->name,
		.rules = &rules,
		.socket = make_socket(&p->socket, sock),
		.queue_pairs = p->queues,
		.has_mac = schema_given(p, PORT_MAC),
		.mtu = (uint16_t)p->mtu,
		.speed = p->speed,
	};
	int rc;

	memcpy(cfg.mac, p->mac, sizeof(cfg.mac));
	rc = net_device_create(&cfg, n->sw, e->appliance->workers, &e->guest, err);
	if (rc)
		return rc;
	/* Who bound it for us has seen to that. */
	if (p->socket.path && !p->socket.connect && sock < 0)
		privilege_give(p->socket.path, p->socket.group, e->appliance->identity);
	net_device_on_closed(e->guest, hung_up, e->appliance);
	return 0;
}

static int open_dpdk_port(struct network_entry *n, struct port_entry *e, struct error *err)
{
	const struct port_rules rules = port_rules_of(e->config);
	const struct dpdk_port_config cfg = { .name = e->config->name,
					      .device = e->config->dpdk,
					      .rules = &rules };

	return dpdk_port_create(&cfg, n->sw, e->appliance->workers, &e->dpdk, err);
}

static struct port_entry *new_port(struct appliance *a, struct network_entry *n,
				   const struct port_config *c)
{
	struct port_entry *e = must_calloc(sizeof(*e));

	e->appliance = a;
	e->network = n;
	e->config = c;
	TAILQ_INSERT_TAIL(&n->ports, e, link);
	return e;
}

static void free_port(struct port_entry *e)
{
	TAILQ_REMOVE(&e->network->ports, e, link);
	if (e->own)
		schema_free(&port_schema, e->own);
	free(e->own);
	if (e->changed)
		schema_free(&port_schema, e->changed);
	free(e->changed);
	free(e->failure);
	free(e);
}

static struct network_entry *new_network(struct appliance *a, const struct network_config *c)
{
	struct network_entry *n = must_calloc(sizeof(*n));

	TAILQ_INIT(&n->ports);
	n->config = c;
	TAILQ_INSERT_TAIL(&a->networks, n, link);
	return n;
}

static void free_network(struct appliance *a, struct network_entry *n)
{
	struct port_entry *p;

	while ((p = TAILQ_FIRST(&n->ports)))
		free_port(p);
	TAILQ_REMOVE(&a->networks, n, link);
	if (n->own)
		schema_free(&network_schema, n->own);
	free(n->own);
	free(n);
}

static int make_switch(struct appliance *a, struct network_entry *n, struct error *err)
{
	const struct switch_config cfg = {
		.name = n->config->name,
		.mac_ageing_s = n->config->mac_ageing_s,
		.mac_max = n->config->mac_max,
	};

	return switch_create(&cfg, a->workers, &n->sw, err);
}

static void open_network(struct appliance *a, const struct network_config *c, int fd)
{
	struct network_entry *n = new_network(a, c);
	struct error no_switch = { 0 };
	int made = make_switch(a, n, &no_switch);

	for (unsigned i = 0; i < c->ports.n; i++) {
		struct port_entry *e = new_port(a, n, config_port(c, i));
		struct error err = { 0 };
		int rc;

		if (made)
			rc = error_set(&err, made, "network %s: %s", c->name, no_switch.text);
		else if (e->config->dpdk)
			rc = open_dpdk_port(n, e, &err);
		else
			rc = open_guest_port(n, e, fd, &err);
		count_result(a, "port", e->config->name, rc, &err, &e->failure);
	}
}

int appliance_add_port(struct network_entry *n, struct appliance *a, struct port_config *config,
		       struct device_files *files, struct error *err)
{
	struct port_entry *e = new_port(a, n, config);
	int rc = open_guest_port(n, e, files->socket, err);

	if (rc) {
		free_port(e);
		return rc;
	}
	e->own = config;
	a->n_open++;
	return 0;
}

int appliance_add_network(struct appliance *a, struct network_config *config, struct error *err)
{
	struct network_entry *n = new_network(a, config);
	int rc = make_switch(a, n, err);

	if (rc)
		free_network(a, n);
	else
		n->own = config;
	return rc;
}

void appliance_remove_network(struct appliance *a, struct network_entry *n)
{
	assert(TAILQ_EMPTY(&n->ports));
	if (n->sw)
		switch_destroy(n->sw);
	free_network(a, n);
}

void appliance_open(struct appliance *a, int fd)
{
	for (unsigned i = 0; i < a->config->disks.n; i++) {
		struct device_files files = { fd, { -1, -1 } };
		struct disk_entry *e = new_disk(a, config_disk(a->config, i));
		struct error err = { 0 };
		int rc = open_disk(e, &files, &err);

		count_result(a, "disk", e->config->name, rc, &err, &e->failure);
	}
	for (unsigned i = 0; i < a->config->networks.n; i++)
		open_network(a, config_network(a->config, i), fd);
}

void appliance_list_open(const struct appliance *a, char *out, size_t size)
{
	const struct network_entry *n;
	const struct disk_entry *d;
	const struct port_entry *p;
	size_t used = 0;

	out[0] = '\0';
#define LIST(kind, name)                                                             \
	do {                                                                         \
		if (used < size)                                                     \
			used += (size_t)snprintf(out + used, size - used, "%s%s %s", \
						 used ? ", " : "", kind, name);      \
	} while (0)
	TAILQ_FOREACH (d, &a->disks, link) {
		if (d->device)
			LIST("disk", d->config->name);
	}
	TAILQ_FOREACH (n, &a->networks, link) {
		TAILQ_FOREACH (p, &n->ports, link) {
			if (p->guest || p->dpdk)
				LIST("port", p->config->name);
		}
	}
#undef LIST
	if (!used && a->workers)
		snprintf(out, size, "workers");
}

static void free_entries(struct appliance *a)
{
	struct network_entry *n;
	struct disk_entry *d;

	while ((d = TAILQ_FIRST(&a->disks)))
		free_disk(d); /* NOLINT(clang-analyzer-unix.Malloc): queue(3) */
	while ((n = TAILQ_FIRST(&a->networks)))
		free_network(a, n); /* NOLINT(clang-analyzer-unix.Malloc) */
}

/* Every guest device has gone; what stands under them can go in one go. */
static void close_rest(struct appliance *a)
{
	struct network_entry *n;
	struct port_entry *p;

	TAILQ_FOREACH (n, &a->networks, link) {
		TAILQ_FOREACH (p, &n->ports, link) {
			if (p->dpdk)
				dpdk_port_close(p->dpdk);
			p->dpdk = NULL;
		}
		if (n->sw)
			switch_destroy(n->sw);
		n->sw = NULL;
	}
	dpdk_fini();
	if (a->progress)
		a->progress(a);
	workers_stop(a->workers);
	a->workers = NULL;
	free_entries(a);
	a->closed(a);
}

static void one_closed(struct appliance *a)
{
	if (a->progress)
		a->progress(a);
	if (--a->closing == 0)
		close_rest(a);
}

static void forget_disk(struct disk_entry *d)
{
	void (*removed)(void *arg) = d->removed;
	void *arg = d->removed_arg;

	free_disk(d);
	removed(arg);
}

static void disk_closed(void *arg)
{
	struct disk_entry *d = arg;
	struct appliance *a = d->appliance;

	d->device = NULL;
	if (d->removed) {
		a->n_open--;
		forget_disk(d);
	}
	if (a->closing)
		one_closed(a);
}

void appliance_remove_disk(struct disk_entry *d, void (*removed)(void *arg), void *arg)
{
	assert(!d->removed);
	d->removed = removed;
	d->removed_arg = arg;
	if (d->device) {
		blk_device_close(d->device, disk_closed, d);
		return;
	}
	d->appliance->n_failed--;
	forget_disk(d);
}

struct disk_entry *appliance_find_disk(const struct appliance *a, const char *name)
{
	struct disk_entry *d;

	TAILQ_FOREACH (d, &a->disks, link) {
		if (strcmp(d->config->name, name) == 0)
			return d;
	}
	return NULL;
}

static bool is_same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

const char *appliance_taken(const struct appliance *a, const char *name, const char *socket,
			    char out[80])
{
	const struct network_entry *n;
	const struct disk_entry *d;
	const struct port_entry *p;

	TAILQ_FOREACH (d, &a->disks, link) {
		if (is_same(d->config->name, name) || is_same(d->config->socket.path, socket)) {
			snprintf(out, 80, "disk %s", d->config->name);
			return out;
		}
	}
	TAILQ_FOREACH (n, &a->networks, link) {
		TAILQ_FOREACH (p, &n->ports, link) {
			if (is_same(p->config->name, name) ||
			    is_same(p->config->socket.path, socket)) {
				snprintf(out, 80, "port %s", p->config->name);
				return out;
			}
		}
	}
	return NULL;
}

static void forget_port(struct port_entry *p)
{
	void (*removed)(void *arg) = p->removed;
	void *arg = p->removed_arg;

	free_port(p);
	removed(arg);
}

static void port_closed(void *arg)
{
	struct port_entry *p = arg;
	struct appliance *a = p->appliance;

	p->guest = NULL;
	if (p->removed) {
		a->n_open--;
		forget_port(p);
	}
	if (a->closing)
		one_closed(a);
}

void appliance_remove_port(struct port_entry *p, void (*removed)(void *arg), void *arg)
{
	assert(!p->removed);
	p->removed = removed;
	p->removed_arg = arg;
	if (p->guest) {
		net_device_close(p->guest, port_closed, p);
		return;
	}
	if (p->dpdk) {
		dpdk_port_close(p->dpdk);
		p->appliance->n_open--;
	} else {
		p->appliance->n_failed--;
	}
	forget_port(p);
}

struct network_entry *appliance_find_network(const struct appliance *a, const char *name)
{
	struct network_entry *n;

	TAILQ_FOREACH (n, &a->networks, link) {
		if (strcmp(n->config->name, name) == 0)
			return n;
	}
	return NULL;
}

struct port_entry *appliance_find_port(const struct appliance *a, const char *name)
{
	struct network_entry *n;
	struct port_entry *p;

	TAILQ_FOREACH (n, &a->networks, link) {
		TAILQ_FOREACH (p, &n->ports, link) {
			if (strcmp(p->config->name, name) == 0)
				return p;
		}
	}
	return NULL;
}

void appliance_close(struct appliance *a, void (*closed)(struct appliance *a))
{
	struct network_entry *n;
	struct disk_entry *d;
	struct port_entry *p;

	assert(!a->closing);
	a->hung_up = NULL;
	a->closed = closed;
	a->closing = 1; /* ours: a device may be closed at once, and must not end it all */
	TAILQ_FOREACH (n, &a->networks, link) {
		TAILQ_FOREACH (p, &n->ports, link) {
			if (!p->guest)
				continue;
			a->closing++;
			if (!p->removed) /* else it is being closed already */
				net_device_close(p->guest, port_closed, p);
		}
	}
	TAILQ_FOREACH (d, &a->disks, link) {
		if (!d->device)
			continue;
		a->closing++;
		if (!d->removed) /* else it is being closed already */
			blk_device_close(d->device, disk_closed, d);
	}
	one_closed(a);
}
