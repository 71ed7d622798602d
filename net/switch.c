/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "net/capture.h"
#include "net/mac_table.h"
#include "net/offload.h"
#include "poll/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <urcu/urcu-qsbr.h>

#define AGEING_S_DEFAULT 300
#define MAC_MAX_DEFAULT 4096
#define PORTS_MAX 1024

static_assert(PORT_BURST <= 32, "a burst is a mask of 32 bits");

/* Immutable; swapped whole, and freed a grace period later. */
struct port_set {
	unsigned n;	      /* ids in use are below it */
	struct port *ports[]; /* by id; NULL: free */
};

struct worker_counters {
	counter_t flooded, learned, moved, table_full;
} CACHE_ALIGNED;

struct net_switch {
	struct port_set *set; /* read by workers with acquire */
	struct mac_table *macs;
	struct worker_counters *counters; /* of each worker */
	struct workers *workers;
	sd_event_source *ageing_timer;
	uint32_t ageing_s;
	uint64_t aged;
	char name[PORT_NAME_MAX];
};

static uint32_t now_s(void)
{
	return (uint32_t)(clock_ns() / 1000000000u);
}

static uint32_t rules_on(const struct port *p)
{
	return __atomic_load_n(&p->rules_on, __ATOMIC_RELAXED);
}

/*
 * A frame's way. A burst is routed as a whole and then delivered port by port, so that each port is
 * called once a burst, whatever the order of the destinations in it. The order of the packets to
 * one port is that of the burst, flooded ones included.
 */
struct burst {
	struct net_switch *sw;
	const struct port_set *set;
	struct port *from;
	struct packet *packets;
	uint32_t rules;	  /* PORT_RULES_OUT of @from */
	uint32_t unicast; /* bit i: packets[i].to is known */
	uint32_t flood;	  /* bit i: packets[i] goes to all but @from */
	uint64_t filtered;
};

static bool is_group(const uint8_t *mac)
{
	return mac[0] & 1;
}

static bool is_zero(const uint8_t *mac)
{
	return !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

/*
 * 01-80-C2-00-00-01 to -0F: pause frames, LACP, LLDP and the like end at the first bridge (IEEE
 * 802.1Q 8.6.3). Spanning tree's -00 passes, since we do not speak it: a bridge behind us that does
 * must be able to see a loop through us.
 */
static bool is_link_local(const uint8_t *mac)
{
	static const uint8_t reserved[5] = { 0x01, 0x80, 0xc2, 0x00, 0x00 };

	return memcmp(mac, reserved, 5) == 0 && mac[5] >= 0x01 && mac[5] <= 0x0f;
}

static void learn(struct burst *b, unsigned n)
{
	struct worker_counters *c = &b->sw->counters[worker_index(worker_current())];
	uint32_t now = now_s();
	mac_key_t last = 0;

	for (unsigned i = 0; i < n; i++) {
		const uint8_t *src = b->packets[i].head + 6;
		mac_key_t key = mac_key(src, b->packets[i].vlan);

		assert(b->packets[i].head_len >= 14);
		/* Bursts mostly come from one station. */
		if (key == last)
			continue;
		last = key;
		if (is_group(src) || is_zero(src))
			continue;
		switch (mac_table_learn(b->sw->macs, key, b->from->id, now)) {
		case MAC_KNOWN:
			break;
		case MAC_NEW:
			counter_add(&c->learned, 1);
			break;
		case MAC_MOVED:
			counter_add(&c->moved, 1);
			break;
		case MAC_FULL:
			counter_add(&c->table_full, 1);
			counter_add(&b->from->stats[worker_index(worker_current())].mac_refused, 1);
			break;
		}
	}
}

/* Sets packet->to, and the packet's bit in unicast or flood, or in neither. */
static void route(struct burst *b, unsigned n)
{
	struct port *to = NULL;
	mac_key_t last = 0; /* of no station: zero is never learned */

	for (unsigned i = 0; i < n; i++) {
		struct packet *p = &b->packets[i];
		const uint8_t *dst = p->head;
		mac_key_t key = mac_key(dst, p->vlan);

		p->from = b->from;
		p->to = NULL;
		if (is_group(dst)) {
			if (is_link_local(dst))
				b->filtered++;
			else
				b->flood |= 1u << i;
			continue;
		}
		if (key != last) {
			uint32_t id = mac_table_lookup(b->sw->macs, key);

			/* An address can outlive its port for a moment: see switch_detach(). */
			to = id < b->set->n ? b->set->ports[id] : NULL;
			last = key;
		}
		if (!to) {
			b->flood |= 1u << i;
		} else if (to == b->from) {
			b->filtered++;
		} else {
			p->to = to;
			b->unicast |= 1u << i;
		}
	}
}

/* @return false when @to takes nothing of it. */
static bool deliver(struct burst *b, struct port *to, uint32_t which)
{
	struct packet *run[PORT_BURST];
	unsigned n = 0;

	for (; which; which &= which - 1)
		run[n++] = &b->packets[__builtin_ctz(which)];
	if (unlikely((b->rules | rules_on(to)) & PORT_RULES_OUT))
		return rules_deliver(b->from, to, run, n);
	to->ops->deliver(to, run, n);
	if (to->ops->flush)
		to->ops->flush(to);
	return true;
}

static uint32_t all_to(const struct burst *b, const struct port *to)
{
	uint32_t which = 0;

	for (uint32_t left = b->unicast; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);

		if (b->packets[i].to == to)
			which |= 1u << i;
	}
	return which;
}

static void deliver_unicast(struct burst *b)
{
	while (b->unicast) {
		struct port *to = b->packets[__builtin_ctz(b->unicast)].to;
		uint32_t which = all_to(b, to);

		b->unicast &= ~which;
		deliver(b, to, which);
	}
}

/* Large frames that go to all may be cut no more often in all than those that go to one. */
static void share_cuts(struct burst *b)
{
	unsigned most = GSO_CUTS_MAX / b->set->n + 1; /* @from is in the set */

	for (uint32_t left = b->flood; left; left &= left - 1) {
		struct packet_offload *o = &b->packets[__builtin_ctz(left)].offload;

		if (!o->cuts_max || o->cuts_max > most)
			o->cuts_max = (uint16_t)most;
	}
}

/* With something to flood, every other port has a share in the burst. */
static void deliver_all(struct burst *b)
{
	unsigned n_flood = (unsigned)__builtin_popcount(b->flood);
	unsigned others = 0;

	share_cuts(b);
	for (unsigned id = 0; id < b->set->n; id++) {
		struct port *to = b->set->ports[id];

		if (!to || to == b->from)
			continue;
		if (deliver(b, to, all_to(b, to) | b->flood))
			others++;
	}
	if (others)
		counter_add(&b->sw->counters[worker_index(worker_current())].flooded, n_flood);
	else
		b->filtered += n_flood;
}

static void forward(struct net_switch *sw, struct port *from, struct packet *packets, unsigned n)
{
	struct burst b = {
		.sw = sw,
		/* Pairs with the exchange in set_replace(). Ours until the end of the round. */
		.set = __atomic_load_n(&sw->set, __ATOMIC_ACQUIRE),
		.from = from,
		.packets = packets,
	};

	if (unlikely(from->id >= b.set->n || b.set->ports[from->id] != from)) {
		b.filtered = n; /* detached while it was being polled */
	} else {
		b.rules = rules_on(from);
		if (unlikely(b.rules & PORT_RULES_IN)) {
			n = rules_admit(from, packets, n);
			/* port_change_rules() may have come in between: by those that let it in. */
			b.rules |= rules_on(from);
		}
		learn(&b, n);
		route(&b, n);
		if (unlikely(b.rules & PORT_STORM))
			b.flood = rules_flood(from, packets, b.flood);
		if (b.flood)
			deliver_all(&b);
		else
			deliver_unicast(&b);
	}
	if (b.filtered)
		counter_add(&from->stats[worker_index(worker_current())].filtered, b.filtered);
}

void switch_forward(struct net_switch *sw, struct port *from, struct packet *packets, unsigned n)
{
	while (n > 0) {
		unsigned now = MIN(n, (unsigned)PORT_BURST);

		forward(sw, from, packets, now);
		packets += now;
		n -= now;
	}
}

/* The control thread's side. */

static int on_ageing_timer(sd_event_source *s, uint64_t usec, void *arg);

static int ageing_timer_set(struct net_switch *sw)
{
	/* An address goes up to a tenth (at least a second) late; a sleeping daemon sleeps on. */
	uint64_t period_us = MAX(sw->ageing_s / 10, 1u) * 1000000ull;

	if (!sw->ageing_timer)
		return sd_event_add_time_relative(control_event(), &sw->ageing_timer,
						  CLOCK_MONOTONIC, period_us, period_us / 10,
						  on_ageing_timer, sw);
	int rc = sd_event_source_set_time_relative(sw->ageing_timer, period_us);

	return rc < 0 ? rc : sd_event_source_set_enabled(sw->ageing_timer, SD_EVENT_ONESHOT);
}

static int on_ageing_timer(sd_event_source *s, uint64_t usec, void *arg)
{
	struct net_switch *sw = arg;

	(void)s;
	(void)usec;
	sw->aged += mac_table_age(sw->macs, now_s() - sw->ageing_s);
	ageing_timer_set(sw);
	return 0;
}

static struct port_set *set_new(unsigned n)
{
	struct port_set *set = calloc(1, sizeof(*set) + n * sizeof(set->ports[0]));

	if (set)
		set->n = n;
	return set;
}

/* Puts @p (or NULL) at @id. When it returns, no worker uses the old set any more. */
static int set_replace(struct net_switch *sw, unsigned id, struct port *p)
{
	struct port_set *old = sw->set, *set = set_new(MAX(old->n, id + 1));

	if (!set)
		return -ENOMEM;
	memcpy(set->ports, old->ports, old->n * sizeof(old->ports[0]));
	set->ports[id] = p;
	/* Pairs with the acquire in forward(): the set's contents, then the set. */
	__atomic_store_n(&sw->set, set, __ATOMIC_RELEASE);
	urcu_qsbr_synchronize_rcu();
	free(old);
	return 0;
}

int switch_create(const struct switch_config *cfg, struct workers *workers, struct net_switch **out,
		  struct error *err)
{
	unsigned mac_max = cfg->mac_max ? cfg->mac_max : MAC_MAX_DEFAULT;
	size_t counters_size = workers_count(workers) * sizeof(struct worker_counters);
	struct net_switch *sw;
	int rc;

	if (mac_max > MAC_TABLE_MAX)
		return error_set(err, -EINVAL,
				 "network %s: mac_max %u is more than %u: give a smaller number",
				 cfg->name, mac_max, MAC_TABLE_MAX);
	sw = calloc(1, sizeof(*sw));
	if (!sw)
		return error_set(err, -ENOMEM, "network %s: out of memory", cfg->name);
	snprintf(sw->name, sizeof(sw->name), "%s", cfg->name);
	sw->workers = workers;
	sw->ageing_s = cfg->mac_ageing_s ? cfg->mac_ageing_s : AGEING_S_DEFAULT;
	sw->set = set_new(0);
	sw->counters = aligned_alloc(CACHE_LINE, counters_size);
	rc = mac_table_create(mac_max, PORTS_MAX, &sw->macs);
	if (rc == 0 && (!sw->set || !sw->counters))
		rc = -ENOMEM;
	if (rc == 0)
		rc = ageing_timer_set(sw);
	if (rc < 0) {
		error_set(err, rc, "network %s: no memory for %u addresses: lower mac_max (%s)",
			  cfg->name, mac_max, strerror(-rc));
		switch_destroy(sw);
		return rc;
	}
	memset(sw->counters, 0, counters_size);
	*out = sw;
	return 0;
}

void switch_destroy(struct net_switch *sw)
{
	if (!sw)
		return;
	for (unsigned id = 0; sw->set && id < sw->set->n; id++)
		assert(!sw->set->ports[id]);
	sd_event_source_disable_unref(sw->ageing_timer);
	mac_table_destroy(sw->macs);
	free(sw->counters);
	free(sw->set);
	free(sw);
}

struct fixing {
	struct port *p;
	unsigned missed;
};

static void fix_in(struct fixing *f, uint16_t vlan)
{
	const struct mac_list *l = &port_rules_now(f->p)->fixed;

	for (unsigned i = 0; i < l->n; i++)
		f->missed += !mac_table_fix(f->p->sw->macs, mac_key(l->mac[i], vlan), f->p->id);
}

/* In each of the port's VLANs, as far as the table goes. */
static void fix_macs(void *arg)
{
	struct fixing *f = arg;
	const struct port_rules *r = port_rules_now(f->p);

	if (r->untagged || !(rules_on(f->p) & PORT_VLAN))
		fix_in(f, r->untagged);
	for (unsigned vlan = 1; vlan <= VLAN_ID_MAX; vlan++)
		if (vlan_set_has(&r->tagged, vlan))
			fix_in(f, (uint16_t)vlan);
}

static void set_macs(struct port *p)
{
	const struct port_rules *r = port_rules_now(p);
	struct fixing f = { .p = p };

	mac_table_set_max(p->sw->macs, p->id, r->mac_max);
	/* The table is written by workers, which read it under QSBR. */
	if (r->fixed.n)
		worker_call_wait(workers_get(p->sw->workers, 0), fix_macs, &f);
	if (f.missed)
		log_warn("network %s: port %s: no room for %u of its static addresses (each counts "
			 "once in each of the port's VLANs), so others may take them: raise the "
			 "network's mac_max, and set static_macs anew",
			 p->sw->name, p->name, f.missed);
}

int switch_attach(struct net_switch *sw, struct port *p, struct error *err)
{
	unsigned id = 0;

	assert(!p->sw);
	while (id < sw->set->n && sw->set->ports[id])
		id++;
	if (id == PORTS_MAX)
		return error_set(
			err, -ENOSPC,
			"network %s has %u ports, its limit: put port %s in another network",
			sw->name, PORTS_MAX, p->name);
	p->id = id;
	p->sw = sw;
	if (set_replace(sw, id, p) < 0) {
		p->sw = NULL;
		return error_set(err, -ENOMEM, "network %s: out of memory for port %s", sw->name,
				 p->name);
	}
	set_macs(p);
	return 0;
}

void switch_relearn(struct port *p)
{
	if (!p->sw)
		return;
	/* What stays fixed keeps its entry: where the table is full, others wait for any. */
	mac_table_unfix(p->sw->macs, p->id);
	set_macs(p);
	mac_table_forget(p->sw->macs, p->id);
}

/*
 * 1 No set holds @p: after a grace period no worker delivers to it or learns from it, since both
 *   ask the set; addresses that lead to it are flooded, as if they were unknown.
 * 2 Its addresses go. Only then can its id be given to another port.
 */
void switch_detach(struct port *p)
{
	struct net_switch *sw = p->sw;

	if (!sw)
		return;
	assert(sw->set->ports[p->id] == p);
	if (set_replace(sw, p->id, NULL) < 0) {
		/* Without memory for a copy, edit in place: a pointer is read whole. */
		__atomic_store_n(&sw->set->ports[p->id], NULL, __ATOMIC_RELAXED);
		urcu_qsbr_synchronize_rcu();
	}
	mac_table_purge(sw->macs, p->id);
	capture_port_gone(p);
	p->sw = NULL;
}

const char *switch_name(const struct net_switch *sw)
{
	return sw->name;
}

void switch_stats(const struct net_switch *sw, struct switch_stats *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned w = 0; w < workers_count(sw->workers); w++) {
		const struct worker_counters *c = &sw->counters[w];

		out->flooded += counter_read(&c->flooded);
		out->learned += counter_read(&c->learned);
		out->moved += counter_read(&c->moved);
		out->table_full += counter_read(&c->table_full);
	}
	out->aged = sw->aged;
	out->macs = mac_table_count(sw->macs);
}

struct mac_visit {
	const struct net_switch *sw;
	switch_mac_fn *fn;
	void *arg;
	uint32_t now_s;
};

static void visit_mac(const uint8_t mac[6], uint16_t vlan, uint32_t id, uint32_t seen_s, void *arg)
{
	const struct mac_visit *v = arg;
	const struct port *p = id < v->sw->set->n ? v->sw->set->ports[id] : NULL;
	int32_t age_s = (int32_t)(v->now_s - seen_s);

	if (p)
		v->fn(mac, vlan, p, (unsigned)MAX(age_s, 0), v->arg);
}

void switch_for_each_mac(const struct net_switch *sw, switch_mac_fn *fn, void *arg)
{
	struct mac_visit v = { .sw = sw, .fn = fn, .arg = arg, .now_s = now_s() };

	mac_table_for_each(sw->macs, visit_mac, &v);
}
