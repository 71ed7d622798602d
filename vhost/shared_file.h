/* SPDX-License-Identifier: Apache-2.0 */
/*
 * May a front-end's file be touched? Behind some files stands a program of the front-end's own
 * (FUSE), or a server somewhere, and whoever asks for a page, or even for the file's length, waits
 * until that answers: a worker in the middle of a copy, or the control thread. So a file is taken
 * by its kind, which is found out without asking it anything.
 */
#ifndef SLUICE_VHOST_SHARED_FILE_H
#define SLUICE_VHOST_SHARED_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct error;

/*
 * Control thread. For guest memory, dirty logs and inflight regions, before anything else is done
 * with @fd. Takes memfds, tmpfs and hugetlbfs; files of local file systems that this process sees;
 * DAX devices. @return 0, or -EINVAL with @err.
 */
int shared_file_check(int fd, struct error *err);

/*
 * Bytes of a page of @fd, in which all that maps or unmaps it, or puts other memory in its place,
 * has to count: hugetlbfs takes its own pages alone, everything else ours.
 */
uint64_t shared_file_page(int fd);

/* Is it a file whose close() waits for nobody: in memory, and little of that, or an eventfd? */
bool shared_file_closes_at_once(int fd);

/* By what the kernel says of its inode; asks neither /proc nor the file. Epolls have it, too. */
bool shared_file_is_eventfd(int fd);

/* A pipe, or a FIFO of any file system; does not take its lock. */
bool shared_file_is_pipe(int fd);

/* At start, before /proc is out of reach (sandbox). Without it only files in memory are taken. */
void shared_file_prepare(void);

#endif
