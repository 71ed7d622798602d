/* SPDX-License-Identifier: Apache-2.0 */
#include "base/histogram.h"

/* The greatest value that falls into @bucket. */
static uint64_t upper_end(unsigned bucket)
{
	unsigned shift;

	if (bucket < HISTOGRAM_STEPS)
		return bucket;
	shift = bucket / HISTOGRAM_STEPS - 1;
	return ((uint64_t)(HISTOGRAM_STEPS + bucket % HISTOGRAM_STEPS + 1) << shift) - 1;
}

uint64_t histogram_min(const struct histogram *h)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		if (h->count[i])
			return i ? upper_end(i - 1) + 1 : 0;
	return 0;
}

uint64_t histogram_percentile(const struct histogram *h, uint32_t per_million)
{
	/* The rank, rounded up: of 10 values the 99th percentile is the tenth. */
	__uint128_t scaled = (__uint128_t)h->n * per_million;
	uint64_t rank = (uint64_t)((scaled + 999999) / 1000000), seen = 0;

	if (h->n == 0)
		return 0;
	rank = MAX(rank, UINT64_C(1));
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->count[i];
		if (seen >= rank)
			return MIN(upper_end(i), h->max);
	}
	return h->max;
}

double histogram_mean(const struct histogram *h)
{
	return h->n ? (double)h->sum / (double)h->n : 0;
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		to->count[i] += from->count[i];
	to->n += from->n;
	to->sum += from->sum;
	to->max = MAX(to->max, from->max);
}
