/* SPDX-License-Identifier: Apache-2.0 */
#include "net/flows.h"

#include "base/clock.h"
#include "net/rss.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/*
 * An entry: 1 + the pair in 16 bits (an entry of 0 is nobody's), when it was written in 16, and the
 * upper half of the flow's hash. The place comes of the lower half.
 */
#define PAIR_MASK UINT64_C(0xffff)
#define AGE_SHIFT 16
#define TAG_MASK (UINT64_C(0xffffffff) << 32)

/* Microseconds of a unit of age, and more: by how much workers' clocks may differ, in units. */
#define AGE_US_SHIFT 18
#define AGE_SKEW 1

static_assert((FLOWS_MAX & (FLOWS_MAX - 1)) == 0, "a place is a mask of the hash");

struct flows *flows_new(void)
{
	struct flows *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	/* Early at boot there may be none. All works without, but flows can be made up that meet.
	 */
	if (getrandom(&f->seed, sizeof(f->seed), GRND_NONBLOCK) < 0)
		f->seed = 0;
	f->age_shift = AGE_US_SHIFT + 63 - (unsigned)__builtin_clzll(clock_cycles_per_us() | 1);
	return f;
}

void flows_forget(struct flows *f)
{
	for (unsigned i = 0; i < FLOWS_MAX; i++)
		__atomic_store_n(&f->entry[i], 0, __ATOMIC_RELAXED);
}

HOT uint64_t mix(uint64_t h)
{
	h *= UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 32;
}

/* One end: an address of 4 or 16 bytes, and a port that may be 0. */
HOT uint64_t end_hash(uint64_t seed, const uint8_t *addr, bool v6, uint16_t port)
{
	uint64_t half[2];
	uint32_t word;

	if (v6) {
		memcpy(half, addr, sizeof(half));
		return mix(mix(mix(seed ^ port) ^ half[0]) ^ half[1]);
	}
	memcpy(&word, addr, sizeof(word));
	return mix(seed ^ (word | (uint64_t)port << 32));
}

/* A sum, so that it does not matter which end is which. */
HOT uint64_t both_ends(uint64_t one, uint64_t other, uint8_t proto)
{
	return mix(one + other + proto);
}

/* Of everyday frames, whose addresses and ports stand where they mostly do. @return is it one? */
HOT bool everyday_hash(const struct flows *f, const struct packet *p, uint64_t *hash)
{
	const uint8_t *type = p->head + 12, *ip = p->head + 14;
	uint16_t ports[2];

	if (p->head_len < 14 + 20 + 4 || type[0] != 0x08 || type[1] != 0x00 || ip[0] != 0x45 ||
	    (ip[6] & 0x3f) | ip[7] || (ip[9] != IPPROTO_TCP && ip[9] != IPPROTO_UDP))
		return false;
	memcpy(ports, ip + 20, sizeof(ports));
	*hash = both_ends(end_hash(f->seed, ip + 12, false, ports[0]),
			  end_hash(f->seed, ip + 16, false, ports[1]), ip[9]);
	return true;
}

static bool any_hash(const struct flows *f, const struct packet *p, uint64_t *hash)
{
	struct rss_flow flow = { .proto = 0 };
	uint16_t ports[2] = { 0, 0 };
	bool v6;

	if (!rss_flow_of(p, &flow, &v6))
		return false;
	if (flow.proto)
		memcpy(ports, flow.input + flow.addresses, sizeof(ports));
	*hash = both_ends(end_hash(f->seed, flow.input, v6, ports[0]),
			  end_hash(f->seed, flow.input + flow.addresses / 2, v6, ports[1]),
			  flow.proto);
	return true;
}

bool flows_hash(const struct flows *f, const struct packet *p, uint64_t *hash)
{
	return likely(everyday_hash(f, p, hash)) || any_hash(f, p, hash);
}

static uint16_t age(const struct flows *f, uint64_t now)
{
	return (uint16_t)(now >> f->age_shift);
}

/* Was it written less than @units ago? Another worker's clock may be ahead. */
static bool written_within(uint64_t entry, uint16_t age, unsigned units)
{
	return (uint16_t)(age - (uint16_t)(entry >> AGE_SHIFT) + AGE_SKEW) < units + AGE_SKEW;
}

static uint64_t entry_of(uint64_t hash, unsigned pair, uint16_t age)
{
	return (hash & TAG_MASK) | (uint64_t)age << AGE_SHIFT | (pair + 1);
}

void flows_sent(struct flows *f, uint64_t hash, unsigned pair, uint64_t now)
{
	uint64_t *e = &f->entry[hash & (FLOWS_MAX - 1)];
	uint64_t old = __atomic_load_n(e, __ATOMIC_RELAXED);
	bool same = ((old ^ hash) & TAG_MASK) == 0;

	/* As it was; or somebody else's, who still uses it. */
	if (same && (old & PAIR_MASK) == pair + 1 &&
	    written_within(old, age(f, now), FLOWS_STALE / 2))
		return;
	if (old && !same && written_within(old, age(f, now), FLOWS_STALE))
		return;
	__atomic_store_n(e, entry_of(hash, pair, age(f, now)), __ATOMIC_RELAXED);
}

uint16_t flows_pair(struct flows *f, uint64_t hash, uint64_t now)
{
	uint64_t *e = &f->entry[hash & (FLOWS_MAX - 1)];
	uint64_t old = __atomic_load_n(e, __ATOMIC_RELAXED);
	unsigned pair = (unsigned)(old & PAIR_MASK) - 1;

	if ((old ^ hash) & TAG_MASK || !(old & PAIR_MASK))
		return FLOW_PAIR_NONE;
	/* Unless the guest has just sent it by another pair. */
	if (unlikely(!written_within(old, age(f, now), FLOWS_STALE / 2)))
		__atomic_compare_exchange_n(e, &old, entry_of(hash, pair, age(f, now)), false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	return (uint16_t)pair;
}
