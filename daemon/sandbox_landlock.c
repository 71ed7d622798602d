/* SPDX-License-Identifier: Apache-2.0 */
/* Landlock (Linux 5.13 and newer): a process gives up parts of the file system by itself. */
#include "daemon/sandbox.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What came after the oldest header that we build with, by the version that brought it. */
#define FS_REFER (UINT64_C(1) << 13)	/* 2 */
#define FS_TRUNCATE (UINT64_C(1) << 14) /* 3 */
#define NET_BIND_TCP (UINT64_C(1) << 0) /* 4 */
#define NET_CONNECT_TCP (UINT64_C(1) << 1)
#define FS_IOCTL_DEV (UINT64_C(1) << 15) /* 5 */

#define FS_ALL_V1 ((UINT64_C(1) << 13) - 1)

#define RULE_NET_PORT 2 /* 4 */
struct net_port_attr {
	uint64_t allowed, port;
};

struct ruleset_attr { /* struct landlock_ruleset_attr, as of version 4 */
	uint64_t fs, net;
};

static struct ruleset_attr attr_of(int version, size_t *size)
{
	struct ruleset_attr a = { .fs = FS_ALL_V1 };

	*size = sizeof(a.fs);
	if (version >= 2)
		a.fs |= FS_REFER;
	if (version >= 3)
		a.fs |= FS_TRUNCATE;
	if (version >= 4) {
		a.net = NET_BIND_TCP | NET_CONNECT_TCP;
		*size = sizeof(a);
	}
	if (version >= 5)
		a.fs |= FS_IOCTL_DEV;
	return a;
}

static int allow_folder(int ruleset, const char *folder)
{
	struct landlock_path_beneath_attr beneath = {
		.allowed_access = LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE,
	};
	long rc;

	beneath.parent_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (beneath.parent_fd < 0)
		return 0; /* as it is out of reach it needs no rule: nothing can be done there */
	rc = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0);
	if (rc < 0)
		rc = -errno;
	close(beneath.parent_fd);
	return (int)rc;
}

static int allow_reading(int ruleset, const char *path)
{
	struct landlock_path_beneath_attr beneath = {
		.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE
	};
	struct stat st;
	int rc = 0;

	beneath.parent_fd = open(path, O_PATH | O_CLOEXEC);
	if (beneath.parent_fd < 0)
		return 0; /* it was looked at when the disk was opened */
	if (fstat(beneath.parent_fd, &st) == 0 && S_ISDIR(st.st_mode))
		beneath.allowed_access |= LANDLOCK_ACCESS_FS_READ_DIR;
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0)
		rc = -errno;
	close(beneath.parent_fd);
	return rc;
}

static int allow_port(int ruleset, uint16_t port)
{
	const struct net_port_attr to = { NET_CONNECT_TCP, port };

	return syscall(SYS_landlock_add_rule, ruleset, RULE_NET_PORT, &to, 0) < 0 ? -errno : 0;
}

int sandbox_landlock(const struct sandbox_paths *p, struct error *err)
{
	int version = (int)syscall(SYS_landlock_create_ruleset, NULL, 0,
				   LANDLOCK_CREATE_RULESET_VERSION);
	struct ruleset_attr attr;
	int ruleset, rc = 0;
	size_t size;

	if (version <= 0)
		return 0;
	attr = attr_of(version, &size);
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	if (ruleset < 0)
		return error_set(err, -errno, "Landlock: %s", strerror(errno));
	for (unsigned i = 0; rc == 0 && i < p->n_folders; i++) {
		if (!p->folder[i])
			continue;
		rc = allow_folder(ruleset, p->folder[i]);
		if (rc < 0)
			error_set(err, rc, "Landlock: folder %s: %s", p->folder[i], strerror(-rc));
	}
	for (unsigned i = 0; rc == 0 && i < p->n_readable; i++) {
		rc = allow_reading(ruleset, p->readable[i]);
		if (rc < 0)
			error_set(err, rc, "Landlock: %s: %s", p->readable[i], strerror(-rc));
	}
	for (unsigned i = 0; rc == 0 && version >= 4 && i < p->n_ports; i++) {
		rc = allow_port(ruleset, p->port[i]);
		if (rc < 0)
			error_set(err, rc, "Landlock: TCP port %u: %s", p->port[i], strerror(-rc));
	}
	if (rc == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		rc = error_set(err, -errno, "Landlock: %s", strerror(errno));
	close(ruleset);
	return rc < 0 ? rc : version;
}
