/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/blk.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES sizeof(struct virtio_blk_outhdr)
#define SLOT_BYTES 32 /* header, status, and no two requests' status bytes side by side */
/* No status of any version (virtio 1.3 5.2.6: 0 to 6): it was not written. */
#define STATUS_POISON 0xdb

int guest_blk_read_config(struct frontend *f, struct virtio_blk_config *c)
{
	/*
	 * virtio 1.3 5.2.4: up to write_zeroes_may_unmap, as QEMU and cloud-hypervisor ask, and
	 * answer nothing else; with secure erase; with zones; up to num_queues; the capacity.
	 */
	static const uint32_t sizes[] = { 60, 72, 96, 36, 8 };

	return frontend_get_config_start(f, c, sizeof(*c), sizes, ARRAY_SIZE(sizes));
}

int guest_blk_open(struct guest_blk *b, struct frontend *f, unsigned queue)
{
	uint32_t size = f->queue[queue].ring.size;
	uint64_t gpa;
	uint8_t *host = guest_alloc(f->memory, (uint64_t)size * SLOT_BYTES, 64, &gpa);

	*b = (struct guest_blk) { .f = f, .queue = queue, .n_free = size };
	b->free = calloc(size, sizeof(*b->free));
	b->slots = calloc(size, sizeof(*b->slots));
	if (!host || !b->free || !b->slots) {
		guest_blk_close(b);
		return frontend_fail(f, -ENOMEM, "no memory for %u requests", size);
	}
	for (uint32_t i = 0; i < size; i++) {
		b->slots[i].gpa = gpa + i * SLOT_BYTES;
		b->slots[i].host = host + i * SLOT_BYTES;
		b->free[i] = size - 1 - i;
	}
	return 0;
}

void guest_blk_close(struct guest_blk *b)
{
	free(b->free);
	free(b->slots);
	b->free = NULL;
	b->slots = NULL;
}

static int add(struct guest_blk *b, const struct driver_seg *segs, unsigned n_out, unsigned n_in,
	       struct guest_blk_slot *s)
{
	struct driver_ring *r = &b->f->queue[b->queue].ring;
	int rc = r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, segs, n_out, n_in, s)
					   : driver_add(r, DRIVER_PACKED, segs, n_out, n_in, s);

	if (rc == 0)
		b->n_free--;
	return rc;
}

/* Whose answer need not fill the buffer. */
static bool is_question(uint32_t type)
{
	return type == VIRTIO_BLK_T_GET_ID || type == GUEST_BLK_T_GET_LIFETIME;
}

int guest_blk_submit(struct guest_blk *b, uint32_t type, uint64_t sector,
		     const struct driver_seg *data, unsigned n_data, void *cookie)
{
	struct driver_seg segs[GUEST_BLK_DATA_SEGS_MAX + 2];
	struct virtio_blk_outhdr h = { .type = type, .sector = sector };
	bool in = type == VIRTIO_BLK_T_IN || is_question(type);
	struct guest_blk_slot *s;
	uint64_t bytes = 0;

	if (n_data > GUEST_BLK_DATA_SEGS_MAX)
		return -EINVAL;
	if (b->n_free == 0)
		return -ENOSPC;
	s = &b->slots[b->free[b->n_free - 1]];
	memcpy(s->host, &h, sizeof(h));
	s->host[HEADER_BYTES] = STATUS_POISON;
	segs[0] = (struct driver_seg) { s->gpa, HEADER_BYTES };
	for (unsigned i = 0; i < n_data; i++) {
		segs[1 + i] = data[i];
		bytes += data[i].len;
	}
	segs[1 + n_data] = (struct driver_seg) { s->gpa + HEADER_BYTES, 1 };
	s->cookie = cookie;
	s->data_in = in ? bytes : 0;
	s->type = type;
	s->raw = false;
	return add(b, segs, in ? 1 : 1 + n_data, in ? n_data + 1 : 1, s);
}

int guest_blk_submit_raw(struct guest_blk *b, const struct driver_seg *segs, unsigned n_out,
			 unsigned n_in, void *cookie)
{
	struct guest_blk_slot *s;

	if (b->n_free == 0)
		return -ENOSPC;
	s = &b->slots[b->free[b->n_free - 1]];
	s->cookie = cookie;
	s->raw = true;
	return add(b, segs, n_out, n_in, s);
}

void guest_blk_kick(struct guest_blk *b)
{
	frontend_submit(b->f, b->queue);
}

static int finish(struct guest_blk *b, const struct driver_used *u, struct guest_blk_done *done)
{
	struct guest_blk_slot *s = u->cookie;

	b->free[b->n_free++] = s - b->slots;
	done->cookie = s->cookie;
	done->used_len = u->len;
	done->status = s->raw ? 0 : s->host[HEADER_BYTES];
	if (s->raw)
		return 1;
	if (done->status == STATUS_POISON)
		return frontend_fail(b->f, -EPROTO, "request of type %u: no status was written",
				     s->type);
	/* 2.7.8: len counts from the first writable byte on; all was written, data and status. */
	if (done->status == VIRTIO_BLK_S_OK && !is_question(s->type) && u->len != s->data_in + 1)
		return frontend_fail(b->f, -EPROTO,
				     "request of type %u: used length %u, %llu were written",
				     s->type, u->len, (unsigned long long)s->data_in + 1);
	return 1;
}

int guest_blk_poll(struct guest_blk *b, struct guest_blk_done *done)
{
	struct driver_used u;

	if (frontend_poll(b->f, b->queue, &u))
		return finish(b, &u, done);
	if (driver_violation(&b->f->queue[b->queue].ring))
		return frontend_fail(b->f, -EPROTO, "queue %u: %s", b->queue,
				     driver_violation(&b->f->queue[b->queue].ring));
	return 0;
}

int guest_blk_wait(struct guest_blk *b, struct guest_blk_done *done)
{
	struct driver_used u;
	int rc = frontend_wait_used(b->f, b->queue, &u);

	return rc < 0 ? rc : finish(b, &u, done);
}

int guest_blk_do(struct guest_blk *b, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
	struct driver_seg data = { .gpa = gpa, .len = len };
	struct guest_blk_done done;
	int rc = guest_blk_submit(b, type, sector, &data, len ? 1 : 0, NULL);

	if (rc < 0)
		return frontend_fail(b->f, rc, "queue %u is full", b->queue);
	guest_blk_kick(b);
	rc = guest_blk_wait(b, &done);
	return rc < 0 ? rc : done.status;
}
