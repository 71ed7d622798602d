/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluiced: reads what it shall serve, opens it (as root what needs root), becomes an ordinary user,
 * and serves until it is told to stop.
 */
#include "base/error.h"
#include "daemon/appliance.h"
#include "daemon/capture_control.h"
#include "daemon/config_show.h"
#include "daemon/control_path.h"
#include "daemon/disk_change.h"
#include "daemon/disk_control.h"
#include "daemon/network_change.h"
#include "daemon/options.h"
#include "daemon/port_control.h"
#include "daemon/port_limit.h"
#include "daemon/port_rules.h"
#include "daemon/privilege.h"
#include "daemon/queue_control.h"
#include "daemon/rpc.h"
#include "daemon/shutdown.h"
#include "daemon/status.h"
#include "poll/control.h"
#include "vhost/quota.h"
#include "vhost/shared_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

/* All that main() sets up, and takes down in reverse. */
struct daemon {
	struct options options;
	struct identity identity;
	struct appliance appliance;
	struct status status;
	struct rpc_server *rpc;
	char control_path[CONTROL_PATH_BYTES];
};

static const struct rpc_method methods[] = {
	{ .name = "status", .call = status_call },
	{ .name = "queue.move", .call = queue_move_call },
	{ .name = "port.capture", .serve = port_capture_serve, .takes_fds = true },
	{ .name = "port.down", .call = port_down_call },
	{ .name = "port.up", .call = port_up_call },
	{ .name = "port.limit", .call = port_limit_call },
	{ .name = "port.set", .serve = port_set_serve },
	{ .name = "disk.resize", .call = disk_resize_call },
	{ .name = "disk.limit", .call = disk_limit_call },
	{ .name = "disk.retry", .call = disk_retry_call },
	{ .name = "disk.add", .serve = disk_add_serve, .takes_fds = true },
	{ .name = "disk.remove", .serve = disk_remove_serve },
	{ .name = "disk.replace", .serve = disk_replace_serve, .takes_fds = true },
	{ .name = "port.add", .serve = port_add_serve, .takes_fds = true },
	{ .name = "port.remove", .serve = port_remove_serve },
	{ .name = "network.add", .serve = network_add_serve },
	{ .name = "network.remove", .serve = network_remove_serve },
	{ .name = "config", .call = config_show_call },
	{ .name = "version", .call = version_call },
	{ .name = NULL },
};

static int fail(const struct error *err)
{
	log_error("%s", err->text);
	return -1;
}

static unsigned count_ports(const struct config *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->networks.n; i++)
		n += config_network(c, i)->ports.n;
	return n;
}

/* @return 0, -1 after an error, or 1 when there is nothing more to do. */
static int read_config(struct options *o)
{
	struct problems p = { 0 };

	if (!o->config_file)
		return 0;
	o->config = config_load(o->config_file, &p);
	problems_log(&p);
	problems_free(&p);
	if (!o->config)
		return -1;
	if (!o->check)
		return 0;
	printf("%s: in order: disks %u, networks %u, ports %u\n", o->config_file,
	       o->config->disks.n, o->config->networks.n, count_ports(o->config));
	return 1;
}

/* The folders for our sockets, where they are ours to make. */
static int make_dirs(struct daemon *d, struct error *err)
{
	const struct config *c = d->options.config;
	int rc = runtime_dir_make(d->control_path, &d->identity, err);

	for (unsigned i = 0; rc == 0 && i < c->disks.n; i++)
		rc = runtime_dir_make(config_disk(c, i)->socket.path, &d->identity, err);
	for (unsigned i = 0; rc == 0 && i < c->networks.n; i++) {
		const struct network_config *n = config_network(c, i);

		for (unsigned j = 0; rc == 0 && j < n->ports.n; j++)
			rc = runtime_dir_make(config_port(n, j)->socket.path, &d->identity, err);
	}
	return rc;
}

static int start_control_socket(struct daemon *d, struct error *err)
{
	const struct rpc_config cfg = {
		.path = d->control_path,
		.mode = (mode_t)d->options.config->control.mode,
		.methods = methods,
		.ctx = &d->status,
	};
	const char *group = d->options.config->control.group;
	int rc;

	if (!d->control_path[0])
		return 0;
	rc = rpc_server_start(&cfg, &d->rpc, err);
	if (rc)
		return rc;
	if (group)
		rc = privilege_set_group(d->control_path, group, err);
	privilege_give(d->control_path, group != NULL, &d->identity);
	return rc;
}

static void choose_control_path(struct daemon *d)
{
	const char *asked = d->options.config->control.socket;

	/* Several single devices of one user would fight for one path: only when asked for. */
	if (asked)
		snprintf(d->control_path, sizeof(d->control_path), "%s", asked);
	else if (d->options.config_file)
		control_path_default(d->control_path);
}

/* Opens everything and drops root. @return 0, or -1 after an error was logged. */
static int start(struct daemon *d)
{
	struct appliance *a = &d->appliance;
	struct error err = { 0 };
	int rc;

	if (identity_find(d->options.config->user, d->options.config->group, &d->identity, &err))
		return fail(&err);
	privilege_prepare();
	limits_raise();
	prepare_postcopy(a);
	choose_control_path(d);
	if (make_dirs(d, &err))
		return fail(&err);
	rc = control_init();
	if (rc == 0)
		rc = shutdown_watch(a);
	if (rc < 0)
		return fail((error_set(&err, rc, "control loop: %s", strerror(-rc)), &err));
	if (appliance_start(a, &err))
		return fail(&err);
	rc = status_start(&d->status, a);
	if (rc < 0)
		return fail((error_set(&err, rc, "status: %s", strerror(-rc)), &err));
	/* Before the devices: a second daemon by mistake touches none of the first one's. */
	if (start_control_socket(d, &err))
		return fail(&err);
	appliance_open(a, d->options.fd);
	await_postcopy();
	if (a->n_failed && !a->n_open)
		return fail((error_set(&err, -1, "no device could be opened"), &err));
	if (privilege_drop(&d->identity, dpdk_capabilities_needed(), &err))
		return fail(&err);
	shared_file_prepare();
	quota_enforce(true);
	confine(a, d->control_path, &a->confinement);
	return 0;
}

static void hung_up(struct appliance *a)
{
	log_info("the front-end has gone; that is all there was to serve");
	shutdown_begin(a, 0);
}

static void announce(const struct daemon *d)
{
	const struct appliance *a = &d->appliance;

	if (d->options.config_file && a->n_open + a->n_failed == 0)
		log_warn("%s: no disks and no networks: nothing to serve", d->options.config_file);
	log_info("sluiced %s ready: devices %u, failed %u%s%s, workers %u, user %s", SLUICE_VERSION,
		 a->n_open, a->n_failed, d->control_path[0] ? ", control socket " : "",
		 d->control_path, workers_count(a->workers), d->identity.user);
	sd_notifyf(0, "READY=1\nSTATUS=%u devices open, %u failed", a->n_open, a->n_failed);
	sd_event_set_watchdog(control_event(), true);
}

static int serve(struct daemon *d)
{
	struct appliance *a = &d->appliance;
	int rc;

	*a = (struct appliance) {
		.config = d->options.config,
		.config_file = d->options.config_file,
		.identity = &d->identity,
		.hung_up = d->options.fd >= 0 ? hung_up : NULL,
	};
	shutdown_block_signals();
	rc = start(d);
	if (rc == 0)
		announce(d);
	if (rc && a->workers)
		shutdown_begin(a, 1);
	else if (rc)
		goto out;
	rc = control_run();
out:
	status_stop(&d->status);
	rpc_server_stop(d->rpc);
	shutdown_end();
	control_fini();
	return rc;
}

int main(int argc, char **argv)
{
	static struct daemon d;
	int rc = options_parse(argc, argv, &d.options);

	if (rc != OPTIONS_RUN)
		return rc;
	rc = read_config(&d.options);
	if (rc == 0) {
		log_set_level(d.options.log_level >= 0
				      ? (enum log_level)d.options.log_level
				      : (enum log_level)d.options.config->log.level);
		d.options.config->sandbox &= !d.options.no_sandbox;
		rc = serve(&d);
	} else if (rc > 0) {
		rc = 0;
	}
	config_free(d.options.config);
	return rc ? 1 : 0;
}
