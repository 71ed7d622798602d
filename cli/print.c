/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/print.h"

#include "cli/table.h"

#include <stdio.h>
#include <string.h>

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "-";
}

static json_int_t number(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static json_int_t counter(const json_t *j, const char *key)
{
	return number(json_object_get(j, "counters"), key);
}

/* "20.0 GiB" */
static const char *bytes(json_int_t n, char out[24])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)n;
	unsigned u = 0;

	for (; v >= 1024 && u + 1 < ARRAY_SIZE(units); u++)
		v /= 1024;
	snprintf(out, 24, u ? "%.1f %s" : "%.0f %s", v, units[u]);
	return out;
}

static const char *duration(double seconds, char out[32])
{
	unsigned long s = (unsigned long)seconds;

	if (s < 120)
		snprintf(out, 32, "%lu s", s);
	else if (s < 2 * 3600)
		snprintf(out, 32, "%lu min", s / 60);
	else if (s < 2 * 86400)
		snprintf(out, 32, "%lu h %lu min", s / 3600, s / 60 % 60);
	else
		snprintf(out, 32, "%lu d %lu h", s / 86400, s / 3600 % 24);
	return out;
}

/* "2/4": queues that run, of those there are. */
static const char *queues(const json_t *device, char out[32])
{
	const json_t *list = json_object_get(device, "queues"), *q;
	size_t i, running = 0;

	if (!list)
		return "-";
	json_array_foreach (list, i, q) {
		running += strcmp(text(q, "state"), "running") == 0;
	}
	snprintf(out, 32, "%zu/%zu", running, json_array_size(list));
	return out;
}

static void print_workers(const json_t *workers)
{
	struct table t = { .n_columns = 7, .right = 0x7e };
	const json_t *w;
	size_t i;

	for (const char *const *h = (const char *const[]) { "WORKER", "CPU", "POLLERS", "ACTIVE",
							    "BUSY", "SLEEPS", "WAKES", NULL };
	     *h; h++)
		table_add(&t, "%s", *h);
	json_array_foreach (workers, i, w) {
		table_add(&t, "%lld", number(w, "index"));
		if (json_is_integer(json_object_get(w, "cpu")))
			table_add(&t, "%lld", number(w, "cpu"));
		else
			table_add(&t, "any");
		table_add(&t, "%lld", number(w, "pollers"));
		table_add(&t, "%lld", number(w, "active"));
		table_add(&t, "%.1f %%", json_number_value(json_object_get(w, "busy_percent")));
		table_add(&t, "%lld", number(w, "sleeps"));
		table_add(&t, "%lld", number(w, "wakes"));
	}
	table_print(&t);
}

/* The reasons below the table: they are sentences, and would tear it apart. */
static void print_failures(const json_t *devices)
{
	const json_t *d;
	size_t i;

	json_array_foreach (devices, i, d) {
		if (json_object_get(d, "error"))
			printf("  %s: %s\n", text(d, "name"), text(d, "error"));
	}
}

/* What operators must know of: one line each, in words. */
static void print_faults(const json_t *disks)
{
	char since[32];
	const json_t *d;
	size_t i;

	json_array_foreach (disks, i, d) {
		const json_t *f = json_object_get(d, "last_fault");
		const json_t *lost = json_object_get(d, "lost");
		const json_t *stopped = json_object_get(d, "stopped");
		const json_t *hang = json_object_get(d, "no_answer");
		const json_t *server = json_object_get(d, "server");

		if (lost)
			printf("  %s: what could not be written back is lost: %s; flushes fail "
			       "until the disk is opened again\n",
			       text(d, "name"), text(lost, "reason"));
		if (f)
			printf("  %s: %s at sector %" JSON_INTEGER_FORMAT " failed %s ago: %s\n",
			       text(d, "name"), text(f, "operation"), number(f, "sector"),
			       duration(json_number_value(json_object_get(f, "ago_s")), since),
			       text(f, "reason"));
		if (stopped)
			printf("  %s: requests that wait for the disk to work: "
			       "%" JSON_INTEGER_FORMAT
			       ", for %s; tried again each second, or now: sluice disk retry %s\n",
			       text(d, "name"), number(stopped, "requests"),
			       duration(json_number_value(json_object_get(stopped, "since_s")),
					since),
			       text(d, "name"));
		if (server)
			printf("  %s: its server has been %s for %s: %s\n", text(d, "name"),
			       text(server, "state"),
			       duration(json_number_value(json_object_get(server, "since_s")),
					since),
			       text(server, "reason"));
		if (hang)
			printf("  %s: no answer from the disk to a %s at sector "
			       "%" JSON_INTEGER_FORMAT
			       " for %s; such requests: %" JSON_INTEGER_FORMAT "\n",
			       text(d, "name"), text(hang, "operation"), number(hang, "sector"),
			       duration(json_number_value(json_object_get(hang, "since_s")), since),
			       number(hang, "requests"));
	}
}

static void print_disks(const json_t *disks)
{
	struct table t = { .n_columns = 10, .right = 0x1fc };
	char b[24], q[32];
	const json_t *d;
	size_t i;

	if (json_array_size(disks) == 0)
		return;
	for (const char *const *h =
		     (const char *const[]) { "DISK", "STATE", "QUEUES", "SIZE", "READS", "READ",
					     "WRITES", "WRITTEN", "ERRORS", "SOCKET", NULL };
	     *h; h++)
		table_add(&t, "%s", *h);
	json_array_foreach (disks, i, d) {
		table_add(&t, "%s", text(d, "name"));
		table_add(&t, "%s", text(d, "state"));
		table_add(&t, "%s", queues(d, q));
		table_add(&t, "%s",
			  json_object_get(d, "capacity") ? bytes(number(d, "capacity"), b) : "-");
		table_add(&t, "%lld", counter(d, "reads"));
		table_add(&t, "%s", bytes(counter(d, "read_bytes"), b));
		table_add(&t, "%lld", counter(d, "writes"));
		table_add(&t, "%s", bytes(counter(d, "write_bytes"), b));
		table_add(&t, "%lld", counter(d, "errors"));
		table_add(&t, "%s", text(d, "socket"));
	}
	printf("\n");
	table_print(&t);
	print_failures(disks);
	print_faults(disks);
}

/* Why a port dropped frames, below the table: "web: dropped 3 tx_no_buffer, 1 rx_vlan". */
static void print_drops(const json_t *ports)
{
	const json_t *p, *value;
	const char *key;
	size_t i;

	json_array_foreach (ports, i, p) {
		json_t *drops = json_object_get(p, "drops");
		unsigned n = 0;

		json_object_foreach (drops, key, value) {
			if (n++ == 0)
				printf("  %s: dropped ", text(p, "name"));
			printf("%s%lld %s", n > 1 ? ", " : "", json_integer_value(value), key);
		}
		if (n)
			printf("\n");
	}
}

static void print_network(const json_t *n)
{
	struct table t = { .n_columns = 10, .right = 0x1f8 };
	const json_t *ports = json_object_get(n, "ports"), *p;
	char b[24], q[32];
	size_t i;

	printf("\nnetwork %s: %lld addresses known, %lld packets flooded\n", text(n, "name"),
	       number(n, "addresses"), counter(n, "flooded"));
	if (json_array_size(ports) == 0)
		return;
	for (const char *const *h =
		     (const char *const[]) { "PORT", "KIND", "STATE", "QUEUES", "IN", "IN BYTES",
					     "OUT", "OUT BYTES", "DROPPED", "AT", NULL };
	     *h; h++)
		table_add(&t, "%s", *h);
	json_array_foreach (ports, i, p) {
		table_add(&t, "%s", text(p, "name"));
		table_add(&t, "%s", text(p, "kind"));
		table_add(&t, json_is_false(json_object_get(p, "up")) ? "%s, down" : "%s",
			  text(p, "state"));
		table_add(&t, "%s", queues(p, q));
		table_add(&t, "%lld", counter(p, "rx_packets"));
		table_add(&t, "%s", bytes(counter(p, "rx_bytes"), b));
		table_add(&t, "%lld", counter(p, "tx_packets"));
		table_add(&t, "%s", bytes(counter(p, "tx_bytes"), b));
		table_add(&t, "%lld", counter(p, "dropped"));
		table_add(&t, "%s", text(p, json_object_get(p, "socket") ? "socket" : "device"));
	}
	table_print(&t);
	print_drops(ports);
	print_failures(ports);
}

void print_status(const json_t *status)
{
	const json_t *networks = json_object_get(status, "networks"), *n;
	const json_t *sandbox = json_object_get(status, "sandbox");
	const char *why = text(sandbox, "why");
	char up[32];
	size_t i;

	printf("sluiced %s, process %lld, user %s, up %s\n", text(status, "version"),
	       number(status, "pid"), text(status, "user"),
	       duration(json_number_value(json_object_get(status, "uptime_s")), up));
	printf("sandbox: seccomp %s, Landlock %s%s%s\n\n", text(sandbox, "seccomp"),
	       number(sandbox, "landlock") ? "on" : "off", why[0] ? ": " : "", why);
	print_workers(json_object_get(status, "workers"));
	print_disks(json_object_get(status, "disks"));
	json_array_foreach (networks, i, n) {
		print_network(n);
	}
}

/* "a b c" of an array of strings. */
static void print_words(const char *label, const json_t *words)
{
	const json_t *w;
	size_t i;

	printf("  %-18s", label);
	json_array_foreach (words, i, w) {
		printf("%s%s", i ? " " : "", json_string_value(w));
	}
	printf("%s\n", json_array_size(words) ? "" : "-");
}

static void print_value(const char *key, const json_t *value)
{
	if (json_is_string(value))
		printf("  %-18s%s\n", key, json_string_value(value));
	else if (json_is_integer(value))
		printf("  %-18s%lld\n", key, json_integer_value(value));
	else if (json_is_boolean(value))
		printf("  %-18s%s\n", key, json_is_true(value) ? "yes" : "no");
}

static void print_queues(const json_t *list)
{
	static const char *const keys[] = { "popped", "pushed", "calls", "calls_spared",
					    "kicks_on" };
	struct table t = { .n_columns = 10, .right = 0x3fc };
	const json_t *q;
	size_t i;

	for (const char *const *h = (const char *const[]) { "  QUEUE", "STATE", "LAYOUT", "SIZE",
							    "WORKER", "POPPED", "PUSHED", "CALLS",
							    "SPARED", "PARKED", NULL };
	     *h; h++)
		table_add(&t, "%s", *h);
	json_array_foreach (list, i, q) {
		const char *broken = json_string_value(json_object_get(q, "broken"));

		table_add(&t, "  %lld", number(q, "index"));
		table_add(&t, broken ? "broken: %s" : "%s", broken ? broken : text(q, "state"));
		table_add(&t, "%s", text(q, "layout"));
		table_add(&t, "%lld", number(q, "size"));
		if (json_object_get(q, "worker"))
			table_add(&t, "%lld", number(q, "worker"));
		else
			table_add(&t, "-");
		for (unsigned k = 0; k < ARRAY_SIZE(keys); k++)
			table_add(&t, "%lld", number(q, keys[k]));
	}
	table_print(&t);
}

/* "limit rx.bits", "limit iops": a number, or numbers in a map. */
static void print_limits(const json_t *limits, const char *in)
{
	char whole[40];
	json_t *value;
	const char *key;

	json_object_foreach ((json_t *)limits, key, value) {
		snprintf(whole, sizeof(whole), "%s%s%s", in, in[0] ? "." : "", key);
		if (json_is_object(value))
			print_limits(value, whole);
		else
			printf("  limit %-12s%" JSON_INTEGER_FORMAT "\n", whole,
			       json_integer_value(value));
	}
}

static void print_device(const char *kind, const json_t *d)
{
	const json_t *front_end = json_object_get(d, "front_end"), *value;
	json_t *faults = json_array();
	const char *key;

	printf("%s %s\n", kind, text(d, "name"));
	json_object_foreach ((json_t *)d, key, value) {
		if (json_is_string(json_array_get(value, 0)))
			print_words(key, value);
		else if (strcmp(key, "name") != 0)
			print_value(key, value);
	}
	print_limits(json_object_get(d, "limit"), "");
	print_limits(json_object_get(d, "flood_limit"), "");
	json_object_foreach ((json_t *)front_end, key, value) {
		if (json_is_array(value))
			print_words(key, value);
		else
			print_value(key, value);
	}
	json_object_foreach (json_object_get(d, "counters"), key, value) {
		print_value(key, value);
	}
	json_array_append(faults, (json_t *)d);
	print_faults(faults);
	json_decref(faults);
	if (json_object_get(d, "queues"))
		print_queues(json_object_get(d, "queues"));
}

static bool named(const json_t *j, const char *name)
{
	return strcmp(text(j, "name"), name) == 0;
}

static void print_macs(const json_t *network)
{
	const json_t *macs = json_object_get(network, "macs");
	struct table t = { .n_columns = 4, .right = 0xa };
	const json_t *m;
	size_t i;

	if (json_array_size(macs) == 0)
		return;
	table_add(&t, "  ADDRESS");
	table_add(&t, "VLAN");
	table_add(&t, "PORT");
	table_add(&t, "AGE");
	json_array_foreach (macs, i, m) {
		table_add(&t, "  %s", text(m, "mac"));
		if (number(m, "vlan"))
			table_add(&t, "%lld", number(m, "vlan"));
		else
			table_add(&t, "-");
		table_add(&t, "%s", text(m, "port"));
		table_add(&t, "%lld s", number(m, "age_s"));
	}
	table_print(&t);
	if (number(network, "macs_left_out"))
		printf("  and %lld more\n", number(network, "macs_left_out"));
}

bool print_named(const json_t *status, const char *name)
{
	const json_t *networks = json_object_get(status, "networks"), *n, *d;
	bool found = false;
	size_t i, j;

	json_array_foreach (json_object_get(status, "disks"), i, d) {
		if (named(d, name)) {
			print_device("disk", d);
			found = true;
		}
	}
	json_array_foreach (networks, i, n) {
		if (named(n, name)) {
			print_network(n);
			print_macs(n);
			found = true;
		}
		json_array_foreach (json_object_get(n, "ports"), j, d) {
			if (named(d, name)) {
				print_device("port", d);
				found = true;
			}
		}
	}
	return found;
}
