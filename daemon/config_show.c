/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/config_show.h"

#include "daemon/port_limit.h"
#include "daemon/status.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

static json_t *object_json(const struct schema *s, const void *obj);

static json_t *list_json(const struct schema *s, const struct object_list *list)
{
	json_t *j = json_array();

	for (unsigned i = 0; i < list->n; i++)
		json_array_append_new(j, object_json(s, (const char *)list->items + i * s->size));
	return j;
}

static json_t *cpus_json(const struct cpu_list *list)
{
	json_t *j = json_array();

	for (unsigned i = 0; i < list->n; i++)
		json_array_append_new(j, json_integer(list->cpus[i]));
	return j;
}

static json_t *mac_json(const uint8_t mac[6])
{
	char text[18];

	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
		 mac[3], mac[4], mac[5]);
	return json_string(text);
}

static json_t *vlans_json(const struct vlan_list *list)
{
	char *text = value_vlans_text(list);
	json_t *j = json_string(text);

	free(text);
	return j;
}

static json_t *macs_json(const struct value_macs *list)
{
	json_t *j = json_array();

	for (unsigned i = 0; i < list->n; i++)
		json_array_append_new(j, mac_json(list->mac[i]));
	return j;
}

static json_t *ips_json(const struct value_ips *list)
{
	json_t *j = json_array();
	char text[INET6_ADDRSTRLEN], whole[INET6_ADDRSTRLEN + 8];

	for (unsigned i = 0; i < list->n; i++) {
		const struct value_ip *ip = &list->ip[i];

		inet_ntop(ip->v6 ? AF_INET6 : AF_INET, ip->addr, text, sizeof(text));
		snprintf(whole, sizeof(whole), "%s/%u", text, ip->bits);
		json_array_append_new(j, json_string(whole));
	}
	return j;
}

/* @return NULL: nothing to say, or no valid UTF-8. */
static json_t *field_json(const struct field *f, const void *at)
{
	char text[24];

	switch (f->kind) {
	case FIELD_BOOL:
		return json_boolean(*(const bool *)at);
	case FIELD_NUMBER:
		return json_integer(*(const uint32_t *)at);
	case FIELD_SIZE:
	case FIELD_COUNT:
		return json_integer((json_int_t) * (const uint64_t *)at);
	case FIELD_TEXT:
		return *(char *const *)at ? json_string(*(char *const *)at) : NULL;
	case FIELD_CHOICE:
		return json_string(f->choices[*(const int *)at]);
	case FIELD_MODE:
		snprintf(text, sizeof(text), "%04o", (unsigned)*(const int *)at);
		return json_string(text);
	case FIELD_MAC:
		return mac_json(at);
	case FIELD_MACS:
		return macs_json(at);
	case FIELD_IPS:
		return ips_json(at);
	case FIELD_CPUS:
		return cpus_json(at);
	case FIELD_VLANS:
		return vlans_json(at);
	case FIELD_MAP:
		return object_json(f->of, at);
	case FIELD_LIST:
		return list_json(f->of, at);
	}
	return NULL;
}

/* The keys of @obj that somebody gave; what is left out stays so. */
static json_t *object_json(const struct schema *s, const void *obj)
{
	json_t *j = json_object();

	for (unsigned i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		json_t *value = schema_given(obj, i) ? field_json(f, (const char *)obj + f->offset)
						     : NULL;

		if (value)
			json_object_set_new(j, f->key, value);
	}
	return j;
}

/* What was changed since it was opened: its image, its limits. */
static void put_changes(json_t *j, const struct blk_config *now)
{
	json_t *limits = limit_json(&now->limits);

	if (now->file)
		json_object_set_new(j, "file", json_string(now->file));
	json_object_del(j, "limit");
	if (json_object_size(limits))
		json_object_set(j, "limit", limits);
	json_decref(limits);
}

static json_t *disks_json(const struct appliance *a)
{
	const struct disk_entry *e;
	json_t *disks = json_array();

	TAILQ_FOREACH (e, &a->disks, link) {
		json_t *j = object_json(&disk_schema, e->config);

		if (e->removed) {
			json_decref(j);
			continue;
		}
		if (e->device)
			put_changes(j, blk_device_config(e->device));
		json_array_append_new(disks, j);
	}
	return disks;
}

json_t *config_show_port(const struct port_entry *p)
{
	json_t *j = object_json(&port_schema, port_config_now(p));

	if (p->guest)
		port_limits_show(j, port_rules_now(net_device_port(p->guest)));
	else if (p->dpdk)
		port_limits_show(j, port_rules_now(dpdk_port_port(p->dpdk)));
	return j;
}

static json_t *networks_json(const struct appliance *a)
{
	const struct network_entry *n;
	const struct port_entry *p;
	json_t *networks = json_array();

	TAILQ_FOREACH (n, &a->networks, link) {
		json_t *j = object_json(&network_schema, n->config), *ports = json_array();

		TAILQ_FOREACH (p, &n->ports, link) {
			json_array_append_new(ports, config_show_port(p));
		}
		if (json_array_size(ports))
			json_object_set_new(j, "ports", ports);
		else
			json_decref(ports);
		json_array_append_new(networks, j);
	}
	return networks;
}

/* @list under @key, in the place that it has in the file; an empty one is left out. */
static void put_list(json_t *to, const char *key, json_t *list)
{
	json_object_del(to, key);
	if (json_array_size(list))
		json_object_set_new(to, key, list);
	else
		json_decref(list);
}

json_t *config_show_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	const struct appliance *a = ((struct status *)ctx)->appliance;
	json_t *j;

	if (json_object_size(params) || json_array_size(params))
		return rpc_refuse(err, "\"config\" takes no parameters");
	j = object_json(&config_schema, a->config);
	put_list(j, "networks", networks_json(a));
	put_list(j, "disks", disks_json(a));
	return j;
}
