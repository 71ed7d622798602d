/* SPDX-License-Identifier: Apache-2.0 */
/* sluice disk …: what is done to devices while sluiced runs. */
#include "base/compiler.h"
#include "base/error.h"
#include "cli/change.h"
#include "cli/clean.h"
#include "cli/client.h"
#include "cli/command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int wrong(const char *right)
{
	fprintf(stderr, "sluice: it is: %s\n", right);
	return usage_error();
}

/* Told where a restart would lose what the operator has just done. */
static void print_not_saved(void)
{
	puts("The configuration file does not say so; change it to have that after a restart, too "
	     "(sluice config prints it).");
}

static int resize_disk(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *answer, *params;

	if (a->n < 3 || a->n > 4)
		return wrong("disk resize DISK [SIZE]");
	params = json_pack("{s:s, s:s*}", "disk", a->words[2], "size",
			   a->n == 4 ? a->words[3] : NULL);
	answer = client_call_with(a->socket, "disk.resize", params, &err);
	if (!answer)
		return call_failed(&err);
	if (shown_as_json(a, &answer))
		;
	else if (json_integer_value(json_object_get(answer, "grown")) == 0)
		printf("%s has %" JSON_INTEGER_FORMAT " bytes, as before\n", a->words[2],
		       json_integer_value(json_object_get(answer, "capacity")));
	else
		printf("%s has %" JSON_INTEGER_FORMAT " bytes, %" JSON_INTEGER_FORMAT " more\n",
		       a->words[2], json_integer_value(json_object_get(answer, "capacity")),
		       json_integer_value(json_object_get(answer, "grown")));
	json_decref(answer);
	return EXIT_GOOD;
}

/* KEY=VALUE words as an object; "none": each of @keys taken away. @return NULL: neither. */
static json_t *limit_words(const struct arguments *a, const char *const *keys)
{
	json_t *limit = json_object();

	if (a->n == 4 && strcmp(a->words[3], "none") == 0) {
		for (; *keys; keys++)
			json_object_set_new(limit, *keys, json_integer(0));
		return limit;
	}
	for (int i = 3; i < a->n; i++) {
		char *value = strchr(a->words[i], '=');

		if (!value || value == a->words[i]) {
			fprintf(stderr, "sluice: \"%s\" is not KEY=VALUE\n", a->words[i]);
			json_decref(limit);
			return NULL;
		}
		*value = '\0';
		if (json_object_set_new(limit, a->words[i], json_string(value + 1)) < 0) {
			complain("\"%s=%s\" is not valid UTF-8", a->words[i], value + 1);
			json_decref(limit);
			return NULL;
		}
	}
	return limit;
}

int limit_command(const struct arguments *a, const char *what, const char *const *keys)
{
	json_t *limit = limit_words(a, keys), *answer, *value;
	struct error err = { 0 };
	char method[24];
	const char *key;

	if (!limit)
		return usage_error();
	snprintf(method, sizeof(method), "%s.limit", what);
	answer = client_call_with(a->socket, method,
				  json_pack("{s:s, s:o}", what, a->words[2], "limit", limit), &err);
	if (!answer)
		return call_failed(&err);
	if (!shown_as_json(a, &answer) && json_object_size(answer) == 0)
		printf("%s has no limits\n", a->words[2]);
	json_object_foreach (answer, key, value) {
		if (!a->json)
			printf("%s=%" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
	}
	json_decref(answer);
	return EXIT_GOOD;
}

static int limit_disk(const struct arguments *a)
{
	static const char *const keys[] = { "iops",
					    "iops_max",
					    "iops_read",
					    "iops_read_max",
					    "iops_write",
					    "iops_write_max",
					    "bandwidth",
					    "bandwidth_max",
					    "bandwidth_read",
					    "bandwidth_read_max",
					    "bandwidth_write",
					    "bandwidth_write_max",
					    "burst",
					    "share",
					    NULL };

	if (a->n < 3)
		return wrong("disk limit DISK [KEY=VALUE… | none]");
	return limit_command(a, "disk", keys);
}

static int retry_disk(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *answer;

	if (a->n != 3)
		return wrong("disk retry DISK");
	answer = client_call_with(a->socket, "disk.retry", json_pack("{s:s}", "disk", a->words[2]),
				  &err);
	if (!answer)
		return call_failed(&err);
	if (!shown_as_json(a, &answer))
		printf("%s: requests that try again: %" JSON_INTEGER_FORMAT "\n", a->words[2],
		       json_integer_value(json_object_get(answer, "waiting")));
	json_decref(answer);
	return EXIT_GOOD;
}

static int add_disk(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *answer, *params;

	if (a->n < 3 || a->words[2][0] == '-')
		return wrong("disk add NAME --socket PATH --file PATH [--KEY VALUE…]");
	params = json_pack("{s:s}", "name", a->words[2]);
	if (!params || !change_options(a->words + 3, a->n - 3, params, &err)) {
		complain("%s", params ? err.text : "the name is not UTF-8");
		json_decref(params);
		return usage_error();
	}
	answer = change_add_disk(a->socket, params, &err);
	if (!answer)
		return call_failed(&err);
	if (!shown_as_json(a, &answer)) {
		printf("disk %s is served: %" JSON_INTEGER_FORMAT " bytes, %s\n", a->words[2],
		       json_integer_value(json_object_get(answer, "capacity")),
		       json_string_value(json_object_get(answer, "how")));
		print_not_saved();
	}
	json_decref(answer);
	return EXIT_GOOD;
}

static int remove_disk(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *answer;

	if (a->n != 3)
		return wrong("disk remove DISK [--force]");
	answer = change_remove(a->socket, "disk.remove",
			       json_pack("{s:s, s:b}", "disk", a->words[2], "force", a->force),
			       &err);
	if (!answer)
		return call_failed(&err);
	if (!shown_as_json(a, &answer)) {
		printf("disk %s is closed\n", a->words[2]);
	}
	json_decref(answer);
	return EXIT_GOOD;
}

static int replace_disk(const struct arguments *a)
{
	struct error err = { 0 };
	json_int_t now, before;
	json_t *answer;

	if (a->n != 5 || strcmp(a->words[3], "--file") != 0)
		return wrong("disk replace DISK --file PATH");
	answer = change_replace_disk(a->socket, a->words[2], a->words[4], &err);
	if (!answer)
		return call_failed(&err);
	now = json_integer_value(json_object_get(answer, "capacity"));
	before = json_integer_value(json_object_get(answer, "before"));
	if (!shown_as_json(a, &answer)) {
		printf("disk %s has another image: %" JSON_INTEGER_FORMAT " bytes, ", a->words[2],
		       now);
		if (now == before)
			puts("as before");
		else
			printf("before %" JSON_INTEGER_FORMAT "\n", before);
		print_not_saved();
	}
	json_decref(answer);
	return EXIT_GOOD;
}

int disk_command(const struct arguments *a)
{
	static const struct {
		const char *name;
		int (*run)(const struct arguments *a);
	} verbs[] = {
		{ "add", add_disk },	   { "remove", remove_disk }, { "replace", replace_disk },
		{ "resize", resize_disk }, { "limit", limit_disk },   { "retry", retry_disk },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
		if (a->n > 1 && strcmp(a->words[1], verbs[i].name) == 0)
			return verbs[i].run(a);
	return wrong("disk add …, remove …, replace …, resize …, limit … or retry …");
}
