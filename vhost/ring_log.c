/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/ring_log.h"

#include "vhost/ring.h"

#include <linux/virtio_ring.h>

bool mem_find_host(const struct mem_map *map, const void *host, unsigned *hint, gpa_t *gpa)
{
	const uint8_t *at = host;

	for (unsigned i = 0; i < map->n; i++) {
		unsigned guess = (*hint + i) % map->n;
		const struct mem_region *r = &map->region[guess];

		if (at >= r->host && (uint64_t)(at - r->host) < r->size) {
			*hint = guess;
			*gpa = r->gpa + (uint64_t)(at - r->host);
			return true;
		}
	}
	return false;
}

/* Sets the bits of pages @first to @last, a byte of the log at a time. */
static void set_bits(struct ring_log *log, uint64_t first, uint64_t last)
{
	/* Each range against the log as it is now: the front-end chose both. */
	if (last >= log->n_pages) {
		counter_add(&log->missed, last - MAX(first, log->n_pages) + 1);
		if (first >= log->n_pages)
			return;
		last = log->n_pages - 1;
	}
	while (first <= last) {
		uint64_t end = MIN(last, first | 7);
		unsigned mask = (0xffu << (first & 7)) & (0xffu >> (7 - (end & 7)));

		/* Pairs with the front-end's exchange; see the header. */
		__atomic_fetch_or(&log->bits[first / 8], (uint8_t)mask, __ATOMIC_RELEASE);
		first = end + 1;
	}
	log->call_due = true;
}

static void log_gpa(struct ring_log *log, gpa_t gpa, uint64_t len)
{
	uint64_t last = len - 1 > UINT64_MAX - gpa ? UINT64_MAX : gpa + len - 1;

	set_bits(log, gpa >> LOG_PAGE_SHIFT, last >> LOG_PAGE_SHIFT);
}

static void log_host(struct ring *r, const void *host, uint64_t len)
{
	gpa_t gpa;

	/* By the map and not by what the driver wrote: that may have changed since. */
	if (len && mem_find_host(r->map, host, &r->log->hint, &gpa))
		log_gpa(r->log, gpa, len);
}

void ring_log_write(struct ring *r, const void *host, uint64_t len)
{
	if (r->log->data)
		log_host(r, host, len);
}

void ring_log_iov(struct ring *r, const struct iovec *iov, unsigned n, uint64_t len)
{
	if (!r->log->data)
		return;
	for (unsigned i = 0; i < n && len; i++) {
		uint64_t piece = MIN((uint64_t)iov[i].iov_len, len);

		log_host(r, iov[i].iov_base, piece);
		len -= piece;
	}
}

/* [@offset, @offset + @len) of the device area. */
static void log_device_area(struct ring *r, uint64_t offset, uint64_t len)
{
	if (r->log->device_area && offset <= UINT64_MAX - r->log->device_gpa)
		log_gpa(r->log, r->log->device_gpa + offset, len);
}

/*
 * Entries [@first, @first + @n) of an array of @size elements of @bytes each, which wraps around:
 * as one or two ranges for @log.
 */
static void log_turn(struct ring *r, uint32_t first, uint32_t n, uint32_t bytes,
		     void (*log)(struct ring *r, uint64_t offset, uint64_t len))
{
	uint32_t straight = MIN(n, r->size - first);

	log(r, (uint64_t)first * bytes, (uint64_t)straight * bytes);
	if (n > straight)
		log(r, 0, (uint64_t)(n - straight) * bytes);
}

static void log_used(struct ring *r, uint64_t offset, uint64_t len)
{
	log_device_area(r, offsetof(struct vring_used, ring) + offset, len);
}

/* SET_VRING_ADDR's log address is that of the device area; the descriptors are found in the map. */
static void log_descs(struct ring *r, uint64_t offset, uint64_t len)
{
	log_host(r, (const uint8_t *)r->packed.desc + offset, len);
}

void ring_log_staged(struct ring *r)
{
	uint32_t first, n;

	if (r->layout == RING_SPLIT) {
		first = (uint16_t)(r->used_idx - r->staged) & (r->size - 1);
		log_turn(r, first, r->staged, sizeof(struct vring_used_elem), log_used);
		return;
	}
	/* The slots between the descriptors that were written, too: a page more at most. */
	first = r->staged_slot;
	n = r->used_idx > first ? r->used_idx - first : r->size - first + r->used_idx;
	log_turn(r, first, n, sizeof(struct vring_packed_desc), log_descs);
}

static void log_call(struct ring *r)
{
	if (!r->log->call_due)
		return;
	r->log->call_due = false;
	if (r->log->call_fd >= 0)
		ring_signal(r, r->log->call_fd);
}

void ring_log_published(struct ring *r)
{
	if (r->layout == RING_SPLIT)
		log_device_area(r, offsetof(struct vring_used, idx), sizeof(uint16_t));
	else
		log_descs(r, (uint64_t)r->staged_slot * sizeof(struct vring_packed_desc),
			  sizeof(struct vring_packed_desc));
	log_call(r);
}

void ring_log_event_words(struct ring *r)
{
	if (r->layout == RING_PACKED) {
		log_device_area(r, 0, sizeof(struct vring_packed_desc_event));
	} else {
		log_device_area(r, offsetof(struct vring_used, flags), sizeof(uint16_t));
		if (r->event_idx)
			log_used(r, (uint64_t)r->size * sizeof(struct vring_used_elem),
				 sizeof(uint16_t));
	}
}

void ring_log_kicks(struct ring *r)
{
	ring_log_event_words(r);
	log_call(r);
}
