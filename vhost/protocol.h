/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes over the vhost-user socket, byte for byte (QEMU docs/interop/vhost-user.rst). Numbers
 * are in the machine's byte order; the names of the text are used.
 */
#ifndef SLUICE_VHOST_PROTOCOL_H
#define SLUICE_VHOST_PROTOCOL_H

#include "base/compiler.h"

/*
 * Legacy guests (without VERSION_1) lay out rings and headers in their own byte order, which we
 * take to be ours; modern ones are little-endian.
 */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are read as little-endian");

enum vhost_user_request {
#define MESSAGE(number, name, ...) VHOST_USER_##name = number,
#include "vhost/messages.def"
};

/* vhost-user "Back-end message types". */
enum vhost_user_backend_request {
	VHOST_USER_BACKEND_IOTLB_MSG = 1,
	VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2,
	VHOST_USER_BACKEND_VRING_CALL = 4,
	VHOST_USER_BACKEND_VRING_ERR = 5,
};

enum vhost_user_protocol_feature {
	VHOST_USER_PROTOCOL_F_MQ = 0,
	VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1,
	VHOST_USER_PROTOCOL_F_RARP = 2,
	VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
	VHOST_USER_PROTOCOL_F_NET_MTU = 4,
	VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5,
	VHOST_USER_PROTOCOL_F_CROSS_ENDIAN = 6,
	VHOST_USER_PROTOCOL_F_CRYPTO_SESSION = 7,
	VHOST_USER_PROTOCOL_F_PAGEFAULT = 8,
	VHOST_USER_PROTOCOL_F_CONFIG = 9,
	VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD = 10,
	VHOST_USER_PROTOCOL_F_HOST_NOTIFIER = 11,
	VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12,
	VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13,
	VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS = 14,
	VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
	VHOST_USER_PROTOCOL_F_STATUS = 16,
	VHOST_USER_PROTOCOL_F_XEN_MMAP = 17,
	VHOST_USER_PROTOCOL_F_SHARED_OBJECT = 18,
	VHOST_USER_PROTOCOL_F_DEVICE_STATE = 19,
	VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT = 20,
	VHOST_USER_PROTOCOL_F_GPA_ADDRESSES = 21,
	VHOST_USER_PROTOCOL_F_SHMEM = 22,
};

/* In the virtio feature word; no virtio device has this bit (virtio 1.3 6.4, reserved). */
#define VHOST_USER_F_PROTOCOL_FEATURES 30

struct vhost_user_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* bytes of payload */
};
static_assert(sizeof(struct vhost_user_header) == 12, "wire");

#define VHOST_USER_VERSION 1u
#define VHOST_USER_VERSION_MASK 3u
#define VHOST_USER_REPLY (1u << 2)
#define VHOST_USER_NEED_REPLY (1u << 3)

struct vhost_user_vring_state {
	uint32_t index;
	uint32_t num;
};
static_assert(sizeof(struct vhost_user_vring_state) == 8, "wire");

struct vhost_user_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc;	/* user addresses */
	uint64_t used;	/* packed: the device's event suppression area */
	uint64_t avail; /* packed: the driver's event suppression area */
	uint64_t log;	/* guest address */
};
static_assert(sizeof(struct vhost_user_vring_addr) == 40, "wire");

/* SET_VRING_KICK, _CALL and _ERR. */
#define VHOST_USER_VRING_INDEX_MASK UINT64_C(0xff)
#define VHOST_USER_VRING_NOFD (UINT64_C(1) << 8)

struct vhost_user_region {
	uint64_t guest_addr;
	uint64_t size;
	uint64_t user_addr;
	uint64_t mmap_offset;
};
static_assert(sizeof(struct vhost_user_region) == 32, "wire");

#define VHOST_USER_MEMORY_REGIONS 8

struct vhost_user_memory {
	uint32_t n_regions;
	uint32_t padding;
	struct vhost_user_region regions[VHOST_USER_MEMORY_REGIONS];
};
static_assert(sizeof(struct vhost_user_memory) == 264, "wire");
#define VHOST_USER_MEMORY_SIZE(n) \
	(offsetof(struct vhost_user_memory, regions) + (n) * sizeof(struct vhost_user_region))

struct vhost_user_single_region {
	uint64_t padding;
	struct vhost_user_region region;
};
static_assert(sizeof(struct vhost_user_single_region) == 40, "wire");

struct vhost_user_transfer {
	uint32_t direction, phase;
};
static_assert(sizeof(struct vhost_user_transfer) == 8, "wire");

struct vhost_user_log {
	uint64_t size; /* bytes */
	uint64_t offset;
};
static_assert(sizeof(struct vhost_user_log) == 16, "wire");

/* The text's 20 bytes; front-ends whose compiler pads it to 24 send those too. */
struct vhost_user_inflight {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
};
static_assert(sizeof(struct vhost_user_inflight) == 24, "wire, padded");
struct vhost_user_iotlb {
	uint64_t iova;
	uint64_t size;
	uint64_t user_addr;
	uint8_t access; /* 1: read, 2: write */
	uint8_t type;
	uint8_t padding[6]; /* QEMU sends them, and reads as many */
};
static_assert(offsetof(struct vhost_user_iotlb, padding) == 26, "wire");

enum {
	VHOST_USER_IOTLB_MISS = 1,
	VHOST_USER_IOTLB_UPDATE = 2,
	VHOST_USER_IOTLB_INVALIDATE = 3,
	VHOST_USER_IOTLB_ACCESS_FAIL = 4,
};

#define VHOST_USER_CONFIG_MAX 256

struct vhost_user_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[VHOST_USER_CONFIG_MAX];
};
#define VHOST_USER_CONFIG_HEADER offsetof(struct vhost_user_config, data)
static_assert(VHOST_USER_CONFIG_HEADER == 12, "wire");

enum { VHOST_USER_CONFIG_GUEST = 0, VHOST_USER_CONFIG_MIGRATION = 1 };

/* The largest payload that is read at all, known message or not; a longer one ends the connection.
 */
#define VHOST_USER_PAYLOAD_MAX 2048

union vhost_user_payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_addr addr;
	struct vhost_user_memory memory;
	struct vhost_user_single_region region;
	struct vhost_user_config config;
	struct vhost_user_log log;
	struct vhost_user_transfer transfer;
	struct vhost_user_inflight inflight;
	struct vhost_user_iotlb iotlb;
	uint8_t bytes[VHOST_USER_PAYLOAD_MAX];
};

/* Payload kinds of messages.def: X(kind, least bytes, most bytes). */
#define VHOST_USER_PAYLOADS(X)                    \
	X(NONE, 0, 0)                             \
	X(U64, 8, 8)                              \
	X(STATE, 8, 8)                            \
	X(ADDR, 40, 40)                           \
	X(MEMORY, 8, 264)                         \
	X(REGION, 40, 40)                         \
	X(CONFIG, 12, 12 + VHOST_USER_CONFIG_MAX) \
	X(LOG, 16, 16)                            \
	X(IOTLB, 26, 32)                          \
	X(INFLIGHT, 20, 24)                       \
	X(TRANSFER, 8, 8)                         \
	X(OTHER, 0, VHOST_USER_PAYLOAD_MAX)

#endif
