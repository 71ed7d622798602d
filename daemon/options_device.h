/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A single device by options: the vhost-user back-end program conventions (QEMU,
 * docs/interop/vhost-user.rst, "Backend program conventions").
 */
#ifndef SLUICE_DAEMON_OPTIONS_DEVICE_H
#define SLUICE_DAEMON_OPTIONS_DEVICE_H

#include "daemon/options.h"

struct device_kind;

/* "blk" or "net"; NULL for another name. */
const struct device_kind *device_kind_find(const char *name);

/* As options_parse(), after the word that named the kind. */
int device_options_parse(const struct device_kind *kind, int argc, char **argv,
			 struct options *out);

#endif
