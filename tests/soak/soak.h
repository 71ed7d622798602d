/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life-cycle soak: real devices on real workers in one process, each with a guest that never
 * stops its I/O, while the main thread does to them all that front-ends and operators do, in random
 * order. See soak.c for the loop, events.c for what is done, disk_guest.c and net_guest.c for what
 * the guests do and check.
 *
 *	main thread	the control thread, and the front-ends: messages, one after the other
 *	a thread a guest	its driver: fills rings, takes back what is done, checks every byte
 *	workers		the devices' queues
 *
 * A plain program without criterion, so that it runs under ThreadSanitizer.
 */
#ifndef SLUICE_TESTS_SOAK_H
#define SLUICE_TESTS_SOAK_H

#include "poll/worker.h"
#include "tests/guest/frontend.h"
#include "tests/guest/frontend_inflight.h"
#include "tests/guest/frontend_log.h"
#include "vhost/device.h"

#include <pthread.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

#define SOAK_PATIENCE_MS 900000

/* Regions 0 and 1 always hold rings and buffers; those from here on come and go, with data alone.
 */
#define EXTRA_FIRST 2
#define EXTRA_N 2

struct guest;

struct guest_ops {
	/* Makes the device behind guest->path. */
	void (*create)(struct guest *g);
	/* Begins to remove it; guest_closed() comes when it is gone. */
	void (*remove)(struct guest *g);
	const struct vhost_device *(*vhost)(const struct guest *g);
	/* Virtio features of the device kind to ask for; drawn anew at each connection. */
	uint64_t (*features)(struct guest *g);
	/* Protocol features that half of its connections ask for. */
	uint64_t protocol;
	/* Features that may change while rings run, without the driver's side taking notice. */
	uint64_t loose_features;
	/* Queues of this connection are set up: what the driver keeps of its own. */
	void (*open)(struct guest *g);
	/* The device has let go of the rings: takes what is done, forgets the rest. */
	void (*close)(struct guest *g);
	/* One step of the driver, by whoever has the rings. */
	void (*work)(struct guest *g);
	/* Takes back what is done. @return how many requests or frames the device still has. */
	unsigned (*in_flight)(struct guest *g);
	/* Requests or frames under way that use extra region @i. Any thread. */
	unsigned (*using)(const struct guest *g, unsigned i);
};

struct guest {
	const char *name;
	const struct guest_ops *ops;
	char path[80];
	struct frontend f;
	struct guest_memory mem;
	uint64_t fixed_used[EXTRA_FIRST]; /* of mem, before any connection took some */
	struct frontend_log log;
	bool log_on;
	unsigned n_queues;
	bool connected, closed;
	unsigned rng, driver_rng;
	struct frontend_inflight inflight; /* of this connection, or none */

	/* Between the main thread and the driver's: who has the rings. */
	pthread_t thread;
	pthread_mutex_t lock;
	bool wanted, stop, open;
	bool extra_there[EXTRA_N];	 /* the driver may use that region; under lock */
	uint64_t steps, asked, answered; /* atomic: what the driver has done so far */
};

extern struct workers *soak_workers;
extern unsigned soak_n_workers;

/* Ends the run: prints seed, round, event and the reason. */
void soak_fail(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
/* A number below @n. */
unsigned soak_random(unsigned *state, unsigned n);
static inline bool chance(unsigned *state, unsigned percent)
{
	return soak_random(state, 100) < percent;
}
/* Steps the control thread until *@what is at least @least. Fails after a long time, saying @why.
 */
void soak_wait(const uint64_t *what, uint64_t least, const struct guest *g, const char *why);
void soak_step(void);

/* guest.c: connections, and the driver's thread. */
void guest_init(struct guest *g, const char *name, const struct guest_ops *ops, unsigned n_queues,
		unsigned seed);
void guest_fini(struct guest *g); /* the device is gone */
void guest_lock(struct guest *g);
void guest_unlock(struct guest *g);
void guest_hello(struct guest *g); /* a new connection: up to protocol features */
void guest_begin(struct guest *g); /* and all the rest, up to running queues */
/* Hangs up; the driver does not notice. */
void guest_hang_up(struct guest *g);
/* With a front-end's reply: fails unless @rc says that all is well. */
void guest_ok(struct guest *g, int rc, const char *what);
/* Asks for something. @return how much the device has not answered yet, at this moment. */
unsigned guest_load(struct guest *g);
/* The driver goes on: all that was asked for until now is answered. */
void guest_check_progress(struct guest *g);
/* For blk_device_close() and net_device_close(). */
void guest_closed(void *arg);
void guest_wait_closed(struct guest *g);

/* events.c */
struct event {
	const char *name;
	/* @return false when it does not apply to this guest in its state. */
	bool (*run)(struct guest *g);
	/* How often it was; how often with something in flight as it began, and with how much. */
	uint64_t count, loaded, in_flight;
};
extern struct event soak_events[];
extern const unsigned soak_n_events;

/* disk_guest.c, net_guest.c */
struct guest *disk_guest_new(const char *name, bool file, unsigned seed);
void disk_guest_free(struct guest *g);
/* Two guests on one switch, whose frames check each other. */
void net_guests_new(struct guest *pair[2], unsigned seed);
void net_guests_free(struct guest *pair[2]);

/* leaks.c */
struct leaks {
	unsigned fds, maps;
	size_t heap; /* bytes; 0 under a sanitizer, which looks itself */
};
/* What the process holds now. */
struct leaks leaks_now(void);
/* Fails when @now holds more than @before. */
void leaks_check(const struct leaks *before);

#endif
