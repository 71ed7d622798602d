/* SPDX-License-Identifier: Apache-2.0 */
/* A whole virtio-blk device on an NBD server that comes and goes: against a real nbdkit. */
#include "tests/unit/blk_util.h"
#include "tests/unit/nbd_util.h"

#include <errno.h>

#define IMAGE (8 * MIB)
#define N 32u
#define LEN 8192u

static struct nbd_server server;
static struct vm vm;
static uint8_t *mem;
static uint64_t gpa;

static void begin(void)
{
	nbd_server_init(&server);
}

static void end(void)
{
	nbd_server_stop(&server, SIGKILL);
}

TestSuite(blk_nbd, .init = begin, .fini = end);

static void serve(void)
{
	nbd_server_start(&server, NBD_ARGS("memory", "8M"));
}

static void start(const struct variant *v, unsigned reconnect_s, enum disk_on_error on_error)
{
	struct blk_config cfg = { .kind = DISK_NBD,
				  .nbd = server.uri,
				  .queues = 2,
				  .connections = 2,
				  .reconnect_s = reconnect_s,
				  .on_error = on_error };

	serve();
	vm_start(&vm, v, &cfg, IMAGE);
	mem = guest_alloc(&vm.mem, (size_t)N * LEN, 4096, &gpa);
	cr_assert_not_null(mem);
}

static void submit(unsigned queue, uint32_t type)
{
	for (unsigned i = 0; i < N; i++) {
		const struct driver_seg seg = { gpa + i * LEN, LEN };

		VM_OK(&vm, guest_blk_submit(&vm.blk[queue], type, i * (LEN / 512), &seg, 1, NULL));
	}
	guest_blk_kick(&vm.blk[queue]);
}

/* By the other queue than it was written by. */
static void expect_on_disk(uint32_t seed)
{
	static uint8_t want[N * LEN];

	fill(want, sizeof(want), seed);
	memset(mem, 0xee, sizeof(want));
	submit(1, VIRTIO_BLK_T_IN);
	vm_wait(&vm, 1, N, VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(mem, want, sizeof(want));
}

BLK_TEST(blk_nbd, what_is_written_survives_its_server)
{
	NBD_SKIP_WITHOUT_NBDKIT();
	start(v, 60, DISK_ERROR_REPORT);
	for (uint32_t round = 1; round <= 3; round++) {
		fill(mem, (size_t)N * LEN, round);
		submit(0, VIRTIO_BLK_T_OUT);
		nbd_server_stop(&server, SIGKILL);
		serve();
		vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
		expect_on_disk(round);
	}
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_FLUSH, 0, gpa, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_stats(&vm).errors, 0);
	vm_stop(&vm);
}

BLK_TEST(blk_nbd, on_error_stop_waits_for_longer_than_reconnect)
{
	NBD_SKIP_WITHOUT_NBDKIT();
	start(v, 0, DISK_ERROR_STOP);
	fill(mem, (size_t)N * LEN, 5);
	nbd_server_stop(&server, SIGKILL);
	submit(0, VIRTIO_BLK_T_OUT);
	cr_assert(VM_EVENTUALLY(vm_stats(&vm).waiting == N));
	cr_assert_eq(vm_stats(&vm).fault_error, ENOTCONN);
	serve();
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	expect_on_disk(5);
	vm_stop(&vm);
}

/* A queue that stops, a device that is removed: both end, with errors, when the server has had its
 * time. */
BLK_TEST(blk_nbd, a_device_ends_though_its_server_is_away)
{
	NBD_SKIP_WITHOUT_NBDKIT();
	start(v, 1, DISK_ERROR_REPORT);
	nbd_server_stop(&server, SIGKILL);
	submit(0, VIRTIO_BLK_T_IN);
	submit(1, VIRTIO_BLK_T_OUT);
	vm_stop(&vm);
}

BLK_TEST(blk_nbd, ranges_without_data_go_to_the_server)
{
	static uint8_t zero[LEN];

	NBD_SKIP_WITHOUT_NBDKIT();
	start(v, 60, DISK_ERROR_REPORT);
	fill(mem, (size_t)N * LEN, 6);
	submit(0, VIRTIO_BLK_T_OUT);
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	/* The range to be zeroed: virtio 1.3 5.2.6, struct virtio_blk_discard_write_zeroes. */
	memset(mem, 0, 16);
	mem[0] = 16;
	mem[8] = LEN / 512;
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, gpa, 16), VIRTIO_BLK_S_OK);
	/* The zeros too are written again. */
	nbd_server_stop(&server, SIGKILL);
	serve();
	cr_assert_eq(vm_do(&vm, 1, VIRTIO_BLK_T_IN, 16, gpa, LEN), VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(mem, zero, LEN);
	cr_assert_eq(vm_do(&vm, 1, VIRTIO_BLK_T_IN, 0, gpa, LEN), VIRTIO_BLK_S_OK);
	cr_assert_arr_neq(mem, zero, LEN);
	vm_stop(&vm);
}

static void start_larger(const char *size)
{
	nbd_server_stop(&server, SIGKILL);
	nbd_server_start(&server, NBD_ARGS("memory", size));
}

static bool is_away_for(const char *why)
{
	struct blk_stats s = vm_stats(&vm);

	return s.away_ns && strstr(s.away_why, why);
}

BLK_TEST(blk_nbd, an_export_that_comes_back_larger_is_told_to_the_guest)
{
	static uint8_t want[LEN];

	NBD_SKIP_WITHOUT_NBDKIT();
	start(v, 60, DISK_ERROR_REPORT);
	VM_OK(&vm, frontend_open_backend_channel(&vm.f));
	fill(mem, LEN, 7);
	memcpy(want, mem, LEN);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, 0, gpa, LEN), VIRTIO_BLK_S_OK);
	cr_assert_eq(vm_do(&vm, 0, VIRTIO_BLK_T_OUT, IMAGE / 512, gpa, LEN), VIRTIO_BLK_S_IOERR);
	start_larger("16M");
	cr_assert(vm_told_of_change(&vm));
	cr_assert_eq(vm_told_capacity(&vm), 2 * IMAGE);
	for (unsigned q = 0; q < 2; q++) {
		cr_assert_eq(vm_do(&vm, q, VIRTIO_BLK_T_OUT, 2 * IMAGE / 512 - 16, gpa, LEN),
			     VIRTIO_BLK_S_OK);
		cr_assert_eq(vm_do(&vm, q, VIRTIO_BLK_T_OUT, 2 * IMAGE / 512, gpa, LEN),
			     VIRTIO_BLK_S_IOERR);
	}
	/* From then on nothing smaller will do. */
	start_larger("12M");
	cr_assert(VM_EVENTUALLY(is_away_for("has 12582912 bytes now, and had 16777216")));
	start_larger("16M");
	memset(mem, 0, LEN);
	cr_assert_eq(vm_do(&vm, 1, VIRTIO_BLK_T_IN, 2 * IMAGE / 512 - 16, gpa, LEN),
		     VIRTIO_BLK_S_OK);
	cr_assert_arr_eq(mem, want, LEN);
	vm_stop(&vm);
}

Test(blk_nbd, a_size_that_the_server_does_not_have_is_refused, .timeout = 60)
{
	struct error err = { 0 };

	NBD_SKIP_WITHOUT_NBDKIT();
	start(&variant_split, 60, DISK_ERROR_REPORT);
	cr_assert_eq(blk_device_resize(vm.dev, 2 * IMAGE, &err), -EINVAL);
	cr_assert(strstr(err.text, "make it larger there"), "%s", err.text);
	cr_assert_eq(blk_device_resize(vm.dev, 0, &err), 0);
	cr_assert_eq(blk_device_capacity(vm.dev), IMAGE);
	vm_stop(&vm);
}

/* Its requests and its last flush wait for NBD_CLOSE_S, and not for as long as else. */
Test(blk_nbd, a_device_ends_soon_though_its_server_may_be_away_for_long, .timeout = 120)
{
	uint64_t end = clock_ns() + UINT64_C(60000000000);

	NBD_SKIP_WITHOUT_NBDKIT();
	start(&variant_split, 100000, DISK_ERROR_REPORT);
	submit(0, VIRTIO_BLK_T_OUT);
	vm_wait(&vm, 0, N, VIRTIO_BLK_S_OK);
	nbd_server_stop(&server, SIGKILL);
	submit(1, VIRTIO_BLK_T_OUT);
	vm_disconnect(&vm);
	blk_device_close(vm.dev, vm_closed, &vm);
	while (!vm.closed && clock_ns() < end)
		control_step(200);
	cr_assert(vm.closed);
	vm_stop_closed(&vm);
}
