/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for the pages of a guest that is still on its way here (vhost-user "Postcopy"), by a
 * process of its own.
 *
 * Whoever touches a page that has not arrived sleeps in the kernel until the front-end delivers it,
 * and that need never happen. And a userfaultfd, which the front-end gets from us for that, gives
 * its holder a say over the whole address space that it was made in, not over guest memory alone:
 * he can register any of it, and make any thread there wait at any page. So this process neither
 * makes one nor touches what is missing.
 *
 *	this process ── socket ── stem: made before anything is open; it has nothing, and forks
 *	      │ POSTCOPY_ADVISE       │
 *	      └────── socket ────── pager, one a device: makes the userfaultfd, maps the guest's
 *				    memory, touches the pages that it is asked to
 *
 * A pager is in the front-end's hands: what it says is checked, and it has nothing that the
 * front-end has not got anyway.
 */
#ifndef SLUICE_VHOST_PAGER_H
#define SLUICE_VHOST_PAGER_H

#include "base/compiler.h"

#include <stdbool.h>

struct error;
struct pager;

/* Run in the new processes, before they serve: they end unless it returns 0. NULL: nothing. */
struct pager_confinement {
	int (*stem)(void *arg);
	int (*pager)(void *arg);
	void *arg;
};

/*
 * Makes the stem. While this process has one thread, and before it opens what others must not have.
 * pager_await(): it is ready; in between there is time for other things. Before any front-end is
 * answered. @return of both 0, or -errno with @err: then there is no postcopy.
 */
int pager_prepare(const struct pager_confinement *c, struct error *err);
int pager_await(struct error *err);
bool pager_possible(void);
/* Ends the stem (tests). */
void pager_unprepare(void);

/* Control thread. A pager; waits a moment for it to be there. NULL with @err. */
struct pager *pager_start(struct error *err);
/* Control thread. Ends it, wherever it is stuck. NULL is fine. */
void pager_stop(struct pager *p);

int pager_userfaultfd(const struct pager *p); /* stays the pager's */
int pager_fd(const struct pager *p);	      /* readable: pager_read() */

/* A piece of a file, in whole pages. */
struct pager_file {
	int fd;
	uint64_t offset, len, page; /* bytes */
};

/*
 * Control thread; never waits. The pager maps @file. @return where, in its address space, though it
 * gets to it only later; 0 with @err.
 */
uint64_t pager_map(struct pager *p, const struct pager_file *file, struct error *err);

/*
 * Control thread; never waits. The pager touches the page at @addr, of its own address space, after
 * those that it was asked for before. @return 0, or -EAGAIN: it has been asked for too many.
 */
int pager_touch(struct pager *p, uint64_t addr);

/*
 * Control thread; never waits. The next page that has arrived, so it says. @return 1; 0: none for
 * now; -EPIPE: the pager is no more.
 */
int pager_read(struct pager *p, uint64_t *addr);

/* pager_process.c: what runs in the other processes. */
struct pager_message {
	enum { PAGER_HELLO, PAGER_MAP, PAGER_TOUCH, PAGER_ARRIVED } kind;
	int error;		    /* HELLO: -errno, else 0 */
	uint64_t addr, len, offset; /* MAP; TOUCH, ARRIVED: addr */
};
void pager_stem_main(int socket, const struct pager_confinement *c) __attribute__((noreturn));
/* One message with up to @n descriptors. @return 0 or -errno. */
int pager_send(int socket, const struct pager_message *m, const int *fds, unsigned n, int flags);
/* @return 1; 0: the end; -errno. Descriptors that did not come are -1. */
int pager_receive(int socket, struct pager_message *m, int *fds, unsigned n, int flags);

#endif
