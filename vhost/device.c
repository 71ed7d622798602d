/* SPDX-License-Identifier: Apache-2.0 */
/* A device's life, and what it offers. */
#include "base/log.h"
#include "vhost/dirty_log.h"
#include "vhost/disposal.h"
#include "vhost/inflight.h"
#include "vhost/mapped_file.h"
#include "vhost/mem_guard.h"
#include "vhost/pager.h"
#include "vhost/session.h"
#include "vhost/state_transfer.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * ANY_LAYOUT and NOTIFY_ON_EMPTY are for legacy drivers alone, which do without them: the first
 * would let them lay out headers freely, the second costs calls.
 */
static const struct {
	unsigned bit;
	const char *name;
} core_features[] = {
	{ VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC" },
	{ VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX" },
	{ VHOST_F_LOG_ALL, "LOG_ALL" },
	{ VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES" },
	{ VIRTIO_F_VERSION_1, "VERSION_1" },
	{ VIRTIO_F_ACCESS_PLATFORM, "ACCESS_PLATFORM" },
	{ VIRTIO_F_RING_PACKED, "RING_PACKED" },
	{ VIRTIO_F_IN_ORDER, "IN_ORDER" },
};

uint64_t device_features(struct vhost_device *d)
{
	uint64_t features = d->ops->features(d);

	for (unsigned i = 0; i < ARRAY_SIZE(core_features); i++)
		features |= feature_bit(core_features[i].bit);
	return features;
}

uint64_t device_protocol_features(const struct vhost_device *d)
{
	uint64_t features = feature_bit(VHOST_USER_PROTOCOL_F_MQ) |
			    feature_bit(VHOST_USER_PROTOCOL_F_LOG_SHMFD) |
			    feature_bit(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
			    feature_bit(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
			    feature_bit(VHOST_USER_PROTOCOL_F_CONFIG) |
			    feature_bit(VHOST_USER_PROTOCOL_F_RESET_DEVICE) |
			    feature_bit(VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS) |
			    feature_bit(VHOST_USER_PROTOCOL_F_GPA_ADDRESSES) |
			    feature_bit(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) |
			    feature_bit(VHOST_USER_PROTOCOL_F_STATUS);

	if (d->ops->inflight)
		features |= feature_bit(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
	/* A ring that has nothing in flight when it stops leaves nothing. */
	if (d->ops->inflight && !d->ops->in_order)
		features |= feature_bit(VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT);
	if (d->ops->send_rarp)
		features |= feature_bit(VHOST_USER_PROTOCOL_F_RARP);
	if (d->ops->save_state && state_transfer_possible())
		features |= feature_bit(VHOST_USER_PROTOCOL_F_DEVICE_STATE);
	if (d->ops->set_mtu)
		features |= feature_bit(VHOST_USER_PROTOCOL_F_NET_MTU);
	if (pager_possible())
		features |= feature_bit(VHOST_USER_PROTOCOL_F_PAGEFAULT);
	return features;
}

void device_features_text(uint64_t features, char *text, size_t size)
{
	size_t used = 0;

	text[0] = 0;
	for (unsigned bit = 0; bit < 64 && used < size; bit++) {
		const char *name = NULL;
		char number[16];

		if (!(features & feature_bit(bit)))
			continue;
		for (unsigned i = 0; i < ARRAY_SIZE(core_features); i++)
			if (core_features[i].bit == bit)
				name = core_features[i].name;
		snprintf(number, sizeof(number), "%u", bit); /* the device kind's own */
		used += (size_t)snprintf(text + used, size - used, "%s%s", used ? " " : "",
					 name ? name : number);
	}
}

static void memory_lost(void *arg)
{
	struct vhost_device *d = arg;

	if (!d->session || d->session->closing)
		return;
	counter_add(&d->stats.memory_lost, 1);
	session_close(d->session, "memory that it shares with us has gone: a file was cut short, "
				  "or no page was left for it");
}

int vhost_device_init(struct vhost_device *d, const struct vhost_device_ops *ops, const char *name,
		      unsigned n_queues, struct workers *workers, struct error *err)
{
	size_t bytes = n_queues * sizeof(struct virtqueue);

	assert(ops->config_size <= VHOST_USER_CONFIG_MAX);
	if (n_queues == 0 || n_queues > VHOST_QUEUES_MAX)
		return error_set(err, -EINVAL, "%s: %u queues; a device has 1 to %d", name,
				 n_queues, VHOST_QUEUES_MAX);
	d->ops = ops;
	d->workers = workers;
	d->socket.fd = -1;
	d->log_fd = -1;
	d->name = strdup(name);
	d->queues = aligned_alloc(CACHE_LINE, bytes);
	d->memory_watch = mem_watch_new(memory_lost, d);
	d->disposal = disposal_new();
	d->account = mem_account_new();
	if (!d->name || !d->queues || !d->memory_watch || !d->disposal || !d->account) {
		vhost_device_fini(d);
		return error_set(err, -ENOMEM, "%s: out of memory", name);
	}
	memset(d->queues, 0, bytes);
	d->n_queues = n_queues;
	d->queue_num = n_queues;
	for (unsigned i = 0; i < n_queues; i++) {
		struct virtqueue *vq = &d->queues[i];

		vq->device = d;
		vq->index = i;
		vq->ring.call_fd = vq->ring.err_fd = -1;
		vq->setup = (struct vring_setup) { .kick_fd = -1, .call_fd = -1, .err_fd = -1 };
		snprintf(vq->name, sizeof(vq->name), "%.60s queue %u", name, i);
	}
	return 0;
}

static void socket_free(struct vhost_socket *s)
{
	free(s->path);
	free(s->group);
	if (s->fd >= 0) /* maybe a client's, and of any kind */
		disposal_close(NULL, s->fd);
	*s = (struct vhost_socket) { .fd = -1 };
}

int vhost_device_serve(struct vhost_device *d, struct vhost_socket *s, struct error *err)
{
	struct error unread = { 0 };
	int rc;

	err = err ? err : &unread;
	d->socket = *s;
	*s = (struct vhost_socket) { .fd = -1 };
	rc = listener_open(d, err);
	if (rc < 0) {
		error_prefix(err, "%s", d->name);
		socket_free(&d->socket);
	}
	return rc;
}

static void closed(struct vhost_device *d)
{
	void (*fn)(struct vhost_device * d) = d->closed;

	if (fn)
		fn(d); /* may free the device */
}

void vhost_device_close(struct vhost_device *d, void (*fn)(struct vhost_device *d))
{
	d->closed = fn;
	d->closing = true;
	listener_close(d);
	if (d->session)
		session_close(d->session, "the device is being closed");
	else
		closed(d);
}

void device_session_ended(struct vhost_device *d)
{
	if (d->closing) {
		closed(d);
	} else if (d->socket.exit_on_disconnect) {
		listener_pause(d);
		closed(d);
	} else {
		listener_resume(d);
	}
}

void vhost_device_fini(struct vhost_device *d)
{
	assert(!d->session && !d->listener);
	quota_forget(d);
	socket_free(&d->socket);
	mem_watch_free(d->memory_watch);
	disposal_free(d->disposal);
	mem_account_free(d->account);
	free(d->queues);
	free(d->name);
	d->queues = NULL;
	d->name = NULL;
	d->memory_watch = NULL;
	d->disposal = NULL;
	d->account = NULL;
	d->n_queues = 0;
}

enum vhost_device_state vhost_device_state(const struct vhost_device *d)
{
	if (!d->session)
		return VHOST_DEVICE_WAITING;
	for (unsigned i = 0; i < d->n_queues; i++)
		if (d->queues[i].state == VIRTQUEUE_RUNNING)
			return VHOST_DEVICE_RUNNING;
	return VHOST_DEVICE_CONNECTED;
}

/*
 * While no ring runs the device is suspended, and sends nothing (vhost-user "Suspended device
 * state"): the front-end is told when one does. It answers nothing, for we ask for no answer.
 */
bool vhost_device_config_changed(struct vhost_device *d)
{
	struct vhost_session *s = d->session;

	if (!s || !backend_is_open(s) || !session_negotiated(s, VHOST_USER_PROTOCOL_F_CONFIG))
		return false;
	s->config_changed = vhost_device_state(d) != VHOST_DEVICE_RUNNING ||
			    backend_send(s, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 0, NULL, 0) ==
				    -EAGAIN;
	return true;
}

void backend_resume(struct vhost_session *s)
{
	iommu_resume(s);
	inband_resume(s);
	if (s->config_changed)
		vhost_device_config_changed(s->device);
}

void vhost_leave_note(struct vhost_device *d, uint8_t note)
{
	inflight_leave_note(d->inflight, note);
}
