/* SPDX-License-Identifier: Apache-2.0 */
#include "net/flows.h"

#include "base/clock.h"
#include "net/rss.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Microseconds of a unit of age, and up to twice as many. */
#define AGE_US_SHIFT 18
#define AGE_MASK (UINT64_C(0xff) << FLOW_AGE_SHIFT)

struct flows *flows_new(void)
{
	struct flows *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	/* Early at boot there may be none. All works without, but flows can be made up that meet.
	 */
	if (getrandom(f->seed, sizeof(f->seed), GRND_NONBLOCK) < 0)
		f->seed[0] = f->seed[1] = UINT64_C(0x9e3779b97f4a7c15);
	f->look_cycles = FLOWS_LOOK_US * clock_cycles_per_us();
	f->age_shift = AGE_US_SHIFT + 63 - (unsigned)__builtin_clzll(clock_cycles_per_us() | 1);
	return f;
}

void flows_forget(struct flows *f)
{
	if (!f)
		return;
	__atomic_store_n(&f->used, false, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < FLOWS_MAX; i++)
		__atomic_store_n(&f->entry[i], 0, __ATOMIC_RELAXED);
}

/* Both halves of a product: each bit of it depends on many of both factors. */
HOT uint64_t fold(uint64_t one, uint64_t other)
{
	unsigned __int128 product = (unsigned __int128)one * other;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/*
 * Of two ends, each an address and a port that may be 0. A product, so that it does not matter
 * which end is which.
 */
HOT uint64_t both_ends(const struct flows *f, uint64_t one, uint64_t other, uint8_t proto)
{
	uint64_t hash = fold(one ^ f->seed[0], other ^ f->seed[0]);

	return fold(hash ^ proto, f->seed[1] | 1) | FLOW_IS;
}

HOT uint64_t end_v4(const uint8_t *addr, uint16_t port)
{
	uint32_t word;

	memcpy(&word, addr, sizeof(word));
	return word | (uint64_t)port << 32;
}

HOT uint64_t end_v6(const struct flows *f, const uint8_t *addr, uint16_t port)
{
	uint64_t half[2];

	memcpy(half, addr, sizeof(half));
	return fold(half[0] ^ f->seed[1], half[1] ^ f->seed[0]) ^ port;
}

HOT uint64_t hash_v4(const struct flows *f, const uint8_t *addrs, const uint8_t *ports,
		     uint8_t proto)
{
	uint16_t port[2];

	memcpy(port, ports, sizeof(port));
	return both_ends(f, end_v4(addrs, port[0]), end_v4(addrs + 4, port[1]), proto);
}

HOT uint64_t hash_v6(const struct flows *f, const uint8_t *addrs, const uint8_t *ports,
		     uint8_t proto)
{
	uint16_t port[2];

	memcpy(port, ports, sizeof(port));
	return both_ends(f, end_v6(f, addrs, port[0]), end_v6(f, addrs + 16, port[1]), proto);
}

/* Of any frame, wherever what counts may stand. */
static uint64_t COLD any_hash(const struct flows *f, const struct packet *p)
{
	static const uint8_t no_ports[4];
	struct rss_flow flow = { .proto = 0 };
	const uint8_t *ports = no_ports;
	bool v6;

	if (!rss_flow_of(p, &flow, &v6))
		return 0;
	if (flow.proto)
		ports = flow.input + flow.addresses;
	return (v6 ? hash_v6 : hash_v4)(f, flow.input, ports, flow.proto);
}

/* Those of everyday frames stand where they mostly do: no tag, no options, not in fragments. */
uint64_t flows_hash(const struct flows *f, const struct packet *p)
{
	const uint8_t *type = p->head + 12, *ip = p->head + 14;

	if (likely(p->head_len >= 14 + 20 + 4) && type[0] == 0x08 && type[1] == 0x00) {
		if (likely(ip[0] == 0x45 && !((ip[6] & 0x3f) | ip[7]) &&
			   (ip[9] == IPPROTO_TCP || ip[9] == IPPROTO_UDP)))
			return hash_v4(f, ip + 12, ip + 20, ip[9]);
	} else if (p->head_len >= 14 + 40 + 4 && type[0] == 0x86 && type[1] == 0xdd) {
		if (likely(ip[0] >> 4 == 6 && (ip[6] == IPPROTO_TCP || ip[6] == IPPROTO_UDP)))
			return hash_v6(f, ip + 8, ip + 40, ip[6]);
	}
	return any_hash(f, p);
}

static bool replace(struct flows *f, uint64_t hash, uint64_t *was, uint64_t flow)
{
	return __atomic_compare_exchange_n(&f->entry[flow_index(hash)], was, flow, false,
					   __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static uint64_t with_age(uint64_t flow, uint8_t age)
{
	return (flow & ~AGE_MASK) | (uint64_t)age << FLOW_AGE_SHIFT;
}

static uint64_t with_wanted(uint64_t flow, unsigned pair)
{
	return (flow & ~(FLOW_PAIR_MASK << FLOW_WANTED_SHIFT)) | (uint64_t)pair
									 << FLOW_WANTED_SHIFT;
}

void flows_sent(struct flows *f, uint64_t hash, unsigned pair, uint8_t age)
{
	uint64_t old = __atomic_load_n(&f->entry[flow_index(hash)], __ATOMIC_RELAXED), new;

	if (((old ^ hash) & (FLOW_TAG | FLOW_IS)) == 0) {
		if (flow_wanted(old) == pair &&
		    (!flow_settled(old) || flow_written_within(old, age, FLOWS_STALE / 2)))
			return;
		new = with_wanted(old, pair);
		/* One that is about to move has the age of the last frame that came where it goes.
		 */
		if (flow_settled(old))
			new = with_age(new & ~FLOW_PLACED, age);
	} else {
		/* Somebody else's, who still uses it? */
		if (old && flow_written_within(old, age, FLOWS_STALE))
			return;
		new = with_age((hash & FLOW_TAG) | FLOW_IS |
				       (uint64_t)FLOW_BY_LANE << FLOW_GOES_SHIFT,
			       age);
		new = with_wanted(new, pair);
	}
	if (unlikely(!__atomic_load_n(&f->used, __ATOMIC_RELAXED)))
		__atomic_store_n(&f->used, true, __ATOMIC_RELAXED);
	/* Changed meanwhile? What the guest sends next will do. */
	replace(f, hash, &old, new);
}

uint64_t flows_refresh(struct flows *f, uint64_t hash, uint8_t age)
{
	uint64_t flow = __atomic_load_n(&f->entry[flow_index(hash)], __ATOMIC_RELAXED);

	/* It has to be written before a frame goes by it, or somebody else may have it after. */
	while (((flow ^ hash) & (FLOW_TAG | FLOW_IS)) == 0)
		if (!flow_settled(flow) || replace(f, hash, &flow, with_age(flow, age)))
			return flow;
	return 0;
}

bool flows_settle(struct flows *f, uint64_t hash, uint64_t flow, uint8_t age)
{
	uint64_t new = flow & ~(FLOW_PLACED | FLOW_PAIR_MASK << FLOW_GOES_SHIFT);

	new |= (uint64_t)flow_wanted(flow) << FLOW_GOES_SHIFT;
	return replace(f, hash, &flow, with_age(new, age));
}

void flows_stayed(struct flows *f, uint64_t hash, uint16_t place, uint8_t age)
{
	uint64_t flow = __atomic_load_n(&f->entry[flow_index(hash)], __ATOMIC_RELAXED);

	/* Written for certain: an earlier place would let it move too early. */
	while (((flow ^ hash) & (FLOW_TAG | FLOW_IS)) == 0 && !flow_settled(flow)) {
		uint64_t new = (flow & ~UINT64_C(0xffff)) | FLOW_PLACED | place;

		if (replace(f, hash, &flow, with_age(new, age)))
			return;
	}
}
