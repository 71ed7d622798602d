/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill -9 of sluiced under traffic, over and over. This program is two VMMs and two guests, with a
 * card each, who send each other numbered frames; it keeps memory, rings and in-flight buffers,
 * starts the daemon again and connects again, and tells it no place that it would know from the
 * last one. What must hold, whenever the daemon dies:
 *
 *	- no buffer is lost and none comes back twice, of a frame in several all or none, in order
 *	  (the driver's rings check that), and nothing hangs: time and again all that was sent has
 *	  to be back, and in the end each receive buffer is filled once more;
 *	- a frame that arrives is one that was sent, whole, and later than those before it; only
 *	  behind a kill one burst may come a second time.
 *
 * Exit code 0: all of it held; 1: something did not, and a line says what.
 */
#include "tests/crash/crash.h"
#include "tests/guest/frontend_inflight.h"
#include "tests/guest/net.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FRAME_MAX 1514u
#define FRAME_MIN 60u
#define RX_SMALL 300u /* with MRG_RXBUF: a frame takes several */
#define BURST 32u     /* frames that a poll takes at most */

struct card {
	char sock[200];
	struct frontend f;
	struct guest_memory memory;
	struct frontend_inflight inflight;
	struct guest_net net;
	bool made;
	uint8_t mac[6];
	struct card *peer;
	uint32_t sent, seen; /* numbers: of the next frame to send, of the next one to come */
	bool behind_a_kill;  /* nothing has come in this life of the daemon */
};

struct crash_options opt = { .folder = ".", .size = 64, .queues = 2, .rounds = 20 };

static struct card cards[2];
static char config[200];
static uint64_t setup_us = 40000; /* from its start to running queues, when it was last let */
static uint64_t n_received, n_lost, n_twice;

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
static bool or_gone(const struct card *c, int rc, const char *what)
{
	if (rc >= 0)
		return true;
	for (unsigned ms = 0; !daemon_gone(); ms++) {
		if (ms > 10000)
			FAIL("%s: %s", what, c->f.error);
		usleep(1000);
	}
	return false;
}

/* The front-ends. */

static void make_card(struct card *c)
{
	struct frontend_queue_options o = { .size = opt.size,
					    .indirect = rnd(2) ? DRIVER_INDIRECT_LONG
							       : DRIVER_DIRECT,
					    .indirect_segs = 16 };
	struct guest_net_options n = { .mergeable = opt.mergeable,
				       .rx_bytes = opt.mergeable ? RX_SMALL : 0,
				       .rx_segs = opt.size > 16 ? 1 + (unsigned)rnd(2) : 1,
				       .tx_bytes = FRAME_MAX,
				       .tx_segs = opt.size > 16 ? (unsigned)rnd(3) : 0 };

	for (unsigned q = 0; q < 2; q++)
		if (frontend_queue_setup(&c->f, q, &o) < 0)
			FAIL("queue %u: %s", q, c->f.error);
	if (guest_net_open(&c->net, &c->f, 0, &n) < 0)
		FAIL("a card: %s", c->f.error);
	c->made = true;
}

static bool talk(struct card *c)
{
	uint64_t features = VU_F_VERSION_1 | VU_F_INDIRECT | VU_F_EVENT_IDX |
			    (opt.packed ? VU_F_PACKED : 0) | (opt.in_order ? VU_F_IN_ORDER : 0) |
			    (opt.mergeable ? UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF : 0);

	if (!or_gone(c, frontend_hello(&c->f, VU_PF_USUAL | VU_PF_INFLIGHT_SHMFD), "hello") ||
	    !or_gone(c, frontend_set_features(&c->f, features), "SET_FEATURES") ||
	    !or_gone(c, frontend_share_memory(&c->f, &c->memory), "memory"))
		return false;
	if (!(c->f.protocol & VU_PF_INFLIGHT_SHMFD) || (features & ~c->f.features))
		FAIL("sluiced does not offer what is to be tested: %llx",
		     (unsigned long long)(features & ~c->f.features));
	if (c->inflight.fd < 0 &&
	    !or_gone(c, frontend_get_inflight(&c->f, &c->inflight, 2, (uint16_t)opt.size),
		     "GET_INFLIGHT_FD"))
		return false;
	if (!or_gone(c, frontend_set_inflight(&c->f, &c->inflight), "SET_INFLIGHT_FD"))
		return false;
	if (!c->made)
		make_card(c);
	for (unsigned q = 0; q < 2; q++)
		if (!or_gone(c, frontend_queue_start(&c->f, q), "starting a queue"))
			return false;
	return true;
}

/* @return false: it was killed meanwhile. */
static bool attach(struct card *c)
{
	int rc;

	c->f.timeout_ms = 20;
	do {
		if (daemon_gone())
			return false;
		if (hangs())
			FAIL("sluiced opens no socket");
		rc = frontend_connect(&c->f, c->sock);
	} while (rc < 0);
	c->f.timeout_ms = 300000; /* its end is noticed at once */
	c->behind_a_kill = true;
	return talk(c);
}

/* The guests. */

static uint8_t pattern(uint32_t number, unsigned at)
{
	return (uint8_t)(number * 31 + at * 7);
}

static bool send_one(struct card *c, unsigned len)
{
	uint8_t frame[FRAME_MAX];

	memcpy(frame, c->peer->mac, 6);
	memcpy(frame + 6, c->mac, 6);
	frame[12] = 0x88;
	frame[13] = 0xb5;
	memcpy(frame + 14, &c->sent, sizeof(c->sent));
	for (unsigned i = 18; i < len; i++)
		frame[i] = pattern(c->sent, i);
	if (guest_net_add(&c->net, NULL, frame, len) < 0)
		return false;
	c->sent++;
	return true;
}

static void check_frame(struct card *c, const uint8_t *frame, unsigned len)
{
	uint32_t number;

	memcpy(&number, frame + 14, sizeof(number));
	for (unsigned i = 18; i < len; i++)
		if (frame[i] != pattern(number, i))
			FAIL("frame %u of %u bytes: byte %u is wrong", number, len, i);
	if (len < FRAME_MIN || memcmp(frame, c->mac, 6) != 0 || number >= c->peer->sent)
		FAIL("a frame of %u bytes with number %u, which was not sent", len, number);
	if (number < c->seen) {
		if (!c->behind_a_kill || c->seen - number > BURST)
			FAIL("frame %u came after frame %u", number, c->seen - 1);
		n_twice += c->seen - number;
		n_received -= c->seen - number;
	} else {
		n_lost += number - c->seen;
	}
	c->behind_a_kill = false;
	c->seen = number + 1;
	n_received++;
	last_progress = clock_ns();
}

static unsigned receive(struct card *c)
{
	uint8_t frame[FRAME_MAX];
	unsigned n = 0;
	int len;

	while ((len = guest_net_recv(&c->net, NULL, frame, sizeof(frame))) > 0) {
		check_frame(c, frame, (unsigned)len);
		n++;
	}
	if (len < 0)
		FAIL("receive queue: %s", c->f.error);
	return n;
}

static unsigned reap(struct card *c)
{
	int n = guest_net_reap(&c->net);

	if (n < 0)
		FAIL("transmit queue: %s", c->f.error);
	if (n > 0)
		last_progress = clock_ns();
	return (unsigned)n;
}

static unsigned transmit(struct card *c)
{
	unsigned n = 0, most = (unsigned)rnd(BURST);

	while (n < most && send_one(c, FRAME_MIN + (unsigned)rnd(FRAME_MAX - FRAME_MIN + 1)))
		n++;
	guest_net_kick(&c->net);
	return n;
}

/* @return false: it was killed meanwhile. */
static bool still_there(void)
{
	if (daemon_gone())
		return false;
	if (hangs())
		FAIL("nothing comes back any more: %u and %u buffers are out",
		     cards[0].net.n_tx - cards[0].net.n_tx_free,
		     cards[1].net.n_tx - cards[1].net.n_tx_free);
	return true;
}

/* Load, until the daemon is gone. */
static void work(void)
{
	last_progress = clock_ns();
	while (still_there())
		for (unsigned i = 0; i < 2; i++) {
			struct card *c = &cards[i];

			reap(c);
			receive(c);
			if (rnd(8))
				guest_net_fill(&c->net);
			transmit(c);
		}
}

/* Nobody kills it: all that was sent comes back, and frames arrive at either. */
static void all_is_well(void)
{
	uint32_t seen[2] = { cards[0].peer->sent, cards[1].peer->sent };
	unsigned done = 0;

	for (last_progress = clock_ns(); done < 2;) {
		done = 0;
		for (unsigned i = 0; i < 2; i++) {
			struct card *c = &cards[i];
			bool arrived;

			guest_net_fill(&c->net);
			receive(c);
			reap(c);
			arrived = c->seen > seen[i];
			if (!arrived && c->peer->net.n_tx_free == c->peer->net.n_tx)
				send_one(c->peer, FRAME_MIN);
			guest_net_kick(&c->peer->net);
			done += arrived && c->net.n_tx_free == c->net.n_tx;
		}
		if (!still_there())
			FAIL("the daemon is gone though nobody killed it");
	}
}

static void round_of(unsigned i)
{
	uint64_t start = last_progress = clock_ns();

	/* A quarter of them while it is set up, the others while it works. */
	if (i % 4 == 0)
		daemon_kill_in_us(1000 + (unsigned)rnd(setup_us + 20000));
	daemon_start();
	if (!attach(&cards[0]) || !attach(&cards[1]))
		return;
	if (i % 4) {
		setup_us = (clock_ns() - start) / 1000;
		if (i % 8 == 1)
			all_is_well();
		/* A sanitizer makes it slower, and it is to do something in its life. */
		daemon_kill_in_us(200 + (unsigned)rnd(setup_us < 40000 ? 12000 : setup_us / 4));
	}
	if (i % 16 == 15) {
		daemon_kill_in_us(0);
		daemon_stop();
	}
	work();
}

/* One frame for each buffer, none of which is given again: were one lost, one frame would be. */
static void count_buffers(struct card *c)
{
	unsigned all, n;

	guest_net_fill(&c->net);
	all = c->net.n_rx - c->net.n_rx_free;
	for (unsigned i = 0; i < 2 * all; i++) {
		if (!send_one(c->peer, FRAME_MIN))
			FAIL("no room to send");
		guest_net_kick(&c->peer->net);
		if (guest_net_drain(&c->peer->net) < 0)
			FAIL("a frame does not come back: %s", c->peer->f.error);
	}
	n = receive(c);
	if (n != all)
		FAIL("%u receive buffers were given, and %u are there", all, n);
}

static void last_look(void)
{
	daemon_kill_in_us(0);
	daemon_start();
	if (!attach(&cards[0]) || !attach(&cards[1]))
		FAIL("the last start failed");
	all_is_well();
	for (unsigned i = 0; i < 2; i++)
		count_buffers(&cards[i]);
	for (unsigned i = 0; i < 2; i++)
		frontend_close(&cards[i].f);
	daemon_stop();
	or_gone(&cards[0], -1, "the daemon's end");
}

void daemon_arguments(const char **argv)
{
	argv[0] = "--config";
	argv[1] = config;
}

static void write_config(void)
{
	FILE *out = fopen(config, "w");

	if (!out)
		FAIL("%s: %s", config, strerror(errno));
	fprintf(out, "control: { socket: %s/crash.control }\nworkers: { count: %u }\n", opt.folder,
		opt.queues);
	if (geteuid() == 0)
		fprintf(out, "user: root\n");
	fprintf(out, "networks:\n  - name: lan\n    ports:\n");
	for (unsigned i = 0; i < 2; i++)
		fprintf(out, "      - { name: card%u, socket: %s }\n", i, cards[i].sock);
	fclose(out);
}

static void set_up(void)
{
	const struct guest_range ranges[] = { { 0, 16 << 20 } };

	snprintf(config, sizeof(config), "%s/crash.yaml", opt.folder);
	snprintf(daemon_log, sizeof(daemon_log), "%s/crash.log", opt.folder);
	unlink(daemon_log);
	for (unsigned i = 0; i < 2; i++) {
		struct card *c = &cards[i];

		snprintf(c->sock, sizeof(c->sock), "%s/crash%u.sock", opt.folder, i);
		memcpy(c->mac, (uint8_t[]) { 0x52, 0x54, 0, 0, 0, (uint8_t)(i + 1) }, 6);
		c->peer = &cards[!i];
		c->inflight.fd = -1;
		if (guest_memory_create(&c->memory, ranges, 1, 0) < 0)
			FAIL("no memory");
		frontend_init(&c->f);
	}
	write_config();
	daemon_init();
}

static void usage(void)
{
	fprintf(stderr, "usage: crash-net [--rounds N] [--size N] [--workers N] [--packed] "
			"[--in-order]\n"
			"                 [--mergeable] [--seed N] [--folder DIR] SLUICED\n");
	exit(2);
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = { { "rounds", 1, NULL, 'r' },
					       { "size", 1, NULL, 's' },
					       { "workers", 1, NULL, 'w' },
					       { "packed", 0, NULL, 'p' },
					       { "in-order", 0, NULL, 'o' },
					       { "mergeable", 0, NULL, 'm' },
					       { "seed", 1, NULL, 'S' },
					       { "folder", 1, NULL, 'f' },
					       { 0 } };
	unsigned *number = NULL;
	int c;

	opt.seed = (unsigned)clock_ns();
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		number = c == 'r'   ? &opt.rounds
			 : c == 's' ? &opt.size
			 : c == 'w' ? &opt.queues
			 : c == 'S' ? &opt.seed
				    : NULL;
		if (number)
			*number = (unsigned)atoi(optarg);
		else if (c == 'f')
			opt.folder = optarg;
		else if (c == '?')
			usage();
		opt.packed = opt.packed || c == 'p';
		opt.in_order = opt.in_order || c == 'o';
		opt.mergeable = opt.mergeable || c == 'm';
	}
	if (optind + 1 != argc || opt.queues == 0 || opt.size == 0)
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
		for (unsigned k = 0; k < 2; k++) {
			frontend_hang_up(&cards[k].f);
			/* What was shown may be taken before the next start, or after. */
			if (cards[k].made && rnd(2)) {
				reap(&cards[k]);
				receive(&cards[k]);
			}
		}
	}
	last_look();
	daemon_count_log(&again, &waits);
	printf("crash-net: %s%s%s, rings of %u, %u workers, seed %u: %llu kills, %llu orderly "
	       "ends, %llu frames received, %llu lost, %llu came twice\n",
	       opt.packed ? "packed" : "split", opt.in_order ? ", in order" : "",
	       opt.mergeable ? ", mergeable" : "", opt.size, opt.queues, opt.seed,
	       (unsigned long long)n_kills, (unsigned long long)n_ends,
	       (unsigned long long)n_received, (unsigned long long)n_lost,
	       (unsigned long long)n_twice);
	return 0;
}
