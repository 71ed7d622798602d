/* SPDX-License-Identifier: Apache-2.0 */
/* The table of messages, and what holds for all of them: checks before the handler, answers after.
 */
#include "base/log.h"
#include "vhost/dirty_log.h"
#include "vhost/disposal.h"
#include "vhost/postcopy.h"
#include "vhost/session.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

static enum quiet quiet_never(const struct vhost_session *s, const struct message *m)
{
	(void)s;
	(void)m;
	return QUIET_NONE;
}

static enum quiet quiet_all(const struct vhost_session *s, const struct message *m)
{
	(void)s;
	(void)m;
	return QUIET_ALL;
}

static enum quiet quiet_queue(const struct vhost_session *s, const struct message *m)
{
	return message_queue(s, m) ? QUIET_QUEUE : QUIET_NONE;
}

/*
 * vhost-user GET_VRING_BASE, with GET_VRING_BASE_INFLIGHT: what is in flight may be left to whoever
 * has the in-flight buffer next. Any other stop is ours, and the ring goes on here.
 */
static enum quiet quiet_queue_leaving(const struct vhost_session *s, const struct message *m)
{
	if (session_negotiated(s, VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT) &&
	    message_queue(s, m))
		return QUIET_LEAVING;
	return quiet_queue(s, m);
}

/*
 * QEMU tells the same features again for each queue pair of a network card, while the pairs before
 * it run already: nothing changes, so nothing stops. Nor when only logging is switched: the guest
 * works on while it migrates.
 */
static enum quiet quiet_features(const struct vhost_session *s, const struct message *m)
{
	uint64_t changed = m->payload.u64 ^ s->device->features;

	return s->features_set && !(changed & ~feature_bit(VHOST_F_LOG_ALL)) ? QUIET_NONE
									     : QUIET_ALL;
}

/* Kinds that don't run disabled rings stop a ring when it is disabled. */
static enum quiet quiet_disable(const struct vhost_session *s, const struct message *m)
{
	if (m->payload.state.num || s->device->ops->runs_disabled)
		return QUIET_NONE;
	return quiet_queue(s, m);
}

static enum quiet quiet_status(const struct vhost_session *s, const struct message *m)
{
	(void)s;
	return m->payload.u64 ? QUIET_NONE : QUIET_ALL; /* status 0 is a reset */
}

enum { /* The sizes of payloads, by kind. */
#define PAYLOAD(kind, least, most) SIZE_MIN_##kind = (least), SIZE_MAX_##kind = (most),
       VHOST_USER_PAYLOADS(PAYLOAD)
#undef PAYLOAD
};

#define ANY GATE_ANY, 0
#define NEGOTIATED(bit) GATE_NEGOTIATED, VHOST_USER_PROTOCOL_F_##bit
#define OFFERED(bit) GATE_OFFERED, VHOST_USER_PROTOCOL_F_##bit

static const struct message_row rows[] = {
/* The gate is two initialisers. */
#define ROW(message, kind, least, most, answer, gate_kind, bit, stops, handler) \
	{ .name = #message,                                                     \
	  .size_min = SIZE_MIN_##kind,                                          \
	  .size_max = SIZE_MAX_##kind,                                          \
	  .fds_min = (least),                                                   \
	  .fds_max = (most),                                                    \
	  .reply = (answer),                                                    \
	  .gate = (gate_kind),                                                  \
	  .gate_bit = (bit),                                                    \
	  .quiet = quiet_##stops,                                               \
	  .handle = (handler) },
#define EXPANDED(...) ROW(__VA_ARGS__)
#define MESSAGE(number, message, kind, least, most, answer, gate, stops, handler) \
	[number] = EXPANDED(message, kind, least, most, answer, gate, stops, handler)
#include "vhost/messages.def"
};

const struct message_row *message_row(uint32_t request)
{
	if (request >= ARRAY_SIZE(rows) || !rows[request].name)
		return NULL;
	return &rows[request];
}

const char *message_name(uint32_t request)
{
	const struct message_row *row = message_row(request);

	return row ? row->name : "unknown message";
}

struct virtqueue *message_queue(const struct vhost_session *s, const struct message *m)
{
	struct vhost_device *d = s->device;
	uint64_t index;

	switch (m->hdr.request) {
	case VHOST_USER_SET_VRING_KICK:
	case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
		index = m->payload.u64 & VHOST_USER_VRING_INDEX_MASK;
		break;
	case VHOST_USER_SET_VRING_ADDR:
		index = m->payload.addr.index;
		break;
	case VHOST_USER_SET_VRING_NUM:
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_VRING_KICK:
	case VHOST_USER_SET_VRING_ENABLE:
		index = m->payload.state.index;
		break;
	default:
		return NULL;
	}
	return index < d->n_queues ? &d->queues[index] : NULL;
}

enum quiet message_quiet(const struct vhost_session *s, const struct message *m)
{
	return message_row(m->hdr.request)->quiet(s, m);
}

static bool gate_open(const struct vhost_session *s, const struct message_row *row)
{
	switch (row->gate) {
	case GATE_NEGOTIATED:
		return session_negotiated(s, row->gate_bit);
	case GATE_OFFERED:
		return device_protocol_features(s->device) & feature_bit(row->gate_bit);
	default:
		return true;
	}
}

int message_check(const struct vhost_session *s, const struct message *m, struct error *err)
{
	const struct message_row *row = message_row(m->hdr.request);

	if (!row)
		return error_set(err, -EOPNOTSUPP, "no message has the number %" PRIu32,
				 m->hdr.request);
	if (!gate_open(s, row))
		return error_set(err, -EPROTO, "its protocol feature (bit %u) is not %s",
				 row->gate_bit,
				 row->gate == GATE_OFFERED ? "offered" : "negotiated");
	if (!row->handle)
		return error_set(err, -EOPNOTSUPP, "this back-end does not serve it");
	if (postcopy_is_go_ahead(s, m))
		return 0;
	if (m->hdr.size < row->size_min || m->hdr.size > row->size_max)
		return error_set(err, -EBADMSG,
				 "its payload has %" PRIu32 " bytes instead of %" PRIu32 "%s",
				 m->hdr.size, row->size_min,
				 row->size_max > row->size_min ? " or more" : "");
	if (m->fds_lost)
		return error_set(err, -EBADMSG, "it came with more than %u file descriptors",
				 MESSAGE_FDS_MAX);
	if (m->n_fds < row->fds_min || m->n_fds > row->fds_max)
		return error_set(err, -EBADMSG, "it came with %u file descriptors instead of %u%s",
				 m->n_fds, row->fds_min,
				 row->fds_max > row->fds_min ? " or more" : "");
	return 0;
}

int message_handle(struct vhost_session *s, struct message *m, struct error *err)
{
	if (postcopy_is_go_ahead(s, m))
		return postcopy_go_ahead(s);
	return message_row(m->hdr.request)->handle(s, m, err);
}

/*
 * vhost-user "REPLY_ACK": need_reply asks for a u64, zero for success, unless the message has a
 * reply of its own. That can only be given whole; a front-end that waits for one that we cannot
 * give would wait for ever, so it is hung up on.
 */
int message_answer(struct vhost_session *s, struct message *m, int rc)
{
	const struct message_row *row = message_row(m->hdr.request);
	struct vhost_user_header hdr = { .request = m->hdr.request,
					 .flags = VHOST_USER_VERSION | VHOST_USER_REPLY };
	uint64_t ack = rc ? 1 : 0;

	if (row && (row->reply == REPLY || (row->reply == REPLY_GATED && gate_open(s, row)) ||
		    postcopy_is_answered(s, m))) {
		if (rc) {
			s->why = "a refused message needs a reply";
			return rc;
		}
		hdr.size = m->reply_size;
		return session_send_fds(s, &hdr, &m->payload, m->fds, m->reply_fds);
	}
	if (!(m->hdr.flags & VHOST_USER_NEED_REPLY) ||
	    !session_negotiated(s, VHOST_USER_PROTOCOL_F_REPLY_ACK))
		return 0;
	hdr.size = sizeof(ack);
	return session_send(s, &hdr, &ack);
}

void message_close_fds(struct vhost_session *s)
{
	struct message *m = &s->rx;

	for (unsigned i = 0; i < m->n_fds; i++)
		if (m->fds[i] >= 0)
			disposal_close(s->device->disposal, m->fds[i]);
	m->n_fds = 0;
}
