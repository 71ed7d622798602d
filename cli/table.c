/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include "cli/clean.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void table_add(struct table *t, const char *fmt, ...)
{
	va_list ap;
	int rc;

	t->cells = realloc(t->cells, (t->n_cells + 1) * sizeof(*t->cells));
	if (!t->cells)
		abort();
	va_start(ap, fmt);
	rc = vasprintf(&t->cells[t->n_cells], fmt, ap);
	va_end(ap);
	if (rc < 0)
		abort();
	/* Names come from a configuration, errors from anywhere: keep the terminal safe. */
	clean(t->cells[t->n_cells++]);
}

/* Columns of text, not bytes: UTF-8 continuation bytes take no room. */
static int width_of(const char *text)
{
	int n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

void table_print(struct table *t)
{
	int width[TABLE_COLUMNS_MAX] = { 0 };

	for (unsigned i = 0; i < t->n_cells; i++)
		width[i % t->n_columns] = MAX(width[i % t->n_columns], width_of(t->cells[i]));
	for (unsigned i = 0; i < t->n_cells; i++) {
		unsigned column = i % t->n_columns;
		int pad = width[column] - width_of(t->cells[i]);
		int last = column == t->n_columns - 1;

		if (t->right >> column & 1)
			printf("%*s%s", pad, "", t->cells[i]);
		else
			printf("%s%*s", t->cells[i], last ? 0 : pad, "");
		fputs(last ? "\n" : "  ", stdout);
		free(t->cells[i]);
	}
	free(t->cells);
	t->cells = NULL;
	t->n_cells = 0;
}
