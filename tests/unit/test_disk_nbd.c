/* SPDX-License-Identifier: Apache-2.0 */
/* Disks on an NBD server, one level below virtio: against a real nbdkit. */
#include "tests/unit/nbd_util.h"

#include <errno.h>

#define DISK_SIZE (8 * MIB)

static struct nbd_server server;
static char image[64];

static void begin(void)
{
	nbd_server_init(&server);
	image_create(image, DISK_SIZE);
}

static void end(void)
{
	nbd_server_stop(&server, SIGKILL);
	unlink(image);
}

TestSuite(disk_nbd, .init = begin, .fini = end, .timeout = 120);

static struct blk_config config(void)
{
	return (struct blk_config) {
		.name = "d", .kind = DISK_NBD, .nbd = server.uri, .reconnect_s = 60
	};
}

static void start_file(void)
{
	nbd_server_start(&server, NBD_ARGS("file", image));
}

Test(disk_nbd, reads_and_writes_reach_the_server)
{
	struct blk_config cfg = config();
	static uint8_t a[3 * MIB], b[3 * MIB];
	struct rig rig;

	NBD_SKIP_WITHOUT_NBDKIT();
	start_file();
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig.disk->info.size, DISK_SIZE);
	cr_assert(rig.disk->info.volatile_cache);
	/* One that takes many steps of a slot, and ends within one. */
	cr_assert_eq(rig_rw(&rig, DISK_READ, 512, a, sizeof(a) - 512), 0);
	image_read(image, b, sizeof(b) - 512, 512);
	cr_assert_arr_eq(a, b, sizeof(a) - 512);
	fill(a, sizeof(a), 7);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 4096, a, sizeof(a)), 0);
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	image_read(image, b, sizeof(b), 4096);
	cr_assert_arr_eq(a, b, sizeof(a));
	rig_close(&rig);
}

/* More than there are slots. */
Test(disk_nbd, many_requests_at_once_each_come_back)
{
	enum { N = 600 };
	static struct disk_request r[N], *p[N];
	static struct iovec iov[N];
	static uint8_t mem[N][4096], b[4096];
	struct blk_config cfg = config();
	struct rig rig;

	NBD_SKIP_WITHOUT_NBDKIT();
	start_file();
	rig_open(&rig, &cfg, 0);
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < N; i++) {
			fill(mem[i], 4096, i + round * N + 1);
			request_set(&r[i], DISK_WRITE, (uint64_t)i * 4096, &iov[i], mem[i], 4096);
			p[i] = &r[i];
		}
		rig_run(&rig, p, N);
		for (unsigned i = 0; i < N; i++) {
			cr_assert_eq(r[i].result, 0);
			image_read(image, b, 4096, (off_t)i * 4096);
			cr_assert_arr_eq(b, mem[i], 4096);
		}
	}
	rig_close(&rig);
}

/* Killed as soon as they are with the worker: some are done by then, some on their way, some not.
 */
Test(disk_nbd, a_server_that_is_killed_and_comes_back_loses_nothing)
{
	enum { N = 256, ROUNDS = 12 };
	static struct disk_request r[N], *p[N];
	static struct iovec iov[N];
	static uint8_t mem[N][4096], b[4096];
	struct blk_config cfg = config();
	uint64_t end;
	struct rig rig;

	NBD_SKIP_WITHOUT_NBDKIT();
	start_file();
	rig_open(&rig, &cfg, 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < N; i++) {
			fill(mem[i], 4096, i + round * N);
			request_set(&r[i], DISK_WRITE, (uint64_t)i * 4096, &iov[i], mem[i], 4096);
			r[i].result = 1;
			p[i] = &r[i];
		}
		rig.n_done = 0;
		rig.batch = p;
		rig.n_batch = N;
		worker_call_wait(rig.worker, rig_submit_batch, &rig);
		usleep(round * 200);
		nbd_server_stop(&server, SIGKILL);
		start_file();
		end = clock_ns() + UINT64_C(60000000000);
		while (__atomic_load_n(&rig.n_done, __ATOMIC_SEQ_CST) < N && clock_ns() < end)
			usleep(50);
		cr_assert_eq(rig.n_done, N);
		for (unsigned i = 0; i < N; i++) {
			cr_assert_eq(r[i].result, 0, "%d", r[i].result);
			cr_assert_eq(rig_rw(&rig, DISK_READ, (uint64_t)i * 4096, b, 4096), 0);
			cr_assert_arr_eq(b, mem[i], 4096);
		}
	}
	rig_close(&rig);
}

/* nbdkit's memory is gone with it: all that was not flushed has to be written again. */
Test(disk_nbd, what_a_dead_server_had_acknowledged_and_not_flushed_is_written_again)
{
	static uint8_t a[MIB], b[MIB], zero[64 * KIB];
	struct blk_config cfg = config();
	struct rig rig;

	NBD_SKIP_WITHOUT_NBDKIT();
	nbd_server_start(&server, NBD_ARGS("memory", "8M"));
	rig_open(&rig, &cfg, 0);
	fill(a, sizeof(a), 3);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 4096, a, sizeof(a)), 0);
	/* The later of two writes counts. */
	fill(a, 4096, 4);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 4096, a, 4096), 0);
	nbd_server_stop(&server, SIGKILL);
	nbd_server_start(&server, NBD_ARGS("memory", "8M"));
	cr_assert_eq(rig_rw(&rig, DISK_READ, 4096, b, sizeof(b)), 0);
	cr_assert_arr_eq(a, b, sizeof(a));

	/* And what was flushed is not. */
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	nbd_server_stop(&server, SIGKILL);
	nbd_server_start(&server, NBD_ARGS("memory", "8M"));
	cr_assert_eq(rig_rw(&rig, DISK_READ, 4096, b, sizeof(zero)), 0);
	cr_assert_arr_eq(b, zero, sizeof(zero));
	rig_close(&rig);
}

Test(disk_nbd, a_server_that_stays_away_fails_requests_and_may_come_back_later)
{
	struct blk_config cfg = config();
	static uint8_t a[4096];
	struct rig rig;

	NBD_SKIP_WITHOUT_NBDKIT();
	cfg.reconnect_s = 1;
	start_file();
	rig_open(&rig, &cfg, 0);
	nbd_server_stop(&server, SIGKILL);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, a, 4096), -ENOTCONN);
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), -ENOTCONN);
	start_file();
	for (unsigned i = 0; i < 1000 && rig_rw(&rig, DISK_READ, 0, a, 4096); i++)
		usleep(20000);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, a, 4096), 0);
	rig_close(&rig);
}

Test(disk_nbd, an_error_of_the_server_is_the_requests_and_nothing_else)
{
	struct blk_config cfg = config();
	static uint8_t a[4096];
	struct rig rig;

	NBD_SKIP_WITHOUT_NBDKIT();
	nbd_server_start(&server, NBD_ARGS("--filter=error", "file", image, "error-pread=ENOSPC",
					   "error-pread-rate=100%"));
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, a, 4096), -ENOSPC);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, a, 4096), 0);
	rig_close(&rig);
}

Test(disk_nbd, a_server_that_is_not_there_is_named_when_the_disk_is_opened)
{
	struct blk_config cfg = config();
	struct error err = { 0 };
	struct disk *d;

	cr_assert_eq(disk_kinds[DISK_NBD]->open(&cfg, &d, &err), -ENOENT);
	cr_assert(strstr(err.text, server.socket), "%s", err.text);
	EXPECT_NO_LEAK();
}

Test(disk_nbd, uris_that_are_wrong_say_what_is_wrong)
{
	static const struct {
		const char *uri, *says;
	} rows[] = {
		{ "http://host/", "is no NBD URI" },
		{ "nbd://", "names no host" },
		{ "nbd+unix:///x", "names no socket" },
		{ "nbd+unix://host/x?socket=/a", "a host" },
		{ "nbd://host/x?socket=/a", "not nbd+unix" },
		{ "nbd://host/%zz", "begins no escape" },
		{ "nbd://host/x?sockt=/a", "not known" },
		{ "nbd://[::1/x", "no ]" },
		{ "nbd://host:http/x", "is no port" },
		{ "nbd://host/x?tls-certificates=/a", "write nbds" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct blk_config cfg = { .name = "d", .kind = DISK_NBD, .nbd = rows[i].uri };
		struct error err = { 0 };
		struct disk *d;

		cr_assert_eq(disk_kinds[DISK_NBD]->open(&cfg, &d, &err), -EINVAL, "%s",
			     rows[i].uri);
		cr_assert(strstr(err.text, rows[i].says), "%s: %s", rows[i].uri, err.text);
	}
	EXPECT_NO_LEAK();
}
