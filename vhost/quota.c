/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/quota.h"

#include "base/clock.h"
#include "poll/control.h"
#include "vhost/session.h"

#include <inttypes.h>

#define BURST_NS (UINT64_C(1000) * QUOTA_BURST_US)
/* What may be had in one go after a wait; so a wait takes 25 ms at least, and timers are few. */
#define STEP_NS UINT64_C(1000000)
/* However long one thing took (a huge mapping), the front-end is heard again within 275 ms. */
#define DEBT_MAX_NS (10 * STEP_NS)
/* But not if another one took long in the last minute: then it waits for all of it, within 25 s. */
#define LONG_AGAIN_NS UINT64_C(60000000000)
#define LONG_DEBT_MAX_NS (1000 * STEP_NS)

/* Of what a piece of work waits for, this much counts. */
#define WAITING_MAX_NS UINT64_C(2000000)

static bool enforced;

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void quota_enforce(bool on)
{
	enforced = on;
}

static void listen_again(struct vhost_device *d)
{
	d->quota.waits = false;
	queues_missed_again(d);
	if (d->session)
		session_listen(d->session);
	listener_resume(d);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg)
{
	(void)source;
	(void)usec;
	listen_again(arg);
	return 0;
}

static int set_timer(struct vhost_device *d, uint64_t us)
{
	int rc = 0;

	if (!d->quota.timer)
		return sd_event_add_time_relative(control_event(), &d->quota.timer, CLOCK_MONOTONIC,
						  us, STEP_NS / 1000, on_timer, d);
	rc = sd_event_source_set_time_relative(d->quota.timer, us);
	return rc < 0 ? rc : sd_event_source_set_enabled(d->quota.timer, SD_EVENT_ONESHOT);
}

/* How much of the debt after work that took @took_ns is not forgiven. */
static uint64_t debt_max(struct quota *q, uint64_t took_ns)
{
	bool again = q->long_at_ns && q->at_ns - q->long_at_ns < LONG_AGAIN_NS;

	if (took_ns <= DEBT_MAX_NS)
		return DEBT_MAX_NS;
	q->long_at_ns = q->at_ns;
	return again ? MIN(took_ns, LONG_DEBT_MAX_NS) : DEBT_MAX_NS;
}

static void make_wait(struct vhost_device *d, uint64_t took_ns)
{
	uint64_t over = MIN(d->quota.had_ns - BURST_NS, debt_max(&d->quota, took_ns)) + STEP_NS;

	d->quota.had_ns = BURST_NS + over - STEP_NS;
	/* Without a timer it would wait for ever. */
	if (set_timer(d, over * 100 / QUOTA_PERCENT / 1000) < 0)
		return;
	d->quota.waits = true;
	if (d->session)
		session_listen(d->session);
	if (counter_read(&d->stats.throttled) == 0)
		device_warn(d,
			    "%s: its front-end asks for more than %d %% of the control thread, and "
			    "is made to wait (counted as throttled, and not logged again)",
			    d->name, QUOTA_PERCENT);
	counter_add(&d->stats.throttled, 1);
}

void quota_begin(struct vhost_device *d)
{
	if (!enforced)
		return;
	d->quota.since_ns = clock_ns();
	d->quota.cpu_since_ns = cpu_ns();
}

void quota_spare(struct vhost_device *d, uint64_t since_ns)
{
	uint64_t spared = (clock_ns() - since_ns) / 5 * 4;

	if (!d->quota.since_ns)
		return;
	d->quota.since_ns += spared;
	d->quota.cpu_since_ns += spared;
}

void quota_end(struct vhost_device *d)
{
	struct quota *q = &d->quota;
	uint64_t now, share, took, cpu;

	if (!q->since_ns)
		return;
	now = clock_ns();
	share = (now - q->at_ns) * QUOTA_PERCENT / 100;
	cpu = cpu_ns();
	cpu -= MIN(q->cpu_since_ns, cpu);
	took = now - MIN(q->since_ns, now);
	took = MIN(took, cpu + WAITING_MAX_NS);
	q->had_ns = (q->had_ns > share ? q->had_ns - share : 0) + took;
	q->at_ns = now;
	q->since_ns = 0;
	if (q->had_ns > BURST_NS && !q->waits)
		make_wait(d, took);
}

void quota_forget(struct vhost_device *d)
{
	d->quota.timer = sd_event_source_disable_unref(d->quota.timer);
}
