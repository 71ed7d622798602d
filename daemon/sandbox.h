/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox: once all is open and root is dropped, the process gives up every system call that
 * it has no more use for (seccomp), and the file system (Landlock, where the kernel has it). What
 * a guest or a front-end could gain by a hole in us is then little more than what its device could
 * do anyway.
 *
 * io_uring is a way around seccomp: workers restrict their rings themselves (poll/ring_limits.c),
 * and no new ring can be made in here.
 */
#ifndef SLUICE_DAEMON_SANDBOX_H
#define SLUICE_DAEMON_SANDBOX_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

struct error;

/*
 * TCP: as tight, and it may connect to NBD servers again. TLS: and open files for reading, for the
 * library that does TLS reads keys and certificates for each connection anew. DPDK's drivers want
 * far more than we do: netlink, packet sockets, devices, sysfs. STEM and PAGER: the processes of
 * vhost/pager.h. The first makes the second, which is then in a front-end's hands.
 */
enum sandbox_profile {
	SANDBOX_TIGHT,
	SANDBOX_TCP,
	SANDBOX_TLS,
	SANDBOX_DPDK,
	SANDBOX_STEM,
	SANDBOX_PAGER
};

/* What is left of files and networks. */
struct sandbox_paths {
	unsigned n_folders; /* for socket files; NULLs, and those out of reach, are left out */
	char **folder;
	unsigned n_readable; /* files, and folders with all that is in them; may be missing */
	char **readable;
	unsigned n_ports;
	uint16_t *port;
};

/*
 * All threads of the process, those to come included, for good. Needs no privileges. @return 0 or
 * -errno with @err; then nothing has changed.
 */
int sandbox_seccomp(enum sandbox_profile profile, struct error *err);

/*
 * The calling thread, and those that it starts: no file can be opened, made or removed but socket
 * files in the folders, or read but what is readable; and, from version 4 on, no TCP port is
 * listened at, and none connected to but those. @return the kernel's Landlock version, 0 where it
 * has none, or -errno with @err.
 */
int sandbox_landlock(const struct sandbox_paths *p, struct error *err);

/* NULL, or why this build cannot live in a sandbox (sanitizers). */
const char *sandbox_unfit(void);

#endif
