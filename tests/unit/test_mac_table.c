/* SPDX-License-Identifier: Apache-2.0 */
/* The MAC table alone, and then with workers' threads learning while the control thread takes out.
 */
#include "base/clock.h"
#include "net/mac_table.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <urcu/urcu-qsbr.h>

static struct mac_table *table(unsigned max, unsigned ports)
{
	struct mac_table *t = NULL;

	cr_assert_eq(mac_table_create(max, ports, &t), 0);
	return t;
}

static mac_key_t key_n(uint32_t n, uint16_t vlan)
{
	uint8_t mac[6] = { 0x02, 0, n >> 24, n >> 16, n >> 8, n };

	return mac_key(mac, vlan);
}

Test(mac_table, create_refuses_a_size_of_zero_and_beyond_the_limit)
{
	struct mac_table *t = NULL;

	cr_assert_eq(mac_table_create(0, 4, &t), -22);
	cr_assert_eq(mac_table_create(MAC_TABLE_MAX + 1, 4, &t), -22);
	cr_assert_null(t);
}

Test(mac_table, learned_address_is_found_with_its_port_and_vlan)
{
	struct mac_table *t = table(100, 4);

	cr_assert_eq(mac_table_lookup(t, key_n(1, 0)), MAC_PORT_NONE);
	cr_assert_eq(mac_table_learn(t, key_n(1, 0), 3, 10), MAC_NEW);
	cr_assert_eq(mac_table_learn(t, key_n(1, 7), 2, 10), MAC_NEW);
	cr_assert_eq(mac_table_learn(t, key_n(1, 0), 3, 11), MAC_KNOWN);
	cr_assert_eq(mac_table_lookup(t, key_n(1, 0)), 3);
	cr_assert_eq(mac_table_lookup(t, key_n(1, 7)), 2);
	cr_assert_eq(mac_table_lookup(t, key_n(1, 8)), MAC_PORT_NONE);
	cr_assert_eq(mac_table_count(t), 2);
	cr_assert_eq(mac_table_count_port(t, 3), 1);
	mac_table_destroy(t);
}

Test(mac_table, station_move_changes_the_port_and_the_counts)
{
	struct mac_table *t = table(100, 4);

	mac_table_learn(t, key_n(1, 0), 0, 10);
	cr_assert_eq(mac_table_learn(t, key_n(1, 0), 1, 10), MAC_MOVED);
	cr_assert_eq(mac_table_lookup(t, key_n(1, 0)), 1);
	cr_assert_eq(mac_table_count_port(t, 0), 0);
	cr_assert_eq(mac_table_count_port(t, 1), 1);
	cr_assert_eq(mac_table_count(t), 1);
	mac_table_destroy(t);
}

Test(mac_table, ageing_takes_out_what_was_last_seen_before_and_nothing_else)
{
	struct mac_table *t = table(100, 4);

	for (uint32_t i = 0; i < 10; i++)
		mac_table_learn(t, key_n(i, 0), 0, 100 + i);
	mac_table_learn(t, key_n(2, 0), 0, 200); /* seen again */
	cr_assert_eq(mac_table_age(t, 105), 4);
	for (uint32_t i = 0; i < 10; i++)
		cr_assert_eq(mac_table_lookup(t, key_n(i, 0)) == 0, i == 2 || i >= 5, "%u", i);
	cr_assert_eq(mac_table_count(t), 6);
	cr_assert_eq(mac_table_count_port(t, 0), 6);
	cr_assert_eq(mac_table_age(t, 105), 0);
	mac_table_destroy(t);
}

Test(mac_table, seconds_that_wrap_around_do_not_age_what_is_new)
{
	struct mac_table *t = table(100, 4);

	mac_table_learn(t, key_n(1, 0), 0, UINT32_MAX - 1);
	mac_table_learn(t, key_n(2, 0), 0, 3);
	cr_assert_eq(mac_table_age(t, 1), 1);
	cr_assert_eq(mac_table_lookup(t, key_n(2, 0)), 0);
	mac_table_destroy(t);
}

Test(mac_table, purge_takes_out_one_port_and_its_entries_can_be_used_again)
{
	struct mac_table *t = table(64, 4);

	for (unsigned round = 0; round < 50; round++) {
		for (uint32_t i = 0; i < 20; i++) {
			cr_assert_eq(mac_table_learn(t, key_n(i, 0), 1, 1), MAC_NEW);
			cr_assert_eq(mac_table_learn(t, key_n(1000 + i, 0), 2, 1),
				     round ? MAC_KNOWN : MAC_NEW);
		}
		cr_assert_eq(mac_table_purge(t, 1), 20);
		cr_assert_eq(mac_table_count_port(t, 1), 0);
		cr_assert_eq(mac_table_count(t), 20);
		cr_assert_eq(mac_table_lookup(t, key_n(0, 0)), MAC_PORT_NONE);
		cr_assert_eq(mac_table_lookup(t, key_n(1000, 0)), 2);
	}
	mac_table_destroy(t);
}

/* @return how many of many addresses the port was allowed. */
static unsigned flood(struct mac_table *t, uint32_t port, uint32_t first)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < 10000; i++)
		n += mac_table_learn(t, key_n(first + i, 0), port, 1) == MAC_NEW;
	return n;
}

Test(mac_table, flooding_port_gets_half_and_leaves_room_for_the_others)
{
	struct mac_table *t = table(1000, 8);

	mac_table_learn(t, key_n(1, 0), 5, 1);
	cr_assert_eq(flood(t, 0, 100000), 500);
	cr_assert_eq(mac_table_learn(t, key_n(99, 0), 0, 1), MAC_FULL);
	cr_assert_eq(mac_table_lookup(t, key_n(1, 0)), 5, "an innocent entry stays");
	cr_assert_eq(mac_table_learn(t, key_n(2, 0), 5, 1), MAC_NEW, "and can be joined");
	/* The next ones share what remains. */
	cr_assert_eq(flood(t, 1, 200000), 249);
	cr_assert_eq(mac_table_learn(t, key_n(3, 0), 5, 1), MAC_NEW);
	cr_assert_eq(mac_table_count(t), 500 + 249 + 3);
	mac_table_destroy(t);
}

Test(mac_table, every_port_may_have_sixteen_while_there_is_any_room)
{
	struct mac_table *t = table(100, 8);

	cr_assert_eq(flood(t, 0, 100000), 50);
	cr_assert_eq(flood(t, 1, 200000), 25);
	cr_assert_eq(flood(t, 2, 300000), 16);
	cr_assert_eq(flood(t, 3, 400000), 9, "and then it is full");
	cr_assert_eq(mac_table_count(t), 100);
	cr_assert_eq(mac_table_learn(t, key_n(1, 0), 4, 1), MAC_FULL);
	/* A full table still knows moves. */
	cr_assert_eq(mac_table_learn(t, key_n(100000, 0), 4, 1), MAC_MOVED);
	cr_assert_eq(mac_table_lookup(t, key_n(100000, 0)), 4);
	mac_table_destroy(t);
}

/* One learns, the other takes what it has learned, and the first learns on in the room it has then.
 */
Test(mac_table, two_ports_that_work_together_get_no_more_than_two_shares)
{
	struct mac_table *t = table(1000, 8);

	for (uint32_t round = 0; round < 10; round++) {
		flood(t, 0, 100000 + round * 10000);
		for (uint32_t i = 0; i < (round + 1) * 10000; i++)
			if (mac_table_lookup(t, key_n(100000 + i, 0)) == 0)
				mac_table_learn(t, key_n(100000 + i, 0), 1, 1);
		flood(t, 1, 500000 + round * 10000);
	}
	cr_assert_leq(mac_table_count(t), 750);
	cr_assert_eq(mac_table_learn(t, key_n(1, 0), 5, 1), MAC_NEW);
	mac_table_age(t, 2);
	cr_assert_eq(mac_table_count(t), 0);
	cr_assert_eq(flood(t, 0, 100000), 500, "all is given back");
	mac_table_destroy(t);
}

Test(mac_table, fixed_addresses_need_no_share_and_count_for_no_limit)
{
	struct mac_table *t = table(100, 4);

	mac_table_set_max(t, 1, 2);
	for (uint32_t i = 0; i < 80; i++)
		cr_assert(mac_table_fix(t, key_n(i, 0), 1), "%u", i);
	cr_assert_eq(mac_table_count_port(t, 1), 0);
	cr_assert_eq(mac_table_learn(t, key_n(100, 0), 1, 1), MAC_NEW);
	cr_assert_eq(mac_table_learn(t, key_n(101, 0), 1, 1), MAC_NEW);
	cr_assert_eq(mac_table_learn(t, key_n(102, 0), 1, 1), MAC_FULL);
	cr_assert_eq(mac_table_learn(t, key_n(5, 0), 2, 1), MAC_KNOWN);
	cr_assert_eq(mac_table_lookup(t, key_n(5, 0)), 1);
	cr_assert_eq(flood(t, 2, 1000), 16);
	cr_assert_eq(flood(t, 3, 2000), 2);
	cr_assert(mac_table_fix(t, key_n(2000, 0), 1), "one that another has learned");
	cr_assert_not(mac_table_fix(t, key_n(3000, 0), 1), "and there is no other left");
	cr_assert_eq(mac_table_age(t, 5), 100 - 81);
	cr_assert_eq(mac_table_purge(t, 1), 81);
	cr_assert_eq(mac_table_count(t), 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(mac_table_count_port(t, i), 0);
	mac_table_destroy(t);
}

Test(mac_table, whose_share_is_used_up_can_still_have_fixed_ones)
{
	struct mac_table *t = table(100, 4);

	mac_table_set_max(t, 0, 50);
	cr_assert_eq(flood(t, 0, 1000), 50);
	for (uint32_t i = 0; i < 50; i++)
		cr_assert(mac_table_fix(t, key_n(i, 0), 0), "%u", i);
	cr_assert_not(mac_table_fix(t, key_n(50, 0), 0));
	mac_table_destroy(t);
}

/* As when the rules of a port change: what stays fixed keeps its entry in a table that is full. */
Test(mac_table, fixed_anew_in_a_full_table)
{
	struct mac_table *t = table(20, 4);

	for (uint32_t i = 0; i < 4; i++)
		cr_assert(mac_table_fix(t, key_n(i, 0), 0));
	mac_table_learn(t, key_n(9, 0), 0, 1);
	flood(t, 1, 1000);
	cr_assert_eq(mac_table_count(t), 20);
	mac_table_unfix(t, 0);
	cr_assert_eq(mac_table_lookup(t, key_n(1000, 0)), 1, "others have what they had");
	cr_assert_eq(mac_table_count_port(t, 0), 5);
	flood(t, 1, 1000);
	cr_assert_eq(mac_table_learn(t, key_n(1, 0), 1, 1), MAC_MOVED, "in that moment it may");
	cr_assert(mac_table_fix(t, key_n(1, 0), 0));
	cr_assert(mac_table_fix(t, key_n(2, 0), 0));
	cr_assert_eq(mac_table_forget(t, 0), 3);
	for (uint32_t i = 0; i < 4; i++)
		cr_assert_eq(mac_table_lookup(t, key_n(i, 0)) == 0, i == 1 || i == 2, "%u", i);
	cr_assert_eq(mac_table_count(t), 17);
	/* What was fixed and is free now is nobody's. */
	cr_assert_eq(mac_table_purge(t, 0), 2);
	mac_table_unfix(t, 0);
	cr_assert_eq(mac_table_count_port(t, 0), 0);
	mac_table_destroy(t);
}

static void sum_ports(const uint8_t mac[6], uint16_t vlan, uint32_t port, uint32_t seen_s,
		      void *arg)
{
	uint64_t *sum = arg;

	*sum += mac[5] + 1000u * vlan + 100000u * port + 10000000ull * seen_s;
}

Test(mac_table, for_each_visits_every_entry_once)
{
	struct mac_table *t = table(100, 4);
	uint64_t sum = 0;

	mac_table_learn(t, key_n(1, 2), 3, 4);
	mac_table_learn(t, key_n(5, 0), 1, 6);
	mac_table_for_each(t, sum_ports, &sum);
	cr_assert_eq(sum, 1 + 2000 + 300000 + 40000000 + 5 + 100000 + 60000000);
	mac_table_destroy(t);
}

struct racer {
	pthread_t thread;
	struct mac_table *t;
	uint32_t port;
	bool stop;
	uint64_t learned, moved, wrong;
};

static void *race(void *arg)
{
	struct racer *r = arg;
	uint32_t x = r->port + 1;

	urcu_qsbr_register_thread();
	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		for (unsigned i = 0; i < 32; i++) {
			x = x * 1664525 + 1013904223;
			enum mac_learned rc = mac_table_learn(r->t, key_n(x >> 24, 0), r->port, 1);
			uint32_t port = mac_table_lookup(r->t, key_n(x >> 16 & 0xff, 0));

			r->learned += rc == MAC_NEW;
			r->moved += rc == MAC_MOVED;
			r->wrong += port != MAC_PORT_NONE && port > 2;
		}
		urcu_qsbr_quiescent_state();
	}
	urcu_qsbr_unregister_thread();
	return NULL;
}

/* Three threads learn and steal the same 256 addresses while we take them out under their feet. */
Test(mac_table, workers_learn_and_move_while_the_control_thread_takes_out, .timeout = 60)
{
	struct racer racers[3] = { 0 };
	struct mac_table *t = table(200, 3);
	uint64_t learned = 0, taken = 0, moved = 0;

	for (unsigned i = 0; i < 3; i++) {
		racers[i].t = t;
		racers[i].port = i;
		cr_assert_eq(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
	}
	for (uint64_t i = 0, until = clock_ns() + 500000000; clock_ns() < until; i++)
		taken += i % 3 ? mac_table_purge(t, i % 2) : mac_table_age(t, 2);
	for (unsigned i = 0; i < 3; i++)
		__atomic_store_n(&racers[i].stop, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(racers[i].thread, NULL);
		learned += racers[i].learned;
		moved += racers[i].moved;
		cr_assert_eq(racers[i].wrong, 0);
	}
	/* Nothing was lost, nothing doubled: not an entry, not a count. */
	cr_assert_gt(taken, 0);
	cr_assert_gt(moved, 0);
	cr_assert_eq(learned, taken + mac_table_count(t));
	cr_assert_eq(mac_table_count(t), mac_table_count_port(t, 0) + mac_table_count_port(t, 1) +
						 mac_table_count_port(t, 2));
	mac_table_age(t, 2);
	cr_assert_eq(mac_table_count(t), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(mac_table_count_port(t, i), 0);
	mac_table_destroy(t);
}

/* Fixed on a worker, as the switch does, while others take them: once fixed, they stay. */
Test(mac_table, what_is_fixed_while_workers_move_it_stays_with_its_port, .timeout = 60)
{
	struct racer racers[2] = { 0 };
	struct mac_table *t = table(400, 3);

	urcu_qsbr_register_thread();
	for (unsigned i = 0; i < 2; i++) {
		racers[i].t = t;
		racers[i].port = i;
		cr_assert_eq(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
	}
	for (uint64_t until = clock_ns() + 500000000; clock_ns() < until;) {
		for (uint32_t i = 0; i < 256; i++)
			cr_assert(mac_table_fix(t, key_n(i, 0), 2));
		for (uint32_t i = 0; i < 256; i++)
			cr_assert_eq(mac_table_lookup(t, key_n(i, 0)), 2, "%u", i);
		urcu_qsbr_quiescent_state();
		mac_table_unfix(t, 2);
	}
	for (unsigned i = 0; i < 2; i++)
		__atomic_store_n(&racers[i].stop, true, __ATOMIC_RELAXED);
	urcu_qsbr_thread_offline();
	for (unsigned i = 0; i < 2; i++)
		pthread_join(racers[i].thread, NULL);
	urcu_qsbr_unregister_thread();
	cr_assert_gt(racers[0].moved + racers[1].moved, 0);
	mac_table_age(t, 2);
	cr_assert_eq(mac_table_count(t), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(mac_table_count_port(t, i), 0);
	mac_table_destroy(t);
}
