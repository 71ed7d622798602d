/* SPDX-License-Identifier: Apache-2.0 */
/* Sectors that know where they belong; shared by the parts of the pattern tool. */
#ifndef SLUICE_GUEST_SECTOR_H
#define SLUICE_GUEST_SECTOR_H

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define SECTOR 512u
#define CPUS_MAX 64

struct disk {
	int fd;
	const char *path;
	uint64_t sectors;
	uint64_t seed;
};

static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

/* A sector begins with its own number, the seed and the generation, so that a misplaced one, or an
 * old one, tells where it is from.
 */
static inline void sector_make(const struct disk *d, uint64_t sector, uint64_t generation,
			       uint64_t words[SECTOR / 8])
{
	uint64_t x = mix(d->seed ^ mix(sector ^ mix(generation)));

	words[0] = sector;
	words[1] = d->seed;
	words[2] = generation;
	for (unsigned i = 3; i < SECTOR / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[i] = x;
	}
}

static inline int n_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > CPUS_MAX ? CPUS_MAX : (int)n;
}

/* A process on each CPU: so every queue of the device is used. */
static inline void pin_to(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

/* Says what failed, and why (errno). @return 1 */
int fail(const struct disk *d, const char *what, uint64_t sector);
/* Takes a line from standard input, if there is one within @wait_ms. */
bool told_to_stop(int wait_ms);

/* churn.c. @return an exit code */
int churn(const struct disk *d);
int churn_check(const struct disk *d);

#endif
