/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/session.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sys/socket.h>
#include <unistd.h>

void close_channel(void)
{
	if (f.channel >= 0)
		close(f.channel);
	f.channel = -1;
}

void hang_up(void)
{
	if (f.sock >= 0)
		close(f.sock);
	f.sock = -1;
	close_channel();
}

static void send_bytes(const void *bytes, size_t len, const int *fds, unsigned n_fds)
{
	union {
		char bytes[CMSG_SPACE(40 * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)bytes, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (f.sock < 0 || len == 0)
		return;
	if (n_fds) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
	}
	if (sendmsg(f.sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
		hang_up();
}

/* The rest of a message that was begun. */
void send_rest(size_t most)
{
	size_t n = MIN(f.tx.len - f.tx.sent, most);

	send_bytes(f.tx.bytes + f.tx.sent, n, NULL, 0);
	f.tx.sent += n;
}

void send_message(uint32_t request, uint32_t flags, const void *payload, uint32_t size,
		  const int *fds, unsigned n_fds, size_t first)
{
	struct vhost_user_header h = { request, flags, size };
	size_t len = MIN((size_t)size, (size_t)VHOST_USER_PAYLOAD_MAX);

	send_rest(SIZE_MAX);
	memcpy(f.tx.bytes, &h, sizeof(h));
	memcpy(f.tx.bytes + sizeof(h), payload, len);
	f.tx.len = sizeof(h) + len;
	f.tx.sent = MIN(first, f.tx.len);
	if (request < 64)
		f.asked |= UINT64_C(1) << request;
	send_bytes(f.tx.bytes, f.tx.sent, fds, n_fds);
}

/* Payloads. */

struct vhost_user_region right_region(unsigned i)
{
	const struct mem_region *r = &f.guest.map->region[i % FG_REGIONS];

	return (struct vhost_user_region) { r->gpa, r->size, r->uva, 0 };
}

static struct vhost_user_region any_region(struct input *in)
{
	uint8_t how = in_u8(in);
	struct vhost_user_region r = right_region(how & 3);

	if (how & 4)
		r.size = in_u8(in) * 0x1000u;
	if (how & 8)
		r.mmap_offset = how & 0x80 ? in_u64(in) : in_u8(in) * 0x800u;
	if (how & 0x10)
		r.guest_addr = how & 0x80 ? in_u64(in) : in_u8(in) * 0x1000u;
	if (how & 0x20)
		r.user_addr = how & 0x80 ? in_u64(in) : in_u8(in) * 0x1000u;
	if (how & 0x40)
		r.size = in_u64(in);
	return r;
}

/* How the front-end names @gpa to the device: by its own address, unless the guest's was agreed on.
 */
static uint64_t named(uint64_t gpa)
{
	bool by_guest = f.d->protocol_features >> VHOST_USER_PROTOCOL_F_GPA_ADDRESSES & 1;

	return by_guest ? gpa : gpa ^ FG_UVA;
}

struct vhost_user_vring_addr right_addr(uint32_t index)
{
	return (struct vhost_user_vring_addr) { .index = index,
						.desc = named(FG_MAIN_GPA + FG_DESC),
						.avail = named(FG_MAIN_GPA + FG_DRIVER),
						.used = named(FG_MAIN_GPA + FG_DEVICE),
						.log = FG_MAIN_GPA + FG_DEVICE };
}

uint64_t right_features(bool iommu)
{
	uint64_t features = device_features(f.d) & ~(UINT64_C(1) << VIRTIO_F_RING_PACKED);

	if (!iommu)
		features &= ~(UINT64_C(1) << VIRTIO_F_ACCESS_PLATFORM);
	if (f.guest.packed)
		features |= UINT64_C(1) << VIRTIO_F_RING_PACKED | UINT64_C(1) << VIRTIO_F_VERSION_1;
	if (!f.guest.indirect)
		features &= ~(UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC);
	if (!f.guest.event_idx)
		features &= ~(UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX);
	return features;
}

struct vhost_user_iotlb right_iotlb(unsigned i, bool user)
{
	const struct mem_region *r = &f.guest.map->region[i % FG_REGIONS];

	return (struct vhost_user_iotlb) { .iova = user ? named(r->gpa) : r->gpa,
					   .size = r->size,
					   .user_addr = named(r->gpa),
					   .access = 3,
					   .type = VHOST_USER_IOTLB_UPDATE };
}

static struct vhost_user_iotlb any_iotlb(struct input *in, uint8_t how)
{
	struct vhost_user_iotlb m = right_iotlb(how & 3, how & 4);

	if (how & 8) {
		m.access = in_u8(in);
		m.type = m.access >> 4 & 7;
		m.access &= 7;
	}
	if (how & 0x10) { /* a part of it, or a little more */
		uint16_t from = in_u16(in);

		m.iova += from;
		m.user_addr += from;
		m.size = in_u16(in);
	}
	if (how & 0x20)
		m.user_addr = in_u64(in);
	if (how & 0x40)
		m.size = in_u64(in);
	return m;
}

static uint64_t any_u64(struct input *in)
{
	uint8_t how = in_u8(in);

	switch (how % 8) {
	case 0:
	case 1:
	case 2:
		return how / 8 % (QUEUES + 2);
	case 3:
		return how / 8 % (QUEUES + 2) | VHOST_USER_VRING_NOFD;
	case 4:
		return device_features(f.d) & ~(uint64_t)in_u32(in);
	case 5:
		return device_protocol_features(f.d) & ~(uint64_t)in_u16(in);
	case 6:
		return UINT64_C(1) << in_u8(in) % 64;
	default:
		return in_u64(in);
	}
}

uint32_t any_payload(struct input *in, uint32_t request, union vhost_user_payload *p)
{
	const struct message_row *row = message_row(request);
	uint32_t most = row ? row->size_max : 64;
	uint8_t how = in_u8(in);

	memset(p, 0, sizeof(*p));
	if (how & 0x80) { /* any bytes, of any length */
		in_bytes(in, p->bytes, how & 0x40 ? in_u8(in) : MIN(most, 64u));
		return how & 0x20 ? in_u16(in) : most;
	}
	if (request == VHOST_USER_SET_MEM_TABLE) {
		p->memory.n_regions = how & 7;
		for (unsigned i = 0; i < p->memory.n_regions; i++)
			p->memory.regions[i] = how & 8 ? any_region(in) : right_region(i);
		if (how & 0x10)
			p->memory.n_regions = in_u32(in);
		return (uint32_t)VHOST_USER_MEMORY_SIZE(how & 7u);
	}
	if (request == VHOST_USER_ADD_MEM_REG || request == VHOST_USER_REM_MEM_REG) {
		p->region.region = how & 4 ? any_region(in) : right_region(how);
		return sizeof(p->region);
	}
	if (request == VHOST_USER_SET_VRING_ADDR) {
		p->addr = right_addr(how & 3);
		if (how & 4)
			p->addr.flags = in_u8(in);
		if (how & 8)
			p->addr.desc += (uint64_t)in_u16(in) - 0x8000;
		if (how & 0x10)
			p->addr.used = in_u64(in);
		if (how & 0x20)
			p->addr.avail += in_u8(in);
		return sizeof(p->addr);
	}
	if (request == VHOST_USER_GET_CONFIG || request == VHOST_USER_SET_CONFIG) {
		p->config.offset = in_u8(in);
		p->config.size = in_u8(in);
		p->config.flags = how & 3;
		in_bytes(in, p->config.data, 8);
		return (uint32_t)VHOST_USER_CONFIG_HEADER + p->config.size;
	}
	if (request == VHOST_USER_IOTLB_MSG) {
		p->iotlb = any_iotlb(in, how);
		return sizeof(p->iotlb);
	}
	if (most == 8 && row && row->size_min == 8 && how & 0x40) {
		p->state.index = how % (QUEUES + 1);
		p->state.num = how & 0x20 ? in_u16(in) : 1u << in_u8(in) % 17;
		return sizeof(p->state);
	}
	p->u64 = any_u64(in);
	if (most > 8) /* LOG, INFLIGHT, TRANSFER …: words, small ones mostly */
		for (unsigned i = 0; i < most / 8 && i < 6; i++)
			((uint64_t *)p->bytes)[i] = how & 0x40 ? in_u64(in) : in_u16(in);
	return most;
}

/* Usually as many as the message wants (a memory table: one a region), and of a kind that it wants.
 */
unsigned any_fds(struct input *in, uint32_t request, uint32_t n_regions, int fds[40])
{
	const struct message_row *row = message_row(request);
	uint8_t how = in_u8(in);
	unsigned n = row ? row->fds_max : 0;

	if (request == VHOST_USER_SET_MEM_TABLE)
		n = n_regions % (VHOST_USER_MEMORY_REGIONS + 1);
	if (how & 0x80)
		n = how & 0x40 ? in_u8(in) % 40u : !n;
	for (unsigned i = 0; i < n; i++) {
		if (how & 1)
			fds[i] = f.fds[in_u8(in) % FD_KINDS];
		else if (request >= VHOST_USER_SET_VRING_KICK &&
			 request <= VHOST_USER_SET_VRING_ERR)
			fds[i] = how & 2 ? f.kick[how >> 2 & 3] : f.call;
		else if (request == VHOST_USER_SET_BACKEND_REQ_FD)
			fds[i] = f.fds[FD_SOCKET];
		else if (request == VHOST_USER_SET_DEVICE_STATE_FD)
			fds[i] = f.fds[how & 2 ? FD_SOCKET : FD_PIPE];
		else
			fds[i] = how & 2 ? f.fds[FD_SPARSE] : f.fds[i % FG_REGIONS];
	}
	return n;
}

/* The channel. */

void open_channel(void)
{
	int pair[2];

	close_channel();
	if (f.sock < 0)
		return;
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	send_message(VHOST_USER_SET_BACKEND_REQ_FD, VHOST_USER_VERSION, "", 0, &pair[1], 1,
		     SIZE_MAX);
	close(pair[1]);
	f.channel = pair[0];
}

/* The page of what was missed, as far as the guest has it: nothing is sent where it has not. */
static void answer_miss(struct input *in, uint8_t how, const struct vhost_user_iotlb *miss)
{
	FUZZ_CHECK(miss->type == VHOST_USER_IOTLB_MISS, "type %u", miss->type);
	FUZZ_CHECK(miss->access && miss->access <= 3, "access %u", miss->access);
	for (unsigned i = 0; i < FG_REGIONS && !(how & 1); i++)
		for (unsigned user = 0; user < 2; user++) {
			struct vhost_user_iotlb m = right_iotlb(i, user);
			uint64_t from = MAX(m.iova, ALIGN_DOWN(miss->iova, UINT64_C(4096)));
			uint64_t last = MIN(m.iova + (m.size - 1), miss->iova | 4095);

			if (from > miss->iova || last < miss->iova)
				continue;
			m.user_addr += from - m.iova;
			m.iova = from;
			m.size = last - from + 1;
			m.access = how & 2 ? miss->access : 3;
			if (how & 4)
				m = any_iotlb(in, how >> 1 & 0x7c);
			send_message(VHOST_USER_IOTLB_MSG, VHOST_USER_VERSION, &m, sizeof(m), NULL,
				     0, SIZE_MAX);
			return;
		}
}

void answer_channel(struct input *in)
{
	struct vhost_user_iotlb miss;
	struct vhost_user_header h;
	uint8_t payload[64], how = in_u8(in);
	uint64_t ack = 0;

	while (f.channel >= 0 && recv(f.channel, &h, sizeof(h), MSG_DONTWAIT) == sizeof(h)) {
		FUZZ_CHECK((h.flags & ~(uint32_t)VHOST_USER_NEED_REPLY) == VHOST_USER_VERSION,
			   "flags 0x%x", h.flags);
		FUZZ_CHECK(h.size <= sizeof(payload));
		FUZZ_CHECK(h.size == 0 ||
			   recv(f.channel, payload, h.size, MSG_DONTWAIT) == (ssize_t)h.size);
		if (h.request == VHOST_USER_BACKEND_IOTLB_MSG) {
			FUZZ_CHECK(h.size == sizeof(miss));
			memcpy(&miss, payload, sizeof(miss));
			answer_miss(in, how, &miss);
		}
		if (!(h.flags & VHOST_USER_NEED_REPLY))
			continue;
		h.flags = VHOST_USER_VERSION | VHOST_USER_REPLY;
		h.size = sizeof(ack);
		if (how & 0x80)
			h.flags = in_u8(in);
		if (send(f.channel, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ||
		    send(f.channel, &ack, sizeof(ack), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			close_channel();
	}
}
