/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/options_device.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PORTS_MAX 64
#define OPTIONS_MAX 256

/* What an option is about: which object of the configuration its value goes to. */
enum target { TO_DEVICE, TO_SOCKET, TO_DPDK, TO_WORKERS, TO_CONTROL, TO_USER, TO_GROUP, SPECIAL };
enum special { FD = 1, LOG_LEVEL_OPTION, NO_SANDBOX, HELP, VERSION, CAPABILITIES };

struct row {
	const char *name;
	bool flag; /* takes no value: sets true */
	enum target target;
	unsigned field; /* of the target's schema, or enum special */
};

struct device_kind {
	const char *name;
	const char *capabilities; /* vhost-user.json VHostUserBackendCapabilities */
	const char *help;
	const struct row *rows; /* ends in a NULL name */
};

#define COMMON_ROWS                                                                              \
	{ "cpu", false, TO_WORKERS, WORKERS_CPUS }, { "idle", false, TO_WORKERS, WORKERS_IDLE }, \
		{ "control", false, TO_CONTROL, CONTROL_SOCKET }, { "user", false, TO_USER, 0 }, \
		{ "group", false, TO_GROUP, 0 }, { "fd", false, SPECIAL, FD },                   \
		{ "log-level", false, SPECIAL, LOG_LEVEL_OPTION },                               \
		{ "no-sandbox", true, SPECIAL, NO_SANDBOX }, { "help", true, SPECIAL, HELP },    \
		{ "version", true, SPECIAL, VERSION },                                           \
		{ "print-capabilities", true, SPECIAL, CAPABILITIES },                           \
	{                                                                                        \
		NULL, false, SPECIAL, 0                                                          \
	}

#define COMMON_HELP                                                                              \
	"      --cpu N[,N…]         a worker on each of these CPUs; default: one on any\n"     \
	"      --idle MODE          adaptive (default: idle workers sleep) or poll (they never " \
	"do)\n"                                                                                  \
	"      --control PATH       a control socket, for sluice(1); default: none\n"            \
	"      --user U --group G   become these when started as root; default: sluice or "      \
	"nobody\n"                                                                               \
	"      --log-level LEVEL    error, warn, info (default) or debug\n"                      \
	"      --no-sandbox         keep all system calls, for debugging\n"                      \
	"      --print-capabilities what this back-end can do, as JSON, and exit\n"              \
	"  -h, --help               this text\n"                                                 \
	"  -V, --version            the version\n"

static const struct row blk_rows[] = {
	{ "socket-path", false, TO_SOCKET, 0 },
	{ "connect", true, TO_DEVICE, DISK_CONNECT },
	{ "mode", false, TO_DEVICE, DISK_MODE },
	{ "blk-file", false, TO_DEVICE, DISK_SOURCE_FILE },
	{ "nbd", false, TO_DEVICE, DISK_SOURCE_NBD },
	{ "null", false, TO_DEVICE, DISK_SOURCE_NULL },
	{ "ram", false, TO_DEVICE, DISK_SOURCE_RAM },
	{ "connections", false, TO_DEVICE, DISK_CONNECTIONS },
	{ "reconnect", false, TO_DEVICE, DISK_RECONNECT },
	{ "timeout", false, TO_DEVICE, DISK_TIMEOUT },
	{ "read-only", true, TO_DEVICE, DISK_READ_ONLY },
	{ "cache", false, TO_DEVICE, DISK_CACHE },
	{ "lock", false, TO_DEVICE, DISK_LOCK },
	{ "queues", false, TO_DEVICE, DISK_QUEUES },
	{ "serial", false, TO_DEVICE, DISK_SERIAL },
	COMMON_ROWS,
};

static const char blk_help[] =
	"usage: sluiced blk --socket-path PATH --blk-file FILE [OPTION…]\n"
	"\n"
	"Serves one virtio-blk disk over vhost-user. Stays in the foreground; ends on SIGTERM.\n"
	"\n"
	"      --socket-path PATH   listen on this unix socket …\n"
	"      --fd N               … or use this one, which is open already\n"
	"      --connect            connect to PATH instead of listening\n"
	"      --mode MODE          permissions of the socket file, octal; default: by umask\n"
	"      --blk-file FILE      a raw image or a block device …\n"
	"      --nbd URI            … or an NBD export: nbd+unix:///EXPORT?socket=PATH, "
	"nbd://HOST/EXPORT …\n"
	"      --null SIZE          … or nothing: reads are zeroes, writes are dropped …\n"
	"      --ram SIZE           … or memory, gone at the end\n"
	"      --connections N      of --nbd: to its server, 1 (default) to 16\n"
	"      --reconnect SECONDS  of --nbd: requests wait for so long for a server that is away; "
	"default: 30\n"
	"      --timeout SECONDS    of --nbd: one that owes answers and is silent for longer is "
	"away; "
	"default: 30\n"
	"      --read-only          the guest cannot write\n"
	"      --cache MODE         none (default: O_DIRECT), writeback (the page cache), "
	"writethrough\n"
	"                           (each write is flushed) or unsafe (none ever is)\n"
	"      --lock WHEN          others are kept off the file from: open (default), or run: "
	"when\n"
	"                           a guest uses it (on the destination of a migration)\n"
	"      --queues N           virtqueues, 1 (default) to 256\n"
	"      --serial TEXT        serial number, up to 20 bytes; default: blk\n" COMMON_HELP;

static const struct row net_rows[] = {
	{ "socket-path", false, TO_SOCKET, 0 },
	{ "dpdk", false, TO_DPDK, 0 },
	{ "connect", true, TO_DEVICE, PORT_CONNECT },
	{ "mode", false, TO_DEVICE, PORT_MODE },
	{ "queues", false, TO_DEVICE, PORT_QUEUES },
	{ "mac", false, TO_DEVICE, PORT_MAC },
	{ "mtu", false, TO_DEVICE, PORT_MTU },
	{ "speed", false, TO_DEVICE, PORT_SPEED },
	COMMON_ROWS,
};

static const char net_help[] =
	"usage: sluiced net --socket-path PATH [--socket-path PATH…] [OPTION…]\n"
	"\n"
	"Serves virtio-net cards over vhost-user, all of them ports of one switch. Stays in the\n"
	"foreground; ends on SIGTERM.\n"
	"\n"
	"      --socket-path PATH   a port that listens on this unix socket; may come again …\n"
	"      --fd N               … or a port on this socket, which is open already\n"
	"      --dpdk DEVICE        a port out: a PCI address, or \"net_tap0,iface=sluice0\"\n"
	"      --connect            connect to PATH instead of listening\n"
	"      --mode MODE          permissions of the socket files, octal; default: by umask\n"
	"      --queues N           queue pairs of a port, 1 (default) to 127\n"
	"      --mac MAC            the card's address; only with a single port for a guest\n"
	"      --mtu BYTES          the MTU told to guests, 68 to 65535\n"
	"      --speed MBIT         the link's speed told to guests, in Mbit/s\n" COMMON_HELP;

static const struct device_kind kinds[] = {
	{ "blk", "{\"type\": \"block\", \"features\": [\"read-only\", \"blk-file\"]}", blk_help,
	  blk_rows },
	{ "net", "{\"type\": \"net\"}", net_help, net_rows },
};

const struct device_kind *device_kind_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	return NULL;
}

/* One use of an option. */
struct use {
	const struct row *row;
	const char *value;
};

struct uses {
	struct use use[OPTIONS_MAX];
	unsigned n;
};

static unsigned count_uses(const struct uses *u, enum target target)
{
	unsigned n = 0;

	for (unsigned i = 0; i < u->n; i++)
		n += u->use[i].row->target == target;
	return n;
}

static bool is_set(const struct uses *u, enum target target, unsigned field)
{
	for (unsigned i = 0; i < u->n; i++)
		if (u->use[i].row->target == target && u->use[i].row->field == field)
			return true;
	return false;
}

/* Every value for @target goes to @obj. */
static void apply(const struct uses *u, enum target target, const struct schema *s, void *obj,
		  struct problems *p)
{
	struct object *o = obj;

	o->options = true;
	for (unsigned i = 0; i < u->n; i++) {
		const struct use *use = &u->use[i];
		const struct field *f = &s->fields[use->row->field];

		if (use->row->target != target)
			continue;
		/* --cpu adds up; of the others each has one value. */
		if (o->given[use->row->field] && !field_takes_many(f->kind))
			problems_add(p, 0, "--%s: stands here twice; keep one", use->row->name);
		else if (!schema_set(s, obj, use->row->field, use->value, false, 0, p))
			o->bad = true;
	}
}

static void set_text(const struct schema *s, void *obj, unsigned field, const char *text,
		     struct problems *p)
{
	((struct object *)obj)->options = true;
	if (!schema_set(s, obj, field, text, false, 0, p))
		((struct object *)obj)->bad = true;
}

/* An array of one schema's objects, @n of them, none read yet. */
static void make_list(struct object_list *list, const struct schema *s, unsigned n)
{
	if (n == 0)
		return;
	list->items = calloc(n, s->size);
	if (!list->items)
		abort();
	list->n = n;
	for (unsigned i = 0; i < n; i++)
		schema_init(s, (char *)list->items + i * s->size, "", 0);
}

static void build_blk(const struct uses *u, struct config *c, struct problems *p)
{
	struct disk_config *d;

	make_list(&c->disks, &disk_schema, 1);
	d = config_disk(c, 0);
	set_text(&disk_schema, d, DISK_NAME, "blk", p);
	apply(u, TO_DEVICE, &disk_schema, d, p);
	for (unsigned i = 0; i < u->n; i++) {
		if (u->use[i].row->target != TO_SOCKET)
			continue;
		if (d->socket.path)
			problems_add(p, 0, "--socket-path: stands here twice; keep one");
		else
			set_text(&disk_schema, d, DISK_SOCKET, u->use[i].value, p);
	}
}

/* The @i'th guest port; @path: NULL for --fd. */
static void build_guest_port(const struct uses *u, struct port_config *port, unsigned i,
			     const char *path, struct problems *p)
{
	char name[16];

	snprintf(name, sizeof(name), "port%u", i);
	set_text(&port_schema, port, PORT_NAME, name, p);
	if (path)
		set_text(&port_schema, port, PORT_SOCKET, path, p);
	else
		port->at.given[PORT_SOCKET] = 1; /* the fd is it */
	apply(u, TO_DEVICE, &port_schema, port, p);
}

static void build_net(const struct uses *u, struct config *c, struct problems *p)
{
	unsigned n_paths = count_uses(u, TO_SOCKET), n_fds = is_set(u, SPECIAL, FD);
	unsigned n_dpdk = count_uses(u, TO_DPDK), guests = 0, uplinks = 0;
	struct network_config *n;

	if (n_paths + n_dpdk > PORTS_MAX) {
		problems_add(p, 0, "over %u ports; use a configuration file for so many",
			     PORTS_MAX);
		return;
	}
	make_list(&c->networks, &network_schema, 1);
	n = config_network(c, 0);
	set_text(&network_schema, n, NETWORK_NAME, "net", p);
	make_list(&n->ports, &port_schema, n_paths + n_fds + n_dpdk);
	if (n_fds)
		build_guest_port(u, config_port(n, guests), guests, NULL, p), guests++;
	for (unsigned i = 0; i < u->n && p->n == 0; i++) {
		struct port_config *port = config_port(n, guests + uplinks);
		char name[16];

		if (u->use[i].row->target == TO_SOCKET) {
			build_guest_port(u, port, guests++, u->use[i].value, p);
		} else if (u->use[i].row->target == TO_DPDK) {
			snprintf(name, sizeof(name), "uplink%u", uplinks++);
			set_text(&port_schema, port, PORT_NAME, name, p);
			set_text(&port_schema, port, PORT_DPDK, u->use[i].value, p);
		}
	}
	if (guests > 1 && is_set(u, TO_DEVICE, PORT_MAC))
		problems_add(p, 0,
			     "--mac: two cards cannot have one address; use a configuration "
			     "file, or a single port");
}

/* @return the fd, or -1 with a problem. */
static int parse_fd(const char *text, struct problems *p)
{
	struct stat st;
	uint64_t fd;

	if (value_number(text, &fd) || fd > INT32_MAX) {
		problems_add(p, 0, "--fd: \"%.60s\" is not a file descriptor's number", text);
		return -1;
	}
	if (fstat((int)fd, &st)) {
		problems_add(p, 0, "--fd: no file descriptor %d was handed over", (int)fd);
		return -1;
	}
	if (!S_ISSOCK(st.st_mode)) {
		problems_add(p, 0, "--fd: file descriptor %d is not a socket", (int)fd);
		return -1;
	}
	fcntl((int)fd, F_SETFD, FD_CLOEXEC);
	return (int)fd;
}

static void parse_special(const struct uses *u, struct options *out, struct problems *p)
{
	enum log_level level;

	for (unsigned i = 0; i < u->n; i++) {
		const struct use *use = &u->use[i];

		if (use->row->target != SPECIAL)
			continue;
		if (use->row->field == FD) {
			if (out->fd >= 0)
				problems_add(p, 0, "--fd: stands here twice; keep one");
			else
				out->fd = parse_fd(use->value, p);
		} else if (use->row->field == NO_SANDBOX) {
			out->no_sandbox = true;
		} else if (use->row->field == LOG_LEVEL_OPTION) {
			if (log_level_parse(use->value, &level))
				problems_add(p, 0,
					     "--log-level: \"%.60s\" is not one of error, "
					     "warn, info, debug",
					     use->value);
			else
				out->log_level = (int)level;
		}
	}
}

/* All that the options say together, as a configuration; problems are printed. */
static int build(const struct device_kind *kind, const struct uses *u, struct options *out)
{
	struct problems p = { 0 };
	struct config *c = config_new();
	bool has_socket = count_uses(u, TO_SOCKET) > 0, has_fd = is_set(u, SPECIAL, FD);

	c->at.options = true;
	if (!has_socket && !has_fd)
		problems_add(&p, 0, "one of --socket-path PATH and --fd N is needed");
	if (has_socket && has_fd)
		problems_add(&p, 0, "--fd does not go with --socket-path; leave one of them out");
	parse_special(u, out, &p);
	apply(u, TO_WORKERS, &workers_schema, &c->workers, &p);
	apply(u, TO_CONTROL, &control_schema, &c->control, &p);
	for (unsigned i = 0; i < u->n; i++) {
		if (u->use[i].row->target == TO_USER)
			set_text(&config_schema, c, CONFIG_USER, u->use[i].value, &p);
		else if (u->use[i].row->target == TO_GROUP)
			set_text(&config_schema, c, CONFIG_GROUP, u->use[i].value, &p);
	}
	if (strcmp(kind->name, "blk") == 0)
		build_blk(u, c, &p);
	else
		build_net(u, c, &p);
	if (p.n == 0)
		config_check(c, &p);
	if (p.n == 0) {
		out->config = c;
		return OPTIONS_RUN;
	}
	for (unsigned i = 0; i < p.n; i++)
		fprintf(stderr, "sluiced %s: %s\n", kind->name, p.text[i]);
	fprintf(stderr, "Try: sluiced %s --help\n", kind->name);
	problems_free(&p);
	config_free(c);
	return 2;
}

static int collect(const struct device_kind *kind, int argc, char **argv, struct uses *u)
{
	struct option longs[32] = { 0 };
	unsigned n = 0;
	int c, index;

	for (; kind->rows[n].name; n++) {
		assert(n < ARRAY_SIZE(longs) - 1);
		longs[n].name = kind->rows[n].name;
		longs[n].has_arg = kind->rows[n].flag ? no_argument : required_argument;
		longs[n].val = 1;
	}
	optind = 1;
	while ((c = getopt_long(argc, argv, "hV", longs, &index)) >= 0) {
		if (c == 'h')
			return 'h';
		if (c == 'V')
			return 'V';
		if (c != 1 || u->n == OPTIONS_MAX)
			return '?';
		u->use[u->n].row = &kind->rows[index];
		u->use[u->n++].value = optarg ? optarg : "true";
	}
	if (optind < argc) {
		fprintf(stderr, "sluiced %s: \"%s\" is no option\n", kind->name, argv[optind]);
		return '?';
	}
	return 0;
}

int device_options_parse(const struct device_kind *kind, int argc, char **argv, struct options *out)
{
	static struct uses uses;
	int asked;

	/* The conventions: with this one the others are ignored, also those that are wrong. */
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--print-capabilities") == 0) {
			puts(kind->capabilities);
			return 0;
		}
	}
	asked = collect(kind, argc, argv, &uses);
	if (asked == '?') {
		fprintf(stderr, "Try: sluiced %s --help\n", kind->name);
		return 2;
	}
	if (asked == 'h' || is_set(&uses, SPECIAL, HELP)) {
		fputs(kind->help, stdout);
		return 0;
	}
	if (asked == 'V' || is_set(&uses, SPECIAL, VERSION)) {
		puts("sluiced " SLUICE_VERSION);
		return 0;
	}
	if (is_set(&uses, SPECIAL, CAPABILITIES)) { /* abbreviated */
		puts(kind->capabilities);
		return 0;
	}
	return build(kind, &uses, out);
}
