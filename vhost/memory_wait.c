/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that map something wait while what was mapped before takes up the room for it. */
#include "poll/control.h"
#include "vhost/disposal.h"
#include "vhost/mapped_file.h"
#include "vhost/session.h"

/* Freeing a GiB takes some 55 ms; to look costs a few microseconds. */
#define LOOK_US 10000

static int on_timer(sd_event_source *source, uint64_t usec, void *arg)
{
	struct vhost_session *s = arg;

	(void)source;
	(void)usec;
	disposal_try_again(disposal_of_memory);
	if (session_peer_gone(s)) /* it is not read from meanwhile */
		session_close(s, "it hung up");
	else
		session_go_on(s);
	return 0;
}

static int set_timer(struct vhost_session *s)
{
	int rc;

	if (!s->room_timer)
		return sd_event_add_time_relative(control_event(), &s->room_timer, CLOCK_MONOTONIC,
						  LOOK_US, 0, on_timer, s);
	rc = sd_event_source_set_time_relative(s->room_timer, LOOK_US);
	return rc < 0 ? rc : sd_event_source_set_enabled(s->room_timer, SD_EVENT_ONESHOT);
}

bool memory_must_wait(struct vhost_session *s, uint64_t bytes)
{
	struct vhost_device *d = s->device;
	bool waited = s->waits_for_room;

	/* Without a timer it would wait for ever; then it is refused. */
	s->waits_for_room = mem_account_must_wait(d->account, bytes) && set_timer(s) >= 0;
	if (s->waits_for_room && !waited)
		device_warn(d,
			    "%s: its front-end has to wait: what it had shared before is still "
			    "being unmapped, and takes up the room for more",
			    d->name);
	return s->waits_for_room;
}

void memory_wait_end(struct vhost_session *s)
{
	s->room_timer = sd_event_source_disable_unref(s->room_timer);
}
