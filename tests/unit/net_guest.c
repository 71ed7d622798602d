/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/net_guest.h"

#include "base/error.h"
#include "base/log.h"
#include "poll/control.h"
#include "tests/guest/frontend_iommu.h"
#include "tests/guest/frontend_postcopy.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUARD 0xee
#define GUARD_LEN 16 /* behind every piece of a receive buffer */
#define MEM_BYTES (UINT64_C(96) << 20)

#define GUESTS_MAX 8
#define PAGE 4096

bool ng_never_parks;
struct workers *ng_workers;
struct net_switch *ng_switch;

static struct net_guest *behind_iommu[GUESTS_MAX];

void ng_world_start(unsigned n_workers)
{
	struct workers_config wc = { .n = n_workers,
				     .idle = ng_never_parks ? IDLE_POLL : IDLE_ADAPTIVE };
	struct switch_config sc = { .name = "lan" };
	struct error err = { 0 };

	log_set_level(getenv("NG_DEBUG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	cr_assert_eq(control_init(), 0);
	cr_assert_eq(workers_start(&wc, &ng_workers, &err), 0, "%s", err.text);
	cr_assert_eq(switch_create(&sc, ng_workers, &ng_switch, &err), 0, "%s", err.text);
}

void ng_world_stop(void)
{
	switch_destroy(ng_switch);
	workers_stop(ng_workers);
	control_fini();
}

/* The guest's IOMMU maps each page to the guest memory NG_IOVA below. */
static void answer_misses(struct net_guest *g)
{
	struct vu_iotlb m;
	int rc;

	while (!g->deaf && !g->fe.receiving && (rc = frontend_poll_miss(&g->fe, &m)) != 0) {
		uint64_t iova = ALIGN_DOWN(m.iova, PAGE);

		cr_assert_gt(rc, 0, "%s", g->fe.error);
		g->misses++;
		cr_assert_eq(frontend_map(&g->fe, iova, iova - NG_IOVA, PAGE, g->access), 0, "%s",
			     g->fe.error);
	}
}

void ng_idle(void *arg)
{
	(void)arg;
	control_step(0);
	for (unsigned i = 0; i < GUESTS_MAX; i++)
		if (behind_iommu[i])
			answer_misses(behind_iommu[i]);
	usleep(20); /* the loop's own wait is of a millisecond at least */
}

uint8_t *ng_alloc(struct net_guest *g, unsigned bytes, uint64_t *gpa)
{
	uint8_t *p = guest_alloc(&g->mem, bytes, 64, gpa);

	cr_assert_not_null(p, "out of guest memory");
	return p;
}

static void options_complete(struct ng_options *o)
{
	if (!o->pairs)
		o->pairs = 1;
	if (!o->run_pairs)
		o->run_pairs = o->pairs;
	if (!o->ring_size)
		o->ring_size = 256;
	if (!o->rx_buffer)
		o->rx_buffer = 1526 + 12;
	if (!o->rx_pieces)
		o->rx_pieces = 1;
	if (!o->rx_count)
		o->rx_count = o->ring_size / o->rx_pieces;
}

void ng_create(struct net_guest *g, unsigned number, const struct ng_options *opt)
{
	struct net_device_config cfg = {
		.has_mac = opt->has_mac, .mtu = opt->mtu, .speed = opt->speed, .rules = opt->rules
	};
	struct error err = { 0 };

	memset(g, 0, sizeof(*g));
	g->opt = *opt;
	options_complete(&g->opt);
	snprintf(g->path, sizeof(g->path), "/tmp/sluice-test-net-%d-%u.sock", (int)getpid(),
		 number);
	memcpy(g->mac, (uint8_t[6]) { 0x52, 0x54, 0, 0, 0, (uint8_t)(number + 1) }, 6);
	cfg.name = g->path;
	memcpy(cfg.mac, g->mac, 6);
	cfg.queue_pairs = g->opt.pairs;
	cfg.socket = (struct vhost_socket) { .path = strdup(g->path), .fd = -1, .mode = -1 };
	cr_assert_eq(net_device_create(&cfg, ng_switch, ng_workers, &g->dev, &err), 0, "%s",
		     err.text);
}

static void make_rx_buffers(struct net_guest *g)
{
	const struct ng_options *o = &g->opt;
	unsigned piece = o->rx_buffer / o->rx_pieces, at;
	uint64_t gpa;

	g->rx = calloc(o->run_pairs * o->rx_count + 1, sizeof(g->rx[0]));
	for (unsigned i = 0; i < o->run_pairs * o->rx_count; i++) {
		struct ng_buffer *b = &g->rx[i];

		b->pair = i / o->rx_count;
		b->host = ng_alloc(g, o->rx_buffer + o->rx_pieces * GUARD_LEN, &gpa);
		at = 0;
		for (unsigned k = 0; k < o->rx_pieces; k++) {
			bool last = k + 1 == o->rx_pieces;

			b->segs[k].gpa = gpa + at + g->fe.iova_base;
			b->segs[k].len = last ? o->rx_buffer - k * piece : piece;
			at += b->segs[k].len + GUARD_LEN;
		}
	}
}

static void add(struct net_guest *g, unsigned queue, const struct driver_seg *segs, unsigned n_out,
		unsigned n_in, void *cookie)
{
	struct driver_ring *r = &g->fe.queue[queue].ring;
	int rc = r->layout == DRIVER_SPLIT
			 ? driver_add(r, DRIVER_SPLIT, segs, n_out, n_in, cookie)
			 : driver_add(r, DRIVER_PACKED, segs, n_out, n_in, cookie);

	cr_assert_eq(rc, 0, "no room in queue %u", queue);
}

static void give_rx(struct net_guest *g, struct ng_buffer *b)
{
	memset(b->host, GUARD, g->opt.rx_buffer + g->opt.rx_pieces * GUARD_LEN);
	add(g, 2 * b->pair, b->segs, 0, g->opt.rx_pieces, b);
}

void ng_fill(struct net_guest *g, unsigned pair, unsigned n)
{
	unsigned have = 0;

	for (unsigned i = 0; have < n && i < g->opt.run_pairs * g->opt.rx_count; i++) {
		if (g->rx[i].pair != pair)
			continue;
		give_rx(g, &g->rx[i]);
		have++;
	}
	frontend_submit(&g->fe, 2 * pair);
}

unsigned ng_ctrl_index(const struct net_guest *g)
{
	uint64_t many = NG_BIT(VIRTIO_NET_F_MQ) | NG_BIT(VIRTIO_NET_F_RSS);

	return g->fe.features & many ? 2 * g->opt.pairs : 2;
}

static void iommu_connect(struct net_guest *g)
{
	unsigned i = 0;

	while (behind_iommu[i])
		i++;
	cr_assert_lt(i, GUESTS_MAX);
	behind_iommu[i] = g;
	g->access = VU_IOTLB_READ | VU_IOTLB_WRITE;
	g->fe.iova_base = NG_IOVA;
	cr_assert_eq(frontend_open_backend_channel(&g->fe), 0, "%s", g->fe.error);
}

void ng_connect(struct net_guest *g)
{
	const struct ng_options *o = &g->opt;
	struct guest_range range = { .gpa = 0x100000, .size = MEM_BYTES };
	struct frontend_queue_options qo = { .size = o->ring_size,
					     .indirect = o->indirect,
					     .indirect_segs = o->table_segs };
	uint64_t wanted = o->features;

	wanted |= o->packed ? VU_F_PACKED : 0;
	wanted |= o->event_idx ? VU_F_EVENT_IDX : 0;
	wanted |= o->legacy ? 0 : VU_F_VERSION_1;
	wanted |= o->indirect != DRIVER_DIRECT ? VU_F_INDIRECT : 0;
	wanted |= o->iommu ? VU_F_ACCESS_PLATFORM : 0;
	frontend_init(&g->fe);
	g->fe.idle = ng_idle;
	cr_assert_eq(guest_memory_create(&g->mem, &range, 1, 0), 0);
	cr_assert_eq(frontend_connect(&g->fe, g->path), 0, "%s", g->fe.error);
	cr_assert_eq(
		frontend_hello(&g->fe,
			       VU_PF_USUAL | VU_PF_RARP | VU_PF_NET_MTU |
				       (o->iommu || o->backend_channel ? VU_PF_BACKEND_REQ : 0) |
				       (o->inflight ? VU_PF_INFLIGHT_SHMFD : 0) |
				       (o->share ? VU_PF_PAGEFAULT : 0)),
		0, "%s", g->fe.error);
	cr_assert_eq(wanted & ~g->fe.offered, 0, "features %lx were not offered",
		     wanted & ~g->fe.offered);
	cr_assert_eq(frontend_set_features(&g->fe, wanted), 0, "%s", g->fe.error);
	g->fe.memory = &g->mem;
	if (!o->share)
		cr_assert_eq(frontend_share_memory(&g->fe, &g->mem), 0, "%s", g->fe.error);
	if (o->iommu)
		iommu_connect(g);
	if (o->backend_channel)
		cr_assert_eq(frontend_open_backend_channel(&g->fe), 0, "%s", g->fe.error);
	g->hdr_len = o->legacy && !(wanted & NG_MRG) ? 10 : 12;
	if (wanted & NG_BIT(VIRTIO_NET_F_HASH_REPORT))
		g->hdr_len = 20;
	for (unsigned q = 0; q < 2 * o->run_pairs; q++)
		cr_assert_eq(frontend_queue_setup(&g->fe, q, &qo), 0, "%s", g->fe.error);
	for (unsigned i = 0; i < NG_TX_SLOTS; i++) {
		g->tx[i] = ng_alloc(g, NG_FRAME_MAX, &g->tx_gpa[i]);
		g->tx_gpa[i] += g->fe.iova_base;
	}
	if (o->inflight) {
		cr_assert_eq(
			frontend_get_inflight(&g->fe, o->inflight, 2 * o->run_pairs, o->ring_size),
			0, "%s", g->fe.error);
		cr_assert_eq(frontend_set_inflight(&g->fe, o->inflight), 0, "%s", g->fe.error);
	}
	g->tx_next = 0;
	memset(g->tx_out, 0, sizeof(g->tx_out));
	make_rx_buffers(g);
	if (o->share)
		o->share(g);
	for (unsigned q = 0; q < 2 * o->run_pairs; q++)
		cr_assert_eq(frontend_queue_start(&g->fe, q), 0, "%s", g->fe.error);
	/* Only now: a ring starts where the driver's stands (SET_VRING_BASE). */
	for (unsigned pair = 0; pair < o->run_pairs && !o->rx_idle && !o->share; pair++)
		ng_fill(g, pair, o->rx_count);
	if (wanted & NG_BIT(VIRTIO_NET_F_CTRL_VQ)) {
		unsigned ctrl = ng_ctrl_index(g);

		cr_assert_eq(frontend_queue_setup(&g->fe, ctrl, &qo), 0, "%s", g->fe.error);
		cr_assert_eq(frontend_queue_start(&g->fe, ctrl), 0, "%s", g->fe.error);
	}
}

void ng_start(struct net_guest *g, unsigned number, const struct ng_options *opt)
{
	ng_create(g, number, opt);
	ng_connect(g);
}

void ng_disconnect(struct net_guest *g)
{
	for (unsigned i = 0; i < GUESTS_MAX; i++)
		if (behind_iommu[i] == g)
			behind_iommu[i] = NULL;
	frontend_close(&g->fe);
	for (unsigned i = 0;
	     vhost_device_state(net_device_vhost(g->dev)) != VHOST_DEVICE_WAITING && i < 5000; i++)
		control_step(1000);
	cr_assert_eq(vhost_device_state(net_device_vhost(g->dev)), VHOST_DEVICE_WAITING);
	guest_memory_destroy(&g->mem);
	free(g->rx);
	g->rx = NULL;
}

static void set_true(void *arg)
{
	*(bool *)arg = true;
}

void ng_stop(struct net_guest *g)
{
	bool closed = false;

	if (g->rx)
		ng_disconnect(g);
	net_device_close(g->dev, set_true, &closed);
	for (unsigned i = 0; !closed && i < 5000; i++)
		control_step(1000);
	cr_assert(closed);
	cr_assert_neq(access(g->path, F_OK), 0, "the socket file is still there");
}

void ng_send(struct net_guest *g, unsigned pair, const struct virtio_net_hdr *hdr,
	     const uint8_t *bytes, unsigned len, const unsigned *cuts)
{
	static const struct virtio_net_hdr plain;
	const unsigned whole[] = { g->hdr_len, NG_FRAME_MAX, 0 };
	unsigned slot = g->tx_next++ % NG_TX_SLOTS, total = g->hdr_len + len, n = 0;
	struct driver_seg segs[256];

	cr_assert_leq(total, NG_FRAME_MAX);
	if (g->tx_out[pair] >= NG_TX_EACH)
		ng_sent(g, pair);
	memset(g->tx[slot], 0, g->hdr_len);
	memcpy(g->tx[slot], hdr ? hdr : &plain, sizeof(plain));
	memcpy(g->tx[slot] + g->hdr_len, bytes, len);
	if (!cuts)
		cuts = whole;
	for (unsigned at = 0; at < total; n++) {
		unsigned piece = *cuts < total - at ? *cuts : total - at;

		cr_assert_lt(n, 256);
		segs[n] = (struct driver_seg) { g->tx_gpa[slot] + at, piece };
		at += piece;
		if (cuts[1])
			cuts++;
	}
	add(g, 2 * pair + 1, segs, n, 0, g);
	frontend_submit(&g->fe, 2 * pair + 1);
	g->tx_out[pair]++;
}

unsigned ng_submit_wait(struct net_guest *g, unsigned queue, const struct driver_seg *segs,
			unsigned n_out, unsigned n_in)
{
	struct driver_used used;

	add(g, queue, segs, n_out, n_in, g);
	frontend_submit(&g->fe, queue);
	cr_assert_eq(frontend_wait_used(&g->fe, queue, &used), 0, "%s", g->fe.error);
	return used.len;
}

void ng_sent(struct net_guest *g, unsigned pair)
{
	struct driver_used used;

	for (; g->tx_out[pair]; g->tx_out[pair]--) {
		cr_assert_eq(frontend_wait_used(&g->fe, 2 * pair + 1, &used), 0, "%s", g->fe.error);
		cr_assert_eq(used.len, 0, "%u bytes written into a transmit chain", used.len);
	}
}

/* Takes @len bytes out of a buffer, and sees that nothing else was written. */
static void unpack(const struct net_guest *g, const struct ng_buffer *b, uint8_t *out, unsigned len)
{
	const uint8_t *p = b->host;

	for (unsigned k = 0; k < g->opt.rx_pieces; k++) {
		unsigned here = b->segs[k].len, n = len < here ? len : here, i;

		memcpy(out, p, n);
		i = n;
		while (i < here + GUARD_LEN && p[i] == GUARD)
			i++;
		cr_assert_eq(i, here + GUARD_LEN, "byte %u of piece %u was written, past %u", i, k,
			     n);
		out += n;
		len -= n;
		p += here + GUARD_LEN;
	}
	cr_assert_eq(len, 0);
}

static void take(struct net_guest *g, struct ng_frame *f, const struct driver_used *first)
{
	static uint8_t whole[NG_FRAME_MAX + 64];
	unsigned total = 0, n = 1;
	struct driver_used used = *first;

	for (f->n_buffers = 0; f->n_buffers < n; f->n_buffers++) {
		struct ng_buffer *b = used.cookie;
		unsigned queue = 2 * b->pair;

		cr_assert_leq(total + used.len, sizeof(whole));
		unpack(g, b, whole + total, used.len);
		total += used.len;
		if (f->n_buffers == 0) {
			cr_assert_geq(used.len, g->hdr_len);
			memset(&f->hdr, 0, sizeof(f->hdr));
			memcpy(&f->hdr, whole, g->hdr_len < 12 ? g->hdr_len : 12);
			f->hash_value = f->hash_report = 0;
			if (g->hdr_len == 20) {
				memcpy(&f->hash_value, whole + 12, 4);
				memcpy(&f->hash_report, whole + 16, 2);
				cr_assert_arr_eq(whole + 18, "\0\0", 2);
			}
			n = g->hdr_len >= 12 ? f->hdr.num_buffers : 1;
			cr_assert_geq(n, 1);
			cr_assert(n == 1 || g->fe.features & NG_MRG);
		}
		if (!g->opt.rx_idle) {
			give_rx(g, b);
			frontend_submit(&g->fe, queue);
		}
		/* virtio 1.3 5.1.6.4: all buffers of a frame become used together. */
		if (f->n_buffers + 1 < n)
			cr_assert(frontend_poll(&g->fe, queue, &used), "%u of %u buffers: %s",
				  f->n_buffers + 1, n, g->fe.error);
	}
	f->len = total - g->hdr_len;
	cr_assert_leq(f->len, NG_FRAME_MAX);
	memcpy(f->bytes, whole + g->hdr_len, f->len);
}

bool ng_try_receive(struct net_guest *g, unsigned pair, struct ng_frame *f)
{
	struct driver_used used;

	if (!frontend_poll(&g->fe, 2 * pair, &used)) {
		cr_assert_null(driver_violation(&g->fe.queue[2 * pair].ring), "%s",
			       driver_violation(&g->fe.queue[2 * pair].ring));
		return false;
	}
	take(g, f, &used);
	return true;
}

void ng_receive(struct net_guest *g, unsigned pair, struct ng_frame *f)
{
	struct driver_used used;

	if (frontend_wait_used(&g->fe, 2 * pair, &used)) {
		struct port_stats s = ng_stats(g);

		cr_assert(false,
			  "%s; port: %lu delivered, %lu without buffer, %lu too big, %lu down, %lu "
			  "error",
			  g->fe.error, s.tx_packets, s.tx_no_buffer, s.tx_too_big, s.tx_down,
			  s.tx_error);
	}
	take(g, f, &used);
}

struct port_stats ng_stats(const struct net_guest *g)
{
	struct port_stats s;

	port_stats_sum(net_device_port(g->dev), workers_count(ng_workers), &s);
	return s;
}

bool ng_told(struct net_guest *g)
{
	struct vu_header h;

	return frontend_backend_message(&g->fe, &h) >= 0 && h.request == VU_BACKEND_CONFIG_CHANGE;
}

bool ng_link_is_up(struct net_guest *g)
{
	struct virtio_net_config c;

	cr_assert_eq(frontend_get_config(&g->fe, 0, &c, sizeof(c)), 0, "%s", g->fe.error);
	return c.status & VIRTIO_NET_S_LINK_UP;
}
