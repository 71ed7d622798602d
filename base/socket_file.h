/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a listening unix socket: what may be replaced in its place, and who may connect. The
 * daemon makes them when it starts; for a device that is added later the command line does, since
 * the daemon may not any more.
 */
#ifndef SLUICE_BASE_SOCKET_FILE_H
#define SLUICE_BASE_SOCKET_FILE_H

#include <stdbool.h>

struct error;
struct sockaddr_un;

/* @return 0, or -errno with @err: no socket can have this path. */
int socket_address(const char *path, struct sockaddr_un *sun, struct error *err);

/* One attempt that does not wait. @return a connected, non-blocking socket, or -errno. */
int socket_connect(const char *path);

/*
 * A socket file with permission bits @mode (-1: by umask) and the group named @group (NULL: our
 * own) at @path. A stale one is replaced; one that a live process listens on, and anything else, is
 * refused. Nobody can connect before the caller's listen(), so nobody meets the wrong owner.
 * @return a bound, non-blocking socket, or -errno with @err.
 */
int socket_file_bind(const char *path, int mode, const char *group, struct error *err);

/* Removes the socket file at @path, unless somebody listens on it. @return 0 or -errno with @err.
 */
int socket_file_clear(const char *path, struct error *err);

#endif
