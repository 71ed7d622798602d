/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench net: frames from the first socket's card to the second's, through whatever switches
 * between them; with one socket, frames that the back-end sends back to where they came from (as
 * dpdk-testpmd does with one port). One thread is both guests.
 *
 * By default no more frames are under way than the receiver has buffers for (a closed loop), so
 * that what is measured is what got through without loss. --rate sends at a rate, whatever comes
 * back (an open loop), --open as fast as the ring takes.
 */
#include "bench/net.h"

#include "base/clock.h"
#include "bench/bench.h"
#include "bench/interrupt.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG_USUAL 1000
#define COMMON_OPTIONS                                                                            \
	"ring no-indirect no-event-idx in-order queue-size queues time warmup timeout cpu sleep " \
	"hugepages regions listen progress json"

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: sluice-bench net SOCKET [SOCKET] [OPTION]...\n"
		"Frames from the first socket's card to the second's; with one, to itself.\n\n"
		"What is sent:\n"
		"  --size BYTES      of a frame, without its checksum: 60 (default) to 9014\n"
		"  --imix            7 : 4 : 1 frames of 60, 590 and 1514 bytes\n"
		"  --tso             TCP, 65549 bytes, to be cut where they leave for a wire\n"
		"  --mss BYTES       with --tso: of a piece (1448)\n"
		"  --flows N         of which addresses and ports differ (1)\n"
		"  --verify          look at every byte of what comes\n"
		"Which way, and how fast:\n"
		"  --both            the second card sends to the first, too\n"
		"  --send-only       nothing comes back: what the back-end takes counts\n"
		"  --latency         each frame answered: one at a time, --window N or at --rate\n"
		"  --window N        frames under way at most (as many as there are buffers)\n"
		"  --open            send as fast as the ring takes, whatever is lost\n"
		"  --rate PPS        frames a second, whatever comes back\n"
		"  --backlog N       with a rate: frames that wait for room in the ring (1000)\n"
		"  --search          the highest rate without loss (RFC 2544), below --rate\n"
		"  --loss PERCENT    that may be lost (0)\n"
		"  --resolution PERCENT, --trial MS   of the search (1, 1000)\n"
		"  --attempts N      trials that fail before a rate is too high (2)\n"
		"Buffers:\n"
		"  --no-mergeable    without VIRTIO_NET_F_MRG_RXBUF\n"
		"  --rx-buffer BYTES of a mergeable receive buffer (1526)\n"
		"  --segments N      descriptors of a frame that is sent (1; with --tso 17)\n"
		"Of every benchmark:\n");
	rig_print_options(to, COMMON_OPTIONS, 5);
}

static double percent(const char *text, const char *option)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text || *end || !(v >= 0 && v <= 100))
		errx(2, "%s %s: not a percentage from 0 to 100", option, text);
	return v;
}

/* Numbers of which 0 means that they were not given. */
struct given {
	unsigned size, segments, mss;
	const char *loss, *resolution;
	unsigned backlog;
};

/* What makes no sense together. */
static void check_options(const struct net_options *o, const struct given *g, unsigned n_sockets)
{
	const struct net_load *l = &o->load;

	if (n_sockets != 1 && n_sockets != 2)
		errx(2, "net takes one or two sockets; see sluice-bench net --help");
	if (o->both && (n_sockets == 1 || o->latency))
		errx(2, "--both takes two sockets, and no --latency");
	if (o->send_only &&
	    (n_sockets == 2 || o->latency || l->verify || o->search || l->window || l->open))
		errx(2, "--send-only takes one socket, and no --latency, --verify, --window, "
			"--open or --search: nothing comes back");
	if (l->imix && (o->card.tso || g->size))
		errx(2, "--imix has sizes of its own: leave --size and --tso out");
	if (g->mss && !o->card.tso)
		errx(2, "--mss is of frames that are to be cut: use --tso");
	if (o->search && (l->open || o->latency || l->window))
		errx(2, "--search sets the rate: leave --open, --window and --latency out");
	if ((g->resolution || o->trial_ms || o->attempts) && !o->search)
		errx(2, "--resolution, --trial and --attempts are of a search: use --search");
	if (g->backlog && !o->rate && !o->search)
		errx(2, "--backlog is of frames that are due: use --rate or --search");
	if (l->open && (o->rate || l->window || o->latency))
		errx(2, "--open knows no --rate, --window or --latency");
	if (o->card.tx_segs > o->rig.queue_size)
		errx(2, "--segments %u: the queue has %u descriptors", o->card.tx_segs,
		     o->rig.queue_size);
	if (o->rig.queues > CARD_PAIRS_MAX)
		errx(2, "--queues %u: more than %d", o->rig.queues, CARD_PAIRS_MAX);
	if (!o->card.mergeable && o->card.rx_bytes)
		errx(2, "--rx-buffer is of mergeable buffers: leave --no-mergeable out");
}

/* What follows from what was given. */
static void set_defaults(struct net_options *o, const struct given *g)
{
	struct net_load *l = &o->load;

	l->tcp = o->card.tso;
	l->mss = !l->tcp ? 0 : g->mss ? g->mss : 1448;
	l->size = g->size ? g->size : l->tcp ? FRAME_TSO_MAX : l->imix ? FRAME_USUAL : FRAME_MIN;
	if (l->tcp && l->size < TCP_HEAD + sizeof(struct stamp))
		errx(2, "--size %u: with --tso, frames have %zu bytes or more", l->size,
		     TCP_HEAD + sizeof(struct stamp));
	if (!l->tcp && l->size > FRAME_JUMBO)
		errx(2, "--size %u: more than %d takes --tso", l->size, FRAME_JUMBO);
	o->card.frame_max = l->size;
	/* Linux sends 64 KiB as header and 16 pages. */
	o->card.tx_segs = g->segments ? g->segments : l->tcp ? MIN(17u, o->rig.queue_size) : 1;
	o->rig.indirect_segs = MAX(o->rig.indirect_segs, o->card.tx_segs);
	o->loss = g->loss ? percent(g->loss, "--loss") : 0;
	o->resolution = g->resolution ? percent(g->resolution, "--resolution") : 1;
	if (o->resolution < 0.01)
		errx(2, "--resolution %s: at least 0.01 percent", g->resolution);
	if (o->latency && !o->rate && !l->window)
		l->window = 1;
	l->rate = o->rate;
	l->backlog = g->backlog ? g->backlog : BACKLOG_USUAL;
}

static unsigned parse(int argc, char **argv, struct net_options *o)
{
	struct given g = { 0 };
	const struct rig_option own[] = {
		{ "size", RIG_NUMBER, &g.size, FRAME_MIN, FRAME_TSO_MAX },
		{ "imix", RIG_FLAG, &o->load.imix, 0, 0 },
		{ "tso", RIG_FLAG, &o->card.tso, 0, 0 },
		{ "mss", RIG_NUMBER, &g.mss, 48, 65495 },
		{ "flows", RIG_NUMBER, &o->load.flows, 1, FLOWS_MAX },
		{ "verify", RIG_FLAG, &o->load.verify, 0, 0 },
		{ "both", RIG_FLAG, &o->both, 0, 0 },
		{ "send-only", RIG_FLAG, &o->send_only, 0, 0 },
		{ "latency", RIG_FLAG, &o->latency, 0, 0 },
		{ "window", RIG_NUMBER, &o->load.window, 1, 32768 },
		{ "open", RIG_FLAG, &o->load.open, 0, 0 },
		{ "rate", RIG_RATE, &o->rate, 1, 1000000000 },
		{ "backlog", RIG_NUMBER, &g.backlog, 1, 100000000 },
		{ "search", RIG_FLAG, &o->search, 0, 0 },
		{ "loss", RIG_TEXT, &g.loss, 0, 0 },
		{ "resolution", RIG_TEXT, &g.resolution, 0, 0 },
		{ "trial", RIG_NUMBER, &o->trial_ms, 10, 3600000 },
		{ "attempts", RIG_NUMBER, &o->attempts, 1, 1000 },
		{ "no-mergeable", RIG_NO_FLAG, &o->card.mergeable, 0, 0 },
		{ "rx-buffer", RIG_NUMBER, &o->card.rx_bytes, CARD_RX_MIN, CARD_RX_TSO_MAX },
		{ "segments", RIG_NUMBER, &g.segments, 1, CARD_TX_SEGS_MAX },
	};
	int at;

	o->rig.time_s = 0;
	at = rig_parse(argc, argv, &o->rig,
		       &(struct rig_command) { own, ARRAY_SIZE(own), COMMON_OPTIONS, usage });
	if (o->search && o->rig.time_s)
		warnx("--time %u: a search takes as long as its trials do, of --trial MS each",
		      o->rig.time_s);
	if (!o->rig.time_s)
		o->rig.time_s = 5;
	set_defaults(o, &g);
	check_options(o, &g, (unsigned)(argc - at));
	if (!o->card.rx_bytes)
		o->card.rx_bytes = CARD_RX_USUAL;
	if (!o->trial_ms)
		o->trial_ms = 1000;
	if (!o->attempts)
		o->attempts = 2;
	return (unsigned)at;
}

void net_run(struct net_bench *b, uint64_t us)
{
	double steal = rig_steal_seconds();

	run(&b->run, us);
	b->steal = rig_spent(steal, rig_steal_seconds());
}

static void add_stream(struct net_bench *b, struct card *from, struct card *to)
{
	struct stream *s = &b->streams[b->n_streams];

	stream_init(s, &b->opt.load, from, to, b->n_streams);
	b->run.stream[b->n_streams++] = s;
}

static void open_all(struct net_bench *b, char **sockets, unsigned n)
{
	const struct net_options *o = &b->opt;
	struct card *first = b->cards[0], *last;

	for (; b->n_cards < n; b->n_cards++)
		card_open(b->cards[b->n_cards], &o->rig, sockets[b->n_cards], &o->card);
	last = b->cards[n - 1];
	add_stream(b, first, o->send_only ? NULL : last);
	if (n == 1)
		return;
	if (o->both || o->latency)
		add_stream(b, last, first);
	if (o->latency)
		b->streams[0].answer = &b->streams[1];
	for (unsigned i = 0; i < b->n_streams; i++)
		stream_hello(&b->streams[i], o->rig.timeout_ms);
}

/* Says what was wrong with what came. @return the exit code. */
static int verdict(const struct net_bench *b)
{
	struct net_totals t;
	int code = 0;

	net_totals(b, &t);
	if (!b->opt.send_only && t.received == 0 && !interrupted()) {
		warnx("%s",
		      b->n_cards > 1
			      ? "no frame came through; are both cards on one network?"
			      : "no frame came back; does the back-end send frames back to where "
				"they came from? Say a second socket, or --send-only, else");
		code = 1;
	}
	if (!b->opt.load.open && net_is_too_many(b, t.lost, &t)) {
		warnx("%llu of %llu frames were lost", (unsigned long long)t.lost,
		      (unsigned long long)t.meant);
		code = 1;
	}
	if (net_is_too_many(b, t.driver_late, &t)) {
		warnx("this driver was not fast enough for %llu of %llu frames, and did not send "
		      "them: use a lower --rate, or more --backlog",
		      (unsigned long long)t.driver_late, (unsigned long long)t.meant);
		code = 1;
	}
	if (t.reordered || t.duplicated) {
		warnx("%llu frames came out of order, %llu twice", (unsigned long long)t.reordered,
		      (unsigned long long)t.duplicated);
		code = 1;
	}
	for (unsigned i = 0; i < b->n_streams; i++)
		if (b->streams[i].ever_corrupt) {
			warnx("%llu frames were corrupt%s; the first: %s",
			      (unsigned long long)b->streams[i].ever_corrupt,
			      b->streams[i].ever_corrupt > b->streams[i].n.corrupt
				      ? ", of all that were sent before, too"
				      : "",
			      b->streams[i].wrong);
			code = 1;
		}
	return code;
}

int bench_net(int argc, char **argv)
{
	static struct net_bench b = { .opt = { .rig = RIG_OPTIONS_DEFAULT,
					       .load = { .flows = 1 },
					       .card = { .mergeable = true } } };
	unsigned at = parse(argc, argv, &b.opt);
	struct search search = { 0 };
	int code;

	rig_pin(b.opt.rig.cpu);
	clock_cycles_per_us();
	open_all(&b, argv + at, (unsigned)argc - at);
	b.run.timeout_ms = b.opt.rig.timeout_ms;
	b.run.sleep = b.opt.rig.sleep;
	interrupt_defer();
	if (b.opt.rig.warmup_s)
		run(&b.run, (uint64_t)b.opt.rig.warmup_s * 1000000);
	interrupt_leave_if_early(true);
	b.run.progress = (b.opt.rig.progress || isatty(STDERR_FILENO)) && !b.opt.search;
	if (b.opt.search)
		net_search(&b, &search);
	else
		net_run(&b, (uint64_t)b.opt.rig.time_s * 1000000);
	net_report(&b, b.opt.search ? &search : NULL);
	code = verdict(&b);
	if (b.opt.search && search.rate <= 0 && !interrupted()) {
		warnx("no rate was found at which so little is lost; see --loss and --resolution");
		code = 1;
	}
	for (unsigned i = 0; i < b.n_streams; i++)
		stream_fini(&b.streams[i]);
	for (unsigned i = 0; i < b.n_cards; i++)
		card_close(b.cards[i]);
	return interrupt_exit_code(code);
}
