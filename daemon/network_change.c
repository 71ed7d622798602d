/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/network_change.h"

#include "base/error.h"
#include "daemon/change.h"
#include "daemon/status.h"

#include <stdlib.h>
#include <string.h>

static struct appliance *appliance_of(void *ctx)
{
	return ((struct status *)ctx)->appliance;
}

static bool is_ending(const struct appliance *a, struct rpc_error *err)
{
	if (a->closing)
		rpc_refuse(err, "sluiced is ending");
	return a->closing;
}

/* Takes over @c, also when it fails. */
static bool add_network(struct appliance *a, struct network_config *c, struct rpc_error *err)
{
	struct error why = { 0 };

	if (is_ending(a, err))
		;
	else if (appliance_find_network(a, c->name))
		rpc_refuse(err, "there is a network called \"%s\" already", c->name);
	else if (c->ports.n)
		rpc_refuse(err, "network %s: ports are added one by one, by port.add", c->name);
	else if (appliance_add_network(a, c, &why) < 0)
		rpc_refuse(err, "network %s: %s", c->name, why.text);
	else
		return true;
	change_free(&network_schema, c);
	return false;
}

json_t *network_add_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	struct network_config *c = change_read(&network_schema, r->params, err);

	if (!c || !add_network(appliance_of(ctx), c, err))
		return NULL;
	change_log(r, "network %s: added", c->name);
	return json_pack("{s:s}", "name", c->name);
}

json_t *network_remove_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	struct appliance *a = appliance_of(ctx);
	struct network_entry *n;
	json_error_t wrong;
	const char *name;

	if (!json_is_object(r->params) ||
	    json_unpack_ex((json_t *)r->params, &wrong, JSON_STRICT, "{s:s}", "network", &name) < 0)
		return rpc_refuse(err, "network.remove takes \"network\", a name");
	if (is_ending(a, err))
		return NULL;
	n = appliance_find_network(a, name);
	if (!n)
		return rpc_refuse(err, "there is no network called \"%s\"", name);
	if (!TAILQ_EMPTY(&n->ports))
		return rpc_refuse(err, "network %s has port %s still; remove its ports first", name,
				  TAILQ_FIRST(&n->ports)->config->name);
	change_log(r, "network %s: removed", name);
	appliance_remove_network(a, n);
	return json_pack("{s:s}", "name", name);
}

/* Takes over @c, also when it fails. */
static bool add_port(struct appliance *a, struct network_entry *n, struct port_config *c,
		     struct rpc_request *r, struct rpc_error *err)
{
	struct device_files files;
	struct error why = { 0 };
	struct problems p = { 0 };

	config_check_port(c, &p);
	if (!change_is_good(&p, err))
		;
	else if (c->dpdk)
		rpc_refuse(err,
			   "port %s: a DPDK port opens devices, which sluiced may only do at its "
			   "start; put it into the configuration file",
			   c->name);
	else if (!n->sw)
		rpc_refuse(err, "network %s could not be made; see the log", n->config->name);
	else if (!change_is_free(a, c->name, c->socket.path, err) ||
		 !change_take_files(r, !c->socket.connect, false, &files, err))
		;
	else if (appliance_add_port(n, a, c, &files, &why) < 0)
		rpc_refuse(err, "port %s: %s", c->name, why.text);
	else
		return true;
	change_free(&port_schema, c);
	return false;
}

json_t *port_add_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	struct appliance *a = appliance_of(ctx);
	struct network_entry *n;
	struct port_config *c;
	json_error_t wrong;
	const json_t *port;
	const char *name;

	if (!json_is_object(r->params) ||
	    json_unpack_ex((json_t *)r->params, &wrong, JSON_STRICT, "{s:s, s:o}", "network", &name,
			   "port", &port) < 0)
		return rpc_refuse(err,
				  "port.add takes \"network\", a name, and \"port\", its keys");
	n = appliance_find_network(a, name);
	if (!n)
		return rpc_refuse(err, "there is no network called \"%s\"", name);
	c = change_read(&port_schema, port, err);
	if (!c || !add_port(a, n, c, r, err))
		return NULL;
	change_log(r, "port %s: added to network %s", c->name, name);
	return json_pack("{s:s}", "name", c->name);
}

struct removal {
	struct rpc_reply *reply;
	char *socket; /* NULL: no file of ours */
};

static void removed(void *arg)
{
	struct removal *m = arg;

	rpc_finish(m->reply, json_pack("{s:s?}", "socket", m->socket), NULL);
	free(m->socket);
	free(m);
}

static bool may_remove(const struct appliance *a, const struct port_entry *e, bool force,
		       struct rpc_error *err)
{
	const char *name = e->config->name;

	if (is_ending(a, err))
		return false;
	if (e->removed)
		rpc_refuse(err, "port %s is being removed already", name);
	else if (e->guest && !force &&
		 vhost_device_state(net_device_vhost(e->guest)) != VHOST_DEVICE_WAITING)
		rpc_refuse(err,
			   "port %s is in use: a front-end is connected; detach the card there, or "
			   "--force",
			   name);
	else
		return true;
	return false;
}

json_t *port_remove_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	const struct appliance *a = appliance_of(ctx);
	struct port_entry *e;
	struct removal *m;
	json_error_t wrong;
	const char *name;
	int force = 0;

	if (!json_is_object(r->params) ||
	    json_unpack_ex((json_t *)r->params, &wrong, JSON_STRICT, "{s:s, s?b}", "port", &name,
			   "force", &force) < 0)
		return rpc_refuse(err, "port.remove takes \"port\", a name, and perhaps \"force\"");
	e = appliance_find_port(a, name);
	if (!e)
		return rpc_refuse(err, "there is no port called \"%s\"", name);
	if (!may_remove(a, e, force, err))
		return NULL;
	m = calloc(1, sizeof(*m));
	if (!m || !(m->reply = rpc_later(r))) {
		free(m);
		return rpc_refuse(err, "out of memory");
	}
	if (e->config->socket.path && !e->config->socket.connect)
		m->socket = strdup(e->config->socket.path);
	change_log(r, "port %s: removed", name);
	appliance_remove_port(e, removed, m);
	return NULL;
}
