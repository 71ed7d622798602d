/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection of a front-end, for the files of vhost/ alone. Control thread throughout.
 *
 *	listener.c	sockets: listening, connecting, given
 *	session.c	a connection's life; stopping rings for a message and starting them again
 *	session_io.c	bytes to messages and back
 *	messages.c	the table of messages: what is checked before a handler runs, and answers
 *	handlers_*.c	what each message does
 *	memory_change.c	new guest memory, or a new IOTLB, under running queues
 *	memory_wait.c	messages that wait until there is room for what they map
 *	iommu.c		IOTLB messages, and rings that find an address unmapped
 *	postcopy.c	guest memory that arrives while the guest runs
 *	backend_channel.c	messages of our own
 *	inband.c	notifications as messages
 *	queue.c		a virtqueue's start and stop
 *	queue_move.c	the worker that it runs on
 *	queue_track.c	what a ring remembers of its chains: IN_ORDER, in-flight buffer
 *
 * Handlers never wait. A message that needs quiet rings makes the session stop them and read
 * nothing further until the last one has stopped; then its handler runs, and the rings that should
 * still run start again. A handler may also find out itself which rings have to stop
 * (HANDLER_AGAIN).
 */
#ifndef SLUICE_VHOST_SESSION_H
#define SLUICE_VHOST_SESSION_H

#include "base/error.h"
#include "vhost/device.h"
#include "vhost/protocol.h"

#include <stdbool.h>
#include <systemd/sd-event.h>

/*
 * A message may carry 8 descriptors. Room for all that can come with one (the kernel's SCM_MAX_FD):
 * what found no room the kernel would close, and that may take its time (vhost/disposal.h).
 */
#define MESSAGE_FDS_MAX 253

struct message {
	struct vhost_user_header hdr;
	union vhost_user_payload payload; /* the request's, then the reply's */
	int fds[MESSAGE_FDS_MAX];	  /* a handler that keeps one puts -1 in its place */
	unsigned n_fds;
	bool fds_lost;	     /* more came than we have room for; the kernel closed the rest */
	uint32_t reply_size; /* bytes of payload that the handler filled in for its reply */
	unsigned reply_fds;  /* of fds, which the handler filled in to go with its reply */
};

#define SESSION_TX_MAX 65536

struct vhost_session {
	struct vhost_device *device;
	int fd;
	sd_event_source *io;
	bool closing;
	const char *why; /* it ended, for the log */

	struct message rx;
	size_t rx_got; /* bytes of header and payload so far */

	uint8_t *tx; /* replies that the socket did not take, SESSION_TX_MAX; NULL: none yet */
	size_t tx_from, tx_to;

	unsigned n_stopping; /* queues whose queue_stopped() is awaited */
	bool message_waits;  /* rx is a whole message, waiting for them, or for something else */
	bool features_set;   /* SET_FEATURES came */
	bool running_logged;
	bool config_changed;		 /* to be told once a ring runs */
	bool postcopied;		 /* POSTCOPY_ADVISE came */
	unsigned refused;		 /* messages; the log names only the first ones */
	struct state_transfer *transfer; /* SET_DEVICE_STATE_FD; NULL: none yet */
	struct backend_channel *backend; /* SET_BACKEND_REQ_FD; NULL: none */
	/* Replaced, and still used by queues that are stopping; see memory_change(). */
	struct mem_map *old_map;
	struct iotlb *old_iotlb;
	bool memory_changing;
	sd_event_source *room_timer; /* NULL: none yet */
	bool waits_for_room;
	uint32_t inband_waits; /* the notification whose answer is awaited; 0: none */
	unsigned inband_next;  /* queue */
};

/*
 * @return 0, or -errno with @err: the message is refused, and nothing has changed. A handler of a
 * message with a reply of its own fills payload and reply_size.
 */
typedef int message_fn(struct vhost_session *s, struct message *m, struct error *err);

/*
 * What a handler returns that has marked queues (must_stop): it is called again, with the same
 * message, once they have stopped. It cannot fail any more then.
 */
#define HANDLER_AGAIN 1
/* It is called again, with the same message, by session_go_on(); nothing is read before that. */
#define HANDLER_LATER 2

enum quiet {
	QUIET_NONE,
	QUIET_QUEUE,   /* the one that the message names */
	QUIET_LEAVING, /* that one; what is in flight may stay in the in-flight buffer */
	QUIET_MARKED,
	QUIET_ALL,
};
typedef enum quiet quiet_fn(const struct vhost_session *s, const struct message *m);

struct message_row {
	const char *name;
	uint32_t size_min, size_max;
	uint8_t fds_min, fds_max;
	enum { ACK, REPLY, REPLY_GATED } reply;
	enum { GATE_ANY, GATE_NEGOTIATED, GATE_OFFERED } gate;
	uint8_t gate_bit;
	quiet_fn *quiet;
	message_fn *handle;
};

/* messages.c */
const struct message_row *message_row(uint32_t request); /* NULL: a number nobody knows */
const char *message_name(uint32_t request);
/* What has to stop before message_handle(). Only for messages that pass message_check(). */
enum quiet message_quiet(const struct vhost_session *s, const struct message *m);
/* The queue that a message names; NULL if it names none or one that is not there. */
struct virtqueue *message_queue(const struct vhost_session *s, const struct message *m);
/* Size, descriptors, gate: all that can be checked without the handler. */
int message_check(const struct vhost_session *s, const struct message *m, struct error *err);
/* Runs the handler. */
int message_handle(struct vhost_session *s, struct message *m, struct error *err);
/* Answers: @rc is the outcome. @return 0, or -errno when the connection has to end. */
int message_answer(struct vhost_session *s, struct message *m, int rc);
/* Closes the descriptors that nobody took. */
void message_close_fds(struct vhost_session *s);

/* session.c */
int session_open(struct vhost_device *d, int fd); /* takes @fd, also on failure */
/* Ends the connection: stops the queues, then frees @s and lets the device look for the next one.
 */
void session_close(struct vhost_session *s, const char *why);
bool session_peer_gone(const struct vhost_session *s);
void session_log_refused(struct vhost_session *s, const struct message *m, const struct error *err);
/* Reads on, unless something forbids it: a message that waits for queues, or the quota. */
void session_listen(struct vhost_session *s);
/* What a HANDLER_LATER waited for has come. May free @s. */
void session_go_on(struct vhost_session *s);
/* Queues that could not start may be able to now. */
void session_retry(struct vhost_session *s);
/* The control thread's end of vhost_queue_stopped(). */
void session_queue_stopped(struct vhost_session *s, struct virtqueue *vq);

/* session_io.c */
/* @return 1: s->rx is a whole message, 0: more has to come, -errno: hang up, with s->why set. */
int session_receive(struct vhost_session *s);
void session_receive_next(struct vhost_session *s);
/* Never blocks. @return 0 or -errno: hang up. */
int session_send(struct vhost_session *s, const struct vhost_user_header *hdr, const void *payload);
/* The same with descriptors, which cannot wait: -ENOBUFS where earlier replies were not read. */
int session_send_fds(struct vhost_session *s, const struct vhost_user_header *hdr,
		     const void *payload, const int *fds, unsigned n_fds);
int session_flush(struct vhost_session *s);

/* queue.c */
bool queue_should_run(const struct virtqueue *vq);
/* Checks what the front-end said of the ring, and starts it. @return 0 or -errno with @err. */
int queue_start(struct virtqueue *vq, struct error *err);
void queue_stop(struct virtqueue *vq);
/* STOPPED: takes the place of the ring over into setup. */
void queue_stop_done(struct virtqueue *vq);
/* What rings miss, and was put off for the quota, is seen to now. */
void queues_missed_again(struct vhost_device *d);
void queue_set_enabled(struct virtqueue *vq, bool enabled);
void queue_setup_reset(struct virtqueue *vq); /* as for a new connection; closes descriptors */

/* queue_track.c */
/* The ring's memory of its chains, where it needs one, made or found. @return 0 or -errno. */
int queue_track(struct virtqueue *vq, struct error *err);
void queue_untrack(struct virtqueue *vq);

/* memory_change.c */
/*
 * @next (taken over; NULL: none) becomes the device's map, or IOTLB. @return 0: all is done;
 * HANDLER_AGAIN: queues that use what has gone are marked must_stop, and when they have stopped
 * memory_changed() unmaps it; -errno with @err, and nothing has changed.
 */
int memory_change(struct vhost_session *s, struct mem_map *next, struct error *err);
enum iotlb_change { IOTLB_WAS_TOLD, IOTLB_WAS_FULL };
int iotlb_change(struct vhost_session *s, struct iotlb *next, uint64_t first, uint64_t last,
		 enum iotlb_change why);
/* Is this the second call of a handler that said HANDLER_AGAIN for that? Then it is done. */
bool memory_changed(struct vhost_session *s);
/* Rings look at their maps anew: something about them has changed that is not in them. */
void memory_refresh(struct vhost_session *s);
void memory_change_end(struct vhost_session *s);

/* memory_wait.c */
/*
 * A message is about to map @bytes. @return true: not before other things are unmapped; the handler
 * says HANDLER_LATER, and is called again.
 */
bool memory_must_wait(struct vhost_session *s, uint64_t bytes);
void memory_wait_end(struct vhost_session *s); /* the connection's end */

/* iommu.c */
bool iommu_on(const struct vhost_device *d); /* ACCESS_PLATFORM is negotiated */
void iommu_forget(struct vhost_device *d);   /* no queue runs */
void iommu_resume(struct vhost_session *s);
/*
 * [@iova, @iova + @len) as one piece of host memory, for the rings themselves. @return 0; -EAGAIN:
 * some of it is not mapped yet and the front-end is asked; -EFAULT with @err.
 */
int iommu_resolve_area(struct virtqueue *vq, uint64_t iova, uint64_t len, uint8_t access,
		       uint8_t **host, struct error *err);
/* An address that a ring needs. @return whether it was not asked for before, or is again. */
bool iommu_ask(struct vhost_device *d, uint64_t iova, uint8_t access);

/* backend_channel.c */
int backend_open(struct vhost_session *s, int fd, struct error *err); /* takes @fd, always */
void backend_close(struct vhost_session *s);
bool backend_is_open(const struct vhost_session *s);
/*
 * Never waits. @return 0; -EAGAIN: it is full, and backend_resume() will be called when there is
 * room; -ENOTCONN: there is no channel (any more).
 */
int backend_send(struct vhost_session *s, uint32_t request, uint32_t flags, const void *payload,
		 uint32_t size);
/* Sends what there is to say and could not be said before. */
void backend_resume(struct vhost_session *s);
/* Hears what the front-end says there, unless the quota forbids it. */
void backend_listen(struct vhost_session *s);

/* inband.c */
int inband_kick_fd(struct error *err); /* one of our own, for a queue that gets none; or -errno */
/* The same for calls or errors; it is watched until inband_unwatch(), which leaves it open. */
int inband_watch(struct virtqueue *vq, enum inband_kind kind, struct error *err);
void inband_unwatch(struct virtqueue *vq, enum inband_kind kind);
void inband_resume(struct vhost_session *s);
/* The front-end has answered @request. */
void inband_answered(struct vhost_session *s, uint32_t request);

/* device.c */
uint64_t device_features(struct vhost_device *d); /* to offer */
uint64_t device_protocol_features(const struct vhost_device *d);
void device_session_ended(struct vhost_device *d);
void device_features_text(uint64_t features, char *text, size_t size);

/* listener.c */
int listener_open(struct vhost_device *d, struct error *err);
void listener_resume(struct vhost_device *d); /* the device has no session any more */
void listener_pause(struct vhost_device *d);
void listener_close(struct vhost_device *d);

/* handlers_*.c */
message_fn handle_get_features, handle_set_features, handle_get_protocol_features,
	handle_set_protocol_features, handle_get_queue_num, handle_set_owner, handle_reset_owner,
	handle_reset_device, handle_set_status, handle_get_status, handle_get_config,
	handle_set_config, handle_set_backend_req_fd, handle_send_rarp, handle_net_set_mtu;
message_fn handle_set_mem_table, handle_add_mem_reg, handle_rem_mem_reg, handle_get_max_mem_slots;
message_fn handle_set_vring_num, handle_set_vring_addr, handle_set_vring_base,
	handle_get_vring_base, handle_set_vring_kick, handle_set_vring_call, handle_set_vring_err,
	handle_set_vring_enable;
message_fn handle_set_log_base, handle_set_log_fd;
message_fn handle_set_device_state_fd, handle_check_device_state;
message_fn handle_get_inflight_fd, handle_set_inflight_fd;
message_fn handle_iotlb_msg, handle_vring_kick; /* iommu.c, inband.c */
message_fn handle_postcopy_advise, handle_postcopy_listen, handle_postcopy_end; /* postcopy.c */
/* Makes @fd fit for a worker to write to: an eventfd. @return 0, or -errno with @err. */
int vring_signal_fd(int fd, struct error *err);

/* A line that the front-end or guest of @d caused: limited. Control thread. */
#define device_log(d, level, ...) log_limited(&(d)->log_limit, (d)->name, level, __VA_ARGS__)
#define device_warn(d, ...) device_log(d, LOG_LEVEL_WARN, __VA_ARGS__)
#define device_info(d, ...) device_log(d, LOG_LEVEL_INFO, __VA_ARGS__)

static inline uint64_t feature_bit(unsigned bit)
{
	return UINT64_C(1) << bit;
}

static inline bool session_negotiated(const struct vhost_session *s, unsigned protocol_bit)
{
	return s->device->protocol_features & feature_bit(protocol_bit);
}

#endif
