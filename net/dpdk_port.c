/* SPDX-License-Identifier: Apache-2.0 */
/* A DPDK port's life: probe, configure, start, and back. Control thread. */
#include "base/error.h"
#include "base/log.h"
#include "net/dpdk_eal.h"
#include "net/dpdk_impl.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <rte_ethdev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUE_DESCRIPTORS 512
/* Buffers that a worker may hold at a time: a burst of the largest frames, and its pool cache. */
#define WORKER_BUFFERS 1536
#define POOL_CACHE 256

#define RX_CKSUM                                                        \
	(RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM | \
	 RTE_ETH_RX_OFFLOAD_TCP_CKSUM)
#define TX_WANTED                                                        \
	(RTE_ETH_TX_OFFLOAD_MULTI_SEGS | RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | \
	 RTE_ETH_TX_OFFLOAD_UDP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_TSO)

/* How a port comes by the frames that are not for its own address. */
enum promisc { PROMISC_DEVICE, PROMISC_SOCKET, PROMISC_NEEDLESS };

/* What must be known of a driver beyond what it says of itself. The first row is for the others. */
static const struct driver {
	const char *name;
	uint64_t rx_unfit, tx_unfit; /* offloads that it offers and that are better left alone */
	enum promisc promisc;
	uint64_t caps; /* CAP_* that are needed once the port runs */
} drivers[] = {
	/* Memory for DMA is locked, and may be registered later, beyond RLIMIT_MEMLOCK. */
	{ "", 0, 0, PROMISC_DEVICE, 1ull << CAP_IPC_LOCK },
	/*
	 * Its checksums on receive are software, and would take the guest's work on our CPU. Its
	 * segmentation refuses full-sized segments (it counts the headers into the MTU) and IPv6.
	 * The host hands a tap everything. Reading and writing an open tap takes no privilege.
	 */
	{ "net_tap", RX_CKSUM, RTE_ETH_TX_OFFLOAD_TCP_TSO, PROMISC_NEEDLESS, 0 },
	/* Setting the interface's flag would outlive us; a socket's membership does not. */
	{ "net_af_packet", 0, 0, PROMISC_SOCKET, 0 },
	/* Takes its XDP program off the interface at the end. */
	{ "net_af_xdp", 0, 0, PROMISC_SOCKET, 1ull << CAP_NET_ADMIN | 1ull << CAP_NET_RAW },
	{ "net_pcap", 0, 0, PROMISC_SOCKET, 0 },
	{ "net_ring", 0, 0, PROMISC_NEEDLESS, 0 },
	{ "net_null", 0, 0, PROMISC_NEEDLESS, 0 },
	{ "net_memif", 0, 0, PROMISC_NEEDLESS, 0 },
	/* With checksums on receive come frames whose checksum is not finished. */
	{ "net_virtio", RX_CKSUM, 0, PROMISC_DEVICE, 1ull << CAP_IPC_LOCK },
	{ "net_virtio_user", RX_CKSUM, 0, PROMISC_DEVICE, 0 },
	{ "net_vhost", RX_CKSUM, 0, PROMISC_NEEDLESS, 0 },
};

static uint64_t caps_of_ports[64]; /* of running ports: how many need each capability */

static const struct driver *driver_find(const char *name)
{
	for (unsigned i = 1; i < ARRAY_SIZE(drivers); i++)
		if (strcmp(drivers[i].name, name) == 0)
			return &drivers[i];
	return &drivers[0];
}

static void caps_count(uint64_t caps, int by)
{
	for (unsigned i = 0; i < 64; i++)
		if (caps >> i & 1)
			caps_of_ports[i] += (uint64_t)(int64_t)by;
}

uint64_t dpdk_capabilities_needed(void)
{
	uint64_t caps = 0;

	for (unsigned i = 0; i < 64; i++)
		if (caps_of_ports[i])
			caps |= 1ull << i;
	return caps;
}

static int fail(struct dpdk_port *p, int rc, const char *what, struct error *err)
{
	return error_set(err, rc < 0 ? rc : -EIO, "DPDK device \"%s\" (%s): %s failed (%s): %s",
			 p->config.device, p->driver, what, strerror(-rc), eal_said());
}

/*
 * net_tap asks for a real-time signal for each packet, and wants to be polled only after one. Those
 * would interrupt this thread at the guests' rate. It takes a signal that nobody has claimed, and
 * does without, reading whenever it is polled, where there is none: so while it opens, all are.
 */
static void signals_claim(bool claim)
{
	void (*from)(int) = claim ? SIG_DFL : SIG_IGN;

	for (int signo = SIGRTMIN + 1; signo < SIGRTMAX; signo++) {
		struct sigaction sa;

		if (sigaction(signo, NULL, &sa) == 0 && !(sa.sa_flags & SA_SIGINFO) &&
		    sa.sa_handler == from)
			signal(signo, claim ? SIG_IGN : SIG_DFL);
	}
}

static struct rte_mempool *pool_create(struct dpdk_port *p, uint16_t n_rx, uint16_t n_tx)
{
	unsigned n = p->n_queues * (n_rx + n_tx) + workers_count(p->workers) * WORKER_BUFFERS;
	int socket = rte_eth_dev_socket_id(p->id);
	struct rte_mempool *pool;
	char name[RTE_MEMPOOL_NAMESIZE];

	snprintf(name, sizeof(name), "sluice-port-%u", p->id);
	pool = rte_pktmbuf_pool_create(name, n, POOL_CACHE, 0,
				       RTE_PKTMBUF_HEADROOM + DPDK_MBUF_ROOM, socket);
	if (!pool && socket != SOCKET_ID_ANY)
		pool = rte_pktmbuf_pool_create(name, n, POOL_CACHE, 0,
					       RTE_PKTMBUF_HEADROOM + DPDK_MBUF_ROOM,
					       SOCKET_ID_ANY);
	return pool;
}

static int queues_setup(struct dpdk_port *p, const struct rte_eth_conf *conf, struct error *err)
{
	uint16_t n_rx = QUEUE_DESCRIPTORS, n_tx = QUEUE_DESCRIPTORS;
	int socket = rte_eth_dev_socket_id(p->id);
	int rc = rte_eth_dev_adjust_nb_rx_tx_desc(p->id, &n_rx, &n_tx);

	if (rc < 0)
		return fail(p, rc, "sizing its queues", err);
	if (!p->pool)
		p->pool = pool_create(p, n_rx, n_tx);
	if (!p->pool)
		return error_set(err, -ENOMEM,
				 "DPDK device \"%s\": no memory for its packet buffers: use fewer "
				 "workers or ports, or provide hugepages",
				 p->config.device);
	for (uint16_t i = 0; i < p->n_queues; i++) {
		struct rte_eth_rxconf rx = { .offloads = conf->rxmode.offloads };
		struct rte_eth_txconf tx = { .offloads = conf->txmode.offloads };

		rc = rte_eth_rx_queue_setup(p->id, i, n_rx, (unsigned)socket, &rx, p->pool);
		if (rc < 0)
			return fail(p, rc, "setting up a receive queue", err);
		rc = rte_eth_tx_queue_setup(p->id, i, n_tx, (unsigned)socket, &tx);
		if (rc < 0)
			return fail(p, rc, "setting up a transmit queue", err);
	}
	return 0;
}

static int configure_with(struct dpdk_port *p, struct rte_eth_conf *conf, struct error *err)
{
	int rc = rte_eth_dev_configure(p->id, p->n_queues, p->n_queues, conf);

	if (rc < 0)
		return fail(p, rc, "configuring it", err);
	p->configured = true;
	rc = queues_setup(p, conf, err);
	if (rc < 0)
		return rc;
	rc = rte_eth_dev_start(p->id);
	if (rc < 0)
		return fail(p, rc, "starting it", err);
	p->started = true;
	return 0;
}

/* One pair of queues a worker, as far as the device goes. */
static int configure(struct dpdk_port *p, struct error *err)
{
	struct rte_eth_conf conf = { 0 };
	struct rte_eth_dev_info info;
	const struct driver *d;
	unsigned n_queues;
	uint16_t mtu = RTE_ETHER_MTU;
	int rc = rte_eth_dev_info_get(p->id, &info);

	p->driver = rc < 0 ? "?" : info.driver_name;
	if (rc < 0)
		return fail(p, rc, "asking what it can do", err);
	d = driver_find(info.driver_name);
	p->caps = d->caps;
	n_queues = MIN(workers_count(p->workers), (unsigned)info.max_rx_queues);
	n_queues = MIN(n_queues, (unsigned)info.max_tx_queues);
	p->n_queues = (uint16_t)MAX(n_queues, 1u);

	rte_eth_dev_get_mtu(p->id, &mtu);
	p->tx_offloads = info.tx_offload_capa & TX_WANTED & ~d->tx_unfit;
	p->max_frame = mtu + RTE_ETHER_HDR_LEN + RTE_VLAN_HLEN;
	if (!(p->tx_offloads & RTE_ETH_TX_OFFLOAD_MULTI_SEGS)) {
		p->tx_offloads &= ~(uint64_t)RTE_ETH_TX_OFFLOAD_TCP_TSO;
		p->max_frame = MIN(p->max_frame, (uint32_t)DPDK_MBUF_ROOM);
	}
	conf.txmode.offloads = p->tx_offloads;
	conf.rxmode.offloads = info.rx_offload_capa & RX_CKSUM & ~d->rx_unfit;
	if (p->max_frame > DPDK_MBUF_ROOM)
		conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
	conf.rxmode.mtu = mtu;
	if (p->n_queues > 1 && d == &drivers[0]) {
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads &
						   (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP |
						    RTE_ETH_RSS_UDP);
		if (conf.rx_adv_conf.rss_conf.rss_hf)
			conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
	}
	/* Some devices refuse receive interrupts outright, others only when asked for the fd. */
	conf.intr_conf.rxq = 1;
	if (configure_with(p, &conf, err) == 0)
		return 0;
	conf.intr_conf.rxq = 0;
	return configure_with(p, &conf, err);
}

static int promisc_enable(struct dpdk_port *p)
{
	enum promisc how = driver_find(p->driver)->promisc;
	struct packet_mreq mreq = { .mr_type = PACKET_MR_PROMISC };
	struct rte_eth_dev_info info;
	int rc;

	if (how == PROMISC_NEEDLESS)
		return 0;
	if (how == PROMISC_DEVICE) {
		rc = rte_eth_promiscuous_enable(p->id);
		return rc == -ENOTSUP ? 0 : rc;
	}
	rc = rte_eth_dev_info_get(p->id, &info);
	if (rc < 0 || info.if_index == 0)
		return rc;
	mreq.mr_ifindex = (int)info.if_index;
	p->promisc_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (p->promisc_fd < 0 ||
	    setsockopt(p->promisc_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mreq, sizeof(mreq)) < 0)
		return -errno;
	return 0;
}

/*
 * A kernel that sends by one end of a veth pair leaves the checksums to the receiver, and no device
 * of DPDK's tells that they are not finished. Pings get through: hard to find out alone.
 */
static void veth_hint(struct dpdk_port *p)
{
	struct ethtool_drvinfo driver = { .cmd = ETHTOOL_GDRVINFO };
	struct ifreq ifr = { .ifr_data = (void *)&driver };
	struct rte_eth_dev_info info;
	int fd;

	if (rte_eth_dev_info_get(p->id, &info) < 0 || info.if_index == 0 ||
	    !if_indextoname(info.if_index, ifr.ifr_name))
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && ioctl(fd, SIOCETHTOOL, &ifr) == 0 && strcmp(driver.driver, "veth") == 0)
		log_info("port %s: %s is an end of a veth pair: at the other end, "
			 "ethtool -K INTERFACE tx off, or TCP and UDP from there have wrong "
			 "checksums",
			 p->config.name, ifr.ifr_name);
	if (fd >= 0)
		close(fd);
}

/* True of an eventfd, whose count is to be taken; a tap's fd is readable as long as frames wait. */
static bool is_eventfd(int fd)
{
	char path[32], target[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return false;
	target[n] = '\0';
	return strstr(target, "[eventfd]") != NULL;
}

static void rxq_init(struct dpdk_port *p, uint16_t i)
{
	struct dpdk_rxq *q = &p->rxqs[i];
	int fd;

	q->port = p;
	q->id = i;
	q->poller.ops = &dpdk_rx_ops;
	fd = rte_eth_dev_rx_intr_ctl_q_get_fd(p->id, i);
	q->poller.event_fd = fd >= 0 ? fd : -1;
	if (fd < 0) {
		q->poller.park_max_us = DPDK_RX_PARK_MIN_US;
		return;
	}
	q->poller.event_is_counter = is_eventfd(fd);
	q->has_intr = rte_eth_dev_rx_intr_enable(p->id, i) == 0;
	if (q->has_intr)
		rte_eth_dev_rx_intr_disable(p->id, i);
}

static int queues_create(struct dpdk_port *p)
{
	size_t rx_size = p->n_queues * sizeof(p->rxqs[0]),
	       tx_size = p->n_queues * sizeof(p->txqs[0]);

	p->rxqs = aligned_alloc(CACHE_LINE, rx_size);
	p->txqs = aligned_alloc(CACHE_LINE, tx_size);
	if (!p->rxqs || !p->txqs)
		return -ENOMEM;
	memset(p->rxqs, 0, rx_size);
	memset(p->txqs, 0, tx_size);
	for (uint16_t i = 0; i < p->n_queues; i++) {
		rxq_init(p, i);
		p->txqs[i].shared = p->n_queues < workers_count(p->workers);
		p->txqs[i].id = i;
		p->txqs[i].port = p;
		p->txqs[i].go_on.fn = dpdk_tx_go_on;
	}
	return 0;
}

static int config_copy(struct dpdk_port *p, const struct dpdk_port_config *cfg)
{
	size_t size = workers_count(p->workers) * sizeof(struct port_stats);

	p->config.name = strdup(cfg->name);
	p->config.device = strdup(cfg->device);
	p->port.stats = aligned_alloc(CACHE_LINE, size);
	if (!p->config.name || !p->config.device || !p->port.stats)
		return -ENOMEM;
	memset(p->port.stats, 0, size);
	snprintf(p->port.name, sizeof(p->port.name), "%s", cfg->name);
	return 0;
}

static int open_device(struct dpdk_port *p, struct error *err)
{
	int rc = eal_probe(p->config.device, &p->id, &p->dev, err);

	if (rc < 0)
		return rc;
	rc = configure(p, err);
	if (rc < 0)
		return rc;
	rc = promisc_enable(p);
	if (rc < 0)
		return fail(p, rc, "making it promiscuous", err);
	rc = queues_create(p);
	return rc < 0 ? error_set(err, rc, "out of memory") : 0;
}

static int port_open(struct dpdk_port *p, struct net_switch *sw, struct error *err)
{
	int rc = eal_get(p->workers, err);

	if (rc < 0)
		return rc;
	p->has_eal = true;
	eal_listen();
	signals_claim(true);
	rc = open_device(p, err);
	signals_claim(false);
	eal_unlisten();
	if (rc < 0)
		return rc;
	rc = switch_attach(sw, &p->port, err);
	if (rc < 0)
		return rc;
	p->attached = true;
	caps_count(p->caps, 1);
	for (uint16_t i = 0; i < p->n_queues; i++)
		worker_add(p->n_queues == workers_count(p->workers) ? workers_get(p->workers, i)
								    : workers_pick(p->workers),
			   &p->rxqs[i].poller);
	p->polled = true;
	return 0;
}

int dpdk_port_create(const struct dpdk_port_config *cfg, struct net_switch *sw,
		     struct workers *workers, struct dpdk_port **out, struct error *err)
{
	struct dpdk_port *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return error_set(err, -ENOMEM, "port %s: out of memory", cfg->name);
	p->workers = workers;
	p->port.ops = &dpdk_port_ops;
	p->promisc_fd = -1;
	port_set_rules(&p->port, cfg->rules);
	rc = config_copy(p, cfg);
	if (rc < 0)
		error_set(err, rc, "out of memory");
	else
		rc = port_open(p, sw, err);
	if (rc < 0) {
		error_prefix(err, "port %s", cfg->name);
		dpdk_port_close(p);
		return rc;
	}
	log_info("port %s: %s", cfg->name, dpdk_port_how(p));
	veth_hint(p);
	*out = p;
	return 0;
}

static void nothing(void *arg)
{
	(void)arg;
}

/* Nobody leaves frames any more; those that were left are sent by calls, in two rounds at most. */
static void wait_for_calls(struct dpdk_port *p)
{
	for (unsigned i = 0; i < 2 * workers_count(p->workers); i++)
		worker_call_wait(workers_get(p->workers, i / 2), nothing, NULL);
}

/* Of a port however far it got. */
void dpdk_port_close(struct dpdk_port *p)
{
	if (!p)
		return;
	for (uint16_t i = 0; p->polled && i < p->n_queues; i++)
		worker_remove(&p->rxqs[i].poller);
	if (p->attached) {
		switch_detach(&p->port);
		wait_for_calls(p);
		caps_count(p->caps, -1);
	}
	/* It may complain that it cannot undo what took privileges that are gone: so be it. */
	eal_listen();
	if (p->started)
		rte_eth_dev_stop(p->id);
	if (p->dev)
		eal_remove(p->id, p->dev);
	eal_unlisten();
	if (p->promisc_fd >= 0)
		close(p->promisc_fd);
	rte_mempool_free(p->pool);
	if (p->has_eal)
		eal_put();
	free(p->rxqs);
	free(p->txqs);
	free(p->port.stats);
	free((void *)(uintptr_t)p->config.name);
	free((void *)(uintptr_t)p->config.device);
	free(p);
}

const struct port *dpdk_port_port(const struct dpdk_port *p)
{
	return &p->port;
}

void dpdk_port_set_down(struct dpdk_port *p, bool down)
{
	port_set_down(&p->port, down);
}

void dpdk_port_set_limits(struct dpdk_port *p, const struct port_rules *rules)
{
	port_set_limits(&p->port, rules);
}

void dpdk_port_set_rules(struct dpdk_port *p, const struct port_rules *rules)
{
	port_change_rules(&p->port, rules);
	switch_relearn(&p->port);
}

const struct dpdk_port_config *dpdk_port_config(const struct dpdk_port *p)
{
	return &p->config;
}

const char *dpdk_port_how(const struct dpdk_port *p)
{
	struct dpdk_port *mine = (struct dpdk_port *)(uintptr_t)p; /* its buffer, on this thread */
	struct rte_eth_link link = { 0 };
	char rate[32];

	rte_eth_link_get_nowait(p->id, &link);
	if (link.link_speed == 0 || link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN)
		snprintf(rate, sizeof(rate), "of unknown speed");
	else
		snprintf(rate, sizeof(rate), "%u Mbit/s", link.link_speed);
	snprintf(mine->how, sizeof(mine->how),
		 "%s, link %s, %s, %u queue pair%s, %s, tx %s, mtu %u", p->driver,
		 link.link_status ? "up" : "down", rate, p->n_queues, p->n_queues == 1 ? "" : "s",
		 p->rxqs[0].poller.event_fd >= 0 ? "rx interrupts" : "rx by timer",
		 p->tx_offloads & RTE_ETH_TX_OFFLOAD_TCP_TSO	 ? "checksums and TSO by device"
		 : p->tx_offloads & RTE_ETH_TX_OFFLOAD_TCP_CKSUM ? "checksums by device"
								 : "checksums here",
		 p->max_frame - RTE_ETHER_HDR_LEN - RTE_VLAN_HLEN);
	return p->how;
}

void dpdk_fini(void)
{
	eal_fini();
}
