/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/confine.h"

#include "base/error.h"
#include "blk/nbd_address.h"
#include "daemon/appliance.h"
#include "daemon/privilege.h"
#include "daemon/sandbox.h"
#include "vhost/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/*
 * The folders of our socket files, which we remove in the end; what NBD servers want: their ports,
 * and the files of TLS.
 */
static void add_folder(struct sandbox_paths *f, const char *socket_path)
{
	char *copy = socket_path && socket_path[0] ? strdup(socket_path) : NULL;
	const char *folder = copy ? dirname(copy) : NULL;
	bool known = false;

	for (unsigned i = 0; folder && !known && i < f->n_folders; i++)
		known = strcmp(f->folder[i], folder) == 0;
	if (folder && !known) {
		f->folder = reallocarray(f->folder, f->n_folders + 1, sizeof(*f->folder));
		if (!f->folder)
			abort(); /* as everywhere in start-up */
		f->folder[f->n_folders++] = strdup(folder);
	}
	free(copy);
}

static void add_port(struct sandbox_paths *f, const char *uri)
{
	uint16_t port = uri ? nbd_uri_port(uri) : 0;

	if (port == 0)
		return;
	f->port = reallocarray(f->port, f->n_ports + 1, sizeof(*f->port));
	if (!f->port)
		abort(); /* as everywhere in start-up */
	f->port[f->n_ports++] = port;
}

static void add_readable(struct sandbox_paths *f, const char *path)
{
	if (!path)
		return;
	f->readable = reallocarray(f->readable, f->n_readable + 1, sizeof(*f->readable));
	if (!f->readable)
		abort(); /* as everywhere in start-up */
	f->readable[f->n_readable++] = strdup(path);
}

/* Where libnbd and GnuTLS look for certificates that are named nowhere. */
static void add_tls(struct sandbox_paths *f, const char *uri)
{
	struct nbd_address a;

	if (uri && nbd_address_parse(uri, &a, NULL) == 0 && a.tls) {
		add_readable(f, a.certificates);
		add_readable(f, a.psk_file);
		add_readable(f, "/etc/ssl/certs");
		add_readable(f, "/usr/share/ca-certificates");
		add_readable(f, "/etc/pki");
	}
	if (uri)
		nbd_address_free(&a);
}

static void find_folders(const struct config *c, const char *control_path, struct sandbox_paths *f)
{
	add_folder(f, control_path);
	for (unsigned i = 0; i < c->disks.n; i++) {
		add_port(f, config_disk(c, i)->nbd);
		add_tls(f, config_disk(c, i)->nbd);
		if (!config_disk(c, i)->socket.connect)
			add_folder(f, config_disk(c, i)->socket.path);
	}
	for (unsigned i = 0; i < c->networks.n; i++) {
		const struct network_config *n = config_network(c, i);

		for (unsigned j = 0; j < n->ports.n; j++)
			if (!config_port(n, j)->socket.connect)
				add_folder(f, config_port(n, j)->socket.path);
	}
}

static bool has_tcp(const struct config *c)
{
	for (unsigned i = 0; i < c->disks.n; i++)
		if (config_disk(c, i)->nbd && nbd_uri_port(config_disk(c, i)->nbd))
			return true;
	return false;
}

static bool has_tls(const struct config *c)
{
	bool is_so = false;

	for (unsigned i = 0; i < c->disks.n && !is_so; i++) {
		const char *uri = config_disk(c, i)->nbd;

		is_so = uri && strncasecmp(uri, "nbds", 4) == 0;
	}
	return is_so;
}

static bool has_dpdk(const struct config *c)
{
	for (unsigned i = 0; i < c->networks.n; i++)
		for (unsigned j = 0; j < config_network(c, i)->ports.n; j++)
			if (config_port(config_network(c, i), j)->dpdk)
				return true;
	return false;
}

/* Landlock holds threads, not processes: each enters by itself. */
struct entry {
	const struct sandbox_paths *paths;
	struct error err;
	int version;
};

static void enter(void *arg)
{
	struct entry *e = arg;

	e->version = sandbox_landlock(e->paths, &e->err);
}

static int landlock(const struct appliance *a, const struct sandbox_paths *f, struct error *err)
{
	struct entry e = { .paths = f };

	for (unsigned i = 0; i < workers_count(a->workers); i++) {
		worker_call_wait(workers_get(a->workers, i), enter, &e);
		if (e.version <= 0)
			break;
	}
	/* Last, so that a failure above leaves the thread free that would have to try again. */
	if (e.version > 0)
		enter(&e);
	*err = e.err;
	return e.version;
}

/* One that only root could reach, or that has gone: it takes nothing away from the sandbox. */
static void warn_unreachable(const struct sandbox_paths *f)
{
	for (unsigned i = 0; i < f->n_folders; i++) {
		int fd = open(f->folder[i], O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0)
			log_warn("sandbox: folder %s: %s: the socket files in it cannot be removed "
				 "in the end",
				 f->folder[i], strerror(errno));
		else
			close(fd);
	}
}

static void confine_files(const struct appliance *a, const char *control_path,
			  struct confinement *out)
{
	struct sandbox_paths f = { 0 };
	struct error err = { 0 };

	find_folders(a->config, control_path, &f);
	warn_unreachable(&f);
	out->landlock = landlock(a, &f, &err);
	if (out->landlock == 0)
		snprintf(out->why, sizeof(out->why), "this kernel has no Landlock");
	else if (out->landlock < 0)
		snprintf(out->why, sizeof(out->why), "%.200s", err.text);
	out->landlock = MAX(out->landlock, 0);
	for (unsigned i = 0; i < f.n_folders; i++)
		free(f.folder[i]);
	for (unsigned i = 0; i < f.n_readable; i++)
		free(f.readable[i]);
	free(f.folder);
	free(f.readable);
	free(f.port);
}

static bool without_sandbox(const struct config *c)
{
	return !c->sandbox || sandbox_unfit();
}

static int confine_stem(void *arg)
{
	const struct appliance *a = arg;
	struct error err = { 0 };
	int rc = privilege_drop(a->identity, 0, &err);

	if (rc == 0 && !without_sandbox(a->config))
		rc = sandbox_seccomp(SANDBOX_STEM, &err);
	return rc;
}

static int confine_pager(void *arg)
{
	const struct appliance *a = arg;
	struct error err = { 0 };

	return without_sandbox(a->config) ? 0 : sandbox_seccomp(SANDBOX_PAGER, &err);
}

void prepare_postcopy(struct appliance *a)
{
	const struct pager_confinement c = { .stem = confine_stem,
					     .pager = confine_pager,
					     .arg = a };
	struct error err = { 0 };

	if (pager_prepare(&c, &err) < 0)
		log_warn("postcopy migration is not offered: %s", err.text);
}

void await_postcopy(void)
{
	struct error err = { 0 };

	if (pager_possible() && pager_await(&err) < 0)
		log_warn("postcopy migration is not offered: %s", err.text);
}

void confine(const struct appliance *a, const char *control_path, struct confinement *out)
{
	const char *unfit = sandbox_unfit();
	static const char *const names[] = { [SANDBOX_TIGHT] = "tight",
					     [SANDBOX_TCP] = "tcp",
					     [SANDBOX_TLS] = "tls",
					     [SANDBOX_DPDK] = "dpdk" };
	bool dpdk = has_dpdk(a->config);
	enum sandbox_profile profile;
	struct error err = { 0 };

	*out = (struct confinement) { .seccomp = "off" };
	if (!a->config->sandbox || unfit) {
		snprintf(out->why, sizeof(out->why), "%s",
			 a->config->sandbox ? unfit : "switched off");
		log_warn("sandbox: off: %s", out->why);
		return;
	}
	/* Drivers open devices and sysfs whenever they like. */
	if (dpdk)
		snprintf(out->why, sizeof(out->why), "no Landlock beside DPDK ports");
	else
		confine_files(a, control_path, out);
	profile = dpdk		       ? SANDBOX_DPDK
		  : has_tls(a->config) ? SANDBOX_TLS
		  : has_tcp(a->config) ? SANDBOX_TCP
				       : SANDBOX_TIGHT;
	if (sandbox_seccomp(profile, &err) == 0)
		out->seccomp = names[profile];
	else
		snprintf(out->why + strlen(out->why), sizeof(out->why) - strlen(out->why),
			 "%s%.200s", out->why[0] ? "; " : "", err.text);
	log_print(out->why[0] && !dpdk ? LOG_LEVEL_WARN : LOG_LEVEL_INFO,
		  "sandbox: seccomp %s, Landlock %s%s%s", out->seccomp,
		  out->landlock ? "on" : "off", out->why[0] ? ": " : "", out->why);
}
