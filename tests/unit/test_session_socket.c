/* SPDX-License-Identifier: Apache-2.0 */
/* Where sessions come from and how they end: paths, descriptors, second connections, hang-ups. */
#include "tests/unit/often.h"
#include "tests/unit/session_util.h"
#include "vhost/disposal.h"
#include "vhost/protocol.h"
#include "vhost/session.h"
#include "vhost/state_blob.h"

#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct bed b;
static struct echo_device other;

static int serve(struct vhost_device *d, const char *path, struct vhost_socket s, struct error *err)
{
	s.path = path ? strdup(path) : NULL;
	s.fd = path ? -1 : s.fd;
	return vhost_device_serve(d, &s, err);
}

static const struct vhost_socket by_umask = { .fd = -1, .mode = -1 };

static void check_refused(const char *path, struct vhost_socket s, int rc, const char *sentence)
{
	struct error err = { 0 };
	unsigned fds;

	/* The loop keeps a timer's descriptor from the first time on. */
	cr_assert_lt(serve(&b.dev.vhost, "", by_umask, NULL), 0);
	fds = settled_fds();
	cr_assert_eq(serve(&b.dev.vhost, path, s, &err), rc, "%s: %s", path, err.text);
	cr_assert_not_null(strstr(err.text, sentence), "%s", err.text);
	cr_assert_not_null(strstr(err.text, "echo: "), "%s", err.text);
	cr_assert_null(b.dev.vhost.listener);
	cr_assert(fds_become(fds));
}

/* What a given descriptor must be, whoever made it: nobody inherits it, and nobody waits at it. */
static bool is_ours(int fd)
{
	return (fcntl(fd, F_GETFD) & FD_CLOEXEC) && (fcntl(fd, F_GETFL) & O_NONBLOCK);
}

static void make_folder(void)
{
	snprintf(b.folder, sizeof(b.folder), "/tmp/sluice-test-XXXXXX");
	cr_assert_not_null(mkdtemp(b.folder));
	snprintf(b.path, sizeof(b.path), "%s/echo.sock", b.folder);
}

Test(session_socket, a_path_that_cannot_be_is_refused_with_its_reason)
{
	struct vhost_socket s = by_umask;
	char path[300];

	bed_init(&b, &echo_blk_ops);
	make_folder();
	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[108] = 0;
	check_refused(path, s, -ENAMETOOLONG, "107");
	check_refused("", s, -EINVAL, "empty");
	check_refused("/nonexistent/folder/s", s, -ENOENT, "/nonexistent/folder");
	check_refused("/dev/null/s", s, -ENOTDIR, "/dev/null");
	check_refused(b.folder, s, -EEXIST, "not a socket");
	s.group = strdup("no-such-group");
	check_refused(b.path, s, -ENOENT, "no-such-group");
	bed_fini(&b);
}

Test(session_socket, another_file_in_its_place_is_left_alone)
{
	struct stat st;
	int fd;

	bed_init(&b, &echo_blk_ops);
	make_folder();
	fd = open(b.path, O_CREAT | O_WRONLY, 0600);
	cr_assert_eq(write(fd, "data", 4), 4);
	close(fd);
	check_refused(b.path, by_umask, -EEXIST, "not a socket");
	cr_assert_eq(stat(b.path, &st), 0);
	cr_assert_eq(st.st_size, 4);
	cr_assert_eq(unlink(b.path), 0);
	/* Nor is a link to somewhere followed. */
	cr_assert_eq(symlink("/tmp/sluice-elsewhere", b.path), 0);
	check_refused(b.path, by_umask, -EEXIST, "not a socket");
	cr_assert_eq(unlink(b.path), 0);
	bed_fini(&b);
}

Test(session_socket, a_live_socket_is_refused_and_goes_on)
{
	struct error err = { 0 };
	uint64_t features;

	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	cr_assert_eq(vhost_device_init(&other.vhost, &echo_blk_ops, "other", 1, b.workers, &err),
		     0);
	cr_assert_eq(serve(&other.vhost, b.path, by_umask, &err), -EADDRINUSE);
	cr_assert_not_null(strstr(err.text, "already in use by another process"), "%s", err.text);
	vhost_device_fini(&other.vhost);
	/* The look was a connection, which is over by now. */
	cr_assert(EVENTUALLY(b.dev.disconnected == 1));
	OK(&b.f, frontend_connect(&b.f, b.path));
	OK(&b.f, frontend_u64_get(&b.f, VU_GET_FEATURES, &features));
	bed_fini(&b);
}

Test(session_socket, a_stale_socket_is_replaced)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct error err = { 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	bed_init(&b, &echo_blk_ops);
	make_folder();
	strcpy(sun.sun_path, b.path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	cr_assert_eq(listen(fd, 1), 0);
	close(fd);
	cr_assert_eq(serve(&b.dev.vhost, b.path, by_umask, &err), 0, "%s", err.text);
	bed_connect(&b);
	bed_fini(&b);
}

Test(session_socket, the_file_gets_its_mode_and_group)
{
	struct vhost_socket s = { .fd = -1, .mode = 0620 };
	struct error err = { 0 };
	struct stat st;
	mode_t mask = umask(0077);

	bed_init(&b, &echo_blk_ops);
	make_folder();
	if (geteuid() == 0 && getgrnam("daemon"))
		s.group = strdup("daemon");
	cr_assert_eq(serve(&b.dev.vhost, b.path, s, &err), 0, "%s", err.text);
	cr_assert_eq(stat(b.path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0620u);
	if (s.group)
		cr_assert_eq(st.st_gid, getgrnam("daemon")->gr_gid);
	cr_assert_eq(umask(mask), 0077u, "the umask is as it was");
	bed_fini(&b);
}

Test(session_socket, only_its_own_file_is_unlinked)
{
	int fd;

	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	/* Somebody has put another file in its place. */
	cr_assert_eq(unlink(b.path), 0);
	fd = open(b.path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	vhost_device_close(&b.dev.vhost, NULL);
	cr_assert_eq(unlink(b.path), 0);
	bed_fini(&b);
}

Test(session_socket, a_second_connection_is_turned_away)
{
	static struct frontend second;

	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	bed_connect(&b);
	bed_negotiate(&b, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	for (unsigned i = 0; i < 50; i++) {
		frontend_init(&second);
		second.idle = bed_step;
		OK(&second, frontend_connect(&second, b.path));
		OK(&second, frontend_wait_hangup(&second));
		frontend_close(&second);
		bed_echo(&b, 0);
	}
	cr_assert_eq(b.dev.connected, 1u);
	bed_fini(&b);
}

/* The old front-end has gone and its requests are still in flight: the next one waits its turn. */
Test(session_socket, the_next_connection_waits_for_the_old_ones_requests)
{
	static struct frontend next;
	uint64_t features;

	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	bed_connect(&b);
	bed_negotiate(&b, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	b.dev.hold = true;
	bed_submit(&b, 0);
	cr_assert(EVENTUALLY(__atomic_load_n(&b.dev.queue[0].n_held, __ATOMIC_ACQUIRE) == 1));
	frontend_close(&b.f);
	frontend_init(&next);
	next.idle = bed_step;
	OK(&next, frontend_connect(&next, b.path));
	OK(&next, frontend_send(&next, VU_GET_FEATURES, VU_VERSION, NULL, 0, NULL, 0));
	cr_assert(STAYS(b.dev.disconnected == 0 && b.dev.connected == 1, 50));
	/* Memory stays mapped for what is in flight. */
	cr_assert_not_null(b.dev.vhost.map);
	__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
	OK(&next, frontend_recv_reply(&next, VU_GET_FEATURES, &features, 8, NULL, NULL));
	cr_assert_eq(b.dev.disconnected, 1u);
	cr_assert_eq(b.dev.connected, 2u);
	frontend_close(&next);
	bed_fini(&b);
}

/* T20, T13: hang-ups with work in flight, over and over. */
Test(session_socket, reconnecting_leaves_nothing_behind, .timeout = OFTEN_TIMEOUT)
{
	unsigned fds = 0, n = often(300);

	bed_init(&b, &echo_net_ops);
	bed_listen(&b);
	for (unsigned i = 0; i < n; i++) {
		bed_connect(&b);
		bed_negotiate(&b, VU_PF_USUAL, i % 2 ? VU_F_PACKED : 0);
		bed_start_queue(&b, i % ECHO_QUEUES);
		bed_echo(&b, i % ECHO_QUEUES);
		bed_submit(&b, i % ECHO_QUEUES);
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == i + 1));
		guest_memory_destroy(&b.memory);
		cr_assert_eq(guest_memory_create(&b.memory,
						 (struct guest_range[]) { { 0, 4 << 20 },
									  { 8 << 20, 2 << 20 } },
						 2, 0),
			     0);
		if (i == 0)
			fds = settled_fds();
	}
	/* Much memory that goes at once is let go of by a thread of the device's own. */
	cr_assert(EVENTUALLY(count_fds() <= fds));
	cr_assert_eq(counter_read(&b.dev.vhost.stats.connects), n);
	bed_fini(&b);
}

/* Hanging up right behind a message that has rings stopped for it. */
Test(session_socket, a_hang_up_while_a_message_waits)
{
	struct vu_state s = { .index = 0 };

	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	for (unsigned i = 0; i < 20; i++) {
		bed_connect(&b);
		bed_negotiate(&b, VU_PF_USUAL, 0);
		bed_start_queue(&b, 0);
		bed_start_queue(&b, 1);
		b.dev.hold = true;
		bed_submit(&b, 0);
		bed_submit(&b, 1);
		cr_assert(EVENTUALLY(__atomic_load_n(&b.dev.queue[1].n_held, __ATOMIC_ACQUIRE)));
		cr_assert(EVENTUALLY(__atomic_load_n(&b.dev.queue[0].n_held, __ATOMIC_ACQUIRE)));
		OK(&b.f,
		   frontend_send(&b.f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0));
		cr_assert(EVENTUALLY(b.dev.vhost.queues[0].state == VIRTQUEUE_STOPPING));
		frontend_close(&b.f);
		cr_assert(STAYS(b.dev.disconnected == i, 5));
		__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
		cr_assert(EVENTUALLY(b.dev.disconnected == i + 1));
		guest_memory_destroy(&b.memory);
		cr_assert_eq(guest_memory_create(&b.memory,
						 (struct guest_range[]) { { 0, 4 << 20 },
									  { 8 << 20, 2 << 20 } },
						 2, 0),
			     0);
	}
	bed_fini(&b);
}

static void count_closed(struct vhost_device *d)
{
	container_of(d, struct echo_device, vhost)->closed++;
}

Test(session_socket, closing_a_device_waits_for_its_requests)
{
	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	bed_negotiate(&b, VU_PF_USUAL, 0);
	bed_start_queue(&b, 0);
	b.dev.hold = true;
	bed_submit(&b, 0);
	cr_assert(EVENTUALLY(__atomic_load_n(&b.dev.queue[0].n_held, __ATOMIC_ACQUIRE) == 1));
	vhost_device_close(&b.dev.vhost, count_closed);
	cr_assert(STAYS(b.dev.closed == 0, 30));
	__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
	cr_assert(EVENTUALLY(b.dev.closed == 1));
	struct driver_used used;
	cr_assert(frontend_poll(&b.f, 0, &used));
	OK(&b.f, frontend_wait_hangup(&b.f));
	bed_fini(&b);
}

static void save_nothing(struct vhost_device *d, struct state_blob *state)
{
	(void)d;
	state_begin(state, 1);
}

/* Something before it that the device's thread waits in. */
static bool held_up; /* atomic */

static void wait_in_thread(struct errand *e)
{
	(void)e;
	while (__atomic_load_n(&held_up, __ATOMIC_ACQUIRE))
		usleep(1000);
}

/* T20: CHECK_DEVICE_STATE is answered when a thread has looked, and the device goes meanwhile. */
Test(session_socket, what_a_message_waited_for_starts_no_ring_of_a_device_that_closes)
{
	struct vhost_device_ops ops = echo_blk_ops;
	const uint32_t load[] = { 1, 0 };
	uint64_t reply = 0;
	struct errand e = { .run = wait_in_thread };
	int fds[2];

	ops.save_state = save_nothing;
	cr_assert_eq(pipe(fds), 0);
	bed_init(&b, &ops);
	bed_pair(&b);
	bed_negotiate(&b, VU_PF_USUAL | UINT64_C(1) << VHOST_USER_PROTOCOL_F_DEVICE_STATE, 0);
	OK(&b.f,
	   frontend_send(&b.f, VU_SET_DEVICE_STATE_FD, VU_VERSION, load, sizeof(load), fds, 1));
	OK(&b.f, frontend_recv_reply(&b.f, VU_SET_DEVICE_STATE_FD, &reply, 8, NULL, NULL));
	cr_assert_eq(reply, 0x100u);
	bed_start_queue(&b, 0);
	bed_start_queue(&b, 1);
	b.dev.hold = true;
	bed_submit(&b, 0);
	cr_assert(EVENTUALLY(__atomic_load_n(&b.dev.queue[0].n_held, __ATOMIC_ACQUIRE) == 1));
	held_up = true;
	cr_assert(disposal_run(b.dev.vhost.disposal, &e));
	OK(&b.f, frontend_send(&b.f, VU_CHECK_DEVICE_STATE, VU_VERSION, NULL, 0, NULL, 0));
	while (!b.dev.vhost.session->message_waits)
		control_step(1000);
	vhost_device_close(&b.dev.vhost, count_closed);
	/* Queue 1 has nothing in flight. */
	cr_assert(EVENTUALLY(b.dev.vhost.queues[1].state == VIRTQUEUE_STOPPED));
	__atomic_store_n(&held_up, false, __ATOMIC_RELEASE);
	cr_assert(STAYS(b.dev.vhost.queues[1].state == VIRTQUEUE_STOPPED, 50));
	cr_assert_eq(b.dev.queue[1].starts, 1u);
	__atomic_store_n(&b.dev.hold, false, __ATOMIC_RELEASE);
	cr_assert(EVENTUALLY(b.dev.closed == 1));
	bed_fini(&b);
	close(fds[0]);
	close(fds[1]);
}

Test(session_socket, a_given_socket_may_be_all_there_is)
{
	struct vhost_socket s = { .mode = -1, .exit_on_disconnect = true };
	struct error err = { 0 };
	uint64_t features;
	int pair[2];

	bed_init(&b, &echo_blk_ops);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	s.fd = pair[0];
	b.dev.vhost.closed = count_closed;
	cr_assert_eq(vhost_device_serve(&b.dev.vhost, &s, &err), 0, "%s", err.text);
	cr_assert(is_ours(pair[0]));
	frontend_attach(&b.f, pair[1]);
	OK(&b.f, frontend_u64_get(&b.f, VU_GET_FEATURES, &features));
	cr_assert_eq(b.dev.closed, 0u);
	frontend_close(&b.f);
	cr_assert(EVENTUALLY(b.dev.closed == 1));
	bed_fini(&b);
}

Test(session_socket, a_given_socket_may_listen)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct vhost_socket s = { .mode = -1, .fd = socket(AF_UNIX, SOCK_STREAM, 0) };
	struct error err = { 0 };
	int fd = s.fd;

	bed_init(&b, &echo_blk_ops);
	make_folder();
	strcpy(sun.sun_path, b.path);
	cr_assert_eq(bind(s.fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	cr_assert_eq(listen(s.fd, 1), 0);
	cr_assert_eq(vhost_device_serve(&b.dev.vhost, &s, &err), 0, "%s", err.text);
	cr_assert(is_ours(fd));
	for (unsigned i = 0; i < 3; i++) {
		bed_connect(&b);
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == i + 1));
	}
	/* Whoever made the file takes it away. */
	vhost_device_close(&b.dev.vhost, NULL);
	cr_assert_eq(unlink(b.path), 0);
	bed_fini(&b);
}

Test(session_socket, what_is_given_must_be_a_unix_stream_socket)
{
	const int fds[] = { open("/dev/null", O_RDWR), socket(AF_UNIX, SOCK_DGRAM, 0),
			    socket(AF_INET, SOCK_STREAM, 0) };
	struct error err = { 0 };

	bed_init(&b, &echo_blk_ops);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
		struct vhost_socket s = { .mode = -1, .fd = fds[i] };

		cr_assert_eq(vhost_device_serve(&b.dev.vhost, &s, &err), -ENOTSOCK);
		cr_assert_not_null(strstr(err.text, "not a Unix stream socket"), "%s", err.text);
		cr_assert(EVENTUALLY(fcntl(fds[i], F_GETFD) == -1), "taken over, also on failure");
	}
	bed_fini(&b);
}

/* In the place of what was bound there before. */
static int bound_to(int domain, int type, const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(domain, type, 0);

	cr_assert_geq(fd, 0);
	if (!path)
		return fd;
	strcpy(sun.sun_path, path);
	unlink(path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static int connected_to(int fd, const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	strcpy(sun.sun_path, path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

/* The command line binds the path of a device that is added in the sandbox, and hands it over. */
Test(session_socket, a_socket_that_is_bound_to_the_path_may_be_handed_over)
{
	struct vhost_socket s = { .mode = -1 };
	struct error err = { 0 };
	int fd;

	bed_init(&b, &echo_blk_ops);
	make_folder();
	s.path = strdup(b.path);
	s.fd = fd = bound_to(AF_UNIX, SOCK_STREAM, b.path);
	cr_assert_eq(vhost_device_serve(&b.dev.vhost, &s, &err), 0, "%s", err.text);
	cr_assert(is_ours(fd));
	bed_connect(&b);
	frontend_close(&b.f);
	cr_assert(EVENTUALLY(b.dev.disconnected == 1));
	vhost_device_close(&b.dev.vhost, NULL);
	cr_assert_eq(access(b.path, F_OK), -1, "it is the device's");
	bed_fini(&b);
}

Test(session_socket, what_is_handed_over_must_be_bound_to_the_path_and_unconnected)
{
	char elsewhere[sizeof(b.path) + 8];
	int peer;

	bed_init(&b, &echo_blk_ops);
	make_folder();
	snprintf(elsewhere, sizeof(elsewhere), "%s.other", b.path);
	peer = bound_to(AF_UNIX, SOCK_STREAM, elsewhere);
	cr_assert_eq(listen(peer, 1), 0);

	const struct {
		int fd, rc;
		const char *sentence;
	} cases[] = {
		{ open("/dev/null", O_RDWR), -ENOTSOCK, "is no Unix stream socket" },
		{ bound_to(AF_UNIX, SOCK_DGRAM, b.path), -ENOTSOCK, "is no Unix stream socket" },
		{ bound_to(AF_INET, SOCK_STREAM, NULL), -ENOTSOCK, "is no Unix stream socket" },
		{ connected_to(bound_to(AF_UNIX, SOCK_STREAM, b.path), elsewhere), -EISCONN,
		  "is connected" },
		{ bound_to(AF_UNIX, SOCK_STREAM, NULL), -EINVAL, "but to no path" },
		{ dup(peer), -EINVAL, ".other" },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vhost_socket s = { .mode = -1, .fd = cases[i].fd, .path = strdup(b.path) };
		struct error err = { 0 };

		cr_assert_eq(vhost_device_serve(&b.dev.vhost, &s, &err), cases[i].rc, "%u: %s", i,
			     err.text);
		cr_assert_not_null(strstr(err.text, cases[i].sentence), "%u: %s", i, err.text);
		cr_assert(EVENTUALLY(fcntl(cases[i].fd, F_GETFD) == -1),
			  "taken over, also on failure");
	}
	close(peer);
	unlink(elsewhere);
	unlink(b.path);
	bed_fini(&b);
}

Test(session_socket, connecting_is_tried_until_there_is_somebody, .timeout = 30)
{
	struct vhost_socket s = { .fd = -1, .mode = -1, .connect = true };
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct error err = { 0 };
	uint64_t features;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	bed_init(&b, &echo_blk_ops);
	make_folder();
	cr_assert_eq(serve(&b.dev.vhost, b.path, s, &err), 0, "%s", err.text);
	cr_assert(STAYS(b.dev.connected == 0, 20));
	strcpy(sun.sun_path, b.path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	cr_assert_eq(listen(fd, 1), 0);
	for (unsigned i = 0; i < 2; i++) {
		OK(&b.f, frontend_accept(&b.f, fd));
		OK(&b.f, frontend_u64_get(&b.f, VU_GET_FEATURES, &features));
		frontend_close(&b.f);
		cr_assert(EVENTUALLY(b.dev.disconnected == i + 1));
	}
	close(fd);
	vhost_device_close(&b.dev.vhost, NULL);
	cr_assert_eq(unlink(b.path), 0, "it is the front-end's");
	bed_fini(&b);
}

/* Nothing to take a connection with: it waits in the backlog, and the loop does not spin. */
Test(session_socket, a_lack_of_descriptors_passes, .timeout = 30)
{
	const struct rlimit few = { 200, 200 };
	int taken[4096];
	unsigned n = 0, fds = settled_fds();
	uint64_t end;

	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);

	bed_init(&b, &echo_blk_ops);
	bed_listen(&b);
	OK(&b.f, frontend_connect(&b.f, b.path));
	while (n < ARRAY_SIZE(taken) && (taken[n] = dup(0)) >= 0)
		n++;
	cr_assert_lt(n, ARRAY_SIZE(taken));
	cr_assert(STAYS(b.dev.connected == 0, 100));
	while (n)
		close(taken[--n]);
	end = clock_ns() + UINT64_C(3000000000);
	while (b.dev.connected == 0 && clock_ns() < end)
		control_step(10000);
	cr_assert_eq(b.dev.connected, 1u);
	bed_fini(&b);
	cr_assert(fds_become(fds));
}

/* What a message brought is had; what it takes to serve it is not. */
Test(session_socket, a_channel_for_which_no_descriptor_is_left_is_refused)
{
	const struct rlimit few = { 200, 200 };
	int taken[200], pair[2];
	unsigned n = 0;

	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	bed_negotiate(&b, VU_PF_USUAL | VU_PF_BACKEND_REQ, 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	while (n < ARRAY_SIZE(taken) && (taken[n] = dup(0)) >= 0)
		n++;
	cr_assert(n > 0 && n < ARRAY_SIZE(taken));
	close(taken[--n]);
	cr_assert_eq(frontend_set(&b.f, VU_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), -EREMOTEIO);
	while (n)
		close(taken[--n]);
	cr_assert(EVENTUALLY(frontend_set(&b.f, VU_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1) == 0));
	close(pair[0]);
	close(pair[1]);
	bed_fini(&b);
}
