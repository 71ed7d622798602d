/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/device.h"

#include "poll/control.h"
#include "tests/fuzz/hooks.h"
#include "tests/fuzz/sim.h"
#include "vhost/dirty_log.h"
#include "vhost/session.h"

#include <linux/virtio_config.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct vhost_socket fuzz_socket(void)
{
	struct vhost_socket s = { .mode = -1 };
	int pair[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	s.fd = pair[0];
	return s;
}

void fuzz_sessions_wait(struct vhost_device *const *d, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		for (unsigned tries = 0; !d[i]->session; tries++) {
			FUZZ_CHECK(tries < 1000);
			control_step(1000);
		}
}

/* Where @g, if it migrates, wants to know what is written: a log of its own, made once. */
static struct dirty_log *log_of(struct vhost_device *d, struct fuzz_guest *g)
{
	struct error err = { 0 };
	int fd;

	if (!g->logs)
		return NULL;
	if (!g->dirty_log) {
		fd = memfd_create("log", MFD_CLOEXEC);
		FUZZ_CHECK(fd >= 0 && ftruncate(fd, FG_LOG_BLOCK) == 0);
		g->log = mmap(NULL, FG_LOG_BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		FUZZ_CHECK(g->log != MAP_FAILED);
		g->dirty_log = dirty_log_open(d->account, fd, FG_LOG_BYTES, FG_LOG_AT,
					      d->memory_watch, &err);
		FUZZ_CHECK(g->dirty_log, "%s", err.text);
		close(fd);
	}
	return g->dirty_log;
}

int fuzz_queue_start(struct vhost_device *d, struct virtqueue *vq, struct fuzz_guest *g,
		     uint64_t features)
{
	struct error err = { 0 };
	int rc;

	features |= feature_bit(VHOST_USER_F_PROTOCOL_FEATURES);
	features |= g->legacy ? 0 : feature_bit(VIRTIO_F_VERSION_1);
	features |= g->packed ? feature_bit(VIRTIO_F_RING_PACKED) : 0;
	features |= g->indirect ? feature_bit(VIRTIO_RING_F_INDIRECT_DESC) : 0;
	features |= g->event_idx ? feature_bit(VIRTIO_RING_F_EVENT_IDX) : 0;
	features |= g->in_order ? feature_bit(VIRTIO_F_IN_ORDER) : 0;
	features |= g->logs ? feature_bit(VHOST_F_LOG_ALL) : 0;
	if (features != d->features) {
		d->features = features;
		d->ops->set_features(d, features);
	}
	d->map = g->map;
	d->log = log_of(d, g);
	vq->setup.flags = g->logs ? VHOST_VRING_F_LOG : 0;
	vq->setup.log = FG_MAIN_GPA + FG_DEVICE;
	vq->setup.num = g->size;
	vq->setup.base = g->base;
	vq->setup.has_base = vq->setup.has_addr = true;
	vq->setup.desc = (FG_MAIN_GPA + FG_DESC) ^ FG_UVA;
	vq->setup.driver = (FG_MAIN_GPA + FG_DRIVER) ^ FG_UVA;
	vq->setup.device = (FG_MAIN_GPA + FG_DEVICE) ^ FG_UVA;
	vq->setup.started = vq->setup.enabled = true;
	vq->setup.broken = false;
	vq->enabled = true;
	if (vq->setup.kick_fd < 0) {
		vq->setup.kick_fd = eventfd(0, EFD_NONBLOCK);
		vq->setup.call_fd = eventfd(0, EFD_NONBLOCK);
		vq->setup.err_fd = eventfd(0, EFD_NONBLOCK);
	}
	hooks_ring(&vq->ring, g);
	if (g->in_order)
		hooks_in_order(&vq->ring);
	rc = queue_start(vq, &err);
	if (rc < 0)
		hooks_ring_end(&vq->ring);
	/* The ring's own words only: used->flags, or the event suppression. */
	fg_check_writes(g, true);
	return rc;
}

void fuzz_queue_stop(struct workers *ws, struct virtqueue *vq)
{
	vq->device->session->n_stopping++;
	queue_stop(vq);
	for (unsigned i = 0; vq->state != VIRTQUEUE_STOPPED; i++) {
		FUZZ_CHECK(i < 20, "%s does not stop", vq->name);
		sim_round(ws);
		control_step(0);
	}
	if (vq->ring.broken) {
		/* What the driver gave beside what broke it need not come back. */
		hooks_ring_forget(&vq->ring);
	} else {
		FUZZ_CHECK(vq->ring.in_flight == 0);
		hooks_ring_end(&vq->ring);
	}
	vq->device->map = NULL;
	vq->device->log = NULL;
}
