/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/config_limit.h"

#include "poll/worker.h"

#include <string.h>

/* As QEMU's; what is more is a mistake. */
#define RATE_MAX UINT64_C(1000000000000000)

static const char *rate_rule(const void *value)
{
	return *(const uint64_t *)value > RATE_MAX ? "is more than any disk does" : NULL;
}

const char *port_rate_rule(const void *value)
{
	return *(const uint64_t *)value > RATE_MAX ? "is more than any port does" : NULL;
}

#define RATE(name, unit, text, member)                                                  \
	{                                                                               \
		.key = (name), .kind = (unit),                                          \
		.offset = offsetof(struct limit_config, limits.member), .what = (text), \
		.rule = rate_rule                                                       \
	}
#define OPS(name, member) RATE(name, FIELD_COUNT, "a number a second such as 20k", member)
#define BYTES(name, member) RATE(name, FIELD_SIZE, "bytes a second such as 200M", member)

/* A rate, and its maximum behind it. */
static const struct field limit_fields[] = {
	OPS("iops", ops[BLK_LIMIT_ALL].rate),
	OPS("iops_max", ops[BLK_LIMIT_ALL].max),
	OPS("iops_read", ops[BLK_LIMIT_READ].rate),
	OPS("iops_read_max", ops[BLK_LIMIT_READ].max),
	OPS("iops_write", ops[BLK_LIMIT_WRITE].rate),
	OPS("iops_write_max", ops[BLK_LIMIT_WRITE].max),
	BYTES("bandwidth", bytes[BLK_LIMIT_ALL].rate),
	BYTES("bandwidth_max", bytes[BLK_LIMIT_ALL].max),
	BYTES("bandwidth_read", bytes[BLK_LIMIT_READ].rate),
	BYTES("bandwidth_read_max", bytes[BLK_LIMIT_READ].max),
	BYTES("bandwidth_write", bytes[BLK_LIMIT_WRITE].rate),
	BYTES("bandwidth_write_max", bytes[BLK_LIMIT_WRITE].max),
	{ .key = "burst",
	  .kind = FIELD_NUMBER,
	  .offset = offsetof(struct limit_config, limits.burst_s),
	  .max = 3600 },
	{ .key = "share",
	  .kind = FIELD_NUMBER,
	  .offset = offsetof(struct limit_config, limits.share),
	  .max = POLLER_SHARE_MAX },
};
#define N_RATES (ARRAY_SIZE(limit_fields) - 2)
#define BURST N_RATES
#define SHARE (BURST + 1)

const struct schema limit_schema = { sizeof(struct limit_config), ARRAY_SIZE(limit_fields),
				     limit_fields, NULL };

static uint64_t rate_of(const struct limit_config *l, unsigned field)
{
	return *(const uint64_t *)((const char *)l + limit_fields[field].offset);
}

void limit_check(const struct limit_config *l, struct problems *p)
{
	bool any = false;

	for (unsigned i = 0; i < N_RATES; i += 2) {
		uint64_t rate = rate_of(l, i), max = rate_of(l, i + 1);

		any |= max != 0;
		if (max && rate == 0)
			schema_problem(&limit_schema, l, i + 1, p,
				       "is how far %s may be exceeded for a while, and that is not "
				       "set; set it, too",
				       limit_fields[i].key);
		else if (max && max < rate)
			schema_problem(&limit_schema, l, i + 1, p,
				       "is less than %s; make it more, or leave it out",
				       limit_fields[i].key);
	}
	if (l->limits.burst_s && !any)
		schema_problem(&limit_schema, l, BURST, p,
			       "is for how long a maximum holds, and none is set; set one, such "
			       "as iops_max");
}

void limit_for_each(const struct blk_limits *limits,
		    void (*fn)(const char *key, uint64_t value, void *arg), void *arg)
{
	const struct limit_config l = { .limits = *limits };

	for (unsigned i = 0; i < N_RATES; i++)
		if (rate_of(&l, i))
			fn(limit_fields[i].key, rate_of(&l, i), arg);
	if (limits->burst_s)
		fn(limit_fields[BURST].key, limits->burst_s, arg);
	if (limits->share)
		fn(limit_fields[SHARE].key, limits->share, arg);
}
