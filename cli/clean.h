/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes from a daemon, made fit to be shown: it may name files and devices that somebody
 * else has named, or be no daemon of ours at all, and a terminal does what its bytes say.
 */
#ifndef SLUICE_CLI_CLEAN_H
#define SLUICE_CLI_CLEAN_H

#include "base/compiler.h"

#include <jansson.h>
#include <stdbool.h>

struct arguments;

/* Puts a '?' for each control character, those of ISO 6429 (U+0080 to U+009F) included. */
char *clean(char *text);

/* JSON of the whole of @j on stdout, in which all control characters are escaped. */
void print_json(const json_t *j, size_t flags);

/*
 * For --json: prints @answer, and a newline. @return true. Else @return false, and all texts and
 * keys of @answer are clean from then on.
 */
bool shown_as_json(const struct arguments *a, json_t **answer);

/* "sluice: …" on stderr, clean, and a newline. */
PRINTF_LIKE(1, 2) void complain(const char *fmt, ...);

#endif
