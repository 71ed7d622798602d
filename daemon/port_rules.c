/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/port_rules.h"

#include "base/log.h"
#include "daemon/change.h"
#include "daemon/config_show.h"
#include "daemon/port_control.h"
#include "daemon/status.h"

#include <stdlib.h>
#include <string.h>

static const unsigned rule_fields[] = { PORT_VLAN_ACCESS, PORT_TRUNK,  PORT_NATIVE,
					PORT_IS_ISOLATED, PORT_MACS,   PORT_IPS,
					PORT_STATIC_MACS, PORT_MAC_MAX };

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

struct port_rules port_rules_of(const struct port_config *p)
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

/* @return the field of port_schema, or n_fields: @key is no rule. */
static unsigned rule_field(const char *key)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rule_fields); i++)
		if (strcmp(port_schema.fields[rule_fields[i]].key, key) == 0)
			return rule_fields[i];
	return port_schema.n_fields;
}

/* Takes the keys of @set out of @c, and reads those anew that are not null. */
static bool set_rules(struct port_config *c, const json_t *set, struct rpc_error *err)
{
	json_t *values = json_object();
	struct problems p = { 0 };
	const json_t *value;
	const char *key;
	char *text;

	json_object_foreach ((json_t *)set, key, value) {
		unsigned field = rule_field(key);

		if (field == port_schema.n_fields) {
			rpc_refuse(err,
				   "\"%.60s\" cannot be set while the port is open; vlan, trunk, "
				   "native, isolated, macs, ips, static_macs and mac_max can, and "
				   "limits by port.limit",
				   key);
			json_decref(values);
			return false;
		}
		schema_unset(&port_schema, c, field);
		if (!json_is_null(value))
			json_object_set(values, key, (json_t *)value);
	}
	/* JSON is YAML: the same walker reads what a file says and what a request does. */
	text = json_dumps(values, 0);
	json_decref(values);
	if (!text)
		abort();
	schema_load(&port_schema, c, text, strlen(text), &p);
	free(text);
	config_check_port(c, &p);
	return change_is_good(&p, err);
}

/* @return the configuration with the keys of @set, from malloc; NULL with @err. */
static struct port_config *changed_by(const struct port_entry *e, const json_t *set,
				      struct rpc_error *err)
{
	struct port_config *c = malloc(sizeof(*c));

	if (!c)
		abort();
	schema_copy(&port_schema, c, port_config_now(e));
	if (set_rules(c, set, err))
		return c;
	change_free(&port_schema, c);
	return NULL;
}

static void use(struct port_entry *e, struct port_config *c)
{
	const struct port_rules rules = port_rules_of(c);

	if (e->guest)
		net_device_set_rules(e->guest, &rules);
	else
		dpdk_port_set_rules(e->dpdk, &rules);
	change_free(&port_schema, e->changed);
	e->changed = c;
}

static json_t *rules_json(const struct port_entry *e)
{
	json_t *port = config_show_port(e), *rules = json_object();

	for (unsigned i = 0; i < ARRAY_SIZE(rule_fields); i++) {
		const char *key = port_schema.fields[rule_fields[i]].key;
		json_t *value = json_object_get(port, key);

		if (value)
			json_object_set(rules, key, value);
	}
	json_decref(port);
	return rules;
}

json_t *port_set_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	const struct appliance *a = ((const struct status *)ctx)->appliance;
	const json_t *set = NULL;
	struct port_config *c;
	struct port_entry *e;
	json_error_t wrong;
	const char *name;

	if (!json_is_object(r->params) ||
	    json_unpack_ex((json_t *)r->params, &wrong, JSON_STRICT, "{s:s, s?o}", "port", &name,
			   "set", &set) < 0 ||
	    (set && !json_is_object(set)))
		return rpc_refuse(err, "port.set takes \"port\", a name, and perhaps \"set\", an "
				       "object");
	e = find_port_entry(a, name);
	if (!e || e->removed)
		return rpc_refuse(err, "there is no open port called \"%s\"", name);
	if (json_object_size(set)) {
		c = changed_by(e, set, err);
		if (!c)
			return NULL;
		use(e, c);
		change_log(r, "port %s has other rules now", name);
	}
	return rules_json(e);
}
