/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Privileges. Started as root, the daemon opens what needs root and then becomes an ordinary user
 * for good; started by an ordinary user it just runs.
 */
#ifndef SLUICE_DAEMON_PRIVILEGE_H
#define SLUICE_DAEMON_PRIVILEGE_H

#include "base/compiler.h"

#include <stdbool.h>
#include <sys/types.h>

struct error;

/* Whom to become. */
struct identity {
	bool drops; /* false: we stay who we are */
	uid_t uid;
	gid_t gid;
	char user[64];
};

/*
 * Resolves the configured names (each may be NULL: user "sluice" if there is one, else "nobody";
 * that user's own group). Not root: ourselves, and naming another user is an error.
 */
int identity_find(const char *user, const char *group, struct identity *out, struct error *err);

/*
 * Before the first thread is made, because these hold for a thread and its children: no new
 * privileges by exec, an empty bounding set.
 */
void privilege_prepare(void);

/* Raises the limits on files and locked memory as far as we may. */
void limits_raise(void);

/*
 * The folder for sockets that we make ourselves, if it is not there: RUN_DIR for root, owned by
 * @id, or an ordinary user's own, which nobody else may enter. Other folders are the user's to
 * make.
 */
int runtime_dir_make(const char *socket_path, const struct identity *id, struct error *err);

/* Hands a socket file that we made to @id. Its group is left alone where @keep_group. */
void privilege_give(const char *path, bool keep_group, const struct identity *id);

/* Gives a socket file that we made a group, by name. */
int privilege_set_group(const char *path, const char *group, struct error *err);

/*
 * Becomes @id, keeping the capabilities in @keep (a mask of CAP_*), and makes sure that there is no
 * way back. An error is fatal: nothing may run half-dropped.
 */
int privilege_drop(const struct identity *id, uint64_t keep, struct error *err);

#endif
