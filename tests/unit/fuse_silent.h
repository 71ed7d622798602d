/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A FUSE file system with one file, whose server opens it and then answers nothing any more: asking
 * for its length, a page of it, or closing it waits for ever.
 */
#ifndef SLUICE_TESTS_UNIT_FUSE_SILENT_H
#define SLUICE_TESTS_UNIT_FUSE_SILENT_H

#include <sys/types.h>

struct fuse_silent {
	char folder[32];
	pid_t server;
	int fd; /* the file, open for reading and writing */
};

/* @return 0, or -errno where FUSE cannot be had (no root, no /dev/fuse). */
int fuse_silent_open(struct fuse_silent *f);
/* Ends the server first: then everybody who waits gets an error. */
void fuse_silent_close(struct fuse_silent *f);

#endif
