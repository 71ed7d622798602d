/* SPDX-License-Identifier: Apache-2.0 */
#include "net/virtio_net.h"

#include <endian.h>
#include <string.h>

/* Of Linux 6.6 and newer; virtio 1.3 5.1.6.5.9. */
#define COAL_VQ_SET 2
#define COAL_VQ_GET 3

void net_coalesce_forget(struct net_device *d)
{
	const struct coalesce_params none = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(d->coalesce); i++)
		coalesce_set(&d->coalesce[i], none);
	for (unsigned i = 0; i < 2 * d->cfg.queue_pairs; i++)
		coalesce_set(&d->queues[i].coalesce, none);
}

/* 5.1.6.5.9.4: enabled anew, it has what was set for all of its role. */
void net_coalesce_enabled(struct net_queue *q)
{
	struct net_device *d = q->dev;

	if (q->vq->index < 2 * d->cfg.queue_pairs)
		coalesce_set(&q->coalesce, coalesce_get(&d->coalesce[q->vq->index % 2]));
}

/*
 * 5.1.6.5.9.3: the driver is called if that is due by the new ones. A transmit queue sees to that
 * in its next poll: it has nothing pending where it is parked.
 */
static void queue_use(struct net_queue *q, struct coalesce_params p, enum net_queue_role role)
{
	struct virtqueue *vq = q->vq;

	coalesce_set(&q->coalesce, p);
	if (role != NET_QUEUE_RECEIVE)
		return;
	spin_lock(&vq->lock);
	if (q->running && q->coalesce.pending &&
	    coalesce_due(&q->coalesce, &vq->ring, clock_cycles()))
		coalesce_flush(&q->coalesce, &vq->ring, vq->ring.layout);
	spin_unlock(&vq->lock);
}

static struct coalesce_params params_read(const uint8_t *data)
{
	uint32_t words[2];

	memcpy(words, data, sizeof(words));
	return (struct coalesce_params) { le32toh(words[0]), le32toh(words[1]) };
}

static bool set_all(struct net_device *d, enum net_queue_role role, const uint8_t *data, size_t len)
{
	struct coalesce_params p;

	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_NOTF_COAL) || len < 8)
		return false;
	p = params_read(data);
	coalesce_set(&d->coalesce[role], p);
	for (unsigned pair = 0; pair < d->cfg.queue_pairs; pair++)
		queue_use(&d->queues[2 * pair + role], p, role);
	return true;
}

/* The enabled transmit or receive queue that @data names; NULL: it names none. */
static struct net_queue *queue_named(struct net_device *d, const uint8_t *data, size_t len)
{
	struct net_queue *q;
	uint16_t index;

	if (!vhost_has_feature(&d->vdev, VIRTIO_NET_F_VQ_NOTF_COAL) || len < 4)
		return NULL;
	memcpy(&index, data, sizeof(index));
	index = le16toh(index);
	if (index >= 2 * d->cfg.queue_pairs)
		return NULL;
	q = &d->queues[index];
	/* Without MQ the control queue may have a pair's number. */
	if (q->role == NET_QUEUE_CONTROL || !__atomic_load_n(&q->vq->enabled, __ATOMIC_RELAXED))
		return NULL;
	return q;
}

bool net_coalesce_command(struct net_device *d, uint8_t cmd, const uint8_t *data, size_t len,
			  struct coalesce_params *got)
{
	struct net_queue *q;

	switch (cmd) {
	case VIRTIO_NET_CTRL_NOTF_COAL_TX_SET:
		return set_all(d, NET_QUEUE_TRANSMIT, data, len);
	case VIRTIO_NET_CTRL_NOTF_COAL_RX_SET:
		return set_all(d, NET_QUEUE_RECEIVE, data, len);
	case COAL_VQ_SET:
		q = queue_named(d, data, len);
		if (!q || len < 12)
			return false;
		queue_use(q, params_read(data + 4), q->role);
		return true;
	case COAL_VQ_GET:
		q = queue_named(d, data, len);
		if (q)
			*got = coalesce_get(&q->coalesce);
		return q;
	}
	return false;
}
