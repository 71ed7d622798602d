/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio-blk device: the life of its queues and of itself. All of it on the control thread; what
 * its queues do on the workers stands in blk_poll.c.
 */
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "blk/device_impl.h"
#include "blk/disk_file.h"
#include "vhost/disposal.h"
#include "vhost/state_blob.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The life of a queue. */

/*
 * The last queue has stopped on a guest that migrates: what it wrote is on the medium, and the
 * image is the destination's. Without a migration the image stays ours, whatever the guest does.
 */
static void handed_over(struct last_flush *f)
{
	struct blk_device *b = container_of(f, struct blk_device, flush);
	struct virtqueue *vq = b->parting;

	if (f->result)
		log_error("disk %s: the flush before its guest migrates failed: %s; the "
			  "destination may miss writes since the guest's own last flush",
			  b->cfg.name, strerror(-f->result));
	b->parting = NULL;
	b->disk->ops->release(b->disk);
	vhost_queue_stopped(vq);
}

static void flush_device(struct blk_device *b, void (*then)(struct last_flush *f))
{
	b->flush.result = 0;
	if (b->cfg.read_only)
		then(&b->flush);
	else
		last_flush_begin(&b->flush, b->disk, b->vhost.workers, then);
}

static void queue_gone(struct blk_device *b, struct virtqueue *vq)
{
	b->n_running--;
	if (b->n_running == 0 && b->disk->ops->release && vhost_is_migrating(&b->vhost)) {
		b->parting = vq;
		flush_device(b, handed_over);
		return;
	}
	/* Whether the guest comes back nobody knows. Its next run need not wait for this. */
	if (b->n_running == 0 && b->disk->ops->idle) {
		b->disk->ops->idle(b->disk);
		blk_settle(b);
	}
	vhost_queue_stopped(vq);
}

/* Off the worker; then on to the next one, or the ring back to the core. */
static void queue_drained(struct call *c)
{
	struct blk_queue *q = container_of(c, struct blk_queue, drained_call);
	struct virtqueue *vq = q->vq;

	worker_remove(&q->poller);
	/* A stop that came during a move has what is held to send first, from there. */
	if (!q->stopping || (blk_queue_held(q) && !q->leaving)) {
		q->draining = q->drained = false;
		vq->worker = q->move_to;
		q->move_to = NULL;
		worker_add(vq->worker, &q->poller);
		if (q->stopping)
			blk_queue_stop(vq->device, vq);
		return;
	}
	/* What it left is not its any more. */
	__atomic_store_n(&q->stats->in_flight, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&q->stats->held_now, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&q->stats->fault.waiting, 0, __ATOMIC_RELAXED);
	blk_queue_free(q);
	vq->priv = NULL;
	queue_gone(blk_of(vq->device), vq);
}

void blk_update_queues(struct blk_device *b)
{
	struct request_limits l;

	blk_queue_limits(b, &l);
	for (unsigned i = 0; i < b->vhost.n_queues; i++)
		blk_queue_update(&b->vhost.queues[i], &l);
}

static int disk_use(struct blk_device *b)
{
	struct error err = { 0 };
	int rc = b->disk->ops->use ? b->disk->ops->use(b->disk, &err) : 0;

	if (rc)
		log_error("disk %s: no guest can use it: %s", b->cfg.name, err.text);
	return rc;
}

static int blk_queue_start(struct vhost_device *d, struct virtqueue *vq)
{
	struct blk_device *b = blk_of(d);
	struct blk_queue *q;
	int rc = disk_use(b);

	if (rc)
		return rc;
	q = aligned_alloc(CACHE_LINE, ALIGN_UP(sizeof(*q), CACHE_LINE));
	if (!q)
		return -ENOMEM;
	memset(q, 0, sizeof(*q));
	q->vq = vq;
	q->ring = &vq->ring;
	q->size = vq->ring.size;
	q->disk = b->disk;
	q->stats = &b->stats[vq->index];
	q->drained_call.fn = queue_drained;
	blk_queue_limits(b, &q->limits);
	q->throttle.limit = b->limit;
	q->failed.keep = b->cfg.on_error == DISK_ERROR_STOP;
	q->throttle.active = b->limit;
	q->poller.share = b->cfg.limits.share;

	q->ops = blk_poller_ops[vq->ring.layout];
	/* vhost-user, SET_VRING_KICK without a descriptor: there are no kicks, so never wait for
	 * one. */
	if (vq->setup.kick_fd < 0)
		q->ops.arm = NULL;
	q->poller.ops = &q->ops;
	q->poller.event_fd = vq->setup.kick_fd;
	q->poller.event_is_counter = true;
	STAILQ_INIT(&q->poller.done);
	rc = blk_queue_alloc(q);
	if (rc) {
		blk_queue_free(q);
		return rc;
	}

	vq->priv = q;
	vq->worker = vhost_queue_pick(vq);
	b->n_running++;
	vq->poller = &q->poller;
	worker_add(vq->worker, &q->poller);
	return 0;
}

/* A front-end that announced itself by --fd is gone. */
static void blk_hung_up(struct vhost_device *d)
{
	struct blk_device *b = blk_of(d);

	if (b->hung_up)
		b->hung_up(b->hung_up_arg);
}

static const uint16_t state_fields[] = { STATE_BLK_CAPACITY, STATE_BLK_WRITEBACK };

static void blk_save_state(struct vhost_device *d, struct state_blob *state)
{
	const struct blk_device *b = blk_of(d);
	uint64_t capacity = htole64(b->disk->info.size);
	uint8_t writeback = b->writeback;

	state_begin(state, VIRTIO_ID_BLOCK);
	state_put(state, STATE_BLK_CAPACITY, &capacity, sizeof(capacity));
	state_put(state, STATE_BLK_WRITEBACK, &writeback, sizeof(writeback));
}

/* A disk keeps nothing but its image; whether that is the same one, its size tells best. */
static int blk_load_state(struct vhost_device *d, const struct state_blob *state, struct error *err)
{
	struct blk_device *b = blk_of(d);
	uint64_t capacity;
	uint8_t writeback;

	if (state_check(state, VIRTIO_ID_BLOCK, state_fields, ARRAY_SIZE(state_fields), err) < 0)
		return err->code;
	if (!state_get(state, STATE_BLK_CAPACITY, &capacity, sizeof(capacity)))
		return error_set(err, -EBADMSG, "the state does not say how large the disk is");
	if (le64toh(capacity) != b->disk->info.size)
		return error_set(err, -EINVAL,
				 "the source's disk has %llu bytes, and disk %s has %llu: give it "
				 "the same image",
				 (unsigned long long)le64toh(capacity), b->cfg.name,
				 (unsigned long long)b->disk->info.size);
	if (!state_get(state, STATE_BLK_WRITEBACK, &writeback, sizeof(writeback)))
		return 0; /* of one who does not let its guest choose */
	if (writeback > 1)
		return error_set(err, -EBADMSG, "the state says %u of the write cache: 0 or 1",
				 writeback);
	if (b->disk->info.volatile_cache)
		blk_choose_writeback(b, writeback);
	return 0;
}

/*
 * The next front-end's guest has chosen nothing yet, or else it brings a note of it. Where the lock
 * was taken for a guest, it goes with the guest.
 */
static void blk_disconnected(struct vhost_device *d)
{
	struct blk_device *b = blk_of(d);

	b->writeback = blk_default_writeback(b);
	if (b->cfg.lock == DISK_LOCK_RUN && b->disk->ops->release)
		b->disk->ops->release(b->disk);
}

static const struct vhost_device_ops blk_ops = {
	.kind = "blk",
	.runs_disabled = false,
	.in_order = false,
	.inflight = true,
	.features = blk_features,
	.set_features = blk_set_features,
	.config_size = BLK_CONFIG_SIZE,
	.get_config = blk_get_config,
	.set_config = blk_set_config,
	.queue_start = blk_queue_start,
	.queue_stop = blk_queue_stop,
	.queue_move = blk_queue_move,
	.queue_uses = blk_queue_uses,
	.save_state = blk_save_state,
	.load_state = blk_load_state,
	.inflight_note = blk_inflight_note,
	.disconnected = blk_disconnected,
};

/* The life of a device. */

static void config_free(struct blk_config *cfg)
{
	free((char *)cfg->name);
	free((char *)cfg->file);
	free((char *)cfg->nbd);
	free((char *)cfg->serial);
}

static int config_copy(struct blk_config *to, const struct blk_config *from)
{
	*to = *from;
	to->name = strdup(from->name);
	to->file = from->file ? strdup(from->file) : NULL;
	to->nbd = from->nbd ? strdup(from->nbd) : NULL;
	to->serial = from->serial ? strdup(from->serial) : strndup(from->name, BLK_ID_BYTES);
	if (!to->name || !to->serial || (from->file && !to->file) || (from->nbd && !to->nbd))
		return -ENOMEM;
	return 0;
}

static int config_check(const struct blk_config *cfg, struct error *err)
{
	if (cfg->queues < 1 || cfg->queues > BLK_QUEUES_MAX)
		return error_set(err, -EINVAL, "disk %s: queues is %u; choose 1 to %u", cfg->name,
				 cfg->queues, BLK_QUEUES_MAX);
	if (cfg->serial && strlen(cfg->serial) > BLK_ID_BYTES)
		return error_set(err, -EINVAL,
				 "disk %s: serial \"%s\" is longer than %d bytes; shorten it",
				 cfg->name, cfg->serial, BLK_ID_BYTES);
	if (cfg->kind == DISK_FILE && !cfg->file)
		return error_set(err, -EINVAL, "disk %s: no file is named; give file: PATH",
				 cfg->name);
	return 0;
}

static void device_free(struct blk_device *b)
{
	if (b->vhost.ops)
		vhost_device_fini(&b->vhost);
	sd_event_source_disable_unref(b->grown);
	if (b->disk)
		b->disk->ops->close(b->disk);
	config_free(&b->cfg);
	free(b->stats);
	free(b->limit);
	free(b);
}

static void socket_release(struct vhost_socket *s)
{
	free(s->path);
	free(s->group);
	if (s->fd >= 0) /* maybe a client's, and of any kind */
		disposal_close(NULL, s->fd);
}

/* @return 0 and *@out, NULL where there are none. */
static int limits_make(const struct blk_config *cfg, const struct blk_limits *limits,
		       struct limit **out, struct error *err)
{
	struct limit l;

	*out = NULL;
	limit_init(&l, limits, clock_ns());
	if (l.n == 0)
		return 0;
	*out = aligned_alloc(CACHE_LINE, sizeof(**out));
	if (!*out)
		return error_set(err, -ENOMEM, "disk %s: out of memory", cfg->name);
	**out = l;
	return 0;
}

static int device_init(struct blk_device *b, const struct blk_config *cfg, struct workers *workers,
		       struct error *err)
{
	int rc = config_check(cfg, err);

	if (rc)
		return rc;
	rc = config_copy(&b->cfg, cfg);
	if (rc)
		return error_set(err, rc, "disk %s: out of memory", cfg->name);
	b->stats = aligned_alloc(CACHE_LINE, cfg->queues * sizeof(*b->stats));
	if (!b->stats)
		return error_set(err, -ENOMEM, "disk %s: out of memory", cfg->name);
	memset(b->stats, 0, cfg->queues * sizeof(*b->stats));
	rc = limits_make(cfg, &cfg->limits, &b->limit, err);
	if (rc)
		return rc;
	rc = disk_kinds[cfg->kind]->open(&b->cfg, &b->disk, err);
	if (rc)
		return rc;
	rc = vhost_device_init(&b->vhost, &blk_ops, cfg->name, cfg->queues, workers, err);
	if (rc) {
		b->vhost.ops = NULL;
		return rc;
	}
	rc = blk_watch_size(b, err);
	if (rc)
		return rc;
	b->writeback = blk_default_writeback(b);
	b->vhost.queue_num = cfg->queues;
	b->vhost.closed = blk_hung_up;
	return 0;
}

int blk_device_create(const struct blk_config *cfg, struct workers *workers,
		      struct blk_device **out, struct error *err)
{
	struct vhost_socket socket = cfg->socket;
	struct blk_device *b = calloc(1, sizeof(*b));
	int rc;

	if (!b) {
		image_drop(cfg->image);
		socket_release(&socket);
		return error_set(err, -ENOMEM, "disk %s: out of memory", cfg->name);
	}
	rc = device_init(b, cfg, workers, err);
	image_drop(cfg->image); /* what was not taken */
	b->cfg.image = NULL;
	if (rc) {
		socket_release(&socket);
		goto fail;
	}
	rc = vhost_device_serve(&b->vhost, &socket, err);
	if (rc)
		goto fail;
	b->cfg.socket = b->vhost.socket;
	*out = b;
	return 0;
fail:
	device_free(b);
	return rc;
}

static void device_gone(struct blk_device *b)
{
	void (*closed)(void *arg) = b->closed;
	void *arg = b->closed_arg;

	device_free(b);
	closed(arg);
}

static void closing_flushed(struct last_flush *f)
{
	struct blk_device *b = container_of(f, struct blk_device, flush);

	if (f->result)
		log_error("disk %s: the last flush failed: %s; writes since the guest's own last "
			  "flush may be lost",
			  b->cfg.name, strerror(-f->result));
	device_gone(b);
}

void blk_go_on_closing(struct blk_device *b)
{
	if (b->close_asked && !b->settling && !b->old)
		flush_device(b, closing_flushed);
}

static void settled(struct last_flush *f)
{
	struct blk_device *b = container_of(f, struct blk_device, settle);

	if (f->result)
		log_error("disk %s: what its guest wrote before it asked for durable writes, or "
			  "before it stopped, could not be flushed: %s",
			  b->cfg.name, strerror(-f->result));
	b->settling = false;
	if (b->settle_again && !b->close_asked)
		blk_settle(b);
	blk_go_on_closing(b);
}

void blk_settle(struct blk_device *b)
{
	if (b->cfg.cache == DISK_CACHE_UNSAFE)
		return;
	/* One that is under way may have begun before the last write that matters here. */
	b->settle_again = b->settling;
	if (b->settling)
		return;
	b->settling = true;
	last_flush_begin(&b->settle, b->disk, b->vhost.workers, settled);
}

/* Nothing runs any more. What the guest wrote and did not flush is flushed now. */
static void blk_vhost_closed(struct vhost_device *d)
{
	struct blk_device *b = blk_of(d);

	b->close_asked = true;
	blk_go_on_closing(b);
}

void blk_device_close(struct blk_device *b, void (*closed)(void *arg), void *arg)
{
	b->closed = closed;
	b->closed_arg = arg;
	if (b->disk->ops->closing)
		b->disk->ops->closing(b->disk);
	vhost_device_close(&b->vhost, blk_vhost_closed);
}

/* What the daemon asks. */

const struct vhost_device *blk_device_vhost(const struct blk_device *b)
{
	return &b->vhost;
}

void blk_device_on_closed(struct blk_device *b, void (*fn)(void *arg), void *arg)
{
	b->hung_up = fn;
	b->hung_up_arg = arg;
}

static void add_faults(const struct blk_fault *f, uint64_t now, struct blk_stats *out)
{
	int error = __atomic_load_n(&f->error, __ATOMIC_RELAXED);
	uint64_t ago = now - __atomic_load_n(&f->last_ns, __ATOMIC_RELAXED);
	uint32_t waiting = __atomic_load_n(&f->waiting, __ATOMIC_RELAXED);

	if (error && (!out->fault_error || ago < out->fault_ago_ns)) {
		out->fault_error = error;
		out->fault_ago_ns = ago;
		out->fault_kind = blk_kind_name(__atomic_load_n(&f->kind, __ATOMIC_RELAXED));
		out->fault_sector = __atomic_load_n(&f->sector, __ATOMIC_RELAXED);
	}
	if (!waiting)
		return;
	out->waiting += waiting;
	out->waiting_ns = MAX(out->waiting_ns,
			      now - __atomic_load_n(&f->since_ns, __ATOMIC_RELAXED));
}

void blk_device_stats(const struct blk_device *b, struct blk_stats *out)
{
	uint64_t now = clock_ns();

	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < b->cfg.queues; i++) {
		const struct blk_queue_stats *s = &b->stats[i];
		const struct ring_stats *r = &b->vhost.queues[i].ring.stats;

		out->reads += counter_read(&s->ok[REQUEST_READ]);
		out->writes += counter_read(&s->ok[REQUEST_WRITE]);
		out->flushes += counter_read(&s->ok[REQUEST_FLUSH]);
		out->discards += counter_read(&s->ok[REQUEST_DISCARD]);
		out->zeroes += counter_read(&s->ok[REQUEST_ZERO]);
		out->erases += counter_read(&s->ok[REQUEST_SECURE_ERASE]);
		out->get_ids += counter_read(&s->ok[REQUEST_GET_ID]);
		out->get_lifetimes += counter_read(&s->ok[REQUEST_GET_LIFETIME]);
		out->read_bytes += counter_read(&s->read_bytes);
		out->write_bytes += counter_read(&s->write_bytes);
		out->discarded_bytes += counter_read(&s->discarded_bytes);
		out->zeroed_bytes += counter_read(&s->zeroed_bytes);
		out->erased_bytes += counter_read(&s->erased_bytes);
		out->errors += counter_read(&s->errors);
		out->unsupported += counter_read(&s->unsupported);
		out->malformed += counter_read(&s->malformed);
		out->in_flight += counter_read(&s->in_flight);
		out->bounced += counter_read(&s->bounced);
		out->held += counter_read(&s->held);
		add_faults(&s->fault, now, out);
		if (counter_read(&s->in_flight))
			blk_queue_slow(&b->vhost.queues[i], BLK_SLOW_S * UINT64_C(1000000000), out);
		out->held_now += counter_read(&s->held_now);
		out->throttled_ns += counter_read(&s->throttled_ns);
		out->kicks_on += counter_read(&r->kicks_on);
		out->calls += counter_read(&r->calls);
		out->calls_spared += counter_read(&r->calls_spared);
	}
	if (b->disk)
		out->lost_error = __atomic_load_n(&b->disk->lost, __ATOMIC_RELAXED);
	if (b->disk && b->disk->ops->away)
		out->away_ns = b->disk->ops->away(b->disk, out->away_why, sizeof(out->away_why));
}

const struct blk_config *blk_device_config(const struct blk_device *b)
{
	return &b->cfg;
}

uint64_t blk_device_retry(struct blk_device *b)
{
	struct blk_stats s;

	blk_device_stats(b, &s);
	for (unsigned i = 0; i < b->vhost.n_queues; i++)
		blk_queue_retry(&b->vhost.queues[i]);
	return s.waiting;
}

int blk_device_limit(struct blk_device *b, const struct blk_limits *limits, struct error *err)
{
	struct limit *old = b->limit, *l;
	int rc = limits_make(&b->cfg, limits, &l, err);

	if (rc)
		return rc;
	b->limit = l;
	b->cfg.limits = *limits;
	for (unsigned i = 0; i < b->vhost.n_queues; i++)
		blk_queue_limit(&b->vhost.queues[i], l, limits->share);
	free(old);
	return 0;
}

uint64_t blk_device_capacity(const struct blk_device *b)
{
	return b->disk->info.size;
}

const char *blk_device_how(const struct blk_device *b)
{
	return b->disk->info.how;
}
