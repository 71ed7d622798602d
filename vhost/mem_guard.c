/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/mem_guard.h"

#include "poll/control.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_GUARDS 64
/*
 * Pages that are replaced one by one, where the file is long enough and yet has no page there (out
 * of hugepages, a full file system, a memory error). Each splits the mapping, and a process has
 * only so many mappings: after these the rest goes in one piece.
 */
#define SINGLE_PAGES_MAX 16

struct mem_watch {
	void (*lost_fn)(void *arg); /* NULL: freed, as soon as the call has run */
	void *arg;
	struct call call;
	bool posted; /* the call is on its way; atomic */
	bool lost;   /* atomic */
};

/*
 * Read by the handler of SIGBUS, on any thread, while the control thread adds and removes others:
 * a sequence count says whether what was read belongs together. The guard of the very mapping that
 * faults does not change, for somebody is just touching it.
 */
struct mem_guard {
	unsigned seq; /* odd: free, or being written */
	struct mem_guarded m;
	struct mem_watch *watch;
	unsigned singles;
	struct mem_guard *next_free;
};

/* Never freed, so that the handler can walk at any time. */
struct chunk {
	struct chunk *next;
	struct mem_guard guard[CHUNK_GUARDS];
};

static struct chunk *chunks;
static struct mem_guard *free_guards;
static bool installed;

static void tell(struct mem_watch *w)
{
	__atomic_store_n(&w->lost, true, __ATOMIC_RELAXED);
	/* control_call() is a compare-and-exchange and a write(2): a handler may use both. */
	if (!__atomic_exchange_n(&w->posted, true, __ATOMIC_ACQ_REL))
		control_call(&w->call);
}

static bool replace(uint8_t *from, size_t len)
{
	return mmap(from, len, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

/*
 * Puts zeros where @fault lies. Of a file that has shrunk all that is gone at once: there the
 * mapping is empty already, so that this is quick for any size.
 */
static bool replace_lost(struct mem_guard *g, const struct mem_guarded *m, uint8_t *fault)
{
	uint64_t at = ALIGN_DOWN((uint64_t)(fault - (uint8_t *)m->base), m->page);
	struct stat st;

	if (m->fd >= 0 && fstat(m->fd, &st) == 0 && S_ISREG(st.st_mode)) {
		uint64_t size = ALIGN_UP((uint64_t)st.st_size, m->page);
		uint64_t end = size > m->offset ? size - m->offset : 0;

		if (end <= at)
			return replace((uint8_t *)m->base + end, m->len - end);
		if (__atomic_add_fetch(&g->singles, 1, __ATOMIC_RELAXED) <= SINGLE_PAGES_MAX)
			return replace((uint8_t *)m->base + at, m->page);
	}
	return replace(m->base, m->len);
}

/* A copy of the guard, if its mapping holds @addr. */
static bool guards(struct mem_guard *g, const uint8_t *addr, struct mem_guarded *m,
		   struct mem_watch **w)
{
	/* Pairs with the release stores of mem_guard_add() and mem_guard_remove(). */
	unsigned seq = __atomic_load_n(&g->seq, __ATOMIC_ACQUIRE);

	if (seq & 1)
		return false;
	*m = g->m;
	*w = g->watch;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&g->seq, __ATOMIC_RELAXED) == seq && addr >= (uint8_t *)m->base &&
	       (size_t)(addr - (uint8_t *)m->base) < m->len;
}

static bool handle(uint8_t *addr)
{
	for (struct chunk *c = __atomic_load_n(&chunks, __ATOMIC_ACQUIRE); c; c = c->next) {
		for (unsigned i = 0; i < CHUNK_GUARDS; i++) {
			struct mem_guarded m;
			struct mem_watch *w;

			if (!guards(&c->guard[i], addr, &m, &w))
				continue;
			if (!replace_lost(&c->guard[i], &m, addr))
				return false;
			if (w)
				tell(w);
			return true;
		}
	}
	return false;
}

static void on_sigbus(int signo, siginfo_t *info, void *context)
{
	int saved = errno;

	(void)context;
	/* A positive code is a fault of our own; others were sent by somebody. */
	if (info->si_code > 0 && handle(info->si_addr)) {
		errno = saved;
		return;
	}
	/* Not ours to mend: the access is tried again, and ends the process as it would have. */
	signal(signo, SIG_DFL);
	if (info->si_code <= 0)
		raise(signo);
}

static int install(void)
{
	struct sigaction act = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_RESTART };

	if (installed)
		return 0;
	if (sigaction(SIGBUS, &act, NULL) < 0)
		return -errno;
	installed = true;
	return 0;
}

static bool grow(void)
{
	struct chunk *c = calloc(1, sizeof(*c));

	if (!c)
		return false;
	for (unsigned i = 0; i < CHUNK_GUARDS; i++) {
		c->guard[i].seq = 1;
		c->guard[i].next_free = free_guards;
		free_guards = &c->guard[i];
	}
	c->next = chunks;
	__atomic_store_n(&chunks, c, __ATOMIC_RELEASE);
	return true;
}

struct mem_guard *mem_guard_add(const struct mem_guarded *m, struct mem_watch *w)
{
	struct mem_guard *g;

	if (install() < 0 || (!free_guards && !grow()))
		return NULL;
	g = free_guards;
	free_guards = g->next_free;
	g->m = *m;
	g->watch = w;
	g->singles = 0;
	__atomic_store_n(&g->seq, g->seq + 1, __ATOMIC_RELEASE);
	return g;
}

void mem_guard_watch(struct mem_guard *g, struct mem_watch *w)
{
	__atomic_store_n(&g->watch, w, __ATOMIC_RELAXED);
}

void mem_guard_remove(struct mem_guard *g)
{
	if (!g)
		return;
	__atomic_store_n(&g->seq, g->seq + 1, __ATOMIC_RELEASE);
	/* Before the next mem_guard_add() overwrites it. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	g->watch = NULL;
	g->next_free = free_guards;
	free_guards = g;
}

static void watch_called(struct call *c)
{
	struct mem_watch *w = container_of(c, struct mem_watch, call);

	__atomic_store_n(&w->posted, false, __ATOMIC_RELEASE);
	if (!w->lost_fn)
		free(w);
	else if (mem_watch_lost(w)) /* else of a connection that is over */
		w->lost_fn(w->arg);
}

struct mem_watch *mem_watch_new(void (*lost)(void *arg), void *arg)
{
	struct mem_watch *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->lost_fn = lost;
	w->arg = arg;
	w->call.fn = watch_called;
	return w;
}

void mem_watch_free(struct mem_watch *w)
{
	if (!w)
		return;
	w->lost_fn = NULL;
	if (!__atomic_load_n(&w->posted, __ATOMIC_ACQUIRE))
		free(w);
}

bool mem_watch_lost(const struct mem_watch *w)
{
	return __atomic_load_n(&w->lost, __ATOMIC_RELAXED);
}

void mem_watch_reset(struct mem_watch *w)
{
	__atomic_store_n(&w->lost, false, __ATOMIC_RELAXED);
}
