/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that an NBD server has, through libnbd. A worker cannot wait for sockets: a thread of the
 * disk's own does, for all of its queues.
 *
 *	worker  disk_nbd.c    slot: guest memory ⇄ buffer    ──inbox──►  nbd_thread.c   thread
 *	                            in reap(), by the relay   ◄──done───    connections
 *nbd_connect.c redo log     nbd_redo.c
 *
 * The thread sees buffers of ours alone, never guest memory. So rings stop, guests shrink their
 * memory and front-ends leave without anybody asking it.
 */
#ifndef SLUICE_BLK_DISK_NBD_H
#define SLUICE_BLK_DISK_NBD_H

#include "base/error.h"
#include "blk/disk.h"
#include "blk/nbd_address.h"
#include "blk/nbd_redo.h"
#include "blk/relay.h"

#include <pthread.h>

#define NBD_CONNECTIONS_MAX 16
#define NBD_SLOTS 128		  /* of a queue; further requests wait */
#define NBD_STEP_MAX (256u << 10) /* bytes of a slot's buffer */
#define NBD_RANGE_MAX (UINT64_C(64) << 20)
#define NBD_BURST 16
#define NBD_ANSWER_S 5 /* a server that takes longer to say hello is none */
#define NBD_LEAVE_S 10 /* one that was silent is not connected for so long, at worst */
#define NBD_END_S 5    /* a queue that ends does not wait for longer for an answer */
#define NBD_CLOSE_S 8  /* a disk that is closed does not wait for longer for its server */

struct nbd_conn;

/* One step of a request, on its way to the server and back. */
struct nbd_slot {
	struct relay_item item;	 /* in the inbox, or in the queue's relay */
	struct nbd_queue *queue; /* NULL: one of the thread's own */
	struct disk_request *request;
	uint8_t *buf;
	enum disk_op op;
	bool fua, unmap;
	uint64_t offset;
	uint32_t len;
	int result; /* 0 or -errno */

	/* The thread's. */
	TAILQ_ENTRY(nbd_slot) link;
	struct nbd_conn *conn; /* NULL: it waits */
	bool flushes;	       /* written, and a flush in the place of FUA is due */
	bool reserved;	       /* room in the redo log */
	uint64_t redo_at;      /* FLUSH: what the redo log had when it was sent */
	uint64_t sent_ns;
};
TAILQ_HEAD(nbd_slots, nbd_slot);

struct nbd_queue {
	struct disk_queue base;
	struct relay relay;
	struct nbd_slot *slots;
	uint8_t *mem;
	struct nbd_slot *free[NBD_SLOTS];
	unsigned n_free;
	struct disk_request_list wait; /* for a slot */
	struct relay_item *staged;     /* for the next kick, the newest first */
	bool ends;		       /* atomic: see disk_ops.cancel */
};

/* LEAVING: given up for its silence; its server may still do what it has got. */
enum nbd_step { NBD_NONE, NBD_LEAVING, NBD_CONNECTING, NBD_NEGOTIATING, NBD_READY };

struct nbd_conn {
	struct nbd_disk *disk;
	enum nbd_step step;
	int fd; /* NBD_CONNECTING, NBD_LEAVING: ours; else it is the handle's */
	struct nbd_handle *h;
	uint64_t began_ns;
	uint64_t heard_ns;	     /* when something came last */
	const struct addrinfo *next; /* to be tried after this one */
	struct nbd_slots in_flight, answered;
	unsigned n_in_flight;
	bool ends; /* the server says that it shuts down */
};

/* What a server says of an export. */
struct nbd_facts {
	uint64_t size;
	uint64_t min, preferred, max; /* bytes; 0: it does not say */
	bool read_only, flush, fua, trim, zero, multi;
};

enum nbd_state { NBD_AWAY, NBD_REDO, NBD_UP };

struct nbd_disk {
	struct disk disk;
	char *name;
	bool read_only, unsafe;
	struct nbd_address address;
	struct nbd_facts facts;
	unsigned n_conns;
	uint32_t step_max;
	uint64_t reconnect_ns, timeout_ns; /* timeout_ns 0: for ever */

	pthread_t thread;
	bool has_thread;
	int wake_fd, grown_fd;
	uint32_t asleep; /* the thread, or it is about to */
	bool stop, some_end;
	bool idle; /* no guest runs: nothing is redone, for another host may have written; atomic */
	bool forget;	     /* the log is of a guest that runs elsewhere by now; atomic */
	uint64_t closing_ns; /* since when it is being closed; atomic; 0: it is not */
	uint64_t size;	     /* what the server has by now, in whole blocks; atomic */
	struct relay_stack inbox;

	/* The thread's; before it is started the control thread's. */
	struct nbd_conn conns[NBD_CONNECTIONS_MAX];
	uint64_t now_ns;      /* of this round */
	enum nbd_state state; /* written atomically, for status; so is away_ns */
	uint64_t away_ns;     /* since when; 0: it is there */
	uint64_t retry_ns;
	bool lost;		    /* a connection broke: all end, once the others have answered */
	bool told;		    /* that it is away for too long */
	struct error why;	    /* what happened to a connection last */
	pthread_mutex_t shown_lock; /* never a worker's */
	char shown_why[160];	    /* for status */
	struct nbd_slots waiting;
	struct nbd_redo redo;
	struct nbd_slot own; /* a flush that makes room in the log, or a step of redoing it */
	bool own_busy;
	uint64_t redo_pos, redo_next;
	int own_error; /* of the last flush of its own; 0 or -errno */
	uint64_t own_retry_ns;
};

/* nbd_connect.c. */
/* Begins; steps until NBD_READY, or NBD_NONE: it has failed, with @err. Does not block. */
void nbd_conn_begin(struct nbd_conn *c, uint64_t now, struct error *err);
void nbd_conn_step(struct nbd_conn *c, short revents, struct error *err);
/* What to poll for; the descriptor, -1: none. */
int nbd_conn_fd(const struct nbd_conn *c, short *events);
/* For the way of disconnecting; what is in flight is the caller's to take away. */
void nbd_conn_close(struct nbd_conn *c);
/*
 * Of a server that is silent: nothing more is sent to it, and what it sends is thrown away, until
 * it has ended the connection, and so has done what it had got: then the step is NBD_NONE. Without
 * a descriptor to see that by, c->fd is -1, and the caller has to close it after NBD_LEAVE_S.
 */
void nbd_conn_leave(struct nbd_conn *c, uint64_t now);
/* How long a handshake may take. */
uint64_t nbd_hello_ns(const struct nbd_disk *d);
/* Control thread: connects, and waits for it. @return 0 or -errno with @err. */
int nbd_conn_wait(struct nbd_conn *c, struct error *err);
int nbd_conn_facts(const struct nbd_conn *c, struct nbd_facts *f, struct error *err);
/* Can a server that says @now stand for one that said @then? @err: why not. */
bool nbd_facts_suit(const struct nbd_facts *then, const struct nbd_facts *now, struct error *err);

/* nbd_thread.c. Control thread. */
int nbd_thread_start(struct nbd_disk *d);
void nbd_thread_stop(struct nbd_disk *d);
/* Any thread: the disk's is to look at its inbox. */
void nbd_thread_wake(struct nbd_disk *d);

/* nbd_send.c; the disk's thread. */
/* @return 0; -ENOSPC: the redo log has no room for it yet. */
int nbd_slot_send(struct nbd_conn *c, struct nbd_slot *s);
/* Of c->answered. @return true: it is done; false: it is in waiting again. */
bool nbd_slot_answered(struct nbd_disk *d, struct nbd_slot *s);
/* It comes to nothing: what is held for it is given up. */
void nbd_slot_drop(struct nbd_disk *d, struct nbd_slot *s);

#endif
