/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/race.h"

#ifdef FUZZ_RACE
#include "tests/fuzz/input.h"

#include <pthread.h>
#include <sched.h>

#define WORDS_MAX 8
/* A window in which the thread does not get to run, on a busy machine, is no window. */
#define WAIT_MAX 10000

struct word {
	void *p, *shadow;
	unsigned bytes;
	uint64_t as_is, other;
};

static struct {
	bool running; /* there is a thread */
	bool alone;   /* one processor for both: they have to make way for each other */
	bool open;    /* the device's side: a window is open */
	struct word words[WORDS_MAX];
	unsigned n_words, next_word;
	uint64_t random;
	unsigned window; /* atomic: odd while one is open */
	unsigned left;	 /* atomic: the value of it that the thread has seen last */
	unsigned writes; /* atomic */
} race = { .random = 1 };

static uint32_t next_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(*state >> 33);
}

uint32_t race_random(uint32_t n)
{
	return next_random(&race.random) % n;
}

/* The other processor's turn. */
static void make_way(void)
{
	if (race.alone)
		sched_yield();
	else
		__builtin_ia32_pause();
}

static uint64_t word_load(const struct word *w)
{
	switch (w->bytes) {
	case 1:
		return __atomic_load_n((const uint8_t *)w->p, __ATOMIC_RELAXED);
	case 2:
		return __atomic_load_n((const uint16_t *)w->p, __ATOMIC_RELAXED);
	case 4:
		return __atomic_load_n((const uint32_t *)w->p, __ATOMIC_RELAXED);
	default:
		return __atomic_load_n((const uint64_t *)w->p, __ATOMIC_RELAXED);
	}
}

static void word_store(const struct word *w, uint64_t value)
{
	switch (w->bytes) {
	case 1:
		__atomic_store_n((uint8_t *)w->p, (uint8_t)value, __ATOMIC_RELAXED);
		break;
	case 2:
		__atomic_store_n((uint16_t *)w->p, (uint16_t)value, __ATOMIC_RELAXED);
		break;
	case 4:
		__atomic_store_n((uint32_t *)w->p, (uint32_t)value, __ATOMIC_RELAXED);
		break;
	default:
		__atomic_store_n((uint64_t *)w->p, value, __ATOMIC_RELAXED);
	}
}

/* One window: words come and go until it closes. */
static void write_words(unsigned window, uint64_t *random)
{
	while (__atomic_load_n(&race.window, __ATOMIC_ACQUIRE) == window) {
		uint32_t how = next_random(random);
		const struct word *w = &race.words[(how >> 8) % race.n_words];

		word_store(w, how & 1 ? w->other : w->as_is);
		__atomic_store_n(&race.writes, race.writes + 1, __ATOMIC_RELAXED);
		if (how & 6)
			make_way();
	}
	if (next_random(random) % 4)
		for (unsigned i = 0; i < race.n_words; i++)
			word_store(&race.words[i], race.words[i].as_is);
}

static void *second_processor(void *arg)
{
	uint64_t random = 2;
	unsigned seen = 0, now;

	(void)arg;
	for (;;) {
		now = __atomic_load_n(&race.window, __ATOMIC_ACQUIRE);
		if (now == seen) {
			make_way();
			continue;
		}
		if (now & 1) {
			write_words(now, &random);
			now++;
		}
		seen = now;
		__atomic_store_n(&race.left, now, __ATOMIC_RELEASE);
	}
	return NULL;
}

void race_reset(void)
{
	race.n_words = race.next_word = 0;
}

void race_word(void *p, unsigned bytes, uint64_t other, void *shadow)
{
	race.words[race.next_word] = (struct word) {
		.p = p, .shadow = shadow, .bytes = bytes, .other = other
	};
	race.next_word = (race.next_word + 1) % WORDS_MAX;
	race.n_words = MIN(race.n_words + 1, (unsigned)WORDS_MAX);
}

static void start(void)
{
	pthread_t thread;
	cpu_set_t cpus;

	FUZZ_CHECK(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
	race.alone = CPU_COUNT(&cpus) == 1;
	FUZZ_CHECK(pthread_create(&thread, NULL, second_processor, NULL) == 0);
	pthread_detach(thread);
	race.running = true;
}

void race_begin(void)
{
	if (race.n_words == 0)
		return;
	if (!race.running)
		start();
	for (unsigned i = 0; i < race.n_words; i++)
		race.words[i].as_is = word_load(&race.words[i]);
	race.open = true;
	__atomic_store_n(&race.window, race.window + 1, __ATOMIC_RELEASE);
	race_read();
}

void race_end(void)
{
	unsigned window = race.window + 1;

	if (!race.open)
		return;
	race.open = false;
	__atomic_store_n(&race.window, window, __ATOMIC_RELEASE);
	while (__atomic_load_n(&race.left, __ATOMIC_ACQUIRE) != window)
		make_way();
	for (unsigned i = 0; i < race.n_words; i++)
		if (race.words[i].shadow)
			memcpy(race.words[i].shadow, race.words[i].p, race.words[i].bytes);
}

void race_read(void)
{
	unsigned how, before;

	if (!race.open)
		return;
	how = race_random(16);
	if (how >= 8)
		return;
	before = __atomic_load_n(&race.writes, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < WAIT_MAX; i++) {
		if (__atomic_load_n(&race.writes, __ATOMIC_RELAXED) - before > how)
			break;
		make_way();
	}
}
#endif
