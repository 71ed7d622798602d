/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk on an NBD server: opening it, and the workers' side of its queues. A request goes in steps
 * of one slot's buffer, into which the worker copies what is to be written, and out of which it
 * copies what was read.
 */
#include "blk/disk_nbd.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "blk/iov.h"
#include "blk/nbd_lib.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK_MAX 4096	      /* what guests can be told: a page */
#define REAP_BYTES (1u << 20) /* copied in one reap; the worker has other guests */
#define RANGE_MAX (UINT64_C(256) << 20)

static struct nbd_disk *nbd_of(const struct nbd_queue *q)
{
	return container_of(q->base.disk, struct nbd_disk, disk);
}

/* The workers' side. */

static void stage(struct nbd_queue *q, struct nbd_slot *s)
{
	s->item.next = q->staged;
	q->staged = &s->item;
}

/* The next step of @r. */
static void begin_step(struct nbd_queue *q, struct nbd_slot *s, struct disk_request *r)
{
	uint64_t left = r->len - r->moved;
	uint64_t max = r->op >= DISK_DISCARD ? NBD_RANGE_MAX : nbd_of(q)->step_max;

	s->request = r;
	s->op = r->op;
	s->fua = r->fua;
	s->unmap = r->unmap;
	s->offset = r->offset + r->moved;
	s->len = (uint32_t)MIN(left, max);
	if (r->op == DISK_WRITE)
		iov_gather(r->iov, r->n_iov, s->buf, s->len);
	stage(q, s);
}

static void nbd_submit(struct disk_queue *dq, struct disk_request *r)
{
	struct nbd_queue *q = container_of(dq, struct nbd_queue, base);

	r->moved = 0;
	if (likely(q->n_free) && STAILQ_EMPTY(&q->wait))
		begin_step(q, q->free[--q->n_free], r);
	else
		STAILQ_INSERT_TAIL(&q->wait, r, link);
}

static void nbd_kick(struct disk_queue *dq)
{
	struct nbd_queue *q = container_of(dq, struct nbd_queue, base);
	struct relay_item *i = q->staged, *oldest = NULL;

	if (!i)
		return;
	q->staged = NULL;
	while (i) {
		struct relay_item *before = i->next;

		i->next = oldest;
		oldest = i;
		i = before;
	}
	while (oldest) {
		i = oldest;
		oldest = i->next;
		relay_push(&nbd_of(q)->inbox, i);
	}
	nbd_thread_wake(nbd_of(q));
}

/* The server has answered a step. @return true: the request is done, its result set. */
static bool end_step(struct nbd_queue *q, struct nbd_slot *s)
{
	struct disk_request *r = s->request;

	r->result = s->result;
	if (s->result)
		return true;
	if (r->op == DISK_READ)
		iov_scatter(r->iov, r->n_iov, s->buf, s->len);
	disk_request_advance(r, s->len);
	r->moved += s->len;
	if (r->op == DISK_FLUSH || r->moved == r->len)
		return true;
	if (q->ends)
		r->result = -ECANCELED;
	else
		begin_step(q, s, r);
	return q->ends;
}

static void free_slot(struct nbd_queue *q, struct nbd_slot *s)
{
	struct disk_request *next = STAILQ_FIRST(&q->wait);

	q->free[q->n_free++] = s;
	if (likely(!next) || q->ends)
		return;
	STAILQ_REMOVE_HEAD(&q->wait, link);
	begin_step(q, q->free[--q->n_free], next);
}

static unsigned nbd_reap(struct disk_queue *dq, struct disk_request **done, unsigned max)
{
	struct nbd_queue *q = container_of(dq, struct nbd_queue, base);
	struct relay_item *i;
	uint64_t bytes = 0;
	unsigned n = 0;

	while (unlikely(q->ends) && n < max && !STAILQ_EMPTY(&q->wait)) {
		done[n] = STAILQ_FIRST(&q->wait);
		done[n++]->result = -ECANCELED;
		STAILQ_REMOVE_HEAD(&q->wait, link);
	}
	while (n < max && bytes < REAP_BYTES && (i = relay_take(&q->relay))) {
		struct nbd_slot *s = container_of(i, struct nbd_slot, item);

		bytes += s->op == DISK_READ ? s->len : 0;
		done[n] = s->request;
		if (!end_step(q, s))
			continue;
		n++;
		free_slot(q, s);
	}
	nbd_kick(dq);
	return n;
}

static bool nbd_pending(const struct disk_queue *dq)
{
	struct nbd_queue *q = container_of((struct disk_queue *)dq, struct nbd_queue, base);

	return q->staged || (q->ends && !STAILQ_EMPTY(&q->wait)) || !relay_may_park(&q->relay);
}

/*
 * What has not been sent comes back, and what would have to be sent again. Of what a server has got
 * and not answered nobody can say that it will not happen.
 */
static bool nbd_cancel(struct disk_queue *dq, struct disk_request *r)
{
	struct nbd_queue *q = container_of(dq, struct nbd_queue, base);
	struct nbd_disk *d = nbd_of(q);

	if (!r || q->ends)
		return true;
	__atomic_store_n(&q->ends, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&d->some_end, true, __ATOMIC_SEQ_CST);
	nbd_thread_wake(d);
	return true;
}

/* The control thread's side. */

static int nbd_queue_open(struct disk *disk, struct poller *poller, struct disk_queue **out)
{
	struct nbd_disk *d = container_of(disk, struct nbd_disk, disk);
	struct nbd_queue *q = aligned_alloc(CACHE_LINE, sizeof(*q));
	int rc;

	if (!q)
		return -ENOMEM;
	*q = (struct nbd_queue) { .base = { disk, poller } };
	relay_init(&q->relay, poller);
	STAILQ_INIT(&q->wait);
	q->slots = calloc(NBD_SLOTS, sizeof(*q->slots));
	/* Takes memory as it is used, from the first one on. */
	q->mem = mmap(NULL, (size_t)NBD_SLOTS * NBD_STEP_MAX, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	rc = q->mem == MAP_FAILED || !q->slots ? -ENOMEM : 0;
	/* Not before: from here on it lives in the sandbox, as does who starts it. */
	if (rc == 0 && !d->has_thread)
		rc = nbd_thread_start(d);
	if (rc) {
		if (q->mem != MAP_FAILED)
			munmap(q->mem, (size_t)NBD_SLOTS * NBD_STEP_MAX);
		free(q->slots);
		free(q);
		return rc;
	}
	for (unsigned i = NBD_SLOTS; i-- > 0;) {
		q->slots[i].queue = q;
		q->slots[i].buf = q->mem + (size_t)i * NBD_STEP_MAX;
		q->free[q->n_free++] = &q->slots[i];
	}
	*out = &q->base;
	return 0;
}

static void nbd_queue_close(struct disk_queue *dq)
{
	struct nbd_queue *q = container_of(dq, struct nbd_queue, base);

	assert(q->n_free == NBD_SLOTS);
	munmap(q->mem, (size_t)NBD_SLOTS * NBD_STEP_MAX);
	free(q->slots);
	free(q);
}

static void nbd_close_disk(struct disk *disk)
{
	struct nbd_disk *d = container_of(disk, struct nbd_disk, disk);

	nbd_thread_stop(d);
	for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++)
		nbd_conn_close(&d->conns[i]);
	nbd_redo_close(&d->redo);
	nbd_address_free(&d->address);
	if (d->wake_fd >= 0)
		close(d->wake_fd);
	if (d->grown_fd >= 0)
		close(d->grown_fd);
	pthread_mutex_destroy(&d->shown_lock);
	free(d->own.buf);
	free(d->name);
	free(d);
}

static void set_ranges(struct nbd_disk *d, const struct blk_config *cfg)
{
	struct disk_info *info = &d->disk.info;

	if (cfg->read_only)
		return;
	info->discard_align = info->physical_size;
	if (d->facts.trim && !cfg->keep_space)
		info->discard_max = RANGE_MAX;
	if (d->facts.zero)
		info->zero_max = RANGE_MAX;
	info->zero_unmaps = !cfg->keep_space;
}

/* Nothing of what a server says is believed without a look. */
static int set_info(struct nbd_disk *d, const struct blk_config *cfg, struct error *err)
{
	struct disk_info *info = &d->disk.info;
	const struct nbd_facts *f = &d->facts;
	uint64_t block = MAX(f->min, UINT64_C(512));

	if (f->read_only && !cfg->read_only)
		return error_set(err, -EROFS,
				 "the NBD server's disk is read-only; say read_only: yes");
	if (block > BLOCK_MAX || !IS_POWER_OF_2(block))
		return error_set(
			err, -EINVAL,
			"the NBD server wants blocks of %llu bytes, and guests know none of "
			"more than %d; nbdkit --filter=blocksize makes them smaller",
			(unsigned long long)f->min, BLOCK_MAX);
	info->block_size = (uint32_t)block;
	info->size = ALIGN_DOWN(f->size, block);
	if (info->size == 0 || info->size > INT64_MAX)
		return error_set(err, -EINVAL, "the NBD server's disk has %llu bytes",
				 (unsigned long long)f->size);
	info->physical_size = info->block_size;
	if (f->preferred > block && f->preferred <= NBD_STEP_MAX && IS_POWER_OF_2(f->preferred))
		info->physical_size = (uint32_t)f->preferred;
	d->step_max = NBD_STEP_MAX;
	if (f->max && f->max < NBD_STEP_MAX)
		d->step_max = (uint32_t)ALIGN_DOWN(f->max, block);
	if (d->step_max == 0)
		return error_set(err, -EINVAL,
				 "the NBD server takes %llu bytes at most, less than one block",
				 (unsigned long long)f->max);
	info->align_mem = info->align_io = 1;
	info->burst = NBD_BURST;
	info->volatile_cache = f->flush && !cfg->read_only;
	set_ranges(d, cfg);
	return 0;
}

static void describe(struct nbd_disk *d)
{
	const struct nbd_address *a = &d->address;

	snprintf(d->disk.info.how, sizeof(d->disk.info.how), "NBD%s, %.48s%s%.8s, %u connection%s",
		 a->tls ? " by TLS" : "", a->path ? a->path : a->host, a->path ? "" : ":",
		 a->path ? "" : a->port, d->n_conns, d->n_conns == 1 ? "" : "s");
}

static int open_server(struct nbd_disk *d, const struct blk_config *cfg, struct error *err)
{
	int rc = nbd_address_parse(cfg->nbd, &d->address, err);

	if (rc == 0)
		rc = nbd_lib_load(err);
	if (rc == 0)
		rc = nbd_address_resolve(&d->address, err);
	if (rc == 0)
		rc = nbd_conn_wait(&d->conns[0], err);
	if (rc == 0)
		rc = nbd_conn_facts(&d->conns[0], &d->facts, err);
	if (rc == 0)
		rc = set_info(d, cfg, err);
	if (rc == 0 && d->disk.info.volatile_cache && cfg->cache != DISK_CACHE_UNSAFE) {
		rc = nbd_redo_open(&d->redo);
		if (rc)
			error_set(err, rc, "out of memory");
	}
	if (rc)
		return error_prefix(err, "disk %s", cfg->name);
	d->n_conns = cfg->connections ? cfg->connections : 1;
	if (d->n_conns > 1 && !d->facts.multi && !cfg->read_only) {
		/* A flush on one of them would not cover what went by the others. */
		log_warn("disk %s: the NBD server does not say that several connections see the "
			 "same "
			 "(NBD_FLAG_CAN_MULTI_CONN): one is used instead of %u",
			 cfg->name, d->n_conns);
		d->n_conns = 1;
	}
	d->size = d->disk.info.size;
	describe(d);
	return 0;
}

static int nbd_open_disk(const struct blk_config *cfg, struct disk **out, struct error *err)
{
	struct nbd_disk *d = aligned_alloc(CACHE_LINE, ALIGN_UP(sizeof(*d), CACHE_LINE));
	int rc;

	if (!d)
		return error_set(err, -ENOMEM, "disk %s: out of memory", cfg->name);
	*d = (struct nbd_disk) { .disk.ops = disk_kinds[DISK_NBD], .state = NBD_UP };
	d->reconnect_ns = cfg->reconnect_s * UINT64_C(1000000000);
	d->timeout_ns = cfg->timeout_s * UINT64_C(1000000000);
	TAILQ_INIT(&d->waiting);
	pthread_mutex_init(&d->shown_lock, NULL);
	for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++) {
		d->conns[i].disk = d;
		d->conns[i].fd = -1;
		TAILQ_INIT(&d->conns[i].in_flight);
		TAILQ_INIT(&d->conns[i].answered);
	}
	d->name = strdup(cfg->name);
	d->own.buf = malloc(NBD_STEP_MAX);
	d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->grown_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!d->name || !d->own.buf || d->wake_fd < 0 || d->grown_fd < 0)
		rc = error_set(err, -ENOMEM, "disk %s: out of memory or descriptors", cfg->name);
	else
		rc = open_server(d, cfg, err);
	if (rc)
		nbd_close_disk(&d->disk);
	else
		*out = &d->disk;
	return rc;
}

static int nbd_resize(struct disk *disk, uint64_t size, uint64_t *now, struct error *err)
{
	struct nbd_disk *d = container_of(disk, struct nbd_disk, disk);
	uint64_t there = __atomic_load_n(&d->size, __ATOMIC_ACQUIRE);

	if (size > there)
		return error_set(err, -EINVAL,
				 "disk %s: its NBD server has %llu bytes; make it larger there and "
				 "start the server anew",
				 d->name, (unsigned long long)there);
	*now = size ? size : there;
	return 0;
}

static int nbd_grown_fd(struct disk *disk)
{
	return container_of(disk, struct nbd_disk, disk)->grown_fd;
}

static void nbd_closing(struct disk *disk)
{
	struct nbd_disk *d = container_of(disk, struct nbd_disk, disk);

	/* The thread, if there is one, looks at least each 200 ms while anything is under way. */
	__atomic_store_n(&d->closing_ns, clock_ns(), __ATOMIC_RELAXED);
}

static uint64_t nbd_away(struct disk *disk, char *why, size_t bytes)
{
	struct nbd_disk *d = container_of(disk, struct nbd_disk, disk);
	uint64_t since = __atomic_load_n(&d->away_ns, __ATOMIC_RELAXED), now = clock_ns();

	pthread_mutex_lock(&d->shown_lock);
	snprintf(why, bytes, "%s", d->shown_why);
	pthread_mutex_unlock(&d->shown_lock);
	return since ? MAX(now, since + 1) - since : 0;
}

/*
 * A server may be shared. What a guest's daemon still knows of it is of use while that guest runs
 * here: once another host has written, it would be old data over new. A disk that is being closed
 * under its guest (sluiced is restarted) has its log done as long as it waits for the server.
 */
static int nbd_use(struct disk *disk, struct error *err)
{
	struct nbd_disk *d = container_of(disk, struct nbd_disk, disk);

	(void)err;
	__atomic_store_n(&d->idle, false, __ATOMIC_SEQ_CST);
	return 0;
}

static void nbd_idle(struct disk *disk)
{
	struct nbd_disk *d = container_of(disk, struct nbd_disk, disk);

	if (!__atomic_load_n(&d->closing_ns, __ATOMIC_RELAXED))
		__atomic_store_n(&d->idle, true, __ATOMIC_SEQ_CST);
}

/* A migration's destination finds there what was written here, and goes on from that. */
static void nbd_release(struct disk *disk)
{
	struct nbd_disk *d = container_of(disk, struct nbd_disk, disk);

	__atomic_store_n(&d->idle, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&d->forget, true, __ATOMIC_SEQ_CST);
	nbd_thread_wake(d);
}

const struct disk_ops disk_nbd = {
	.name = "nbd",
	.open = nbd_open_disk,
	.close = nbd_close_disk,
	.use = nbd_use,
	.idle = nbd_idle,
	.release = nbd_release,
	.resize = nbd_resize,
	.grown_fd = nbd_grown_fd,
	.away = nbd_away,
	.closing = nbd_closing,
	.queue_open = nbd_queue_open,
	.queue_close = nbd_queue_close,
	.submit = nbd_submit,
	.reap = nbd_reap,
	.kick = nbd_kick,
	.pending = nbd_pending,
	.cancel = nbd_cancel,
};
