/* SPDX-License-Identifier: Apache-2.0 */
/* One question to the daemon's control socket. */
#ifndef SLUICE_CLI_CLIENT_H
#define SLUICE_CLI_CLIENT_H

#include <jansson.h>

struct error;

/*
 * Calls @method without parameters at @path (NULL: $SLUICE_SOCKET, else where a daemon of this user
 * or of the system would be). @return its result, a new reference, or NULL with @err filled: the
 * code is -ECONNREFUSED when no daemon answers.
 */
json_t *client_call(const char *path, const char *method, struct error *err);
/*
 * The same with @params, which it takes over; NULL, as json_pack() returns for what is not UTF-8,
 * is an error. -EPROTO: the daemon refused, and says why, or could not even be asked.
 */
json_t *client_call_with(const char *path, const char *method, json_t *params, struct error *err);
/* The same, with @n descriptors beside it, which stay the caller's. */
json_t *client_call_with_fds(const char *path, const char *method, json_t *params, const int *fds,
			     int n, struct error *err);

#endif
