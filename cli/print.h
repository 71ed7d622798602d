/* SPDX-License-Identifier: Apache-2.0 */
/* The answer of "status" for people. */
#ifndef SLUICE_CLI_PRINT_H
#define SLUICE_CLI_PRINT_H

#include <jansson.h>
#include <stdbool.h>

/* Everything, a line each. */
void print_status(const json_t *status);

/* All there is to know of each disk, port or network called @name. @return false: there is none. */
bool print_named(const json_t *status, const char *name);

#endif
