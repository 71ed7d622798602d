/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a configuration, and the rules that take more than one key. */
#include "daemon/config.h"

#include "poll/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* "0-3,8", as the kernel tells it; the affinity mask would hide CPUs that exist. */
static void online_cpus(struct cpu_list *out, char *text, size_t size)
{
	FILE *f = fopen("/sys/devices/system/cpu/online", "re");

	text[0] = '\0';
	if (f) {
		if (!fgets(text, (int)size, f))
			text[0] = '\0';
		fclose(f);
	}
	text[strcspn(text, "\n")] = '\0';
	if (!text[0])
		snprintf(text, size, "0-%ld", sysconf(_SC_NPROCESSORS_CONF) - 1);
	value_cpus(text, out);
}

static bool has_cpu(const struct cpu_list *list, unsigned cpu)
{
	for (unsigned i = 0; i < list->n; i++)
		if (list->cpus[i] == cpu)
			return true;
	return false;
}

static void check_workers(const struct worker_config *w, struct problems *p)
{
	struct cpu_list online = { 0 };
	char text[512];

	if (w->at.bad)
		return;
	online_cpus(&online, text, sizeof(text));
	for (unsigned i = 0; i < w->cpus.n; i++)
		if (!has_cpu(&online, w->cpus.cpus[i]))
			schema_problem(&workers_schema, w, WORKERS_CPUS, p,
				       "CPU %u does not exist, or is offline; this machine has %s",
				       w->cpus.cpus[i], text);
	free(online.cpus);
	if (schema_given(w, WORKERS_CPUS) && schema_given(w, WORKERS_COUNT))
		schema_problem(&workers_schema, w, WORKERS_COUNT, p,
			       "does not go with cpus, which says how many; leave one of them out");
	if (w->idle == IDLE_POLL && schema_given(w, WORKERS_IDLE_US))
		schema_problem(&workers_schema, w, WORKERS_IDLE_US, p,
			       "does not go with idle: poll, which never sleeps; leave one out");
}

/* Owner and mode of a socket file that we do not make. */
static void check_connect(const struct schema *s, const void *obj, bool connects, unsigned mode,
			  unsigned group, struct problems *p)
{
	if (!connects)
		return;
	if (schema_given(obj, mode))
		schema_problem(s, obj, mode, p,
			       "does not go with connect: the front-end makes the socket file");
	if (schema_given(obj, group))
		schema_problem(s, obj, group, p,
			       "does not go with connect: the front-end makes the socket file");
}

static void check_group(const struct schema *s, const void *obj, unsigned field, const char *name,
			struct problems *p)
{
	if (name && !getgrnam(name))
		schema_problem(s, obj, field, p,
			       "there is no group \"%s\"; make it, or name one "
			       "that exists",
			       name);
}

void config_check_disk(const struct disk_config *d, struct problems *p)
{
	static const unsigned sources[] = { DISK_SOURCE_FILE, DISK_SOURCE_NULL, DISK_SOURCE_RAM,
					    DISK_SOURCE_NBD };
	static const struct {
		unsigned field, source;
		const char *wants;
	} of_source[] = {
		{ DISK_CACHE, DISK_SOURCE_FILE, "only goes with a file; leave it out" },
		{ DISK_LOCK, DISK_SOURCE_FILE, "only goes with a file; leave it out" },
		{ DISK_CONNECTIONS, DISK_SOURCE_NBD, "only goes with nbd; leave it out" },
		{ DISK_RECONNECT, DISK_SOURCE_NBD, "only goes with nbd; leave it out" },
		{ DISK_TIMEOUT, DISK_SOURCE_NBD, "only goes with nbd; leave it out" },
	};
	unsigned n = 0, last = 0;

	if (d->at.bad) /* What the rules would say of a half-read object is noise. */
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(sources); i++) {
		if (!schema_given(d, sources[i]))
			continue;
		n++;
		last = sources[i];
	}
	if (n == 0)
		schema_problem(
			&disk_schema, d, DISK_SOURCE_FILE, p,
			"is missing; a disk needs a file, an nbd URI, or a size for null or ram");
	else if (n > 1)
		schema_problem(&disk_schema, d, last, p,
			       "a disk is one of file, nbd, null and ram; leave the others out");
	for (unsigned i = 0; i < ARRAY_SIZE(of_source); i++)
		if (n == 1 && last != of_source[i].source && schema_given(d, of_source[i].field))
			schema_problem(&disk_schema, d, of_source[i].field, p, "%s",
				       of_source[i].wants);
	if (!d->limit.at.bad)
		limit_check(&d->limit, p);
	check_connect(&disk_schema, d, d->socket.connect, DISK_MODE, DISK_GROUP, p);
}

static void check_vlans(const struct port_config *port, struct problems *p)
{
	const uint64_t *bits = port->trunk.bits;

	if (schema_given(port, PORT_VLAN_ACCESS) && schema_given(port, PORT_TRUNK))
		schema_problem(
			&port_schema, port, PORT_TRUNK, p,
			"does not go with vlan; a port is in one VLAN, or a trunk of several");
	if (!schema_given(port, PORT_NATIVE))
		return;
	if (!schema_given(port, PORT_TRUNK))
		schema_problem(&port_schema, port, PORT_NATIVE, p,
			       "only goes with a trunk; a port in one VLAN has the key vlan");
	else if (bits[port->native / 64] >> port->native % 64 & 1)
		schema_problem(&port_schema, port, PORT_NATIVE, p,
			       "VLAN %u is in trunk too; its frames have a tag there, or none here",
			       port->native);
}

void config_check_port(const struct port_config *port, struct problems *p)
{
	static const unsigned guest_only[] = { PORT_CONNECT, PORT_MODE, PORT_GROUP, PORT_QUEUES,
					       PORT_MAC,     PORT_MTU,	PORT_SPEED };

	if (port->at.bad)
		return;
	if (!schema_given(port, PORT_SOCKET) && !schema_given(port, PORT_DPDK))
		schema_problem(&port_schema, port, PORT_SOCKET, p,
			       "is missing; a port needs a socket for a guest, or a dpdk device");
	if (schema_given(port, PORT_SOCKET) && schema_given(port, PORT_DPDK))
		schema_problem(&port_schema, port, PORT_DPDK, p,
			       "does not go with socket; make two ports of them");
	else if (schema_given(port, PORT_DPDK))
		for (unsigned i = 0; i < ARRAY_SIZE(guest_only); i++)
			if (schema_given(port, guest_only[i]))
				schema_problem(&port_schema, port, guest_only[i], p,
					       "does not go with dpdk; leave it out");
	check_connect(&port_schema, port, port->socket.connect, PORT_MODE, PORT_GROUP, p);
	check_vlans(port, p);
}

/* A value that only one object may have, and where it was first seen. */
struct unique {
	const char *value;
	const struct schema *schema;
	const void *obj;
	unsigned field;
	unsigned order; /* as met: the later one is at fault */
};

struct uniques {
	struct unique *item;
	unsigned n;
};

static void unique_add(struct uniques *u, const char *value, const struct schema *s,
		       const void *obj, unsigned field)
{
	if (!value)
		return;
	if ((u->n & (u->n - 1)) == 0) { /* 0 and powers of two: full */
		u->item = realloc(u->item, (u->n ? 2 * u->n : 1) * sizeof(*u->item));
		if (!u->item)
			abort();
	}
	u->item[u->n] = (struct unique) { value, s, obj, field, u->n };
	u->n++;
}

static int unique_compare(const void *a, const void *b)
{
	const struct unique *x = a, *y = b;
	int rc = strcmp(x->value, y->value);

	return rc ? rc : x->order < y->order ? -1 : 1;
}

/* Complains of each value that came before; empties @u. @remedy completes "…; %s". */
static void unique_check(struct uniques *u, const char *remedy, struct problems *p)
{
	char key[160], line[40];

	if (u->n)
		qsort(u->item, u->n, sizeof(*u->item), unique_compare);
	for (unsigned i = 1; i < u->n; i++) {
		const struct unique *first = &u->item[i - 1], *again = &u->item[i];
		const struct object *o = first->obj;

		if (strcmp(first->value, again->value) != 0)
			continue;
		schema_key(first->schema, o, first->field, key, sizeof(key));
		snprintf(line, sizeof(line), o->options ? "" : " (line %u)",
			 o->given[first->field]);
		schema_problem(again->schema, again->obj, again->field, p,
			       "\"%s\" is already taken by %s%s; %s", again->value, key, line,
			       remedy);
	}
	free(u->item);
	*u = (struct uniques) { 0 };
}

static void check_unique(const struct config *c, struct problems *p)
{
	struct uniques networks = { 0 }, names = { 0 }, sockets = { 0 }, ethdevs = { 0 };
	struct uniques files = { 0 };

	unique_add(&sockets, c->control.socket, &control_schema, &c->control, CONTROL_SOCKET);
	for (unsigned i = 0; i < c->networks.n; i++) {
		const struct network_config *n = config_network(c, i);

		unique_add(&networks, n->name, &network_schema, n, NETWORK_NAME);
		for (unsigned j = 0; j < n->ports.n; j++) {
			const struct port_config *port = config_port(n, j);

			unique_add(&names, port->name, &port_schema, port, PORT_NAME);
			unique_add(&sockets, port->socket.path, &port_schema, port, PORT_SOCKET);
			unique_add(&ethdevs, port->dpdk, &port_schema, port, PORT_DPDK);
		}
	}
	for (unsigned i = 0; i < c->disks.n; i++) {
		const struct disk_config *d = config_disk(c, i);

		unique_add(&names, d->name, &disk_schema, d, DISK_NAME);
		unique_add(&sockets, d->socket.path, &disk_schema, d, DISK_SOCKET);
		/* Readers may share an image, as long as nobody writes it. */
		if (!d->read_only)
			unique_add(&files, d->file, &disk_schema, d, DISK_SOURCE_FILE);
	}
	unique_check(&networks, "give each network its own name", p);
	unique_check(&names, "give each disk and port its own name", p);
	unique_check(&sockets, "give each its own socket", p);
	unique_check(&ethdevs, "a device can be in one port only", p);
	unique_check(&files,
		     "two disks that write one image destroy it; make them read_only, or "
		     "give each its own",
		     p);
}

void config_check(const struct config *c, struct problems *p)
{
	if (c->user && !getpwnam(c->user))
		schema_problem(&config_schema, c, CONFIG_USER, p,
			       "there is no user \"%s\"; make it, or name one that exists",
			       c->user);
	check_group(&config_schema, c, CONFIG_GROUP, c->group, p);
	check_workers(&c->workers, p);
	for (unsigned i = 0; i < c->networks.n; i++)
		for (unsigned j = 0; j < config_network(c, i)->ports.n; j++) {
			const struct port_config *port = config_port(config_network(c, i), j);

			config_check_port(port, p);
			if (!port->at.bad)
				check_group(&port_schema, port, PORT_GROUP, port->socket.group, p);
		}
	for (unsigned i = 0; i < c->disks.n; i++) {
		const struct disk_config *d = config_disk(c, i);

		config_check_disk(d, p);
		if (!d->at.bad)
			check_group(&disk_schema, d, DISK_GROUP, d->socket.group, p);
	}
	check_unique(c, p);
}

struct config *config_parse(const char *yaml, size_t len, struct problems *p)
{
	struct config *c = config_new();

	c->at.line = 1;
	schema_load(&config_schema, c, yaml, len, p);
	config_check(c, p);
	if (p->n == 0)
		return c;
	config_free(c);
	return NULL;
}

/* All of @fd, up to CONFIG_FILE_MAX. @return bytes, or -errno. */
static ssize_t read_all(int fd, char *buf, size_t size)
{
	size_t len = 0;

	for (;;) {
		ssize_t n = read(fd, buf + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		len += (size_t)n;
		if (n == 0)
			return (ssize_t)len;
		if (len == size)
			return -EFBIG;
	}
}

struct config *config_load(const char *file, struct problems *p)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct config *c = NULL;
	char *text;
	ssize_t len;

	p->file = file;
	if (fd < 0) {
		problems_add(p, 0, "cannot open it: %s; name a configuration with --config FILE",
			     strerror(errno));
		return NULL;
	}
	text = malloc(CONFIG_FILE_MAX + 1);
	if (!text)
		abort();
	len = read_all(fd, text, CONFIG_FILE_MAX + 1);
	close(fd);
	if (len == -EFBIG)
		problems_add(p, 0, "is over 1 MiB long; that is no configuration");
	else if (len < 0)
		problems_add(p, 0, "cannot read it: %s; name a file with --config FILE",
			     strerror((int)-len));
	else
		c = config_parse(text, (size_t)len, p);
	free(text);
	return c;
}
