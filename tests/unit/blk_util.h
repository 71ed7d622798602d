/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of a whole virtio-blk device share: the device behind a real socket, its workers,
 * and a front-end with driver-side rings on it. The test's thread is the control thread.
 */
#ifndef SLUICE_TESTS_BLK_UTIL_H
#define SLUICE_TESTS_BLK_UTIL_H

#include "blk/blk.h"
#include "poll/control.h"
#include "tests/guest/blk.h"
#include "tests/unit/disk_util.h"

#include <sys/syscall.h>

#define VM_QUEUES_MAX 4
#define VM_MEMORY (96 * MIB)

/* How the driver lays out its rings. */
struct variant {
	const char *name;
	bool packed, event_idx;
	enum driver_indirect indirect;
};

static const struct variant variant_split = { "split", false, false, DRIVER_DIRECT };
static const struct variant variant_split_more = { "split, indirect, event idx", false, true,
						   DRIVER_INDIRECT_LONG };
static const struct variant variant_packed = { "packed", true, false, DRIVER_DIRECT };
static const struct variant variant_packed_more = { "packed, indirect, event idx", true, true,
						    DRIVER_INDIRECT_LONG };

/* A test for each of the variants; the body follows, with @v. */
#define BLK_TEST(suite, test)                              \
	static void test(const struct variant *v);         \
	Test(suite, test##_split, .timeout = 60)           \
	{                                                  \
		test(&variant_split);                      \
	}                                                  \
	Test(suite, test##_split_indirect, .timeout = 60)  \
	{                                                  \
		test(&variant_split_more);                 \
	}                                                  \
	Test(suite, test##_packed, .timeout = 60)          \
	{                                                  \
		test(&variant_packed);                     \
	}                                                  \
	Test(suite, test##_packed_indirect, .timeout = 60) \
	{                                                  \
		test(&variant_packed_more);                \
	}                                                  \
	static void test(const struct variant *v)

struct vm {
	struct workers *workers;
	struct blk_device *dev;
	struct blk_config cfg;
	char socket[64], image[64];
	struct frontend f;
	struct guest_memory mem;
	struct guest_blk blk[VM_QUEUES_MAX];
	unsigned n_queues, queue_size;
	unsigned table_segs; /* longest indirect table; 0: 256 */
	const struct variant *v;
	uint64_t features_off; /* that the driver does not negotiate */
	uint64_t features_on;  /* that it does, beyond the usual */
	uint64_t protocol;     /* features, beyond the usual */
	bool closed;
};

static inline void vm_idle(void *arg)
{
	(void)arg;
	control_step(200);
}

/* The device, and nobody on it. @cfg: kind, cache, …; name, socket and image are filled in. */
static inline void vm_create(struct vm *vm, const struct variant *v, const struct blk_config *cfg,
			     uint64_t image_size)
{
	struct workers_config wcfg = { .n = 2 };
	struct error err = { 0 };

	memset(vm, 0, sizeof(*vm));
	vm->v = v;
	vm->cfg = *cfg;
	vm->cfg.name = "disk-under-test";
	vm->cfg.queues = cfg->queues ? cfg->queues : 1;
	vm->n_queues = vm->cfg.queues;
	vm->queue_size = 128;
	if (cfg->kind == DISK_FILE && !cfg->file) {
		image_create(vm->image, image_size);
		vm->cfg.file = vm->image;
	} else if (cfg->kind != DISK_FILE) {
		vm->cfg.size = image_size;
	}
	snprintf(vm->socket, sizeof(vm->socket), "test-%d.sock", getpid());
	unlink(vm->socket);
	vm->cfg.socket = (struct vhost_socket) { .path = strdup(vm->socket), .fd = -1, .mode = -1 };
	cr_assert_eq(control_init(), 0);
	cr_assert_eq(workers_start(&wcfg, &vm->workers, &err), 0, "%s", err.text);
	cr_assert_eq(blk_device_create(&vm->cfg, vm->workers, &vm->dev, &err), 0, "%s", err.text);
	cr_assert_eq(
		guest_memory_create(&vm->mem,
				    (struct guest_range[]) { { 0, VM_MEMORY / 2 },
							     { UINT64_C(1) << 32, VM_MEMORY / 2 } },
				    2, 0),
		0);
}

#define VM_OK(vm, call)                                                                     \
	({                                                                                  \
		int vm_rc = (call);                                                         \
		cr_assert_geq(vm_rc, 0, "%s: %d: %s", (vm)->v->name, vm_rc, (vm)->f.error); \
		vm_rc;                                                                      \
	})

/* A front-end connects and negotiates, with what it may have kept of rings. */
static inline void vm_connect_again(struct vm *vm)
{
	uint64_t features = VU_F_PROTOCOL | VU_F_VERSION_1 | 0xffffff;

	if (vm->v->packed)
		features |= VU_F_PACKED;
	if (vm->v->event_idx)
		features |= VU_F_EVENT_IDX;
	if (vm->v->indirect != DRIVER_DIRECT)
		features |= VU_F_INDIRECT;
	features = (features | vm->features_on) & ~vm->features_off;
	VM_OK(vm, frontend_connect(&vm->f, vm->socket));
	VM_OK(vm, frontend_hello(&vm->f, VU_PF_USUAL | VU_PF_BACKEND_REQ | vm->protocol));
	VM_OK(vm, frontend_set_features(&vm->f, features));
	VM_OK(vm, frontend_share_memory(&vm->f, &vm->mem));
}

/* The same, from nothing; no queue yet. */
static inline void vm_connect(struct vm *vm)
{
	frontend_init(&vm->f);
	vm->f.idle = vm_idle;
	vm_connect_again(vm);
}

static inline void vm_queue_start(struct vm *vm, unsigned i, const uint32_t *base)
{
	struct frontend_queue_options opt = { .size = vm->queue_size,
					      .indirect = vm->v->indirect,
					      .indirect_segs = vm->table_segs ? vm->table_segs
									      : 256 };

	if (base) {
		opt.has_base = true;
		opt.base = *base;
	}
	VM_OK(vm, frontend_queue_setup(&vm->f, i, &opt));
	VM_OK(vm, guest_blk_open(&vm->blk[i], &vm->f, i));
	VM_OK(vm, frontend_queue_start(&vm->f, i));
}

static inline void vm_start(struct vm *vm, const struct variant *v, const struct blk_config *cfg,
			    uint64_t image_size)
{
	vm_create(vm, v, cfg, image_size);
	vm_connect(vm);
	for (unsigned i = 0; i < vm->n_queues; i++)
		vm_queue_start(vm, i, NULL);
}

static inline void vm_closed(void *arg)
{
	struct vm *vm = arg;

	cr_assert_not(vm->closed);
	vm->closed = true;
}

static inline void vm_disconnect(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_queues; i++)
		guest_blk_close(&vm->blk[i]);
	frontend_close(&vm->f);
}

static inline void vm_close_device(struct vm *vm)
{
	blk_device_close(vm->dev, vm_closed, vm);
	for (unsigned i = 0; i < 100000 && !vm->closed; i++)
		control_step(200);
	cr_assert(vm->closed);
}

/* What is left of one whose device is closed, and whose front-end has gone. */
static inline void vm_stop_closed(struct vm *vm)
{
	workers_stop(vm->workers);
	control_fini();
	guest_memory_destroy(&vm->mem);
	if (vm->image[0])
		unlink(vm->image);
	unlink(vm->socket);
	EXPECT_NO_LEAK();
}

static inline void vm_stop(struct vm *vm)
{
	vm_disconnect(vm);
	if (!vm->closed)
		vm_close_device(vm);
	vm_stop_closed(vm);
}

/* Steps the control thread until @cond holds. */
#define VM_EVENTUALLY(cond)                                     \
	({                                                      \
		bool ev_ok = false;                             \
		for (unsigned ev_i = 0; ev_i < 50000; ev_i++) { \
			ev_ok = (cond);                         \
			if (ev_ok)                              \
				break;                          \
			control_step(200);                      \
		}                                               \
		ev_ok;                                          \
	})

static inline uint64_t vm_told_capacity(struct vm *vm)
{
	uint64_t sectors;

	VM_OK(vm, frontend_get_config(&vm->f, 0, &sectors, sizeof(sectors)));
	return sectors * 512;
}

static inline bool vm_told_of_change(struct vm *vm)
{
	struct vu_header h;

	return VM_EVENTUALLY(recv(vm->f.backend_sock, &h, sizeof(h), MSG_DONTWAIT | MSG_PEEK) >
			     0) &&
	       frontend_backend_message(&vm->f, &h) >= 0 && h.request == VU_BACKEND_CONFIG_CHANGE;
}

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* Pages of the file that are in the page cache only; -1 where the kernel cannot tell (before 6.5).
 */
static inline long dirty_pages(const char *path)
{
	struct {
		uint64_t off, len;
	} range = { 0, 0 };
	struct {
		uint64_t cache, dirty, writeback, evicted, recently_evicted;
	} stat = { 0 };
	int fd = open(path, O_RDONLY);
	long rc = syscall(SYS_cachestat, fd, &range, &stat, 0);

	close(fd);
	return rc ? -1 : (long)(stat.dirty + stat.writeback);
}

/* Not sync(): other tests run beside this one, and look at what is dirty. */
static inline void write_back(const char *path)
{
	int fd = open(path, O_RDWR);

	cr_assert_eq(fdatasync(fd), 0);
	close(fd);
}

static inline int vm_do(struct vm *vm, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa,
			uint32_t len)
{
	return VM_OK(vm, guest_blk_do(&vm->blk[queue], type, sector, gpa, len));
}

/*
 * Leaves a write of 64 KiB at @gpa in the page cache, not on the medium. Tried again and again,
 * since the kernel's flusher, or somebody's sync(), may come at any moment; a write that is durable
 * when it completes never gets there.
 */
static inline bool vm_write_is_cached(struct vm *vm, uint64_t gpa)
{
	for (unsigned i = 0; i < 50; i++) {
		cr_assert_eq(vm_do(vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 64 * KIB), VIRTIO_BLK_S_OK);
		if (dirty_pages(vm->image) > 0)
			return true;
	}
	return false;
}

/* Waits for @n completions on a queue, each of which must have @status. */
static inline void vm_wait(struct vm *vm, unsigned queue, unsigned n, uint8_t status)
{
	struct guest_blk_done done;

	for (unsigned i = 0; i < n; i++) {
		VM_OK(vm, guest_blk_wait(&vm->blk[queue], &done));
		cr_assert_eq(done.status, status, "%s: request %u of %u: status %u", vm->v->name, i,
			     n, done.status);
	}
}

static inline struct blk_stats vm_stats(const struct vm *vm)
{
	struct blk_stats s;

	blk_device_stats(vm->dev, &s);
	return s;
}

#endif
