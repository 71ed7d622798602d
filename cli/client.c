/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/client.h"

#include "base/error.h"
#include "daemon/control_path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLY_MAX (64u << 20) /* bytes; a daemon never sends that much */
#define TIMEOUT_S 10
#define FDS_MAX 4 /* as in daemon/rpc_fds.h */

static int try_connect(const char *path)
{
	const struct timeval timeout = { .tv_sec = TIMEOUT_S };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

static int cannot_reach(const char *path, int rc, struct error *err)
{
	if (rc == -EACCES || rc == -EPERM)
		return error_set(
			err, rc,
			"cannot reach sluiced at %s: %s; run sluice as root, or as a member "
			"of the socket's group",
			path, strerror(-rc));
	return error_set(err, rc,
			 "cannot reach sluiced at %s: %s; is it running? name its control socket "
			 "with --socket PATH",
			 path, strerror(-rc));
}

/*
 * Whoever comes first may make the folder of ours in /tmp. The listener's user is that of the
 * process when it called listen(); root may have anything of ours anyway.
 */
static int check_owner(int fd, const char *path, struct error *err)
{
	struct ucred peer = { .uid = (uid_t)-1 };
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return error_set(err, -errno, "%s: %s", path, strerror(errno));
	if (peer.uid == geteuid() || peer.uid == 0)
		return 0;
	return error_set(err, -EPERM,
			 "%s belongs to another user's process (user %u), which was not asked "
			 "anything; name the control socket with --socket PATH, or set "
			 "XDG_RUNTIME_DIR",
			 path, (unsigned)peer.uid);
}

static int client_connect(const char *path, struct error *err)
{
	char own[CONTROL_PATH_BYTES];
	int fd, system;

	if (!path)
		path = getenv("SLUICE_SOCKET");
	if (path) {
		fd = try_connect(path);
		return fd < 0 ? cannot_reach(path, fd, err) : fd;
	}
	control_path_default(own);
	fd = try_connect(own);
	if (strcmp(own, CONTROL_PATH_SYSTEM) == 0)
		return fd < 0 ? cannot_reach(own, fd, err) : fd;
	if (fd >= 0 && check_owner(fd, own, err) < 0) {
		close(fd);
		return err->code;
	}
	if (fd >= 0)
		return fd;
	system = try_connect(CONTROL_PATH_SYSTEM);
	if (system >= 0)
		return system;
	if (system == -EACCES)
		return cannot_reach(CONTROL_PATH_SYSTEM, system, err);
	return error_set(err, fd,
			 "cannot reach sluiced at %s or %s: %s; is it running? name its control "
			 "socket with --socket PATH",
			 own, CONTROL_PATH_SYSTEM, strerror(-fd));
}

static int send_all(int fd, const char *text, size_t len, struct error *err)
{
	while (len > 0) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, -errno, "sluiced hung up: %s", strerror(errno));
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* The first bytes of @text, with descriptors beside them. @return how many bytes, or -errno. */
static ssize_t send_first(int fd, const char *text, size_t len, const int *fds, int n,
			  struct error *err)
{
	union { /* aligned as cmsg(3) asks */
		char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (char *)text, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t sent;

	assert(n <= FDS_MAX);
	if (n > 0) {
		struct cmsghdr *c = &control.align;

		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, (size_t)n * sizeof(int));
	}
	do {
		sent = sendmsg(fd, &m, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? error_set(err, -errno, "sluiced hung up: %s", strerror(errno)) : sent;
}

/* @return one line, malloc'ed, without its end; NULL with @err. */
static char *receive_line(int fd, struct error *err)
{
	size_t size = 1 << 16, len = 0;
	char *line = malloc(size), *end;

	while (line) {
		ssize_t n = recv(fd, line + len, size - len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			error_set(err, -ETIMEDOUT, "sluiced did not answer in %d s; see its log",
				  TIMEOUT_S);
			break;
		}
		if (n <= 0) {
			error_set(err, -ECONNRESET,
				  "sluiced hung up before it answered; see its log");
			break;
		}
		end = memchr(line + len, '\n', (size_t)n);
		len += (size_t)n;
		if (end) {
			*end = '\0';
			return line;
		}
		if (len == size) {
			char *more = size < REPLY_MAX ? realloc(line, 2 * size) : NULL;

			if (!more) {
				error_set(err, -EMSGSIZE, "the answer is too long");
				break;
			}
			line = more;
			size *= 2;
		}
	}
	free(line);
	return NULL;
}

/* Takes the result out of the reply's envelope. */
static json_t *unwrap(const char *line, struct error *err)
{
	json_error_t syntax;
	json_t *reply = json_loads(line, 0, &syntax), *result;
	const json_t *failure = json_object_get(reply, "error");

	if (!reply) {
		error_set(err, -EPROTO, "what answered is no sluiced: %s", syntax.text);
		return NULL;
	}
	result = json_incref(json_object_get(reply, "result"));
	if (!result) {
		const char *text = json_string_value(json_object_get(failure, "message"));

		error_set(err, -EPROTO, "sluiced: %s", text ? text : "an answer without a result");
	}
	json_decref(reply);
	return result;
}

static char *ask(int fd, const char *text, const int *fds, int n, struct error *err)
{
	size_t len = strlen(text);
	ssize_t sent = send_first(fd, text, len, fds, n, err);

	if (sent < 0 || send_all(fd, text + sent, len - (size_t)sent, err) < 0 ||
	    send_all(fd, "\n", 1, err) < 0)
		return NULL;
	return receive_line(fd, err);
}

/* @params: NULL for none; taken over. */
static json_t *call(const char *path, const char *method, json_t *params, const int *fds, int n,
		    struct error *err)
{
	json_t *request = json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", 1, "method",
				    method, "params", params);
	char *text = json_dumps(request, JSON_COMPACT), *line = NULL;
	json_t *result = NULL;
	int fd = -1;

	json_decref(request);
	if (text)
		fd = client_connect(path, err);
	else
		error_set(err, -EPROTO, "out of memory");
	if (fd >= 0)
		line = ask(fd, text, fds, n, err);
	if (line)
		result = unwrap(line, err);
	free(line);
	free(text);
	if (fd >= 0)
		close(fd);
	return result;
}

json_t *client_call_with_fds(const char *path, const char *method, json_t *params, const int *fds,
			     int n, struct error *err)
{
	if (params)
		return call(path, method, params, fds, n, err);
	/* json_pack() takes nothing else. */
	error_set(err, -EPROTO, "what was to be asked is not valid UTF-8");
	return NULL;
}

json_t *client_call_with(const char *path, const char *method, json_t *params, struct error *err)
{
	return client_call_with_fds(path, method, params, NULL, 0, err);
}

json_t *client_call(const char *path, const char *method, struct error *err)
{
	return call(path, method, NULL, NULL, 0, err);
}
