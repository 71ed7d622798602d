/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: any bytes in any pieces, with descriptors beside some of them. Each line is
 * answered with one line of JSON-RPC, or not at all if it is a notification; afterwards another
 * client is served, and no descriptor is left.
 */
#include "base/error.h"
#include "base/log.h"
#include "daemon/rpc.h"
#include "poll/control.h"
#include "tests/fuzz/input.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PIECES_MAX 64
#define FDS_MAX 6

static json_t *echo(void *ctx, const json_t *params, struct rpc_error *err)
{
	(void)ctx, (void)err;
	return params ? json_deep_copy(params) : json_string("nothing");
}

/* As methods do that quote what they were given. */
static json_t *refuse(void *ctx, const json_t *params, struct rpc_error *err)
{
	const char *name = json_string_value(json_object_get(params, "name"));

	(void)ctx;
	err->code = RPC_INVALID_PARAMS;
	snprintf(err->text, sizeof(err->text), "there is no \"%.100s\"", name ? name : "");
	return NULL;
}

/* As one that takes descriptors and answers when something else has ended. */
static struct rpc_reply *waiting;

static json_t *take(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	int fd = rpc_fds_take(r->fds, 1);

	(void)ctx;
	if (fd >= 0)
		close(fd);
	if (waiting)
		return rpc_refuse(err, "another waits");
	waiting = rpc_later(r);
	return NULL;
}

static void finish(void)
{
	if (waiting)
		rpc_finish(waiting, json_string("later"), NULL);
	waiting = NULL;
}

static const struct rpc_method methods[] = { { .name = "echo", .call = echo },
					     { .name = "refuse", .call = refuse },
					     { .name = "take", .serve = take, .takes_fds = true },
					     { 0 } };
static struct rpc_config cfg = { .methods = methods, .mode = 0600 };
static struct rpc_server *server;
static int gift; /* what clients hand over; were it their own socket, nobody could see them go */
static struct sockaddr_un address = { .sun_family = AF_UNIX };

/*
 * The listener rests when more than 200 have come within a second. Here more do, and an answer that
 * waits for the clock would be one that never comes.
 */
int __wrap_sd_event_source_set_ratelimit(sd_event_source *s, uint64_t interval, unsigned burst);
int __wrap_sd_event_source_set_ratelimit(sd_event_source *s, uint64_t interval, unsigned burst)
{
	(void)s, (void)interval, (void)burst;
	return 0;
}

static void clean_up(void)
{
	rpc_server_stop(server);
	control_fini();
	close(gift);
}

static void start(void)
{
	struct error err = { 0 };
	int rc;

	log_set_level(LOG_LEVEL_ERROR);
	FUZZ_CHECK(control_init() == 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/sluice-fuzz-rpc-%d.sock",
		 (int)getpid());
	cfg.path = address.sun_path;
	rc = rpc_server_start(&cfg, &server, &err);
	FUZZ_CHECK(rc == 0, "%s", err.text);
	gift = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	FUZZ_CHECK(gift >= 0);
	atexit(clean_up);
}

/* One line of JSON, with an id and a result or an error. */
static void check_reply(const char *line, size_t len)
{
	json_t *reply;

	FUZZ_CHECK(len > 1 && line[len - 1] == '\n' && !memchr(line, '\n', len - 1));
	reply = json_loadb(line, len, 0, NULL);
	FUZZ_CHECK(json_is_object(reply), "%.*s", (int)len, line);
	FUZZ_CHECK(json_object_get(reply, "id"));
	FUZZ_CHECK(!json_object_get(reply, "result") != !json_object_get(reply, "error"));
	json_decref(reply);
}

static void answer(const uint8_t *data, size_t size)
{
	char *line = malloc(size + 1), *reply;

	FUZZ_CHECK(line);
	memcpy(line, data, size);
	reply = rpc_answer(&cfg, line, size);
	finish();
	if (reply)
		check_reply(reply, strlen(reply));
	free(reply);
	free(line);
}

static int connect_client(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	FUZZ_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	return fd;
}

/* Steps, not time, are what an answer takes: there is no other thread. */
static void step(void)
{
	for (unsigned i = 0; i < 4; i++)
		control_step(0);
}

static void ask(void)
{
	static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}\n";
	int fd = connect_client();
	char reply[200];
	ssize_t n = -1;

	FUZZ_CHECK(write(fd, request, sizeof(request) - 1) == sizeof(request) - 1);
	for (unsigned i = 0; n <= 0 && i < 100; i++) {
		step();
		n = read(fd, reply, sizeof(reply));
	}
	FUZZ_CHECK(n > 0, "nobody answers");
	check_reply(reply, (size_t)n);
	close(fd);
	step();
}

/* @n descriptors beside @len bytes. @return as sendmsg(). */
static ssize_t send_with(int sock, const uint8_t *data, size_t len, unsigned n)
{
	union {
		char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)data, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		control.align = (struct cmsghdr) { CMSG_LEN(n * sizeof(int)), SOL_SOCKET,
						   SCM_RIGHTS };
		for (unsigned i = 0; i < n; i++)
			memcpy(CMSG_DATA(&control.align) + i * sizeof(int), &gift, sizeof(int));
	}
	return sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static unsigned n_open(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 100; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Lines that waited are served one a round, also for one who has gone. */
static void settle(void)
{
	unsigned i;

	for (i = 0; i < 100000; i++) {
		finish();
		if (sd_event_run(control_event(), 0) <= 0)
			break;
	}
	FUZZ_CHECK(i < 100000, "the server is never done");
}

static void stream(struct input *in, bool files)
{
	unsigned before = n_open();
	int fd = connect_client();
	char reply[65536];

	for (unsigned i = 0; i < PIECES_MAX && in_left(in); i++) {
		unsigned with = files ? in_u8(in) : 0;
		size_t n = MIN((size_t)in_u8(in) * 4, in_left(in));

		if (n && send_with(fd, in->at, n, with < 16 ? with % (FDS_MAX + 1) : 0) < 0)
			break;
		in->at += n;
		step();
		if (with & 16)
			finish();
		while (i % 2 && read(fd, reply, sizeof(reply)) > 0)
			;
	}
	close(fd);
	step();
	finish();
	ask();
	settle();
	/* A socket with descriptors that nobody read is closed by a thread. */
	for (unsigned i = 0; i < 2000 && n_open() != before; i++) {
		usleep(1000);
		settle();
	}
	FUZZ_CHECK(n_open() == before, "descriptors are left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	uint8_t how;

	if (!server)
		start();
	how = in_u8(&in);
	if (how & 1)
		stream(&in, how & 2);
	else
		answer(in.at, in_left(&in));
	return 0;
}
