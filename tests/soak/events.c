/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens to guests and their devices. The driver's thread goes on with its I/O in each of
 * them, until its rings are taken away from it.
 */
#include "tests/soak/soak.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static bool reconnect(struct guest *g)
{
	guest_hang_up(g);
	guest_hello(g);
	guest_begin(g);
	return true;
}

/* A front-end that dies with half a message said: header or payload, with descriptors or without.
 */
static bool die_in_message(struct guest *g)
{
	struct {
		struct vu_header h;
		struct vu_mem_table table;
	} m = { .h = { VU_SET_MEM_TABLE, VU_VERSION, sizeof(m.table) }, .table = { .n = 4 } };
	int fds[VU_FDS_MAX];
	unsigned n_fds = soak_random(&g->rng, VU_FDS_MAX + 1);
	size_t len = 1 + soak_random(&g->rng, sizeof(m) - 1);

	for (unsigned i = 0; i < n_fds; i++)
		fds[i] = g->mem.region[i % g->mem.n].fd;
	frontend_send_raw(&g->f, &m, len, fds, n_fds);
	/* It may be read before the end is seen, or with it. */
	if (chance(&g->rng, 50))
		soak_step();
	return reconnect(g);
}

/* GET_VRING_BASE, and on from there: one queue, or all. */
static bool stop_and_start(struct guest *g)
{
	unsigned first = soak_random(&g->rng, g->n_queues), n = chance(&g->rng, 30) ? 0 : 1;
	unsigned from = n ? first : 0, to = n ? first + 1 : g->n_queues;

	for (unsigned i = from; i < to; i++)
		guest_ok(g, frontend_queue_stop(&g->f, i, NULL), "GET_VRING_BASE");
	for (unsigned i = from; i < to; i++)
		guest_ok(g, frontend_queue_start(&g->f, i), "start a queue again");
	return true;
}

static bool reset_device(struct guest *g)
{
	guest_ok(g, frontend_set(&g->f, VU_RESET_DEVICE, NULL, 0, NULL, 0), "RESET_DEVICE");
	/* Memory is kept; the driver that begins anew shares what it has, as if it were new. */
	g->mem.n = 0;
	guest_ok(g, frontend_set_mem_table(&g->f, &g->mem), "empty memory table");
	g->mem.n = EXTRA_FIRST + EXTRA_N;
	guest_begin(g);
	return true;
}

static bool change_features(struct guest *g)
{
	uint64_t loose = g->ops->loose_features;
	uint64_t features = (g->f.features & ~loose) | (chance(&g->rng, 50) ? loose : 0);

	guest_ok(g, frontend_set_features(&g->f, features), "SET_FEATURES");
	return true;
}

static bool toggle_log(struct guest *g)
{
	if (!(g->f.offered & VU_F_LOG_ALL))
		return false;
	if (g->log_on) {
		guest_ok(g, frontend_log_stop(&g->f, g->n_queues), "end of logging");
		if (frontend_log_count(&g->log) == 0)
			soak_fail("%s: nothing was logged", g->name);
	} else {
		frontend_log_clear(&g->log);
		guest_ok(g, frontend_log_start(&g->f, &g->log, g->n_queues), "logging");
		guest_check_progress(g);
	}
	g->log_on = !g->log_on;
	return true;
}

/* The same memory again, in a new table: nothing stops for that. */
static bool repeat_table(struct guest *g)
{
	struct guest_memory table;

	if (g->f.protocol & VU_PF_CONFIGURE_MEM_SLOTS)
		return false;
	table = g->mem;
	table.n = EXTRA_FIRST;
	for (unsigned i = 0; i < EXTRA_N; i++)
		if (g->extra_there[i])
			table.region[table.n++] = g->mem.region[EXTRA_FIRST + i];
	guest_ok(g, frontend_set_mem_table(&g->f, &table), "SET_MEM_TABLE");
	return true;
}

/* One extra region comes or goes, while requests in the others, and in it before, are under way. */
static bool change_memory(struct guest *g)
{
	unsigned i = soak_random(&g->rng, EXTRA_N);
	const struct guest_region *r = &g->mem.region[EXTRA_FIRST + i];
	bool slots = g->f.protocol & VU_PF_CONFIGURE_MEM_SLOTS;
	bool there = g->extra_there[i];

	if (there) {
		guest_lock(g);
		g->extra_there[i] = false;
		guest_unlock(g);
		for (unsigned n = 0; g->ops->using(g, i); n++) {
			if (n == 300000)
				soak_fail("%s: requests in memory that goes do not come back",
					  g->name);
			soak_step();
		}
		if (slots)
			guest_ok(g, frontend_remove_mem_reg(&g->f, r), "REM_MEM_REG");
		else
			repeat_table(g);
		return true;
	}
	if (slots) {
		guest_ok(g, frontend_add_mem_reg(&g->f, r), "ADD_MEM_REG");
		guest_lock(g);
	} else {
		guest_lock(g); /* not used before the table is there */
		g->extra_there[i] = true;
		repeat_table(g);
	}
	g->extra_there[i] = true;
	guest_unlock(g);
	return true;
}

/* Memory goes while requests use it: the queues break, or not; the next connection is well. */
static bool snatch_memory(struct guest *g)
{
	static const struct guest_memory none;

	if (chance(&g->rng, 50) && g->f.protocol & VU_PF_CONFIGURE_MEM_SLOTS)
		frontend_remove_mem_reg(&g->f, &g->mem.region[soak_random(&g->rng, g->mem.n)]);
	else
		frontend_set_mem_table(&g->f, &none);
	return reconnect(g);
}

static bool recreate_device(struct guest *g)
{
	g->ops->remove(g);
	guest_wait_closed(g);
	g->ops->create(g);
	guest_hello(g);
	guest_begin(g);
	return true;
}

/* The driver begins anew on the same connection, in new rings: a guest that reboots. */
static bool reboot(struct guest *g)
{
	for (unsigned i = 0; i < g->n_queues; i++)
		guest_ok(g, frontend_queue_stop(&g->f, i, NULL), "GET_VRING_BASE");
	if (chance(&g->rng, 50))
		guest_ok(g, frontend_u64_set(&g->f, VU_SET_STATUS, 0), "status 0");
	guest_begin(g);
	return true;
}

static int try_connect(struct guest *g)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(addr.sun_path, g->path, strlen(g->path));
	if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		soak_fail("%s: second connection: %s", g->name, strerror(errno));
	return fd;
}

/* The device goes while a front-end connects: not yet accepted, half-way, or with rings running. */
static bool remove_while_connecting(struct guest *g)
{
	unsigned how_far = soak_random(&g->rng, 4);
	int fd = -1;

	guest_hang_up(g);
	if (how_far == 0)
		fd = try_connect(g);
	else if (how_far > 1)
		guest_hello(g);
	else
		guest_ok(g, frontend_connect(&g->f, g->path), "connect");
	if (chance(&g->rng, 50))
		soak_step();
	if (how_far == 3)
		guest_begin(g);
	g->ops->remove(g);
	guest_wait_closed(g);
	if (fd >= 0)
		close(fd);
	g->ops->create(g);
	guest_hello(g);
	guest_begin(g);
	return true;
}

/* It is turned away, and the first one does not notice; or the first one leaves, and it is served.
 */
static bool second_connection(struct guest *g)
{
	struct vu_header h = { VU_GET_FEATURES, VU_VERSION, 0 };
	int fd = try_connect(g);
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (chance(&g->rng, 50) && send(fd, &h, sizeof(h), MSG_NOSIGNAL) < 0)
		soak_fail("%s: second connection: %s", g->name, strerror(errno));
	if (chance(&g->rng, 30)) {
		close(fd);
		return reconnect(g);
	}
	for (unsigned i = 0; poll(&p, 1, 0) == 0; i++) {
		if (i == 300000)
			soak_fail("%s: a second connection is not turned away", g->name);
		soak_step();
	}
	close(fd);
	return true;
}

static void replace(int *fd)
{
	close(*fd);
	*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (*fd < 0)
		soak_fail("eventfd: %s", strerror(errno));
}

static bool new_descriptors(struct guest *g)
{
	unsigned i = soak_random(&g->rng, g->n_queues);
	struct frontend_queue *q = &g->f.queue[i];

	replace(&q->call_fd);
	guest_ok(g, frontend_vring_fd(&g->f, VU_SET_VRING_CALL, i, q->call_fd), "SET_VRING_CALL");
	replace(&q->err_fd);
	guest_ok(g, frontend_vring_fd(&g->f, VU_SET_VRING_ERR, i, q->err_fd), "SET_VRING_ERR");
	if (chance(&g->rng, 50))
		return true;
	guest_lock(g); /* the driver kicks */
	replace(&q->kick_fd);
	guest_ok(g, frontend_vring_fd(&g->f, VU_SET_VRING_KICK, i, q->kick_fd), "SET_VRING_KICK");
	guest_unlock(g);
	return true;
}

static bool disable_and_enable(struct guest *g)
{
	unsigned i = soak_random(&g->rng, g->n_queues);

	guest_ok(g, frontend_queue_enable(&g->f, i, false), "disable");
	if (chance(&g->rng, 50))
		soak_step();
	guest_ok(g, frontend_queue_enable(&g->f, i, true), "enable");
	return true;
}

/* Any queue, running or in the middle of the last move, to any worker; now and then several. */
static bool move_queue(struct guest *g)
{
	const struct vhost_device *d = g->ops->vhost(g);
	unsigned n = 1 + soak_random(&g->rng, 4);

	while (n--) {
		struct virtqueue *vq = &d->queues[soak_random(&g->rng, g->n_queues)];
		unsigned to = soak_random(&g->rng, soak_n_workers);

		vhost_queue_move(vq, workers_get(soak_workers, to));
	}
	return true;
}

struct event soak_events[] = {
	{ .name = "disconnect", .run = reconnect },
	{ .name = "death within a message", .run = die_in_message },
	{ .name = "GET_VRING_BASE", .run = stop_and_start },
	{ .name = "RESET_DEVICE", .run = reset_device },
	{ .name = "features", .run = change_features },
	{ .name = "LOG_ALL", .run = toggle_log },
	{ .name = "SET_MEM_TABLE", .run = repeat_table },
	{ .name = "memory region", .run = change_memory },
	{ .name = "memory snatched", .run = snatch_memory },
	{ .name = "device removal", .run = recreate_device },
	{ .name = "removal while connecting", .run = remove_while_connecting },
	{ .name = "reboot", .run = reboot },
	{ .name = "second connection", .run = second_connection },
	{ .name = "new descriptors", .run = new_descriptors },
	{ .name = "disable, enable", .run = disable_and_enable },
	{ .name = "queue move", .run = move_queue },
};
const unsigned soak_n_events = ARRAY_SIZE(soak_events);
