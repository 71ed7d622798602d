/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands of sluice share. */
#ifndef SLUICE_CLI_COMMAND_H
#define SLUICE_CLI_COMMAND_H

#include <stdbool.h>

struct error;

/* Exit codes; sluice(1) documents them. */
enum { EXIT_GOOD, EXIT_FAILED, EXIT_USAGE, EXIT_NO_DAEMON };

struct arguments {
	const char *socket;
	bool json, force;
	const char *write; /* -w */
	long snap;	   /* bytes; 0: all */
	int n;
	char **words; /* what is left: the command and its arguments */
};

/* Each says why, and returns an exit code. */
int usage_error(void);
int call_failed(const struct error *err);

/* A command, whose name is words[0]. @return an exit code. */
int config_command(const struct arguments *a);
int disk_command(const struct arguments *a);
int capture_command(const struct arguments *a);
int network_command(const struct arguments *a);
/* Of port_command(): port up, port down; port limit. */
int port_link_command(const struct arguments *a);
int port_limit_command(const struct arguments *a);
/* "disk limit", "port limit" of @what: words[3] on are KEY=VALUE, or "none" for all of @keys (NULL
 * at the end). */
int limit_command(const struct arguments *a, const char *what, const char *const *keys);
int port_command(const struct arguments *a);

#endif
