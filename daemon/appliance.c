/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/appliance.h"

#include "base/clock.h"
#include "base/error.h"
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
			: d->null_size ? DISK_NULL
				       : DISK_RAM,
		.file = d->file,
		.image = files->image.fd >= 0 ? &files->image : NULL,
		.size = d->null_size ? d->null_size : d->ram_size,
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

static struct port_rate rate_of(const struct rate_config *r)
{
	return (struct port_rate) { r->bits, r->bits_burst, r->packets, r->packets_burst };
}

static struct mac_list macs_of(const struct value_macs *m)
{
	struct mac_list l = { .n = m->n };

	static_assert(sizeof(l.mac) == sizeof(m->mac), "the same addresses");
	memcpy(l.mac, m->mac, sizeof(l.mac));
	return l;
}

static struct port_rules rules_of(const struct port_config *p)
{
	struct port_rules r = {
		.untagged = (uint16_t)(p->vlan ? p->vlan : p->native),
		.isolated = p->isolated,
		.in = rate_of(&p->limit.tx), /* what a guest sends comes in here */
		.out = rate_of(&p->limit.rx),
		.broadcast = p->flood_limit.broadcast,
		.unknown = p->flood_limit.unknown,
		.mac_max = p->mac_max,
		.macs = macs_of(&p->macs),
		.fixed = macs_of(&p->static_macs),
	};

	static_assert(sizeof(r.tagged) == sizeof(p->trunk), "a bit for each VLAN");
	memcpy(&r.tagged, &p->trunk, sizeof(r.tagged));
	r.ips.n = p->ips.n;
	for (unsigned i = 0; i < p->ips.n; i++) {
		r.ips.ip[i].v6 = p->ips.ip[i].v6;
		r.ips.ip[i].bits = p->ips.ip[i].bits;
		memcpy(r.ips.ip[i].addr, p->ips.ip[i].addr, sizeof(r.ips.ip[i].addr));
	}
	return r;
}

static int open_guest_port(struct network_entry *n, struct port_entry *e, int fd, struct error *err)
{
	const struct port_config *p = e->config;
	const struct port_rules rules = rules_of(p);
	struct net_device_config cfg = {
		.name = p->name,
		.rules = &rules,
		.socket = make_socket(&p->socket, fd),
		.queue_pairs = p->queues,
		.has_mac = schema_given(p, PORT_MAC),
		.mtu = (uint16_t)p->mtu,
	};
	int rc;

	memcpy(cfg.mac, p->mac, sizeof(cfg.mac));
	rc = net_device_create(&cfg, n->sw, e->appliance->workers, &e->guest, err);
	if (rc)
		return rc;
	if (p->socket.path && !p->socket.connect)
		privilege_give(p->socket.path, p->socket.group, e->appliance->identity);
	net_device_on_closed(e->guest, hung_up, e->appliance);
	return 0;
}

static int open_dpdk_port(struct network_entry *n, struct port_entry *e, struct error *err)
{
	const struct port_rules rules = rules_of(e->config);
	const struct dpdk_port_config cfg = { .name = e->config->name,
					      .device = e->config->dpdk,
					      .rules = &rules };

	return dpdk_port_create(&cfg, n->sw, e->appliance->workers, &e->dpdk, err);
}

static void open_network(struct appliance *a, const struct network_config *c, int fd)
{
	const struct switch_config cfg = {
		.name = c->name,
		.mac_ageing_s = c->mac_ageing_s,
		.mac_max = c->mac_max,
	};
	struct network_entry *n = must_calloc(sizeof(*n));
	struct error no_switch = { 0 };
	int made;

	TAILQ_INIT(&n->ports);
	n->config = c;
	made = switch_create(&cfg, a->workers, &n->sw, &no_switch);
	TAILQ_INSERT_TAIL(&a->networks, n, link);
	for (unsigned i = 0; i < c->ports.n; i++) {
		struct port_entry *e = must_calloc(sizeof(*e));
		struct error err = { 0 };
		int rc;

		e->appliance = a;
		e->config = config_port(c, i);
		TAILQ_INSERT_TAIL(&n->ports, e, link);
		if (made)
			rc = error_set(&err, made, "network %s: %s", c->name, no_switch.text);
		else if (e->config->dpdk)
			rc = open_dpdk_port(n, e, &err);
		else
			rc = open_guest_port(n, e, fd, &err);
		count_result(a, "port", e->config->name, rc, &err, &e->failure);
	}
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
	struct port_entry *p;

	while ((d = TAILQ_FIRST(&a->disks)))
		free_disk(d);
	while ((n = TAILQ_FIRST(&a->networks))) {
		while ((p = TAILQ_FIRST(&n->ports))) {
			TAILQ_REMOVE(&n->ports, p, link);
			free(p->failure);
			free(p);
		}
		TAILQ_REMOVE(&a->networks, n, link);
		free(n);
	}
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

static void port_closed(void *arg)
{
	struct port_entry *p = arg;

	p->guest = NULL;
	one_closed(p->appliance);
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
