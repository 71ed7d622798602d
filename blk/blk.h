/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk devices, as the daemon sees them. Control thread throughout, except where it says
 * otherwise.
 */
#ifndef SLUICE_BLK_BLK_H
#define SLUICE_BLK_BLK_H

#include "vhost/device.h"

struct error;
struct blk_device;

#define BLK_QUEUES_MAX 256

enum disk_kind { DISK_FILE, DISK_NULL, DISK_RAM };

enum disk_cache {
	DISK_CACHE_NONE,      /* O_DIRECT: the page cache is passed by */
	DISK_CACHE_WRITEBACK, /* buffered */
};

enum disk_lock {
	DISK_LOCK_OPEN, /* from the time that it is opened */
	DISK_LOCK_RUN,	/* from the time that its first queue runs */
};

struct blk_config {
	const char *name; /* of the device; also its serial number where @serial is NULL */
	struct vhost_socket socket; /* taken over, also on failure */
	enum disk_kind kind;
	const char *file; /* DISK_FILE: raw image or block device */
	uint64_t size;	  /* DISK_NULL, DISK_RAM: bytes, a multiple of 512 */
	enum disk_cache cache;
	enum disk_lock lock; /* DISK_FILE: since when others are kept out */
	bool read_only;
	bool keep_space;    /* the guest's discards give no space back: none are offered */
	unsigned queues;    /* virtqueues, 1 to 256 */
	const char *serial; /* GET_ID: up to 20 bytes */
};

/* What the queues of one device have done since it was made. A plain snapshot. */
struct blk_stats {
	uint64_t reads, writes, flushes, discards, zeroes,
		get_ids; /* requests completed with success */
	uint64_t read_bytes, write_bytes, discarded_bytes, zeroed_bytes;
	uint64_t errors;      /* completed with IOERR */
	uint64_t unsupported; /* completed with UNSUPP */
	uint64_t malformed;   /* without a usable header or status byte */
	uint64_t in_flight;
	uint64_t bounced; /* requests that had to be copied to meet the file's alignment */
	uint64_t kicks_on, calls, calls_spared;
};

/* Opens the disk, makes the device, opens its socket. @return 0 and *@out, or -errno with @err. */
int blk_device_create(const struct blk_config *cfg, struct workers *workers,
		      struct blk_device **out, struct error *err);

/* Lets requests in flight finish, flushes, closes everything, frees @b, then calls closed(arg). */
void blk_device_close(struct blk_device *b, void (*closed)(void *arg), void *arg);

/* For status: names, queues, ring sizes, workers and what is negotiated stand in there. */
const struct vhost_device *blk_device_vhost(const struct blk_device *b);
/* @fn(arg) when the front-end of an --fd device hangs up; see vhost_socket.exit_on_disconnect. */
void blk_device_on_closed(struct blk_device *b, void (*fn)(void *arg), void *arg);
void blk_device_stats(const struct blk_device *b, struct blk_stats *out);
const struct blk_config *blk_device_config(const struct blk_device *b);
/*
 * Makes the disk @size bytes large, or, where that is 0, as large as its file has become; a raw
 * image grows with it. A running guest is told. Smaller is refused. @return 0 or -errno with @err.
 */
int blk_device_resize(struct blk_device *b, uint64_t size, struct error *err);
uint64_t blk_device_capacity(const struct blk_device *b); /* bytes */
/* How I/O is done for this disk ("io_uring, O_DIRECT, alignment 512"), for status. */
const char *blk_device_how(const struct blk_device *b);

#endif
