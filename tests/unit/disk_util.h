/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of blk/'s disks share: an open disk, one queue of it on a worker, and waiting. */
#ifndef SLUICE_TESTS_DISK_UTIL_H
#define SLUICE_TESTS_DISK_UTIL_H

#include "base/clock.h"
#include "base/error.h"
#include "blk/disk.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
/* Tests run in children that leave by _exit, where nobody would look. */
#define EXPECT_NO_LEAK() cr_expect_eq(__lsan_do_recoverable_leak_check(), 0)
#else
#define EXPECT_NO_LEAK() ((void)0)
#endif

#define KIB 1024u
#define MIB (1024u * KIB)

struct rig {
	struct workers *workers;
	struct worker *worker;
	struct disk *disk;
	struct disk_queue *queue;
	struct poller poller;
	struct disk_request **batch; /* handed over in a call on the worker */
	unsigned n_batch;
	unsigned n_done; /* atomic */
};

static inline unsigned rig_poll(struct poller *p)
{
	struct rig *rig = container_of(p, struct rig, poller);
	struct disk_request *done[8];
	unsigned n = rig->disk->ops->reap(rig->queue, done, ARRAY_SIZE(done));

	if (rig->disk->ops->kick)
		rig->disk->ops->kick(rig->queue);
	__atomic_fetch_add(&rig->n_done, n, __ATOMIC_SEQ_CST);
	return n;
}

static inline bool rig_arm(struct poller *p)
{
	struct rig *rig = container_of(p, struct rig, poller);

	return !rig->disk->ops->pending(rig->queue);
}

static const struct poller_ops rig_ops = { rig_poll, rig_arm, NULL };

static inline void rig_submit_batch(void *arg)
{
	struct rig *rig = arg;

	for (unsigned i = 0; i < rig->n_batch; i++)
		rig->disk->ops->submit(rig->queue, rig->batch[i]);
	poller_wake(&rig->poller);
}

/* Opens what @cfg says, with a worker whose ring takes @ring_entries submissions (0: default). */
static inline void rig_open(struct rig *rig, const struct blk_config *cfg, unsigned ring_entries)
{
	struct workers_config wcfg = { .n = 1, .ring_entries = ring_entries };
	struct error err = { 0 };

	memset(rig, 0, sizeof(*rig));
	cr_assert_eq(disk_kinds[cfg->kind]->open(cfg, &rig->disk, &err), 0, "%s", err.text);
	cr_assert_eq(workers_start(&wcfg, &rig->workers, &err), 0, "%s", err.text);
	rig->worker = workers_get(rig->workers, 0);
	rig->poller.ops = &rig_ops;
	rig->poller.event_fd = -1;
	STAILQ_INIT(&rig->poller.done);
	cr_assert_eq(rig->disk->ops->queue_open(rig->disk, &rig->poller, &rig->queue), 0);
	worker_add(rig->worker, &rig->poller);
}

static inline void rig_close(struct rig *rig)
{
	worker_remove(&rig->poller);
	rig->disk->ops->queue_close(rig->queue);
	rig->disk->ops->close(rig->disk);
	workers_stop(rig->workers);
	EXPECT_NO_LEAK();
}

/* Submits all of @r in one go, and waits for them. */
static inline void rig_run(struct rig *rig, struct disk_request **r, unsigned n)
{
	uint64_t end = clock_ns() + UINT64_C(20000000000);

	__atomic_store_n(&rig->n_done, 0, __ATOMIC_SEQ_CST);
	rig->batch = r;
	rig->n_batch = n;
	for (unsigned i = 0; i < n; i++)
		r[i]->result = 1;
	worker_call_wait(rig->worker, rig_submit_batch, rig);
	while (__atomic_load_n(&rig->n_done, __ATOMIC_SEQ_CST) < n && clock_ns() < end)
		usleep(50);
	cr_assert_eq(rig->n_done, n, "%u of %u requests came back", rig->n_done, n);
}

static inline int rig_run1(struct rig *rig, struct disk_request *r)
{
	rig_run(rig, &r, 1);
	return r->result;
}

/* A request over one segment, in @iov. */
static inline void request_set(struct disk_request *r, enum disk_op op, uint64_t offset,
			       struct iovec *iov, void *mem, uint64_t len)
{
	memset(r, 0, sizeof(*r));
	*iov = (struct iovec) { mem, len };
	r->op = op;
	r->offset = offset;
	r->len = len;
	r->iov = iov;
	r->n_iov = len ? 1 : 0;
}

static inline int rig_rw(struct rig *rig, enum disk_op op, uint64_t offset, void *mem, uint64_t len)
{
	struct disk_request r;
	struct iovec iov;

	request_set(&r, op, offset, &iov, mem, len);
	return rig_run1(rig, &r);
}

/* Bytes that differ from place to place and from @seed to @seed. */
static inline void fill(void *mem, size_t len, uint32_t seed)
{
	uint8_t *p = mem;
	uint32_t x = seed * 2654435761u + 1;

	for (size_t i = 0; i < len; i++) {
		x = x * 1664525u + 1013904223u;
		p[i] = x >> 24;
	}
}

/* A new file of @size bytes of fill(seed 0) in the build folder, which is on a disk. */
static inline void image_create(char path[64], size_t size)
{
	char *mem = malloc(size ? size : 1);
	int fd;

	snprintf(path, 64, "test-image-XXXXXX");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	fill(mem, size, 0);
	cr_assert_eq(write(fd, mem, size), (ssize_t)size);
	close(fd);
	free(mem);
}

/* The file's bytes at @offset, read past the disk. */
static inline void image_read(const char *path, void *mem, size_t len, off_t offset)
{
	int fd = open(path, O_RDONLY);

	cr_assert_geq(fd, 0);
	cr_assert_eq(pread(fd, mem, len, offset), (ssize_t)len);
	close(fd);
}

#endif
