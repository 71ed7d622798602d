/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/session.h"

#include "base/error.h"
#include "base/log.h"
#include "blk/blk.h"
#include "net/net.h"
#include "poll/control.h"
#include "tests/fuzz/sim.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define FDS_SEEN 512 /* descriptors are looked for below this */

struct session_fuzz f = { .sock = -1, .channel = -1 };

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

long count_mapped(void)
{
	return __atomic_load_n(&mapped, __ATOMIC_RELAXED);
}

/* One system call for all of them: this is done for each input. */
unsigned count_fds(void)
{
	struct pollfd fds[FDS_SEEN];
	unsigned n = 0;

	for (int fd = 0; fd < FDS_SEEN; fd++)
		fds[fd] = (struct pollfd) { .fd = fd };
	FUZZ_CHECK(poll(fds, FDS_SEEN, 0) >= 0);
	for (int fd = 0; fd < FDS_SEEN; fd++)
		n += !(fds[fd].revents & POLLNVAL);
	return n;
}

void print_fds(void)
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
int connect_to(struct vhost_device *d)
{
	int pair[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	FUZZ_CHECK(session_open(d, pair[0]) == 0);
	return pair[1];
}

void create_all(void)
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

void step(void)
{
	sim_round(f.workers);
	control_step(0);
}

void ask_neighbour(void)
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
