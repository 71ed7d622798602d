/* SPDX-License-Identifier: Apache-2.0 */
#include "net/rules.h"

#include "base/clock.h"
#include "net/capture.h"
#include "net/port.h"

#include <urcu/urcu-qsbr.h>

static bool has_vlans(const struct port_rules *r)
{
	static const struct vlan_set none;

	return r->untagged || memcmp(&r->tagged, &none, sizeof(none)) != 0;
}

static bool is_limited(const struct port_rate *r)
{
	return r->bits || r->packets;
}

#define LIMIT_RULES (PORT_STORM | PORT_POLICE_OUT | PORT_HOLD_IN | PORT_POLICE_IN)

static uint32_t rules_of(const struct port *p, const struct port_rules *r)
{
	uint32_t on = 0;

	on |= has_vlans(r) ? PORT_VLAN : 0;
	on |= r->macs.n || r->ips.n ? PORT_GUARD : 0;
	on |= r->isolated ? PORT_ISOLATED : 0;
	on |= r->broadcast || r->unknown ? PORT_STORM : 0;
	on |= is_limited(&r->out) ? PORT_POLICE_OUT : 0;
	if (is_limited(&r->in))
		on |= p->ops && p->ops->holds ? PORT_HOLD_IN : PORT_POLICE_IN;
	return on;
}

const struct port_rules *port_rules_now(const struct port *p)
{
	/* Pairs with the release in port_change_rules(). */
	return &p->rules[__atomic_load_n(&p->rules_now, __ATOMIC_ACQUIRE)];
}

/* The control thread's own. */
static struct port_rules *rules_now(struct port *p)
{
	return &p->rules[p->rules_now];
}

void port_set_rules(struct port *p, const struct port_rules *rules)
{
	struct port_buckets *b = &p->buckets;
	struct port_rules *r = rules_now(p);
	uint64_t now = clock_ns();

	*r = rules ? *rules : (struct port_rules) { 0 };
	p->rules_on = rules_of(p, r);
	bucket_init(&b->in_bits, r->in.bits, r->in.bits_burst, now);
	bucket_init(&b->in_packets, r->in.packets, r->in.packets_burst, now);
	bucket_init(&b->out_bits, r->out.bits, r->out.bits_burst, now);
	bucket_init(&b->out_packets, r->out.packets, r->out.packets_burst, now);
	bucket_init(&b->broadcast, r->broadcast, 0, now);
	bucket_init(&b->unknown, r->unknown, 0, now);
}

void port_set_limits(struct port *p, const struct port_rules *rules)
{
	struct port_buckets *b = &p->buckets;
	struct port_rules *r = rules_now(p);
	uint64_t now = clock_ns();
	uint32_t limits;

	r->in = rules->in;
	r->out = rules->out;
	r->broadcast = rules->broadcast;
	r->unknown = rules->unknown;
	limits = rules_of(p, r) & LIMIT_RULES;
	bucket_change(&b->in_bits, r->in.bits, r->in.bits_burst, now);
	bucket_change(&b->in_packets, r->in.packets, r->in.packets_burst, now);
	bucket_change(&b->out_bits, r->out.bits, r->out.bits_burst, now);
	bucket_change(&b->out_packets, r->out.packets, r->out.packets_burst, now);
	bucket_change(&b->broadcast, r->broadcast, 0, now);
	bucket_change(&b->unknown, r->unknown, 0, now);
	/* A bucket without a rate lets all through, so the order of these two does not matter. */
	__atomic_or_fetch(&p->rules_on, limits, __ATOMIC_RELAXED);
	__atomic_and_fetch(&p->rules_on, ~(LIMIT_RULES & ~limits), __ATOMIC_RELAXED);
}

#define ADMISSION_RULES (PORT_VLAN | PORT_GUARD | PORT_ISOLATED)

void port_change_rules(struct port *p, const struct port_rules *rules)
{
	const struct port_rules *old = rules_now(p);
	unsigned next = !p->rules_now;
	uint32_t on = rules_of(p, rules) & ADMISSION_RULES;

	/* Nobody reads it: the change before this one has waited for those who did. */
	p->rules[next] = *rules;
	p->rules[next].in = old->in;
	p->rules[next].out = old->out;
	p->rules[next].broadcast = old->broadcast;
	p->rules[next].unknown = old->unknown;
	/* Pairs with the acquire in port_rules_now(): what they are, then that they hold. */
	__atomic_store_n(&p->rules_now, next, __ATOMIC_RELEASE);
	/*
	 * A bit without its rule lets nothing through that should not (VLAN, which drops) or tests
	 * in vain; a rule without its bit is not asked for. So bits come before bits go.
	 */
	__atomic_or_fetch(&p->rules_on, on, __ATOMIC_RELAXED);
	__atomic_and_fetch(&p->rules_on, ~(ADMISSION_RULES & ~on), __ATOMIC_RELAXED);
	urcu_qsbr_synchronize_rcu();
}

static struct port_stats *stats_of(struct port *p)
{
	assert(p->stats);
	return &p->stats[worker_index(worker_current())];
}

/*
 * The VLAN of a frame, and its tag off. A tag behind the tag is part of the frame; nobody gets it
 * to see as the outer one: see vlan_release().
 * @return the counter of why not; NULL: it may.
 */
static counter_t *vlan_admit(const struct port_rules *r, struct packet *p, struct port_stats *s)
{
	uint16_t tci, vlan;

	if (!packet_has_tag(p)) {
		p->vlan = r->untagged;
		p->tci = 0;
		return r->untagged ? NULL : &s->rx_vlan;
	}
	if (vlan_be16(p->head + VLAN_TYPE_AT) != VLAN_TPID)
		return &s->rx_vlan;
	if (p->head_len < VLAN_TYPE_AT + VLAN_TAG_LEN + 2)
		return &s->rx_bad;
	/* What is summed may not begin within the tag. */
	if (p->offload.needs_csum && p->offload.csum_start < VLAN_TYPE_AT + VLAN_TAG_LEN + 2)
		return &s->rx_bad;
	tci = vlan_be16(p->head + VLAN_TYPE_AT + 2);
	vlan = tci & VLAN_ID_MASK;
	if (vlan == 0)
		vlan = r->untagged; /* 802.1Q 6.9.1: a priority, and the port's VLAN */
	else if (!vlan_set_has(&r->tagged, vlan))
		return &s->rx_vlan;
	if (vlan == 0)
		return &s->rx_vlan;
	packet_tag_pop(p);
	p->vlan = vlan;
	p->tci = tci & (uint16_t)~VLAN_ID_MASK;
	return NULL;
}

static counter_t *guard_admit(const struct port_rules *r, struct packet *p, struct port_stats *s)
{
	switch (guard_look(r, p)) {
	case GUARD_MAC:
		return &s->rx_spoofed_mac;
	case GUARD_IP:
		return &s->rx_spoofed_ip;
	case GUARD_PASS:
		break;
	}
	return NULL;
}

/* Drops what is too much: whoever sends it does not wait. */
static counter_t *police(struct bucket *bits, struct bucket *packets, const struct packet *p,
			 uint64_t now, counter_t *why)
{
	if (bucket_wait_ns(bits, now) || bucket_wait_ns(packets, now))
		return why;
	bucket_take(bits, 8 * (uint64_t)p->len, now);
	bucket_take(packets, 1, now);
	return NULL;
}

/* @return the counter of why not; NULL: it may come in. */
static counter_t *admit(struct port *from, uint32_t on, struct packet *p, uint64_t now,
			struct port_stats *s)
{
	const struct port_rules *r = port_rules_now(from);
	struct port_buckets *b = &from->buckets;
	counter_t *why = NULL;

	if (on & PORT_VLAN)
		why = vlan_admit(r, p, s);
	if (!why && on & PORT_GUARD)
		why = guard_admit(r, p, s);
	if (!why && on & PORT_POLICE_IN)
		why = police(&b->in_bits, &b->in_packets, p, now, &s->rx_limited);
	return why;
}

static void capture_in(struct port *from, struct packet *packets, unsigned n)
{
	struct packet *all[PORT_BURST];

	assert(n <= PORT_BURST);
	for (unsigned i = 0; i < n; i++)
		all[i] = &packets[i];
	capture_packets(from, all, n, false);
}

unsigned rules_admit(struct port *from, struct packet *packets, unsigned n)
{
	uint32_t on = __atomic_load_n(&from->rules_on, __ATOMIC_RELAXED);
	uint64_t now = on & PORT_POLICE_IN ? clock_ns() : 0;
	struct port_stats *s = stats_of(from);
	unsigned left = 0;

	if (on & PORT_CAPTURE)
		capture_in(from, packets, n);
	if (on & PORT_DOWN) {
		counter_add(&s->rx_port_down, n);
		return 0;
	}
	for (unsigned i = 0; i < n; i++) {
		counter_t *why = admit(from, on, &packets[i], now, s);

		if (why) {
			counter_add(why, 1);
			continue;
		}
		if (left != i)
			packets[left] = packets[i];
		left++;
	}
	return left;
}

uint32_t rules_flood(struct port *from, const struct packet *packets, uint32_t flood)
{
	struct port_stats *s = stats_of(from);
	uint64_t now = clock_ns();

	for (uint32_t left = flood; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);
		bool to_group = packets[i].head[0] & 1;
		struct bucket *b = to_group ? &from->buckets.broadcast : &from->buckets.unknown;

		if (bucket_wait_ns(b, now) == 0) {
			bucket_take(b, 1, now);
			continue;
		}
		flood &= ~(1u << i);
		counter_add(to_group ? &s->rx_broadcast : &s->rx_unknown, 1);
	}
	return flood;
}

uint64_t rules_hold_ns(const struct port *from)
{
	uint64_t now = clock_ns(), bits = bucket_wait_ns(&from->buckets.in_bits, now),
		 packets = bucket_wait_ns(&from->buckets.in_packets, now);

	return MAX(bits, packets);
}

void rules_took(struct port *from, unsigned packets, uint64_t bytes)
{
	uint64_t now = clock_ns();

	bucket_take(&from->buckets.in_bits, 8 * bytes, now);
	bucket_take(&from->buckets.in_packets, packets, now);
}

enum leave { LEAVE_NOT, LEAVE_AS_IS, LEAVE_TAGGED };

static enum leave vlan_release(const struct port *to, uint32_t on, const struct packet *p,
			       struct port_stats *s)
{
	const struct port_rules *r = port_rules_now(to);

	/*
	 * From a port without VLANs, with whatever tags its sender put there: to its like alone. A
	 * trunk without a native VLAN has no place for it, though both say 0.
	 */
	if (!p->vlan)
		return on & PORT_VLAN ? LEAVE_NOT : LEAVE_AS_IS;
	if (vlan_set_has(&r->tagged, p->vlan))
		return LEAVE_TAGGED;
	if (r->untagged != p->vlan)
		return LEAVE_NOT;
	/*
	 * Without its own tag, the one behind it would be taken for it, and carry the frame into a
	 * VLAN that its sender chose.
	 */
	if (packet_has_tag(p)) {
		counter_add(&s->tx_vlan, 1);
		return LEAVE_NOT;
	}
	return LEAVE_AS_IS;
}

/* Between two ports, whatever the frame. @return the counter of why not, on @from or @to. */
static counter_t *part(struct port *from, uint32_t from_on, struct port *to, uint32_t to_on)
{
	if (to_on & PORT_DOWN)
		return &stats_of(to)->tx_port_down;
	if (from_on & to_on & PORT_ISOLATED)
		return &stats_of(from)->rx_isolated;
	return NULL;
}

/* Those of @run that may leave by @to come first; @tagged: which of them it wants with a tag. */
static unsigned release(struct port *to, uint32_t on, struct packet **run, unsigned n,
			uint32_t *tagged)
{
	uint64_t now = on & PORT_POLICE_OUT ? clock_ns() : 0;
	struct port_buckets *b = &to->buckets;
	struct port_stats *s = stats_of(to);
	unsigned left = 0;

	for (unsigned i = 0; i < n; i++) {
		struct packet *p = run[i];
		enum leave how = vlan_release(to, on, p, s);

		if (how == LEAVE_NOT)
			continue;
		if (on & PORT_POLICE_OUT &&
		    police(&b->out_bits, &b->out_packets, p, now, &s->tx_limited)) {
			counter_add(&s->tx_limited, 1);
			continue;
		}
		if (how == LEAVE_TAGGED)
			*tagged |= 1u << left;
		run[left++] = p;
	}
	return left;
}

bool rules_deliver(struct port *from, struct port *to, struct packet **run, unsigned n)
{
	uint32_t from_on = __atomic_load_n(&from->rules_on, __ATOMIC_RELAXED),
		 to_on = __atomic_load_n(&to->rules_on, __ATOMIC_RELAXED), tagged = 0;
	counter_t *why = part(from, from_on, to, to_on);

	if (why) {
		counter_add(why, n);
		return false;
	}
	n = release(to, to_on, run, n, &tagged);
	if (n == 0)
		return false;
	for (uint32_t left = tagged; left; left &= left - 1) {
		struct packet *p = run[__builtin_ctz(left)];

		packet_tag_push(p, p->tci | p->vlan);
	}
	if (to_on & PORT_CAPTURE)
		capture_packets(to, run, n, true);
	to->ops->deliver(to, run, n);
	if (to->ops->flush)
		to->ops->flush(to);
	for (; tagged; tagged &= tagged - 1)
		packet_tag_pop(run[__builtin_ctz(tagged)]);
	return true;
}

void port_set_down(struct port *p, bool down)
{
	if (down)
		__atomic_or_fetch(&p->rules_on, PORT_DOWN, __ATOMIC_RELAXED);
	else
		__atomic_and_fetch(&p->rules_on, ~PORT_DOWN, __ATOMIC_RELAXED);
}

bool port_is_down(const struct port *p)
{
	return __atomic_load_n(&p->rules_on, __ATOMIC_RELAXED) & PORT_DOWN;
}
