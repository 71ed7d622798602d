/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of vhost/: a device kind that gives each chain back as it is, on real workers, and a
 * front-end on the other end of its socket. The test's thread is the control thread; it steps the
 * loop while the front-end waits.
 */
#ifndef SLUICE_TESTS_UNIT_SESSION_UTIL_H
#define SLUICE_TESTS_UNIT_SESSION_UTIL_H

#include "base/clock.h"
#include "base/error.h"
#include "poll/control.h"
#include "tests/guest/frontend.h"
#include "vhost/device.h"

#include <criterion/criterion.h>

#define ECHO_QUEUES 4
#define ECHO_CONFIG_SIZE 24
#define ECHO_FEATURES UINT64_C(0x5) /* two device bits, to be negotiated */

struct echo_queue {
	struct poller poller;
	struct virtqueue *vq;
	struct call stop, stopped;
	bool draining, told;
	struct chain held[64];
	unsigned n_held;
	unsigned starts, stops;
};

struct echo_device {
	struct vhost_device vhost;
	struct echo_queue queue[ECHO_QUEUES];
	bool hold;	 /* atomic: chains stay in flight */
	int start_error; /* queue_start fails with this */
	uint64_t features;
	unsigned set_features, connected, disconnected, reset, closed, rarp;
	uint8_t config[ECHO_CONFIG_SIZE], mac[6];
	unsigned mtu;
	bool set_config_migration;
};

/* Kinds: one that runs disabled rings and has all that net has, one like blk. */
extern const struct vhost_device_ops echo_net_ops, echo_blk_ops;

struct bed {
	struct workers *workers;
	struct echo_device dev;
	struct guest_memory memory;
	struct frontend f;
	char folder[64];
	char path[100];
};

/* Everything but a socket; one worker, the device has @ops. */
void bed_init(struct bed *b, const struct vhost_device_ops *ops);
/* Serves one end of a socketpair, the front-end has the other. */
void bed_pair(struct bed *b);
/* Serves a listening path; the front-end connects. */
void bed_listen(struct bed *b);
void bed_connect(struct bed *b);
/* Closes all, checks that no descriptor was left behind. */
void bed_fini(struct bed *b);

/* A neighbour on @b's worker: a device of its own, connected, whose guest's first queue runs. */
void bed_beside(struct bed *other, const struct bed *b, uint64_t features);
void bed_beside_fini(struct bed *other); /* before @b's end; it was not hung up on */

/* hello, features, memory: @extra are virtio features wanted besides the usual. */
void bed_negotiate(struct bed *b, uint64_t protocol, uint64_t features);
void bed_start_queue(struct bed *b, unsigned index);
/* One chain there and back. */
void bed_echo(struct bed *b, unsigned index);
/* Gives the device a chain, and does not wait. */
void bed_submit(struct bed *b, unsigned index);
void bed_step(void *arg);

unsigned count_fds(void);
/* Of memfds: guest memory, logs, buffers. A thread that closes something has a stack and a heap of
 * its own. */
unsigned count_mappings(void);
/* To compare with later: once nothing is being closed any more, and the one descriptor is open that
 * stays. */
unsigned settled_fds(void);
/*
 * Are so many descriptors open, now or soon? What a front-end gave is closed by a thread of its
 * device's, which may outlive that (vhost/disposal.h). Steps no loop: for when there is none any
 * more, too.
 */
bool fds_become(unsigned n);
/* From now on there is room for @n descriptors more, until the test ends. */
void leave_descriptors(unsigned n);

#define OK(f, call)                                                              \
	do {                                                                     \
		int ok_rc = (call);                                              \
		cr_assert_geq(ok_rc, 0, "%s: %d, %s", #call, ok_rc, (f)->error); \
	} while (0)

/* Steps the loop until @cond, for 20 s: a loaded machine may give a thread no CPU for a while.
 * @return whether it came about. */
#define EVENTUALLY(cond)                                                         \
	({                                                                       \
		uint64_t eventually_end = clock_ns() + UINT64_C(20000000000);    \
		bool eventually_ok;                                              \
		while (!(eventually_ok = (cond)) && clock_ns() < eventually_end) \
			control_step(1000);                                      \
		eventually_ok;                                                   \
	})
/* Steps the loop for @ms and sees that @cond holds all the time. */
#define STAYS(cond, ms)                                                     \
	({                                                                  \
		uint64_t stays_end = clock_ns() + UINT64_C(1000000) * (ms); \
		while ((cond) && clock_ns() < stays_end)                    \
			control_step(1000);                                 \
		(cond);                                                     \
	})

#endif
