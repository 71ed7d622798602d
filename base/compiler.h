/* SPDX-License-Identifier: Apache-2.0 */
/* Small language helpers that every folder uses. */
#ifndef SLUICE_BASE_COMPILER_H
#define SLUICE_BASE_COMPILER_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* A datapath body: inlined into each caller, so that constant arguments (the ring layout) fold
 * away. */
#define HOT static inline __attribute__((always_inline, unused))
#define COLD __attribute__((cold, noinline))
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/*
 * A hint that the cache line of @p is to be written soon: it is fetched from whatever core has it,
 * for us alone. Compilers count PREFETCHW as an extension, but every x86-64 CPU takes it, if only
 * as no operation.
 */
HOT void prefetch_write(const void *p)
{
#ifdef __x86_64__
	__asm__ volatile("prefetchw (%0)" : : "r"(p));
#else
	__builtin_prefetch(p, 1);
#endif
}

#define CACHE_LINE 64
#define CACHE_ALIGNED __attribute__((aligned(CACHE_LINE)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)                              \
	({                                     \
		__typeof__(a) min_a = (a);     \
		__typeof__(b) min_b = (b);     \
		min_a < min_b ? min_a : min_b; \
	})
#define MAX(a, b)                              \
	({                                     \
		__typeof__(a) max_a = (a);     \
		__typeof__(b) max_b = (b);     \
		max_a > max_b ? max_a : max_b; \
	})
/* @align is a power of two. */
#define ALIGN_DOWN(x, align) ((x) & ~((__typeof__(x))(align)-1))
#define ALIGN_UP(x, align) ALIGN_DOWN((x) + (__typeof__(x))(align)-1, align)
#define IS_ALIGNED(x, align) (((x) & ((__typeof__(x))(align)-1)) == 0)
#define IS_POWER_OF_2(x) ((x) != 0 && ((x) & ((x)-1)) == 0)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#endif
