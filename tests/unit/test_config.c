/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration: what a good file gives, and the sentence for each bad one. */
#include "daemon/config.h"

#include "blk/blk.h"
#include "poll/worker.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct config *parse(const char *yaml, struct problems *p)
{
	*p = (struct problems) { .file = "t.yaml" };
	return config_parse(yaml, strlen(yaml), p);
}

static struct config *parse_good(const char *yaml)
{
	struct problems p;
	struct config *c = parse(yaml, &p);

	cr_assert(c, "refused: %s", p.n ? p.text[0] : "without a reason");
	cr_assert_eq(p.n, 0);
	return c;
}

/* Exactly the sentences @want (ends in NULL), in order. */
static void expect_problems(const char *yaml, const char *const *want)
{
	struct problems p;
	struct config *c = parse(yaml, &p);
	unsigned n = 0;

	cr_assert_null(c, "accepted:\n%s", yaml);
	for (; want[n]; n++) {
		cr_assert_lt(n, p.n, "missing: %s", want[n]);
		cr_expect_str_eq(p.text[n], want[n]);
	}
	cr_expect_eq(p.n, n, "one more: %s", p.n > n ? p.text[n] : "");
	problems_free(&p);
}

static void expect_problem(const char *yaml, const char *want)
{
	expect_problems(yaml, (const char *const[]) { want, NULL });
}

Test(config, empty_file_has_all_defaults)
{
	struct config *c = parse_good("# nothing\n");

	cr_assert_null(c->user);
	cr_assert_null(c->control.socket);
	cr_assert_eq(c->control.mode, 0660);
	cr_assert_eq(c->log.level, LOG_LEVEL_INFO);
	cr_assert_eq(c->workers.count, 1);
	cr_assert_eq(c->workers.cpus.n, 0);
	cr_assert_eq(c->workers.idle, IDLE_ADAPTIVE);
	cr_assert_eq(c->workers.idle_us, WORKER_IDLE_US_DEFAULT);
	cr_assert_eq(c->networks.n, 0);
	cr_assert_eq(c->disks.n, 0);
	config_free(c);
}

static const char full[] = "user: root\n"
			   "group: root\n"
			   "control: { socket: /run/c.sock, mode: 0600 }\n"
			   "log: { level: debug }\n"
			   "workers: { cpus: [0], idle: poll }\n"
			   "networks:\n"
			   "  - name: lan\n"
			   "    mac_ageing: 60\n"
			   "    mac_max: 128\n"
			   "    ports:\n"
			   "      - { name: web, socket: /run/w.sock, queues: 2, mac: "
			   "\"52:54:00:aB:00:01\", mtu: 9000, speed: 25000 }\n"
			   "      - { name: vm, socket: /run/vm.sock, connect: yes }\n"
			   "      - { name: up, dpdk: \"net_tap0,iface=sluice0\" }\n"
			   "disks:\n"
			   "  - name: root\n"
			   "    socket: /run/d.sock\n"
			   "    mode: 0666\n"
			   "    group: root\n"
			   "    file: /var/lib/a.raw\n"
			   "    read_only: true\n"
			   "    cache: writeback\n"
			   "    discard: false\n"
			   "    queues: 4\n"
			   "    serial: S-1\n"
			   "  - { name: nul, socket: /run/n.sock, null: 1T }\n"
			   "  - { name: ram, socket: /run/r.sock, ram: 64MiB }\n";

Test(config, full_file_gives_every_value)
{
	struct config *c = parse_good(full);
	struct network_config *n = config_network(c, 0);
	struct disk_config *d = config_disk(c, 0);

	cr_assert_str_eq(c->user, "root");
	cr_assert_str_eq(c->control.socket, "/run/c.sock");
	cr_assert_eq(c->control.mode, 0600);
	cr_assert_eq(c->log.level, LOG_LEVEL_DEBUG);
	cr_assert_eq(c->workers.cpus.n, 1);
	cr_assert_eq(c->workers.cpus.cpus[0], 0);
	cr_assert_eq(c->workers.idle, IDLE_POLL);
	cr_assert_eq(c->networks.n, 1);
	cr_assert_str_eq(n->name, "lan");
	cr_assert_eq(n->mac_ageing_s, 60);
	cr_assert_eq(n->mac_max, 128);
	cr_assert_eq(n->ports.n, 3);
	cr_assert_eq(config_port(n, 0)->queues, 2);
	cr_assert_arr_eq(config_port(n, 0)->mac, "\x52\x54\x00\xab\x00\x01", 6);
	cr_assert_eq(config_port(n, 0)->mtu, 9000);
	cr_assert_eq(config_port(n, 0)->speed, 25000);
	cr_assert(config_port(n, 1)->socket.connect);
	cr_assert_not(schema_given(config_port(n, 1), PORT_MAC));
	cr_assert_str_eq(config_port(n, 2)->dpdk, "net_tap0,iface=sluice0");
	cr_assert_eq(c->disks.n, 3);
	cr_assert_str_eq(d->file, "/var/lib/a.raw");
	cr_assert_eq(d->socket.mode, 0666);
	cr_assert_str_eq(d->socket.group, "root");
	cr_assert(d->read_only);
	cr_assert_eq(d->cache, DISK_CACHE_WRITEBACK);
	cr_assert_not(d->discard);
	cr_assert(config_disk(c, 1)->discard);
	cr_assert_eq(d->queues, 4);
	cr_assert_str_eq(d->serial, "S-1");
	cr_assert_eq(config_disk(c, 1)->null_size, UINT64_C(1) << 40);
	cr_assert_eq(config_disk(c, 1)->socket.mode, -1);
	cr_assert_eq(config_disk(c, 2)->ram_size, UINT64_C(64) << 20);
	config_free(c);
}

Test(config, json_is_read_too)
{
	struct config *c = parse_good("{\"disks\": [{\"name\": \"a\", \"socket\": \"/s\", "
				      "\"null\": \"10M\", \"queues\": 2, \"read_only\": true}]}");

	cr_assert_eq(config_disk(c, 0)->null_size, 10u << 20);
	cr_assert_eq(config_disk(c, 0)->queues, 2);
	config_free(c);
}

Test(config, cpus_are_a_list_or_a_text)
{
	struct config *c = parse_good("workers: { cpus: 0-0 }\n");

	cr_assert_eq(c->workers.cpus.n, 1);
	config_free(c);
}

Test(config, aliases_are_followed)
{
	struct config *c = parse_good("disks:\n"
				      "  - { name: a, socket: /a, null: &size 1M }\n"
				      "  - { name: b, socket: /b, null: *size }\n");

	cr_assert_eq(config_disk(c, 1)->null_size, 1u << 20);
	config_free(c);
}

/* One disk of the given keys. */
#define DISK(keys) "disks:\n  - name: a\n    socket: /s\n" keys

/* Each problem is one line of the log: a key may be any text. */
Test(config, a_key_with_control_characters_is_named_on_one_line)
{
	expect_problem("log: { \"x\\ny\\ez\": 1 }\n",
		       "t.yaml:1: log.x?y?z: unknown key (known keys: level)");
}

Test(config, unknown_key_is_named_with_the_nearest_known_one)
{
	expect_problem(DISK("    fille: /x\n"),
		       "t.yaml:4: disks[0].fille: unknown key; did you mean \"file\"? (known keys: "
		       "name, socket, connect, mode, group, file, null, ram, nbd, connections, "
		       "reconnect, timeout, read_only, cache, "
		       "lock, discard, "
		       "queues, serial, limit, on_error)");
	expect_problem(
		"zebra: 1\n",
		"t.yaml:1: zebra: unknown key (known keys: user, group, sandbox, control, log, "
		"workers, networks, disks)");
}

Test(config, wrong_types_say_what_is_wanted)
{
	expect_problem(DISK("    null: 1M\n    queues: four\n"),
		       "t.yaml:5: disks[0].queues: \"four\" is not a whole number from 1 to 256");
	expect_problem(DISK("    null: 1M\n    queues: \"4\"\n"),
		       "t.yaml:5: disks[0].queues: \"4\" is text, because of its quotes; write a "
		       "whole number from 1 to 256 without quotes");
	expect_problem(DISK("    null: 1M\n    queues: [4]\n"),
		       "t.yaml:5: disks[0].queues: a list stands where a whole number from 1 to "
		       "256 is wanted");
	expect_problem(DISK("    file: { a: b }\n"),
		       "t.yaml:4: disks[0].file: a map stands where the path of a raw image or "
		       "block device is wanted");
	expect_problem("disks: /x\n",
		       "t.yaml:1: disks: a single value stands where a list is wanted");
	expect_problem("workers: [1]\n", "t.yaml:1: workers: a list stands where a map of keys and "
					 "values is wanted");
	expect_problem("disks: [ 5 ]\n", "t.yaml:1: disks[0]: a single value stands where a map of "
					 "keys and values is wanted");
	expect_problem("- a\n", "t.yaml:1: a list stands where a map of keys and values is wanted");
	expect_problem(DISK("    null: 1M\n    read_only: maybe\n"),
		       "t.yaml:5: disks[0].read_only: \"maybe\" is not true or false");
	expect_problem(DISK("    file: /x\n    cache: big\n"),
		       "t.yaml:5: disks[0].cache: \"big\" is not one of none, writeback, "
		       "writethrough, unsafe");
	expect_problem("log: { level: loud }\n",
		       "t.yaml:1: log.level: \"loud\" is not one of error, warn, info, debug");
}

Test(config, a_key_without_value_is_refused)
{
	expect_problem(DISK("    null: 1M\n    serial:\n"),
		       "t.yaml:5: disks[0].serial: has no value; write text, or leave the key out");
}

Test(config, missing_keys_are_named)
{
	expect_problems("disks:\n  - null: 1M\n",
			(const char *const[]) {
				"t.yaml:2: disks[0].name: is missing; it must be a name",
				"t.yaml:2: disks[0].socket: is missing; it must be the path of a "
				"unix socket",
				NULL });
	expect_problem(DISK("    queues: 2\n"), "t.yaml:2: disks[0].file: is missing; a disk needs "
						"a file, an nbd URI, or a size for null or ram");
	expect_problem("networks: [{name: lan, ports: [{name: a}]}]\n",
		       "t.yaml:1: networks[0].ports[0].socket: is missing; a port needs a socket "
		       "for a guest, or a dpdk device");
}

Test(config, numbers_and_sizes_have_ranges)
{
	expect_problem(DISK("    null: 1M\n    queues: 0\n"),
		       "t.yaml:5: disks[0].queues: \"0\" is not a whole number from 1 to 256");
	expect_problem(DISK("    null: 1M\n    queues: 99999999999999999999999\n"),
		       "t.yaml:5: disks[0].queues: \"99999999999999999999999\" is not a whole "
		       "number from 1 to 256");
	expect_problem(DISK("    null: 0\n"), "t.yaml:4: disks[0].null: \"0\" is empty; a disk has "
					      "at least one sector of 512 bytes");
	expect_problem(DISK("    ram: 1000\n"), "t.yaml:4: disks[0].ram: \"1000\" is not a "
						"multiple of the sector size, 512 bytes");
	expect_problem(DISK("    ram: 1.5G\n"), "t.yaml:4: disks[0].ram: \"1.5G\" is not a size in "
						"bytes such as 512M or 20GiB");
	expect_problem(DISK("    ram: 99999999T\n"), "t.yaml:4: disks[0].ram: \"99999999T\" is not "
						     "a size in bytes such as 512M or 20GiB");
	expect_problem(DISK("    null: 1M\n    serial: 123456789012345678901\n"),
		       "t.yaml:5: disks[0].serial: is 21 bytes long; at most 20 are possible, "
		       "shorten it");
	expect_problem(DISK("    null: 1M\n    mode: 0888\n"),
		       "t.yaml:5: disks[0].mode: \"0888\" is not an octal file mode such as 0660");
}

Test(config, names_are_plain)
{
	expect_problem("disks: [{name: \"a b\", socket: /s, null: 1M}]\n",
		       "t.yaml:1: disks[0].name: \"a b\" is not a name; use letters, digits, "
		       "\".\", \"_\" and \"-\"");
	expect_problem("disks: [{name: -a, socket: /s, null: 1M}]\n",
		       "t.yaml:1: disks[0].name: \"-a\" does not start with a letter or digit; "
		       "names do");
	expect_problem("disks: [{name: \"a\\x1b\", socket: /s, null: 1M}]\n",
		       "t.yaml:1: disks[0].name: holds a control character; take it out");
	expect_problem("disks: [{name: \"a\\0b\", socket: /s, null: 1M}]\n",
		       "t.yaml:1: disks[0].name: holds a NUL character; take it out");
	expect_problem("disks: [{name: \"\", socket: /s, null: 1M}]\n",
		       "t.yaml:1: disks[0].name: is empty; give it a value or leave the key out");
}

Test(config, a_socket_path_must_fit_an_address)
{
	char yaml[400], path[120];

	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[108] = '\0';
	snprintf(yaml, sizeof(yaml), "disks: [{name: a, socket: %s, null: 1M}]\n", path);
	expect_problem(yaml, "t.yaml:1: disks[0].socket: is 108 bytes long; at most 107 are "
			     "possible, shorten it");
	path[107] = '\0';
	snprintf(yaml, sizeof(yaml), "disks: [{name: a, socket: %s, null: 1M}]\n", path);
	config_free(parse_good(yaml));
}

Test(config, macs_belong_to_one_card)
{
#define MAC(m) "networks: [{name: n, ports: [{name: p, socket: /s, mac: \"" m "\"}]}]\n"
	expect_problem(MAC("52:54:00:12:34"),
		       "t.yaml:1: networks[0].ports[0].mac: \"52:54:00:12:34\" is not a MAC "
		       "address such as 52:54:00:12:34:56");
	expect_problem(MAC("53:54:00:12:34:56"),
		       "t.yaml:1: networks[0].ports[0].mac: \"53:54:00:12:34:56\" is a multicast "
		       "address; a card's has an even first byte");
	expect_problem(MAC("00:00:00:00:00:00"),
		       "t.yaml:1: networks[0].ports[0].mac: \"00:00:00:00:00:00\" is no address; "
		       "leave the key out to let the VMM choose one");
}

Test(config, duplicates_name_the_first)
{
	expect_problem("disks:\n"
		       "  - { name: a, socket: /s, null: 1M }\n"
		       "  - { name: a, socket: /t, null: 1M }\n",
		       "t.yaml:3: disks[1].name: \"a\" is already taken by disks[0].name (line 2); "
		       "give each disk and port its own name");
	expect_problem("networks: [{name: n, ports: [{name: p, socket: /s}]}]\n"
		       "disks: [{name: a, socket: /s, null: 1M}]\n",
		       "t.yaml:2: disks[0].socket: \"/s\" is already taken by "
		       "networks[0].ports[0].socket (line 1); give each its own socket");
	expect_problem("disks:\n"
		       "  - { name: a, socket: /s, file: /x }\n"
		       "  - { name: b, socket: /t, file: /x }\n",
		       "t.yaml:3: disks[1].file: \"/x\" is already taken by disks[0].file (line "
		       "2); two disks that write one image destroy it; make them read_only, or "
		       "give each its own");
	expect_problem("log: { level: info }\nlog: { level: debug }\n",
		       "t.yaml:2: log: stands here twice (first on line 1); keep one");
}

Test(config, readers_may_share_an_image)
{
	config_free(parse_good("disks:\n"
			       "  - { name: a, socket: /s, file: /x, read_only: true }\n"
			       "  - { name: b, socket: /t, file: /x, read_only: true }\n"));
}

Test(config, cpus_exist_and_stand_once)
{
	char online[512], want[800];
	FILE *f = fopen("/sys/devices/system/cpu/online", "re");

	if (!f || !fgets(online, sizeof(online), f))
		cr_skip("no list of CPUs in /sys");
	fclose(f);
	online[strcspn(online, "\n")] = '\0';
	snprintf(want, sizeof(want),
		 "t.yaml:1: workers.cpus: CPU 60000 does not exist, or is offline; this machine "
		 "has %s",
		 online);
	expect_problem("workers: { cpus: [60000] }\n", want);
	expect_problem("workers: { cpus: [0, 0] }\n",
		       "t.yaml:1: workers.cpus: \"0\" names a CPU twice; name each once");
	expect_problem("workers: { cpus: [0, x] }\n",
		       "t.yaml:1: workers.cpus: \"x\" is not a list of CPU numbers such as [2, 3]");
	expect_problem("workers: { cpus: [] }\n", "t.yaml:1: workers.cpus: the list is empty; name "
						  "a CPU or leave the key out");
	expect_problem("workers: { cpus: [0], count: 2 }\n",
		       "t.yaml:1: workers.count: does not go with cpus, which says how many; leave "
		       "one of them out");
}

Test(config, limits_are_read_and_maxima_are_above_what_they_exceed)
{
	struct config *c = parse_good(DISK("    ram: 1M\n    limit: { iops: 20k, iops_max: 1M, "
					   "bandwidth_write: 200M, burst: 30, share: 300 }\n"));
	const struct blk_limits *l = &config_disk(c, 0)->limit.limits;

	cr_expect_eq(l->ops[BLK_LIMIT_ALL].rate, 20000);
	cr_expect_eq(l->ops[BLK_LIMIT_ALL].max, 1000000);
	cr_expect_eq(l->bytes[BLK_LIMIT_WRITE].rate, 200 << 20);
	cr_expect_eq(l->bytes[BLK_LIMIT_ALL].rate, 0);
	cr_expect_eq(l->burst_s, 30);
	cr_expect_eq(l->share, 300);
	config_free(c);
	expect_problem(DISK("    ram: 1M\n    limit: { share: 10001 }\n"),
		       "t.yaml:5: disks[0].limit.share: \"10001\" is not a whole number from 0 to "
		       "10000");
	expect_problem(DISK("    ram: 1M\n    limit: { iops_max: 5 }\n"),
		       "t.yaml:5: disks[0].limit.iops_max: is how far iops may be exceeded for a "
		       "while, and that is not set; set it, too");
	expect_problem(DISK("    ram: 1M\n    limit: { bandwidth: 2M, bandwidth_max: 1M }\n"),
		       "t.yaml:5: disks[0].limit.bandwidth_max: is less than bandwidth; make it "
		       "more, or leave it out");
	expect_problem(DISK("    ram: 1M\n    limit: { iops: 5, burst: 10 }\n"),
		       "t.yaml:5: disks[0].limit.burst: is for how long a maximum holds, and none "
		       "is set; set one, such as iops_max");
	expect_problem(
		DISK("    ram: 1M\n    limit: { iops: 5x }\n"),
		"t.yaml:5: disks[0].limit.iops: \"5x\" is not a number a second such as 20k");
	expect_problem(DISK("    ram: 1M\n    limit: 20k\n"),
		       "t.yaml:5: disks[0].limit: a single value stands where a map of keys and "
		       "values is wanted");
}

Test(config, keys_that_exclude_each_other)
{
	expect_problem(
		DISK("    file: /x\n    ram: 1M\n"),
		"t.yaml:5: disks[0].ram: a disk is one of file, nbd, null and ram; leave the "
		"others out");
	expect_problem(DISK("    ram: 1M\n    cache: none\n"),
		       "t.yaml:5: disks[0].cache: only goes with a file; leave it out");
	expect_problem(DISK("    ram: 1M\n    connect: true\n    mode: 0600\n"),
		       "t.yaml:6: disks[0].mode: does not go with connect: the front-end makes the "
		       "socket file");
	expect_problem(
		"networks: [{name: n, ports: [{name: p, dpdk: net_null0, queues: 2}]}]\n",
		"t.yaml:1: networks[0].ports[0].queues: does not go with dpdk; leave it out");
	expect_problem("networks: [{name: n, ports: [{name: p, dpdk: net_null0, socket: /s}]}]\n",
		       "t.yaml:1: networks[0].ports[0].dpdk: does not go with socket; make two "
		       "ports of them");
}

Test(config, users_and_groups_exist)
{
	expect_problem("user: no-such-user\n", "t.yaml:1: user: there is no user \"no-such-user\"; "
					       "make it, or name one that exists");
	expect_problem("group: no-such-group\n", "t.yaml:1: group: there is no group "
						 "\"no-such-group\"; make it, or name one that "
						 "exists");
}

Test(config, all_problems_of_a_file_are_told)
{
	expect_problems("log: { level: loud }\n"
			"disks:\n"
			"  - { name: a, socket: /s, fille: /x }\n"
			"  - { name: a, socket: /t, null: 1M, ram: 1M }\n",
			(const char *const[]) {
				"t.yaml:1: log.level: \"loud\" is not one of error, warn, info, "
				"debug",
				"t.yaml:3: disks[0].fille: unknown key; did you mean \"file\"? "
				"(known keys: name, socket, connect, mode, group, file, null, ram, "
				"nbd, connections, reconnect, timeout, "
				"read_only, cache, lock, discard, queues, serial, limit, on_error)",
				"t.yaml:4: disks[1].ram: a disk is one of file, nbd, null and ram; "
				"leave the others out",
				"t.yaml:4: disks[1].name: \"a\" is already taken by disks[0].name "
				"(line 3); give each disk and port its own name",
				NULL });
}

Test(config, ten_problems_are_kept_and_the_rest_counted)
{
	char yaml[400] = "";
	struct problems p;

	for (unsigned i = 0; i < 15; i++)
		snprintf(yaml + strlen(yaml), sizeof(yaml) - strlen(yaml), "k%u: 1\n", i);
	cr_assert_null(parse(yaml, &p));
	cr_assert_eq(p.n, PROBLEMS_MAX);
	cr_assert_gt(p.more, 0);
	problems_free(&p);
}

Test(config, yaml_that_is_none_names_the_line)
{
	expect_problem("disks:\n  - name: [a\nb: }\n",
		       "t.yaml:3: not valid YAML: did not find expected ',' or ']' while parsing a "
		       "flow sequence; check the indentation, brackets and quotes here");
	expect_problem("a: 1\n---\nb: 2\n", "t.yaml:2: a second document starts here; keep only "
					    "one, without a \"---\" between its parts");
	expect_problem("user: !!binary aaaa\n",
		       "t.yaml:1: the tag \"tag:yaml.org,2002:binary\" has no meaning here; leave "
		       "it out");
	expect_problem("? [a]\n: b\n", "t.yaml:1: a list stands where a key is wanted");
}

Test(config, deep_nesting_is_refused, .timeout = 5)
{
	static char yaml[100001];

	memset(yaml, '[', sizeof(yaml) - 1);
	expect_problem(yaml, "t.yaml:1: nested more than 16 deep; no configuration needs that");
}

/* A thousand disks, a thousand times: as text one MiB would hold far fewer. */
Test(config, aliases_do_not_multiply, .timeout = 5)
{
	static char yaml[200000];
	size_t used = 0;
	struct problems p;

	used += (size_t)sprintf(yaml, "networks:\n- {name: a, ports: &p [");
	for (unsigned i = 0; i < 4000; i++)
		used += (size_t)sprintf(yaml + used, "{name: p%u, socket: /%u},", i, i);
	used += (size_t)sprintf(yaml + used, "]}\n");
	for (unsigned i = 0; i < 2000; i++)
		used += (size_t)sprintf(yaml + used, "- {name: n%u, ports: *p}\n", i);
	cr_assert_null(parse(yaml, &p));
	cr_assert_gt(p.n, 0);
	problems_free(&p);
}

Test(config, a_file_that_cannot_be_read_is_named)
{
	struct problems p = { 0 };

	cr_assert_null(config_load("/nonexistent/sluice.yaml", &p));
	cr_assert_str_eq(p.text[0], "/nonexistent/sluice.yaml: cannot open it: No such file or "
				    "directory; name a configuration with --config FILE");
	problems_free(&p);
	cr_assert_null(config_load("/", &p));
	cr_assert_str_eq(p.text[0], "/: cannot read it: Is a directory; name a file with --config "
				    "FILE");
	problems_free(&p);
	cr_assert_null(config_load("/dev/zero", &p));
	cr_assert_str_eq(p.text[0], "/dev/zero: is over 1 MiB long; that is no configuration");
	problems_free(&p);
}

/* A broken file may be refused or, where the damage makes sense, read: never crash, hang or leak.
 */
Test(config, damaged_files_do_no_harm, .timeout = 60)
{
	static const char salt[] = "{}[]:,-#&*!|>'\"%@` \t\n0aZ~\\\x00\xff";
	uint64_t seed = 88172645463325252u;
	unsigned refused = 0;

	for (unsigned round = 0; round < 4000; round++) {
		char yaml[sizeof(full)];
		size_t len = sizeof(full) - 1;
		struct problems p = { .file = "t.yaml" };
		struct config *c;

		memcpy(yaml, full, sizeof(full));
		for (unsigned i = 0; i <= round % 8; i++) {
			seed ^= seed << 13; /* xorshift64: the same mutations in every run */
			seed ^= seed >> 7;
			seed ^= seed << 17;
			yaml[seed % len] = salt[(seed >> 32) % sizeof(salt)];
			if (seed >> 60 == 0)
				len = 1 + (seed >> 16) % (sizeof(full) - 1);
		}
		c = config_parse(yaml, len, &p);
		cr_assert_eq(c == NULL, p.n > 0);
		refused += c == NULL;
		config_free(c);
		problems_free(&p);
	}
	cr_assert_gt(refused, 2000);
}

#define PORT(keys)        \
	"networks:\n"     \
	"  - name: lan\n" \
	"    ports: [{ name: web, socket: /run/w.sock, " keys " }]\n"
#define PORT_SAYS(text) "t.yaml:3: networks[0].ports[0]." text

Test(config, vlans_of_a_port_are_one_or_a_trunk_of_several)
{
	struct config *c = parse_good(PORT("trunk: [10, 20-22, 4094], native: 1"));
	const struct port_config *p = config_port(config_network(c, 0), 0);
	char *text = value_vlans_text(&p->trunk);

	cr_assert_eq(p->vlan, 0);
	cr_assert_eq(p->native, 1);
	cr_assert_str_eq(text, "10,20-22,4094");
	free(text);
	config_free(c);
	c = parse_good(PORT("vlan: 4094"));
	cr_assert_eq(config_port(config_network(c, 0), 0)->vlan, 4094);
	config_free(c);
	c = parse_good(PORT("trunk: 1-4094"));
	text = value_vlans_text(&config_port(config_network(c, 0), 0)->trunk);
	cr_assert_str_eq(text, "1-4094");
	free(text);
	config_free(c);
	expect_problem(PORT("vlan: 10, trunk: [11]"),
		       PORT_SAYS("trunk: does not go with vlan; a port is in one VLAN, or a trunk "
				 "of several"));
	expect_problem(PORT("native: 10"), PORT_SAYS("native: only goes with a trunk; a port in "
						     "one VLAN has the key vlan"));
	expect_problem(PORT("trunk: [1-20], native: 10"),
		       PORT_SAYS("native: VLAN 10 is in trunk too; its frames have a tag there, or "
				 "none here"));
	expect_problem(PORT("vlan: 4095"),
		       PORT_SAYS("vlan: \"4095\" is not a whole number from 1 to 4094"));
	expect_problem(PORT("trunk: [0]"), PORT_SAYS("trunk: \"0\" is not a list of VLANs, 1 to "
						     "4094, such as [10, 20-30]"));
	expect_problem(PORT("trunk: [5, 3-7]"),
		       PORT_SAYS("trunk: \"3-7\" names a VLAN twice; name each once"));
	expect_problem(PORT("trunk: []"),
		       PORT_SAYS("trunk: the list is empty; name a VLAN or leave the key out"));
}

Test(config, rules_of_a_port_have_every_value)
{
	struct config *c = parse_good(
		PORT("limit: { rx: { bits: 1G, packets: 100k }, tx: { bits: 500M, bits_burst: 8M, "
		     "packets_burst: 32 } }, isolated: yes, macs: [\"52:54:00:00:00:01\"], ips: "
		     "[10.0.0.5, "
		     "10.1.0.0/16, \"fd00::/64\"], static_macs: \"52:54:00:00:00:02\", mac_max: 4, "
		     "flood_limit: { broadcast: 1k, unknown: 100 }"));
	const struct port_config *p = config_port(config_network(c, 0), 0);

	cr_assert_eq(p->limit.rx.bits, 1000000000);
	cr_assert_eq(p->limit.rx.packets, 100000);
	cr_assert_eq(p->limit.tx.bits, 500000000);
	cr_assert_eq(p->limit.tx.bits_burst, 8000000);
	cr_assert_eq(p->limit.tx.packets, 0);
	cr_assert_eq(p->limit.tx.packets_burst, 32);
	cr_assert(p->isolated);
	cr_assert_eq(p->macs.n, 1);
	cr_assert_arr_eq(p->macs.mac[0], "\x52\x54\0\0\0\1", 6);
	cr_assert_eq(p->ips.n, 3);
	cr_assert_eq(p->ips.ip[1].bits, 16);
	cr_assert_arr_eq(p->ips.ip[1].addr, "\x0a\x01\0\0", 4);
	cr_assert(p->ips.ip[2].v6);
	cr_assert_eq(p->ips.ip[2].bits, 64);
	cr_assert_eq(p->static_macs.n, 1);
	cr_assert_eq(p->mac_max, 4);
	cr_assert_eq(p->flood_limit.broadcast, 1000);
	cr_assert_eq(p->flood_limit.unknown, 100);
	config_free(c);
}

Test(config, addresses_of_a_port_that_are_none_are_named)
{
	static const char *const ips[] = { "10.0.0.256", "10.0.0.1/33", "10.0.0.1/24",
					   "10.0.0/8",	 "fd00::1/64",	"fd00::/129",
					   "fd00:::1",	 "10.0.0.1/",	"x" };
	char yaml[300], want[300];

	for (unsigned i = 0; i < ARRAY_SIZE(ips); i++) {
		snprintf(yaml, sizeof(yaml), PORT("ips: [\"%s\"]"), ips[i]);
		snprintf(want, sizeof(want),
			 PORT_SAYS("ips: \"%s\" is not a list of IP addresses and prefixes such as "
				   "[10.0.0.5, \"fd00::/64\"]"),
			 ips[i]);
		expect_problem(yaml, want);
	}
	expect_problem(PORT("ips: [10.0.0.1, 10.0.0.1/32]"),
		       PORT_SAYS("ips: \"10.0.0.1/32\" names an IP address twice; name each once"));
	expect_problem(
		PORT("macs: [\"01:54:00:00:00:01\"]"),
		PORT_SAYS("macs: \"01:54:00:00:00:01\" is not a list of MAC addresses such as "
			  "[\"52:54:00:12:34:56\"]"));
	expect_problem(PORT("limit: { rx: { bits: 9223372036854775808 } }"),
		       PORT_SAYS("limit.rx.bits: \"9223372036854775808\" is more than any port "
				 "does"));
	expect_problem(PORT("flood_limit: { unknown: 1000001G }"),
		       PORT_SAYS("flood_limit.unknown: \"1000001G\" is more than any port does"));
	expect_problem(PORT("limit: { rx: { bits: 1Gbit } }"),
		       PORT_SAYS("limit.rx.bits: \"1Gbit\" is not a number such as 500 or 20k"));
}
