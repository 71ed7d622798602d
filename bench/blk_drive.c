/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench blk: a thread that drives its queues. Each round takes back what is done, sends what
 * is due, and kicks. Latency runs from when a request was due (blk_load.c; in a closed loop: from
 * the moment before it is added to the ring) to the moment that the driver finds it used.
 */
#include "bench/blk.h"

#include "base/clock.h"
#include "bench/interrupt.h"

#include <err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define CHECK_EVERY_US 50000
#define POISON 0xdb

static void die(const struct blk_driver *d, const struct blk_slot *s, const char *what)
{
	errx(1, "%s: %s of %u bytes at byte %llu: %s", d->run->rig->path, blk_op_names[s->op],
	     s->len, (unsigned long long)s->offset, what);
}

static uint64_t block_of(const struct blk_driver *d, const struct blk_slot *s)
{
	return s->offset / d->run->opt->bs - d->load.first_block;
}

/* @return segments of the data. */
static unsigned data_segs(const struct blk_driver *d, const struct blk_slot *s,
			  struct driver_seg *segs)
{
	uint32_t most = d->run->disk.size_max;
	unsigned n = 0;

	if (s->op == BLK_FLUSH)
		return 0;
	if (s->op == BLK_DISCARD || s->op == BLK_WRITE_ZEROES) {
		*s->range = (struct virtio_blk_discard_write_zeroes) {
			.sector = s->offset / SECTOR, .num_sectors = s->len / SECTOR
		};
		segs[0] = (struct driver_seg) { s->range_gpa, sizeof(*s->range) };
		return 1;
	}
	for (uint32_t at = 0; at < s->len; at += most, n++) {
		segs[n].gpa = s->gpa + at;
		segs[n].len = MIN(most, s->len - at);
	}
	return n;
}

static void submit(struct blk_driver *d, struct blk_slot *s)
{
	static const uint32_t types[BLK_OPS] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
						 VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_DISCARD,
						 VIRTIO_BLK_T_WRITE_ZEROES };
	bool in_place = s->op == BLK_READ || s->op == BLK_WRITE;
	struct driver_seg segs[GUEST_BLK_DATA_SEGS_MAX];
	unsigned n = data_segs(d, s, segs);

	s->busy = true;
	if (guest_blk_submit(&d->queues[s->queue].blk, types[s->op],
			     in_place ? s->offset / SECTOR : 0, segs, n, s) < 0)
		die(d, s, "the ring is full; a larger --queue-size or a smaller --depth helps");
}

/* A new request, and with --verify its contents. */
static void start(struct blk_driver *d, struct blk_slot *s, uint64_t now)
{
	s->sent = now;
	if (unlikely(d->written.busy && s->len)) {
		d->written.busy[block_of(d, s)] = 1;
		if (s->op == BLK_WRITE) {
			s->generation = ++d->written.last;
			blk_fill(s->host, d->run->run_id, s->offset, s->len, s->generation);
		} else if (s->op == BLK_READ) {
			memset(s->host, POISON, s->len);
		}
		/* That took its time. */
		if (!d->open)
			s->intended = clock_cycles();
	}
	d->in_flight++;
	submit(d, s);
}

static void release(struct blk_driver *d, struct blk_slot *s)
{
	struct blk_queue *q = &d->queues[s->queue];

	if (d->written.busy && s->len)
		d->written.busy[block_of(d, s)] = 0;
	s->read_back = false;
	q->idle[q->n_idle++] = s;
	d->in_flight--;
}

static void compare(struct blk_driver *d, const struct blk_slot *s)
{
	uint64_t generation = d->written.generation[block_of(d, s)];
	char why[200];

	if (generation == BLK_UNKNOWN)
		return;
	if (!blk_check(s->host, d->run->run_id, s->offset, s->len, generation, why, sizeof(why)))
		errx(1, "%s: %s", d->run->rig->path, why);
	d->figures.verified++;
}

/*
 * With --verify: what the disk should hold now. What a failed write left there is nobody's to say,
 * and what a discard left neither (virtio 1.3 5.2.6.2). @return true when the slot is on its way
 * again, to read back what it wrote.
 */
static bool remember(struct blk_driver *d, struct blk_slot *s, bool ok)
{
	uint64_t *generation = &d->written.generation[block_of(d, s)];

	if (s->op == BLK_READ) {
		if (ok)
			compare(d, s);
		return false;
	}
	*generation = !ok || s->op == BLK_DISCARD ? BLK_UNKNOWN
		      : s->op == BLK_WRITE	  ? s->generation
						  : BLK_ZEROES;
	if (*generation == BLK_UNKNOWN)
		return false;
	s->op = BLK_READ;
	s->read_back = true;
	memset(s->host, POISON, s->len);
	s->sent = clock_cycles();
	submit(d, s);
	return true;
}

/* One that failed is no work done, however fast it failed. */
static void count(struct blk_driver *d, const struct blk_slot *s, uint8_t status, uint64_t now)
{
	const struct crew_member *m = d->member;
	/* Of an open loop each that was due while it was measured, however late it is back. */
	bool counts = d->open ? s->intended >= m->from : !m->until;

	if (status != VIRTIO_BLK_S_OK) {
		if (d->figures.errors++ == 0)
			warnx("%s: the first request that failed: %s at byte %llu: status %u (%s)",
			      d->run->rig->path, blk_op_names[s->op], (unsigned long long)s->offset,
			      status,
			      status == VIRTIO_BLK_S_IOERR    ? "I/O error"
			      : status == VIRTIO_BLK_S_UNSUPP ? "unsupported"
							      : "not one that virtio knows");
		return;
	}
	d->done++;
	if (!m->until) {
		d->figures.done++;
		d->figures.bytes += s->len;
	}
	if (counts)
		histogram_add(&d->figures.latency[s->op], now - s->intended);
}

static bool next_to_sweep(struct blk_driver *d, struct blk_slot *s, uint64_t now);

static bool next(struct blk_driver *d, struct blk_slot *s, uint64_t now)
{
	return d->sweeping ? next_to_sweep(d, s, now) : blk_load_next(d, s, now);
}

/* A request is back, and its slot, if there is work for it, on its way again. */
static void finish(struct blk_driver *d, const struct guest_blk_done *done)
{
	struct blk_slot *s = done->cookie;
	uint64_t now = clock_cycles();

	s->busy = false;
	if (likely(!s->read_back) || done->status != VIRTIO_BLK_S_OK)
		count(d, s, done->status, now);
	if (unlikely(d->written.busy && s->len) && remember(d, s, done->status == VIRTIO_BLK_S_OK))
		return;
	release(d, s);
	/* In an open loop the queues take turns: send_due(). */
	if (!d->open && !d->stopping && next(d, s, now)) {
		d->queues[s->queue].n_idle--;
		start(d, s, now);
	}
}

static unsigned reap(struct blk_driver *d)
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->n_queues; i++) {
		struct guest_blk_done done;
		int rc;

		while ((rc = guest_blk_poll(&d->queues[i].blk, &done)) > 0) {
			finish(d, &done);
			n++;
		}
		if (rc < 0)
			rig_die(d->run->rig, "the back-end broke a rule");
	}
	return n;
}

/* The next queue with an idle slot, all in turn; NULL: none. */
static struct blk_queue *next_queue(struct blk_driver *d)
{
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct blk_queue *q = &d->queues[d->next_queue];

		d->next_queue = d->next_queue + 1 < d->n_queues ? d->next_queue + 1 : 0;
		if (q->n_idle)
			return q;
	}
	return NULL;
}

static void send_due(struct blk_driver *d, uint64_t now)
{
	struct blk_queue *q;

	while ((q = next_queue(d)) && next(d, q->idle[q->n_idle - 1], now))
		start(d, q->idle[--q->n_idle], now);
}

/* Is anything wrong that the rings do not show? Now and then. */
static void check(struct blk_driver *d, uint64_t now)
{
	uint64_t patience = (uint64_t)d->run->opt->rig.timeout_ms * 1000 * clock_cycles_per_us();
	char why[80];

	for (unsigned i = 0; i < d->n_queues; i++) {
		unsigned queue = d->queues[i].blk.queue;

		rig_check_error(d->run->rig, queue);
	}
	for (unsigned i = 0; i < d->n_slots; i++) {
		struct blk_slot *s = &d->slots[i];

		if (!s->busy || now < s->sent || now - s->sent < patience)
			continue;
		snprintf(why, sizeof(why), "no answer for %u ms (--timeout)",
			 d->run->opt->rig.timeout_ms);
		die(d, s, why);
	}
}

/* Sleeps until the back-end calls, a request is due, or it is time to check: as a guest does. */
static void sleep_until_called(struct blk_driver *d, uint64_t now)
{
	struct frontend *f = &d->run->rig->frontend;
	struct pollfd fds[FRONTEND_QUEUES_MAX];
	uint64_t us = CHECK_EVERY_US;
	bool go_on = false;
	int rc = 0;

	if (d->open && !d->load.over && !d->stopping && d->in_flight < d->n_slots)
		us = d->load.next_at > (double)now
			     ? MIN(us, (uint64_t)((d->load.next_at - (double)now) /
						  (double)clock_cycles_per_us()))
			     : 0;
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct frontend_queue *q = &f->queue[d->queues[i].blk.queue];

		fds[i] = (struct pollfd) { .fd = q->call_fd, .events = POLLIN };
		go_on |= !driver_ring_calls_on(&q->ring);
	}
	if (!go_on)
		rc = ppoll(fds, d->n_queues, &(struct timespec) { .tv_nsec = (long)us * 1000 },
			   NULL);
	for (unsigned i = 0; i < d->n_queues; i++) {
		if (!go_on && us > 0)
			rig_check_called(d->run->rig, d->queues[i].blk.queue, fds[i].revents, rc,
					 d->run->opt->rig.timeout_ms);
		rig_calls_off(d->run->rig, d->queues[i].blk.queue);
		if (fds[i].revents)
			frontend_take_event(fds[i].fd);
	}
}

/* One round. @return whether anything came back. */
static bool go_round(struct blk_driver *d, uint64_t now)
{
	unsigned n = reap(d);

	if (!d->stopping)
		send_due(d, now);
	for (unsigned i = 0; i < d->n_queues; i++)
		guest_blk_kick(&d->queues[i].blk);
	crew_tell(d->member, d->done);
	return n > 0;
}

static void loop(struct blk_driver *d)
{
	uint64_t check_gap = CHECK_EVERY_US * clock_cycles_per_us(), next_check = clock_cycles();

	for (;;) {
		uint64_t now = clock_cycles();
		bool any;

		d->stopping = crew_look(d->member, now) == CREW_STOP && !d->sweeping;
		if (d->member->began)
			memset(&d->figures, 0, sizeof(d->figures));
		if ((d->stopping || d->load.over) && !d->in_flight)
			return;
		any = go_round(d, now);
		if (now >= next_check) {
			check(d, now);
			next_check = now + check_gap;
		}
		if (d->run->opt->rig.sleep && !any && (d->in_flight || !d->load.over))
			sleep_until_called(d, now);
	}
}

/* After the run: every block whose contents are known, once more. Nothing else is written then. */
static bool next_to_sweep(struct blk_driver *d, struct blk_slot *s, uint64_t now)
{
	struct blk_load *l = &d->load;

	while (l->next_block < l->n_blocks && d->written.generation[l->next_block] == BLK_UNKNOWN)
		l->next_block++;
	l->over = l->next_block >= l->n_blocks || interrupted();
	if (l->over)
		return false;
	s->op = BLK_READ;
	s->len = d->run->opt->bs;
	s->offset = (l->first_block + l->next_block++) * s->len;
	s->intended = now;
	return true;
}

void blk_drive(struct crew_member *m)
{
	struct blk_driver *d = &((struct blk_driver *)m->arg)[m->index];
	const struct blk_options *o = d->run->opt;

	d->member = m;
	/* Else the kernel may let a sleeper sleep 50 us longer than it asked for. */
	if (o->rig.sleep)
		prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	loop(d);
	crew_leave(m, clock_cycles());
	d->figures.unsent = blk_load_unsent(d, m->until);
	if (o->verify) {
		d->load.over = false;
		d->load.next_block = 0;
		d->open = false;
		d->sweeping = true;
		loop(d);
	}
}

static void make_slot(struct blk_driver *d, struct blk_slot *s, unsigned queue)
{
	struct rig *r = d->run->rig;
	uint32_t bs = d->run->opt->bs;

	s->queue = queue;
	s->host = rig_alloc(r, bs, 4096, &s->gpa);
	s->range = rig_alloc(r, sizeof(*s->range), 16, &s->range_gpa);
	if (!s->host || !s->range)
		errx(1, "no guest memory for buffers");
	memset(s->host, 0x5a, bs);
	d->queues[queue].idle[d->queues[queue].n_idle++] = s;
}

static void make_memory(struct blk_driver *d)
{
	struct blk_memory *w = &d->written;

	w->n_blocks = d->load.n_blocks;
	w->generation = calloc(w->n_blocks, sizeof(*w->generation));
	w->busy = calloc(w->n_blocks, 1);
	if (!w->generation || !w->busy)
		errx(1, "out of memory for --verify of %llu blocks; use --size",
		     (unsigned long long)w->n_blocks);
}

void blk_driver_open(struct blk_driver *d, const struct blk_run *b, unsigned index)
{
	const struct blk_options *o = b->opt;
	unsigned threads = o->rig.threads;

	d->run = b;
	d->open = blk_is_open_loop(o);
	d->n_queues = o->rig.queues / threads + (index < o->rig.queues % threads);
	d->n_slots = d->n_queues * o->depth;
	d->queues = calloc(d->n_queues, sizeof(*d->queues));
	d->slots = calloc(d->n_slots, sizeof(*d->slots));
	if (!d->queues || !d->slots)
		errx(1, "out of memory");
	blk_load_init(d, index);
	if (!o->trace_path && d->load.n_blocks < (o->verify ? 2 : 1) * (uint64_t)d->n_slots)
		errx(1,
		     "%s: of %llu bytes each thread has room for %llu blocks of %u bytes, and "
		     "keeps %u busy",
		     b->rig->path, (unsigned long long)b->disk.bytes,
		     (unsigned long long)d->load.n_blocks, o->bs, d->n_slots);
	if (o->verify)
		make_memory(d);
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct blk_queue *q = &d->queues[i];

		q->idle = calloc(o->depth, sizeof(struct blk_slot *));
		if (!q->idle)
			errx(1, "out of memory");
		if (guest_blk_open(&q->blk, &b->rig->frontend, index + i * threads) < 0)
			rig_die(b->rig, "making requests");
		for (unsigned k = 0; k < o->depth; k++)
			make_slot(d, &d->slots[i * o->depth + k], i);
	}
}

void blk_driver_close(struct blk_driver *d)
{
	for (unsigned i = 0; i < d->n_queues; i++) {
		guest_blk_close(&d->queues[i].blk);
		free(d->queues[i].idle);
	}
	free(d->queues);
	free(d->slots);
	free(d->written.generation);
	free(d->written.busy);
}
