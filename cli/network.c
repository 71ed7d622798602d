/* SPDX-License-Identifier: Apache-2.0 */
/* sluice network …, sluice port …: what is done to them while sluiced runs. */
#include "base/compiler.h"
#include "base/error.h"
#include "cli/change.h"
#include "cli/clean.h"
#include "cli/client.h"
#include "cli/command.h"

#include <stdio.h>
#include <string.h>

static int wrong(const char *right)
{
	fprintf(stderr, "sluice: it is: %s\n", right);
	return usage_error();
}

/* The name and options from words[@i] on. @return NULL after saying why. */
static json_t *describe(const struct arguments *a, int i)
{
	json_t *params = json_pack("{s:s}", "name", a->words[i]);
	struct error err = { 0 };

	if (params && change_options(a->words + i + 1, a->n - i - 1, params, &err))
		return params;
	complain("%s", params ? err.text : "the name is not UTF-8");
	json_decref(params);
	usage_error();
	return NULL;
}

/* Takes over @answer. @what: "port web is served"; then the way to have it after a restart. */
static int done(const struct arguments *a, json_t *answer, const struct error *err,
		const char *what, const char *name, const char *how)
{
	if (!answer)
		return call_failed(err);
	if (!shown_as_json(a, &answer))
		printf("%s %s %s\n", what, name, how);
	json_decref(answer);
	return EXIT_GOOD;
}

static int add_network(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *params;

	if (a->n < 3 || a->words[2][0] == '-')
		return wrong("network add NAME [--KEY VALUE…]");
	params = describe(a, 2);
	if (!params)
		return EXIT_USAGE;
	return done(a, client_call_with(a->socket, "network.add", params, &err), &err, "network",
		    a->words[2], "is there; the configuration file does not say so");
}

static int remove_network(const struct arguments *a)
{
	struct error err = { 0 };

	if (a->n != 3)
		return wrong("network remove NETWORK");
	return done(a,
		    client_call_with(a->socket, "network.remove",
				     json_pack("{s:s}", "network", a->words[2]), &err),
		    &err, "network", a->words[2], "is gone");
}

static int add_port(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *port;

	if (a->n < 4 || a->words[2][0] == '-' || a->words[3][0] == '-')
		return wrong("port add NETWORK NAME --socket PATH [--KEY VALUE…]");
	port = describe(a, 3);
	if (!port)
		return EXIT_USAGE;
	return done(a, change_add_port(a->socket, a->words[2], port, &err), &err, "port",
		    a->words[3], "is served; the configuration file does not say so");
}

/* "none" takes a key away. */
static json_t *rules_to_set(const struct arguments *a)
{
	json_t *set = describe(a, 2), *value;
	const char *key;
	void *next;

	json_object_del(set, "name");
	json_object_foreach_safe(set, next, key, value)
	{
		const json_t *word = json_is_array(value) && json_array_size(value) == 1
					     ? json_array_get(value, 0)
					     : value;

		if (json_is_string(word) && strcmp(json_string_value(word), "none") == 0)
			json_object_set_new(set, key, json_null());
	}
	return set;
}

static void print_rule(const char *port, const char *key, const json_t *value)
{
	const json_t *item;
	size_t i;

	printf("%s: %s ", port, key);
	json_array_foreach (value, i, item) {
		printf("%s%s", i ? "," : "", json_string_value(item));
	}
	if (json_is_string(value))
		fputs(json_string_value(value), stdout);
	else if (json_is_integer(value))
		printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_boolean(value))
		fputs(json_is_true(value) ? "true" : "false", stdout);
	putchar('\n');
}

static int set_port(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *set, *answer;
	const json_t *value;
	const char *key;

	if (a->n < 3 || a->words[2][0] == '-')
		return wrong("port set PORT [--KEY VALUE | --KEY none …]");
	set = rules_to_set(a);
	if (!set)
		return EXIT_USAGE;
	answer = client_call_with(a->socket, "port.set",
				  json_pack("{s:s, s:o}", "port", a->words[2], "set", set), &err);
	if (!answer)
		return call_failed(&err);
	if (!shown_as_json(a, &answer) && json_object_size(answer) == 0)
		printf("%s has no rules\n", a->words[2]);
	json_object_foreach (answer, key, value) {
		if (!a->json)
			print_rule(a->words[2], key, value);
	}
	json_decref(answer);
	return EXIT_GOOD;
}

static int remove_port(const struct arguments *a)
{
	struct error err = { 0 };

	if (a->n != 3)
		return wrong("port remove PORT [--force]");
	return done(a,
		    change_remove(a->socket, "port.remove",
				  json_pack("{s:s, s:b}", "port", a->words[2], "force", a->force),
				  &err),
		    &err, "port", a->words[2], "is closed");
}

int network_command(const struct arguments *a)
{
	if (a->n > 1 && strcmp(a->words[1], "add") == 0)
		return add_network(a);
	if (a->n > 1 && strcmp(a->words[1], "remove") == 0)
		return remove_network(a);
	return wrong("network add … or remove …");
}

int port_command(const struct arguments *a)
{
	if (a->n > 1 && strcmp(a->words[1], "add") == 0)
		return add_port(a);
	if (a->n > 1 && strcmp(a->words[1], "remove") == 0)
		return remove_port(a);
	if (a->n > 1 && strcmp(a->words[1], "set") == 0)
		return set_port(a);
	if (a->n > 1 && strcmp(a->words[1], "limit") == 0)
		return port_limit_command(a);
	return port_link_command(a);
}
