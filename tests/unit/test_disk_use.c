/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One image, two devices: a guest migrates from the one to the other on shared storage. At each
 * moment one of them at most may use the image, and what the first wrote the second reads.
 */
#include "blk/device_impl.h"
#include "blk/disk_file.h"
#include "tests/guest/frontend_log.h"
#include "tests/unit/blk_util.h"

#include <errno.h>

#define IMAGE (4 * MIB)
#define MEMORY_END ((UINT64_C(1) << 32) + VM_MEMORY / 2)

static struct vm a; /* the source; its world is the destination's, too */
static struct frontend fb;
static struct guest_blk gb;
static struct blk_device *b;
static bool b_closed;
static uint64_t data;

static int b_create(enum disk_lock lock, enum disk_cache cache, struct error *err)
{
	struct blk_config cfg = { .name = "destination",
				  .kind = DISK_FILE,
				  .file = a.image,
				  .cache = cache,
				  .lock = lock,
				  .queues = 1 };
	char path[64];

	snprintf(path, sizeof(path), "destination-%d.sock", getpid());
	cfg.socket = (struct vhost_socket) { .path = strdup(path), .fd = -1, .mode = -1 };
	return blk_device_create(&cfg, a.workers, &b, err);
}

/* A front-end at the destination that has said all but SET_VRING_KICK. */
static void b_connect(void)
{
	struct frontend_queue_options opt = { .size = 128 };
	char path[64];

	snprintf(path, sizeof(path), "destination-%d.sock", getpid());
	frontend_init(&fb);
	fb.idle = vm_idle;
	cr_assert_eq(frontend_connect(&fb, path), 0);
	cr_assert_eq(frontend_hello(&fb, VU_PF_USUAL), 0);
	cr_assert_eq(frontend_set_features(&fb, VU_F_VERSION_1 | 0xffffff), 0);
	cr_assert_eq(frontend_share_memory(&fb, &a.mem), 0);
	cr_assert_eq(frontend_queue_setup(&fb, 0, &opt), 0);
	cr_assert_eq(guest_blk_open(&gb, &fb, 0), 0);
}

static void on_closed(void *arg)
{
	(void)arg;
	b_closed = true;
}

static void b_close(void)
{
	guest_blk_close(&gb);
	frontend_close(&fb);
	b_closed = false;
	blk_device_close(b, on_closed, NULL);
	for (unsigned i = 0; i < 100000 && !b_closed; i++)
		control_step(200);
	cr_assert(b_closed);
}

static void write_at_a(uint8_t value)
{
	memset(guest_ptr(&a.mem, data, 4096), value, 4096);
	cr_assert_eq(vm_do(&a, 0, VIRTIO_BLK_T_OUT, 8, data, 4096), 0);
}

static void reads_at_b(uint8_t value)
{
	uint8_t *p = guest_ptr(&a.mem, data, 4096);

	memset(p, 0, 4096);
	cr_assert_eq(guest_blk_do(&gb, VIRTIO_BLK_T_IN, 8, data, 4096), 0);
	for (unsigned i = 0; i < 4096; i++)
		cr_assert_eq(p[i], value, "byte %u", i);
}

static int start_again(struct frontend *f)
{
	return frontend_vring_fd(f, VU_SET_VRING_KICK, 0, f->queue[0].kick_fd);
}

static void hand_over(enum disk_cache cache)
{
	struct frontend_log log;
	struct error err = { 0 };

	vm_start(&a, &variant_split, &(struct blk_config) { .kind = DISK_FILE, .cache = cache },
		 IMAGE);
	cr_assert_not_null(guest_alloc_in(&a.mem, 0, 4096, 4096, &data));
	cr_assert_eq(frontend_log_create(&log, MEMORY_END, 0), 0);
	write_at_a(1);

	/* The image is the source's, and a destination that wants it at once is told what to say.
	 */
	cr_assert_eq(b_create(DISK_LOCK_OPEN, cache, &err), -EBUSY);
	cr_assert_not_null(strstr(err.text, "lock: run"), "%s", err.text);
	cr_assert_eq(b_create(DISK_LOCK_RUN, cache, &err), 0, "%s", err.text);
	b_connect();
	cr_assert_neq(frontend_queue_start(&fb, 0), 0, "two guests on one image");

	/* A guest that only stops (a reboot) keeps its image; one that migrates lets go of it. */
	VM_OK(&a, frontend_queue_stop(&a.f, 0, NULL));
	cr_assert_neq(start_again(&fb), 0, "the image of a guest that reboots is gone");
	VM_OK(&a, start_again(&a.f));
	VM_OK(&a, frontend_log_start(&a.f, &log, 1));
	write_at_a(2);
	VM_OK(&a, frontend_queue_stop(&a.f, 0, NULL));
	cr_assert_eq(start_again(&fb), 0, "%s", fb.error);
	cr_assert_eq(frontend_queue_enable(&fb, 0, true), 0, "%s", fb.error);
	reads_at_b(2);

	/* The source's guest must not go on beside it … */
	cr_assert_neq(start_again(&a.f), 0, "two guests on one image");
	/* … and leaves nothing behind by trying: the destination's can go and come again. */
	guest_blk_close(&gb);
	frontend_close(&fb);
	b_connect();
	cr_assert_eq(frontend_queue_start(&fb, 0), 0, "%s", fb.error);
	reads_at_b(2);
	/* It may when the destination is gone. */
	b_close();
	VM_OK(&a, start_again(&a.f));
	write_at_a(3);
	VM_OK(&a, frontend_log_stop(&a.f, 1));
	vm_stop(&a);
	frontend_log_destroy(&log);
}

Test(disk_use, an_image_is_handed_over_direct, .timeout = 60)
{
	hand_over(DISK_CACHE_NONE);
}

Test(disk_use, an_image_is_handed_over_buffered, .timeout = 60)
{
	hand_over(DISK_CACHE_WRITEBACK);
}

/* While another had it, it became shorter: nothing beyond its end may be asked for. */
Test(disk_use, an_image_that_has_shrunk_is_not_taken, .timeout = 60)
{
	struct error err = { 0 };

	vm_start(&a, &variant_split, &(struct blk_config) { .kind = DISK_FILE }, IMAGE);
	cr_assert_eq(b_create(DISK_LOCK_RUN, DISK_CACHE_NONE, &err), 0, "%s", err.text);
	b_connect();
	vm_disconnect(&a);
	vm_close_device(&a);
	cr_assert_eq(truncate(a.image, IMAGE / 2), 0);
	cr_assert_neq(frontend_queue_start(&fb, 0), 0);
	cr_assert_eq(truncate(a.image, IMAGE), 0);
	cr_assert_eq(start_again(&fb), 0, "%s", fb.error);
	b_close();
	workers_stop(a.workers);
	control_fini();
	guest_memory_destroy(&a.mem);
	unlink(a.image);
}

/* What its predecessor left under way is waited for, but not by each message of a front-end. */
Test(disk_use, an_image_of_another_is_waited_for_once, .timeout = 60)
{
	const struct file_disk *f;
	struct error err = { 0 };
	uint64_t waited;

	vm_start(&a, &variant_split, &(struct blk_config) { .kind = DISK_FILE }, IMAGE);
	cr_assert_eq(b_create(DISK_LOCK_RUN, DISK_CACHE_NONE, &err), 0, "%s", err.text);
	f = container_of(b->disk, struct file_disk, disk);
	b_connect();
	cr_assert_eq(f->waited_ns, 0);
	cr_assert_neq(frontend_queue_start(&fb, 0), 0);
	waited = f->waited_ns;
	cr_assert_neq(waited, 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_neq(start_again(&fb), 0);
	cr_assert_eq(f->waited_ns, waited);
	/* It is looked for each time all the same. */
	vm_disconnect(&a);
	vm_close_device(&a);
	cr_assert_eq(start_again(&fb), 0, "%s", fb.error);
	b_close();
	workers_stop(a.workers);
	control_fini();
	guest_memory_destroy(&a.mem);
	unlink(a.image);
}
