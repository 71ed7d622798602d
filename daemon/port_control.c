/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/port_control.h"

#include "base/log.h"
#include "daemon/status.h"

#include <string.h>

struct port_entry *find_port_entry(const struct appliance *a, const char *name)
{
	const struct network_entry *n;
	struct port_entry *p;

	TAILQ_FOREACH (n, &a->networks, link) {
		TAILQ_FOREACH (p, &n->ports, link) {
			if ((p->guest || p->dpdk) && strcmp(p->config->name, name) == 0)
				return p;
		}
	}
	return NULL;
}

struct port *find_port(const struct appliance *a, const char *name)
{
	const struct port_entry *e = find_port_entry(a, name);
	const struct port *p = !e	  ? NULL
			       : e->guest ? net_device_port(e->guest)
					  : dpdk_port_port(e->dpdk);

	return (struct port *)(uintptr_t)p;
}

static json_t *set_down(void *ctx, const json_t *params, bool down, struct rpc_error *err)
{
	const struct appliance *a = ((const struct status *)ctx)->appliance;
	const char *name;
	struct port_entry *p;
	json_error_t wrong;
	bool told = false;

	if (!json_is_object(params) ||
	    json_unpack_ex((json_t *)params, &wrong, JSON_STRICT, "{s:s}", "port", &name) < 0)
		return rpc_refuse(err, "port.%s takes \"port\", a name", down ? "down" : "up");
	p = find_port_entry(a, name);
	if (!p)
		return rpc_refuse(err, "there is no open port called \"%s\"", name);
	if (p->guest)
		told = net_device_set_down(p->guest, down);
	else
		dpdk_port_set_down(p->dpdk, down);
	log_info("port %s is %s now", name, down ? "down" : "up");
	return json_pack("{s:b, s:b}", "up", !down, "told", told);
}

json_t *port_down_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	return set_down(ctx, params, true, err);
}

json_t *port_up_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	return set_down(ctx, params, false, err);
}
