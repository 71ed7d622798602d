/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that reads from a socket into memory that does not come, or writes such memory to a
 * pipe: it has the lock of that socket or pipe for as long as the page's server likes.
 */
#ifndef SLUICE_TESTS_UNIT_STUCK_H
#define SLUICE_TESTS_UNIT_STUCK_H

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum stuck_how { STUCK_READING, STUCK_WRITING };

struct stuck {
	pthread_t thread;
	enum stuck_how how;
	int fd;
	void *page; /* of a silent FUSE server */
	int tid;    /* atomic; 0: not there yet */
};

static inline void *stuck_run(void *arg)
{
	struct stuck *s = arg;

	__atomic_store_n(&s->tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
	if (s->how == STUCK_READING)
		(void)!recv(s->fd, s->page, 1, MSG_PEEK);
	else
		(void)!write(s->fd, s->page, 1);
	return NULL;
}

/* Does it sleep? Nothing else on its way can make it. */
static inline bool stuck_sleeps(int tid)
{
	char name[64], state = 0;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/self/task/%d/stat", tid);
	f = fopen(name, "re");
	cr_assert_not_null(f);
	cr_assert_eq(fscanf(f, "%*d (%*[^)]) %c", &state), 1);
	fclose(f);
	return state == 'S' || state == 'D';
}

/* What is read has to be there. Returns when it is stuck. */
static inline void stuck_open(struct stuck *s, int fuse_fd, int fd, enum stuck_how how)
{
	int tid;

	*s = (struct stuck) { .how = how, .fd = dup(fd) };
	s->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fuse_fd, 0);
	cr_assert_neq(s->page, MAP_FAILED);
	cr_assert_eq(pthread_create(&s->thread, NULL, stuck_run, s), 0);
	while (!(tid = __atomic_load_n(&s->tid, __ATOMIC_ACQUIRE)) || !stuck_sleeps(tid))
		usleep(1000);
}

/* After fuse_silent_close(), which lets go of it. */
static inline void stuck_close(struct stuck *s)
{
	pthread_join(s->thread, NULL);
	munmap(s->page, 4096);
	close(s->fd);
}

#endif
