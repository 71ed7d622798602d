/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-bench fair with disks: the guests that read, and what one can do to a disk. */
#include "bench/fair.h"
#include "tests/guest/blk.h"

#include <err.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>

#define RING 64u
#define DEPTH 8u
#define BS 4096u
#define CHAIN_SEGS 1024u
#define FULL_RING 1024u
#define FULL_BYTES (1u << 20)

struct blk_guest {
	struct fair_guest base;
	struct guest_blk blk;
	struct driver_seg data[DEPTH];
	struct driver_seg *segs; /* of the hostile one's chains */
	unsigned n_segs;
	uint64_t sector, n_sectors;
};

static struct blk_guest *blk_of(struct fair_guest *g)
{
	return container_of(g, struct blk_guest, base);
}

static struct blk_guest *attacker(const struct fair_hostile *h)
{
	return blk_of(h->guest[0]);
}

static void submit(struct blk_guest *g, struct driver_seg *data)
{
	g->sector = (g->sector + 7 * BS / 512) % (g->n_sectors - BS / 512);
	if (guest_blk_submit(&g->blk, VIRTIO_BLK_T_IN, g->sector, data, 1, data) < 0)
		errx(1, "%s: the ring is full", g->base.rig->path);
}

static void work_start(struct fair_guest *base)
{
	struct blk_guest *g = blk_of(base);

	for (unsigned i = 0; i < DEPTH; i++) {
		if (!guest_alloc(&base->rig->memory, BS, 4096, &g->data[i].gpa))
			errx(1, "no guest memory");
		g->data[i].len = BS;
		submit(g, &g->data[i]);
	}
	guest_blk_kick(&g->blk);
}

static void work_step(struct fair_guest *base)
{
	struct blk_guest *g = blk_of(base);
	struct guest_blk_done d;
	unsigned n = 0;
	int rc;

	while ((rc = guest_blk_poll(&g->blk, &d)) > 0) {
		submit(g, d.cookie);
		n++;
	}
	if (rc < 0)
		rig_die(base->rig, "the ring");
	base->done += n;
	if (n)
		guest_blk_kick(&g->blk);
}

/* Kicks for nothing: the device's notification work. */
static void kicks_step(struct fair_hostile *h)
{
	for (unsigned i = 0; i < 4; i++)
		frontend_kick(&h->guest[0]->rig->frontend, 0);
}

/* A read of @n data segments of @len bytes, all of them the same memory. */
static void make_chain(struct blk_guest *g, unsigned n, uint32_t len)
{
	struct virtio_blk_outhdr head = { .type = VIRTIO_BLK_T_IN };
	struct guest_memory *m = &g->base.rig->memory;
	uint64_t header, status, data;
	void *host = guest_alloc(m, sizeof(head), 64, &header);

	if (!host || !guest_alloc(m, 64, 64, &status) ||
	    !guest_alloc(m, MAX(len, 65536u), 4096, &data))
		errx(1, "no guest memory");
	memcpy(host, &head, sizeof(head));
	g->n_segs = n + 2;
	g->segs = calloc(g->n_segs, sizeof(*g->segs));
	if (!g->segs)
		errx(1, "out of memory");
	g->segs[0] = (struct driver_seg) { header, sizeof(head) };
	for (unsigned i = 1; i <= n; i++)
		g->segs[i] = (struct driver_seg) { data, len };
	g->segs[n + 1] = (struct driver_seg) { status, 1 };
}

/* Chains of as many descriptors as are legal, given again as soon as they are back. */
static void zero_start(struct fair_hostile *h)
{
	make_chain(attacker(h), CHAIN_SEGS - 2, 0);
}

static void long_start(struct fair_hostile *h)
{
	make_chain(attacker(h), CHAIN_SEGS - 2, 512);
}

static unsigned chains_back(struct blk_guest *g)
{
	struct guest_blk_done d;
	unsigned n = 0;
	int rc;

	while ((rc = guest_blk_poll(&g->blk, &d)) > 0)
		n++;
	if (rc < 0)
		rig_die(g->base.rig, "the hostile ring");
	return n;
}

static bool chain_again(struct blk_guest *g)
{
	return guest_blk_submit_raw(&g->blk, g->segs, 1, g->n_segs - 1, NULL) == 0;
}

static void chains_step(struct fair_hostile *h)
{
	struct blk_guest *g = attacker(h);

	chains_back(g);
	/* One a round: to write a table of 1024 entries takes the driver long enough. */
	if (chain_again(g))
		guest_blk_kick(&g->blk);
}

/* All of a large ring, all the time, each a read of 1 MiB. */
static void full_start(struct fair_hostile *h)
{
	struct blk_guest *g = attacker(h);

	make_chain(g, 1, MIN((uint32_t)FULL_BYTES, (uint32_t)(g->n_sectors * 512)));
	while (chain_again(g))
		;
	guest_blk_kick(&g->blk);
}

static void full_step(struct fair_hostile *h)
{
	struct blk_guest *g = attacker(h);
	unsigned n = chains_back(g);

	for (unsigned i = 0; i < n; i++)
		chain_again(g);
	if (n)
		guest_blk_kick(&g->blk);
}

static void calls_start(struct fair_hostile *h)
{
	work_start(h->guest[0]);
}

/* Works, wants a call for each request, and never reads one. */
static void calls_step(struct fair_hostile *h)
{
	work_step(h->guest[0]);
	driver_ring_calls_on(&h->guest[0]->rig->frontend.queue[0].ring);
}

static const struct fair_attack attacks[] = {
	{ .name = "kicks", .what = "kicks for nothing", .start = fair_nothing, .step = kicks_step },
	{ .name = "zero",
	  .what = "chains of 1022 zero-length descriptors",
	  .start = zero_start,
	  .step = chains_step },
	{ .name = "long",
	  .what = "reads into 1022 segments of 512 bytes",
	  .start = long_start,
	  .step = chains_step },
	{ .name = "full",
	  .what = "1024 reads of 1 MiB, all the time",
	  .start = full_start,
	  .step = full_step,
	  .queue_size = FULL_RING },
	{ .name = "calls",
	  .what = "calls wanted and never read",
	  .start = calls_start,
	  .step = calls_step },
	FAIR_SESSION_ATTACKS,
};

static struct fair_guest *blk_open(const struct rig_options *o, const char *path, unsigned index,
				   unsigned n, const struct fair_attack *attack)
{
	struct blk_guest *g = calloc(1, sizeof(*g));
	struct rig_options mine = *o;
	struct rig_disk disk;
	uint64_t memory;

	(void)index, (void)n;
	if (!g)
		errx(1, "out of memory");
	mine.queue_size = attack && attack->queue_size ? attack->queue_size : RING;
	mine.indirect_segs = mine.queue_size > RING ? 4 : attack ? CHAIN_SEGS : mine.indirect_segs;
	memory = DEPTH * BS + (4 << 20) + (uint64_t)mine.queue_size * mine.indirect_segs * 16;
	g->base.rig = rig_open(&mine, RIG_DISK, path, 1, 0, memory);
	rig_read_disk(g->base.rig, &disk);
	g->n_sectors = disk.config.capacity;
	if (guest_blk_open(&g->blk, &g->base.rig->frontend, 0) < 0)
		rig_die(g->base.rig, "setting up");
	if (g->n_sectors * 512 < (1 << 20))
		errx(1, "%s: a disk of less than 1 MiB", path);
	return &g->base;
}

static void blk_close(struct fair_guest *base)
{
	struct blk_guest *g = blk_of(base);

	guest_blk_close(&g->blk);
	rig_close(base->rig);
	free(g->segs);
	free(g);
}

const struct fair_kind fair_blk = {
	.name = "disks",
	.unit = "requests",
	.n_hostile = 1,
	.guests_min = 2,
	.open = blk_open,
	.close = blk_close,
	.work_start = work_start,
	.work_step = work_step,
	.attacks = attacks,
	.n_attacks = ARRAY_SIZE(attacks),
};
