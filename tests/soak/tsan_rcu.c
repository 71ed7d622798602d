/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ThreadSanitizer does not see into liburcu, and so not that what a reader did before it was
 * quiescent is over once synchronize_rcu() returns. The linker puts these in the way (--wrap), and
 * they tell it so. Nothing else is suppressed.
 */
#include <urcu/urcu-qsbr.h>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>

static char grace;

#define RELEASE() __tsan_release(&grace)
#define ACQUIRE() __tsan_acquire(&grace)
#else
#define RELEASE() ((void)0)
#define ACQUIRE() ((void)0)
#endif

void __real_urcu_qsbr_quiescent_state(void);
void __wrap_urcu_qsbr_quiescent_state(void);
void __real_urcu_qsbr_thread_offline(void);
void __wrap_urcu_qsbr_thread_offline(void);
void __real_urcu_qsbr_synchronize_rcu(void);
void __wrap_urcu_qsbr_synchronize_rcu(void);

void __wrap_urcu_qsbr_quiescent_state(void)
{
	RELEASE();
	__real_urcu_qsbr_quiescent_state();
}

void __wrap_urcu_qsbr_thread_offline(void)
{
	RELEASE();
	__real_urcu_qsbr_thread_offline();
}

void __wrap_urcu_qsbr_synchronize_rcu(void)
{
	__real_urcu_qsbr_synchronize_rcu();
	ACQUIRE();
}
