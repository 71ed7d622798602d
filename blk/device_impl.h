/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio-blk device: what device.c and config_space.c share. The control thread's. */
#ifndef SLUICE_BLK_DEVICE_IMPL_H
#define SLUICE_BLK_DEVICE_IMPL_H

#include "blk/blk.h"
#include "blk/last_flush.h"
#include "blk/queue.h"
#include "poll/control.h"

/*
 * Virtio 1.3's whole configuration space, up to zoned devices: front-ends ask for as much of it as
 * they know, whatever was offered, and an out of range request is an error.
 */
#define BLK_CONFIG_SIZE 96

struct old_disk; /* replace.c */

struct blk_device {
	struct vhost_device vhost;
	struct blk_config cfg; /* owns its strings; the socket is a borrowed copy */
	struct disk *disk;
	sd_event_source *grown; /* of the disk's grown_fd; NULL: none */
	bool writeback;		/* config space: what the guest chose, or else the configuration */
	bool writethrough;	/* what follows: each write is durable when it completes */
	struct limit *limit;	/* that its queues share; NULL: none */
	struct blk_queue_stats *stats; /* one a virtqueue */

	void (*hung_up)(void *arg);
	void *hung_up_arg;

	unsigned n_running; /* queues */

	struct last_flush settle; /* of what was written back, when that ends */
	bool settling, settle_again;
	struct old_disk *old;	   /* that another has replaced, while it is flushed; NULL: none */
	bool close_asked;	   /* nothing runs any more; closing waits for these two */
	struct last_flush flush;   /* for closing and for handing over */
	struct virtqueue *parting; /* the last queue, which has stopped when that flush has */
	void (*closed)(void *arg);
	void *closed_arg;
};

static inline struct blk_device *blk_of(struct vhost_device *d)
{
	return container_of(d, struct blk_device, vhost);
}

/* For struct vhost_device_ops; config_space.c. */
uint64_t blk_features(struct vhost_device *d);
void blk_set_features(struct vhost_device *d, uint64_t features);
void blk_get_config(struct vhost_device *d, uint8_t *config);
int blk_set_config(struct vhost_device *d, uint32_t offset, const uint8_t *data, uint32_t len,
		   bool migration);
void blk_inflight_note(struct vhost_device *d, int note);

/* As the configuration says, before any guest has said anything. */
bool blk_default_writeback(const struct blk_device *b);
/* The guest chose it here or, before it came, elsewhere. Running queues follow. */
void blk_choose_writeback(struct blk_device *b, bool writeback);

/* What a queue's requests are checked against by now. */
void blk_queue_limits(const struct blk_device *b, struct request_limits *l);
/* device.c. The queues that run are told so. */
void blk_update_queues(struct blk_device *b);
/* What completed so far becomes durable, in the background. */
void blk_settle(struct blk_device *b);

/* resize.c. A disk that grows by itself is told of to its guest, from now on. */
int blk_watch_size(struct blk_device *b, struct error *err);

/* Closes the device if that was asked for, and nothing of it is under way any more. */
void blk_go_on_closing(struct blk_device *b);

#endif
