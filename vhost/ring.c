/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/ring.h"

#include "base/clock.h"
#include "poll/control.h"

#include <errno.h>
#include <unistd.h>

/* vhost-user "Vring descriptor indices for packed virtqueues": two slots, each with a wrap counter.
 */
#define BASE_SLOT_MASK 0x7fffu
#define BASE_WRAP 0x8000u
#define BASE_USED_SHIFT 16

static const char *check(const struct ring_config *cfg)
{
	if (cfg->size == 0 || cfg->size > RING_SIZE_MAX)
		return "the queue size is not within 1 to 32768";
	if (cfg->layout == RING_SPLIT) {
		if (!IS_POWER_OF_2(cfg->size))
			return "the size of a split queue is not a power of two";
		if (cfg->base > UINT16_MAX)
			return "the ring base is beyond 65535";
		return NULL;
	}
	if ((cfg->base & BASE_SLOT_MASK) >= cfg->size ||
	    ((cfg->base >> BASE_USED_SHIFT) & BASE_SLOT_MASK) >= cfg->size)
		return "the ring base lies outside the queue";
	return NULL;
}

const char *ring_init(struct ring *r, const struct ring_config *cfg)
{
	struct ring_stats stats = r->stats;
	const char *why = check(cfg);

	if (why)
		return why;
	*r = (struct ring) { .map = cfg->map,
			     .both = cfg->both ? cfg->both : cfg->map,
			     .through = { cfg->read ? cfg->read : cfg->map,
					  cfg->write ? cfg->write : cfg->map },
			     .hints = cfg->hints,
			     .missed = cfg->missed,
			     .iommu = cfg->iommu,
			     .partial = cfg->partial,
			     .size = cfg->size,
			     .layout = cfg->layout,
			     .indirect = cfg->indirect,
			     .event_idx = cfg->event_idx,
			     .call_fd = -1,
			     .err_fd = -1,
			     .name = cfg->name,
			     .call_blocked_ns = cfg->call_blocked_ns,
			     .alarm = cfg->alarm,
			     .stats = stats };
	if (cfg->layout == RING_SPLIT) {
		r->split.desc = cfg->desc;
		r->split.avail = cfg->driver;
		r->split.used = cfg->device;
		r->avail_idx = r->avail_seen = (uint16_t)cfg->base;
		/* Nothing is in flight, but the driver may not have seen all: go on where it is. */
		r->used_idx = le16_relaxed(&r->split.used->idx);
		if (cfg->base_is_used)
			r->avail_idx = r->avail_seen = r->used_idx;
		ring_kicks_off(r, RING_SPLIT);
	} else {
		uint32_t used = cfg->base >> BASE_USED_SHIFT;

		r->packed.desc = cfg->desc;
		r->packed.driver = cfg->driver;
		r->packed.device = cfg->device;
		r->avail_idx = cfg->base & BASE_SLOT_MASK;
		r->avail_wrap = cfg->base & BASE_WRAP;
		r->used_idx = used & BASE_SLOT_MASK;
		r->used_wrap = used & BASE_WRAP;
		ring_kicks_off(r, RING_PACKED);
	}
	/* Only now: the log's descriptor may block, and nobody watches over the control thread. */
	r->log = cfg->log;
	if (r->log)
		ring_log_event_words(r);
	return NULL;
}

uint32_t ring_base(const struct ring *r)
{
	if (r->layout == RING_SPLIT)
		return r->avail_idx;
	return (uint32_t)(r->avail_idx | (r->avail_wrap ? BASE_WRAP : 0)) |
	       (uint32_t)(r->used_idx | (r->used_wrap ? BASE_WRAP : 0)) << BASE_USED_SHIFT;
}

/*
 * Has this device's front-end held up a worker? Then nothing more is written to its descriptors, so
 * that it cannot do so once for each queue.
 */
static bool call_blocked(const struct ring *r)
{
	return r->call_blocked_ns && __atomic_load_n(r->call_blocked_ns, __ATOMIC_RELAXED);
}

/*
 * The core has set O_NONBLOCK, and a full eventfd already says what we want to say (EAGAIN). EINTR
 * can only mean that the front-end has cleared the flag and that the watchdog (poll/watch.c) put an
 * end to it: a write that need not wait looks at no signal.
 */
static bool signal_fd(struct ring *r, int fd)
{
	const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) == sizeof(one))
		return true;
	if (errno == EINTR && r->call_blocked_ns)
		__atomic_store_n(r->call_blocked_ns, clock_ns(), __ATOMIC_RELAXED);
	return false;
}

bool ring_signal(struct ring *r, int fd)
{
	return !call_blocked(r) && signal_fd(r, fd);
}

void ring_break(struct ring *r, const char *why)
{
	if (r->broken)
		return;
	r->broken = why;
	if (r->alarm && !__atomic_exchange_n(&r->alarm->posted, true, __ATOMIC_ACQ_REL))
		control_call(&r->alarm->call);
	if (r->err_fd >= 0 && !call_blocked(r))
		signal_fd(r, r->err_fd);
}

static void stall(struct ring *r)
{
	r->stalled |= RING_MISSED;
	ring_want(r);
}

void ring_want(struct ring *r)
{
	if (!r->miss_told) {
		r->miss_told = true;
		r->missed(r);
	}
}

void ring_miss(struct ring *r, gpa_t addr, bool write, const char *why)
{
	if (!r->iommu) {
		ring_break(r, why);
		return;
	}
	r->miss = addr;
	r->miss_write = write;
	r->absent = NULL;
	stall(r);
}

void ring_wait(struct ring *r, const void *host)
{
	r->absent = host;
	stall(r);
}

/* No call and no error any more: whoever blocks one descriptor blocks the other too. */
static COLD void break_blocked(struct ring *r)
{
	r->call_fd = r->err_fd = -1;
	ring_break(r, "its call descriptor blocks");
}

void ring_call_now(struct ring *r)
{
	if (r->call_fd < 0)
		return; /* vhost-user SET_VRING_CALL, bit 8: the driver polls */
	if (unlikely(call_blocked(r))) {
		break_blocked(r);
	} else if (likely(signal_fd(r, r->call_fd))) {
		counter_add(&r->stats.calls, 1);
	} else {
		counter_add(&r->stats.calls_failed, 1);
		if (errno == EINTR)
			break_blocked(r);
	}
}

bool ring_read_desc_slow(struct ring *r, gpa_t addr, uint8_t bytes[16])
{
	for (unsigned done = 0; done < 16;) {
		uint64_t piece = 16 - done;
		const uint8_t *host = ring_resolve(r, addr + done, &piece, false,
						   "indirect table outside guest memory");

		if (!host)
			return false;
		for (unsigned i = 0; i < piece; i++) /* once: the driver may be writing there */
			bytes[done + i] = __atomic_load_n(&host[i], __ATOMIC_RELAXED);
		done += (unsigned)piece;
	}
	return true;
}

uint64_t ring_desc_bytes(enum ring_layout layout, uint32_t size)
{
	(void)layout; /* 16 bytes in both */
	return (uint64_t)size * sizeof(struct vring_desc);
}

uint64_t ring_driver_bytes(enum ring_layout layout, uint32_t size, bool event_idx)
{
	if (layout == RING_PACKED)
		return sizeof(struct vring_packed_desc_event);
	return sizeof(struct vring_avail) + size * sizeof(uint16_t) +
	       (event_idx ? sizeof(uint16_t) : 0);
}

uint64_t ring_device_bytes(enum ring_layout layout, uint32_t size, bool event_idx)
{
	if (layout == RING_PACKED)
		return sizeof(struct vring_packed_desc_event);
	return sizeof(struct vring_used) + size * sizeof(struct vring_used_elem) +
	       (event_idx ? sizeof(uint16_t) : 0);
}
