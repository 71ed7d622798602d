/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench fair with cards of one network: the guests that send to each other, and what one can
 * do to the switch between them.
 *
 * Each well-behaved guest sends to the next one, and the last to the first, so that each sends and
 * receives one flow. It has a few frames under way, and sends another for each that the back-end
 * gives back; what counts is what arrives.
 */
#include "bench/fair.h"

#include <err.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#define RING 128u
#define DEPTH 16u
#define HDR_BYTES 12u /* virtio 1.3 5.1.6.1 */
#define FRAME_BYTES 1514u
#define SLOT_BYTES 2048u
#define TINY_BYTES 16u
#define HUGE_FRAME 65550u /* virtio 1.3 5.1.6.3.1 */
#define STORM_RING 256u
#define CHAIN_SEGS 1024u
#define TO_HOSTILE_EVERY 8u
#define MEMORY_BYTES (UINT64_C(1) << 20)

enum { RX, TX };

struct buf {
	uint64_t gpa;
	uint8_t *host;
};

struct net_guest {
	struct fair_guest base;
	unsigned index, next, previous; /* among all; whom it sends to, and who sends to it */
	uint64_t sent;
	struct buf rx[RING], tx[STORM_RING];
	struct driver_seg *segs; /* of the hostile one's chains */
	unsigned n_segs;
	uint64_t random;
};

/* The others send to the attacker too; see struct fair_attack. */
static bool to_hostile;

static struct net_guest *net_of(struct fair_guest *g)
{
	return container_of(g, struct net_guest, base);
}

static struct net_guest *attacker(const struct fair_hostile *h)
{
	return net_of(h->guest[0]);
}

static struct net_guest *accomplice(const struct fair_hostile *h)
{
	return net_of(h->guest[1]);
}

static struct driver_ring *ring_of(struct net_guest *g, unsigned which)
{
	return &g->base.rig->frontend.queue[which].ring;
}

static void submit(struct net_guest *g, unsigned which)
{
	frontend_submit(&g->base.rig->frontend, which);
}

static bool taken_back(struct net_guest *g, unsigned which, struct driver_used *u)
{
	return frontend_poll(&g->base.rig->frontend, which, u);
}

static int add(struct net_guest *g, unsigned which, const struct driver_seg *segs, unsigned n,
	       void *cookie)
{
	struct driver_ring *r = ring_of(g, which);
	unsigned n_out = which == TX ? n : 0;

	return r->layout == DRIVER_SPLIT
		       ? driver_add(r, DRIVER_SPLIT, segs, n_out, n - n_out, cookie)
		       : driver_add(r, DRIVER_PACKED, segs, n_out, n - n_out, cookie);
}

static void add_rx(struct net_guest *g, struct buf *b)
{
	add(g, RX, &(struct driver_seg) { b->gpa, SLOT_BYTES }, 1, b);
}

/* The address of guest @index: 02:f0:00:00:hi:lo, as its first six bytes lie in memory. */
static uint64_t mac_of(unsigned index)
{
	return 0xf002 | (uint64_t)(index >> 8) << 32 | (uint64_t)(index & 0xff) << 40;
}

#define IS_OURS(word) (((word)&0xffff) == 0xf002)

static struct buf make_buf(struct net_guest *g, uint32_t bytes)
{
	struct buf b;

	b.host = guest_alloc(&g->base.rig->memory, bytes, 64, &b.gpa);
	if (!b.host)
		errx(1, "no guest memory for buffers");
	return b;
}

/* Behind an empty virtio-net header: a frame from @g to the guest @to. */
static void make_frame(struct net_guest *g, struct buf *b, unsigned to)
{
	uint64_t dst = mac_of(to), src = mac_of(g->index);

	memset(b->host, 0, HDR_BYTES);
	memcpy(b->host + HDR_BYTES, &dst, 6);
	memcpy(b->host + HDR_BYTES + 6, &src, 6);
	b->host[HDR_BYTES + 12] = 0x88; /* IEEE 802: local experimental */
	b->host[HDR_BYTES + 13] = 0xb5;
}

static void send(struct net_guest *g, struct buf *b)
{
	uint64_t dst = mac_of(to_hostile && g->sent % TO_HOSTILE_EVERY == 0 ? 0 : g->next);

	memcpy(b->host + HDR_BYTES, &dst, 6);
	if (add(g, TX, &(struct driver_seg) { b->gpa, HDR_BYTES + FRAME_BYTES }, 1, b) < 0)
		errx(1, "%s: the ring is full", g->base.rig->path);
	g->sent++;
}

static void give_rx(struct net_guest *g)
{
	for (unsigned i = 0; i < RING; i++) {
		g->rx[i] = make_buf(g, SLOT_BYTES);
		add_rx(g, &g->rx[i]);
	}
	submit(g, RX);
}

static void work_start(struct fair_guest *base)
{
	struct net_guest *g = net_of(base);

	give_rx(g);
	for (unsigned i = 0; i < DEPTH; i++) {
		g->tx[i] = make_buf(g, SLOT_BYTES);
		make_frame(g, &g->tx[i], g->next);
		send(g, &g->tx[i]);
	}
	submit(g, TX);
}

/* Takes what came; frames of the one before count, others are only cleared away. */
static void receive(struct net_guest *g)
{
	uint64_t expected = mac_of(g->previous);
	struct driver_used u;
	unsigned n = 0;

	while (n < RING && taken_back(g, RX, &u)) {
		struct buf *b = u.cookie;
		uint64_t src = 0;

		memcpy(&src, b->host + HDR_BYTES + 6, 6);
		g->base.done += src == expected && u.len == HDR_BYTES + FRAME_BYTES;
		add_rx(g, b);
		n++;
	}
	if (n)
		submit(g, RX);
}

static void work_step(struct fair_guest *base)
{
	struct net_guest *g = net_of(base);
	struct driver_used u;
	unsigned n = 0;

	receive(g);
	while (n < DEPTH && taken_back(g, TX, &u)) {
		send(g, u.cookie);
		n++;
	}
	if (n)
		submit(g, TX);
	if (driver_violation(ring_of(g, RX)) || driver_violation(ring_of(g, TX)))
		errx(1, "%s: the back-end broke a rule: %s%s", base->rig->path,
		     ring_of(g, RX)->violation, ring_of(g, TX)->violation);
}

static void kicks_step(struct fair_hostile *h)
{
	for (unsigned i = 0; i < 4; i++)
		frontend_kick(&h->guest[0]->rig->frontend, TX);
}

/*
 * Storms: the attacker's transmit ring is kept full of one frame, in one chain that is given again
 * as soon as it is back. Frames of less than a slot have a slot each, so that they can differ.
 */
static void storm_fill(struct net_guest *g)
{
	for (unsigned i = 0; add(g, TX, g->segs, g->n_segs, &g->tx[i % STORM_RING]) == 0; i++)
		;
	submit(g, TX);
}

static void storm_chain(struct net_guest *g, const struct buf *b, uint32_t len, unsigned n)
{
	g->n_segs = n;
	g->segs = calloc(n, sizeof(*g->segs));
	if (!g->segs)
		errx(1, "out of memory");
	/* The first one takes the header and the frame's addresses, the rest share what is left. */
	for (unsigned i = 0; i < n; i++)
		g->segs[i] = (struct driver_seg) { b->gpa + (i ? 32 : 0), 1 };
	g->segs[0].len = n > 1 ? HDR_BYTES + 14 : len;
	if (n > 1)
		g->segs[n - 1].len = len - HDR_BYTES - 14 - (n - 2);
}

/* The chains that are back, again. @return how many. */
static void storm_step(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct driver_used u;
	unsigned n = 0;

	while (n < STORM_RING && taken_back(g, TX, &u)) {
		add(g, TX, g->segs, g->n_segs, u.cookie);
		n++;
	}
	if (n)
		submit(g, TX);
}

static void headers_start(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct buf b = make_buf(g, SLOT_BYTES);

	make_frame(g, &b, accomplice(h)->index);
	memset(b.host, 0xff, HDR_BYTES);
	storm_chain(g, &b, HDR_BYTES + FRAME_BYTES, 1);
	storm_fill(g);
}

static void broadcast_start(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct buf b = make_buf(g, SLOT_BYTES);

	make_frame(g, &b, 0);
	memset(b.host + HDR_BYTES, 0xff, 6);
	storm_chain(g, &b, HDR_BYTES + FRAME_BYTES, 1);
	storm_fill(g);
}

static void unknown_start(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct buf b = make_buf(g, SLOT_BYTES);

	make_frame(g, &b, 0xfff0); /* nobody's address */
	storm_chain(g, &b, HDR_BYTES + FRAME_BYTES, 1);
	storm_fill(g);
}

/* To the accomplice, who takes what comes. */
static void receiver_start(struct fair_hostile *h)
{
	struct net_guest *to = accomplice(h);
	struct buf b = make_buf(to, SLOT_BYTES);

	/* So that the switch knows where it is. */
	make_frame(to, &b, attacker(h)->index);
	add(to, TX, &(struct driver_seg) { b.gpa, HDR_BYTES + FRAME_BYTES }, 1, NULL);
	submit(to, TX);
	to->rx[0] = make_buf(to, SLOT_BYTES);
	while (add(to, RX, &(struct driver_seg) { to->rx[0].gpa, SLOT_BYTES }, 1, &to->rx[0]) == 0)
		;
	submit(to, RX);
}

static void receiver_step(struct fair_hostile *h)
{
	struct net_guest *to = accomplice(h);
	struct driver_used u;
	unsigned n = 0;

	while (n < STORM_RING && taken_back(to, RX, &u)) {
		add_rx(to, u.cookie);
		n++;
	}
	if (n)
		submit(to, RX);
}

static void to_receiver_step(struct fair_hostile *h)
{
	receiver_step(h);
	storm_step(h);
}

static void long_start(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct buf b = make_buf(g, SLOT_BYTES);

	receiver_start(h);
	make_frame(g, &b, accomplice(h)->index);
	storm_chain(g, &b, HDR_BYTES + FRAME_BYTES, CHAIN_SEGS - 2);
}

/* One a round: to write a table of 1022 entries takes the driver long enough. */
static void long_step(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct driver_used u;

	receiver_step(h);
	while (taken_back(g, TX, &u))
		;
	if (add(g, TX, g->segs, g->n_segs, NULL) == 0)
		submit(g, TX);
}

/* TCP over IPv4, as large as it may be, to be cut into segments of @gso_size. */
static void tso_frame(struct fair_hostile *h, uint16_t gso_size)
{
	static const uint8_t headers[] = {
		0x08, 0x00, 0x45, 0, 0xff, 0xff, 0,    0, 0x40, 0, 64,	 6, 0, 0, /* IPv4, TCP
										     inside */
		10,   0,    0,	  1, 10,   0,	 0,    2, 0x10, 0, 0x20, 0, 0, 0, 0,
		1,    0,    0,	  0, 1,	   0x50, 0x10,
	};
	struct virtio_net_hdr_v1 v = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .gso_size = gso_size,
				       .csum_start = 14 + 20,
				       .csum_offset = 16 };
	struct net_guest *g = attacker(h);
	struct buf b = make_buf(g, HDR_BYTES + HUGE_FRAME);

	make_frame(g, &b, accomplice(h)->index);
	memcpy(b.host, &v, sizeof(v));
	memcpy(b.host + HDR_BYTES + 12, headers, sizeof(headers));
	storm_chain(g, &b, HDR_BYTES + HUGE_FRAME, 1);
	storm_fill(g);
}

static void tso_start(struct fair_hostile *h)
{
	receiver_start(h);
	tso_frame(h, 1448);
}

static void segments_start(struct fair_hostile *h)
{
	receiver_start(h);
	tso_frame(h, 48);
}

static void macs_start(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);

	receiver_start(h);
	g->random = 88172645463325252ull;
	for (unsigned i = 0; i < STORM_RING; i++) {
		struct buf *b = &g->tx[i];

		*b = make_buf(g, 128);
		make_frame(g, b, accomplice(h)->index);
		add(g, TX, &(struct driver_seg) { b->gpa, HDR_BYTES + 60 }, 1, b);
	}
	submit(g, TX);
}

static void macs_step(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct driver_used u;
	unsigned n = 0;

	receiver_step(h);
	while (n < STORM_RING && taken_back(g, TX, &u)) {
		struct buf *b = u.cookie;
		uint64_t src;

		g->random ^= g->random << 13;
		g->random ^= g->random >> 7;
		g->random ^= g->random << 17;
		src = (g->random & ~UINT64_C(0xffff)) | 0xa002;
		memcpy(b->host + HDR_BYTES + 6, &src, 6);
		add(g, TX, &(struct driver_seg) { b->gpa, HDR_BYTES + 60 }, 1, b);
		n++;
	}
	if (n)
		submit(g, TX);
}

/* The attacker is known to the switch, and has no buffers for those who send to it. */
static void deaf_start(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct buf b = make_buf(g, SLOT_BYTES);

	make_frame(g, &b, accomplice(h)->index);
	add(g, TX, &(struct driver_seg) { b.gpa, HDR_BYTES + FRAME_BYTES }, 1, NULL);
	submit(g, TX);
}

/* Buffers so small that a frame takes a hundred of them. */
static void tiny_start(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct buf b = make_buf(g, 64);

	deaf_start(h);
	while (add(g, RX, &(struct driver_seg) { b.gpa, TINY_BYTES }, 1, g) == 0)
		g->rx[0] = b;
	submit(g, RX);
}

static void tiny_step(struct fair_hostile *h)
{
	struct net_guest *g = attacker(h);
	struct driver_used u;
	unsigned n = 0;

	while (n < CHAIN_SEGS && taken_back(g, RX, &u)) {
		add(g, RX, &(struct driver_seg) { g->rx[0].gpa, TINY_BYTES }, 1, g);
		n++;
	}
	if (n)
		submit(g, RX);
}

#define F(bit) (UINT64_C(1) << VIRTIO_NET_F_##bit)
#define SENDS_TSO (F(CSUM) | F(HOST_TSO4))
#define TAKES_TSO (F(GUEST_CSUM) | F(GUEST_TSO4))

static const struct fair_attack attacks[] = {
	{ .name = "kicks", .what = "kicks for nothing", .start = fair_nothing, .step = kicks_step },
	{ .name = "long", .what = "frames in 1022 pieces", .start = long_start, .step = long_step },
	{ .name = "headers",
	  .what = "frames with a bad header",
	  .start = headers_start,
	  .step = storm_step,
	  .queue_size = STORM_RING },
	{ .name = "broadcast",
	  .what = "frames to everybody",
	  .start = broadcast_start,
	  .step = storm_step,
	  .queue_size = STORM_RING },
	{ .name = "unknown",
	  .what = "frames to an address that nobody has",
	  .start = unknown_start,
	  .step = storm_step,
	  .queue_size = STORM_RING },
	{ .name = "macs",
	  .what = "a new source address with each frame",
	  .start = macs_start,
	  .step = macs_step,
	  .queue_size = STORM_RING },
	{ .name = "huge",
	  .what = "64 KiB frames to one who takes them",
	  .start = tso_start,
	  .step = to_receiver_step,
	  .queue_size = STORM_RING,
	  .features = { SENDS_TSO, TAKES_TSO } },
	{ .name = "tso",
	  .what = "64 KiB frames, to be cut at 1448 bytes",
	  .start = tso_start,
	  .step = to_receiver_step,
	  .queue_size = STORM_RING,
	  .features = { SENDS_TSO } },
	{ .name = "segments",
	  .what = "64 KiB frames, to be cut at 48 bytes",
	  .start = segments_start,
	  .step = to_receiver_step,
	  .queue_size = STORM_RING,
	  .features = { SENDS_TSO } },
	{ .name = "deaf",
	  .what = "a receiver without buffers",
	  .start = deaf_start,
	  .step = fair_nothing,
	  .to_hostile = true },
	{ .name = "tiny",
	  .what = "a receiver with buffers of 16 bytes",
	  .start = tiny_start,
	  .step = tiny_step,
	  .queue_size = CHAIN_SEGS,
	  .to_hostile = true },
	FAIR_SESSION_ATTACKS,
};

static void prepare(const struct fair_attack *attack)
{
	to_hostile = attack->to_hostile;
}

static struct fair_guest *net_open(const struct rig_options *o, const char *path, unsigned index,
				   unsigned n, const struct fair_attack *attack)
{
	struct net_guest *g = calloc(1, sizeof(*g));
	struct rig_options mine = *o;
	uint64_t features = F(MRG_RXBUF), memory = (RING + DEPTH) * SLOT_BYTES + MEMORY_BYTES;

	if (!g)
		errx(1, "out of memory");
	mine.queue_size = attack && attack->queue_size ? attack->queue_size : RING;
	if (attack) {
		features |= attack->features[index];
		mine.indirect_segs = mine.queue_size > RING ? 4 : CHAIN_SEGS;
		memory += 2 * (uint64_t)mine.queue_size * mine.indirect_segs * 16;
	}
	g->index = index;
	if (index < FAIR_HOSTILE_MAX) {
		g->next = g->previous = !index;
	} else {
		g->next = index + 1 < n ? index + 1 : FAIR_HOSTILE_MAX;
		g->previous = index > FAIR_HOSTILE_MAX ? index - 1 : n - 1;
	}
	g->base.rig = rig_open(&mine, RIG_CARD, path, 2, features, memory);
	return &g->base;
}

static void net_close(struct fair_guest *base)
{
	struct net_guest *g = net_of(base);

	rig_close(base->rig);
	free(g->segs);
	free(g);
}

const struct fair_kind fair_net = {
	.name = "cards",
	.unit = "frames",
	.n_hostile = 2,
	.guests_min = 4,
	.open = net_open,
	.close = net_close,
	.prepare = prepare,
	.work_start = work_start,
	.work_step = work_step,
	.attacks = attacks,
	.n_attacks = ARRAY_SIZE(attacks),
};
