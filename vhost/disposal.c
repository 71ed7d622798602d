/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/disposal.h"

#include "vhost/shared_file.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* So many may wait before the front-end is not listened to any more; a message brings 253. */
#define WAITING_MAX 1024
/* Less than this is unmapped in a millisecond or two. */
#define UNMAP_NOW_MAX (UINT64_C(32) << 20)
#define UNMAP_PIECE ((size_t)64 << 20)

struct item {
	struct errand errand;
	int fd;
	void *base; /* NULL: nothing to unmap */
	size_t len;
	void (*done)(void *arg, size_t len); /* NULL: nobody wants to know */
	void *arg;
};

struct disposal {
	pthread_mutex_t lock;
	STAILQ_HEAD(errand_list, errand) errands;
	unsigned waiting; /* atomic; the one under way counts */
	bool running;	  /* a thread is at it */
	bool orphan;	  /* the device has gone: the thread frees this */
};

/* For NULL: of the process, which never ends before it does. */
static struct disposal of_no_device = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.errands = STAILQ_HEAD_INITIALIZER(of_no_device.errands),
};

/* Likewise. */
static struct disposal of_memory = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.errands = STAILQ_HEAD_INITIALIZER(of_memory.errands),
};
struct disposal *const disposal_of_memory = &of_memory;

static unsigned n_threads; /* of all of them; atomic */

bool disposal_works(void)
{
	return __atomic_load_n(&n_threads, __ATOMIC_ACQUIRE) > 0;
}

/*
 * Nobody else in this process can map anything while munmap() is at it, the control thread neither,
 * and what was touched takes 100 ms a GiB. A file that holds little has not been touched much.
 */
static void unmap(const struct item *i)
{
	uint8_t *at = i->base, *end = at + i->len;
	struct stat st;

	if (i->fd < 0 || fstat(i->fd, &st) < 0 || (uint64_t)st.st_blocks * 512 > UNMAP_PIECE)
		for (; (size_t)(end - at) > UNMAP_PIECE; at += UNMAP_PIECE)
			if (munmap(at, UNMAP_PIECE) < 0) /* huge pages, of more than that */
				break;
	munmap(at, (size_t)(end - at));
}

static void let_go(const struct item *i)
{
	if (i->base)
		unmap(i);
	if (i->fd >= 0)
		close(i->fd);
	if (i->done)
		i->done(i->arg, i->len);
}

static void dispose(struct errand *e)
{
	struct item *i = container_of(e, struct item, errand);

	let_go(i);
	free(i);
}

/* Until there is nothing left; a new one starts with the next item. */
static void run(struct disposal *d)
{
	struct errand *e;
	bool orphan;

	pthread_mutex_lock(&d->lock);
	while ((e = STAILQ_FIRST(&d->errands))) {
		STAILQ_REMOVE_HEAD(&d->errands, link);
		pthread_mutex_unlock(&d->lock);
		e->run(e);
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
	__atomic_sub_fetch(&n_threads, 1, __ATOMIC_RELEASE);
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
	__atomic_add_fetch(&n_threads, 1, __ATOMIC_RELAXED);
	rc = pthread_create(&thread, &attr, closer, d);
	if (rc)
		__atomic_sub_fetch(&n_threads, 1, __ATOMIC_RELAXED);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return rc == 0;
}

/* @return whether there is a thread for it; else it waits for the next one, or is not taken. */
static bool add(struct disposal *d, struct errand *e, bool may_wait)
{
	bool running;

	pthread_mutex_lock(&d->lock);
	STAILQ_INSERT_TAIL(&d->errands, e, link);
	__atomic_store_n(&d->waiting, d->waiting + 1, __ATOMIC_RELAXED);
	if (!d->running)
		d->running = start_thread(d);
	running = d->running;
	if (!running && !may_wait) {
		STAILQ_REMOVE(&d->errands, e, errand, link);
		__atomic_store_n(&d->waiting, d->waiting - 1, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&d->lock);
	return running;
}

static void later(struct disposal *d, struct item item)
{
	struct item *i = malloc(sizeof(*i));

	d = d ? d : &of_no_device;
	if (!i) { /* out of memory: then here, whatever it takes */
		let_go(&item);
		return;
	}
	*i = item;
	i->errand.run = dispose;
	add(d, &i->errand, true);
}

bool disposal_run(struct disposal *d, struct errand *e)
{
	return add(d, e, false);
}

struct disposal *disposal_new(void)
{
	struct disposal *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	pthread_mutex_init(&d->lock, NULL);
	STAILQ_INIT(&d->errands);
	return d;
}

void disposal_free(struct disposal *d)
{
	bool running;

	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	d->orphan = true;
	running = d->running || (!STAILQ_EMPTY(&d->errands) && start_thread(d));
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

/*
 * Whether there are descriptors in it is not to be found out here. A byte sent with MSG_OOB does
 * not show, and to look for the others takes the socket's lock, which a front-end that has the file
 * too can hold.
 */
void disposal_close_socket(struct disposal *d, int fd)
{
	shutdown(fd, SHUT_RDWR);
	later(d, (struct item) { .fd = fd });
}

void disposal_unmap(struct disposal *d, void *base, size_t len, int fd,
		    void (*done)(void *arg, size_t len), void *arg)
{
	const struct item item = { .fd = fd, .base = base, .len = len, .done = done, .arg = arg };

	/* However little of it was mapped, the file may be a large one, and we the last who have
	 * it. */
	if (len > UNMAP_NOW_MAX || (fd >= 0 && !shared_file_closes_at_once(fd)))
		later(d, item);
	else
		let_go(&item);
}

void disposal_try_again(struct disposal *d)
{
	pthread_mutex_lock(&d->lock);
	if (!d->running && !STAILQ_EMPTY(&d->errands))
		d->running = start_thread(d);
	pthread_mutex_unlock(&d->lock);
}
