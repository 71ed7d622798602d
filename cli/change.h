/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that are added and removed while sluiced runs. Confined as it is, it can open no file and
 * bind no socket: that is done here, with the rights of whoever calls, and the descriptors are
 * handed over.
 */
#ifndef SLUICE_CLI_CHANGE_H
#define SLUICE_CLI_CHANGE_H

#include <jansson.h>
#include <stdbool.h>

struct error;

/*
 * Adds --KEY VALUE, --KEY=VALUE and --KEY (true) of @words to @params, as the keys of
 * sluice.yaml(5). @return false with @err.
 */
bool change_options(char **words, int n, json_t *params, struct error *err);

/* "disk.add" with what @params describes. Takes over @params. As client_call_with(). */
json_t *change_add_disk(const char *control, json_t *params, struct error *err);

/* "port.add" of @port, taken over, to @network. */
json_t *change_add_port(const char *control, const char *network, json_t *port, struct error *err);

/* "disk.replace" of @name's image by @file. As client_call_with(). */
json_t *change_replace_disk(const char *control, const char *name, const char *file,
			    struct error *err);

/* Calls @method with @params, taken over, and removes the socket file that is left. */
json_t *change_remove(const char *control, const char *method, json_t *params, struct error *err);

#endif
