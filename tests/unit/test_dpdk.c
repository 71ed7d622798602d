/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK ports between the switch and what DPDK offers on any machine: a ring that hands back what
 * was sent, the host's tap, and a veth pair through af_packet. Those of the host need root, and get
 * a network namespace of their own.
 */
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/spinlock.h"
#include "net/net.h"
#include "net/offload.h"
#include "poll/control.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORKERS 2
#define FRAMES_MAX 128
#define FRAME_MAX 24576

/* A port that stands for a guest. */
static struct guest {
	struct port port;
	struct spinlock lock;
	unsigned n;
	struct {
		uint32_t len;
		bool csum_valid;
		uint8_t data[FRAME_MAX];
	} frames[FRAMES_MAX];
} guest;

static struct workers *ws;
static struct net_switch *sw;
static struct error err;

static const uint8_t guest_mac[6] = { 0x02, 0, 0, 0, 0, 0x11 };
static const uint8_t host_mac[6] = { 0x02, 0, 0, 0, 0, 0x22 };

static unsigned guest_deliver(struct port *p, struct packet *const *packets, unsigned n)
{
	(void)p;
	spin_lock(&guest.lock);
	for (unsigned i = 0; i < n && guest.n < FRAMES_MAX; i++) {
		struct frame f;
		const void *piece;
		uint32_t at, len;

		frame_of_packet(&f, packets[i]);
		guest.frames[guest.n].len = frame_len(&f);
		guest.frames[guest.n].csum_valid = f.offload.csum_valid;
		memcpy(guest.frames[guest.n].data, f.head, f.head_len);
		for (at = f.head_len; (piece = frame_next(&f, UINT32_MAX, &len)); at += len)
			if (at + len <= FRAME_MAX)
				memcpy(guest.frames[guest.n].data + at, piece, len);
		guest.n++;
	}
	spin_unlock(&guest.lock);
	return n;
}

static unsigned guest_count(void)
{
	unsigned n;

	spin_lock(&guest.lock);
	n = guest.n;
	spin_unlock(&guest.lock);
	return n;
}

static const struct port_ops guest_ops = { .kind = "guest", .deliver = guest_deliver };

static const struct port_rules *guest_rules, *port_rules; /* NULL: none */

static void start(void)
{
	struct workers_config wcfg = { .n = WORKERS };
	struct switch_config cfg = { .name = "lan" };

	cr_assert_eq(control_init(), 0);
	cr_assert_eq(workers_start(&wcfg, &ws, &err), 0, "%s", err.text);
	cr_assert_eq(switch_create(&cfg, ws, &sw, &err), 0, "%s", err.text);
	guest.port.ops = &guest_ops;
	port_set_rules(&guest.port, guest_rules);
	guest.port.stats = aligned_alloc(CACHE_LINE, WORKERS * sizeof(struct port_stats));
	memset(guest.port.stats, 0, WORKERS * sizeof(struct port_stats));
	cr_assert_eq(switch_attach(sw, &guest.port, &err), 0, "%s", err.text);
}

static void stop(void)
{
	switch_detach(&guest.port);
	free(guest.port.stats);
	switch_destroy(sw);
	dpdk_fini();
	workers_stop(ws);
	control_fini();
}

static int try_open(const char *device, struct dpdk_port **port)
{
	struct dpdk_port_config cfg = { .name = "up", .device = device, .rules = port_rules };

	return dpdk_port_create(&cfg, sw, ws, port, &err);
}

static struct dpdk_port *open_port(const char *device)
{
	struct dpdk_port *port = NULL;

	cr_assert_eq(try_open(device, &port), 0, "%s", err.text);
	return port;
}

static struct port_stats stats(struct dpdk_port *port)
{
	struct port_stats s;

	port_stats_sum(dpdk_port_port(port), WORKERS, &s);
	return s;
}

/* Waits for it, with the control loop running. */
#define EVENTUALLY(cond)                                                         \
	do {                                                                     \
		uint64_t until = clock_ns() + 5000000000;                        \
		while (!(cond) && clock_ns() < until)                            \
			control_step(1000);                                      \
		cr_assert(cond, "line %d: not within 5 s: %s", __LINE__, #cond); \
	} while (0)

static void send_on_worker(void *arg)
{
	switch_forward(sw, &guest.port, arg, 1);
}

/*
 * Sends from the guest, from worker @w, a frame whose first bytes are in @head and that goes on
 * with @body in pieces of odd sizes.
 */
static void send_packet(unsigned w, const uint8_t *head, unsigned head_len, const uint8_t *body,
			unsigned body_len, const struct packet_offload *offload)
{
	static struct packet pk;
	static struct iovec segs[64];
	unsigned n = 0;

	pk = (struct packet) { .len = head_len + body_len, .head_len = (uint16_t)head_len };
	memcpy(pk.head, head, head_len);
	for (unsigned at = 0; at < body_len; n++) {
		unsigned len = MIN(body_len - at, 1111u);

		segs[n] = (struct iovec) { (void *)(uintptr_t)(body + at), len };
		at += len;
	}
	pk.segs = segs;
	pk.n_segs = (uint16_t)n;
	if (offload)
		pk.offload = *offload;
	worker_call_wait(workers_get(ws, w), send_on_worker, &pk);
}

static void ether(uint8_t *h, const uint8_t *dst, const uint8_t *src, uint16_t type)
{
	memcpy(h, dst, 6);
	memcpy(h + 6, src, 6);
	h[12] = (uint8_t)(type >> 8);
	h[13] = (uint8_t)type;
}

static uint8_t *pattern(unsigned len)
{
	uint8_t *b = malloc(len);

	for (unsigned i = 0; i < len; i++)
		b[i] = (uint8_t)(i * 7 + (i >> 8));
	return b;
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t sum16(const uint8_t *p, unsigned len, uint32_t sum)
{
	for (unsigned i = 0; i < len; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	return sum;
}

static uint16_t fold16(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* Of an IPv4 frame without options: what remains of header and payload sums is zero when right. */
static bool checksums_right(const uint8_t *frame)
{
	const uint8_t *ip = frame + 14;
	unsigned l4_len = get16(ip + 2) - 20u;

	return fold16(sum16(ip, 20, 0)) == 0xffff &&
	       fold16(sum16(ip + 12, 8 + l4_len, ip[9] + l4_len)) == 0xffff;
}

/* An IPv4 header and the start of TCP or UDP; the L4 checksum holds the pseudo header's sum. */
static unsigned ipv4(uint8_t *h, uint8_t proto, unsigned payload)
{
	unsigned l4 = proto == IPPROTO_TCP ? 20 : 8;
	uint8_t *ip = h + 14, *t = ip + 20;

	ether(h, host_mac, guest_mac, ETH_P_IP);
	memset(ip, 0, 20 + l4);
	ip[0] = 0x45;
	put16(ip + 2, 20 + l4 + payload);
	ip[8] = 64;
	ip[9] = proto;
	memcpy(ip + 12, "\x0a\x00\x00\x01\x0a\x00\x00\x02", 8);
	put16(ip + 10, (uint16_t)~fold16(sum16(ip, 20, 0)));
	put16(t, 1000);
	put16(t + 2, 2000);
	if (proto == IPPROTO_TCP) {
		t[7] = 1; /* sequence number */
		t[12] = 0x50;
		t[13] = 0x18; /* PSH ACK */
	} else {
		put16(t + 4, 8 + payload);
	}
	put16(t + (proto == IPPROTO_TCP ? 16 : 6), fold16(sum16(ip + 12, 8, proto + l4 + payload)));
	return 14 + 20 + l4;
}

Test(dpdk, device_that_does_not_probe_is_named_and_the_next_one_works, .timeout = 60)
{
	struct dpdk_port *port = NULL;

	start();
	cr_assert_lt(try_open("net_nonsense7,iface=x", &port), 0);
	cr_assert(strstr(err.text, "port up") && strstr(err.text, "net_nonsense7,iface=x"), "%s",
		  err.text);
	cr_assert_lt(try_open("0000:7f:1f.6", &port), 0);
	cr_assert(strstr(err.text, "0000:7f:1f.6"), "%s", err.text);
	cr_assert_lt(try_open("net_af_packet0,iface=no-such-if", &port), 0);
	cr_assert(strstr(err.text, "no-such-if"), "%s", err.text);
	cr_assert_lt(try_open("", &port), 0);
	port = open_port("net_ring0");
	cr_assert_lt(try_open("net_ring0", &(struct dpdk_port *) { NULL }), 0, "twice");
	cr_assert(strstr(err.text, "another port"), "%s", err.text);
	dpdk_port_close(port);
	stop();
}

Test(dpdk, starting_leaves_affinity_signals_and_handlers_as_they_were, .timeout = 60)
{
	cpu_set_t before, after;
	sigset_t mask_before, mask_after;
	struct dpdk_port *port;

	start();
	sched_getaffinity(0, sizeof(before), &before);
	pthread_sigmask(SIG_SETMASK, NULL, &mask_before);
	port = open_port("net_ring0");
	sched_getaffinity(0, sizeof(after), &after);
	pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
	cr_assert(CPU_EQUAL(&before, &after));
	for (int i = 1; i < SIGRTMAX; i++) {
		struct sigaction sa;

		cr_assert_eq(sigismember(&mask_before, i), sigismember(&mask_after, i));
		if (i > SIGRTMIN && sigaction(i, NULL, &sa) == 0)
			cr_assert_eq(sa.sa_handler, SIG_DFL, "signal %d", i);
	}
	dpdk_port_close(port);
	stop();
}

/* What goes into the ring comes out of it, to the guest, byte for byte; from either worker. */
Test(dpdk, frame_survives_the_way_out_and_in, .timeout = 60)
{
	static const unsigned body_lens[] = { 0, 1, 46, 150, 500, 1400, 1504 };
	uint8_t *body = pattern(2000), head[64];
	struct dpdk_port *port;
	uint64_t bytes = 0;

	start();
	port = open_port("net_ring0");
	for (unsigned i = 0; i < ARRAY_SIZE(body_lens); i++) {
		ether(head, host_mac, guest_mac, 0x88b5);
		send_packet(i % WORKERS, head, 14, body, body_lens[i], NULL);
		EVENTUALLY(guest_count() == i + 1);
		cr_assert_eq(guest.frames[i].len, 14 + body_lens[i]);
		cr_assert_eq(memcmp(guest.frames[i].data, head, 14), 0);
		cr_assert_eq(memcmp(guest.frames[i].data + 14, body, body_lens[i]), 0);
		bytes += 14 + body_lens[i];
	}
	EVENTUALLY(stats(port).rx_packets == ARRAY_SIZE(body_lens));
	cr_assert_eq(stats(port).tx_packets, ARRAY_SIZE(body_lens));
	cr_assert_eq(stats(port).tx_bytes, bytes);
	cr_assert_eq(stats(port).rx_bytes, bytes);
	dpdk_port_close(port);
	stop();
	free(body);
}

/* From an access port into a trunk, and what comes back from there; @tagged: the trunk's tag. */
static void vlan_out_and_in(bool tagged)
{
	struct port_rules access = { .untagged = 10 }, trunk = { .untagged = tagged ? 0 : 10 };
	struct packet_offload csum = { .needs_csum = true, .csum_start = 34, .csum_offset = 6 };
	uint8_t *body = pattern(2000), head[64];
	struct dpdk_port *port;
	uint64_t bytes = 0;

	vlan_set_add(&trunk.tagged, tagged ? 10 : 20);
	guest_rules = &access;
	port_rules = &trunk;
	start();
	port = open_port("net_ring0");
	for (unsigned i = 0; i < 3; i++) {
		unsigned len = i ? 1000 + 200 * i : 18, at = ipv4(head, IPPROTO_UDP, len);

		send_packet(i % WORKERS, head, at, body, len, &csum);
		EVENTUALLY(guest_count() == i + 1);
		cr_assert_eq(guest.frames[i].len, at + len);
		cr_assert(checksums_right(guest.frames[i].data));
		cr_assert_eq(memcmp(guest.frames[i].data, head, 40), 0);
		cr_assert_eq(memcmp(guest.frames[i].data + at, body, len), 0);
		bytes += at + len + (tagged ? 4 : 0);
	}
	EVENTUALLY(stats(port).rx_bytes == bytes);
	cr_assert_eq(stats(port).tx_bytes, bytes);
	cr_assert_eq(stats(port).rx_vlan, 0);
	dpdk_port_close(port);
	stop();
	free(body);
}

Test(dpdk, tag_goes_on_the_wire_and_comes_off_again, .timeout = 60)
{
	vlan_out_and_in(true);
}

Test(dpdk, native_vlan_has_no_tag_on_the_wire, .timeout = 60)
{
	vlan_out_and_in(false);
}

Test(dpdk, frame_beyond_the_mtu_is_dropped_and_counted, .timeout = 60)
{
	uint8_t *body = pattern(4000), head[64];
	struct dpdk_port *port;

	start();
	port = open_port("net_ring0");
	ether(head, host_mac, guest_mac, 0x88b5);
	send_packet(0, head, 14, body, 1505, NULL);
	send_packet(1, head, 14, body, 4000, NULL);
	cr_assert_eq(stats(port).tx_too_big, 2);
	cr_assert_eq(stats(port).tx_packets, 0);
	dpdk_port_close(port);
	stop();
	free(body);
}

Test(dpdk, unfinished_checksum_is_finished_here, .timeout = 60)
{
	static const uint8_t protos[] = { IPPROTO_TCP, IPPROTO_UDP };
	uint8_t *body = pattern(1001), head[64];
	struct dpdk_port *port;

	start();
	port = open_port("net_ring0");
	for (unsigned i = 0; i < 2; i++) {
		unsigned len = ipv4(head, protos[i], 1001);
		struct packet_offload o = { .needs_csum = true,
					    .csum_start = 34,
					    .csum_offset = i ? 6 : 16,
					    .hdr_len = (uint16_t)len };

		send_packet(0, head, len, body, 1001, &o);
		EVENTUALLY(guest_count() == i + 1);
		cr_assert(checksums_right(guest.frames[i].data), "protocol %u", protos[i]);
	}
	dpdk_port_close(port);
	stop();
	free(body);
}

/* 64 KiB in one packet: as many frames as the wire needs, in order, each of them complete. */
Test(dpdk, large_tcp_frame_is_cut_for_the_wire, .timeout = 60)
{
	const unsigned mss = 1460, payload = 64000;
	uint8_t *body = pattern(payload), head[64];
	unsigned len = ipv4(head, IPPROTO_TCP, payload), at = 0;
	struct packet_offload o = { .needs_csum = true,
				    .csum_start = 34,
				    .csum_offset = 16,
				    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				    .gso_size = mss,
				    .hdr_len = (uint16_t)len };
	const unsigned n = (payload + mss - 1) / mss;
	struct dpdk_port *port;

	start();
	port = open_port("net_ring0");
	send_packet(1, head, len, body, payload, &o);
	EVENTUALLY(guest_count() == n);
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *f = guest.frames[i].data;
		unsigned part = MIN(mss, payload - at);

		cr_assert_eq(guest.frames[i].len, len + part, "frame %u", i);
		cr_assert_eq(get16(f + 16), 40 + part);
		cr_assert_eq(get16(f + 38) << 16 | get16(f + 40), (int)(at + 1), "sequence");
		cr_assert_eq(memcmp(f + len, body + at, part), 0, "frame %u", i);
		cr_assert(checksums_right(f), "frame %u", i);
		at += part;
	}
	cr_assert_eq(stats(port).tx_packets, n);
	dpdk_port_close(port);
	stop();
	free(body);
}

static void send_many_on_worker(void *arg)
{
	for (unsigned i = 0; i < 3000; i++)
		switch_forward(sw, &guest.port, arg, 1);
}

/* The ring holds 1023 frames, and nobody reads them while its worker writes: the rest is counted.
 */
Test(dpdk, frames_that_the_device_does_not_take_are_counted_and_their_buffers_come_back,
     .timeout = 60)
{
	static struct packet pk = { .len = 60, .head_len = 60 };
	struct dpdk_port *port;

	start();
	port = open_port("net_ring0");
	ether(pk.head, host_mac, guest_mac, 0x88b5);
	for (unsigned i = 1; i <= 20; i++) {
		worker_call_wait(workers_get(ws, i % WORKERS), send_many_on_worker, &pk);
		cr_assert_eq(stats(port).tx_packets, i * 1023);
		cr_assert_eq(stats(port).tx_error, i * (3000 - 1023));
		EVENTUALLY(stats(port).rx_packets == i * 1023);
	}
	cr_assert_eq(stats(port).tx_no_buffer, 0);
	dpdk_port_close(port);
	stop();
}

Test(dpdk, ports_open_and_close_again_and_again, .timeout = 100)
{
	start();
	for (unsigned i = 0; i < 10; i++) {
		struct dpdk_port *a = open_port("net_ring0"), *b = open_port("net_null0,no-rx=1");

		dpdk_port_close(a);
		a = open_port("net_ring0");
		dpdk_port_close(b);
		dpdk_port_close(a);
	}
	cr_assert_eq(dpdk_capabilities_needed(), 0);
	stop();
}

static uint64_t cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* @return microseconds of CPU time a second, all threads together. */
static unsigned idle_cost(void)
{
	uint64_t cpu, until;

	usleep(200000);
	cpu = cpu_us();
	until = clock_ns() + 1000000000;
	while (clock_ns() < until)
		control_step(100000);
	return (unsigned)(cpu_us() - cpu);
}

static uint64_t n_sleeps(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < WORKERS; i++)
		n += counter_read(&worker_stats(workers_get(ws, i))->sleeps);
	return n;
}

Test(dpdk, idle_port_without_interrupts_costs_next_to_nothing, .timeout = 60)
{
	struct dpdk_port *port;
	uint64_t sleeps;
	unsigned us;

	start();
	port = open_port("net_ring0");
	sleeps = n_sleeps();
	us = idle_cost();
	sleeps = n_sleeps() - sleeps;
	fprintf(stderr, "idle, %s: %u us of CPU a second, %lu naps\n", dpdk_port_how(port), us,
		sleeps);
	/* The time of a nap is the machine's; how many there are is ours: in 1.2 s, two queues. */
	cr_assert_lt(sleeps, 2 * (1200 / 16 + 64));
	dpdk_port_close(port);
	stop();
}

static unsigned hugepages_free(void)
{
	char line[128];
	unsigned n = 0;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "HugePages_Free: %u", &n) != 1)
		;
	if (f)
		fclose(f);
	return n;
}

/*
 * Two of DPDK's own drivers as peers: a virtio front-end that offers all transmit offloads, and the
 * back-end at the other end of its socket, in a switch of its own.
 */
Test(dpdk, device_that_offers_it_sums_and_cuts_by_itself, .timeout = 60)
{
	const unsigned payload = 20001;
	uint8_t *body = pattern(payload), head[64];
	struct packet_offload o = { .needs_csum = true, .csum_start = 34, .csum_offset = 16 };
	struct switch_config far_cfg = { .name = "far" };
	struct net_switch *near, *far;
	struct port far_guest = { .ops = &guest_ops };
	char path[64], device[128];
	struct dpdk_port *back, *front;
	unsigned len;

	if (hugepages_free()) {
		/* There the one waits for the other with DPDK's memory lock held. */
		cr_skip_test("DPDK's virtio pair hangs in one process on hugepages");
	}
	start();
	near = sw;
	cr_assert_eq(switch_create(&far_cfg, ws, &far, &err), 0);
	far_guest.stats = guest.port.stats;
	cr_assert_eq(switch_attach(far, &far_guest, &err), 0);
	snprintf(path, sizeof(path), "/tmp/sluice-test-%d.sock", (int)getpid());
	unlink(path);
	sw = far;
	snprintf(device, sizeof(device), "net_vhost0,iface=%s,queues=1,tso=1", path);
	back = open_port(device);
	sw = near;
	snprintf(device, sizeof(device), "net_virtio_user0,path=%s,queues=1", path);
	front = open_port(device);
	cr_assert(strstr(dpdk_port_how(front), "TSO by device"), "%s", dpdk_port_how(front));
	EVENTUALLY(strstr(dpdk_port_how(back), "link up"));

	len = ipv4(head, IPPROTO_TCP, 1001);
	o.hdr_len = (uint16_t)len;
	send_packet(0, head, len, body, 1001, &o);
	EVENTUALLY(guest_count() == 1);
	cr_assert_eq(guest.frames[0].len, len + 1001);
	cr_assert(checksums_right(guest.frames[0].data));

	/* Large: one chain of buffers on both ways, since this peer takes it uncut. */
	len = ipv4(head, IPPROTO_TCP, payload);
	o.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	o.gso_size = 1460;
	send_packet(1, head, len, body, payload, &o);
	EVENTUALLY(guest_count() == 2);
	cr_assert_eq(stats(front).tx_packets, 2);
	cr_assert_eq(guest.frames[1].len, len + payload);
	cr_assert_eq(memcmp(guest.frames[1].data + len, body, payload), 0);

	/* In pieces beyond the MTU, as its sender would have it: the device is not asked to. */
	o.gso_size = 8000;
	send_packet(1, head, len, body, payload, &o);
	cr_assert_eq(stats(front).tx_packets, 2);
	cr_assert_gt(stats(front).tx_too_big, 0);

	dpdk_port_close(front);
	dpdk_port_close(back);
	switch_detach(&far_guest);
	switch_destroy(far);
	unlink(path);
	stop();
	free(body);
}

/* The host's side. */

static bool has_root(const char *what)
{
	if (geteuid() == 0 && access("/dev/net/tun", R_OK | W_OK) == 0 &&
	    unshare(CLONE_NEWNET) == 0)
		return true;
	cr_skip_test("%s needs root, /dev/net/tun and a network namespace", what);
	return false;
}

/* A raw socket on a host's interface, as another machine on that wire would have. */
static int raw_socket(const char *iface)
{
	struct sockaddr_ll sll = { .sll_family = AF_PACKET,
				   .sll_protocol = htons(ETH_P_ALL),
				   .sll_ifindex = (int)if_nametoindex(iface) };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));

	cr_assert_gt(sll.sll_ifindex, 0, "no interface %s", iface);
	cr_assert_geq(fd, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&sll, sizeof(sll)), 0);
	return fd;
}

/* The next frame of our test's kind, of @type; what the host's stack says by itself is skipped. */
static int raw_recv(int fd, uint16_t type, uint8_t *buf)
{
	uint64_t until = clock_ns() + 5000000000;

	while (clock_ns() < until) {
		struct sockaddr_ll from;
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(fd, buf, FRAME_MAX, 0, (struct sockaddr *)&from, &from_len);

		if (n >= 14 && from.sll_pkttype != PACKET_OUTGOING && get16(buf + 12) == type)
			return (int)n;
		if (n < 0)
			control_step(1000);
	}
	return -ETIMEDOUT;
}

static bool guest_got(const uint8_t *frame, unsigned len)
{
	bool got = false;

	spin_lock(&guest.lock);
	for (unsigned i = 0; i < guest.n; i++)
		got |= guest.frames[i].len == len && memcmp(guest.frames[i].data, frame, len) == 0;
	spin_unlock(&guest.lock);
	return got;
}

/* A question from the wire, an answer from the guest, a large one, and an unfinished checksum. */
static void exchange(int fd, uint8_t mark)
{
	uint8_t *body = pattern(1500), question[60] = { 0 }, head[64], got[FRAME_MAX];
	struct packet_offload o = { .needs_csum = true, .csum_start = 34, .csum_offset = 6 };
	unsigned len;

	ether(question, (const uint8_t *)"\xff\xff\xff\xff\xff\xff", host_mac, ETH_P_ARP);
	question[59] = mark;
	cr_assert_eq(send(fd, question, sizeof(question), 0), (int)sizeof(question), "%s",
		     strerror(errno));
	EVENTUALLY(guest_got(question, sizeof(question)));

	ether(head, host_mac, guest_mac, ETH_P_ARP);
	for (unsigned w = 0; w < WORKERS; w++) {
		send_packet(w, head, 14, body, 46, NULL);
		cr_assert_eq(raw_recv(fd, ETH_P_ARP, got), 60);
		cr_assert_eq(memcmp(got, head, 14) | memcmp(got + 14, body, 46), 0);
	}
	ether(head, host_mac, guest_mac, 0x88b5);
	send_packet(0, head, 14, body, 1500, NULL);
	cr_assert_eq(raw_recv(fd, 0x88b5, got), 1514);
	cr_assert_eq(memcmp(got + 14, body, 1500), 0);

	len = ipv4(head, IPPROTO_UDP, 333);
	o.hdr_len = (uint16_t)len;
	send_packet(1, head, len, body, 333, &o);
	cr_assert_eq(raw_recv(fd, ETH_P_IP, got), (int)len + 333);
	cr_assert(checksums_right(got));
	free(body);
}

Test(dpdk, tap_exchanges_frames_with_the_host, .timeout = 60)
{
	struct dpdk_port *port;
	int fd;

	if (!has_root("net_tap"))
		return;
	start();
	port = open_port("net_tap0,iface=slt0");
	fprintf(stderr, "%s\n", dpdk_port_how(port));
	cr_assert(strstr(dpdk_port_how(port), "rx interrupts"), "%s", dpdk_port_how(port));
	fd = raw_socket("slt0");
	exchange(fd, 1);
	/* Asleep, and woken by the first frame. */
	unsigned us = idle_cost();

	fprintf(stderr, "idle, net_tap: %u us of CPU a second\n", us);
	cr_assert_lt(us, 10000);
	exchange(fd, 2);
	close(fd);
	dpdk_port_close(port);
	cr_assert_eq(if_nametoindex("slt0"), 0, "the interface goes with the port");
	stop();
}

/* All threads: glibc's setresuid() takes the others along, and with the last uid 0 go the
 * privileges. */
static void drop_root(void)
{
	cr_assert_eq(setresgid(65534, 65534, 65534), 0);
	cr_assert_eq(setresuid(65534, 65534, 65534), 0);
}

Test(dpdk, tap_runs_and_closes_without_any_privilege, .timeout = 60)
{
	struct dpdk_port *port;
	int fd;

	if (!has_root("net_tap"))
		return;
	start();
	port = open_port("net_tap0,iface=slt0");
	fd = raw_socket("slt0");
	cr_assert_eq(dpdk_capabilities_needed(), 0);
	drop_root();
	exchange(fd, 1);
	close(fd);
	dpdk_port_close(port);
	cr_assert_eq(if_nametoindex("slt0"), 0, "the interface goes with the port");
	cr_assert_lt(try_open("net_tap1,iface=slt1", &port), 0, "a new one takes privileges");
	cr_assert(strstr(err.text, "net_tap1,iface=slt1"), "%s", err.text);
	fprintf(stderr, "%s\n", err.text);
	stop();
}

Test(dpdk, af_packet_exchanges_frames_over_a_veth_without_privilege, .timeout = 60)
{
	struct dpdk_port *port;
	int fd;

	if (!has_root("net_af_packet"))
		return;
	if (system("ip link add sla type veth peer name slb && ip link set sla up && "
		   "ip link set slb up") != 0)
		cr_skip_test("no veth pairs here");
	start();
	port = open_port("net_af_packet0,iface=sla");
	fprintf(stderr, "%s\n", dpdk_port_how(port));
	fd = raw_socket("slb");
	drop_root();
	exchange(fd, 1);
	close(fd);
	dpdk_port_close(port);
	stop();
}
