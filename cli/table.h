/* SPDX-License-Identifier: Apache-2.0 */
/* Text in aligned columns: collect the cells, then print them. */
#ifndef SLUICE_CLI_TABLE_H
#define SLUICE_CLI_TABLE_H

#include "base/compiler.h"

#define TABLE_COLUMNS_MAX 12

struct table {
	unsigned n_columns, n_cells;
	char **cells; /* row by row */
	/* Set by the caller: numbers are easier to compare with their last digits aligned. */
	unsigned right; /* a bit for each column */
};

/* The next cell; the first row is the heading. */
void table_add(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Prints all rows, the widest cell of each column setting its width, and frees them. */
void table_print(struct table *t);

#endif
