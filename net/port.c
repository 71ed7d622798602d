/* SPDX-License-Identifier: Apache-2.0 */
#include "net/port.h"

#include <string.h>

#define DROP true
#define PASS false
#define X(name, kind, what) { #name, kind },
const struct port_counter port_counters[] = { PORT_COUNTERS(X) };
#undef X

const unsigned port_n_counters = ARRAY_SIZE(port_counters);

/* All members are counters, in the order of the table. */
static_assert(sizeof(struct port_stats) >= sizeof(counter_t) * ARRAY_SIZE(port_counters),
	      "a member each");

uint64_t port_stats_get(const struct port_stats *s, unsigned index)
{
	assert(index < port_n_counters);
	return counter_read((const counter_t *)s + index);
}

void port_stats_sum(const struct port *p, unsigned n_workers, struct port_stats *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned w = 0; w < n_workers; w++)
		for (unsigned i = 0; i < port_n_counters; i++)
			((counter_t *)out)[i] += port_stats_get(&p->stats[w], i);
}
