/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/privilege.h"

#include "base/error.h"
#include "base/log.h"
#include "daemon/control_path.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static int find_user(const char *user, struct identity *out, struct error *err)
{
	const struct passwd *pw;

	if (user)
		pw = getpwnam(user);
	else if (!(pw = getpwnam("sluice")))
		pw = getpwnam("nobody");
	if (!pw)
		return error_set(err, -ENOENT,
				 "there is no user \"%s\" to run as; make it, or set user: in the "
				 "configuration",
				 user ? user : "nobody");
	out->uid = pw->pw_uid;
	out->gid = pw->pw_gid;
	snprintf(out->user, sizeof(out->user), "%s", pw->pw_name);
	return 0;
}

int identity_find(const char *user, const char *group, struct identity *out, struct error *err)
{
	const struct group *gr;
	int rc;

	*out = (struct identity) { .uid = geteuid(), .gid = getegid() };
	if (out->uid != 0 && !user) {
		const struct passwd *pw = getpwuid(out->uid);

		if (pw)
			snprintf(out->user, sizeof(out->user), "%s", pw->pw_name);
		else
			snprintf(out->user, sizeof(out->user), "%u", (unsigned)out->uid);
		return 0;
	}
	rc = find_user(user, out, err);
	if (rc)
		return rc;
	if (geteuid() != 0) {
		if (out->uid == geteuid())
			return 0;
		return error_set(
			err, -EPERM,
			"only root can become user \"%s\"; start sluiced as root, or leave "
			"user: out",
			user);
	}
	if (group) {
		gr = getgrnam(group);
		if (!gr)
			return error_set(err, -ENOENT,
					 "there is no group \"%s\" to run as; make it", group);
		out->gid = gr->gr_gid;
	}
	out->drops = out->uid != 0;
	return 0;
}

void privilege_prepare(void)
{
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (geteuid() != 0)
		return;
	/* Takes nothing that we have, only what an exec could get back. */
	capng_get_caps_process();
	capng_clear(CAPNG_SELECT_BOUNDS);
	if (capng_apply(CAPNG_SELECT_BOUNDS))
		log_debug("cannot empty the capability bounding set; no_new_privs guards alone");
}

static void raise_limit(int which, rlim_t wanted, const char *name)
{
	struct rlimit l;

	if (getrlimit(which, &l))
		return;
	if (geteuid() == 0) {
		struct rlimit more = { .rlim_cur = wanted, .rlim_max = wanted };

		if (more.rlim_max < l.rlim_max)
			more.rlim_max = l.rlim_max;
		if (setrlimit(which, &more) == 0)
			return;
	}
	l.rlim_cur = MIN(wanted, l.rlim_max);
	if (setrlimit(which, &l))
		log_debug("cannot raise the limit on %s: %s", name, strerror(errno));
}

void limits_raise(void)
{
	raise_limit(RLIMIT_NOFILE, 1u << 20, "open files");
	raise_limit(RLIMIT_MEMLOCK, RLIM_INFINITY, "locked memory");
}

/* @dir is ours to make; hands it to @id. A symbolic link or somebody else's folder is refused. */
static int make_dir(const char *dir, mode_t mode, const struct identity *id, struct error *err)
{
	struct stat st;
	int fd, rc = 0;

	if (mkdir(dir, mode) && errno != EEXIST)
		return error_set(err, -errno, "cannot make the folder %s: %s", dir,
				 strerror(errno));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		rc = error_set(err, -errno, "cannot open the folder %s: %s; remove what is there",
			       dir, strerror(errno));
	else if (geteuid() == 0 && id->drops && fchown(fd, id->uid, id->gid))
		rc = error_set(err, -errno, "cannot give the folder %s to user %s: %s", dir,
			       id->user, strerror(errno));
	else if (geteuid() != 0 && st.st_uid != geteuid())
		rc = error_set(err, -EACCES,
			       "the folder %s belongs to somebody else; remove it, or set "
			       "XDG_RUNTIME_DIR",
			       dir);
	if (fd >= 0)
		close(fd);
	return rc;
}

int runtime_dir_make(const char *socket_path, const struct identity *id, struct error *err)
{
	char own[CONTROL_PATH_BYTES], dir[CONTROL_PATH_BYTES];
	const char *slash;

	if (!socket_path || !(slash = strrchr(socket_path, '/')))
		return 0;
	control_path_default(own);
	*strrchr(own, '/') = '\0';
	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - socket_path), socket_path);
	if (strcmp(dir, own) != 0)
		return 0;
	/* root's is entered by every VMM; the sockets in it have modes of their own. */
	return make_dir(dir, geteuid() == 0 ? 0755 : 0700, id, err);
}

void privilege_give(const char *path, bool keep_group, const struct identity *id)
{
	if (!id->drops)
		return;
	if (lchown(path, id->uid, keep_group ? (gid_t)-1 : id->gid))
		log_warn("cannot give %s to user %s: %s", path, id->user, strerror(errno));
}

int privilege_set_group(const char *path, const char *group, struct error *err)
{
	const struct group *gr = getgrnam(group);

	if (!gr)
		return error_set(err, -ENOENT, "%s: there is no group \"%s\"; make it", path,
				 group);
	if (lchown(path, (uid_t)-1, gr->gr_gid))
		return error_set(err, -errno, "%s: cannot give it to group \"%s\": %s", path, group,
				 strerror(errno));
	return 0;
}

/* @return what is still there to go back with, or NULL. */
static const char *way_back(const struct identity *id, uint64_t keep)
{
	uid_t r, e, s;
	gid_t gr, ge, gs;

	if (getresuid(&r, &e, &s) || r != id->uid || e != id->uid || s != id->uid)
		return "a user id stayed";
	if (getresgid(&gr, &ge, &gs) || gr != id->gid || ge != id->gid || gs != id->gid)
		return "a group id stayed";
	if (capng_get_caps_process())
		return "capabilities cannot be read";
	for (unsigned cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (!(keep >> cap & 1) && (capng_have_capability(CAPNG_PERMITTED, cap) ||
					   capng_have_capability(CAPNG_EFFECTIVE, cap)))
			return "a capability stayed";
	if (!(keep >> CAP_SETUID & 1) && setuid(0) == 0)
		return "setuid(0) works";
	return NULL;
}

int privilege_drop(const struct identity *id, uint64_t keep, struct error *err)
{
	const char *left;
	int rc;

	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (!id->drops)
		return 0;
	capng_clear(CAPNG_SELECT_BOTH);
	for (unsigned cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (keep >> cap & 1)
			capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, cap);
	/* glibc changes the ids of all threads; the capabilities kept are this thread's alone. */
	rc = capng_change_id((int)id->uid, (int)id->gid, CAPNG_INIT_SUPP_GRP);
	if (rc)
		return error_set(err, -EPERM,
				 "cannot become user %s (libcap-ng error %d); start sluiced with "
				 "CAP_SETUID, CAP_SETGID and CAP_SETPCAP, or as that user",
				 id->user, rc);
	left = way_back(id, keep);
	if (left)
		return error_set(err, -EPERM, "could not drop root for good: %s", left);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return 0;
}
