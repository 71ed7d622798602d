/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to an NBD server, from the socket to the end of the handshake, without ever waiting.
 * The socket is made here and not by libnbd: of a name only the addresses are left to us, and it
 * must not open files to find them.
 */
#include "base/clock.h"
#include "base/error.h"
#include "blk/disk_nbd.h"
#include "blk/nbd_lib.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A socket can break while something is sent, and then poll() tells nothing. */
static bool is_over(const struct nbd_conn *c)
{
	return libnbd.aio_is_dead(c->h) > 0 || libnbd.aio_is_closed(c->h) > 0;
}

static void failed(struct nbd_conn *c, struct error *err, int rc, const char *what)
{
	const struct nbd_address *a = &c->disk->address;
	const char *at = a->path ? a->path : a->host;

	if (a->path)
		error_set(err, -rc, "NBD server %s: %s", at, what);
	else
		error_set(err, -rc, "NBD server %s, port %s: %s", at, a->port, what);
	nbd_conn_close(c);
}

static void failed_nbd(struct nbd_conn *c, struct error *err)
{
	const char *why = libnbd.get_error();
	int rc = libnbd.get_errno();

	failed(c, err, rc ? rc : ECONNRESET, why ? why : "it hung up");
}

static bool set_handle(const struct nbd_address *a, struct nbd_handle *h)
{
	int rc = libnbd.set_export_name(h, a->export);

	if (rc == 0)
		rc = libnbd.set_tls(h, a->tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE);
	if (rc == 0 && a->certificates)
		rc = libnbd.set_tls_certificates(h, a->certificates);
	if (rc == 0 && a->psk_file)
		rc = libnbd.set_tls_psk_file(h, a->psk_file);
	if (rc == 0 && a->user)
		rc = libnbd.set_tls_username(h, a->user);
	if (rc == 0 && a->no_verify)
		rc = libnbd.set_tls_verify_peer(h, false);
	return rc == 0;
}

/* The socket is connected: the handshake begins. */
static void hand_over(struct nbd_conn *c, struct error *err)
{
	int fd = c->fd;

	c->h = libnbd.create();
	if (!c->h || !set_handle(&c->disk->address, c->h)) {
		failed_nbd(c, err);
		return;
	}
	c->fd = -1;
	c->step = NBD_NEGOTIATING;
	if (libnbd.aio_connect_socket(c->h, fd) < 0)
		failed_nbd(c, err);
}

/* A host that is gone without a word is noticed; small requests are not held back. */
static void set_tcp(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },   { SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 10 }, { IPPROTO_TCP, TCP_KEEPINTVL, 5 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 4 },   { IPPROTO_TCP, TCP_USER_TIMEOUT, 30000 }
	};

	for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value,
			   sizeof(options[i].value));
}

static void connect_to(struct nbd_conn *c, int family, const struct sockaddr *to, socklen_t len,
		       struct error *err)
{
	c->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0) {
		int rc = errno;

		/* See daemon/sandbox.c. */
		failed(c, err, rc,
		       rc == ENOSYS ? "a daemon that was started without a disk on a TCP server "
				      "cannot connect to one; restart it with this disk"
				    : strerror(rc));
		return;
	}
	if (family != AF_UNIX)
		set_tcp(c->fd);
	c->step = NBD_CONNECTING;
	if (connect(c->fd, to, len) == 0)
		hand_over(c, err);
	else if (errno != EINPROGRESS)
		failed(c, err, errno, strerror(errno));
}

void nbd_conn_begin(struct nbd_conn *c, uint64_t now, struct error *err)
{
	const struct nbd_address *a = &c->disk->address;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const struct addrinfo *i;

	c->began_ns = now;
	c->ends = false;
	if (a->path) {
		memcpy(to.sun_path, a->path, strnlen(a->path, sizeof(to.sun_path) - 1));
		connect_to(c, AF_UNIX, (struct sockaddr *)&to, sizeof(to), err);
		return;
	}
	i = c->next ? c->next : a->found;
	c->next = i->ai_next;
	connect_to(c, i->ai_family, i->ai_addr, i->ai_addrlen, err);
}

int nbd_conn_fd(const struct nbd_conn *c, short *events)
{
	unsigned direction;

	*events = POLLOUT;
	if (c->step == NBD_NONE)
		return -1;
	if (c->step == NBD_LEAVING)
		*events = POLLIN;
	if (c->step == NBD_CONNECTING || c->step == NBD_LEAVING)
		return c->fd;
	if (is_over(c))
		return -1;
	direction = libnbd.aio_get_direction(c->h);
	*events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
			  (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	return libnbd.aio_get_fd(c->h);
}

static void step_socket(struct nbd_conn *c, struct error *err)
{
	socklen_t len = sizeof(int);
	int rc = 0;

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &rc, &len) < 0)
		rc = errno;
	if (rc)
		failed(c, err, rc, strerror(rc));
	else
		hand_over(c, err);
}

/* Some of what comes, for others wait for the thread too. */
static void step_leaving(struct nbd_conn *c)
{
	char none[4096];
	ssize_t n = 1;

	for (unsigned i = 0; i < 16 && n > 0; i++)
		n = recv(c->fd, none, sizeof(none), MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		nbd_conn_close(c);
}

void nbd_conn_step(struct nbd_conn *c, short revents, struct error *err)
{
	unsigned direction;
	int rc = 0;

	if (c->step == NBD_LEAVING) {
		if (revents)
			step_leaving(c);
		return;
	}
	if (c->step == NBD_CONNECTING) {
		if (revents)
			step_socket(c, err);
		return;
	}
	/* A quick server's handshake may be over before anybody polls, and then nothing more comes.
	 */
	if (!revents && !is_over(c) &&
	    !(c->step == NBD_NEGOTIATING && libnbd.aio_is_ready(c->h) > 0))
		return;
	direction = libnbd.aio_get_direction(c->h);
	if ((revents & ~POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_READ))
		rc = libnbd.aio_notify_read(c->h);
	else if (revents && (direction & LIBNBD_AIO_DIRECTION_WRITE))
		rc = libnbd.aio_notify_write(c->h);
	if (rc < 0)
		failed_nbd(c, err);
	else if (is_over(c))
		failed(c, err, ECONNRESET, "it has closed the connection");
	else if (c->step == NBD_NEGOTIATING && libnbd.aio_is_ready(c->h) > 0)
		c->step = NBD_READY;
}

void nbd_conn_close(struct nbd_conn *c)
{
	if (c->h && c->step == NBD_READY && !is_over(c))
		libnbd.aio_disconnect(c->h, 0);
	if (c->h)
		libnbd.close(c->h);
	c->h = NULL;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->step = NBD_NONE;
}

void nbd_conn_leave(struct nbd_conn *c, uint64_t now)
{
	int fd = fcntl(libnbd.aio_get_fd(c->h), F_DUPFD_CLOEXEC, 0);

	c->step = NBD_NEGOTIATING; /* no farewell, which might be sent in the midst of a command */
	nbd_conn_close(c);
	if (fd >= 0)
		shutdown(fd, SHUT_WR);
	c->fd = fd;
	c->began_ns = now;
	c->step = NBD_LEAVING;
}

uint64_t nbd_hello_ns(const struct nbd_disk *d)
{
	const uint64_t most = NBD_ANSWER_S * UINT64_C(1000000000);

	return d->timeout_ns ? MIN(d->timeout_ns, most) : most;
}

int nbd_conn_wait(struct nbd_conn *c, struct error *err)
{
	uint64_t now = clock_ns(), end = now + nbd_hello_ns(c->disk);

	do {
		nbd_conn_begin(c, now, err);
		while (c->step != NBD_NONE && c->step != NBD_READY) {
			struct pollfd p = { .fd = nbd_conn_fd(c, &p.events) };

			now = clock_ns();
			if (now >= end)
				failed(c, err, ETIMEDOUT, "it does not answer");
			else if (poll(&p, 1, 10) >= 0)
				nbd_conn_step(c, p.revents, err);
		}
	} while (c->step == NBD_NONE && c->next && now < end);
	c->next = NULL;
	return c->step == NBD_READY ? 0 : err->code;
}

static uint64_t block_size(struct nbd_handle *h, int which)
{
	int64_t size = libnbd.get_block_size(h, which);

	return size > 0 ? (uint64_t)size : 0;
}

int nbd_conn_facts(const struct nbd_conn *c, struct nbd_facts *f, struct error *err)
{
	int64_t size = libnbd.get_size(c->h);

	if (size < 0)
		return error_set(err, -EINVAL, "the NBD server does not say how large its disk is");
	*f = (struct nbd_facts) {
		.size = (uint64_t)size,
		.min = block_size(c->h, LIBNBD_SIZE_MINIMUM),
		.preferred = block_size(c->h, LIBNBD_SIZE_PREFERRED),
		.max = block_size(c->h, LIBNBD_SIZE_MAXIMUM),
		.read_only = libnbd.is_read_only(c->h) > 0,
		.flush = libnbd.can_flush(c->h) > 0,
		.fua = libnbd.can_fua(c->h) > 0,
		.trim = libnbd.can_trim(c->h) > 0,
		.zero = libnbd.can_zero(c->h) > 0,
		.multi = libnbd.can_multi_conn(c->h) > 0,
	};
	return 0;
}

bool nbd_facts_suit(const struct nbd_facts *then, const struct nbd_facts *now, struct error *err)
{
	if (now->size < then->size)
		error_set(err, -ESTALE, "its disk has %llu bytes now, and had %llu",
			  (unsigned long long)now->size, (unsigned long long)then->size);
	else if (now->read_only && !then->read_only)
		error_set(err, -EROFS, "its disk is read-only now");
	else if (now->flush != then->flush || now->fua != then->fua || (then->trim && !now->trim) ||
		 (then->zero && !now->zero))
		error_set(err, -ESTALE, "it can do other things with its disk than before");
	else if (now->min > then->min || (now->max && (!then->max || now->max < then->max)))
		error_set(err, -ESTALE, "its block sizes are not those of before");
	else
		return true;
	return false;
}
