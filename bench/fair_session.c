/* SPDX-License-Identifier: Apache-2.0 */
/* Attacks on what all devices share: the back-end's control thread, and through it its workers. */
#include "bench/fair.h"

#include <err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct fair_session {
	uint64_t offered, features, protocol;
	unsigned n_rings, broken; /* the ring that is broken */
	bool added;		  /* regions: the extra one is there */
	struct guest_memory extra;
};

/* Front-ends of cards have two rings, and one of them is not read: the transmit queue, 1, is. */
void fair_session_start(struct fair_hostile *h)
{
	const struct frontend *f = &h->guest[0]->rig->frontend;
	const struct guest_range range = { UINT64_C(1) << 40, 2 << 20 };
	struct fair_session *s = calloc(1, sizeof(*s));

	if (!s || guest_memory_create(&s->extra, &range, 1, 0) < 0)
		errx(1, "out of memory");
	s->n_rings = f->queue[1].set_up ? 2 : 1;
	s->broken = s->n_rings - 1;
	s->offered = f->offered;
	s->features = f->features;
	s->protocol = f->protocol;
	h->session = s;
}

void fair_session_stop(struct fair_hostile *h)
{
	guest_memory_destroy(&h->session->extra);
	free(h->session);
	h->session = NULL;
}

/* Answers go; @return whether the socket takes more. */
static bool takes_more(struct frontend *f)
{
	struct pollfd p = { .fd = f->sock, .events = POLLOUT };
	char bin[4096];

	while (recv(f->sock, bin, sizeof(bin), MSG_DONTWAIT) > 0)
		;
	return poll(&p, 1, 0) > 0 && !(p.revents & (POLLHUP | POLLERR));
}

static void say(struct fair_hostile *h, uint32_t request, const void *payload, uint32_t size,
		const int *fds, unsigned n_fds)
{
	struct frontend *f = &h->guest[0]->rig->frontend;

	if (frontend_send(f, request, VU_VERSION, payload, size, fds, n_fds) < 0)
		rig_die(h->guest[0]->rig, "a storm of messages");
}

void fair_messages_step(struct fair_hostile *h)
{
	if (takes_more(&h->guest[0]->rig->frontend))
		say(h, VU_GET_FEATURES, NULL, 0, NULL, 0);
}

void fair_regions_step(struct fair_hostile *h)
{
	struct fair_session *s = h->session;
	const struct guest_region *r = &s->extra.region[0];
	struct vu_mem_reg m = { .region = { r->gpa, r->size, r->uva, r->offset } };

	if (!takes_more(&h->guest[0]->rig->frontend))
		return;
	if (s->added)
		say(h, VU_REM_MEM_REG, &m, sizeof(m), NULL, 0);
	else
		say(h, VU_ADD_MEM_REG, &m, sizeof(m), &r->fd, 1);
	s->added = !s->added;
}

void fair_tables_step(struct fair_hostile *h)
{
	const struct guest_memory *m = &h->guest[0]->rig->memory;
	struct vu_mem_table t = { .n = m->n };
	int fds[VU_FDS_MAX];

	if (!takes_more(&h->guest[0]->rig->frontend))
		return;
	for (unsigned i = 0; i < m->n; i++) {
		const struct guest_region *r = &m->region[i];

		t.region[i] = (struct vu_region) { r->gpa, r->size, r->uva, r->offset };
		fds[i] = r->fd;
	}
	say(h, VU_SET_MEM_TABLE, &t,
	    (uint32_t)(offsetof(struct vu_mem_table, region) + m->n * sizeof(t.region[0])), fds,
	    m->n);
}

/*
 * A chain without an end, at the ring's beginning: it is there as soon as the ring starts. split:
 * descriptor 0 leads through all others and back. packed: each one says that another follows.
 */
static void lay_endless_chain(struct driver_ring *r, uint64_t gpa)
{
	if (r->layout == DRIVER_SPLIT) {
		for (uint32_t i = 0; i < r->size; i++)
			r->split.desc[i] = (struct vring_desc) {
				.addr = gpa,
				.len = 1,
				.flags = VRING_DESC_F_NEXT,
				.next = (uint16_t)((i + 1) % r->size),
			};
		memset(r->split.avail->ring, 0, r->size * sizeof(r->split.avail->ring[0]));
		r->split.avail->idx = 1;
	} else {
		for (uint32_t i = 0; i < r->size; i++)
			r->packed.desc[i] = (struct vring_packed_desc) {
				.addr = gpa,
				.len = 1,
				.flags = VRING_DESC_F_NEXT | 1 << VRING_PACKED_DESC_F_AVAIL,
			};
	}
}

void fair_loops_start(struct fair_hostile *h)
{
	struct frontend *f = &h->guest[0]->rig->frontend;
	uint64_t gpa;

	fair_session_start(h);
	/* It is started as it stands by the first restart; until then it is empty. */
	if (frontend_queue_stop(f, h->session->broken, NULL) < 0 ||
	    !guest_alloc(f->memory, 64, 64, &gpa))
		rig_die(h->guest[0]->rig, "stopping a ring");
	lay_endless_chain(&f->queue[h->session->broken].ring, gpa);
}

/* Stop (the answer is not waited for), where to begin, and start: three messages a round. */
void fair_loops_step(struct fair_hostile *h)
{
	struct frontend *f = &h->guest[0]->rig->frontend;
	const struct frontend_queue *q = &f->queue[h->session->broken];
	struct vu_state base = { h->session->broken, driver_base_start(q->ring.layout) };
	uint64_t index = h->session->broken;

	if (!takes_more(f))
		return;
	say(h, VU_GET_VRING_BASE, &(struct vu_state) { base.index, 0 }, sizeof(base), NULL, 0);
	say(h, VU_SET_VRING_BASE, &base, sizeof(base), NULL, 0);
	say(h, VU_SET_VRING_KICK, &index, sizeof(index), &q->kick_fd, 1);
}

void fair_reconnect_start(struct fair_hostile *h)
{
	struct frontend *f = &h->guest[0]->rig->frontend;

	fair_session_start(h);
	close(f->sock);
	f->sock = -1;
}

/* @return a connected socket, or -1 where the back-end has too many waiting already. */
static int connect_now(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* All that a session needs, and the end of it, in one go: the messages wait in the socket. */
void fair_reconnect_step(struct fair_hostile *h)
{
	struct rig *r = h->guest[0]->rig;
	struct fair_session *s = h->session;
	struct frontend *f = &r->frontend;
	int fd = connect_now(r->path), rc;

	if (fd < 0)
		return;
	frontend_attach(f, fd);
	f->offered = s->offered;
	f->protocol_offered = s->protocol;
	/* Without REPLY_ACK nothing is waited for. */
	f->protocol = s->protocol & ~VU_PF_REPLY_ACK;
	rc = frontend_set(f, VU_SET_OWNER, NULL, 0, NULL, 0);
	if (rc == 0)
		rc = frontend_u64_set(f, VU_SET_PROTOCOL_FEATURES, f->protocol);
	if (rc == 0)
		rc = frontend_set_features(f, s->features);
	if (rc == 0)
		rc = frontend_share_memory(f, &r->memory);
	for (unsigned i = 0; rc == 0 && i < s->n_rings; i++)
		rc = frontend_queue_start(f, i);
	/* A back-end may turn away a second front-end, and so hang up: that is fine. */
	if (rc < 0 && rc != -ECONNRESET)
		rig_die(r, "a storm of connections");
	close(f->sock);
	f->sock = -1;
}
