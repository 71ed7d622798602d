/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor of the network benchmarks: what two rings and one copy cost, with nothing else done.
 *
 *	net-floor SOCKET SOCKET
 *
 * NOT a back-end to give a guest to: it believes every index, address and length that it reads, so
 * that any guest can write to all of this process's memory. It serves one run of sluice-bench net
 * that polls (no call is ever made), in frames of one descriptor that fit into one buffer, without
 * EVENT_IDX and indirect descriptors; and then it ends.
 */
#include "tests/guest/frontend.h"

#include <err.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define BURST 32u
#define MRG_RXBUF (UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF)
/* All guest memory lies in one range, so that an address is resolved by one addition. */
#define ADDRESSES (UINT64_C(1) << 40)

enum { RX, TX, RINGS }; /* virtio 1.3 5.1.2 */

struct ring {
	uint32_t size;
	uint32_t at, used; /* where it goes on: split: free-running; packed: 0 to size - 1 */
	bool wrap, used_wrap, started;
	void *desc, *avail, *device; /* virtio 1.3 2.7, 2.8: descriptor, driver, device area */
};

struct device {
	int listener, sock;
	uint8_t *base; /* of guest address 0 */
	bool packed;
	struct ring ring[RINGS];
	uint32_t n_regions;
	struct vu_region region[VU_FDS_MAX];
};

struct frame {
	void *at;
	uint32_t len;
	uint16_t id;
};

struct message {
	struct vu_header h;
	union {
		uint64_t u64;
		struct vu_state state;
		struct vu_addr addr;
		struct vu_mem_table table;
	};
	unsigned n_fds;
	int fds[VU_FDS_MAX];
};

/* @return false when the front-end has hung up. */
static bool receive(const struct device *d, struct message *m)
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
	if (m->h.size > sizeof(m->table))
		errx(1, "message %u has %u bytes", m->h.request, m->h.size);
	return !m->h.size || recv(d->sock, &m->table, m->h.size, MSG_WAITALL) == (ssize_t)m->h.size;
}

static void answer(const struct device *d, uint32_t request, const void *payload, uint32_t size)
{
	struct vu_header h = { request, VU_VERSION | VU_REPLY, size };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)payload, size } };

	if (writev(d->sock, iov, 2) != (ssize_t)(sizeof(h) + size))
		err(1, "answering message %u", request);
}

/* Each region where its guest address says, in a range that is reserved for all. */
static void map_memory(struct device *d, const struct message *m)
{
	if (!d->base)
		d->base = mmap(NULL, ADDRESSES, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (d->base == MAP_FAILED)
		err(1, "reserving addresses");
	d->n_regions = MIN(m->table.n, (uint32_t)VU_FDS_MAX);
	for (uint32_t i = 0; i < d->n_regions; i++) {
		const struct vu_region *r = &m->table.region[i];

		d->region[i] = *r;
		if (i >= m->n_fds || r->gpa > ADDRESSES || r->size > ADDRESSES - r->gpa ||
		    mmap(d->base + r->gpa, r->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 m->fds[i], (off_t)r->offset) == MAP_FAILED)
			errx(1, "a region of guest memory cannot be mapped");
	}
}

/* Rings are told by the front-end's own addresses. */
static void *from_user(const struct device *d, uint64_t uva)
{
	for (uint32_t i = 0; i < d->n_regions; i++)
		if (uva - d->region[i].uva < d->region[i].size)
			return d->base + d->region[i].gpa + (uva - d->region[i].uva);
	errx(1, "a ring lies in no region");
}

/* No kicks, please: virtio 1.3 2.7.10, 2.8.10. */
static void start(struct device *d, struct ring *r)
{
	if (d->packed)
		((struct vring_packed_desc_event *)r->device)->flags =
			VRING_PACKED_EVENT_FLAG_DISABLE;
	else
		((struct vring_used *)r->device)->flags = VRING_USED_F_NO_NOTIFY;
	r->started = true;
}

static void set_base(const struct device *d, struct ring *r, uint32_t base)
{
	r->at = r->used = d->packed ? base & 0x7fff : base;
	r->wrap = r->used_wrap = base >> 15 & 1;
}

static void obey(struct device *d, const struct message *m)
{
	const uint64_t features = VU_F_VERSION_1 | VU_F_PACKED | VU_F_IN_ORDER | MRG_RXBUF;
	struct ring *of_state = &d->ring[m->state.index % RINGS];

	switch (m->h.request) {
	case VU_GET_FEATURES:
		answer(d, VU_GET_FEATURES, &features, sizeof(features));
		break;
	case VU_SET_FEATURES:
		d->packed = m->u64 & VU_F_PACKED;
		break;
	case VU_SET_MEM_TABLE:
		map_memory(d, m);
		break;
	case VU_SET_VRING_NUM:
		of_state->size = m->state.num;
		break;
	case VU_SET_VRING_BASE:
		set_base(d, of_state, m->state.num);
		break;
	case VU_SET_VRING_ADDR:
		of_state->desc = from_user(d, m->addr.desc);
		of_state->avail = from_user(d, m->addr.avail);
		of_state->device = from_user(d, m->addr.used);
		break;
	case VU_SET_VRING_KICK:
		start(d, &d->ring[(m->u64 & 0xff) % RINGS]);
		break;
	case VU_GET_VRING_BASE:
		errx(1, "rings are not stopped here: hang up");
	default: /* SET_OWNER; SET_VRING_CALL, _ERR: nobody is called */
		break;
	}
	for (unsigned i = 0; i < m->n_fds; i++)
		close(m->fds[i]);
}

/* Up to @n chains of one descriptor each. @return how many. */
HOT unsigned pop(const struct device *d, struct ring *r, bool packed, struct frame *f, unsigned n)
{
	unsigned got = 0;

	if (packed) {
		const struct vring_packed_desc *desc = r->desc;

		for (; got < n; got++) {
			uint16_t flags = __atomic_load_n(&desc[r->at].flags, __ATOMIC_ACQUIRE);

			/* virtio 1.3 2.8.1 */
			if (!!(flags & 1 << VRING_PACKED_DESC_F_AVAIL) != r->wrap ||
			    !!(flags & 1 << VRING_PACKED_DESC_F_USED) == r->wrap)
				break;
			f[got] = (struct frame) { d->base + desc[r->at].addr, desc[r->at].len,
						  desc[r->at].id };
			if (++r->at == r->size) {
				r->at = 0;
				r->wrap = !r->wrap;
			}
		}
	} else {
		const struct vring_desc *desc = r->desc;
		const struct vring_avail *avail = r->avail;
		uint16_t idx = __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE);

		for (; got < n && (uint16_t)r->at != idx; got++, r->at++) {
			uint16_t id = avail->ring[r->at & (r->size - 1)];

			f[got] = (struct frame) { d->base + desc[id].addr, (uint32_t)desc[id].len,
						  id };
		}
	}
	return got;
}

/* Gives @n back, seen by the driver all at once. @written: with the frames' lengths. */
HOT void push(struct ring *r, bool packed, const struct frame *f, unsigned n, bool written)
{
	if (!n)
		return;
	if (packed) {
		struct vring_packed_desc *desc = r->desc;
		uint32_t first = r->used;
		uint16_t first_flags = 0;

		for (unsigned i = 0; i < n; i++) {
			uint16_t flags =
				(uint16_t)((r->used_wrap ? 1u << VRING_PACKED_DESC_F_AVAIL |
								   1u << VRING_PACKED_DESC_F_USED
							 : 0) |
					   (written ? VRING_DESC_F_WRITE : 0));

			desc[r->used].id = f[i].id;
			desc[r->used].len = written ? f[i].len : 0;
			if (i == 0)
				first_flags = flags;
			else
				__atomic_store_n(&desc[r->used].flags, flags, __ATOMIC_RELEASE);
			if (++r->used == r->size) {
				r->used = 0;
				r->used_wrap = !r->used_wrap;
			}
		}
		__atomic_store_n(&desc[first].flags, first_flags, __ATOMIC_RELEASE);
	} else {
		struct vring_used *used = r->device;

		for (unsigned i = 0; i < n; i++, r->used++)
			used->ring[r->used & (r->size - 1)] = (struct vring_used_elem) {
				f[i].id, written ? f[i].len : 0
			};
		__atomic_store_n(&used->idx, (uint16_t)r->used, __ATOMIC_RELEASE);
	}
}

/* Frames that @from sends, to @to; what it has no buffers for is dropped. @return how many. */
HOT unsigned forward(struct device *from, struct device *to, bool packed)
{
	struct frame in[BURST], out[BURST];
	unsigned n = pop(from, &from->ring[TX], packed, in, BURST);
	unsigned n_out = n ? pop(to, &to->ring[RX], packed, out, n) : 0;

	for (unsigned i = 0; i < n_out; i++) {
		__builtin_prefetch(in[i].at);
		__builtin_prefetch(out[i].at, 1);
	}
	for (unsigned i = 0; i < n_out; i++) {
		struct virtio_net_hdr_v1 *h = memcpy(out[i].at, in[i].at, in[i].len);

		h->num_buffers = 1;
		out[i].len = in[i].len;
	}
	push(&to->ring[RX], packed, out, n_out, true);
	push(&from->ring[TX], packed, in, n, false);
	return n;
}

static void listen_at(struct device *d, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(addr.sun_path))
		errx(2, "%s: too long for a socket", path);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	d->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (d->listener < 0 || bind(d->listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(d->listener, 1) < 0)
		err(1, "%s", path);
}

/* @return false when the front-end is gone. @wait: until there is something to obey. */
static bool listen_to(struct device *d, bool wait)
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

static void serve(struct device *d, bool packed)
{
	while (listen_to(&d[0], false) && listen_to(&d[1], false))
		for (unsigned i = 0; i < 100000; i++) {
			if (packed) {
				forward(&d[0], &d[1], true);
				forward(&d[1], &d[0], true);
			} else {
				forward(&d[0], &d[1], false);
				forward(&d[1], &d[0], false);
			}
		}
}

int main(int argc, char **argv)
{
	static struct device d[2];

	if (argc != 3) {
		fprintf(stderr,
			"Usage: net-floor SOCKET SOCKET\n"
			"Copies frames from either to the other, and checks nothing: never give "
			"it to a guest.\n");
		return 2;
	}
	for (unsigned i = 0; i < 2; i++)
		listen_at(&d[i], argv[1 + i]);
	for (unsigned i = 0; i < 2; i++) {
		d[i].sock = accept4(d[i].listener, NULL, NULL, SOCK_CLOEXEC);
		if (d[i].sock < 0)
			err(1, "%s", argv[1 + i]);
		while (!d[i].ring[RX].started || !d[i].ring[TX].started)
			if (!listen_to(&d[i], true))
				errx(1, "%s: the front-end hung up", argv[1 + i]);
	}
	if (d[0].packed != d[1].packed)
		errx(1, "one front-end has packed rings, and the other has not");
	serve(d, d[0].packed);
	return 0;
}
