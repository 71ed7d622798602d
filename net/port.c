/* SPDX-License-Identifier: Apache-2.0 */
#include "net/port.h"

#include <string.h>

void port_stats_sum(const struct port *p, unsigned n_workers, struct port_stats *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned w = 0; w < n_workers; w++) {
		const struct port_stats *s = &p->stats[w];

		out->rx_packets += counter_read(&s->rx_packets);
		out->rx_bytes += counter_read(&s->rx_bytes);
		out->tx_packets += counter_read(&s->tx_packets);
		out->tx_bytes += counter_read(&s->tx_bytes);
		out->rx_bad += counter_read(&s->rx_bad);
		out->tx_no_buffer += counter_read(&s->tx_no_buffer);
		out->tx_too_big += counter_read(&s->tx_too_big);
		out->tx_cut_short += counter_read(&s->tx_cut_short);
		out->tx_down += counter_read(&s->tx_down);
		out->tx_error += counter_read(&s->tx_error);
		out->filtered += counter_read(&s->filtered);
	}
}
