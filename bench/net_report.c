/* SPDX-License-Identifier: Apache-2.0 */
/* What sluice-bench net prints: text for people, or one JSON object. */
#include "base/clock.h"
#include "bench/interrupt.h"
#include "bench/net.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>

#define ULL(x) ((unsigned long long)(x))

static const char *way(const struct net_bench *b)
{
	if (b->n_cards == 1 && b->opt.load.window == 1)
		return "sent back, one at a time";
	if (b->opt.latency && b->n_cards > 1)
		return "request and answer";
	return b->opt.send_only	 ? "sent only"
	       : b->opt.both	 ? "both ways"
	       : b->n_cards == 1 ? "sent back"
				 : "one way";
}

static const char *name_of_size(const struct net_bench *b, char *text, size_t room)
{
	if (b->opt.load.imix)
		return "IMIX";
	snprintf(text, room, "%u bytes", b->opt.load.size);
	return text;
}

static uint64_t notes(const struct net_bench *b, bool calls)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < b->n_cards; i++)
		for (unsigned ring = 0; ring < 2 * b->opt.rig.queues; ring++) {
			const struct frontend_queue *q = &b->cards[i]->rig->frontend.queue[ring];

			n += calls ? q->calls : q->kicks;
		}
	return n;
}

static double per_million(const struct net_bench *b, const struct net_totals *t)
{
	return b->run.cpu < 0 || !t->in_time ? -1 : b->run.cpu / (double)t->in_time * 1e6;
}

/* Cycles of the back-end's for a frame: of the TSC, which need not be those of its CPU. */
static double cycles_per_frame(double cpu_per_million)
{
	return cpu_per_million < 0 ? -1 : cpu_per_million * (double)clock_cycles_per_us();
}

static void print_ring(const struct net_bench *b)
{
	if (b->opt.rig.queues > 1)
		printf("pairs          %u\n", b->opt.rig.queues);
	rig_print_ring(b->cards[0]->tx, &b->opt.rig);
	printf("%s, %u descriptor%s a frame\n", b->cards[0]->mergeable ? ", mergeable" : "",
	       b->cards[0]->tx_segs, b->cards[0]->tx_segs == 1 ? "" : "s");
}

static void print_latencies(const struct net_bench *b)
{
	static struct histogram all;
	bool json = b->opt.rig.json;

	if (b->opt.send_only)
		return;
	if (!b->opt.latency || b->n_streams == 1) {
		for (unsigned i = 0; i < b->n_streams; i++)
			histogram_merge(&all, &b->streams[i].n.latency);
		rig_print_latency(&all, json);
		return;
	}
	if (!json) {
		printf("one hop, us    ");
		rig_print_histogram(&b->streams[0].n.latency, false);
		printf("round trip, us ");
		rig_print_histogram(&b->streams[1].n.latency, false);
		return;
	}
	rig_print_latency(&b->streams[0].n.latency, true);
	printf(", \"round_trip_us\": ");
	rig_print_histogram(&b->streams[1].n.latency, true);
}

static void print_text(const struct net_bench *b, const struct net_totals *t,
		       const struct search *s)
{
	double million = per_million(b, t);
	char size[32];

	printf("frames         %s, %s, %u flow%s\n", name_of_size(b, size, sizeof(size)), way(b),
	       b->opt.load.flows, b->opt.load.flows == 1 ? "" : "s");
	print_ring(b);
	printf("sent           %llu, received %llu\n"
	       "wrong          lost %llu, out of order %llu, twice %llu, corrupt %llu\n",
	       ULL(t->sent), ULL(t->received), ULL(t->lost), ULL(t->reordered), ULL(t->duplicated),
	       ULL(t->corrupt));
	if (t->foreign)
		printf("others' frames %llu\n", ULL(t->foreign));
	if (t->driver_late)
		printf("driver         not fast enough for %llu frames\n", ULL(t->driver_late));
	if (s)
		printf("highest rate   %.0f a second with no more than %g %% lost (%u trials of %u "
		       "ms; the limit was %s)\n",
		       s->rate, b->opt.loss, s->trials, b->opt.trial_ms, s->limit);
	printf("rate           %.*f a second, %.3f Gbit/s\n", t->rate < 1000 ? 1 : 0, t->rate,
	       t->gbit_s);
	print_latencies(b);
	printf("kicks          %llu, calls that woke the driver %llu\n", ULL(notes(b, false)),
	       ULL(notes(b, true)));
	if (million >= 0)
		printf("back-end CPU   %.2f s, %.3f s per million frames, %.0f cycles a frame\n",
		       b->run.cpu, million, cycles_per_frame(million));
	rig_print_steal(b->steal);
	interrupt_report(false);
}

static bool is_open_loop(const struct net_bench *b)
{
	return b->opt.rate || b->opt.load.open || b->opt.search;
}

/* Who sends only is held up by its ring alone. */
static unsigned window(const struct net_bench *b)
{
	return b->opt.send_only ? b->cards[0]->n_tx : b->streams[0].window;
}

static void print_json(const struct net_bench *b, const struct net_totals *t,
		       const struct search *s)
{
	const struct net_options *o = &b->opt;
	double million = per_million(b, t);

	printf("{ \"kind\": \"net\", \"way\": \"%s\", \"size\": ", way(b));
	if (o->load.imix)
		printf("null");
	else
		printf("%u", o->load.size);
	printf(", \"imix\": %s, \"tso\": %s, \"flows\": %u, \"loop\": \"%s\", \"rate\": %u, "
	       "\"window\": %u, \"loss_percent\": %g, \"warmup_s\": %u, "
	       "\"ring\": \"%s\", \"queue_size\": %u, \"queues\": %u, "
	       "\"features\": \"%#llx\", "
	       "\"mergeable\": %s, \"segments\": %u, \"sleep\": %s, \"hugepages\": %s, "
	       "\"regions\": %u, \"seconds\": %.3f",
	       o->load.imix ? "true" : "false", o->card.tso ? "true" : "false", o->load.flows,
	       is_open_loop(b) ? "open" : "closed", o->rate, is_open_loop(b) ? 0 : window(b),
	       o->loss, o->rig.warmup_s, o->rig.packed ? "packed" : "split", o->rig.queue_size,
	       o->rig.queues, ULL(b->cards[0]->rig->frontend.features),
	       b->cards[0]->mergeable ? "true" : "false", b->cards[0]->tx_segs,
	       o->rig.sleep ? "true" : "false", o->rig.hugepages ? "true" : "false", o->rig.regions,
	       b->run.seconds);
	printf(", \"sent\": %llu, \"received\": %llu, \"lost\": %llu, \"reordered\": %llu, "
	       "\"duplicated\": %llu, \"corrupt\": %llu, \"foreign\": %llu, \"offered\": %llu, "
	       "\"unsent\": %llu, \"driver_late\": %llu, "
	       "\"pps\": %.0f, \"gbit_s\": %.3f, \"kicks\": %llu, \"calls\": %llu, "
	       "\"backend_cpu_s\": %.2f, \"backend_cpu_s_per_million\": %.3f, "
	       "\"backend_cycles_per_frame\": %.0f, \"steal_s\": %.2f",
	       ULL(t->sent), ULL(t->received), ULL(t->lost), ULL(t->reordered), ULL(t->duplicated),
	       ULL(t->corrupt), ULL(t->foreign), ULL(t->meant), ULL(t->unsent), ULL(t->driver_late),
	       t->rate, t->gbit_s, ULL(notes(b, false)), ULL(notes(b, true)), b->run.cpu, million,
	       cycles_per_frame(million), b->steal);
	print_latencies(b);
	if (s)
		printf(", \"search\": { \"rate\": %.0f, \"upper\": %.0f, "
		       "\"resolution_percent\": %g, \"trials\": %u, \"trial_ms\": %u, "
		       "\"limit\": \"%s\" }",
		       s->rate, s->upper, o->resolution, s->trials, o->trial_ms, s->limit);
	interrupt_report(true);
	printf(" }\n");
}

void net_report(const struct net_bench *b, const struct search *s)
{
	struct net_totals t;

	net_totals(b, &t);
	if (b->opt.rig.json)
		print_json(b, &t, s);
	else
		print_text(b, &t, s);
	for (unsigned i = 0; i < b->n_cards; i++)
		if (b->cards[i]->no_count)
			warnx("%s: frames came with a number of buffers of 0 (virtio 1.3 "
			      "5.1.6.4.1); taken as 1",
			      b->cards[i]->rig->path);
}
