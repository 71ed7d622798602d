/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much of the control thread one device's front-end may have. All devices share that thread, it
 * shares its CPU with others, and each time that it waits for a worker it costs that one a moment
 * too. So what a front-end asks for is measured, and one that goes on asking (messages, rings
 * started and stopped, memory changed, connections made, addresses missed, without end) is not
 * listened to until its share covers what it has had. What it sent waits in its socket; nothing is
 * lost. Work in bursts, as of a guest that boots, goes unnoticed. What counts is CPU time: while
 * the thread's CPU is another's, that is not this front-end's doing; of waiting (for a worker) a
 * little counts too. Control thread throughout.
 */
#ifndef SLUICE_VHOST_QUOTA_H
#define SLUICE_VHOST_QUOTA_H

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

struct vhost_device;

/*
 * Percent of the time in the long run, and microseconds that may be had at once. Less than the 5 %
 * that one guest may cost the others, for it costs them a little elsewhere, too.
 */
#define QUOTA_PERCENT 4
#define QUOTA_BURST_US 100000

struct quota {
	uint64_t had_ns;       /* above its share, at @at_ns */
	uint64_t at_ns;	       /* when that was written */
	uint64_t long_at_ns;   /* when work last took so long that it was forgiven; 0: never */
	uint64_t since_ns;     /* the work that is being done; 0: none */
	uint64_t cpu_since_ns; /* its beginning, in CPU time of the thread */
	bool waits;	       /* the front-end is not listened to */
	sd_event_source *timer;
};

/* Off until this is called: tests ask for more than any front-end has a right to. */
void quota_enforce(bool on);

/* Around work for @d's front-end. The end may make it wait; see session_listen(). */
void quota_begin(struct vhost_device *d);
void quota_end(struct vhost_device *d);
/*
 * What was done since @since_ns counts a fifth: an IOMMU's translations, of which a guest that
 * maps each buffer anew needs thousands a second.
 */
void quota_spare(struct vhost_device *d, uint64_t since_ns);
/* @d's listener and its timer are about to go. */
void quota_forget(struct vhost_device *d);

#endif
