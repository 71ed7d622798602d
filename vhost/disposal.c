/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/disposal.h"

#include "vhost/shared_file.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

/* So many may wait before the front-end is not listened to any more; a message brings 253. */
#define WAITING_MAX 1024
/* Less than this is unmapped and freed in a few milliseconds. */
#define UNMAP_NOW_MAX (UINT64_C(256) << 20)

struct item {
	STAILQ_ENTRY(item) link;
	int fd;
	void *base; /* NULL: nothing to unmap */
	size_t len;
};

struct disposal {
	pthread_mutex_t lock;
	STAILQ_HEAD(item_list, item) items;
	unsigned waiting; /* atomic; the one being closed counts */
	bool running;	  /* a thread is at it */
	bool orphan;	  /* the device has gone: the thread frees this */
};

/* For NULL: of the process, which never ends before it does. */
static struct disposal of_no_device = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.items = STAILQ_HEAD_INITIALIZER(of_no_device.items),
};

static void dispose(struct item *i)
{
	if (i->base)
		munmap(i->base, i->len);
	if (i->fd >= 0)
		close(i->fd);
	free(i);
}

/* Until there is nothing left; a new one starts with the next item. */
static void run(struct disposal *d)
{
	struct item *i;
	bool orphan;

	pthread_mutex_lock(&d->lock);
	while ((i = STAILQ_FIRST(&d->items))) {
		STAILQ_REMOVE_HEAD(&d->items, link);
		pthread_mutex_unlock(&d->lock);
		dispose(i);
		pthread_mutex_lock(&d->lock);
		__atomic_store_n(&d->waiting, d->waiting - 1, __ATOMIC_RELAXED);
	}
	d->running = false;
	orphan = d->orphan;
	pthread_mutex_unlock(&d->lock);
	if (orphan) {
		pthread_mutex_destroy(&d->lock);
		free(d);
	}
}

static void *closer(void *arg)
{
	pthread_setname_np(pthread_self(), "sluice-close");
	run(arg);
	return NULL;
}

static bool start_thread(struct disposal *d)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 128 << 10);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, &attr, closer, d);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return rc == 0;
}

static void later(struct disposal *d, struct item item)
{
	struct item *i = malloc(sizeof(*i));

	d = d ? d : &of_no_device;
	if (!i) { /* out of memory: then here, whatever it takes */
		if (item.base)
			munmap(item.base, item.len);
		if (item.fd >= 0)
			close(item.fd);
		return;
	}
	*i = item;
	pthread_mutex_lock(&d->lock);
	STAILQ_INSERT_TAIL(&d->items, i, link);
	__atomic_store_n(&d->waiting, d->waiting + 1, __ATOMIC_RELAXED);
	/* Without a thread it waits for the next item, which tries to start one again. */
	if (!d->running)
		d->running = start_thread(d);
	pthread_mutex_unlock(&d->lock);
}

struct disposal *disposal_new(void)
{
	struct disposal *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	pthread_mutex_init(&d->lock, NULL);
	STAILQ_INIT(&d->items);
	return d;
}

void disposal_free(struct disposal *d)
{
	bool running;

	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	d->orphan = true;
	running = d->running || (!STAILQ_EMPTY(&d->items) && start_thread(d));
	d->running = running;
	pthread_mutex_unlock(&d->lock);
	if (running)
		return;
	run(d);
}

bool disposal_full(const struct disposal *d)
{
	d = d ? d : &of_no_device;
	return __atomic_load_n(&d->waiting, __ATOMIC_RELAXED) > WAITING_MAX;
}

void disposal_close(struct disposal *d, int fd)
{
	if (shared_file_closes_at_once(fd))
		close(fd);
	else
		later(d, (struct item) { .fd = fd });
}

/* After shutdown() nothing more comes in; what is there may hold descriptors, else it is empty. */
void disposal_close_socket(struct disposal *d, int fd)
{
	char byte;

	shutdown(fd, SHUT_RDWR);
	if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
		later(d, (struct item) { .fd = fd });
	else
		close(fd);
}

void disposal_unmap(struct disposal *d, void *base, size_t len, int fd)
{
	if (d && len > UNMAP_NOW_MAX) {
		later(d, (struct item) { .fd = fd, .base = base, .len = len });
		return;
	}
	munmap(base, len);
	if (fd >= 0)
		close(fd);
}
