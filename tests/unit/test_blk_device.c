/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio-blk device as a front-end and its guest see it: contents, configuration, odd shapes. */
#include "tests/unit/blk_util.h"

#include <errno.h>
#include <sys/syscall.h>

#define IMAGE (16 * MIB)

static const struct blk_config file_direct = { .kind = DISK_FILE };
static const struct blk_config file_buffered = { .kind = DISK_FILE, .cache = DISK_CACHE_WRITEBACK };

BLK_TEST(blk_device, what_is_written_is_in_the_file_and_is_read_back)
{
	enum { LEN = 64 * KIB };
	uint8_t *data, *back, *file = malloc(LEN);
	uint64_t gpa, gpa_back;
	struct blk_stats s;
	struct vm vm;

	vm_start(&vm, v, &file_direct, IMAGE);
	data = guest_alloc(&vm.mem, LEN, 4096, &gpa);
	back = guest_alloc(&vm.mem, LEN, 4096, &gpa_back);
	fill(data, LEN, 5);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 100, gpa, LEN), VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	image_read(vm.image, file, LEN, 100 * 512);
	cr_assert_arr_eq(file, data, LEN);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 100, gpa_back, LEN), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(back, data, LEN);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa_back, 512), VIRTIO_BLK_S_OK);
	fill(data, 512, 0);
	cr_assert_arr_eq(back, data, 512);

	s = vm_stats(&vm);
	cr_assert_eq(s.reads, 2);
	cr_assert_eq(s.writes, 1);
	cr_assert_eq(s.flushes, 1);
	cr_assert_eq(s.read_bytes, LEN + 512);
	cr_assert_eq(s.write_bytes, LEN);
	cr_assert_eq(s.errors + s.unsupported + s.malformed, 0);
	cr_assert_eq(s.in_flight, 0);
	vm_stop(&vm);
	free(file);
}

BLK_TEST(blk_device, get_id_gives_the_serial_or_else_the_name)
{
	struct blk_config cfg = { .kind = DISK_NULL };
	uint64_t gpa;
	struct vm vm;
	char *id;

	vm_start(&vm, v, &cfg, IMAGE);
	id = guest_alloc(&vm.mem, 64, 64, &gpa);
	memset(id, 0xaa, 64);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_GET_ID, 0, gpa, 20), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(id, "disk-under-test\0\0\0\0\0", 20);
	cr_assert_eq((uint8_t)id[20], 0xaa);
	cr_assert_eq(vm_stats(&vm).get_ids, 1);
	vm_stop(&vm);

	cfg.serial = "01234567890123456789";
	vm_start(&vm, v, &cfg, IMAGE);
	id = guest_alloc(&vm.mem, 64, 64, &gpa);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_GET_ID, 0, gpa, 20), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(id, cfg.serial, 20);
	vm_stop(&vm);
}

Test(blk_device, the_configuration_space_tells_capacity_limits_and_topology)
{
	struct blk_config cfg = { .kind = DISK_FILE, .queues = 3 };
	struct virtio_blk_config c;
	struct vm vm;

	vm_create(&vm, &variant_split, &cfg, IMAGE);
	vm_connect(&vm);
	VM_OK(&vm, frontend_get_config(&vm.f, 0, &c, sizeof(c)));
	cr_assert_eq(c.capacity, IMAGE / 512);
	cr_assert_eq(c.seg_max, 126);
	cr_assert_eq(c.size_max, 0);
	cr_assert_eq(c.blk_size, 512);
	cr_assert_eq(512u << c.physical_block_exp, 4096);
	cr_assert_eq(c.min_io_size, 8);
	cr_assert_eq(c.num_queues, 3);
	cr_assert_eq(c.geometry.heads, 16);
	cr_assert_eq(c.geometry.sectors, 63);
	cr_assert_eq(c.geometry.cylinders, IMAGE / 512 / 16 / 63);
	for (unsigned bit = 0; bit < 24; bit++) {
		bool want = bit == VIRTIO_BLK_F_SEG_MAX || bit == VIRTIO_BLK_F_BLK_SIZE ||
			    bit == VIRTIO_BLK_F_TOPOLOGY || bit == VIRTIO_BLK_F_FLUSH ||
			    bit == VIRTIO_BLK_F_MQ || bit == VIRTIO_BLK_F_GEOMETRY ||
			    bit == VIRTIO_BLK_F_DISCARD || bit == VIRTIO_BLK_F_WRITE_ZEROES ||
			    bit == VIRTIO_BLK_F_CONFIG_WCE;

		cr_assert_eq(!!(vm.f.offered & (UINT64_C(1) << bit)), want, "feature %u", bit);
	}
	/* Nothing there is the guest's to write, but for writeback. */
	cr_assert_lt(frontend_set_config(&vm.f, 0, "", 1, 0), 0);
	vm_stop(&vm);
}

BLK_TEST(blk_device, header_and_status_lie_anywhere_2_7_4_1)
{
	uint8_t *hdr, *data, *tail;
	struct driver_seg segs[64];
	uint64_t at, gpa;
	struct guest_blk_done done;
	unsigned n;
	struct vm vm;

	vm_start(&vm, v, &file_direct, IMAGE);
	hdr = guest_alloc(&vm.mem, 64, 1, &at);
	data = guest_alloc(&vm.mem, 8192, 4096, &gpa);
	fill(data, 4096, 9);
	memcpy(hdr, &(struct virtio_blk_outhdr) { .type = VIRTIO_BLK_T_OUT, .sector = 8 }, 16);

	/* A write: the header a byte at a time, data in two halves, the status. */
	for (n = 0; n < 16; n++)
		segs[n] = (struct driver_seg) { at + n, 1 };
	segs[n++] = (struct driver_seg) { gpa, 2048 };
	segs[n++] = (struct driver_seg) { gpa + 2048, 2048 };
	segs[n++] = (struct driver_seg) { at + 32, 1 };
	hdr[32] = 0xaa;
	VM_OK(&vm, guest_blk_submit_raw(&vm.blk[0], segs, n - 1, 1, NULL));
	guest_blk_kick(&vm.blk[0]);
	VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
	cr_assert_eq(done.used_len, 1);
	cr_assert_eq(hdr[32], VIRTIO_BLK_S_OK);

	/* A read: header in two parts, and the last data segment ends in the status byte. */
	hdr[0] = VIRTIO_BLK_T_IN;
	segs[0] = (struct driver_seg) { at, 5 };
	segs[1] = (struct driver_seg) { at + 5, 11 };
	segs[2] = (struct driver_seg) { gpa + 4096, 1000 };
	segs[3] = (struct driver_seg) { gpa + 5096, 3097 };
	tail = guest_alloc(&vm.mem, 8192, 4096, &gpa);
	segs[3].gpa = gpa + 1;
	memset(tail, 0xaa, 8192);
	VM_OK(&vm, guest_blk_submit_raw(&vm.blk[0], segs, 2, 2, NULL));
	guest_blk_kick(&vm.blk[0]);
	VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
	cr_assert_eq(done.used_len, 4097);
	cr_assert_arr_eq(data + 4096, data, 1000);
	cr_assert_arr_eq(tail + 1, data + 1000, 3096);
	cr_assert_eq(tail[3097], VIRTIO_BLK_S_OK);
	cr_assert_eq(tail[0], 0xaa);
	cr_assert_eq(tail[3098], 0xaa);
	vm_stop(&vm);
}

BLK_TEST(blk_device, guest_buffers_at_odd_addresses_reach_a_direct_file)
{
	enum { LEN = 200 * KIB };
	uint64_t gpa, gpa_back;
	uint8_t *data, *back;
	struct vm vm;

	vm_start(&vm, v, &file_direct, IMAGE);
	data = guest_alloc(&vm.mem, LEN + 64, 4096, &gpa);
	back = guest_alloc(&vm.mem, LEN + 64, 4096, &gpa_back);
	fill(data + 1, LEN, 3);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 7, gpa + 1, LEN), VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 7, gpa_back + 9, LEN), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(back + 9, data + 1, LEN);
	if (strstr(blk_device_how(vm.dev), "O_DIRECT, "))
		cr_assert_eq(vm_stats(&vm).bounced, 2);
	vm_stop(&vm);
}

BLK_TEST(blk_device, malformed_chains_are_given_back_once_and_the_queue_goes_on)
{
	struct guest_blk_done done;
	struct driver_seg segs[3];
	struct blk_stats s;
	uint64_t at;
	struct vm vm;
	uint8_t *mem;

	vm_start(&vm, v, &(struct blk_config) { .kind = DISK_RAM }, IMAGE);
	mem = guest_alloc(&vm.mem, 4096, 4096, &at);
	for (unsigned round = 0; round < 300; round++) {
		/* No status byte. */
		segs[0] = (struct driver_seg) { at, 16 };
		segs[1] = (struct driver_seg) { at + 1024, 512 };
		VM_OK(&vm, guest_blk_submit_raw(&vm.blk[0], segs, 2, 0, NULL));
		guest_blk_kick(&vm.blk[0]);
		VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
		cr_assert_eq(done.used_len, 0);

		/* A header of 15 bytes. */
		segs[0] = (struct driver_seg) { at, 15 };
		segs[1] = (struct driver_seg) { at + 1024, 512 };
		segs[2] = (struct driver_seg) { at + 512, 1 };
		mem[512] = 0xaa;
		VM_OK(&vm, guest_blk_submit_raw(&vm.blk[0], segs, 1, 2, NULL));
		guest_blk_kick(&vm.blk[0]);
		VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
		cr_assert_eq(done.used_len, 0);
		cr_assert_eq(mem[512], VIRTIO_BLK_S_IOERR);

		/* No header at all. */
		segs[0] = (struct driver_seg) { at + 512, 1 };
		VM_OK(&vm, guest_blk_submit_raw(&vm.blk[0], segs, 0, 1, NULL));
		guest_blk_kick(&vm.blk[0]);
		VM_OK(&vm, guest_blk_wait(&vm.blk[0], &done));
		cr_assert_eq(done.used_len, 1);
	}
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, at, 512), VIRTIO_BLK_S_OK);
	s = vm_stats(&vm);
	cr_assert_eq(s.malformed, 900);
	cr_assert_eq(s.reads, 1);
	cr_assert_eq(s.errors, 0);
	vm_stop(&vm);
}

BLK_TEST(blk_device, requests_that_cannot_be_are_refused_and_counted)
{
	uint64_t gpa, cap = IMAGE / 512;
	struct blk_stats s;
	struct vm vm;

	vm_start(&vm, v, &(struct blk_config) { .kind = DISK_RAM }, IMAGE);
	guest_alloc(&vm.mem, 64 * KIB, 4096, &gpa);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, cap, gpa, 512), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, cap - 1, gpa, 1024), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, UINT64_MAX, gpa, 1024), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, UINT64_C(1) << 55, gpa, 512),
		     VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 700), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 1), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_SECURE_ERASE, 0, gpa, 16), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(vm_do(&vm, 0, 15, 0, gpa, 16), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(vm_do(&vm, 0, 0x12345678, 0, gpa, 512), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, cap - 128, gpa, 64 * KIB), VIRTIO_BLK_S_OK);
	s = vm_stats(&vm);
	cr_assert_eq(s.errors, 6);
	cr_assert_eq(s.unsupported, 3);
	cr_assert_eq(s.malformed, 0);
	vm_stop(&vm);
}

BLK_TEST(blk_device, a_read_only_disk_says_so_and_stays_as_it_is)
{
	struct blk_config cfg = { .kind = DISK_FILE, .read_only = true };
	uint8_t want[512], got[512];
	uint64_t gpa;
	struct vm vm;

	vm_start(&vm, v, &cfg, IMAGE);
	cr_assert(vm.f.offered & (UINT64_C(1) << VIRTIO_BLK_F_RO));
	memset(guest_alloc(&vm.mem, 4096, 4096, &gpa), 0x55, 4096);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 512), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	image_read(vm.image, got, 512, 0);
	fill(want, 512, 0);
	cr_assert_arr_eq(got, want, 512);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 512), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(guest_ptr(&vm.mem, gpa, 512), want, 512);
	vm_stop(&vm);
}

BLK_TEST(blk_device, writes_are_cached_until_a_flush_and_durable_at_once_without_flush_5_2_6_2)
{
	uint64_t gpa;
	struct vm vm;

	vm_create(&vm, v, &file_buffered, IMAGE);
	write_back(vm.image);
	if (dirty_pages(vm.image) < 0)
		cr_skip_test("the kernel has no cachestat()");
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	guest_alloc(&vm.mem, 64 * KIB, 4096, &gpa);
	cr_assert(vm_write_is_cached(&vm, gpa));
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(dirty_pages(vm.image), 0);
	vm_disconnect(&vm);

	vm.features_off = UINT64_C(1) << VIRTIO_BLK_F_FLUSH;
	vm_connect(&vm);
	vm_queue_start(&vm, 0, NULL);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, 64 * KIB), VIRTIO_BLK_S_OK);
	cr_assert_eq(dirty_pages(vm.image), 0);
	vm_stop(&vm);
}

BLK_TEST(blk_device, closing_flushes_what_the_guest_did_not)
{
	uint64_t gpa;
	char image[64];
	struct vm vm;

	vm_start(&vm, v, &file_buffered, IMAGE);
	strcpy(image, vm.image);
	write_back(image);
	if (dirty_pages(vm.image) < 0)
		cr_skip_test("the kernel has no cachestat()");
	guest_alloc(&vm.mem, 64 * KIB, 4096, &gpa);
	cr_assert(vm_write_is_cached(&vm, gpa));
	vm_close_device(&vm);
	cr_assert_eq(dirty_pages(image), 0);
	vm_stop(&vm);
}

BLK_TEST(blk_device, a_failing_disk_is_an_io_error_of_that_request_only)
{
	uint64_t gpa;
	struct vm vm;

	vm_start(&vm, v, &file_direct, IMAGE);
	guest_alloc(&vm.mem, 64 * KIB, 4096, &gpa);
	cr_assert_eq(truncate(vm.image, MIB), 0);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 4 * MIB / 512, gpa, 4096), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096), VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_stats(&vm).errors, 1);
	cr_assert_eq(vm_stats(&vm).reads, 1);
	vm_stop(&vm);
}

/* Makes a config with a socket of its own, which blk_device_create() takes over. */
static int create_error(struct blk_config cfg, struct error *err)
{
	struct blk_device *b = NULL;

	cfg.socket = (struct vhost_socket) { .path = strdup("test-never.sock"),
					     .fd = dup(0),
					     .mode = -1 };
	return blk_device_create(&cfg, NULL, &b, err);
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

Test(blk_device, what_a_user_got_wrong_is_named_and_nothing_leaks)
{
	struct blk_config cfg = { .name = "d0", .kind = DISK_RAM, .size = MIB, .queues = 1 };
	struct error err = { 0 };
	unsigned fds;

	cr_assert_eq(control_init(), 0);
	fds = open_fds();
	cfg.queues = 0;
	cr_assert_eq(create_error(cfg, &err), -EINVAL);
	cr_assert(strstr(err.text, "d0") && strstr(err.text, "queues is 0"), "%s", err.text);
	cfg.queues = 257;
	cr_assert_eq(create_error(cfg, &err), -EINVAL);
	cr_assert(strstr(err.text, "1 to 256"), "%s", err.text);
	cfg.queues = 1;
	cfg.serial = "012345678901234567890";
	cr_assert_eq(create_error(cfg, &err), -EINVAL);
	cr_assert(strstr(err.text, "20 bytes"), "%s", err.text);
	cfg.serial = NULL;
	cfg.kind = DISK_FILE;
	cr_assert_eq(create_error(cfg, &err), -EINVAL);
	cr_assert(strstr(err.text, "file: PATH"), "%s", err.text);
	cfg.file = "/nonexistent/disk.raw";
	cr_assert_eq(create_error(cfg, &err), -ENOENT);
	cr_assert(strstr(err.text, "/nonexistent/disk.raw"), "%s", err.text);
	/* A thread closes what may be of any kind. */
	for (unsigned i = 0; i < 3000 && open_fds() != fds; i++)
		usleep(10000);
	cr_assert_eq(open_fds(), fds);
	control_fini();
}
