/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device kind (blk, net) and the vhost-user core are to each other. The core owns the
 * socket, the protocol, guest memory and the life of the rings; the device kind owns features,
 * configuration space, and what its queues do on the workers.
 *
 * Everything here runs on the control thread unless it says otherwise.
 *
 * The life of a queue: the core starts it when the front-end has described and kicked it (and, for
 * kinds that do not run disabled queues, enabled it), and stops it on GET_VRING_BASE, on
 * disconnect, on reset, and for the length of a message that must find the rings quiet (features;
 * memory taken away that the queue uses). So queue_start and queue_stop follow each other many
 * times in one connection; the ring carries its place over.
 */
#ifndef SLUICE_VHOST_DEVICE_H
#define SLUICE_VHOST_DEVICE_H

#include "base/log_limit.h"
#include "base/spinlock.h"
#include "poll/worker.h"
#include "vhost/quota.h"
#include "vhost/ring_ahead.h"

struct error;
struct state_blob;
struct vhost_device;
struct vhost_session; /* one connection; vhost/session.h, for the core alone */

/* What the front-end has said of a ring. Written by message handlers only. */
struct vring_setup {
	uint32_t num;
	uint32_t base;		    /* SET_VRING_BASE, or where the ring stood when it stopped */
	uva_t desc, driver, device; /* SET_VRING_ADDR */
	uint32_t flags;
	gpa_t log; /* of the device area, for the dirty log */
	bool has_base, has_addr;
	bool started, enabled; /* started: SET_VRING_KICK came */
	bool failed;	       /* it could not be started as it is described; until that changes */
	bool broken;	       /* the driver broke it; until the front-end stops or kicks it */
	bool settled; /* it ran in this connection: nothing is in flight but what we know */
	int kick_fd, call_fd, err_fd; /* owned; -1: none */
};

enum virtqueue_state { VIRTQUEUE_STOPPED, VIRTQUEUE_RUNNING, VIRTQUEUE_STOPPING };

/* A notification that goes out as a message; see inband.c. */
enum inband_kind { INBAND_CALL, INBAND_ERR, INBAND_KINDS };
struct inband {
	struct virtqueue *vq;
	struct sd_event_source *io;
	bool due;
};

/* What its region of the in-flight buffer says, for a kind that gives chains back in order. */
struct virtqueue_kept {
	const void *region; /* NULL: nothing that is known */
	enum ring_layout layout;
	uint32_t size;
	uint32_t base; /* where the ring stopped */
};

/* One virtqueue of a device; lives as long as the device. */
struct virtqueue {
	struct ring ring; /* the worker's while RUNNING or STOPPING, else the control thread's */
	/*
	 * Taken for a burst by workers that share the queue (a virtio-net receive queue), and by
	 * the core whenever it changes the ring of a running queue. A queue that only its owner
	 * polls needs no lock on its datapath: the core changes it through a call on its worker.
	 */
	struct spinlock lock;
	struct vhost_device *device;
	unsigned index;
	void *priv; /* the device kind's own queue, set in vhost_device_init's queue array or later
		     */

	struct ring_track *track; /* of the ring, over its stops; NULL: it needs none */
	enum virtqueue_state state;
	bool looks_ahead;      /* set by queue_start: the poller calls vhost_look_ahead() */
	bool must_stop;	       /* the message under way needs it quiet; see HANDLER_AGAIN */
	bool leaves;	       /* it stops without waiting for what the in-flight buffer keeps */
	struct worker *worker; /* set by queue_start; the core's changes run there */
	struct worker *home;   /* where vhost_queue_move() wants it; NULL: anywhere */
	bool enabled;	       /* SET_VRING_ENABLE; atomic, workers read it */
	struct vring_setup setup;
	struct poller *poller; /* optional, set by queue_start: what to wake when it may go on */
	struct call stopped_call;
	struct call miss_call;	 /* its chains lack something; see queue.c */
	bool miss_posted;	 /* atomic; cleared when that call runs */
	bool miss_waits;	 /* for the quota; the control thread's */
	struct ring_ahead ahead; /* of the ring, as the ring itself */
	unsigned *hints;	 /* of the ring; owned; NULL: it needs none */
	uint64_t absent; /* the control thread's: the page that is waited for, or 0. postcopy.c */
	struct inband inband[INBAND_KINDS];
	struct ring_alarm alarm; /* its driver broke the ring: the control thread says so */
	struct ring_log log;	 /* the ring's, where it has one */
	struct virtqueue_kept kept;
	char name[80]; /* "web-root queue 3", for log lines */
} CACHE_ALIGNED;

struct vhost_device_ops {
	const char *kind; /* "blk", "net" */
	/*
	 * Rings run while disabled (net: a disabled transmit ring is consumed and dropped). False:
	 * a disabled ring is stopped (blk).
	 */
	bool runs_disabled;
	/*
	 * Chains are pushed in the order in which they were popped, so that IN_ORDER costs nothing;
	 * and none is in flight between two polls. The device has a function for each of RING_WAYS.
	 */
	bool in_order;
	/*
	 * INFLIGHT_SHMFD is offered: requests that were in flight when we died are done again; of a
	 * kind that is in_order, rings go on where they were.
	 */
	bool inflight;

	/* Virtio features to offer, device bits only; the core adds those of rings and transport.
	 */
	uint64_t (*features)(struct vhost_device *d);
	/*
	 * The negotiated features, ring and transport bits included, all of them offered; never
	 * LOG_ALL, which is the core's. No queue runs. May come several times in one connection.
	 */
	void (*set_features)(struct vhost_device *d, uint64_t features);

	/* Bytes of configuration space; fills all of it. The core checks ranges. */
	uint32_t config_size;
	void (*get_config)(struct vhost_device *d, uint8_t *config);
	/*
	 * The guest (@migration: the migration source) wrote [@offset, @offset + @len), within
	 * config_size. @return 0, or -EACCES when a field is read-only, -EINVAL for a bad value.
	 */
	int (*set_config)(struct vhost_device *d, uint32_t offset, const uint8_t *data,
			  uint32_t len, bool migration);

	/*
	 * vq->ring is set up: set vq->worker (see vhost_queue_pick()), begin. @return 0, or -errno:
	 * the queue stays stopped and the front-end is told.
	 */
	int (*queue_start)(struct vhost_device *d, struct virtqueue *vq);
	/*
	 * Only begins to stop: take no more chains; when every chain that was popped has been
	 * pushed and published and no worker touches the ring any more, call vhost_queue_stopped(),
	 * once (it may be from within queue_stop).
	 */
	void (*queue_stop)(struct vhost_device *d, struct virtqueue *vq);

	/*
	 * Optional. The queue runs: it goes on on @to, soon, and nothing is lost, done twice or
	 * brought out of order by that. Sets vq->worker when it is there. It may be called again
	 * before that, and queue_stop may come. NULL: the queue moves when it starts next.
	 */
	void (*queue_move)(struct vhost_device *d, struct virtqueue *vq, struct worker *to);

	/*
	 * Optional. Does a request in flight use memory of [@host, @host + @len)? On the queue's
	 * worker, only while something is in flight. NULL: it may.
	 */
	bool (*queue_uses)(struct virtqueue *vq, const void *host, uint64_t len);

	/*
	 * Optional: what the device knows and the front-end does not tell the next back-end by
	 * itself, as fields of a state; and the way back: all of it is checked before any of it is
	 * taken. No queue runs. state_blob.h.
	 */
	void (*save_state)(struct vhost_device *d, struct state_blob *state);
	int (*load_state)(struct vhost_device *d, const struct state_blob *state,
			  struct error *err);

	/*
	 * Optional. The front-end brought an in-flight buffer, and no queue runs: @note is what
	 * vhost_leave_note() left there, maybe before a crash; 0: nothing; -1: that is not known,
	 * and the guest has run before. The front-end may have put anything there.
	 */
	void (*inflight_note)(struct vhost_device *d, int note);

	/* Optional, NULL where the kind has no use for it. */
	void (*queue_enabled)(struct vhost_device *d, struct virtqueue *vq, bool enabled);
	int (*set_mtu)(struct vhost_device *d, uint16_t mtu);
	int (*send_rarp)(struct vhost_device *d, const uint8_t mac[6]);
	void (*connected)(struct vhost_device *d);
	void (*disconnected)(struct vhost_device *d); /* all queues stopped, features forgotten */
	void (*reset)(struct vhost_device *d);	      /* RESET_DEVICE, or virtio status 0 */
};

/* Where a device waits for, or looks for, its front-end. */
struct vhost_socket {
	char *path; /* NULL: @fd */
	/*
	 * A connected or listening stream socket; with @path: one that is bound to it. Owned; -1:
	 * @path is to be opened.
	 */
	int fd;
	bool connect;		 /* we connect (and reconnect, each second) instead of listening */
	int mode;		 /* permission bits of a listening socket's file; -1: by umask */
	char *group;		 /* group of a listening socket's file, by name; NULL: our own */
	bool exit_on_disconnect; /* one front-end is all there will be (--fd): tell closed() */
};

enum vhost_device_state {
	VHOST_DEVICE_WAITING,	/* no front-end */
	VHOST_DEVICE_CONNECTED, /* a front-end, no queue runs */
	VHOST_DEVICE_RUNNING,	/* at least one queue runs */
};

struct vhost_device_stats { /* the control thread's */
	counter_t connects;
	counter_t messages;
	counter_t messages_refused; /* malformed, unknown, or against the negotiated features */
	counter_t queues_broken;    /* rings that a driver broke; any thread reads */
	counter_t iotlb_misses;	    /* addresses that the front-end was asked for */
	counter_t memory_lost;	    /* connections ended because shared memory went away */
	counter_t throttled;	    /* times that the front-end had to wait: quota.h */
	counter_t pages_awaited;    /* of a guest that ran before all of its memory was here */
};

struct inflight; /* vhost/inflight.h, for the core alone */

struct vhost_device {
	const struct vhost_device_ops *ops;
	char *name;		  /* owned */
	struct workers *workers;  /* borrowed */
	unsigned n_queues;	  /* virtqueues, at most VHOST_QUEUES_MAX */
	struct virtqueue *queues; /* n_queues of them, owned by the core */
	uint64_t queue_num;	  /* answer to GET_QUEUE_NUM: blk: queues; net: queue pairs */
	uint64_t features;	  /* negotiated; 0 without a front-end */
	uint64_t protocol_features;
	struct mem_map *map;		/* NULL: none yet */
	struct disposal *disposal;	/* how its front-end's descriptors are closed */
	struct mem_account *account;	/* what it has of our addresses; mapped_file.h */
	struct iotlb *iotlb;		/* NULL: empty */
	struct iotlb_asks *asks;	/* what the front-end was asked for; NULL: nothing yet */
	struct mem_watch *memory_watch; /* for all that we map of the front-end's; mem_guard.h */
	struct inflight *inflight;	/* SET_INFLIGHT_FD; NULL: none */
	struct postcopy *postcopy;	/* POSTCOPY_ADVISE; NULL: none. postcopy.h */
	uint8_t status;			/* virtio device status, where the front-end tells it */
	struct dirty_log *log;		/* SET_LOG_BASE; NULL: none. dirty_log.h */
	int log_fd;			/* SET_LOG_FD; -1: none */

	struct vhost_socket socket;
	struct vhost_session *session; /* NULL: no front-end */
	struct vhost_listener *listener;
	struct vhost_device_stats stats;
	struct quota quota;	    /* of the control thread */
	struct log_limit log_limit; /* of lines that its front-end or guest can cause */
	/*
	 * clock_ns() when a worker was last held up by a descriptor of this device's front-end; 0:
	 * never, or long ago. Atomic; every ring of the device points here.
	 */
	uint64_t call_blocked_ns;
	void (*closed)(
		struct vhost_device *d); /* see vhost_device_close() and exit_on_disconnect */
	bool closing;
};

#define VHOST_QUEUES_MAX 256 /* an index has 8 bits on the wire (VHOST_USER_VRING_INDEX_MASK) */

/*
 * Fills @d, which the device kind embeds and has zeroed, with @n_queues stopped queues. @name is
 * copied. @return 0 or -errno with @err.
 */
int vhost_device_init(struct vhost_device *d, const struct vhost_device_ops *ops, const char *name,
		      unsigned n_queues, struct workers *workers, struct error *err);

/*
 * Opens the socket and serves front-ends from now on. Takes over @s (path, group, fd) also when it
 * fails. A path that a live process listens on is refused, a stale socket file is replaced,
 * anything else in its place is refused.
 */
int vhost_device_serve(struct vhost_device *d, struct vhost_socket *s, struct error *err);

/*
 * Stops serving: closes the listener, lets requests in flight finish, hangs up. Calls @closed once
 * all that is done (it may be from within); vhost_device_fini() may be called from there.
 */
void vhost_device_close(struct vhost_device *d, void (*closed)(struct vhost_device *d));

/* Frees what vhost_device_init() made. No session, no listener. */
void vhost_device_fini(struct vhost_device *d);

enum vhost_device_state vhost_device_state(const struct vhost_device *d);

/* Any thread. See vhost_device_ops.queue_stop. */
void vhost_queue_stopped(struct virtqueue *vq);

/*
 * Runs fn(vq, arg) on the queue's worker between two polls, with vq->lock held, if the queue runs;
 * here and now if it does not. Returns when it is done.
 */
void vhost_queue_change(struct virtqueue *vq, void (*fn)(struct virtqueue *vq, void *arg),
			void *arg);

/*
 * Moves the queue to @to, where it stays, also when it is stopped and started, until it is moved
 * again. A running queue goes on while it moves; requests in flight finish where they began.
 * @return true: it is there (or will start there); false: soon, see vq->worker.
 */
bool vhost_queue_move(struct virtqueue *vq, struct worker *to);
/* For queue_start: the worker that the queue was moved to, else the one with the least to do. */
struct worker *vhost_queue_pick(const struct virtqueue *vq);

/*
 * The queue's worker, under the queue's lock. For a queue whose chains wait until somebody else
 * needs them, behind an IOMMU (set looks_ahead): has what is not mapped of these chains asked for
 * now. @return units of work done, as a poll.
 */
unsigned vhost_look_ahead(struct virtqueue *vq);
/* See vhost_device_ops.inflight_note; nothing where the front-end keeps no buffer for us. */
void vhost_leave_note(struct vhost_device *d, uint8_t note);
/* Is there an IOMMU between the guest's driver and its memory? Control thread. */
bool vhost_has_iommu(const struct vhost_device *d);

/*
 * Tells the front-end that the configuration space has changed (CONFIG_CHANGE_MSG), where it has
 * opened the back-end channel; otherwise it finds out by itself. @return whether it has.
 */
bool vhost_device_config_changed(struct vhost_device *d);

/* Did the front-end negotiate this virtio feature? Control thread, or a worker while a queue runs.
 */
static inline bool vhost_has_feature(const struct vhost_device *d, unsigned bit)
{
	/* Atomic: LOG_ALL is switched while queues run. */
	return __atomic_load_n(&d->features, __ATOMIC_RELAXED) & (UINT64_C(1) << bit);
}

/* Does the front-end log what we write? Then its guest is about to run elsewhere. Control thread.
 */
bool vhost_is_migrating(const struct vhost_device *d);

#endif
