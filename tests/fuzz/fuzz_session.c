/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front-end that says anything: messages of every row of messages.def with payloads that are
 * right, nearly right or any bytes, with descriptors of all kinds, whole, in pieces, in any order,
 * while its guest's rings run; it hangs up and comes back. A disk and a network card take turns.
 *
 * What must hold: every answer is to something that was asked, and well-formed; nothing keeps a
 * session from ending; then no descriptor and no mapping is left, and another front-end's device
 * answers as before.
 */
#include "base/error.h"
#include "base/log.h"
#include "blk/blk.h"
#include "net/net.h"
#include "poll/control.h"
#include "tests/fuzz/guest.h"
#include "tests/fuzz/sim.h"
#include "vhost/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define STEPS_MAX 80
#define QUEUES 4
#define FDS_SEEN 512 /* descriptors are looked for below this */

enum { BLK, NET, NEIGHBOUR, N_DEVICES };

/* What a front-end may send along. */
enum {
	FD_MAIN, /* the guest's memory, FG_REGIONS of them */
	FD_EVENT = FG_REGIONS,
	FD_EVENT_BLOCKING,
	FD_PIPE,
	FD_SOCKET,
	FD_NULL,
	FD_ZERO,
	FD_FOLDER,
	FD_EMPTY,  /* a file of no bytes */
	FD_SMALL,  /* of 4096, not all zero */
	FD_SPARSE, /* of a TiB, of which nothing is there */
	FD_SEALED, /* cannot be written */
	FD_PATH,   /* opened with O_PATH */
	FD_KINDS,
};

static struct {
	struct workers *workers;
	struct net_switch *sw;
	struct vhost_device *device[N_DEVICES];
	struct fuzz_guest guest;
	int fds[FD_KINDS];
	int kick[QUEUES], call, err;
	int neighbour;
	unsigned n_fds; /* open, while no front-end is there */

	/* One life. */
	struct vhost_device *d;
	int sock, channel; /* ours: -1 while there is none */
	uint64_t asked;	   /* bits: numbers of messages that were sent, and may be answered */
	uint8_t rx[65536];
	size_t rx_got;
	struct {
		uint8_t bytes[sizeof(struct vhost_user_header) + VHOST_USER_PAYLOAD_MAX];
		size_t len, sent;
	} tx;
} f = { .sock = -1, .channel = -1 };

/* Mappings made and not undone, by everything that is linked in; -Wl,--wrap=mmap64,--wrap=munmap.
 */
static long mapped;
void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *addr, size_t len);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *addr, size_t len);

void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	void *p = __real_mmap64(addr, len, prot, flags, fd, offset);

	if (p != MAP_FAILED && !(flags & MAP_FIXED))
		__atomic_add_fetch(&mapped, (long)ALIGN_UP(len, 4096), __ATOMIC_RELAXED);
	return p;
}

int __wrap_munmap(void *addr, size_t len)
{
	__atomic_sub_fetch(&mapped, (long)ALIGN_UP(len, 4096), __ATOMIC_RELAXED);
	return __real_munmap(addr, len);
}

static unsigned count_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < FDS_SEEN; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void print_fds(void)
{
	for (int fd = 0; fd < FDS_SEEN; fd++) {
		char link[40], target[200];
		ssize_t len;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		len = readlink(link, target, sizeof(target));
		if (len > 0)
			fprintf(stderr, "%d: %.*s\n", fd, (int)len, target);
	}
}

static struct vhost_socket listening(const char *name)
{
	struct vhost_socket s = { .fd = -1, .mode = -1 };

	FUZZ_CHECK(asprintf(&s.path, "/tmp/sluice-fuzz-%d-%s.sock", (int)getpid(), name) > 0);
	return s;
}

static void remove_sockets(void)
{
	static const char *const names[] = { "blk", "net", "neighbour" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		char path[100];

		snprintf(path, sizeof(path), "/tmp/sluice-fuzz-%d-%s.sock", (int)getpid(),
			 names[i]);
		unlink(path);
	}
}

static struct vhost_device *create_blk(const char *name)
{
	struct blk_config cfg = {
		.name = name, .kind = DISK_RAM, .size = 1 << 20, .queues = QUEUES
	};
	struct error err = { 0 };
	struct blk_device *b;
	int rc;

	cfg.socket = listening(name);
	rc = blk_device_create(&cfg, f.workers, &b, &err);
	FUZZ_CHECK(rc == 0, "%s", err.text);
	return (struct vhost_device *)blk_device_vhost(b);
}

static struct vhost_device *create_net(void)
{
	struct switch_config sc = { .name = "lan" };
	struct net_device_config cfg = {
		.name = "net", .queue_pairs = 2, .has_mac = true, .mac = { 0x52 }, .mtu = 1500
	};
	struct error err = { 0 };
	struct net_device *d;
	int rc;

	FUZZ_CHECK(switch_create(&sc, f.workers, &f.sw, NULL) == 0);
	cfg.socket = listening("net");
	rc = net_device_create(&cfg, f.sw, f.workers, &d, &err);
	FUZZ_CHECK(rc == 0, "%s", err.text);
	return (struct vhost_device *)net_device_vhost(d);
}

static int file_of(off_t bytes)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	FUZZ_CHECK(fd >= 0 && ftruncate(fd, bytes) == 0);
	return fd;
}

static void open_fds(void)
{
	static uint8_t some[4096];
	int pair[2];

	f.fds[FD_EVENT] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f.fds[FD_EVENT_BLOCKING] = eventfd(0, EFD_CLOEXEC);
	FUZZ_CHECK(pipe2(pair, O_CLOEXEC) == 0);
	f.fds[FD_PIPE] = pair[1];
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	f.fds[FD_SOCKET] = pair[0];
	f.fds[FD_NULL] = open("/dev/null", O_RDWR | O_CLOEXEC);
	f.fds[FD_ZERO] = open("/dev/zero", O_RDWR | O_CLOEXEC);
	f.fds[FD_FOLDER] = open("/", O_RDONLY | O_CLOEXEC);
	f.fds[FD_EMPTY] = file_of(0);
	f.fds[FD_SMALL] = file_of(sizeof(some));
	memset(some, 0x81, sizeof(some));
	FUZZ_CHECK(pwrite(f.fds[FD_SMALL], some, sizeof(some), 0) == sizeof(some));
	f.fds[FD_SPARSE] = file_of((off_t)1 << 40);
	f.fds[FD_SEALED] = file_of(sizeof(some));
	FUZZ_CHECK(fcntl(f.fds[FD_SEALED], F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK) == 0);
	f.fds[FD_PATH] = open("/tmp", O_PATH | O_CLOEXEC);
	for (unsigned i = 0; i < FD_KINDS; i++)
		FUZZ_CHECK(f.fds[i] >= 0);
}

/* A connection to @d, as if it had come through its socket. @return the front-end's end. */
static int connect_to(struct vhost_device *d)
{
	int pair[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	FUZZ_CHECK(session_open(d, pair[0]) == 0);
	return pair[1];
}

static void create_all(void)
{
	struct workers_config cfg = { .n = 1 };

	log_set_level(getenv("FUZZ_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	FUZZ_CHECK(control_init() == 0);
	FUZZ_CHECK(workers_start(&cfg, &f.workers, NULL) == 0);
	f.device[BLK] = create_blk("blk");
	f.device[NET] = create_net();
	f.device[NEIGHBOUR] = create_blk("neighbour");
	atexit(remove_sockets);
	fg_create(&f.guest, f.fds);
	open_fds();
	for (unsigned i = 0; i < QUEUES; i++)
		f.kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f.call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f.err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f.neighbour = connect_to(f.device[NEIGHBOUR]);
}

static void step(void)
{
	sim_round(f.workers);
	control_step(0);
}

static void ask_neighbour(void)
{
	const struct vhost_user_header h = { VHOST_USER_GET_FEATURES, VHOST_USER_VERSION, 0 };
	uint8_t reply[sizeof(h) + 8];
	ssize_t n = -1;

	FUZZ_CHECK(send(f.neighbour, &h, sizeof(h), MSG_NOSIGNAL) == sizeof(h));
	for (unsigned i = 0; n < 0 && i < 100; i++) {
		step();
		n = recv(f.neighbour, reply, sizeof(reply), MSG_DONTWAIT);
	}
	FUZZ_CHECK(n == sizeof(reply), "the neighbour does not answer");
}

/* Answers. */

/* A reply, or what comes through the back-end's channel, as far as any of it can be wrong. */
static void check_reply(const struct vhost_user_header *h, const uint8_t *payload)
{
	const struct message_row *row = message_row(h->request);
	uint64_t ack;

	FUZZ_CHECK(h->flags == (VHOST_USER_VERSION | VHOST_USER_REPLY), "flags 0x%x", h->flags);
	FUZZ_CHECK(h->request < 64 && f.asked & UINT64_C(1) << h->request,
		   "an answer to %u, which was not asked", h->request);
	FUZZ_CHECK(h->size <= VHOST_USER_PAYLOAD_MAX);
	if (!row || row->reply == ACK) {
		FUZZ_CHECK(h->size == sizeof(ack), "an ack of %u bytes", h->size);
		memcpy(&ack, payload, sizeof(ack));
		FUZZ_CHECK(ack <= 1);
	}
}

/* Looks at all that has come. */
static void read_replies(void)
{
	struct vhost_user_header h;
	ssize_t n;

	if (f.sock < 0)
		return;
	while ((n = recv(f.sock, f.rx + f.rx_got, sizeof(f.rx) - f.rx_got, MSG_DONTWAIT)) > 0)
		f.rx_got += (size_t)n;
	for (size_t at = 0;;) {
		if (f.rx_got - at >= sizeof(h)) {
			memcpy(&h, f.rx + at, sizeof(h));
			FUZZ_CHECK(h.size <= VHOST_USER_PAYLOAD_MAX, "an answer of %u bytes",
				   h.size);
			if (f.rx_got - at >= sizeof(h) + h.size) {
				check_reply(&h, f.rx + at + sizeof(h));
				at += sizeof(h) + h.size;
				continue;
			}
		}
		memmove(f.rx, f.rx + at, f.rx_got - at);
		f.rx_got -= at;
		break;
	}
}

/* Sending. */

static void hang_up(void)
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
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, n_fds * sizeof(int));
	}
	if (sendmsg(f.sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
		hang_up();
}

/* The rest of a message that was begun. */
static void send_rest(size_t most)
{
	size_t n = MIN(f.tx.len - f.tx.sent, most);

	send_bytes(f.tx.bytes + f.tx.sent, n, NULL, 0);
	f.tx.sent += n;
}

static void send_message(uint32_t request, uint32_t flags, const void *payload, uint32_t size,
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

static void tell(uint32_t request, const void *payload, uint32_t size, int fd)
{
	send_message(request, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, payload, size, &fd,
		     fd >= 0, SIZE_MAX);
	step();
	read_replies();
}

static void tell_u64(uint32_t request, uint64_t value, int fd)
{
	tell(request, &value, sizeof(value), fd);
}

static void tell_state(uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state s = { index, num };

	tell(request, &s, sizeof(s), -1);
}

/* Payloads. */

static struct vhost_user_region right_region(unsigned i)
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

static struct vhost_user_vring_addr right_addr(uint32_t index)
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

static uint32_t any_payload(struct input *in, uint32_t request, union vhost_user_payload *p)
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
static unsigned any_fds(struct input *in, uint32_t request, uint32_t n_regions, int fds[40])
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
		else
			fds[i] = how & 2 ? f.fds[FD_SPARSE] : f.fds[i % FG_REGIONS];
	}
	return n;
}

static void step_message(struct input *in)
{
	static const uint32_t numbers[] = {
#define MESSAGE(number, ...) number,
#include "vhost/messages.def"
	};
	uint8_t which = in_u8(in), how = in_u8(in);
	uint32_t request = numbers[which % ARRAY_SIZE(numbers)], flags = VHOST_USER_VERSION;
	union vhost_user_payload payload;
	uint32_t size = any_payload(in, request, &payload);
	int fds[40];
	unsigned n_fds;

	if (how & 1)
		flags |= VHOST_USER_NEED_REPLY;
	if (how == 0xff)
		flags = in_u32(in);
	if (how == 0xfe)
		request = in_u32(in);
	n_fds = any_fds(in, request, payload.memory.n_regions, fds);
	send_message(request, flags, &payload, size, fds, n_fds,
		     how & 2 && how < 0x80 ? 1u + in_u8(in) % 64u : SIZE_MAX);
}

/* What an honest front-end says until a ring runs, with features that the input chooses. */
static void step_start(struct input *in)
{
	uint8_t index = in_u8(in) % QUEUES;
	uint64_t features = device_features(f.d) & ~(uint64_t)in_u8(in) & ~(UINT64_C(1) << 34);
	uint64_t protocol = device_protocol_features(f.d) & ~(uint64_t)(in_u8(in) << 4);
	struct vhost_user_memory m = { .n_regions = 2,
				       .regions = { right_region(0), right_region(1) } };
	struct vhost_user_vring_addr addr = right_addr(index);

	if (f.guest.packed)
		features |= UINT64_C(1) << 34 | UINT64_C(1) << 32;
	if (!f.guest.indirect)
		features &= ~(UINT64_C(1) << 28);
	if (!f.guest.event_idx)
		features &= ~(UINT64_C(1) << 29);
	tell_u64(VHOST_USER_SET_PROTOCOL_FEATURES, protocol, -1);
	tell_u64(VHOST_USER_SET_FEATURES, features, -1);
	send_message(VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, &m, VHOST_USER_MEMORY_SIZE(2),
		     f.fds, 2, SIZE_MAX);
	tell_state(VHOST_USER_SET_VRING_NUM, index, f.guest.size);
	tell_state(VHOST_USER_SET_VRING_BASE, index, f.guest.base);
	tell(VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr), -1);
	tell_u64(VHOST_USER_SET_VRING_ERR, index, f.err);
	tell_u64(VHOST_USER_SET_VRING_CALL, index, f.call);
	tell_u64(VHOST_USER_SET_VRING_KICK, index, f.kick[index]);
	tell_state(VHOST_USER_SET_VRING_ENABLE, index, 1);
}

/* Until the device has none: it may have to let requests finish, but not for ever. */
static void session_end(void)
{
	hang_up();
	for (unsigned i = 0; f.d->session; i++) {
		FUZZ_CHECK(i < 200, "the session does not end");
		sim_wake(f.workers);
		step();
	}
}

static void begin(struct input *in)
{
	f.d = f.device[in_u8(in) % 2 ? NET : BLK];
	fg_begin(&f.guest, in);
	f.asked = 0;
	f.rx_got = 0;
	f.tx.len = f.tx.sent = 0;
	f.sock = connect_to(f.d);
}

static void reconnect(void)
{
	session_end();
	f.asked = 0;
	f.rx_got = 0;
	f.tx.len = f.tx.sent = 0;
	f.sock = connect_to(f.d);
}

static void run(struct input *in)
{
	for (unsigned i = 0; i < STEPS_MAX && in_left(in); i++) {
		uint8_t what = in_u8(in);

		switch (what % 12) {
		default:
			step_message(in);
			break;
		case 5:
			step_start(in);
			break;
		case 6:
			fg_chain(&f.guest, in);
			break;
		case 7:
			fg_step(&f.guest, in);
			break;
		case 8:
			sim_wake(f.workers);
			step();
			break;
		case 9:
			sim_park(f.workers);
			control_step(0);
			break;
		case 10:
			send_rest(what & 0x80 ? SIZE_MAX : what >> 4);
			control_step(0);
			break;
		case 11:
			if (what & 0x80)
				reconnect();
			else
				step();
			break;
		}
		read_replies();
		/* The device writes to its own mapping of the same files, as it may. */
		for (unsigned r = 0; r < FG_REGIONS; r++)
			memcpy(f.guest.shadow[r], f.guest.map->region[r].host,
			       f.guest.map->region[r].size);
	}
	send_rest(SIZE_MAX);
	for (unsigned i = 0; i < 4; i++) {
		step();
		read_replies();
	}
}

/* What takes time to close or to free is left to another thread (vhost/disposal.h). */
static void wait_for_disposal(long mapped_before)
{
	for (unsigned i = 0; i < 5000; i++) {
		if (count_fds() == f.n_fds &&
		    __atomic_load_n(&mapped, __ATOMIC_RELAXED) == mapped_before)
			break;
		usleep(1000);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	long mapped_before;
	eventfd_t count;

	if (!f.workers) {
		create_all();
		f.n_fds = count_fds();
	}
	mapped_before = mapped;
	begin(&in);
	run(&in);
	session_end();
	ask_neighbour();
	/* Counters that are full would block who writes to the blocking one. */
	eventfd_read(f.fds[FD_EVENT], &count);
	FUZZ_CHECK(sim_n_pollers(f.workers) == 0, "%u pollers are left", sim_n_pollers(f.workers));
	wait_for_disposal(mapped_before);
	if (count_fds() != f.n_fds)
		print_fds();
	FUZZ_CHECK(count_fds() == f.n_fds, "%u descriptors became %u", f.n_fds, count_fds());
	FUZZ_CHECK(mapped == mapped_before, "%ld bytes stay mapped", mapped - mapped_before);
	return 0;
}
