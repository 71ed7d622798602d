/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk with a hostile guest on one queue: a disk in memory, writable or read-only, or one in
 * a file, by Linux AIO and io_uring, whose requests are refused, late, short or fail. Every chain
 * comes back once, with no more bytes than it has room for; nothing but its writable segments is
 * written; a read-only disk stays as it is; the queue can always be stopped; another guest's
 * request is answered right.
 */
#include "tests/fuzz/hooks.h"

#include "base/error.h"
#include "base/log.h"
#include "blk/queue.h"
#include "poll/control.h"
#include "tests/fuzz/blk_file.h"
#include "tests/fuzz/device.h"
#include "tests/fuzz/guest.h"
#include "tests/fuzz/race.h"
#include "tests/fuzz/sim.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdlib.h>

#define STEPS_MAX 100
#define DISK_BYTES (256u << 10)

enum { WRITABLE, READ_ONLY, NEIGHBOUR, FILED, N_DISKS };

static struct {
	struct workers *workers;
	struct blk_device *disk[N_DISKS];
	struct vhost_device *vhost[N_DISKS];
	struct fuzz_guest guest, neighbour;
} b;

static void create(unsigned i)
{
	static const char *const names[] = { "writable", "read-only", "neighbour", "filed" };
	struct blk_config cfg = { .name = names[i],
				  .kind = DISK_RAM,
				  .size = DISK_BYTES,
				  .read_only = i == READ_ONLY,
				  .queues = 1 };
	struct error err = { 0 };
	int rc;

	if (i == FILED) {
		cfg.kind = DISK_FILE;
		cfg.cache = DISK_CACHE_WRITEBACK;
		cfg.file = blk_file_image(DISK_BYTES);
	}
	cfg.socket = fuzz_socket();
	rc = blk_device_create(&cfg, b.workers, &b.disk[i], &err);
	FUZZ_CHECK(rc == 0, "%s", err.text);
	b.vhost[i] = (struct vhost_device *)blk_device_vhost(b.disk[i]);
}

/* The neighbour's ring runs all the time. */
static void start_neighbour(void)
{
	static const uint8_t how[] = { 0, 3, 0 }; /* split, 8 entries */
	struct input in = { how, how + sizeof(how) };

	fg_begin(&b.neighbour, &in);
	FUZZ_CHECK(fuzz_queue_start(b.vhost[NEIGHBOUR], &b.vhost[NEIGHBOUR]->queues[0],
				    &b.neighbour, 0) == 0);
}

static void create_all(void)
{
	struct workers_config cfg = { .n = 1 };

	log_set_level(LOG_LEVEL_ERROR);
	FUZZ_CHECK(control_init() == 0);
	FUZZ_CHECK(workers_start(&cfg, &b.workers, NULL) == 0);
	for (unsigned i = 0; i < N_DISKS; i++)
		create(i);
	fuzz_sessions_wait(b.vhost, N_DISKS);
	fg_create(&b.guest, NULL);
	fg_create(&b.neighbour, NULL);
	start_neighbour();
}

/* An honest read of the first sectors: a header, 512 bytes, a status byte. */
static void ask_neighbour(void)
{
	/* One readable and two writable pieces at the buffers' start: type, sector and lengths. */
	static const uint8_t chain[4 + 16 + 3] = { 0, 1 | 2 << 3, 0, 16, [20] = 16, 200, 1 };
	struct fuzz_guest *g = &b.neighbour;
	struct virtqueue *vq = &b.vhost[NEIGHBOUR]->queues[0];
	const struct vring_used *used = fg_main(g, FG_DEVICE);
	const struct vring_used_elem *e = &used->ring[used->idx % g->size];
	struct input in = { chain, chain + sizeof(chain) };
	uint16_t before = used->idx;
	uint8_t *status = fg_main(g, FG_BUFFERS + 16 + 512);

	*status = 0xff;
	g->shadow[FG_MAIN][FG_BUFFERS + 16 + 512] = 0xff;
	fg_chain(g, &in);
	sim_round(b.workers);
	sim_round(b.workers);
	FUZZ_CHECK(used->idx == (uint16_t)(before + 1) && e->len == 513, "idx %u, length %u",
		   used->idx, e->len);
	FUZZ_CHECK(*status == VIRTIO_BLK_S_OK);
	fg_check_writes(g, hooks_live(&vq->ring) == 0);
}

/* A read or a write that is right when the guest makes it: what its header says, all the way to
 * the disk, matters then. */
static void honest_request(bool writes, uint8_t sector)
{
	uint8_t bytes[4 + 16 + 3] = { 0, 1 | 2 << 3, 8, 16, [20] = 16, 200, 1 };
	struct input in = { bytes, bytes + sizeof(bytes) };

	bytes[1] = writes ? 2 | 1 << 3 : bytes[1];
	bytes[4] = writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	bytes[12] = sector;
	fg_chain(&b.guest, &in);
}

/* One of them; from it on, words may change as the device reads them. */
static void honest_step(struct input *in)
{
	uint8_t how = in_u8(in), sector = in_u8(in);

	if (how & 2 && !RACING) {
		b.guest.flip_rate = how >> 1 | 0x20;
		b.guest.flip_seed = in_u8(in) | 1u;
	}
	honest_request(how & 1, sector);
}

/* The worker, while the guest's other processor writes. */
static void raced(void (*what)(struct workers *ws))
{
	race_begin();
	what(b.workers);
	race_end();
}

static void run(struct vhost_device *d, struct input *in)
{
	struct virtqueue *vq = &d->queues[0];

	for (unsigned i = 0; i < STEPS_MAX && in_left(in); i++) {
		uint8_t what = in_u8(in);

		if (RACING && race_random(4) == 0)
			honest_request(race_random(2), (uint8_t)race_random(8));
		switch (what % 8) {
		default:
			fg_chain(&b.guest, in);
			continue;
		case 3:
			if (what & 0x80)
				honest_step(in);
			else
				fg_step(&b.guest, in);
			continue;
		case 4:
		case 5:
			raced(sim_round);
			break;
		case 6:
			raced(sim_park);
			break;
		case 7:
			raced(sim_wake);
			break;
		}
		fg_check_writes(&b.guest, hooks_live(&vq->ring) == 0);
	}
	raced(sim_wake);
	raced(sim_round);
	fg_check_writes(&b.guest, hooks_live(&vq->ring) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct vhost_device *d;
	uint64_t features = 0;
	uint8_t how;

	if (!b.workers)
		create_all();
	how = in_u8(&in);
	d = b.vhost[how & 4 ? FILED : how & 1 ? READ_ONLY : WRITABLE];
	if (how & 2)
		features |= UINT64_C(1) << VIRTIO_BLK_F_FLUSH;
	race_reset();
	fg_begin(&b.guest, &in);
	if (how & 4) {
		blk_file_set(b.disk[FILED], how & 1);
		blk_file_begin(how & 8 ? in_u32(&in) : 0);
		b.guest.logs =
			false; /* the last flush, which is another thread's, is not waited for */
	}
	if (fuzz_queue_start(d, &d->queues[0], &b.guest, features) == 0) {
		run(d, &in);
		blk_file_end();
		fuzz_queue_stop(b.workers, &d->queues[0]);
		fg_check_writes(&b.guest, true);
	}
	ask_neighbour();
	return 0;
}
