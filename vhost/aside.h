/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and writing a file that the front-end has open, too: its channel to us, and the pipe or
 * socket of a state. No flag keeps such a call from waiting. Its lock is the front-end's to hold:
 * it reads from the same socket, or writes to the same pipe, and the page that it gave for that
 * does not come. And descriptors that are in a socket are closed by whoever reads on. So the
 * control thread leaves each call to the device's own thread (vhost/disposal.h), and goes on
 * meanwhile.
 */
#ifndef SLUICE_VHOST_ASIDE_H
#define SLUICE_VHOST_ASIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct aside;
struct disposal;
struct error;

/* Control thread. @n bytes were read or written, 0: the end; -errno, -EAGAIN too. May free it. */
typedef void aside_fn(void *arg, ssize_t n);

/*
 * Control thread. For a socket or a pipe, @room bytes at a time; takes @fd, also on failure.
 * @return NULL with @err.
 */
struct aside *aside_new(struct disposal *d, int fd, bool is_socket, size_t room, aside_fn *done,
			void *arg, struct error *err);
/* Control thread. @done is not called any more; the file is closed soon. NULL is fine. */
void aside_free(struct aside *a);

/*
 * Control thread, while it is not busy. One call that reads or writes what it can of @len bytes, no
 * more than room; @done says how it went. @return 0, or -EAGAIN: there is no thread for it.
 */
int aside_read(struct aside *a, size_t len);
int aside_write(struct aside *a, const void *bytes, size_t len);
bool aside_busy(const struct aside *a);
/* What was read, in @done. */
const void *aside_bytes(const struct aside *a);

#endif
