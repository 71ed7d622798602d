/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/rpc.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "daemon/rpc_impl.h"
#include "poll/control.h"
#include "vhost/disposal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FDS_WAIT_US UINT64_C(10000000)

struct rpc_client {
	TAILQ_ENTRY(rpc_client) link; /* the one heard last stands last */
	struct rpc_server *server;
	int fd;
	sd_event_source *io;
	sd_event_source *again;	 /* a timer: see client_next() */
	bool hangup;		 /* close when out[] is gone */
	struct rpc_reply *later; /* what it waits for; no request is served meanwhile */
	struct rpc_fds fds;	 /* of the line that is served next */
	struct ucred peer;	 /* pid 0: not known */
	size_t in_at, in_len;	 /* of in[]: what has been received and is not served */
	char *out;		 /* NULL: nothing to send */
	size_t out_len, out_sent;
	char in[RPC_REQUEST_MAX];
};

struct rpc_server {
	struct rpc_config cfg;
	int fd;
	struct stat made; /* of our socket file, so that we remove no other */
	sd_event_source *io;
	TAILQ_HEAD(client_list, rpc_client) clients;
	unsigned n_clients;
	struct disposal *disposal; /* of what clients hand over and nobody wants */
};

static void client_free(struct rpc_client *c)
{
	TAILQ_REMOVE(&c->server->clients, c, link);
	c->server->n_clients--;
	sd_event_source_disable_unref(c->io);
	sd_event_source_disable_unref(c->again);
	if (c->later)
		c->later->client = NULL;
	rpc_fds_close(&c->fds, c->server->disposal);
	disposal_close_socket(c->server->disposal, c->fd);
	free(c->out);
	free(c);
}

/* Sends what the socket takes. @return false when the client has gone (and is freed). */
static bool client_send(struct rpc_client *c)
{
	while (c->out) {
		ssize_t n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			client_free(c);
			return false;
		}
		c->out_sent += (size_t)n;
		if (c->out_sent == c->out_len) {
			free(c->out);
			c->out = NULL;
		}
	}
	if (!c->out && c->hangup) {
		client_free(c);
		return false;
	}
	/* One or the other: who does not take replies sends no requests. */
	sd_event_source_set_io_events(c->io, c->out ? EPOLLOUT : c->later ? 0 : EPOLLIN);
	return true;
}

static void client_reply(struct rpc_client *c, char *text)
{
	assert(!c->out);
	c->out = text;
	c->out_len = text ? strlen(text) : 0;
	c->out_sent = 0;
}

static void client_serve(struct rpc_client *c, size_t len)
{
	struct rpc_request r = { .fds = &c->fds, .peer = c->peer };
	char *reply = rpc_dispatch(&c->server->cfg, c->in + c->in_at, len, &r);

	rpc_fds_close(&c->fds, c->server->disposal);
	c->later = r.later;
	if (c->later)
		c->later->client = c;
	client_reply(c, reply);
}

/* The end of the first line in in[]; NULL: it has not come. */
static char *line_end(struct rpc_client *c)
{
	return memchr(c->in + c->in_at, '\n', c->in_len);
}

/*
 * The next one after all that is waiting now: a flood of requests shares the thread with the
 * guests. A deferred source would not do: it keeps the place in the queue that it had when it was
 * made, and so runs before everything that became ready since.
 *
 * Descriptors wait for the rest of their line for a while only: one of them may be the client's own
 * end of the connection, and then nobody would ever hear that it has gone.
 */
static void client_next(struct rpc_client *c)
{
	uint64_t patience_us = c->server->cfg.fds_wait_us;
	bool whole = line_end(c);

	if (whole)
		sd_event_source_set_time(c->again, 0);
	else if (c->fds.n)
		sd_event_source_set_time_relative(c->again,
						  patience_us ? patience_us : FDS_WAIT_US);
	sd_event_source_set_enabled(c->again, whole || c->fds.n ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

void client_answered(struct rpc_client *c, char *text)
{
	c->later = NULL;
	client_reply(c, text);
	client_next(c);
	client_send(c);
}

/* Answers the first whole line in in[], if there is one. @return false when the client has gone. */
static bool client_step(struct rpc_client *c)
{
	char *end = line_end(c);
	size_t len;

	if (!end && c->in_len == sizeof(c->in)) {
		/* Where the next request would start is unknown: say so and hang up. */
		client_reply(c,
			     strdup("{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600,"
				    "\"message\":\"a request is longer than 64 KiB\"}}\n"));
		c->hangup = true;
		return client_send(c);
	}
	if (!end) {
		client_next(c);
		return true;
	}
	len = (size_t)(end - c->in) - c->in_at;
	if (len > 0)
		client_serve(c, len);
	c->in_at += len + 1;
	c->in_len -= len + 1;
	client_next(c);
	return client_send(c);
}

static int client_again(sd_event_source *s, uint64_t due, void *arg)
{
	struct rpc_client *c = arg;

	(void)s, (void)due;
	if (c->out || c->later)
		return 0;
	if (!line_end(c)) {
		log_debug("control socket: a request that brought descriptors has no end");
		client_free(c);
		return 0;
	}
	client_step(c);
	return 0;
}

static int client_event(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	struct rpc_client *c = arg;
	ssize_t n;

	(void)s;
	if (c->later) { /* it does not listen: it has gone */
		if (revents & (EPOLLHUP | EPOLLERR))
			client_free(c);
		return 0;
	}
	if (c->out) {
		if (!client_send(c) || c->out)
			return 0;
		client_step(c); /* a line may have waited for this */
		return 0;
	}
	if (!(revents & (EPOLLIN | EPOLLHUP | EPOLLERR)) || c->in_len == sizeof(c->in) ||
	    line_end(c))
		return 0;
	/* Once for all the lines that were before it. */
	memmove(c->in, c->in + c->in_at, c->in_len);
	c->in_at = 0;
	/* The kernel ends a read where descriptors are: they are the next line's. */
	n = rpc_fds_receive(fd, c->in + c->in_len, sizeof(c->in) - c->in_len, &c->fds,
			    c->server->disposal);
	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n <= 0 || disposal_full(c->server->disposal) || disposal_full(NULL)) {
		client_free(c);
		return 0;
	}
	c->in_len += (size_t)n;
	TAILQ_REMOVE(&c->server->clients, c, link);
	TAILQ_INSERT_TAIL(&c->server->clients, c, link);
	client_step(c);
	return 0;
}

static void client_new(struct rpc_server *s, int fd)
{
	struct rpc_client *c;
	socklen_t len = sizeof(c->peer);

	if (s->n_clients == RPC_CLIENTS_MAX) {
		log_debug("control socket: %u clients; the one silent longest makes room",
			  RPC_CLIENTS_MAX);
		client_free(TAILQ_FIRST(&s->clients));
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(fd);
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c->peer, &len) < 0)
		c->peer = (struct ucred) { 0 };
	c->server = s;
	c->fd = fd;
	TAILQ_INSERT_TAIL(&s->clients, c, link);
	s->n_clients++;
	if (sd_event_add_io(control_event(), &c->io, fd, EPOLLIN, client_event, c) < 0 ||
	    sd_event_add_time(control_event(), &c->again, CLOCK_MONOTONIC, 0, 1, client_again, c) <
		    0) {
		client_free(c);
		return;
	}
	sd_event_source_set_enabled(c->again, SD_EVENT_OFF);
}

static int accepts(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	struct rpc_server *server = arg;
	int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)s, (void)revents;
	if (client >= 0) {
		client_new(server, client);
		return 0;
	}
	/* Out of files: the listener would wake us for ever. A client of ours is the one to go. */
	if ((errno == EMFILE || errno == ENFILE) && !TAILQ_EMPTY(&server->clients))
		client_free(TAILQ_FIRST(&server->clients));
	return 0;
}

/* Is a process behind the socket file at @addr? */
static bool is_live(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool live = fd >= 0 && (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 ||
				errno == EAGAIN);

	if (fd >= 0)
		close(fd);
	return live;
}

static int bind_socket(int fd, const struct rpc_config *cfg, struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat st;

	if (strlen(cfg->path) >= sizeof(addr.sun_path))
		return error_set(err, -ENAMETOOLONG,
				 "control socket %s: the path is longer than the %zu bytes of a "
				 "socket address; choose a shorter one",
				 cfg->path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, cfg->path, strlen(cfg->path) + 1);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return error_set(err, -errno,
				 "control socket %s: %s; make its folder and let this user write "
				 "there, or set control: {socket: …}",
				 cfg->path, strerror(errno));
	if (lstat(cfg->path, &st) == 0 && !S_ISSOCK(st.st_mode))
		return error_set(err, -EEXIST,
				 "control socket %s: something that is no socket is there; remove "
				 "it, or set control: {socket: …}",
				 cfg->path);
	if (is_live(&addr))
		return error_set(
			err, -EADDRINUSE,
			"control socket %s: in use, so a sluiced runs already; stop it, or "
			"set control: {socket: …}",
			cfg->path);
	if (unlink(cfg->path) || bind(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return error_set(err, -errno,
				 "control socket %s: cannot replace the stale one: %s; remove it",
				 cfg->path, strerror(errno));
	return 0;
}

int rpc_server_start(const struct rpc_config *cfg, struct rpc_server **out, struct error *err)
{
	struct rpc_server *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return error_set(err, -ENOMEM, "control socket: out of memory");
	s->cfg = *cfg;
	TAILQ_INIT(&s->clients);
	s->disposal = disposal_new();
	if (!s->disposal) {
		free(s);
		return error_set(err, -ENOMEM, "control socket: out of memory");
	}
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	rc = s->fd < 0 ? error_set(err, -errno, "control socket: %s", strerror(errno))
		       : bind_socket(s->fd, cfg, err);
	if (rc)
		goto fail;
	/* Nobody can connect before listen(), so nobody meets the wrong mode. */
	if (chmod(cfg->path, cfg->mode) || lstat(cfg->path, &s->made) || listen(s->fd, 16))
		rc = error_set(err, -errno, "control socket %s: %s", cfg->path, strerror(errno));
	else
		rc = sd_event_add_io(control_event(), &s->io, s->fd, EPOLLIN, accepts, s);
	if (rc < 0)
		goto fail;
	/* Out of descriptors, and no client of ours to give one up: not a busy loop at least. */
	sd_event_source_set_ratelimit(s->io, UINT64_C(1000000), 200);
	*out = s;
	return 0;
fail:
	rpc_server_stop(s);
	return rc;
}

void rpc_server_stop(struct rpc_server *s)
{
	struct rpc_client *c;
	struct stat st;

	if (!s)
		return;
	/* client_free() takes it off the list; the analyzer does not follow queue(3) that far. */
	while ((c = TAILQ_FIRST(&s->clients)))
		client_free(c); /* NOLINT(clang-analyzer-unix.Malloc) */
	sd_event_source_disable_unref(s->io);
	if (s->fd >= 0)
		close(s->fd);
	if (s->made.st_ino && lstat(s->cfg.path, &st) == 0 && st.st_ino == s->made.st_ino &&
	    st.st_dev == s->made.st_dev && unlink(s->cfg.path))
		log_debug("control socket %s: cannot remove it: %s", s->cfg.path, strerror(errno));
	disposal_free(s->disposal);
	free(s);
}
