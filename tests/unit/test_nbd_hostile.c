/* SPDX-License-Identifier: Apache-2.0 */
/* NBD servers that are silent, lie, or fail whatever they are asked. */
#include "blk/disk_nbd.h"
#include "tests/unit/nbd_liar.h"

#include <sys/resource.h>

#define ALL (LIAR_MEMORY)

static struct liar liar;

TestSuite(nbd_hostile, .timeout = 120);

static struct blk_config config(unsigned timeout_s)
{
	return (struct blk_config) { .name = "d",
				     .kind = DISK_NBD,
				     .nbd = liar.at.uri,
				     .reconnect_s = 60,
				     .timeout_s = timeout_s };
}

static bool eventually(bool (*is_so)(void *arg), void *arg)
{
	uint64_t end = clock_ns() + UINT64_C(60000000000);

	while (!is_so(arg) && clock_ns() < end)
		usleep(2000);
	return is_so(arg);
}

static bool is_away(void *arg)
{
	struct rig *rig = arg;
	struct nbd_disk *d = container_of(rig->disk, struct nbd_disk, disk);

	return __atomic_load_n(&d->away_ns, __ATOMIC_RELAXED) != 0;
}

static bool is_done(void *arg)
{
	struct rig *rig = arg;

	return __atomic_load_n(&rig->n_done, __ATOMIC_SEQ_CST) == rig->n_batch;
}

static bool has_a_write(void *arg)
{
	(void)arg;
	return LIAR_GET(&liar, commands[1]) == 1;
}

static void begin(struct rig *rig, struct disk_request **r)
{
	rig->n_done = 0;
	rig->batch = r;
	rig->n_batch = 1;
	(*r)->result = 1;
	worker_call_wait(rig->worker, rig_submit_batch, rig);
}

static int open_error(const struct blk_config *cfg, const char *says)
{
	struct error err = { 0 };
	struct disk *d;
	int rc = disk_kinds[DISK_NBD]->open(cfg, &d, &err);

	cr_assert_lt(rc, 0, "it opens");
	cr_assert(strstr(err.text, says), "%s", err.text);
	EXPECT_NO_LEAK();
	return rc;
}

/*
 * It has a write that it has not answered, and might do it later: no other connection is made
 * before it has ended this one. Then the write is sent again.
 */
Test(nbd_hostile, a_server_that_stops_answering_is_left_and_its_requests_are_sent_again)
{
	struct blk_config cfg;
	static uint8_t a[4096];
	struct disk_request r, *p = &r;
	struct iovec iov;
	char why[160];
	struct rig rig;

	liar_start(&liar, ALL, LIAR_FLUSH);
	cfg = config(1);
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, a, sizeof(a)), 0);
	LIAR_SET(&liar, answers, 0);
	fill(a, sizeof(a), 9);
	request_set(&r, DISK_WRITE, 0, &iov, a, sizeof(a));
	begin(&rig, &p);
	cr_assert(eventually(is_away, &rig));
	usleep(600000); /* two tries of a disk that would */
	cr_assert_eq(LIAR_GET(&liar, connections), 1);
	cr_assert_eq(rig.n_done, 0);
	cr_assert_gt(rig.disk->ops->away(rig.disk, why, sizeof(why)), 0);
	cr_assert(strstr(why, "has not answered for 1 s"), "%s", why);
	LIAR_SET(&liar, answers, UINT32_MAX);
	LIAR_SET(&liar, hang_up, 1);
	cr_assert(eventually(is_done, &rig));
	cr_assert_eq(r.result, 0);
	cr_assert_eq(LIAR_GET(&liar, connections), 2);
	cr_assert_eq(LIAR_GET(&liar, commands[1]), 2);
	cr_assert_arr_eq(liar.memory, a, sizeof(a));
	cr_assert_eq(rig.disk->ops->away(rig.disk, why, sizeof(why)), 0);
	rig_close(&rig);
	liar_stop(&liar);
}

Test(nbd_hostile, a_server_that_stays_silent_fails_requests_and_holds_up_no_end)
{
	struct blk_config cfg;
	static uint8_t a[4096];
	struct rig rig;

	liar_start(&liar, ALL, LIAR_FLUSH);
	LIAR_SET(&liar, answers, 0);
	cfg = config(1);
	cfg.reconnect_s = 1;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, a, sizeof(a)), -ENOTCONN);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, a, sizeof(a)), -ENOTCONN);
	rig_close(&rig);
	liar_stop(&liar);
}

static void cancel(void *arg)
{
	struct rig *rig = arg;

	rig->disk->ops->cancel(rig->queue, rig->batch[0]);
}

/* timeout: 0, which waits for ever. */
Test(nbd_hostile, a_queue_that_ends_does_not_wait_for_a_silent_server_for_ever)
{
	struct blk_config cfg;
	static uint8_t a[4096];
	struct disk_request r, *p = &r;
	struct iovec iov;
	struct rig rig;

	liar_start(&liar, ALL, LIAR_FLUSH);
	LIAR_SET(&liar, answers, 0);
	cfg = config(0);
	rig_open(&rig, &cfg, 0);
	request_set(&r, DISK_WRITE, 0, &iov, a, sizeof(a));
	begin(&rig, &p);
	/* Before it is sent, a write needs no answer to be given back. */
	cr_assert(eventually(has_a_write, NULL));
	worker_call_wait(rig.worker, cancel, &rig);
	cr_assert(eventually(is_done, &rig));
	cr_assert_eq(r.result, -ECANCELED);
	rig_close(&rig);
	liar_stop(&liar);
}

Test(nbd_hostile, a_server_that_does_not_greet_is_told_of_when_the_disk_is_opened)
{
	static const unsigned bytes[] = { 0, 7, 16, LIAR_HELLO - 1 };
	struct blk_config cfg;

	for (unsigned i = 0; i < ARRAY_SIZE(bytes); i++) {
		liar_start(&liar, ALL, 0);
		LIAR_SET(&liar, hello, bytes[i]);
		cfg = config(1);
		cr_assert_eq(open_error(&cfg, "does not answer"), -ETIMEDOUT);
		liar_stop(&liar);
	}
}

Test(nbd_hostile, an_export_that_no_guest_can_have_is_refused)
{
	static const struct {
		uint64_t size;
		uint32_t flags;
		const char *says;
	} rows[] = {
		{ 0, 0, "has 0 bytes" },
		{ 511, 0, "has 511 bytes" },
		{ ALL, LIAR_READ_ONLY, "say read_only: yes" },
		{ UINT64_MAX, 0, "" },
		{ UINT64_C(1) << 63, 0, "" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct blk_config cfg;

		liar_start(&liar, rows[i].size, rows[i].flags);
		cfg = config(5);
		open_error(&cfg, rows[i].says);
		liar_stop(&liar);
	}
}

Test(nbd_hostile, what_is_no_whole_sector_at_the_end_is_left_out)
{
	struct blk_config cfg;
	struct rig rig;

	liar_start(&liar, ALL - 1, 0);
	cfg = config(5);
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig.disk->info.size, ALL - 512);
	rig_close(&rig);
	liar_stop(&liar);
}

/* And is not asked to do it. */
Test(nbd_hostile, a_server_that_can_do_nothing_but_read_and_write_is_offered_as_that)
{
	struct blk_config cfg;
	static uint8_t a[4096];
	struct disk_request r;
	struct iovec iov;
	struct rig rig;

	liar_start(&liar, ALL, 0);
	cfg = config(5);
	rig_open(&rig, &cfg, 0);
	cr_assert_not(rig.disk->info.volatile_cache);
	cr_assert_eq(rig.disk->info.discard_max, 0);
	cr_assert_eq(rig.disk->info.zero_max, 0);
	request_set(&r, DISK_WRITE, 4096, &iov, a, sizeof(a));
	r.fua = true;
	cr_assert_eq(rig_run1(&rig, &r), 0);
	for (unsigned type = 2; type < 8; type++)
		cr_assert_eq(LIAR_GET(&liar, commands[type]), 0, "command %u", type);
	rig_close(&rig);
	liar_stop(&liar);
}

Test(nbd_hostile, each_error_of_each_request_is_the_requests_own)
{
	/* doc/proto.md, "Error values": they are Linux's, but for what none of those is. */
	static const struct {
		uint32_t error;
		int result;
	} rows[] = {
		{ 5, -EIO }, { 28, -ENOSPC }, { 1, -EPERM }, { 22, -EINVAL }, { 9999, -EINVAL }
	};
	static const enum disk_op ops[] = { DISK_READ, DISK_WRITE, DISK_FLUSH };
	struct blk_config cfg;
	static uint8_t a[4096];
	struct rig rig;

	liar_start(&liar, ALL, LIAR_FLUSH);
	cfg = config(5);
	rig_open(&rig, &cfg, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		for (unsigned j = 0; j < ARRAY_SIZE(ops); j++) {
			uint64_t len = ops[j] == DISK_FLUSH ? 0 : sizeof(a);

			LIAR_SET(&liar, error, rows[i].error);
			cr_assert_eq(rig_rw(&rig, ops[j], 0, a, len), rows[i].result);
			LIAR_SET(&liar, error, 0);
			cr_assert_eq(rig_rw(&rig, ops[j], 0, a, len), 0);
		}
	cr_assert_eq(LIAR_GET(&liar, connections), 1);
	rig_close(&rig);
	liar_stop(&liar);
}

static void *mend(void *arg)
{
	while (LIAR_GET(&liar, connections) < 3)
		usleep(2000);
	LIAR_SET(&liar, short_by, 0);
	LIAR_SET(&liar, wrong_cookie, 0);
	return arg;
}

/* Answers that break off, and answers to nothing: such a connection is of no use any more. */
Test(nbd_hostile, answers_that_are_none_end_the_connection_and_the_request_is_sent_again)
{
	static const uint32_t lacks[] = { 1, 4096, 5000 };
	struct blk_config cfg;
	static uint8_t a[4096], b[4096];
	pthread_t thread;
	struct rig rig;

	for (unsigned i = 0; i <= ARRAY_SIZE(lacks); i++) {
		liar_start(&liar, ALL, LIAR_FLUSH);
		fill(liar.memory, sizeof(b), i);
		fill(b, sizeof(b), i);
		cfg = config(5);
		rig_open(&rig, &cfg, 0);
		if (i < ARRAY_SIZE(lacks))
			LIAR_SET(&liar, short_by, lacks[i]);
		else
			LIAR_SET(&liar, wrong_cookie, 1);
		pthread_create(&thread, NULL, mend, NULL);
		cr_assert_eq(rig_rw(&rig, DISK_READ, 0, a, sizeof(a)), 0);
		cr_assert_arr_eq(a, b, sizeof(b));
		pthread_join(thread, NULL);
		rig_close(&rig);
		liar_stop(&liar);
	}
}

Test(nbd_hostile, a_server_that_comes_back_as_another_is_not_used)
{
	static const struct {
		uint64_t size;
		uint32_t flags;
	} rows[] = { { ALL / 2, LIAR_FLUSH }, { ALL, 0 }, { ALL, LIAR_FLUSH | LIAR_READ_ONLY } };
	struct blk_config cfg;
	static uint8_t a[4096];
	struct rig rig;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		liar_start(&liar, ALL, LIAR_FLUSH);
		cfg = config(5);
		cfg.reconnect_s = 1;
		rig_open(&rig, &cfg, 0);
		LIAR_SET(&liar, size, rows[i].size);
		LIAR_SET(&liar, flags, rows[i].flags);
		LIAR_SET(&liar, hang_up, 1);
		cr_assert(eventually(is_away, &rig));
		cr_assert_eq(rig_rw(&rig, DISK_WRITE, 0, a, sizeof(a)), -ENOTCONN);
		cr_assert_eq(LIAR_GET(&liar, commands[1]), 0);
		rig_close(&rig);
		liar_stop(&liar);
	}
}

static int write_page(struct rig *rig, uint8_t *mem, uint32_t seed, bool fua)
{
	struct disk_request r;
	struct iovec iov;

	fill(mem, 4096, seed);
	request_set(&r, DISK_WRITE, 0, &iov, mem, 4096);
	r.fua = fua;
	return rig_run1(rig, &r);
}

static bool is_back(void *arg)
{
	struct nbd_disk *d = container_of(((struct rig *)arg)->disk, struct nbd_disk, disk);

	return LIAR_GET(&liar, connections) == 2 &&
	       __atomic_load_n(&d->state, __ATOMIC_RELAXED) == NBD_UP;
}

/* What is written through is durable; the older write that no flush has covered is not. */
Test(nbd_hostile, what_is_done_again_undoes_no_later_write_that_was_written_through)
{
	struct blk_config cfg;
	static uint8_t a[4096];
	struct rig rig;

	liar_start(&liar, ALL, LIAR_FLUSH | LIAR_FUA);
	cfg = config(5);
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(write_page(&rig, a, 1, false), 0);
	cr_assert_eq(write_page(&rig, a, 2, true), 0);
	LIAR_SET(&liar, hang_up, 1);
	cr_assert(eventually(is_back, &rig));
	cr_assert_arr_eq(liar.memory, a, sizeof(a));
	cr_assert_eq(LIAR_GET(&liar, commands[1]), 4);
	rig_close(&rig);
	liar_stop(&liar);
}

static uint64_t logged(struct rig *rig)
{
	struct nbd_disk *d = container_of(rig->disk, struct nbd_disk, disk);

	return d->redo.head - d->redo.tail;
}

Test(nbd_hostile, what_is_written_through_is_logged_only_behind_what_is_not)
{
	struct blk_config cfg;
	static uint8_t a[4096];
	struct rig rig;

	liar_start(&liar, ALL, LIAR_FLUSH | LIAR_FUA);
	cfg = config(5);
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(write_page(&rig, a, 1, true), 0);
	cr_assert_eq(logged(&rig), 0);
	cr_assert_eq(write_page(&rig, a, 1, false), 0);
	cr_assert_eq(write_page(&rig, a, 1, true), 0);
	cr_assert_gt(logged(&rig), 2 * sizeof(a));
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(logged(&rig), 0);
	cr_assert_eq(write_page(&rig, a, 1, true), 0);
	cr_assert_eq(logged(&rig), 0);
	rig_close(&rig);
	liar_stop(&liar);
}

/* A flush that was sent before them covers what they had to stand behind, and so the log ends. */
Test(nbd_hostile, what_was_written_through_leaves_the_log_with_the_last_that_was_not)
{
	struct nbd_redo_entry e = { .len = 512, .op = DISK_WRITE };
	static const uint8_t data[512];
	struct nbd_redo log;
	uint64_t sent;

	cr_assert_eq(nbd_redo_open(&log), 0);
	for (unsigned round = 0; round < 3; round++) {
		cr_assert_not(nbd_redo_owes(&log));
		for (unsigned i = 0; i < 4; i++)
			cr_assert(nbd_redo_reserve(&log, DISK_WRITE, 512));
		e.fua = 0;
		nbd_redo_add(&log, &e, data);
		sent = log.head;
		nbd_redo_add(&log, &e, data);
		e.fua = 1;
		nbd_redo_add(&log, &e, data);
		nbd_redo_forget(&log, sent);
		cr_assert(nbd_redo_owes(&log));
		cr_assert_eq(log.tail, sent);
		sent = log.owed;
		nbd_redo_add(&log, &e, data);
		nbd_redo_forget(&log, sent);
		cr_assert_eq(log.tail, log.head);
	}
	nbd_redo_close(&log);
}

/* The end of the old connection cannot be seen: it is taken for there for a while. */
Test(nbd_hostile, a_server_that_was_silent_is_not_connected_at_once_for_lack_of_descriptors)
{
	struct rlimit limit, none;
	struct blk_config cfg;
	static uint8_t a[4096];
	struct disk_request r, *p = &r;
	struct iovec iov;
	struct rig rig;

	liar_start(&liar, ALL, LIAR_FLUSH);
	cfg = config(1);
	rig_open(&rig, &cfg, 0);
	LIAR_SET(&liar, answers, 0);
	request_set(&r, DISK_WRITE, 0, &iov, a, sizeof(a));
	begin(&rig, &p);
	cr_assert(eventually(has_a_write, NULL));
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = (rlim_t)dup(0); /* the lowest that is free */
	close((int)none.rlim_cur);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	cr_assert(eventually(is_away, &rig));
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	LIAR_SET(&liar, answers, UINT32_MAX);
	usleep(600000); /* two tries of a disk that would */
	cr_assert_eq(LIAR_GET(&liar, connections), 1);
	cr_assert(eventually(is_done, &rig));
	cr_assert_eq(r.result, 0);
	cr_assert_eq(LIAR_GET(&liar, connections), 2);
	rig_close(&rig);
	liar_stop(&liar);
}
