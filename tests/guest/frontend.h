/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vhost-user FRONT-END: what a VMM does, for tests, fuzzers and sluice-bench. Written from the
 * protocol's text, with its own definitions of the wire, so that it cross-checks vhost/.
 *
 *	frontend_init(&f);
 *	frontend_connect(&f, path);			or _accept, or _attach
 *	frontend_hello(&f, protocol features wanted);
 *	frontend_set_features(&f, features wanted);
 *	frontend_share_memory(&f, &memory);
 *	frontend_queue_setup(&f, i, &options);		makes the driver's ring
 *	frontend_queue_start(&f, i);
 *	…	driver_add(&f.queue[i].ring, …), frontend_kick(), frontend_wait_call()
 *	frontend_queue_stop(&f, i);
 *	frontend_close(&f);
 *
 * Every function returns 0 (or a count) or -errno and puts a sentence into f->error: -ETIMEDOUT
 *when the back-end did not answer in f->timeout_ms, -ECONNRESET when it hung up, -EREMOTEIO when it
 * refused (a non-zero ack), -EPROTO when its answer was malformed. Nothing here waits for ever.
 */
#ifndef SLUICE_TESTS_GUEST_FRONTEND_H
#define SLUICE_TESTS_GUEST_FRONTEND_H

#include "tests/guest/driver_ring.h"
#include "tests/guest/memory.h"

#include <sys/types.h>

/* vhost-user "Front-end message types". */
enum {
	VU_GET_FEATURES = 1,
	VU_SET_FEATURES = 2,
	VU_SET_OWNER = 3,
	VU_RESET_OWNER = 4,
	VU_SET_MEM_TABLE = 5,
	VU_SET_LOG_BASE = 6,
	VU_SET_LOG_FD = 7,
	VU_SET_VRING_NUM = 8,
	VU_SET_VRING_ADDR = 9,
	VU_SET_VRING_BASE = 10,
	VU_GET_VRING_BASE = 11,
	VU_SET_VRING_KICK = 12,
	VU_SET_VRING_CALL = 13,
	VU_SET_VRING_ERR = 14,
	VU_GET_PROTOCOL_FEATURES = 15,
	VU_SET_PROTOCOL_FEATURES = 16,
	VU_GET_QUEUE_NUM = 17,
	VU_SET_VRING_ENABLE = 18,
	VU_SEND_RARP = 19,
	VU_NET_SET_MTU = 20,
	VU_SET_BACKEND_REQ_FD = 21,
	VU_IOTLB_MSG = 22,
	VU_SET_VRING_ENDIAN = 23,
	VU_GET_CONFIG = 24,
	VU_SET_CONFIG = 25,
	VU_POSTCOPY_ADVISE = 28,
	VU_POSTCOPY_LISTEN = 29,
	VU_POSTCOPY_END = 30,
	VU_GET_INFLIGHT_FD = 31,
	VU_SET_INFLIGHT_FD = 32,
	VU_RESET_DEVICE = 34,
	VU_VRING_KICK = 35,
	VU_GET_MAX_MEM_SLOTS = 36,
	VU_ADD_MEM_REG = 37,
	VU_REM_MEM_REG = 38,
	VU_SET_STATUS = 39,
	VU_GET_STATUS = 40,
	VU_SET_DEVICE_STATE_FD = 42,
	VU_CHECK_DEVICE_STATE = 43,
};

/* Messages of the back-end's own channel. */
enum {
	VU_BACKEND_IOTLB_MSG = 1,
	VU_BACKEND_CONFIG_CHANGE = 2,
	VU_BACKEND_VRING_CALL = 4,
	VU_BACKEND_VRING_ERR = 5,
};

/* Header flags. */
#define VU_VERSION 0x1u
#define VU_VERSION_MASK 0x3u
#define VU_REPLY 0x4u
#define VU_NEED_REPLY 0x8u

#define VU_NO_FD 0x100u /* SET_VRING_{KICK,CALL,ERR}: no descriptor comes along */

/* Protocol feature bits, as masks. */
#define VU_PF_MQ (UINT64_C(1) << 0)
#define VU_PF_LOG_SHMFD (UINT64_C(1) << 1)
#define VU_PF_RARP (UINT64_C(1) << 2)
#define VU_PF_REPLY_ACK (UINT64_C(1) << 3)
#define VU_PF_NET_MTU (UINT64_C(1) << 4)
#define VU_PF_BACKEND_REQ (UINT64_C(1) << 5)
#define VU_PF_CONFIG (UINT64_C(1) << 9)
#define VU_PF_INFLIGHT_SHMFD (UINT64_C(1) << 12)
#define VU_PF_RESET_DEVICE (UINT64_C(1) << 13)
#define VU_PF_INBAND_NOTIFICATIONS (UINT64_C(1) << 14)
#define VU_PF_CONFIGURE_MEM_SLOTS (UINT64_C(1) << 15)
#define VU_PF_STATUS (UINT64_C(1) << 16)
#define VU_PF_GET_VRING_BASE_INFLIGHT (UINT64_C(1) << 20)
#define VU_PF_GPA_ADDRESSES (UINT64_C(1) << 21)
/* What an everyday front-end wants of those. */
#define VU_PF_USUAL                                                                         \
	(VU_PF_MQ | VU_PF_LOG_SHMFD | VU_PF_REPLY_ACK | VU_PF_CONFIG | VU_PF_RESET_DEVICE | \
	 VU_PF_CONFIGURE_MEM_SLOTS | VU_PF_STATUS)

/* Feature bits of the transport and the rings, as masks. */
#define VU_F_LOG_ALL (UINT64_C(1) << 26)
#define VU_F_INDIRECT (UINT64_C(1) << 28)
#define VU_F_EVENT_IDX (UINT64_C(1) << 29)
#define VU_F_PROTOCOL (UINT64_C(1) << 30)
#define VU_F_VERSION_1 (UINT64_C(1) << 32)
#define VU_F_ACCESS_PLATFORM (UINT64_C(1) << 33)
#define VU_F_PACKED (UINT64_C(1) << 34)
#define VU_F_IN_ORDER (UINT64_C(1) << 35)

#define VU_FDS_MAX 8
#define VU_CONFIG_MAX 256
#define VU_PAYLOAD_MAX 4096

struct vu_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
};

struct vu_state {
	uint32_t index;
	uint32_t num;
};

struct vu_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc, used, avail; /* user addresses */
	uint64_t log;
};

struct vu_region {
	uint64_t gpa, size, uva, offset;
};

struct vu_mem_table {
	uint32_t n;
	uint32_t padding;
	struct vu_region region[VU_FDS_MAX];
};

struct vu_mem_reg {
	uint64_t padding;
	struct vu_region region;
};

struct vu_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[VU_CONFIG_MAX];
};

struct frontend_queue_options {
	uint32_t size;
	enum driver_indirect indirect; /* used where VIRTIO_F_INDIRECT_DESC was negotiated */
	uint32_t indirect_segs;	       /* 0: 64 */
	uint32_t base;		       /* with has_base: where to begin */
	bool has_base;
	bool no_err_fd;
};

struct frontend_queue {
	struct driver_ring ring;
	bool set_up;
	uint32_t base;		      /* where the device goes on: the answer to GET_VRING_BASE */
	int kick_fd, call_fd, err_fd; /* -1: none */
	uint64_t kicks, calls;	      /* eventfd writes, and calls that were waited for and came */
	uint64_t kick_turns;	      /* odd while a kick is being written; for other threads */
	char apart[CACHE_LINE];	      /* queues may be driven by threads of their own */
};

#define FRONTEND_QUEUES_MAX 520

struct frontend {
	int sock;
	int backend_sock; /* our end of the back-end's channel; -1: none */
	int timeout_ms;
	pid_t sender; /* of the last message; 0: not told: only with SO_PASSCRED on the socket */
	/*
	 * Called over and over while something is waited for: a test that runs the back-end on the
	 * same thread steps it here. NULL: just sleep.
	 */
	void (*idle)(void *arg);
	void *idle_arg;
	bool receiving; /* an answer is waited for: nothing else can be said until it is there */
	uint64_t offered, features;
	uint64_t protocol_offered, protocol;
	struct guest_memory *memory; /* borrowed */
	/* With ACCESS_PLATFORM: rings lie at guest address + this, as I/O virtual address. */
	uint64_t iova_base;
	struct frontend_queue queue[FRONTEND_QUEUES_MAX];
	char error[200];
};

void frontend_init(struct frontend *f);
/* Tries until the socket is there or the time is up. */
int frontend_connect(struct frontend *f, const char *path);
/* One connection from a listening socket (for back-ends that connect). */
int frontend_accept(struct frontend *f, int listen_fd);
/* Takes over a connected socket. */
void frontend_attach(struct frontend *f, int fd);
/* Hangs up and frees the rings; memory stays the caller's. The front-end can connect again. */
void frontend_close(struct frontend *f);

/* GET_FEATURES, SET_OWNER, and the protocol features: what is wanted and offered. */
int frontend_hello(struct frontend *f, uint64_t protocol_wanted);
/* SET_FEATURES with what is wanted and offered (f->features then). */
int frontend_set_features(struct frontend *f, uint64_t wanted);
/* ADD_MEM_REG for each region where CONFIGURE_MEM_SLOTS was negotiated, SET_MEM_TABLE elsewhere. */
int frontend_share_memory(struct frontend *f, struct guest_memory *m);
int frontend_set_mem_table(struct frontend *f, const struct guest_memory *m);
int frontend_add_mem_reg(struct frontend *f, const struct guest_region *r);
int frontend_remove_mem_reg(struct frontend *f, const struct guest_region *r);

/* Makes ring, eventfds and memory; the layout and EVENT_IDX follow f->features. Says nothing yet.
 */
int frontend_queue_setup(struct frontend *f, unsigned index,
			 const struct frontend_queue_options *opt);
/* NUM, BASE, ADDR, ERR, CALL, KICK and, with protocol features, ENABLE. */
int frontend_queue_start(struct frontend *f, unsigned index);
int frontend_queue_enable(struct frontend *f, unsigned index, bool on);
/* GET_VRING_BASE. @return 0 and @base (may be NULL). The ring can be started again. */
int frontend_queue_stop(struct frontend *f, unsigned index, uint32_t *base);
void frontend_queue_free(struct frontend *f, unsigned index);

/*
 * Takes what an eventfd has counted. Never waits, though the device has the descriptor too, and may
 * have made it one that blocks. @return whether there was something.
 */
bool frontend_take_event(int fd);
/* Waits only for a device that has made its descriptor one that blocks, and full. */
void frontend_kick(struct frontend *f, unsigned index);
/* Publishes what was added, and kicks if the device wants that. */
void frontend_submit(struct frontend *f, unsigned index);
/* Waits for the call eventfd and takes its count. @return 0 or -ETIMEDOUT. */
int frontend_wait_call(struct frontend *f, unsigned index, int timeout_ms);
/* driver_poll() with the layout of the ring. */
bool frontend_poll(struct frontend *f, unsigned index, struct driver_used *used);
/*
 * The next used chain, sleeping for calls as a driver does. @return 0; -ETIMEDOUT; -EREMOTEIO after
 * a violation, or when the device signalled the err eventfd.
 */
int frontend_wait_used(struct frontend *f, unsigned index, struct driver_used *used);

/* @return 0 and @len bytes, or -EREMOTEIO when the back-end answered with size 0. */
int frontend_get_config(struct frontend *f, uint32_t offset, void *data, uint32_t len);
/*
 * The configuration from its beginning on, of a back-end that may know no offset, or answer one
 * size alone: each of @n @sizes is asked for until one is not refused. Zeros follow what came.
 * @return how many bytes of @data came, or -errno.
 */
int frontend_get_config_start(struct frontend *f, void *data, uint32_t max, const uint32_t *sizes,
			      unsigned n);
int frontend_set_config(struct frontend *f, uint32_t offset, const void *data, uint32_t len,
			uint32_t flags);
/* SET_BACKEND_REQ_FD with a new socket pair. */
int frontend_open_backend_channel(struct frontend *f);
/* The next message of the back-end there, without payload. Answers it if it asks for that. */
int frontend_backend_message(struct frontend *f, struct vu_header *h);

/* Messages by hand. @fds are sent along and stay the caller's. */
int frontend_u64_set(struct frontend *f, uint32_t request, uint64_t value);
int frontend_u64_get(struct frontend *f, uint32_t request, uint64_t *value);
int frontend_state_set(struct frontend *f, uint32_t request, uint32_t index, uint32_t num);
/* SET_VRING_{KICK,CALL,ERR}; @fd -1: sends the no-fd bit. */
int frontend_vring_fd(struct frontend *f, uint32_t request, unsigned index, int fd);
/*
 * A message whose only answer, if any, is the ack of REPLY_ACK, which it asks for and waits for
 * where that was negotiated.
 */
int frontend_set(struct frontend *f, uint32_t request, const void *payload, uint32_t size,
		 const int *fds, unsigned n_fds);
/* Any bytes, with any descriptors. */
int frontend_send_raw(struct frontend *f, const void *bytes, size_t n, const int *fds,
		      unsigned n_fds);
int frontend_send(struct frontend *f, uint32_t request, uint32_t flags, const void *payload,
		  uint32_t size, const int *fds, unsigned n_fds);
/*
 * The next message; @max bytes of payload, descriptors (the caller's then) in @fds, at most *n_fds.
 * @return bytes of payload or -errno.
 */
int frontend_recv(struct frontend *f, struct vu_header *h, void *payload, uint32_t max, int *fds,
		  unsigned *n_fds);
/* An answer to @request: frontend_recv() and its header checked. */
int frontend_recv_reply(struct frontend *f, uint32_t request, void *payload, uint32_t max, int *fds,
			unsigned *n_fds);
/* Waits until the back-end hangs up. @return 0, -ETIMEDOUT, or -EPROTO if it says something. */
int frontend_wait_hangup(struct frontend *f);
/* Calls f->idle, or sleeps a moment: for loops that wait for something else. */
void frontend_idle(struct frontend *f);

int frontend_fail(struct frontend *f, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
