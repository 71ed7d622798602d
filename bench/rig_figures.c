/* SPDX-License-Identifier: Apache-2.0 */
/* What is read off the machine, and how latencies are told. */
#include "bench/rig.h"

#include "base/clock.h"

#include <dirent.h>
#include <err.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

void rig_pin(unsigned cpu)
{
	cpu_set_t set;

	if (cpu == RIG_NO_CPU)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		errx(2, "CPU %u: this process may not run there (it has %ld CPUs in all)", cpu,
		     sysconf(_SC_NPROCESSORS_ONLN));
}

/* What threads of the back-end's are pinned to. */
struct pins {
	unsigned worker, main; /* a CPU of the driver's that such a thread has; RIG_NO_CPU: none */
	bool elsewhere;	       /* a thread has another CPU */
};

static void look_at_thread(struct pins *p, pid_t thread, pid_t process, const struct rig_options *o)
{
	bool shared = false;
	cpu_set_t set;

	if (sched_getaffinity(thread, sizeof(set), &set) < 0 || CPU_COUNT(&set) != 1)
		return;
	for (unsigned i = 0; i < o->n_cpus; i++)
		if (CPU_ISSET(o->cpus[i], &set)) {
			*(thread == process ? &p->main : &p->worker) = o->cpus[i];
			shared = true;
		}
	p->elsewhere |= !shared;
}

/* The main thread of a back-end that has pinned others elsewhere sets up and waits. */
static unsigned shared_cpu(pid_t process, const struct rig_options *o)
{
	struct pins p = { RIG_NO_CPU, RIG_NO_CPU, false };
	const struct dirent *entry;
	char name[64];
	DIR *threads;

	snprintf(name, sizeof(name), "/proc/%d/task", process);
	threads = opendir(name);
	while (threads && (entry = readdir(threads)))
		if (entry->d_name[0] != '.')
			look_at_thread(&p, (pid_t)strtol(entry->d_name, NULL, 10), process, o);
	if (threads)
		closedir(threads);
	return p.worker != RIG_NO_CPU || p.elsewhere ? p.worker : p.main;
}

void rig_warn_of_shared_cpu(const struct rig *r, const struct rig_options *o)
{
	static bool told; /* of many connections, once */
	unsigned cpu;

	if (told || !o->n_cpus || r->pid <= 0)
		return;
	cpu = shared_cpu(r->pid, o);
	told = cpu != RIG_NO_CPU;
	if (told)
		warnx("%s: a thread of the back-end (process %d) is pinned to CPU %u, as this "
		      "driver "
		      "is: they may slow each other down",
		      r->path, r->pid, cpu);
}

double rig_cpu_seconds(pid_t pid)
{
	struct timespec ts;
	clockid_t clock;

	if (pid <= 0 || clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) < 0)
		return -1;
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

double rig_cpu_seconds_of(struct rig *const *rigs, unsigned n)
{
	double sum = 0;

	for (unsigned i = 0; i < n; i++) {
		double one = rig_cpu_seconds(rigs[i]->pid);
		bool again = false;

		for (unsigned k = 0; k < i; k++)
			again |= rigs[k]->pid == rigs[i]->pid;
		if (one < 0)
			return -1;
		sum += again ? 0 : one;
	}
	return sum;
}

double rig_spent(double before, double after)
{
	return before < 0 || after < before ? -1 : after - before;
}

double rig_steal_seconds(void)
{
	unsigned long long steal;
	FILE *f = fopen("/proc/stat", "re");
	int n;

	if (!f)
		return -1;
	n = fscanf(f, "cpu %*u %*u %*u %*u %*u %*u %*u %llu", &steal);
	fclose(f);
	return n == 1 ? (double)steal / (double)sysconf(_SC_CLK_TCK) : -1;
}

void rig_print_steal(double seconds)
{
	if (seconds < 0)
		printf("steal          not known\n");
	else
		printf("steal          %.2f s\n", seconds);
}

static const struct {
	uint32_t per_million;
	const char *name;
} points[] = { { 500000, "p50" },   { 900000, "p90" },	  { 990000, "p99" },
	       { 999000, "p99.9" }, { 999900, "p99.99" }, { 999990, "p99.999" } };

void rig_print_histogram(const struct histogram *h, bool json)
{
	double us = 1.0 / (double)clock_cycles_per_us();

	if (!h->n) {
		printf(json ? "null" : "-\n");
		return;
	}
	printf(json ? "{ \"min\": %.2f, \"mean\": %.2f" : "min %.2f  mean %.2f",
	       (double)histogram_min(h) * us, histogram_mean(h) * us);
	for (unsigned i = 0; i < ARRAY_SIZE(points); i++)
		printf(json ? ", \"%s\": %.2f" : "  %s %.2f", points[i].name,
		       (double)histogram_percentile(h, points[i].per_million) * us);
	printf(json ? ", \"max\": %.2f }" : "  max %.2f\n", (double)h->max * us);
}

void rig_print_latency(const struct histogram *h, bool json)
{
	printf(json ? ", \"latency_us\": " : "latency, us    ");
	rig_print_histogram(h, json);
}

void rig_print_ring(const struct driver_ring *r, const struct rig_options *o)
{
	printf("ring           %s, %u descriptors%s%s%s, driver %s%s",
	       r->layout == DRIVER_PACKED ? "packed" : "split", r->size,
	       r->indirect == DRIVER_DIRECT ? "" : ", indirect", r->event_idx ? ", event_idx" : "",
	       r->in_order ? ", in_order" : "", o->sleep ? "sleeps" : "polls",
	       o->hugepages ? ", hugepages" : "");
}
