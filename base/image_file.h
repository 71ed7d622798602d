/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a disk's image. The daemon does it when it starts; for a disk that is added later the
 * command line does, with the rights of who runs it, and hands over the descriptors.
 */
#ifndef SLUICE_BASE_IMAGE_FILE_H
#define SLUICE_BASE_IMAGE_FILE_H

#include <stdbool.h>
#include <sys/types.h>

struct error;

struct image_file {
	int fd;		 /* O_DIRECT where that was asked for and the file system has it */
	int fd_buffered; /* where @fd is direct: the same file, through the page cache; else -1 */
};

struct image_wish {
	const char *path;
	bool read_only;
	bool direct;	/* O_DIRECT */
	bool exclusive; /* of a block device: fails while it is mounted or part of another one */
	/* How an error speaks of the user who opens it and of the setting that makes it read-only.
	 */
	const char *user, *say_read_only;
};

/* @return 0, or -errno with @err; then both descriptors are -1. */
int image_file_open(const struct image_wish *w, struct image_file *out, struct error *err);

/* NULL is fine. */
void image_file_close(struct image_file *f);

/* A raw image is a regular file or a block device. @return 0, or -errno with @err. */
int image_file_check_type(const char *path, mode_t mode, struct error *err);

#endif
