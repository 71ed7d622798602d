/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting rid of what a front-end gave us. close() can wait: for a TCP socket's last bytes
 * (SO_LINGER), for a FUSE server; a socket that was closed unread takes the descriptors in it
 * along. And a guest's memory, when nobody else holds it any more, takes its time to be freed. None
 * of that shall hold up the control thread, so it is left to a thread of the device's own (of
 * memory, to one for all devices, in pieces), which is there only while there is something to do.
 */
#ifndef SLUICE_VHOST_DISPOSAL_H
#define SLUICE_VHOST_DISPOSAL_H

#include "base/compiler.h"

#include <stdbool.h>
#include <sys/queue.h>

/* One a device; outlives it until the last of its descriptors is closed. */
struct disposal;

/* What guests' memory is left to: one for all of them, in which no descriptor lingers. */
extern struct disposal *const disposal_of_memory;

/* Control thread. NULL: no memory. */
struct disposal *disposal_new(void);
/* Control thread. Does not wait. NULL is fine. */
void disposal_free(struct disposal *d);

/* Any thread. Is something of any device's being closed or unmapped by a thread? */
bool disposal_works(void);

/*
 * Control thread. Closes @fd, of any kind: now where that cannot wait, else later. Here, and in the
 * two that follow, a NULL @d stands for one that is no device's.
 */
void disposal_close(struct disposal *d, int fd);
/* The same for a unix socket that is connected. Its peer sees the end at once. */
void disposal_close_socket(struct disposal *d, int fd);

/* Something to be done that may have to wait for a front-end; part of its owner's struct. */
struct errand {
	STAILQ_ENTRY(errand) link;
	void (*run)(struct errand *e); /* on the device's thread; may free @e */
};

/* Control thread. @e runs after all that came before it. @return false: no thread; it does not. */
bool disposal_run(struct disposal *d, struct errand *e);

/* Control thread. So many wait to be closed that no more should be taken from this front-end. */
bool disposal_full(const struct disposal *d);

/*
 * Control thread. Unmaps [@base, @base + @len), and closes @fd after that; -1: none. Then @done
 * (NULL: nothing) is called, on any thread, maybe from within.
 */
void disposal_unmap(struct disposal *d, void *base, size_t len, int fd,
		    void (*done)(void *arg, size_t len), void *arg);

/* Control thread. Where there was no thread for what waits: is there one now? */
void disposal_try_again(struct disposal *d);

#endif
