/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK ports for a program that has nothing of DPDK until it has such a port: to load its libraries
 * takes longer than all the rest of a start, and most daemons serve no NIC. What stands behind the
 * calls is in a module (dpdk_module.c), which stays from the first DPDK port until the process
 * ends.
 *
 * It is loaded while the configuration's ports are opened, before the sandbox closes: in there no
 * file can be opened, nor memory made executable, and DPDK ports cannot be added.
 */
#include "base/error.h"
#include "net/dpdk_calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct dpdk_calls *calls;

/* Beside the program, as in a build folder; else where it is installed. */
static int find(char *path, size_t size, struct error *err)
{
	char program[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	char *slash;

	program[MAX(n, 0)] = '\0';
	slash = strrchr(program, '/');
	if (slash) {
		*slash = '\0';
		if ((size_t)snprintf(path, size, "%s/" DPDK_MODULE, program) < size &&
		    access(path, F_OK) == 0)
			return 0;
	}
	snprintf(path, size, "%s/" DPDK_MODULE, SLUICE_MODULE_DIR);
	if (access(path, F_OK) == 0)
		return 0;
	return error_set(err, -ENOENT,
			 "%s, without which there are no DPDK ports, is not there: install it",
			 path);
}

static int load(struct error *err)
{
	char path[PATH_MAX];
	const struct dpdk_calls *found;
	const char *why;
	void *module;
	int rc;

	if (calls)
		return 0;
	rc = find(path, sizeof(path), err);
	if (rc < 0)
		return rc;
	module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	found = module ? dlsym(module, DPDK_MODULE_CALLS) : NULL;
	if (!found) {
		why = dlerror();
		return error_set(err, -ELIBACC, "%s does not load: %s; install DPDK's libraries",
				 path, why ? why : "it is none of ours");
	}
	if (strcmp(found->version, SLUICE_VERSION) != 0)
		return error_set(err, -ELIBBAD,
				 "%s is of sluiced %s, and this is %s: install both anew", path,
				 found->version, SLUICE_VERSION);
	calls = found;
	return 0;
}

int dpdk_port_create(const struct dpdk_port_config *cfg, struct net_switch *sw,
		     struct workers *workers, struct dpdk_port **out, struct error *err)
{
	int rc = load(err);

	if (rc < 0) {
		error_prefix(err, "port %s", cfg->name);
		return rc;
	}
	return calls->port_create(cfg, sw, workers, out, err);
}

/* Whoever has a port has loaded the module. */

void dpdk_port_close(struct dpdk_port *p)
{
	if (p)
		calls->port_close(p);
}

const struct port *dpdk_port_port(const struct dpdk_port *p)
{
	return calls->port_port(p);
}

void dpdk_port_set_down(struct dpdk_port *p, bool down)
{
	calls->port_set_down(p, down);
}

void dpdk_port_set_limits(struct dpdk_port *p, const struct port_rules *rules)
{
	calls->port_set_limits(p, rules);
}

void dpdk_port_set_rules(struct dpdk_port *p, const struct port_rules *rules)
{
	calls->port_set_rules(p, rules);
}

const struct dpdk_port_config *dpdk_port_config(const struct dpdk_port *p)
{
	return calls->port_config(p);
}

const char *dpdk_port_how(const struct dpdk_port *p)
{
	return calls->port_how(p);
}

uint64_t dpdk_capabilities_needed(void)
{
	return calls ? calls->capabilities_needed() : 0;
}

void dpdk_fini(void)
{
	if (calls)
		calls->fini();
}
