/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: descriptors beside requests, answers that come later, and who abuses both. */
#include "base/clock.h"
#include "base/compiler.h"
#include "base/error.h"
#include "daemon/rpc.h"
#include "poll/control.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static unsigned calls;
static struct rpc_reply *waiting;

static json_t *plain(void *ctx, const json_t *params, struct rpc_error *err)
{
	(void)ctx, (void)params, (void)err;
	calls++;
	return json_string("plain");
}

/* How many came along; takes the first one and closes it. */
static json_t *take(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	int fd = rpc_fds_take(r->fds, 0);

	(void)ctx, (void)err;
	calls++;
	if (fd >= 0) {
		cr_expect(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		close(fd);
	}
	cr_expect_eq(rpc_fds_take(r->fds, 0), -1, "it is taken once");
	cr_expect_eq(rpc_fds_take(r->fds, RPC_FDS_MAX), -1);
	cr_expect_eq(r->peer.pid, getpid());
	return json_integer(r->fds->n);
}

static json_t *later(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	(void)ctx, (void)err;
	calls++;
	cr_assert_null(waiting);
	waiting = rpc_later(r);
	cr_assert_not_null(waiting);
	return NULL;
}

static json_t *at_once(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	(void)ctx, (void)err;
	rpc_finish(rpc_later(r), json_string("at once"), NULL);
	return NULL;
}

static const struct rpc_method methods[] = {
	{ .name = "plain", .call = plain },
	{ .name = "take", .serve = take, .takes_fds = true },
	{ .name = "later", .serve = later },
	{ .name = "at_once", .serve = at_once },
	{ .name = NULL },
};

static char path[64];
static struct rpc_server *server;
static unsigned files; /* of the process, with nobody connected */

static unsigned count_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void start_patient(uint64_t fds_wait_us)
{
	struct rpc_config cfg = {
		.path = path, .mode = 0600, .methods = methods, .fds_wait_us = fds_wait_us
	};
	struct error err = { 0 };

	signal(SIGPIPE, SIG_IGN);
	snprintf(path, sizeof(path), "/tmp/sluice-rpc-%d.sock", (int)getpid());
	unlink(path);
	cr_assert_eq(control_init(), 0);
	cr_assert_eq(rpc_server_start(&cfg, &server, &err), 0, "%s", err.text);
	files = count_files();
}

static void start(void)
{
	start_patient(0);
}

static void start_impatient(void)
{
	start_patient(50000);
}

static void rounds(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(control_step(1000), 0);
}

/* Everything that anybody sent is closed, by whichever thread. */
static void expect_no_files(void)
{
	uint64_t end = clock_ns() + UINT64_C(5000000000);

	while (count_files() > files && clock_ns() < end)
		rounds(2);
	cr_expect_eq(count_files(), files);
}

static void stop(void)
{
	expect_no_files();
	rpc_server_stop(server);
	control_fini();
}

TestSuite(rpc_fds, .init = start, .fini = stop, .timeout = 20);

static int client(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	memcpy(addr.sun_path, path, strlen(path) + 1);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

/* @text with @n copies of @file beside it. */
static void say_with_file(int fd, const char *text, unsigned n, int file)
{
	union {
		char space[CMSG_SPACE(250 * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (char *)text, strlen(text) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n) {
		struct cmsghdr *c = &control.align;

		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		*c = (struct cmsghdr) { CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		for (unsigned i = 0; i < n; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &file, sizeof(int));
	}
	cr_assert_eq(sendmsg(fd, &m, 0), (ssize_t)strlen(text));
}

/* @text with @n copies of a pipe's end beside it. */
static void say_with(int fd, const char *text, unsigned n)
{
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	say_with_file(fd, text, n, ends[0]);
	close(ends[0]);
	close(ends[1]);
}

/* The line that has arrived after some rounds; "": none. */
static const char *hear(int fd)
{
	static char got[1000];
	size_t len = 0;

	for (unsigned i = 0; i < 50 && len == 0; i++) {
		rounds(1);
		while (len < sizeof(got) - 1 && read(fd, got + len, 1) == 1 && got[len++] != '\n')
			;
	}
	got[len] = '\0';
	return got;
}

#define CALL(method) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\"}\n"

static void expect_hears(int fd, const char *what)
{
	const char *got = hear(fd);

	cr_expect(strstr(got, what), "%s instead of %s", got, what);
}

Test(rpc_fds, they_reach_the_method_that_takes_them_and_the_rest_is_closed)
{
	int fd = client();

	for (unsigned n = 0; n <= RPC_FDS_MAX; n++) {
		char want[20];

		say_with(fd, CALL("take"), n);
		snprintf(want, sizeof(want), "\"result\":%u", n);
		expect_hears(fd, want);
	}
	close(fd);
}

Test(rpc_fds, they_belong_to_the_line_that_they_come_with)
{
	int fd = client();

	say_with(fd, CALL("take"), 2);
	say_with(fd, CALL("take"), 1);
	say_with(fd, CALL("plain"), 0);
	expect_hears(fd, "\"result\":2");
	expect_hears(fd, "\"result\":1");
	expect_hears(fd, "\"plain\"");
	/* In pieces: all of them are the line's. */
	say_with(fd, "{\"jsonrpc\":\"2.0\",", 1);
	rounds(2);
	say_with(fd, "\"id\":1,\"method\":\"take\"}\n", 2);
	expect_hears(fd, "\"result\":3");
	close(fd);
}

Test(rpc_fds, more_than_there_may_be_are_an_error)
{
	int fd = client();

	say_with(fd, CALL("take"), RPC_FDS_MAX + 1);
	expect_hears(fd, "descriptors of this request were lost: take takes at most 4");
	say_with(fd, CALL("take"), 250);
	expect_hears(fd, "were lost");
	say_with(fd, "{\"jsonrpc\":\"2.0\",", 3);
	rounds(2);
	say_with(fd, "\"id\":1,\"method\":\"take\"}\n", 3);
	expect_hears(fd, "were lost");
	cr_expect_eq(calls, 0);
	say_with(fd, CALL("take"), 1);
	expect_hears(fd, "\"result\":1");
	close(fd);
}

Test(rpc_fds, who_takes_none_is_not_called_with_any)
{
	int fd = client();

	say_with(fd, CALL("plain"), 1);
	expect_hears(fd, "plain takes no descriptors, and 1 came along");
	say_with(fd, CALL("later"), 2);
	expect_hears(fd, "later takes no descriptors, and 2 came along");
	say_with(fd, CALL("nonesuch"), 1);
	expect_hears(fd, "there is no method");
	say_with(fd, "no json\n", 1);
	expect_hears(fd, "-32700");
	say_with(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"plain\"}\n", 1);
	say_with(fd, CALL("plain"), 0);
	expect_hears(fd, "\"plain\"");
	cr_expect_eq(calls, 1);
	close(fd);
}

Test(rpc_fds, a_client_that_hangs_up_leaves_none_behind)
{
	for (unsigned i = 0; i < 30; i++) {
		int fd = client();

		say_with(fd, "{\"jsonrpc\":", 3);
		if (i % 3)
			rounds(3);
		if (i % 2) /* not read: a whole line waits before it */
			say_with(fd, CALL("plain") CALL("plain"), 4);
		close(fd);
		rounds(3);
	}
	expect_no_files();
}

TestSuite(rpc_fds_wait, .init = start_impatient, .fini = stop, .timeout = 20);

/* We hold its end of the connection as it does, and so are not told that it has gone. */
Test(rpc_fds_wait, a_client_that_hands_over_itself_and_goes_is_given_up)
{
	int fd = client();

	say_with_file(fd, "{\"jsonrpc\":", 1, fd);
	rounds(3);
	close(fd);
	expect_no_files();
	/* One that is there, and whose line ends in time, is served as ever. */
	fd = client();
	say_with_file(fd, CALL("take"), 1, fd);
	expect_hears(fd, "\"result\":1");
	close(fd);
}

/* A line that waits behind another is whole, however long that takes. */
Test(rpc_fds_wait, descriptors_of_a_whole_line_wait_for_it)
{
	int fd = client();

	say_with(fd, CALL("later") CALL("take"), 0);
	rounds(3);
	say_with(fd, CALL("take"), 2);
	for (uint64_t end = clock_ns() + UINT64_C(200000000); clock_ns() < end;)
		rounds(1);
	rpc_finish(waiting, json_string("now"), NULL);
	waiting = NULL;
	expect_hears(fd, "\"now\"");
	expect_hears(fd, "\"result\":0");
	expect_hears(fd, "\"result\":2");
	close(fd);
}

static int listening(struct sockaddr_in *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(*addr);

	*addr = (struct sockaddr_in) { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	cr_assert_eq(bind(fd, (struct sockaddr *)addr, sizeof(*addr)), 0);
	cr_assert_eq(listen(fd, 1), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)addr, &len), 0);
	return fd;
}

/* A TCP socket with bytes that nobody reads and SO_LINGER: its close() waits for 5 s. @before it:
 * so many others, with the request's beginning; then @text, and that @answer. */
static void lingers(unsigned before, const char *text, const char *answer)
{
	const struct linger patient = { 1, 5 };
	struct sockaddr_in addr;
	int door = listening(&addr), tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	static char bytes[1 << 20];
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (char *)text, strlen(text) };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	int fd = client(), peer;
	uint64_t begin;

	fcntl(tcp, F_SETFL, 0);
	cr_assert_eq(connect(tcp, (struct sockaddr *)&addr, sizeof(addr)), 0);
	peer = accept(door, NULL, NULL);
	fcntl(tcp, F_SETFL, O_NONBLOCK);
	while (write(tcp, bytes, sizeof(bytes)) > 0)
		;
	fcntl(tcp, F_SETFL, 0);
	setsockopt(tcp, SOL_SOCKET, SO_LINGER, &patient, sizeof(patient));
	if (before)
		say_with(fd, "{\"jsonrpc\":\"2.0\",", before);
	rounds(5);
	control.align = (struct cmsghdr) { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.align), &tcp, sizeof(tcp));
	cr_assert_gt(sendmsg(fd, &m, 0), 0);
	close(tcp); /* the daemon's is the last one */
	begin = clock_ns();
	expect_hears(fd, answer);
	say_with(fd, CALL("plain"), 0);
	expect_hears(fd, "\"plain\"");
	cr_expect_lt(clock_ns() - begin, UINT64_C(2000000000));
	close(peer); /* and with that the linger is over */
	close(door);
	close(fd);
}

Test(rpc_fds, one_that_takes_long_to_close_holds_up_nobody)
{
	lingers(0, CALL("plain"), "takes no descriptors");
}

Test(rpc_fds, one_too_many_that_takes_long_to_close_holds_up_nobody)
{
	lingers(RPC_FDS_MAX, "\"id\":1,\"method\":\"take\"}\n", "were lost");
}

Test(rpc_fds, without_room_for_them_the_request_fails)
{
	struct rlimit limit, none;
	int fd = client();

	say_with(fd, CALL("plain"), 0);
	expect_hears(fd, "\"plain\"");
	say_with(fd, CALL("take"), 2);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit) { .rlim_cur = 0, .rlim_max = limit.rlim_max };
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	expect_hears(fd, "has no room for more files");
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	say_with(fd, CALL("take"), 2);
	expect_hears(fd, "\"result\":2");
	close(fd);
}

Test(rpc_later, an_answer_may_come_later_and_what_follows_waits, .init = start, .fini = stop,
     .timeout = 20)
{
	int fd = client();

	say_with(fd, CALL("later") CALL("plain"), 0);
	rounds(10);
	cr_assert_not_null(waiting);
	cr_expect_eq(calls, 1);
	say_with(fd, CALL("plain"), 0);
	rounds(10);
	cr_expect_eq(calls, 1, "one at a time");
	rpc_finish(waiting, json_string("at last"), NULL);
	expect_hears(fd, "\"id\":1,\"result\":\"at last\"");
	expect_hears(fd, "\"plain\"");
	expect_hears(fd, "\"plain\"");
	close(fd);
}

Test(rpc_later, it_may_be_an_error_and_come_at_once, .init = start, .fini = stop, .timeout = 20)
{
	const struct rpc_error err = { RPC_INTERNAL_ERROR, "it broke" };
	int fd = client();

	say_with(fd, CALL("later"), 0);
	rounds(5);
	rpc_finish(waiting, NULL, &err);
	expect_hears(fd, "it broke");
	say_with(fd, CALL("at_once"), 0);
	expect_hears(fd, "\"at once\"");
	say_with(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"at_once\"}\n" CALL("plain"), 0);
	expect_hears(fd, "\"plain\"");
	close(fd);
}

Test(rpc_later, who_asked_may_be_gone, .init = start, .fini = stop, .timeout = 20)
{
	int others[RPC_CLIENTS_MAX], fd = client();

	say_with(fd, CALL("later"), 0);
	rounds(5);
	close(fd);
	rounds(5);
	rpc_finish(waiting, json_string("nobody hears"), NULL);
	waiting = NULL;

	/* Waited out by others, and ended with the server. */
	fd = client();
	say_with(fd, CALL("later"), 0);
	rounds(5);
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
		others[i] = client();
		rounds(2);
	}
	rpc_finish(waiting, json_string("nobody hears"), NULL);
	waiting = NULL;
	rounds(2);
	cr_expect_str_eq(hear(fd), "");
	close(fd);
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		close(others[i]);
	rounds(40);
	fd = client();
	say_with(fd, CALL("later"), 0);
	rounds(10);
	cr_assert_not_null(waiting);
	rpc_server_stop(server);
	server = NULL;
	rpc_finish(waiting, json_string("nobody hears"), NULL);
	close(fd);
	files--; /* its own */
}

Test(rpc_later, a_notification_is_finished_without_an_answer, .init = start, .fini = stop,
     .timeout = 20)
{
	int fd = client();

	say_with(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"later\"}\n", 0);
	rounds(5);
	rpc_finish(waiting, json_string("quiet"), NULL);
	say_with(fd, CALL("plain"), 0);
	expect_hears(fd, "\"plain\"");
	close(fd);
}
