/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/session.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

void hang_up(void)
{
	if (f.sock >= 0)
		close(f.sock);
	f.sock = -1;
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

struct vhost_user_vring_addr right_addr(uint32_t index)
{
	return (struct vhost_user_vring_addr) { .index = index,
						.desc = (FG_MAIN_GPA + FG_DESC) ^ FG_UVA,
						.avail = (FG_MAIN_GPA + FG_DRIVER) ^ FG_UVA,
						.used = (FG_MAIN_GPA + FG_DEVICE) ^ FG_UVA,
						.log = FG_MAIN_GPA + FG_DEVICE };
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
	if (most == 8 && row && row->size_min == 8 && how & 0x40) {
		p->state.index = how % (QUEUES + 1);
		p->state.num = how & 0x20 ? in_u16(in) : 1u << in_u8(in) % 17;
		return sizeof(p->state);
	}
	p->u64 = any_u64(in);
	if (most > 8) /* LOG, IOTLB, INFLIGHT, TRANSFER …: words, small ones mostly */
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
