/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill -9 of sluiced under load, over and over. This program is the VMM and the guest: it keeps
 * memory, rings and the in-flight buffer, starts the daemon again, connects again, and resubmits
 * nothing itself. Each block of the disk carries a generation, and is written by one request at a
 * time. What must hold, whenever the daemon dies:
 *
 *	- every request comes back exactly once, and in order where IN_ORDER was negotiated
 *	  (the driver's ring checks that), and none is lost (nothing hangs);
 *	- what is read is what was acknowledged last: nothing is missing, and nothing old has been
 *	  written over it;
 *	- in the end the image holds exactly that.
 *
 * With --nbd the image is behind a qemu-nbd of ours, which lives on.
 *
 * Exit code 0: all of it held; 1: something did not, and a line says what.
 */
#include "tests/crash/crash.h"
#include "tests/guest/blk.h"
#include "tests/guest/frontend_inflight.h"

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096u
#define SECTOR 512u
#define OP_BLOCKS 4u /* the largest request */
#define QUEUES_MAX 4u
#define OPS_MAX 256u /* requests of a queue at a time */

/* At the head of each sector. */
struct stamp {
	uint64_t magic;
	uint32_t block, sector;
	uint64_t generation;
};
#define MAGIC UINT64_C(0x51e1ce00c4a54321)

struct op {
	struct op *next; /* free ones */
	uint32_t type;
	uint32_t block, n_blocks;
	uint64_t generation[OP_BLOCKS];
	uint8_t *data;
	uint64_t gpa;
};

struct block {
	uint64_t acked, last; /* generations: acknowledged, given out */
	unsigned readers;
	bool writing;
};

struct crash_options opt = { .folder = ".", .size = 64, .queues = 2, .rounds = 20, .blocks = 192 };

static struct frontend f;
static struct guest_memory memory;
static struct frontend_inflight inflight = { .fd = -1 };
static struct guest_blk blk[QUEUES_MAX];
static struct op ops[QUEUES_MAX][OPS_MAX], *free_ops[QUEUES_MAX];
static unsigned busy[QUEUES_MAX];
static struct block *blocks;
static bool rings_made;
static char nbd_uri[300];
static uint64_t setup_us = 40000; /* from its start to running queues, when it was last let */
static uint64_t n_acked, n_reads;

/* xorshift: the same sequence for the same seed. */
static uint64_t rnd(uint64_t below)
{
	static uint64_t x;

	if (!x)
		x = opt.seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x % below;
}

/* A step with it failed: because it is gone, or that is a fault. */
static bool or_gone(int rc, const char *what)
{
	if (rc >= 0)
		return true;
	for (unsigned ms = 0; !daemon_gone(); ms++) {
		if (ms > 10000)
			FAIL("%s: %s", what, f.error);
		usleep(1000);
	}
	return false;
}

/* The front-end. */

static void make_queue(unsigned q)
{
	struct frontend_queue_options o = { .size = opt.size,
					    .indirect = rnd(2) ? DRIVER_INDIRECT_LONG
							       : DRIVER_DIRECT,
					    .indirect_segs = 16,
					    .no_err_fd = false };

	if (frontend_queue_setup(&f, q, &o) < 0 || guest_blk_open(&blk[q], &f, q) < 0)
		FAIL("queue %u: %s", q, f.error);
	for (unsigned i = 0; i < OPS_MAX; i++) {
		struct op *op = &ops[q][i];

		op->data = guest_alloc(&memory, OP_BLOCKS * BLOCK, BLOCK, &op->gpa);
		if (!op->data)
			FAIL("guest memory is too small");
		op->next = free_ops[q];
		free_ops[q] = op;
	}
}

static bool talk(void)
{
	uint64_t features = VU_F_VERSION_1 | VU_F_INDIRECT | VU_F_EVENT_IDX |
			    UINT64_C(1) << VIRTIO_BLK_F_FLUSH | (opt.packed ? VU_F_PACKED : 0) |
			    (opt.in_order ? VU_F_IN_ORDER : 0);

	if (!or_gone(frontend_hello(&f, VU_PF_USUAL | VU_PF_INFLIGHT_SHMFD), "hello") ||
	    !or_gone(frontend_set_features(&f, features), "SET_FEATURES") ||
	    !or_gone(frontend_share_memory(&f, &memory), "memory"))
		return false;
	if (!(f.protocol & VU_PF_INFLIGHT_SHMFD) || (features & ~f.features))
		FAIL("sluiced does not offer what is to be tested: %llx",
		     (unsigned long long)(features & ~f.features));
	if (inflight.fd < 0 &&
	    !or_gone(frontend_get_inflight(&f, &inflight, opt.queues, opt.size), "GET_INFLIGHT"))
		return false;
	if (!or_gone(frontend_set_inflight(&f, &inflight), "SET_INFLIGHT_FD"))
		return false;
	for (unsigned q = 0; !rings_made && q < opt.queues; q++)
		make_queue(q);
	rings_made = true;
	for (unsigned q = 0; q < opt.queues; q++)
		if (!or_gone(frontend_queue_start(&f, q), "starting a queue"))
			return false;
	return true;
}

/* @return false: it was killed meanwhile. */
static bool attach(void)
{
	int rc;

	f.timeout_ms = 20;
	do {
		if (daemon_gone())
			return false;
		if (hangs())
			FAIL("sluiced opens no socket");
		rc = frontend_connect(&f, sock);
	} while (rc < 0);
	f.timeout_ms = 300000; /* its end is noticed at once */
	return talk();
}

/* The guest. */

static void stamp(struct op *op)
{
	for (unsigned b = 0; b < op->n_blocks; b++)
		for (unsigned s = 0; s < BLOCK / SECTOR; s++) {
			struct stamp st = { MAGIC, op->block + b, s, op->generation[b] };

			memcpy(op->data + b * BLOCK + s * SECTOR, &st, sizeof(st));
		}
}

static void check_block(const uint8_t *data, uint32_t block, const char *where)
{
	uint64_t want = blocks[block].acked;

	for (unsigned s = 0; s < BLOCK / SECTOR; s++) {
		struct stamp st;

		memcpy(&st, data + s * SECTOR, sizeof(st));
		if (want == 0 && st.magic == 0)
			continue;
		if (st.magic != MAGIC || st.block != block || st.sector != s ||
		    st.generation != want)
			FAIL("%s: block %u sector %u has generation %llu of block %u; %llu was "
			     "acknowledged",
			     where, block, s, (unsigned long long)st.generation, st.block,
			     (unsigned long long)want);
	}
}

static bool choose(struct op *op)
{
	unsigned kind = rnd(100);

	op->type = kind < 65   ? VIRTIO_BLK_T_OUT
		   : kind < 92 ? VIRTIO_BLK_T_IN
		   : kind < 96 ? VIRTIO_BLK_T_FLUSH
			       : VIRTIO_BLK_T_GET_ID;
	op->n_blocks = op->type == VIRTIO_BLK_T_OUT || op->type == VIRTIO_BLK_T_IN
			       ? 1 + rnd(OP_BLOCKS)
			       : 0;
	/* A few blocks are written over and over: that is where something old would show. */
	op->block = rnd(rnd(2) ? 16 : opt.blocks - OP_BLOCKS);
	for (unsigned b = 0; b < op->n_blocks; b++) {
		struct block *bl = &blocks[op->block + b];

		if (bl->writing || (op->type == VIRTIO_BLK_T_OUT && bl->readers))
			return false;
	}
	for (unsigned b = 0; b < op->n_blocks; b++) {
		struct block *bl = &blocks[op->block + b];

		if (op->type == VIRTIO_BLK_T_IN) {
			bl->readers++;
		} else {
			bl->writing = true;
			op->generation[b] = ++bl->last;
		}
	}
	return true;
}

static void release(struct op *op)
{
	for (unsigned b = 0; b < op->n_blocks; b++)
		if (op->type == VIRTIO_BLK_T_IN)
			blocks[op->block + b].readers--;
		else
			blocks[op->block + b].writing = false;
}

static bool submit_one(unsigned q)
{
	struct op *op = free_ops[q];
	struct driver_seg segs[OP_BLOCKS];
	unsigned n = 0;

	if (!op || !choose(op))
		return false;
	if (op->type == VIRTIO_BLK_T_OUT)
		stamp(op);
	if (op->type == VIRTIO_BLK_T_GET_ID)
		segs[n++] = (struct driver_seg) { op->gpa, VIRTIO_BLK_ID_BYTES };
	else if (op->n_blocks && rnd(2))
		segs[n++] = (struct driver_seg) { op->gpa, op->n_blocks * BLOCK };
	else
		for (unsigned b = 0; b < op->n_blocks; b++)
			segs[n++] = (struct driver_seg) { op->gpa + b * BLOCK, BLOCK };
	if (guest_blk_submit(&blk[q], op->type, (uint64_t)op->block * (BLOCK / SECTOR), segs, n,
			     op) < 0) {
		release(op); /* generations that were given out and not used are none the worse */
		return false;
	}
	free_ops[q] = op->next;
	busy[q]++;
	return true;
}

static void finish(unsigned q, const struct guest_blk_done *done)
{
	struct op *op = done->cookie;

	if (done->status != VIRTIO_BLK_S_OK)
		FAIL("queue %u: a request of type %u ended with status %u", q, op->type,
		     done->status);
	for (unsigned b = 0; b < op->n_blocks; b++) {
		if (op->type == VIRTIO_BLK_T_IN)
			check_block(op->data + b * BLOCK, op->block + b, "read");
		else
			blocks[op->block + b].acked = op->generation[b];
	}
	release(op);
	n_acked += op->type == VIRTIO_BLK_T_OUT;
	n_reads += op->type == VIRTIO_BLK_T_IN;
	op->next = free_ops[q];
	free_ops[q] = op;
	busy[q]--;
	last_progress = clock_ns();
}

static unsigned reap(unsigned q)
{
	struct guest_blk_done done;
	unsigned n = 0;
	int rc;

	while ((rc = guest_blk_poll(&blk[q], &done)) > 0) {
		finish(q, &done);
		n++;
	}
	if (rc < 0)
		FAIL("queue %u: %s", q, f.error);
	return n;
}

static unsigned in_flight(void)
{
	unsigned n = 0;

	for (unsigned q = 0; q < opt.queues; q++)
		n += busy[q];
	return n;
}

static void sleep_for_calls(void)
{
	struct pollfd p[QUEUES_MAX];
	uint64_t count;

	for (unsigned q = 0; q < opt.queues; q++) {
		p[q] = (struct pollfd) { .fd = f.queue[q].call_fd, .events = POLLIN };
		if (!driver_ring_calls_on(&f.queue[q].ring))
			return;
	}
	if (poll(p, opt.queues, 1) <= 0)
		return;
	for (unsigned q = 0; q < opt.queues; q++)
		if (p[q].revents && read(p[q].fd, &count, sizeof(count)) < 0)
			FAIL("call eventfd: %s", strerror(errno));
}

/* Load, until the daemon is gone; or, @submit false, until nothing is in flight any more. */
static void work(bool submit)
{
	unsigned depth = 1 + rnd(OPS_MAX);

	last_progress = clock_ns();
	while (submit || in_flight()) {
		unsigned n = 0;

		for (unsigned q = 0; q < opt.queues; q++) {
			for (unsigned i = 0; submit && i < 16 && busy[q] < depth; i++)
				n += submit_one(q);
			guest_blk_kick(&blk[q]);
			n += reap(q);
		}
		if (daemon_gone()) {
			if (!submit)
				FAIL("the daemon is gone though nobody killed it");
			return;
		}
		if (hangs())
			FAIL("%u requests hang", in_flight());
		if (n == 0)
			sleep_for_calls();
	}
}

static void round_of(unsigned i)
{
	uint64_t start = last_progress = clock_ns();

	/* A quarter of them while it is set up, the others while it works. */
	if (i % 4 == 0)
		daemon_kill_in_us(1000 + (unsigned)rnd(setup_us + 20000));
	daemon_start();
	if (!attach())
		return;
	if (i % 4) {
		setup_us = (clock_ns() - start) / 1000;
		/* A sanitizer makes it slower, and it is to do something in its life. */
		daemon_kill_in_us(200 + (unsigned)rnd(setup_us < 40000 ? 12000 : setup_us / 4));
	}
	if (i % 16 == 15) {
		/* And now and then an orderly end, which leaves nothing in flight. */
		daemon_kill_in_us(0);
		daemon_stop();
	}
	work(true);
}

static void last_look(void)
{
	uint8_t *data = aligned_alloc(BLOCK, BLOCK);
	int fd;

	daemon_kill_in_us(0);
	daemon_start();
	if (!attach())
		FAIL("the last start failed");
	work(false);
	for (uint32_t b = 0; b < opt.blocks; b++) {
		struct op *op = free_ops[0];

		if (guest_blk_do(&blk[0], VIRTIO_BLK_T_IN, (uint64_t)b * (BLOCK / SECTOR), op->gpa,
				 BLOCK) != VIRTIO_BLK_S_OK)
			FAIL("reading block %u: %s", b, f.error);
		check_block(op->data, b, "in the end");
	}
	frontend_close(&f);
	daemon_stop();
	or_gone(-1, "the daemon's end");
	fd = open(image, O_RDONLY);
	for (uint32_t b = 0; b < opt.blocks; b++) {
		if (pread(fd, data, BLOCK, (off_t)b * BLOCK) != BLOCK)
			FAIL("%s: block %u cannot be read", image, b);
		check_block(data, b, "in the image");
	}
	close(fd);
	free(data);
}

void daemon_arguments(const char **argv)
{
	static char queues[16];
	const char *cache = opt.buffered ? "writeback" : "none";
	const char *ours[] = { "blk", "--socket-path", sock, "--queues", queues };
	const char *file[] = { "--blk-file", image, "--cache", cache };
	const char *nbd[] = { "--nbd", nbd_uri, "--connections", "2" };
	const char *as_root[] = { "--user", "root", "--group", "root" };

	snprintf(queues, sizeof(queues), "%u", opt.queues);
	memcpy(argv, ours, sizeof(ours));
	argv += ARRAY_SIZE(ours);
	memcpy(argv, opt.nbd ? nbd : file, sizeof(file));
	argv += ARRAY_SIZE(file);
	if (geteuid() == 0)
		memcpy(argv, as_root, sizeof(as_root));
}

/* Its end comes with ours. */
static void nbd_start(void)
{
	char path[220];
	pid_t pid;

	snprintf(path, sizeof(path), "%s/crash-nbd.sock", opt.folder);
	snprintf(nbd_uri, sizeof(nbd_uri), "nbd+unix:///?socket=%s", path);
	unlink(path);
	pid = fork();
	if (pid < 0)
		FAIL("fork: %s", strerror(errno));
	if (pid == 0) {
		int fd = open(daemon_log, O_WRONLY | O_APPEND | O_CREAT, 0600);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fd, 2); /* it tells of each death */
		execlp("qemu-nbd", "qemu-nbd", "--persistent", "--shared=8", "--format=raw",
		       "--socket", path, image, (char *)NULL);
		_exit(127);
	}
	while (access(path, F_OK) < 0) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			FAIL("qemu-nbd did not start");
		usleep(10000);
	}
}

static void set_up(void)
{
	const struct guest_range ranges[] = { { 0, 24 << 20 } };
	int fd;

	snprintf(image, sizeof(image), "%s/crash.raw", opt.folder);
	snprintf(sock, sizeof(sock), "%s/crash.sock", opt.folder);
	snprintf(daemon_log, sizeof(daemon_log), "%s/crash.log", opt.folder);
	unlink(image);
	unlink(daemon_log);
	fd = open(image, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)opt.blocks * BLOCK) < 0)
		FAIL("%s: %s", image, strerror(errno));
	close(fd);
	blocks = calloc(opt.blocks, sizeof(*blocks));
	if (guest_memory_create(&memory, ranges, 1, 0) < 0)
		FAIL("no memory");
	frontend_init(&f);
	if (opt.nbd)
		nbd_start();
	daemon_init();
}

static void usage(void)
{
	fprintf(stderr,
		"usage: crash [--rounds N] [--size N] [--queues N] [--packed] [--in-order]\n"
		"             [--buffered | --nbd] [--seed N] [--folder DIR] SLUICED\n");
	exit(2);
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "rounds", 1, NULL, 'r' },   { "size", 1, NULL, 's' },
		{ "queues", 1, NULL, 'q' },   { "packed", 0, NULL, 'p' },
		{ "in-order", 0, NULL, 'o' }, { "buffered", 0, NULL, 'b' },
		{ "nbd", 0, NULL, 'n' },      { "seed", 1, NULL, 'S' },
		{ "folder", 1, NULL, 'f' },   { 0 }
	};
	int c;

	opt.seed = (unsigned)clock_ns();
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'r':
			opt.rounds = (unsigned)atoi(optarg);
			break;
		case 's':
			opt.size = (unsigned)atoi(optarg);
			break;
		case 'q':
			opt.queues = (unsigned)atoi(optarg);
			break;
		case 'S':
			opt.seed = (unsigned)atoi(optarg);
			break;
		case 'p':
			opt.packed = true;
			break;
		case 'o':
			opt.in_order = true;
			break;
		case 'b':
			opt.buffered = true;
			break;
		case 'n':
			opt.nbd = true;
			break;
		case 'f':
			opt.folder = optarg;
			break;
		default:
			usage();
		}
	}
	if (optind + 1 != argc || opt.queues == 0 || opt.queues > QUEUES_MAX || opt.size == 0)
		usage();
	opt.sluiced = argv[optind];
}

int main(int argc, char **argv)
{
	uint64_t again, waits;

	options(argc, argv);
	set_up();
	for (unsigned i = 0; i < opt.rounds; i++) {
		round_of(i);
		frontend_hang_up(&f);
		/* What was shown before the end may be taken before the next start, or after. */
		for (unsigned q = 0; rings_made && rnd(2) && q < opt.queues; q++)
			reap(q);
	}
	last_look();
	daemon_count_log(&again, &waits);
	printf("crash: %s%s%s, %u queues of %u, seed %u: %llu kills, %llu orderly ends, %llu "
	       "writes "
	       "and %llu reads acknowledged, %llu requests done again, %llu waits for the lock\n",
	       opt.packed ? "packed" : "split", opt.in_order ? ", in order" : "",
	       opt.buffered ? ", buffered"
	       : opt.nbd    ? ", by NBD"
			    : "",
	       opt.queues, opt.size, opt.seed, (unsigned long long)n_kills,
	       (unsigned long long)n_ends, (unsigned long long)n_acked, (unsigned long long)n_reads,
	       (unsigned long long)again, (unsigned long long)waits);
	return 0;
}
