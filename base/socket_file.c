/* SPDX-License-Identifier: Apache-2.0 */
#include "base/socket_file.h"

#include "base/error.h"

#include <errno.h>
#include <grp.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int socket_address(const char *path, struct sockaddr_un *sun, struct error *err)
{
	size_t len = strlen(path);

	*sun = (struct sockaddr_un) { .sun_family = AF_UNIX };
	if (len == 0)
		return error_set(err, -EINVAL, "the socket path is empty");
	if (len >= sizeof(sun->sun_path))
		return error_set(err, -ENAMETOOLONG,
				 "socket path %s has %zu bytes, and the kernel takes %zu at most: "
				 "choose a shorter one",
				 path, len, sizeof(sun->sun_path) - 1);
	memcpy(sun->sun_path, path, len);
	return 0;
}

int socket_connect(const char *path)
{
	struct sockaddr_un sun;
	int fd, rc;

	rc = socket_address(path, &sun, NULL);
	if (rc < 0)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

int socket_file_clear(const char *path, struct error *err)
{
	struct stat st;
	int fd;

	if (lstat(path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return error_set(err, -errno, "cannot look at socket path %s: %s", path,
				 strerror(errno));
	}
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, -EEXIST,
				 "%s exists and is not a socket: remove it or choose another path",
				 path);
	fd = socket_connect(path);
	if (fd >= 0)
		close(fd);
	if (fd >= 0 || fd == -EAGAIN || fd == -EPROTOTYPE)
		return error_set(err, -EADDRINUSE,
				 "socket %s is already in use by another process: stop that one or "
				 "choose another path",
				 path);
	if (fd != -ECONNREFUSED && fd != -ENOENT)
		return error_set(err, fd, "cannot tell whether socket %s is in use: %s", path,
				 strerror(-fd));
	if (unlink(path) < 0 && errno != ENOENT)
		return error_set(err, -errno, "cannot replace the stale socket %s: %s", path,
				 strerror(errno));
	return 0;
}

static int check_folder(const char *path, struct error *err)
{
	char copy[PATH_MAX];
	const char *folder;
	struct stat st;

	strncpy(copy, path, sizeof(copy) - 1);
	copy[sizeof(copy) - 1] = 0;
	folder = dirname(copy);
	if (stat(folder, &st) < 0)
		return error_set(err, -errno, "folder %s for socket %s: %s%s", folder, path,
				 strerror(errno), errno == ENOENT ? "; create it first" : "");
	if (!S_ISDIR(st.st_mode))
		return error_set(err, -ENOTDIR, "%s, where socket %s should be, is not a folder",
				 folder, path);
	return 0;
}

static int find_group(const char *name, gid_t *gid, struct error *err)
{
	const struct group *g = getgrnam(name);

	if (!g)
		return error_set(err, -ENOENT, "there is no group %s", name);
	*gid = g->gr_gid;
	return 0;
}

int socket_file_bind(const char *path, int mode, const char *group, struct error *err)
{
	gid_t gid = (gid_t)-1;
	struct sockaddr_un sun;
	mode_t mask = 0;
	int fd, rc;

	if (socket_address(path, &sun, err) < 0 || check_folder(path, err) < 0 ||
	    (group && find_group(group, &gid, err) < 0) || socket_file_clear(path, err) < 0)
		return err->code;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));

	if (mode >= 0)
		mask = umask(~(mode_t)mode & 0777);
	rc = bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
	if (mode >= 0)
		umask(mask);
	if (rc < 0) {
		error_set(err, rc, "cannot create socket %s: %s", path, strerror(-rc));
		close(fd);
		return rc;
	}
	if (group && lchown(path, (uid_t)-1, gid) < 0) {
		rc = error_set(err, -errno, "cannot give socket %s to group %s: %s", path, group,
			       strerror(errno));
		unlink(path);
		close(fd);
		return rc;
	}
	return fd;
}
