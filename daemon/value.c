/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/value.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int value_bool(const char *text, bool *out)
{
	static const struct {
		const char *name;
		bool value;
	} names[] = {
		{ "true", true }, { "false", false }, { "yes", true },
		{ "no", false },  { "on", true },     { "off", false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcasecmp(text, names[i].name) == 0) {
			*out = names[i].value;
			return 0;
		}
	}
	return -EINVAL;
}

/* strtoull() takes blanks and signs; a configuration does not. */
static int digits(const char *text, const char **end, uint64_t *out)
{
	char *stop;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	unsigned long long v = strtoull(text, &stop, 10);

	if (errno)
		return -ERANGE;
	*end = stop;
	*out = v;
	return 0;
}

int value_number(const char *text, uint64_t *out)
{
	const char *end;
	uint64_t v;
	int rc = digits(text, &end, &v);

	if (rc)
		return rc;
	if (*end)
		return -EINVAL;
	*out = v;
	return 0;
}

int value_size(const char *text, uint64_t *out)
{
	static const char units[] = "kmgt";
	const char *end;
	unsigned shift = 0;
	uint64_t v;
	int rc = digits(text, &end, &v);

	if (rc)
		return rc;
	if (*end) {
		const char *unit = strchr(units, tolower((unsigned char)*end));

		if (!unit)
			return -EINVAL;
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
		if (*end && strcmp(end, "iB") != 0)
			return -EINVAL;
	}
	if (v > UINT64_MAX >> shift)
		return -ERANGE;
	*out = v << shift;
	return 0;
}

int value_count(const char *text, uint64_t *out)
{
	static const char units[] = "kmg";
	uint64_t v, factor = 1;
	const char *end;
	int rc = digits(text, &end, &v);

	if (rc)
		return rc;
	if (*end) {
		const char *unit = strchr(units, tolower((unsigned char)*end));

		if (!unit || end[1])
			return -EINVAL;
		for (const char *u = units; u <= unit; u++)
			factor *= 1000;
	}
	if (v > UINT64_MAX / factor)
		return -ERANGE;
	*out = v * factor;
	return 0;
}

int value_mode(const char *text, int *out)
{
	unsigned v = 0;

	if (!*text)
		return -EINVAL;
	for (const char *c = text; *c; c++) {
		if (*c < '0' || *c > '7')
			return -EINVAL;
		v = v * 8 + (unsigned)(*c - '0');
		if (v > 0777)
			return -ERANGE;
	}
	*out = (int)v;
	return 0;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int value_mac(const char *text, uint8_t out[6])
{
	uint8_t mac[6];

	if (strlen(text) != 17)
		return -EINVAL;
	for (unsigned i = 0; i < 6; i++) {
		int hi = hex(text[3 * i]), lo = hex(text[3 * i + 1]);

		if (hi < 0 || lo < 0 || (i < 5 && text[3 * i + 2] != ':'))
			return -EINVAL;
		mac[i] = (uint8_t)(hi << 4 | lo);
	}
	memcpy(out, mac, sizeof(mac));
	return 0;
}

static int add_cpu(void *to, unsigned cpu)
{
	struct cpu_list *list = to;

	for (unsigned i = 0; i < list->n; i++)
		if (list->cpus[i] == cpu)
			return -EEXIST;
	list->cpus = realloc(list->cpus, (list->n + 1) * sizeof(*list->cpus));
	if (!list->cpus)
		abort();
	list->cpus[list->n++] = cpu;
	return 0;
}

/* Calls add() for each number of "2,3,6-8". */
static int each_number(const char *text, unsigned max, int (*add)(void *list, unsigned n),
		       void *list)
{
	const char *at = text;
	uint64_t first, last;
	int rc;

	for (;;) {
		rc = digits(at, &at, &first);
		if (rc)
			return rc;
		last = first;
		if (*at == '-') {
			rc = digits(at + 1, &at, &last);
			if (rc)
				return rc;
		}
		if (last > max)
			return -ERANGE;
		/* No machine has so many: a range this long would only cost time and memory. */
		if (last < first || last - first >= 4096)
			return -EINVAL;
		for (; first <= last; first++) {
			rc = add(list, (unsigned)first);
			if (rc)
				return rc;
		}
		if (*at == '\0')
			return 0;
		if (*at++ != ',')
			return -EINVAL;
	}
}

int value_cpus(const char *text, struct cpu_list *out)
{
	return each_number(text, VALUE_CPU_MAX, add_cpu, out);
}

static int add_vlan(void *list, unsigned vlan)
{
	struct vlan_list *l = list;

	if (vlan == 0)
		return -ERANGE;
	if (l->bits[vlan / 64] >> vlan % 64 & 1)
		return -EEXIST;
	l->bits[vlan / 64] |= UINT64_C(1) << vlan % 64;
	return 0;
}

int value_vlans(const char *text, struct vlan_list *out)
{
	return each_number(text, VALUE_VLAN_MAX, add_vlan, out);
}

char *value_vlans_text(const struct vlan_list *list)
{
	/* A number stands for a VLAN of its own, has four digits at most, and one sign before it.
	 */
	const size_t size = 5 * VALUE_VLAN_MAX + 1;
	char *out = malloc(size);
	size_t used = 0;

	if (!out)
		abort();
	out[0] = '\0';
	for (unsigned first = 1; first <= VALUE_VLAN_MAX; first++) {
		unsigned last = first;

		if (!(list->bits[first / 64] >> first % 64 & 1))
			continue;
		while (last < VALUE_VLAN_MAX && list->bits[(last + 1) / 64] >> (last + 1) % 64 & 1)
			last++;
		used += (size_t)snprintf(out + used, size - used, "%s%u", used ? "," : "", first);
		if (last > first)
			used += (size_t)snprintf(out + used, size - used, "-%u", last);
		assert(used < size);
		first = last;
	}
	return out;
}

int value_macs(const char *text, struct value_macs *out)
{
	static const uint8_t none[6];
	uint8_t mac[6];
	int rc = value_mac(text, mac);

	if (rc)
		return rc;
	if (mac[0] & 1 || memcmp(mac, none, 6) == 0)
		return -EINVAL;
	for (unsigned i = 0; i < out->n; i++)
		if (memcmp(out->mac[i], mac, 6) == 0)
			return -EEXIST;
	if (out->n == VALUE_ADDRESSES_MAX)
		return -ENOSPC;
	memcpy(out->mac[out->n++], mac, 6);
	return 0;
}

/* The bits of a prefix, or all; none behind it may be set. */
static int prefix(const char *text, struct value_ip *ip)
{
	unsigned most = ip->v6 ? 128 : 32;
	uint64_t bits = most;

	if (text && (value_number(text, &bits) || bits > most))
		return -EINVAL;
	for (unsigned i = (unsigned)bits; i < most; i++)
		if (ip->addr[i / 8] >> (7 - i % 8) & 1)
			return -EINVAL;
	ip->bits = (uint8_t)bits;
	return 0;
}

int value_ips(const char *text, struct value_ips *out)
{
	struct value_ip ip = { .v6 = strchr(text, ':') != NULL };
	char addr[64];
	size_t len = strcspn(text, "/");

	if (len >= sizeof(addr))
		return -EINVAL;
	memcpy(addr, text, len);
	addr[len] = '\0';
	if (inet_pton(ip.v6 ? AF_INET6 : AF_INET, addr, ip.addr) != 1 ||
	    prefix(text[len] ? text + len + 1 : NULL, &ip))
		return -EINVAL;
	for (unsigned i = 0; i < out->n; i++)
		if (memcmp(&out->ip[i], &ip, sizeof(ip)) == 0)
			return -EEXIST;
	if (out->n == VALUE_ADDRESSES_MAX)
		return -ENOSPC;
	out->ip[out->n++] = ip;
	return 0;
}

unsigned value_distance(const char *a, const char *b)
{
	unsigned row[41], la = (unsigned)strnlen(a, 41), lb = (unsigned)strnlen(b, 41);

	if (la > 40 || lb > 40)
		return 99;
	for (unsigned j = 0; j <= lb; j++)
		row[j] = j;
	for (unsigned i = 1; i <= la; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= lb; j++) {
			unsigned replace = diagonal + (a[i - 1] != b[j - 1]);
			unsigned insert = MIN(row[j], row[j - 1]) + 1;

			diagonal = row[j];
			row[j] = MIN(replace, insert);
		}
	}
	return row[lb];
}
