/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-bench blk: a run against a vhost-user-blk back-end, and its report. */
#include "bench/blk.h"
#include "bench/bench.h"

#include "base/clock.h"
#include "bench/interrupt.h"

#include <err.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <sys/random.h>

#define BIT(n) (UINT64_C(1) << (n))

/* DISCARD and WRITE_ZEROES: offered, and in one piece for requests as large as ours? */
static void check_range_op(const struct blk_run *b, const struct rig_disk *d, enum blk_op op)
{
	bool discard = op == BLK_DISCARD;
	uint64_t bit = BIT(discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES);
	uint32_t most;

	if (!(b->opt->ops & 1u << op))
		return;
	if (!(b->rig->frontend.features & bit))
		errx(1, "%s: the back-end does not offer VIRTIO_BLK_F_%s", b->rig->path,
		     discard ? "DISCARD" : "WRITE_ZEROES");
	if (discard)
		RIG_DISK_KNOWS(b->rig, d, max_discard_sectors);
	else
		RIG_DISK_KNOWS(b->rig, d, max_write_zeroes_sectors);
	most = discard ? d->config.max_discard_sectors : d->config.max_write_zeroes_sectors;
	if (b->opt->bs / SECTOR > most)
		errx(1, "%s: a %s of the back-end's is at most %llu bytes; use a smaller --bs",
		     b->rig->path, blk_op_names[op], (unsigned long long)most * SECTOR);
}

/* What the disk is, and whether it can do what is asked for. */
static void look_at_disk(struct blk_run *b)
{
	const struct blk_options *o = b->opt;
	uint64_t features = b->rig->frontend.features;
	struct rig_disk d;

	rig_read_disk(b->rig, &d);
	/* virtio 1.3 5.2.3 */
	if (o->rig.queues > 1 && !(features & BIT(VIRTIO_BLK_F_MQ)))
		errx(1,
		     "%s: the back-end does not offer VIRTIO_BLK_F_MQ, and so has one queue; %u "
		     "were asked for: use --queues 1",
		     b->rig->path, o->rig.queues);
	b->disk.bytes = d.config.capacity * SECTOR;
	b->disk.size_max = BLK_BYTES_MAX;
	if (features & BIT(VIRTIO_BLK_F_SIZE_MAX)) {
		RIG_DISK_KNOWS(b->rig, &d, size_max);
		/* qemu-storage-daemon offers it and says 0: it has none. */
		if (d.config.size_max)
			b->disk.size_max = d.config.size_max;
	}
	if ((o->bs - 1) / b->disk.size_max >= GUEST_BLK_DATA_SEGS_MAX)
		errx(1, "%s: requests of %u bytes in segments of at most %u; use a smaller --bs",
		     b->rig->path, o->bs, b->disk.size_max);
	if (o->size > b->disk.bytes)
		errx(1, "%s: --size %llu, but the disk has %llu bytes", b->rig->path,
		     (unsigned long long)o->size, (unsigned long long)b->disk.bytes);
	if (o->trace.end > b->disk.bytes)
		errx(1, "%s: the trace reaches up to byte %llu, but the disk has %llu",
		     b->rig->path, (unsigned long long)o->trace.end,
		     (unsigned long long)b->disk.bytes);
	if (o->size)
		b->disk.bytes = o->size;
	/* Without FLUSH the device has no cache to flush (virtio 1.3 5.2.6.2). */
	if (o->ops & 1u << BLK_FLUSH && !(features & BIT(VIRTIO_BLK_F_FLUSH)))
		errx(1, "%s: the back-end does not offer VIRTIO_BLK_F_FLUSH", b->rig->path);
	if (features & BIT(VIRTIO_BLK_F_RO) && o->ops & ~(1u << BLK_READ | 1u << BLK_FLUSH))
		errx(1, "%s: the disk is read-only (VIRTIO_BLK_F_RO)", b->rig->path);
	check_range_op(b, &d, BLK_DISCARD);
	check_range_op(b, &d, BLK_WRITE_ZEROES);
}

static uint64_t features_wanted(const struct blk_options *o)
{
	return BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_SIZE_MAX) |
	       (o->rig.queues > 1 ? BIT(VIRTIO_BLK_F_MQ) : 0) |
	       (o->ops & 1u << BLK_DISCARD ? BIT(VIRTIO_BLK_F_DISCARD) : 0) |
	       (o->ops & 1u << BLK_WRITE_ZEROES ? BIT(VIRTIO_BLK_F_WRITE_ZEROES) : 0);
}

/* All threads' figures in one, and of all operations together. */
static void merge(const struct blk_run *b, struct blk_figures *sum, struct histogram *all)
{
	for (unsigned i = 0; i < b->opt->rig.threads; i++) {
		const struct blk_figures *f = &b->drivers[i].figures;

		for (unsigned op = 0; op < BLK_OPS; op++) {
			histogram_merge(&sum->latency[op], &f->latency[op]);
			histogram_merge(all, &f->latency[op]);
		}
		sum->done += f->done;
		sum->bytes += f->bytes;
		sum->errors += f->errors;
		sum->verified += f->verified;
		sum->unsent += f->unsent;
	}
}

static double per_million(const struct blk_run *b, const struct blk_figures *f)
{
	return b->crew.cpu_s >= 0 && f->done ? b->crew.cpu_s / (double)f->done * 1e6 : -1;
}

/* Of a request, of a trace its longest; 0: flushes have none. */
static uint32_t bytes_told(const struct blk_options *o)
{
	return o->trace_path ? o->trace.longest : o->op == BLK_FLUSH ? 0 : o->bs;
}

static void report_json(const struct blk_run *b, const struct blk_figures *f,
			const struct histogram *all)
{
	const struct blk_options *o = b->opt;
	double s = b->crew.seconds;
	bool first = true;

	printf("{ \"kind\": \"blk\", \"rw\": \"%s\", \"bs\": %u, \"depth\": %u, \"queues\": %u, "
	       "\"threads\": %u, \"sleep\": %s, \"hugepages\": %s, \"regions\": %u, \"ring\": "
	       "\"%s\", \"queue_size\": %u, "
	       "\"features\": \"%#llx\", \"loop\": \"%s\", "
	       "\"rate\": %u, \"warmup_s\": %u, \"seconds\": %.3f, \"requests\": %llu, "
	       "\"iops\": %.0f, \"mib_s\": %.1f",
	       o->rw, bytes_told(o), o->depth, o->rig.queues, o->rig.threads,
	       o->rig.sleep ? "true" : "false", o->rig.hugepages ? "true" : "false", o->rig.regions,
	       o->rig.packed ? "packed" : "split", o->rig.queue_size,
	       (unsigned long long)b->rig->frontend.features,
	       blk_is_open_loop(o) ? "open" : "closed", o->rate, o->rig.warmup_s, s,
	       (unsigned long long)all->n, (double)f->done / s, (double)f->bytes / s / (1 << 20));
	printf(", \"reads\": %llu, \"writes\": %llu, \"flushes\": %llu, \"discards\": %llu, "
	       "\"writezeroes\": %llu",
	       (unsigned long long)f->latency[BLK_READ].n,
	       (unsigned long long)f->latency[BLK_WRITE].n,
	       (unsigned long long)f->latency[BLK_FLUSH].n,
	       (unsigned long long)f->latency[BLK_DISCARD].n,
	       (unsigned long long)f->latency[BLK_WRITE_ZEROES].n);
	printf(", \"errors\": %llu, \"unsent\": %llu, \"verified\": %llu, \"backend_cpu_s\": %.4f, "
	       "\"backend_cpu_s_per_million\": %.4f, \"steal_s\": %.2f",
	       (unsigned long long)f->errors, (unsigned long long)f->unsent,
	       (unsigned long long)f->verified, b->crew.cpu_s, per_million(b, f), b->crew.steal_s);
	rig_print_latency(all, true);
	printf(", \"latency_us_of\": { ");
	for (unsigned op = 0; op < BLK_OPS; op++)
		if (f->latency[op].n) {
			printf("%s\"%s\": ", first ? "" : ", ", blk_op_names[op]);
			rig_print_histogram(&f->latency[op], true);
			first = false;
		}
	printf(" }");
	interrupt_report(true);
	printf(" }\n");
}

static void report_latency(const struct blk_figures *f, const struct histogram *all)
{
	unsigned kinds = 0;

	rig_print_latency(all, false);
	for (unsigned op = 0; op < BLK_OPS; op++)
		kinds += f->latency[op].n > 0;
	for (unsigned op = 0; kinds > 1 && op < BLK_OPS; op++)
		if (f->latency[op].n) {
			printf("  %-12s ", blk_op_names[op]);
			rig_print_histogram(&f->latency[op], false);
		}
}

static void report(const struct blk_run *b, const struct blk_figures *f,
		   const struct histogram *all)
{
	const struct blk_options *o = b->opt;
	double s = b->crew.seconds;

	printf("%s, ", o->rw);
	if (bytes_told(o))
		printf("%s%u bytes, ", o->trace_path ? "up to " : "", bytes_told(o));
	printf("depth %u, %u queue%s, %u thread%s, %s loop\n", o->depth, o->rig.queues,
	       o->rig.queues > 1 ? "s" : "", o->rig.threads, o->rig.threads > 1 ? "s" : "",
	       blk_is_open_loop(o) ? "open" : "closed");
	rig_print_ring(&b->rig->frontend.queue[0].ring, &o->rig);
	printf("\nrequests       %llu in %.2f s, %llu reads, %llu failed\n"
	       "rate           %.0f a second, %.1f MiB/s\n",
	       (unsigned long long)all->n, s, (unsigned long long)f->latency[BLK_READ].n,
	       (unsigned long long)f->errors, (double)f->done / s,
	       (double)f->bytes / s / (1 << 20));
	if (f->unsent)
		printf("behind         %llu due and not sent when the time was up: no latency "
		       "tells "
		       "of them\n",
		       (unsigned long long)f->unsent);
	report_latency(f, all);
	if (o->verify)
		printf("verified       %llu reads of what was written\n",
		       (unsigned long long)f->verified);
	if (b->crew.cpu_s >= 0)
		printf("back-end CPU   %.2f s, %.3f s per million requests\n", b->crew.cpu_s,
		       per_million(b, f));
	rig_print_steal(b->crew.steal_s);
	interrupt_report(false);
}

/* Says what was wrong. @return the exit code. */
static int verdict(const struct blk_run *b, const struct blk_figures *f,
		   const struct histogram *all)
{
	uint64_t due = all->n + f->errors + f->unsent;

	if (!blk_is_behind(f->unsent, due, b->crew.seconds))
		return f->errors ? 1 : 0;
	warnx("%s: %llu of %llu requests were due and not sent when the time was up: this is more "
	      "than the back-end does at this --depth, and the latencies say nothing",
	      b->rig->path, (unsigned long long)f->unsent, (unsigned long long)due);
	return 1;
}

static void run(struct blk_run *b, const char *path)
{
	const struct blk_options *o = b->opt;

	clock_cycles_per_us();
	b->rig = rig_open(&o->rig, RIG_DISK, path, o->rig.queues, features_wanted(o),
			  (uint64_t)o->rig.queues * o->depth * (ALIGN_UP(o->bs, 4096) + 4096));
	blk_check_depth(o, b->rig->frontend.features & VU_F_INDIRECT, 1);
	look_at_disk(b);
	if (getrandom(&b->run_id, sizeof(b->run_id), 0) != sizeof(b->run_id))
		b->run_id = clock_ns();
	b->drivers = calloc(o->rig.threads, sizeof(*b->drivers));
	if (!b->drivers)
		errx(1, "out of memory");
	for (unsigned i = 0; i < o->rig.threads; i++)
		blk_driver_open(&b->drivers[i], b, i);
	b->crew = (struct crew) { .opt = &o->rig,
				  .rigs = &b->rig,
				  .n_rigs = 1,
				  .run = blk_drive,
				  .arg = b->drivers,
				  .unit = "requests",
				  .to_the_end = !o->rig.time_s };
	crew_run(&b->crew);
	interrupt_leave_if_early(b->crew.never_began);
}

int bench_blk(int argc, char **argv)
{
	static struct blk_options o = { .rig = RIG_OPTIONS_DEFAULT,
					.arrival = "constant",
					.depth = 32 };
	static struct blk_run b = { .opt = &o };
	static struct blk_figures sum;
	static struct histogram all;
	int code;

	run(&b, blk_parse(argc, argv, &o));
	merge(&b, &sum, &all);
	if (o.rig.json)
		report_json(&b, &sum, &all);
	else
		report(&b, &sum, &all);
	code = verdict(&b, &sum, &all);
	for (unsigned i = 0; i < o.rig.threads; i++)
		blk_driver_close(&b.drivers[i]);
	rig_close(b.rig);
	free(b.drivers);
	free(o.trace.request);
	return interrupt_exit_code(code);
}
