/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that come and go while others run. Methods of the control socket (serve(), see rpc.h). */
#ifndef SLUICE_DAEMON_DISK_CHANGE_H
#define SLUICE_DAEMON_DISK_CHANGE_H

#include "daemon/rpc.h"

/*
 * "disk.add" of the keys that a disk has in sluice.yaml(5). Beside it come, as descriptors: a
 * socket that is bound to "socket" and does not listen yet (none with "connect"), and for a "file"
 * the image, opened, by one descriptor, or with O_DIRECT (cache: none) by two, the second without.
 * Answers {"name", "capacity", "how"}.
 */
json_t *disk_add_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

/*
 * "disk.remove" of {"disk": NAME, "force": BOOL}. Refused while a front-end is connected, unless
 * forced. Answers when all is written and closed: {"socket": PATH}, the file to be removed if it is
 * still there; null for none.
 */
json_t *disk_remove_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

/*
 * "disk.replace" of {"disk": NAME, "file": PATH}, with the image's descriptors, as for "disk.add".
 * Refused while a front-end is connected. Answers when the old image is flushed and closed:
 * {"capacity", "before"} in bytes.
 */
json_t *disk_replace_serve(void *ctx, struct rpc_request *r, struct rpc_error *err);

#endif
