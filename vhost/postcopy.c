/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/postcopy.h"

#include "poll/control.h"
#include "vhost/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Pages that are taken note of before others have a turn. */
#define ARRIVED_MAX 64
/* Mappings of one pager: what is taken out and put in again is mapped there again. */
#define MAPS_MAX (4 * MEM_SLOTS_MAX)

struct postcopy {
	struct vhost_device *device;
	struct pager *pager;
	sd_event_source *io;
	unsigned n_maps;
	bool listening;
	bool serves; /* the front-end serves faults */
	bool again;  /* somebody could not ask */
	uint64_t awaited;
};

bool postcopy_on(const struct vhost_device *d)
{
	return d->postcopy && d->postcopy->listening;
}

void postcopy_forget(struct vhost_device *d)
{
	struct postcopy *p = d->postcopy;

	if (!p)
		return;
	for (unsigned i = 0; i < d->n_queues; i++)
		d->queues[i].absent = 0;
	sd_event_source_disable_unref(p->io);
	pager_stop(p->pager);
	free(p);
	d->postcopy = NULL;
}

/* On the worker, or under the queue's lock. */
static void try_again(struct virtqueue *vq, void *arg)
{
	(void)arg;
	if (!(vq->ring.stalled & RING_MISSED))
		return;
	ring_go_on(&vq->ring);
	if (vq->poller)
		poller_wake(vq->poller);
}

static void go_on(struct virtqueue *vq)
{
	vq->absent = 0;
	if (vq->state == VIRTQUEUE_RUNNING)
		vhost_queue_change(vq, try_again, NULL);
}

static void go_on_all(struct postcopy *p)
{
	if (!p->again)
		return;
	p->again = false;
	for (unsigned i = 0; i < p->device->n_queues; i++)
		if (!p->device->queues[i].absent)
			go_on(&p->device->queues[i]);
}

static void ask(struct virtqueue *vq, uint64_t page)
{
	struct postcopy *p = vq->device->postcopy;

	vq->absent = 0;
	if (!p->serves || pager_touch(p->pager, page) < 0) {
		p->again = true;
		return;
	}
	vq->absent = page;
	p->awaited++;
	counter_add(&vq->device->stats.pages_awaited, 1);
}

/* @return the page of @host, where it is still missing, else 0. */
static uint64_t look(const struct vhost_device *d, const void *host)
{
	uint64_t page = mem_absent_page(d->map, host);

	if (page) {
		mem_look(d->map, host);
		page = mem_absent_page(d->map, host);
	}
	return page;
}

void postcopy_wait(struct virtqueue *vq, const void *host)
{
	uint64_t page = postcopy_on(vq->device) ? look(vq->device, host) : 0;

	if (!page)
		go_on(vq);
	else if (page != vq->absent)
		ask(vq, page);
}

bool postcopy_wait_area(struct virtqueue *vq, const void *host, uint64_t len)
{
	const struct mem_map *map = vq->device->map;
	const uint8_t *at = host;

	while (postcopy_on(vq->device) && len) {
		uint64_t n = len, page;

		if (!mem_present(map, at, &n)) {
			page = look(vq->device, at);
			if (page && page != vq->absent)
				ask(vq, page);
			if (page)
				return true;
			continue;
		}
		at += n;
		len -= n;
	}
	return false;
}

static void arrived(struct vhost_device *d, uint64_t page)
{
	mem_arrived(d->map, page);
	for (unsigned i = 0; i < d->n_queues; i++)
		if (d->queues[i].absent == page)
			go_on(&d->queues[i]);
}

static int on_pager(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct postcopy *p = arg;
	struct vhost_device *d = p->device;
	uint64_t page;
	int rc = 0;

	(void)source, (void)fd, (void)events;
	for (unsigned i = 0; i < ARRIVED_MAX && (rc = pager_read(p->pager, &page)) > 0; i++)
		arrived(d, page);
	if (rc < 0) {
		p->io = sd_event_source_disable_unref(p->io);
		session_close(d->session, "the process that waits for its guest's memory has "
					  "ended");
		return 0;
	}
	go_on_all(p);
	session_retry(d->session);
	return 0;
}

static struct postcopy *begin(struct vhost_device *d, struct error *err)
{
	struct postcopy *p = calloc(1, sizeof(*p));
	int rc;

	if (!p) {
		error_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	d->postcopy = p;
	p->device = d;
	p->pager = pager_start(err);
	if (!p->pager) {
		postcopy_forget(d);
		return NULL;
	}
	rc = sd_event_add_io(control_event(), &p->io, pager_fd(p->pager), EPOLLIN, on_pager, p);
	if (rc < 0) {
		error_set(err, rc, "its pager cannot be watched: %s", strerror(-rc));
		postcopy_forget(d);
		return NULL;
	}
	return p;
}

/* QEMU advises once for each pair of a card's queues, and then has the userfaultfd that often. */
int handle_postcopy_advise(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;
	int fd;

	if (!d->postcopy && !begin(d, err))
		return err->code;
	fd = fcntl(pager_userfaultfd(d->postcopy->pager), F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, -errno, "no descriptor for it: %s", strerror(errno));
	s->postcopied = true;
	m->fds[0] = fd;
	m->n_fds = m->reply_fds = 1;
	m->reply_size = 0;
	return 0;
}

int handle_postcopy_listen(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;

	(void)m;
	if (!d->postcopy)
		return error_set(err, -EPROTO, "POSTCOPY_ADVISE has to come before it");
	if (d->postcopy->listening)
		return 0;
	if (d->map && d->map->n)
		return error_set(err, -EBUSY,
				 "memory was shared before it, and is in use as it is");
	d->postcopy->listening = true;
	device_info(d, "%s: postcopy: its guest runs here before all of its memory has arrived",
		    d->name);
	return 0;
}

int handle_postcopy_end(struct vhost_session *s, struct message *m, struct error *err)
{
	struct vhost_device *d = s->device;

	if (!s->postcopied)
		return error_set(err, -EPROTO, "POSTCOPY_ADVISE has to come before it");
	if (postcopy_on(d)) {
		device_info(d,
			    "%s: postcopy: all of its memory is here; %" PRIu64 " pages were "
			    "waited for",
			    d->name, d->postcopy->awaited);
		postcopy_forget(d);
		memory_refresh(s);
	}
	postcopy_forget(d);
	m->payload.u64 = 0;
	m->reply_size = sizeof(m->payload.u64);
	return 0;
}

/* Advised, and then memory without POSTCOPY_LISTEN: the guest came whole. */
void postcopy_memory(struct vhost_session *s)
{
	if (!postcopy_on(s->device))
		postcopy_forget(s->device);
}

int postcopy_take(struct vhost_session *s, struct mem_map *map, struct error *err)
{
	struct postcopy *p = s->device->postcopy;

	for (unsigned i = 0; map && i < map->n; i++) {
		struct mem_region *r = &map->region[i];
		struct pager_file file;
		uint64_t away;

		if (r->presence)
			continue;
		if (p->n_maps == MAPS_MAX)
			return error_set(err, -ENOSPC, "more than %d regions came in postcopy",
					 MAPS_MAX);
		mem_region_file(r, &file);
		away = pager_map(p->pager, &file, err);
		if (!away)
			return err->code;
		p->n_maps++;
		if (mem_region_absent(r, away) < 0)
			return error_set(err, -ENOMEM, "out of memory for a memory region");
	}
	return 0;
}

void postcopy_answer(const struct mem_map *map, struct vhost_user_region *wire)
{
	for (unsigned i = 0; i < map->n; i++)
		if (map->region[i].gpa == wire->guest_addr && map->region[i].presence)
			wire->user_addr = mem_region_away(&map->region[i]);
}

bool postcopy_is_go_ahead(const struct vhost_session *s, const struct message *m)
{
	switch (m->hdr.request) {
	case VHOST_USER_SET_MEM_TABLE:
	case VHOST_USER_ADD_MEM_REG:
	case VHOST_USER_REM_MEM_REG:
		return postcopy_on(s->device) && m->hdr.size == sizeof(m->payload.u64) &&
		       m->n_fds == 0 && m->payload.u64 == 0;
	default:
		return false;
	}
}

int postcopy_go_ahead(struct vhost_session *s)
{
	struct postcopy *p = s->device->postcopy;

	p->serves = true;
	go_on_all(p);
	return 0;
}

bool postcopy_is_answered(const struct vhost_session *s, const struct message *m)
{
	return postcopy_on(s->device) && !postcopy_is_go_ahead(s, m) &&
	       (m->hdr.request == VHOST_USER_SET_MEM_TABLE ||
		m->hdr.request == VHOST_USER_ADD_MEM_REG);
}
