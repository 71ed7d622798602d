/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that concern the device as a whole: features, configuration space, status, reset. */
#include "vhost/dirty_log.h"
#include "vhost/disposal.h"
#include "vhost/inflight.h"
#include "vhost/session.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int reply_u64(struct message *m, uint64_t value)
{
	m->payload.u64 = value;
	m->reply_size = sizeof(m->payload.u64);
	return 0;
}

int handle_get_features(struct vhost_session *s, struct message *m, struct error *err)
{
	(void)err;
	return reply_u64(m, device_features(s->device));
}

/*
 * A guest without VERSION_1 is served: its rings and headers are those of the modern interface in
 * the machine's byte order, which is little-endian (protocol.h), and the device kinds look at the
 * feature where a header differs in length. Packed rings came with the modern interface.
 */
int handle_set_features(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;
	uint64_t features = m->payload.u64;
	uint64_t surplus = features & ~device_features(d);
	uint64_t log_all = feature_bit(VHOST_F_LOG_ALL), changed;

	if (surplus)
		return error_set(err, -EINVAL, "features 0x%" PRIx64 " were not offered", surplus);
	if ((features & feature_bit(VIRTIO_F_RING_PACKED)) &&
	    !(features & feature_bit(VIRTIO_F_VERSION_1)))
		return error_set(err, -EINVAL, "RING_PACKED needs VERSION_1");
	/* Addresses that are not mapped are asked for through the one, and the answers come by
	 * the other. */
	if ((features & feature_bit(VIRTIO_F_ACCESS_PLATFORM)) &&
	    (!session_negotiated(s, VHOST_USER_PROTOCOL_F_BACKEND_REQ) ||
	     !session_negotiated(s, VHOST_USER_PROTOCOL_F_REPLY_ACK)))
		return error_set(err, -EINVAL,
				 "ACCESS_PLATFORM needs the protocol features BACKEND_REQ and "
				 "REPLY_ACK");

	changed = features ^ d->features;
	__atomic_store_n(&d->features, features, __ATOMIC_RELAXED);
	if (changed & feature_bit(VIRTIO_F_ACCESS_PLATFORM))
		iommu_forget(d);
	if (changed & log_all)
		dirty_log_apply_all(d);
	/* Whether we log is no business of the device kind. */
	if (!s->features_set || (changed & ~log_all)) {
		d->ops->set_features(d, features & ~log_all);
		for (unsigned i = 0; i < d->n_queues; i++)
			d->queues[i].setup.failed = false;
	}
	s->features_set = true;
	/*
	 * vhost-user "Ring states": without PROTOCOL_FEATURES rings start enabled. With it they
	 * keep their state, also over a change of features while they run.
	 */
	if (!(features & feature_bit(VHOST_USER_F_PROTOCOL_FEATURES)))
		for (unsigned i = 0; i < d->n_queues; i++)
			queue_set_enabled(&d->queues[i], true);
	return 0;
}

int handle_get_protocol_features(struct vhost_session *s, struct message *m, struct error *err)
{
	(void)err;
	return reply_u64(m, device_protocol_features(s->device));
}

int handle_set_protocol_features(struct vhost_session *s, struct message *m, struct error *err)
{
	uint64_t surplus = m->payload.u64 & ~device_protocol_features(s->device);

	if (surplus)
		return error_set(err, -EINVAL, "protocol features 0x%" PRIx64 " were not offered",
				 surplus);
	/* vhost-user "In-band notifications": this is how to say that something is amiss. */
	if ((m->payload.u64 & feature_bit(VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS)) &&
	    (~m->payload.u64 & (feature_bit(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
				feature_bit(VHOST_USER_PROTOCOL_F_REPLY_ACK)))) {
		s->why = "it wants INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK";
		return error_set(err, -EPROTO,
				 "INBAND_NOTIFICATIONS needs BACKEND_REQ and REPLY_ACK");
	}
	if ((m->payload.u64 & feature_bit(VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT)) &&
	    !(m->payload.u64 & feature_bit(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)))
		return error_set(err, -EINVAL, "GET_VRING_BASE_INFLIGHT needs INFLIGHT_SHMFD");
	s->device->protocol_features = m->payload.u64;
	return 0;
}

int handle_get_queue_num(struct vhost_session *s, struct message *m, struct error *err)
{
	(void)err;
	return reply_u64(m, s->device->queue_num);
}

/* The connection itself says who the owner is. */
int handle_set_owner(struct vhost_session *s, struct message *m, struct error *err)
{
	(void)s;
	(void)m;
	(void)err;
	return 0;
}

/*
 * Deprecated; back-ends are asked to ignore it or to disable rings. A front-end old enough to send
 * it may have no message to enable them again.
 */
int handle_reset_owner(struct vhost_session *s, struct message *m, struct error *err)
{
	(void)s;
	(void)m;
	(void)err;
	return 0;
}

static void stop_ring(struct vring_setup *setup)
{
	if (setup->kick_fd >= 0)
		close(setup->kick_fd);
	setup->kick_fd = -1;
	setup->started = false;
	setup->failed = false;
	setup->broken = false;
}

/* Rings that begin anew have nothing in flight, whatever the front-end's buffer says. */
static void forget_inflight(struct vhost_device *d)
{
	for (unsigned i = 0; i < d->n_queues; i++)
		queue_untrack(&d->queues[i]);
	inflight_forget(d->inflight);
}

/*
 * vhost-user "RESET_DEVICE": rings disabled, state as in the beginning, the connection kept; and
 * what belongs to the connection rather than to the device: memory, protocol features, the back-end
 * channel. The descriptors for calls stay too: QEMU sets them once and does not repeat them.
 */
int handle_reset_device(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;

	(void)m;
	(void)err;
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct virtqueue *vq = &d->queues[i];
		int call_fd = vq->setup.call_fd, err_fd = vq->setup.err_fd;

		stop_ring(&vq->setup);
		queue_set_enabled(vq, false);
		vq->setup = (struct vring_setup) { .kick_fd = -1,
						   .call_fd = call_fd,
						   .err_fd = err_fd };
	}
	forget_inflight(d);
	iommu_forget(d);
	d->features = 0;
	d->status = 0;
	s->features_set = false;
	s->config_changed = false;
	if (d->ops->reset)
		d->ops->reset(d);
	return 0;
}

/* virtio 1.3 2.1; 0 is a reset by the driver, whose next life begins with SET_FEATURES. */
int handle_set_status(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;

	if (m->payload.u64 > UINT8_MAX)
		return error_set(err, -EINVAL, "status 0x%" PRIx64 " does not fit into 8 bits",
				 m->payload.u64);
	d->status = (uint8_t)m->payload.u64;
	if (d->status)
		return 0;
	for (unsigned i = 0; i < d->n_queues; i++)
		stop_ring(&d->queues[i].setup);
	forget_inflight(d);
	if (d->ops->reset)
		d->ops->reset(d);
	return 0;
}

int handle_get_status(struct vhost_session *s, struct message *m, struct error *err)
{
	(void)err;
	return reply_u64(m, s->device->status);
}

static int config_check(const struct message *m, uint32_t limit, struct error *err)
{
	const struct vhost_user_config *c = &m->payload.config;

	if (m->hdr.size - VHOST_USER_CONFIG_HEADER != c->size)
		return error_set(err, -EBADMSG,
				 "it names %" PRIu32 " bytes and its payload has room for %" PRIu32,
				 c->size, m->hdr.size - (uint32_t)VHOST_USER_CONFIG_HEADER);
	if (c->size == 0 || c->offset >= limit || c->size > limit - c->offset)
		return error_set(err, -ERANGE,
				 "%" PRIu32 " bytes at %" PRIu32
				 " lie outside the configuration space of %" PRIu32,
				 c->size, c->offset, limit);
	return 0;
}

/*
 * The answer is as long as the question. Front-ends may ask for more than the device has (SPDK's
 * asks for 256 bytes): the rest reads as zero. An error is told by an answer without payload.
 */
int handle_get_config(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;
	struct vhost_user_config *c = &m->payload.config;
	uint8_t config[VHOST_USER_CONFIG_MAX] = { 0 };

	if (config_check(m, VHOST_USER_CONFIG_MAX, err) < 0) {
		session_log_refused(s, m, err);
		m->reply_size = 0;
		return 0;
	}
	if (d->ops->config_size)
		d->ops->get_config(d, config);
	memcpy(c->data, config + c->offset, c->size);
	m->reply_size = m->hdr.size;
	return 0;
}

int handle_set_config(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;
	const struct vhost_user_config *c = &m->payload.config;
	int rc;

	if (config_check(m, d->ops->config_size, err) < 0)
		return err->code;
	if (c->flags != VHOST_USER_CONFIG_GUEST && c->flags != VHOST_USER_CONFIG_MIGRATION)
		return error_set(err, -EINVAL, "flags 0x%" PRIx32 " are unknown", c->flags);
	if (!d->ops->set_config)
		return error_set(err, -EACCES, "its configuration space is read-only");
	rc = d->ops->set_config(d, c->offset, c->data, c->size,
				c->flags == VHOST_USER_CONFIG_MIGRATION);
	if (rc < 0)
		return error_set(err, rc, "%" PRIu32 " bytes at %" PRIu32 " are %s", c->size,
				 c->offset, rc == -EACCES ? "read-only" : "not valid");
	return 0;
}

int handle_set_backend_req_fd(struct vhost_session *s, struct message *m, struct error *err)
{
	int domain, type, fd = m->fds[0];
	socklen_t len = sizeof(type);

	/* A TCP socket could keep us waiting when it is closed. */
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM)
		return error_set(err, -ENOTSOCK, "its descriptor is not a unix stream socket");
	m->fds[0] = -1;
	return backend_open(s, fd, err);
}

int handle_send_rarp(struct vhost_session *s, struct message *m, struct error *err)
{
	int rc = s->device->ops->send_rarp(s->device, m->payload.bytes);

	return rc < 0 ? error_set(err, rc, "the device did not send it (error %d)", -rc) : 0;
}

int handle_net_set_mtu(struct vhost_session *s, struct message *m, struct error *err)
{
	uint64_t mtu = m->payload.u64;
	int rc = mtu > UINT16_MAX ? -EINVAL : s->device->ops->set_mtu(s->device, (uint16_t)mtu);

	return rc < 0 ? error_set(err, rc, "the device does not take an MTU of %" PRIu64, mtu) : 0;
}
