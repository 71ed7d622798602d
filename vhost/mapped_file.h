/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of front-ends in our address space: guest memory, logs, in-flight buffers. One that holds
 * nothing costs its front-end nothing, and takes addresses that are everybody's. So there is a
 * limit for each device and one for all of them, and a piece counts from mmap() until munmap() has
 * been done, which may be long after nobody uses it any more (vhost/disposal.h). The account is the
 * device's, and not the connection's: who connects again finds it as it was.
 *
 * 16 TiB are more than a guest has. With what comes beside them, pieces of pages (of 1 GiB at most)
 * and two logs of 256 GiB while one replaces the other, a device comes to less than 17 TiB, as long
 * as what stays in a new table is not mapped again (mem_map_add_shared()). A guest of 1 TiB whose
 * front-end maps all of it anew, as after a reconnect, finds room for that 16 times before anything
 * has to be unmapped; then its message waits for that, and is not refused. What is refused is what
 * would be too much for itself: a table that replaces more than 8 TiB in one step, for example.
 */
#ifndef SLUICE_VHOST_MAPPED_FILE_H
#define SLUICE_VHOST_MAPPED_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

/* What a device's front-end has; outlives the device until the last piece is unmapped. */
struct mem_account;

/* Control thread. NULL: no memory. */
struct mem_account *mem_account_new(void);
/* Control thread. The device goes, nothing of its is in use any more. NULL is fine. */
void mem_account_free(struct mem_account *a);

/*
 * Control thread. Is there too little room for @bytes now, for the device or for all, and would it
 * do if all that is on its way out were unmapped? So many small pieces may be on their way, too,
 * that they have to go first: each holds a descriptor.
 */
bool mem_account_must_wait(const struct mem_account *a, uint64_t bytes);

struct mapped_file {
	struct mem_account *account; /* NULL: none, only the limit of all */
	void *base;		     /* MAP_FAILED: nothing is mapped */
	size_t len;
	int fd; /* ours: tells how much memory goes with it, and makes more mappings */
};

/* Nothing; mapped_file_close() takes it. */
#define MAPPED_FILE_NONE ((struct mapped_file) { .base = MAP_FAILED, .fd = -1 })

/*
 * Control thread. Maps @len bytes of @fd (borrowed) from @offset on, both multiples of its page,
 * to read and write, shared; @flags of mmap() besides.
 * @return 0, or -errno with @err: -ENOMEM where a limit is in the way; then @m is as none.
 */
int mapped_file_open(struct mapped_file *m, struct mem_account *a, int fd, uint64_t offset,
		     size_t len, int flags, struct error *err);
/* Control thread. Behind our back where that may take long, however little was mapped. */
void mapped_file_close(struct mapped_file *m);

#endif
