/* SPDX-License-Identifier: Apache-2.0 */
/* Text to values. */
#include "daemon/config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

Test(value, counts_are_powers_of_1000)
{
	static const char *const bad[] = { "", "k", "1t", "1kk", "1 k", "-1", "1kiB", "1.5k" };
	uint64_t v;

	cr_expect(value_count("20k", &v) == 0 && v == 20000);
	cr_expect(value_count("3M", &v) == 0 && v == 3000000);
	cr_expect(value_count("1G", &v) == 0 && v == 1000000000);
	cr_expect(value_count("7", &v) == 0 && v == 7);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect_eq(value_count(bad[i], &v), -EINVAL, "%s", bad[i]);
	cr_expect_eq(value_count("18446744073709551615k", &v), -ERANGE);
}

Test(value, sizes_are_powers_of_1024)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },
		{ "512", 512 },
		{ "4k", 4096 },
		{ "4K", 4096 },
		{ "4KiB", 4096 },
		{ "3m", 3u << 20 },
		{ "20GiB", UINT64_C(20) << 30 },
		{ "1T", UINT64_C(1) << 40 },
		{ "16777215T", UINT64_C(16777215) << 40 },
		{ "18446744073709551615", UINT64_MAX },
	};
	static const char *const bad[] = { "",	"-1",  " 1",  "+1", "1 M",  "1.5G",
					   "G", "1MB", "1Mi", "1P", "0x10", "1MiBx" };
	uint64_t v = 7;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		cr_expect_eq(value_size(good[i].text, &v), 0, "%s", good[i].text);
		cr_expect_eq(v, good[i].bytes, "%s", good[i].text);
	}
	v = 7;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect_eq(value_size(bad[i], &v), -EINVAL, "%s", bad[i]);
	cr_expect_eq(value_size("16777216T", &v), -ERANGE);
	cr_expect_eq(value_size("18446744073709551616", &v), -ERANGE);
	cr_expect_eq(v, 7, "a refused text leaves the value alone");
}

Test(value, numbers_are_plain_digits)
{
	uint64_t v;

	cr_expect_eq(value_number("42", &v), 0);
	cr_expect_eq(v, 42);
	cr_expect_eq(value_number("010", &v), 0);
	cr_expect_eq(v, 10, "decimal, whatever C says of a leading 0");
	cr_expect_eq(value_number("4k", &v), -EINVAL);
	cr_expect_eq(value_number("-4", &v), -EINVAL);
	cr_expect_eq(value_number("99999999999999999999", &v), -ERANGE);
}

Test(value, modes_are_octal)
{
	int v;

	cr_expect_eq(value_mode("0660", &v), 0);
	cr_expect_eq(v, 0660);
	cr_expect_eq(value_mode("660", &v), 0);
	cr_expect_eq(v, 0660);
	cr_expect_eq(value_mode("1777", &v), -ERANGE);
	cr_expect_eq(value_mode("0o660", &v), -EINVAL);
	cr_expect_eq(value_mode("", &v), -EINVAL);
}

Test(value, macs_have_six_bytes)
{
	uint8_t mac[6];

	cr_expect_eq(value_mac("02:00:00:aA:Ff:09", mac), 0);
	cr_expect_arr_eq(mac, "\x02\x00\x00\xaa\xff\x09", 6);
	cr_expect_eq(value_mac("02:00:00:aa:ff", mac), -EINVAL);
	cr_expect_eq(value_mac("02-00-00-aa-ff-09", mac), -EINVAL);
	cr_expect_eq(value_mac("02:00:00:aa:ff:0g", mac), -EINVAL);
	cr_expect_eq(value_mac("02:00:00:aa:ff:09:", mac), -EINVAL);
}

Test(value, cpu_lists_hold_numbers_and_ranges)
{
	static const char *const bad[] = {
		"", "1,", ",1", "3-1", "a", "1-", "1;2", "1 2", "0-9999"
	};
	struct cpu_list list = { 0 };

	cr_assert_eq(value_cpus("7,2-4", &list), 0);
	cr_assert_eq(list.n, 4);
	cr_expect_eq(list.cpus[0], 7);
	cr_expect_eq(list.cpus[3], 4);
	cr_expect_eq(value_cpus("3", &list), -EEXIST);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		list.n = 0;
		cr_expect_eq(value_cpus(bad[i], &list), -EINVAL, "%s", bad[i]);
	}
	cr_expect_eq(value_cpus("70000", &list), -ERANGE);
	free(list.cpus);
}

Test(value, distance_counts_letters_to_change)
{
	cr_expect_eq(value_distance("file", "file"), 0);
	cr_expect_eq(value_distance("fille", "file"), 1);
	cr_expect_eq(value_distance("", "file"), 4);
	cr_expect_eq(value_distance("soket", "socket"), 1);
	cr_expect_eq(value_distance("kitten", "sitting"), 3);
}

/* However many runs there are, none is left out: the text is read back as the same VLANs. */
Test(value, vlans_are_told_whole)
{
	static const struct {
		unsigned of, run; /* the first @run of each @of VLANs */
	} lists[] = { { 1, 1 }, { 2, 1 }, { 3, 2 }, { 4, 3 }, { 5000, 0 } };

	for (unsigned i = 0; i < ARRAY_SIZE(lists); i++) {
		struct vlan_list list = { 0 }, again = { 0 };
		char *text;

		for (unsigned v = 1; v <= VALUE_VLAN_MAX; v++)
			if (v % lists[i].of < lists[i].run || lists[i].of == 1)
				list.bits[v / 64] |= UINT64_C(1) << v % 64;
		text = value_vlans_text(&list);
		if (lists[i].run)
			cr_expect_eq(value_vlans(text, &again), 0, "%s", text);
		else
			cr_expect_str_eq(text, "");
		cr_expect_arr_eq(&list, &again, sizeof(list), "%u of %u", lists[i].run,
				 lists[i].of);
		free(text);
	}
}

/* A copy owns what it has, and a key that is taken out is as if it had never been there. */
Test(schema, a_copy_stands_alone)
{
	static const char yaml[] = "{ name: web, socket: /run/w.sock, trunk: 10-20, native: 5, "
				   "macs: [\"52:54:00:00:00:01\"], mtu: 9000 }";
	struct port_config port, copy;
	struct problems p = { 0 };

	schema_init(&port_schema, &port, "ports[0]", 1);
	schema_load(&port_schema, &port, yaml, strlen(yaml), &p);
	cr_assert_eq(p.n, 0);
	schema_copy(&port_schema, &copy, &port);
	schema_unset(&port_schema, &copy, PORT_TRUNK);
	schema_unset(&port_schema, &copy, PORT_MACS);
	cr_expect(port.trunk.bits[0] && port.macs.n == 1 && schema_given(&port, PORT_TRUNK));
	cr_expect(!copy.trunk.bits[0] && copy.macs.n == 0 && !schema_given(&copy, PORT_TRUNK));
	cr_expect(copy.native == 5 && copy.mtu == 9000);
	schema_problem(&port_schema, &copy, PORT_NATIVE, &p, "is wrong");
	cr_expect_str_eq(p.text[0], "native: is wrong");
	schema_free(&port_schema, &port);
	cr_expect_str_eq(copy.name, "web");
	cr_expect_str_eq(copy.socket.path, "/run/w.sock");
	schema_free(&port_schema, &copy);
	problems_free(&p);
}
