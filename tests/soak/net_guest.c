/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two guests on one switch. Each queue pair of one sends numbered frames to the other, which checks
 * that none is damaged and that no flow is ever out of order. Frames may be lost: there is a
 * receiver's ring that is full, or not there.
 */
#include "base/error.h"
#include "net/net.h"
#include "tests/guest/net.h"
#include "tests/soak/soak.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAIRS 2
#define FRAME_MAX 1514
#define FRAME_MIN 60
#define BURST 8

/* Ethernet, and then our own. In the sender's memory; private to the receiver by the time it is
 * read. */
struct frame {
	uint8_t to[6], from[6];
	uint16_t type;
	uint16_t len;
	uint32_t flow;
	uint64_t number;
	uint8_t rest[FRAME_MAX - 28];
} __attribute__((packed));

struct net_guest {
	struct guest g;
	struct net_device *dev;
	struct net_guest *peer;
	uint8_t mac[6];
	bool mergeable;
	struct guest_net pair[PAIRS];
	uint64_t number[PAIRS];	     /* of the last frame sent; never begins anew */
	uint64_t last[PAIRS][PAIRS]; /* received: by flow and by the queue where it came in */
};

static struct net_switch *net;

static struct net_guest *net_of(const struct guest *g)
{
	return container_of(g, struct net_guest, g);
}

static uint8_t counting[256 + FRAME_MAX];

/* The rest of a frame: bytes that count up, from one that its number and flow give. Copied and
 * compared as a whole, since each access of our own costs much under ThreadSanitizer.
 */
static const uint8_t *rest_of(const struct frame *f)
{
	return counting + (uint8_t)(f->number * 37 + f->flow * 11);
}

/* Mostly short ones: more of them, and less to check. */
static unsigned draw_len(unsigned *rng)
{
	unsigned max = chance(rng, 25) ? FRAME_MAX : 4 * FRAME_MIN;

	return FRAME_MIN + soak_random(rng, max - FRAME_MIN + 1);
}

static unsigned make_frame(struct net_guest *n, unsigned pair, struct frame *f)
{
	unsigned len = draw_len(&n->g.driver_rng);

	f->type = htobe16(0x88b5); /* for local experiments */
	f->len = (uint16_t)len;
	f->flow = pair;
	f->number = n->number[pair] + 1;
	memcpy(f->to, n->peer->mac, sizeof(f->to));
	memcpy(f->from, n->mac, sizeof(f->from));
	memcpy(f->rest, rest_of(f), len - 28);
	return len;
}

static void check_frame(struct net_guest *n, unsigned pair, const struct frame *f, int len)
{
	uint64_t *last;

	if (len < FRAME_MIN || len != f->len || f->flow >= PAIRS ||
	    memcmp(f->to, n->mac, sizeof(f->to)) != 0 ||
	    memcmp(f->from, n->peer->mac, sizeof(f->from)) != 0)
		soak_fail("%s: a frame of %d bytes that nobody sent", n->g.name, len);
	if (memcmp(f->rest, rest_of(f), (size_t)len - 28) != 0)
		soak_fail("%s: frame %llu of flow %u is damaged", n->g.name,
			  (unsigned long long)f->number, f->flow);
	last = &n->last[f->flow][pair];
	if (f->number <= *last)
		soak_fail("%s: flow %u: frame %llu after frame %llu", n->g.name, f->flow,
			  (unsigned long long)f->number, (unsigned long long)*last);
	*last = f->number;
}

static unsigned receive(struct net_guest *n, unsigned pair)
{
	struct frame f;
	unsigned count = 0;
	int len;

	while ((len = guest_net_recv(&n->pair[pair], NULL, &f, sizeof(f))) > 0) {
		check_frame(n, pair, &f, len);
		count++;
	}
	if (len < 0)
		soak_fail("%s: %s", n->g.name, n->g.f.error);
	return count;
}

static void net_work(struct guest *g)
{
	struct net_guest *n = net_of(g);
	unsigned received = 0;

	for (unsigned p = 0; p < PAIRS; p++) {
		struct frame f;

		received += receive(n, p);
		guest_net_fill(&n->pair[p]);
		guest_ok(g, guest_net_reap(&n->pair[p]), "sent frames");
		for (unsigned i = 0; i < BURST; i++) {
			unsigned len = make_frame(n, p, &f);

			if (guest_net_add(&n->pair[p], NULL, &f, len) < 0)
				break;
			n->number[p]++;
		}
		guest_net_kick(&n->pair[p]);
	}
	__atomic_fetch_add(&g->answered, received, __ATOMIC_RELAXED);
	/* Progress is one more frame from the other one. */
	__atomic_store_n(&g->asked, __atomic_load_n(&g->answered, __ATOMIC_RELAXED) + 1,
			 __ATOMIC_RELAXED);
}

/* Of what it sends; receive buffers are with the device all the time. */
static unsigned net_in_flight(struct guest *g)
{
	struct net_guest *n = net_of(g);
	unsigned count = 0;

	for (unsigned p = 0; p < PAIRS; p++) {
		guest_ok(g, guest_net_reap(&n->pair[p]), "sent frames");
		count += n->pair[p].n_tx - n->pair[p].n_tx_free;
	}
	return count;
}

static void net_open(struct guest *g)
{
	struct net_guest *n = net_of(g);
	struct guest_net_options opt = { .mergeable = n->mergeable };

	for (unsigned p = 0; p < PAIRS; p++)
		guest_ok(g, guest_net_open(&n->pair[p], &g->f, p, &opt), "buffers");
}

static void net_close(struct guest *g)
{
	struct net_guest *n = net_of(g);

	for (unsigned p = 0; p < PAIRS; p++) {
		receive(n, p);
		guest_net_close(&n->pair[p]);
	}
}

static void net_create(struct guest *g)
{
	struct net_guest *n = net_of(g);
	struct net_device_config cfg = {
		.name = g->name,
		.socket = { .path = strdup(g->path), .fd = -1, .mode = -1 },
		.queue_pairs = PAIRS,
	};
	struct error err = { 0 };

	if (net_device_create(&cfg, net, soak_workers, &n->dev, &err) < 0)
		soak_fail("%s: %s", g->name, err.text);
	g->closed = false;
}

static void net_remove(struct guest *g)
{
	net_device_close(net_of(g)->dev, guest_closed, g);
}

static const struct vhost_device *net_vhost(const struct guest *g)
{
	return net_device_vhost(net_of(g)->dev);
}

#define BIT(n) (UINT64_C(1) << (n))
#define LOOSE (BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4))

static uint64_t net_features(struct guest *g)
{
	struct net_guest *n = net_of(g);

	n->mergeable = chance(&g->rng, 50);
	return BIT(VIRTIO_NET_F_MQ) | (chance(&g->rng, 50) ? LOOSE : 0) |
	       (n->mergeable ? BIT(VIRTIO_NET_F_MRG_RXBUF) : 0);
}

static unsigned net_using(const struct guest *g, unsigned i)
{
	(void)g, (void)i;
	return 0;
}

static const struct guest_ops net_ops = {
	.create = net_create,
	.remove = net_remove,
	.vhost = net_vhost,
	.features = net_features,
	.loose_features = LOOSE,
	.open = net_open,
	.close = net_close,
	.work = net_work,
	.in_flight = net_in_flight,
	.using = net_using,
};

void net_guests_new(struct guest *pair[2], unsigned seed)
{
	static const char *const names[] = { "net-a", "net-b" };
	struct switch_config cfg = { .name = "lan" };
	struct net_guest *n[2];
	struct error err = { 0 };

	for (unsigned i = 0; i < sizeof(counting); i++)
		counting[i] = (uint8_t)i;
	if (switch_create(&cfg, soak_workers, &net, &err) < 0)
		soak_fail("%s", err.text);
	for (unsigned i = 0; i < 2; i++) {
		n[i] = calloc(1, sizeof(*n[i]));
		if (!n[i])
			soak_fail("out of memory");
		memcpy(n[i]->mac, (uint8_t[]) { 0x52, 0x54, 0, 0, 0, (uint8_t)(1 + i) }, 6);
		pair[i] = &n[i]->g;
	}
	for (unsigned i = 0; i < 2; i++) {
		n[i]->peer = n[1 - i];
		guest_init(pair[i], names[i], &net_ops, 2 * PAIRS, seed + i);
	}
}

void net_guests_free(struct guest *pair[2])
{
	for (unsigned i = 0; i < 2; i++) {
		guest_fini(pair[i]);
		free(net_of(pair[i]));
	}
	switch_destroy(net);
}
