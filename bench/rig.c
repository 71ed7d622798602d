/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/rig.h"

#include "base/clock.h"

#include <assert.h>
#include <err.h>
#include <getopt.h>
#include <linux/virtio_config.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

const char rig_options_help[] =
	"  --ring LAYOUT     split (default) or packed\n"
	"  --no-indirect     without VIRTIO_F_INDIRECT_DESC\n"
	"  --no-event-idx    without VIRTIO_F_EVENT_IDX\n"
	"  --in-order        with VIRTIO_F_IN_ORDER\n"
	"  --queue-size N    of each ring (256)\n"
	"  --queues N        queues, for net pairs of them (1)\n"
	"  --time SECONDS    (5)\n"
	"  --timeout MS      without any progress until the back-end is given up (5000)\n"
	"  --cpu N           pin the driver to this CPU\n"
	"  --sleep           sleep until called, as a guest does; default: poll\n"
	"  --hugepages       for the guest's memory; default: 4 KiB pages\n"
	"  --json            for machines\n"
	"  --help            this text\n";

uint64_t rig_number(const char *text, const char *option, uint64_t min, uint64_t max)
{
	char *end;
	uint64_t v = strtoull(text, &end, 10);
	unsigned shift = 0;

	if (end != text && *end && end[1] == '\0')
		shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
	if (end == text || *text == '-' || (*end && !shift) || v > max >> shift || v << shift < min)
		errx(2, "%s %s: not a number from %llu to %llu", option, text,
		     (unsigned long long)min, (unsigned long long)max);
	return v << shift;
}

static void set_option(const struct rig_option *opt, const char *arg)
{
	char name[40];

	switch (opt->kind) {
	case RIG_FLAG:
	case RIG_NO_FLAG:
		*(bool *)opt->to = opt->kind == RIG_FLAG;
		break;
	case RIG_NUMBER:
		snprintf(name, sizeof(name), "--%s", opt->name);
		*(unsigned *)opt->to = (unsigned)rig_number(arg, name, opt->min, opt->max);
		break;
	case RIG_TEXT:
		*(const char **)opt->to = arg;
		break;
	}
}

/* Is @name one of the words of @list? */
static bool is_in(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = list; (at = strstr(at, name)); at += len)
		if ((at == list || at[-1] == ' ') && (at[len] == ' ' || !at[len]))
			return true;
	return false;
}

#define OPTIONS_MAX 32
#define OPT_HELP 1000

int rig_parse(int argc, char **argv, struct rig_options *o, const struct rig_command *command)
{
	const char *ring = "split";
	const struct rig_option common[] = {
		{ "ring", RIG_TEXT, &ring, 0, 0 },
		{ "no-indirect", RIG_NO_FLAG, &o->indirect, 0, 0 },
		{ "no-event-idx", RIG_NO_FLAG, &o->event_idx, 0, 0 },
		{ "in-order", RIG_FLAG, &o->in_order, 0, 0 },
		{ "queue-size", RIG_NUMBER, &o->queue_size, 2, 32768 },
		{ "queues", RIG_NUMBER, &o->queues, 1, 128 },
		{ "time", RIG_NUMBER, &o->time_s, 1, 86400 },
		{ "timeout", RIG_NUMBER, &o->timeout_ms, 10, 3600000 },
		{ "cpu", RIG_NUMBER, &o->cpu, 0, CPU_SETSIZE - 1 },
		{ "sleep", RIG_FLAG, &o->sleep, 0, 0 },
		{ "hugepages", RIG_FLAG, &o->hugepages, 0, 0 },
		{ "json", RIG_FLAG, &o->json, 0, 0 },
	};
	const struct rig_option *known[OPTIONS_MAX];
	struct option longs[OPTIONS_MAX + 2] = { { "help", no_argument, NULL, OPT_HELP } };
	unsigned n = 0;
	int c;

	assert(ARRAY_SIZE(common) + command->n_own <= OPTIONS_MAX);
	for (unsigned i = 0; i < ARRAY_SIZE(common); i++)
		if (!command->only || is_in(command->only, common[i].name))
			known[n++] = &common[i];
	for (unsigned i = 0; i < command->n_own; i++)
		known[n++] = &command->own[i];
	for (unsigned i = 0; i < n; i++)
		longs[1 + i] = (struct option) { known[i]->name, known[i]->kind >= RIG_NUMBER, NULL,
						 (int)i };
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == OPT_HELP || c < 0 || c >= (int)n) {
			command->usage(c == OPT_HELP ? stdout : stderr);
			exit(c == OPT_HELP ? 0 : 2);
		}
		set_option(known[c], optarg);
	}
	o->packed = strcmp(ring, "packed") == 0;
	if (!o->packed && strcmp(ring, "split") != 0)
		errx(2, "--ring %s: say split or packed", ring);
	return optind;
}

void rig_die(const struct rig *r, const char *doing)
{
	errx(1, "%s: %s: %s", r->path, doing, r->frontend.error);
}

static uint64_t ring_features(const struct rig_options *o)
{
	return VU_F_VERSION_1 | (o->packed ? VU_F_PACKED : 0) | (o->indirect ? VU_F_INDIRECT : 0) |
	       (o->event_idx ? VU_F_EVENT_IDX : 0) | (o->in_order ? VU_F_IN_ORDER : 0);
}

/* What was asked for by name must be there: figures for another ring would mislead. */
static void check_features(const struct rig *r, uint64_t wanted)
{
	static const struct {
		uint64_t bit;
		const char *name, *remedy;
	} names[] = {
		{ VU_F_VERSION_1, "VIRTIO_F_VERSION_1", "legacy devices are not driven" },
		{ VU_F_PACKED, "VIRTIO_F_RING_PACKED", "use --ring split" },
		{ VU_F_INDIRECT, "VIRTIO_F_INDIRECT_DESC", "use --no-indirect" },
		{ VU_F_EVENT_IDX, "VIRTIO_F_EVENT_IDX", "use --no-event-idx" },
		{ VU_F_IN_ORDER, "VIRTIO_F_IN_ORDER", "leave --in-order out" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (wanted & names[i].bit && !(r->frontend.offered & names[i].bit))
			errx(1, "%s: the back-end does not offer %s; %s", r->path, names[i].name,
			     names[i].remedy);
}

static void make_memory(struct rig *r, const struct rig_options *o, uint64_t bytes)
{
	/* Below and above the PCI hole, as a guest has it. */
	uint64_t page = o->hugepages ? 2 << 20 : 4096;
	struct guest_range ranges[] = { { 0, 2 << 20 },
					{ UINT64_C(1) << 32, ALIGN_UP(bytes, page) } };
	int rc = guest_memory_create(&r->memory, ranges, ARRAY_SIZE(ranges),
				     o->hugepages ? GUEST_MEMORY_HUGE : 0);

	if (rc < 0)
		errx(1, "%llu MiB of guest memory%s: %s", (unsigned long long)bytes >> 20,
		     o->hugepages ? " in hugepages (see /proc/sys/vm/nr_hugepages)" : "",
		     strerror(-rc));
}

static void peer_pid(struct rig *r)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(r->frontend.sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
		r->pid = cred.pid;
}

/*
 * vhost-user SET_STATUS; virtio 1.3, 2.1. DPDK's vhost library works on no ring of a front-end that
 * has negotiated STATUS until the driver is ready.
 */
static void say_driver_ok(struct rig *r)
{
	const uint64_t ready = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			       VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

	if ((r->frontend.protocol & VU_PF_STATUS) &&
	    frontend_u64_set(&r->frontend, VU_SET_STATUS, ready) < 0)
		rig_die(r, "telling that the driver is ready");
}

struct rig *rig_open(const struct rig_options *o, const char *path, unsigned n_rings,
		     uint64_t device_features, uint64_t memory_bytes)
{
	struct frontend_queue_options q = { .size = o->queue_size,
					    .indirect = o->indirect ? DRIVER_INDIRECT_LONG
								    : DRIVER_DIRECT,
					    .indirect_segs = o->indirect_segs };
	struct rig *r = calloc(1, sizeof(*r));
	uint64_t wanted = ring_features(o);
	struct frontend *f;

	if (!r)
		errx(1, "out of memory");
	r->path = path;
	f = &r->frontend;
	frontend_init(f);
	f->timeout_ms = (int)MIN(o->timeout_ms, 1000u); /* to connect; then all of it */
	if (frontend_connect(f, path) < 0)
		errx(1, "%s; is a back-end serving that socket?", f->error);
	f->timeout_ms = (int)o->timeout_ms;
	peer_pid(r);
	if (frontend_hello(f, VU_PF_USUAL) < 0)
		rig_die(r, "the first messages");
	check_features(r, wanted);
	if (frontend_set_features(f, wanted | device_features) < 0)
		rig_die(r, "setting features");
	make_memory(r, o,
		    memory_bytes + (uint64_t)n_rings * o->queue_size * (16 * 18 + 64) +
			    (uint64_t)n_rings * 65536);
	if (frontend_share_memory(f, &r->memory) < 0)
		rig_die(r, "sharing memory");
	for (unsigned i = 0; i < n_rings; i++) {
		if (frontend_queue_setup(f, i, &q) < 0)
			rig_die(r, "making a ring");
		/* Some back-ends tell a length where there is none to tell (packed, transmit). */
		f->queue[i].ring.ignores_reserved_len = true;
		if (!o->sleep)
			rig_calls_off(r, i);
		if (frontend_queue_start(f, i) < 0)
			rig_die(r, "starting a ring");
	}
	say_driver_ok(r);
	return r;
}

void rig_close(struct rig *r)
{
	frontend_close(&r->frontend);
	guest_memory_destroy(&r->memory);
	free(r);
}

void rig_calls_off(struct rig *r, unsigned ring)
{
	struct driver_ring *d = &r->frontend.queue[ring].ring;

	if (d->layout == DRIVER_SPLIT)
		driver_calls_off(d, DRIVER_SPLIT);
	else
		driver_calls_off(d, DRIVER_PACKED);
}

void rig_check_alive(struct rig *r, uint64_t idle_ns, unsigned timeout_ms)
{
	char byte;
	ssize_t n = recv(r->frontend.sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		errx(1, "%s: the back-end hung up in the middle of the run", r->path);
	if (idle_ns > (uint64_t)timeout_ms * 1000000)
		errx(1, "%s: the back-end has done nothing for %u ms", r->path, timeout_ms);
}

void rig_pin(unsigned cpu)
{
	cpu_set_t set;

	if (cpu == RIG_NO_CPU)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		err(1, "--cpu %u", cpu);
}

double rig_cpu_seconds(pid_t pid)
{
	unsigned long long user, system;
	char path[64], text[1024];
	const char *p;
	size_t n;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = pid > 0 ? fopen(path, "re") : NULL;
	if (!f)
		return -1;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	p = strrchr(text, ')'); /* a name may hold anything */
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
			 &system) != 2)
		return -1;
	return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
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

void rig_print_latency(const struct histogram *h, bool json)
{
	static const struct {
		uint32_t per_million;
		const char *name;
	} points[] = { { 500000, "p50" },   { 900000, "p90" },	  { 990000, "p99" },
		       { 999000, "p99.9" }, { 999900, "p99.99" }, { 999990, "p99.999" } };
	double us = 1.0 / (double)clock_cycles_per_us();

	printf(json ? ", \"latency_us\": { \"mean\": %.2f" : "latency, us    mean %.2f",
	       histogram_mean(h) * us);
	for (unsigned i = 0; i < ARRAY_SIZE(points); i++)
		printf(json ? ", \"%s\": %.2f" : "  %s %.2f", points[i].name,
		       (double)histogram_percentile(h, points[i].per_million) * us);
	printf(json ? ", \"max\": %.2f }" : "  max %.2f\n", (double)h->max * us);
}
