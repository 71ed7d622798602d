/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/session_util.h"

#include "base/log.h"
#include "vhost/disposal.h"
#include "vhost/ring.h"
#include "vhost/shared_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* The device kind. */

static struct echo_device *echo(struct vhost_device *d)
{
	return container_of(d, struct echo_device, vhost);
}

HOT unsigned echo_poll(struct poller *p, enum ring_layout layout)
{
	struct echo_queue *q = container_of(p, struct echo_queue, poller);
	struct ring *r = &q->vq->ring;
	struct iovec segs[RING_CHAIN_SEGS_MAX];
	unsigned n = 0, done = 0;

	if (!q->draining && q->n_held < ARRAY_SIZE(q->held)) {
		n = ring_pop(r, layout, &q->held[q->n_held], ARRAY_SIZE(q->held) - q->n_held, segs,
			     ARRAY_SIZE(segs));
		q->n_held += n;
	}
	if (!__atomic_load_n(&echo(q->vq->device)->hold, __ATOMIC_ACQUIRE)) {
		for (done = 0; done < q->n_held; done++)
			ring_push(r, layout, q->held[done].id, q->held[done].n_slots,
				  q->held[done].in_len);
		q->n_held = 0;
		ring_publish(r, layout);
		ring_call(r, layout);
	}
	if (q->draining && q->n_held == 0 && !q->told) {
		q->told = true;
		control_call(&q->stopped);
	}
	return n + done;
}

#define POLL(name, layout)                                                                     \
	static unsigned echo_poll_##name(struct poller *p)                                     \
	{                                                                                      \
		return echo_poll(p, layout);                                                   \
	}                                                                                      \
	static bool echo_arm_##name(struct poller *p)                                          \
	{                                                                                      \
		return ring_kicks_on(&container_of(p, struct echo_queue, poller)->vq->ring,    \
				     layout);                                                  \
	}                                                                                      \
	static void echo_disarm_##name(struct poller *p)                                       \
	{                                                                                      \
		ring_kicks_off(&container_of(p, struct echo_queue, poller)->vq->ring, layout); \
	}
RING_LAYOUTS(POLL)

static const struct poller_ops poller_ops[] = {
	[RING_SPLIT] = { echo_poll_split, echo_arm_split, echo_disarm_split },
	[RING_PACKED] = { echo_poll_packed, echo_arm_packed, echo_disarm_packed },
};

static void stop_on_worker(struct call *c)
{
	struct echo_queue *q = container_of(c, struct echo_queue, stop);

	q->draining = true;
	poller_wake(&q->poller);
}

static void stopped_on_control(struct call *c)
{
	struct echo_queue *q = container_of(c, struct echo_queue, stopped);

	worker_remove(&q->poller);
	vhost_queue_stopped(q->vq);
}

static int echo_queue_start(struct vhost_device *d, struct virtqueue *vq)
{
	struct echo_queue *q = &echo(d)->queue[vq->index];

	if (echo(d)->start_error)
		return echo(d)->start_error;
	q->vq = vq;
	q->draining = q->told = false;
	q->starts++;
	q->stop.fn = stop_on_worker;
	q->stopped.fn = stopped_on_control;
	q->poller = (struct poller) { .ops = &poller_ops[vq->ring.layout],
				      .event_fd = vq->setup.kick_fd,
				      .event_is_counter = true,
				      /* Looks at echo_device.hold now and then. */
				      .park_max_us = 1000 };
	vq->worker = workers_pick(d->workers);
	vq->poller = &q->poller;
	worker_add(vq->worker, &q->poller);
	return 0;
}

static void echo_queue_stop(struct vhost_device *d, struct virtqueue *vq)
{
	struct echo_queue *q = &echo(d)->queue[vq->index];

	q->stops++;
	worker_call(vq->worker, &q->stop);
}

static uint64_t echo_features(struct vhost_device *d)
{
	(void)d;
	return ECHO_FEATURES;
}

static void echo_set_features(struct vhost_device *d, uint64_t features)
{
	for (unsigned i = 0; i < d->n_queues; i++)
		cr_assert_eq(d->queues[i].state, VIRTQUEUE_STOPPED);
	echo(d)->features = features;
	echo(d)->set_features++;
}

static void echo_get_config(struct vhost_device *d, uint8_t *config)
{
	memcpy(config, echo(d)->config, ECHO_CONFIG_SIZE);
}

/* The first 8 bytes are read-only. */
static int echo_set_config(struct vhost_device *d, uint32_t offset, const uint8_t *data,
			   uint32_t len, bool migration)
{
	if (offset < 8 && !migration)
		return -EACCES;
	cr_assert_leq(offset + len, ECHO_CONFIG_SIZE);
	memcpy(echo(d)->config + offset, data, len);
	echo(d)->set_config_migration = migration;
	return 0;
}

static int echo_set_mtu(struct vhost_device *d, uint16_t mtu)
{
	if (mtu < 68)
		return -EINVAL;
	echo(d)->mtu = mtu;
	return 0;
}

static int echo_send_rarp(struct vhost_device *d, const uint8_t mac[6])
{
	memcpy(echo(d)->mac, mac, 6);
	echo(d)->rarp++;
	return 0;
}

static void echo_connected(struct vhost_device *d)
{
	echo(d)->connected++;
}

static void echo_disconnected(struct vhost_device *d)
{
	for (unsigned i = 0; i < d->n_queues; i++)
		cr_assert_eq(d->queues[i].state, VIRTQUEUE_STOPPED);
	cr_assert_null(d->map);
	cr_assert_eq(d->features, 0u);
	echo(d)->disconnected++;
}

static void echo_reset(struct vhost_device *d)
{
	echo(d)->reset++;
}

#define OPS                                                             \
	.features = echo_features, .set_features = echo_set_features,   \
	.config_size = ECHO_CONFIG_SIZE, .get_config = echo_get_config, \
	.set_config = echo_set_config, .queue_start = echo_queue_start, \
	.queue_stop = echo_queue_stop, .connected = echo_connected,     \
	.disconnected = echo_disconnected, .reset = echo_reset

const struct vhost_device_ops echo_net_ops = { .kind = "net",
					       .runs_disabled = true,
					       .set_mtu = echo_set_mtu,
					       .send_rarp = echo_send_rarp,
					       OPS };
const struct vhost_device_ops echo_blk_ops = { .kind = "blk", .inflight = true, OPS };

/* The test bed. */

unsigned count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 3; /* ".", ".." and the folder's own */
}

unsigned count_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned n = 0;

	while (fgets(line, sizeof(line), f))
		n += strstr(line, "/memfd:") != NULL;
	fclose(f);
	return n;
}

unsigned settled_fds(void)
{
	uint64_t end = clock_ns() + UINT64_C(20000000000);

	shared_file_prepare();
	while (disposal_works() && clock_ns() < end)
		usleep(100);
	cr_assert(!disposal_works(), "something takes long to be closed");
	return count_fds();
}

bool fds_become(unsigned n)
{
	uint64_t end = clock_ns() + UINT64_C(20000000000);

	while (count_fds() != n && clock_ns() < end)
		usleep(100);
	if (count_fds() != n)
		fprintf(stderr, "%u descriptors are open, and not %u\n", count_fds(), n);
	return count_fds() == n;
}

void leave_descriptors(unsigned n)
{
	struct rlimit limit;
	int highest = 0, fd;

	for (fd = 0; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			highest = fd;
	/* No gaps below. */
	while ((fd = dup(0)) < highest)
		cr_assert_geq(fd, 0);
	close(fd);
	limit.rlim_cur = limit.rlim_max = (rlim_t)highest + 1 + n;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

void bed_step(void *arg)
{
	(void)arg;
	control_step(500);
}

/* The device, and its guest with its front-end; @b has workers. */
static void init_device(struct bed *b, const struct vhost_device_ops *ops, const char *name)
{
	const struct guest_range ranges[] = { { 0, 4 << 20 }, { 8 << 20, 2 << 20 } };
	struct error err = { 0 };

	cr_assert_eq(vhost_device_init(&b->dev.vhost, ops, name, ECHO_QUEUES, b->workers, &err), 0,
		     "%s", err.text);
	cr_assert_eq(guest_memory_create(&b->memory, ranges, ARRAY_SIZE(ranges), 0), 0);
	frontend_init(&b->f);
	b->f.timeout_ms = 5000;
	b->f.idle = bed_step;
}

void bed_init(struct bed *b, const struct vhost_device_ops *ops)
{
	struct workers_config cfg = { .n = 1, .idle = IDLE_ADAPTIVE, .idle_us = 50 };
	struct error err = { 0 };

	memset(b, 0, sizeof(*b));
	log_set_level(getenv("SLUICE_TEST_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	cr_assert_eq(control_init(), 0);
	cr_assert_eq(workers_start(&cfg, &b->workers, &err), 0, "%s", err.text);
	init_device(b, ops, "echo");
}

void bed_beside(struct bed *other, const struct bed *b, uint64_t features)
{
	*other = (struct bed) { .workers = b->workers };
	init_device(other, &echo_blk_ops, "other");
	bed_pair(other);
	bed_negotiate(other, VU_PF_USUAL, features);
	bed_start_queue(other, 0);
	bed_echo(other, 0);
}

void bed_beside_fini(struct bed *other)
{
	frontend_close(&other->f);
	cr_assert(EVENTUALLY(other->dev.disconnected == 1));
	vhost_device_close(&other->dev.vhost, NULL);
	vhost_device_fini(&other->dev.vhost);
	guest_memory_destroy(&other->memory);
}

void bed_pair(struct bed *b)
{
	struct vhost_socket s = { .fd = -1, .mode = -1 };
	struct error err = { 0 };
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	s.fd = pair[0];
	cr_assert_eq(vhost_device_serve(&b->dev.vhost, &s, &err), 0, "%s", err.text);
	frontend_attach(&b->f, pair[1]);
}

void bed_listen(struct bed *b)
{
	struct vhost_socket s = { .fd = -1, .mode = -1 };
	struct error err = { 0 };

	snprintf(b->folder, sizeof(b->folder), "/tmp/sluice-test-XXXXXX");
	cr_assert_not_null(mkdtemp(b->folder));
	snprintf(b->path, sizeof(b->path), "%s/echo.sock", b->folder);
	s.path = strdup(b->path);
	cr_assert_eq(vhost_device_serve(&b->dev.vhost, &s, &err), 0, "%s", err.text);
}

void bed_connect(struct bed *b)
{
	unsigned connected = b->dev.connected;

	OK(&b->f, frontend_connect(&b->f, b->path));
	cr_assert(EVENTUALLY(b->dev.connected == connected + 1));
}

static void closed(struct vhost_device *d)
{
	echo(d)->closed++;
}

void bed_fini(struct bed *b)
{
	unsigned before = b->dev.closed;

	frontend_close(&b->f);
	vhost_device_close(&b->dev.vhost, closed);
	cr_assert(EVENTUALLY(b->dev.closed == before + 1));
	vhost_device_fini(&b->dev.vhost);
	guest_memory_destroy(&b->memory);
	workers_stop(b->workers);
	control_fini();
	if (b->folder[0])
		cr_assert_eq(rmdir(b->folder), 0, "the socket's file is left behind");
}

void bed_negotiate(struct bed *b, uint64_t protocol, uint64_t features)
{
	OK(&b->f, frontend_hello(&b->f, protocol));
	OK(&b->f, frontend_set_features(&b->f, VU_F_VERSION_1 | ECHO_FEATURES | features));
	OK(&b->f, frontend_share_memory(&b->f, &b->memory));
}

void bed_start_queue(struct bed *b, unsigned index)
{
	struct frontend_queue_options opt = { .size = 64, .indirect = DRIVER_INDIRECT_LONG };

	OK(&b->f, frontend_queue_setup(&b->f, index, &opt));
	OK(&b->f, frontend_queue_start(&b->f, index));
}

void bed_submit(struct bed *b, unsigned index)
{
	struct driver_ring *r = &b->f.queue[index].ring;
	const struct driver_seg segs[] = { { (8 << 20) + 4096, 100 }, { (8 << 20) + 8192, 512 } };
	int rc = r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, segs, 1, 1, b)
					   : driver_add(r, DRIVER_PACKED, segs, 1, 1, b);

	cr_assert_eq(rc, 0);
	frontend_submit(&b->f, index);
}

void bed_echo(struct bed *b, unsigned index)
{
	struct driver_used used;

	bed_submit(b, index);
	OK(&b->f, frontend_wait_used(&b->f, index, &used));
	cr_assert_eq(used.cookie, b);
	cr_assert_eq(used.len, 512u);
}
