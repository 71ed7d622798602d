/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/rig.h"

#include "bench/interrupt.h"

#include <err.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* While others' calls come, this may happen by chance so often before a ring's own is waited for:
 * calls are asked for, something was used, and nobody called. */
#define UNCALLED_MAX 16

void rig_die(const struct rig *r, const char *doing)
{
	errx(1, "%s: %s: %s", r->path, doing, r->frontend.error);
}

static uint64_t ring_features(const struct rig_options *o)
{
	return VU_F_VERSION_1 | (o->packed ? VU_F_PACKED : 0) | (o->indirect ? VU_F_INDIRECT : 0) |
	       (o->event_idx ? VU_F_EVENT_IDX : 0) | (o->in_order ? VU_F_IN_ORDER : 0);
}

/*
 * What was asked for by name must be there: figures for another ring would mislead. What a command
 * takes because any guest would is left out where it is not offered, as a guest does, and that is
 * told.
 * @return what is left of @wanted.
 */
static uint64_t features_that_are_there(const struct rig *r, const struct rig_options *o,
					uint64_t wanted)
{
	static const struct {
		uint64_t bit;
		const char *name, *option, *remedy;
		bool by_default; /* the option takes it away */
	} names[] = {
		{ VU_F_VERSION_1, "VIRTIO_F_VERSION_1", NULL, "legacy devices are not driven",
		  false },
		{ VU_F_PACKED, "VIRTIO_F_RING_PACKED", "ring", "use --ring split", false },
		{ VU_F_INDIRECT, "VIRTIO_F_INDIRECT_DESC", "no-indirect", NULL, true },
		{ VU_F_EVENT_IDX, "VIRTIO_F_EVENT_IDX", "no-event-idx", NULL, true },
		{ VU_F_IN_ORDER, "VIRTIO_F_IN_ORDER", "in-order", "leave --in-order out", false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		bool can_do_without = names[i].option && rig_has_option(o, names[i].option);

		if (!(wanted & names[i].bit) || r->frontend.offered & names[i].bit)
			continue;
		if (!can_do_without || !names[i].by_default)
			errx(1, "%s: the back-end does not offer %s; %s", r->path, names[i].name,
			     !names[i].option || can_do_without
				     ? names[i].remedy
				     : "this command drives no back-end without it");
		warnx("%s: the back-end does not offer %s: driven without it, as with --%s",
		      r->path, names[i].name, names[i].option);
		wanted &= ~names[i].bit;
	}
	return wanted;
}

/* How many regions the back-end takes: vhost-user "Memory regions", GET_MAX_MEM_SLOTS. */
static void check_regions(struct rig *r, unsigned wanted)
{
	struct frontend *f = &r->frontend;
	uint64_t slots = VU_FDS_MAX;

	if (f->protocol & VU_PF_CONFIGURE_MEM_SLOTS &&
	    frontend_u64_get(f, VU_GET_MAX_MEM_SLOTS, &slots) < 0)
		rig_die(r, "asking for its memory slots");
	if (!slots)
		errx(1, "%s: the back-end says that it takes no memory region (GET_MAX_MEM_SLOTS)",
		     r->path);
	if (wanted > slots)
		errx(1, "%s: the back-end takes %llu memory regions; use --regions %llu", r->path,
		     (unsigned long long)slots, (unsigned long long)slots);
}

static uint64_t guest_bytes(const struct guest_range *ranges, unsigned n)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += ranges[i].size;
	return sum;
}

/*
 * Below and above the PCI hole, as a guest has it: a small region at 0 and the others above 4 GiB,
 * with a hole behind each. Buffers are dealt out to the latter in turn.
 */
static void make_memory(struct rig *r, const struct rig_options *o, uint64_t bytes)
{
	uint64_t page = o->hugepages ? 2 << 20 : 4096, gpa = UINT64_C(1) << 32;
	unsigned n = o->regions, n_high = MAX(n - 1, 1u);
	/* What a buffer leaves over at the end of each, and never more than as much again. */
	uint64_t spare = n > 2 ? MIN(bytes, UINT64_C(17) << 20) : 0;
	uint64_t each = ALIGN_UP(bytes / n_high + spare, page);
	uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	struct guest_range ranges[GUEST_REGIONS_MAX];
	int rc;

	for (unsigned i = 0; i < n; i++) {
		bool low = n > 1 && i == 0;

		ranges[i] = (struct guest_range) { low ? 0 : gpa, low ? 2 << 20 : each };
		gpa += low ? 0 : each + (2 << 20);
	}
	if (guest_bytes(ranges, n) > machine)
		errx(1,
		     "%llu MiB of guest memory, and this machine has %llu: use a smaller --depth, "
		     "--bs or --queue-size, or fewer --queues",
		     (unsigned long long)(guest_bytes(ranges, n) >> 20),
		     (unsigned long long)(machine >> 20));
	/* Sealed: the back-end has the files too, and what it cuts off would be SIGBUS here. */
	rc = guest_memory_create(&r->memory, ranges, n,
				 GUEST_MEMORY_SEALED | (o->hugepages ? GUEST_MEMORY_HUGE : 0));
	if (rc < 0)
		errx(1, "%llu MiB of guest memory%s: %s",
		     (unsigned long long)ALIGN_UP(guest_bytes(ranges, n), 1 << 20) >> 20,
		     o->hugepages ? " in hugepages (see /proc/sys/vm/nr_hugepages)" : "",
		     strerror(-rc));
}

void *rig_alloc(struct rig *r, uint64_t bytes, uint64_t align, uint64_t *gpa)
{
	unsigned n_high = MAX(r->memory.n - 1, 1u);
	unsigned region = r->memory.n - n_high + r->next_region++ % n_high;
	void *p = guest_alloc_in(&r->memory, region, bytes, align, gpa);

	return p ? p : guest_alloc(&r->memory, bytes, align, gpa);
}

/*
 * Whose CPU time counts is who answers. SO_PEERCRED tells of who began to listen: that may be the
 * parent, or whoever passed the socket on.
 */
static int hello(struct rig *r)
{
	struct frontend *f = &r->frontend;
	const int on = 1, off = 0;
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int rc;

	if (getsockopt(f->sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
		r->pid = cred.pid;
	setsockopt(f->sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
	rc = frontend_hello(f, VU_PF_USUAL);
	setsockopt(f->sock, SOL_SOCKET, SO_PASSCRED, &off, sizeof(off));
	if (f->sender > 0)
		r->pid = f->sender;
	return rc;
}

/*
 * vhost-user SET_STATUS; virtio 1.3, 2.1. DPDK's vhost library works on no ring of a front-end that
 * has negotiated STATUS until the driver is ready.
 */
static void say_driver_ok(struct rig *r)
{
	const uint64_t ready = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			       VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

	if ((r->frontend.protocol & VU_PF_STATUS) &&
	    frontend_u64_set(&r->frontend, VU_SET_STATUS, ready) < 0)
		rig_die(r, "telling that the driver is ready");
}

static bool is_same_file(const char *a, const char *b)
{
	struct stat x, y;

	return strcmp(a, b) == 0 || (stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev &&
				     x.st_ino == y.st_ino);
}

/* The first message was not answered: most back-ends serve one front-end at a time. */
static void hello_failed(const struct rig *r, const struct rig_options *o)
{
	unsigned same = 0;

	for (unsigned i = 0; i < o->n_sockets; i++)
		same += is_same_file(r->path, o->sockets[i]);
	if (same > 1)
		errx(1,
		     "%s: the first messages: %s; this socket was given %u times, and may serve "
		     "one front-end at a time",
		     r->path, r->frontend.error, same);
	errx(1,
	     "%s: the first messages: %s; another front-end may be attached, and many back-ends "
	     "serve one at a time",
	     r->path, r->frontend.error);
}

static void reach_backend(struct rig *r, const struct rig_options *o)
{
	struct frontend *f = &r->frontend;

	f->timeout_ms = (int)MIN(o->timeout_ms, 1000u); /* to connect; then all of it */
	if (frontend_connect(f, r->path) < 0)
		errx(1, "%s; is a back-end serving that socket?", f->error);
	f->timeout_ms = (int)o->timeout_ms;
}

/* --listen: for back-ends that connect (vhost-user "Communication"). One connection is taken. */
static void await_backend(struct rig *r, const struct rig_options *o)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct frontend *f = &r->frontend;
	int rc, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(r->path) >= sizeof(addr.sun_path))
		errx(1, "%s: too long for a socket", r->path);
	memcpy(addr.sun_path, r->path, strlen(r->path));
	if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		errx(1, "--listen: %s: %s%s", r->path, strerror(errno),
		     errno == EADDRINUSE ? "; remove it, or leave --listen out to connect to it"
					 : "");
	interrupt_unlinks(r->path);
	f->timeout_ms = (int)o->timeout_ms;
	if (listen(fd, 1) < 0)
		err(1, "--listen: %s", r->path);
	rc = frontend_accept(f, fd);
	unlink(r->path);
	interrupt_unlinks(NULL);
	close(fd);
	if (rc < 0)
		errx(1, "%s: no back-end connected within %u ms (--timeout)", r->path,
		     o->timeout_ms);
}

/*
 * vhost-user "Multiple queue support": what the back-end serves, without MQ one queue, or a card's
 * one pair. Some count a card's queues there, some its pairs.
 */
static void check_queues(struct rig *r, unsigned wanted)
{
	uint64_t most = 1;

	if (wanted < 2)
		return;
	if (r->frontend.protocol & VU_PF_MQ &&
	    frontend_u64_get(&r->frontend, VU_GET_QUEUE_NUM, &most) < 0)
		rig_die(r, "asking for its queues");
	if (wanted > most)
		errx(1,
		     "%s: the back-end has %llu queue%s, and %u were asked for: use fewer --queues",
		     r->path, (unsigned long long)most, most == 1 ? "" : "s", wanted);
}

struct rig *rig_open(const struct rig_options *o, enum rig_kind kind, const char *path,
		     unsigned n_rings, uint64_t device_features, uint64_t memory_bytes)
{
	struct frontend_queue_options q = { .size = o->queue_size,
					    .indirect_segs = o->indirect_segs };
	struct rig *r = calloc(1, sizeof(*r));
	uint64_t wanted = ring_features(o);
	struct frontend *f;

	if (!r)
		errx(1, "out of memory");
	r->path = path;
	f = &r->frontend;
	frontend_init(f);
	if (o->listen)
		await_backend(r, o);
	else
		reach_backend(r, o);
	if (hello(r) < 0)
		hello_failed(r, o);
	rig_warn_of_shared_cpu(r, o);
	rig_check_kind(r, kind);
	wanted = features_that_are_there(r, o, wanted);
	q.indirect = wanted & VU_F_INDIRECT ? DRIVER_INDIRECT_LONG : DRIVER_DIRECT;
	check_queues(r, o->queues);
	check_regions(r, o->regions);
	if (frontend_set_features(f, wanted | device_features) < 0)
		rig_die(r, "setting features");
	make_memory(r, o,
		    memory_bytes + (uint64_t)n_rings * o->queue_size * (16 * 18 + 64) +
			    (uint64_t)n_rings * 65536);
	if (frontend_share_memory(f, &r->memory) < 0)
		rig_die(r, "sharing memory");
	for (unsigned i = 0; i < n_rings; i++) {
		if (frontend_queue_setup(f, i, &q) < 0)
			rig_die(r, "making a ring");
		/* Some back-ends tell a length where there is none to tell (packed, transmit). */
		f->queue[i].ring.ignores_reserved_len = true;
		/* And DPDK gives several frames back at once (packed, transmit). */
		f->queue[i].ring.takes_batches = o->in_order;
		if (!o->sleep)
			rig_calls_off(r, i);
		if (frontend_queue_start(f, i) < 0)
			rig_die(r, "starting a ring");
	}
	r->n_rings = n_rings;
	rig_watch(r, o->timeout_ms);
	say_driver_ok(r);
	return r;
}

void rig_close(struct rig *r)
{
	rig_unwatch(r);
	frontend_close(&r->frontend);
	guest_memory_destroy(&r->memory);
	free(r);
}

void rig_disk_knows(const struct rig *r, const struct rig_disk *d, size_t end, const char *name)
{
	if (d->bytes < end)
		errx(1,
		     "%s: the back-end's configuration of the disk ends after %u bytes, before %s",
		     r->path, d->bytes, name);
}

void rig_read_disk(struct rig *r, struct rig_disk *d)
{
	int rc = guest_blk_read_config(&r->frontend, &d->config);

	if (rc == -EREMOTEIO)
		errx(1, "%s: the back-end refused to read its configuration, in any size", r->path);
	if (rc < 0)
		rig_die(r, "reading its configuration");
	d->bytes = (uint32_t)rc;
	RIG_DISK_KNOWS(r, d, capacity);
	if (d->config.capacity > UINT64_MAX / 512)
		errx(1,
		     "%s: the back-end says that its disk has %llu sectors, which is more than 64 "
		     "bits of bytes; no disk has",
		     r->path, (unsigned long long)d->config.capacity);
}

void rig_calls_off(struct rig *r, unsigned ring)
{
	struct driver_ring *d = &r->frontend.queue[ring].ring;

	if (d->layout == DRIVER_SPLIT)
		driver_calls_off(d, DRIVER_SPLIT);
	else
		driver_calls_off(d, DRIVER_PACKED);
}

static void await_call(struct rig *r, unsigned ring, unsigned patience_ms)
{
	struct pollfd fds[] = { { .fd = r->frontend.queue[ring].call_fd, .events = POLLIN },
				{ .fd = r->frontend.sock, .events = POLLRDHUP } };

	if (poll(fds, ARRAY_SIZE(fds), (int)patience_ms) == 0)
		errx(1, "%s: queue %u: chains were used, but no call came", r->path, ring);
	if (fds[1].revents)
		rig_check_alive(r, 0, patience_ms);
}

void rig_check_called(struct rig *r, unsigned ring, bool called, int n_called, unsigned patience_ms)
{
	if (!called && driver_ring_has_used(&r->frontend.queue[ring].ring) &&
	    (++r->uncalled[ring] > UNCALLED_MAX || n_called == 0)) {
		await_call(r, ring, patience_ms);
		called = true;
	}
	if (called)
		r->uncalled[ring] = 0;
}

void rig_check_error(const struct rig *r, unsigned queue)
{
	if (frontend_take_event(r->frontend.queue[queue].err_fd))
		errx(1, "%s: the back-end signalled an error of queue %u", r->path, queue);
}

void rig_check_alive(struct rig *r, uint64_t idle_ns, unsigned timeout_ms)
{
	/* Not by reading: what it said before, unasked, would hide it. */
	struct pollfd p = { .fd = r->frontend.sock, .events = POLLRDHUP };

	if (poll(&p, 1, 0) > 0 && p.revents)
		errx(1, "%s: the back-end hung up in the middle of the run", r->path);
	if (idle_ns > (uint64_t)timeout_ms * 1000000)
		errx(1, "%s: the back-end has done nothing for %u ms", r->path, timeout_ms);
}
