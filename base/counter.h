/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters: one writer, any number of readers, no lock. The writer is the thread that owns the
 * struct that the counter stands in; a reader on another thread sees a value that is whole
 * (never half-written) and at most a moment old.
 */
#ifndef SLUICE_BASE_COUNTER_H
#define SLUICE_BASE_COUNTER_H

#include "base/compiler.h"

typedef uint64_t counter_t;

/* Owner thread. Plain add and a relaxed store: no locked instruction. */
HOT void counter_add(counter_t *c, uint64_t n)
{
	__atomic_store_n(c, *c + n, __ATOMIC_RELAXED);
}

/* Any thread. */
HOT uint64_t counter_read(const counter_t *c)
{
	return __atomic_load_n(c, __ATOMIC_RELAXED);
}

#endif
