/* SPDX-License-Identifier: Apache-2.0 */
/* The switch between ports that only remember what they were given, on real workers. */
#include "base/clock.h"
#include "base/error.h"
#include "base/spinlock.h"
#include "net/switch.h"
#include "poll/control.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS 2
#define PORTS 4
#define SEEN_MAX 256

struct fake {
	struct port port;
	struct poller poller;
	struct spinlock lock;	 /* bursts of several workers arrive at once */
	unsigned seen[SEEN_MAX]; /* the numbers of the packets, in order */
	unsigned n_seen, n_deliver, n_flush;
	/* For traffic while things change. */
	counter_t n_sent, n_taken, n_late;
	bool gone;
};

static struct workers *ws;
static struct net_switch *sw;
static struct fake ports[PORTS];
static struct port_rules rules[PORTS];
static struct error err;

static unsigned number_of(const struct packet *p)
{
	unsigned n;

	memcpy(&n, p->head + 16, sizeof(n));
	return n;
}

static unsigned fake_deliver(struct port *p, struct packet *const *packets, unsigned n)
{
	struct fake *f = container_of(p, struct fake, port);

	spin_lock(&f->lock);
	f->n_deliver++;
	counter_add(&f->n_taken, n);
	if (__atomic_load_n(&f->gone, __ATOMIC_RELAXED))
		f->n_late++;
	for (unsigned i = 0; i < n && f->n_seen < SEEN_MAX; i++)
		f->seen[f->n_seen++] = number_of(packets[i]);
	spin_unlock(&f->lock);
	return n;
}

static void fake_flush(struct port *p)
{
	struct fake *f = container_of(p, struct fake, port);

	spin_lock(&f->lock);
	f->n_flush++;
	spin_unlock(&f->lock);
}

static const struct port_ops fake_ops = {
	.kind = "fake",
	.deliver = fake_deliver,
	.flush = fake_flush,
};

static void start_with(const struct switch_config *cfg, unsigned n_ports)
{
	struct workers_config wcfg = { .n = WORKERS };

	cr_assert_eq(control_init(), 0);
	cr_assert_eq(workers_start(&wcfg, &ws, &err), 0, "%s", err.text);
	cr_assert_eq(switch_create(cfg, ws, &sw, &err), 0, "%s", err.text);
	for (unsigned i = 0; i < PORTS; i++) {
		ports[i].port.ops = &fake_ops;
		port_set_rules(&ports[i].port, &rules[i]);
		ports[i].port.stats = aligned_alloc(CACHE_LINE,
						    WORKERS * sizeof(struct port_stats));
		memset(ports[i].port.stats, 0, WORKERS * sizeof(struct port_stats));
		snprintf(ports[i].port.name, PORT_NAME_MAX, "port%u", i);
		if (i < n_ports)
			cr_assert_eq(switch_attach(sw, &ports[i].port, &err), 0, "%s", err.text);
	}
}

static void start(unsigned n_ports)
{
	struct switch_config cfg = { .name = "lan" };

	start_with(&cfg, n_ports);
}

static void stop(void)
{
	for (unsigned i = 0; i < PORTS; i++) {
		switch_detach(&ports[i].port);
		free(ports[i].port.stats);
	}
	switch_destroy(sw);
	workers_stop(ws);
	control_fini();
}

/* A frame between two of the stations s1, s2, …; or to one of these: */
#define BROADCAST 1000
#define MULTICAST 1001
#define LLDP 1002
#define SPANNING_TREE 1003
#define ZERO 1004

static void station(uint8_t mac[6], unsigned s)
{
	static const uint8_t special[][6] = {
		{ 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
		{ 0x01, 0x00, 0x5e, 0, 0, 1 },
		{ 0x01, 0x80, 0xc2, 0, 0, 0x0e },
		{ 0x01, 0x80, 0xc2, 0, 0, 0 },
		{ 0 },
	};
	const uint8_t mine[6] = { 0x02, 0, 0, 0, s >> 8, s };

	memcpy(mac, s >= BROADCAST ? special[s - BROADCAST] : mine, 6);
}

static void fill(struct packet *p, unsigned src, unsigned dst, unsigned number)
{
	memset(p, 0, sizeof(*p));
	p->len = p->head_len = 60;
	station(p->head, dst);
	station(p->head + 6, src);
	memcpy(p->head + 16, &number, sizeof(number));
}

struct sending {
	struct fake *from;
	struct packet *packets;
	unsigned n;
};

static void send_on_worker(void *arg)
{
	struct sending *s = arg;

	switch_forward(sw, &s->from->port, s->packets, s->n);
}

/* Sends n frames as one burst; frame i goes from stations[2 i] to stations[2 i + 1]. */
static void send_burst(unsigned from, const unsigned *stations, unsigned n)
{
	struct packet *packets = aligned_alloc(64, n * sizeof(*packets));
	struct sending s = { &ports[from], packets, n };

	for (unsigned i = 0; i < n; i++)
		fill(&packets[i], stations[2 * i], stations[2 * i + 1], i);
	worker_call_wait(workers_get(ws, from % WORKERS), send_on_worker, &s);
	free(packets);
}

static void send_one(unsigned from, unsigned src, unsigned dst)
{
	send_burst(from, (const unsigned[]) { src, dst }, 1);
}

static void forget(void)
{
	for (unsigned i = 0; i < PORTS; i++)
		ports[i].n_seen = ports[i].n_deliver = ports[i].n_flush = 0;
}

static void expect(unsigned a, unsigned b, unsigned c, unsigned d, int line)
{
	unsigned want[PORTS] = { a, b, c, d };

	for (unsigned i = 0; i < PORTS; i++)
		cr_assert_eq(ports[i].n_seen, want[i], "line %d: port %u got %u, not %u", line, i,
			     ports[i].n_seen, want[i]);
	forget();
}
#define EXPECT(a, b, c, d) expect(a, b, c, d, __LINE__)

static uint64_t filtered(unsigned port)
{
	struct port_stats s;

	port_stats_sum(&ports[port].port, WORKERS, &s);
	return s.filtered;
}

static struct switch_stats stats(void)
{
	struct switch_stats s;

	switch_stats(sw, &s);
	return s;
}

Test(switch, unknown_destination_goes_to_all_but_the_sender, .timeout = 30)
{
	start(4);
	send_one(0, 1, 2);
	EXPECT(0, 1, 1, 1);
	cr_assert_eq(stats().flooded, 1);
	cr_assert_eq(stats().learned, 1);
	cr_assert_eq(stats().macs, 1);
	stop();
}

Test(switch, known_destination_goes_to_its_port_alone, .timeout = 30)
{
	start(4);
	send_one(0, 1, BROADCAST);
	EXPECT(0, 1, 1, 1);
	send_one(2, 2, 1);
	EXPECT(1, 0, 0, 0);
	send_one(0, 1, 2);
	EXPECT(0, 0, 1, 0);
	cr_assert_eq(stats().flooded, 1);
	stop();
}

Test(switch, destination_behind_the_senders_port_is_filtered, .timeout = 30)
{
	start(4);
	send_one(0, 1, BROADCAST);
	forget();
	send_one(0, 2, 1);
	EXPECT(0, 0, 0, 0);
	cr_assert_eq(filtered(0), 1);
	stop();
}

Test(switch, multicast_floods_and_a_lone_port_filters, .timeout = 30)
{
	start(4);
	send_one(0, 1, MULTICAST);
	send_one(0, 1, SPANNING_TREE);
	EXPECT(0, 2, 2, 2);
	for (unsigned i = 1; i < 4; i++)
		switch_detach(&ports[i].port);
	send_one(0, 1, BROADCAST);
	EXPECT(0, 0, 0, 0);
	cr_assert_eq(filtered(0), 1);
	cr_assert_eq(stats().flooded, 2, "what reaches nobody is not flooded");
	stop();
}

Test(switch, link_local_protocols_end_here_802_1Q_8_6_3, .timeout = 30)
{
	start(4);
	send_one(0, 1, LLDP);
	EXPECT(0, 0, 0, 0);
	cr_assert_eq(filtered(0), 1);
	stop();
}

Test(switch, group_and_zero_sources_are_not_learned, .timeout = 30)
{
	start(4);
	send_one(0, BROADCAST, 1);
	send_one(0, MULTICAST, 1);
	send_one(0, ZERO, 1);
	EXPECT(0, 3, 3, 3);
	cr_assert_eq(stats().macs, 0);
	cr_assert_eq(stats().learned, 0);
	send_one(1, 1, ZERO);
	EXPECT(1, 0, 1, 1);
	stop();
}

Test(switch, burst_is_delivered_once_a_port_in_its_order, .timeout = 30)
{
	static const unsigned to_one[] = { 0, 2, 4, 6 }, to_two[] = { 1, 2, 3, 4, 5 };

	start(4);
	send_one(1, 11, BROADCAST);
	send_one(2, 12, BROADCAST);
	forget();
	/* Alternating destinations, with floods in between. */
	send_burst(0, (const unsigned[]) { 1, 11, 1, 12, 1, BROADCAST, 1, 12, 1, 99, 1, 12, 1, 11 },
		   7);
	cr_assert_eq(ports[1].n_seen, 4);
	cr_assert_arr_eq(ports[1].seen, to_one, sizeof(to_one));
	cr_assert_eq(ports[2].n_seen, 5);
	cr_assert_arr_eq(ports[2].seen, to_two, sizeof(to_two));
	cr_assert_eq(ports[3].n_seen, 2);
	for (unsigned i = 1; i < 4; i++) {
		cr_assert_eq(ports[i].n_deliver, 1, "port %u: %u calls", i, ports[i].n_deliver);
		cr_assert_eq(ports[i].n_flush, 1, "port %u: %u flushes", i, ports[i].n_flush);
	}
	cr_assert_eq(ports[0].n_deliver + ports[0].n_flush, 0);
	forget();
	/* Without a flood, only those that get something are called. */
	send_burst(0, (const unsigned[]) { 1, 11, 1, 12, 1, 11 }, 3);
	cr_assert_eq(ports[1].n_deliver, 1);
	cr_assert_eq(ports[2].n_flush, 1);
	cr_assert_eq(ports[3].n_deliver + ports[3].n_flush, 0);
	stop();
}

Test(switch, burst_of_more_than_thirty_two_keeps_its_order, .timeout = 30)
{
	unsigned stations[200];

	start(4);
	send_one(1, 11, BROADCAST);
	forget();
	for (unsigned i = 0; i < 100; i++) {
		stations[2 * i] = 1;
		stations[2 * i + 1] = i % 3 ? 11 : BROADCAST;
	}
	send_burst(0, stations, 100);
	cr_assert_eq(ports[1].n_seen, 100);
	for (unsigned i = 0; i < 100; i++)
		cr_assert_eq(ports[1].seen[i], i);
	cr_assert_eq(ports[2].n_seen, 34);
	stop();
}

Test(switch, station_that_moves_is_followed, .timeout = 30)
{
	start(4);
	send_one(0, 1, BROADCAST);
	send_one(3, 1, BROADCAST);
	forget();
	send_one(1, 2, 1);
	EXPECT(0, 0, 0, 1);
	cr_assert_eq(stats().moved, 1);
	cr_assert_eq(stats().macs, 2);
	stop();
}

Test(switch, silent_station_is_forgotten_after_its_age, .timeout = 30)
{
	struct switch_config cfg = { .name = "lan", .mac_ageing_s = 1 };
	uint64_t from = clock_ns();

	start_with(&cfg, 4);
	send_one(0, 1, BROADCAST);
	while (stats().macs && clock_ns() - from < 10000000000)
		cr_assert_eq(control_step(100000), 0);
	cr_assert_eq(stats().macs, 0);
	cr_assert_eq(stats().aged, 1);
	cr_assert_geq(clock_ns() - from, 1000000000);
	forget();
	send_one(1, 2, 1);
	EXPECT(1, 0, 1, 1);
	stop();
}

Test(switch, guest_that_invents_addresses_fills_its_share_and_harms_nobody, .timeout = 30)
{
	struct switch_config cfg = { .name = "lan", .mac_max = 64 };

	start_with(&cfg, 4);
	send_one(1, 900, BROADCAST);
	for (unsigned i = 0; i < 100; i++)
		send_one(0, 1 + i, 900);
	cr_assert_eq(stats().macs, 33, "%lu", stats().macs);
	cr_assert_eq(stats().table_full, 68);
	forget();
	send_one(2, 901, 900);
	EXPECT(0, 1, 0, 0);
	send_one(1, 900, 901);
	EXPECT(0, 0, 1, 0);
	stop();
}

Test(switch, detached_port_is_forgotten_and_its_id_carries_nothing_over, .timeout = 30)
{
	start(4);
	send_one(1, 11, BROADCAST);
	send_one(2, 12, BROADCAST);
	forget();
	unsigned id = ports[1].port.id;

	switch_detach(&ports[1].port);
	cr_assert_null(ports[1].port.sw);
	cr_assert_eq(stats().macs, 1);
	/* Its poller may still run. */
	send_one(1, 11, 12);
	EXPECT(0, 0, 0, 0);
	cr_assert_eq(filtered(1), 1);
	cr_assert_eq(stats().macs, 1, "nothing is learned from it");
	send_one(0, 1, 11);
	EXPECT(0, 0, 1, 1);
	cr_assert_eq(switch_attach(sw, &ports[1].port, &err), 0);
	cr_assert_eq(ports[1].port.id, id);
	send_one(0, 1, 11);
	EXPECT(0, 1, 1, 1);
	stop();
}

static void remember_mac(const uint8_t mac[6], uint16_t vlan, const struct port *p, unsigned age_s,
			 void *arg)
{
	unsigned *sum = arg;

	cr_assert_leq(age_s, 5);
	cr_assert_eq(vlan, 0);
	*sum += mac[5] * 10 + p->id;
}

Test(switch, addresses_are_listed_with_their_ports, .timeout = 30)
{
	unsigned sum = 0;

	start(4);
	send_one(1, 11, BROADCAST);
	send_one(2, 12, BROADCAST);
	switch_for_each_mac(sw, remember_mac, &sum);
	cr_assert_eq(sum, 110 + 1 + 120 + 2);
	stop();
}

Test(switch, table_too_large_is_refused_with_its_limit)
{
	struct switch_config cfg = { .name = "lan", .mac_max = 1u << 30 };
	struct workers_config wcfg = { .n = 1 };

	cr_assert_eq(control_init(), 0);
	cr_assert_eq(workers_start(&wcfg, &ws, &err), 0, "%s", err.text);
	cr_assert_eq(switch_create(&cfg, ws, &sw, &err), -22);
	cr_assert(strstr(err.text, "lan") && strstr(err.text, "1048576"), "%s", err.text);
	workers_stop(ws);
	control_fini();
}

Test(switch, port_floods_only_so_much, .timeout = 30)
{
	struct port_stats s;

	rules[0] = (struct port_rules) { .broadcast = 100, .unknown = 60 }; /* 5 and 3 in 50 ms */
	rules[1] = (struct port_rules) { .broadcast = 1 };
	start(4);
	send_one(2, 12, BROADCAST);
	forget();
	for (unsigned i = 0; i < 3; i++)
		send_burst(0,
			   (const unsigned[]) { 1, BROADCAST, 1, 99, 1, MULTICAST, 1, 98, 1, 12, 1,
						BROADCAST, 1, 97 },
			   7);
	/* What has a destination is not counted; what is too much goes nowhere at all. */
	port_stats_sum(&ports[0].port, WORKERS, &s);
	cr_assert_eq(s.rx_broadcast + ports[3].n_seen + s.rx_unknown, 18);
	cr_assert(s.rx_broadcast >= 1 && s.rx_broadcast <= 4, "%lu", s.rx_broadcast);
	cr_assert(s.rx_unknown >= 3 && s.rx_unknown <= 6, "%lu", s.rx_unknown);
	cr_assert_eq(ports[2].n_seen, ports[3].n_seen + 3);
	forget();
	/* Only what is limited is. */
	for (unsigned i = 0; i < 50; i++)
		send_one(1, 11, 99);
	EXPECT(50, 0, 50, 50);
	stop();
}

/*
 * A port that cannot wait (a DPDK port's limit.tx): one burst is judged by one look at the clock,
 * so that what of it is too much does not depend on the time that the test takes.
 */
static void policed(struct port_rate in)
{
	unsigned stations[40];
	struct port_stats s;

	for (unsigned i = 0; i < 20; i++) {
		stations[2 * i] = 1;
		stations[2 * i + 1] = BROADCAST;
	}
	rules[0].in = in;
	start(4);
	send_burst(0, stations, 20);
	port_stats_sum(&ports[0].port, WORKERS, &s);
	cr_assert(ports[1].n_seen >= 1 && ports[1].n_seen <= 6, "%u", ports[1].n_seen);
	cr_assert_eq(s.rx_limited + ports[1].n_seen, 20);
	cr_assert_eq(ports[2].n_seen, ports[1].n_seen);
	cr_assert_eq(s.rx_held, 0);
	forget();
	send_burst(1, stations, 20);
	EXPECT(20, 0, 20, 20);
	stop();
}

Test(switch, port_that_cannot_wait_loses_packets_beyond_its_limit, .timeout = 30)
{
	policed((struct port_rate) { .packets = 1, .packets_burst = 5 });
}

Test(switch, port_that_cannot_wait_loses_bits_beyond_its_limit, .timeout = 30)
{
	policed((struct port_rate) { .bits = 480, .bits_burst = 5 * 480 });
}

Test(switch, port_with_a_limit_learns_so_many_and_takes_no_more_over, .timeout = 30)
{
	struct port_stats s;

	rules[0].mac_max = 3;
	start(4);
	for (unsigned i = 0; i < 10; i++)
		send_one(0, 1 + i, BROADCAST);
	send_one(1, 50, BROADCAST);
	send_one(0, 50, BROADCAST);
	cr_assert_eq(stats().macs, 4);
	cr_assert_eq(stats().moved, 0);
	port_stats_sum(&ports[0].port, WORKERS, &s);
	cr_assert_eq(s.mac_refused, 8);
	forget();
	send_one(2, 12, 50);
	EXPECT(0, 1, 0, 0);
	send_one(2, 12, 3);
	EXPECT(1, 0, 0, 0);
	stop();
}

Test(switch, fixed_address_stays_where_it_was_put, .timeout = 30)
{
	struct switch_config cfg = { .name = "lan", .mac_ageing_s = 1 };
	uint64_t from;

	rules[3].fixed.n = 2;
	rules[3].mac_max = 1;
	station(rules[3].fixed.mac[0], 33);
	station(rules[3].fixed.mac[1], 34);
	start_with(&cfg, 3);
	send_one(0, 34, BROADCAST); /* learned elsewhere, before the port comes */
	cr_assert_eq(switch_attach(sw, &ports[3].port, &err), 0);
	cr_assert_eq(stats().macs, 2);
	forget();
	send_one(0, 1, 33);
	send_one(0, 1, 34);
	EXPECT(0, 0, 0, 2);
	/* Somebody else says that it was there. */
	send_one(1, 33, 34);
	EXPECT(0, 0, 0, 1);
	send_one(0, 1, 33);
	EXPECT(0, 0, 0, 1);
	for (from = clock_ns(); stats().aged < 1 && clock_ns() - from < 10000000000;)
		cr_assert_eq(control_step(100000), 0);
	send_one(0, 1, 33);
	send_one(0, 1, 34);
	EXPECT(0, 0, 0, 2);
	switch_detach(&ports[3].port);
	send_one(0, 1, 33);
	EXPECT(0, 1, 1, 0);
	stop();
}

Test(switch, fixed_address_is_in_each_vlan_of_its_port, .timeout = 30)
{
	for (unsigned i = 0; i < 4; i++)
		rules[i].untagged = 10;
	rules[3] = (struct port_rules) { .fixed.n = 1 };
	station(rules[3].fixed.mac[0], 33);
	vlan_set_add(&rules[3].tagged, 10);
	vlan_set_add(&rules[3].tagged, 11);
	start(4);
	cr_assert_eq(stats().macs, 2);
	send_one(0, 1, 33);
	EXPECT(0, 0, 0, 1);
	stop();
}

/* A burst to everyone: each of the other stations, a broadcast and somebody unknown. */
static unsigned traffic(struct poller *p)
{
	struct fake *f = container_of(p, struct fake, poller);
	static __thread struct packet packets[PORT_BURST];
	unsigned me = (unsigned)(f - ports);

	for (unsigned i = 0; i < PORT_BURST; i++)
		fill(&packets[i], 10 + me,
		     i % 8 < 4	  ? 10 + i % 4
		     : i % 8 == 4 ? BROADCAST
				  : 500,
		     i);
	switch_forward(sw, &f->port, packets, PORT_BURST);
	f->n_sent += PORT_BURST;
	return PORT_BURST;
}

static const struct poller_ops traffic_ops = { .poll = traffic };

/*
 * Two ports send on two workers, while the two others come and go. No packet may come to a port
 * once it is detached, and every port must hear from both while it is attached.
 */
Test(switch, ports_come_and_go_under_traffic, .timeout = 60)
{
	unsigned rounds = 0;

	start(2);
	for (unsigned i = 0; i < 2; i++) {
		ports[i].poller.ops = &traffic_ops;
		ports[i].poller.event_fd = -1;
		worker_add(workers_get(ws, i), &ports[i].poller);
	}
	for (uint64_t until = clock_ns() + 1000000000; clock_ns() < until; rounds++) {
		struct fake *f = &ports[2 + rounds % 2];
		uint64_t before = counter_read(&f->n_taken);

		__atomic_store_n(&f->gone, false, __ATOMIC_RELAXED);
		cr_assert_eq(switch_attach(sw, &f->port, &err), 0);
		while (counter_read(&f->n_taken) == before)
			cpu_relax();
		switch_detach(&f->port);
		__atomic_store_n(&f->gone, true, __ATOMIC_RELAXED);
	}
	for (unsigned i = 0; i < 2; i++)
		worker_remove(&ports[i].poller);
	cr_assert_gt(rounds, 10);
	cr_assert_eq(ports[2].n_late + ports[3].n_late, 0);
	cr_assert_gt(ports[0].n_taken, 0);
	cr_assert_gt(ports[1].n_taken, 0);
	/* To itself: filtered, every time, neither more nor less. */
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(filtered(i), ports[i].n_sent / 8);
	stop();
}
