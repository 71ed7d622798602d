/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench net: frames from the first socket's card to the second's, through whatever switches
 * between them; with one socket, frames that the back-end sends back to where they came from (as
 * dpdk-testpmd does with one port). One thread is both guests.
 *
 * By default no more frames are under way than the receiver has buffers for (a closed loop), so
 * that what is measured is what got through without loss. --open sends as fast as the ring takes.
 */
#include "bench/bench.h"

#include "base/clock.h"

#include <err.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HDR_BYTES 12 /* virtio 1.3 5.1.6.1 */
#define FRAME_MIN 60
#define FRAME_MAX 1514
#define BURST 32
#define CHECK_EVERY_US 50000
#define COMMON_OPTIONS                                                                     \
	"ring no-indirect no-event-idx in-order queue-size queues time timeout cpu sleep " \
	"hugepages "                                                                       \
	"regions listen json"
/* Nothing came for so long though frames are under way: they are lost. */
#define LOST_AFTER_US 20000

struct net_options {
	struct rig_options rig;
	uint32_t size;
	bool open, verify;
};

/* What a frame carries behind its Ethernet header. */
struct stamp {
	uint64_t serial, cycles;
};

struct buf {
	uint64_t gpa;
	uint8_t *host;
};

struct net_run {
	const struct net_options *opt;
	struct rig *from, *to; /* one and the same with one socket */
	struct driver_ring *tx, *rx;
	struct buf *tx_free;
	unsigned n_tx_free;
	uint64_t sent, received, lost, reordered, bytes, last_serial;
	struct histogram latency;
};

HOT int add(struct driver_ring *r, const struct driver_seg *seg, unsigned n_out, unsigned n_in,
	    void *cookie)
{
	return r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, seg, n_out, n_in, cookie)
					 : driver_add(r, DRIVER_PACKED, seg, n_out, n_in, cookie);
}

HOT bool poll_ring(struct driver_ring *r, struct driver_used *u)
{
	return r->layout == DRIVER_SPLIT ? driver_poll(r, DRIVER_SPLIT, u)
					 : driver_poll(r, DRIVER_PACKED, u);
}

static void check_ring(const struct rig *r, const struct driver_ring *d)
{
	if (driver_violation(d))
		errx(1, "%s: the back-end broke a rule: %s", r->path, driver_violation(d));
}

static struct buf make_buf(struct rig *r, uint32_t bytes)
{
	struct buf b;

	b.host = rig_alloc(r, ALIGN_UP(bytes, 64), 64, &b.gpa);
	if (!b.host)
		errx(1, "no guest memory for buffers");
	return b;
}

static void give_rx(struct net_run *n, struct buf *b)
{
	struct driver_seg seg = { b->gpa, HDR_BYTES + FRAME_MAX };

	if (add(n->rx, &seg, 0, 1, b) < 0)
		errx(1, "the receive ring took no buffer");
}

static void prepare(struct net_run *n)
{
	static const uint8_t ether[] = { 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5 };
	unsigned size = n->opt->rig.queue_size;
	struct buf *rx = calloc(size, sizeof(*rx));

	n->tx = &n->from->frontend.queue[1].ring;
	n->rx = &n->to->frontend.queue[0].ring;
	n->tx_free = calloc(size, sizeof(*n->tx_free));
	if (!rx || !n->tx_free)
		errx(1, "out of memory");
	for (unsigned i = 0; i < size; i++) {
		struct buf *b = &n->tx_free[n->n_tx_free++];

		rx[i] = make_buf(n->to, HDR_BYTES + FRAME_MAX);
		give_rx(n, &rx[i]);
		*b = make_buf(n->from, HDR_BYTES + FRAME_MAX);
		memset(b->host, 0, HDR_BYTES);
		memset(b->host + HDR_BYTES, 0x5a, FRAME_MAX);
		memcpy(b->host + HDR_BYTES, ether, sizeof(ether));
	}
	frontend_submit(&n->to->frontend, 0);
}

/*
 * A frame from the receiver, so that a learning switch knows where it is. Its buffer is lost to the
 * run; its ring is not used else.
 */
static void introduce(struct net_run *n)
{
	static const uint8_t ether[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,
					 0,    0,    0,	   0,	 2,    0x88, 0xb5 };
	struct driver_ring *r = &n->to->frontend.queue[1].ring;
	struct buf b = make_buf(n->to, HDR_BYTES + FRAME_MIN);
	struct driver_seg seg = { b.gpa, HDR_BYTES + FRAME_MIN };
	struct driver_used u;
	uint64_t start = clock_ns();

	memset(b.host, 0, HDR_BYTES + FRAME_MIN);
	memcpy(b.host + HDR_BYTES, ether, sizeof(ether));
	add(r, &seg, 1, 0, NULL);
	frontend_submit(&n->to->frontend, 1);
	while (!poll_ring(r, &u)) {
		check_ring(n->to, r);
		rig_check_alive(n->to, clock_ns() - start, n->opt->rig.timeout_ms);
	}
}

static unsigned send_some(struct net_run *n)
{
	uint64_t window = n->opt->open ? UINT64_MAX : n->opt->rig.queue_size;
	struct driver_seg seg = { .len = HDR_BYTES + n->opt->size };
	uint64_t cycles = clock_cycles();
	struct driver_used u;
	unsigned count = 0;

	while (n->n_tx_free < n->opt->rig.queue_size && poll_ring(n->tx, &u)) {
		struct buf b = { .gpa = (uintptr_t)u.cookie };

		b.host = guest_ptr(&n->from->memory, b.gpa, 1);
		n->tx_free[n->n_tx_free++] = b;
	}
	while (count < BURST && n->n_tx_free && n->sent - n->received - n->lost < window) {
		struct buf *b = &n->tx_free[n->n_tx_free - 1];
		struct stamp s = { ++n->sent, cycles };

		memcpy(b->host + HDR_BYTES + 14, &s, sizeof(s));
		seg.gpa = b->gpa;
		if (add(n->tx, &seg, 1, 0, (void *)(uintptr_t)b->gpa) < 0) {
			n->sent--;
			break;
		}
		n->n_tx_free--;
		count++;
	}
	if (count)
		frontend_submit(&n->from->frontend, 1);
	return count;
}

static void frame_came(struct net_run *n, const struct buf *b, uint32_t len)
{
	struct stamp s;

	memcpy(&s, b->host + HDR_BYTES + 14, sizeof(s));
	if (len != HDR_BYTES + n->opt->size)
		errx(1, "%s: a frame of %u bytes came as %d", n->to->path, n->opt->size,
		     (int)len - HDR_BYTES);
	if (n->opt->verify)
		for (uint32_t at = 14 + sizeof(s); at < n->opt->size; at++)
			if (b->host[HDR_BYTES + at] != 0x5a)
				errx(1, "%s: byte %u of frame %llu is wrong", n->to->path, at,
				     (unsigned long long)s.serial);
	if (s.serial <= n->last_serial || s.serial > n->sent)
		n->reordered++;
	else
		n->last_serial = s.serial;
	n->received++;
	n->bytes += n->opt->size;
	histogram_add(&n->latency, clock_cycles() - s.cycles);
}

static unsigned receive_some(struct net_run *n)
{
	struct driver_used u;
	unsigned count = 0;

	while (count < 2 * BURST && poll_ring(n->rx, &u)) {
		frame_came(n, u.cookie, u.len);
		give_rx(n, u.cookie);
		count++;
	}
	if (count)
		frontend_submit(&n->to->frontend, 0);
	return count;
}

static void loop(struct net_run *n)
{
	uint64_t per_us = clock_cycles_per_us(), start = clock_cycles(), now = start;
	uint64_t end = start + n->opt->rig.time_s * 1000000 * per_us;
	uint64_t last_work = start, next_check = start, last_loss = start;

	while (now < end) {
		unsigned work = receive_some(n);

		send_some(n);
		now = clock_cycles();
		if (work)
			last_work = last_loss = now;
		if (now - last_loss > LOST_AFTER_US * per_us) {
			n->lost = n->sent - n->received;
			last_loss = now;
		}
		if (now >= next_check) {
			check_ring(n->from, n->tx);
			check_ring(n->to, n->rx);
			rig_check_alive(n->from, (now - last_work) * 1000 / per_us,
					n->opt->rig.timeout_ms);
			rig_check_alive(n->to, 0, n->opt->rig.timeout_ms);
			next_check = now + CHECK_EVERY_US * per_us;
		}
	}
}

static void report(const struct net_run *n, double seconds, double cpu, double steal)
{
	const struct net_options *o = n->opt;
	double rate = (double)n->received / seconds;
	uint64_t lost = n->sent - n->received;

	if (o->rig.json)
		printf("{ \"kind\": \"net\", \"size\": %u, \"ring\": \"%s\", \"seconds\": %.3f, "
		       "\"sent\": %llu, \"received\": %llu, \"reordered\": %llu, \"pps\": %.0f, "
		       "\"gbit_s\": %.3f, \"backend_cpu_s\": %.2f, \"backend_cpu_s_per_million\": "
		       "%.3f, \"steal_s\": %.2f",
		       o->size, o->rig.packed ? "packed" : "split", seconds,
		       (unsigned long long)n->sent, (unsigned long long)n->received,
		       (unsigned long long)n->reordered, rate, (double)n->bytes * 8 / seconds / 1e9,
		       cpu, n->received ? cpu / (double)n->received * 1e6 : 0, steal);
	else
		printf("frames of %u bytes, %s ring, %s\n"
		       "sent           %llu, received %llu, lost or under way %llu, out of order "
		       "%llu\n"
		       "rate           %.0f a second, %.3f Gbit/s\n",
		       o->size, o->rig.packed ? "packed" : "split",
		       n->from == n->to ? "sent back" : "one way", (unsigned long long)n->sent,
		       (unsigned long long)n->received, (unsigned long long)lost,
		       (unsigned long long)n->reordered, rate,
		       (double)n->bytes * 8 / seconds / 1e9);
	rig_print_latency(&n->latency, o->rig.json);
	if (o->rig.json) {
		printf(" }\n");
		return;
	}
	if (cpu >= 0)
		printf("back-end CPU   %.2f s, %.3f s per million frames\n", cpu,
		       n->received ? cpu / (double)n->received * 1e6 : 0);
	printf("steal          %.2f s\n", steal);
}

static void usage(FILE *to)
{
	fprintf(to, "Usage: sluice-bench net SOCKET [SOCKET] [OPTION]...\n"
		    "Frames from the first socket's card to the second's; with one, to itself.\n\n"
		    "  --size BYTES      of a frame, without its checksum: 60 (default) to 1514\n"
		    "  --open            send as fast as the ring takes, whatever is lost\n"
		    "  --verify          look at every byte of what comes\n");
	rig_print_options(to, COMMON_OPTIONS);
}

static unsigned parse(int argc, char **argv, struct net_options *o)
{
	const struct rig_option own[] = {
		{ "size", RIG_NUMBER, &o->size, FRAME_MIN, FRAME_MAX },
		{ "open", RIG_FLAG, &o->open, 0, 0 },
		{ "verify", RIG_FLAG, &o->verify, 0, 0 },
	};
	int at = rig_parse(argc, argv, &o->rig,
			   &(struct rig_command) { own, ARRAY_SIZE(own), COMMON_OPTIONS, usage });

	if (argc - at != 1 && argc - at != 2)
		errx(2, "net takes one or two sockets; see sluice-bench net --help");
	if (o->rig.queues > 1 || o->rig.sleep)
		errx(2, "net drives one queue pair, and polls: leave --queues and --sleep out");
	return (unsigned)at;
}

int bench_net(int argc, char **argv)
{
	static struct net_options o = { .rig = RIG_OPTIONS_DEFAULT, .size = FRAME_MIN };
	static struct net_run n;
	uint64_t bytes, start;
	double cpu, steal;
	unsigned at = parse(argc, argv, &o);

	n.opt = &o;
	rig_pin(o.rig.cpu);
	clock_cycles_per_us();
	bytes = (uint64_t)(2 * o.rig.queue_size + 1) * 2048;
	n.from = rig_open(&o.rig, argv[at], 2, UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF, bytes);
	n.to = at + 1 < (unsigned)argc ? rig_open(&o.rig, argv[at + 1], 2,
						  UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF, bytes)
				       : n.from;
	prepare(&n);
	if (n.to != n.from)
		introduce(&n);
	cpu = rig_cpu_seconds(n.from->pid);
	steal = rig_steal_seconds();
	start = clock_ns();
	loop(&n);
	report(&n, (double)(clock_ns() - start) / 1e9, rig_spent(cpu, rig_cpu_seconds(n.from->pid)),
	       rig_spent(steal, rig_steal_seconds()));
	if (n.received == 0)
		warnx("no frame came through; are both cards on one network?");
	if (n.to != n.from)
		rig_close(n.to);
	rig_close(n.from);
	free(n.tx_free);
	return n.received == 0 || n.reordered ? 1 : 0;
}
