/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A transmit queue that workers share, as of a device that has few of them: nobody waits for
 * another worker's call of the driver. The driver is a ring's, with a burst function of our own.
 */
#include "base/clock.h"
#include "base/error.h"
#include "net/net.h"
#include "poll/control.h"

#include <criterion/criterion.h>
#include <rte_ethdev.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEFT_MAX 256 /* as in net/dpdk_impl.h */
#define WORKERS 17   /* more than a ring has queues: RTE_PMD_RING_MAX_TX_RINGS */

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_SEQ_CST)

static struct workers *ws;
static struct net_switch *sw;
static struct port guest;
static struct dpdk_port *port;
static struct worker *one, *other; /* they share a queue */
static struct error err;

static bool gate_open, in_driver;
static unsigned n_sent;
static uint16_t sent[1024]; /* the numbers of the frames, in the driver's order */

/* Blocks, as a system call may, until the test lets it go on. */
static uint16_t slow_burst(void *queue, struct rte_mbuf **mbufs, uint16_t n)
{
	(void)queue;
	STORE(in_driver, true);
	while (!LOAD(gate_open))
		usleep(100);
	for (uint16_t i = 0; i < n; i++)
		memcpy(&sent[n_sent++], rte_pktmbuf_mtod_offset(mbufs[i], uint8_t *, 14), 2);
	rte_pktmbuf_free_bulk(mbufs, n);
	return n;
}

static unsigned guest_deliver(struct port *p, struct packet *const *packets, unsigned n)
{
	(void)p, (void)packets;
	return n;
}

struct sending {
	struct call call;
	uint16_t first, n;
	bool done;
};

static void send_frames(struct call *c)
{
	struct sending *s = container_of(c, struct sending, call);

	for (uint16_t i = s->first; i < s->first + s->n; i++) {
		struct packet p = { .len = 60, .head_len = 60 };

		memset(p.head, 0xff, 6); /* to everybody */
		p.head[6] = 2;
		memcpy(p.head + 14, &i, 2);
		switch_forward(sw, &guest, &p, 1);
	}
	STORE(s->done, true);
}

static bool comes_about(const bool *what)
{
	for (unsigned i = 0; i < 20000 && !LOAD(*what); i++)
		usleep(100);
	return LOAD(*what);
}

static struct port_stats stats(void)
{
	struct port_stats s;

	port_stats_sum(dpdk_port_port(port), WORKERS, &s);
	return s;
}

static void start(void)
{
	static const struct port_ops guest_ops = { .kind = "guest", .deliver = guest_deliver };
	struct workers_config wcfg = { .n = WORKERS };
	struct switch_config scfg = { .name = "lan" };
	struct dpdk_port_config cfg = { .name = "up", .device = "net_ring0" };
	struct rte_eth_dev_info info;
	uint16_t id;

	cr_assert_eq(control_init(), 0);
	cr_assert_eq(workers_start(&wcfg, &ws, &err), 0, "%s", err.text);
	cr_assert_eq(switch_create(&scfg, ws, &sw, &err), 0, "%s", err.text);
	guest.ops = &guest_ops;
	guest.stats = aligned_alloc(CACHE_LINE, WORKERS * sizeof(struct port_stats));
	memset(guest.stats, 0, WORKERS * sizeof(struct port_stats));
	cr_assert_eq(switch_attach(sw, &guest, &err), 0, "%s", err.text);
	cr_assert_eq(dpdk_port_create(&cfg, sw, ws, &port, &err), 0, "%s", err.text);
	RTE_ETH_FOREACH_DEV(id)
	{
		cr_assert_eq(rte_eth_dev_info_get(id, &info), 0);
		rte_eth_fp_ops[id].tx_pkt_burst = slow_burst;
	}
	cr_assert_lt(info.nb_tx_queues, WORKERS);
	one = workers_get(ws, 0);
	other = workers_get(ws, info.nb_tx_queues);
}

static void stop(void)
{
	dpdk_port_close(port);
	switch_detach(&guest);
	free(guest.stats);
	switch_destroy(sw);
	dpdk_fini();
	workers_stop(ws);
	control_fini();
}

Test(dpdk_shared, nobody_waits_for_another_workers_call_of_the_driver, .timeout = 60)
{
	struct sending a = { .call.fn = send_frames, .first = 0, .n = 1 };
	struct sending b = { .call.fn = send_frames, .first = 1, .n = LEFT_MAX + 40 };

	start();
	worker_call(one, &a.call);
	cr_assert(comes_about(&in_driver));
	worker_call(other, &b.call);
	cr_assert(comes_about(&b.done), "the second worker waits for the first");
	cr_assert_not(LOAD(a.done));
	cr_assert_eq(stats().tx_error, 40, "what finds no room is lost");
	STORE(gate_open, true);
	cr_assert(comes_about(&a.done));
	for (unsigned i = 0; i < 20000 && stats().tx_packets < 1 + LEFT_MAX; i++)
		usleep(100);
	cr_assert_eq(stats().tx_packets, 1 + LEFT_MAX);
	for (uint16_t i = 0; i < 1 + LEFT_MAX; i++)
		cr_assert_eq(sent[i], i, "in order");
	stop();
}

/* What was left goes out before the port does. */
Test(dpdk_shared, a_port_is_closed_with_frames_left, .timeout = 60)
{
	struct sending a = { .call.fn = send_frames, .first = 0, .n = 1 };
	struct sending b = { .call.fn = send_frames, .first = 1, .n = LEFT_MAX };

	start();
	worker_call(one, &a.call);
	cr_assert(comes_about(&in_driver));
	worker_call(other, &b.call);
	cr_assert(comes_about(&b.done));
	STORE(gate_open, true);
	stop();
	cr_assert_eq(n_sent, 1u + LEFT_MAX);
}
