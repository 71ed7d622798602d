/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/driver_ring.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Each area on cache lines of its own, so that neither side's writes disturb the other's reads. */
#define AREA_ALIGN 128u

struct areas {
	uint64_t driver, device, tables, end; /* offsets; descriptors are at 0 */
};

static struct areas area_offsets(enum driver_layout layout, uint32_t size, uint32_t indirect_segs)
{
	struct areas a;
	uint64_t driver_bytes = 4, device_bytes = 4;

	if (layout == DRIVER_SPLIT) {
		driver_bytes = 6 + 2 * (uint64_t)size;
		device_bytes = 6 + 8 * (uint64_t)size;
	}
	a.driver = ALIGN_UP(16 * (uint64_t)size, AREA_ALIGN);
	a.device = ALIGN_UP(a.driver + driver_bytes, AREA_ALIGN);
	a.tables = ALIGN_UP(a.device + device_bytes, AREA_ALIGN);
	a.end = ALIGN_UP(a.tables + 16 * (uint64_t)size * indirect_segs, AREA_ALIGN);
	return a;
}

uint64_t driver_ring_bytes(enum driver_layout layout, uint32_t size, uint32_t indirect_segs)
{
	return area_offsets(layout, size, indirect_segs).end;
}

static bool set_base(struct driver_ring *r, uint32_t base)
{
	if (r->layout == DRIVER_SPLIT) {
		r->avail_idx = r->avail_public = r->used_idx = r->used_seen = base;
		r->split.avail->idx = r->split.used->idx = base;
		return base <= UINT16_MAX;
	}
	r->avail_idx = r->avail_public = base & 0x7fff;
	r->avail_wrap = base & 0x8000;
	r->used_idx = base >> 16 & 0x7fff;
	r->used_wrap = base >> 31;
	/*
	 * The descriptors before this place count as used in this round and the rest as used in the
	 * round before, as a ring that ran up to here would have left them.
	 */
	for (uint32_t i = 0; i < r->size; i++)
		if ((i < r->avail_idx) == r->avail_wrap)
			r->packed.desc[i].flags = DRIVER_PACKED_AVAIL | DRIVER_PACKED_USED;
	return r->avail_idx < r->size && r->avail_idx == r->used_idx &&
	       r->avail_wrap == r->used_wrap;
}

int driver_ring_init(struct driver_ring *r, const struct driver_config *cfg)
{
	uint32_t segs = cfg->indirect == DRIVER_DIRECT ? 0 : cfg->indirect_segs;
	struct areas a = area_offsets(cfg->layout, cfg->size, segs);
	uint8_t *area = cfg->area;

	memset(r, 0, sizeof(*r));
	if (cfg->size == 0 || cfg->size > 32768 || !IS_ALIGNED((uintptr_t)area, 64) ||
	    (cfg->layout == DRIVER_SPLIT && !IS_POWER_OF_2(cfg->size)))
		return -EINVAL;
	r->slots = calloc(cfg->size, sizeof(*r->slots));
	r->next = calloc(cfg->size, sizeof(*r->next));
	r->order = calloc(cfg->size, sizeof(*r->order));
	if (!r->slots || !r->next || !r->order) {
		driver_ring_fini(r);
		return -ENOMEM;
	}
	memset(area, 0, a.end);
	r->layout = cfg->layout;
	r->indirect = cfg->indirect;
	r->event_idx = cfg->event_idx;
	r->ignores_reserved_len = cfg->ignores_reserved_len;
	r->in_order = cfg->in_order;
	r->takes_batches = cfg->in_order && cfg->takes_batches;
	r->free_tail = (uint16_t)(cfg->size - 1);
	r->size = r->n_free = cfg->size;
	r->indirect_segs = segs;
	r->tables = area + a.tables;
	r->tables_gpa = cfg->area_gpa + a.tables;
	if (cfg->layout == DRIVER_SPLIT) {
		r->split.desc = (void *)area;
		r->split.avail = (void *)(area + a.driver);
		r->split.used = (void *)(area + a.device);
	} else {
		r->packed.desc = (void *)area;
		r->packed.driver = (void *)(area + a.driver);
		r->packed.device = (void *)(area + a.device);
	}
	for (uint32_t i = 0; i < cfg->size; i++)
		r->next[i] = (i + 1) % cfg->size;
	if (!set_base(r, cfg->base)) {
		driver_ring_fini(r);
		return -EINVAL;
	}
	driver_ring_calls_on(r);
	return 0;
}

bool driver_ring_has_used(const struct driver_ring *r)
{
	return r->layout == DRIVER_SPLIT ? driver_has_used(r, DRIVER_SPLIT)
					 : driver_has_used(r, DRIVER_PACKED);
}

bool driver_ring_calls_on(struct driver_ring *r)
{
	return r->layout == DRIVER_SPLIT ? driver_calls_on(r, DRIVER_SPLIT)
					 : driver_calls_on(r, DRIVER_PACKED);
}

void driver_ring_fini(struct driver_ring *r)
{
	free(r->slots);
	free(r->next);
	free(r->order);
	r->slots = NULL;
	r->next = r->order = NULL;
}

const char *driver_violation(const struct driver_ring *r)
{
	return r->broken ? r->violation : NULL;
}

void driver_violated(struct driver_ring *r, const char *fmt, ...)
{
	va_list args;

	if (r->broken) /* The first is the cause, what follows may be its consequence. */
		return;
	r->broken = true;
	va_start(args, fmt);
	vsnprintf(r->violation, sizeof(r->violation), fmt, args);
	va_end(args);
}

void *driver_desc_area(const struct driver_ring *r)
{
	return r->layout == DRIVER_SPLIT ? (void *)r->split.desc : (void *)r->packed.desc;
}

void *driver_driver_area(const struct driver_ring *r)
{
	return r->layout == DRIVER_SPLIT ? (void *)r->split.avail : (void *)r->packed.driver;
}

void *driver_device_area(const struct driver_ring *r)
{
	return r->layout == DRIVER_SPLIT ? (void *)r->split.used : (void *)r->packed.device;
}
