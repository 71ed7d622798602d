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

/* @return the CPU of @o that a thread is pinned to, too; RIG_NO_CPU if none. */
static unsigned shared_cpu(pid_t thread, const struct rig_options *o)
{
	cpu_set_t set;

	if (sched_getaffinity(thread, sizeof(set), &set) < 0 || CPU_COUNT(&set) != 1)
		return RIG_NO_CPU;
	for (unsigned i = 0; i < o->n_cpus; i++)
		if (CPU_ISSET(o->cpus[i], &set))
			return o->cpus[i];
	return RIG_NO_CPU;
}

void rig_warn_of_shared_cpu(const struct rig *r, const struct rig_options *o)
{
	static bool told; /* of many connections, once */
	unsigned cpu = RIG_NO_CPU;
	const struct dirent *entry;
	char name[64];
	DIR *threads;

	if (told || !o->n_cpus || r->pid <= 0)
		return;
	snprintf(name, sizeof(name), "/proc/%d/task", r->pid);
	threads = opendir(name);
	while (threads && cpu == RIG_NO_CPU && (entry = readdir(threads)))
		if (entry->d_name[0] != '.')
			cpu = shared_cpu((pid_t)strtol(entry->d_name, NULL, 10), o);
	if (threads)
		closedir(threads);
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
