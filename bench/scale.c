/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench scale: what a back-end's number of disks costs. Each is attached as a guest does it,
 * one after the other; then all are silent; then one at a time wakes the back-end; then one, and
 * then all, are busy. One thread is all guests.
 */
#include "base/clock.h"
#include "bench/bench.h"
#include "bench/interrupt.h"
#include "tests/guest/blk.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define DEPTH 8u
#define BS 4096u
#define CHECK_EVERY_NS 100000 /* of one disk, while some are busy: two system calls */
#define PAUSE_US 3000 /* before a wake-up: longer than a worker looks for work before it sleeps */

struct device {
	struct rig *rig;
	struct guest_blk blk;
	struct driver_seg data[DEPTH];
	uint64_t sector, n_sectors, done;
	unsigned in_flight;
	uint64_t last; /* ns: when the last one was done */
};

struct scale {
	struct rig_options opt;
	unsigned n, wakes;
	struct device *device;
	struct rig **rigs;   /* theirs */
	unsigned processes;  /* that the disks are of */
	unsigned turn;	     /* who is looked at next, */
	uint64_t next_check; /* and when */
	/* Results. */
	struct histogram first, wake;
	double anon_one,
		anon_all;	 /* KiB of the back-end's own memory, with one attached, and all */
	double idle_cpu, idle_s; /* seconds; -1: unknown, or not measured for a signal came */
	double one, all;	 /* requests a second; likewise */
	double least, most;	 /* requests of one disk while all are busy; likewise */
	uint64_t next_told;	 /* progress */
};

#define COMMON_OPTIONS \
	"ring no-indirect no-event-idx queue-size queues time timeout cpu progress json"

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: sluice-bench scale SOCKET... [OPTION]...\n"
		"Attaches a guest to each of these disks, and measures the time from connecting to "
		"the first\nrequest's end, memory of the back-end's own, CPU time while all are "
		"silent, wake-ups, and\nreads of 4 KiB at depth 8 of one guest, and of all.\n\n"
		"  --wakes N         how often to wake the back-end (500)\n");
	rig_print_options(to, COMMON_OPTIONS, 1);
}

/* Private memory of a process, in KiB: what is shared with guests is not in it. -1: unknown. */
static double anon_kib(pid_t pid)
{
	char name[64], line[128];
	double kib = -1;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%d/status", pid);
	f = fopen(name, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "RssAnon:", 8) == 0)
			kib = strtod(line + 8, NULL);
	if (f)
		fclose(f);
	return kib;
}

/* Some sockets, files and eventfds for each guest. */
static void raise_files_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Each step, and within it a line a second. */
static void tell(struct scale *s, const char *step, unsigned n, unsigned of)
{
	uint64_t now = clock_ns();

	if (!(s->opt.progress || isatty(STDERR_FILENO)) || (n > 1 && now < s->next_told))
		return;
	s->next_told = now + 1000000000;
	fprintf(stderr, "%s", step);
	fprintf(stderr, of ? ": %u of %u\n" : "\n", n, of);
}

/* Has one of those that are attached hung up? */
static void check_alive(const struct scale *s)
{
	for (unsigned i = 0; i < s->n; i++)
		rig_check_alive(s->device[i].rig, 0, s->opt.timeout_ms);
}

/*
 * While some are busy: one of all in turn. Has it hung up, or does it owe something for too long?
 * The disks may be of several back-ends, of which each can die.
 */
static void check_next(struct scale *s, uint64_t now)
{
	const struct device *d = &s->device[s->turn % s->n];

	if (now < s->next_check)
		return;
	s->next_check = now + CHECK_EVERY_NS;
	s->turn++;
	rig_check_alive(d->rig, d->in_flight ? now - d->last : 0, s->opt.timeout_ms);
	rig_check_error(d->rig, 0);
}

static void submit(struct device *d, struct driver_seg *data)
{
	d->sector = (d->sector + 7 * BS / 512) % (d->n_sectors - BS / 512);
	if (guest_blk_submit(&d->blk, VIRTIO_BLK_T_IN, d->sector, data, 1, data) < 0)
		errx(1, "%s: the ring is full", d->rig->path);
	d->in_flight++;
}

static void check_done(struct device *d, int rc, const struct guest_blk_done *done)
{
	if (rc < 0)
		rig_die(d->rig, "waiting for a request");
	d->in_flight--;
	if (done->status != VIRTIO_BLK_S_OK)
		errx(1, "%s: a read failed with status %u", d->rig->path, done->status);
}

/* One request of a guest that sleeps until it is called. */
static void one_request(struct device *d)
{
	struct guest_blk_done done;
	int rc;

	submit(d, &d->data[0]);
	guest_blk_kick(&d->blk);
	rc = guest_blk_wait(&d->blk, &done);
	if (rc < 0) /* it may have hung up, which says more than that nothing was used */
		rig_check_alive(d->rig, 0, 0);
	check_done(d, rc, &done);
}

static void attach(struct scale *s, struct device *d, const char *path)
{
	uint64_t start = clock_cycles();
	struct rig_disk disk;

	d->rig = rig_open(&s->opt, RIG_DISK, path, s->opt.queues, 0, DEPTH * BS + (1u << 16));
	rig_read_disk(d->rig, &disk);
	if (disk.config.capacity <= BS / 512 || guest_blk_open(&d->blk, &d->rig->frontend, 0) < 0)
		errx(1, "%s: no disk of more than %u bytes", path, BS);
	d->n_sectors = disk.config.capacity;
	for (unsigned i = 0; i < DEPTH; i++) {
		if (!guest_alloc(&d->rig->memory, BS, 4096, &d->data[i].gpa))
			errx(1, "no guest memory");
		d->data[i].len = BS;
	}
	one_request(d);
	histogram_add(&s->first, clock_cycles() - start);
}

static void attach_all(struct scale *s, char **paths)
{
	unsigned i = 0;

	do {
		bool again = false;

		tell(s, "attaching", i + 1, s->n);
		attach(s, &s->device[i], paths[i]);
		s->rigs[i] = s->device[i].rig;
		for (unsigned k = 0; k < i; k++)
			again |= s->rigs[k]->pid == s->rigs[i]->pid;
		s->processes += !again;
		if (i == 0)
			s->anon_one = anon_kib(s->rigs[0]->pid);
		interrupt_defer(); /* there is something to tell */
	} while (++i < s->n && !interrupted());
	s->n = i;
	s->anon_all = anon_kib(s->rigs[0]->pid);
}

static void stay_idle(struct scale *s)
{
	uint64_t start, end;
	double cpu;

	tell(s, "all are silent", 0, 0);
	usleep(200000); /* for what is still to be tidied up */
	start = clock_ns();
	cpu = rig_cpu_seconds_of(s->rigs, s->n);
	end = start + (uint64_t)s->opt.time_s * 1000000000;
	for (uint64_t now = start; now < end && !interrupted(); now = clock_ns()) {
		usleep((useconds_t)MIN((end - now) / 1000 + 1, UINT64_C(100000)));
		check_alive(s);
	}
	s->idle_cpu = rig_spent(cpu, rig_cpu_seconds_of(s->rigs, s->n));
	s->idle_s = (double)(clock_ns() - start) / 1e9;
}

/* From the kick of a back-end that sleeps to the call of a guest that does. */
static void wake_up(struct scale *s)
{
	for (unsigned i = 0; i < s->wakes && !interrupted(); i++) {
		uint64_t start;

		tell(s, "waking one", i + 1, s->wakes);
		usleep(PAUSE_US);
		check_alive(s);
		start = clock_cycles();
		one_request(&s->device[i % s->n]);
		histogram_add(&s->wake, clock_cycles() - start);
	}
}

/* Takes what is done, and asks for as much again unless it is @over. @return how many. */
static unsigned work(struct device *d, bool over, uint64_t now)
{
	struct guest_blk_done done;
	unsigned n = 0;
	int rc;

	for (; (rc = guest_blk_poll(&d->blk, &done)) != 0; n++) {
		check_done(d, rc, &done);
		if (!over)
			submit(d, done.cookie);
	}
	if (n && !over)
		guest_blk_kick(&d->blk);
	d->done += n;
	d->last = n ? now : d->last;
	return n;
}

static void begin(struct device *d)
{
	rig_calls_off(d->rig, 0);
	d->done = 0;
	d->last = clock_ns();
	for (unsigned k = 0; k < DEPTH; k++)
		submit(d, &d->data[k]);
	guest_blk_kick(&d->blk);
}

/* The first @n guests are busy, and poll. @return requests a second. */
static double be_busy(struct scale *s, unsigned n)
{
	uint64_t start, end, now, sum = 0, left = (uint64_t)n * DEPTH, least, most;

	if (interrupted())
		return -1;
	tell(s, n == s->n ? "all are busy" : "one is busy", 0, 0);
	for (unsigned i = 0; i < n; i++)
		begin(&s->device[i]);
	start = now = clock_ns();
	end = start + (uint64_t)s->opt.time_s * 1000000000;
	for (; now < end && !interrupted(); now = clock_ns()) {
		for (unsigned i = 0; i < n; i++)
			sum += work(&s->device[i], false, now);
		check_next(s, now);
	}
	least = UINT64_MAX;
	most = 0;
	for (unsigned i = 0; i < n; i++) {
		least = MIN(least, s->device[i].done);
		most = MAX(most, s->device[i].done);
	}
	s->least = n == s->n ? (double)least : -1;
	s->most = n == s->n ? (double)most : -1;
	while (left) {
		for (unsigned i = 0; i < n; i++)
			left -= work(&s->device[i], true, clock_ns());
		check_next(s, clock_ns());
	}
	return (double)sum / ((double)(now - start) / 1e9);
}

/* -1: unknown, or of several processes, each of which has its own to begin with. */
static double kib_each(const struct scale *s)
{
	return s->n > 1 && s->processes == 1 && s->anon_one >= 0
		       ? (s->anon_all - s->anon_one) / (s->n - 1)
		       : -1;
}

static void report_json(const struct scale *s)
{
	printf("{ \"kind\": \"scale\", \"devices\": %u, \"processes\": %u, \"queues\": %u, "
	       "\"ring\": \"%s\", \"first_request_us\": ",
	       s->n, s->processes, s->opt.queues, s->opt.packed ? "packed" : "split");
	rig_print_histogram(&s->first, true);
	printf(", \"wake_us\": ");
	rig_print_histogram(&s->wake, true);
	printf(", \"idle_cpu_s\": %.6f, \"idle_s\": %.3f, \"one_busy\": %.0f, \"all_busy\": %.0f, "
	       "\"least\": %.0f, \"most\": %.0f, \"anon_kib_one\": %.0f, \"anon_kib_all\": %.0f, "
	       "\"kib_each\": %.2f",
	       s->idle_cpu, s->idle_s, s->one, s->all, s->least, s->most, s->anon_one, s->anon_all,
	       kib_each(s));
	interrupt_report(true);
	printf(" }\n");
}

static void report(const struct scale *s)
{
	if (s->opt.json) {
		report_json(s);
		return;
	}
	printf("%u disk%s, %u queue%s each, %s\n", s->n, s->n == 1 ? "" : "s", s->opt.queues,
	       s->opt.queues == 1 ? "" : "s", s->opt.packed ? "packed" : "split");
	printf("to the first request's end, us    ");
	rig_print_histogram(&s->first, false);
	printf("a wake-up, kick to call, us       ");
	rig_print_histogram(&s->wake, false);
	if (s->idle_cpu >= 0)
		printf("CPU time of the back-end, idle    %.3f s in %.1f s\n", s->idle_cpu,
		       s->idle_s);
	if (s->anon_one >= 0)
		printf("memory of the back-end            %.0f KiB with one attached", s->anon_one);
	if (kib_each(s) >= 0)
		printf(", %.1f KiB for each more", kib_each(s));
	if (s->anon_one >= 0)
		putchar('\n');
	if (s->one >= 0)
		printf("one busy, the others silent       %.0f requests/s\n", s->one);
	if (s->all >= 0)
		printf("all busy                          %.0f requests/s; a disk %.0f to %.0f\n",
		       s->all, s->least, s->most);
	interrupt_report(false);
}

static void parse(int argc, char **argv, struct scale *s, int *at)
{
	const struct rig_option own[] = { { "wakes", RIG_NUMBER, &s->wakes, 1, 1000000 } };

	*at = rig_parse(argc, argv, &s->opt,
			&(struct rig_command) { own, ARRAY_SIZE(own), COMMON_OPTIONS, usage });
	if (*at >= argc)
		errx(2,
		     "scale takes the sockets of one or more disks; see sluice-bench scale --help");
	if (s->opt.queue_size < 4 * DEPTH)
		errx(2, "--queue-size %u: say %u or more", s->opt.queue_size, 4 * DEPTH);
	s->n = (unsigned)(argc - *at);
	s->opt.sleep = true;
}

int bench_scale(int argc, char **argv)
{
	static struct scale s = {
		.opt = RIG_OPTIONS_DEFAULT,
		.wakes = 500,
		.idle_cpu = -1,
		.idle_s = -1,
		.one = -1,
		.all = -1,
		.least = -1,
		.most = -1,
	};
	int at;

	s.opt.time_s = 1;
	parse(argc, argv, &s, &at);
	s.device = calloc(s.n, sizeof(*s.device));
	s.rigs = calloc(s.n, sizeof(struct rig *));
	if (!s.device || !s.rigs)
		errx(1, "out of memory");
	raise_files_limit();
	rig_pin(s.opt.cpu);
	clock_cycles_per_us();
	attach_all(&s, argv + at);
	if (!interrupted())
		stay_idle(&s);
	wake_up(&s);
	s.one = be_busy(&s, 1);
	s.all = be_busy(&s, s.n);
	report(&s);
	for (unsigned i = 0; i < s.n; i++) {
		guest_blk_close(&s.device[i].blk);
		rig_close(s.device[i].rig);
	}
	free(s.device);
	free(s.rigs);
	return interrupt_exit_code(0);
}
