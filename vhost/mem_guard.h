/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of a front-end's that we have mapped: guest memory, dirty log, inflight region. Their owner
 * can shrink them, or have no pages left for them, and our next access is a SIGBUS. That shall cost
 * one device and not the daemon, so every such mapping is guarded: the fault puts zeroed memory of
 * our own in the place of what is gone, the thread that touched it goes on, and the device learns
 * of it on the control thread and hangs up.
 *
 * What the kernel itself is asked to read or write there (io_uring) fails with EFAULT instead.
 */
#ifndef SLUICE_VHOST_MEM_GUARD_H
#define SLUICE_VHOST_MEM_GUARD_H

#include "base/compiler.h"

#include <stdbool.h>

/* Who wants to know: one a device. */
struct mem_watch;

/* Control thread. @lost(arg) runs there, some time after a fault. NULL: no memory. */
struct mem_watch *mem_watch_new(void (*lost)(void *arg), void *arg);
/* Control thread. @lost runs no more. No guard refers to @w. NULL is fine. */
void mem_watch_free(struct mem_watch *w);
/* Any thread. Has something been lost since the beginning, or since mem_watch_reset()? */
bool mem_watch_lost(const struct mem_watch *w);
/* Control thread, when no guard refers to @w any more: the next connection starts anew. */
void mem_watch_reset(struct mem_watch *w);

struct mem_guarded {
	void *base;	 /* as mmap() returned it */
	size_t len;	 /* bytes, a multiple of @page */
	size_t page;	 /* bytes of a page of this mapping: larger for hugetlbfs */
	int fd;		 /* stays open as long as the guard; -1: all of the mapping goes at once */
	uint64_t offset; /* of @base in the file */
};

struct mem_guard;

/*
 * Control thread, before anybody touches the mapping. Installs the handler of SIGBUS, the first
 * time. @w may be NULL: then nobody is told. @return NULL: no memory.
 */
struct mem_guard *mem_guard_add(const struct mem_guarded *m, struct mem_watch *w);
/* Control thread, nobody touches the mapping: tells @w from now on (NULL: nobody). */
void mem_guard_watch(struct mem_guard *g, struct mem_watch *w);
/* Control thread, when nobody touches the mapping any more, and before munmap(). NULL is fine. */
void mem_guard_remove(struct mem_guard *g);

#endif
