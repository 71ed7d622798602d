/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lock that workers hold for one burst. Only workers take it, and across no system call but the
 * one that calls a guest, so the holder is running and the wait is short; a call that blocks is
 * ended by poll/watch.c. Unfair and one byte wide on purpose.
 */
#ifndef SLUICE_BASE_SPINLOCK_H
#define SLUICE_BASE_SPINLOCK_H

#include "base/clock.h"

struct spinlock {
	uint8_t held;
};

HOT void spin_lock(struct spinlock *l)
{
	while (__atomic_exchange_n(&l->held, 1, __ATOMIC_ACQUIRE))
		while (__atomic_load_n(&l->held, __ATOMIC_RELAXED))
			cpu_relax();
}

HOT void spin_unlock(struct spinlock *l)
{
	__atomic_store_n(&l->held, 0, __ATOMIC_RELEASE);
}

#endif
