/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/clean.h"

#include "cli/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* @return how many bytes the control character at @c has; 0: it is none. */
static unsigned control_at(const char *c)
{
	const unsigned char *u = (const unsigned char *)c;

	if (u[0] < 0x20 || u[0] == 0x7f)
		return 1;
	return u[0] == 0xc2 && u[1] >= 0x80 && u[1] < 0xa0 ? 2 : 0;
}

char *clean(char *text)
{
	char *to = text;

	for (const char *from = text; *from;) {
		unsigned n = control_at(from);

		*to++ = n ? '?' : *from;
		from += n ? n : 1;
	}
	*to = '\0';
	return text;
}

void print_json(const json_t *j, size_t flags)
{
	char *text = json_dumps(j, flags);

	if (!text)
		abort();
	/* What is below a blank is escaped in JSON's strings, and outside them layout. */
	for (const char *c = text; *c;) {
		unsigned n = *c == '\n' ? 0 : control_at(c);

		if (n)
			printf("\\u%04x", (unsigned char)c[n - 1]);
		else
			putchar(*c);
		c += n ? n : 1;
	}
	free(text);
}

static json_t *cleaned(const json_t *j)
{
	const char *key;
	json_t *copy, *value;
	char *text;
	size_t i;

	if (json_is_object(j)) {
		copy = json_object();
		json_object_foreach ((json_t *)j, key, value) {
			text = strdup(key);
			if (!text)
				abort();
			json_object_set_new(copy, clean(text), cleaned(value));
			free(text);
		}
		return copy;
	}
	if (json_is_array(j)) {
		copy = json_array();
		json_array_foreach (j, i, value) {
			json_array_append_new(copy, cleaned(value));
		}
		return copy;
	}
	if (!json_is_string(j))
		return json_incref((json_t *)j);
	text = strdup(json_string_value(j));
	if (!text)
		abort();
	copy = json_string(clean(text));
	free(text);
	return copy;
}

bool shown_as_json(const struct arguments *a, json_t **answer)
{
	json_t *copy;

	if (a->json) {
		print_json(*answer, JSON_INDENT(2));
		putchar('\n');
		return true;
	}
	copy = cleaned(*answer);
	json_decref(*answer);
	*answer = copy;
	return false;
}

void complain(const char *fmt, ...)
{
	char *text;
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (rc < 0)
		abort();
	fprintf(stderr, "sluice: %s\n", clean(text));
	free(text);
}
