/* SPDX-License-Identifier: Apache-2.0 */
#include "poll/control.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct {
	sd_event *event;
	sd_event_source *door;
	struct call_queue calls;
	int door_fd;
	pthread_t thread;
	bool live;
} control = { .door_fd = -1 };

static int door_opened(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	uint64_t n;

	(void)s, (void)revents, (void)arg;
	/*
	 * Empty the eventfd before the queue: a call posted between the two finds the queue empty
	 * or not, and in the first case signals again. The other order would lose that signal.
	 */
	if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return -errno;
	call_run_all(&control.calls);
	return 0;
}

/*
 * The loop makes the descriptor of its timers when it first needs one: where a source is too busy,
 * for example because there are no descriptors left, and then the loop as a whole would fail.
 */
static void make_timer_fd(void)
{
	sd_event_source *s = NULL;

	if (sd_event_add_time_relative(control.event, &s, CLOCK_MONOTONIC, UINT32_MAX, 0, NULL,
				       NULL) >= 0)
		sd_event_source_disable_unref(s);
}

int control_init(void)
{
	int rc;

	assert(!control.event);
	control.door_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control.door_fd < 0)
		return -errno;
	rc = sd_event_new(&control.event);
	if (rc >= 0)
		rc = sd_event_add_io(control.event, &control.door, control.door_fd, EPOLLIN,
				     door_opened, NULL);
	if (rc >= 0)
		rc = sd_event_source_set_description(control.door, "calls");
	if (rc < 0) {
		control_fini();
		return rc;
	}
	make_timer_fd();
	control.thread = pthread_self();
	__atomic_store_n(&control.live, true, __ATOMIC_RELEASE);
	return 0;
}

sd_event *control_event(void)
{
	return control.event;
}

void control_call(struct call *c)
{
	const uint64_t one = 1;

	/*
	 * Only the post that finds the queue empty signals. It cannot fail: the counter would have
	 * to overflow first, and a full counter is readable anyway.
	 */
	if (call_post(&control.calls, c) && write(control.door_fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN);
}

int control_run(void)
{
	return sd_event_loop(control.event);
}

void control_exit(int code)
{
	sd_event_exit(control.event, code);
}

int control_step(uint64_t timeout_us)
{
	int rc = sd_event_run(control.event, timeout_us);

	return rc < 0 ? rc : 0;
}

void control_fini(void)
{
	/* A posted call was promised to run; some free what they stand in. */
	while (control.event && call_run_all(&control.calls))
		;
	__atomic_store_n(&control.live, false, __ATOMIC_RELEASE);
	control.door = sd_event_source_disable_unref(control.door);
	control.event = sd_event_unref(control.event);
	if (control.door_fd >= 0)
		close(control.door_fd);
	control.door_fd = -1;
}

bool control_is_current(void)
{
	return __atomic_load_n(&control.live, __ATOMIC_ACQUIRE) &&
	       pthread_equal(control.thread, pthread_self());
}
