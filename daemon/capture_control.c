/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/capture_control.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "daemon/pcapng.h"
#include "daemon/port_control.h"
#include "daemon/rpc_fds.h"
#include "daemon/status.h"
#include "poll/control.h"
#include "vhost/disposal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>

#define STREAMS_MAX 8
/* What is moved at a time, and how often: a share of the control thread that others do not feel. */
#define STREAM_BYTES (512u << 10)
#define TICK_US 10000
#define STATISTICS_NS UINT64_C(1000000000)
/* Whoever has said that it wants no more, and does not take what there is, waits no longer. */
#define END_NS UINT64_C(5000000000)

struct stream {
	LIST_ENTRY(stream) link;
	struct capture *capture;
	int fd;
	sd_event_source *timer, *io;
	char port[PORT_NAME_MAX];
	uint64_t statistics_ns, end_ns; /* when they are due; @end_ns 0: it goes on */
	bool last;			/* what is in bytes[] is all */
	size_t len, sent;
	uint8_t bytes[STREAM_BYTES];
};

static LIST_HEAD(stream_list, stream) streams = LIST_HEAD_INITIALIZER(streams);

static void stream_free(struct stream *s)
{
	uint64_t passed, dropped;

	capture_counts(s->capture, &passed, &dropped);
	log_info("port %s: captured %llu frames, %llu more found no room", s->port,
		 (unsigned long long)(passed - dropped), (unsigned long long)dropped);
	LIST_REMOVE(s, link);
	sd_event_source_disable_unref(s->timer);
	sd_event_source_disable_unref(s->io);
	capture_free(s->capture);
	disposal_close_socket(NULL, s->fd); /* whatever the client has sent by it */
	free(s);
}

static uint64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* As many blocks as there are and fit. */
static void fill(struct stream *s)
{
	uint64_t now = clock_ns(), passed, dropped;
	struct captured p;
	bool more;

	s->len = s->sent = 0;
	while ((more = capture_look(s->capture, &p)) &&
	       s->len + p.copied + 2 * PCAPNG_BLOCK_MAX <= sizeof(s->bytes)) {
		s->len += pcapng_packet(s->bytes + s->len, &p);
		capture_next(s->capture);
	}
	s->last = s->end_ns && !more;
	if (now < s->statistics_ns && !s->last)
		return;
	s->statistics_ns = now + STATISTICS_NS;
	capture_counts(s->capture, &passed, &dropped);
	s->len += pcapng_statistics(s->bytes + s->len, wall_ns(), passed, dropped);
}

static void stream_end(struct stream *s)
{
	if (s->end_ns)
		return;
	capture_end(s->capture);
	s->end_ns = clock_ns() + END_NS;
}

/* @return false when the stream is over (and freed). */
static bool stream_step(struct stream *s)
{
	if (capture_ended(s->capture)) /* the port has gone */
		stream_end(s);
	if (s->sent == s->len && !s->last)
		fill(s);
	while (s->sent < s->len) {
		ssize_t n = send(s->fd, s->bytes + s->sent, s->len - s->sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			stream_free(s);
			return false;
		}
		s->sent += (size_t)n;
	}
	if (s->end_ns && ((s->last && s->sent == s->len) || clock_ns() > s->end_ns)) {
		stream_free(s);
		return false;
	}
	return true;
}

static int on_tick(sd_event_source *source, uint64_t usec, void *arg)
{
	struct stream *s = arg;

	(void)source;
	(void)usec;
	if (!stream_step(s))
		return 0;
	sd_event_source_set_time_relative(s->timer, TICK_US);
	sd_event_source_set_enabled(s->timer, SD_EVENT_ONESHOT);
	return 0;
}

/* The other end says nothing: when there is something to read, it wants no more. */
static int on_event(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct stream *s = arg;

	(void)fd;
	(void)revents;
	sd_event_source_set_enabled(source, SD_EVENT_OFF);
	stream_end(s);
	return 0;
}

static int stream_new(struct stream *s, int fd)
{
	int rc = sd_event_add_time_relative(control_event(), &s->timer, CLOCK_MONOTONIC, TICK_US,
					    TICK_US / 4, on_tick, s);

	if (rc >= 0)
		rc = sd_event_add_io(control_event(), &s->io, fd, EPOLLIN | EPOLLRDHUP, on_event,
				     s);
	return rc;
}

static unsigned count_streams(void)
{
	const struct stream *s;
	unsigned n = 0;

	LIST_FOREACH (s, &streams, link) {
		n++;
	}
	return n;
}

/* Takes @fd over. */
static json_t *start(const struct appliance *a, struct port *p, uint32_t snap_bytes, int fd,
		     struct rpc_error *err)
{
	struct stream *s = calloc(1, sizeof(*s));
	struct error why = { 0 };
	int rc = s ? capture_start(p, a->workers, snap_bytes, &s->capture, &why) : -ENOMEM;

	if (rc == 0) {
		s->fd = fd;
		LIST_INSERT_HEAD(&streams, s, link);
		memcpy(s->port, p->name, sizeof(s->port));
		rc = stream_new(s, fd);
		if (rc >= 0) {
			s->len = pcapng_begin(s->bytes, p->name, snap_bytes);
			log_info("port %s is being captured", p->name);
			return json_pack("{s:s}", "format", "pcapng");
		}
		stream_free(s);
	} else {
		disposal_close_socket(NULL, fd);
		free(s);
	}
	return rpc_refuse(err, "%s", why.text[0] ? why.text : strerror(-rc));
}

json_t *port_capture_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	const struct appliance *a = ((const struct status *)ctx)->appliance;
	json_int_t snap_bytes = CAPTURE_SNAP_MAX;
	json_error_t wrong;
	const char *name;
	struct port *p;

	if (!json_is_object(r->params) ||
	    json_unpack_ex((json_t *)(uintptr_t)r->params, &wrong, JSON_STRICT, "{s:s, s?I}",
			   "port", &name, "snap", &snap_bytes) < 0 ||
	    snap_bytes < 1)
		return rpc_refuse(err, "port.capture takes \"port\", a name, and perhaps \"snap\", "
				       "bytes of a frame");
	p = find_port(a, name);
	if (!p)
		return rpc_refuse(err, "there is no open port called \"%s\"", name);
	if (count_streams() == STREAMS_MAX)
		return rpc_refuse(err, "there are %u captures already: end one first", STREAMS_MAX);
	if (!rpc_fds_is_stream(r->fds, 0))
		return rpc_refuse(err, "port.capture needs a unix stream socket beside it, for "
				       "what is captured");
	return start(a, p, (uint32_t)MIN(snap_bytes, (json_int_t)CAPTURE_SNAP_MAX),
		     rpc_fds_take(r->fds, 0), err);
}

void captures_end(void)
{
	struct stream *s, *next;

	for (s = LIST_FIRST(&streams); s; s = next) {
		next = LIST_NEXT(s, link);
		stream_end(s);
		if (stream_step(s))
			stream_free(s);
	}
}
