/* SPDX-License-Identifier: Apache-2.0 */
#include "net/dpdk_eal.h"

#include "base/error.h"
#include "base/log.h"
#include "poll/worker.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Address space, not memory: pages are touched as ports come. Enough for about ten ports. */
#define NO_HUGE_MIB "256"
/* With less than this in hugepages we leave them to the guests. */
#define HUGE_BYTES_MIN (128ull << 20)

static struct {
	enum { EAL_OFF, EAL_ON, EAL_FAILED, EAL_STOPPED } state;
	struct workers *workers;
	unsigned n_ports;
	FILE *log;
	pthread_t listener;
	bool listening;
	bool in_use[RTE_MAX_ETHPORTS];
	char said[200];
} eal;

/* Everything that DPDK prints comes here, a line or more a call. */
static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	int level = rte_log_cur_msg_loglevel();
	size_t n = len;

	(void)cookie;
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
		n--;
	if (n == 0)
		return (ssize_t)len;
	if (level > (int)RTE_LOG_ERR || level == 0) {
		log_debug("dpdk: %.*s", (int)n, text);
	} else if (__atomic_load_n(&eal.listening, __ATOMIC_RELAXED) &&
		   pthread_equal(eal.listener, pthread_self())) {
		/* The first line is about the cause, the later ones about its consequences. */
		if (!eal.said[0])
			snprintf(eal.said, sizeof(eal.said), "%.*s", (int)n, text);
		log_debug("dpdk: %.*s", (int)n, text);
	} else {
		log_warn("dpdk: %.*s", (int)n, text);
	}
	return (ssize_t)len;
}

void eal_listen(void)
{
	eal.said[0] = '\0';
	eal.listener = pthread_self();
	__atomic_store_n(&eal.listening, true, __ATOMIC_RELAXED);
}

void eal_unlisten(void)
{
	__atomic_store_n(&eal.listening, false, __ATOMIC_RELAXED);
}

const char *eal_said(void)
{
	return eal.said[0] ? eal.said : "it gave no reason";
}

static int log_open(void)
{
	static const cookie_io_functions_t io = { .write = log_write };

	eal.log = fopencookie(NULL, "w", io);
	if (!eal.log)
		return -ENOMEM;
	setvbuf(eal.log, NULL, _IOLBF, 1024);
	return rte_openlog_stream(eal.log);
}

static unsigned long long read_number(const char *path)
{
	unsigned long long n = 0;
	FILE *f = fopen(path, "re");

	if (f) {
		if (fscanf(f, "%llu", &n) != 1)
			n = 0;
		fclose(f);
	}
	return n;
}

static unsigned long long free_huge_bytes(void)
{
	static const char dir[] = "/sys/kernel/mm/hugepages";
	unsigned long long sum = 0, kib;
	struct dirent *de;
	DIR *d = opendir(dir);

	while (d && (de = readdir(d))) {
		char path[sizeof(dir) + sizeof(de->d_name) + 32];

		if (sscanf(de->d_name, "hugepages-%llukB", &kib) != 1)
			continue;
		snprintf(path, sizeof(path), "%s/%s/free_hugepages", dir, de->d_name);
		sum += read_number(path) * (kib << 10);
	}
	if (d)
		closedir(d);
	return sum;
}

/* EAL's main "lcore" is the calling thread, and it wants one CPU for it: the first we may use. */
static int first_cpu(const cpu_set_t *cpus)
{
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, cpus))
			return i;
	return 0;
}

static int init(const cpu_set_t *cpus)
{
	char lcores[32], prefix[32];
	char *argv[20];
	int argc = 0;

	snprintf(lcores, sizeof(lcores), "0@%d", first_cpu(cpus));
	snprintf(prefix, sizeof(prefix), "sluice-%d", (int)getpid());
	argv[argc++] = "sluiced";
	/* One lcore: workers are threads of our own, and EAL starts none. */
	argv[argc++] = "--lcores";
	argv[argc++] = lcores;
	argv[argc++] = "--file-prefix";
	argv[argc++] = prefix;
	argv[argc++] = "--no-telemetry";
	/* Nothing is probed but what a configuration names: allow an address that is no device. */
	argv[argc++] = "--allow";
	argv[argc++] = "ffff:ff:1f.7";
	if (free_huge_bytes() >= HUGE_BYTES_MIN) {
		/* From anonymous hugepages, as needed; no hugetlbfs mount, no files. */
		argv[argc++] = "--in-memory";
	} else {
		argv[argc++] = "--no-huge";
		argv[argc++] = "--no-shconf";
		argv[argc++] = "-m";
		argv[argc++] = NO_HUGE_MIB;
	}
	argv[argc] = NULL;
	return rte_eal_init(argc, argv);
}

static int start(struct error *err)
{
	cpu_set_t cpus;
	sigset_t all, before;
	int rc;

	if (log_open() < 0)
		return error_set(err, -ENOMEM, "out of memory for DPDK's log");
	/*
	 * EAL pins its caller, and starts threads that inherit its signals: the daemon's signals
	 * are not for them, and its affinity is not EAL's to choose.
	 */
	pthread_getaffinity_np(pthread_self(), sizeof(cpus), &cpus);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	eal_listen();
	rc = init(&cpus);
	eal_unlisten();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
	if (rc < 0) {
		eal.state = EAL_FAILED;
		return error_set(err, rte_errno ? -rte_errno : -EIO,
				 "DPDK does not start (%s): %s; check free memory and hugepages",
				 rte_strerror(rte_errno), eal_said());
	}
	eal.state = EAL_ON;
	log_info("dpdk: started %s",
		 rte_eal_has_hugepages() ? "on hugepages" : "without hugepages");
	return 0;
}

struct registration {
	int rc;
};

/* A registered thread has a cache of its own in every pool of packet buffers. */
static void register_worker(void *arg)
{
	struct registration *r = arg;

	r->rc = rte_thread_register() < 0 ? -rte_errno : 0;
}

static void unregister_worker(void *arg)
{
	(void)arg;
	rte_thread_unregister();
}

static int register_workers(struct workers *ws, struct error *err)
{
	for (unsigned i = 0; i < workers_count(ws); i++) {
		struct registration r = { 0 };

		worker_call_wait(workers_get(ws, i), register_worker, &r);
		if (r.rc == 0)
			continue;
		while (i-- > 0)
			worker_call_wait(workers_get(ws, i), unregister_worker, NULL);
		return error_set(err, r.rc, "DPDK takes no more threads (%s): use fewer workers",
				 strerror(-r.rc));
	}
	return 0;
}

int eal_get(struct workers *workers, struct error *err)
{
	int rc;

	if (eal.state == EAL_FAILED || eal.state == EAL_STOPPED)
		return error_set(err, -EIO,
				 "DPDK %s before, and cannot be started twice: restart the daemon",
				 eal.state == EAL_FAILED ? "failed to start" : "was stopped");
	if (eal.state == EAL_OFF) {
		rc = start(err);
		if (rc < 0)
			return rc;
	}
	if (eal.n_ports == 0) {
		rc = register_workers(workers, err);
		if (rc < 0)
			return rc;
		eal.workers = workers;
	}
	assert(eal.workers == workers);
	eal.n_ports++;
	return 0;
}

void eal_put(void)
{
	assert(eal.n_ports > 0);
	if (--eal.n_ports > 0)
		return;
	for (unsigned i = 0; i < workers_count(eal.workers); i++)
		worker_call_wait(workers_get(eal.workers, i), unregister_worker, NULL);
	eal.workers = NULL;
}

void eal_fini(void)
{
	if (eal.state != EAL_ON)
		return;
	assert(eal.n_ports == 0);
	eal_listen(); /* nobody can act on what it complains of now */
	rte_eal_cleanup();
	eal_unlisten();
	eal.state = EAL_STOPPED;
	rte_openlog_stream(NULL);
	fclose(eal.log);
	eal.log = NULL;
}

/* @return the (first) port that @device names now, or RTE_MAX_ETHPORTS. */
static uint16_t port_of(const char *device)
{
	struct rte_dev_iterator it;
	uint16_t id, first = RTE_MAX_ETHPORTS;

	RTE_ETH_FOREACH_MATCHING_DEV(id, device, &it)
	{
		/* To the end, which frees what the iterator holds. */
		if (first == RTE_MAX_ETHPORTS)
			first = id;
	}
	return first;
}

int eal_probe(const char *device, unsigned short *port_id, struct rte_device **dev,
	      struct error *err)
{
	struct rte_eth_dev_info info;
	uint16_t id = port_of(device);
	int rc;

	/* DPDK probes a virtual device that is there already again, without a word. */
	if (id < RTE_MAX_ETHPORTS && eal.in_use[id])
		return error_set(err, -EBUSY,
				 "DPDK device \"%s\" is another port's already: name another one",
				 device);
	eal_listen(); /* that it was not there was no error */
	rc = rte_dev_probe(device);
	if (rc < 0)
		return error_set(
			err, rc,
			"DPDK device \"%s\" does not probe (%s): %s; check the driver's name, "
			"its arguments, and that this user may use it",
			device, strerror(-rc), eal_said());
	id = port_of(device);
	if (id == RTE_MAX_ETHPORTS || eal.in_use[id] || rte_eth_dev_info_get(id, &info) < 0)
		return error_set(err, -ENODEV,
				 "DPDK device \"%s\" is no network device: name one that is",
				 device);
	eal.in_use[id] = true;
	*port_id = id;
	*dev = info.device;
	return 0;
}

void eal_remove(unsigned short port_id, struct rte_device *dev)
{
	rte_eth_dev_close(port_id);
	rte_dev_remove(dev);
	eal.in_use[port_id] = false;
}
