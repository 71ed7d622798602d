/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of sluiced: a configuration file, or one device described by options. Both end
 * up as a struct config; options go through the same tables and rules as a file's keys.
 */
#ifndef SLUICE_DAEMON_OPTIONS_H
#define SLUICE_DAEMON_OPTIONS_H

#include "daemon/config.h"

struct options {
	const char *config_file; /* NULL: a single device, in @config */
	struct config *config;	 /* owned */
	bool check;		 /* only check the configuration */
	int fd;			 /* the single device's socket; -1: it has paths */
	int log_level;		 /* -1: as configured */
	bool no_sandbox;	 /* whatever the configuration says */
};

#define OPTIONS_RUN (-1)

/* @return OPTIONS_RUN, or the exit code of a program that has nothing (more) to do; it said why. */
int options_parse(int argc, char **argv, struct options *out);

#endif
