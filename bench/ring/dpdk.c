/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK's vhost library (lib/vhost, what the net_vhost driver stands on), reached as any front-end
 * reaches it: over its socket. Its rings are then worked by direct calls of its burst functions.
 */
#include "bench/ring/device.h"

#include "base/clock.h"
#include "tests/guest/frontend.h"

#include <err.h>
#include <linux/virtio_net.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <rte_vhost.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MBUFS 2047
#define MBUF_CACHE 512 /* more than a ring holds, so that the pool's own ring is out of it */

struct dpdk_device {
	struct row row;
	struct guest_memory memory;
	struct frontend frontend;
	struct lane lane[N_QUEUES];
	struct rte_mempool *pool;
	int vid;
};

/* Set by DPDK's event thread. */
static int attached_vid = -1;

static int new_device(int vid)
{
	__atomic_store_n(&attached_vid, vid, __ATOMIC_RELEASE);
	return 0;
}

static void destroy_device(int vid)
{
	(void)vid;
	__atomic_store_n(&attached_vid, -1, __ATOMIC_RELEASE);
}

static const struct rte_vhost_device_ops vhost_ops = {
	.new_device = new_device,
	.destroy_device = destroy_device,
};

/*
 * One socket for all rows, one after the other: the library's thread looks for new ones once a
 * second.
 */
static char socket_path[64];

static void stop_listening(void)
{
	rte_vhost_driver_unregister(socket_path); /* which unlinks it */
}

static void listen_for_rows(void)
{
	snprintf(socket_path, sizeof(socket_path), "/tmp/ring-bench-%d.sock", (int)getpid());
	/* Offload flags as today's callers want them; the legacy way parses each frame instead. */
	if (rte_vhost_driver_register(socket_path, RTE_VHOST_USER_NET_COMPLIANT_OL_FLAGS) < 0 ||
	    rte_vhost_driver_callback_register(socket_path, &vhost_ops) < 0 ||
	    rte_vhost_driver_start(socket_path) < 0)
		errx(1, "rte_vhost does not listen on %s", socket_path);
	atexit(stop_listening);
}

struct rte_mempool *dpdk_start(unsigned cpu)
{
	char lcores[16];
	char *args[] = { "ring-bench",	   "--no-pci", "--no-huge", "-m",	    "64",
			 "--no-telemetry", "--lcores", lcores,	    "--log-level=3" /* errors */ };
	struct rte_mempool *pool;

	snprintf(lcores, sizeof(lcores), "0@%u", cpu);
	if (rte_eal_init(ARRAY_SIZE(args), args) < 0)
		errx(1, "DPDK does not start: %s", rte_strerror(rte_errno));
	pool = rte_pktmbuf_pool_create("ring", MBUFS, MBUF_CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
				       SOCKET_ID_ANY);
	if (!pool)
		errx(1, "no mbufs: %s", rte_strerror(rte_errno));
	listen_for_rows();
	return pool;
}

static void wait_attached(bool attached)
{
	for (unsigned i = 0; i < 5000; i++) {
		if ((__atomic_load_n(&attached_vid, __ATOMIC_ACQUIRE) >= 0) == attached)
			return;
		nanosleep(&(struct timespec) { .tv_nsec = 1000000 }, NULL);
	}
	errx(1, "rte_vhost did not %s the device within 5 s", attached ? "start" : "stop");
}

static void say_hello(struct dpdk_device *d)
{
	struct frontend *f = &d->frontend;
	uint64_t features = VU_F_VERSION_1 | UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF;
	int rc;

	if (d->row.layout == DRIVER_PACKED)
		features |= VU_F_PACKED;
	if (d->row.indirect)
		features |= VU_F_INDIRECT;
	if (d->row.event_idx)
		features |= VU_F_EVENT_IDX;
	if (d->row.in_order)
		features |= VU_F_IN_ORDER;
	rc = frontend_connect(f, socket_path);
	if (rc == 0)
		rc = frontend_hello(f, VU_PF_MQ | VU_PF_REPLY_ACK);
	if (rc == 0)
		rc = frontend_set_features(f, features);
	if (rc == 0 && (f->features & features) != features)
		rc = frontend_fail(f, -ENOTSUP, "features %#llx were not offered",
				   (unsigned long long)(features & ~f->features));
	if (rc == 0)
		rc = frontend_share_memory(f, &d->memory);
	if (rc < 0)
		errx(1, "rte_vhost: %s", f->error);
}

static void open_queue(struct dpdk_device *d, unsigned queue)
{
	struct driver_config cfg = lane_ring_config(&d->row);
	struct frontend_queue_options opt = { .size = cfg.size,
					      .indirect = cfg.indirect,
					      .indirect_segs = cfg.indirect_segs };
	int rc = frontend_queue_setup(&d->frontend, queue, &opt);

	/* rte_vhost tells the length of what it has read from packed transmit queues. */
	d->frontend.queue[queue].ring.ignores_reserved_len = true;
	/* And gives a batch of them back by the used entry of its last ("In-order use of
	 * descriptors"). */
	d->frontend.queue[queue].ring.takes_batches = d->row.in_order;
	if (rc == 0)
		rc = frontend_queue_start(&d->frontend, queue);
	if (rc == 0)
		rc = lane_open(&d->lane[queue], &d->row, queue == QUEUE_IN, &d->memory,
			       &d->frontend.queue[queue].ring);
	if (rc < 0)
		errx(1, "rte_vhost, queue %u: %s", queue, d->frontend.error);
}

struct dpdk_device *dpdk_open(const struct row *row, struct rte_mempool *pool)
{
	static const struct guest_range ranges[] = { { 0, 1 << 21 },
						     { UINT64_C(1) << 32, 1 << 24 } };
	struct dpdk_device *d = calloc(1, sizeof(*d));

	if (!d)
		errx(1, "out of memory");
	d->row = *row;
	d->pool = pool;
	if (guest_memory_create(&d->memory, ranges, ARRAY_SIZE(ranges), 0) < 0)
		errx(1, "no guest memory");
	frontend_init(&d->frontend);
	say_hello(d);
	open_queue(d, QUEUE_IN);
	open_queue(d, QUEUE_OUT);
	wait_attached(true);
	d->vid = attached_vid;
	rte_vhost_enable_guest_notification(d->vid, QUEUE_IN, 0);
	rte_vhost_enable_guest_notification(d->vid, QUEUE_OUT, 0);
	return d;
}

void dpdk_close(struct dpdk_device *d)
{
	frontend_close(&d->frontend);
	wait_attached(false);
	guest_memory_destroy(&d->memory);
	free(d);
}

struct lane *dpdk_lane(struct dpdk_device *d, unsigned queue)
{
	return &d->lane[queue];
}

/* Asks until all is done: SET_VRING_ENABLE may still be on its way to the library's own state. */
static void COLD none(unsigned *tries, unsigned done, unsigned of)
{
	if (++*tries > 1000)
		errx(1, "rte_vhost took %u of %u chains and then no more", done, of);
	nanosleep(&(struct timespec) { .tv_nsec = 1000000 }, NULL);
}

uint64_t dpdk_dequeue(struct dpdk_device *d, struct rte_mbuf **mbufs)
{
	unsigned n = d->lane[QUEUE_OUT].n_chains, done = 0, tries = 0;
	uint64_t start = clock_cycles();

	while (done < n) {
		unsigned got = rte_vhost_dequeue_burst(d->vid, QUEUE_OUT, d->pool, mbufs + done,
						       (uint16_t)d->row.batch);

		if (unlikely(got == 0))
			none(&tries, done, n);
		done += got;
	}
	return clock_cycles() - start;
}

uint64_t dpdk_enqueue(struct dpdk_device *d, struct rte_mbuf **mbufs)
{
	unsigned n = d->lane[QUEUE_IN].n_chains, done = 0, tries = 0;
	uint64_t start = clock_cycles();

	while (done < n) {
		unsigned want = MIN(d->row.batch, n - done);
		unsigned got = rte_vhost_enqueue_burst(d->vid, QUEUE_IN, mbufs + done,
						       (uint16_t)want);

		if (unlikely(got == 0))
			none(&tries, done, n);
		done += got;
	}
	return clock_cycles() - start;
}

void mbufs_make(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned n)
{
	if (rte_pktmbuf_alloc_bulk(pool, mbufs, n))
		errx(1, "out of mbufs");
	for (unsigned i = 0; i < n; i++) {
		mbufs[i]->data_len = FRAME_BYTES;
		mbufs[i]->pkt_len = FRAME_BYTES;
		memset(rte_pktmbuf_mtod(mbufs[i], void *), 0x5a, FRAME_BYTES);
	}
}

void mbufs_free(struct rte_mbuf **mbufs, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (mbufs[i]->pkt_len != FRAME_BYTES || mbufs[i]->data_len != FRAME_BYTES)
			errx(1, "mbuf %u holds %u bytes, sent were %u", i, mbufs[i]->pkt_len,
			     FRAME_BYTES);
	rte_pktmbuf_free_bulk(mbufs, n);
}
