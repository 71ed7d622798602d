/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Features and configuration space of a virtio-blk device (virtio 1.3 5.2.3, 5.2.4), and what of
 * both its requests are held to.
 */
#include "base/log.h"
#include "blk/device_impl.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

/*
 * The longest chain of ordinary requests: header, status and this many data segments. More than 126
 * would not fit into a queue of 128 without indirect descriptors, and nobody tells us the size of
 * the queues before asking this.
 */
#define BLK_SEG_MAX 126

static_assert(sizeof(struct virtio_blk_config) <= BLK_CONFIG_SIZE, "virtio 1.3 5.2.4");
static_assert(BLK_SEG_MAX + 2 <= RING_CHAIN_SEGS_MAX, "a legal request must not break the ring");

#define FEATURE(name) (UINT64_C(1) << VIRTIO_BLK_F_##name)
/* A disk has no heads; this is what firmware that insists on them has been told for decades. */
#define CHS_HEADS 16
#define CHS_SECTORS 63

static uint64_t cylinders(const struct disk_info *info)
{
	return MIN(info->size / BLK_SECTOR / (CHS_HEADS * CHS_SECTORS), (uint64_t)UINT16_MAX);
}

uint64_t blk_features(struct vhost_device *d)
{
	const struct blk_device *b = blk_of(d);
	uint64_t features = FEATURE(SEG_MAX) | FEATURE(BLK_SIZE) | FEATURE(TOPOLOGY) |
			    FEATURE(FLUSH) | FEATURE(MQ);

	/* SIZE_MAX is not offered: segments of any length will do. */
	if (cylinders(&b->disk->info))
		features |= FEATURE(GEOMETRY);
	if (b->cfg.read_only)
		features |= FEATURE(RO);
	if (b->disk->info.volatile_cache)
		features |= FEATURE(CONFIG_WCE);
	if (b->disk->info.discard_max)
		features |= FEATURE(DISCARD);
	if (b->disk->info.zero_max)
		features |= FEATURE(WRITE_ZEROES);
	if (b->disk->info.erase_max)
		features |= FEATURE(SECURE_ERASE);
	if (b->disk->info.has_lifetime)
		features |= UINT64_C(1) << BLK_F_LIFETIME;
	return features;
}

void blk_queue_limits(const struct blk_device *b, struct request_limits *l)
{
	memset(l, 0, sizeof(*l));
	l->capacity = b->disk->info.size;
	l->read_only = b->cfg.read_only;
	l->no_flush = b->cfg.cache == DISK_CACHE_UNSAFE;
	l->writethrough = b->writethrough && !l->no_flush;
	if (vhost_has_feature(&b->vhost, VIRTIO_BLK_F_DISCARD))
		l->discard_max = b->disk->info.discard_max;
	if (vhost_has_feature(&b->vhost, VIRTIO_BLK_F_WRITE_ZEROES))
		l->zero_max = b->disk->info.zero_max;
	l->zero_unmaps = b->disk->info.zero_unmaps;
	if (vhost_has_feature(&b->vhost, VIRTIO_BLK_F_SECURE_ERASE))
		l->erase_max = b->disk->info.erase_max;
	l->erase_align = b->disk->info.erase_align;
	l->has_lifetime = vhost_has_feature(&b->vhost, BLK_F_LIFETIME);
	l->lifetime = b->disk->info.lifetime;
	memcpy(l->id, b->cfg.serial, strnlen(b->cfg.serial, sizeof(l->id)));
}

bool blk_default_writeback(const struct blk_device *b)
{
	return b->disk->info.volatile_cache && b->cfg.cache != DISK_CACHE_WRITETHROUGH;
}

/*
 * virtio 1.3 5.2.6.2: a driver that cannot flush relies on each write being durable when it
 * completes, and so does one that has set writeback to 0. One that can flush, but does not know of
 * that field, expects a cache; but for a disk that is configured without one.
 */
static bool is_writethrough(const struct blk_device *b, uint64_t features)
{
	if (!(features & FEATURE(FLUSH)))
		return true;
	return !(features & FEATURE(CONFIG_WCE) ? b->writeback : blk_default_writeback(b));
}

void blk_set_features(struct vhost_device *d, uint64_t features)
{
	struct blk_device *b = blk_of(d);
	bool was = b->writethrough;

	b->writethrough = is_writethrough(b, features);
	/* A driver before this one may have written, and this one does not flush. */
	if (b->writethrough && !was)
		blk_settle(b);
}

/* What a note says of it. The front-end keeps it for us, so that a crash does not change it. */
enum { NOTE_WRITETHROUGH = 1, NOTE_WRITEBACK };

void blk_choose_writeback(struct blk_device *b, bool writeback)
{
	bool was = b->writethrough;

	b->writeback = writeback;
	b->writethrough = is_writethrough(b, b->vhost.features);
	vhost_leave_note(&b->vhost, writeback ? NOTE_WRITEBACK : NOTE_WRITETHROUGH);
	if (b->writethrough == was)
		return;
	blk_update_queues(b);
	/* The driver will not flush any more, not even what it wrote before. */
	if (b->writethrough)
		blk_settle(b);
}

/*
 * Front-ends know what the guest chose (they answer its reads of the field), and do not tell it to
 * a back-end that has been restarted. Who does not know takes what is never wrong.
 */
void blk_inflight_note(struct vhost_device *d, int note)
{
	struct blk_device *b = blk_of(d);
	bool writeback = note == 0 ? b->writeback : note == NOTE_WRITEBACK;

	if (!b->disk->info.volatile_cache)
		return;
	if (note < 0)
		log_info("disk %s: its guest has run before, and whether it relies on each write "
			 "being durable is not known: each write is",
			 b->cfg.name);
	blk_choose_writeback(b, writeback);
}

void blk_get_config(struct vhost_device *d, uint8_t *config)
{
	const struct blk_device *b = blk_of(d);
	const struct disk_info *info = &b->disk->info;
	uint32_t blocks_per_physical = info->physical_size / info->block_size;
	struct virtio_blk_config c = {
		.capacity = htole64(info->size / BLK_SECTOR),
		.seg_max = htole32(BLK_SEG_MAX),
		.geometry = { .cylinders = htole16((uint16_t)cylinders(info)),
			      .heads = CHS_HEADS,
			      .sectors = CHS_SECTORS },
		.blk_size = htole32(info->block_size),
		.physical_block_exp = (uint8_t)__builtin_ctz(blocks_per_physical),
		.min_io_size = htole16((uint16_t)blocks_per_physical),
		.opt_io_size = htole32(info->optimal_size / info->block_size),
		.wce = b->writeback,
		.num_queues = htole16((uint16_t)b->cfg.queues),
		/* One range a request, as request.c takes them. */
		.max_discard_sectors = htole32((uint32_t)(info->discard_max / BLK_SECTOR)),
		.max_discard_seg = htole32(info->discard_max ? 1 : 0),
		.discard_sector_alignment = htole32(info->discard_align / BLK_SECTOR),
		.max_write_zeroes_sectors = htole32((uint32_t)(info->zero_max / BLK_SECTOR)),
		.max_write_zeroes_seg = htole32(info->zero_max ? 1 : 0),
		.write_zeroes_may_unmap = info->zero_unmaps,
		.max_secure_erase_sectors = htole32((uint32_t)(info->erase_max / BLK_SECTOR)),
		.max_secure_erase_seg = htole32(info->erase_max ? 1 : 0),
		.secure_erase_sector_alignment = htole32(info->erase_align / BLK_SECTOR),
	};

	memset(config, 0, BLK_CONFIG_SIZE);
	memcpy(config, &c, sizeof(c));
}

/* virtio 1.3 5.2.5: writeback is all that a driver may write; a byte, 0 or 1. */
int blk_set_config(struct vhost_device *d, uint32_t offset, const uint8_t *data, uint32_t len,
		   bool migration)
{
	const uint32_t at = offsetof(struct virtio_blk_config, wce);
	struct blk_device *b = blk_of(d);
	bool covered = offset <= at && at - offset < len;

	/* A migration source sends the space it had; the rest of ours follows from our own disk. */
	if (migration) {
		if (covered && data[at - offset] <= 1 && b->disk->info.volatile_cache)
			blk_choose_writeback(b, data[at - offset]);
		return 0;
	}
	if (offset != at || len != 1 || !b->disk->info.volatile_cache)
		return -EACCES;
	if (data[0] > 1)
		return -EINVAL;
	blk_choose_writeback(b, data[0]);
	return 0;
}

const char *blk_device_write_cache(const struct blk_device *b)
{
	if (!b->disk->info.volatile_cache)
		return "none";
	if (b->cfg.cache == DISK_CACHE_UNSAFE)
		return "unsafe";
	/* Without a front-end: what the next one's guest will find. */
	if (b->vhost.features ? b->writethrough : !b->writeback)
		return "writethrough";
	return "writeback";
}
