/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all requests have in common that change what a running daemon serves: parameters that are a
 * configuration object, and descriptors that the command line has opened for it. Control thread.
 */
#ifndef SLUICE_DAEMON_CHANGE_H
#define SLUICE_DAEMON_CHANGE_H

#include "daemon/appliance.h"
#include "daemon/rpc.h"

/*
 * The object of schema @s that @params describe, from malloc; every problem with
 * them is one for @err. @return NULL after an error; else change_free() it.
 */
void *change_read(const struct schema *s, const json_t *params, struct rpc_error *err);
void change_free(const struct schema *s, void *obj);

/* @err: what is in @p, which it empties. @return whether there was nothing. */
bool change_is_good(struct problems *p, struct rpc_error *err);

/* Is there room for a device with this name and socket? @return false with @err. */
bool change_is_free(const struct appliance *a, const char *name, const char *socket,
		    struct rpc_error *err);

/*
 * Takes the request's descriptors, in this order: a socket where @socket, an image's one or two
 * where @image. @return false with @err: there are not that many, or more.
 */
bool change_take_files(struct rpc_request *r, bool socket, bool image, struct device_files *out,
		       struct rpc_error *err);

/* One line in the log: who has changed what. */
void change_log(const struct rpc_request *r, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
