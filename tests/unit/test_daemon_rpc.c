/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: JSON-RPC 2.0 as it says, and clients that mean harm. */
#include "base/clock.h"
#include "base/compiler.h"
#include "base/error.h"
#include "daemon/rpc.h"
#include "poll/control.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static unsigned calls;

static json_t *echo(void *ctx, const json_t *params, struct rpc_error *err)
{
	(void)ctx, (void)err;
	calls++;
	return params ? json_deep_copy(params) : json_string("nothing");
}

static json_t *refuse(void *ctx, const json_t *params, struct rpc_error *err)
{
	(void)ctx, (void)params;
	err->code = RPC_INVALID_PARAMS;
	snprintf(err->text, sizeof(err->text), "not today");
	return NULL;
}

/* As long as there is room, in characters of two bytes from an odd place on; and what is none. */
static json_t *explain(void *ctx, const json_t *params, struct rpc_error *err)
{
	const char *text = json_string_value(json_array_get(params, 0));
	static char many[1024];

	(void)ctx;
	for (unsigned i = 0; i + 2 < sizeof(many); i += 2)
		memcpy(many + i, "\u00e4", 2);
	if (strcmp(text, "long") == 0)
		return rpc_refuse(err, "xy%s", many);
	if (strcmp(text, "cut") == 0)
		return rpc_refuse(err, "x%.59s; so it is", many);
	if (strcmp(text, "all") == 0)
		return rpc_refuse(err,
				  "\u20ac \U00010348 \u00e4 \xc0\x80 \xed\xa0\x80 \xf4\x90\x80\x80 "
				  "\xff \xe2\x82");
	return NULL;
}

/* More than a socket's buffers hold. */
static json_t *big(void *ctx, const json_t *params, struct rpc_error *err)
{
	static char text[4 << 20];

	(void)ctx, (void)params, (void)err;
	calls++;
	memset(text, 'x', sizeof(text) - 1);
	return json_string(text);
}

static const struct rpc_method methods[] = {
	{ .name = "echo", .call = echo },
	{ .name = "refuse", .call = refuse },
	{ .name = "big", .call = big },
	{ .name = "explain", .call = explain },
	{ .name = NULL },
};

static void expect_answer(const char *request, const char *want)
{
	const struct rpc_config cfg = { .methods = methods };
	char *reply = rpc_answer(&cfg, request, strlen(request));

	if (want)
		cr_expect_str_eq(reply, want);
	else
		cr_expect_null(reply, "%s", reply);
	free(reply);
}

Test(rpc_answer, a_call_gets_its_result_and_its_id)
{
	expect_answer("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"echo\",\"params\":{\"a\":[1]}}",
		      "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"a\":[1]}}\n");
	expect_answer("{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"echo\"}",
		      "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":\"nothing\"}\n");
	expect_answer("{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"echo\"}",
		      "{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":\"nothing\"}\n");
}

Test(rpc_answer, a_reason_that_was_cut_is_told_up_to_a_whole_character)
{
	const struct rpc_config cfg = { .methods = methods };
	static const struct {
		const char *which, *begin, *end;
		unsigned n; /* of the characters of two bytes */
	} rows[] = {
		{ "long", "xy", "", (sizeof(((struct rpc_error *)0)->text) - 3) / 2 },
		{ "cut", "x", "; so it is", 29 },
	};
	char request[200], want[2000];
	char *reply;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		size_t at = (size_t)snprintf(want, sizeof(want), "\"message\":\"%s", rows[i].begin);

		for (unsigned j = 0; j < rows[i].n; j++, at += 2)
			memcpy(want + at, "\u00e4", 2);
		snprintf(want + at, sizeof(want) - at, "%s\"", rows[i].end);
		snprintf(
			request, sizeof(request),
			"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"explain\",\"params\":[\"%s\"]}",
			rows[i].which);
		reply = rpc_answer(&cfg, request, strlen(request));
		cr_expect_not_null(strstr(reply, want), "%s", reply);
		free(reply);
	}
	expect_answer("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"explain\",\"params\":[\"all\"]}",
		      "{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32602,\"message\":"
		      "\"\u20ac \U00010348 \u00e4     \"}}\n");
}

Test(rpc_answer, a_notification_is_done_and_not_answered)
{
	expect_answer("{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}", NULL);
	cr_expect_eq(calls, 1);
	expect_answer("{\"jsonrpc\":\"2.0\",\"method\":\"nonesuch\"}", NULL);
}

Test(rpc_answer, a_method_says_why_it_refuses)
{
	expect_answer("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"refuse\"}",
		      "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32602,\"message\":\"not "
		      "today\"}}\n");
}

Test(rpc_answer, an_unknown_method_is_told_which_there_are)
{
	expect_answer(
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ehco\"}",
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"there "
		"is no method \\\"ehco\\\"; there is echo, refuse, big, explain\"}}\n");
}

Test(rpc_answer, what_is_no_request_is_refused)
{
	static const struct {
		const char *request, *message;
	} bad[] = {
		{ "[]", "batches are not supported; send one request a line" },
		{ "5", "a request is an object" },
		{ "{\"id\":1,\"method\":\"echo\"}", "\\\"jsonrpc\\\" must be \\\"2.0\\\"" },
		{ "{\"jsonrpc\":\"1.0\"}", "\\\"jsonrpc\\\" must be \\\"2.0\\\"" },
		{ "{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"echo\"}",
		  "\\\"id\\\" must be a string, a number or null" },
		{ "{\"jsonrpc\":\"2.0\",\"method\":5}", "\\\"method\\\" must be a string" },
		{ "{\"jsonrpc\":\"2.0\",\"method\":\"echo\",\"params\":5}",
		  "\\\"params\\\" must be an object or an array" },
	};
	char want[256];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		bool has_id = strstr(bad[i].request, "\"id\":1") != NULL;

		snprintf(want, sizeof(want),
			 "{\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":{\"code\":-32600,\"message\":\"%"
			 "s\"}}\n",
			 has_id ? "1" : "null", bad[i].message);
		expect_answer(bad[i].request, want);
	}
	cr_expect_eq(calls, 0);
}

Test(rpc_answer, text_that_is_no_json_is_a_parse_error)
{
	static const char *const bad[] = {
		"{", "}", "nul", "{\"a\":1,\"a\":2}", "\xff\xfe", "{} {}"
	};
	const struct rpc_config cfg = { .methods = methods };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		char *reply = rpc_answer(&cfg, bad[i], strlen(bad[i]));

		cr_assert_not_null(reply);
		cr_expect(strstr(reply, "\"code\":-32700"), "%s: %s", bad[i], reply);
		free(reply);
	}
}

/* A server on the thread of the test, which lends it rounds. */
static char path[64];
static struct rpc_server *server;

static struct rpc_config config(void)
{
	return (struct rpc_config) { .path = path, .mode = 0600, .methods = methods };
}

static void start(void)
{
	struct rpc_config cfg = config();
	struct error err = { 0 };

	signal(SIGPIPE, SIG_IGN);
	snprintf(path, sizeof(path), "/tmp/sluice-rpc-%d.sock", (int)getpid());
	unlink(path);
	cr_assert_eq(control_init(), 0);
	cr_assert_eq(rpc_server_start(&cfg, &server, &err), 0, "%s", err.text);
}

static void stop(void)
{
	rpc_server_stop(server);
	cr_expect_eq(access(path, F_OK), -1, "the socket file stayed");
	control_fini();
}

TestSuite(rpc, .init = start, .fini = stop, .timeout = 20);

static int client(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	memcpy(addr.sun_path, path, strlen(path) + 1);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void rounds(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(control_step(1000), 0);
}

static void say(int fd, const char *text)
{
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

/* What has arrived after some rounds; @return bytes, 0: hung up, -1: nothing. */
static ssize_t hear(int fd, char *out, size_t size)
{
	ssize_t n = -1;

	for (unsigned i = 0; i < 50 && n < 0; i++) {
		rounds(1);
		n = read(fd, out, size - 1);
	}
	out[n > 0 ? n : 0] = '\0';
	return n;
}

#define ECHO "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}\n"
#define ECHOED "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"nothing\"}\n"

static void expect_served(void)
{
	char got[200];
	int fd = client();

	say(fd, ECHO);
	hear(fd, got, sizeof(got));
	cr_expect_str_eq(got, ECHOED);
	close(fd);
}

Test(rpc, the_socket_file_has_its_mode)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0600);
}

Test(rpc, a_request_may_come_in_pieces)
{
	char got[200];
	int fd = client();

	for (const char *c = ECHO; *c; c++) {
		cr_assert_eq(write(fd, c, 1), 1);
		rounds(1);
	}
	hear(fd, got, sizeof(got));
	cr_expect_str_eq(got, ECHOED);
	close(fd);
}

Test(rpc, several_requests_may_come_at_once)
{
	char got[400];
	size_t len = 0;
	int fd = client();

	say(fd, ECHO "\n" ECHO ECHO);
	for (unsigned i = 0; i < 50 && len < 3 * strlen(ECHOED); i++) {
		ssize_t n;

		rounds(1);
		n = read(fd, got + len, sizeof(got) - len - 1);
		len += n > 0 ? (size_t)n : 0;
	}
	got[len] = '\0';
	cr_expect_str_eq(got, ECHOED ECHOED ECHOED);
	cr_expect_eq(calls, 3);
	close(fd);
}

Test(rpc, garbage_is_answered_and_harms_nobody)
{
	char got[200];
	int fd = client();

	say(fd, "\x01\x02\xff garbage\n");
	cr_expect_gt(hear(fd, got, sizeof(got)), 0);
	cr_expect(strstr(got, "-32700"), "%s", got);
	say(fd, ECHO);
	hear(fd, got, sizeof(got));
	cr_expect_str_eq(got, ECHOED, "the same client goes on");
	close(fd);
	expect_served();
}

Test(rpc, a_request_without_end_is_refused_at_its_limit)
{
	static char text[RPC_REQUEST_MAX + 10];
	size_t sent = 0;
	char got[200];
	int fd = client();

	memset(text, 'a', sizeof(text));
	for (unsigned i = 0; i < 100 && sent < RPC_REQUEST_MAX; i++) {
		ssize_t n = write(fd, text, RPC_REQUEST_MAX - sent);

		sent += n > 0 ? (size_t)n : 0;
		rounds(1);
	}
	cr_expect_gt(hear(fd, got, sizeof(got)), 0);
	cr_expect(strstr(got, "longer than 64 KiB"), "%s", got);
	cr_expect_eq(hear(fd, got, sizeof(got)), 0, "hung up");
	close(fd);
	expect_served();
}

Test(rpc, half_a_request_and_a_hang_up_harm_nobody)
{
	for (unsigned i = 0; i < 100; i++) {
		int fd = client();

		say(fd, "{\"jsonrpc\":");
		rounds(2);
		close(fd);
		rounds(2);
	}
	expect_served();
}

Test(rpc, a_client_that_never_reads_is_not_read_from)
{
	static char text[4096];
	size_t sent = 0;
	int fd = client();

	for (size_t len = 0; len + 60 < sizeof(text);)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s",
					"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"big\"}\n");
	for (unsigned i = 0; i < 2000; i++) {
		ssize_t n = write(fd, text, strlen(text));

		sent += n > 0 ? (size_t)n : 0;
		rounds(1);
	}
	cr_expect_eq(calls, 1, "each answer waits for the one before");
	cr_expect_lt(sent, 2u << 20, "its requests stay in its own socket");
	expect_served();
	close(fd);
	rounds(3);
	expect_served();
}

/* hear() gives others 50 rounds; each line of the flood takes one. */
Test(rpc, a_flood_of_requests_does_not_hold_up_others)
{
	static char flood[4096];
	int fd = client();

	memset(flood, '\n', sizeof(flood));
	cr_assert_eq(write(fd, flood, sizeof(flood)), (ssize_t)sizeof(flood));
	rounds(5);
	expect_served();
	close(fd);
	expect_served();
}

Test(rpc, idle_clients_make_room_for_new_ones)
{
	int fds[3 * RPC_CLIENTS_MAX];
	char got[200];

	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = client();
		rounds(2);
	}
	cr_expect_eq(hear(fds[0], got, sizeof(got)), 0, "the oldest was hung up on");
	say(fds[ARRAY_SIZE(fds) - 1], ECHO);
	hear(fds[ARRAY_SIZE(fds) - 1], got, sizeof(got));
	cr_expect_str_eq(got, ECHOED);
	expect_served();
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

/* Somebody waits at the door, and there is no descriptor to let him in with, nor one to give up. */
Test(rpc, without_descriptors_the_listener_is_no_busy_loop)
{
	struct rlimit limit, none;
	int fd = client();
	uint64_t start;
	char got[200];

	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit) { .rlim_cur = 0, .rlim_max = limit.rlim_max };
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	start = clock_ns();
	rounds(400); /* each of a millisecond, but for those that found something to do */
	cr_expect_geq(clock_ns() - start, UINT64_C(100000000));
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	say(fd, ECHO);
	while (hear(fd, got, sizeof(got)) < 0)
		cr_assert_lt(clock_ns() - start, UINT64_C(10000000000));
	cr_expect_str_eq(got, ECHOED);
	close(fd);
}

Test(rpc, a_second_server_is_refused)
{
	struct rpc_config cfg = config();
	struct rpc_server *second = NULL;
	struct error err = { 0 };
	char want[300];

	cr_expect_eq(rpc_server_start(&cfg, &second, &err), -EADDRINUSE);
	snprintf(want, sizeof(want),
		 "control socket %s: in use, so a sluiced runs already; stop it, "
		 "or set control: {socket: …}",
		 path);
	cr_expect_str_eq(err.text, want);
	expect_served();
}

Test(rpc, a_stale_socket_is_replaced_and_a_file_is_not)
{
	struct rpc_config cfg = config();
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct error err = { 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	rpc_server_stop(server);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	cr_assert_eq(rpc_server_start(&cfg, &server, &err), 0, "%s", err.text);
	expect_served();

	rpc_server_stop(server);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	cr_assert_geq(fd, 0);
	close(fd);
	server = NULL;
	cr_expect_eq(rpc_server_start(&cfg, &server, &err), -EEXIST);
	cr_expect_eq(access(path, F_OK), 0, "what is not ours is not removed");
	unlink(path);
}

static uint64_t now_ms(void)
{
	return clock_ns() / 1000000;
}

/* No descriptor for a client, and no client to give one up: who waits must not keep us awake. */
Test(rpc, a_lack_of_descriptors_passes_and_is_no_busy_loop)
{
	const struct rlimit few = { 128, 128 };
	int taken[128], fd = client();
	unsigned n = 0, looks = 0;
	char got[200] = "";
	uint64_t end;

	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	while (n < ARRAY_SIZE(taken) && (taken[n] = dup(0)) >= 0)
		n++;
	say(fd, ECHO);
	for (end = now_ms() + 500; now_ms() < end; looks++)
		cr_assert_eq(control_step(100000), 0);
	cr_expect_lt(looks, 1000);
	while (n)
		close(taken[--n]);
	for (end = now_ms() + 5000; now_ms() < end && !got[0];)
		hear(fd, got, sizeof(got));
	cr_expect_str_eq(got, ECHOED);
	close(fd);
}
