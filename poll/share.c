/* SPDX-License-Identifier: Apache-2.0 */
#include "poll/share.h"

#include <sys/resource.h>

#define DEBT_MAX_US 20
/* About as long as a poll() of a guest that means well takes at most. */
#define COST_MAX_US 250
#define WAIT_MAX_US 250000

void sharing_init(struct sharing *s)
{
	*s = (struct sharing) { .fair = UINT64_MAX,
				.debt_max = DEBT_MAX_US * clock_cycles_per_us(),
				.cost_max = COST_MAX_US * clock_cycles_per_us(),
				.wait_max = WAIT_MAX_US * clock_cycles_per_us() };
}

/*
 * Has the kernel given this thread's CPU to another since this was asked last? Asked where a poll()
 * took long, so that at most one such poll is excused for each time that it has.
 */
static bool lost_cpu(struct sharing *s)
{
	struct rusage u;
	long before = s->times_lost_cpu;

	if (getrusage(RUSAGE_THREAD, &u) < 0)
		return false;
	s->times_lost_cpu = u.ru_nivcsw;
	return u.ru_nivcsw != before;
}

/*
 * Among a thousand who are busy a millisecond would take more than a second to pay, and it may have
 * been no guest's doing: memory touched for the first time, say, that the host had to find.
 */
COLD uint64_t share_long(struct sharing *s, const struct poller *p, uint64_t cost)
{
	uint64_t most = lost_cpu(s) || !s->shares ? 0 : s->wait_max / s->shares * p->share;

	return MIN(cost, MAX(most, s->cost_max));
}
