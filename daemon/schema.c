/* SPDX-License-Identifier: Apache-2.0 */
/* Objects and their scalar fields; schema_yaml.c walks documents. */
#include "daemon/schema.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void schema_init(const struct schema *s, void *obj, const char *path, unsigned line)
{
	struct object *o = obj;

	assert(s->n_fields <= SCHEMA_FIELDS_MAX);
	memset(obj, 0, s->size);
	snprintf(o->path, sizeof(o->path), "%s", path);
	o->line = line;
	if (s->defaults)
		s->defaults(obj);
	for (unsigned i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];

		/* A map that is left out has its defaults too. */
		if (f->kind == FIELD_MAP)
			schema_init(f->of, (char *)obj + f->offset, f->key, line);
	}
}

void schema_free(const struct schema *s, void *obj)
{
	for (unsigned i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		void *at = (char *)obj + f->offset;

		if (f->kind == FIELD_TEXT) {
			free(*(char **)at);
		} else if (f->kind == FIELD_CPUS) {
			free(((struct cpu_list *)at)->cpus);
		} else if (f->kind == FIELD_MAP) {
			schema_free(f->of, at);
		} else if (f->kind == FIELD_LIST) {
			struct object_list *list = at;

			for (unsigned j = 0; j < list->n; j++)
				schema_free(f->of, (char *)list->items + j * f->of->size);
			free(list->items);
		}
	}
	memset(obj, 0, s->size);
}

static size_t size_of(enum field_kind kind)
{
	static const size_t sizes[] = {
		[FIELD_BOOL] = sizeof(bool),
		[FIELD_NUMBER] = sizeof(uint32_t),
		[FIELD_SIZE] = sizeof(uint64_t),
		[FIELD_COUNT] = sizeof(uint64_t),
		[FIELD_CHOICE] = sizeof(int),
		[FIELD_MODE] = sizeof(int),
		[FIELD_MAC] = sizeof(uint8_t[6]),
		[FIELD_VLANS] = sizeof(struct vlan_list),
		[FIELD_MACS] = sizeof(struct value_macs),
		[FIELD_IPS] = sizeof(struct value_ips),
	};

	assert(kind < ARRAY_SIZE(sizes) && sizes[kind]);
	return sizes[kind];
}

static void copy_owned(const struct schema *s, void *obj)
{
	for (unsigned i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		void *at = (char *)obj + f->offset;
		struct cpu_list *cpus = at;
		char **text = at;

		assert(f->kind != FIELD_LIST);
		if (f->kind == FIELD_MAP) {
			copy_owned(f->of, at);
		} else if (f->kind == FIELD_TEXT && *text) {
			*text = strdup(*text);
			if (!*text)
				abort();
		} else if (f->kind == FIELD_CPUS && cpus->n) {
			unsigned *copy = malloc(cpus->n * sizeof(*copy));

			if (!copy)
				abort();
			memcpy(copy, cpus->cpus, cpus->n * sizeof(*copy));
			cpus->cpus = copy;
		}
	}
}

void schema_copy(const struct schema *s, void *to, const void *from)
{
	struct object *o = to;

	memcpy(to, from, s->size);
	o->path[0] = '\0';
	o->options = false;
	copy_owned(s, to);
}

void schema_unset(const struct schema *s, void *obj, unsigned index)
{
	const struct field *f = &s->fields[index];
	size_t size = size_of(f->kind);
	struct object *o = obj;
	void *as_new = malloc(s->size);

	if (!as_new)
		abort();
	schema_init(s, as_new, "", 0);
	memcpy((char *)obj + f->offset, (char *)as_new + f->offset, size);
	free(as_new);
	o->given[index] = 0;
}

void schema_key(const struct schema *s, const void *obj, unsigned index, char *out, size_t size)
{
	const struct object *o = obj;
	const struct field *f = &s->fields[index];

	if (o->options)
		snprintf(out, size, "--%s", f->option ? f->option : f->key);
	else
		snprintf(out, size, "%s%s%s", o->path, o->path[0] ? "." : "", f->key);
}

void schema_problem(const struct schema *s, const void *obj, unsigned index, struct problems *p,
		    const char *fmt, ...)
{
	const struct object *o = obj;
	char key[160], text[1024];
	va_list ap;

	schema_key(s, obj, index, key, sizeof(key));
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	problems_add(p, o->given[index] ? o->given[index] : o->line, "%s: %s", key, text);
}

static void describe_choices(const char *const *choices, char *out, size_t size)
{
	size_t used = (size_t)snprintf(out, size, "one of");

	for (unsigned i = 0; choices[i] && used < size; i++)
		used += (size_t)snprintf(out + used, size - used, "%s %s", i ? "," : "",
					 choices[i]);
}

void schema_describe(const struct field *f, char *out, size_t size)
{
	static const char *const fixed[] = {
		[FIELD_BOOL] = "true or false",
		[FIELD_SIZE] = "a size in bytes such as 512M or 20GiB",
		[FIELD_COUNT] = "a number such as 500 or 20k",
		[FIELD_TEXT] = "text",
		[FIELD_MODE] = "an octal file mode such as 0660",
		[FIELD_MAC] = "a MAC address such as 52:54:00:12:34:56",
		[FIELD_CPUS] = "a list of CPU numbers such as [2, 3]",
		[FIELD_VLANS] = "a list of VLANs, 1 to 4094, such as [10, 20-30]",
		[FIELD_MACS] = "a list of MAC addresses such as [\"52:54:00:12:34:56\"]",
		[FIELD_IPS] =
			"a list of IP addresses and prefixes such as [10.0.0.5, \"fd00::/64\"]",
		[FIELD_MAP] = "a map of keys and values",
		[FIELD_LIST] = "a list",
	};

	if (f->what)
		snprintf(out, size, "%s", f->what);
	else if (f->kind == FIELD_CHOICE)
		describe_choices(f->choices, out, size);
	else if (f->kind == FIELD_NUMBER)
		snprintf(out, size, "a whole number from %llu to %llu", (unsigned long long)f->min,
			 (unsigned long long)f->max);
	else
		snprintf(out, size, "%s", fixed[f->kind]);
}

static int set_number(const struct field *f, const char *text, uint32_t *out)
{
	uint64_t v;
	int rc = value_number(text, &v);

	if (rc)
		return rc;
	if (v < f->min || v > f->max)
		return -ERANGE;
	*out = (uint32_t)v;
	return 0;
}

static int set_choice(const struct field *f, const char *text, int *out)
{
	for (int i = 0; f->choices[i]; i++) {
		if (strcmp(text, f->choices[i]) == 0) {
			*out = i;
			return 0;
		}
	}
	return -EINVAL;
}

static int set_text(const char *text, char **out)
{
	free(*out);
	*out = strdup(text);
	if (!*out)
		abort();
	return 0;
}

static int set_value(const struct field *f, const char *text, void *at)
{
	switch (f->kind) {
	case FIELD_BOOL:
		return value_bool(text, at);
	case FIELD_NUMBER:
		return set_number(f, text, at);
	case FIELD_SIZE:
		return value_size(text, at);
	case FIELD_COUNT:
		return value_count(text, at);
	case FIELD_TEXT:
		return set_text(text, at);
	case FIELD_CHOICE:
		return set_choice(f, text, at);
	case FIELD_MODE:
		return value_mode(text, at);
	case FIELD_MAC:
		return value_mac(text, at);
	case FIELD_CPUS:
		return value_cpus(text, at);
	case FIELD_VLANS:
		return value_vlans(text, at);
	case FIELD_MACS:
		return value_macs(text, at);
	case FIELD_IPS:
		return value_ips(text, at);
	case FIELD_MAP:
	case FIELD_LIST:
		break;
	}
	return -EINVAL;
}

/* What every text must hold to, whatever it is for. @return what is wrong, or NULL. */
static const char *text_wrong(const struct field *f, const char *text, char *why, size_t size)
{
	size_t len = strlen(text), most = f->max ? f->max : 4095;

	if (len == 0)
		return "is empty; give it a value or leave the key out";
	if (len > most) {
		snprintf(why, size, "is %zu bytes long; at most %zu are possible, shorten it", len,
			 most);
		return why;
	}
	for (const char *c = text; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			return "holds a control character; take it out";
	return NULL;
}

bool schema_set(const struct schema *s, void *obj, unsigned index, const char *text, bool quoted,
		unsigned line, struct problems *p)
{
	const struct field *f = &s->fields[index];
	struct object *o = obj;
	void *at = (char *)obj + f->offset;
	char wanted[200], why[100];
	const char *wrong;
	int rc;

	o->given[index] = line ? line : 1;
	schema_describe(f, wanted, sizeof(wanted));
	if (quoted && (f->kind == FIELD_NUMBER || f->kind == FIELD_BOOL)) {
		schema_problem(s, obj, index, p,
			       "\"%.60s\" is text, because of its quotes; write %s without quotes",
			       text, wanted);
		return false;
	}
	wrong = f->kind == FIELD_TEXT ? text_wrong(f, text, why, sizeof(why)) : NULL;
	if (wrong) {
		schema_problem(s, obj, index, p, "%s", wrong);
		return false;
	}
	rc = set_value(f, text, at);
	if (rc == -ENOSPC) {
		schema_problem(s, obj, index, p,
			       "\"%.60s\" is one too many; at most %u are possible", text,
			       VALUE_ADDRESSES_MAX);
		return false;
	}
	if (rc == -EEXIST) {
		schema_problem(s, obj, index, p, "\"%.60s\" names %s twice; name each once", text,
			       field_item_name(f->kind));
		return false;
	}
	if (rc) {
		schema_problem(s, obj, index, p, "\"%.60s\" is not %s", text, wanted);
		return false;
	}
	wrong = f->rule ? f->rule(f->kind == FIELD_TEXT ? *(char **)at : at) : NULL;
	if (wrong) {
		schema_problem(s, obj, index, p, "\"%.60s\" %s", text, wrong);
		return false;
	}
	return true;
}
