/* SPDX-License-Identifier: Apache-2.0 */
/* What the front-end says, message by message. */
#include "tests/guest/frontend.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

int frontend_set(struct frontend *f, uint32_t request, const void *payload, uint32_t size,
		 const int *fds, unsigned n_fds)
{
	bool ack = f->protocol & VU_PF_REPLY_ACK;
	uint64_t value = 0;
	int rc = frontend_send(f, request, VU_VERSION | (ack ? VU_NEED_REPLY : 0), payload, size,
			       fds, n_fds);

	if (rc < 0 || !ack)
		return rc;
	rc = frontend_recv_reply(f, request, &value, sizeof(value), NULL, NULL);
	if (rc < 0)
		return rc;
	if (rc != sizeof(value))
		return frontend_fail(f, -EPROTO, "ack of message %u: %d bytes", request, rc);
	if (value)
		return frontend_fail(f, -EREMOTEIO, "the back-end refused message %u (%llu)",
				     request, (unsigned long long)value);
	return 0;
}

int frontend_u64_set(struct frontend *f, uint32_t request, uint64_t value)
{
	return frontend_set(f, request, &value, sizeof(value), NULL, 0);
}

int frontend_u64_get(struct frontend *f, uint32_t request, uint64_t *value)
{
	int rc = frontend_send(f, request, VU_VERSION, NULL, 0, NULL, 0);

	if (rc < 0)
		return rc;
	rc = frontend_recv_reply(f, request, value, sizeof(*value), NULL, NULL);
	if (rc < 0)
		return rc;
	return rc == sizeof(*value)
		       ? 0
		       : frontend_fail(f, -EPROTO, "answer to message %u: %d bytes", request, rc);
}

int frontend_state_set(struct frontend *f, uint32_t request, uint32_t index, uint32_t num)
{
	struct vu_state s = { .index = index, .num = num };

	return frontend_set(f, request, &s, sizeof(s), NULL, 0);
}

int frontend_vring_fd(struct frontend *f, uint32_t request, unsigned index, int fd)
{
	uint64_t value = index | (fd < 0 ? VU_NO_FD : 0);

	return frontend_set(f, request, &value, sizeof(value), &fd, fd < 0 ? 0 : 1);
}

int frontend_hello(struct frontend *f, uint64_t protocol_wanted)
{
	int rc = frontend_u64_get(f, VU_GET_FEATURES, &f->offered);

	if (rc < 0)
		return rc;
	if (f->offered & VU_F_PROTOCOL) {
		uint64_t wanted;

		rc = frontend_u64_get(f, VU_GET_PROTOCOL_FEATURES, &f->protocol_offered);
		if (rc < 0)
			return rc;
		wanted = protocol_wanted & f->protocol_offered;
		/* Not acked: REPLY_ACK is only negotiated by this very message. */
		rc = frontend_send(f, VU_SET_PROTOCOL_FEATURES, VU_VERSION, &wanted, sizeof(wanted),
				   NULL, 0);
		if (rc < 0)
			return rc;
		f->protocol = wanted;
	}
	return frontend_set(f, VU_SET_OWNER, NULL, 0, NULL, 0);
}

int frontend_set_features(struct frontend *f, uint64_t wanted)
{
	uint64_t features = wanted & f->offered;
	int rc;

	if (f->offered & VU_F_PROTOCOL && f->protocol_offered)
		features |= VU_F_PROTOCOL;
	rc = frontend_u64_set(f, VU_SET_FEATURES, features);
	if (rc == 0)
		f->features = features;
	return rc;
}

static struct vu_region wire_region(const struct frontend *f, const struct guest_region *r)
{
	return (struct vu_region) { .gpa = r->gpa,
				    .size = r->size,
				    .uva = f->protocol & VU_PF_GPA_ADDRESSES ? r->gpa : r->uva,
				    .offset = r->offset };
}

/* vhost-user "A vring address description": what an address of a ring is depends. */
static uint64_t ring_address(const struct frontend *f, const void *p)
{
	if (f->features & VU_F_ACCESS_PLATFORM)
		return guest_gpa(f->memory, p) + f->iova_base;
	if (f->protocol & VU_PF_GPA_ADDRESSES)
		return guest_gpa(f->memory, p);
	return guest_uva(f->memory, p);
}

int frontend_set_mem_table(struct frontend *f, const struct guest_memory *m)
{
	struct vu_mem_table t = { .n = m->n };
	int fds[VU_FDS_MAX];

	if (m->n > VU_FDS_MAX)
		return frontend_fail(f, -E2BIG, "%u regions, SET_MEM_TABLE takes %u", m->n,
				     VU_FDS_MAX);
	for (unsigned i = 0; i < m->n; i++) {
		t.region[i] = wire_region(f, &m->region[i]);
		fds[i] = m->region[i].fd;
	}
	return frontend_set(f, VU_SET_MEM_TABLE, &t,
			    offsetof(struct vu_mem_table, region) + m->n * sizeof(t.region[0]), fds,
			    m->n);
}

int frontend_add_mem_reg(struct frontend *f, const struct guest_region *r)
{
	struct vu_mem_reg msg = { .region = wire_region(f, r) };

	return frontend_set(f, VU_ADD_MEM_REG, &msg, sizeof(msg), &r->fd, 1);
}

int frontend_remove_mem_reg(struct frontend *f, const struct guest_region *r)
{
	struct vu_mem_reg msg = { .region = wire_region(f, r) };

	return frontend_set(f, VU_REM_MEM_REG, &msg, sizeof(msg), NULL, 0);
}

int frontend_share_memory(struct frontend *f, struct guest_memory *m)
{
	f->memory = m;
	if (!(f->protocol & VU_PF_CONFIGURE_MEM_SLOTS))
		return frontend_set_mem_table(f, m);
	for (unsigned i = 0; i < m->n; i++) {
		int rc = frontend_add_mem_reg(f, &m->region[i]);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int make_ring(struct frontend *f, unsigned index, const struct frontend_queue_options *opt)
{
	enum driver_layout layout = f->features & VU_F_PACKED ? DRIVER_PACKED : DRIVER_SPLIT;
	struct driver_config cfg = {
		.layout = layout,
		.size = opt->size,
		.indirect = f->features & VU_F_INDIRECT ? opt->indirect : DRIVER_DIRECT,
		.indirect_segs = opt->indirect_segs ? opt->indirect_segs : 64,
		.event_idx = f->features & VU_F_EVENT_IDX,
		.in_order = f->features & VU_F_IN_ORDER,
		.base = opt->has_base ? opt->base : driver_base_start(layout),
	};
	uint32_t segs = cfg.indirect == DRIVER_DIRECT ? 0 : cfg.indirect_segs;
	int rc;

	cfg.area = guest_alloc(f->memory, driver_ring_bytes(layout, opt->size, segs), 4096,
			       &cfg.area_gpa);
	if (!cfg.area)
		return frontend_fail(f, -ENOMEM, "no guest memory left for ring %u", index);
	if (f->features & VU_F_ACCESS_PLATFORM)
		cfg.area_gpa += f->iova_base;
	f->queue[index].base = cfg.base;
	rc = driver_ring_init(&f->queue[index].ring, &cfg);
	return rc ? frontend_fail(f, rc, "ring %u of size %u: %s", index, opt->size, strerror(-rc))
		  : 0;
}

int frontend_queue_setup(struct frontend *f, unsigned index,
			 const struct frontend_queue_options *opt)
{
	struct frontend_queue *q;
	int rc;

	if (index >= FRONTEND_QUEUES_MAX || !f->memory)
		return frontend_fail(f, -EINVAL, "queue %u, %s memory", index,
				     f->memory ? "with" : "no");
	frontend_queue_free(f, index);
	q = &f->queue[index];
	rc = make_ring(f, index, opt);
	if (rc < 0)
		return rc;
	q->set_up = true;
	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->err_fd = opt->no_err_fd ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->kick_fd < 0 || q->call_fd < 0)
		return frontend_fail(f, -errno, "eventfd: %s", strerror(errno));
	return 0;
}

int frontend_queue_start(struct frontend *f, unsigned index)
{
	struct frontend_queue *q = &f->queue[index];
	const struct driver_ring *r = &q->ring;
	struct vu_addr addr = { .index = index };
	int rc;

	if (!q->set_up)
		return frontend_fail(f, -EINVAL, "queue %u is not set up", index);
	addr.desc = ring_address(f, driver_desc_area(r));
	addr.avail = ring_address(f, driver_driver_area(r));
	addr.used = ring_address(f, driver_device_area(r));
	rc = frontend_state_set(f, VU_SET_VRING_NUM, index, r->size);
	if (rc == 0)
		rc = frontend_state_set(f, VU_SET_VRING_BASE, index, q->base);
	if (rc == 0)
		rc = frontend_set(f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
	if (rc == 0 && q->err_fd >= 0)
		rc = frontend_vring_fd(f, VU_SET_VRING_ERR, index, q->err_fd);
	if (rc == 0)
		rc = frontend_vring_fd(f, VU_SET_VRING_KICK, index, q->kick_fd);
	if (rc == 0)
		rc = frontend_vring_fd(f, VU_SET_VRING_CALL, index, q->call_fd);
	if (rc == 0 && f->features & VU_F_PROTOCOL)
		rc = frontend_queue_enable(f, index, true);
	return rc;
}

int frontend_queue_enable(struct frontend *f, unsigned index, bool on)
{
	return frontend_state_set(f, VU_SET_VRING_ENABLE, index, on);
}

int frontend_queue_stop(struct frontend *f, unsigned index, uint32_t *base)
{
	struct vu_state s = { .index = index };
	int rc = frontend_send(f, VU_GET_VRING_BASE, VU_VERSION, &s, sizeof(s), NULL, 0);

	if (rc < 0)
		return rc;
	rc = frontend_recv_reply(f, VU_GET_VRING_BASE, &s, sizeof(s), NULL, NULL);
	if (rc < 0)
		return rc;
	if (rc != sizeof(s) || s.index != index)
		return frontend_fail(f, -EPROTO, "answer to GET_VRING_BASE of ring %u: ring %u",
				     index, s.index);
	f->queue[index].base = s.num;
	if (base)
		*base = s.num;
	return 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void frontend_queue_free(struct frontend *f, unsigned index)
{
	struct frontend_queue *q = &f->queue[index];

	driver_ring_fini(&q->ring);
	close_fd(&q->kick_fd);
	close_fd(&q->call_fd);
	close_fd(&q->err_fd);
	q->set_up = false;
	q->kicks = q->calls = 0;
}

void frontend_close(struct frontend *f)
{
	for (unsigned i = 0; i < FRONTEND_QUEUES_MAX; i++)
		frontend_queue_free(f, i);
	close_fd(&f->backend_sock);
	close_fd(&f->sock);
	f->memory = NULL;
	f->features = f->protocol = 0;
}

void frontend_kick(struct frontend *f, unsigned index)
{
	struct frontend_queue *q = &f->queue[index];

	__atomic_store_n(&q->kick_turns, q->kick_turns + 1, __ATOMIC_RELAXED);
	/* A full eventfd (EAGAIN) is as good as a kick: the device has one to read anyway. */
	if (eventfd_write(q->kick_fd, 1) == 0)
		q->kicks++;
	__atomic_store_n(&q->kick_turns, q->kick_turns + 1, __ATOMIC_RELAXED);
}

void frontend_submit(struct frontend *f, unsigned index)
{
	struct driver_ring *r = &f->queue[index].ring;

	if (r->layout == DRIVER_SPLIT ? driver_publish(r, DRIVER_SPLIT)
				      : driver_publish(r, DRIVER_PACKED))
		frontend_kick(f, index);
}

bool frontend_poll(struct frontend *f, unsigned index, struct driver_used *used)
{
	struct driver_ring *r = &f->queue[index].ring;

	return r->layout == DRIVER_SPLIT ? driver_poll(r, DRIVER_SPLIT, used)
					 : driver_poll(r, DRIVER_PACKED, used);
}

/* The exchange; the answer is in @c. @return how many bytes of the configuration, or -errno. */
static int ask_config(struct frontend *f, struct vu_config *c, uint32_t offset, uint32_t len)
{
	const int head = offsetof(struct vu_config, data);
	int rc;

	if (len > VU_CONFIG_MAX)
		return frontend_fail(f, -EINVAL, "%u bytes of config", len);
	*c = (struct vu_config) { .offset = offset, .size = len };
	rc = frontend_send(f, VU_GET_CONFIG, VU_VERSION, c, (uint32_t)head + len, NULL, 0);
	if (rc < 0)
		return rc;
	rc = frontend_recv_reply(f, VU_GET_CONFIG, c, sizeof(*c), NULL, NULL);
	if (rc < 0)
		return rc;
	/* Without a payload (vhost-user "VHOST_USER_GET_CONFIG"); rust-vmm's say so in the payload.
	 */
	if (rc == 0 || (rc == head && c->size == 0))
		return frontend_fail(f, -EREMOTEIO, "the back-end refused to read config at %u",
				     offset);
	if (rc < head || c->size > len || rc - head < (int)c->size || c->offset != offset)
		return frontend_fail(f, -EPROTO,
				     "answer to GET_CONFIG: %d bytes, offset %u, size %u", rc,
				     c->offset, c->size);
	return (int)c->size;
}

int frontend_get_config(struct frontend *f, uint32_t offset, void *data, uint32_t len)
{
	struct vu_config c;
	int rc = ask_config(f, &c, offset, len);

	if (rc < 0)
		return rc;
	if (rc != (int)len)
		return frontend_fail(f, -EPROTO, "answer to GET_CONFIG: %d of %u bytes", rc, len);
	memcpy(data, c.data, len);
	return 0;
}

int frontend_get_config_start(struct frontend *f, void *data, uint32_t max, const uint32_t *sizes,
			      unsigned n)
{
	struct vu_config c;
	int rc = -EINVAL;

	memset(data, 0, max);
	for (unsigned i = 0; i < n; i++) {
		rc = ask_config(f, &c, 0, sizes[i]);
		if (rc >= 0) {
			rc = (int)MIN((uint32_t)rc, max);
			memcpy(data, c.data, (size_t)rc);
		}
		if (rc != -EREMOTEIO)
			return rc;
	}
	return rc;
}

int frontend_set_config(struct frontend *f, uint32_t offset, const void *data, uint32_t len,
			uint32_t flags)
{
	struct vu_config c = { .offset = offset, .size = len, .flags = flags };

	if (len > VU_CONFIG_MAX)
		return frontend_fail(f, -EINVAL, "%u bytes of config", len);
	memcpy(c.data, data, len);
	return frontend_set(f, VU_SET_CONFIG, &c, offsetof(struct vu_config, data) + len, NULL, 0);
}

int frontend_open_backend_channel(struct frontend *f)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return frontend_fail(f, -errno, "socketpair: %s", strerror(errno));
	rc = frontend_set(f, VU_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1);
	close(pair[1]);
	if (rc < 0) {
		close(pair[0]);
		return rc;
	}
	close_fd(&f->backend_sock);
	f->backend_sock = pair[0];
	return 0;
}
