/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/disk_control.h"

#include "base/error.h"
#include "daemon/status.h"
#include "daemon/value.h"

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
