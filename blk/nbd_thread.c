/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread of an NBD disk: it sends what the queues' workers put into the inbox, on as many
 * connections as there are, and gives back what the server has answered.
 *
 *	NBD_UP ── a connection breaks: nothing new is sent, the others' answers are waited for ──►
 *	NBD_AWAY: a new connection (first, of a server that was silent: until it has ended the old
 *	one, for it might do an old write after a new one), and an export that is at least as large
 *	and can do as much
 *	──► NBD_REDO: what was acknowledged and not flushed is written once more ──► NBD_UP
 *
 * What had no answer when the connection broke is sent again after that. NBD has no means to end
 * what a server still does for a connection that is gone: one that lives on behind a broken network
 * might do an old write late, as with every NBD client. A server that was killed does nothing any
 * more by the time that its end of the socket is closed.
 */
#include "base/clock.h"
#include "base/log.h"
#include "blk/disk_nbd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONN_DEPTH 128 /* commands of one connection in flight */
#define RETRY_NS UINT64_C(250000000)
#define SECOND_NS UINT64_C(1000000000)

static void show_why(struct nbd_disk *d)
{
	pthread_mutex_lock(&d->shown_lock);
	snprintf(d->shown_why, sizeof(d->shown_why), "%.159s", d->why.text);
	pthread_mutex_unlock(&d->shown_lock);
}

static void set_state(struct nbd_disk *d, enum nbd_state state, uint64_t away_ns)
{
	show_why(d);
	__atomic_store_n(&d->away_ns, away_ns, __ATOMIC_RELAXED);
	__atomic_store_n(&d->state, state, __ATOMIC_RELAXED);
}

static void give_back(struct nbd_disk *d, struct nbd_slot *s)
{
	nbd_slot_drop(d, s);
	relay_answer(&s->queue->relay, &s->item);
}

static void answer_waiting(struct nbd_disk *d, struct nbd_slot *s, int result)
{
	TAILQ_REMOVE(&d->waiting, s, link);
	s->result = result;
	give_back(d, s);
}

static void take_inbox(struct nbd_disk *d)
{
	struct relay_item *i = relay_pop_all(&d->inbox);
	struct nbd_slot *s;

	for (; i; i = i->next) {
		s = container_of(i, struct nbd_slot, item);
		s->conn = NULL;
		s->flushes = s->reserved = false;
		TAILQ_INSERT_TAIL(&d->waiting, s, link);
	}
}

/* Queues end: what has not been sent, or has to be sent again, is given back undone. */
static void cancel_waiting(struct nbd_disk *d)
{
	struct nbd_slot *s, *next;

	for (s = TAILQ_FIRST(&d->waiting); s; s = next) {
		next = TAILQ_NEXT(s, link);
		if (__atomic_load_n(&s->queue->ends, __ATOMIC_ACQUIRE))
			answer_waiting(d, s, -ECANCELED);
	}
}

/* What has no answer is to be sent again, in the old order. */
static void send_again(struct nbd_conn *c)
{
	struct nbd_disk *d = c->disk;
	struct nbd_slot *s;

	while ((s = TAILQ_LAST(&c->in_flight, nbd_slots))) {
		TAILQ_REMOVE(&c->in_flight, s, link);
		s->conn = NULL;
		s->flushes = false; /* the write that it is for, too */
		if (s == &d->own)
			d->own_busy = false;
		else
			TAILQ_INSERT_HEAD(&d->waiting, s, link);
	}
	c->n_in_flight = 0;
}

/* The disk goes on without this connection; if it was one in use, without any. */
static void drop(struct nbd_conn *c, bool was_ready, uint64_t now)
{
	struct nbd_disk *d = c->disk;

	nbd_conn_close(c);
	send_again(c);
	show_why(d);
	if (was_ready && d->state != NBD_AWAY)
		d->lost = true;
	/* The next address of the same name at once. */
	d->retry_ns = c->next ? now : now + RETRY_NS;
}

/* @limit 0: there is none. */
static uint64_t at_most(uint64_t limit, uint64_t most)
{
	return limit ? MIN(limit, most) : most;
}

/* A server is silent for too long that owes answers. */
static void expire(struct nbd_disk *d, uint64_t now)
{
	for (unsigned i = 0; i < d->n_conns; i++) {
		struct nbd_conn *c = &d->conns[i];
		const struct nbd_slot *s = TAILQ_FIRST(&c->in_flight);
		uint64_t limit = d->timeout_ns;
		uint64_t silent;

		if (c->step != NBD_READY || !s)
			continue;
		if (s->queue && __atomic_load_n(&s->queue->ends, __ATOMIC_RELAXED))
			limit = at_most(limit, NBD_END_S * SECOND_NS);
		if (__atomic_load_n(&d->closing_ns, __ATOMIC_RELAXED))
			limit = at_most(limit, NBD_CLOSE_S * SECOND_NS);
		/* An answer to any of them shows that it is at work. */
		silent = now - MAX(s->sent_ns, c->heard_ns);
		if (!limit || (int64_t)silent < (int64_t)limit)
			continue;
		error_set(&d->why, -ETIMEDOUT, "the NBD server has not answered for %llu s",
			  (unsigned long long)(silent / SECOND_NS));
		nbd_conn_leave(c, now);
		send_again(c);
		d->lost = true;
	}
}

/* The control thread tells the guest, which may use the room at once: it waits with the rest. */
static void note_growth(struct nbd_disk *d, const struct nbd_facts *f)
{
	const uint64_t one = 1;

	if (f->size == d->facts.size)
		return;
	d->facts.size = f->size;
	__atomic_store_n(&d->size, ALIGN_DOWN(f->size, (uint64_t)d->disk.info.block_size),
			 __ATOMIC_RELEASE);
	if (write(d->grown_fd, &one, sizeof(one)) < 0)
		log_warn("disk %s: nobody can be told that it has grown", d->name);
}

static bool may_redo(const struct nbd_disk *d)
{
	return d->redo_pos == d->redo.head || !__atomic_load_n(&d->idle, __ATOMIC_SEQ_CST);
}

/* A new connection is through its handshake. */
static void joined(struct nbd_conn *c, uint64_t now)
{
	struct nbd_disk *d = c->disk;
	struct error *err = &d->why;
	struct nbd_facts f;

	if (nbd_conn_facts(c, &f, err) < 0 || !nbd_facts_suit(&d->facts, &f, err)) {
		c->next = NULL;
		drop(c, false, now);
		return;
	}
	c->next = NULL;
	note_growth(d, &f);
	if (d->state != NBD_AWAY)
		return;
	d->redo_pos = d->redo.tail;
	if (!may_redo(d))
		error_set(err, -EBUSY,
			  "it is there; what was not flushed is written again when a "
			  "guest runs");
	set_state(d, NBD_REDO, d->away_ns);
}

static void step(struct nbd_conn *c, short revents, uint64_t now)
{
	enum nbd_step before = c->step;

	if (before == NBD_NONE)
		return;
	if (before == NBD_LEAVING && c->fd < 0) {
		if (now - c->began_ns > NBD_LEAVE_S * SECOND_NS)
			nbd_conn_close(c);
		return;
	}
	if (before == NBD_READY && revents)
		c->heard_ns = now;
	if (before > NBD_LEAVING && before < NBD_READY &&
	    now - c->began_ns > nbd_hello_ns(c->disk)) {
		error_set(&c->disk->why, -ETIMEDOUT, "the NBD server does not answer");
		drop(c, false, now);
		return;
	}
	nbd_conn_step(c, revents, &c->disk->why);
	if (before == NBD_LEAVING)
		return;
	if (c->step == NBD_READY && c->ends) {
		error_set(&c->disk->why, -ESHUTDOWN, "the NBD server shuts down");
		drop(c, true, now);
	} else if (c->step == NBD_NONE) {
		drop(c, before == NBD_READY, now);
	} else if (c->step == NBD_READY && before != NBD_READY) {
		joined(c, now);
	}
}

/* Once nobody is waited for any more, all connections end, and the server is looked for anew. */
static void settle_loss(struct nbd_disk *d, uint64_t now)
{
	for (unsigned i = 0; i < d->n_conns; i++)
		if (d->conns[i].step == NBD_READY && d->conns[i].n_in_flight)
			return;
	for (unsigned i = 0; i < d->n_conns; i++) {
		if (d->conns[i].step != NBD_LEAVING)
			nbd_conn_close(&d->conns[i]);
		d->conns[i].next = NULL;
	}
	d->lost = false;
	if (!d->away_ns)
		log_warn("disk %s: the connection is lost: %s; its requests wait for up to %llu s",
			 d->name, d->why.text, (unsigned long long)(d->reconnect_ns / SECOND_NS));
	/* One that breaks again before all is redone has been away since the first time. */
	set_state(d, NBD_AWAY, d->away_ns ? d->away_ns : now);
}

static void connect_missing(struct nbd_disk *d, uint64_t now)
{
	/* The others are of use once the first one has found that the disk is what it was. */
	unsigned n = d->state == NBD_UP ? d->n_conns : d->state == NBD_AWAY ? 1 : 0;

	if (now < d->retry_ns)
		return;
	for (unsigned i = 0; i < d->n_conns; i++)
		if (d->conns[i].step == NBD_LEAVING)
			return;
	for (unsigned i = 0; i < n; i++) {
		struct nbd_conn *c = &d->conns[i];

		if (c->step != NBD_NONE)
			continue;
		nbd_conn_begin(c, now, &d->why);
		if (c->step == NBD_NONE) {
			drop(c, false, now);
			return;
		}
	}
}

static void give_up_waiting(struct nbd_disk *d, uint64_t now)
{
	uint64_t closing_ns = __atomic_load_n(&d->closing_ns, __ATOMIC_RELAXED);
	/* @now may be of a moment before that. */
	bool closes = closing_ns &&
		      (int64_t)(now - closing_ns) > (int64_t)(NBD_CLOSE_S * SECOND_NS);
	struct nbd_slot *s;

	if (!d->away_ns || (now - d->away_ns < d->reconnect_ns && !closes))
		return;
	if (!d->told)
		log_error("disk %s: the NBD server has been away for %llu s, and requests fail "
			  "until it is back: %s",
			  d->name, (unsigned long long)((now - d->away_ns) / SECOND_NS),
			  d->why.text);
	d->told = true;
	while ((s = TAILQ_FIRST(&d->waiting)))
		answer_waiting(d, s, -ENOTCONN);
}

static void redo_over(struct nbd_disk *d, uint64_t now)
{
	log_info("disk %s: the NBD server is back after %llu ms", d->name,
		 (unsigned long long)((now - d->away_ns) / 1000000));
	d->told = false;
	d->retry_ns = now;
	set_state(d, NBD_UP, 0);
}

/* One entry after the other: those that overlap have an order. */
static void redo_step(struct nbd_disk *d, uint64_t now)
{
	struct nbd_redo_entry e;
	uint8_t *buf = d->own.buf;

	if (d->own_busy)
		return;
	if (d->redo_pos == d->redo.head) {
		redo_over(d, now);
		return;
	}
	d->redo_next = nbd_redo_get(&d->redo, d->redo_pos, &e, buf);
	d->own = (struct nbd_slot) { .op = (enum disk_op)e.op,
				     .offset = e.offset,
				     .len = e.len,
				     .unmap = e.unmap,
				     .fua = e.fua,
				     .buf = buf };
	d->own_busy = true;
	nbd_slot_send(&d->conns[0], &d->own);
}

static void own_answered(struct nbd_disk *d, uint64_t now)
{
	int result = d->own.result;

	d->own_busy = false;
	if (d->state == NBD_UP) {
		d->own_error = result;
		d->own_retry_ns = now + SECOND_NS;
	} else if (result == 0 || d->own.op == DISK_DISCARD) {
		d->redo_pos = d->redo_next;
	} else {
		error_set(&d->why, result, "what had to be written once more failed: %s",
			  strerror(-result));
		drop(&d->conns[0], true, now);
		d->retry_ns = now + SECOND_NS;
	}
}

static struct nbd_conn *pick_conn(struct nbd_disk *d)
{
	struct nbd_conn *best = NULL;

	for (unsigned i = 0; i < d->n_conns; i++) {
		struct nbd_conn *c = &d->conns[i];

		if (c->step == NBD_READY && c->n_in_flight < CONN_DEPTH &&
		    (!best || c->n_in_flight < best->n_in_flight))
			best = c;
	}
	return best;
}

/* The log has no room for more: a flush makes some. */
static void make_room(struct nbd_disk *d, uint64_t now)
{
	struct nbd_conn *c;

	if (!d->redo.mem || !nbd_redo_is_full(&d->redo) || d->redo.head == d->redo.tail ||
	    d->own_busy || (d->own_error && now < d->own_retry_ns))
		return;
	c = pick_conn(d);
	if (!c)
		return;
	d->own = (struct nbd_slot) { .op = DISK_FLUSH, .buf = d->own.buf };
	d->own_busy = true;
	nbd_slot_send(c, &d->own);
}

static void send_waiting(struct nbd_disk *d)
{
	struct nbd_slot *s;
	struct nbd_conn *c;

	while ((s = TAILQ_FIRST(&d->waiting)) && (c = pick_conn(d))) {
		TAILQ_REMOVE(&d->waiting, s, link);
		if (nbd_slot_send(c, s) == 0)
			continue;
		TAILQ_INSERT_HEAD(&d->waiting, s, link);
		/* A server that cannot flush: as a disk that has no room for more. */
		if (!d->own_error)
			return;
		answer_waiting(d, s, d->own_error);
	}
}

static bool take_answers(struct nbd_disk *d, uint64_t now)
{
	bool any = false;
	struct nbd_slot *s;

	for (unsigned i = 0; i < d->n_conns; i++) {
		while ((s = TAILQ_FIRST(&d->conns[i].answered))) {
			TAILQ_REMOVE(&d->conns[i].answered, s, link);
			any = true;
			if (!nbd_slot_answered(d, s))
				continue;
			if (s == &d->own)
				own_answered(d, now);
			else
				give_back(d, s);
		}
	}
	return any;
}

static bool is_settled(const struct nbd_disk *d)
{
	if (d->state != NBD_UP || d->lost)
		return false;
	for (unsigned i = 0; i < d->n_conns; i++)
		if (d->conns[i].step != NBD_READY)
			return false;
	return true;
}

/* Sleeps until something comes, or something is due. */
static void wait_for_events(struct nbd_disk *d, struct pollfd *p)
{
	int timeout_ms = is_settled(d) && !d->own_error ? -1 : 50;
	uint64_t count;

	for (unsigned i = 0; i < d->n_conns; i++) {
		p[i].fd = nbd_conn_fd(&d->conns[i], &p[i].events);
		if (d->conns[i].n_in_flight && timeout_ms < 0)
			timeout_ms = 200; /* see expire() */
		if (p[i].fd < 0 && d->conns[i].step > NBD_LEAVING)
			timeout_ms = 0; /* it broke while something was sent */
	}
	p[d->n_conns] = (struct pollfd) { .fd = d->wake_fd, .events = POLLIN };
	/* Pairs with nbd_thread_wake(): either it sees this, or here is seen what it came with. */
	__atomic_store_n(&d->asleep, 1, __ATOMIC_SEQ_CST);
	if (!relay_is_empty(&d->inbox) || __atomic_load_n(&d->stop, __ATOMIC_SEQ_CST) ||
	    __atomic_load_n(&d->forget, __ATOMIC_SEQ_CST) ||
	    __atomic_load_n(&d->some_end, __ATOMIC_SEQ_CST))
		timeout_ms = 0;
	if (poll(p, d->n_conns + 1, timeout_ms) < 0)
		for (unsigned i = 0; i <= d->n_conns; i++)
			p[i].revents = 0;
	__atomic_store_n(&d->asleep, 0, __ATOMIC_SEQ_CST);
	if (p[d->n_conns].revents && read(d->wake_fd, &count, sizeof(count)) < 0)
		log_debug("disk %s: nothing in the eventfd", d->name);
}

/*
 * After take_inbox(): the writes of a guest that runs again came after this was said, and none of
 * them is in the log yet.
 */
static void forget_if_told(struct nbd_disk *d)
{
	if (!__atomic_exchange_n(&d->forget, false, __ATOMIC_SEQ_CST))
		return;
	nbd_redo_forget(&d->redo, d->redo.head);
	/* A step that is under way is the last. */
	d->redo_pos = d->redo_next = d->redo.head;
}

static void go_on(struct nbd_disk *d, uint64_t now)
{
	d->now_ns = now;
	take_inbox(d);
	forget_if_told(d);
	if (__atomic_exchange_n(&d->some_end, false, __ATOMIC_SEQ_CST) || d->state != NBD_UP)
		cancel_waiting(d);
	if (d->lost)
		settle_loss(d, now);
	else
		connect_missing(d, now);
	give_up_waiting(d, now);
	if (d->lost)
		return;
	if (d->state == NBD_REDO && may_redo(d))
		redo_step(d, now);
	if (d->state == NBD_UP) {
		make_room(d, now);
		send_waiting(d);
	}
}

static void *run(void *arg)
{
	struct nbd_disk *d = arg;
	struct pollfd p[NBD_CONNECTIONS_MAX + 1];

	pthread_setname_np(pthread_self(), "nbd");
	while (!__atomic_load_n(&d->stop, __ATOMIC_SEQ_CST)) {
		uint64_t now = clock_ns();

		/* What libnbd answers without the server's help comes at once. */
		do
			go_on(d, now);
		while (take_answers(d, now));
		wait_for_events(d, p);
		now = clock_ns();
		for (unsigned i = 0; i < d->n_conns; i++)
			step(&d->conns[i], p[i].revents, now);
		take_answers(d, now);
		expire(d, now);
	}
	return NULL;
}

int nbd_thread_start(struct nbd_disk *d)
{
	sigset_t all, before;
	int rc;

	/* Those of the process are the control thread's; what a thread does to itself comes anyhow.
	 */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&d->thread, NULL, run, d);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	d->has_thread = rc == 0;
	return -rc;
}

void nbd_thread_wake(struct nbd_disk *d)
{
	const uint64_t one = 1;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&d->asleep, __ATOMIC_SEQ_CST) ||
	    !__atomic_exchange_n(&d->asleep, 0, __ATOMIC_SEQ_CST))
		return;
	/* It cannot be full: who adds to it has found the thread asleep. */
	if (write(d->wake_fd, &one, sizeof(one)) < 0)
		abort();
}

void nbd_thread_stop(struct nbd_disk *d)
{
	if (!d->has_thread)
		return;
	__atomic_store_n(&d->stop, true, __ATOMIC_SEQ_CST);
	nbd_thread_wake(d);
	pthread_join(d->thread, NULL);
	d->has_thread = false;
}
