/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/confine.h"

#include "base/error.h"
#include "blk/nbd_address.h"
#include "daemon/appliance.h"
#include "daemon/privilege.h"
#include "daemon/sandbox.h"
#include "vhost/pager.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The folders of our socket files, which we remove in the end; the ports of NBD servers. */
struct folders {
	unsigned n;
	char **folder;
	unsigned n_ports;
	uint16_t *port;
};

static void add_folder(struct folders *f, const char *socket_path)
{
	char *copy = socket_path && socket_path[0] ? strdup(socket_path) : NULL;
	const char *folder = copy ? dirname(copy) : NULL;
	bool known = false;

	for (unsigned i = 0; folder && !known && i < f->n; i++)
		known = strcmp(f->folder[i], folder) == 0;
	if (folder && !known) {
		f->folder = reallocarray(f->folder, f->n + 1, sizeof(*f->folder));
		if (!f->folder)
			abort(); /* as everywhere in start-up */
		f->folder[f->n++] = strdup(folder);
	}
	free(copy);
}

static void add_port(struct folders *f, const char *uri)
{
	uint16_t port = uri ? nbd_uri_port(uri) : 0;

	if (port == 0)
		return;
	f->port = reallocarray(f->port, f->n_ports + 1, sizeof(*f->port));
	if (!f->port)
		abort(); /* as everywhere in start-up */
	f->port[f->n_ports++] = port;
}

static void find_folders(const struct config *c, const char *control_path, struct folders *f)
{
	add_folder(f, control_path);
	for (unsigned i = 0; i < c->disks.n; i++) {
		add_port(f, config_disk(c, i)->nbd);
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
	const struct folders *folders;
	struct error err;
	int version;
};

static void enter(void *arg)
{
	struct entry *e = arg;

	e->version = sandbox_landlock((const char *const *)e->folders->folder, e->folders->n,
				      e->folders->port, e->folders->n_ports, &e->err);
}

static int landlock(const struct appliance *a, const struct folders *f, struct error *err)
{
	struct entry e = { .folders = f };

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

static void confine_files(const struct appliance *a, const char *control_path,
			  struct confinement *out)
{
	struct folders f = { 0 };
	struct error err = { 0 };

	find_folders(a->config, control_path, &f);
	out->landlock = landlock(a, &f, &err);
	if (out->landlock == 0)
		snprintf(out->why, sizeof(out->why), "this kernel has no Landlock");
	else if (out->landlock < 0)
		snprintf(out->why, sizeof(out->why), "%.200s", err.text);
	out->landlock = MAX(out->landlock, 0);
	for (unsigned i = 0; i < f.n; i++)
		free(f.folder[i]);
	free(f.folder);
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

void confine(const struct appliance *a, const char *control_path, struct confinement *out)
{
	const char *unfit = sandbox_unfit();
	bool dpdk = has_dpdk(a->config), tcp = has_tcp(a->config);
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
	if (sandbox_seccomp(dpdk ? SANDBOX_DPDK : tcp ? SANDBOX_TCP : SANDBOX_TIGHT, &err) == 0)
		out->seccomp = dpdk ? "dpdk" : tcp ? "tcp" : "tight";
	else
		snprintf(out->why + strlen(out->why), sizeof(out->why) - strlen(out->why),
			 "%s%.200s", out->why[0] ? "; " : "", err.text);
	log_print(out->why[0] && !dpdk ? LOG_LEVEL_WARN : LOG_LEVEL_INFO,
		  "sandbox: seccomp %s, Landlock %s%s%s", out->seccomp,
		  out->landlock ? "on" : "off", out->why[0] ? ": " : "", out->why);
}
