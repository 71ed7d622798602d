/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk devices, as the daemon sees them. Control thread throughout, except where it says
 * otherwise.
 */
#ifndef SLUICE_BLK_BLK_H
#define SLUICE_BLK_BLK_H

#include "vhost/device.h"

struct error;
struct image_file;
struct blk_device;

#define BLK_QUEUES_MAX 256

enum disk_kind { DISK_FILE, DISK_NULL, DISK_RAM, DISK_NBD };

enum disk_cache {
	DISK_CACHE_NONE,	 /* O_DIRECT: the page cache is passed by */
	DISK_CACHE_WRITEBACK,	 /* buffered */
	DISK_CACHE_WRITETHROUGH, /* buffered, and each write durable when it completes */
	DISK_CACHE_UNSAFE,	 /* buffered, and what the guest wants durable is not */
};

/* What becomes of a request that the disk fails. */
enum disk_on_error {
	DISK_ERROR_REPORT, /* the guest gets an error */
	DISK_ERROR_STOP,   /* the guest waits, and it is done again until it works */
};

enum disk_lock {
	DISK_LOCK_OPEN, /* from the time that it is opened */
	DISK_LOCK_RUN,	/* from the time that its first queue runs */
};

enum { BLK_LIMIT_ALL, BLK_LIMIT_READ, BLK_LIMIT_WRITE, BLK_LIMITS };
#define BLK_BURST_S_DEFAULT 1

/* A second; @rate 0: no limit. */
struct blk_rate {
	uint64_t rate;
	uint64_t max; /* for a while, after times of less; 0: no more than @rate */
};

/* All of them hold at the same time. */
struct blk_limits {
	struct blk_rate ops[BLK_LIMITS], bytes[BLK_LIMITS];
	uint32_t burst_s; /* seconds that a max can be kept up from rest; 0: the default */
	uint32_t share;	  /* of its workers' time, for each queue; 0: POLLER_SHARE */
};

struct blk_config {
	const char *name; /* of the device; also its serial number where @serial is NULL */
	struct vhost_socket socket; /* taken over, also on failure */
	enum disk_kind kind;
	const char *file; /* DISK_FILE: raw image or block device */
	/*
	 * DISK_FILE: @file, open already; its descriptors are taken over, also on failure. NULL: it
	 * is to be opened. Used by blk_device_create() alone.
	 */
	struct image_file *image;
	uint64_t size;	      /* DISK_NULL, DISK_RAM: bytes, a multiple of 512 */
	const char *nbd;      /* DISK_NBD: a URI, see blk/nbd_address.h */
	unsigned connections; /* DISK_NBD: 0: one */
	unsigned reconnect_s; /* DISK_NBD: how long requests wait for a server that is away */
	unsigned timeout_s;   /* DISK_NBD: one that is silent for longer is away; 0: never */
	enum disk_cache cache;
	enum disk_lock lock; /* DISK_FILE: since when others are kept out */
	bool read_only;
	bool keep_space;    /* the guest's discards give no space back: none are offered */
	unsigned queues;    /* virtqueues, 1 to 256 */
	const char *serial; /* GET_ID: up to 20 bytes */
	struct blk_limits limits;
	enum disk_on_error on_error;
};

/* A disk that does not answer for so long is told of. */
#define BLK_SLOW_S 5

/* What the queues of one device have done since it was made. A plain snapshot. */
struct blk_stats {
	uint64_t reads, writes, flushes, discards, zeroes, erases, get_ids,
		get_lifetimes; /* requests completed with success */
	uint64_t read_bytes, write_bytes, discarded_bytes, zeroed_bytes, erased_bytes;
	uint64_t errors;      /* completed with IOERR */
	uint64_t unsupported; /* completed with UNSUPP */
	uint64_t malformed;   /* without a usable header or status byte */
	uint64_t in_flight;
	uint64_t bounced; /* requests that had to be copied to meet the file's alignment */
	uint64_t kicks_on, calls, calls_spared;
	uint64_t held;	   /* requests that had to wait for their turn by the limits */
	uint64_t held_now; /* of those in flight */
	/* The last failure of the disk, and what waits for it to work again. */
	int fault_error;	/* errno; 0: none ever */
	const char *fault_kind; /* "read" */
	uint64_t fault_sector, fault_ago_ns;
	uint64_t waiting, waiting_ns; /* requests; the first of them for so long */
	/*
	 * errno: what was written and not flushed is lost, and no flush succeeds until the disk is
	 * opened again. 0: nothing is.
	 */
	int lost_error;
	/* Requests that are in flight at the disk for longer than BLK_SLOW_S, and the oldest. */
	uint64_t slow, slowest_ns, slowest_sector;
	const char *slowest;
	uint64_t away_ns; /* its server is away for so long; 0: it is there, or has none */
	char away_why[160];
	uint64_t throttled_ns; /* time in which some did, summed over the queues */
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
/* From now on. Debts and savings of before are forgotten. @return 0 or -errno with @err. */
int blk_device_limit(struct blk_device *b, const struct blk_limits *limits, struct error *err);
/* Requests that wait for the disk to work try again now. @return how many wait. */
uint64_t blk_device_retry(struct blk_device *b);
/*
 * Another image in the place of a DISK_FILE's, while no front-end is connected: @file, opened as
 * @image, both as in blk_config; its descriptors are taken over, also on failure. Once what was
 * written to the old one is flushed and it is closed, replaced(arg) is called; maybe from within.
 * @return 0 or -errno with @err.
 */
int blk_device_replace(struct blk_device *b, const char *file, struct image_file *image,
		       void (*replaced)(void *arg), void *arg, struct error *err);
uint64_t blk_device_capacity(const struct blk_device *b); /* bytes */
/* When a write is durable, by now: "writeback", "writethrough", "unsafe"; "none": it needs no
 * flush. */
const char *blk_device_write_cache(const struct blk_device *b);
/* How I/O is done for this disk ("io_uring, O_DIRECT, alignment 512"), for status. */
const char *blk_device_how(const struct blk_device *b);

#endif
