/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/port_limit.h"

#include "base/log.h"
#include "daemon/config_limit.h"
#include "daemon/port_control.h"
#include "daemon/schema.h"
#include "daemon/status.h"

#include <stdio.h>
#include <string.h>

struct limits {
	struct object at;
	struct port_rate rx, tx; /* as the guest sees it */
	uint64_t broadcast, unknown;
};

#define LIMIT(name, member)                                                                    \
	{                                                                                      \
		.key = (name), .kind = FIELD_COUNT, .offset = offsetof(struct limits, member), \
		.rule = port_rate_rule                                                         \
	}
/* A rate, and its burst behind it. */
static const struct field fields[] = {
	LIMIT("rx.bits", rx.bits),	 LIMIT("rx.bits_burst", rx.bits_burst),
	LIMIT("rx.packets", rx.packets), LIMIT("rx.packets_burst", rx.packets_burst),
	LIMIT("tx.bits", tx.bits),	 LIMIT("tx.bits_burst", tx.bits_burst),
	LIMIT("tx.packets", tx.packets), LIMIT("tx.packets_burst", tx.packets_burst),
	LIMIT("broadcast", broadcast),	 LIMIT("unknown", unknown),
};
#define N_BURSTS 4

static const struct schema schema = { sizeof(struct limits), ARRAY_SIZE(fields), fields, NULL };

static void limits_of(struct limits *l, const struct port_rules *r)
{
	schema_init(&schema, l, "limit", 0);
	l->rx = r->out; /* what a guest receives goes out here */
	l->tx = r->in;
	l->broadcast = r->broadcast;
	l->unknown = r->unknown;
}

static uint64_t value_of(const struct limits *l, unsigned field)
{
	return *(const uint64_t *)((const char *)l + fields[field].offset);
}

static void set(struct limits *l, const char *key, const json_t *value, struct problems *p)
{
	char number[24];
	unsigned i = 0;

	while (i < ARRAY_SIZE(fields) && strcmp(fields[i].key, key) != 0)
		i++;
	if (i == ARRAY_SIZE(fields)) {
		problems_add(p, 0, "limit: there is no \"%.60s\"", key);
		return;
	}
	snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	if (json_is_string(value) || json_is_integer(value))
		schema_set(&schema, l, i, json_is_string(value) ? json_string_value(value) : number,
			   false, 0, p);
	else
		schema_problem(&schema, l, i, p, "is neither text nor a whole number");
}

/* A rate that is taken away takes its burst along; one that never was has none. */
static void settle_bursts(struct limits *l, const struct limits *before, struct problems *p)
{
	for (unsigned i = 0; i < 2 * N_BURSTS; i += 2) {
		if (value_of(l, i) || !value_of(l, i + 1))
			continue;
		if (value_of(before, i + 1) == value_of(l, i + 1))
			*(uint64_t *)((char *)l + fields[i + 1].offset) = 0;
		else
			schema_problem(&schema, l, i + 1, p,
				       "is a burst without a rate: give %s too", fields[i].key);
	}
}

static json_t *limits_json(const struct limits *l)
{
	json_t *j = json_object();

	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++)
		if (value_of(l, i))
			json_object_set_new(j, fields[i].key,
					    json_integer((json_int_t)value_of(l, i)));
	return j;
}

static void use(struct port_entry *e, const struct limits *l)
{
	const struct port_rules rules = {
		.in = l->tx, .out = l->rx, .broadcast = l->broadcast, .unknown = l->unknown
	};

	if (e->guest)
		net_device_set_limits(e->guest, &rules);
	else
		dpdk_port_set_limits(e->dpdk, &rules);
}

/* @return false, with the first problem in @err: then nothing has changed. */
static bool change(struct port_entry *e, struct limits *l, const json_t *limit,
		   struct rpc_error *err)
{
	const struct limits before = *l;
	struct problems p = { 0 };
	const json_t *value;
	const char *key;
	bool ok;

	json_object_foreach ((json_t *)limit, key, value) {
		set(l, key, value, &p);
	}
	if (p.n == 0)
		settle_bursts(l, &before, &p);
	ok = p.n == 0;
	if (ok)
		use(e, l);
	else
		rpc_refuse(err, "%s", p.text[0]);
	problems_free(&p);
	return ok;
}

json_t *port_limit_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	const struct appliance *a = ((const struct status *)ctx)->appliance;
	const json_t *limit = NULL;
	struct port_entry *e;
	json_error_t wrong;
	const char *name;
	struct limits l;

	if (!json_is_object(params) ||
	    json_unpack_ex((json_t *)params, &wrong, JSON_STRICT, "{s:s, s?o}", "port", &name,
			   "limit", &limit) < 0 ||
	    (limit && !json_is_object(limit)))
		return rpc_refuse(err, "port.limit takes \"port\", a name, and perhaps \"limit\", "
				       "an object");
	e = find_port_entry(a, name);
	if (!e)
		return rpc_refuse(err, "there is no open port called \"%s\"", name);
	limits_of(&l, port_rules_now(find_port(a, name)));
	if (limit && !change(e, &l, limit, err))
		return NULL;
	if (json_object_size(limit))
		log_info("port %s has other limits now", name);
	return limits_json(&l);
}

static void put_nested(json_t *to, const char *key, json_t *values)
{
	json_object_del(to, key);
	if (json_object_size(values))
		json_object_set(to, key, values);
	json_decref(values);
}

void port_limits_show(json_t *port, const struct port_rules *r)
{
	json_t *limit = json_object(), *flood = json_object(), *rx = json_object(),
	       *tx = json_object();
	struct limits l;

	limits_of(&l, r);
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
		const char *key = fields[i].key, *dot = strchr(key, '.');
		json_t *to = !dot ? flood : *key == 'r' ? rx : tx;

		if (value_of(&l, i))
			json_object_set_new(to, dot ? dot + 1 : key,
					    json_integer((json_int_t)value_of(&l, i)));
	}
	put_nested(limit, "rx", rx);
	put_nested(limit, "tx", tx);
	put_nested(port, "limit", limit);
	put_nested(port, "flood_limit", flood);
}
