/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A histogram of 64-bit values with a relative error of at most 1/32: 32 steps for each power of
 * two. Adding costs a few instructions and no allocation. One writer.
 */
#ifndef SLUICE_BASE_HISTOGRAM_H
#define SLUICE_BASE_HISTOGRAM_H

#include "base/compiler.h"

#define HISTOGRAM_STEPS 32u
#define HISTOGRAM_BUCKETS (60 * HISTOGRAM_STEPS)

struct histogram {
	uint64_t count[HISTOGRAM_BUCKETS];
	uint64_t n, sum, max;
};

HOT unsigned histogram_bucket(uint64_t v)
{
	unsigned shift;

	if (v < HISTOGRAM_STEPS)
		return (unsigned)v;
	shift = 63u - 5u - (unsigned)__builtin_clzll(v);
	return (shift + 1) * HISTOGRAM_STEPS + (unsigned)(v >> shift) - HISTOGRAM_STEPS;
}

HOT void histogram_add(struct histogram *h, uint64_t v)
{
	h->count[histogram_bucket(v)]++;
	h->n++;
	h->sum += v;
	h->max = MAX(h->max, v);
}

/*
 * The value that @per_million of the values do not exceed: the upper end of its step, but never
 * more than the greatest value that there was. 0 for an empty one.
 */
uint64_t histogram_percentile(const struct histogram *h, uint32_t per_million);
/* The lower end of the smallest value's step. 0 for an empty one. */
uint64_t histogram_min(const struct histogram *h);
double histogram_mean(const struct histogram *h);
/* Adds all of @from to @to. */
void histogram_merge(struct histogram *to, const struct histogram *from);

#endif
