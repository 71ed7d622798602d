/* SPDX-License-Identifier: Apache-2.0 */
/* sluice config: what sluiced serves now, as a configuration file. */
#include "base/error.h"
#include "cli/clean.h"
#include "cli/client.h"
#include "cli/command.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Text that YAML reads as that text without quotes. */
static bool is_plain(const char *text)
{
	if (!isalpha((unsigned char)text[0]) && text[0] != '/')
		return false;
	for (const char *c = text; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("/._-", *c))
			return false;
	return strcasecmp(text, "null") != 0;
}

static void print_key(const char *key)
{
	json_t *j = json_string(key);

	if (is_plain(key))
		fputs(key, stdout);
	else
		print_json(j, JSON_ENCODE_ANY);
	putchar(':');
	json_decref(j);
}

/* In one line. JSON is YAML: only quotes that need not be are left out. */
static void print_flow(const json_t *j)
{
	const char *key, *comma = "";
	json_t *value;
	size_t i;

	if (json_is_object(j)) {
		printf("{ ");
		json_object_foreach ((json_t *)j, key, value) {
			fputs(comma, stdout);
			print_key(key);
			putchar(' ');
			print_flow(value);
			comma = ", ";
		}
		printf(" }");
	} else if (json_is_array(j)) {
		putchar('[');
		json_array_foreach (j, i, value) {
			printf("%s", comma);
			print_flow(value);
			comma = ", ";
		}
		putchar(']');
	} else if (json_is_string(j) && is_plain(json_string_value(j))) {
		printf("%s", json_string_value(j));
	} else {
		print_json(j, JSON_ENCODE_ANY);
	}
}

/* A network: its own keys, and a line for each port. */
static void print_network(json_t *network)
{
	json_t *ports = json_object_get(network, "ports"), *value;
	const char *key, *mark = "-";
	size_t i;

	json_object_foreach (network, key, value) {
		if (value == ports)
			continue;
		printf("  %s ", mark);
		print_key(key);
		putchar(' ');
		print_flow(value);
		putchar('\n');
		mark = " ";
	}
	if (ports)
		puts("    ports:");
	json_array_foreach (ports, i, value) {
		printf("      - ");
		print_flow(value);
		putchar('\n');
	}
}

static void print_config(const json_t *config)
{
	const char *key;
	json_t *value, *item;
	size_t i;

	json_object_foreach ((json_t *)config, key, value) {
		if (!json_is_array(value)) {
			print_key(key);
			putchar(' ');
			print_flow(value);
			putchar('\n');
			continue;
		}
		print_key(key);
		putchar('\n');
		json_array_foreach (value, i, item) {
			if (strcmp(key, "networks") == 0) {
				print_network(item);
				continue;
			}
			printf("  - ");
			print_flow(item);
			putchar('\n');
		}
	}
}

int config_command(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *config;

	if (a->n > 1) {
		fputs("sluice: config takes no arguments\n", stderr);
		return usage_error();
	}
	config = client_call(a->socket, "config", &err);
	if (!config)
		return call_failed(&err);
	if (a->json) {
		print_json(config, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_config(config);
	}
	json_decref(config);
	return EXIT_GOOD;
}
