/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/net_stream.h"

#include "base/clock.h"
#include "bench/interrupt.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>

#define BURST 32
#define STOOD_STILL_US 1000
/* 7 : 4 : 1 of 64, 594 and 1518 bytes with checksum: the "simple IMIX". */
static const uint16_t imix[] = { 60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 590, 60 };

void stream_init(struct stream *s, const struct net_load *load, struct card *from, struct card *to,
		 unsigned direction)
{
	memset(s, 0, sizeof(*s));
	s->load = load;
	s->from = from;
	s->to = to;
	s->direction = direction;
	s->window = from->n_tx;
	/* Of several pairs it is the back-end that chooses one: all may come by the same. */
	if (to)
		s->window = (unsigned)to->rx->size / to->rx_per_frame;
	if (load->window)
		s->window = MIN(s->window, load->window);
	s->flows = calloc(load->flows, sizeof(*s->flows));
	s->order = calloc(load->flows, sizeof(*s->order));
	if (!s->flows || !s->order)
		errx(1, "no memory for %u flows", load->flows);
	for (unsigned i = 0; i < load->flows; i++)
		flow_init(&s->flows[i], i, direction, load->tcp);
}

void stream_fini(struct stream *s)
{
	free(s->flows);
	free(s->order);
}

void stream_hello(struct stream *s, unsigned timeout_ms)
{
	uint64_t last = clock_ns();

	for (unsigned i = 0; i < s->load->flows;) {
		struct card_buf *b = card_tx_buf(s->to);

		if (b) {
			frame_write_hello(&s->flows[i++], b->host);
			b->flow = NULL;
			card_send(s->to, b, NET_HDR_BYTES + FRAME_MIN);
			card_submit(s->to, CARD_TX);
		}
		if (card_reap(s->to))
			last = clock_ns();
		card_check(s->to);
		if (!b)
			rig_check_alive(s->to->rig, clock_ns() - last, timeout_ms);
	}
	while (s->to->n_tx_free < s->to->n_tx) {
		if (card_reap(s->to))
			last = clock_ns();
		card_check(s->to);
		rig_check_alive(s->to->rig, clock_ns() - last, timeout_ms);
	}
}

static uint32_t next_size(struct stream *s)
{
	if (!s->load->imix)
		return s->load->size;
	s->mix = (s->mix + 1) % ARRAY_SIZE(imix);
	return imix[s->mix];
}

/* Of all pairs: are all buffers back that were sent? */
static bool all_back(const struct card *c)
{
	for (unsigned i = 0; i < c->n_pairs; i++)
		if (c[i].n_tx_free < c[i].n_tx)
			return false;
	return true;
}

static unsigned reap(struct card *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n_pairs; i++)
		n += card_reap(&c[i]);
	return n;
}

/*
 * By which pair the next frame goes: a flow keeps to one. Those that come by one pair are answered
 * by all, as two guests know nothing of each other's CPUs.
 */
HOT struct card *sender(const struct stream *s)
{
	unsigned n = s->from->n_pairs;

	if (n < 2)
		return s->from;
	return &s->from[(s->direction ? s->turn / n : s->turn) % n];
}

/* One frame; @stamp: the time that it is to tell. */
HOT void send_frame(struct stream *s, struct card_buf *b, uint64_t stamp)
{
	struct card *from = sender(s);
	unsigned id = s->turn++;
	struct flow *f = &s->flows[id];
	uint32_t size = next_size(s);
	unsigned head = s->load->tcp ? TCP_HEAD : UDP_HEAD;
	uint8_t *at = b->host + NET_HDR_BYTES + head;
	struct stamp st = { f->serial, stamp, 0 };

	if (s->turn == s->load->flows)
		s->turn = 0;
	if (b->flow != f || b->size != size) {
		frame_write_head(f, size, (uint16_t)s->load->mss, b->host);
		b->flow = f;
		b->size = size;
	}
	st.check = stamp_check(&st, id, size);
	memcpy(at, &st, sizeof(st));
	if (s->load->verify)
		frame_fill(at + sizeof(st), size - head - (uint32_t)sizeof(st), 0, f->serial, id);
	card_send(from, b, NET_HDR_BYTES + size);
	f->serial++;
	s->n.sent++;
	if (!s->to)
		s->n.bytes += size;
}

static void wrong(struct stream *s, const char *what, uint64_t a, uint64_t b)
{
	s->n.corrupt++;
	if (!s->ever_corrupt++)
		snprintf(s->wrong, sizeof(s->wrong), "%s (%llu, %llu)", what, (unsigned long long)a,
			 (unsigned long long)b);
}

/* Whose is it? @return the flow, or -1 for a frame that is not ours, -2 for one that is corrupt. */
HOT int frame_flow(struct stream *s, const struct card_frame *f)
{
	const uint8_t *frame = f->buf[0]->host + NET_HDR_BYTES;
	const uint8_t *mine = s->flows[0].head;
	unsigned id, head = s->load->tcp ? TCP_HEAD : UDP_HEAD;

	if (f->len[0] < NET_HDR_BYTES + ETHER_BYTES || memcmp(frame + 6, mine + 6, 4) != 0 ||
	    memcmp(frame + 12, mine + 12, 2) != 0)
		return -1;
	id = (unsigned)frame[10] << 8 | frame[11];
	if (f->len[0] < NET_HDR_BYTES + head + sizeof(struct stamp) || id >= s->load->flows) {
		wrong(s, "a frame is too short, or of no flow: bytes, flow", f->bytes, id);
		return -2;
	}
	mine = s->flows[id].head;
	/* Addresses and type; IP addresses and ports. */
	if (memcmp(frame, mine, ETHER_BYTES) != 0 || memcmp(frame + 26, mine + 26, 12) != 0) {
		wrong(s, "addresses or ports are not the flow's: flow, bytes", id, f->bytes);
		return -2;
	}
	return (int)id;
}

static bool payload_is_right(struct stream *s, const struct card_frame *f, uint32_t skip,
			     uint64_t serial, uint32_t flow)
{
	uint32_t offset = 0;

	for (unsigned i = 0; i < f->n; i++, skip = 0) {
		int64_t at = frame_differs(f->buf[i]->host + skip, f->len[i] - skip, offset, serial,
					   flow);

		if (at >= 0) {
			wrong(s, "a byte of the payload is wrong: byte, frame", (uint64_t)at,
			      serial);
			return false;
		}
		offset += f->len[i] - skip;
	}
	return true;
}

/*
 * Of the headers, what tells no flow. A TCP checksum may be completed on the way (virtio 1.3
 * 5.1.6.2).
 */
static bool head_is_right(struct stream *s, const struct card_frame *f, uint64_t serial,
			  uint32_t flow)
{
	const uint8_t *frame = f->buf[0]->host + NET_HDR_BYTES;
	unsigned end = s->load->tcp ? TCP_HEAD - 4 : UDP_HEAD;
	uint8_t want[NET_HDR_BYTES + TCP_HEAD];

	frame_write_head(&s->flows[flow], f->bytes - NET_HDR_BYTES, (uint16_t)s->load->mss, want);
	for (unsigned at = 0; at < end; at++)
		if (frame[at] != want[NET_HDR_BYTES + at]) {
			wrong(s, "a byte of the headers is wrong: byte, frame", at, serial);
			return false;
		}
	return true;
}

static bool is_hello(const struct card_frame *f)
{
	return f->len[0] >= NET_HDR_BYTES + ETHER_BYTES &&
	       frame_is_hello(f->buf[0]->host + NET_HDR_BYTES);
}

/*
 * @return true for a frame that is ours and whole, of this run, with the time that it tells. One
 * that was given up in a run before, and comes after all, is no frame of this one's.
 */
HOT bool take_frame(struct stream *s, const struct card_frame *f, uint64_t now, uint64_t *stamp)
{
	unsigned head = s->load->tcp ? TCP_HEAD : UDP_HEAD;
	uint32_t size = f->bytes - NET_HDR_BYTES;
	int id = frame_flow(s, f);
	enum flow_news news;
	struct stamp st;

	if (id < 0) {
		/* The switch passed them on before we began: they lay in the ring. */
		s->n.foreign += id == -1 && !is_hello(f);
		return false;
	}
	memcpy(&st, f->buf[0]->host + NET_HDR_BYTES + head, sizeof(st));
	if (st.check != stamp_check(&st, (uint32_t)id, size) || st.cycles > now ||
	    st.serial >= s->flows[id].serial) {
		wrong(s, "not as it was sent: bytes, frame", size, st.serial);
		return false;
	}
	if (s->load->verify && !(head_is_right(s, f, st.serial, (uint32_t)id) &&
				 payload_is_right(s, f, NET_HDR_BYTES + head + (uint32_t)sizeof(st),
						  st.serial, (uint32_t)id)))
		return false;
	news = flow_came(&s->order[id], st.serial);
	if (news == FLOW_DUPLICATED) {
		s->n.duplicated++;
		return false;
	}
	s->n.reordered += news == FLOW_REORDERED;
	if (unlikely(st.cycles < s->since))
		return false;
	s->n.received++;
	s->n.bytes += size;
	*stamp = st.cycles;
	return true;
}

static void answer(struct stream *s, uint64_t stamp)
{
	struct card_buf *b = card_tx_buf(sender(s));

	if (b) /* else the answer is lost, which the account tells */
		send_frame(s, b, stamp);
}

static void submit_sent(const struct stream *s)
{
	for (unsigned i = 0; i < s->from->n_pairs; i++)
		card_submit(&s->from[i], CARD_TX);
}

static unsigned receive_by(struct stream *s, struct card *to)
{
	static struct card_frame f;
	uint64_t stamp;
	unsigned n = 0;

	while (n < 2 * BURST && card_receive(to, &f)) {
		n++;
		if (take_frame(s, &f, to->came_at, &stamp)) {
			histogram_add(&s->n.latency, to->came_at - stamp);
			if (s->answer)
				answer(s->answer, stamp);
		}
		card_return(to, &f);
	}
	if (n)
		card_submit(to, CARD_RX);
	return n;
}

static unsigned receive(struct stream *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->to->n_pairs; i++)
		n += receive_by(s, &s->to[i]);
	if (n && s->answer)
		submit_sent(s->answer);
	return n;
}

/* Where a run stands in time, in cycles. */
struct moment {
	uint64_t start, last, now;
	double per_frame; /* cycles; 0: no rate */
};

static uint64_t under_way(const struct stream *s)
{
	const struct stream *last = s->answer ? s->answer : s;
	uint64_t came = last->n.received + last->n.corrupt;
	uint64_t open = s->n.sent > came ? s->n.sent - came : 0;

	return open - MIN(open, s->given_up); /* some of those may have come after all */
}

/* At a rate: frames that were due and are neither sent nor dropped. */
static uint64_t waiting(const struct stream *s)
{
	return s->n.offered - MIN(s->n.offered, s->n.sent + s->n.unsent + s->n.driver_late);
}

/*
 * At a rate: how many frames are to be sent now. What finds the ring full waits, up to the backlog;
 * the rest is never sent, and is counted as lost. Frames that fell due while this thread stood
 * still, for others needed the CPU, are not the back-end's to answer for: they wait too. Where the
 * ring had room for most of what it holds, it was this thread that was late.
 */
static uint64_t due_now(struct stream *s, const struct moment *m)
{
	uint64_t due = (uint64_t)((double)(m->now - m->start) / m->per_frame), limit;
	unsigned room = sender(s)->n_tx_free;

	if (m->now - m->last > STOOD_STILL_US * clock_cycles_per_us())
		s->excused += due - s->n.offered;
	s->n.offered = due;
	limit = s->load->backlog + room + s->excused;
	if (waiting(s) <= s->load->backlog + room)
		s->excused = 0;
	if (waiting(s) > limit)
		*(room > s->from->n_tx / 2 ? &s->n.driver_late : &s->n.unsent) += waiting(s) -
										  limit;
	return waiting(s);
}

static unsigned send_some(struct stream *s, const struct moment *m, bool over)
{
	uint64_t count = BURST, skipped, now;
	struct card_buf *b;
	unsigned n = 0;

	s->consumed += reap(s->from);
	if (m->per_frame > 0)
		count = over ? waiting(s) : due_now(s, m);
	else if (over)
		return 0;
	else if (!s->load->open && s->to) /* else its buffers are all that holds a sender up */
		count = s->window - MIN((uint64_t)s->window, under_way(s));
	count = MIN(count, (uint64_t)BURST);
	/* Not @m->now: this thread may have stood still since, and taken what came meanwhile. */
	now = m->per_frame > 0 || !count ? 0 : clock_cycles();
	for (; n < count && (b = card_tx_buf(sender(s))); n++) {
		skipped = s->n.sent + s->n.unsent + s->n.driver_late;
		send_frame(s, b,
			   m->per_frame > 0
				   ? m->start + (uint64_t)((double)(skipped + 1) * m->per_frame)
				   : now);
	}
	if (n)
		submit_sent(s);
	return n;
}

#define CHECK_EVERY_US 50000
/*
 * Nothing came for so long though frames are under way, and the sender has all of its buffers back:
 * they are lost. Others may follow then. Given up too early, they would come after all, and find
 * the receiver's buffers taken: so this is longer than a back-end's CPU is likely to be taken away.
 */
#define LOST_AFTER_US 200000
/* At the end, when all that counts is whether they come. */
#define LOST_AT_END_US 500000

/* How long the device has had frames to send and has taken none. That it brings others' is no work.
 */
static uint64_t idle_ns(struct stream *s, uint64_t now)
{
	if (s->consumed != s->seen || all_back(s->from)) {
		s->seen = s->consumed;
		s->seen_at = now;
	}
	return (now - s->seen_at) * 1000 / clock_cycles_per_us();
}

static void check(const struct run *r, uint64_t now)
{
	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		struct stream *s = r->stream[i];

		card_check(s->from);
		if (s->to)
			card_check(s->to);
		rig_check_alive(s->from->rig, idle_ns(s, now), r->timeout_ms);
		if (s->to && s->to != s->from)
			rig_check_alive(s->to->rig, 0, r->timeout_ms);
	}
}

static void nap(const struct run *r, const struct moment *m, uint64_t end)
{
	uint64_t per_us = clock_cycles_per_us();
	uint64_t until = MIN(end, m->now + (CARD_NAP_NS / 1000 + 1) * per_us);
	struct card_wait wait[4 * CARD_PAIRS_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		const struct stream *s = r->stream[i];

		for (unsigned k = 0; k < s->from->n_pairs; k++)
			wait[n++] = (struct card_wait) { &s->from[k], CARD_TX, false };
		for (unsigned k = 0; s->to && k < s->to->n_pairs; k++)
			wait[n++] = (struct card_wait) { &s->to[k], CARD_RX, false };
		if (m->per_frame > 0 && !(i && r->stream[0]->answer))
			until = MIN(until, m->start + (uint64_t)((double)(s->n.offered + 1) *
								 m->per_frame));
	}
	if (until > m->now + per_us)
		card_sleep(wait, n, (until - m->now) * 1000 / per_us, r->timeout_ms);
}

/* One look at everything. @return whether anything was done. */
static unsigned round_of(struct run *r, const struct moment *m, bool over)
{
	unsigned work = 0;

	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		struct stream *s = r->stream[i];
		uint64_t consumed = s->consumed;

		if (s->to)
			work += receive(s);
		/* Who answers does nothing else. */
		if (i == 0 || !r->stream[0]->answer)
			work += send_some(s, m, over);
		else
			s->consumed += reap(s->from);
		work += (unsigned)(s->consumed - consumed);
	}
	return work;
}

/* What grows with each frame of ours that gets anywhere; those of others and copies are none. */
static uint64_t moved(const struct run *r)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		const struct stream *s = r->stream[i];

		sum += s->n.sent + s->consumed + s->n.received + s->n.corrupt;
	}
	return sum;
}

static bool all_came(const struct run *r)
{
	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		const struct stream *s = r->stream[i];

		if (!all_back(s->from) || waiting(s) || (s->to && under_way(s)))
			return false;
	}
	return true;
}

static void give_up(const struct run *r)
{
	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		struct stream *s = r->stream[i];
		const struct card *back = s->answer ? s->answer->from : s->from;

		/* What still lies in a ring of the sender's is late, and not lost. */
		if (all_back(s->from) && all_back(back))
			s->given_up += under_way(s);
	}
}

/* Of the back-end, or of both. */
static double cpu_seconds(const struct run *r)
{
	const struct stream *s = r->stream[0];
	struct rig *rigs[] = { s->from->rig, s->to ? s->to->rig : s->from->rig };

	return rig_cpu_seconds_of(rigs, 2);
}

static void begin(struct run *r, struct moment *m)
{
	double rate = r->stream[0]->load->rate;

	r->told = r->told_frames = 0;
	r->cpu = cpu_seconds(r);
	m->per_frame = rate > 0 ? (double)clock_cycles_per_us() * 1e6 / rate : 0;
	m->start = m->last = m->now = clock_cycles();
	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		struct stream *s = r->stream[i];

		memset(&s->n, 0, sizeof(s->n));
		s->given_up = s->excused = s->consumed = s->seen = 0;
		s->since = s->seen_at = m->start;
	}
}

static void end_of_time(struct run *r, const struct moment *m)
{
	r->seconds = (double)(m->now - m->start) / (double)clock_cycles_per_us() / 1e6;
	r->cpu = rig_spent(r->cpu, cpu_seconds(r));
	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		const struct stream *s = r->stream[i];

		r->received_in[i] = s->to ? s->n.received : s->consumed;
		r->bytes_in[i] = s->n.bytes - (s->to ? 0 : card_bytes_under_way(s->from));
	}
}

/*
 * What still waits is sent after the end, unless that could take longer than the run: of a rate
 * that this driver cannot keep, too much fell due while others needed the CPU.
 */
static void forgo_the_rest(struct run *r)
{
	for (unsigned i = 0; i < 2 && r->stream[i]; i++) {
		struct stream *s = r->stream[i];
		uint64_t limit = s->load->backlog + s->from->n_tx;

		if (waiting(s) > limit)
			s->n.driver_late += waiting(s) - limit;
	}
}

/* A line each second, of the frames that came since the last. */
static void tell(struct run *r, const struct moment *m)
{
	uint64_t second = (m->now - m->start) / clock_cycles_per_us() / 1000000, n = 0;

	if (!r->progress || second == r->told)
		return;
	for (unsigned i = 0; i < 2 && r->stream[i]; i++)
		n += r->stream[i]->to ? r->stream[i]->n.received : r->stream[i]->n.sent;
	fprintf(stderr, "%4llu s  %10llu frames\n", (unsigned long long)second,
		(unsigned long long)(n - r->told_frames));
	r->told = second;
	r->told_frames = n;
}

void run(struct run *r, uint64_t us)
{
	uint64_t per_us = clock_cycles_per_us(), end, next_check, last_came, came = 0;
	struct moment m;
	bool over = false;

	begin(r, &m);
	end = m.start + us * per_us;
	last_came = m.start;
	next_check = m.start + CHECK_EVERY_US * per_us;
	while (!over || !all_came(r)) {
		unsigned work = round_of(r, &m, over);

		if (r->sleep && !work)
			nap(r, &m, over ? m.now + 1000 * per_us : end);
		m.last = m.now;
		m.now = clock_cycles();
		if (came != moved(r)) {
			came = moved(r);
			last_came = m.now;
		}
		if (!over && (m.now >= end || interrupted())) {
			end_of_time(r, &m);
			forgo_the_rest(r);
			over = true;
			last_came = m.now;
		}
		if (m.now - last_came > (over ? LOST_AT_END_US : LOST_AFTER_US) * per_us) {
			give_up(r);
			last_came = m.now;
		}
		if (m.now >= next_check) {
			check(r, m.now);
			tell(r, &m);
			next_check = m.now + CHECK_EVERY_US * per_us;
		}
	}
	check(r, m.now);
}
