/* SPDX-License-Identifier: Apache-2.0 */
#include "net/mac_table.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <urcu/urcu-qsbr.h>

#include <urcu/rculfhash.h>

/* Of an entry's port: by configuration, mac_table_fix(). It is nobody's to move. */
#define FIXED 0x80000000u

/* An entry has a cache line of its own: refreshing one must not slow the lookup of another. */
struct mac_entry {
	struct cds_lfht_node node;
	mac_key_t key;
	uint32_t port; /* and FIXED, in one word: no move can slip in between the two */
	uint32_t seen_s;
	uint32_t charged; /* the port in whose share of the table it is; MAC_PORT_NONE: nobody's */
	uint32_t next;	  /* free: index + 1 of the next one */
	uint32_t is_in; /* in the hash table; written by its learner and then by the control thread
			 */
} CACHE_ALIGNED;

struct mac_table {
	struct cds_lfht *hash;
	struct mac_entry *entries;
	unsigned max, n_ports;
	uint32_t *max_of; /* of each port, as set; 0: none. Atomic */
	uint32_t *share;  /* of each port: entries that were taken from the pool for it */
	uint64_t seed[2]; /* guests choose keys: they must not be able to choose their chain too */
	uint64_t free CACHE_ALIGNED;   /* a stack: index + 1, under a count that tells apart pops */
	uint32_t n_free;	       /* never less than there are on the stack */
	uint32_t used[] CACHE_ALIGNED; /* of each port: learned, not fixed */
};

/* A finaliser with full avalanche, keyed before and after. */
static unsigned long hash_key(const struct mac_table *t, mac_key_t key)
{
	uint64_t h = key ^ t->seed[0];

	h = (h ^ h >> 33) * 0xff51afd7ed558ccdull;
	h = (h ^ h >> 33) + t->seed[1];
	h = (h ^ h >> 29) * 0xc4ceb9fe1a85ec53ull;
	return h ^ h >> 32;
}

static int matches(struct cds_lfht_node *node, const void *key)
{
	const struct mac_entry *e = container_of(node, struct mac_entry, node);

	return __atomic_load_n(&e->key, __ATOMIC_RELAXED) == *(const mac_key_t *)key;
}

static void pool_put(struct mac_table *t, struct mac_entry *e)
{
	uint64_t old = __atomic_load_n(&t->free, __ATOMIC_RELAXED), top;

	__atomic_add_fetch(&t->n_free, 1, __ATOMIC_RELAXED);
	do {
		__atomic_store_n(&e->next, (uint32_t)old, __ATOMIC_RELAXED);
		top = (old & ~0xffffffffull) | (uint32_t)(e - t->entries + 1);
		/* Pairs with the acquire in pool_get(): the entry's fields, then the entry. */
	} while (!__atomic_compare_exchange_n(&t->free, &old, top, true, __ATOMIC_RELEASE,
					      __ATOMIC_RELAXED));
}

static struct mac_entry *pool_get(struct mac_table *t)
{
	uint64_t old = __atomic_load_n(&t->free, __ATOMIC_ACQUIRE), top;
	struct mac_entry *e;

	do {
		if ((uint32_t)old == 0)
			return NULL;
		e = &t->entries[(uint32_t)old - 1];
		/*
		 * Another worker may have taken @e and put it back since. The count in the upper
		 * half differs then, and the exchange fails; entries themselves are never freed.
		 */
		top = ((old >> 32) + 1) << 32 | __atomic_load_n(&e->next, __ATOMIC_RELAXED);
	} while (!__atomic_compare_exchange_n(&t->free, &old, top, true, __ATOMIC_ACQUIRE,
					      __ATOMIC_ACQUIRE));
	__atomic_sub_fetch(&t->n_free, 1, __ATOMIC_RELAXED);
	return e;
}

int mac_table_create(unsigned max, unsigned n_ports, struct mac_table **out)
{
	unsigned long buckets = 1;
	struct mac_table *t;

	if (max == 0 || max > MAC_TABLE_MAX)
		return -EINVAL;
	t = aligned_alloc(CACHE_LINE, ALIGN_UP(sizeof(*t) + 3 * n_ports * sizeof(t->used[0]),
					       (size_t)CACHE_LINE));
	if (!t)
		return -ENOMEM;
	memset(t, 0, sizeof(*t) + 3 * n_ports * sizeof(t->used[0]));
	t->max_of = t->used + n_ports;
	t->share = t->max_of + n_ports;
	t->max = max;
	t->n_ports = n_ports;
	while (buckets < max)
		buckets *= 2;
	t->entries = aligned_alloc(CACHE_LINE, max * sizeof(t->entries[0]));
	/* As many buckets as it will ever need, so that it never resizes, which takes a thread. */
	t->hash = cds_lfht_new_flavor(buckets, buckets, buckets, 0, &urcu_qsbr_flavor, NULL);
	if (!t->entries || !t->hash) {
		mac_table_destroy(t);
		return -ENOMEM;
	}
	memset(t->entries, 0, max * sizeof(t->entries[0]));
	if (getrandom(t->seed, sizeof(t->seed), 0) != sizeof(t->seed)) {
		mac_table_destroy(t);
		return -EIO;
	}
	for (unsigned i = max; i-- > 0;)
		pool_put(t, &t->entries[i]);
	*out = t;
	return 0;
}

static void take_out(struct mac_table *t, struct mac_entry *e)
{
	/* Cannot fail: nobody else takes out what is in. */
	int rc = cds_lfht_del(t->hash, &e->node);

	assert(rc == 0);
	(void)rc;
	__atomic_store_n(&e->is_in, 0, __ATOMIC_RELAXED);
}

void mac_table_destroy(struct mac_table *t)
{
	if (!t)
		return;
	if (t->hash) {
		for (unsigned i = 0; t->entries && i < t->max; i++)
			if (__atomic_load_n(&t->entries[i].is_in, __ATOMIC_ACQUIRE))
				take_out(t, &t->entries[i]); /* it destroys empty tables only */
		cds_lfht_destroy(t->hash, NULL);
	}
	free(t->entries);
	free(t);
}

static struct mac_entry *find(struct mac_table *t, mac_key_t key)
{
	struct cds_lfht_iter it;

	cds_lfht_lookup(t->hash, hash_key(t, key), matches, &key, &it);
	struct cds_lfht_node *node = cds_lfht_iter_get_node(&it);

	return node ? container_of(node, struct mac_entry, node) : NULL;
}

uint32_t mac_table_lookup(struct mac_table *t, mac_key_t key)
{
	struct mac_entry *e = find(t, key);

	return e ? __atomic_load_n(&e->port, __ATOMIC_RELAXED) & ~FIXED : MAC_PORT_NONE;
}

void mac_table_set_max(struct mac_table *t, uint32_t port, uint32_t max)
{
	assert(port < t->n_ports);
	__atomic_store_n(&t->max_of[port], max, __ATOMIC_RELAXED);
}

/* By its own limit. Several workers that learn for a port may pass it by one each. */
static bool has_enough(const struct mac_table *t, uint32_t port)
{
	uint32_t max = __atomic_load_n(&t->max_of[port], __ATOMIC_RELAXED);

	return max && __atomic_load_n(&t->used[port], __ATOMIC_RELAXED) >= max;
}

static enum mac_learned refresh(struct mac_table *t, struct mac_entry *e, uint32_t port,
				uint32_t now_s)
{
	uint32_t old = __atomic_load_n(&e->port, __ATOMIC_RELAXED);

	/* Once a second, not once a packet: the line stays shared between the workers. */
	if (__atomic_load_n(&e->seen_s, __ATOMIC_RELAXED) != now_s)
		__atomic_store_n(&e->seen_s, now_s, __ATOMIC_RELAXED);
	if (likely(old == port))
		return MAC_KNOWN;
	if (old & FIXED)
		return MAC_KNOWN; /* whatever this port says */
	if (has_enough(t, port))
		return MAC_FULL;
	/*
	 * A station moved. The one worker that swaps the port also moves the count; but it stays in
	 * the share of the port that learned it. Two ports that take each other's would have all.
	 */
	if (!__atomic_compare_exchange_n(&e->port, &old, port, false, __ATOMIC_RELAXED,
					 __ATOMIC_RELAXED))
		return MAC_KNOWN;
	__atomic_sub_fetch(&t->used[old], 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&t->used[port], 1, __ATOMIC_RELAXED);
	return MAC_MOVED;
}

/* Another one learned for @port, or one less. */
static void count(struct mac_table *t, struct mac_entry *e, uint32_t port)
{
	__atomic_store_n(&e->charged, port, __ATOMIC_RELAXED);
	__atomic_add_fetch(&t->share[port], 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&t->used[port], 1, __ATOMIC_RELAXED);
}

static void discount(struct mac_table *t, struct mac_entry *e, uint32_t port)
{
	__atomic_sub_fetch(&t->share[__atomic_load_n(&e->charged, __ATOMIC_RELAXED)], 1,
			   __ATOMIC_RELAXED);
	__atomic_sub_fetch(&t->used[port], 1, __ATOMIC_RELAXED);
	__atomic_store_n(&e->charged, MAC_PORT_NONE, __ATOMIC_RELAXED);
}

static bool may_learn(const struct mac_table *t, uint32_t port)
{
	uint32_t n_free = __atomic_load_n(&t->n_free, __ATOMIC_RELAXED);

	return __atomic_load_n(&t->share[port], __ATOMIC_RELAXED) < MAX(n_free, MAC_PORT_MIN) &&
	       !has_enough(t, port);
}

static enum mac_learned add(struct mac_table *t, mac_key_t key, uint32_t port, uint32_t now_s)
{
	struct mac_entry *e = pool_get(t);

	if (!e)
		return MAC_FULL;
	__atomic_store_n(&e->key, key, __ATOMIC_RELAXED);
	__atomic_store_n(&e->port, port, __ATOMIC_RELAXED);
	__atomic_store_n(&e->seen_s, now_s, __ATOMIC_RELAXED);
	cds_lfht_node_init(&e->node);
	/* Counted before others can see it, and so before another worker can move it. */
	count(t, e, port);

	struct cds_lfht_node *there = cds_lfht_add_unique(t->hash, hash_key(t, key), matches, &key,
							  &e->node);

	if (there != &e->node) {
		/* Another worker was faster; nobody has seen ours. */
		discount(t, e, port);
		pool_put(t, e);
		return refresh(t, container_of(there, struct mac_entry, node), port, now_s);
	}
	/* Pairs with the acquire in take_out_if(): all of the entry, then that it is in. */
	__atomic_store_n(&e->is_in, 1, __ATOMIC_RELEASE);
	return MAC_NEW;
}

enum mac_learned mac_table_learn(struct mac_table *t, mac_key_t key, uint32_t port, uint32_t now_s)
{
	struct mac_entry *e = find(t, key);

	assert(port < t->n_ports);
	if (likely(e))
		return refresh(t, e, port, now_s);
	return may_learn(t, port) ? add(t, key, port, now_s) : MAC_FULL;
}

bool mac_table_fix(struct mac_table *t, mac_key_t key, uint32_t port)
{
	struct mac_entry *e = find(t, key);
	uint32_t old;

	assert(port < t->n_ports);
	if (!e) {
		add(t, key, port, 0);
		e = find(t, key); /* or another worker's, which was faster */
	}
	if (!e)
		return false;
	/* Whoever moves it meanwhile does so before, or finds it fixed. */
	old = __atomic_exchange_n(&e->port, port | FIXED, __ATOMIC_RELAXED);
	if (!(old & FIXED))
		discount(t, e, old);
	return true;
}

void mac_table_unfix(struct mac_table *t, uint32_t port)
{
	for (unsigned i = 0; i < t->max; i++) {
		struct mac_entry *e = &t->entries[i];

		if (!__atomic_load_n(&e->is_in, __ATOMIC_ACQUIRE) ||
		    __atomic_load_n(&e->port, __ATOMIC_RELAXED) != (port | FIXED))
			continue;
		/* Nobody else changes a fixed one; counted before another worker can move it. */
		count(t, e, port);
		__atomic_store_n(&e->port, port, __ATOMIC_RELAXED);
	}
}

static bool is_old(const struct mac_entry *e, uint32_t before_s)
{
	if (__atomic_load_n(&e->port, __ATOMIC_RELAXED) & FIXED)
		return false;
	/* Seconds wrap after 136 years, and a worker may be a moment ahead of us. */
	return (int32_t)(__atomic_load_n(&e->seen_s, __ATOMIC_RELAXED) - before_s) < 0;
}

static bool is_of(const struct mac_entry *e, uint32_t port)
{
	return (__atomic_load_n(&e->port, __ATOMIC_RELAXED) & ~FIXED) == port;
}

static bool is_learned_of(const struct mac_entry *e, uint32_t port)
{
	return __atomic_load_n(&e->port, __ATOMIC_RELAXED) == port;
}

/*
 * The entries are walked as an array, not through the hash table, and nobody but this thread gives
 * nodes back: so it needs no read-side section, and need not be registered with QSBR.
 */
static unsigned take_out_if(struct mac_table *t,
			    bool (*goes)(const struct mac_entry *e, uint32_t arg), uint32_t arg)
{
	uint32_t first = 0; /* index + 1 */
	unsigned n = 0;

	for (unsigned i = 0; i < t->max; i++) {
		struct mac_entry *e = &t->entries[i];

		/* Pairs with the release in add(). */
		if (!__atomic_load_n(&e->is_in, __ATOMIC_ACQUIRE) || !goes(e, arg))
			continue;
		take_out(t, e);
		/* Safe to use: next is read from free entries only. */
		__atomic_store_n(&e->next, first, __ATOMIC_RELAXED);
		first = i + 1;
		n++;
	}
	if (n == 0)
		return 0;
	/* Workers may still hold, refresh and move what they found before it was taken out. */
	urcu_qsbr_synchronize_rcu();
	while (first) {
		struct mac_entry *e = &t->entries[first - 1];
		uint32_t port = __atomic_load_n(&e->port, __ATOMIC_RELAXED);

		first = __atomic_load_n(&e->next, __ATOMIC_RELAXED);
		if (!(port & FIXED))
			discount(t, e, port);
		pool_put(t, e);
	}
	return n;
}

unsigned mac_table_age(struct mac_table *t, uint32_t before_s)
{
	return take_out_if(t, is_old, before_s);
}

unsigned mac_table_purge(struct mac_table *t, uint32_t port)
{
	return take_out_if(t, is_of, port);
}

unsigned mac_table_forget(struct mac_table *t, uint32_t port)
{
	return take_out_if(t, is_learned_of, port);
}

unsigned mac_table_count(const struct mac_table *t)
{
	return t->max - MIN(t->max, __atomic_load_n(&t->n_free, __ATOMIC_RELAXED));
}

unsigned mac_table_count_port(const struct mac_table *t, uint32_t port)
{
	return __atomic_load_n(&t->used[port], __ATOMIC_RELAXED);
}

void mac_table_for_each(const struct mac_table *t,
			void (*fn)(const uint8_t mac[6], uint16_t vlan, uint32_t port,
				   uint32_t seen_s, void *arg),
			void *arg)
{
	for (unsigned i = 0; i < t->max; i++) {
		const struct mac_entry *e = &t->entries[i];

		if (!__atomic_load_n(&e->is_in, __ATOMIC_ACQUIRE))
			continue;
		mac_key_t key = __atomic_load_n(&e->key, __ATOMIC_RELAXED);

		fn((const uint8_t *)&key, (uint16_t)(key >> 48),
		   __atomic_load_n(&e->port, __ATOMIC_RELAXED) & ~FIXED,
		   __atomic_load_n(&e->seen_s, __ATOMIC_RELAXED), arg);
	}
}
