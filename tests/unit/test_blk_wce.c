/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a write is durable: what cache says, and what the guest says of it in the configuration
 * space (CONFIG_WCE, virtio 1.3 5.2.5, 5.2.6.2), which must hold over the death of the back-end.
 */
#include "tests/guest/frontend_inflight.h"
#include "tests/unit/blk_util.h"

#include <sys/mman.h>

#define IMAGE (4 * MIB)
#define WCE offsetof(struct virtio_blk_config, wce)

static const struct blk_config buffered = { .kind = DISK_FILE, .cache = DISK_CACHE_WRITEBACK };

static struct vm vm;
static uint64_t gpa;

static void create(const struct variant *v, const struct blk_config *cfg, uint64_t features_off)
{
	vm_create(&vm, v, cfg, IMAGE);
	vm.features_off = features_off;
	write_back(vm.image);
	if (dirty_pages(vm.image) < 0)
		cr_skip_test("the kernel has no cachestat()");
	guest_alloc(&vm.mem, 64 * KIB, 4096, &gpa);
}

static void start(const struct variant *v, const struct blk_config *cfg, uint64_t features_off)
{
	create(v, cfg, features_off);
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
}

static uint8_t told(void)
{
	uint8_t wce;

	VM_OK(&vm, frontend_get_config(&vm.f, WCE, &wce, 1));
	return wce;
}

static int say(uint8_t wce)
{
	return frontend_set_config(&vm.f, WCE, &wce, 1, 0);
}

/* Is a write on the medium when it completes? */
static bool write_is_durable(void)
{
	write_back(vm.image);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 64 * KIB), VIRTIO_BLK_S_OK);
	return dirty_pages(vm.image) == 0;
}

BLK_TEST(blk_wce, the_guest_chooses_and_it_holds_from_the_next_write_on)
{
	start(v, &buffered, 0);
	cr_assert_eq(told(), 1);
	cr_assert(vm_write_is_cached(&vm, gpa));
	for (unsigned i = 0; i < 3; i++) {
		VM_OK(&vm, say(0));
		cr_assert_eq(told(), 0);
		cr_assert(write_is_durable());
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
		VM_OK(&vm, say(1));
		cr_assert_eq(told(), 1);
		cr_assert(vm_write_is_cached(&vm, gpa));
	}
	vm_stop(&vm);
}

/* Linux sends no flush any more, not even for what it wrote before. */
BLK_TEST(blk_wce, what_was_written_back_becomes_durable_when_the_guest_ends_that)
{
	start(v, &buffered, 0);
	cr_assert(vm_write_is_cached(&vm, gpa));
	VM_OK(&vm, say(0));
	cr_assert(VM_EVENTUALLY(dirty_pages(vm.image) == 0));
	vm_stop(&vm);
}

BLK_TEST(blk_wce, a_device_that_closes_while_that_is_under_way)
{
	start(v, &buffered, 0);
	for (unsigned i = 0; i < 8; i++)
		VM_OK(&vm, say(i % 2));
	vm_close_device(&vm);
	vm_stop(&vm);
}

Test(blk_wce, nothing_but_0_and_1_and_nothing_beside_it, .timeout = 60)
{
	struct virtio_blk_config c;

	start(&variant_split, &buffered, 0);
	cr_assert_lt(say(2), 0);
	cr_assert_lt(say(255), 0);
	VM_OK(&vm, frontend_get_config(&vm.f, 0, &c, sizeof(c)));
	c.wce = 0;
	cr_assert_lt(frontend_set_config(&vm.f, 0, &c, sizeof(c), 0), 0);
	cr_assert_lt(frontend_set_config(&vm.f, WCE, &c.wce, 2, 0), 0);
	cr_assert_lt(frontend_set_config(&vm.f, WCE + 1, &c.wce, 1, 0), 0);
	cr_assert_eq(told(), 1);
	/* The source of a migration sends all it had. */
	VM_OK(&vm, frontend_set_config(&vm.f, 0, &c, sizeof(c), 1));
	cr_assert_eq(told(), 0);
	cr_assert(write_is_durable());
	vm_stop(&vm);
}

Test(blk_wce, what_has_no_cache_has_no_choice, .timeout = 60)
{
	const struct blk_config rows[] = { { .kind = DISK_RAM },
					   { .kind = DISK_NULL },
					   { .kind = DISK_FILE, .read_only = true } };

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		vm_create(&vm, &variant_split, &rows[i], IMAGE);
		vm_connect(&vm);
		cr_assert_eq(vm.f.offered & (UINT64_C(1) << VIRTIO_BLK_F_CONFIG_WCE), 0);
		cr_assert_eq(told(), 0);
		cr_assert_lt(say(1), 0);
		vm_stop(&vm);
	}
}

BLK_TEST(blk_wce, cache_writethrough_begins_with_0_and_holds_for_those_who_do_not_know_the_field)
{
	struct blk_config cfg = { .kind = DISK_FILE, .cache = DISK_CACHE_WRITETHROUGH };

	start(v, &cfg, 0);
	cr_assert_eq(told(), 0);
	cr_assert(write_is_durable());
	VM_OK(&vm, say(1));
	cr_assert(vm_write_is_cached(&vm, gpa));
	vm_disconnect(&vm);
	cr_assert(VM_EVENTUALLY(vhost_device_state(blk_device_vhost(vm.dev)) ==
				VHOST_DEVICE_WAITING));
	vm.features_off = UINT64_C(1) << VIRTIO_BLK_F_CONFIG_WCE;
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	cr_assert_eq(told(), 0, "the next guest has not chosen yet");
	cr_assert(write_is_durable());
	vm_stop(&vm);
}

static bool stays_cached_over_a_flush(void)
{
	for (unsigned i = 0; i < 50; i++) {
		cr_assert(vm_write_is_cached(&vm, gpa));
		cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
		if (dirty_pages(vm.image) > 0)
			return true;
	}
	return false;
}

BLK_TEST(blk_wce, cache_unsafe_is_never_durable)
{
	struct blk_config cfg = { .kind = DISK_FILE, .cache = DISK_CACHE_UNSAFE };

	start(v, &cfg, 0);
	cr_assert_eq(told(), 1);
	cr_assert(stays_cached_over_a_flush());
	VM_OK(&vm, say(0));
	cr_assert(vm_write_is_cached(&vm, gpa));
	vm_stop(&vm);
}

/* The back-end dies, and the front-end comes back to the next one with what it kept. */
static void restart(const struct frontend_inflight *buf)
{
	struct error err = { 0 };

	frontend_hang_up(&vm.f);
	vm_close_device(&vm);
	vm.closed = false;
	vm.cfg.socket = (struct vhost_socket) { .path = strdup(vm.socket), .fd = -1, .mode = -1 };
	cr_assert_eq(blk_device_create(&vm.cfg, vm.workers, &vm.dev, &err), 0, "%s", err.text);
	vm_connect_again(&vm);
	VM_OK(&vm, frontend_set_inflight(&vm.f, buf));
	VM_OK(&vm, frontend_queue_start(&vm.f, 0));
}

/* What another back-end, or an older one of ours, would have made. */
static struct frontend_inflight without_a_note(const struct frontend_inflight *buf)
{
	struct frontend_inflight copy = *buf;
	uint64_t bytes = buf->desc.mmap_size;
	void *from = mmap(NULL, bytes, PROT_READ, MAP_SHARED, buf->fd, 0);

	copy.fd = memfd_create("old", MFD_CLOEXEC);
	cr_assert_neq(from, MAP_FAILED);
	cr_assert_eq(write(copy.fd, from, bytes), (ssize_t)bytes);
	munmap(from, bytes);
	return copy;
}

BLK_TEST(blk_wce, it_holds_over_the_death_of_the_back_end)
{
	struct frontend_inflight buf, old;

	create(v, &buffered, 0);
	vm.protocol = VU_PF_INFLIGHT_SHMFD;
	vm_connect(&vm);
	VM_OK(&vm, frontend_get_inflight(&vm.f, &buf, 1, (uint16_t)vm.queue_size));
	VM_OK(&vm, frontend_set_inflight(&vm.f, &buf));
	vm_queue_start(&vm, 0, NULL);
	cr_assert(vm_write_is_cached(&vm, gpa));
	for (unsigned i = 0; i < 3; i++) {
		restart(&buf);
		cr_assert(vm_write_is_cached(&vm, gpa));
		VM_OK(&vm, say(0));
		restart(&buf);
		cr_assert_eq(told(), 0);
		cr_assert(write_is_durable());
		VM_OK(&vm, say(1));
	}
	/* Where it is not known it is what is never wrong. */
	old = without_a_note(&buf);
	restart(&old);
	cr_assert(write_is_durable());
	VM_OK(&vm, say(1));
	cr_assert(vm_write_is_cached(&vm, gpa));
	frontend_inflight_close(&old);
	frontend_inflight_close(&buf);
	vm_stop(&vm);
}

/* A choice may come before the buffer does. */
BLK_TEST(blk_wce, what_was_said_before_the_buffer_came_is_noted_there)
{
	struct frontend_inflight buf;

	create(v, &buffered, 0);
	vm.protocol = VU_PF_INFLIGHT_SHMFD;
	vm_connect(&vm);
	VM_OK(&vm, say(0));
	VM_OK(&vm, frontend_get_inflight(&vm.f, &buf, 1, (uint16_t)vm.queue_size));
	VM_OK(&vm, frontend_set_inflight(&vm.f, &buf));
	vm_queue_start(&vm, 0, NULL);
	cr_assert(write_is_durable());
	restart(&buf);
	cr_assert(write_is_durable());
	frontend_inflight_close(&buf);
	vm_stop(&vm);
}
