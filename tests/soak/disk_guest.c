/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest with a disk. Each of its requests has a piece of the disk to itself, so that what a read
 * must find is known to the byte. A device that lets go of a ring has answered whatever it took, or
 * left it undone in the in-flight buffer: a write that came back is on the disk, one that did not
 * never gets there.
 */
#include "base/error.h"
#include "blk/blk.h"
#include "tests/guest/blk.h"
#include "tests/soak/soak.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUEUES 2
#define SLOTS 16 /* requests of a queue */
#define SECTOR 512
#define SECTORS 16 /* of a slot */
#define BYTES (SECTORS * SECTOR)
#define DISK_BYTES MIB
#define PIECES_MAX 3

struct slot {
	unsigned sector;			     /* on the disk, the first of its own */
	uint32_t written[SECTORS], writing[SECTORS]; /* generations; 0: zeroes */
	struct {
		uint8_t *host;
		uint64_t gpa;
	} buffer[1 + EXTRA_N]; /* in memory that stays, and in each extra region */

	bool busy;
	uint32_t type;
	unsigned first, n; /* sectors of it that the request concerns */
	unsigned in;	   /* buffer */
};

struct disk_guest {
	struct guest g;
	bool file;
	char image[80];
	struct blk_device *dev;
	unsigned made; /* devices, so far */
	uint32_t generation;
	struct guest_blk blk[QUEUES];
	struct slot slots[QUEUES][SLOTS];
	unsigned using[EXTRA_N]; /* atomic */
};

static struct disk_guest *disk_of(const struct guest *g)
{
	return container_of(g, struct disk_guest, g);
}

static uint64_t word_of(const struct slot *s, unsigned sector, uint32_t generation, unsigned word)
{
	uint64_t x = ((uint64_t)generation << 32 | (s->sector + sector)) + word;

	return generation ? (x ^ x >> 31) * UINT64_C(0x9e3779b97f4a7c15) | 1 : 0;
}

static void fill(const struct slot *s, unsigned sector, uint32_t generation, uint8_t *to)
{
	for (unsigned i = 0; i < SECTOR / 8; i++) {
		uint64_t w = word_of(s, sector, generation, i);

		memcpy(to + 8 * i, &w, 8);
	}
}

static void check(const struct guest *g, const struct slot *s, unsigned sector, const uint8_t *got)
{
	uint8_t want[SECTOR], before[SECTOR];

	fill(s, sector, s->written[sector], want);
	if (memcmp(got, want, SECTOR) == 0)
		return;
	fill(s, sector, s->writing[sector], before);
	soak_fail("%s: sector %u does not hold what was last written (%u)%s", g->name,
		  s->sector + sector, s->written[sector],
		  memcmp(got, before, SECTOR) ? "" : ": a write that was never answered is there");
}

static void finish(struct disk_guest *d, struct slot *s, const struct guest_blk_done *done)
{
	struct guest *g = &d->g;

	if (done->status != VIRTIO_BLK_S_OK)
		soak_fail("%s: request of type %u, sector %u + %u: status %u", g->name, s->type,
			  s->sector, s->first, done->status);
	for (unsigned i = s->first; i < s->first + s->n; i++) {
		if (s->type == VIRTIO_BLK_T_OUT)
			s->written[i] = s->writing[i];
		else if (s->type == VIRTIO_BLK_T_IN)
			check(g, s, i, s->buffer[s->in].host + (size_t)i * SECTOR);
	}
}

static void release(struct disk_guest *d, struct slot *s)
{
	s->busy = false;
	if (s->in)
		__atomic_fetch_sub(&d->using[s->in - 1], 1, __ATOMIC_RELEASE);
	__atomic_fetch_add(&d->g.answered, 1, __ATOMIC_RELAXED);
}

static void reap(struct disk_guest *d, unsigned queue)
{
	struct guest_blk_done done;
	int rc;

	while ((rc = guest_blk_poll(&d->blk[queue], &done)) > 0) {
		finish(d, done.cookie, &done);
		release(d, done.cookie);
	}
	if (rc < 0)
		soak_fail("%s: %s", d->g.name, d->g.f.error);
}

static uint32_t draw_type(struct guest *g)
{
	unsigned n = soak_random(&g->driver_rng, 100);

	return n < 45	? VIRTIO_BLK_T_IN
	       : n < 90 ? VIRTIO_BLK_T_OUT
	       : n < 95 ? VIRTIO_BLK_T_FLUSH
			: VIRTIO_BLK_T_GET_ID;
}

/* Mostly few: more requests, and less to check. */
static unsigned draw_sectors(unsigned *rng, unsigned max)
{
	return 1 + soak_random(rng, chance(rng, 25) || max < 3 ? max : 3);
}

/* The request's data in up to PIECES_MAX segments. */
static unsigned cut(struct disk_guest *d, const struct slot *s, struct driver_seg *segs)
{
	uint64_t gpa = s->buffer[s->in].gpa + s->first * SECTOR;
	uint32_t left = s->type == VIRTIO_BLK_T_GET_ID ? VIRTIO_BLK_ID_BYTES : s->n * SECTOR;
	unsigned n = 0;

	while (left) {
		uint32_t len = left;

		if (n < PIECES_MAX - 1 && left > 1 && chance(&d->g.driver_rng, 30))
			len = 1 + soak_random(&d->g.driver_rng, left - 1);
		segs[n++] = (struct driver_seg) { gpa, len };
		gpa += len;
		left -= len;
	}
	return n;
}

static bool submit(struct disk_guest *d, unsigned queue, struct slot *s)
{
	struct driver_seg segs[PIECES_MAX];
	unsigned *rng = &d->g.driver_rng, region = soak_random(rng, 1 + EXTRA_N);
	bool data;

	s->type = draw_type(&d->g);
	data = s->type == VIRTIO_BLK_T_IN || s->type == VIRTIO_BLK_T_OUT;
	s->first = data ? soak_random(rng, SECTORS) : 0;
	s->n = data ? draw_sectors(rng, SECTORS - s->first) : 0;
	s->in = data && region && d->g.extra_there[region - 1] ? region : 0;
	for (unsigned i = s->first; i < s->first + s->n; i++) {
		uint8_t *p = s->buffer[s->in].host + (size_t)i * SECTOR;

		if (s->type == VIRTIO_BLK_T_OUT) {
			s->writing[i] = ++d->generation;
			fill(s, i, s->writing[i], p);
		} else {
			memset(p, 0xee, SECTOR);
		}
	}
	if (guest_blk_submit(&d->blk[queue], s->type, s->sector + s->first, segs, cut(d, s, segs),
			     s) < 0)
		return false; /* the ring is full */
	s->busy = true;
	if (s->in)
		__atomic_fetch_add(&d->using[s->in - 1], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&d->g.asked, 1, __ATOMIC_RELAXED);
	return true;
}

static void disk_work(struct guest *g)
{
	struct disk_guest *d = disk_of(g);

	for (unsigned q = 0; q < QUEUES; q++) {
		reap(d, q);
		for (unsigned i = 0; i < SLOTS; i++)
			if (!d->slots[q][i].busy && !submit(d, q, &d->slots[q][i]))
				break;
		guest_blk_kick(&d->blk[q]);
	}
}

static unsigned disk_in_flight(struct guest *g)
{
	struct disk_guest *d = disk_of(g);
	unsigned n = 0;

	for (unsigned q = 0; q < QUEUES; q++) {
		reap(d, q);
		for (unsigned i = 0; i < SLOTS; i++)
			n += d->slots[q][i].busy;
	}
	return n;
}

static void disk_open(struct guest *g)
{
	struct disk_guest *d = disk_of(g);

	for (unsigned q = 0; q < QUEUES; q++) {
		guest_ok(g, guest_blk_open(&d->blk[q], &g->f, q), "requests");
		for (unsigned i = 0; i < SLOTS; i++) {
			struct slot *s = &d->slots[q][i];
			uint64_t at = (q * SLOTS + i) * (uint64_t)BYTES;

			s->buffer[0].host = guest_alloc_in(&g->mem, 1, BYTES, SECTOR,
							   &s->buffer[0].gpa);
			for (unsigned k = 0; k < EXTRA_N; k++) {
				const struct guest_region *r = &g->mem.region[EXTRA_FIRST + k];

				s->buffer[1 + k].host = r->host + at;
				s->buffer[1 + k].gpa = r->gpa + at;
			}
		}
	}
}

static void disk_close(struct guest *g)
{
	struct disk_guest *d = disk_of(g);

	for (unsigned q = 0; q < QUEUES; q++) {
		reap(d, q);
		for (unsigned i = 0; i < SLOTS; i++)
			if (d->slots[q][i].busy)
				release(d, &d->slots[q][i]);
		guest_blk_close(&d->blk[q]);
	}
}

static void disk_create(struct guest *g)
{
	struct disk_guest *d = disk_of(g);
	struct blk_config cfg = {
		.name = g->name,
		.socket = { .path = strdup(g->path), .fd = -1, .mode = -1 },
		.kind = d->file ? DISK_FILE : DISK_RAM,
		.file = d->file ? d->image : NULL,
		.size = d->file ? 0 : DISK_BYTES,
		.cache = d->made % 2 ? DISK_CACHE_NONE : DISK_CACHE_WRITEBACK,
		.queues = QUEUES,
	};
	struct error err = { 0 };

	if (blk_device_create(&cfg, soak_workers, &d->dev, &err) < 0)
		soak_fail("%s: %s", g->name, err.text);
	d->made++;
	g->closed = false;
	/* Its memory is new. */
	for (unsigned i = 0; !d->file && i < QUEUES * SLOTS; i++)
		memset(d->slots[i / SLOTS][i % SLOTS].written, 0, sizeof(d->slots[0][0].written));
}

static void disk_remove(struct guest *g)
{
	blk_device_close(disk_of(g)->dev, guest_closed, g);
}

static const struct vhost_device *disk_vhost(const struct guest *g)
{
	return blk_device_vhost(disk_of(g)->dev);
}

#define FLUSH (UINT64_C(1) << VIRTIO_BLK_F_FLUSH)

static uint64_t disk_features(struct guest *g)
{
	return UINT64_C(1) << VIRTIO_BLK_F_MQ | (chance(&g->rng, 70) ? FLUSH : 0);
}

static unsigned disk_using(const struct guest *g, unsigned i)
{
	return __atomic_load_n(&disk_of(g)->using[i], __ATOMIC_ACQUIRE);
}

static const struct guest_ops disk_ops = {
	.create = disk_create,
	.remove = disk_remove,
	.vhost = disk_vhost,
	.features = disk_features,
	.protocol = VU_PF_INFLIGHT_SHMFD | VU_PF_GET_VRING_BASE_INFLIGHT,
	.loose_features = FLUSH,
	.open = disk_open,
	.close = disk_close,
	.work = disk_work,
	.in_flight = disk_in_flight,
	.using = disk_using,
};

struct guest *disk_guest_new(const char *name, bool file, unsigned seed)
{
	struct disk_guest *d = calloc(1, sizeof(*d));
	int fd;

	if (!d)
		soak_fail("out of memory");
	d->file = file;
	for (unsigned i = 0; i < QUEUES * SLOTS; i++)
		d->slots[i / SLOTS][i % SLOTS].sector = i * SECTORS;
	if (file) {
		snprintf(d->image, sizeof(d->image), "soak-%d-%s.raw", (int)getpid(), name);
		fd = open(d->image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, DISK_BYTES) < 0)
			soak_fail("%s: %s", d->image, strerror(errno));
		close(fd);
	}
	guest_init(&d->g, name, &disk_ops, QUEUES, seed);
	return &d->g;
}

void disk_guest_free(struct guest *g)
{
	struct disk_guest *d = disk_of(g);

	guest_fini(g);
	if (d->file)
		unlink(d->image);
	free(d);
}
