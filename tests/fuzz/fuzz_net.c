/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net with a hostile guest on all of its queues, in one switch with an honest peer and a
 * port of our own, with VLANs or without. Chains come back once, nothing but what was offered is
 * written; what the peer gets is a frame with a header that fits it and what the peer negotiated;
 * no queue sleeps on notifications that it owes; and after all of it a frame from the third port
 * reaches the peer unchanged.
 */
#include "tests/fuzz/hooks.h"

#include "base/error.h"
#include "base/log.h"
#include "net/virtio_net.h"
#include "poll/control.h"
#include "tests/fuzz/device.h"
#include "tests/fuzz/guest.h"
#include "tests/fuzz/race.h"
#include "tests/fuzz/sim.h"

#include <endian.h>
#include <stdlib.h>

#define STEPS_MAX 60
#define PEER_BUFFERS 8
#define PEER_BUFFER_BYTES 2048
#define BODY_BYTES 70000

#define PAIRS 2

enum { RECEIVE, TRANSMIT, CONTROL, RECEIVE_2, TRANSMIT_2, N_QUEUES };
enum { HOSTILE, PEER, N_DEVICES };

/* NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): there is one of it */
static struct {
	struct workers *workers;
	struct net_switch *sw;
	struct net_device *dev[N_DEVICES];
	struct vhost_device *vhost[N_DEVICES];
	struct fuzz_guest guest[N_QUEUES], peer;
	bool runs[N_QUEUES];
	enum vlans { VLANS_NONE, VLANS_ACCESS, VLANS_TRUNK, VLANS_PEER_TRUNK } vlans;
	/* What the hostile one has negotiated: */
	bool hashes; /* RSS and hash reports */
	bool coalesces;
	bool pairs;   /* a second queue pair runs */
	bool guarded; /* the hostile one has its own address alone, and no IP address */
	uint64_t peer_features;
	uint16_t peer_seen;
	unsigned peer_frames;
	struct port third;
	struct port_stats third_stats;
	uint8_t *body;
} n;

static const uint8_t macs[N_DEVICES][6] = { { 0x52, 0x54, 0, 0, 0, 1 },
					    { 0x52, 0x54, 0, 0, 0, 2 } };

static const uint8_t third_mac[6] = { 0x52, 0x54, 0, 0, 0, 9 };

static uint64_t bit(unsigned feature)
{
	return UINT64_C(1) << feature;
}

static unsigned third_deliver(struct port *p, struct packet *const *packets, unsigned count)
{
	(void)p;
	(void)packets;
	return count;
}

static void create(unsigned i)
{
	static const char *const names[] = { "hostile", "peer" };
	struct net_device_config cfg = { .name = names[i],
					 .queue_pairs = i == HOSTILE ? PAIRS : 1,
					 .has_mac = true,
					 .mtu = 1500 };
	struct error err = { 0 };
	int rc;

	memcpy(cfg.mac, macs[i], 6);
	cfg.socket = fuzz_socket();
	rc = net_device_create(&cfg, n.sw, n.workers, &n.dev[i], &err);
	FUZZ_CHECK(rc == 0, "%s", err.text);
	n.vhost[i] = (struct vhost_device *)net_device_vhost(n.dev[i]);
}

static void create_all(void)
{
	static const struct port_ops third_ops = { .kind = "third", .deliver = third_deliver };
	struct workers_config cfg = { .n = 1 };
	struct switch_config sc = { .name = "lan" };

	log_set_level(LOG_LEVEL_ERROR);
	FUZZ_CHECK(control_init() == 0);
	FUZZ_CHECK(workers_start(&cfg, &n.workers, NULL) == 0);
	FUZZ_CHECK(switch_create(&sc, n.workers, &n.sw, NULL) == 0);
	for (unsigned i = 0; i < N_DEVICES; i++)
		create(i);
	n.third.ops = &third_ops;
	n.third.stats = &n.third_stats;
	FUZZ_CHECK(switch_attach(n.sw, &n.third, NULL) == 0);
	fuzz_sessions_wait(n.vhost, N_DEVICES);
	for (unsigned i = 0; i < N_QUEUES; i++)
		fg_create(&n.guest[i], NULL);
	fg_create(&n.peer, NULL);
	n.body = malloc(BODY_BYTES);
	FUZZ_CHECK(n.body);
	for (unsigned i = 0; i < BODY_BYTES; i++)
		n.body[i] = (uint8_t)(i * 7);
}

/* The honest peer: eight buffers of one piece each, given back as soon as they were looked at. */
static void peer_start(uint64_t features)
{
	static const uint8_t how[] = { 0, 3, 0 }; /* split, 8 entries */
	struct input in = { how, how + sizeof(how) };

	fg_begin(&n.peer, &in);
	n.peer_features = features;
	n.peer_seen = 0;
	for (uint16_t i = 0; i < PEER_BUFFERS; i++)
		fg_offer(&n.peer, i, FG_BUFFERS + i * PEER_BUFFER_BYTES, PEER_BUFFER_BYTES);
	FUZZ_CHECK(fuzz_queue_start(n.vhost[PEER], &n.vhost[PEER]->queues[RECEIVE], &n.peer,
				    features) == 0);
}

static void check_header(const struct virtio_net_hdr_v1 *h, uint32_t frame_bytes)
{
	uint8_t gso = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;

	FUZZ_CHECK(frame_bytes >= ETHER_HDR_LEN && frame_bytes <= FRAME_LEN_MAX + VLAN_TAG_LEN,
		   "%u bytes", frame_bytes);
	FUZZ_CHECK(!(h->flags & ~(VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID)));
	if (h->flags)
		FUZZ_CHECK(n.peer_features & bit(VIRTIO_NET_F_GUEST_CSUM));
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		FUZZ_CHECK(h->csum_start + h->csum_offset + 2u <= frame_bytes);
	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		/* What the peer did not ask for as one piece is cut to the sender's segments. */
		return;
	}
	FUZZ_CHECK(h->gso_size > 0 && h->hdr_len > 0 && h->hdr_len < frame_bytes);
	FUZZ_CHECK(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
	if (h->gso_type & VIRTIO_NET_HDR_GSO_ECN)
		FUZZ_CHECK(n.peer_features & bit(VIRTIO_NET_F_GUEST_ECN));
	if (gso == VIRTIO_NET_HDR_GSO_UDP_L4)
		FUZZ_CHECK(n.peer_features &
			   (bit(VIRTIO_NET_F_GUEST_USO4) | bit(VIRTIO_NET_F_GUEST_USO6)));
	else if (gso == VIRTIO_NET_HDR_GSO_TCPV4)
		FUZZ_CHECK(n.peer_features & bit(VIRTIO_NET_F_GUEST_TSO4));
	else
		FUZZ_CHECK(gso == VIRTIO_NET_HDR_GSO_TCPV6 &&
			   n.peer_features & bit(VIRTIO_NET_F_GUEST_TSO6));
}

/* Takes all frames. @return the last one's bytes after the header, and its length. */
static const uint8_t *peer_receive(uint32_t *len)
{
	const struct vring_used *used = fg_main(&n.peer, FG_DEVICE);
	const uint8_t *last = NULL;

	while (n.peer_seen != used->idx) {
		struct virtio_net_hdr_v1 h = { 0 };
		uint32_t total = 0;

		for (unsigned i = 0, pieces = 1; i < pieces; i++, n.peer_seen++) {
			const struct vring_used_elem e = used->ring[n.peer_seen % n.peer.size];
			uint64_t at = FG_BUFFERS + e.id * PEER_BUFFER_BYTES;

			FUZZ_CHECK(n.peer_seen != used->idx, "buffer %u of %u", i, pieces);
			FUZZ_CHECK(e.id < PEER_BUFFERS && e.len <= PEER_BUFFER_BYTES);
			if (i == 0) {
				FUZZ_CHECK(e.len >= sizeof(h));
				memcpy(&h, fg_main(&n.peer, at), sizeof(h));
				pieces = h.num_buffers;
				FUZZ_CHECK(pieces >= 1 && pieces <= PEER_BUFFERS);
				FUZZ_CHECK(pieces == 1 ||
					   n.peer_features & bit(VIRTIO_NET_F_MRG_RXBUF));
				last = fg_main(&n.peer, at + sizeof(h));
			}
			total += e.len;
			fg_offer(&n.peer, (uint16_t)e.id, at, PEER_BUFFER_BYTES);
		}
		check_header(&h, total - (uint32_t)sizeof(h));
		if (n.guarded)
			FUZZ_CHECK(memcmp(last + 6, macs[HOSTILE], 6) == 0 ||
				   memcmp(last + 6, third_mac, 6) == 0);
		*len = total - (uint32_t)sizeof(h);
		n.peer_frames++;
	}
	fg_check_writes(&n.peer, true);
	return last;
}

struct burst {
	struct packet *packets;
	unsigned n;
};

static void forward(void *arg)
{
	struct burst *b = arg;

	switch_forward(n.sw, &n.third, b->packets, b->n);
}

static void ether(uint8_t *head, const uint8_t to[6], uint16_t type)
{
	memcpy(head, to, 6);
	memcpy(head + 6, third_mac, 6);
	head[12] = (uint8_t)(type >> 8);
	head[13] = (uint8_t)type;
}

/* Ethernet, IPv4 or IPv6, TCP: what offload fields can be right for. @return where TCP starts. */
static unsigned tcp_headers(uint8_t *head, bool v6, const uint8_t to[6])
{
	unsigned l3 = ETHER_HDR_LEN, l4 = l3 + (v6 ? 40 : 20);

	memset(head, 0, l4 + 20);
	ether(head, to, v6 ? 0x86dd : 0x0800);
	head[l3] = v6 ? 0x60 : 0x45;
	head[l3 + (v6 ? 6 : 9)] = 6;
	head[l4 + 12] = 5 << 4;
	head[l4 + 13] = 0x18;
	return l4;
}

static struct virtio_net_hdr offload_fields(struct input *in, unsigned l4, bool v6)
{
	uint8_t how = in_u8(in);
	struct virtio_net_hdr h = { .flags = how & 1 ? 0 : VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .csum_start = (uint16_t)l4,
				    .csum_offset = 16 };

	if (!(how & 2)) {
		h.gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
		h.gso_type |= how & 4 ? VIRTIO_NET_HDR_GSO_ECN : 0;
		h.gso_size = how & 8 ? in_u16(in) : 1000;
	}
	if (how & 0x10)
		h.csum_start = in_u16(in);
	if (how & 0x20)
		h.csum_offset = in_u16(in);
	if (how & 0x40)
		h.gso_type = in_u8(in);
	if (how & 0x80)
		h.hdr_len = in_u16(in);
	return h;
}

/* A frame from the third port, for the hostile guest to receive (and everybody, sometimes). */
static void step_forward(struct input *in)
{
	static const uint8_t everybody[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	uint8_t how = in_u8(in);
	bool v6 = how & 1;
	struct packet p = { .len = 60 + in_u16(in) };
	struct iovec segs[3];
	unsigned l4 = tcp_headers(p.head, v6, how & 2 ? everybody : macs[HOSTILE]);
	struct virtio_net_hdr h = { 0 };
	struct burst b = { &p, 1 };
	uint32_t body;

	if (p.len > FRAME_LEN_MAX)
		p.len = FRAME_LEN_MAX;
	if (how & 4)
		h = offload_fields(in, l4, v6);
	p.head_len = (uint16_t)MIN(p.len,
				   (uint32_t)(how & 4 ? PACKET_HEAD_MAX : PACKET_HEAD_PLAIN));
	if (h.flags | h.gso_type && packet_set_offload(&p, &h, 0xff))
		return;
	body = p.len - p.head_len;
	segs[0].iov_base = n.body;
	segs[0].iov_len = MIN(body, 100u);
	segs[1].iov_base = n.body + 100;
	segs[1].iov_len = MIN(body - segs[0].iov_len, 3000u);
	segs[2] = (struct iovec) { n.body + 3100, body - segs[0].iov_len - segs[1].iov_len };
	p.segs = segs;
	p.n_segs = 3;
	race_begin();
	worker_call_wait(workers_get(n.workers, 0), forward, &b);
	race_end();
}

/* Headers that a transmit chain may find in its buffer. */
static void step_headers(struct input *in)
{
	struct fuzz_guest *g = &n.guest[TRANSMIT];
	uint64_t at = FG_BUFFERS + in_u8(in) * 64u;
	uint8_t how = in_u8(in), frame[128];
	unsigned l4 = tcp_headers(frame, how & 1, how & 2 ? macs[PEER] : macs[HOSTILE]);
	struct virtio_net_hdr h;

	if (n.vlans && at & 64) { /* with a tag */
		memmove(frame + 16, frame + 12, sizeof(frame) - 16);
		frame[12] = how & 0x40 ? 0x88 : 0x81;
		frame[13] = how & 0x40 ? 0xa8 : 0x00;
		frame[14] = 0;
		frame[15] = how & 0x80 ? 0 : how & 0x20 ? 20 : 10;
		l4 += 4;
	}
	h = offload_fields(in, l4, how & 1);
	fg_write(g, at, &h, sizeof(h));
	fg_write(g, at + (n.hashes ? 20 : g->legacy ? 10 : 12), frame, l4 + 20);
}

/* virtio 1.3 5.1.2: the control queue comes after the last pair that the driver knows of. */
static struct virtqueue *queue_of(unsigned q)
{
	static const uint8_t first[] = { 0, 1, 2 }, all[] = { 0, 1, 2 * PAIRS, 2, 3 };

	return &n.vhost[HOSTILE]->queues[n.pairs ? all[q] : first[q % ARRAY_SIZE(first)]];
}

/* A command whose bytes are right, in a chain that is: what it says matters then. */
static void say_command(const uint8_t *bytes, uint8_t len, uint8_t room)
{
	uint8_t chain[4 + 32 + 2] = { 0, 1 | 1 << 3, 0, len };
	struct input in = { chain, chain + 4 + len + 2 };

	memcpy(chain + 4, bytes, len);
	chain[4 + len] = len;
	chain[4 + len + 1] = room;
	fg_chain(&n.guest[CONTROL], &in);
}

/* How long notifications wait: TX_SET, RX_SET, VQ_SET, VQ_GET (virtio 1.3 5.1.6.5.9). */
static void step_coalesce(struct input *in)
{
	uint8_t how = in_u8(in), bytes[2 + 12 + 4] = { VIRTIO_NET_CTRL_NOTF_COAL, how & 3 };
	uint8_t len = 2, queue = how >> 4 & 7;

	if (how & 8) /* as the front-end enables it */
		n.vhost[HOSTILE]->ops->queue_enabled(n.vhost[HOSTILE], queue_of(queue % CONTROL),
						     true);
	if (how & 2) {
		bytes[2] = queue == 7 ? in_u8(in) : queue;
		bytes[3] = queue == 7 ? in_u8(in) : 0;
		len += 4;
	}
	if (how & 4) { /* from not at all to for ever */
		bytes[len] = in_u8(in);
		bytes[len + 1] = bytes[len + 4] = in_u8(in);
		bytes[len + 7] = bytes[len + 4];
	} else {
		in_bytes(in, bytes + len, 8);
	}
	len += 8;
	if (how & 0x80) /* cut off, or more than it is */
		len = in_u8(in) % (sizeof(bytes) + 1);
	say_command(bytes, len, how & 1 ? 9 : 1 + queue);
}

/* GUEST_OFFLOADS_SET (virtio 1.3 5.1.6.5.8): of what was negotiated, or anything. */
static void step_offloads(struct input *in)
{
	uint8_t how = in_u8(in), bytes[2 + 8 + 4] = { VIRTIO_NET_CTRL_GUEST_OFFLOADS, how >> 7 };
	uint64_t on = in_u64(in);

	if (!(how & 1))
		on &= n.vhost[HOSTILE]->features & net_offloads_known();
	on = htole64(on);
	memcpy(bytes + 2, &on, sizeof(on));
	say_command(bytes, how & 2 ? in_u8(in) % (sizeof(bytes) + 1) : 10, 1);
}

static void step_pairs(struct input *in)
{
	uint8_t bytes[] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, in_u8(in),
			    in_u8(in) };

	bytes[2] %= bytes[3] & 0x80 ? 256 : PAIRS + 2;
	bytes[3] = bytes[3] > 0xf0;
	say_command(bytes, sizeof(bytes), 1);
}

/* RSS_CONFIG or HASH_CONFIG, right but for some of its bytes, where a chain may find it. */
static void step_rss(struct input *in)
{
	struct fuzz_guest *g = &n.guest[CONTROL];
	uint64_t at = FG_BUFFERS + in_u8(in) * 64u;
	uint8_t how = in_u8(in), bytes[2 + 4 + 2 + 2 + 2 * 128 + 2 + 1 + 40] = { 4, 1, 0x3f };
	unsigned entries = 1u << how % 8, len = 10 + 2 * entries;

	bytes[6] = (uint8_t)(entries - 1);
	for (unsigned i = 1; i < entries; i += 2)
		bytes[10 + 2 * i] = n.pairs;
	if (how & 0x10) { /* HASH_CONFIG */
		bytes[1] = 2;
		len = 14;
	} else {
		bytes[len] = 1;
		len += 2;
	}
	bytes[len++] = 40;
	in_bytes(in, bytes + len, 8);
	len += 40;
	for (unsigned i = how >> 6; i > 0; i--) {
		uint16_t place = in_u16(in);

		bytes[place % len] = in_u8(in);
	}
	fg_write(g, at, bytes, len);
}

/* Who sleeps owes its driver no notification; or, if it @may_wake, it is about to be woken. */
static void check_calls(bool may_wake)
{
	for (unsigned i = 0; i < N_QUEUES; i++) {
		const struct virtqueue *vq = queue_of(i);
		const struct net_queue *q = vq->priv;

		if (!n.runs[i] || i == CONTROL || !q->coalesces || vq->ring.broken)
			continue;
		FUZZ_CHECK(!q->coalesce.pending || q->poller.state != POLLER_PARKED ||
				   (may_wake && q->wake_posted),
			   "%s sleeps on %u packets", vq->name, q->coalesce.pending);
	}
}

/* Only what was negotiated is off, or on, and all receive queues have it alike. */
static void check_offloads(void)
{
	const struct net_device *d = n.dev[HOSTILE];
	uint64_t may = d->vdev.features & net_offloads_known(), on = may & ~d->offloads_off;

	FUZZ_CHECK(!(d->offloads_off & ~may));
	FUZZ_CHECK(!d->offloads_off ||
		   vhost_has_feature(&d->vdev, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
	for (unsigned i = 0; i < N_QUEUES; i++) {
		const struct net_queue *q = queue_of(i)->priv;

		if (!n.runs[i] || q->role != NET_QUEUE_RECEIVE)
			continue;
		FUZZ_CHECK(q->csum == !!(on & bit(VIRTIO_NET_F_GUEST_CSUM)));
		FUZZ_CHECK(q->tso4 == (q->csum && on & bit(VIRTIO_NET_F_GUEST_TSO4)));
		FUZZ_CHECK(q->uso6 == (q->csum && on & bit(VIRTIO_NET_F_GUEST_USO6)));
	}
}

static void check_all(void)
{
	uint32_t len;

	for (unsigned q = 0; q < N_QUEUES; q++)
		if (n.runs[q])
			fg_check_writes(&n.guest[q], hooks_live(&queue_of(q)->ring) == 0);
	check_calls(true);
	check_offloads();
	peer_receive(&len);
}

/* Untagged frames are of VLAN 10 everywhere, so that all hear from each other. */
static void rules_set(enum vlans vlans, bool guarded)
{
	struct port *ports[] = { &n.dev[HOSTILE]->port, &n.dev[PEER]->port, &n.third };
	struct port_rules access = { .untagged = 10 }, trunk = access, tagged = { 0 };

	vlan_set_add(&trunk.tagged, 20);
	vlan_set_add(&trunk.tagged, 30);
	vlan_set_add(&tagged.tagged, 10);
	n.vlans = vlans;
	n.guarded = guarded;
	for (unsigned i = 0; i < ARRAY_SIZE(ports); i++) {
		struct port_rules none = { 0 }, *r = vlans ? &access : &none;

		if (i == HOSTILE && vlans == VLANS_TRUNK)
			r = &trunk;
		if (i == PEER && vlans == VLANS_PEER_TRUNK)
			r = &tagged;
		r->macs.n = r->ips.n = guarded && i == HOSTILE;
		memcpy(r->macs.mac[0], macs[HOSTILE], 6);
		port_set_rules(ports[i], r);
	}
}

static uint64_t device_features(struct input *in, uint16_t *more)
{
	static const uint8_t offered[] = {
		VIRTIO_NET_F_CSUM,	 VIRTIO_NET_F_HOST_TSO4,     VIRTIO_NET_F_HOST_TSO6,
		VIRTIO_NET_F_HOST_ECN,	 VIRTIO_NET_F_GUEST_CSUM,    VIRTIO_NET_F_GUEST_TSO4,
		VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN,     VIRTIO_NET_F_MRG_RXBUF,
		VIRTIO_NET_F_MAC,	 VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_GUEST_ANNOUNCE,
	};
	uint16_t mask = in_u16(in);
	uint64_t features = bit(VIRTIO_NET_F_CTRL_VQ);

	for (unsigned i = 0; i < ARRAY_SIZE(offered); i++)
		if (mask & 1u << i)
			features |= bit(offered[i]);
	if (features & bit(VIRTIO_NET_F_CTRL_MAC_ADDR))
		features |= bit(VIRTIO_NET_F_CTRL_RX) | bit(VIRTIO_NET_F_CTRL_RX_EXTRA) |
			    bit(VIRTIO_NET_F_CTRL_VLAN);
	if (features & bit(VIRTIO_NET_F_GUEST_ANNOUNCE))
		features |= bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
	if (features & bit(VIRTIO_NET_F_HOST_TSO4))
		features |= bit(VIRTIO_NET_F_HOST_USO);
	if (features & bit(VIRTIO_NET_F_GUEST_TSO4))
		features |= bit(VIRTIO_NET_F_GUEST_USO4);
	if (features & bit(VIRTIO_NET_F_GUEST_TSO6))
		features |= bit(VIRTIO_NET_F_GUEST_USO6);
	*more = mask >> 12;
	return features;
}

static void begin(struct input *in)
{
	static const uint8_t size_8[] = { 0, 3, 0 }, packed_8[] = { 1, 4, 0 };
	uint16_t vlans, more;
	uint64_t features = device_features(in, &vlans), peer = device_features(in, &more);
	struct input second;

	race_reset();
	/* The last one's table, and the rest that its driver has set, are not known to this one. */
	n.vhost[HOSTILE]->ops->disconnected(n.vhost[HOSTILE]);
	rules_set((enum vlans)(vlans & 3), vlans & 4);
	n.hashes = vlans & 8;
	if (n.hashes)
		features |= bit(VIRTIO_NET_F_RSS) | bit(VIRTIO_NET_F_HASH_REPORT);
	n.coalesces = more & 3;
	if (more & 1)
		features |= bit(VIRTIO_NET_F_NOTF_COAL);
	if (more & 2)
		features |= bit(VIRTIO_NET_F_VQ_NOTF_COAL);
	n.pairs = n.hashes || more & 4;
	if (more & 4)
		features |= bit(VIRTIO_NET_F_MQ);
	peer_start(peer);
	for (unsigned q = 0; q < (n.pairs ? N_QUEUES : RECEIVE_2); q++) {
		second = (struct input) { more & 8 ? packed_8 : size_8, NULL };
		second.end = second.at + sizeof(size_8);
		fg_begin(&n.guest[q], q < RECEIVE_2 ? in : &second);
		n.runs[q] = fuzz_queue_start(n.vhost[HOSTILE], queue_of(q), &n.guest[q],
					     features) == 0;
	}
}

static void end(void)
{
	static const uint8_t everybody[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct packet p = { .len = 100, .head_len = PACKET_HEAD_PLAIN };
	struct iovec seg = { n.body, 100 - PACKET_HEAD_PLAIN };
	struct burst b = { &p, 1 };
	const uint8_t *got;
	uint32_t len = 0;
	unsigned before;

	memset(p.head, 0x5a, sizeof(p.head));
	ether(p.head, everybody, 0x88b5);
	p.segs = &seg;
	p.n_segs = 1;
	sim_park(n.workers);
	worker_call_wait(workers_get(n.workers, 0), forward, &b);
	sim_round(n.workers);
	check_calls(false);
	for (unsigned q = 0; q < N_QUEUES; q++) {
		if (!n.runs[q])
			continue;
		fuzz_queue_stop(n.workers, queue_of(q));
		fg_check_writes(&n.guest[q], true);
		n.runs[q] = false;
	}
	peer_receive(&len); /* what a queue sent while others stopped */
	rules_set(VLANS_NONE, false);
	len = 0;
	before = n.peer_frames;
	worker_call_wait(workers_get(n.workers, 0), forward, &b);
	got = peer_receive(&len);
	FUZZ_CHECK(n.peer_frames == before + 1 && len == 100);
	FUZZ_CHECK(memcmp(got, p.head, p.head_len) == 0 &&
		   memcmp(got + p.head_len, n.body, seg.iov_len) == 0);
	fuzz_queue_stop(n.workers, &n.vhost[PEER]->queues[RECEIVE]);
}

/* The worker, while the guest's other processor writes. */
static void raced(void (*what)(struct workers *ws))
{
	race_begin();
	what(n.workers);
	race_end();
}

/* What a guest that knows the device says and sends. */
static void step_right(uint8_t what, struct input *in)
{
	bool command = what & 0x80;

	if (command && what & 0x10)
		step_offloads(in);
	else if (command && n.coalesces && what & 0x40)
		step_coalesce(in);
	else if (command && n.hashes && !(what & 0x20))
		step_rss(in);
	else if (command && n.pairs)
		step_pairs(in);
	else
		step_headers(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	if (!n.workers)
		create_all();
	begin(&in);
	for (unsigned i = 0; i < STEPS_MAX && in_left(&in); i++) {
		uint8_t what = in_u8(&in);
		bool second = what & 0x80 && n.pairs;

		switch (what % 8) {
		case 0:
			fg_chain(&n.guest[second ? TRANSMIT_2 : TRANSMIT], &in);
			continue;
		case 1:
			fg_chain(&n.guest[second ? RECEIVE_2 : RECEIVE], &in);
			continue;
		case 2:
			fg_chain(&n.guest[CONTROL], &in);
			continue;
		case 3:
			fg_step(&n.guest[what / 8 % (n.pairs ? N_QUEUES : RECEIVE_2)], &in);
			continue;
		case 4:
			step_right(what, &in);
			continue;
		case 5:
			step_forward(&in);
			break;
		case 6:
			raced(sim_wake);
			raced(sim_round);
			break;
		case 7:
			raced(sim_park);
			break;
		}
		check_all();
	}
	raced(sim_wake);
	raced(sim_round);
	check_all();
	end();
	return 0;
}
