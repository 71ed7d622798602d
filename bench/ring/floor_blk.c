/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor of the disk benchmarks: what a ring and one copy cost, with nothing else done.
 *
 *	blk-floor [--null] [--size MIB] SOCKET
 *
 * NOT a back-end to give a guest to: it believes every index, address, length and sector that it
 * reads, so that any guest can read and write all of this process's memory. It serves one run of
 * sluice-bench blk that polls (no call is ever made), without EVENT_IDX, in reads and writes whose
 * header, data and status are the three descriptors of an indirect table, in this order; and then
 * it ends.
 *
 * The disk is RAM: one copy between it and the guest. With --null it is nothing, as "null" of
 * sluiced is and null-co of QEMU: writes move no byte, and reads fill the guest's buffer with
 * zeros, since a device that says that it wrote a buffer has to (virtio 1.3 2.7.8.2).
 */
#include "bench/ring/floor_device.h"

#include <err.h>
#include <getopt.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BURST 32u
#define SECTOR 512u
#define BLK_MQ (UINT64_C(1) << VIRTIO_BLK_F_MQ)

enum { HEADER, DATA, STATUS }; /* virtio 1.3 5.2.6 */

/* A table's descriptors are read alike in both layouts. */
static_assert(sizeof(struct vring_desc) == sizeof(struct vring_packed_desc) &&
		      offsetof(struct vring_desc, addr) ==
			      offsetof(struct vring_packed_desc, addr) &&
		      offsetof(struct vring_desc, len) == offsetof(struct vring_packed_desc, len),
	      "virtio 1.3 2.7.5, 2.8.13: address, then length, of 16 bytes");

/* @disk NULL: no bytes. @return how many bytes of the guest's were written. */
HOT uint32_t do_request(uint8_t *base, uint8_t *disk, const struct vring_desc *table)
{
	const struct virtio_blk_outhdr *h = (const void *)(base + table[HEADER].addr);
	uint8_t *data = base + table[DATA].addr;
	uint32_t len = table[DATA].len;
	bool read = h->type == VIRTIO_BLK_T_IN;

	if (read && disk)
		memcpy(data, disk + h->sector * SECTOR, len);
	else if (read)
		memset(data, 0, len);
	else if (disk)
		memcpy(disk + h->sector * SECTOR, data, len);
	base[table[STATUS].addr] = VIRTIO_BLK_S_OK;
	return (read ? len : 0) + 1;
}

HOT void serve_ring(const struct floor_device *d, struct floor_ring *r, bool packed, uint8_t *disk)
{
	struct floor_buffer b[BURST]; /* the tables */
	unsigned n = floor_pop(d, r, packed, b, BURST);

	for (unsigned i = 0; i < n; i++)
		__builtin_prefetch(b[i].at);
	for (unsigned i = 0; i < n; i++)
		b[i].len = do_request(d->base, disk, b[i].at);
	floor_push(r, packed, b, n, true);
}

HOT void serve_rings(struct floor_device *d, bool packed, uint8_t *disk)
{
	for (unsigned i = 0; i < 100000; i++)
		for (unsigned k = 0; k < d->n_rings; k++)
			serve_ring(d, &d->ring[k], packed, disk);
}

static void serve(struct floor_device *d, uint8_t *disk)
{
	while (floor_obey(d, d->n_rings == 0))
		if (d->n_rings && d->packed)
			serve_rings(d, true, disk);
		else if (d->n_rings)
			serve_rings(d, false, disk);
}

/* All of it there, and in large pages: page faults are not to be measured. */
static uint8_t *make_disk(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(1, "%llu bytes of RAM", (unsigned long long)bytes);
	(void)madvise(p, bytes, MADV_HUGEPAGE);
	return memset(p, 0, bytes);
}

static int usage(FILE *to)
{
	fprintf(to,
		"Usage: blk-floor [--null] [--size MIB] SOCKET\n"
		"A disk of so much RAM (1024), or that keeps nothing, and checks nothing: never "
		"give it to a guest.\n");
	return to == stdout ? 0 : 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "null", no_argument, NULL, 'n' },
						 { "size", required_argument, NULL, 's' },
						 { "help", no_argument, NULL, 'h' },
						 { NULL, 0, NULL, 0 } };
	static struct floor_device d = { .features = VU_F_VERSION_1 | VU_F_PACKED | VU_F_IN_ORDER |
						     VU_F_INDIRECT | VU_F_PROTOCOL | BLK_MQ,
					 .protocol = VU_PF_MQ | VU_PF_CONFIG };
	struct virtio_blk_config config = { .num_queues = FLOOR_RINGS_MAX };
	uint64_t mib = 1024;
	bool null = false;
	uint8_t *disk;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'n')
			null = true;
		else if (c == 's')
			mib = strtoull(optarg, NULL, 10);
		else
			return usage(c == 'h' ? stdout : stderr);
	}
	if (optind + 1 != argc || !mib)
		return usage(stderr);
	config.capacity = (mib << 20) / SECTOR;
	memcpy(d.config, &config, sizeof(config));
	disk = null ? NULL : make_disk(mib << 20);
	floor_accept(&d, floor_listen(argv[optind]));
	serve(&d, disk);
	return 0;
}
