/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/disk_control.h"

#include "base/error.h"
#include "daemon/status.h"
#include "daemon/value.h"

#include <stdio.h>
#include <string.h>

static struct blk_device *find_disk(const struct appliance *a, const char *name)
{
	const struct disk_entry *d;

	TAILQ_FOREACH (d, &a->disks, link) {
		if (d->device && strcmp(blk_device_config(d->device)->name, name) == 0)
			return d->device;
	}
	return NULL;
}

/* @return whether @size is one; NULL means none is named: 0. */
static bool read_size(const json_t *size, uint64_t *out)
{
	*out = 0;
	if (!size)
		return true;
	if (json_is_string(size))
		return value_size(json_string_value(size), out) == 0 && *out > 0;
	if (!json_is_integer(size) || json_integer_value(size) <= 0)
		return false;
	*out = (uint64_t)json_integer_value(size);
	return true;
}

json_t *disk_resize_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	const struct appliance *a = ((const struct status *)ctx)->appliance;
	const json_t *size_json = NULL;
	struct error why = { 0 };
	struct blk_device *b;
	uint64_t size, before;
	json_error_t wrong;
	const char *name;

	if (!json_is_object(params) ||
	    json_unpack_ex((json_t *)params, &wrong, JSON_STRICT, "{s:s, s?o}", "disk", &name,
			   "size", &size_json) < 0)
		return rpc_refuse(err, "disk.resize takes \"disk\", a name, and perhaps \"size\"");
	if (!read_size(size_json, &size) || size > INT64_MAX)
		return rpc_refuse(err, "\"size\" is a number of bytes, or text such as 20G");
	b = find_disk(a, name);
	if (!b)
		return rpc_refuse(err, "there is no open disk called \"%s\"", name);
	before = blk_device_capacity(b);
	if (blk_device_resize(b, size, &why) < 0)
		return rpc_refuse(err, "%s", why.text);
	return json_pack("{s:I, s:I}", "capacity", (json_int_t)blk_device_capacity(b), "grown",
			 (json_int_t)(blk_device_capacity(b) - before));
}

/* @return the limit's field called @key, or n_fields. */
static unsigned limit_field(const char *key)
{
	unsigned i = 0;

	while (i < limit_schema.n_fields && strcmp(limit_schema.fields[i].key, key) != 0)
		i++;
	return i;
}

static void set_limit(struct limit_config *l, const char *key, const json_t *value,
		      struct problems *p)
{
	unsigned field = limit_field(key);
	char number[24];

	if (field == limit_schema.n_fields) {
		problems_add(p, 0, "limit: there is no \"%.60s\"", key);
		return;
	}
	snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	if (json_is_string(value) || json_is_integer(value))
		schema_set(&limit_schema, l, field,
			   json_is_string(value) ? json_string_value(value) : number, false, 0, p);
	else
		schema_problem(&limit_schema, l, field, p, "is neither text nor a whole number");
}

/* The limits of @b change as @limit says. @return false, with the first problem in @err. */
static bool change_limits(struct blk_device *b, const json_t *limit, struct rpc_error *err)
{
	bool ok;
	struct limit_config l;
	struct problems p = { 0 };
	struct error why = { 0 };
	const json_t *value;
	const char *key;

	schema_init(&limit_schema, &l, "limit", 0);
	l.limits = blk_device_config(b)->limits;
	json_object_foreach ((json_t *)limit, key, value) {
		set_limit(&l, key, value, &p);
	}
	if (p.n == 0)
		limit_check(&l, &p);
	if (p.n == 0 && blk_device_limit(b, &l.limits, &why) < 0)
		problems_add(&p, 0, "%s", why.text);
	if (p.n)
		rpc_refuse(err, "%s", p.text[0]);
	ok = p.n == 0;
	problems_free(&p);
	return ok;
}

json_t *disk_limit_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	const struct appliance *a = ((const struct status *)ctx)->appliance;
	const json_t *limit = NULL;
	struct blk_device *b;
	json_error_t wrong;
	const char *name;

	if (!json_is_object(params) ||
	    json_unpack_ex((json_t *)params, &wrong, JSON_STRICT, "{s:s, s?o}", "disk", &name,
			   "limit", &limit) < 0 ||
	    (limit && !json_is_object(limit)))
		return rpc_refuse(err, "disk.limit takes \"disk\", a name, and perhaps \"limit\", "
				       "an object");
	b = find_disk(a, name);
	if (!b)
		return rpc_refuse(err, "there is no open disk called \"%s\"", name);
	if (limit && !change_limits(b, limit, err))
		return NULL;
	return limit_json(&blk_device_config(b)->limits);
}

json_t *disk_retry_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	const struct appliance *a = ((const struct status *)ctx)->appliance;
	struct blk_device *b;
	json_error_t wrong;
	const char *name;

	if (!json_is_object(params) ||
	    json_unpack_ex((json_t *)params, &wrong, JSON_STRICT, "{s:s}", "disk", &name) < 0)
		return rpc_refuse(err, "disk.retry takes \"disk\", a name");
	b = find_disk(a, name);
	if (!b)
		return rpc_refuse(err, "there is no open disk called \"%s\"", name);
	return json_pack("{s:I}", "waiting", (json_int_t)blk_device_retry(b));
}
