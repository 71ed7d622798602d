/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/ring/floor_device.h"

#include <err.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

/* All guest memory lies in one range, so that an address is resolved by one addition. */
#define ADDRESSES (UINT64_C(1) << 40)

struct message {
	struct vu_header h;
	union {
		uint64_t u64;
		struct vu_state state;
		struct vu_addr addr;
		struct vu_mem_table table;
		struct vu_config config;
	} body;
	unsigned n_fds;
	int fds[VU_FDS_MAX];
};

/* @return false when the front-end has hung up. */
static bool receive(const struct floor_device *d, struct message *m)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(m->fds))];
	} control;
	struct iovec iov = { &m->h, sizeof(m->h) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	const struct cmsghdr *c;

	m->n_fds = 0;
	if (recvmsg(d->sock, &msg, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof(m->h))
		return false;
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_type == SCM_RIGHTS) {
		m->n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(m->fds, CMSG_DATA(c), m->n_fds * sizeof(int));
	}
	if (m->h.size > sizeof(m->body))
		errx(1, "message %u has %u bytes", m->h.request, m->h.size);
	return !m->h.size || recv(d->sock, &m->body, m->h.size, MSG_WAITALL) == (ssize_t)m->h.size;
}

static void answer(const struct floor_device *d, uint32_t request, const void *payload,
		   uint32_t size)
{
	struct vu_header h = { request, VU_VERSION | VU_REPLY, size };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)payload, size } };

	if (writev(d->sock, iov, 2) != (ssize_t)(sizeof(h) + size))
		err(1, "answering message %u", request);
}

static void answer_u64(const struct floor_device *d, uint32_t request, uint64_t value)
{
	answer(d, request, &value, sizeof(value));
}

static void answer_config(const struct floor_device *d, struct vu_config *c)
{
	if (c->offset > VU_CONFIG_MAX || c->size > VU_CONFIG_MAX - c->offset)
		errx(1, "GET_CONFIG of %u bytes at %u", c->size, c->offset);
	memcpy(c->data, d->config + c->offset, c->size);
	answer(d, VU_GET_CONFIG, c, offsetof(struct vu_config, data) + c->size);
}

/* Each region where its guest address says, in a range that is reserved for all. */
static void map_memory(struct floor_device *d, const struct message *m)
{
	const struct vu_mem_table *table = &m->body.table;

	if (!d->base)
		d->base = mmap(NULL, ADDRESSES, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (d->base == MAP_FAILED)
		err(1, "reserving addresses");
	d->n_regions = MIN(table->n, (uint32_t)VU_FDS_MAX);
	for (uint32_t i = 0; i < d->n_regions; i++) {
		const struct vu_region *r = &table->region[i];

		d->region[i] = *r;
		if (i >= m->n_fds || r->gpa > ADDRESSES || r->size > ADDRESSES - r->gpa ||
		    mmap(d->base + r->gpa, r->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 m->fds[i], (off_t)r->offset) == MAP_FAILED)
			errx(1, "a region of guest memory cannot be mapped");
	}
}

/* Rings are told by the front-end's own addresses. */
static void *from_user(const struct floor_device *d, uint64_t uva)
{
	for (uint32_t i = 0; i < d->n_regions; i++)
		if (uva - d->region[i].uva < d->region[i].size)
			return d->base + d->region[i].gpa + (uva - d->region[i].uva);
	errx(1, "a ring lies in no region");
}

static void set_base(const struct floor_device *d, struct floor_ring *r, uint32_t base)
{
	r->at = r->used = d->packed ? base & 0x7fff : base;
	r->wrap = r->used_wrap = base >> 15 & 1;
}

static void set_addr(const struct floor_device *d, struct floor_ring *r, const struct vu_addr *a)
{
	r->desc = from_user(d, a->desc);
	r->avail = from_user(d, a->avail);
	r->device = from_user(d, a->used);
}

/* No kicks, please: virtio 1.3 2.7.10, 2.8.10. */
static void start(struct floor_device *d, unsigned index)
{
	struct floor_ring *r = &d->ring[index];

	if (d->packed)
		((struct vring_packed_desc_event *)r->device)->flags =
			VRING_PACKED_EVENT_FLAG_DISABLE;
	else
		((struct vring_used *)r->device)->flags = VRING_USED_F_NO_NOTIFY;
	r->started = true;
	d->n_rings = MAX(d->n_rings, index + 1);
}

static void obey(struct floor_device *d, struct message *m)
{
	struct floor_ring *of_state = &d->ring[m->body.state.index % FLOOR_RINGS_MAX];

	switch (m->h.request) {
	case VU_GET_FEATURES:
		answer_u64(d, VU_GET_FEATURES, d->features);
		break;
	case VU_SET_FEATURES:
		d->packed = m->body.u64 & VU_F_PACKED;
		break;
	case VU_GET_PROTOCOL_FEATURES:
		answer_u64(d, VU_GET_PROTOCOL_FEATURES, d->protocol);
		break;
	case VU_GET_QUEUE_NUM:
		answer_u64(d, VU_GET_QUEUE_NUM, FLOOR_RINGS_MAX);
		break;
	case VU_GET_CONFIG:
		answer_config(d, &m->body.config);
		break;
	case VU_SET_MEM_TABLE:
		map_memory(d, m);
		break;
	case VU_SET_VRING_NUM:
		of_state->size = m->body.state.num;
		break;
	case VU_SET_VRING_BASE:
		set_base(d, of_state, m->body.state.num);
		break;
	case VU_SET_VRING_ADDR:
		set_addr(d, of_state, &m->body.addr);
		break;
	case VU_SET_VRING_KICK:
		start(d, (m->body.u64 & 0xff) % FLOOR_RINGS_MAX);
		break;
	case VU_GET_VRING_BASE:
		errx(1, "rings are not stopped here: hang up");
	default: /* SET_OWNER, VRING_ENABLE; SET_VRING_CALL, _ERR: nobody is called */
		break;
	}
	for (unsigned i = 0; i < m->n_fds; i++)
		close(m->fds[i]);
}

int floor_listen(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(addr.sun_path))
		errx(2, "%s: too long for a socket", path);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 1) < 0)
		err(1, "%s", path);
	return fd;
}

void floor_accept(struct floor_device *d, int listener)
{
	d->sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (d->sock < 0)
		err(1, "taking a connection");
}

bool floor_obey(struct floor_device *d, bool wait)
{
	struct pollfd p = { .fd = d->sock, .events = POLLIN };
	struct message m;

	if (!wait && poll(&p, 1, 0) <= 0)
		return true;
	if (!receive(d, &m))
		return false;
	obey(d, &m);
	return true;
}
