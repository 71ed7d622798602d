/* SPDX-License-Identifier: Apache-2.0 */
#include "net/rules.h"

#include "net/port.h"

static bool has_vlans(const struct port_rules *r)
{
	static const struct vlan_set none;

	return r->untagged || memcmp(&r->tagged, &none, sizeof(none)) != 0;
}

void port_set_rules(struct port *p, const struct port_rules *rules)
{
	p->rules = rules ? *rules : (struct port_rules) { 0 };
	p->rules_on = has_vlans(&p->rules) ? PORT_VLAN : 0;
}

static struct port_stats *stats_of(struct port *p)
{
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

unsigned rules_admit(struct port *from, struct packet *packets, unsigned n)
{
	struct port_stats *s = stats_of(from);
	unsigned left = 0;

	for (unsigned i = 0; i < n; i++) {
		counter_t *why = vlan_admit(&from->rules, &packets[i], s);

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

enum leave { LEAVE_NOT, LEAVE_AS_IS, LEAVE_TAGGED };

static enum leave vlan_release(struct port *to, const struct packet *p, struct port_stats *s)
{
	const struct port_rules *r = &to->rules;

	if (vlan_set_has(&r->tagged, p->vlan))
		return LEAVE_TAGGED;
	if (r->untagged != p->vlan)
		return LEAVE_NOT;
	/*
	 * Without its own tag, the one behind it would be taken for it, and carry the frame into a
	 * VLAN that its sender chose.
	 */
	if (p->vlan && packet_has_tag(p)) {
		counter_add(&s->tx_vlan, 1);
		return LEAVE_NOT;
	}
	return LEAVE_AS_IS;
}

bool rules_deliver(struct port *from, struct port *to, struct packet **run, unsigned n)
{
	struct port_stats *s = stats_of(to);
	uint32_t tagged = 0;
	unsigned left = 0;

	(void)from;
	for (unsigned i = 0; i < n; i++) {
		struct packet *p = run[i];
		enum leave how = vlan_release(to, p, s);

		if (how == LEAVE_NOT)
			continue;
		if (how == LEAVE_TAGGED) {
			packet_tag_push(p, p->tci | p->vlan);
			tagged |= 1u << left;
		}
		run[left++] = p;
	}
	if (left == 0)
		return false;
	to->ops->deliver(to, run, left);
	if (to->ops->flush)
		to->ops->flush(to);
	for (; tagged; tagged &= tagged - 1)
		packet_tag_pop(run[__builtin_ctz(tagged)]);
	return true;
}
